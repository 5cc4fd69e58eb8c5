from __future__ import annotations

import re

import pytest

from obskit import names

BY_NAME = {metric.name: metric for metric in names.METRICS}


@pytest.mark.parametrize("metric", names.METRICS, ids=lambda metric: metric.name)
def test_a_metric_says_kind_unit_and_help_the_way_prometheus_wants_it(metric: names.Metric) -> None:
    # What prometheus_client says of a process keeps its names.
    assert re.fullmatch(r"(http_server|obskit|process|python_gc)_[a-z_]+[a-z]", metric.name)
    assert metric.name.endswith("_total") == (metric.kind == "counter")
    assert bool(metric.buckets) == (metric.kind == "histogram")
    if metric.kind == "histogram":
        assert metric.name.endswith(("_seconds", "_bytes"))
    assert metric.help.endswith(".")
    assert len(set(metric.labels)) == len(metric.labels)
    assert not {"le", "quantile", "job", "instance"} & set(metric.labels)


def test_every_metric_of_the_module_is_listed_once() -> None:
    assert len(BY_NAME) == len(names.METRICS)
    assert {m.name for m in vars(names).values() if isinstance(m, names.Metric)} == set(BY_NAME)


def test_the_contract_of_the_request_duration() -> None:
    metric = BY_NAME["http_server_request_duration_seconds"]
    assert metric.labels == ("http_request_method", "http_route", "http_response_status_code", "error_type")
    assert metric.buckets == (0.005, 0.01, 0.025, 0.05, 0.075, 0.1, 0.25, 0.5, 0.75, 1.0, 2.5, 5.0, 7.5, 10.0)


@pytest.mark.parametrize(
    ("name", "labels"),
    [
        ("http_server_time_to_first_byte_seconds", ("http_request_method", "http_route")),
        ("http_server_active_requests", ("http_request_method",)),
        ("http_server_request_body_size_bytes", ("http_request_method", "http_route")),
        ("http_server_response_body_size_bytes", ("http_request_method", "http_route")),
        ("obskit_http_server_outcomes_total", ("http_route", "outcome")),
        ("obskit_exceptions_total", ("http_route", "exception_type", "handled")),
        ("obskit_findings_total", ("finding", "http_route")),
        ("obskit_invariant_checks_total", ("invariant", "result")),
        ("obskit_duplicate_requests_total", ("http_route", "kind")),
        ("obskit_sessions_lost_total", ("reason",)),
        ("obskit_partial_writes_total", ("http_route", "kind")),
        ("obskit_requests_lost_total", ("http_route", "reason")),
        ("obskit_worker_exits_total", ("reason",)),
        ("obskit_workers", ()),
        ("obskit_http_server_oldest_request_age_seconds", ()),
        ("obskit_http_server_request_capacity", ()),
        ("obskit_http_server_queue_duration_seconds", ()),
        ("obskit_event_loop_lag_seconds", ()),
        ("obskit_threadpool_threads", ()),
        ("obskit_threadpool_threads_max", ()),
        ("obskit_threadpool_queue_depth", ()),
        ("process_resident_memory_bytes", ()),
        ("obskit_log_records_total", ("level",)),
        ("obskit_internal_errors_total", ("stage",)),
        ("obskit_telemetry_exports_total", ("signal", "outcome")),
        ("obskit_telemetry_dropped_total", ("signal", "reason")),
        ("obskit_metric_series", ("metric",)),
        ("obskit_metric_series_limit", ("metric",)),
    ],
)
def test_the_contract_of_labels(name: str, labels: tuple[str, ...]) -> None:
    assert BY_NAME[name].labels == labels


@pytest.mark.parametrize("metric", [m for m in names.METRICS if m.buckets], ids=lambda metric: metric.name)
def test_bucket_bounds_rise_and_never_print_as_integers(metric: names.Metric) -> None:
    assert list(metric.buckets) == sorted(set(metric.buckets))
    assert all(isinstance(bound, float) for bound in metric.buckets)


def test_the_canonical_keys_are_the_contract_in_order() -> None:
    assert " ".join(names.CANONICAL_KEYS) == (
        "timestamp level event logger service_name service_version deployment_environment trace_id span_id request_id "
        "http_request_method http_route url_path http_response_status_code outcome duration_s ttfb_s request_bytes "
        "response_bytes client_address user_agent worker_pid findings queue_s evidence exception"
    )
    assert all(names.CANONICAL_KEYS.values())


def test_known_methods_are_those_of_the_semantic_conventions() -> None:
    assert sorted(names.HTTP_METHODS) == sorted(
        "GET HEAD POST PUT DELETE CONNECT OPTIONS TRACE PATCH QUERY".split()
    )
    assert names.OTHER_METHOD not in names.HTTP_METHODS
