"""What nobody sampled and turns out worth it is recorded, as one span that a collector reads."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from opentelemetry import propagate, trace
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.sampling import Decision, Sampler, SamplingResult
from opentelemetry.trace import NonRecordingSpan

from obskit.exchange import Outcome
from obskit.signals.request_span import RequestSpan, UnsampledSpan
from tests.signals.conftest import House
from tests.support.otlp import OtlpSink

Make = Callable[..., House]
TRACE_ID, PARENT_ID = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"
DECLINED = {"traceparent": f"00-{TRACE_ID}-{PARENT_ID}-00"}

REASONS: dict[str, dict[str, Any]] = {
    "error": {"status": 503},
    "error by exception": {"status": None, "raised": ValueError("out of stock")},
    "finding": {"disconnected": True},
    "slow": {"seconds": 1.0},
    "": {"seconds": 0.999},
}


def sent(made: House, collector: OtlpSink) -> list[Any]:
    made.pipeline.flush(5.0)
    return collector.spans()


@pytest.mark.parametrize("sampler", ["always_off", "traceidratio", "parentbased_always_off"])
@pytest.mark.parametrize("exporter", ["lean", "official"])
@pytest.mark.parametrize("reason", REASONS)
def test_an_unsampled_request_is_recorded_for_a_reason_and_says_which(
    reason: str,
    exporter: str,
    sampler: str,
    house: Make,
    collector: OtlpSink,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("OTEL_TRACES_SAMPLER", sampler)
    monkeypatch.setenv("OTEL_TRACES_SAMPLER_ARG", "0")
    made = house(otlp_exporter=exporter)
    exchange = made.serve(**REASONS[reason])
    kept = reason.partition(" ")[0]
    assert (exchange.sampled, exchange.kept) == (False, kept)
    found = sent(made, collector)
    assert [span.trace_id for span in found] == ([exchange.trace_id] if kept else [])
    for span in found:
        assert span.span_id == exchange.span_id
        assert span.attributes["obskit.kept"] == kept
        assert span.attributes["url.path"] == "/orders/7"
        assert span.name == "GET /orders/{id}"
        assert span.duration_s == pytest.approx(exchange.duration_s, abs=1e-6)
        events = {"error by exception": ["exception"], "finding": ["obskit.finding"]}.get(reason, [])
        assert [event.name for event in span.events] == events


def test_a_request_that_its_caller_declined_keeps_his_trace_and_its_place_in_it(
    house: Make, collector: OtlpSink
) -> None:
    made = house()
    headers: dict[str, str] = {}
    with made.request(carrier={**DECLINED, "tracestate": "vendor=1"}, status=500) as exchange:
        propagate.inject(headers)
        assert not trace.get_current_span().is_recording()
    assert headers == {"traceparent": f"00-{TRACE_ID}-{exchange.span_id}-00", "tracestate": "vendor=1"}
    (span,) = sent(made, collector)
    assert (span.trace_id, span.span_id, span.parent_span_id) == (TRACE_ID, exchange.span_id, PARENT_ID)
    assert span.trace_state == "vendor=1"


@pytest.mark.parametrize(
    ("keep", "kept"),
    [
        ("none", ["", "", "", "", ""]),
        ("errors", ["error", "error", "", "", ""]),
        ("findings", ["", "", "finding", "", ""]),
        ("slow", ["", "", "", "slow", ""]),
        ("slow,findings", ["", "", "finding", "slow", ""]),
    ],
)
def test_only_what_is_asked_for_is_kept(keep: str, kept: list[str], house: Make, collector: OtlpSink) -> None:
    made = house(keep_traces=keep)
    assert [made.serve(carrier=DECLINED, **how).kept for how in REASONS.values()] == kept
    assert len(sent(made, collector)) == sum(map(bool, kept))


def test_how_slow_is_slow_is_an_option(house: Make, collector: OtlpSink) -> None:
    made = house(slow_request_s=0.5)
    assert [made.serve(carrier=DECLINED, seconds=s).kept for s in (0.499, 0.5)] == ["", "slow"]
    assert len(sent(made, collector)) == 1


def test_a_sampled_request_is_sent_once_and_says_nothing_of_being_kept(
    house: Make, collector: OtlpSink
) -> None:
    made = house()
    exchange = made.serve(status=500)
    (span,) = sent(made, collector)
    assert (exchange.kept, "obskit.kept" in span.attributes) == ("", False)


def test_nothing_is_kept_where_it_could_not_go(house: Make) -> None:
    assert house().serve(carrier=DECLINED, status=500).kept == ""


@pytest.mark.parametrize("mode", ["continue", "restart"])
def test_a_kept_request_links_to_the_caller_whose_trace_it_did_not_go_on_with(
    mode: str, house: Make, collector: OtlpSink, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OTEL_TRACES_SAMPLER", "always_off")
    made = house(incoming_trace=mode)
    made.serve(carrier=DECLINED, status=500)
    (span,) = sent(made, collector)
    assert (span.trace_id == TRACE_ID) is (mode == "continue")
    assert (span.parent_span_id == PARENT_ID) is (mode == "continue")


class _Own(Sampler):
    """A sampler of the user's own, which reads attributes."""

    def __init__(self, decision: Decision) -> None:
        self.decision = decision
        self.seen: list[Any] = []

    def should_sample(self, *of: Any, **named: Any) -> SamplingResult:
        self.seen.append(dict(of[4]))
        return SamplingResult(self.decision, {"own": "yes"}, None)

    def get_description(self) -> str:
        return "own"


