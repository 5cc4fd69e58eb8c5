"""A few simulated users of the shop: each walks through visits, request by request, at a common bounded rate."""

from __future__ import annotations

import http.client
import json
import random
import socket
import struct
import threading
import time
from dataclasses import dataclass
from typing import Any

from obskit.demo.visits import Answer, Bag, Request

TIMEOUT_S = 10.0
MAX_BACKLOG_S = 1.0
READ_BEFORE_LEAVING = 64

_USER_AGENTS = (
    "Mozilla/5.0 (X11; Linux x86_64; rv:140.0) Gecko/20100101 Firefox/140.0",
    "Mozilla/5.0 (iPhone; CPU iPhone OS 18_5 like Mac OS X) AppleWebKit/605.1.15",
    "shop-app/4.2 (Android 15)",
    "partner-sync/1.9",
)


@dataclass
class Tally:
    """What the users did, counted by themselves; for the summary's comparison and nothing else."""

    sent: int = 0
    """Requests whose headers left for the service, however they ended."""
    left: int = 0
    """Of these, those in which the user left on purpose."""
    unanswered: int = 0
    """Of these, those that found no answer although the user waited."""
    not_connected: int = 0
    """Attempts that never reached the service; not part of `sent`."""


class Pacer:
    """Hands out moments to send at, `rate` a second over all users, unevenly as people are."""

    def __init__(self, rate: float, stop: threading.Event) -> None:
        self._interval = 1.0 / rate
        self._stop = stop
        self._lock = threading.Lock()
        self._next = time.monotonic()
        self._random = random.Random(7)

    def wait(self) -> bool:
        """Sleep until the caller's turn; false when the users shall stop."""
        with self._lock:
            # When the service is slower than the rate, some of what was missed is made up for, not all of it.
            turn = max(self._next, time.monotonic() - MAX_BACKLOG_S)
            self._next = turn + self._interval * self._random.uniform(0.5, 1.5)
        return not self._stop.wait(max(0.0, turn - time.monotonic()))


class Traffic:
    """Users in threads. `start`, then `stop` and `join`; `tally` may be read at any time."""

    def __init__(self, service: str, host: str, port: int, rate: float) -> None:
        self.tally = Tally()
        self._address = (host, port)
        self._lock = threading.Lock()
        self._stop = threading.Event()
        self._pacer = Pacer(rate, self._stop)
        self._bag = Bag(service)
        # Enough of them that a slow report of one does not slow down the rest.
        number = min(24, max(6, round(rate / 5)))
        self._users = [
            threading.Thread(target=self._live, args=(n,), name=f"obskit-demo-user-{n}", daemon=True)
            for n in range(number)
        ]

    def first_order(self) -> None:
        """One order before the doors open. Raises OSError when the service does not answer."""
        body = {"item": "stroopwafels", "quantity": 2, "price_cents": 499}
        answer = _User(self, random.Random(0)).send(Request("POST", "/api/v1/orders", body))
        if answer is None or answer.status != 201:
            raise OSError(f"the first order was answered with {answer.status if answer else 'nothing'}")

    def start(self) -> None:
        for user in self._users:
            user.start()

    def stop(self) -> None:
        """No user begins another request; those under way go on."""
        self._stop.set()

    def join(self, timeout_s: float) -> bool:
        """Wait for the users to finish, at most `timeout_s` seconds; whether they all did."""
        deadline = time.monotonic() + timeout_s
        for user in self._users:
            if user.ident is not None:
                user.join(max(0.0, deadline - time.monotonic()))
        return not any(user.is_alive() for user in self._users)

    def count(self, **more: int) -> None:
        with self._lock:
            for name, number in more.items():
                setattr(self.tally, name, getattr(self.tally, name) + number)

    def _live(self, number: int) -> None:
        user = _User(self, random.Random(number))
        while not self._stop.is_set():
            visit, answer = self._bag.draw()(user.random), None
            try:
                request = next(visit)
                while self._pacer.wait():
                    answer = user.send(request)
                    request = visit.send(answer)
            except StopIteration:
                continue
            return


class _User:
    """One user: a cookie jar, a user agent, and a way of sending."""

    def __init__(self, traffic: Traffic, chance: random.Random) -> None:
        self.random = chance
        self._traffic = traffic
        self._agent = chance.choice(_USER_AGENTS)
        # As a proxy in front would tell them apart: else all of them are one client who repeats himself.
        self._home = f"198.51.100.{chance.randint(1, 254)}"
        self._cookies: dict[str, str] = {}

    def send(self, request: Request) -> Answer | None:
        """Send it and read the answer; None if the user left, or nothing came back.

        A connection of its own each time: one that the server closes at the moment it is used again would leave
        open whether the request arrived.
        """
        connection = http.client.HTTPConnection(*self._traffic._address, timeout=TIMEOUT_S)
        try:
            connection.connect()
        except OSError:
            connection.close()
            self._traffic.count(not_connected=1)
            return None
        leaves = request.leaves_download or request.leaves_upload
        self._traffic.count(sent=1, left=int(leaves))
        try:
            return self._exchange(connection, request)
        except (OSError, http.client.HTTPException):
            if not leaves:
                self._traffic.count(unanswered=1)
            return None
        finally:
            connection.close()

    def _exchange(self, connection: http.client.HTTPConnection, request: Request) -> Answer | None:
        content = request.content
        headers = self._headers(request)
        if request.leaves_upload:
            connection.putrequest(request.method, request.path)
            for name, value in {**headers, "Content-Length": str(len(content))}.items():
                connection.putheader(name, value)
            connection.endheaders()
            connection.send(content[: len(content) // 3])
            return None
        connection.request(request.method, request.path, content or None, headers)
        if request.leaves_download and connection.sock is not None:
            # Not a polite end of connection but a reset, as from a phone that loses its network.
            connection.sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        response = connection.getresponse()
        for cookie in response.headers.get_all("Set-Cookie") or []:
            name, _, value = cookie.partition(";")[0].partition("=")
            self._cookies[name] = value
        if request.leaves_download:
            response.read(READ_BEFORE_LEAVING)
            return None
        return Answer(response.status, _json(response.read()))

    def _headers(self, request: Request) -> dict[str, str]:
        headers = {
            "User-Agent": self._agent,
            "Accept": "*/*",
            "Connection": "close",
            "X-Forwarded-For": self._home,
        }
        if request.content_type:
            headers["Content-Type"] = request.content_type
        if self._cookies:
            headers["Cookie"] = "; ".join(f"{name}={value}" for name, value in self._cookies.items())
        if self.random.random() < 0.4:
            headers["X-Request-ID"] = f"web-{self.random.getrandbits(48):012x}"
        if self.random.random() < 0.4:
            trace_id, span_id = self.random.getrandbits(128) or 1, self.random.getrandbits(64) or 1
            headers["traceparent"] = f"00-{trace_id:032x}-{span_id:016x}-01"
        return headers


def _json(body: bytes) -> Any:
    try:
        return json.loads(body)
    except ValueError:
        return None
