"""The same request again: records in, findings out; then over real servers with two workers."""

from __future__ import annotations

import http.client
import os
import socket
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from obskit.config import Config
from obskit.detectors import duplicate_request
from obskit.detectors._manners import ENOUGH, FORGET_AT, Manners
from obskit.detectors._sameness import page
from obskit.detectors.duplicate_request import Repeats
from obskit.exchange import Exchange, Outcome, digested
from obskit.findings import Setting
from tests.support.recording import http_scope, make_environ
from tests.support.servers import Server

T0 = 10**15
PAID = b'{"order": 7}'


class Shop:
    """One worker's judge and a clock of its own; `ask` is one request, from its first byte to its close."""

    def __init__(self, directory: Path, interface: str = "wsgi", **options: Any) -> None:
        self.failures: list[str] = []
        self.interface = interface
        setting = Setting(
            Config(state_dir=str(directory), **options),
            "shop",
            lambda stage, error: self.failures.append(stage),
        )
        self.judge = Repeats(setting)
        self.judge.begin()

    def ask(
        self,
        at: float,
        until: float,
        method: str = "POST",
        path: str = "/pay",
        body: bytes = PAID,
        *,
        status: int | None = 200,
        outcome: Outcome = Outcome.COMPLETED,
        first_byte: float | None = None,
        last_byte: float | None = None,
        route: str = "/pay",
        read: bool = True,
        query: str = "",
        client: str = "10.0.0.1",
        **headers: str,
    ) -> dict[str, Any] | None:
        """The evidence of a finding, or None. Times are seconds after T0, headers are named as in Python."""
        exchange = Exchange("http", method, path)
        exchange.started_ns, exchange.ended_ns = T0 + int(at * 1e9), T0 + int(until * 1e9)
        exchange.client_address = client
        exchange.http_version = "1.1"
        exchange.request = self._request(method, path, query, client, headers)
        exchange.declared_request_bytes = len(body) or None
        exchange.request_complete = not body
        if body and read:
            for start, piece in ((0, body[:5]), (5, body[5:])):
                if piece and method in duplicate_request.DETECTOR.digests:
                    exchange.body_checksum = digested(piece, exchange.body_checksum or 0, start)
            exchange.request_bytes = len(body)
            exchange.request_complete = True
        exchange.status, exchange.outcome, exchange.http_route = status, outcome, route
        exchange.first_byte_ns = None if first_byte is None else T0 + int(first_byte * 1e9)
        exchange.last_byte_ns = None if last_byte is None else T0 + int(last_byte * 1e9)
        evidence = self.judge.closed(exchange)
        return None if evidence is None else dict(evidence)

    def _request(
        self, method: str, path: str, query: str, client: str, headers: dict[str, str]
    ) -> dict[str, Any]:
        if self.interface == "wsgi":
            named = {"HTTP_" + name.upper(): value for name, value in headers.items()}
            return make_environ(path, method, QUERY_STRING=query, REMOTE_ADDR=client, **named)
        pairs = [(name.replace("_", "-").encode(), value.encode()) for name, value in headers.items()]
        return http_scope(path, method, pairs, query_string=query.encode(), client=(client, 5))


@pytest.fixture(params=["wsgi", "asgi"])
def shop(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Shop]:
    one = Shop(tmp_path, request.param)
    yield one
    one.judge.shutdown()
    assert one.failures == []


def kind(evidence: dict[str, Any] | None) -> str | None:
    return None if evidence is None else evidence["kind"]


# ---- what changes something: the four kinds, each with what looks like it ------------------------------


def test_the_same_post_after_a_success_is_a_repeat(shop: Shop) -> None:
    assert shop.ask(0, 0.1) is None
    assert shop.ask(0.4, 0.5) == {
        "kind": "repeat",
        "by": "content",
        "after_s": 0.3,
        "attempt": 2,
        "earlier_status": 200,
        "earlier_outcome": "completed",
        "scope": "host",
    }
    assert shop.ask(0.9, 1.0)["attempt"] == 3


