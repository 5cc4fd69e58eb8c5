"""The same as Kubernetes objects: for the Prometheus operator, and for the sidecar that feeds Grafana dashboards."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from obskit.export.errors import ExportError
from obskit.export.grafana_files import FOLDER

# What the API server takes for all data of a ConfigMap.
MAX_CONFIG_MAP_BYTES = 1024 * 1024

SERVICE_MONITOR_COMMENT = (
    "It finds a Service with the label and the port name below. Prometheus asks from another address than",
    "loopback: set OBSKIT_METRICS_ACCESS=private for the application, or it answers with 403.",
)


def prometheus_rule(
    service: str, rule_file: Mapping[str, Any], metadata: Mapping[str, Any]
) -> dict[str, Any]:
    """The PrometheusRule of a service; `rule_file` as Prometheus itself reads it."""
    return _object("monitoring.coreos.com/v1", "PrometheusRule", f"obskit-{service}", metadata) | {
        "spec": dict(rule_file)
    }


def service_monitor(service: str, job: str, metadata: Mapping[str, Any]) -> dict[str, Any]:
    """The ServiceMonitor that scrapes `service` under the name `job`."""
    return _object("monitoring.coreos.com/v1", "ServiceMonitor", f"obskit-{service}", metadata) | {
        "spec": {
            "selector": {"matchLabels": {"app.kubernetes.io/name": service}},
            "endpoints": [
                {
                    "port": "http",
                    "path": "/metrics",
                    "interval": "30s",
                    # The operator would take the Service's name; the rules and dashboards ask for this one.
                    # A dollar would refer to a group of a regular expression.
                    "relabelings": [{"targetLabel": "job", "replacement": job.replace("$", "$$")}],
                }
            ],
        }
    }


def dashboard_config_map(name: str, text: str, metadata: Mapping[str, Any]) -> dict[str, Any]:
    """The ConfigMap of one dashboard. ExportError when it is more than Kubernetes holds."""
    key = f"{name}.json"
    size = len(key) + len(text.encode())
    if size > MAX_CONFIG_MAP_BYTES:
        raise ExportError(
            f"dashboard {name}: its ConfigMap would hold {size} bytes, Kubernetes takes {MAX_CONFIG_MAP_BYTES}. "
            "Use --push"
        )
    # The sidecar looks for the first by default; the second is what its chart's documentation has it set to.
    folder = {"k8s-sidecar-target-directory": FOLDER, "grafana_folder": FOLDER}
    made = _object("v1", "ConfigMap", name, metadata)
    made["metadata"]["labels"] = {"grafana_dashboard": "1", **made["metadata"]["labels"]}
    made["metadata"]["annotations"] = folder
    return made | {"data": {key: text}}


def metadata(namespace: str | None, labels: Mapping[str, str]) -> dict[str, Any]:
    """What all objects of an export have in common."""
    common: dict[str, Any] = {} if namespace is None else {"namespace": namespace}
    return common | {"labels": {"app.kubernetes.io/part-of": "obskit", **labels}}


def _object(api_version: str, kind: str, name: str, common: Mapping[str, Any]) -> dict[str, Any]:
    return {"apiVersion": api_version, "kind": kind, "metadata": {"name": name, **common}}
