"""Ordinary visits: whole sequences of what browsers, scripts, pollers and health checks ask a shop for.

Every visit is another client's: an address of its own, or one that it shares with its office and cookies of its own.
None of them is anybody's fault, so none may leave a finding.
"""

from __future__ import annotations

import json
import random
import threading
from collections.abc import Callable, Mapping
from typing import Any

from .wire import Answer, Wire, chunked_bytes, request_bytes

AGENTS = (
    "Mozilla/5.0 (X11; Linux x86_64; rv:140.0) Gecko/20100101 Firefox/140.0",
    "Mozilla/5.0 (Windows NT 10.0; Win64; x64) AppleWebKit/537.36 (KHTML, like Gecko) Chrome/139.0 Safari/537.36",
    "Mozilla/5.0 (iPhone; CPU iPhone OS 18_5 like Mac OS X) AppleWebKit/605.1.15 Version/18.5 Mobile Safari/604.1",
    "python-httpx/0.28.1",
    "curl/8.14.1",
)
BROWSER = {"Accept": "text/html,application/json;q=0.9,*/*;q=0.8", "Accept-Language": "de,en;q=0.7"}
USER = {"username": "demo", "password": "demo"}
NO_SUCH_ORDER = 999_999_999
# Everybody at this office comes from one address, with one browser, and wants the same.
OFFICE = "127.9.9.9"
OFFICE_ORDER = json.dumps({"item": "coffee", "quantity": 2, "price_cents": 1299}).encode()


class Visitor:
    """One client: its address, browser, cookies and connection. Counts what it was answered."""

    def __init__(
        self, port: int, name: str, address: str, chance: random.Random, *, framework: str = ""
    ) -> None:
        self.name = name
        self.chance = chance
        self.framework = framework
        self.address = address
        self.port = port
        self.wire = Wire(port, address)
        self.agent = chance.choice(AGENTS)
        self.cookies: dict[str, str] = {}
        self.answered = 0
        self._asked = 0

    def __enter__(self) -> Visitor:
        return self

    def __exit__(self, *_: object) -> None:
        self.wire.close()

    def tab(self, name: str) -> Visitor:
        """A second tab of the same browser: another connection, the same cookies."""
        tab = Visitor(self.port, f"{self.name}-{name}", self.address, self.chance, framework=self.framework)
        tab.agent, tab.cookies = self.agent, self.cookies
        return tab

    def headers(self, more: Mapping[str, str] | None = None) -> dict[str, str]:
        self._asked += 1
        headers = {"User-Agent": self.agent, **BROWSER, "X-Request-ID": f"{self.name}-{self._asked}"}
        if self.cookies:
            headers["Cookie"] = "; ".join(f"{name}={value}" for name, value in self.cookies.items())
        return {**headers, **(more or {})}

    def ask(self, method: str, path: str, body: bytes | None = None, /, **more: str) -> Answer:
        """One request; `more` are headers, written with underscores."""
        headers = self.headers({name.replace("_", "-"): value for name, value in more.items()})
        return self.taken(self.wire.exchange(request_bytes(method, path, headers, body), method))

    def get(self, path: str, **more: str) -> Answer:
        return self.ask("GET", path, **more)

    def post(self, path: str, value: Any = None, /, **more: str) -> Answer:
        body = value if isinstance(value, bytes) else json.dumps(value).encode()
        return self.ask("POST", path, body, Content_Type="application/json", **more)

    def together(self, paths: list[str]) -> list[Answer]:
        """GET all of them in one packet."""
        requests = [(request_bytes("GET", path, self.headers()), "GET") for path in paths]
        return [self.taken(answer) for answer in self.wire.pipeline(requests)]

    def taken(self, answer: Answer) -> Answer:
        self.answered += 1
        for name, value in answer.cookies.items():
            if value in ("", '""'):
                self.cookies.pop(name, None)
            else:
                self.cookies[name] = value
        return answer

    def order(self, **changes: Any) -> int:
        """Places an order nobody has placed before; returns its number."""
        chance = self.chance
        item = f"{chance.choice(['tea', 'coffee', 'söt bulle', 'kettle'])} {self.name} {self._asked}"
        order = {
            "item": item,
            "quantity": chance.randrange(1, 5),
            "price_cents": 100 * chance.randrange(1, 200),
        }
        answer = self.post("/api/v1/orders", {**order, **changes})
        assert answer.status == 201, f"{self.name}: {answer}"
        return int(json.loads(answer.body)["id"])


# -- the visits -------------------------------------------------------------------------------------------


def look_around(visitor: Visitor) -> None:
    """Lists, single orders, HEAD before GET, a page that is not there, back to the list."""
    visitor.get("/api/v1/orders")
    for _ in range(visitor.chance.randrange(2, 8)):
        order = visitor.chance.randrange(1, 40)
        visitor.ask("HEAD", f"/api/v1/orders/{order}")
        visitor.get(f"/api/v1/orders/{order}")
    visitor.get(f"/api/v1/orders/{NO_SUCH_ORDER}")
    visitor.get("/favicon.ico")
    visitor.get("/api/v1/orders")