def test_the_same_post_while_the_first_one_runs_is_concurrent(shop: Shop) -> None:
    assert shop.ask(0, 1.0) is None
    evidence = shop.ask(0.2, 1.5)
    assert kind(evidence) == "concurrent"
    assert evidence["overlap_s"] == 0.8
    assert "after_s" not in evidence


def test_of_two_at_once_the_refused_one_may_close_first(shop: Shop) -> None:
    assert shop.ask(0.001, 0.04, status=409) is None
    evidence = shop.ask(0, 0.045, status=200)
    assert (kind(evidence), evidence["earlier_status"]) == ("concurrent", 409)


def test_two_refusals_at_once_changed_nothing(shop: Shop) -> None:
    assert shop.ask(0, 0.04, status=409) is None
    assert shop.ask(0.001, 0.045, status=409) is None


def test_the_longer_one_of_two_that_overlap_tells_when_it_closes_last(shop: Shop) -> None:
    assert shop.ask(0.2, 0.3) is None
    evidence = shop.ask(0, 2.0)
    assert kind(evidence) == "concurrent"
    assert evidence["overlap_s"] == 0.1


@pytest.mark.parametrize(
    ("status", "outcome"),
    [
        (500, Outcome.COMPLETED),
        (503, Outcome.RAISED),
        (500, Outcome.NO_RESPONSE),
        (408, Outcome.COMPLETED),
        (200, Outcome.RAISED_AFTER_HEADERS),
        (200, Outcome.TRUNCATED),
    ],
)
def test_the_same_post_after_a_failure_is_a_retry_after_error(
    shop: Shop, status: int, outcome: Outcome
) -> None:
    assert shop.ask(0, 0.1, status=status, outcome=outcome) is None
    evidence = shop.ask(1.1, 1.2)
    assert kind(evidence) == "retry_after_error"
    assert (evidence["earlier_status"], evidence["earlier_outcome"]) == (status, outcome.value)
    assert evidence["after_s"] == 1.0


@pytest.mark.parametrize("outcome", [Outcome.CLIENT_DISCONNECT, Outcome.CANCELLED, Outcome.TIMEOUT])
def test_the_same_post_after_one_that_was_given_up_is_a_retry_after_abort(
    shop: Shop, outcome: Outcome
) -> None:
    assert shop.ask(0, 0.1, status=None, outcome=outcome) is None
    evidence = shop.ask(0.5, 0.6)
    assert kind(evidence) == "retry_after_abort"
    assert evidence["earlier_status"] is None
    assert evidence["earlier_outcome"] == outcome.value


def test_attempts_count_up_along_a_chain_of_retries(shop: Shop) -> None:
    shop.ask(0, 0.1, status=503)
    seen = [shop.ask(n, n + 0.1, status=503) for n in (1, 2, 3)]
    seen.append(shop.ask(4, 4.1))
    assert [(one["kind"], one["attempt"]) for one in seen] == [("retry_after_error", n) for n in (2, 3, 4, 5)]


def test_a_success_after_retries_makes_the_next_one_a_repeat(shop: Shop) -> None:
    shop.ask(0, 0.1, status=503)
    shop.ask(1, 1.1)
    assert kind(shop.ask(2, 2.1)) == "repeat"


@pytest.mark.parametrize("method", ["POST", "PUT", "PATCH", "DELETE"])
def test_every_method_that_changes_something_counts(shop: Shop, method: str) -> None:
    shop.ask(0, 0.1, method)
    assert kind(shop.ask(1, 1.1, method)) == "repeat"


@pytest.mark.parametrize("status", [201, 204, 302, 303])
def test_a_redirect_is_a_success(shop: Shop, status: int) -> None:
    shop.ask(0, 0.1, status=status)
    assert kind(shop.ask(1, 1.1, status=status)) == "repeat"


@pytest.mark.parametrize("status", [400, 401, 403, 404, 409, 422, 425, 429])
def test_what_was_refused_may_be_sent_again(shop: Shop, status: int) -> None:
    shop.ask(0, 0.1, status=status)
    assert shop.ask(1, 1.1) is None


