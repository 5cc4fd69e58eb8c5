"""The variables that every dashboard has, so that links between dashboards carry all choices along."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from grafana_foundation_sdk.builders import dashboard as builders
from grafana_foundation_sdk.cog.builder import Builder
from grafana_foundation_sdk.models import dashboard as models
from grafana_foundation_sdk.models.common import DataSourceRef

# A variable, never a uid: the uid of a stranger's Prometheus is not known here.
PROMETHEUS = DataSourceRef(type_val="prometheus", uid="${prometheus}")
LOKI = DataSourceRef(type_val="loki", uid="${loki}")
TEMPO = DataSourceRef(type_val="tempo", uid="${tempo}")

_ANY = ".*"


@dataclass(frozen=True)
class Variable:
    """A variable: a kind of data source, label values (`query`), or a choice of fixed values (`choices`)."""

    name: str
    label: str
    description: str
    source: str = ""
    query: str = ""
    choices: tuple[str, ...] = ()
    any_value: str | None = _ANY
    always_hidden: bool = False


ALL_VARIABLES = (
    Variable("prometheus", "Prometheus", "Where the metrics are.", source="prometheus"),
    Variable("loki", "Loki", "Where the log lines are.", source="loki"),
    Variable("tempo", "Tempo", "Where the traces are.", source="tempo"),
    Variable("job", "Job", "The scrape job of the service.", query="label_values(obskit_app_info, job)"),
    Variable(
        "instance",
        "Instance",
        "One process of it.",
        query='label_values(obskit_app_info{job=~"$job"}, instance)',
    ),
    Variable(
        "http_route",
        "Route",
        "The route as the framework writes it.",
        query='label_values(http_server_request_duration_seconds_count{job=~"$job",instance=~"$instance"}, http_route)',
    ),
    Variable(
        "http_request_method",
        "Method",
        "The request method.",
        query='label_values(http_server_request_duration_seconds_count{job=~"$job",instance=~"$instance"},'
        " http_request_method)",
    ),
    # A scrape job may be called otherwise than the service, and logs and traces know the service only. Without a
    # value for All of its own: All must mean the services of the chosen jobs, and Loki refuses ".*".
    Variable(
        "service",
        "Service",
        "service.name of the chosen jobs, for logs and traces.",
        query='label_values(obskit_app_info{job=~"$job"}, service_name)',
        any_value=None,
        always_hidden=True,
    ),
)


def variables(wanted: Iterable[Variable], hidden: frozenset[str]) -> list[Builder[models.VariableModel]]:
    """Builders of `wanted`; those named in `hidden` keep their value without being shown."""
    return [_build(variable, variable.always_hidden or variable.name in hidden) for variable in wanted]


def _build(variable: Variable, hidden: bool) -> Builder[models.VariableModel]:
    hide = models.VariableHide.HIDE_VARIABLE if hidden else models.VariableHide.DONT_HIDE
    if variable.source:
        return (
            builders.DatasourceVariable(variable.name)
            .label(variable.label)
            .description(variable.description)
            .type(variable.source)
            .hide(hide)
        )
    if variable.choices:
        first = variable.choices[0]
        return (
            builders.CustomVariable(variable.name)
            .label(variable.label)
            .description(variable.description)
            .values(",".join(variable.choices))
            .current(models.VariableOption(selected=True, text=first, value=first))
            .options([models.VariableOption(choice == first, choice, choice) for choice in variable.choices])
            .hide(hide)
        )
    query = (
        builders.QueryVariable(variable.name)
        .label(variable.label)
        .description(variable.description)
        .datasource(PROMETHEUS)
        # The object form, for a string is read as one of two older forms, depending on the version.
        .query({"query": variable.query, "refId": f"variable-{variable.name}"})
        .refresh(models.VariableRefresh.ON_TIME_RANGE_CHANGED)
        .sort(models.VariableSort.ALPHABETICAL_ASC)
        .multi(True)
        .include_all(True)
        .current(models.VariableOption(selected=True, text=["All"], value=["$__all"]))
        .hide(hide)
    )
    return query if variable.any_value is None else query.all_value(variable.any_value)
