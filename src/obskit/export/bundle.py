"""All files of one export: path below the target folder -> text. Nothing here reads or writes the target."""

from __future__ import annotations

import json
from typing import Any

from obskit.export import alertmanager, grafana_alerting, grafana_files, operator, prometheus, rules, shipped
from obskit.export.request import Request
from obskit.export.rules.model import Rendering
from obskit.export.yaml_text import yaml_text

_ALERTING_COMMENT = (
    "Grafana evaluates these itself. Use either this file or the rules for Prometheus: both would tell you twice.",
)


def files(request: Request) -> dict[str, str]:
    """Every file of the export that `request` asks for."""
    if request.format == "operator":
        made = _kubernetes(request)
    else:
        made = _alerts(request) | _grafana(request)
        made |= {f"dashboards/{name}.json": text for name, text in dashboards(request).items()}
    return made | {f"runbooks/{name}": text for name, text in shipped.runbooks().items()}


def default_files() -> dict[str, str]:
    """The generated files of the repository's own `grafana/` folder, dashboards left out: an export of defaults."""
    both = _alerts(Request()) | _alerts(Request(format="grafana"))
    return both | _grafana(Request())


def dashboards(request: Request) -> dict[str, str]:
    """File name without suffix -> JSON of every dashboard, which opens with the job of the request chosen."""
    job = request.job
    shipped_as = shipped.dashboards()
    if job is None:
        return dict(shipped_as)
    return {name: _opened_at(text, job) for name, text in shipped_as.items()}


def _alerts(request: Request) -> dict[str, str]:
    name = f"obskit{request.suffix}.yaml"
    if request.format == "grafana":
        content = grafana_alerting.provisioning(
            rules.groups(request.objectives, recorded=False),
            Rendering(job=request.job),
            request.links,
            datasource_uid=request.data_sources.prometheus,
            # Titles and groups are unique within a folder: each service has its own.
            folder=" ".join(filter(None, (grafana_files.FOLDER, request.service))),
        )
        return {f"provisioning/alerting/{name}": yaml_text(content, *_ALERTING_COMMENT)}
    return {
        f"rules/{name}": yaml_text(_rule_file(request)),
        "alertmanager/alertmanager.yaml": yaml_text(alertmanager.configuration(), *alertmanager.COMMENT),
    }


def _rule_file(request: Request) -> dict[str, Any]:
    return prometheus.rule_file(rules.groups(request.objectives), Rendering(job=request.job), request.links)


def _grafana(request: Request) -> dict[str, str]:
    return {
        "provisioning/dashboards/obskit.yaml": yaml_text(
            grafana_files.dashboard_provider(), *grafana_files.DASHBOARDS_COMMENT
        ),
        "provisioning/datasources/obskit.yaml": yaml_text(
            grafana_files.data_sources(request.data_sources), *grafana_files.DATA_SOURCES_COMMENT
        ),
    }


def _kubernetes(request: Request) -> dict[str, str]:
    # In a folder of their own: `kubectl apply -R` would take the other YAML and JSON for objects.
    service, job = request.service or "", request.job or ""
    common = operator.metadata(request.namespace, request.labels)
    made = {
        "manifests/prometheusrule.yaml": yaml_text(
            operator.prometheus_rule(service, _rule_file(request), common)
        ),
        "manifests/servicemonitor.yaml": yaml_text(
            operator.service_monitor(service, job, common), *operator.SERVICE_MONITOR_COMMENT
        ),
    }
    for name, text in dashboards(request).items():
        made[f"manifests/dashboards/{name}.yaml"] = yaml_text(
            operator.dashboard_config_map(name, text, common)
        )
    return made


def _opened_at(text: str, job: str) -> str:
    """The dashboard with the variable `job` set; written as it came, so that a diff shows nothing else."""
    dashboard = json.loads(text)
    for variable in dashboard["templating"]["list"]:
        if variable["name"] == "job":
            chosen: str | list[str] = [job] if variable.get("multi") else job
            variable["current"] = {"selected": True, "text": chosen, "value": chosen}
    return json.dumps(dashboard, indent=2, ensure_ascii=False) + "\n"
