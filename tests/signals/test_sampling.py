"""The verdict of the SDK's samplers without asking them; any other is asked."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from opentelemetry import trace
from opentelemetry.context import Context
from opentelemetry.sdk.trace import sampling
from opentelemetry.sdk.trace.sampling import Decision, ParentBased, Sampler, StaticSampler, TraceIdRatioBased
from opentelemetry.trace import NonRecordingSpan, SpanContext, TraceFlags

from obskit.signals.sampling import bounds_of

HALF = TraceIdRatioBased(0.5)
STOCK: list[Sampler] = [
    sampling.ALWAYS_ON, sampling.ALWAYS_OFF, sampling.DEFAULT_ON, sampling.DEFAULT_OFF, HALF, TraceIdRatioBased(0.0),
    TraceIdRatioBased(1.0), sampling.ParentBasedTraceIdRatio(0.25), StaticSampler(Decision.RECORD_AND_SAMPLE),
    ParentBased(sampling.ALWAYS_OFF, remote_parent_sampled=HALF, remote_parent_not_sampled=sampling.ALWAYS_ON),
]  # fmt: skip


class _Own(StaticSampler):
    pass


class _OwnRatio(TraceIdRatioBased):
    pass


class _OwnParentBased(ParentBased):
    pass


@given(st.sampled_from(STOCK), st.integers(1, 2**128 - 1), st.sampled_from([None, 0, 1, 3]))
def test_the_verdict_is_the_samplers(sampler: Sampler, trace_id: int, flags: int | None) -> None:
    bounds = bounds_of(sampler)
    assert bounds is not None
    context = Context()
    if flags is not None:
        caller = SpanContext(trace_id, 1, is_remote=True, trace_flags=TraceFlags(flags))
        context = trace.set_span_in_context(NonRecordingSpan(caller), context)
    bound = bounds.root if flags is None else bounds.asked if flags & 1 else bounds.declined
    said = sampler.should_sample(context, trace_id, "GET")
    assert ((trace_id & 2**64 - 1) < bound) is said.decision.is_sampled()


@pytest.mark.parametrize(
    "sampler",
    [
        StaticSampler(Decision.RECORD_ONLY),
        _Own(Decision.DROP),
        _OwnRatio(0.5),
        _OwnParentBased(sampling.ALWAYS_ON),
        ParentBased(_Own(Decision.DROP)),
        ParentBased(sampling.DEFAULT_ON),
        ParentBased(sampling.ALWAYS_ON, remote_parent_sampled=_OwnRatio(0.5)),
        ParentBased(sampling.ALWAYS_ON, remote_parent_not_sampled=StaticSampler(Decision.RECORD_ONLY)),
        object(),
    ],
    ids=lambda sampler: type(sampler).__name__,
)
def test_a_sampler_that_may_look_at_more_is_asked(sampler: object) -> None:
    assert bounds_of(sampler) is None
