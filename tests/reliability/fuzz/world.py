"""Requests that nobody sends in good faith, the apps that meet them, and what must be true of each.

Each request goes to an app as it is and to its twin with obskit; both must answer alike. The twin writes exactly one
line, valid JSON of at most 16 KiB without a control character, and obskit fails nowhere.
"""

from __future__ import annotations

import hashlib
import io
import json
import re
import tempfile
from collections.abc import Callable, Coroutine
from typing import Any

import obskit
from obskit.install import _installed
from obskit.signals.writer import MAX_LINE_BYTES
from tests.reliability.fuzz.draw import Draw

OPTIONS: dict[str, Any] = {
    "log_format": "json",
    "capture_logs": "all",
    "share_workers": False,
    "instrumentation": False,
    "stuck_request_s": 3600.0,
}
_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029]")
_KEPT_ID = re.compile(r"[\x21-\x7e]{1,128}")

TRACEPARENT = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
SAMPLES: dict[str, tuple[str, ...]] = {
    "traceparent": (
        TRACEPARENT, "00-" + "0" * 32 + "-" + "0" * 16 + "-00", "ff-" + TRACEPARENT[3:], "01-" + TRACEPARENT[3:] + "-x",
    ),
    "tracestate": ("a=1", "rojo=00f067aa0ba902b7,congo=t61rcWkgMzE", ",".join(f"k{n}=v" for n in range(40)), "a@b=c"),
    "baggage": (
        "k=v", "userId=alice,serverNode=DF%2028;p=1", ",".join(f"k{n}=v" for n in range(200)), "k=" + "v" * 9000,
    ),
    "x-request-id": ("abc-123", "7b0c2ad0-7c3f-4f0f-bc54-9a3b3a0d7f1e", "x" * 128, "x" * 129, 'a"b\\c'),
    "x-forwarded-for": ("10.0.0.1", "1.2.3.4, 5.6.7.8", "[::1]:80", "unknown"),
    "x-forwarded-proto": ("https", "http,https"),
    "x-forwarded-host": ("example.org", "a:b:c"),
    "x-forwarded-port": ("443", "-1"),
    "forwarded": ('for=192.0.2.60;proto=http;by=203.0.113.43', 'for="[2001:db8::1]:80"', "for=_x;for=_y"),
    "x-real-ip": ("127.0.0.1",),
    "x-request-start": ("t=1700000000.123", "1700000000123", "t=1700000000123456", "t=", "1" * 40),
    "x-queue-start": ("t=1700000000.123", "t=9e99"),
    "accept": ("*/*", "application/openmetrics-text;version=1.0.0,text/plain;q=0.5", "text/plain;version=x;escaping=y"),
    "accept-encoding": ("gzip", "gzip;q=0", "identity, br;q=0.1"),
    "cookie": ("session=abc; theme=dark", "session=.eJx", "a=b; a=c; =d"),
    "user-agent": ("curl/8.0", "Mozilla/5.0 (X11)"),
    "content-length": ("0", "5", "-1", "+5", "5, 5", "99999999999999999999", "0x5"),
    "transfer-encoding": ("chunked", "gzip, chunked", "identity"),
    "range": ("bytes=0-1", "bytes=-1", "bytes=5-1,0-0"),
    "host": ("example.org", "a" * 300, "[::1]"),
    "idempotency-key": ("k1", "x" * 5000),
    "authorization": ("Bearer abc", "Basic dTpw"),
}  # fmt: skip
HEADERS = tuple(SAMPLES)
PATHS = ("/", "/plain", "/items/7", "/fails", "/a/../b", "//plain", "/%2e%2e/", "/ü", "/metrics/", "/items/")
METHODS = ("GET", "POST", "HEAD", "PUT", "OPTIONS", "DELETE", "PATCH", "BREW", "get", "")
QUERIES = ("", "a=1", "token=secret&x=%ff", "=&=&", "a=1;b=2")


class Kept:
    """Stands in for the writer of an install: keeps the lines."""

    def __init__(self) -> None:
        self.lines: list[str] = []

    def write(self, line: str) -> None:
        self.lines.append(line)

    def isatty(self) -> bool:
        return False

    def __getattr__(self, name: str) -> Callable[..., Any]:
        return lambda *_args, **_kwargs: True