@pytest.mark.parametrize("decision", list(Decision))
def test_a_sampler_of_the_users_own_decides_and_what_it_declines_is_kept_too(
    decision: Decision, house: Make, collector: OtlpSink
) -> None:
    sampler = _Own(decision)
    trace.set_tracer_provider(TracerProvider(sampler=sampler, shutdown_on_exit=False))
    made = house(otlp_endpoint=collector.url)
    exchange = made.serve(status=500)
    assert sampler.seen[0]["url.path"] == "/orders/7"
    (span,) = sent(made, collector)
    sampled = decision is Decision.RECORD_AND_SAMPLE
    assert (exchange.sampled, exchange.kept) == (sampled, "" if sampled else "error")
    assert span.attributes.get("obskit.kept") == (None if sampled else "error")
    assert (span.attributes.get("own") == "yes") is (decision is not Decision.DROP)


# ---- nothing is made that nobody looks at ------------------------------------------------------------------


@pytest.mark.parametrize(("carrier", "kind"), [(None, RequestSpan), (DECLINED, UnsampledSpan)])
def test_a_request_that_nobody_looks_at_makes_no_span(
    carrier: Any, kind: type, house: Make, collector: OtlpSink, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = house()
    traces: Any = made.pipeline._traces
    for name in ("span", "context"):
        monkeypatch.setattr(traces._maker, name, None)
    with made.request(carrier=carrier) as exchange:
        assert type(exchange.span) is kind
    assert len(sent(made, collector)) == (carrier is None)
    assert made.value("obskit_internal_errors_total", stage="traces.span") == 0


def test_what_the_application_writes_on_its_span_arrives(house: Make, collector: OtlpSink) -> None:
    made = house()
    with made.request():
        trace.get_current_span().set_attribute("mine", 1)
        trace.get_current_span().add_event("mine")
    (span,) = sent(made, collector)
    assert span.attributes["mine"] == 1
    assert span.attributes["obskit.outcome"] == str(Outcome.COMPLETED)
    assert [event.name for event in span.events] == ["mine"]


def test_a_span_that_the_application_ends_itself_is_sent_once(house: Make, collector: OtlpSink) -> None:
    made = house()
    with made.request():
        trace.get_current_span().end()
    (span,) = sent(made, collector)
    assert "obskit.outcome" not in span.attributes


def test_a_span_that_cannot_be_written_is_sent_the_slow_way_and_counted(
    house: Make, collector: OtlpSink, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_: Any) -> Any:
        raise RuntimeError("ours")

    made = house()
    traces: Any = made.pipeline._traces
    monkeypatch.setattr(traces._wire, "write", broken)
    made.serve()
    (span,) = sent(made, collector)
    assert span.attributes["obskit.outcome"] == "completed"
    assert made.value("obskit_internal_errors_total", stage="traces.close") == 1


def test_a_tracer_that_is_switched_off_makes_none(house: Make, collector: OtlpSink) -> None:
    made = house()
    traces: Any = made.pipeline._traces
    traces._tracer._tracer_config.is_enabled = False
    with made.request(status=500) as exchange:
        assert type(exchange.span) is NonRecordingSpan
    assert exchange.kept == ""
    assert sent(made, collector) == []