def look_again(visitor: Visitor) -> None:
    """A browser that has it already: conditional requests, and the same page a second time."""
    first = visitor.get("/static/index.html" if visitor.framework == "fastapi" else "/api/v1/orders/1")
    etag, modified = first.headers.get("etag", '"none"'), first.headers.get("last-modified", "")
    path = "/static/index.html" if visitor.framework == "fastapi" else "/api/v1/orders/1"
    for _ in range(4):
        again = visitor.get(path, If_None_Match=etag, **({"If_Modified_Since": modified} if modified else {}))
        assert again.status == (304 if "etag" in first.headers else first.status), again
    visitor.get(path, Cache_Control="no-cache")


def parts_of_a_file(visitor: Visitor) -> None:
    """Seeking in a download: ranges of one file, one after the other."""
    path = "/static/index.html" if visitor.framework == "fastapi" else "/api/v1/orders/2"
    for start in range(0, 300, 100):
        visitor.get(path, Range=f"bytes={start}-{start + 99}")
    visitor.get(path, Range="bytes=-50")
    visitor.get(path, Range="bytes=0-0,-1")


def buy(visitor: Visitor) -> None:
    """A few different orders by one customer, each paid and looked at."""
    for _ in range(visitor.chance.randrange(1, 4)):
        order = visitor.order()
        visitor.get(f"/api/v1/orders/{order}")
        assert visitor.ask("POST", f"/api/v1/orders/{order}/pay").status == 200
        visitor.get(f"/api/v1/orders/{order}")


def buy_declined(visitor: Visitor) -> None:
    """A card that is refused (amounts that end in 13 cents), and another order after it."""
    order = visitor.order(price_cents=1113, quantity=1)
    assert visitor.ask("POST", f"/api/v1/orders/{order}/pay").status == 402
    visitor.order()


def the_same_from_the_office(visitor: Visitor) -> None:
    """What many people order alike, behind one address: their cookies tell them apart."""
    visitor.cookies["visitor"] = visitor.name
    visitor.get("/api/v1/orders")
    assert visitor.post("/api/v1/orders", OFFICE_ORDER).status == 201


def fill_in_a_form(visitor: Visitor) -> None:
    """Refused, refused again for the same, then corrected."""
    bad = {"item": "tea", "quantity": -1, "price_cents": 100}
    assert visitor.post("/api/v1/orders", bad).status == 422
    assert visitor.post("/api/v1/orders", bad).status == 422
    visitor.order()


def mistakes(visitor: Visitor) -> None:
    """Wrong method, wrong media type, not JSON, no such page: twice the same, as scanners and old links do."""
    for _ in range(2):
        assert visitor.ask("DELETE", "/api/v1/orders").status == 405
        assert visitor.ask("POST", "/no/such/page", b"{}").status in (404, 405)
        assert visitor.ask("POST", "/api/v1/orders", b"{", Content_Type="application/json").status == 422
        visitor.get("/wp-login.php")
        visitor.ask("OPTIONS", "/api/v1/orders")


def log_in_and_out(visitor: Visitor) -> None:
    """A whole session; the other tab hears of the log-out only when it asks again."""
    assert visitor.get("/me").status == 401
    assert visitor.post("/login", USER).status == 200
    other = visitor.tab("other-tab")
    with other:
        for _ in range(3):
            assert visitor.get("/me").status == 200
            assert other.get("/me").status == 200
        other.cookies = dict(visitor.cookies)
        assert visitor.ask("POST", "/logout").status == 204
        other.get("/me")
        other.get("/me")
    visitor.answered += other.answered
    assert visitor.get("/me").status == 401


def log_in_twice(visitor: Visitor) -> None:
    """A wrong password, then the right one; and once more on top of the session that is there."""
    assert visitor.post("/login", {**USER, "password": "guess"}).status == 401
    assert visitor.post("/login", USER).status == 200
    stale = visitor.tab("stale-tab")
    with stale:
        stale.cookies = dict(visitor.cookies)
        assert visitor.post("/login", USER).status == 200
        assert visitor.get("/me").status == 200
        stale.get("/me")
    visitor.answered += stale.answered
    assert visitor.ask("POST", "/logout").status == 204


def poll(visitor: Visitor) -> None:
    """The same GET again and again, by design."""
    path = visitor.chance.choice(["/api/v1/orders", "/api/v1/orders/3", "/api/v1/reports/slow?seconds=0"])
    for _ in range(visitor.chance.randrange(20, 60)):
        visitor.get(path)


def check_health(visitor: Visitor) -> None:
    """One and the same prober for all the time."""
    visitor.agent, visitor.cookies = "kube-probe/1.33", {}
    for _ in range(visitor.chance.randrange(10, 40)):
        assert visitor.get("/healthz").status == 200
        visitor.ask("HEAD", "/healthz")