def test_a_second_one_that_is_refused_is_a_finding_and_the_first_stays_what_it_was(shop: Shop) -> None:
    shop.ask(0, 0.1, status=201)
    evidence = shop.ask(1, 1.1, status=409)
    assert (kind(evidence), evidence["earlier_status"]) == ("repeat", 201)
    again = shop.ask(2, 2.1, status=409)
    assert (kind(again), again["after_s"], again["attempt"]) == ("repeat", 1.9, 3)


def test_after_the_window_nothing_is_a_repeat(shop: Shop) -> None:
    shop.ask(0, 0.1)
    assert shop.ask(10.2, 10.3) is None
    assert kind(shop.ask(20.2, 20.3)) == "repeat"


def test_the_window_is_an_option(tmp_path: Path) -> None:
    shop = Shop(tmp_path, duplicate_window_s=2)
    shop.ask(0, 0.1)
    assert shop.ask(2.2, 2.3) is None


@pytest.mark.parametrize(
    "changed",
    [
        {"body": b'{"order": 8}'},
        {"body": b""},
        {"query": "page=2"},
        {"path": "/pay/2"},
        {"method": "PUT"},
        {"client": "10.0.0.2"},
        {"cookie": "session=b"},
        {"authorization": "Bearer b"},
        {"user_agent": "other"},
        {"host": "other.example"},
        {"x_forwarded_for": "192.0.2.2"},
        {"forwarded": "for=192.0.2.2"},
    ],
    ids=lambda changed: next(iter(changed)),
)
def test_what_differs_in_one_thing_is_another_request(shop: Shop, changed: dict[str, Any]) -> None:
    sent = {"cookie": "session=a", "authorization": "Bearer a", "user_agent": "one", "host": "shop.example"}
    shop.ask(0, 0.1, **sent)
    assert shop.ask(1, 1.1, **{**sent, **changed}) is None
    assert kind(shop.ask(2, 2.1, **sent)) == "repeat"


def test_a_query_that_is_no_bytes_is_compared_all_the_same() -> None:
    def asked(query: object) -> bytes | None:
        exchange = Exchange("http", "GET", "/pay")
        exchange.request = http_scope("/pay", query_string=query)
        return page(exchange)

    # Django's AsyncRequestFactory hands over a str.
    assert asked("a=ü") == asked("a=ü".encode())
    assert asked("a=1") != asked("a=2")


def test_two_headers_that_say_the_same_are_not_taken_for_each_other(shop: Shop) -> None:
    shop.ask(0, 0.1, cookie="a")
    assert shop.ask(1, 1.1, authorization="a") is None


def test_headers_that_differ_with_every_request_do_not_hide_a_repeat(shop: Shop) -> None:
    shop.ask(0, 0.1, traceparent="00-1", x_request_id="1")
    assert kind(shop.ask(1, 1.1, traceparent="00-2", x_request_id="2")) == "repeat"


def test_a_body_that_the_application_did_not_read_is_not_judged(shop: Shop) -> None:
    shop.ask(0, 0.1, read=False)
    assert shop.ask(1, 1.1, read=False) is None


def test_a_post_without_a_body_can_be_compared_though_nobody_read_it(shop: Shop) -> None:
    shop.ask(0, 0.1, body=b"")
    assert kind(shop.ask(1, 1.1, body=b"")) == "repeat"


def test_uploads_are_told_apart_by_their_beginning_and_their_length(shop: Shop) -> None:
    big = bytes(70_000)
    shop.ask(0, 0.1, body=big)
    assert shop.ask(1, 1.1, body=big + b"x") is None
    assert kind(shop.ask(2, 2.1, body=big[:-1] + b"y")) == "repeat"


def test_work_after_the_answer_is_no_part_of_the_request(shop: Shop) -> None:
    # Answered at 0.1, and busy with a mail until 5: the next one did not run at the same time.
    shop.ask(0, 5, last_byte=0.1)
    evidence = shop.ask(2, 6, last_byte=2.1)
    assert (kind(evidence), evidence["after_s"]) == ("repeat", 1.9)


def test_a_repeat_that_closes_before_the_first_one_does_is_still_the_second(shop: Shop) -> None:
    shop.ask(2, 2.1, last_byte=2.1)
    evidence = shop.ask(0, 5, status=500, last_byte=0.5)
    assert (kind(evidence), evidence["after_s"]) == ("retry_after_error", 1.5)


