"""Restarts and deploys as vertical lines: the first question about any change in a curve."""

from __future__ import annotations

from grafana_foundation_sdk.builders import dashboard as builders
from grafana_foundation_sdk.builders import prometheus
from grafana_foundation_sdk.cog.builder import Builder
from grafana_foundation_sdk.models import dashboard as models

from obskit_dashboards.variables import PROMETHEUS

_STEP = "60s"

# The start time itself is the place of the line (in milliseconds), so no restart falls between two samples.
RESTARTS = 'process_start_time_seconds{job=~"$job",instance=~"$instance"} * 1000'

# A version that nobody ran in the hour before. The window of 5 minutes is wider than the step Grafana takes over
# 30 days, which would skip a narrower one.
DEPLOYS = (
    'group by (job, service_version) (obskit_app_info{job=~"$job",instance=~"$instance"})'
    " unless on (job, service_version) group by (job, service_version)"
    ' (last_over_time(obskit_app_info{job=~"$job",instance=~"$instance"}[1h] offset 5m))'
)


def event_lines() -> list[Builder[models.AnnotationQuery]]:
    """Both kinds, switched on, with a switch each at the top of the dashboard."""
    return [
        _annotation(
            "Restarts",
            RESTARTS,
            "orange",
            "Started",
            "{{job}} on {{instance}}, worker {{worker}}",
            value_is_time=True,
        ),
        _annotation(
            "Deploys", DEPLOYS, "blue", "Version {{service_version}}", "{{job}}", value_is_time=False
        ),
    ]


def _annotation(
    name: str, expr: str, colour: str, title: str, text: str, *, value_is_time: bool
) -> Builder[models.AnnotationQuery]:
    target = prometheus.Dataquery().datasource(PROMETHEUS).expr(expr).interval(_STEP).range().ref_id("Anno")
    return (
        builders.AnnotationQuery()
        .name(name)
        .datasource(PROMETHEUS)
        .enable(True)
        .hide(False)
        .icon_color(colour)
        # The query twice: Prometheus data sources read it here or in `target`, depending on the version.
        .expr(expr)
        .step(_STEP)
        .target(target)
        .title_format(title)
        .text_format(text)
        .tag_keys("job")
        .use_value_for_time(value_is_time)
    )
