"""Lost sessions of Flask's signed cookies."""

from __future__ import annotations

import time
from datetime import timedelta
from http.cookies import SimpleCookie
from pathlib import Path
from typing import Any

import flask
import pytest
from flask.sessions import SecureCookieSessionInterface, SessionInterface

from obskit.adapters import _flask_sessions
from tests.support.recording import make_environ, talk_wsgi


def site(key: str = "of this worker", **config: Any) -> flask.Flask:
    app = flask.Flask("shop")
    app.secret_key = key
    app.config.update(config)

    @app.get("/count")
    def count() -> str:
        flask.session["n"] = flask.session.get("n", 0) + 1
        return str(flask.session["n"])

    @app.get("/peek")
    def peek() -> str:
        return str(dict(flask.session))

    @app.get("/untouched")
    def untouched() -> str:
        return "ok"

    @app.get("/log-out")
    def log_out() -> str:
        flask.session.clear()
        return "out"

    return app


class Browser:
    """Keeps the session cookie as a browser does."""

    def __init__(self, app: Any, cookie: str | None = None, name: str = "session") -> None:
        self.app = app
        self.name = name
        self.cookie = cookie
        self.headers: list[tuple[str, str]] = []

    def get(self, url: str, header: str | None = None) -> str:
        sent = header or (f"{self.name}={self.cookie}" if self.cookie else None)
        talk = talk_wsgi(self.app, make_environ(url, **({"HTTP_COOKIE": sent} if sent else {})))
        self.headers = next(event[2] for event in talk.events if event[0] == "start_response")
        for name, value in self.headers:
            if name == "Set-Cookie":
                morsel = SimpleCookie(value)[self.name]
                self.cookie = morsel.value or None
        return talk.data.decode()


@pytest.fixture
def browse(install: Any, tmp_path: Path) -> Any:
    def make(app: flask.Flask | None = None, cookie: str | None = None) -> Browser:
        return Browser(install(app or site(), state_dir=str(tmp_path)), cookie)

    return make


@pytest.fixture
def lost(canonical: Any) -> Any:
    def read() -> list[str]:
        return [line["evidence"]["session_lost"]["reason"] for line in canonical() if line["findings"]]

    return read


def cookie_of(app: flask.Flask) -> str:
    browser = Browser(app)
    browser.get("/count")
    assert browser.cookie
    return browser.cookie


def test_sessions_that_are_found_and_first_visits_are_no_loss(browse: Any, lost: Any) -> None:
    browser = browse()
    urls = ("/untouched", "/peek", "/count", "/count", "/peek", "/nowhere")
    assert [browser.get(url) for url in urls][:5] == ["ok", "{}", "1", "2", "{'n': 2}"]
    for header in ("other=1; sessions=2", "session=", "=", "session"):
        browser.get("/peek", header)
    assert lost() == []


@pytest.mark.parametrize("url", ["/peek", "/count", "/untouched", "/nowhere", "/log-out"])
def test_another_secret_key_is_a_bad_signature_whatever_the_view_does(
    url: str, browse: Any, lost: Any
) -> None:
    browser = browse(cookie=cookie_of(site("of the other worker")))
    browser.get(url)
    assert lost() == ["bad_signature"]