def test_what_scanners_ask_for_is_left_alone(shop: Shop) -> None:
    shop.ask(0, 0.1, status=404, route="unmatched")
    assert shop.ask(0.05, 0.2, status=404, route="unmatched") is None


def test_an_application_without_routes_is_judged(shop: Shop) -> None:
    shop.ask(0, 0.1, route="unmatched")
    assert kind(shop.ask(1, 1.1, route="unmatched")) == "repeat"


@pytest.mark.parametrize("method", ["OPTIONS", "TRACE", "QUERY", "CONNECT", "_OTHER"])
def test_other_methods_are_left_alone(shop: Shop, method: str) -> None:
    shop.ask(0, 2, method, status=500)
    assert shop.ask(1, 3, method) is None


def test_a_websocket_is_left_alone(shop: Shop) -> None:
    for start_ns in (T0, T0 + 2 * 10**9):
        exchange = Exchange("websocket", "GET", "/live")
        exchange.request = {"type": "websocket", "headers": []}
        exchange.started_ns, exchange.ended_ns = start_ns, T0 + 10**10
        exchange.outcome, exchange.status = Outcome.CLIENT_DISCONNECT, 101
        assert shop.judge.closed(exchange) is None


# ---- by the client's own key ------------------------------------------------------------------------------


def test_a_cookie_that_speaks_of_such_a_key_is_none(shop: Shop) -> None:
    shop.ask(0, 0.1, cookie="note=idempotency-key")
    evidence = shop.ask(1, 1.1, cookie="note=idempotency-key")
    assert (kind(evidence), evidence["by"]) == ("repeat", "content")
    assert shop.ask(30, 30.1, cookie="note=idempotency-key") is None


def test_an_idempotency_key_tells_after_minutes_what_content_would_not(shop: Shop) -> None:
    shop.ask(0, 0.1, status=503, idempotency_key="k-1")
    evidence = shop.ask(500, 500.1, idempotency_key="k-1")
    assert (kind(evidence), evidence["by"], evidence["attempt"]) == (
        "retry_after_error",
        "idempotency_key",
        2,
    )
    assert shop.ask(1200, 1200.1, idempotency_key="k-1") is None


def test_an_idempotency_key_needs_no_body_and_no_same_address(shop: Shop) -> None:
    shop.ask(0, 0.1, read=False, client="10.0.0.1", authorization="Bearer a", idempotency_key="k-1")
    evidence = shop.ask(
        1, 1.1, body=b"other", client="10.0.0.2", authorization="Bearer a", idempotency_key="k-1"
    )
    assert kind(evidence) == "repeat"


@pytest.mark.parametrize(
    "changed",
    [{"idempotency_key": "k-2"}, {"authorization": "Bearer b"}, {"path": "/refund"}, {"method": "PATCH"}],
    ids=lambda changed: next(iter(changed)),
)
def test_another_key_user_or_path_is_another_operation(shop: Shop, changed: dict[str, Any]) -> None:
    sent = {"authorization": "Bearer a", "idempotency_key": "k-1"}
    shop.ask(0, 0.1, **sent)
    assert shop.ask(1, 1.1, **{**sent, **changed}) is None


def test_a_key_without_a_user_counts_for_one_address_alone(shop: Shop) -> None:
    shop.ask(0, 0.1, idempotency_key="1")
    assert shop.ask(1, 1.1, client="10.0.0.9", idempotency_key="1") is None
    assert kind(shop.ask(2, 2.1, idempotency_key="1")) == "repeat"


# ---- what only asks ---------------------------------------------------------------------------------------


def test_polling_the_same_page_is_no_repeat(shop: Shop) -> None:
    assert [shop.ask(n, n + 0.05, "GET", body=b"") for n in range(50)] == [None] * 50


def test_polling_a_slow_page_is_no_repeat(shop: Shop) -> None:
    assert [shop.ask(2 * n, 2 * n + 1.5, "GET", body=b"") for n in range(50)] == [None] * 50