class Twin:
    """An app with obskit, and what it told."""

    def __init__(self, app: Any, **options: Any) -> None:
        # What is remembered of an earlier run would be found again: the same seed, the same requests.
        self._folder = tempfile.TemporaryDirectory()
        self.app = obskit.install(app, **{**OPTIONS, "state_dir": self._folder.name, **options})
        self.pipeline = _installed[-1]
        self.kept = Kept()
        logs: Any = self.pipeline.logs
        logs._writer = self.kept
        metrics: Any = self.pipeline._metrics
        self._failures = metrics._internal_errors.series

    def failures(self) -> float:
        """How often obskit has failed."""
        return sum(cell.value for cell in list(self._failures.values()))

    def failed_stages(self) -> dict[str, float]:
        return {labels[0]: cell.value for labels, cell in self._failures.items() if cell.value}

    def take_lines(self) -> list[str]:
        lines, self.kept.lines = self.kept.lines, []
        return lines


def check_line(line: str, sent_id: str | None, *, sound: bool = True) -> dict[str, Any]:
    """A line that a reader can trust. Raises AssertionError. Of an unsound request even the ids may be missing."""
    assert len(line.encode("utf-8", "replace")) < MAX_LINE_BYTES, f"{len(line)} characters"
    assert not re.search(r"[\x00-\x1f]", line), f"a raw control character in {line!r:.300}"
    found: dict[str, Any] = json.loads(line)
    known = found.get("request_id")
    assert known is None or _KEPT_ID.fullmatch(known) or not (known or sound), f"kept the id {known!r:.200}"
    if sent_id is not None and _KEPT_ID.fullmatch(sent_id) and known is not None:
        assert known == sent_id, "a good id was not kept"
    return found


def _digest(*parts: object) -> bytes:
    return hashlib.blake2b(repr(parts).encode("utf-8", "surrogatepass"), digest_size=8).hexdigest().encode()


# ---- WSGI -------------------------------------------------------------------------------------------


def wsgi_app(environ: dict[str, Any], start_response: Any) -> list[bytes]:
    """Answers with a digest of all it was given; fails for one path."""
    body = environ["wsgi.input"].read(100) if environ.get("CONTENT_LENGTH") == "5" else b""
    known = sorted(
        (str(key), repr(value))
        for key, value in environ.items()
        if key not in ("obskit.exchange", "wsgi.input", "wsgi.errors")
    )
    if environ.get("PATH_INFO") == "/fails":
        raise ValueError("as asked")
    start_response("200 OK", [("Content-Type", "text/plain")])
    return [_digest(known, body)]


def environ_of(draw: Draw) -> tuple[dict[str, Any], bool]:
    """A WSGI environ, and whether its values have the types that PEP 3333 gives them."""
    environ: dict[str, Any] = {
        "REQUEST_METHOD": draw.native(*METHODS),
        "SCRIPT_NAME": draw.native("/app") if draw.chance(6) else "",
        "PATH_INFO": draw.native(*PATHS),
        "QUERY_STRING": draw.native(*QUERIES),
        "SERVER_NAME": draw.native("localhost") if draw.chance(8) else "localhost",
        "SERVER_PORT": draw.native("8000", "-1") if draw.chance(8) else "8000",
        "SERVER_PROTOCOL": draw.native("HTTP/1.1", "HTTP/9") if draw.chance(8) else "HTTP/1.1",
        "REMOTE_ADDR": draw.native("127.0.0.1", "::1", "") if draw.chance(4) else "127.0.0.1",
        "wsgi.version": (1, 0),
        "wsgi.url_scheme": "http",
        "wsgi.input": io.BytesIO(b"hello"),
        "wsgi.errors": io.StringIO(),
        "wsgi.multithread": False,
        "wsgi.multiprocess": False,
        "wsgi.run_once": False,
    }
    for _ in range(draw.number(5)):
        name = draw.pick(HEADERS)
        key = name.upper().replace("-", "_")
        environ[key if key.startswith("CONTENT_") else f"HTTP_{key}"] = draw.native(*SAMPLES[name])
    sound = True
    if draw.chance(16):
        sound = False
        key = draw.pick(tuple(environ))
        if draw.chance(3):
            del environ[key]
        else:
            environ[key] = draw.pick((None, 7, b"bytes", [], {}, 1.5, object, ("a",), True))
    return environ, sound


