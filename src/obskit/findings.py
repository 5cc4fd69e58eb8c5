"""What a detector is: the declaration of one silent failure, from which everything about it follows.

Its name becomes the value of a metric label, the log key, the span event and the row on the dashboard; a detector
that ships with obskit is one file of `obskit/detectors/` with a `DETECTOR` in it, a user's own comes in through
`install(app, detectors=[...])`.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from itertools import islice
from typing import Any, NamedTuple, Protocol

from obskit.config import Config
from obskit.errors import shown
from obskit.exchange import Evidence, EvidenceValue, Exchange, Finding, Severity
from obskit.names import Metric
from obskit.plain import text_of

MAX_EVIDENCE = 16
MAX_TEXT = 200
# What a log line says of a finding beside its evidence.
_TAKEN = frozenset({"finding", "severity", "why", "times"})

Verdict = Callable[[Exchange], "Evidence | None"]


class Setting(NamedTuple):
    """What a detector with a memory is made with, once per install."""

    config: Config
    service: str
    failed: Callable[[str, BaseException], None]
    """Count and tell an error of our own: (stage, error). Never raises."""


class Judge(Protocol):
    """A detector with a memory, one per install. `closed` is a detector's judgement; the rest is optional.

    begin()           in the process that serves: the place to open files or map memory
    opened(exchange)  before the application runs
    session_ended(exchange)  the application ends the session of this request, which is still open
    shutdown()        let go what begin took
    """

    def closed(self, exchange: Exchange) -> Evidence | None: ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Detector:
    """One silent failure: what it is, and how a closed record shows it.

    `name`      lower-case words joined by underscores: ``partial_write``
    `help`      one sentence: what happened to the user
    `why`       one sentence: why the HTTP status did not show it
    `severity`  info, warning or critical: what its alert asks of the reader
    `runbook`   the name of the alert and of its runbook, such as ``ObskitPartialWrites``; empty for none
    `judge`     a pure function of a closed record: the evidence, or None
    `make`      for a detector with a memory: makes its Judge
    `always`    false: `judge` is asked only of requests that did not complete or met an exception
    `about`     a field of the record, such as ``session``: asked only where that is not empty
    `digests`   the methods of whose bodies the record is to hold a checksum (`Exchange.body_checksum`)
    `metric`    a counter beside obskit_findings_total; its labels come from the evidence (and `http_route`)

    With neither `judge` nor `make` the finding is reported while the request runs, by code that sees it happen.
    Raises ValueError, saying what was seen, for a declaration that is none.
    """

    name: str
    help: str
    why: str
    severity: Severity = "warning"
    runbook: str = ""
    judge: Verdict | None = None
    make: Callable[[Setting], Judge] | None = None
    always: bool = True
    about: str = ""
    digests: frozenset[str] = frozenset()
    metric: Metric | None = None

    def __post_init__(self) -> None:
        if not re.fullmatch(r"[a-z][a-z0-9]*(_[a-z0-9]+)*", str(self.name)):
            raise ValueError(f"detector name: saw {shown(self.name)}, expected words such as 'partial_write'")
        for field in ("help", "why"):
            text = getattr(self, field)
            if not isinstance(text, str) or not text.strip():
                raise ValueError(f"detector {self.name!r}: {field} is empty, expected one sentence")
        if self.severity not in ("info", "warning", "critical"):
            raise ValueError(
                f"detector {self.name!r}: severity is {shown(self.severity)}, expected info, warning or critical"
            )
        if self.about and self.about not in Exchange.__slots__:
            raise ValueError(
                f"detector {self.name!r}: about is {shown(self.about)}, expected a field of the record"
            )
        if not isinstance(self.digests, frozenset):
            raise ValueError(
                f"detector {self.name!r}: digests is {shown(self.digests)}, expected a frozenset of methods"
            )
        if self.judge is not None and self.make is not None:
            raise ValueError(f"detector {self.name!r}: has both judge and make, expected one of them")
        for field in ("judge", "make"):
            if getattr(self, field) is not None and not callable(getattr(self, field)):
                raise ValueError(f"detector {self.name!r}: {field} is no function")

    def finding(self, exchange: Exchange | None, evidence: Mapping[str, Any]) -> Finding:
        """The finding of this detector in `exchange` (None: outside a request), its evidence made bounded."""
        kept = {_key(key): bounded(value) for key, value in list(evidence.items())[:MAX_EVIDENCE]}
        metric = self.metric.name if self.metric is not None else ""
        if exchange is None:
            return Finding(self.name, self.severity, self.why, kept, metric=metric)
        return Finding(
            self.name,
            self.severity,
            self.why,
            kept,
            exchange.http_route or "",
            exchange.trace_id,
            exchange.request_id,
            metric,
        )


def bounded(value: Any) -> EvidenceValue:
    """A value fit for evidence: numbers as they are, texts cut at 200 characters, lists to 16 texts. Never raises."""
    # By exact type: what an application has made of one may do anything when it is asked.
    kind = type(value)
    if kind is int and not -(2**63) <= value < 2**63:
        return _text(value)
    if value is None or kind in (bool, int, float):
        return value  # type: ignore[no-any-return]
    if kind in (list, tuple, set, frozenset):
        return tuple(_text(item) for item in islice(value, MAX_EVIDENCE))
    return _text(value)


def _text(value: Any) -> str:
    return text_of(value)[:MAX_TEXT]


def _key(key: object) -> str:
    name = str(key)[:MAX_TEXT]
    return f"{name}_" if name in _TAKEN else name