def test_a_page_loaded_anew_before_it_came_is_concurrent(shop: Shop) -> None:
    shop.ask(0, 3, "GET", body=b"")
    evidence = shop.ask(1.5, 4.5, "GET", body=b"")
    assert (kind(evidence), evidence["overlap_s"]) == ("concurrent", 1.5)


def test_two_widgets_that_ask_at_once_are_not_concurrent(shop: Shop) -> None:
    shop.ask(0, 3, "GET", body=b"")
    assert shop.ask(0.9, 3.5, "GET", body=b"") is None


def test_two_streams_that_run_at_once_are_not_concurrent(shop: Shop) -> None:
    shop.ask(0, 60, "GET", body=b"", first_byte=0.1, last_byte=60)
    assert shop.ask(20, 61, "GET", body=b"", first_byte=20.1, last_byte=61) is None


def test_a_page_asked_for_again_after_a_failure_is_a_retry(shop: Shop) -> None:
    shop.ask(0, 0.1, "GET", body=b"", status=500)
    assert kind(shop.ask(2, 2.1, "GET", body=b"")) == "retry_after_error"
    assert shop.ask(3, 3.1, "GET", body=b"") is None  # that one followed a success


def test_a_page_given_up_before_its_first_byte_and_asked_for_again_is_a_retry(shop: Shop) -> None:
    shop.ask(0, 0.6, "GET", body=b"", status=None, outcome=Outcome.CLIENT_DISCONNECT)
    assert kind(shop.ask(1, 1.1, "GET", body=b"")) == "retry_after_abort"


def test_a_stream_that_its_reader_opens_again_is_no_retry(shop: Shop) -> None:
    shop.ask(0, 30, "GET", body=b"", first_byte=0.1, outcome=Outcome.CLIENT_DISCONNECT)
    assert shop.ask(30.1, 60, "GET", body=b"", first_byte=30.2, outcome=Outcome.CLIENT_DISCONNECT) is None
    assert shop.ask(60.1, 60.2, "GET", body=b"") is None
    shop.ask(70, 70.5, "GET", body=b"", first_byte=70.1, outcome=Outcome.CLIENT_DISCONNECT)
    assert shop.ask(70.6, 70.7, "GET", body=b"") is None


def test_after_the_window_a_page_is_no_retry(shop: Shop) -> None:
    shop.ask(0, 0.1, "GET", body=b"", status=500)
    assert shop.ask(10.2, 10.3, "GET", body=b"") is None


@pytest.mark.parametrize(
    "changed",
    [{"range": "bytes=10-"}, {"accept": "text/html"}, {"query": "q=2"}, {"method": "HEAD"}, {"cookie": "b"}],
    ids=lambda changed: next(iter(changed)),
)
def test_another_part_or_form_of_a_page_is_another_question(shop: Shop, changed: dict[str, Any]) -> None:
    sent = {"method": "GET", "body": b"", "range": "bytes=0-", "accept": "*/*"}
    shop.ask(0, 0.1, status=500, **sent)
    assert shop.ask(1, 1.1, **{**sent, **changed}) is None


def test_a_refused_page_may_be_asked_for_again(shop: Shop) -> None:
    shop.ask(0, 2, "GET", body=b"", status=403)
    shop.ask(0, 2, "GET", path="/x", body=b"", status=500)
    assert shop.ask(1.5, 3, "GET", body=b"") is None


def test_a_healthy_page_touches_no_memory(shop: Shop, monkeypatch: pytest.MonkeyPatch) -> None:
    touched: list[str] = []
    monkeypatch.setattr(duplicate_request, "page", lambda exchange: touched.append(exchange.url_path))
    shop.ask(0, 0.1, "GET", body=b"")
    shop.ask(20, 20.1, "HEAD", body=b"")
    assert touched == []
    shop.ask(30, 31.1, "GET", body=b"")
    assert touched == ["/pay"]


# ---- repeats by design ------------------------------------------------------------------------------------


