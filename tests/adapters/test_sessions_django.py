"""Lost sessions of Django, with its own stores on a real database, cache and folder, over both of its handlers."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator
from datetime import timedelta
from http.cookies import SimpleCookie
from importlib import import_module
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
from django.conf import settings
from django.contrib.sessions.middleware import SessionMiddleware
from django.core.cache import caches
from django.core.handlers.asgi import ASGIHandler
from django.core.handlers.wsgi import WSGIHandler
from django.db import connection, connections, transaction
from django.http import HttpResponse
from django.test import override_settings
from django.test.utils import CaptureQueriesContext
from django.urls import path
from django.utils import timezone

from obskit.adapters import _django_sessions as adapter
from tests.support import django_site
from tests.support.postgres import postgres
from tests.support.recording import call_asgi, http_scope, make_environ, talk_wsgi

django_site.configure()
HANDLERS = [WSGIHandler, ASGIHandler]
STORES = ["db", "cache", "cached_db", "file", "signed_cookies"]
MIDDLEWARE = "django.contrib.sessions.middleware.SessionMiddleware"


def count(request: Any) -> HttpResponse:
    request.session["n"] = request.session.get("n", 0) + 1
    return HttpResponse(str(request.session["n"]))


async def async_count(request: Any) -> HttpResponse:
    await request.session.aset("n", await request.session.aget("n", 0) + 1)
    return HttpResponse(str(await request.session.aget("n")))


def peek(request: Any) -> HttpResponse:
    return HttpResponse(json.dumps(dict(request.session.items())))


async def async_peek(request: Any) -> HttpResponse:
    return HttpResponse(json.dumps(dict(await request.session.aitems())))


def untouched(request: Any) -> HttpResponse:
    return HttpResponse("ok")


def log_in(request: Any) -> HttpResponse:
    request.session.cycle_key()
    request.session["user"] = 7
    return HttpResponse("in")


async def async_log_in(request: Any) -> HttpResponse:
    await request.session.acycle_key()
    await request.session.aset("user", 7)
    return HttpResponse("in")


other_tabs: list[Any] = []


def log_out(request: Any) -> HttpResponse:
    request.session.flush()
    for ask in other_tabs:
        ask()
    return HttpResponse("out")


async def async_log_out(request: Any) -> HttpResponse:
    await request.session.aflush()
    return HttpResponse("out")


def emptied(request: Any) -> HttpResponse:
    for key in list(request.session.keys()):
        del request.session[key]
    return HttpResponse("ok")


urlpatterns = [
    path("count", count),
    path("async/count", async_count),
    path("peek", peek),
    path("async/peek", async_peek),
    path("untouched", untouched),
    path("async/untouched", untouched),
    path("log-in", log_in),
    path("async/log-in", async_log_in),
    path("log-out", log_out),
    path("async/log-out", async_log_out),
    path("emptied", emptied),
]


def early(get_response: Any) -> Any:
    """A middleware that reads the session before any view is known."""

    def middleware(request: Any) -> Any:
        request.session.get("n")
        return get_response(request)

    return middleware


class OwnSessions:
    """A session middleware that is not Django's; its inside cannot be walked through."""

    def __init__(self, get_response: Any) -> None:
        self.inner = SessionMiddleware(get_response)

    def __call__(self, request: Any) -> Any:
        return self.inner(request)


@pytest.fixture(autouse=True)
def django(tmp_path: Path) -> Iterator[None]:
    """The site with a database, a cache and a folder of its own."""
    (tmp_path / "files").mkdir()
    database = {"default": {"ENGINE": "django.db.backends.sqlite3", "NAME": str(tmp_path / "db.sqlite3")}}
    before = connections.settings
    with override_settings(
        ROOT_URLCONF=__name__,
        MIDDLEWARE=[MIDDLEWARE],
        INSTALLED_APPS=["django.contrib.sessions", "django.contrib.contenttypes", "django.contrib.auth"],
        CACHES={
            "default": {"BACKEND": "django.core.cache.backends.locmem.LocMemCache", "LOCATION": str(tmp_path)}
        },
        SESSION_FILE_PATH=str(tmp_path / "files"),
    ):
        file_store = import_module("django.contrib.sessions.backends.file").SessionStore
        file_store._storage_path = str(tmp_path / "files")
        connections.settings = connections.configure_settings(database)
        forget_connections()
        from django.contrib.auth.models import User
        from django.contrib.contenttypes.models import ContentType
        from django.contrib.sessions.models import Session

        with connection.schema_editor() as editor:
            for model in (Session, ContentType, User):
                editor.create_model(model)
        try:
            yield
        finally:
            caches["default"].clear()
            forget_connections()
            connections.settings = before
            del file_store._storage_path