def two_tabs(visitor: Visitor) -> None:
    """Two tabs of one browser that load the same page at the same time."""
    tab = visitor.tab("second")
    path = visitor.chance.choice(
        ["/api/v1/orders", "/api/v1/reports/slow?seconds=0.05", "/api/v1/orders/export"]
    )
    if path.endswith("export") and visitor.chance.random() > 0.02:
        path = "/api/v1/orders/1"
    with tab:
        thread = threading.Thread(target=tab.get, args=(path,))
        thread.start()
        visitor.get(path)
        thread.join()
    visitor.answered += tab.answered


def pipelined(visitor: Visitor) -> None:
    """Several requests in one packet, some of them alike."""
    orders = [f"/api/v1/orders/{visitor.chance.randrange(1, 30)}" for _ in range(4)]
    visitor.together(["/healthz", *orders, orders[0], "/api/v1/orders"])
    visitor.together(["/healthz", "/healthz"])


def wait_for_a_report(visitor: Visitor) -> None:
    """Slow pages, now and then one of more than a second."""
    seconds = 1.05 if visitor.chance.random() < 0.03 else 0.05
    assert visitor.get(f"/api/v1/reports/slow?seconds={seconds}").status == 200
    visitor.get("/api/v1/orders")


def upload(visitor: Visitor) -> None:
    """Files of one customer, each another one; one in pieces without a declared length, one after 100 Continue."""
    for _ in range(2):
        body = visitor.chance.randbytes(visitor.chance.randrange(1, 120_000))
        assert visitor.ask("POST", "/api/v1/uploads", body).status == 201
    parts = [visitor.chance.randbytes(900) for _ in range(3)]
    chunks = chunked_bytes("POST", "/api/v1/uploads", visitor.headers(), parts)
    visitor.taken(visitor.wire.exchange(chunks, "POST"))
    expecting = visitor.headers({"Expect": "100-continue"})
    whole = request_bytes("POST", "/api/v1/uploads", expecting, visitor.chance.randbytes(2_000))
    assert visitor.taken(visitor.wire.exchange(whole, "POST")).status == 201


def meet_an_error(visitor: Visitor) -> None:
    """A page that fails. Whoever has seen it goes elsewhere."""
    assert visitor.get("/api/v1/fail").status == 500
    visitor.get("/api/v1/orders")


def follow_events(visitor: Visitor) -> None:
    """Server-sent events to the end that the client asked for; and again from where it was."""
    if visitor.framework != "fastapi":
        return look_around(visitor)
    for after in (0, 2):
        answer = visitor.get(f"/api/v1/orders/events?after={after}&limit=2", Accept="text/event-stream")
        assert answer.body.startswith(b"retry:"), answer
    visitor.get("/warehouse/stock/tea")
    return None


def retry_by_the_book(visitor: Visitor) -> None:
    """An API client whose every order has an Idempotency-Key of its own, also for the same order."""
    order = {"item": f"tea {visitor.name}", "quantity": 1, "price_cents": 300}
    for number in range(2):
        assert visitor.post("/api/v1/orders", order, Idempotency_Key=f"{visitor.name}-{number}").status == 201


Visit = Callable[[Visitor], None]
# How often each visit is made, out of the sum.
VISITS: Mapping[Visit, int] = {
    look_around: 160,
    look_again: 110,
    parts_of_a_file: 60,
    poll: 90,
    check_health: 60,
    two_tabs: 60,
    pipelined: 130,
    buy: 50,
    buy_declined: 12,
    the_same_from_the_office: 40,
    fill_in_a_form: 40,
    mistakes: 50,
    wait_for_a_report: 40,
    upload: 40,
    meet_an_error: 25,
    follow_events: 15,
    retry_by_the_book: 30,
    log_in_and_out: 5,
    log_in_twice: 2,
}


def address_of(number: int) -> str:
    """A loopback address for every visit: 16 million of them, none of them 127.0.x.x."""
    return f"127.{1 + number // 62_500 % 8}.{number // 250 % 250}.{1 + number % 250}"


def make_visit(port: int, framework: str, number: int, seed: int) -> tuple[str, int]:
    """Make the visit of this number; returns its name and how many answers it got."""
    chance = random.Random(f"{seed}/{framework}/{number}")
    visit = first_visit(number) or chance.choices(list(VISITS), list(VISITS.values()))[0]
    name = f"{framework}-{visit.__name__}-{number}"
    address = {the_same_from_the_office: OFFICE, check_health: "127.0.0.1"}.get(visit, address_of(number))
    with Visitor(port, name, address, chance, framework=framework) as visitor:
        if visit is the_same_from_the_office:
            visitor.agent = AGENTS[0]
        visit(visitor)
        return visit.__name__, visitor.answered


def first_visit(number: int) -> Visit | None:
    """Each kind once, in order, so that also a short run has all of them."""
    kinds = list(VISITS)
    return kinds[number] if number < len(kinds) else None
