"""Faults planted among the ordinary visits, each by a client of its own, and what must be found of each.

They are made while the shop is quiet between two rounds of visits, so that its gauge of active requests tells when
the server has begun with one.
"""

from __future__ import annotations

import json
import random
import re
import threading
import time
from collections.abc import Callable, Mapping
from typing import NamedTuple

from tests.support.shops import get

from .visitors import USER, Visitor
from .wire import request_bytes

RUNNING_S = 10.0
ATTEMPTS = 20
_ACTIVE = re.compile(r"^http_server_active_requests\{[^}]*\} ([0-9.e+]+)$", re.M)


class Planted(NamedTuple):
    """`requests` are the names of the requests of which exactly one has exactly these findings, the others none."""

    name: str
    findings: tuple[str, ...]
    requests: tuple[str, ...]
    unanswered: int = 0


class Planter(Visitor):
    """A client that knows the names of its requests."""

    def last(self, count: int = 1) -> tuple[str, ...]:
        """The names of its last requests. Of two in a row either may be the one whose record closes last."""
        return tuple(f"{self.name}-{number}" for number in range(self._asked - count + 1, self._asked + 1))

    def start(self, method: str, path: str, body: bytes | None = None, **more: str) -> bool:
        """Send a request and wait until the server is at it; False if it was done before one could see that."""
        headers = self.headers({name.replace("_", "-"): value for name, value in more.items()})
        self.wire.open()
        self.wire.send(request_bytes(method, path, headers, body))
        deadline = time.monotonic() + RUNNING_S
        while time.monotonic() < deadline:
            if sum(float(value) for value in _ACTIVE.findall(get(self.port, "/metrics")[2])) >= 1:
                return True
            if self.wire.readable():
                return False
        raise AssertionError(f"{self.name}: the server never began with {method} {path}")

    def abort(self, method: str, path: str, body: bytes | None = None, **more: str) -> int:
        """Give up on a request that the server is at. Returns how many had to be made for it."""
        for attempt in range(ATTEMPTS):
            # The answer may have come while we asked for the gauge: then nobody was left waiting.
            if self.start(method, path, body, **more) and not self.wire.readable():
                self.wire.reset()
                wait_until_quiet(self.port)
                return attempt
            self.taken(self.wire.read(method))
        raise AssertionError(f"{self.name}: {method} {path} is too fast to be given up")


def wait_until_quiet(port: int) -> None:
    """Until no request is active: those that were given up have then been judged."""
    deadline = time.monotonic() + RUNNING_S
    while sum(float(value) for value in _ACTIVE.findall(get(port, "/metrics")[2])) > 0:
        assert time.monotonic() < deadline, "the shop does not come to rest"
        time.sleep(0.005)


def _new_order(planter: Planter) -> bytes:
    return json.dumps({"item": f"planted {planter.name}", "quantity": 1, "price_cents": 700}).encode()


def order_sent_twice(planter: Planter) -> Planted:
    """Back and submit again: the second one repeats the first one's success."""
    body = _new_order(planter)
    assert planter.post("/api/v1/orders", body).status == 201
    assert planter.post("/api/v1/orders", body).status == 201
    return Planted("order_sent_twice", ("duplicate_request",), planter.last(2))


def paid_by_double_click(planter: Planter) -> Planted:
    """Two payments of one order at once; which of them ends last nobody knows."""
    order = planter.order()
    tab = Planter(planter.port, f"{planter.name}-click", planter.address, planter.chance)
    tab.agent, tab.cookies = planter.agent, planter.cookies
    with tab:
        thread = threading.Thread(target=tab.ask, args=("POST", f"/api/v1/orders/{order}/pay"))
        thread.start()
        planter.ask("POST", f"/api/v1/orders/{order}/pay")
        thread.join()
    planter.answered += tab.answered
    return Planted("paid_by_double_click", ("duplicate_request",), planter.last() + tab.last())


def key_used_twice(planter: Planter) -> Planted:
    """A retry with the same Idempotency-Key, although its body was written anew."""
    for number in range(2):
        order = {"item": f"planted {planter.name} {number}", "quantity": 1, "price_cents": 700}
        assert planter.post("/api/v1/orders", order, Idempotency_Key=planter.name).status == 201
    return Planted("key_used_twice", ("duplicate_request",), planter.last(2))


