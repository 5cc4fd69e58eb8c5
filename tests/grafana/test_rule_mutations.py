"""Rules with one thing wrong: the rule tests notice each. What they would not notice, nobody would."""

from __future__ import annotations

from copy import deepcopy
from pathlib import Path
from typing import NamedTuple

import pytest

from tests.grafana.promtool import Json, promtool, rule_tests, shipped_groups, write_test

TESTS = list(rule_tests())


class Mutation(NamedTuple):
    """One change of one alert: in its expression, or of what it waits for."""

    alert: str
    found: str
    written: str
    field: str = "expr"


YOUNG = "time() - min by (job, instance) (process_start_time_seconds) < 600"

MUTATIONS = [
    # The gate that keeps one error of a cold service from waking anybody: the mean of what there is, not its sum.
    Mutation(
        "ObskitAvailabilityBudgetBurn",
        'sum_over_time(obskit:slo_bad:rate5m{slo="availability",http_route=""}[6h]) * 60',
        'avg_over_time(obskit:slo_bad:rate5m{slo="availability",http_route=""}[6h]) * 21600',
    ),
    Mutation("ObskitAvailabilityBudgetBurn", "> 6 * 0.001", "> 4 * 0.001"),
    Mutation("ObskitAllRequestsFailing", "> 0.9", ">= 0.89"),
    Mutation("ObskitAllRequestsFailing", "5m", "4m", "for"),
    Mutation("ObskitLatencyBudgetBurn", "> 6 * 0.01", "> 3 * 0.01"),
    Mutation("ObskitTrafficStopped", "[5m] offset 1d) == 0", "[5m] offset 1d) < 0"),
    Mutation("ObskitTrafficStopped", "group by (job) (obskit_app_info)", "group by (job) (up or vector(1))"),
    Mutation("ObskitTrafficDrop", "> 0.3 *", "> 0.35 *"),
    Mutation(
        "ObskitRouteTrafficVanished",
        "and on (job) (avg_over_time(job:http_server_requests:rate5m[30m]) > 0)",
        "",
    ),
    Mutation("ObskitRouteErrors", "> 0.05", ">= 0.05"),
    Mutation("ObskitRouteErrors", ">= 5", ">= 4"),
    Mutation("ObskitClientErrorSpike", "> 0.01", "> 0.001"),
    Mutation("ObskitNewExceptionType", "[1d] offset 15m", "[20m] offset 15m"),
    Mutation("ObskitClientDisconnects", "<= 2 *", "<= 0 *"),
    # The rare-event form without its second half, without its guard, and with a look back over a restart.
    Mutation("ObskitTruncatedResponses", YOUNG, "process_start_time_seconds"),
    Mutation("ObskitTruncatedResponses", ")) > 0 or", ")) > 0 or 0 *"),
    Mutation("ObskitRequestsCancelled", "[10m] offset 10m", "[1h] offset 10m"),
    Mutation("ObskitRaisedAfterHeaders", "15m", "10m", "keep_firing_for"),
    Mutation("ObskitResponseSizeCollapse", "< 0.2 *", "< 0.3 *"),
    Mutation("ObskitResponseSizeCollapse", "< 0.2 * (", "< 2 * ("),
    Mutation("ObskitResponseSizeCollapse", "> 256", "> 16"),
    Mutation("ObskitResponseSizeCollapse", ">= 20", ">= 18"),
    Mutation("ObskitResponseSizeCollapse", "> 0.8 *", "> 0 *"),
    Mutation("ObskitResponseSizeCollapse", "[30m] offset 1d", "[1d] offset 1h"),
    Mutation("ObskitBackgroundFailures", 'finding="background_failure"', 'finding!="background_failure"'),
    Mutation("ObskitServerTimeouts", ")) > 0 or", ")) > 2 or"),
    Mutation("ObskitPartialWrites", YOUNG, "process_start_time_seconds"),
    # Some worker is young: what all of them have counted is old.
    Mutation("ObskitRequestsLost", "min by (job, instance) (process", "max by (job, instance) (process"),
    Mutation("ObskitRetryStorm", '"retry_storm"', '"duplicate_request"'),
    Mutation("ObskitInvariantFailed", 'result="failed"', 'result="held"'),
    Mutation("ObskitInvariantFailed", "[10m] offset 10m", "[10m] offset 1m"),
    Mutation("ObskitOwnFindings", "|retry_storm|", "|"),
    Mutation("ObskitSoftErrors", "> 0.01", "> 0.001"),
    Mutation("ObskitSoftErrors", ">= 3", ">= 2"),
    Mutation("ObskitSoftErrors", "<= 2 *", "<= 1 *"),
    Mutation("ObskitTruncatedRequests", "> 0.01", "> 0.001"),
    Mutation("ObskitTruncatedRequests", "<= 2 *", "<= 0 *"),
    Mutation("ObskitDuplicateRequests", ">= 10", ">= 9"),
    Mutation("ObskitDuplicateRequests", "<= 2 *", "<= 1.1 *"),
    Mutation("ObskitDuplicateRequests", "2m", "4m", "for"),
    Mutation("ObskitEmptySuccess", "> 0.01", "> 0.001"),
    Mutation("ObskitEmptySuccess", ">= 3", ">= 2"),
    Mutation("ObskitSessionsLost", ">= 5", ">= 2"),
    Mutation("ObskitSessionsLost", ">= 20", ">= 19"),
    Mutation("ObskitSessionsLost", "> 5 *", "> 3 *"),
    Mutation("ObskitRestartLoop", "unless resets(process_start_time_seconds[15m]) > 0", ""),
    Mutation("ObskitRestartLoop", 'unless resets(obskit_worker_exits_total{reason="exited"}[15m]) > 1', ""),
    Mutation("ObskitRestartLoop", "> 1) and on", "> 0) and on"),
    Mutation("ObskitWorkersDying", '"timeout|oom|died"', '"timeout|oom|died|unknown"'),
    Mutation("ObskitWorkersMissing", "<= 0.5 *", "<= 0.75 *"),
    Mutation(
        "ObskitWorkersMissing",
        "quantile_over_time(0.5, obskit_workers",
        "quantile_over_time(0, obskit_workers",
    ),
    Mutation("ObskitOldestRequest", "> 60", ">= 60"),
    Mutation("ObskitEventLoopLag", "histogram_quantile(0.99", "histogram_quantile(0.999"),
    Mutation("ObskitRequestsStuck", '"request_stuck"', '"client_disconnect"'),
    Mutation("ObskitEventLoopBlocked", ")) > 0 or", ")) > 0 or 0 *"),
    Mutation(
        "ObskitMemoryGrowth",
        "and process_resident_memory_bytes > 1.05 * process_resident_memory_bytes offset 30m",
        "",
    ),
    Mutation("ObskitFdExhaustion", "> 0.8", ">= 0.8"),
    Mutation("ObskitRequestsPileUp", ">= 10", ">= 9"),
    Mutation("ObskitCpuSaturated", "> 0.95", "> 0.94"),
    Mutation("ObskitCpuSaturated", "max by (job, instance)", "sum by (job, instance)"),
    Mutation("ObskitCapacityExhausted", "> 0.9", ">= 0.9"),
    Mutation("ObskitRequestsQueue", "histogram_quantile(0.95", "histogram_quantile(0.99"),
    Mutation("ObskitRequestsQueue", ">= 10", ">= 9"),
    Mutation("ObskitBacklogFull", "> 0.5", ">= 0.5"),
    Mutation(
        "ObskitThreadpoolExhausted",
        "obskit_threadpool_queue_depth) > 0",
        "obskit_threadpool_queue_depth) >= 0",
    ),
    Mutation("ObskitGcPauses", "/ sum by (job, instance) (obskit_workers)", ""),
    Mutation("ObskitTelemetryExportFailing", "> 0.5", ">= 0.5"),
    Mutation("ObskitCardinalityLimit", "max by (job, metric)", "sum by (job, metric)"),
    Mutation("ObskitLogsSilent", "< 0.1 *", "< 0 *"),
    Mutation("ObskitTargetDown", "and on (job, instance) last_over_time(obskit_app_info[1d])", ""),
    Mutation("ObskitServiceAbsent", "5m", "3m", "for"),
]


