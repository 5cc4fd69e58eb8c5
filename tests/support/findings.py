"""One real finding of every detector that ships: an application that misbehaves on purpose, and who asks it."""

from __future__ import annotations

import io
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import flask
from gunicorn.workers.base import Worker

import obskit
from obskit.exchange import Exchange

Install = Callable[..., Any]
ROUTE = "/orders/{order_id}"


def write_findings(install: Install, state_dir: Path) -> None:
    """Write the canonical lines of requests with each finding to standard output, as JSON."""
    options = {"log_format": "json", "state_dir": str(state_dir), "service": "shop"}
    app = install(_shop, **options)
    for path in ("leaves", "short", "late", "none", "exit", "after", "broken", "half", "failed", "stuck"):
        _request(app, f"/orders/{path}")
    _request(app, "/orders/upload", method="POST", body=b"a part of it", declared=100)
    for number in range(500):
        _request(app, "/orders/list", query=f"page={number}")
    _request(app, "/orders/list", query="page=empty")
    # Twice is a double click, and many times is a storm.
    for _ in range(16):
        _request(app, "/orders/create", method="POST", body=b'{"item":"tea"}')
    _lost_session(install, options)
    _seen_from_outside(app)


def _seen_from_outside(app: Any) -> None:
    """What a watch tells of requests: one that hangs, one that blocks the loop, and one whose worker has died.

    The lines are the pipeline's own; how each is seen is shown by tests on real servers (tests/e2e).
    """
    pipeline = app.pipeline
    at = {"http_request_method": "GET", "http_route": ROUTE, "url_path": "/orders/7"}
    where = {
        "where": "shop/orders.py:41 in reserve",
        "doing": "in time.sleep",
        "runs_in": "thread MainThread",
        "stack": ("shop/orders.py:12 in order", "shop/orders.py:41 in reserve"),
    }
    pipeline.route_for = lambda method, path: ROUTE
    for name, evidence in (
        ("request_stuck", {"waited_s": 10.2, "age_s": 10.2, **at, "phase": "open", **where}),
        ("event_loop_blocked", {**at, "blocked_s": 0.38, "cpu_s": 0.001, **where}),
    ):
        environ = {
            "REQUEST_METHOD": "GET",
            "PATH_INFO": "/orders/told",
            "wsgi.input": io.BytesIO(),
            "told": (name, evidence),
        }
        list(app(environ, lambda *_: lambda _data: None))
    dead = Exchange("http", "GET", "/orders/7")
    dead.trace_id, dead.span_id = "5f" * 16, "5f" * 8
    dead.request_id = dead.trace_id
    lost = {**at, "phase": "open", "age_s": 1.688, "reason": "died", "worker_pid": 4711}
    pipeline.tell("worker_died", dead, lost)
    said = {"worker_pid": 4711, "worker": 1, "reason": "died", "requests_lost": 1, "lived_s": 86400.0}
    pipeline.logs.emit("warning", "worker.ended", "obskit", said)


def _shop(environ: dict[str, Any], start_response: Callable[..., Any]) -> Any:
    path, exchange = environ["PATH_INFO"].rpartition("/")[2], obskit.current()
    assert exchange is not None
    exchange.name_route({"list": "/orders", "create": "/checkout"}.get(path, ROUTE))
    if path == "none":
        return []
    if path == "told":
        exchange.pipeline.tell(environ["told"][0], exchange, environ["told"][1])
    environ["wsgi.input"].read()
    headers = [("Content-Type", "application/json")]
    start_response("200 OK", [*headers, ("Content-Length", "10")] if path == "short" else headers)
    if path == "list":
        return [b"[]" if "empty" in environ["QUERY_STRING"] else b'["tea"]']
    if path == "broken":
        obskit.invariant(False, "stock_not_negative", stock=-1)
    if path == "half":
        with obskit.unit_of_work("checkout", steps=["charge", "order"]) as work:
            work.done("charge")
    return _Body(path)


class _Body:
    """What is answered, with all that can go wrong on the way."""

    def __init__(self, path: str) -> None:
        self._path, self._parts = path, self._made()

    def __iter__(self) -> Iterator[bytes]:
        return self._parts

    def _made(self) -> Iterator[bytes]:
        yield b'{"error":"no more tea"}' if self._path == "failed" else b'{"order":'
        if self._path == "late":
            raise KeyError("order")
        if self._path == "exit":
            raise SystemExit(1)
        if self._path == "stuck":
            _give_up()
        if self._path not in ("short", "failed"):
            yield b'"tea"}'

    def close(self) -> None:
        if self._path == "after":
            raise ConnectionRefusedError("no mail server")


def _give_up() -> None:
    """What gunicorn's sync worker does, in the midst of a request, when it is told that it took too long."""
    worker: Any = SimpleNamespace(alive=True, cfg=SimpleNamespace(worker_abort=lambda _worker: None))
    Worker.handle_abort(worker, None, None)


def _request(
    app: Any,
    path: str,
    *,
    method: str = "GET",
    query: str = "",
    body: bytes = b"",
    declared: int | None = None,
) -> None:
    environ = {
        "REQUEST_METHOD": method,
        "PATH_INFO": path,
        "QUERY_STRING": query,
        "HTTP_HOST": "shop.example",
        "HTTP_USER_AGENT": "curl/8.5.0",
        "REMOTE_ADDR": "127.0.0.1",
        "CONTENT_LENGTH": str(len(body) if declared is None else declared),
        "wsgi.input": io.BytesIO(body),
    }
    answer = None
    try:
        answer = app(environ, lambda *_: lambda _data: None)
        for _ in answer:
            if path.endswith("/leaves"):
                break
    except (Exception, SystemExit):
        pass
    finally:
        try:
            if hasattr(answer, "close"):
                answer.close()
        except ConnectionError:
            pass


def _lost_session(install: Install, options: dict[str, Any]) -> None:
    app = flask.Flask("shop")
    app.secret_key = "of this worker"

    @app.get("/cart")
    def cart() -> str:
        return flask.session.get("cart", "empty")

    other = flask.Flask("shop")
    other.secret_key = "of another worker"
    serializer = other.session_interface.get_signing_serializer(other)  # type: ignore[attr-defined]
    install(app, **options)
    client = app.test_client()
    client.set_cookie("session", serializer.dumps({"cart": "tea"}))
    client.get("/cart").close()


def found(text: str) -> dict[str, dict[str, Any]]:
    """The first canonical line of each finding, by its name; the finding's own line where there is no canonical one."""
    canonical: dict[str, dict[str, Any]] = {}
    own: dict[str, dict[str, Any]] = {}
    for line in map(json.loads, text.splitlines()):
        for name in line.get("findings", []):
            canonical.setdefault(name, line)
        if line["event"] == "obskit.finding":
            own.setdefault(line["finding"], line)
    return {**own, **canonical}