def failing_page_loaded_again(planter: Planter) -> Planted:
    assert planter.get("/api/v1/fail").status == 500
    assert planter.get("/api/v1/fail").status == 500
    return Planted("failing_page_loaded_again", ("duplicate_request",), planter.last(2))


def left_before_the_answer(planter: Planter) -> Planted:
    planter.abort("GET", "/api/v1/reports/slow?seconds=0.3")
    return Planted("left_before_the_answer", ("client_disconnect",), planter.last(), 1)


def log_in_given_up(planter: Planter) -> Planted:
    """The first of the two requests of `log_in_again_after_giving_up`."""
    planter.abort("POST", "/login", json.dumps(USER).encode(), Content_Type="application/json")
    return Planted("log_in_given_up", ("client_disconnect",), planter.last(), 1)


def log_in_again_after_giving_up(planter: Planter) -> Planted:
    assert planter.post("/login", USER).status == 200
    return Planted("log_in_again_after_giving_up", ("duplicate_request",), planter.last())


def download_cut(planter: Planter) -> Planted:
    """A client that reads the beginning of a long download, slowly, and is gone."""
    planter.wire.open(receive_buffer=4_096)
    planter.wire.send(request_bytes("GET", "/api/v1/orders/export", planter.headers()))
    planter.wire.read_some(200)
    planter.wire.reset()
    wait_until_quiet(planter.port)
    return Planted("download_cut", ("client_disconnect",), planter.last(), 1)


def upload_cut(planter: Planter) -> Planted:
    """Half of what was declared, and then nothing more."""
    whole = request_bytes("POST", "/api/v1/uploads", planter.headers(), b"x" * 100_000)
    planter.wire.open()
    planter.wire.send(whole[:-50_000])
    planter.wire.half_close()
    planter.wire.drain()
    wait_until_quiet(planter.port)
    return Planted("upload_cut", ("truncated_request",), planter.last(), 1)


def session_forged(planter: Planter) -> Planted:
    """A session cookie that no server knows or has signed; asked for twice, it is one session that is lost."""
    planter.cookies["sessionid" if planter.framework == "django" else "session"] = (
        f"e30.aKZWpA.{planter.name}"
    )
    assert planter.get("/me").status == 401
    planter.get("/me")
    return Planted("session_forged", ("session_lost",), planter.last(2))


Plant = Callable[[Planter], Planted]
PLANTS: tuple[Plant, ...] = (
    order_sent_twice,
    paid_by_double_click,
    key_used_twice,
    failing_page_loaded_again,
    left_before_the_answer,
    download_cut,
    upload_cut,
    session_forged,
)
# A download must be longer than what lies in buffers on its way.
SEEDED_ORDERS, SEEDED_ITEM = 25_000, "x" * 200
SEED: Mapping[str, str] = {
    "django": "INSERT INTO orders_order (item, quantity, price_cents, status, charge_id, created_at) "
    "VALUES (?, 1, 100, 'new', '', '2026-01-01 00:00:00')",
    "flask": "INSERT INTO orders (item, quantity, price_cents, status, charge_id, created_at) "
    "VALUES (?, 1, 100, 'new', '', '2026-01-01T00:00:00+00:00')",
    "fastapi": "INSERT INTO orders (item, quantity, price_cents, status, charge_id, created_at) "
    "VALUES (?, 1, 100, 'new', '', '2026-01-01T00:00:00+00:00')",
}


def plant(port: int, framework: str, round_number: int, seed: int) -> tuple[list[Planted], int]:
    """Plant each fault once; returns them, and how many requests were answered."""
    planted, answered = [], 0

    def planter(number: int, name: str) -> Planter:
        chance = random.Random(f"{seed}/{framework}/plant/{round_number}/{number}")
        address = f"127.20.{round_number % 250}.{number + 1}"
        whole = f"{framework}-planted-{name}-{round_number}"
        return Planter(port, whole, address, chance, framework=framework)

    for number, fault in enumerate(PLANTS):
        with planter(number, fault.__name__) as client:
            planted.append(fault(client))
            answered += client.answered
    with planter(len(PLANTS), "log_in") as client:
        planted += [log_in_given_up(client), log_in_again_after_giving_up(client)]
        answered += client.answered
    wait_until_quiet(port)
    return planted, answered
