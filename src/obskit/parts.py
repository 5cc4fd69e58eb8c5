"""What the pipeline is put together from: the signals, who watches, who looks on, and where our own losses go."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
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

    def may_wait(self) -> bool:
        """Whether it makes no difference to anybody when `closed` is called a moment later."""

    def rests(self, exchange: Exchange) -> bool:
        """End the span of a request, which is to be shown later; false if that is to be done at once."""

    def goodbye(self) -> None:
        """The process may end without shutdown: what was not sent is lost, and counted."""


class MetricSignal(Signal, Protocol):
    """The signal that also counts what belongs to no request (metrics)."""

    def left(self, exchange: Exchange) -> None:
        """It is in flight no more, and counted later."""

    def counted(self, exchange: Exchange) -> None:
        """`closed`, for what has left before."""

    def count_finding(self, finding: Finding) -> None: ...
    def count_invariant(self, name: str, *, held: bool) -> None: ...


class Watching(Protocol):
    """What sees requests from outside: while they run, and after their worker has died."""

    name: str

    def look(self) -> Any: ...
    def placed(self) -> bool: ...
    def begin(self, seen: Any) -> None: ...
    def opened(self, exchange: Exchange) -> None: ...
    def queued(self, exchange: Exchange) -> None:
        """Look how long it waited in front of this server (`queue_start`)."""

    def answering(self, exchange: Exchange) -> None: ...
    def rests(self, exchange: Exchange) -> bool:
        """Keep how it ended where an heir of this worker finds it, until it is closed; false if that cannot be."""

    def counted(self, exchange: Exchange) -> None:
        """It is in the sums, and there is no line of it yet."""

    def closed(self, exchange: Exchange) -> None: ...
    def timed_out(self) -> None:
        """The server has ended a request, and with it this worker, for it took too long."""

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

    def rests(self, exchange: Exchange) -> bool:
        return False

    opened = queued = answering = counted = closed = begin
    timed_out = goodbye = shutdown = look


class LogSignal(Signal, Protocol):
    """The signal that also writes single lines (logs)."""

    def may_wait(self) -> bool:
        """Whether it makes no difference to anybody when a record's line is written a moment later."""

    def closed_together(self, exchanges: Iterator[Exchange]) -> None:
        """`closed` for all of these. When it raises, it is called again for those behind the one that failed."""

    def inherited(self, exchange: Exchange, pid: int) -> None:
        """`closed`, for what another worker has served that is dead now."""

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
