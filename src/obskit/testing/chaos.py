"""A client that plays one described request as production would: cut, doubled, retried, slow, out of order.

Raw sockets, one connection per attempt; loopback servers only.
"""

from __future__ import annotations

import json as _json
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from email.utils import parsedate_to_datetime
from threading import Barrier, Lock
from time import sleep, time
from typing import Any, Literal
from urllib.parse import urlencode

from obskit.testing.loopback import loopback_address
from obskit.testing.wire import Connection, Seen

# How long a client that leaves before the answer stays, unless told what to wait for: the server has the request by
# then, and a handler that takes this long is cut in the middle.
LEAVE_AFTER_S = 0.1


class Chaos:
    """One client with its cookies, and the server it plays with.

    Raises ChaosRefused, saying what was seen, when `url` is not on loopback.
    """

    def __init__(
        self, url: str, *, timeout_s: float = 10.0, headers: Mapping[str, str] | None = None
    ) -> None:
        """`timeout_s` is how long it waits for a server that stays silent; `headers` go with every request."""
        self._family, self._address, self._host = loopback_address(url)
        self.url = url.rstrip("/")
        self.timeout_s = timeout_s
        self.headers = dict(headers or {})
        self.cookies: dict[str, str] = {}
        """What the server has set, and what you set: the next requests send it."""
        self._lock = Lock()

    def request(
        self,
        method: str,
        path: str,
        *,
        headers: Mapping[str, str] | None = None,
        body: bytes | str = b"",
        json: Any = None,
        form: Mapping[str, Any] | None = None,
    ) -> Request:
        """Describe a request, to be played as often as you like. Raises ValueError for what is no HTTP."""
        fields = dict(headers or {})
        if json is not None:
            body = _json.dumps(json)
            fields.setdefault("Content-Type", "application/json")
        elif form is not None:
            body = urlencode(form)
            fields.setdefault("Content-Type", "application/x-www-form-urlencoded")
        return Request(self, method, path, fields, body.encode() if isinstance(body, str) else body)

    def get(self, path: str, **described: Any) -> Seen:
        """Send a GET as any client would; the arguments are those of `request`."""
        return self.request("GET", path, **described).send()

    def post(self, path: str, **described: Any) -> Seen:
        """Send a POST as any client would; the arguments are those of `request`."""
        return self.request("POST", path, **described).send()

    def out_of_order(self, *requests: Request) -> list[Seen]:
        """Begin these requests in the order given and complete them from the last to the first.

        Each is completed, and answered, before the one that was begun earlier. The answers come in the order given.
        A server that reads one connection at a time answers none of them: `ended` is ``timeout``.
        """
        begun: list[Connection] = []
        answers: list[Seen] = []
        try:
            for one in requests:
                connection = self._connect()
                begun.append(connection)
                connection.send(one._bytes()[:-1])
            for one, connection in zip(reversed(requests), reversed(begun), strict=True):
                connection.send(one._bytes()[-1:])
                answers.append(self._keep(connection.read(one.method)))
        finally:
            for connection in begun:
                connection.__exit__(None, None, None)
        return answers[::-1]

    def _connect(self, *, small_buffer: bool = False) -> Connection:
        try:
            return Connection(self._family, self._address, self.timeout_s, small_buffer=small_buffer)
        except OSError as error:
            raise ConnectionError(f"nobody answers at {self.url}: {error}") from error

    def _keep(self, seen: Seen) -> Seen:
        """Take over the cookies of an answer."""
        for field in seen.cookies:
            pair, *attributes = field.split(";")
            name, found, value = pair.strip().partition("=")
            if found and name:
                with self._lock:
                    if _expired(attributes):
                        self.cookies.pop(name, None)
                    else:
                        self.cookies[name] = value
        return seen


