"""Trace context of strangers: what is good comes through, what is bad costs nothing and is told to nobody."""

from __future__ import annotations

import logging
from time import thread_time
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from opentelemetry import baggage, propagate, trace
from opentelemetry.context import Context
from opentelemetry.propagators.composite import CompositePropagator
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

from obskit.signals.incoming import Incoming, cleaned, context_of, flags_of, within

TRACEPARENT = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"


def test_a_good_context_is_read_as_it_was_sent() -> None:
    sent = {
        "traceparent": TRACEPARENT,
        "tracestate": "rojo=00f0,congo@x=t61",
        "baggage": "user=alice;p=1,n=a%20b",
    }
    read = propagate.extract(cleaned(sent), context=Context())
    span = trace.get_current_span(read).get_span_context()
    assert f"{span.trace_id:032x}" == TRACEPARENT[3:35]
    assert span.trace_state.to_header() == sent["tracestate"]
    assert baggage.get_all(read) == {"user": "alice;p=1", "n": "a b"}


def test_white_space_that_the_standards_allow_is_taken() -> None:
    sent = {"traceparent": TRACEPARENT, "tracestate": " a=1 ,\t b=2 ,", "baggage": " k = v ; p = 1 , n=2"}
    assert cleaned(sent) == {
        "traceparent": TRACEPARENT,
        "tracestate": "a=1,b=2",
        "baggage": "k = v ; p = 1,n=2",
    }


def test_a_lone_traceparent_is_handed_on_as_it_is() -> None:
    sent = {"traceparent": TRACEPARENT}
    assert cleaned(sent) is sent


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("traceparent", "0" * 10_000),
        ("tracestate", "a=1,a=2"),
        ("tracestate", "a=1,=2"),
        ("tracestate", "a=\x1b[31m"),
        ("tracestate", ",".join(f"k{n}=v" for n in range(33))),
        ("tracestate", "a" * 10_000),
        ("baggage", "no member"),
        ("baggage", "k=é"),
        ("baggage", "k=" + "v" * 9_000),
        ("baggage", "k=v\r\nX: y"),
        ("b3", "x" * 3_000),
        ("uber-trace-id", "a\nb"),
    ],
)
def test_what_is_not_well_formed_is_not_handed_on(name: str, value: str) -> None:
    assert cleaned({"traceparent": TRACEPARENT, name: value}).get(name) in (None, TRACEPARENT)


def test_of_baggage_the_good_members_stay_and_at_most_64() -> None:
    assert cleaned({"baggage": "a=1,,=x,b=\x00,c=2"}) == {"baggage": "a=1,c=2"}
    assert len(cleaned({"baggage": ",".join(f"k{n}=v" for n in range(500))})["baggage"].split(",")) == 64


def test_of_a_long_tracestate_the_newest_members_stay_whole() -> None:
    members = [f"k{n}=" + "v" * 40 for n in range(20)]
    kept = cleaned({"traceparent": TRACEPARENT, "tracestate": ",".join(members)})["tracestate"]
    assert kept == ",".join(members[: kept.count(",") + 1])
    assert 512 - 44 <= len(kept) <= 512
    exact = "a=" + "v" * 250 + ",b=" + "v" * 256
    assert len(exact) + 1 == 512
    assert cleaned({"tracestate": exact + "v"[:0]})["tracestate"] == exact


def test_opentelemetry_has_nothing_to_warn_of(caplog: pytest.LogCaptureFixture) -> None:
    bad = [
        "k=" + "v" * 9_000,
        "=,a,ü=1",
        ",".join(f"k{n}=v" for n in range(300)),
        "a=1,a=1",
        "k=v;;",
        "k" * 5_000 + "=1",
    ]
    with caplog.at_level(logging.DEBUG):
        for value in bad:
            sent = {"traceparent": TRACEPARENT, "tracestate": value, "baggage": value}
            propagate.extract(cleaned(sent), context=Context())
    assert caplog.records == []


@pytest.mark.parametrize("piece", [" ", "\t", ",", "a=", " ,", "k=v ", "k=v; ", ";", "k;", "a@"])
def test_eight_kilobytes_of_anything_cost_next_to_nothing(piece: str) -> None:
    value = ("k=v" + piece * 8_192)[:8_192]
    took = []
    for _ in range(5):
        began = thread_time()
        propagate.extract(
            cleaned({"traceparent": TRACEPARENT, "tracestate": value, "baggage": value}), Context()
        )
        took.append(thread_time() - began)
    assert min(took) < 5e-3, f"{min(took) * 1e3:.1f} ms"


# ---- read without OpenTelemetry, and with its verdict ------------------------------------------------------

_ID = st.text("0123456789abcdef", min_size=32, max_size=32)
_ALMOST = st.tuples(
    st.sampled_from(["00", "01", "ff", "0", "fe", "cc"]),
    _ID | st.just("0" * 32) | st.text("0123456789abcdefABCDEFg ", min_size=30, max_size=34),
    _ID.map(lambda text: text[:16])
    | st.just("0" * 16)
    | st.text("0123456789abcdefAG_+", min_size=15, max_size=17),
    st.sampled_from(["00", "01", "03", "ff", "1", "0g", "01-x", "01-", "01 ", "01\n", "٠١"]),
).map("-".join)


@given(_ALMOST | st.text(max_size=70) | _ALMOST.map(lambda text: f" {text}"))
@example("00-" + "0" * 31 + "1-" + "0" * 15 + "1-00")
@example("00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01\n")
def test_a_traceparent_is_read_as_opentelemetry_reads_it(header: str) -> None:
    expected = trace.get_current_span(propagate.extract({"traceparent": header}, context=Context()))
    caller, sent, failed = Incoming().read({"traceparent": header})
    assert failed is None
    found = trace.get_current_span(within(caller, sent))
    assert tuple(found.get_span_context()) == tuple(expected.get_span_context())
    if caller is not None:
        assert tuple(context_of(caller)) == tuple(expected.get_span_context())
        assert flags_of(caller) == expected.get_span_context().trace_flags


def test_the_usual_traceparent_asks_no_propagator(monkeypatch: pytest.MonkeyPatch) -> None:
    header = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
    incoming = Incoming()
    monkeypatch.setattr(propagate, "extract", None)
    assert incoming.read({"traceparent": header}) == (header, None, None)
    _, _, failed = incoming.read({"traceparent": header, "tracestate": "vendor=1"})
    assert isinstance(failed, TypeError)


@pytest.mark.parametrize("when", ["before", "after"])
def test_a_propagator_of_the_users_own_reads_all_of_it(when: str, monkeypatch: pytest.MonkeyPatch) -> None:
    class Own(TraceContextTextMapPropagator):
        def extract(self, carrier: Any, context: Context | None = None, getter: Any = None) -> Context:
            return Context({"own": dict(carrier)})

    early = Incoming()
    monkeypatch.setattr(propagate, "_HTTP_TEXT_FORMAT", CompositePropagator([Own()]))
    incoming = early if when == "after" else Incoming()
    carrier = {"traceparent": "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"}
    assert incoming.read(carrier) == (None, {"own": carrier}, None)
