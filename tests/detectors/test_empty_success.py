"""What is usual for a route is learned; an empty answer is told of where it is not."""

from __future__ import annotations

import threading
from typing import Any

import pytest

from obskit.detectors.empty_success import LEARNED_SUCCESSES, WINDOW_S, EmptySuccesses
from obskit.exchange import Evidence, Exchange, Outcome
from tests.detectors.conftest import setting

FULL = b'[{"id": 1}]'


class Shop:
    """One judge, and a clock that only moves when told to."""

    def __init__(self, **options: Any) -> None:
        self.judge = EmptySuccesses(setting(**options))
        self.now_s = 1_000.0

    def asked(
        self, body: bytes = FULL, route: str = "/orders", method: str = "GET", **fields: Any
    ) -> Evidence | None:
        """What the judge says of one complete answer."""
        exchange = Exchange("http", method, "/")
        exchange.http_route, exchange.status, exchange.outcome = route, 200, Outcome.COMPLETED
        exchange.response_head, exchange.response_bytes = body[:4096], len(body)
        exchange.ended_ns = int(self.now_s * 1e9)
        for name, value in fields.items():
            setattr(exchange, name, value)
        return self.judge.closed(exchange)

    def many(self, count: int, body: bytes = FULL, **more: Any) -> int:
        """How many of `count` equal answers are findings."""
        return sum(self.asked(body, **more) is not None for _ in range(count))

    def passed(self, seconds: float) -> None:
        self.now_s += seconds


@pytest.fixture
def shop() -> Shop:
    return Shop()


def learned(**options: Any) -> Shop:
    """A shop that knows /orders as a route that is never empty."""
    made = Shop(**options)
    assert made.many(LEARNED_SUCCESSES) == 0
    return made


@pytest.mark.parametrize(
    ("body", "name"),
    [
        (b"", "nothing"),
        (b"[]", "[]"),
        (b"{}", "{}"),
        (b"null", "null"),
        (b'""', '""'),
        (b" [] \r\n", "[]"),
        (b"null\n", "null"),
        (b"\n", "nothing"),
    ],
)
def test_an_empty_answer_of_a_route_that_never_is_empty_is_told_of(body: bytes, name: str) -> None:
    assert learned().asked(body) == {
        "body": name,
        "response_bytes": len(body),
        "learned_from": LEARNED_SUCCESSES,
        "empty_before": 0,
    }


def test_a_204_where_there_always_was_a_body_is_one_too() -> None:
    assert learned().asked(b"", status=204) is not None


@pytest.mark.parametrize(
    "body", [b"[0]", b'{"a":1}', b"0", b"false", b"[ ]", b"[" + b" " * 40 + b"]", b'"null"', b"<p></p>"]
)
def test_any_other_short_body_is_no_empty_one(body: bytes) -> None:
    assert learned().asked(body) is None


def test_of_a_body_in_pieces_the_first_does_not_speak_for_all() -> None:
    assert learned().asked(b"[]", response_bytes=12) is None


@pytest.mark.parametrize(
    "fields",
    [
        {"method": "HEAD"},
        {"protocol": "websocket"},
        {"outcome": Outcome.CLIENT_DISCONNECT},
        {"outcome": Outcome.TRUNCATED},
        {"server_sends_file": True},
        *({"status": status} for status in (None, 101, 206, 301, 304, 404, 500)),
    ],
)
def test_what_is_no_whole_success_is_neither_told_of_nor_learned_from(fields: dict[str, Any]) -> None:
    fields = dict(fields)
    method = fields.pop("method", "GET")
    shop = Shop()
    assert shop.many(2 * LEARNED_SUCCESSES, method=method, **fields) == 0
    assert shop.asked(b"", method=method, **fields) is None
    assert shop.asked(b"", method=method) is None
    assert learned().asked(b"", method=method, **fields) is None


def test_nothing_is_said_before_enough_is_known(shop: Shop) -> None:
    shop.many(LEARNED_SUCCESSES - 1)
    assert shop.asked(b"[]") is None


@pytest.mark.parametrize("route", ["unmatched", "other", None, ""])
def test_requests_without_a_route_of_their_own_are_not_learned_together(shop: Shop, route: Any) -> None:
    assert shop.many(2 * LEARNED_SUCCESSES, route=route) == 0
    assert shop.asked(b"", route=route) is None


def test_methods_and_routes_are_learned_apart() -> None:
    shop = learned()
    assert shop.many(LEARNED_SUCCESSES, b"", method="DELETE", status=204) == 0
    assert shop.asked(b"", method="DELETE", status=204) is None
    assert shop.asked(b"[]", route="/search") is None
    assert shop.asked(b"[]") is not None


def test_a_route_that_is_often_empty_is_never_told_of(shop: Shop) -> None:
    for turn in range(4 * LEARNED_SUCCESSES):
        assert shop.asked(b"[]" if turn % 100 == 0 else FULL) is None
        shop.passed(WINDOW_S / 100)


def windows(shop: Shop, successes: int, empty: int) -> int:
    """Fill one later window, its empty answers first; how many of them were told of."""
    found = shop.many(empty, b"[]") + shop.many(successes - empty - 1)
    shop.passed(WINDOW_S)
    return found + shop.many(1)


@pytest.mark.parametrize(("successes", "empty", "told"), [(1_000, 1, 1), (999, 1, 0), (1_000, 2, 0)])
def test_one_empty_answer_in_a_thousand_is_still_practically_never(
    successes: int, empty: int, told: int
) -> None:
    shop = learned()
    for _ in range(2):  # a change is told of for a whole window, then it is usual
        assert windows(shop, successes, empty) == empty
    assert shop.many(1, b"[]") == told


def test_a_route_that_became_empty_is_told_of_for_a_whole_window_and_then_is_usual() -> None:
    shop = learned()
    shop.passed(WINDOW_S - 1)
    # The change comes with the last second of a window ...
    assert shop.many(LEARNED_SUCCESSES, b"[]") == LEARNED_SUCCESSES
    shop.passed(1)
    # ... so the whole next one tells of it ...
    assert shop.many(1, b"[]") == 1
    shop.passed(WINDOW_S - 1)
    assert shop.many(LEARNED_SUCCESSES, b"[]") == LEARNED_SUCCESSES
    shop.passed(1)
    assert shop.many(1, b"[]") == 1
    # ... and then nobody has to be told any more.
    assert shop.many(LEARNED_SUCCESSES, b"[]") == 0


def test_a_route_that_recovered_is_watched_as_before() -> None:
    shop = learned()
    assert windows(shop, LEARNED_SUCCESSES, 3) == 3
    assert windows(shop, LEARNED_SUCCESSES, 0) == 0
    assert shop.many(1, b"[]") == 1


def test_a_quiet_route_keeps_what_it_learned_until_there_is_enough_of_something_new() -> None:
    shop = learned()
    for _ in range(20):
        shop.passed(10 * WINDOW_S)
        assert shop.many(1, b"[]") == 1


def test_the_number_of_routes_is_bounded() -> None:
    shop = Shop(max_series=10)
    for number in range(11):
        shop.many(LEARNED_SUCCESSES, route=f"/{number}")
    assert shop.asked(b"[]", route="/9") is not None
    assert shop.asked(b"[]", route="/10") is None
    assert len(shop.judge._usual) == 10


def test_threads_that_share_a_judge_lose_no_finding() -> None:
    shop, found = learned(), []

    def ask() -> None:
        found.extend(shop.asked(b"[]" if turn % 10 == 0 else FULL) for turn in range(400))

    threads = [threading.Thread(target=ask) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sum(evidence is not None for evidence in found) == 8 * 40