def forget_connections() -> None:
    for alias in list(connections.settings):
        if hasattr(connections._connections, alias):
            connections[alias].close()
            delattr(connections._connections, alias)


class Browser:
    """Keeps cookies as a browser does."""

    def __init__(self, served: Any) -> None:
        self.served = served
        self.cookie: str | None = None
        self.headers: list[tuple[str, str]] = []

    def get(self, url: str, cookie: str | None = None) -> str:
        sent = cookie or (f"sessionid={self.cookie}" if self.cookie else None)
        handler = getattr(self.served, "app", self.served)
        if isinstance(handler, ASGIHandler):
            pairs = [(b"cookie", sent.encode())] if sent else []
            talk = call_asgi(
                self.served, http_scope("/async" + url if url in ASYNC else url, headers=pairs), patient=True
            )
            start = next(m for m in talk.sent if m["type"] == "http.response.start")
            self.headers = [(k.decode(), v.decode()) for k, v in start["headers"]]
            body = talk.body
        else:
            more = {"HTTP_COOKIE": sent} if sent else {}
            said = talk_wsgi(self.served, make_environ(url, **more))
            self.headers = next(event[2] for event in said.events if event[0] == "start_response")
            body = said.data
        for name, value in self.headers:
            if name.lower() == "set-cookie":
                morsel = SimpleCookie(value)["sessionid"]
                self.cookie = None if morsel["max-age"] == "0" or morsel["max-age"] == 0 else morsel.value
        return body.decode()


ASYNC = {"/count", "/peek", "/log-in", "/log-out", "/untouched"}


@pytest.fixture
def browse(install: Any, tmp_path: Path) -> Any:
    def make(handler: type, store: str = "db", **more: Any) -> Browser:
        given = {"SESSION_ENGINE": f"django.contrib.sessions.backends.{store}", **more}
        override = override_settings(**given)
        override.enable()
        overrides.append(override)
        return Browser(install(handler(), state_dir=str(tmp_path)))

    overrides: list[Any] = []
    yield make
    for override in reversed(overrides):
        override.disable()


@pytest.fixture
def lost(canonical: Any) -> Any:
    """The reasons of the sessions lost since the last call."""

    def read() -> list[str]:
        return [line["evidence"]["session_lost"]["reason"] for line in canonical() if line["findings"]]

    return read


def rows() -> Any:
    from django.contrib.sessions.models import Session

    return Session.objects


def expire() -> None:
    rows().update(expire_date=timezone.now() - timedelta(days=1))


@pytest.mark.parametrize("handler", HANDLERS)
@pytest.mark.parametrize("store", STORES)
def test_sessions_that_are_found_and_first_visits_are_no_loss(
    handler: type, store: str, browse: Any, lost: Any
) -> None:
    browser = browse(handler, store)
    assert [browser.get(url) for url in ("/untouched", "/peek", "/count", "/count", "/peek")] == [
        "ok", "{}", "1", "2", '{"n": 2}',
    ]  # fmt: skip
    assert browser.get("/peek", cookie="other=1; session=2; sessionids=3") == "{}"
    assert lost() == []


@pytest.mark.parametrize("handler", HANDLERS)
@pytest.mark.parametrize("store", STORES)
def test_a_log_in_and_a_log_out_are_no_loss_and_neither_is_the_tab_that_did_not_hear_of_them(
    handler: type, store: str, browse: Any, lost: Any
) -> None:
    browser = browse(handler, store)
    browser.get("/count")
    before = f"sessionid={browser.cookie}"
    browser.get("/log-in")
    after = f"sessionid={browser.cookie}"
    assert before != after
    browser.get("/peek", cookie=before)
    browser.cookie = after.partition("=")[2]
    browser.get("/log-out")
    assert browser.cookie is None
    browser.get("/peek", cookie=after)
    browser.get("/count", cookie=after)
    assert lost() == []