def test_a_route_that_is_polled_by_post_is_learned(shop: Shop) -> None:
    kinds = [kind(shop.ask(n, n + 0.1)) for n in range(100)]
    assert kinds[1] == "repeat"
    assert kinds[2 + ENOUGH :] == [None] * (98 - ENOUGH)


def test_on_a_route_polled_by_post_other_kinds_are_still_found(shop: Shop) -> None:
    for n in range(100):
        shop.ask(n, n + 0.1)
    shop.ask(100, 100.1, status=500)
    assert kind(shop.ask(101, 101.1)) == "retry_after_error"


def test_a_form_that_is_always_sent_twice_stays_a_finding(shop: Shop) -> None:
    kinds: Counter[str | None] = Counter()
    for n in range(200):
        body = b"order %d" % n
        shop.ask(n, n + 0.1, body=body)
        kinds[kind(shop.ask(n + 0.3, n + 0.4, body=body))] += 1
    assert kinds == {"repeat": 200}


def test_what_is_learned_of_one_route_is_not_said_of_another(shop: Shop) -> None:
    for n in range(100):
        shop.ask(n, n + 0.1)
    shop.ask(100, 100.1, path="/buy", route="/buy")
    assert kind(shop.ask(101, 101.1, path="/buy", route="/buy")) == "repeat"


def test_tabs_that_each_wait_for_news_are_learned(shop: Shop) -> None:
    kinds = [kind(shop.ask(n * 10, n * 10 + 19, "GET", body=b"")) for n in range(60)]
    assert kinds[1] == "concurrent"
    assert kinds[-30:] == [None] * 30


def test_manners_are_learned_of_so_many_routes_and_no_more() -> None:
    manners = Manners(limit=2)
    for route in ("/a", "/b", "/c"):
        for _ in range(ENOUGH):
            manners.learn("POST", route, repeated=True)
    assert [manners.by_design("POST", route) for route in ("/a", "/b", "/c")] == [True, True, False]


def test_manners_of_old_are_forgotten() -> None:
    manners = Manners(limit=2)
    for _ in range(FORGET_AT - 1):
        manners.learn("POST", "/a", repeated=True)
    for _ in range(3 * FORGET_AT):
        manners.learn("POST", "/a", repeated=False)
    assert not manners.by_design("POST", "/a")


# ---- workers, failures of our own ------------------------------------------------------------------------------


def test_another_worker_of_the_host_sees_the_repeat(tmp_path: Path) -> None:
    one, other = Shop(tmp_path), Shop(tmp_path)
    one.ask(0, 0.1)
    assert other.ask(1, 1.1)["scope"] == "host"


def test_a_page_that_failed_on_one_worker_is_retried_on_another(tmp_path: Path) -> None:
    one, other = Shop(tmp_path), Shop(tmp_path)
    one.ask(0, 0.1, "GET", body=b"", status=500)
    assert kind(other.ask(1, 1.1, "GET", body=b"")) == "retry_after_error"


def test_a_worker_that_shares_nothing_says_so(tmp_path: Path) -> None:
    (tmp_path / f"obskit-{_uid()}").write_text("in the way")
    alone = Shop(tmp_path)
    alone.ask(0, 0.1)
    assert alone.ask(1, 1.1)["scope"] == "worker"
    assert alone.failures == ["detectors.duplicate_request"]


def _uid() -> int:
    return os.geteuid()


def test_before_it_begins_and_after_it_ends_a_judge_says_nothing(tmp_path: Path) -> None:
    shop = Shop(tmp_path)
    shop.judge.shutdown()
    shop.judge.shutdown()
    shop.ask(0, 0.1)
    assert shop.ask(1, 1.1) is None
    shop.judge.begin()
    shop.judge.begin()
    shop.ask(0, 0.1)
    assert kind(shop.ask(1, 1.1)) == "repeat"


def test_headers_that_can_be_read_only_once_are_left_to_the_application(tmp_path: Path) -> None:
    shop = Shop(tmp_path)
    for _ in range(2):
        exchange = Exchange("http", "POST", "/pay")
        exchange.request = http_scope("/pay", "POST", iter([(b"cookie", b"a")]))
        exchange.request["headers"] = left = iter([(b"cookie", b"a")])
        exchange.request_complete = True
        exchange.status, exchange.outcome, exchange.ended_ns = 200, Outcome.COMPLETED, exchange.started_ns + 1
        assert shop.judge.closed(exchange) is None
        assert list(left) == [(b"cookie", b"a")]


