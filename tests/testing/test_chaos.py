"""Every verb of the chaos client against real servers, and the finding it leads to; beside it what must stay silent."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest

from obskit.testing import Chaos, Telemetry
from tests.testing.shop import MAKERS, Strings


@pytest.fixture
def strings() -> Iterator[Strings]:
    held = Strings()
    yield held
    held.go_on.set()


@pytest.fixture(params=sorted(MAKERS))
def kind(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def client(
    kind: str,
    strings: Strings,
    telemetry: Telemetry,
    install: Callable[..., Any],
    chaos: Callable[..., Chaos],
) -> Chaos:
    return chaos(install(MAKERS[kind](strings)))


def noticed(client: Chaos) -> None:
    """A server that answers this has noticed who left before."""
    client.get("/small")


# ---- clients that behave: nothing to find --------------------------------------------------------------


def test_a_request_sent_whole_is_answered_whole(client: Chaos, telemetry: Telemetry) -> None:
    seen = client.post("/upload", body="twelve bytes")
    assert (seen.status, seen.ended, seen.json()) == (200, "answered", {"bytes": 12})
    assert telemetry.findings == []


def test_a_slow_upload_is_read_to_its_end(client: Chaos, telemetry: Telemetry, strings: Strings) -> None:
    seen = client.request("POST", "/upload", body=b"slow").slow_body(chunk=3, pause_s=0.001)
    assert (seen.status, seen.json()) == (200, {"bytes": 4})
    assert strings.bodies == [b"slow"]
    assert telemetry.findings == []


def test_a_client_that_waited_for_all_of_a_small_answer_was_not_cut(
    client: Chaos, telemetry: Telemetry
) -> None:
    seen = client.request("GET", "/small").cut_download(after=1_000)
    assert (seen.status, seen.ended) == (200, "answered")
    assert telemetry.wait_for().findings == []


def test_a_long_answer_comes_whole(client: Chaos, telemetry: Telemetry) -> None:
    seen = client.get("/stream")
    assert (seen.ended, len(seen.body)) == ("answered", 400 * 65_536)
    assert telemetry.findings == []


# ---- clients that break off ------------------------------------------------------------------------------


@pytest.mark.parametrize("how", ["reset", "half_close"])
def test_an_upload_cut_after_some_bytes_is_a_truncated_request(
    client: Chaos, telemetry: Telemetry, strings: Strings, how: Any
) -> None:
    seen = client.request("POST", "/upload", body=b"x" * 10_000).cut_upload(after=100, how=how)
    assert seen.status != 200
    assert telemetry.wait_for().findings == ["truncated_request"]
    assert telemetry.exchange.request_bytes <= 100
    assert strings.bodies == []


def test_a_body_shorter_than_declared_is_a_truncated_request(client: Chaos, telemetry: Telemetry) -> None:
    client.request("POST", "/upload", body=b"nine byte").short_body(missing=3)
    assert telemetry.wait_for().findings == ["truncated_request"]
    assert telemetry.exchange.declared_request_bytes == 12


def test_leaving_before_the_answer_is_a_disconnect(
    client: Chaos, telemetry: Telemetry, strings: Strings
) -> None:
    seen = client.request("POST", "/held").cut_download(until=strings.started.wait)
    assert (seen.status, seen.ended) == (None, "left")
    noticed(client)
    strings.go_on.set()
    assert telemetry.wait_for(2).findings == ["client_disconnect"]
    assert telemetry.metric("obskit_http_server_outcomes_total", outcome="client_disconnect") == 1


def test_leaving_without_being_told_when_waits_a_moment(
    client: Chaos, telemetry: Telemetry, strings: Strings
) -> None:
    client.request("POST", "/held").cut_download(wait_s=0.05)
    noticed(client)
    strings.go_on.set()
    assert telemetry.wait_for(2).findings == ["client_disconnect"]


def test_leaving_in_the_middle_of_a_stream_is_a_disconnect(client: Chaos, telemetry: Telemetry) -> None:
    seen = client.request("GET", "/stream").cut_download(after=1_000)
    assert (seen.status, seen.ended) == (200, "left")
    assert telemetry.wait_for().findings == ["client_disconnect"]
    assert telemetry.exchange.response_bytes < 400 * 65_536


def test_a_client_that_only_closes_its_sending_side_gets_its_answer_where_the_server_lets_it(
    client: Chaos, telemetry: Telemetry, strings: Strings, kind: str
) -> None:
    if kind == "flask":
        assert client.request("POST", "/upload", body=b"all").half_close().status == 200
        assert telemetry.findings == []
    else:  # uvicorn takes the end of what a client sends for its leaving
        assert client.request("POST", "/held").half_close().ended == "closed"
        strings.go_on.set()
        assert telemetry.wait_for().findings == ["client_disconnect"]


# ---- clients that ask again ------------------------------------------------------------------------------


def test_a_double_click_is_a_concurrent_duplicate(client: Chaos, telemetry: Telemetry) -> None:
    seen = client.request("POST", "/together").doubled()
    assert sorted(one.json()["place"] for one in seen) == [0, 1]
    assert telemetry.findings == ["duplicate_request"]
    assert telemetry.finding("duplicate_request").evidence["kind"] == "concurrent"


def test_a_retry_after_an_error_is_one(client: Chaos, telemetry: Telemetry) -> None:
    seen = client.request("POST", "/flaky").retried("answer")
    assert [one.status for one in seen] == [503, 200]
    assert telemetry.finding("duplicate_request").evidence["kind"] == "retry_after_error"


def test_a_page_loaded_anew_before_it_came_is_a_concurrent_duplicate(
    client: Chaos, telemetry: Telemetry, strings: Strings
) -> None:
    seen = client.request("POST", "/held").refresh(until=strings.started.wait)
    assert seen.json() == {"done": True}
    assert "duplicate_request" in telemetry.wait_for(2).findings
    assert telemetry.finding("duplicate_request").evidence["kind"] == "concurrent"


def test_a_retry_after_giving_up_comes_after_a_pause(
    client: Chaos, telemetry: Telemetry, strings: Strings
) -> None:
    def left() -> None:
        strings.started.wait(10)

    first, *again = client.request("POST", "/held").retried("abort", times=2, pause_s=0.001, until=left)
    assert first.ended == "left"
    assert [one.status for one in again] == [200, 200]
    assert telemetry.wait_for(3).metric("obskit_duplicate_requests_total") == 2


def test_requests_complete_in_the_other_order_than_they_began(
    client: Chaos, telemetry: Telemetry, strings: Strings
) -> None:
    first = client.request("POST", "/upload", body=b"first")
    second = client.request("POST", "/upload", body=b"the second")
    seen = client.out_of_order(first, second)
    assert [one.json() for one in seen] == [{"bytes": 5}, {"bytes": 10}]
    assert strings.bodies == [b"the second", b"first"]
    assert telemetry.findings == []


# ---- the client itself -----------------------------------------------------------------------------------


def cookie_app(environ: dict[str, Any], start_response: Any) -> list[bytes]:
    fields = {
        "/in": [("Set-Cookie", "session=abc; Path=/; HttpOnly"), ("Set-Cookie", "theme=dark")],
        "/out": [
            ("Set-Cookie", "session=; Max-Age=0"),
            ("Set-Cookie", "x=1; expires=Thu, 01 Jan 1970 00:00:00 GMT"),
        ],
        "/odd": [("Set-Cookie", "=;;;"), ("Set-Cookie", "kept=1; expires=when it rains")],
    }.get(environ["PATH_INFO"], [])
    start_response("200 OK", fields)
    return [environ.get("HTTP_COOKIE", "").encode()]


def test_cookies_are_kept_as_a_browser_keeps_them(chaos: Callable[..., Chaos]) -> None:
    client = chaos(cookie_app)
    client.get("/in")
    assert client.get("/").text == "session=abc; theme=dark"
    client.cookies["x"] = "2"
    client.get("/out")
    assert client.get("/").text == "theme=dark"
    client.get("/odd")
    assert client.cookies == {"theme": "dark", "kept": "1"}


def echo(environ: dict[str, Any], start_response: Any) -> list[bytes]:
    body = environ["wsgi.input"].read()
    start_response("200 OK", [("X-Type", environ.get("CONTENT_TYPE", ""))])
    kept = (environ["REQUEST_METHOD"], environ["HTTP_USER_AGENT"], environ.get("HTTP_X_ONE", ""))
    return [repr((*kept, environ["QUERY_STRING"], body)).encode()]


def test_a_request_is_sent_as_described(chaos: Callable[..., Chaos]) -> None:
    client = chaos(echo)
    client.headers["X-One"] = "1"
    seen = client.request("put", "/?a=b c", form={"sku": "a lamp"}, headers={"user-agent": "mine"}).send()
    assert seen.text == repr(("PUT", "mine", "1", "a=b%20c", b"sku=a+lamp"))
    assert seen.headers["x-type"] == "application/x-www-form-urlencoded"
    assert client.request("HEAD", "/").send().body == b""


@pytest.mark.parametrize(
    ("method", "path", "headers"),
    [("GET", "orders", {}), ("GET /", "/", {}), ("GET", "/\r\n", {}), ("GET", "/", {"X": "a\r\nY: b"})],
)
def test_what_is_no_request_is_refused(method: str, path: str, headers: dict[str, str]) -> None:
    with pytest.raises(ValueError, match="expected a method, a path"):
        Chaos("http://127.0.0.1:8000").request(method, path, headers=headers)


def test_a_verb_that_would_do_nothing_says_so() -> None:
    request = Chaos("http://127.0.0.1:8000").request("POST", "/", body=b"four")
    for play, said in [
        (lambda: request.cut_upload(after=4), "cuts nothing off a body of 4 bytes"),
        (lambda: request.short_body(missing=0), "at least 1 byte, saw 0"),
        (lambda: request.slow_body(chunk=0), "at least 1 byte, saw 0"),
        (lambda: request.doubled(times=1), "at least 2, saw 1"),
        (lambda: request.retried("never"), "saw after='never'"),  # type: ignore[arg-type]
    ]:
        with pytest.raises(ValueError, match=said):
            play()


def test_a_server_that_stays_silent_is_left_after_the_timeout(
    strings: Strings, chaos: Callable[..., Chaos]
) -> None:
    client = chaos(MAKERS["flask"](strings), timeout_s=0.1)
    assert client.post("/held").ended == "timeout"


def test_a_port_that_nobody_listens_on_is_named(served: Callable[..., str]) -> None:
    client = Chaos("http://127.0.0.1:1")
    with pytest.raises(ConnectionError, match=r"nobody answers at http://127\.0\.0\.1:1"):
        client.get("/")
    with pytest.raises(ConnectionError, match="nobody answers"):
        client.request("GET", "/").doubled()
