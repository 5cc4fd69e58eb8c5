"""The conformance app in FastAPI."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Annotated, Any

import shared
from fastapi import APIRouter, BackgroundTasks, FastAPI, Header, Request, WebSocket, WebSocketDisconnect
from fastapi.responses import (
    FileResponse,
    JSONResponse,
    PlainTextResponse,
    RedirectResponse,
    Response,
    StreamingResponse,
)
from starlette.convertors import Convertor, register_url_convertor

RequestId = Annotated[str, Header(alias="X-Request-ID")]


class YearConvertor(Convertor[str]):
    regex = "[0-9]{4}"

    def convert(self, value: str) -> str:
        return value

    def to_string(self, value: str) -> str:
        return value


register_url_convertor("year", YearConvertor())


@asynccontextmanager
async def lifespan(app: FastAPI) -> AsyncIterator[dict[str, Any]]:
    yield {"greeting": "started"}


app = FastAPI(lifespan=lifespan)


@app.api_route("/hello", methods=["GET", "HEAD"], response_class=PlainTextResponse)
async def hello() -> str:
    return "hello"


@app.get("/orders/{order_id:int}")
async def show_order(order_id: int) -> Response:
    found = shared.order(order_id)
    return JSONResponse(found) if found else JSONResponse({"error": "no such order"}, 404)


@app.get("/boom")
async def boom() -> str:
    raise ValueError("boom")


@app.get("/teapot")
async def teapot() -> str:
    raise shared.Teapot


@app.exception_handler(shared.Teapot)
async def handle_teapot(request: Request, problem: shared.Teapot) -> Response:
    return PlainTextResponse("short and stout", 418)


@app.get("/redirect")
async def redirects() -> Response:
    return RedirectResponse("/hello", 302)


@app.get("/items/")
async def items() -> str:
    return "items"


@app.get("/empty", status_code=204)
async def empty() -> None:
    return None


@app.get("/not-modified")
async def not_modified() -> Response:
    return Response(status_code=304, headers={"ETag": shared.ETAG})


@app.get("/stream")
async def stream() -> Response:
    return StreamingResponse(shared.astream(), media_type="text/plain")


@app.get("/stream-raises/{parts:int}")
async def stream_raises(parts: int) -> Response:
    return StreamingResponse(shared.astream_that_raises(parts), media_type="text/plain")


@app.get("/drip")
async def drip() -> Response:
    return StreamingResponse(shared.adrip(), media_type="text/plain")


@app.get("/sse/{count:int}")
async def sse(count: int) -> Response:
    return StreamingResponse(shared.aevents(count), media_type="text/event-stream")


@app.get("/slow/{ms:int}")
async def slow(ms: int, request_id: RequestId) -> Response:
    return Response(await shared.aslow(ms, request_id))


@app.post("/upload")
async def upload(request: Request) -> dict[str, int]:
    return {"bytes": len(await request.body())}


@app.post("/ignore-body", status_code=202, response_class=PlainTextResponse)
async def ignore_body() -> str:
    return "ignored"


@app.get("/file")
async def file() -> Response:
    return FileResponse(shared.FILE, media_type="text/plain")


@app.get("/after-slow")
async def after_slow(tasks: BackgroundTasks) -> str:
    tasks.add_task(asyncio.sleep, shared.AFTER_S)
    return "done"


@app.get("/after-fails")
async def after_fails(tasks: BackgroundTasks) -> str:
    async def fail() -> None:
        raise ValueError("after the response")

    tasks.add_task(fail)
    return "done"


things = APIRouter(prefix="/things")
api = APIRouter(prefix="/api")
sub = FastAPI()


@things.get("/{thing}")
async def show_thing(thing: str) -> dict[str, str]:
    return {"thing": thing}


api.include_router(things, prefix="/v1")
app.include_router(api)
sub.include_router(things)
app.mount("/sub", sub)
installed = FastAPI()
installed.include_router(things)
app.mount("/installed", shared.obskit.install(installed))


@app.get("/articles/{year:year}/", response_class=PlainTextResponse)
async def article(year: str) -> str:
    return year


class ClassView:
    """FastAPI's class-based view: an instance whose __call__ is the endpoint."""

    async def __call__(self) -> str:
        return "by a class"


app.add_api_route("/class-view", ClassView(), methods=["GET"])


@app.get("/greet/{name}", response_class=PlainTextResponse)
async def greet(name: str) -> str:
    return f"hello {name}"


@app.get("/grüße/{name}", response_class=PlainTextResponse)
async def gruss(name: str) -> str:
    return f"hallo {name}"


@app.get("/logs")
async def logs(request_id: RequestId) -> str:
    await shared.anote_everywhere(request_id)
    return "noted"


@app.get("/threadpool")
def threadpool(request_id: RequestId) -> str:
    shared.note("pool", request_id)
    return "noted"


@app.get("/truncated")
async def truncated() -> Response:
    return Response(shared.TRUNCATED, headers={"Content-Length": shared.TRUNCATED_DECLARES})


@app.post("/checkout")
@app.post("/refund")
async def checkout(request: Request, request_id: RequestId) -> Response:
    status, takes_ms = shared.checkout(await request.body())
    await shared.aslow(takes_ms, request_id)
    return JSONResponse({"ok": True}, status)


@app.api_route("/answers/{name}", methods=["GET", "HEAD"])
@app.get("/stock/{name}")
async def answers(name: str) -> Response:
    return JSONResponse(shared.ANSWERS[name])


# In the thread pool, as most endpoints of real services are: the finding must still reach its request.
@app.get("/assume/{stock:int}")
def assume(stock: int) -> Response:
    return PlainTextResponse(shared.assume(stock))


@app.get("/unit-of-work/{steps:int}")
def work(steps: int) -> Response:
    return PlainTextResponse(shared.work(steps))


@app.get("/lifespan", response_class=PlainTextResponse)
async def lifespan_state(request: Request) -> str:
    return str(request.state.greeting)


@app.websocket("/ws/{room}")
async def ws(socket: WebSocket, room: str) -> None:
    await socket.accept()
    await socket.send_text(await socket.receive_text())
    await socket.close()


@app.websocket("/ws-refused")
async def ws_refused(socket: WebSocket) -> None:
    await socket.close()


@app.websocket("/ws-raises")
async def ws_raises(socket: WebSocket) -> None:
    await socket.accept()
    raise ValueError("the socket broke")


@app.websocket("/ws-left")
async def ws_left(socket: WebSocket) -> None:
    await socket.accept()
    try:
        while True:
            await socket.receive_text()
    except WebSocketDisconnect:
        pass


app = shared.install(app, shared.wrap_asgi)
