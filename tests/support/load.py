"""A bounded, seeded load generator for the shops of integrations/, that counts exactly what it was answered."""

from __future__ import annotations

import http.client
import json
import random
import threading
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from urllib.parse import urlsplit

TIMEOUT_S = 20.0
MAX_REQUESTS = 20_000
MAX_WORKERS = 16
NO_SUCH_ORDER = 999_999_999
USER = {"username": "demo", "password": "demo"}

# Which paths the kinds of the counts stand for; {id} is an order's number.
PATHS = {
    "healthz": "/healthz",
    "orders": "/api/v1/orders",
    "order": "/api/v1/orders/{id}",
    "pay": "/api/v1/orders/{id}/pay",
    "export": "/api/v1/orders/export",
    "uploads": "/api/v1/uploads",
    "slow": "/api/v1/reports/slow",
    "fail": "/api/v1/fail",
    "login": "/login",
    "me": "/me",
    "logout": "/logout",
    "nowhere": "/no/such/page",
}

# How often each step is taken, out of the sum: mostly reading, as shops are, with every failure in it.
MIX = {
    "list": 20,
    "create": 16,
    "read": 16,
    "pay": 10,
    "healthz": 6,
    "session": 5,
    "read_missing": 4,
    "upload": 4,
    "nowhere": 4,
    "export": 3,
    "pay_again": 3,
    "create_invalid": 3,
    "wrong_method": 3,
    "fail": 3,
    "me_unknown": 2,
    "login_refused": 1,
    "slow": 1,
}


@dataclass
class LoadResult:
    """What was sent and answered. `counts` is {(method, kind, status): answers read to their last byte}."""

    counts: Counter[tuple[str, str, int]] = field(default_factory=Counter)
    received_bytes: Counter[str] = field(default_factory=Counter)
    """Response body bytes by kind."""
    sent_bytes: Counter[str] = field(default_factory=Counter)
    """Request body bytes by kind."""
    errors: list[str] = field(default_factory=list)
    """Requests without a complete answer, as sentences; while this is empty the counts are exact."""
    ended_at: float = 0.0
    """Seconds since the epoch, after the last byte of the last answer."""

    @property
    def total(self) -> int:
        return self.counts.total()

    def add(self, other: LoadResult) -> None:
        self.counts += other.counts
        self.received_bytes += other.received_bytes
        self.sent_bytes += other.sent_bytes
        self.errors += other.errors