def test_a_tab_that_asks_while_the_log_out_still_runs_lost_nothing(
    browse: Any, lost: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    browser = browse(WSGIHandler)
    browser.get("/count")
    tab, cookie, seen = Browser(browser.served), f"sessionid={browser.cookie}", []
    monkeypatch.setitem(globals(), "other_tabs", [lambda: seen.append(tab.get("/peek", cookie=cookie))])
    browser.get("/log-out")
    assert seen == ["{}"]
    assert lost() == []


@pytest.mark.parametrize("handler", HANDLERS)
@pytest.mark.parametrize("store", ["db", "cached_db"])
def test_an_expired_row_is_told_from_one_that_is_gone(
    handler: type, store: str, browse: Any, lost: Any
) -> None:
    browser = browse(handler, store)
    for spoil, reason in ((expire, "expired"), (lambda: rows().all().delete(), "missing")):
        browser.get("/count")
        spoil()
        caches["default"].clear()
        assert browser.get("/count") == "1"
        assert lost() == [reason]


@pytest.mark.parametrize("handler", HANDLERS)
def test_what_a_cache_has_let_go_is_missing(handler: type, browse: Any, lost: Any) -> None:
    browser = browse(handler, "cache")
    browser.get("/count")
    caches["default"].clear()
    assert browser.get("/peek") == "{}"
    assert lost() == ["missing"]


@pytest.mark.parametrize("handler", HANDLERS)
def test_the_file_store_tells_expired_from_missing(
    handler: type, browse: Any, lost: Any, tmp_path: Path
) -> None:
    browser = browse(handler, "file")
    browser.get("/count")
    with override_settings(SESSION_COOKIE_AGE=-1):
        browser.get("/peek")
    assert lost() == ["expired"]
    browser.get("/count")
    for file in (tmp_path / "files").iterdir():
        file.unlink()
    browser.get("/peek")
    assert lost() == ["missing"]


@pytest.mark.parametrize("handler", HANDLERS)
@pytest.mark.parametrize("store", ["db", "cached_db", "file", "signed_cookies"])
def test_another_secret_key_is_a_bad_signature(handler: type, store: str, browse: Any, lost: Any) -> None:
    browser = browse(handler, store)
    browser.get("/count")
    caches["default"].clear()
    with override_settings(SECRET_KEY="that of the other worker"):
        assert browser.get("/count") == "1"
    assert lost() == ["bad_signature"]


@pytest.mark.parametrize("handler", HANDLERS)
def test_what_was_lost_stays_lost_when_the_application_then_logs_in_or_out(
    handler: type, browse: Any, lost: Any
) -> None:
    browser = browse(handler)
    for url in ("/log-in", "/log-out"):
        browser.get("/count")
        with override_settings(SECRET_KEY=f"that of the other worker {url}"):
            browser.get(url)
    assert lost() == ["bad_signature", "bad_signature"]


def remove_another(request: Any) -> HttpResponse:
    request.session.get("n")
    request.session.delete("abcdefghabcdefghabcdefghabcdefgh")
    return HttpResponse("ok")


urlpatterns.append(path("remove-another", remove_another))


@pytest.mark.parametrize("store", ["db", "cache", "cached_db"])
def test_a_view_that_removes_another_session_has_not_ended_its_own(
    store: str, browse: Any, lost: Any
) -> None:
    browser = browse(WSGIHandler, store)
    browser.get("/count")
    browser.get("/remove-another")
    rows().all().delete()
    caches["default"].clear()
    browser.get("/count")
    assert lost() == ["missing"]


@pytest.mark.parametrize("handler", HANDLERS)
def test_a_signed_cookie_that_is_too_old_is_expired(handler: type, browse: Any, lost: Any) -> None:
    browser = browse(handler, "signed_cookies")
    browser.get("/count")
    with override_settings(SESSION_COOKIE_AGE=-1):
        browser.get("/peek")
    assert lost() == ["expired"]


@pytest.mark.parametrize("handler", HANDLERS)
def test_one_lost_session_is_one_finding_however_often_its_cookie_comes(
    handler: type, browse: Any, lost: Any
) -> None:
    browser = browse(handler)
    browser.get("/count")
    gone = f"sessionid={browser.cookie}"
    rows().all().delete()
    for _ in range(5):
        browser.get("/peek", cookie=gone)
    assert lost() == ["missing"]


@pytest.mark.parametrize("handler", HANDLERS)
@pytest.mark.parametrize("store", STORES)
def test_a_session_that_is_there_and_empty_is_no_loss(
    handler: type, store: str, browse: Any, lost: Any
) -> None:
    browser = browse(handler, store)
    browser.get("/count")
    browser.get("/emptied")
    assert browser.cookie is not None
    assert browser.get("/peek") == "{}"
    caches["default"].clear() if store == "cached_db" else None
    assert browser.get("/peek") == "{}"
    assert lost() == []


@pytest.mark.parametrize("handler", HANDLERS)
def test_a_session_that_nobody_asks_for_is_not_loaded_and_not_judged(
    handler: type, browse: Any, lost: Any
) -> None:
    browser = browse(handler)
    with CaptureQueriesContext(connection) as queries:
        browser.get("/untouched", cookie="sessionid=abcdefghabcdefghabcdefghabcdefgh")
    assert (len(queries), lost()) == (0, [])


@pytest.mark.parametrize("value", ["x", '""', "short"])
def test_a_value_that_can_be_no_key_is_no_lost_session(value: str, browse: Any, lost: Any) -> None:
    browser = browse(WSGIHandler, MIDDLEWARE=[MIDDLEWARE, f"{__name__}.early"])
    browser.get("/peek", cookie=f"sessionid={value}")
    assert lost() == []


@pytest.mark.parametrize("handler", HANDLERS)
@pytest.mark.parametrize("store", STORES)
def test_a_session_that_middleware_reads_first_is_judged_as_well(
    handler: type, store: str, browse: Any, lost: Any
) -> None:
    browser = browse(handler, store, MIDDLEWARE=[MIDDLEWARE, f"{__name__}.early"])
    browser.get("/count")
    rows().all().delete()
    caches["default"].clear()
    with override_settings(SECRET_KEY="that of the other worker"):
        browser.get("/nowhere")
    assert lost() == [{"file": "bad_signature", "signed_cookies": "bad_signature"}.get(store, "missing")]


@pytest.mark.parametrize("handler", HANDLERS)
@pytest.mark.parametrize("reader", [[], [f"{__name__}.early"]])
def test_sessions_of_another_middleware_are_looked_at_before_the_view(
    handler: type, reader: list[str], browse: Any, lost: Any
) -> None:
    browser = browse(handler, MIDDLEWARE=[f"{__name__}.OwnSessions", *reader])
    browser.get("/count")
    assert browser.get("/count") == "2"
    assert lost() == []
    expire()
    browser.get("/count")
    assert lost() == ["expired"]
    cookie = f"sessionid={browser.cookie}"
    browser.get("/log-out")
    browser.get("/peek", cookie=cookie)
    assert lost() == []


def idle(get_response: Any) -> Any:
    """A middleware that ends sessions before any view is known."""

    def middleware(request: Any) -> Any:
        if request.path_info == "/untouched":
            request.session.flush()
        return get_response(request)

    return middleware


@pytest.mark.parametrize("sessions", [MIDDLEWARE, f"{__name__}.OwnSessions"])
@pytest.mark.parametrize("store", STORES)
def test_a_session_that_middleware_ends_before_the_view_is_no_loss(
    sessions: str, store: str, browse: Any, lost: Any
) -> None:
    browser = browse(WSGIHandler, store, MIDDLEWARE=[sessions, f"{__name__}.idle"])
    browser.get("/count")
    browser.get("/untouched")
    assert browser.cookie is None
    assert lost() == []


def test_a_function_in_front_of_the_session_middleware_is_seen_through(browse: Any, lost: Any) -> None:
    browser = browse(WSGIHandler, MIDDLEWARE=[f"{__name__}.harmless", MIDDLEWARE, f"{__name__}.early"])
    browser.get("/count")
    with override_settings(SECRET_KEY="that of the other worker"):
        browser.get("/peek")
    assert lost() == ["bad_signature"]


def harmless(get_response: Any) -> Any:
    def middleware(request: Any) -> Any:
        return get_response(request)

    return middleware


@pytest.mark.parametrize("handler", HANDLERS)
def test_a_healthy_session_costs_no_query_and_a_lost_one_a_single_one(
    handler: type, browse: Any, lost: Any
) -> None:
    browser = browse(handler)
    browser.get("/count")
    counted = [queries_of(browser, "/peek")]
    expire()
    counted.append(queries_of(browser, "/peek"))
    assert counted == [1, 2]
    assert lost() == ["expired"]


def queries_of(browser: Browser, url: str) -> int:
    """How many statements one request runs, in whichever thread."""
    from django.db.backends.utils import CursorWrapper

    said: list[str] = []
    execute = CursorWrapper.execute

    def counting(self: Any, sql: str, params: Any = None) -> Any:
        said.append(sql)
        return execute(self, sql, params)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(CursorWrapper, "execute", counting)
        browser.get(url)
    return len([sql for sql in said if sql.startswith("SELECT")])


def test_a_query_of_ours_that_fails_leaves_the_application_its_transaction(
    browse: Any, lost: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    from django.db.models.query import QuerySet

    def broken(self: Any) -> bool:
        with connection.cursor() as cursor:
            cursor.execute("SELECT nothing FROM nowhere")
        return True

    # PostgreSQL ends a transaction in which a statement has failed; SQLite would forgive it.
    with postgres() as url:
        there = urlsplit(url)
        forget_connections()
        connections.settings = connections.configure_settings(
            {
                "default": {
                    "ENGINE": "django.db.backends.postgresql",
                    "NAME": there.path.strip("/"),
                    "USER": there.username,
                    "HOST": there.hostname,
                    "PORT": there.port,
                }
            }
        )
        with connection.schema_editor() as editor:
            editor.create_model(rows().model)
        browser = browse(WSGIHandler)
        browser.get("/count")
        expire()
        with monkeypatch.context() as patch:
            patch.setattr(QuerySet, "exists", broken)
            assert browser.get("/atomic") == "{} and the transaction goes on"
        assert lost() == []
        browser.get("/count")
        expire()
        assert browser.get("/atomic") == "{} and the transaction goes on"
        assert lost() == ["expired"]
        forget_connections()


@transaction.atomic
def atomic(request: Any) -> HttpResponse:
    found = dict(request.session.items())
    rows().count()
    return HttpResponse(f"{found} and the transaction goes on")


urlpatterns.append(path("atomic", atomic))


@pytest.mark.parametrize("handler", HANDLERS)
@pytest.mark.parametrize("store", STORES)
def test_the_headers_are_those_of_the_application_alone(handler: type, store: str, browse: Any) -> None:
    served = browse(handler, store)
    bare = Browser(handler())

    def walk(browser: Browser) -> list[list[tuple[str, str]]]:
        seen = []
        for url in (
            "/untouched",
            "/peek",
            "/count",
            "/peek",
            "/untouched",
            "/log-in",
            "/peek",
            "/log-out",
            "/peek",
        ):
            browser.get(url)
            seen.append([(name, shape(value)) for name, value in browser.headers])
        browser.get("/peek", cookie="sessionid=abcdefghabcdefghabcdefghabcdefgh")
        return [*seen, [(name, shape(value)) for name, value in browser.headers]]

    assert walk(served) == walk(bare)


def shape(value: str) -> str:
    """A header without what differs by design: the key and the time."""
    if not value.strip().startswith("sessionid="):
        return value
    morsel = SimpleCookie(value)["sessionid"]
    return ";".join(f"{k}={v}" for k, v in morsel.items() if k != "expires") + str(bool(morsel.value))


def say_what_it_is(request: Any) -> HttpResponse:
    session, store = request.session, import_module(settings.SESSION_ENGINE).SessionStore
    return HttpResponse(f"{isinstance(session, store)} {session.key_salt} {type(session).__qualname__}")


urlpatterns.append(path("what", say_what_it_is))


@pytest.mark.parametrize("store", STORES)
def test_a_session_is_an_instance_of_its_store_and_says_the_same_of_itself(store: str, browse: Any) -> None:
    browser = browse(WSGIHandler, store)
    browser.get("/count")
    assert browser.get("/what") == Browser(WSGIHandler()).get("/what")
    assert "load" not in vars(import_module(settings.SESSION_ENGINE).SessionStore) or (
        import_module(settings.SESSION_ENGINE).SessionStore.load.__module__ == settings.SESSION_ENGINE
    )


class OwnCall(SessionMiddleware):
    """Django's, with a way of its own through it."""

    def __call__(self, request: Any) -> Any:
        self.process_request(request)
        return self.process_response(request, self.get_response(request))


@pytest.mark.parametrize("middleware", ["OwnCall", "Checking"])
def test_a_subclass_of_the_session_middleware_works_as_before(
    middleware: str, browse: Any, lost: Any
) -> None:
    browser = browse(WSGIHandler, MIDDLEWARE=[f"{__name__}.{middleware}"])
    browser.get("/count")
    assert browser.get("/count") == "2"
    rows().all().delete()
    assert browser.get("/count") == "1"
    assert lost() == ["missing"]


class Checking(SessionMiddleware):
    """One that uses the store's class for more than making sessions."""

    def process_response(self, request: Any, response: Any) -> Any:
        assert isinstance(request.session, self.SessionStore)
        self.SessionStore.clear_expired()
        return super().process_response(request, response)


def test_sessions_that_the_view_itself_looks_up_are_not_the_clients(browse: Any, lost: Any) -> None:
    browser = browse(WSGIHandler)
    browser.get("/count")
    assert browser.get("/others") == "{}"
    assert browser.get("/count") == "2"
    assert lost() == []


def others(request: Any) -> HttpResponse:
    request.session.get("n")
    other = type(request.session)("abcdefghabcdefgh")
    found = other.load()
    other.flush()
    return HttpResponse(json.dumps(found))


urlpatterns.append(path("others", others))


def test_an_error_of_ours_is_kept_from_the_application(
    browse: Any, canonical: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_: Any, **__: Any) -> Any:
        raise ValueError("ours")

    browser = browse(WSGIHandler)
    browser.get("/count")
    rows().all().delete()
    for name in ("SessionFacts", "_reason", "_open", "_attend"):
        monkeypatch.setattr(adapter, name, broken)
        browser.get("/count")
        assert browser.get("/log-out") == "out"
    assert all(line["findings"] == [] and line["level"] == "info" for line in canonical())


def test_the_cookie_of_a_lost_session_is_in_no_signal(
    browse: Any, capsys: pytest.CaptureFixture[str], spans: Any
) -> None:
    browser = browse(WSGIHandler)
    browser.get("/count")
    cookie = browser.cookie
    rows().all().delete()
    browser.get("/peek")
    written = capsys.readouterr().out + str([(s.attributes, s.events) for s in spans.get_finished_spans()])
    assert "session_lost" in written
    assert cookie not in written


# ---- with django.contrib.auth ---------------------------------------------------------------------


def auth_view(request: Any) -> HttpResponse:
    from django.contrib import auth
    from django.contrib.auth.models import User

    if request.path == "/auth/in":
        auth.login(request, User.objects.get(username="ada"), backend=AUTH)
    elif request.path == "/auth/out":
        auth.logout(request)
    elif request.path == "/auth/password":
        request.user.set_password("new")
        request.user.save()
        auth.update_session_auth_hash(request, request.user)
    return HttpResponse(str(request.user))


AUTH = "django.contrib.auth.backends.ModelBackend"
urlpatterns += [path(f"auth/{name}", auth_view) for name in ("in", "out", "password", "who")]


@pytest.mark.parametrize("handler", HANDLERS)
@pytest.mark.parametrize("store", STORES)
def test_log_in_log_out_and_a_new_password_of_a_real_user_are_no_loss(
    handler: type, store: str, browse: Any, lost: Any
) -> None:
    from django.contrib.auth.models import User

    User.objects.create_user("ada")
    here = browse(
        handler, store, MIDDLEWARE=[MIDDLEWARE, "django.contrib.auth.middleware.AuthenticationMiddleware"]
    )
    elsewhere = Browser(here.served)
    for browser in (here, elsewhere):
        browser.get("/count")
        browser.get("/auth/in")
        assert browser.get("/auth/who") == "ada"
    assert here.get("/auth/password") == "ada"
    cookie = f"sessionid={elsewhere.cookie}"
    assert elsewhere.get("/auth/who") == "AnonymousUser"
    elsewhere.get("/auth/who", cookie=cookie)
    assert here.get("/auth/who") == "ada"
    cookie = f"sessionid={here.cookie}"
    here.get("/auth/out")
    here.get("/auth/out", cookie=cookie)
    assert lost() == []
    forget_connections()


def test_requests_at_the_same_time_are_each_judged_by_their_own_session(browse: Any, lost: Any) -> None:
    from tests.support.recording import talk_asgi

    browser = browse(ASGIHandler)
    browser.get("/count")
    healthy = browser.cookie

    async def both() -> None:
        cookies = [healthy, "abcdefghabcdefghabcdefghabcdefgh"] * 4
        await asyncio.gather(
            *(
                talk_asgi(
                    browser.served,
                    http_scope("/async/peek", headers=[(b"cookie", f"sessionid={cookie}".encode())]),
                    patient=True,
                )
                for cookie in cookies
            )
        )

    asyncio.run(both())
    assert lost() == ["missing"]
