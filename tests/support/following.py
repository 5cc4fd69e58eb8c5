"""Requests that log in every place their code gets to, all at once: whose line is it, and what is logged behind them?

In threads, in greenlets, and by what a server does with a body; tests/test_context_follows.py looks at the lines.
"""

from __future__ import annotations

import contextvars
import logging
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from opentelemetry import trace

import obskit
from tests.support.recording import make_environ

REQUESTS = 200
NOTE, BEHIND, FAILED = "note", "behind", "Failed to detach context"
log = obskit.get_logger("follows")
stdlib_log = logging.getLogger("follows.stdlib")


def note(who: str, where: str, *, stdlib: bool = False) -> None:
    """One line of request `who`, with the span that OpenTelemetry takes for the current one."""
    span = f"{trace.get_current_span().get_span_context().trace_id:032x}"
    facts = {"who": who, "where": where, "span_trace_id": span}
    if stdlib:
        stdlib_log.info(NOTE, extra=facts)
    else:
        log.info(NOTE, **facts)


def behind(who: str) -> None:
    """A line of whoever runs here when the request of `who` is over."""
    span = f"{trace.get_current_span().get_span_context().trace_id:032x}"
    log.info(BEHIND, who=who, span_trace_id=span)


class Body:
    """Logs between its items and in its close(), which a server may call from elsewhere."""

    def __init__(self, who: str, pause: Callable[[], None]) -> None:
        self.who, self.pause = who, pause

    def __iter__(self) -> Iterator[bytes]:
        for part in (b"1", b"2", b"3"):
            note(self.who, "body")
            self.pause()
            yield part
        note(self.who, "end of the body", stdlib=True)

    def close(self) -> None:
        note(self.who, "close")


def wsgi_app(pause: Callable[[], None]) -> Any:
    """Ten lines: of the call, behind pauses, of two threads, of an event loop, of the body and of its close()."""

    def app(environ: dict[str, Any], start_response: Any) -> Body:
        who = environ["HTTP_USER_AGENT"]
        note(who, "call")
        pause()
        note(who, "after a pause", stdlib=True)
        thread = threading.Thread(
            target=contextvars.copy_context().run, args=(note, who, "thread"), kwargs={"stdlib": True}
        )
        thread.start()
        thread.join()
        start_response("200 OK", [("Content-Type", "text/plain")])
        pause()
        note(who, "started")
        note(who, "started", stdlib=True)
        return Body(who, pause)

    return app


def one_request(app: Any, who: str, pause: Callable[[], None]) -> None:
    """As a server's thread does it; every third body is closed early and every fifth from another thread."""
    number = int(who)
    body = app(make_environ("/follow", HTTP_USER_AGENT=who), lambda *_: lambda data: None)
    try:
        for count, _ in enumerate(body):
            pause()
            if number % 3 == 0 and count == 1:
                break
    finally:
        if number % 5 == 0:
            closer = threading.Thread(target=body.close)
            closer.start()
            closer.join()
        else:
            body.close()
    behind(who)


LINES_OF_A_WHOLE_ONE = 10
"""Of each request that was read to its end."""


def in_threads(app: Any) -> None:
    def pause() -> None:
        time.sleep(0.002)

    with ThreadPoolExecutor(REQUESTS) as pool:
        for done in [pool.submit(one_request, app, str(n), pause) for n in range(REQUESTS)]:
            done.result()


def in_greenlets(kind: str) -> None:
    """The process is one of greenlets from its first import on."""

    def pause() -> None:
        time.sleep(0.002)

    app = obskit.install(wsgi_app(pause), instrumentation=False, log_format="json")
    if kind == "gevent":
        import gevent

        spawned = [gevent.spawn(one_request, app, str(n), pause) for n in range(REQUESTS)]
        gevent.joinall(spawned, raise_error=True)
    else:
        import eventlet

        threads = [eventlet.spawn(one_request, app, str(n), pause) for n in range(REQUESTS)]
        for thread in threads:
            thread.wait()
    obskit.shutdown(1)


def whose(lines: list[dict[str, Any]]) -> dict[str, str]:
    """The trace id of each request, by who asked."""
    return {line["user_agent"]: line["trace_id"] for line in lines if line["event"] == "http.request"}


def faults(lines: list[dict[str, Any]], *, wanted: int, requests: int = REQUESTS) -> list[Any]:
    """What is wrong with these lines: lines that are missing, of another request, or of one that is over.

    `wanted`: how many lines each request at least writes.
    """
    ids = whose(lines)
    found: list[Any] = []
    if len(ids) != requests or len(set(ids.values())) != requests:
        found.append(f"{len(ids)} canonical lines, {len(set(ids.values()))} trace ids")
    written = dict.fromkeys(ids, 0)
    outside = 0
    for line in lines:
        if line["event"] == NOTE:
            own = ids.get(line["who"])
            written[line["who"]] += 1
            if (line.get("trace_id"), line["span_trace_id"]) != (own, own):
                found.append(line)
        elif line["event"] == BEHIND:
            outside += 1
            if line.get("trace_id") or int(line["span_trace_id"], 16):
                found.append(line)
        elif FAILED in line["event"] or line["event"] == "obskit.internal_error":
            found.append(line)
    found += [f"{count} lines of {who}" for who, count in written.items() if count < wanted]
    if outside < requests:
        found.append(f"{outside} lines behind the requests")
    return found
