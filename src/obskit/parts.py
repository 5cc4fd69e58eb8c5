"""What the pipeline is put together from: the signals, who watches, who looks on, and where our own losses go."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple, Protocol

from obskit.exchange import Exchange, Finding


class Answer(NamedTuple):
    """What an endpoint of ours answers: status, headers and the whole body."""

    status: int
    reason: str
    headers: list[tuple[str, str]]
    body: bytes


UNAVAILABLE = Answer(
    503,
    "Service Unavailable",
    [
        ("Content-Type", "text/plain; charset=utf-8"),
        ("Cache-Control", "no-store"),
        ("Retry-After", "1"),
        ("Content-Length", "0"),
    ],
    b"",
)

# (method, lower-case header name → value, peer address or None) → Answer
Endpoint = Callable[[str, Mapping[str, str], "str | None"], Answer]


class Signal(Protocol):
    """A view of the record. `opened` and `closed` may raise: the pipeline counts it and goes on."""

    name: str

    def begin(self) -> None: ...
    def opened(self, exchange: Exchange) -> None: ...
    def closed(self, exchange: Exchange) -> None: ...
    def flush(self, timeout_s: float) -> None: ...
    def shutdown(self, timeout_s: float) -> None: ...


class ContextSignal(Signal, Protocol):
    """The signal that also keeps a context of its own around application code (traces)."""

    carrier_headers: frozenset[str]

    def enter(self, exchange: Exchange) -> Any: ...
    def leave(self, token: Any) -> None: ...
    def keeps(self, exchange: Exchange) -> str:
        """Why a request that was not sampled is recorded all the same; empty if it is not."""

    def goodbye(self) -> None:
        """The process may end without shutdown: what was not sent is lost, and counted."""


class MetricSignal(Signal, Protocol):
    """The signal that also counts what belongs to no request (metrics)."""

    def count_finding(self, finding: Finding) -> None: ...
    def count_invariant(self, name: str, *, held: bool) -> None: ...


class Watching(Protocol):
    """What sees requests from outside: while they run, and after their worker has died."""

    name: str

    def look(self) -> Any: ...
    def placed(self) -> bool: ...
    def begin(self, seen: Any) -> None: ...
    def opened(self, exchange: Exchange) -> None: ...
    def answering(self, exchange: Exchange) -> None: ...
    def closed(self, exchange: Exchange) -> None: ...
    def goodbye(self) -> None: ...
    def shutdown(self) -> None: ...


class Blind:
    """Nobody watches."""

    name = "watch"

    def look(self) -> None:
        return

    def placed(self) -> bool:
        return False

    def begin(self, seen: Any) -> None:
        return

    opened = answering = closed = begin
    goodbye = shutdown = look


class LogSignal(Signal, Protocol):
    """The signal that also writes single lines (logs)."""

    def emit(
        self,
        level: str,
        event: str,
        logger: str,
        fields: Mapping[str, Any],
        error: BaseException | None = None,
    ) -> None: ...
    def tell(self, stage: str, error: BaseException) -> None: ...


class Observer(Protocol):
    """Somebody who looks on (tests): sees each record open and close, and what was found outside a request."""

    name: str

    def opened(self, exchange: Exchange) -> None: ...
    def closed(self, exchange: Exchange) -> None: ...
    def found(self, finding: Finding) -> None: ...


class Reporter(Protocol):
    """Where our own losses and errors are counted and, at a bounded rate, told."""

    def internal_error(self, stage: str) -> None: ...
    def dropped(self, signal: str, reason: str) -> None: ...