def run_load(url: str, *, requests: int = 300, workers: int = 4, seed: int = 1) -> LoadResult:
    """Send about `requests` requests (never fewer) to a shop, from `workers` keep-alive connections.

    Loopback only. The same seed takes the same steps; each worker reads and pays only its own orders, so the
    answers do not depend on how the workers interleave. Raises ValueError for another host or too big a load.
    """
    parts = urlsplit(url)
    if parts.hostname != "127.0.0.1" or parts.port is None:
        raise ValueError(f"load is for 127.0.0.1 and a port only, not for {url}")
    if not (0 < requests <= MAX_REQUESTS and 0 < workers <= MAX_WORKERS):
        raise ValueError(
            f"at most {MAX_REQUESTS} requests from {MAX_WORKERS} workers, not {requests} from {workers}"
        )
    share = -(-requests // workers)
    shoppers = [_Shopper(parts.port, share, random.Random(f"{seed}/{number}")) for number in range(workers)]
    threads = [threading.Thread(target=shopper.run, name=f"load-{n}") for n, shopper in enumerate(shoppers)]
    for thread in threads:
        thread.start()
    result = LoadResult()
    for thread, shopper in zip(threads, shoppers, strict=True):
        thread.join()
        result.add(shopper.result)
    result.ended_at = time.time()
    return result


class _Shopper:
    """One connection, its cookies, the orders it made; takes steps until it has sent its share."""

    def __init__(self, port: int, share: int, chance: random.Random) -> None:
        self.connection = http.client.HTTPConnection("127.0.0.1", port, timeout=TIMEOUT_S)
        self.share = share
        self.chance = chance
        self.result = LoadResult()
        self.cookies: dict[str, str] = {}
        self.unpaid: list[int] = []
        self.paid: list[int] = []

    def run(self) -> None:
        # Every step once, then by chance: a small load still meets every failure.
        first = list(MIX)
        self.chance.shuffle(first)
        try:
            while self.result.total < self.share:
                step = first.pop() if first else self.chance.choices(list(MIX), list(MIX.values()))[0]
                method: Callable[[], None] = getattr(self, f"_{step}")
                method()
        except (OSError, http.client.HTTPException, ValueError) as failure:
            # Not repeated: whether the server counted it is what nobody knows.
            self.result.errors.append(
                f"{type(failure).__name__}: {failure} after {self.result.total} requests"
            )
        finally:
            self.connection.close()

    def _send(
        self,
        method: str,
        kind: str,
        *,
        order: int | None = None,
        query: str = "",
        body: bytes = b"",
        media: str = "",
    ) -> tuple[int, bytes]:
        path = PATHS[kind].format(id=order) + query
        headers = {}
        if self.cookies:
            headers["Cookie"] = "; ".join(f"{name}={value}" for name, value in self.cookies.items())
        if media:
            headers["Content-Type"] = media
        self.connection.request(method, path, body=body if media else None, headers=headers)
        response = self.connection.getresponse()
        content = response.read()
        for cookie in response.headers.get_all("Set-Cookie", []):
            name, _, value = cookie.partition(";")[0].partition("=")
            self.cookies[name] = value
        if response.status >= 500:
            # uvicorn hangs up after an exception, without having said so: the next request must not meet that.
            self.connection.close()
        self.result.counts[method, kind, response.status] += 1
        self.result.received_bytes[kind] += len(content)
        self.result.sent_bytes[kind] += len(body)
        return response.status, content

    def _send_json(self, kind: str, value: object, *, order: int | None = None) -> tuple[int, bytes]:
        return self._send(
            "POST", kind, order=order, body=json.dumps(value).encode(), media="application/json"
        )

    # -- the steps ------------------------------------------------------------------------------------

    def _list(self) -> None:
        self._send("GET", "orders")

    def _create(self) -> None:
        price = self.chance.randrange(100, 20_000)
        item = self.chance.choice(["tea", "coffee", "söt bulle", "kettle"])
        status, content = self._send_json("orders", {"item": item, "quantity": 1, "price_cents": price})
        if status == 201:
            self.unpaid.append(json.loads(content)["id"])

    def _create_invalid(self) -> None:
        self._send_json("orders", {"item": "tea", "quantity": -1, "price_cents": 100})

    def _own(self, orders: list[int]) -> int:
        if not orders and not self.unpaid:
            self._create()
        return self.chance.choice(orders or self.unpaid or [NO_SUCH_ORDER])

    def _read(self) -> None:
        self._send("GET", "order", order=self._own(self.unpaid + self.paid))

    def _read_missing(self) -> None:
        self._send("GET", "order", order=NO_SUCH_ORDER)

    def _pay(self) -> None:
        order = self._own(self.unpaid)
        # Without a body: obskit measures what reaches the app, and this endpoint has no reason to read one.
        status, _ = self._send("POST", "pay", order=order)
        if status == 200 and order in self.unpaid:
            self.unpaid.remove(order)
            self.paid.append(order)

    def _pay_again(self) -> None:
        if not self.paid:
            self._pay()
        self._send("POST", "pay", order=self._own(self.paid))

    def _export(self) -> None:
        self._send("GET", "export")

    def _upload(self) -> None:
        body = self.chance.randbytes(self.chance.randrange(1, 200_000))
        self._send("POST", "uploads", body=body, media="application/octet-stream")

    def _slow(self) -> None:
        self._send("GET", "slow", query="?seconds=0.05")

    def _fail(self) -> None:
        self._send("GET", "fail")

    def _healthz(self) -> None:
        self._send("GET", "healthz")

    def _nowhere(self) -> None:
        self._send("GET", "nowhere")

    def _wrong_method(self) -> None:
        self._send("DELETE", "orders")

    def _session(self) -> None:
        self._send_json("login", USER)
        self._send("GET", "me")
        self._send("POST", "logout")
        self.cookies.clear()

    def _me_unknown(self) -> None:
        self._send("GET", "me")

    def _login_refused(self) -> None:
        self._send_json("login", {**USER, "password": "wrong"})