@pytest.mark.parametrize("path", ["/p\udcffay", "/päy", "/p\0ay"])
def test_any_path_can_be_compared(shop: Shop, path: str) -> None:
    shop.ask(0, 0.1, path=path)
    assert kind(shop.ask(1, 1.1, path=path)) == "repeat"


def test_what_identifies_a_client_is_not_in_the_memory(tmp_path: Path) -> None:
    shop = Shop(tmp_path)
    sent = {"cookie": "session=very-secret", "authorization": "Bearer very-secret"}
    shop.ask(0, 0.1, body=b"very-secret", **sent)
    evidence = shop.ask(1, 1.1, body=b"very-secret", **sent)
    (file,) = (tmp_path / f"obskit-{_uid()}").iterdir()
    assert b"secret" not in file.read_bytes()
    assert b"10.0.0.1" not in file.read_bytes()
    assert "secret" not in repr(evidence)


# ---- real servers, two workers ---------------------------------------------------------------------------------

APPS = """
import os, time
import anyio
import obskit

GATE = os.environ["GATE"]


def wsgi(environ, start_response):
    obskit.current().name_route(environ["PATH_INFO"])
    environ["wsgi.input"].read(int(environ.get("CONTENT_LENGTH") or 0))
    if environ["PATH_INFO"] == "/slow":
        open(f"{GATE}-{time.monotonic_ns()}", "w").close()
        time.sleep(1.2)
    failing = environ["PATH_INFO"] == "/broken"
    start_response("503 Service Unavailable" if failing else "200 OK", [("Content-Length", "2")])
    return [b"ok"]


async def asgi(scope, receive, send):
    if scope["type"] != "http":
        return
    obskit.current().name_route(scope["path"])
    while (await receive()).get("more_body"):
        pass
    if scope["path"] == "/slow":
        open(f"{GATE}-{time.monotonic_ns()}", "w").close()
        await anyio.sleep(1.2)
    status = 503 if scope["path"] == "/broken" else 200
    await send({"type": "http.response.start", "status": status, "headers": [(b"content-length", b"2")]})
    await send({"type": "http.response.body", "body": b"ok"})


app = obskit.install(
    {"wsgi": wsgi, "asgi": asgi}[os.environ["KIND"]],
    service="twins",
    interface=os.environ["KIND"],
    state_dir=os.environ["STATE"],
    instrumentation=False,
    log_format="json",
)
"""


class Twins:
    """A server with two workers, and what their canonical lines say."""

    def __init__(self, server: Server, gate: Path) -> None:
        self.server = server
        self.gate = gate

    def send(self, path: str, body: str = "", method: str = "POST", **headers: str) -> dict[str, Any]:
        """Send one request on a connection of its own; the canonical line it leaves."""
        mark = f"{time.monotonic_ns()}"
        connection = http.client.HTTPConnection("127.0.0.1", self.server.port, timeout=20)
        connection.request(method, path, body.encode() if body else None, {"X-Request-ID": mark, **headers})
        connection.getresponse().read()
        connection.close()
        return self.server.wait_for_line(lambda line: line.get("request_id") == mark)

    def started(self, count: int) -> None:
        """Wait until so many slow requests run."""
        deadline = time.monotonic() + 10
        while len(list(self.gate.parent.glob(self.gate.name + "-*"))) < count:
            assert time.monotonic() < deadline, "the request did not start"
            time.sleep(0.005)


@pytest.fixture(scope="module", params=["wsgi", "asgi"])
def twins(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Twins]:
    folder = tmp_path_factory.mktemp(f"twins-{request.param}")
    (folder / "twins_app.py").write_text(APPS)
    (folder / "state").mkdir()
    env = {"KIND": request.param, "STATE": str(folder / "state"), "GATE": str(folder / "gate")}
    # The last word of a repeated option wins.
    name, extra = ("gunicorn-sync", ("--workers=2",)) if request.param == "wsgi" else ("uvicorn", ())
    server = Server(name, "twins_app:app", cwd=folder, log_dir=folder / "logs", env=env, extra_args=extra)
    if request.param == "asgi":
        server.command += ["--workers", "2"]
    else:
        server.command[server.command.index("-w") + 1] = "2"
    with server:
        yield Twins(server, folder / "gate")


