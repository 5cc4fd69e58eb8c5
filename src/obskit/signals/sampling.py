"""What the SDK's own samplers decide, as numbers: a trace is sampled while its id is below one.

Asking a sampler costs a context, a result and a copy of every attribute. Those of the SDK look at nothing but the
trace id and the caller's flag, so their verdict can be had without; any other sampler is asked as the SDK asks it.
"""

from __future__ import annotations

from typing import Any, Final, NamedTuple

from opentelemetry.sdk.trace import sampling
from opentelemetry.sdk.trace.sampling import Decision, ParentBased, StaticSampler, TraceIdRatioBased

ALWAYS: Final = 1 << 64
NEVER: Final = 0


class Bounds(NamedTuple):
    """Below which number the last 64 bits of a trace id must be, by what its caller said."""

    root: int
    asked: int
    """The caller samples it."""
    declined: int
    """He does not."""


def bounds_of(sampler: Any) -> Bounds | None:
    """None: this sampler must be asked."""
    single = _bound(sampler)
    if single is not None:
        return Bounds(single, single, single)
    if type(sampler) not in _PARENT_BASED:
        return None
    root = _bound(sampler._root)
    asked, declined = _bound(sampler._remote_parent_sampled), _bound(sampler._remote_parent_not_sampled)
    return None if root is None or asked is None or declined is None else Bounds(root, asked, declined)


def _bound(sampler: Any) -> int | None:
    # By exact type: whoever derives from one of them may look at whatever he likes.
    if type(sampler) in _STATIC:
        return {Decision.RECORD_AND_SAMPLE: ALWAYS, Decision.DROP: NEVER}.get(sampler._decision)
    return int(sampler.bound) if type(sampler) is TraceIdRatioBased else None


def _known(base: type, *others: str) -> frozenset[type]:
    return frozenset({base, *(getattr(sampling, name, base) for name in others)})


_STATIC: Final = _known(StaticSampler, "_AlwaysOn", "_AlwaysOff")
_PARENT_BASED: Final = _known(
    ParentBased, "ParentBasedTraceIdRatio", "_ParentBasedAlwaysOn", "_ParentBasedAlwaysOff"
)
