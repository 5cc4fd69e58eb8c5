"""What an objective becomes: recorded series, burn-rate alerts, and for Grafana the same from the counters."""

from __future__ import annotations

import re

import pytest

from obskit.export import rules
from obskit.export.objectives import DEFAULTS, Objective, parse
from obskit.export.rules import slo
from obskit.export.rules.model import Alert, Recording, Rendering, in_seconds
from obskit.export.rules.series import CountedSeries, RecordedSeries

AVAILABILITY, LATENCY = DEFAULTS


def recordings(texts: list[str]) -> list[Recording]:
    groups = slo.recording_groups(parse(texts))
    return [rule for group in groups for rule in group.rules if isinstance(rule, Recording)]


def burn_alerts(texts: list[str], *, recorded: bool = True) -> list[Alert]:
    group = slo.alert_group(parse(texts), recorded=recorded)
    return [alert for alert in group.alerts if alert.name.endswith("BudgetBurn")]


def test_every_window_that_an_alert_reads_is_recorded() -> None:
    recorded = {rule.record for rule in recordings([])}
    for alert in slo.alert_group(DEFAULTS, recorded=True).alerts:
        assert set(re.findall(r"obskit:slo\w+:\w+", alert.expr)) <= recorded


def test_burn_rates_and_windows_are_those_of_the_workbook() -> None:
    found = [(burn.severity, *pair) for burn in slo.BURNS for pair in burn.pairs]
    assert found == [
        ("critical", "1h", "5m", 14.4),
        ("critical", "6h", "30m", 6),
        ("warning", "1d", "2h", 3),
        ("warning", "3d", "6h", 1),
    ]


@pytest.mark.parametrize("objective", [AVAILABILITY, LATENCY], ids=lambda one: one.slo)
def test_a_burn_alert_asks_both_windows_and_the_gate_of_each_pair(objective: Objective) -> None:
    critical, warning = [alert for alert in burn_alerts([]) if alert.labels["slo"] == objective.slo]
    for alert, burn in ((critical, slo.BURNS[0]), (warning, slo.BURNS[1])):
        sides = alert.expr.split(" or ")
        assert len(sides) == len(burn.pairs)
        for side, (long, short, rate) in zip(sides, burn.pairs, strict=True):
            threshold = f"> {rate:g} * {objective.budget}"
            labels = f'{{<job>,slo="{objective.slo}",http_route=""}}'
            assert f"obskit:slo_error:ratio_rate{long}{labels} {threshold}" in side
            assert f"obskit:slo_error:ratio_rate{short}{labels} {threshold}" in side
            assert f"sum_over_time(obskit:slo_bad:rate5m{labels}[{long}]) * seconds(1m) >= 10" in side


def test_the_gate_sums_samples_of_the_interval_at_which_they_are_recorded() -> None:
    (group, _) = slo.recording_groups(DEFAULTS)
    assert group.interval == slo.INTERVAL
    assert all(f"seconds({slo.INTERVAL})" in alert.expr for alert in burn_alerts([]))


@pytest.mark.parametrize("recorded", [True, False])
def test_a_burn_of_everything_is_above_every_threshold(recorded: bool) -> None:
    # Or the alert could not fire at all: the least objective allows 6 %, and 14.4 times that is 86 %.
    for alert in burn_alerts(["availability=94", "latency=94:1s"], recorded=recorded):
        for rate, budget in re.findall(r"> ([\d.]+) \* ([\d.]+)", alert.expr):
            assert float(rate) * float(budget) < 1


def test_a_service_fails_for_the_availability_only_by_5xx_and_what_was_cut_off() -> None:
    (bad,) = [
        rule.expr
        for rule in recordings([])
        if rule.record == "obskit:slo_bad:rate5m" and rule.labels["slo"] == "availability"
    ]
    assert 'http_response_status_code=~"5.."' in bad
    assert 'outcome=~"truncated|raised_after_headers|timeout"' in bad
    assert bad.count(" or 0 * sum by (job)") == 2