def mutated(mutation: Mutation) -> tuple[list[Json], int]:
    """The groups that the alert needs, with the change made, and in how many places it was."""
    groups, places = [], 0
    for group in deepcopy(shipped_groups()):
        rules = [rule for rule in group["rules"] if rule.get("alert") in (None, mutation.alert)]
        for rule in rules:
            text = " ".join(rule.get(mutation.field, "").split())
            if "alert" in rule and mutation.found in text:
                rule[mutation.field] = text.replace(mutation.found, mutation.written)
                places += 1
        if rules:
            groups.append({**group, "rules": rules})
    return groups, places


def cases_of(alert: str) -> list[Json]:
    """What the shipped tests say about one alert."""
    found = []
    for test in TESTS:
        content = deepcopy(test.content)
        content["alert_rule_test"] = [
            case for case in content.get("alert_rule_test", []) if case["alertname"] == alert
        ]
        content["promql_expr_test"] = [
            case for case in content.get("promql_expr_test", []) if f'"{alert}"' in case["expr"]
        ]
        if content["alert_rule_test"] or content["promql_expr_test"]:
            found.append({"interval_s": test.interval_s, **content})
    return found


def noticed(groups: list[Json], alert: str, folder: Path) -> bool:
    """Whether a test of the alert fails with these rules."""
    tests = cases_of(alert)
    assert tests
    for interval_s in {test["interval_s"] for test in tests}:
        same = [
            {key: value for key, value in test.items() if key != "interval_s"}
            for test in tests
            if test["interval_s"] == interval_s
        ]
        status, output = promtool("test", "rules", write_test(folder, groups, same, f"{interval_s}s"))
        if status:
            assert "got:" in output, output  # a failed expectation, not a rule that does not parse
            return True
    return False


@pytest.mark.parametrize("mutation", MUTATIONS, ids=lambda mutation: f"{mutation.alert} {mutation.found}")
def test_a_rule_with_one_thing_wrong_fails_its_test(mutation: Mutation, tmp_path: Path) -> None:
    groups, places = mutated(mutation)
    assert places, "the rule no longer has what this mutation changes"
    assert noticed(groups, mutation.alert, tmp_path)


def test_a_rule_with_nothing_wrong_passes_the_same_test(tmp_path: Path) -> None:
    groups, _ = mutated(Mutation("ObskitFdExhaustion", "nothing", "nothing"))
    assert not noticed(groups, "ObskitFdExhaustion", tmp_path)
