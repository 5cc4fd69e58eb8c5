"""The conformance app as a bare ASGI callable."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import AsyncIterator
from typing import Any

import shared

Headers = list[tuple[bytes, bytes]]
state = {"greeting": b"never started"}


class Request:
    """Just enough of one for the handlers below."""

    def __init__(self, scope: dict[str, Any], receive: Any, send: Any) -> None:
        self.scope, self.receive, self.send = scope, receive, send
        self.method = scope.get("method", "websocket")
        self.id = dict(scope["headers"]).get(b"x-request-id", b"").decode("latin-1")

    async def start(self, status: int, headers: Headers) -> None:
        await self.send({"type": "http.response.start", "status": status, "headers": headers})

    async def part(self, body: bytes, more: bool = False) -> None:
        await self.send({"type": "http.response.body", "body": body, "more_body": more})

    async def text(self, body: bytes, status: int = 200, *headers: tuple[bytes, bytes]) -> None:
        await self.start(status, [(b"content-length", b"%d" % len(body)), *headers])
        await self.part(body)

    async def unsized(self, parts: AsyncIterator[bytes], content_type: bytes = b"text/plain") -> None:
        await self.start(200, [(b"content-type", content_type)])
        async for part in parts:
            await self.part(part, more=True)
        await self.part(b"")

    async def body(self) -> bytes:
        body = b""
        while True:
            message = await self.receive()
            if message["type"] == "http.disconnect":
                raise ConnectionResetError("the client left during its upload")
            body += message.get("body", b"")
            if not message.get("more_body"):
                return body


async def not_found(request: Request) -> None:
    await request.text(b"not found", 404)


async def method_not_allowed(request: Request, **parameters: str) -> None:
    await request.text(b"method not allowed", 405)


async def hello(request: Request) -> None:
    await request.start(200, [(b"content-length", b"5")])
    await request.part(b"" if request.method == "HEAD" else b"hello")


async def show_order(request: Request, order_id: str) -> None:
    found = shared.order(int(order_id))
    await (request.text(shared.as_json(found)) if found else request.text(b"no such order", 404))


async def boom(request: Request) -> None:
    raise ValueError("boom")


async def teapot(request: Request) -> None:
    raise shared.Teapot


async def redirect(request: Request) -> None:
    await request.text(b"", 302, (b"location", b"/hello"))


async def empty(request: Request) -> None:
    await request.start(204, [])
    await request.part(b"")


async def not_modified(request: Request) -> None:
    await request.start(304, [(b"etag", shared.ETAG.encode())])
    await request.part(b"")


async def stream(request: Request) -> None:
    await request.unsized(shared.astream())


async def stream_raises(request: Request, parts: str) -> None:
    await request.unsized(shared.astream_that_raises(int(parts)))


async def drip(request: Request) -> None:
    await request.unsized(shared.adrip())


async def sse(request: Request, count: str) -> None:
    await request.unsized(shared.aevents(int(count)), b"text/event-stream")


async def slow(request: Request, ms: str) -> None:
    await request.text(await shared.aslow(int(ms), request.id))


async def upload(request: Request) -> None:
    await request.text(b"%d" % len(await request.body()))


async def ignore_body(request: Request) -> None:
    await request.text(b"ignored", 202)


async def file(request: Request) -> None:
    body = await asyncio.to_thread(shared.FILE.read_bytes)
    await request.start(200, [(b"content-length", b"%d" % len(body))])
    for offset in range(0, len(body), 65536):
        await request.part(body[offset : offset + 65536], more=True)
    await request.part(b"")


async def after_slow(request: Request) -> None:
    await request.text(b"done")
    await asyncio.sleep(shared.AFTER_S)


async def after_fails(request: Request) -> None:
    await request.text(b"done")
    raise ValueError("after the response")


async def thing(request: Request, thing: str) -> None:
    await request.text(thing.encode())


async def article(request: Request, year: str) -> None:
    await request.text(year.encode())


async def greet(request: Request, name: str) -> None:
    await request.text(f"hello {name}".encode())


gruss = greet


async def logs(request: Request) -> None:
    await shared.anote_everywhere(request.id)
    await request.text(b"noted")


async def threadpool(request: Request) -> None:
    await asyncio.to_thread(shared.note, "pool", request.id)
    await request.text(b"noted")


async def truncated(request: Request) -> None:
    await request.start(200, [(b"content-length", shared.TRUNCATED_DECLARES.encode())])
    await request.part(shared.TRUNCATED)


async def checkout(request: Request) -> None:
    status, takes_ms = shared.checkout(await request.body())
    await shared.aslow(takes_ms, request.id)
    await request.text(b'{"ok": true}', status)


refund = checkout


async def answers(request: Request, name: str) -> None:
    body = shared.as_json(shared.ANSWERS[name])
    await request.start(200, [(b"content-type", b"application/json"), (b"content-length", b"%d" % len(body))])
    await request.part(b"" if request.method == "HEAD" else body)


async def stock(request: Request, name: str) -> None:
    await answers(request, name)


async def assume(request: Request, stock: str) -> None:
    await request.text(shared.assume(int(stock)))


async def work(request: Request, steps: str) -> None:
    await request.text(shared.work(int(steps)))


async def no_end(request: Request) -> None:
    await request.start(200, [(b"content-type", b"text/plain")])
    await request.part(b"and then", more=True)


async def no_response(request: Request) -> None:
    return


async def lifespan(request: Request) -> None:
    await request.text(state["greeting"])


async def ws(request: Request, room: str) -> None:
    await request.receive()
    await request.send({"type": "websocket.accept"})
    message = await request.receive()
    await request.send({"type": "websocket.send", "text": message["text"]})
    await request.send({"type": "websocket.close", "code": 1000})


async def ws_refused(request: Request) -> None:
    await request.receive()
    await request.send({"type": "websocket.close", "code": 1000})


async def ws_raises(request: Request) -> None:
    await request.receive()
    await request.send({"type": "websocket.accept"})
    raise ValueError("the socket broke")


async def ws_left(request: Request) -> None:
    await request.receive()
    await request.send({"type": "websocket.accept"})
    while (await request.receive())["type"] != "websocket.disconnect":
        pass


async def serve_lifespan(receive: Any, send: Any) -> None:
    while True:
        message = await receive()
        if message["type"] == "lifespan.startup":
            state["greeting"] = b"started"
            await send({"type": "lifespan.startup.complete"})
        elif message["type"] == "lifespan.shutdown":
            await send({"type": "lifespan.shutdown.complete"})
            return


async def app(scope: dict[str, Any], receive: Any, send: Any) -> None:
    if scope["type"] == "lifespan":
        await serve_lifespan(receive, send)
        return
    request = Request(scope, receive, send)
    name, parameters = shared.match(request.method, scope["path"])
    try:
        await getattr(sys.modules[__name__], name)(request, **parameters)
    except shared.Teapot:
        await request.text(b"short and stout", 418)


app = shared.install(app, shared.wrap_asgi)
