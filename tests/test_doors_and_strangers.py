"""What the doors make of a stranger: which path is an endpoint of ours, who is refused where, who is believed."""

from __future__ import annotations

import threading
from typing import Any

import pytest

from obskit.asgi import AsgiDoor
from obskit.pipeline import UNAVAILABLE, Answer
from obskit.wsgi import WsgiDoor
from tests.support.recording import (
    body,
    call_asgi,
    http_scope,
    listing,
    make_environ,
    make_pipeline,
    replying,
    start,
    talk_wsgi,
)

PAGE = Answer(200, "OK", [("Content-Length", "4")], b"page")
REFUSED = Answer(403, "Forbidden", [("Content-Length", "2")], b"no")


class Endpoint:
    """Refuses whoever does not come from this host, and notes in which thread it was asked."""

    def __init__(self) -> None:
        self.threads: list[int] = []
        self.headers: dict[str, str] = {}

    def at_once(self, method: str, headers: Any, client: str | None) -> Answer | None:
        self.threads.append(threading.get_ident())
        self.headers = dict(headers)
        return None if client == "127.0.0.1" else REFUSED

    def __call__(self, method: str, headers: Any, client: str | None) -> Answer:
        refused = self.at_once(method, headers, client)
        return PAGE if refused is None else refused


def by_asgi(endpoint: Any, path: str = "/metrics", **scope: Any) -> bytes:
    pipeline, _ = make_pipeline({"/metrics": endpoint})
    return call_asgi(AsgiDoor(replying(start(), body(b"app")), pipeline), http_scope(path, **scope)).body


def by_wsgi(endpoint: Any, path: str = "/metrics", **environ: Any) -> bytes:
    pipeline, _ = make_pipeline({"/metrics": endpoint})
    talk = talk_wsgi(WsgiDoor(listing(b"app"), pipeline), make_environ(path, **environ))
    return talk.data


# ---- which path is an endpoint ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("sent", "served"),
    [
        ("/metrics", b"page"),
        ("/metrics?x=%6d", b"page"),
        ("http://shop/metrics", b"page"),
        ("", b"page"),  # the server does not tell
        ("/%6detrics", b"app"),
        ("/metric%73", b"app"),
        ("/metrics%3f", b"app"),
        ("/metrics/%2e", b"app"),
    ],
)
def test_a_path_that_was_written_in_another_way_is_the_applications(sent: str, served: bytes) -> None:
    assert by_asgi(Endpoint(), raw_path=sent.partition("?")[0].encode()) == served
    assert by_wsgi(Endpoint(), RAW_URI=sent) == served
    assert by_wsgi(Endpoint(), REQUEST_URI=sent) == served


def test_without_a_word_of_how_it_was_written_the_path_counts() -> None:
    assert by_asgi(Endpoint(), raw_path=None) == b"page"
    assert by_wsgi(Endpoint()) == b"page"


@pytest.mark.parametrize(
    ("path", "root", "served"),
    [
        ("/api/metrics", "/api", b"page"),
        ("/api/metrics", "/api/", b"page"),
        ("/metrics", "/api", b"page"),  # a server that leaves the prefix out
        ("/metrics", "/", b"page"),
        ("//metrics", "/", b"app"),
        ("/api//metrics", "/api", b"app"),
        ("/apimetrics", "/api", b"app"),
        ("/api/metrics/", "/api", b"app"),
    ],
)
def test_a_prefix_is_left_out_as_a_whole(path: str, root: str, served: bytes) -> None:
    assert by_asgi(Endpoint(), path, root_path=root) == served


# ---- who is refused, and where ----------------------------------------------------------------------------


def test_a_stranger_is_refused_in_the_loop_and_the_page_is_made_elsewhere() -> None:
    refusing, giving = Endpoint(), Endpoint()
    assert by_asgi(refusing, client=("203.0.113.7", 1)) == b"no"
    assert set(refusing.threads) == {threading.get_ident()}
    assert by_asgi(giving) == b"page"
    assert giving.threads[-1] != threading.get_ident()


def test_a_check_that_fails_refuses_nobody_and_admits_nobody_by_itself() -> None:
    class Failing(Endpoint):
        def at_once(self, method: str, headers: Any, client: str | None) -> Answer | None:
            raise RuntimeError("the check")

    assert by_asgi(Failing()) == by_wsgi(Failing()) == UNAVAILABLE.body


def test_when_nothing_can_be_answered_nobody_may_keep_that() -> None:
    headers = {name.lower(): value for name, value in UNAVAILABLE.headers}
    assert headers["cache-control"] == "no-store"
    assert headers["content-length"] == "0"


def test_what_waitress_took_away_is_known_to_have_been_there() -> None:
    class Request:
        headers = {"X_FORWARDED_FOR": "127.0.0.1", "HOST": "shop"}

    class Channel:
        requests = [Request()]

        def disconnected(self) -> bool:
            return False

    endpoint = Endpoint()
    by_wsgi(endpoint, HTTP_HOST="localhost", **{"waitress.client_disconnected": Channel().disconnected})
    assert endpoint.headers == {"host": "localhost", "x-forwarded-for": ""}


# ---- who is believed --------------------------------------------------------------------------------------

SAID = [(b"x-forwarded-for", b"203.0.113.7"), (b"x-forwarded-proto", b"https"), (b"x-request-start", b"t=1")]
ENVIRON = {"HTTP_" + name.decode().upper().replace("-", "_"): value.decode() for name, value in SAID}


def seen_by(**options: Any) -> list[tuple[str | None, str, str | None]]:
    """Client, scheme and queue time of the same request at both doors, as the first signal sees them."""
    found: list[tuple[str | None, str, str | None]] = []
    for door, app in ((AsgiDoor, replying(start(), body(b"app"))), (WsgiDoor, listing(b"app"))):
        pipeline, _ = make_pipeline(**options)
        pipeline._openers = (
            ("first", lambda one: found.append((one.client_address, one.scheme, one.queue_start))),
            *pipeline._openers,
        )
        if door is AsgiDoor:
            call_asgi(AsgiDoor(app, pipeline), http_scope(headers=SAID))
        else:
            talk_wsgi(WsgiDoor(app, pipeline), make_environ(**ENVIRON))
    return found


def test_nobody_is_believed_by_default() -> None:
    assert seen_by() == [("127.0.0.1", "http", None)] * 2


def test_a_proxy_that_is_named_is_believed_before_any_signal_looks() -> None:
    assert seen_by(trusted_proxies="loopback") == [("203.0.113.7", "https", "t=1")] * 2


def test_another_proxy_is_not() -> None:
    assert seen_by(trusted_proxies="10.0.0.0/8") == [("127.0.0.1", "http", None)] * 2


def test_when_it_cannot_be_told_who_asks_nothing_is_believed(monkeypatch: pytest.MonkeyPatch) -> None:
    def failing(*_: Any) -> Any:
        raise RuntimeError("trust")

    monkeypatch.setattr("obskit.trust.Trust.believes", failing)
    assert seen_by(trusted_proxies="loopback") == [("127.0.0.1", "http", None)] * 2
