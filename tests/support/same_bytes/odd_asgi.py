"""An ASGI application that answers in all the ways that servers must cope with, one path each."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

Scope = dict[str, Any]
Page = Callable[[Scope, Any, Any], Awaitable[None]]

FILE = Path(tempfile.mkdtemp()) / "file"
FILE.write_bytes(bytes(range(256)) * 1024)


def start(status: int = 200, *headers: tuple[bytes, bytes], **more: Any) -> dict[str, Any]:
    return {"type": "http.response.start", "status": status, "headers": list(headers), **more}


def part(body: bytes = b"", more: bool = False) -> dict[str, Any]:
    return {"type": "http.response.body", "body": body, "more_body": more}


HINT = {"type": "http.response.early_hint", "links": [b"</s.css>; rel=preload; as=style", b"</t.js>"]}
TRAILERS = {"type": "http.response.trailers", "headers": [(b"x-checksum", b"abc"), (b"x-checksum", b"d")]}
LENGTH = b"content-length"

# What is sent, message by message.
TOLD: dict[str, list[Any]] = {
    "one": [start(200, (LENGTH, b"2")), part(b"ok")],
    "no-length": [start(), part(b"unsized")],
    "no-body-key": [start(), {"type": "http.response.body"}],
    "no-headers-key": [{"type": "http.response.start", "status": 200}, part(b"x")],
    "chunks": [
        start(),
        part(b"a", True),
        part(b"", True),
        part(b"bc", True),
        part(b"d" * 70_000, True),
        part(),
    ],
    "large": [start(200, (LENGTH, b"3000000")), part(b"x" * 3_000_000)],
    "large-parts": [start(), *(part(b"y" * 100_000, True) for _ in range(20)), part(b"end")],
    "bytearray": [start(), part(bytearray(b"array"), True), part(memoryview(b"view").tobytes())],  # type: ignore[arg-type]
    "204": [start(204), part()],
    "204-with-body": [start(204), part(b"not allowed")],
    "304": [start(304, (b"etag", b'"v"')), part()],
    "redirect": [start(307, (b"location", b"/caf%C3%A9?x=1#y")), part()],
    "cookies": [start(200, (b"set-cookie", b"a=1; Path=/"), (b"set-cookie", b"b=2; HttpOnly")), part(b"c")],
    "duplicates": [
        start(200, (b"x-a", b"1"), (b"X-A", b"2"), (b"x-a", b"1"), (b"vary", b""), (b"vary", b"b")),
        part(),
    ],
    "latin-1": [
        start(200, (b"x-latin", b"caf\xe9 \xff"), (b"x-utf-8", "ü".encode())),
        part("ü".encode("latin-1")),
    ],
    "own-date": [start(200, (b"server", b"mine"), (b"x-date", b"never")), part(b"d")],
    "own-id": [start(200, (b"x-request-id", b"the app's own"), (b"traceparent", b"mine")), part(b"d")],
    "odd-status": [start(299), part(b"x")],
    "close": [start(200, (b"connection", b"close")), part(b"bye")],
    "own-chunked": [start(200, (b"transfer-encoding", b"chunked")), part(b"x", True), part(b"y")],
    "too-long": [start(200, (LENGTH, b"4")), part(b"0123456789")],
    "too-short": [start(200, (LENGTH, b"10")), part(b"0123")],
    "bad-length": [start(200, (LENGTH, b"four")), part(b"0123")],
    "header-with-newline": [start(200, (b"x-a", b"1\r\nx-b: 2")), part(b"x")],
    "header-of-text": [start(200, ("x-a", "1")), part(b"x")],  # type: ignore[arg-type]
    "start-twice": [start(), start(), part(b"x")],
    "body-first": [part(b"x"), start()],
    "body-after-end": [start(200, (LENGTH, b"1")), part(b"x"), part(b"y")],
    "unknown-message": [{"type": "http.response.telepathy"}, start(), part(b"x")],
    "no-end": [start(), part(b"and then", True)],
    "nothing": [],
    "only-start": [start(200, (LENGTH, b"0"))],
    "raises": [ValueError("before")],
    "raises-after-start": [start(), ValueError("after the start")],
    "raises-in-the-middle": [start(), part(b"first", True), ValueError("middle")],
    "raises-at-the-end": [start(200, (LENGTH, b"1")), part(b"x"), ValueError("after")],
    "hint": [HINT, start(), part(b"hinted")],
    "hint-twice": [HINT, HINT, start(200, (LENGTH, b"1")), part(b"x")],
    "push": [{"type": "http.response.push", "path": "/s.css", "headers": []}, start(), part(b"pushed")],
    "debug": [{"type": "http.response.debug", "info": {"x": 1}}, start(), part(b"x")],
    "trailers": [start(200, (b"trailer", b"x-checksum"), trailers=True), part(b"x", True), part(), TRAILERS],
    "trailers-in-two": [start(200, trailers=True), part(b"x"), {**TRAILERS, "more_trailers": True}, TRAILERS],
    "no-trailers": [start(200, trailers=True), part(b"x")],
    "pathsend": [
        start(200, (LENGTH, b"%d" % FILE.stat().st_size)),
        {"type": "http.response.pathsend", "path": str(FILE)},
    ],
    "pathsend-of-nothing": [
        start(200, (LENGTH, b"1")),
        {"type": "http.response.pathsend", "path": str(FILE.with_name("missing"))},
    ],
}


def telling(messages: list[Any]) -> Page:
    async def page(scope: Scope, receive: Any, send: Any) -> None:
        for message in messages:
            if isinstance(message, Exception):
                raise message
            # A copy: what a server does to one request's message is not the next one's.
            await send({**message})

    return page


async def echo(scope: Scope, receive: Any, send: Any) -> None:
    """The request as the application saw it, part by part."""
    seen = b""
    while True:
        message = await receive()
        seen += message.get("body", b"")
        if message["type"] == "http.disconnect" or not message.get("more_body", False):
            break
    keys = (
        "type",
        "asgi",
        "http_version",
        "method",
        "scheme",
        "path",
        "raw_path",
        "query_string",
        "root_path",
    )
    told = {key: repr(scope.get(key)) for key in keys}
    told["extensions"] = repr(sorted(scope.get("extensions") or ()))
    told["headers"] = repr(list(scope["headers"]))
    told["body"] = f"{len(seen)} {seen[:100]!r}"
    data = json.dumps(told).encode()
    await send(start(200, (b"content-type", b"application/json"), (LENGTH, b"%d" % len(data))))
    await send(part(data))


async def unread(scope: Scope, receive: Any, send: Any) -> None:
    await send(start(202, (LENGTH, b"6")))
    await send(part(b"unread"))


async def half_read(scope: Scope, receive: Any, send: Any) -> None:
    await receive()
    await send(start(200))
    await send(part(b"half", True))
    await send(part(b"read"))


async def zero_copy(scope: Scope, receive: Any, send: Any) -> None:
    with FILE.open("rb") as file:
        await send(start(200, (LENGTH, b"100")))
        await send({"type": "http.response.zerocopysend", "file": file.fileno(), "offset": 5, "count": 100})


async def ws_echo(scope: Scope, receive: Any, send: Any) -> None:
    await receive()
    offered = scope["subprotocols"]
    await send(
        {
            "type": "websocket.accept",
            "subprotocol": offered[-1] if offered else None,
            "headers": [(b"x-room", b"caf\xe9"), (b"set-cookie", b"a=1"), (b"set-cookie", b"b=2")],
        }
    )
    while (message := await receive())["type"] == "websocket.receive":
        text = message.get("text")
        if text == "raise":
            raise ValueError("in a conversation")
        if text == "close":
            await send({"type": "websocket.close", "code": 4001, "reason": "as asked"})
            return
        if text is None:
            await send({"type": "websocket.send", "bytes": message["bytes"]})
        else:
            await send({"type": "websocket.send", "text": text})


async def ws_refused(scope: Scope, receive: Any, send: Any) -> None:
    await receive()
    await send({"type": "websocket.close", "code": 1000})


async def ws_denied(scope: Scope, receive: Any, send: Any) -> None:
    await receive()
    await send({"type": "websocket.http.response.start", "status": 401, "headers": [(LENGTH, b"5")]})
    await send({"type": "websocket.http.response.body", "body": b"who?!"})


async def ws_raises(scope: Scope, receive: Any, send: Any) -> None:
    await receive()
    raise ValueError("before the handshake")


PAGES: dict[str, Page] = {
    **{name: telling(messages) for name, messages in TOLD.items()},
    "echo": echo,
    "unread": unread,
    "half-read": half_read,
    "zerocopysend": zero_copy,
    "ws": ws_echo,
    "ws-refused": ws_refused,
    "ws-denied": ws_denied,
    "ws-raises": ws_raises,
}


async def app(scope: Scope, receive: Any, send: Any) -> None:
    if scope["type"] == "lifespan":
        raise RuntimeError("no lifespan here")
    await PAGES.get(scope["path"].removeprefix("/"), echo)(scope, receive, send)
