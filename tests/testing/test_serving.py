"""serve(app): the user's application, whatever it is, on a real server of this process."""

from __future__ import annotations

import socket
import sys
import threading
import urllib.request
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from typing import Any

import pytest
from django.core.handlers.asgi import ASGIHandler
from django.core.handlers.wsgi import WSGIHandler
from fastapi import FastAPI
from flask import Flask
from starlette.applications import Starlette
from starlette.responses import PlainTextResponse
from starlette.routing import Route

from obskit import InstallError
from obskit.testing import Chaos, ServeError, Telemetry, serve
from tests.support.django_site import configure
from tests.support.recording import listing

Install = Callable[..., Any]


def get(url: str) -> bytes:
    with urllib.request.urlopen(url, timeout=10) as response:
        return bytes(response.read())


def flask_app() -> Flask:
    app = Flask("shop")
    app.get("/")(lambda: "fine")
    return app


def fastapi_app() -> FastAPI:
    app = FastAPI()
    app.get("/")(lambda: "fine")
    return app


def starlette_app() -> Starlette:
    return Starlette(routes=[Route("/", lambda request: PlainTextResponse("fine"))])


async def plain_asgi(scope: Any, receive: Any, send: Any) -> None:
    if scope["type"] != "http":
        raise NotImplementedError(scope["type"])
    await send({"type": "http.response.start", "status": 200, "headers": []})
    await send({"type": "http.response.body", "body": b"fine"})


KINDS: dict[str, Callable[[], Any]] = {
    "flask": flask_app,
    "fastapi": fastapi_app,
    "starlette": starlette_app,
    "plain wsgi": lambda: listing(b"fine"),
    "plain asgi": lambda: plain_asgi,
}


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_of_app_is_served_installed_or_not(kind: str, install: Install) -> None:
    app = KINDS[kind]()
    with serve(app) as url:
        assert b"fine" in get(f"{url}/")
    installed = install(app)
    with Telemetry() as seen, serve(installed) as url:
        assert b"fine" in get(f"{url}/")
        assert seen.line["outcome"] == "completed"


@pytest.mark.parametrize("make", [WSGIHandler, ASGIHandler])
def test_djangos_handlers_are_served_installed_or_not(make: Callable[[], Any], install: Install) -> None:
    configure()
    for app in (make(), install(make())):
        with serve(app) as url:
            assert Chaos(url).get("/nowhere").status == 404


def test_the_port_is_free_again_afterwards() -> None:
    with serve(listing(b"fine")) as url:
        port = int(url.rpartition(":")[2])
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection(("127.0.0.1", port), timeout=5)


def test_leaving_waits_for_a_request_on_its_way(install: Install) -> None:
    inside, go_on = threading.Event(), threading.Event()

    def app(environ: dict[str, Any], start_response: Any) -> list[bytes]:
        inside.set()
        go_on.wait(10)
        start_response("200 OK", [])
        return [b"fine"]

    served = install(app)
    with Telemetry() as seen:
        with serve(served) as url:
            client = threading.Thread(target=get, args=(url,))
            client.start()
            assert inside.wait(10)
            threading.Timer(0.05, go_on.set).start()
        assert [exchange.outcome for exchange in seen._exchanges] == ["completed"]
        client.join()


def test_an_asgi_app_whose_startup_fails_is_named() -> None:
    @asynccontextmanager
    async def lifespan(app: Any) -> AsyncIterator[None]:
        raise RuntimeError("no database")
        yield

    with pytest.raises(ServeError, match="its lifespan startup failed"), serve(Starlette(lifespan=lifespan)):
        pass


def test_without_uvicorn_an_asgi_app_is_refused_with_what_to_do(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "uvicorn", None)
    with pytest.raises(ServeError, match=r"needs uvicorn.*Run: pip install uvicorn"), serve(plain_asgi):
        pass


def test_what_cannot_be_told_apart_needs_a_word() -> None:
    def app(*args: Any) -> Any:
        return listing(b"fine")(*args)

    with pytest.raises(InstallError, match="cannot tell WSGI from ASGI"), serve(app):
        pass
    with serve(app, interface="wsgi") as url:
        assert get(url) == b"fine"
    with (
        pytest.raises(ServeError, match="saw 'rsgi', expected 'wsgi' or 'asgi'"),
        serve(app, interface="rsgi"),
    ):
        pass


# ---- the WSGI server -------------------------------------------------------------------------------------


def test_a_large_answer_can_be_cut_every_time(install: Install) -> None:
    def app(environ: dict[str, Any], start_response: Any) -> Iterator[bytes]:
        start_response("200 OK", [])
        return (b"x" * 10_000 for _ in range(30))

    served = install(app, interface="wsgi")
    with Telemetry() as seen, serve(served) as url:
        for _ in range(10):
            Chaos(url).request("GET", "/").cut_download(after=1_000)
        seen.wait_for(10)
        assert seen.metric("obskit_findings_total", finding="client_disconnect") == 10


def test_input_ends_where_the_declared_length_does() -> None:
    read: list[Any] = []

    def app(environ: dict[str, Any], start_response: Any) -> list[bytes]:
        stream = environ["wsgi.input"]
        read.append((stream.read(2), stream.readline(), stream.readlines(), stream.read(1000)))
        start_response("200 OK", [])
        return []

    with serve(app) as url:
        Chaos(url).post("/", body="ab-\nc\nd")
        Chaos(url).get("/")
    assert read == [(b"ab", b"-\n", [b"c\n", b"d"], b""), (b"", b"", [], b"")]


def test_an_answer_that_an_exception_cuts_off_looks_cut(install: Install) -> None:
    def parts() -> Iterator[bytes]:
        yield b"one"
        raise ValueError("no more")

    def app(environ: dict[str, Any], start_response: Any) -> Iterator[bytes]:
        start_response("200 OK", [])
        return parts()

    served = install(app)
    with Telemetry() as seen, serve(served) as url:
        answer = Chaos(url).get("/")
        assert (answer.status, answer.ended) == (200, "reset")
        assert "raised_after_headers" in seen.findings


def test_an_exception_before_the_answer_is_a_500(install: Install) -> None:
    def app(environ: dict[str, Any], start_response: Any) -> list[bytes]:
        raise ValueError("no")

    served = install(app)
    with Telemetry() as seen, serve(served) as url:
        assert Chaos(url).get("/").status == 500
        assert seen.line["outcome"] == "raised"


@pytest.mark.parametrize(
    ("sent", "status"), [(b"GET /" + b"x" * 70_000, b"414"), (b"no request\r\n\r\n", b"400"), (b"", b"")]
)
def test_what_is_no_request_reaches_no_app(sent: bytes, status: bytes) -> None:
    with serve(listing(b"fine")) as url:
        with socket.create_connection(("127.0.0.1", int(url.rpartition(":")[2])), timeout=10) as client:
            client.sendall(sent)
            client.shutdown(socket.SHUT_WR)
            told = b""
            try:
                while data := client.recv(4096):
                    told += data
            except ConnectionResetError:  # it did not read all that was sent
                pass
        assert status in told