def talk_wsgi(app: Any, environ: dict[str, Any]) -> tuple[Any, ...]:
    """What a server sees of one call."""
    said: list[Any] = []

    def start_response(status: str, headers: Any, exc_info: Any = None) -> Any:
        said.append((status, [pair for pair in headers if pair[0].lower() != "date"], exc_info is not None))
        return said.append

    try:
        body = app(environ, start_response)
        try:
            said.extend(bytes(part) for part in body)
        finally:
            if hasattr(body, "close"):
                body.close()
    except Exception as error:
        said.append((type(error), str(error)[:200]))
    return tuple(said)


class Wsgi:
    """A WSGI app beside its twin."""

    def __init__(self, make: Callable[[], Any], **options: Any) -> None:
        self.bare = make()
        self.twin = Twin(make(), **options)

    def __call__(self, draw: Draw) -> None:
        environ, sound = environ_of(draw)
        if environ.get("PATH_INFO") == "/metrics":
            return
        before = self.twin.failures()
        sent = environ.get("HTTP_X_REQUEST_ID")
        mine = {**environ, "wsgi.input": io.BytesIO(b"hello")} if "wsgi.input" in environ else dict(environ)
        bare = talk_wsgi(self.bare, environ)
        with_us = talk_wsgi(self.twin.app, mine)
        assert bare == with_us, f"bare {bare!r:.500}\nwith us {with_us!r:.500}"
        _check(self.twin, before, sent, sound=sound)


def _check(twin: Twin, failures_before: float, sent_id: Any, *, sound: bool) -> None:
    sent = sent_id if sound and isinstance(sent_id, str) else None
    found = [check_line(line, sent, sound=sound) for line in twin.take_lines()]
    # What the app says itself is its own; and obskit says once that it is there.
    lines = [one for one in found if one["logger"] != "hostile" and one["event"] != "obskit.installed"]
    canonical = sum(line["event"] == "http.request" for line in lines)
    if sound:
        assert twin.failures() == failures_before, f"obskit failed: {twin.failed_stages()}\n{lines!r:.2000}"
        assert len(lines) == canonical == 1, f"{canonical} canonical of {len(lines)} lines: {lines!r:.2000}"
    else:
        assert canonical <= 1


# ---- ASGI -------------------------------------------------------------------------------------------


async def asgi_app(scope: Any, receive: Any, send: Any) -> None:
    """The same for ASGI, WebSockets too."""
    known = sorted((str(key), repr(value)) for key, value in scope.items() if key not in _OURS)
    if scope.get("path") == "/fails":
        raise ValueError("as asked")
    first = await receive()
    if scope["type"] == "websocket":
        await send({"type": "websocket.accept"})
        await send({"type": "websocket.send", "bytes": _digest(known, first)})
        await send({"type": "websocket.close"})
        return
    await send({"type": "http.response.start", "status": 200, "headers": [(b"content-type", b"text/plain")]})
    await send({"type": "http.response.body", "body": _digest(known, first)})


_OURS = frozenset({"obskit.exchange", "fastapi.telemetry", "starlette.opentelemetry"})


def scope_of(draw: Draw) -> tuple[dict[str, Any], bool]:
    """An ASGI scope, and whether it is one that the specification allows."""
    raw = draw.octets(*PATHS)
    scope: dict[str, Any] = {
        "type": "http",
        "asgi": {"version": "3.0"},
        "http_version": draw.pick(("1.1", "2", "1.0", "3")),
        "method": draw.text(*METHODS),
        "scheme": draw.pick(("http", "https")),
        "path": raw.decode("utf-8", "replace"),
        "raw_path": raw,
        "query_string": draw.octets(*QUERIES),
        "root_path": draw.text("/app") if draw.chance(8) else "",
        "headers": [],
        "client": draw.pick((("127.0.0.1", 5), None, ("::1", 0), ("", 0), (draw.text("testclient"), 1))),
        "server": draw.pick((("127.0.0.1", 80), None, ("/run/app.sock", None))),
    }
    if draw.chance(10):
        scope["type"] = "websocket"
        scope["subprotocols"] = []
        del scope["method"]
    headers: list[Any] = scope["headers"]
    for _ in range(draw.number(6)):
        name = draw.pick(HEADERS)
        headers.append((name.encode(), draw.octets(*SAMPLES[name])))
        if draw.chance(6):
            headers.append(headers[-1])
    sound = True
    if draw.chance(16):
        sound = False
        key = draw.pick(tuple(scope))
        if key == "type":
            key = "path"
        if draw.chance(3):
            del scope[key]
        else:
            scope[key] = draw.pick(
                (None, 7, b"bytes", [], {}, 1.5, [(b"a",)], [("x", "y")], [(1, 2, 3)], "text")
            )
    return scope, sound


