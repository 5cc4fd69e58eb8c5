"""Spans of the shops, as an OTLP/HTTP receiver gets them: parents, children, resource."""

from __future__ import annotations

import http.client
import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from tests.support.otlp import CLIENT, SERVER, OtlpSink, ReceivedSpan
from tests.support.servers import Server
from tests.support.shops import SHOPS, Shop, running

pytestmark = pytest.mark.e2e

CALLER = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"


@dataclass(frozen=True)
class Traced:
    shop: Shop
    server: Server
    sink: OtlpSink

    def ask(self, method: str, path: str, body: Any = None, **headers: str) -> tuple[int, Any]:
        connection = http.client.HTTPConnection("127.0.0.1", self.server.port, timeout=20)
        try:
            data = json.dumps(body).encode() if body is not None else None
            connection.request(method, path, data, {"Content-Type": "application/json", **headers})
            response = connection.getresponse()
            return response.status, json.loads(response.read() or b"null")
        finally:
            connection.close()


@pytest.fixture(scope="module", params=SHOPS, ids=lambda shop: shop.name)
def traced(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Traced]:
    tmp_path: Path = tmp_path_factory.mktemp(f"spans-{request.param.name}")
    with OtlpSink() as sink:
        env = {
            "OTEL_EXPORTER_OTLP_ENDPOINT": sink.url,
            "OTEL_BSP_SCHEDULE_DELAY": "50",
            "OTEL_SERVICE_NAME": "order-shop",
            "OTEL_RESOURCE_ATTRIBUTES": "service.version=1.2.3,deployment.environment.name=test,team=checkout",
        }
        with running(request.param, tmp_path, env) as (server, _):
            yield Traced(request.param, server, sink)


@pytest.fixture(scope="module")
def paid(traced: Traced) -> list[ReceivedSpan]:
    """All spans of one `pay` request that came with a traceparent."""
    status, order = traced.ask("POST", "/api/v1/orders", {"item": "tea", "quantity": 1, "price_cents": 500})
    assert status == 201
    status, _ = traced.ask("POST", f"/api/v1/orders/{order['id']}/pay", traceparent=CALLER)
    assert status == 200
    trace_id = CALLER.split("-")[1]
    traced.sink.wait_for(trace_id=trace_id, kind=SERVER)
    return traced.sink.spans(trace_id)


def test_the_server_span_continues_the_callers_trace(traced: Traced, paid: list[ReceivedSpan]) -> None:
    (server,) = [span for span in paid if span.kind == SERVER]
    assert server.parent_span_id == CALLER.split("-")[2]
    assert server.name == f"POST /api/v1/orders/{traced.shop.order_id}/pay"
    assert server.attributes["http.response.status_code"] == 200


def test_the_outbound_call_is_a_child_of_the_request(paid: list[ReceivedSpan]) -> None:
    (server,) = [span for span in paid if span.kind == SERVER]
    calls = [
        span
        for span in paid
        if span.kind == CLIENT
        and "/charge" in str(span.attributes.get("url.full") or span.attributes.get("http.url"))
    ]
    assert len(calls) == 1
    assert calls[0].parent_span_id == server.span_id


def test_each_database_query_is_a_child_of_the_request(paid: list[ReceivedSpan]) -> None:
    ids = {span.span_id for span in paid}
    queries = [
        span for span in paid if span.attributes.get("db.system") or span.attributes.get("db.system.name")
    ]
    assert queries
    assert all(span.parent_span_id in ids for span in queries)


def test_the_resource_says_what_runs(traced: Traced, paid: list[ReceivedSpan]) -> None:
    for span in paid:
        assert span.resource["service.name"] == "order-shop"
        assert span.resource["service.version"] == "1.2.3"
        assert span.resource["deployment.environment.name"] == "test"
        assert span.resource["team"] == "checkout"
    line = traced.server.wait_for_line(
        lambda found: found.get("trace_id") == paid[0].trace_id and found["event"] == "http.request"
    )
    assert (line["service_name"], line["service_version"], line["deployment_environment"]) == (
        "order-shop",
        "1.2.3",
        "test",
    )


def test_every_line_of_the_request_carries_its_trace(traced: Traced, paid: list[ReceivedSpan]) -> None:
    events = {line["event"] for line in traced.server.lines if line.get("trace_id") == paid[0].trace_id}
    assert len(events) >= 2, f"the shop logs the payment beside the canonical line: {events}"
