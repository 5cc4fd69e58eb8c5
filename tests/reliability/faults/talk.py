"""Servers made of lists, and all that they and the application saw of one request: two of these can be compared."""

from __future__ import annotations

import asyncio
import traceback
from collections.abc import Iterable
from typing import Any
from wsgiref.util import FileWrapper

from tests.support.recording import http_scope, make_environ

# Of these files no frame is the application's: ours, and the servers of this test.
_NOT_THEIRS = ("/src/obskit/", "/reliability/faults/talk.py", "/reliability/faults/shapes.py")

raised: list[BaseException] = []
"""What the application has raised in this request, by its own account."""
app_saw: list[Any] = []
"""What the application noted of this request."""
made: list[str] = []
"""Each body with a close() that the application has made."""
closed: list[str] = []
"""Each call of the application's close()."""


_number = 0


def begin_request() -> None:
    """Forget the last one."""
    global _number
    _number += 1
    raised.clear()
    app_saw.clear()
    made.clear()
    closed.clear()


def raises(error: BaseException) -> BaseException:
    """For `raise raises(...)` in an application: note which object it was."""
    raised.append(error)
    return error


def _steady(headers: Iterable[Any]) -> tuple[Any, ...]:
    """Headers without what the time of day decides: of a cookie only its name."""
    return tuple(
        (name, value[:10] if name.lower() in ("set-cookie", b"set-cookie") else value)
        for name, value in headers
    )


class Answer(dict[str, Any]):
    """What a server saw of one request, and what the application saw. Equal if nothing was different."""


def _told_of(error: BaseException | None) -> dict[str, Any]:
    if error is None:
        return {"error": None}
    frames = [
        f"{frame.filename.rpartition('/')[2]}:{frame.name}:{frame.lineno}"
        for frame in traceback.extract_tb(error.__traceback__)
        if not any(part in frame.filename for part in _NOT_THEIRS)
    ]
    context = error.__context__
    return {
        "error": type(error).__name__,
        "message": str(error),
        "own": any(error is one for one in raised),
        "frames": frames,
        "context": None if context is None else type(context).__name__,
        "cause": repr(error.__cause__),
        "notes": list(getattr(error, "__notes__", ())),
    }


def _seen(error: BaseException | None) -> dict[str, Any]:
    return {**_told_of(error), "saw": list(app_saw), "closed": list(closed)}


# ---- WSGI -------------------------------------------------------------------------------------------


def ask_wsgi(
    app: Any, path: str, *, data: bytes = b"", method: str = "GET", take: int | None = None, **environ: Any
) -> tuple[Answer, BaseException | None]:
    """One request as a server makes it. `take`: close after so many chunks, as for a client that has left."""
    begin_request()
    events: list[tuple[Any, ...]] = []
    headers_sent = False

    def write(chunk: bytes) -> None:
        nonlocal headers_sent
        headers_sent = True
        events.append(("write", chunk))

    def start_response(status: str, headers: Any, exc_info: Any = None) -> Any:
        events.append(("start", status, _steady(headers), exc_info and type(exc_info[1]).__name__))
        if exc_info and headers_sent:
            raise exc_info[1].with_traceback(exc_info[2])
        return write

    failure: BaseException | None = None
    given = make_environ(path, method, data, **{"wsgi.file_wrapper": FileWrapper, **environ})
    try:
        body = app(given, start_response)
        events.append(("is a file", type(body) is FileWrapper))
        if hasattr(body, "__len__"):
            events.append(("length", len(body)))
        try:
            for count, chunk in enumerate(body, 1):
                events.append(("chunk", chunk))
                headers_sent = headers_sent or bool(chunk)
                if count == take:
                    break
        finally:
            if hasattr(body, "close"):
                body.close()
    except BaseException as error:
        failure = error
    return Answer(events=events, **_seen(failure)), failure


# ---- ASGI -------------------------------------------------------------------------------------------


class Flagged:
    """uvicorn's: a flag on the cycle behind receive()."""

    def __init__(self, messages: Iterable[Any]) -> None:
        self.messages = list(messages)
        self.disconnected = False
        self.more_body = False

    async def receive(self) -> Any:
        if self.messages:
            message = self.messages.pop(0)
        else:
            self.disconnected = True
            message = {"type": "http.disconnect"}
        app_saw.append(message["type"])
        return message


class Queued(asyncio.Queue[Any]):
    """hypercorn's: receive() is the get() of a queue."""

    def __init__(self, messages: Iterable[Any]) -> None:
        super().__init__()
        for message in messages:
            self.put_nowait(message)
        self.receive = self.get


class ASGIHTTPProtocol:
    """granian's, known by this name: nothing but receive()."""

    def __init__(self, messages: Iterable[Any]) -> None:
        self.messages = list(messages)

    async def receive(self) -> Any:
        if not self.messages:
            await asyncio.sleep(0.004)
            return {"type": "http.disconnect"}
        return self.messages.pop(0)


class Plain:
    """A server that shows nothing."""

    def __init__(self, messages: Iterable[Any]) -> None:
        left = list(messages)
        number = _number

        async def receive() -> Any:
            await asyncio.sleep(0)
            message = left.pop(0) if left else {"type": "http.disconnect"}
            if number == _number:  # not from a task that the last request has left behind
                app_saw.append(message["type"])
            return message

        self.receive = receive


REQUEST = ({"type": "http.request", "body": b"{}", "more_body": False},)
_loop: asyncio.AbstractEventLoop | None = None


def loop() -> asyncio.AbstractEventLoop:
    """The one loop of this process."""
    global _loop
    if _loop is None:
        _loop = asyncio.new_event_loop()
    return _loop


def ask_asgi(
    app: Any,
    scope: dict[str, Any] | str,
    *,
    messages: Iterable[Any] = REQUEST,
    server: type[Any] = Plain,
    send_fails: BaseException | None = None,
    **more: Any,
) -> tuple[Answer, BaseException | None]:
    """One request or connection as a server makes it; `send_fails` is what its second send raises."""
    begin_request()
    sent: list[Any] = []
    if isinstance(scope, str):
        scope = http_scope(scope, **more)
    given = scope

    async def send(message: Any) -> None:
        if send_fails is not None and sent:
            raise raises(send_fails)
        sent.append({k: _steady(v) if k == "headers" else v for k, v in message.items()})
        await asyncio.sleep(0)

    async def call() -> BaseException | None:
        try:
            await app(given, server(messages).receive, send)
        except BaseException as error:
            return error
        return None

    task = loop().create_task(call())
    try:
        failure = loop().run_until_complete(task)
    except BaseException as error:  # one that a callback of the loop has raised
        failure = error
        task.cancel()
        loop().run_until_complete(asyncio.wait((task,)))
    return Answer(sent=sent, **_seen(failure)), failure