def talk_asgi(app: Any, scope: dict[str, Any]) -> tuple[Any, ...]:
    """What a server sees of one call; no event loop, because nothing here waits."""
    said: list[Any] = []
    websocket = scope["type"] == "websocket"
    first = {"type": "websocket.connect"} if websocket else {"type": "http.request", "body": b"hello"}
    incoming = [first]

    async def receive() -> dict[str, Any]:
        gone = {"type": "websocket.disconnect", "code": 1000} if websocket else {"type": "http.disconnect"}
        return incoming.pop() if incoming else gone  # type: ignore[return-value]

    async def send(message: dict[str, Any]) -> None:
        said.append(dict(message))

    call: Coroutine[Any, Any, Any] = app(scope, receive, send)
    try:
        call.send(None)
        raise AssertionError("it waits")
    except StopIteration:
        pass
    except Exception as error:
        said.append((type(error), str(error)[:200]))
    finally:
        call.close()
    return tuple(said)


class Asgi:
    """An ASGI app beside its twin."""

    def __init__(self, make: Callable[[], Any], **options: Any) -> None:
        self.bare = make()
        self.twin = Twin(make(), **options)

    def __call__(self, draw: Draw) -> None:
        scope, sound = scope_of(draw)
        path, root = scope.get("path"), scope.get("root_path")
        if isinstance(path, str) and isinstance(root, str) and path.removeprefix(root) == "/metrics":
            return
        before = self.twin.failures()
        sent = _sent_id(scope)
        mine = {key: list(value) if isinstance(value, list) else value for key, value in scope.items()}
        bare = talk_asgi(self.bare, scope)
        with_us = talk_asgi(self.twin.app, mine)
        assert bare == with_us, f"bare {bare!r:.500}\nwith us {with_us!r:.500}"
        _check(self.twin, before, sent, sound=sound)


def _sent_id(scope: dict[str, Any]) -> str | None:
    try:
        found = [value.decode("latin-1") for name, value in scope["headers"] if name == b"x-request-id"]
    except (KeyError, TypeError, ValueError, AttributeError):
        return None
    return found[-1] if found else None


# ---- frameworks -------------------------------------------------------------------------------------


def flask_app() -> Any:
    import flask

    app = flask.Flask("hostile")
    app.secret_key = "fuzz"

    @app.route("/plain", methods=["GET", "POST"])
    def plain() -> str:
        flask.session["n"] = flask.request.args.get("a", "")[:10]
        return flask.request.headers.get("User-Agent", "")[:50]

    @app.route("/items/<int:number>")
    def item(number: int) -> str:
        return str(number)

    @app.route("/fails")
    def fails() -> str:
        raise ValueError("as asked")

    return app


def starlette_app() -> Any:
    from starlette.applications import Starlette
    from starlette.requests import Request
    from starlette.responses import PlainTextResponse
    from starlette.routing import Route

    async def plain(request: Request) -> PlainTextResponse:
        return PlainTextResponse(
            request.headers.get("user-agent", "")[:50] + str(dict(request.query_params))[:99]
        )

    async def item(request: Request) -> PlainTextResponse:
        return PlainTextResponse(str(request.path_params["number"]))

    async def fails(request: Request) -> PlainTextResponse:
        raise ValueError("as asked")

    return Starlette(
        routes=[
            Route("/plain", plain, methods=["GET", "POST"]),
            Route("/items/{number:int}", item),
            Route("/fails", fails),
        ]
    )
