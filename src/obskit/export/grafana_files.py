"""Provisioning files that tell grafana-server where dashboards and data are, and how the signals lead to each other."""

from __future__ import annotations

from typing import Any

from obskit.export.request import DataSources

FOLDER = "obskit"
DASHBOARDS_PATH = "/var/lib/grafana/dashboards/obskit"

DASHBOARDS_COMMENT = (
    "Copy to provisioning/dashboards/ of grafana-server, and the files of dashboards/ to the path below.",
)
DATA_SOURCES_COMMENT = (
    "A sample to start from: put in your own addresses and copy to provisioning/datasources/ of grafana-server.",
    "Where Grafana has its data sources already, leave this file out, or it would redirect those of the same name:",
    "take over what stands below jsonData, which links metrics, logs and traces.",
)
# Grafana replaces $name and ${name} in provisioning files from its environment; two dollars are one for itself.
_TAGS = "$$__tags"

# Spans know the service, our series know the job: obskit_app_info knows both.
_OF_SERVICE = f"and on (job, instance) obskit_app_info{{{_TAGS}}}"
_REQUESTS = "http_server_request_duration_seconds"


def dashboard_provider() -> dict[str, Any]:
    """The content of a file below ``provisioning/dashboards/``.

    Without `folderUid`: alert rules name their folder by title, and whoever comes first creates it.
    """
    return {
        "apiVersion": 1,
        "providers": [
            {
                "name": "obskit",
                "orgId": 1,
                "folder": FOLDER,
                "type": "file",
                "disableDeletion": False,
                "updateIntervalSeconds": 30,
                "allowUiUpdates": False,
                "options": {"path": DASHBOARDS_PATH},
            }
        ],
    }


def data_sources(uids: DataSources) -> dict[str, Any]:
    """The content of a file below ``provisioning/datasources/``: exemplar to trace, log to trace, trace to both."""
    return {
        "apiVersion": 1,
        "datasources": [
            _source(
                "prometheus",
                uids.prometheus,
                "http://localhost:9090",
                {
                    "httpMethod": "POST",
                    # The scrape interval, which $__rate_interval is made from.
                    "timeInterval": "15s",
                    "exemplarTraceIdDestinations": [{"name": "trace_id", "datasourceUid": uids.tempo}],
                },
            ),
            _source(
                "loki",
                uids.loki,
                "http://localhost:3100",
                {
                    "derivedFields": [
                        {
                            "name": "trace_id",
                            "matcherRegex": r'"trace_id":\s*"([0-9a-f]{32})"',
                            "url": "$${__value.raw}",
                            "datasourceUid": uids.tempo,
                            "urlDisplayLabel": "Trace",
                        }
                    ]
                },
            ),
            _source(
                "tempo",
                uids.tempo,
                "http://localhost:3200",
                {
                    "tracesToLogsV2": {
                        "datasourceUid": uids.loki,
                        # The canonical line is written after its span has ended.
                        "spanStartTimeShift": "-5m",
                        "spanEndTimeShift": "5m",
                        "tags": [{"key": "service.name", "value": "service_name"}],
                        "filterByTraceID": True,
                        "filterBySpanID": False,
                    },
                    "tracesToMetrics": {
                        "datasourceUid": uids.prometheus,
                        "spanStartTimeShift": "-30m",
                        "spanEndTimeShift": "30m",
                        "tags": [{"key": "service.name", "value": "service_name"}],
                        "queries": [
                            {
                                "name": "Requests per second by route",
                                "query": f"sum by (http_route) (rate({_REQUESTS}_count[5m]) {_OF_SERVICE})",
                            },
                            {
                                "name": "Share of 5xx by route",
                                "query": "sum by (http_route) "
                                f'(rate({_REQUESTS}_count{{http_response_status_code=~"5.."}}[5m]) {_OF_SERVICE})'
                                f" / sum by (http_route) (rate({_REQUESTS}_count[5m]) {_OF_SERVICE})",
                            },
                            {
                                "name": "95th percentile of the duration by route",
                                "query": "histogram_quantile(0.95, sum by (http_route, le) "
                                f"(rate({_REQUESTS}_bucket[5m]) {_OF_SERVICE}))",
                            },
                        ],
                    },
                },
            ),
        ],
    }


def _source(kind: str, uid: str, url: str, details: dict[str, Any]) -> dict[str, Any]:
    # No isDefault: a second default in an organisation keeps grafana-server from starting.
    return {
        "name": kind.capitalize(),
        "type": kind,
        "uid": uid,
        "access": "proxy",
        "url": url,
        "jsonData": details,
    }