class Request:
    """One described request, from `Chaos.request`; each verb plays it once more, and tells what the client saw."""

    def __init__(
        self, client: Chaos, method: str, path: str, headers: Mapping[str, str], body: bytes
    ) -> None:
        fields = {**client.headers, **headers}
        head = [method, path, *fields, *fields.values()]
        if (
            not path.startswith("/")
            or not method.isalpha()
            or any(set("\r\n\0") & set(text) for text in head)
        ):
            raise ValueError(
                f"request {method!r} {path!r}: expected a method, a path that begins with '/', and "
                "headers without line breaks"
            )
        self.client = client
        self.method = method.upper()
        self.path = path.replace(" ", "%20")
        self.body = body
        self._headers = fields

    # ---- a client that behaves ------------------------------------------------------------------------

    def send(self) -> Seen:
        """Send it whole, and read the whole answer."""
        with self.client._connect() as connection:
            connection.send(self._bytes())
            return self._read(connection)

    def slow_body(self, chunk: int = 1, pause_s: float = 0.01) -> Seen:
        """Send the body `chunk` bytes at a time with pauses, as a phone on a bad line does."""
        if chunk < 1:
            raise ValueError(f"chunk must be at least 1 byte, saw {chunk}")
        with self.client._connect() as connection:
            connection.send(self._head())
            for start in range(0, len(self.body), chunk):
                sleep(pause_s)
                if not connection.send(self.body[start : start + chunk]):
                    break
            return self._read(connection)

    def half_close(self) -> Seen:
        """Send it whole, close the sending side, and read the answer. Some servers take that for leaving."""
        with self.client._connect() as connection:
            connection.send(self._bytes())
            connection.half_close()
            return self._read(connection)

    # ---- one that breaks off --------------------------------------------------------------------------

    def cut_upload(self, after: int, *, how: Literal["reset", "half_close"] = "reset") -> Seen:
        """Send the head and `after` bytes of the body, then break off.

        With ``half_close`` the client stays to read what the server makes of it.
        """
        if not 0 <= after < len(self.body):
            raise ValueError(f"after={after} cuts nothing off a body of {len(self.body)} bytes")
        with self.client._connect() as connection:
            connection.send(self._head() + self.body[:after])
            if how == "half_close":
                connection.half_close()
                return self._read(connection)
            connection.reset()
            return Seen(None, "left")

    def short_body(self, missing: int = 1) -> Seen:
        """Declare `missing` more bytes than the body has, send what there is, and read the answer."""
        if missing < 1:
            raise ValueError(f"missing must be at least 1 byte, saw {missing}")
        with self.client._connect() as connection:
            connection.send(self._head(declared=len(self.body) + missing) + self.body)
            connection.half_close()  # or the server would wait for the rest as long as it has patience
            return self._read(connection)

    def cut_download(
        self, after: int = 0, *, until: Callable[[], object] | None = None, wait_s: float = LEAVE_AFTER_S
    ) -> Seen:
        """Send it whole, and reset the connection when `after` bytes of the answer (its head included) are there.

        With ``after=0`` the client leaves before the answer: when `until` returns (such as ``started.wait``, of an
        Event that the handler sets), else after `wait_s` seconds or with the answer's first byte. An answer that
        the server got rid of before that was complete for it: cut one that streams, or takes its time.
        """
        with self.client._connect(small_buffer=True) as connection:
            connection.send(self._bytes())
            if after > 0:
                seen = self._read(connection, after)
            else:
                if until is not None:
                    until()
                else:
                    connection.wait_readable(wait_s)
                seen = Seen(None, "left")
            connection.reset()
            return seen

    # ---- one that asks again --------------------------------------------------------------------------

    def doubled(self, times: int = 2) -> list[Seen]:
        """Send it `times` times at once: all are complete but for a last byte, which they send together."""
        if times < 2:
            raise ValueError(f"times must be at least 2, saw {times}")
        together = Barrier(times)
        with ThreadPoolExecutor(times) as threads:
            running = [threads.submit(self._with_others, together) for _ in range(times)]
            return [one.result() for one in running]

    def _with_others(self, together: Barrier) -> Seen:
        try:
            with self.client._connect() as connection:
                whole = self._bytes()
                connection.send(whole[:-1])
                together.wait(self.client.timeout_s)
                connection.send(whole[-1:])
                return self._read(connection)
        except BaseException:
            together.abort()  # the others must not wait for one that is not coming
            raise

    def retried(
        self,
        after: Literal["abort", "answer"] = "answer",
        *,
        times: int = 1,
        pause_s: float = 0.0,
        until: Callable[[], object] | None = None,
        wait_s: float = LEAVE_AFTER_S,
    ) -> list[Seen]:
        """Send it, then `times` times again, `pause_s` seconds apart.

        ``after="abort"``: the first attempt leaves before its answer, as in `cut_download` (`until` and `wait_s` are
        those); ``after="answer"``: it gets its answer, whatever that was.
        """
        if after not in ("abort", "answer") or times < 1:
            raise ValueError(
                f"saw after={after!r}, times={times}; expected 'abort' or 'answer', and 1 or more"
            )
        first = self.cut_download(until=until, wait_s=wait_s) if after == "abort" else self.send()
        seen = [first]
        for _ in range(times):
            sleep(pause_s)
            seen.append(self.send())
        return seen

    def refresh(self, *, until: Callable[[], object] | None = None, wait_s: float = LEAVE_AFTER_S) -> Seen:
        """Leave in the middle of it and ask again at once, as F5 does; tells what the second one saw."""
        return self.retried("abort", until=until, wait_s=wait_s)[-1]

    # ---- bytes ----------------------------------------------------------------------------------------

    def _read(self, connection: Connection, at_most: int | None = None) -> Seen:
        return self.client._keep(connection.read(self.method, at_most))

    def _bytes(self) -> bytes:
        return self._head() + self.body

    def _head(self, declared: int | None = None) -> bytes:
        length = len(self.body) if declared is None else declared
        fields = {"Host": self.client._host, "User-Agent": "obskit-chaos", "Accept": "*/*"}
        fields["Connection"] = "close"
        if length or self.method not in ("GET", "HEAD", "OPTIONS", "DELETE"):
            fields["Content-Length"] = str(length)
        with self.client._lock:
            if self.client.cookies:
                fields["Cookie"] = "; ".join(f"{name}={value}" for name, value in self.client.cookies.items())
        given = {name.lower() for name in self._headers}
        fields = {name: value for name, value in fields.items() if name.lower() not in given}
        lines = [f"{name}: {value}" for name, value in {**fields, **self._headers}.items()]
        return "\r\n".join([f"{self.method} {self.path} HTTP/1.1", *lines, "", ""]).encode("utf-8")


def _expired(attributes: list[str]) -> bool:
    """Whether a cookie is there to be deleted. Max-Age wins over Expires (RFC 6265 §5.3)."""
    known = {
        key.strip().lower(): value.strip() for key, _, value in (one.partition("=") for one in attributes)
    }
    if known.get("max-age"):
        return known["max-age"].startswith(("0", "-"))
    try:
        return "expires" in known and parsedate_to_datetime(known["expires"]).timestamp() < time()
    except (TypeError, ValueError):
        return False
