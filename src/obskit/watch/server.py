"""What the server in this process says of itself: how much it does at once, and when it gives up.

Nobody configures this: a gunicorn worker and uvicorn's server have handlers of signals, and these are methods of
theirs; granian, hypercorn and servers made of `socketserver` are found in the frames they have called us from;
waitress names its threads; uWSGI has a module. Where nobody tells, nothing is said.
"""

from __future__ import annotations

import signal
import sys
import threading
from collections.abc import Iterator
from types import FrameType
from typing import Any, NamedTuple


class ServerFacts(NamedTuple):
    """`capacity` is how many requests this worker works on at once, 0 if nobody limits it or nobody tells;
    `timeout_s` after how long without a sign of life the server kills the worker, 0 if it does not."""

    name: str = ""
    capacity: int = 0
    timeout_s: float = 0.0


def server_facts() -> ServerFacts:
    """Ask the server of this process. Never raises: a server of a version that is built otherwise says nothing.

    Call it in a request, in the worker. It takes less than a millisecond.
    """
    for ask in (_gunicorn, _uvicorn, _uwsgi, _waitress, _granian, _hypercorn, _socketserver):
        try:
            found = ask()
        except Exception:
            found = None
        if found is not None:
            return found
    return ServerFacts()


def _handlers(package: str) -> Iterator[Any]:
    """The objects of a package whose methods handle signals."""
    for number in (signal.SIGTERM, getattr(signal, "SIGUSR1", signal.SIGTERM), signal.SIGINT):
        owner = getattr(signal.getsignal(number), "__self__", None)
        if _made_by(package, owner):
            yield owner


def _made_by(package: str, value: object) -> bool:
    """Whether its class, or one that this comes from, is of a package."""
    return any(base.__module__.partition(".")[0] == package for base in type(value).__mro__)


def _callers(package: str, *, own: bool = False) -> Iterator[FrameType]:
    """The frames of a package in which the threads of this process are; with `own`, this thread alone."""
    if package not in sys.modules:
        return
    frames = [sys._getframe()] if own else list(sys._current_frames().values())
    for innermost in frames:
        frame: FrameType | None = innermost
        while frame is not None:
            if frame.f_globals.get("__name__", "").partition(".")[0] == package:
                yield frame
            frame = frame.f_back


def _gunicorn() -> ServerFacts | None:
    in_frames = (frame.f_locals.get("self") for frame in _callers("gunicorn"))
    for worker in (*_handlers("gunicorn"), *in_frames):  # its own ASGI worker has asyncio handle its signals
        if not (_made_by("gunicorn", worker) and hasattr(worker, "init_process")):
            continue
        config = worker.cfg
        kind = type(worker).__name__
        kinds = {base.__name__ for base in type(worker).__mro__}
        if "ThreadWorker" in kinds:
            capacity = int(config.threads)
        elif "SyncWorker" in kinds:
            capacity = 1
        elif kinds & {"GeventWorker", "EventletWorker", "ASGIWorker"}:
            capacity = int(config.worker_connections)
        else:
            capacity = next((_limit(server) for server in _handlers("uvicorn")), 0)
        # gthread, too: its server does not see a thread that hangs, but code that keeps all others waiting.
        return ServerFacts(f"gunicorn {kind}", capacity, float(config.timeout))
    return None


def _uvicorn() -> ServerFacts | None:
    for server in _handlers("uvicorn"):
        # Its supervisor asks each worker for a sign of life; without one there is none.
        asked_s = getattr(server.config, "timeout_worker_healthcheck", 0.0)
        return ServerFacts("uvicorn", _limit(server), float(asked_s) if server.config.workers > 1 else 0.0)
    return None


def _limit(server: Any) -> int:
    # It refuses the request whose connection makes the limit full.
    return max(0, int(server.config.limit_concurrency or 0) - 1)


def _uwsgi() -> ServerFacts | None:
    uwsgi = sys.modules.get("uwsgi")  # there only inside uWSGI
    if uwsgi is None:
        return None
    options = uwsgi.opt
    return ServerFacts("uwsgi", int(options.get("threads", 1)), float(options.get("harakiri", 0)))


def _waitress() -> ServerFacts | None:
    threads = sum(thread.name.startswith("waitress-") for thread in threading.enumerate())
    return ServerFacts("waitress", threads) if threads and "waitress" in sys.modules else None


def _granian() -> ServerFacts | None:
    for frame in _callers("granian"):
        told = frame.f_locals
        if "backpressure" in told and "blocking_threads" in told:
            at_once = int(told["backpressure"])
            if "wsgi" in frame.f_code.co_name:
                at_once = min(at_once, int(told["blocking_threads"]))
            return ServerFacts("granian", at_once)
    return None


def _hypercorn() -> ServerFacts | None:
    return next((ServerFacts("hypercorn") for _ in _callers("hypercorn")), None)


def _socketserver() -> ServerFacts | None:
    """wsgiref and the development servers: where it is its own loop that answers, one request at a time."""
    for frame in _callers("socketserver", own=True):
        if frame.f_code.co_name == "serve_forever":
            return ServerFacts(type(frame.f_locals["self"]).__name__, 1)
    return None