def test_a_cookie_that_is_too_old_is_expired(browse: Any, lost: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("itsdangerous.timed.time.time", lambda: time.monotonic() + 1000)
    cookie = cookie_of(site())
    monkeypatch.undo()
    browse(site(PERMANENT_SESSION_LIFETIME=timedelta(days=31)), cookie).get("/peek")
    assert lost() == ["expired"]


def test_an_older_key_among_the_fallbacks_is_no_loss(browse: Any, lost: Any) -> None:
    known = "SECRET_KEY_FALLBACKS" in flask.Flask("x").config  # from Flask 3.1 on
    app = site(SECRET_KEY_FALLBACKS=["of last year"])
    found = browse(app, cookie_of(site("of last year"))).get("/peek")
    assert (found, lost()) == (("{'n': 1}", []) if known else ("{}", ["bad_signature"]))


def test_one_lost_session_is_one_finding_however_often_its_cookie_comes(browse: Any, lost: Any) -> None:
    browser = browse(cookie=cookie_of(site("of the other worker")))
    for _ in range(5):
        browser.get("/peek")
    browser.get("/count")
    browser.get("/count")
    assert lost() == ["bad_signature"]


def test_a_log_out_is_no_loss_even_when_the_old_cookie_comes_again(browse: Any, lost: Any) -> None:
    app = site()
    browser = browse(app)
    browser.get("/count")
    cookie = browser.cookie
    browser.get("/log-out")
    assert browser.cookie is None
    browser.get("/peek", f"session={cookie}")
    assert lost() == []
    # Nor when it can no longer be verified: it was ended before that.
    app.secret_key = "of the next deploy"
    browser.get("/peek", f"session={cookie}")
    assert lost() == []


def test_a_log_out_in_a_function_that_runs_behind_the_view_is_no_loss_either(browse: Any, lost: Any) -> None:
    app = site()

    @app.after_request
    def leave(response: Any) -> Any:
        if flask.request.args.get("leave"):
            flask.session.clear()
        return response

    browser = browse(app)
    assert app.after_request_funcs == {None: [leave]}
    browser.get("/count")
    cookie = browser.cookie
    talk_wsgi(browser.app, make_environ("/peek", HTTP_COOKIE=f"session={cookie}", QUERY_STRING="leave=1"))
    app.secret_key = "of the next deploy"
    browser.get("/peek", f"session={cookie}")
    assert lost() == []


def test_an_answer_from_outside_flask_says_nothing_of_a_session(browse: Any, lines: Any) -> None:
    app = site()
    app.wsgi_app = lambda environ, start_response: (start_response("200 OK", []), [b"no"])[1]  # type: ignore[method-assign]
    assert browse(app, cookie_of(site())).get("/peek") == "no"
    told = [line["event"] for line in lines() if line["event"] != "obskit.installed"]
    assert told == ["http.request"]


def test_a_cookie_of_another_name_is_not_looked_at(browse: Any, lost: Any) -> None:
    browser = browse(site(SESSION_COOKIE_NAME="shop"), cookie_of(site("of another application")))
    browser.get("/peek")
    assert lost() == []


class InMemory(SessionInterface):
    def open_session(self, app: flask.Flask, request: flask.Request) -> Any:
        return SecureCookieSessionInterface.session_class()

    def save_session(self, *_: Any) -> None:
        pass


class NotOurs(SecureCookieSessionInterface):
    def get_signing_serializer(self, app: flask.Flask) -> Any:
        raise ValueError("not today")


@pytest.mark.parametrize("interface", [InMemory(), None])
def test_what_another_store_found_is_not_guessed(interface: Any, browse: Any, lost: Any) -> None:
    app = site(key="" if interface is None else "of this worker")
    if interface is not None:
        app.session_interface = interface
    browse(app, "anything").get("/untouched")
    assert lost() == []


def test_an_error_of_ours_is_kept_from_the_application(
    browse: Any, canonical: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(context: Any) -> Any:
        raise ValueError("ours")

    monkeypatch.setattr(_flask_sessions, "_session", broken)
    browser = browse(cookie=cookie_of(site()))
    assert browser.get("/peek") == "{'n': 1}"
    (line,) = canonical()
    assert (line["findings"], line["level"]) == ([], "info")


def test_the_headers_are_those_of_the_application_alone(browse: Any) -> None:
    other = cookie_of(site("of the other worker"))

    def walk(browser: Browser) -> list[Any]:
        seen = []
        for url in ("/untouched", "/peek", "/count", "/untouched", "/peek", "/log-out", "/peek", "/nowhere"):
            browser.get(url)
            seen.append([(name, value) for name, value in browser.headers if name != "Set-Cookie"])
            seen.append([value.partition(";")[2] for name, value in browser.headers if name == "Set-Cookie"])
        for url in ("/untouched", "/peek", "/count", "/log-out"):
            browser.get(url, f"session={other}")
            seen.append([name for name, value in browser.headers])
        return seen

    assert walk(browse()) == walk(Browser(site()))


def test_the_cookie_of_a_lost_session_is_in_no_signal(
    browse: Any, capsys: pytest.CaptureFixture[str], spans: Any
) -> None:
    cookie = cookie_of(site("of the other worker"))
    browse(cookie=cookie).get("/peek")
    written = capsys.readouterr().out + str([(s.attributes, s.events) for s in spans.get_finished_spans()])
    assert "session_lost" in written
    assert cookie not in written
    assert cookie.partition(".")[0] not in written


def test_before_request_functions_of_the_application_run_as_they_did(browse: Any) -> None:
    app = site()
    seen: list[str] = []
    app.before_request(lambda: seen.append("first"))
    browser = browse(app)
    app.before_request(lambda: seen.append("second"))
    browser.get("/peek")
    assert seen == ["first", "second"]
