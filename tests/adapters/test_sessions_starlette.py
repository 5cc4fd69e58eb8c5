"""Lost sessions of Starlette's SessionMiddleware, in Starlette and FastAPI."""

from __future__ import annotations

import time
from http.cookies import SimpleCookie
from pathlib import Path
from typing import Any

import pytest
from fastapi import FastAPI, Request
from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.middleware.sessions import SessionMiddleware
from starlette.responses import PlainTextResponse
from starlette.routing import Mount, Route, WebSocketRoute

from obskit.adapters import _starlette_sessions
from tests.support.recording import call_asgi, http_scope, websocket_scope


async def count(request: Any) -> PlainTextResponse:
    request.session["n"] = request.session.get("n", 0) + 1
    return PlainTextResponse(str(request.session["n"]))


async def peek(request: Any) -> PlainTextResponse:
    return PlainTextResponse(str(dict(request.session)))


async def untouched(request: Any) -> PlainTextResponse:
    return PlainTextResponse("ok")


async def log_out(request: Any) -> PlainTextResponse:
    request.session.clear()
    return PlainTextResponse("out")


async def socket(websocket: Any) -> None:
    await websocket.accept()
    await websocket.close()


VIEWS = {"/count": count, "/peek": peek, "/untouched": untouched, "/log-out": log_out}
ROUTES = [Route(path, view) for path, view in VIEWS.items()]


def sessions(key: str = "of this worker", **more: Any) -> Middleware:
    return Middleware(SessionMiddleware, secret_key=key, **more)


def starlette(key: str = "of this worker", **more: Any) -> Starlette:
    return Starlette(routes=[*ROUTES, WebSocketRoute("/ws", socket)], middleware=[sessions(key, **more)])


def fastapi(key: str = "of this worker", **more: Any) -> FastAPI:
    app = FastAPI()
    for path, view in VIEWS.items():
        app.add_api_route(path, _typed(view))
    app.add_middleware(SessionMiddleware, secret_key=key, **more)
    return app


def _typed(view: Any) -> Any:
    async def typed(request: Request) -> Any:
        return await view(request)

    return typed


def mounted(key: str = "of this worker", **more: Any) -> Starlette:
    return Starlette(routes=[Mount("/", app=starlette(key, **more))])


def on_a_mount(key: str = "of this worker", **more: Any) -> Starlette:
    return Starlette(routes=[Mount("/", routes=ROUTES, middleware=[sessions(key, **more)])])


def on_the_routes(key: str = "of this worker", **more: Any) -> Starlette:
    one = sessions(key, **more)
    return Starlette(routes=[Route(path, view, middleware=[one]) for path, view in VIEWS.items()])


APPS = [starlette, fastapi, mounted, on_a_mount, on_the_routes]


class Browser:
    """Keeps the session cookie as a browser does."""

    def __init__(self, app: Any, cookie: str | None = None) -> None:
        self.app = app
        self.cookie = cookie
        self.headers: list[tuple[str, str]] = []

    def get(self, url: str, header: str | None = None) -> str:
        sent = header or (f"session={self.cookie}" if self.cookie else None)
        talk = call_asgi(
            self.app, http_scope(url, headers=[(b"cookie", sent.encode())] if sent else []), patient=True
        )
        start = next(message for message in talk.sent if message["type"] == "http.response.start")
        self.headers = [(name.decode(), value.decode()) for name, value in start["headers"]]
        for name, value in self.headers:
            if name == "set-cookie":
                morsel = SimpleCookie(value)["session"]
                self.cookie = None if morsel.value == "null" else morsel.value
        return talk.body.decode()


@pytest.fixture
def browse(install: Any, tmp_path: Path) -> Any:
    def make(app: Any = None, cookie: str | None = None) -> Browser:
        return Browser(install(app or starlette(), state_dir=str(tmp_path)), cookie)

    return make


@pytest.fixture
def lost(canonical: Any) -> Any:
    def read() -> list[str]:
        return [line["evidence"]["session_lost"]["reason"] for line in canonical() if line["findings"]]

    return read


def cookie_of(app: Any) -> str:
    browser = Browser(app)
    browser.get("/count")
    assert browser.cookie
    return browser.cookie


@pytest.mark.parametrize("make", APPS)
def test_sessions_that_are_found_and_first_visits_are_no_loss(make: Any, browse: Any, lost: Any) -> None:
    browser = browse(make())
    urls = ("/untouched", "/peek", "/count", "/count", "/untouched")
    assert [browser.get(url).strip('"') for url in urls] == ["ok", "{}", "1", "2", "ok"]
    for header in ("other=1; sessions=2", "session=", "=", "session", "session=null"):
        browser.get("/peek", header)
    assert lost() == []


@pytest.mark.parametrize("url", ["/peek", "/count", "/untouched", "/log-out"])
@pytest.mark.parametrize("make", APPS)
def test_another_secret_key_is_a_bad_signature_whatever_the_view_does(
    make: Any, url: str, browse: Any, lost: Any
) -> None:
    browse(make(), cookie_of(starlette("of the other worker"))).get(url)
    assert lost() == ["bad_signature"]


