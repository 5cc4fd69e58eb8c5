"""What `telemetry` sees, what it waits for, and that it leaves no trace of itself."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

import pytest
from fastapi import FastAPI
from flask import Flask
from opentelemetry import trace
from prometheus_client import Counter

import obskit
from obskit.install import _installed
from obskit.signals import provider as providers
from obskit.testing import Chaos, Telemetry
from obskit.testing.spans import _taps
from tests.support.recording import listing, make_environ, talk_wsgi

Install = Callable[..., Any]
ok = listing(b"fine")


def half_done(environ: dict[str, Any], start_response: Any) -> list[bytes]:
    with obskit.unit_of_work("checkout", steps=["charged", "saved"]) as work:
        work.done("charged")
    start_response("200 OK", [])
    return [b"fine"]


def test_an_app_installed_before_the_test_is_seen(install: Install) -> None:
    app = install(half_done)
    talk_wsgi(app)
    with Telemetry() as seen:
        talk_wsgi(app)
        assert seen.findings == ["partial_write"]
        assert seen.metric("obskit_findings_total", finding="partial_write") == 1


def test_an_app_installed_during_the_test_is_seen_from_its_first_request(install: Install) -> None:
    with Telemetry() as seen:
        talk_wsgi(install(half_done))
        assert seen.finding("partial_write").evidence["missing"] == ("saved",)
        assert seen.metric("obskit_findings_total") == 1
        assert seen.span.name == "GET"


def test_several_apps_are_seen_as_one(install: Install) -> None:
    apps = [install(half_done), install(ok)]
    with Telemetry() as seen:
        for app in apps:
            talk_wsgi(app)
        assert [exchange.status for exchange in seen.exchanges] == [200, 200]
        assert len(seen.lines) == len(seen.spans) == 2
        assert seen.metric("obskit_http_server_outcomes_total") == 2


@pytest.mark.parametrize(
    "read",
    [
        lambda seen: seen.findings,
        lambda seen: seen.line,
        lambda seen: seen.spans,
        lambda seen: seen.log_lines,
        lambda seen: seen.exchange,
        lambda seen: seen.finding("soft_error"),
        lambda seen: seen.metric("obskit_findings_total"),
        lambda seen: seen.wait_for(0),
        lambda seen: seen.clear(),
    ],
)
def test_without_an_installed_app_every_question_fails(read: Callable[[Telemetry], object]) -> None:
    with Telemetry() as seen, pytest.raises(AssertionError, match=r"call obskit\.install\(app\)"):
        read(seen)


@pytest.mark.parametrize("options", [{"log_level": "critical"}, {"log_format": "console"}])
def test_lines_are_there_whatever_is_written(install: Install, options: dict[str, str]) -> None:
    app = install(ok, **options)
    with Telemetry() as seen:
        talk_wsgi(app, make_environ("/orders"))
        assert seen.line["event"] == "http.request"
        assert seen.line["url_path"] == "/orders"


def test_a_canonical_line_is_the_one_that_is_written(install: Install, canonical: Any) -> None:
    app = install(half_done)
    with Telemetry() as seen:
        talk_wsgi(app)
        (written,) = canonical()
        assert {**seen.line, "timestamp": ""} == {**written, "timestamp": ""}


def test_log_lines_are_all_but_the_canonical_ones(install: Install) -> None:
    def app(environ: dict[str, Any], start_response: Any) -> list[bytes]:
        obskit.get_logger("shop").warning("stock.low", left=1)
        return ok(environ, start_response)

    served = install(app, log_format="console")
    served.pipeline.begin()  # which says what was installed
    with Telemetry() as seen:
        talk_wsgi(served)
        (line,) = seen.log_lines
        assert (line["event"], line["left"], line["level"]) == ("stock.low", 1, "warning")
        assert line["trace_id"] == seen.line["trace_id"]


def test_a_finding_outside_of_any_request_is_seen(install: Install) -> None:
    install(ok)
    with Telemetry() as seen:
        obskit.invariant(False, "stock_not_negative")
        assert seen.findings == ["invariant_failed"]
        assert seen.metric("obskit_findings_total", finding="invariant_failed") == 1
        with pytest.raises(AssertionError, match=r"outside of requests: \['invariant_failed'\]"):
            seen.finding("soft_error")


def test_metrics_grow_from_where_the_test_began(install: Install) -> None:
    own = Counter("shop_orders", "Orders.", ["sku"])
    app = install(ok)
    talk_wsgi(app)
    own.labels("lamp").inc(5)
    with Telemetry() as seen:
        talk_wsgi(app)
        talk_wsgi(app)
        own.labels("lamp").inc()
        assert seen.metric("obskit_http_server_outcomes_total", outcome="completed") == 2
        assert seen.metric("obskit_http_server_outcomes_total", outcome="truncated") == 0
        assert seen.metric("http_server_request_duration_seconds_count") == 2
        assert seen.metric("http_server_response_body_size_bytes_sum") == 8
        assert seen.metric("http_server_active_requests") == 0
        assert seen.metric("obskit_metric_series_limit", metric="obskit_findings_total") == 2000
        assert seen.metric("shop_orders_total", sku="lamp") == 1
        with pytest.raises(
            AssertionError, match="did you mean http_server_request_duration_seconds_bucket or"
        ):
            seen.metric("http_server_request_duration_seconds")


def test_clear_forgets_what_was_told_before(install: Install) -> None:
    app = install(half_done)
    with Telemetry() as seen:
        talk_wsgi(app)
        seen.clear()
        assert (seen.findings, seen.lines, seen.spans, seen.exchanges) == ([], [], [], [])
        assert seen.metric("obskit_findings_total") == 0
        talk_wsgi(app)
        assert seen.findings == ["partial_write"]


def test_a_request_of_an_earlier_test_that_ends_late_is_not_of_this_one(install: Install) -> None:
    app = install(ok)
    body = app(make_environ("/late"), lambda *_: None)
    with Telemetry() as seen:
        body.close()
        talk_wsgi(app, make_environ("/mine"))
        assert seen.line["url_path"] == "/mine"
        assert len(seen.spans) == 1


# ---- waiting ---------------------------------------------------------------------------------------------


def test_reading_waits_for_requests_in_other_threads(install: Install) -> None:
    inside, go_on = threading.Event(), threading.Event()

    def app(environ: dict[str, Any], start_response: Any) -> list[bytes]:
        inside.set()
        go_on.wait(10)
        return half_done(environ, start_response)

    served = install(app)
    with Telemetry() as seen:
        thread = threading.Thread(target=talk_wsgi, args=(served,))
        thread.start()
        assert inside.wait(10)
        threading.Timer(0.05, go_on.set).start()
        assert seen.findings == ["partial_write"]
        thread.join()


def test_waiting_in_vain_tells_what_was_seen(install: Install) -> None:
    app = install(half_done)
    with Telemetry() as seen:
        talk_wsgi(app)
        assert seen.wait_for(1, finding="partial_write") is seen
        with pytest.raises(AssertionError) as failure:
            seen.wait_for(1, finding="soft_error", timeout_s=0.01)
    assert str(failure.value) == (
        "waited 0.01 s for 1 request(s) and the finding 'soft_error'; "
        "seen were 1 request(s): GET unmatched 200 completed ['partial_write']"
    )


def test_a_response_that_flasks_client_left_open_is_named(install: Install) -> None:
    app = Flask("shop")
    app.get("/orders")(lambda: "two")
    install(app)
    with Telemetry() as seen:
        response = app.test_client().get("/orders")
        with pytest.raises(AssertionError, match=r"response to GET /orders is still open.*buffered=True"):
            assert seen.findings == []
        response.close()
        assert seen.line["http_route"] == "/orders"
        app.test_client().get("/orders", buffered=True)
        assert len(seen.wait_for(2).lines) == 2
        response = app.test_client().get("/orders")
        response.itself = response  # type: ignore[attr-defined]  # a cycle that nobody holds
        del response
        assert len(seen.lines) == 3


@pytest.mark.filterwarnings("ignore:Using `httpx` with")
def test_starlettes_client_needs_nothing_else(install: Install) -> None:
    from fastapi.testclient import TestClient

    app = FastAPI()
    app.get("/orders/{order_id}")(lambda order_id: order_id)
    install(app)
    with Telemetry() as seen:
        assert TestClient(app).get("/orders/7").status_code == 200
        assert seen.line["http_route"] == "/orders/{order_id}"
        assert seen.span.name == "GET /orders/{order_id}"


def test_djangos_own_client_is_named_as_the_reason_why_nothing_was_seen(
    install: Install, monkeypatch: pytest.MonkeyPatch
) -> None:
    import django.test.client

    assert django.test.client
    install(ok)
    with Telemetry() as seen, pytest.raises(AssertionError, match=r"django\.test\.Client goes past"):
        assert seen.line


# ---- leaving no trace ------------------------------------------------------------------------------------


def test_nothing_of_ours_stays(install: Install) -> None:
    app = install(half_done)
    (pipeline,) = _installed
    before = (pipeline._openers, pipeline._closers, pipeline._asked)
    for _ in range(3):
        with Telemetry() as seen:
            talk_wsgi(app)
    talk_wsgi(app)
    assert (pipeline._openers, pipeline._closers, pipeline._asked) == before
    assert pipeline._observers == ()
    assert pipeline.logs.listeners == ()  # type: ignore[attr-defined]
    provider = trace.get_tracer_provider()
    assert len(provider._active_span_processor._span_processors) == 1  # type: ignore[attr-defined]
    assert _taps[provider].listeners == ()
    assert seen.findings == ["partial_write"]


def test_two_that_look_on_at_once_see_the_same(install: Install) -> None:
    app = install(half_done)
    with Telemetry() as outer:
        with Telemetry() as inner:
            talk_wsgi(app)
        assert inner.findings == outer.findings == ["partial_write"]
        talk_wsgi(app)
        assert len(outer.lines) == len(outer.spans) == 2
        assert len(inner.lines) == len(inner.spans) == 1


def order(app: Any) -> None:
    talk_wsgi(app, make_environ("/orders", "POST", SERVER_PROTOCOL="HTTP/1.1"))


def test_each_test_begins_with_an_empty_memory_and_leaves_the_apps_own_as_it_was(install: Install) -> None:
    app = install(ok, service="shop-of-this-test")
    order(app)
    for _ in range(2):
        with Telemetry() as seen:
            order(app)
            assert seen.findings == []
            order(app)
            assert seen.findings == ["duplicate_request"]
    with Telemetry():
        (pipeline,) = _installed
        asked = pipeline._asked
    order(app)
    judges = {one.name: judge for one, judge in pipeline._asked}
    assert judges["duplicate_request"] is not {one.name: judge for one, judge in asked}["duplicate_request"]
    assert judges["duplicate_request"]._table is not None  # type: ignore[union-attr]


def test_an_app_whose_first_request_comes_in_a_test_remembers_after_it(install: Install) -> None:
    app = install(ok, service="another-shop-of-this-test")
    with Telemetry():
        order(app)
    (pipeline,) = _installed
    judges = {one.name: judge for one, judge in pipeline._asked}
    assert judges["duplicate_request"]._table is not None  # type: ignore[union-attr]


def test_with_the_sdk_switched_off_there_are_no_spans(
    install: Install, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OTEL_SDK_DISABLED", "true")
    app = install(ok)
    with Telemetry() as seen:
        talk_wsgi(app)
        assert seen.spans == []
        with pytest.raises(AssertionError, match="expected one server span, saw none"):
            assert seen.span


def test_shutdown_in_a_test_ends_what_is_told_and_breaks_nothing(install: Install) -> None:
    app = install(half_done)
    with Telemetry() as seen:
        talk_wsgi(app)
        obskit.shutdown(0)
        assert seen.findings == ["partial_write"]
        assert seen.metric("obskit_findings_total") == 1


def test_the_apps_own_provider_is_listened_to(install: Install, spans: Any) -> None:
    app = install(ok)
    with Telemetry() as seen:
        talk_wsgi(app)
        assert [span.name for span in spans.get_finished_spans()] == [span.name for span in seen.spans]
    assert providers._shared is None


@pytest.fixture
def chaos_client(chaos: Callable[..., Chaos], install: Install) -> Chaos:
    return chaos(install(half_done))


def test_what_a_real_server_closes_late_is_waited_for(telemetry: Telemetry, chaos_client: Chaos) -> None:
    for n in range(20):
        chaos_client.get("/")
        assert telemetry.findings == ["partial_write"] * (n + 1)
