"""What a caller sends as its trace context, made safe before OpenTelemetry reads it.

Anybody can send these headers. OpenTelemetry's readers warn of each bad one, in a log line that repeats it, and take
a time that grows with the square of the white space in them: 8 KiB of it in a `baggage` header cost 30 ms. So what is
too long or not well-formed never reaches them. The application sees its headers as they were sent.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

_MAX_TRACEPARENT = 512
_MAX_OTHER = 2_048
# W3C Baggage §3.3.2 and what OpenTelemetry takes.
_MAX_BAGGAGE = 8_192
_MAX_MEMBER = 4_096
_MAX_MEMBERS = 64
# W3C Trace Context §3.3.1 and §3.3.1.5: what everybody passes on.
_MAX_STATES = 32
_MAX_TRACESTATE = 512

# No quantifier gives back what it took: each pattern is linear, whatever it is shown.
_SPACE = r"[ \t]*+"
_TOKEN = r"[!#-'*+\-.0-9A-Z^-z|~]++"
_VALUE = r"[!#-+\--:<-\[\]-~]*+"
_PROPERTY = rf";{_SPACE}{_TOKEN}{_SPACE}(?:={_SPACE}{_VALUE}{_SPACE})?+"
_MEMBER = re.compile(rf"{_TOKEN}{_SPACE}={_SPACE}{_VALUE}{_SPACE}(?:{_PROPERTY})*+")
_STATE = re.compile(
    r"(?:[a-z][_0-9a-z*/-]{0,255}|[a-z0-9][_0-9a-z*/-]{0,240}@[a-z][_0-9a-z*/-]{0,13})"
    r"=[ -+\--<>-~]{0,255}[!-+\--<>-~]"
)


def cleaned(carrier: Mapping[str, str]) -> Mapping[str, str]:
    """The headers of `carrier` (lower-case name → value) that may be read, as they may be."""
    if len(carrier) == 1 and len(carrier.get("traceparent", "")) in range(1, _MAX_TRACEPARENT):
        return carrier
    found = {}
    for name, value in carrier.items():
        kept = _READERS.get(name, _plain)(value)
        if kept:
            found[name] = kept
    return found


def _plain(value: str) -> str:
    return value if len(value) <= _MAX_OTHER and value.isascii() and value.isprintable() else ""


def _traceparent(value: str) -> str:
    return value if len(value) < _MAX_TRACEPARENT else ""


def _tracestate(value: str) -> str:
    """All of it or, where one member is malformed, nothing (W3C Trace Context §3.3.1.1); of a long one the start."""
    if len(value) > _MAX_BAGGAGE:
        return ""
    members = [member for part in value.split(",") if (member := part.strip(" \t"))]
    keys = {member.partition("=")[0] for member in members}
    if len(keys) != len(members) or len(members) > _MAX_STATES:
        return ""
    if not all(map(_STATE.fullmatch, members)):
        return ""
    kept = ",".join(members)
    # The oldest are at the end. Whole members go: half a one would be another.
    return (
        kept
        if len(kept) <= _MAX_TRACESTATE
        else kept[: kept.rfind(",", 0, _MAX_TRACESTATE + 1) + 1].rstrip(",")
    )


def _baggage(value: str) -> str:
    """The members that are well-formed."""
    if len(value) > _MAX_BAGGAGE:
        return ""
    members = [one for part in value.split(",") if (one := part.strip(" \t"))]
    kept = [one for one in members if len(one) <= _MAX_MEMBER and _MEMBER.fullmatch(one)]
    return ",".join(kept[:_MAX_MEMBERS])


_READERS = {"traceparent": _traceparent, "tracestate": _tracestate, "baggage": _baggage}
