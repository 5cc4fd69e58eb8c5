"""The receiver of the benchmark counts what OpenTelemetry's own classes have written."""

from __future__ import annotations

import pytest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

from benchmarks.cost.sink import spans_in, transactions_in


def test_spans_are_counted_through_resources_and_scopes() -> None:
    request = ExportTraceServiceRequest()
    for scopes in ((3, 0, 200), (1,)):
        resource = request.resource_spans.add()
        resource.resource.attributes.add(key="service.name").value.string_value = "shop" * 40
        for spans in scopes:
            scope = resource.scope_spans.add()
            scope.scope.name = "benchmark"
            for number in range(spans):
                scope.spans.add(name="GET /items/{item_id}" * 9, start_time_unix_nano=number)
    assert spans_in(request.SerializeToString()) == 204
    assert spans_in(b"") == 0


@pytest.mark.parametrize("broken", [b"\x08\x01", b"\x0a\x7f"])
def test_what_is_no_such_request_is_not_counted_as_one(broken: bytes) -> None:
    with pytest.raises(ValueError, match=r"."):
        spans_in(broken)


def test_transactions_of_an_envelope_are_counted() -> None:
    content = b'{"type":"transaction","spans":[]}'
    items = [(b"transaction", content), (b"client_report", b"{}"), (b"transaction", content)]
    lines = [b'{"event_id":"1"}']
    for kind, payload in items:
        lines += [b'{"type":"%b","length":%d}' % (kind, len(payload)), payload]
    assert transactions_in(b"\n".join(lines)) == 2
    assert transactions_in(b"\n".join(lines) + b"\n") == 2
    assert transactions_in(b'{"event_id":"1"}') == 0