@pytest.mark.parametrize("make", APPS)
def test_a_cookie_that_is_too_old_is_expired(
    make: Any, browse: Any, lost: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("itsdangerous.timed.time.time", lambda: time.monotonic() + 1000)
    cookie = cookie_of(starlette())
    monkeypatch.undo()
    browse(make(), cookie).get("/peek")
    assert lost() == ["expired"]


def test_middleware_added_after_install_is_watched(browse: Any, lost: Any) -> None:
    browser = browse(Starlette(routes=ROUTES), cookie_of(starlette("of the other worker")))
    browser.app.add_middleware(SessionMiddleware, secret_key="of this worker")
    browser.get("/peek")
    assert lost() == ["bad_signature"]


def test_an_app_that_has_served_before_install_is_watched(browse: Any, lost: Any) -> None:
    app = starlette()
    cookie_of(app)
    browse(app, cookie_of(starlette("of the other worker"))).get("/peek")
    assert lost() == ["bad_signature"]


def test_one_lost_session_is_one_finding_however_often_its_cookie_comes(browse: Any, lost: Any) -> None:
    browser = browse(cookie=cookie_of(starlette("of the other worker")))
    for _ in range(5):
        browser.get("/peek")
    browser.get("/count")
    browser.get("/count")
    assert lost() == ["bad_signature"]


@pytest.mark.parametrize("make", [starlette, fastapi])
def test_a_log_out_is_no_loss_even_when_the_old_cookie_can_no_longer_be_verified(
    make: Any, browse: Any, lost: Any
) -> None:
    before, after = browse(make()), browse(make("of the next deploy"))
    before.get("/count")
    cookie = before.cookie
    before.get("/log-out")
    assert before.cookie is None
    before.get("/peek", f"session={cookie}")
    after.get("/peek", f"session={cookie}")
    assert lost() == []


def test_a_log_out_of_an_application_inside_a_plain_one_is_no_loss(
    browse: Any, lost: Any, install: Any
) -> None:
    def around(inner: Any) -> Any:
        installed = install(inner)

        async def plain(scope: Any, receive: Any, send: Any) -> None:
            await installed(scope, receive, send)

        return plain

    before, after = browse(around(starlette())), browse(around(starlette("of the next deploy")))
    before.get("/count")
    cookie = before.cookie
    before.get("/log-out")
    after.get("/peek", f"session={cookie}")
    assert lost() == []


def test_a_websocket_that_brings_a_lost_session_is_found(browse: Any, lost: Any) -> None:
    app = browse().app
    cookie = cookie_of(starlette("of the other worker")).encode()
    call_asgi(
        app,
        websocket_scope("/ws", headers=[(b"cookie", b"session=" + cookie)]),
        [{"type": "websocket.connect"}],
    )
    assert lost() == ["bad_signature"]


def test_an_error_of_ours_is_kept_from_the_application(
    browse: Any, canonical: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_: Any, **__: Any) -> Any:
        raise ValueError("ours")

    monkeypatch.setattr(_starlette_sessions, "SessionFacts", broken)
    assert browse(cookie=cookie_of(starlette())).get("/peek") == "{'n': 1}"
    (line,) = canonical()
    assert (line["findings"], line["level"]) == ([], "info")


def test_an_exception_of_a_signer_passes_untouched(browse: Any, canonical: Any) -> None:
    error = ValueError("not today")

    class Broken(SessionMiddleware):
        def __init__(self, *args: Any, **kwargs: Any) -> None:
            super().__init__(*args, **kwargs)
            self.signer.unsign = self.unsign  # type: ignore[method-assign]

        def unsign(self, *_: Any, **__: Any) -> Any:
            raise error

    app = Starlette(routes=ROUTES, middleware=[Middleware(Broken, secret_key="of this worker")])
    talk = call_asgi(
        browse(app).app, http_scope("/peek", headers=[(b"cookie", b"session=anything")]), patient=True
    )
    assert talk.error is error
    (line,) = canonical()
    assert line["findings"] == []


@pytest.mark.parametrize("make", APPS)
def test_the_headers_are_those_of_the_application_alone(make: Any, browse: Any) -> None:
    other = cookie_of(starlette("of the other worker"))

    def walk(browser: Browser) -> list[Any]:
        seen = []
        for url in ("/untouched", "/peek", "/count", "/untouched", "/peek", "/log-out", "/peek"):
            browser.get(url)
            seen.append([(name, value) for name, value in browser.headers if name != "set-cookie"])
            seen.append([value.partition(";")[2] for name, value in browser.headers if name == "set-cookie"])
        for url in ("/untouched", "/peek", "/count", "/log-out"):
            browser.get(url, f"session={other}")
            seen.append([name for name, value in browser.headers])
        return seen

    assert walk(browse(make())) == walk(Browser(make()))


def test_the_cookie_of_a_lost_session_is_in_no_signal(
    browse: Any, capsys: pytest.CaptureFixture[str], spans: Any
) -> None:
    cookie = cookie_of(starlette("of the other worker"))
    browse(cookie=cookie).get("/peek")
    written = capsys.readouterr().out + str([(s.attributes, s.events) for s in spans.get_finished_spans()])
    assert "session_lost" in written
    assert cookie.partition(".")[0] not in written


def test_an_application_that_is_mounted_twice_or_has_served_is_watched(browse: Any, lost: Any) -> None:
    inner = starlette()
    cookie_of(inner)
    app = Starlette(routes=[Mount("/a", app=inner), Mount("/b", app=inner), Mount("/c", app=untouched)])
    browser = browse(app, cookie_of(starlette("of the other worker")))
    browser.get("/a/peek")
    browser.get("/b/peek")
    assert lost() == ["bad_signature"]
