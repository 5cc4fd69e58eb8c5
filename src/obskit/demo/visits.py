"""What users come to the shop for. A visit yields its requests one by one and is sent the answer to each."""

from __future__ import annotations

import json
import random
import threading
from collections.abc import Callable, Generator
from dataclasses import dataclass
from typing import Any

MAX_UPLOAD_BYTES = 200_000
ITEMS = (
    "stroopwafels",
    "espresso beans",
    "oat milk",
    "rye bread",
    "gouda, old",
    "jam (quince)",
    "tea, oolong",
)
PRICES_CENTS = (250, 499, 895, 1250, 1999, 4900)
DECLINED_PRICE_CENTS = 1213  # the payment gateway refuses amounts that end in 13


@dataclass(frozen=True)
class Request:
    """One request. `body` goes out as JSON unless it is bytes; a user may leave half-way through either body."""

    method: str
    path: str
    body: dict[str, Any] | bytes | None = None
    leaves_download: bool = False
    leaves_upload: bool = False

    @property
    def content(self) -> bytes:
        if self.body is None:
            return b""
        return self.body if isinstance(self.body, bytes) else json.dumps(self.body).encode()

    @property
    def content_type(self) -> str:
        if self.body is None:
            return ""
        return "application/octet-stream" if isinstance(self.body, bytes) else "application/json"


@dataclass(frozen=True)
class Answer:
    """Status, and the body if it was JSON."""

    status: int
    json: Any


Steps = Generator[Request, Answer | None, None]
Visit = Callable[[random.Random], Steps]


def browse(chance: random.Random) -> Steps:
    """Look at the latest orders, then at one or two of them."""
    listed = yield Request("GET", "/api/v1/orders")
    orders = listed.json if listed and isinstance(listed.json, list) else []
    for order in chance.sample(orders, min(len(orders), chance.randint(1, 2))):
        yield Request("GET", f"/api/v1/orders/{order['id']}")


def buy(chance: random.Random) -> Steps:
    """Order, look at it, pay; some cards are refused, some people press the button twice."""
    price = DECLINED_PRICE_CENTS if chance.random() < 0.15 else chance.choice(PRICES_CENTS)
    quantity = 1 if price == DECLINED_PRICE_CENTS else chance.randint(1, 4)
    made = yield Request(
        "POST", "/api/v1/orders", {"item": chance.choice(ITEMS), "quantity": quantity, "price_cents": price}
    )
    if made is None or not isinstance(made.json, dict) or "id" not in made.json:
        return
    path = f"/api/v1/orders/{made.json['id']}"
    yield Request("GET", path)
    yield Request("POST", f"{path}/pay")
    if chance.random() < 0.1:
        yield Request("POST", f"{path}/pay")


def mistype(chance: random.Random) -> Steps:
    """An order that cannot be: 422."""
    yield Request(
        "POST", "/api/v1/orders", {"item": "", "quantity": 0, "price_cents": chance.choice(PRICES_CENTS)}
    )


def log_in(chance: random.Random) -> Steps:
    """Log in, see oneself, log out; one in four gets the password wrong first."""
    if chance.random() < 0.25:
        yield Request("POST", "/login", {"username": "demo", "password": "dmeo"})
    yield Request("POST", "/login", {"username": "demo", "password": "demo"})
    yield Request("GET", "/me")
    yield Request("POST", "/logout")


def export(chance: random.Random) -> Steps:
    """Download all orders."""
    yield Request("GET", "/api/v1/orders/export")


def leave_export(chance: random.Random) -> Steps:
    """Start to download all orders, and leave half-way."""
    yield Request("GET", "/api/v1/orders/export", leaves_download=True)


def upload(chance: random.Random) -> Steps:
    yield Request("POST", "/api/v1/uploads", chance.randbytes(chance.randint(1_000, MAX_UPLOAD_BYTES)))


def leave_upload(chance: random.Random) -> Steps:
    """Send a third of what was announced, and leave."""
    yield Request("POST", "/api/v1/uploads", chance.randbytes(MAX_UPLOAD_BYTES), leaves_upload=True)


def report(chance: random.Random) -> Steps:
    """A report that takes a while: nothing is wrong with it, it is slow."""
    yield Request("GET", f"/api/v1/reports/slow?seconds={chance.uniform(0.2, 0.9):.2f}")


def get_lost(chance: random.Random) -> Steps:
    """An order that is not there, and a page that nobody ever made."""
    yield Request("GET", f"/api/v1/orders/{chance.randint(10_000_000, 99_999_999)}")
    yield Request("GET", chance.choice(("/wp-login.php", "/.env", "/admin", "/api/v2/orders")))


def fail(chance: random.Random) -> Steps:
    """The endpoint that always raises."""
    yield Request("GET", "/api/v1/fail")


def leave_events(chance: random.Random) -> Steps:
    """Watch orders come in as server-sent events for a moment (FastAPI only)."""
    yield Request("GET", "/api/v1/orders/events?after=0", leaves_download=True)


def stock(chance: random.Random) -> Steps:
    """Ask the warehouse, a mounted application (FastAPI only)."""
    yield Request("GET", f"/warehouse/stock/{chance.choice(('stroopwafels', 'jam'))}")


def year(chance: random.Random) -> Steps:
    """A report behind a regular expression (Django only)."""
    yield Request("GET", f"/api/v1/reports/{chance.choice((2024, 2025, 2026))}/")


_EVERYWHERE: dict[Visit, int] = {
    browse: 24,
    buy: 14,
    log_in: 3,
    export: 3,
    upload: 4,
    leave_export: 2,
    leave_upload: 1,
    report: 4,
    get_lost: 3,
    fail: 2,
    mistype: 2,
}
_ONLY: dict[str, dict[Visit, int]] = {
    "fastapi": {leave_events: 2, stock: 3},
    "django": {year: 2},
}


class Bag:
    """Visits in the proportions above, in random order; first one of each kind, so that all is soon seen."""

    def __init__(self, service: str) -> None:
        self._weights = {**_EVERYWHERE, **_ONLY.get(service, {})}
        self._random = random.Random(42)
        self._lock = threading.Lock()
        self._visits = list(self._weights)
        self._random.shuffle(self._visits)

    def draw(self) -> Visit:
        """The next visit; safe to call from any thread."""
        with self._lock:
            if not self._visits:
                self._visits = [visit for visit, weight in self._weights.items() for _ in range(weight)]
                self._random.shuffle(self._visits)
            return self._visits.pop()
