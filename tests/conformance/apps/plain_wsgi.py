"""The conformance app as a bare WSGI callable."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterable, Iterator
from http import HTTPStatus
from typing import Any

import shared

Environ = dict[str, Any]
Answer = tuple[str, list[tuple[str, str]], Iterable[bytes]]


def text(body: bytes, status: str = "200 OK", *headers: tuple[str, str]) -> Answer:
    return status, [("Content-Length", str(len(body))), ("Content-Type", "text/plain"), *headers], [body]


def unsized(body: Iterable[bytes], content_type: str = "text/plain") -> Answer:
    return "200 OK", [("Content-Type", content_type)], body


def not_found(environ: Environ) -> Answer:
    return text(b"not found", "404 Not Found")


def method_not_allowed(environ: Environ, **parameters: str) -> Answer:
    return text(b"method not allowed", "405 Method Not Allowed")


def hello(environ: Environ) -> Answer:
    status, headers, body = text(b"hello")
    return status, headers, [] if environ["REQUEST_METHOD"] == "HEAD" else body


def show_order(environ: Environ, order_id: str) -> Answer:
    found = shared.order(int(order_id))
    return text(shared.as_json(found)) if found else text(b"no such order", "404 Not Found")


def boom(environ: Environ) -> Answer:
    raise ValueError("boom")


def teapot(environ: Environ) -> Answer:
    raise shared.Teapot


def redirect(environ: Environ) -> Answer:
    return text(b"", "302 Found", ("Location", "/hello"))


def empty(environ: Environ) -> Answer:
    return "204 No Content", [], []


def not_modified(environ: Environ) -> Answer:
    return "304 Not Modified", [("ETag", shared.ETAG)], []


def stream(environ: Environ) -> Answer:
    return unsized(shared.stream())


def stream_raises(environ: Environ, parts: str) -> Answer:
    return unsized(shared.stream_that_raises(int(parts)))


def drip(environ: Environ) -> Answer:
    return unsized(shared.drip())


def sse(environ: Environ, count: str) -> Answer:
    return unsized(shared.events(int(count)), "text/event-stream")


def slow(environ: Environ, ms: str) -> Answer:
    return text(shared.slow(int(ms), environ.get("HTTP_X_REQUEST_ID", "")))


def upload(environ: Environ) -> Answer:
    declared = int(environ.get("CONTENT_LENGTH") or 0)
    body = environ["wsgi.input"].read(declared) if declared else environ["wsgi.input"].read()
    return text(b"%d" % len(body))


def ignore_body(environ: Environ) -> Answer:
    return text(b"ignored", "202 Accepted")


def file(environ: Environ) -> Answer:
    return unsized(environ["wsgi.file_wrapper"](shared.FILE.open("rb"), 65536))


class Body:
    """One part, and something that happens in close()."""

    def __init__(self, at_close: Callable[[], None]) -> None:
        self._parts = iter([b"done"])
        self.close = at_close

    def __iter__(self) -> Iterator[bytes]:
        return self._parts


def fail() -> None:
    raise ValueError("after the response")


def after_slow(environ: Environ) -> Answer:
    return "200 OK", [("Content-Length", "4")], Body(lambda: time.sleep(shared.AFTER_S))


def after_fails(environ: Environ) -> Answer:
    return "200 OK", [("Content-Length", "4")], Body(fail)


def thing(environ: Environ, thing: str) -> Answer:
    return text(thing.encode())


def article(environ: Environ, year: str) -> Answer:
    return text(year.encode())


def greet(environ: Environ, name: str) -> Answer:
    return text(f"hello {name}".encode())


gruss = greet


def logs(environ: Environ) -> Answer:
    shared.note_everywhere(environ.get("HTTP_X_REQUEST_ID", ""))
    return text(b"noted")


def threadpool(environ: Environ) -> Answer:
    shared.note("pool", environ.get("HTTP_X_REQUEST_ID", ""))
    return text(b"noted")


def truncated(environ: Environ) -> Answer:
    return "200 OK", [("Content-Length", shared.TRUNCATED_DECLARES)], [shared.TRUNCATED]


def checkout(environ: Environ) -> Answer:
    body = environ["wsgi.input"].read(int(environ["CONTENT_LENGTH"]))
    status, takes_ms = shared.checkout(body)
    shared.slow(takes_ms, environ.get("HTTP_X_REQUEST_ID", ""))
    return text(b'{"ok": true}', f"{status} {HTTPStatus(status).phrase}")


refund = checkout


def answers(environ: Environ, name: str) -> Answer:
    body = shared.as_json(shared.ANSWERS[name])
    headers = [("Content-Type", "application/json"), ("Content-Length", str(len(body)))]
    return "200 OK", headers, [] if environ["REQUEST_METHOD"] == "HEAD" else [body]


def stock(environ: Environ, name: str) -> Answer:
    return answers(environ, name)


def assume(environ: Environ, stock: str) -> Answer:
    return text(shared.assume(int(stock)))


def work(environ: Environ, steps: str) -> Answer:
    return text(shared.work(int(steps)))


def app(environ: Environ, start_response: Callable[..., Any]) -> Iterable[bytes]:
    path = environ["PATH_INFO"].encode("latin-1").decode("utf-8", "replace")
    name, parameters = shared.match(environ["REQUEST_METHOD"], path)
    if name == "no_response":
        return []
    try:
        status, headers, body = getattr(sys.modules[__name__], name)(environ, **parameters)
    except shared.Teapot:
        status, headers, body = text(b"short and stout", "418 I'm a teapot")
    start_response(status, headers)
    return body


app = shared.install(app, shared.wrap_wsgi)