def test_probes_count_for_no_objective_of_the_service() -> None:
    for rule in recordings([]):
        for selector in re.findall(r"(?:http_server|obskit_http)\w+\{[^}]*\}", rule.expr):
            assert "healthz?" in selector, f"{rule.record}: {selector}"


def test_an_objective_of_a_route_counts_that_route_and_names_it() -> None:
    route = [rule for rule in recordings(["latency@/checkout=95:250ms"]) if "http_route" in rule.labels]
    assert {rule.record for rule in route} == {
        "obskit:slo_total:rate5m",
        "obskit:slo_bad:rate5m",
        "obskit:slo_objective:ratio",
    }
    assert all(rule.labels == {"slo": "latency", "http_route": "/checkout"} for rule in route)
    counted = [rule.expr for rule in route if "objective" not in rule.record]
    assert all("sum by (job, http_route)" in expr for expr in counted)
    assert all('http_route="/checkout"' in expr and "healthz" not in expr for expr in counted)
    assert any('le="0.25"' in expr for expr in counted)


@pytest.mark.parametrize("recorded", [True, False])
def test_alerts_of_a_route_lead_to_it_and_say_its_name(recorded: bool) -> None:
    alerts = burn_alerts(["latency@/checkout=95:250ms"], recorded=recorded)
    (critical, warning) = [alert for alert in alerts if "http_route" in alert.labels]
    assert (critical.severity, warning.severity) == ("critical", "warning")
    for alert in (critical, warning):
        assert alert.by == ("job", "http_route")
        assert alert.summary == "/checkout of {{ $labels.job }} is burning its latency error budget"


def test_only_the_service_as_a_whole_can_fail_every_request() -> None:
    group = slo.alert_group(parse(["availability@/checkout=99"]), recorded=True)
    assert [alert.name for alert in group.alerts].count("ObskitAllRequestsFailing") == 1


def test_without_recordings_no_alert_reads_one_and_there_are_none() -> None:
    groups = rules.groups(DEFAULTS, recorded=False)
    assert all(isinstance(rule, Alert) for group in groups for rule in group.rules)
    for group in groups:
        for alert in group.alerts:
            assert not re.search(r"(?:obskit|job|job_route):", alert.expr), alert.name


def test_both_ways_have_the_same_alerts_in_the_same_order() -> None:
    texts = parse(["latency@/checkout=95:250ms"])
    counted = [alert for group in rules.groups(texts, recorded=False) for alert in group.alerts]
    assert [(one.name, one.severity) for one in counted] == [
        (one.name, one.severity) for one in rules.alerts(texts)
    ]


def test_every_family_has_a_group_named_after_its_file() -> None:
    names = [group.name for group in rules.groups(DEFAULTS)]
    assert names == [
        "obskit-slo-recordings",
        "obskit-slo-means",
        "obskit-slo",
        "obskit-errors",
        "obskit-findings",
        "obskit-presence",
        "obskit-process",
        "obskit-saturation",
        "obskit-silent",
        "obskit-telemetry",
        "obskit-traffic",
        "obskit-workers",
    ]


def test_every_alert_ends_its_expression_of_a_family_with_a_job_of_its_own() -> None:
    for alert in rules.alerts(DEFAULTS):
        written = Rendering(job="shop").expression(alert.expr)
        assert "<job>" not in written
        assert 'job="shop"' in written or alert.name == "ObskitWatchdog"


def test_every_hold_is_a_duration_and_longer_than_an_evaluation() -> None:
    for alert in rules.alerts(DEFAULTS):
        for duration in (alert.hold, alert.keep_firing):
            assert not duration or in_seconds(duration) > in_seconds(slo.INTERVAL)


@pytest.mark.parametrize("series", [RecordedSeries(), CountedSeries()], ids=["recorded", "counted"])
def test_an_offset_stands_inside_the_function_that_reads_it(
    series: RecordedSeries | CountedSeries,
) -> None:
    for expression in (series.requests("1h", "1d"), series.route_requests("1h", "1d")):
        assert "[1h] offset 1d)" in expression
    assert "offset" not in series.requests("1h") + series.route_requests("1h")
