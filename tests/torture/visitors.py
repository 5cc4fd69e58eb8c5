"""The clients: constant load, each request under an id of its own, and what became of each, as its client saw it."""

from __future__ import annotations

import asyncio
import itertools
import random
import threading
import time
from contextlib import suppress
from hashlib import blake2b

from tests.torture import ledger

TIMEOUT_S = 40.0
PAUSE_S = (0.01, 0.05)
REQUESTS_PER_CONNECTION = 12
# How often each kind is asked for, out of the sum.
MIX = {"quick": 50, "slow": 20, "stream": 12, "echo": 12, "fail": 3}

ANSWERED, CUT, REFUSED = "answered", "cut", "refused"


def trace_of(request_id: str) -> str:
    """The trace id its client gives a request: known from the request id alone, so that lines can be held to it."""
    return blake2b(request_id.encode(), digest_size=16).hexdigest()


class Broken(Exception):
    """The connection ended, or what came over it is no whole answer."""


class Visitors:
    """Visitors of one server, in a thread of their own, until `stop`."""

    def __init__(self, name: str, port: int, number: int, seed: int, threaded: bool) -> None:
        """`threaded`: the app has /slow-in-a-thread."""
        self._name = name
        self._port = port
        self._number = number
        self._random = random.Random(seed)
        self._threaded = threaded
        self._planted = itertools.count(1)
        self._stopping = False
        self.fates: dict[str, str] = {}
        self.moments: dict[str, tuple[float, float]] = {}
        """When each request was sent and when its fate was known, in seconds since the epoch."""
        self.answered_at: list[float] = []
        """When each answer was whole, in the order in which they were (monotonic clock)."""
        self.wrong: list[str] = []
        """Answers that were whole and not what was asked for."""
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._run, name=f"visitors of {name}", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        """Returns when each request has met its fate."""
        self._stopping = True
        self._thread.join(TIMEOUT_S + 5)
        if self._thread.is_alive():
            raise RuntimeError(f"visitors of {self._name} still wait for an answer")

    def plant(self, kind: str) -> None:
        """Send one request from any thread; its fate is noted like all others'."""
        asyncio.run_coroutine_threadsafe(self._alone(kind), self._loop)

    def _run(self) -> None:
        asyncio.set_event_loop(self._loop)
        self._loop.run_until_complete(self._all())

    async def _all(self) -> None:
        await asyncio.gather(*(self._visit(number) for number in range(self._number)))
        others = asyncio.all_tasks() - {asyncio.current_task()}
        if others:  # planted ones
            await asyncio.wait(others, timeout=TIMEOUT_S)

    async def _visit(self, number: int) -> None:
        count = 0
        while not self._stopping:
            try:
                reader, writer = await asyncio.open_connection("127.0.0.1", self._port)
            except OSError:
                self._fate(f"{self._name}-{number}-{count}-refused", REFUSED, time.time())
                count += 1
                await asyncio.sleep(0.1)
                continue
            try:
                for _ in range(self._random.randint(1, REQUESTS_PER_CONNECTION)):
                    kind = self._random.choices(list(MIX), list(MIX.values()))[0]
                    count += 1
                    if not await self._ask(reader, writer, kind, f"{self._name}-{number}-{count}"):
                        break
                    await asyncio.sleep(self._random.uniform(*PAUSE_S))
                    if self._stopping:
                        break
            finally:
                writer.close()
                with suppress(OSError):
                    await writer.wait_closed()

    async def _alone(self, kind: str) -> None:
        request_id = f"{self._name}-{kind}-{next(self._planted)}"
        try:
            reader, writer = await asyncio.open_connection("127.0.0.1", self._port)
        except OSError:
            self._fate(request_id, REFUSED, time.time())
            return
        await self._ask(reader, writer, kind, request_id)
        writer.close()

    async def _ask(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, kind: str, request_id: str
    ) -> bool:
        """Send one request and note its fate. Returns whether the connection may be used again."""
        path, body, expected = self._request(kind, request_id)
        head = (
            f"{'POST' if body else 'GET'} {path} HTTP/1.1\r\nHost: torture\r\nX-Request-ID: {request_id}\r\n"
            f"traceparent: 00-{trace_of(request_id)}-00f067aa0ba902b7-01\r\nContent-Length: {len(body)}\r\n\r\n"
        )
        sent = time.time()
        try:
            async with asyncio.timeout(TIMEOUT_S):
                writer.write(head.encode() + body)
                await writer.drain()
                status, answer, again = await _whole_answer(reader)
        except (OSError, Broken, asyncio.IncompleteReadError):  # TimeoutError is an OSError
            self._fate(request_id, CUT, sent)
            return False
        self._fate(request_id, ANSWERED, sent)
        if kind in MIX and (status, answer) != ((500, answer) if kind == "fail" else (200, expected)):
            self.wrong.append(f"{request_id}: {status} {answer[:200]!r}")
        return again

    def _request(self, kind: str, request_id: str) -> tuple[str, bytes, bytes]:
        """Path, body and the answer to be had."""
        if kind == "slow":
            path = "slow-in-a-thread" if self._threaded and self._random.random() < 0.5 else "slow"
            return f"/{path}/{self._random.randint(50, 300)}", b"", f"{request_id} slow".encode()
        if kind == "stream":
            parts = [ledger.part(request_id, number) for number in range(ledger.PARTS)]
            return "/stream", b"", b"".join(parts)
        if kind == "echo":
            body = self._random.randbytes(self._random.choice((10, 2_000, 70_000)))
            return "/echo", body, body
        return f"/{kind}", b"", f"{request_id} {kind}".encode()

    def _fate(self, request_id: str, fate: str, sent: float) -> None:
        if fate == ANSWERED:
            self.answered_at.append(time.monotonic())
        self.fates[request_id] = fate
        self.moments[request_id] = (sent, time.time())


async def _whole_answer(reader: asyncio.StreamReader) -> tuple[int, bytes, bool]:
    """Status and body of an answer, and whether another may follow. Raises Broken for anything less than that."""
    first, *lines = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").rstrip().split("\r\n")
    headers = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in lines)}
    if headers.get("transfer-encoding") == "chunked":
        body = b""
        while size := await _chunk_size(reader):
            body += (await reader.readexactly(size + 2))[:-2]
        await reader.readexactly(2)
    elif "content-length" in headers:
        body = await reader.readexactly(int(headers["content-length"]))
    else:
        raise Broken("neither a length nor chunks")
    return int(first.split()[1]), body, headers.get("connection", "").lower() != "close"


async def _chunk_size(reader: asyncio.StreamReader) -> int:
    line = await reader.readline()
    if not line.endswith(b"\n"):
        raise Broken("cut between two chunks")
    return int(line, 16)