def evidence_of(line: dict[str, Any]) -> dict[str, Any]:
    # Where everything is sent twice, that becomes a storm in time.
    assert "duplicate_request" in line["findings"], line
    return dict(line["evidence"]["duplicate_request"])


def seen_by_another(send: Callable[[int], tuple[dict[str, Any], dict[str, Any]]]) -> dict[str, Any]:
    """Evidence from a pair of requests that two different workers served."""
    for turn in range(200):
        first, second = send(turn)
        evidence = evidence_of(second)
        assert evidence["scope"] == "host"
        if first["worker_pid"] != second["worker_pid"]:
            return evidence
    raise AssertionError("one worker served everything")


def test_a_repeat_is_seen_by_whichever_worker_gets_it(twins: Twins) -> None:
    evidence = seen_by_another(lambda n: (twins.send("/buy", f"a{n}"), twins.send("/buy", f"a{n}")))
    assert (evidence["kind"], evidence["attempt"], evidence["severity"]) == ("repeat", 2, "warning")


def test_other_orders_of_the_same_client_are_no_repeat(twins: Twins) -> None:
    assert [twins.send("/buy", f"other{n}")["findings"] for n in range(10)] == [[]] * 10


def test_a_double_click_on_two_workers_is_concurrent(twins: Twins) -> None:
    lines: list[dict[str, Any]] = []
    first = threading.Thread(target=lambda: lines.append(twins.send("/slow", "double")))
    first.start()
    twins.started(1)
    lines.append(twins.send("/slow", "double"))
    first.join(20)
    (evidence,) = [evidence_of(line) for line in lines if line["findings"]]
    assert evidence["kind"] == "concurrent"
    assert evidence["overlap_s"] > 0
    assert len(lines) == 2


def test_a_retry_after_a_failure_is_seen_by_whichever_worker_gets_it(twins: Twins) -> None:
    evidence = seen_by_another(lambda n: (twins.send("/broken", f"b{n}"), twins.send("/broken", f"b{n}")))
    assert (evidence["kind"], evidence["earlier_status"]) == ("retry_after_error", 503)


@pytest.mark.parametrize(
    "twins", ["asgi"], indirect=True
)  # a synchronous server does not see its client leave
def test_a_retry_after_the_client_gave_up_is_seen(twins: Twins) -> None:
    running = len(list(twins.gate.parent.glob("gate-*")))
    since = twins.server.mark()
    with socket.create_connection(("127.0.0.1", twins.server.port)) as client:
        host = f"127.0.0.1:{twins.server.port}"
        head = (
            f"POST /slow HTTP/1.1\r\nHost: {host}\r\nAccept-Encoding: identity\r\nContent-Length: 5\r\n\r\n"
        )
        client.sendall(head.encode() + b"again")
        twins.started(running + 1)
    left = twins.server.wait_for_line(lambda line: line.get("http_route") == "/slow", since=since)
    assert left["outcome"] == "client_disconnect"
    evidence = evidence_of(twins.send("/slow", "again"))
    assert (evidence["kind"], evidence["earlier_outcome"]) == ("retry_after_abort", "client_disconnect")


def test_an_idempotency_key_is_seen_by_whichever_worker_gets_it(twins: Twins) -> None:
    def pair(n: int) -> tuple[dict[str, Any], dict[str, Any]]:
        key = {"Idempotency-Key": f"k{n}"}
        return twins.send("/buy", f"k{n}", **key), twins.send("/buy", f"other k{n}", **key)

    assert seen_by_another(pair)["by"] == "idempotency_key"


def test_polling_a_page_on_two_workers_is_no_finding(twins: Twins) -> None:
    assert [twins.send("/news", method="GET")["findings"] for _ in range(20)] == [[]] * 20
