"""The clients: the same request to the bare server and to the one with obskit, one right behind the other."""

from __future__ import annotations

import asyncio
import itertools
import json
import random
import socket
import struct
import time
from collections import Counter
from contextlib import suppress

from websockets.asyncio.client import connect

from tests.reliability.longhaul import PART, PARTS

TIMEOUT_S = 30.0
IDLE_S = 0.8
"""Servers close what has been idle for two seconds (gunicorn) or more; what they may be closing is not used again."""

# How often each kind is asked for, out of the sum.
MIX = {"quick": 62, "slow": 6, "stream": 8, "missing": 6, "fail": 4, "talk": 5, "echo": 5, "leave": 4}
SOCKETS = {"ws": 3}


class Broken(OSError):
    """The connection ended, or what came over it is no whole answer."""


class Connection:
    """One connection, and when it was used last."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader, self.writer = reader, writer
        self.used = 0.0

    def hurry(self) -> None:
        """Acknowledge at once what comes next: uvicorn's sockets wait for that between two parts, 40 ms by default."""
        if hasattr(socket, "TCP_QUICKACK"):
            raw: socket.socket = self.writer.get_extra_info("socket")
            raw.setsockopt(socket.IPPROTO_TCP, socket.TCP_QUICKACK, 1)

    def reset(self) -> None:
        """Leave as a killed client does."""
        raw: socket.socket = self.writer.get_extra_info("socket")
        raw.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.writer.transport.abort()


class Client:
    """What is asked of one server, and what was answered."""

    def __init__(self, port: int) -> None:
        self.port = port
        self.asked: Counter[str] = Counter()
        """Requests that came to a server, by kind."""
        self.wrong: list[str] = []
        self._idle: list[Connection] = []

    async def ask(self, kind: str, number: int) -> float:
        """Ask once and read the answer to its end; the seconds it took, -1 where that says nothing."""
        began = time.perf_counter()
        try:
            async with asyncio.timeout(TIMEOUT_S):
                await (self._talk(number) if kind == "ws" else self._request(kind, number))
        except (OSError, EOFError, ValueError, TimeoutError) as error:
            self.wrong.append(f"{kind} {number}: {error!r}")
            return -1.0
        self.asked[kind] += 1
        return time.perf_counter() - began

    async def _talk(self, number: int) -> None:
        async with connect(f"ws://127.0.0.1:{self.port}/ws", compression=None) as websocket:
            await websocket.send(str(number))
            if await websocket.recv() != str(number):
                raise Broken("another's word")

    async def _request(self, kind: str, number: int) -> None:
        path = {"quick": f"/quick/{number}", "missing": f"/nowhere/{number}", "leave": "/endless"}.get(
            kind, "/" + kind.replace("-", "/")
        )
        body = random.randbytes(20_000) if kind == "echo" else b""
        head = (
            f"{'POST' if body else 'GET'} {path} HTTP/1.1\r\nHost: longhaul\r\nUser-Agent: visitor/{number}\r\n"
            f"Content-Length: {len(body)}\r\n\r\n"
        )
        request = head.encode() + body
        connection = await self._connection()
        try:
            try:
                connection.hurry()
                connection.writer.write(request)
                first = await connection.reader.readuntil(b"\r\n\r\n")
            except (ConnectionError, asyncio.IncompleteReadError) as error:
                if not connection.used or getattr(error, "partial", b""):
                    raise
                # Its server closed it just when we used it again: it has not seen the request.
                connection.writer.close()
                connection = Connection(*await asyncio.open_connection("127.0.0.1", self.port))
                connection.writer.write(request)
                first = await connection.reader.readuntil(b"\r\n\r\n")
            if kind == "leave":
                await connection.reader.readexactly(len(PART))
                connection.reset()
                return
            status, answer, again = await _rest(first, connection.reader)
        except BaseException:
            connection.writer.close()
            raise
        self._judge(kind, number, status, answer, body)
        if again and status < 500:  # uvicorn hangs up behind an exception, without having said so
            connection.used = time.monotonic()
            self._idle.append(connection)
        else:
            connection.writer.close()

    async def _connection(self) -> Connection:
        while self._idle:
            known = self._idle.pop()
            if time.monotonic() - known.used <= IDLE_S and not known.reader.at_eof():
                return known
            known.writer.close()
        return Connection(*await asyncio.open_connection("127.0.0.1", self.port))

    def _judge(self, kind: str, number: int, status: int, answer: bytes, body: bytes) -> None:
        right = {
            "quick": lambda: status == 200 and json.loads(answer)["number"] == number,
            "stream": lambda: (status, answer) == (200, PART * PARTS),
            "missing": lambda: status == 404,
            "fail": lambda: status == 500,
            "echo": lambda: (status, answer) == (200, body),
        }.get(kind, lambda: status == 200)
        if not right():
            self.wrong.append(f"{kind} {number}: {status} {answer[:80]!r}")

    def close(self) -> None:
        for one in self._idle:
            with suppress(OSError):
                one.writer.close()
        self._idle = []


class Pair:
    """Constant load on two servers; which of them is asked first changes every time."""

    def __init__(self, bare: int, installed: int, rate: float, seed: int, *, sockets: bool) -> None:
        self.bare, self.installed = Client(bare), Client(installed)
        self.took: list[tuple[float, float, float]] = []
        """Of each quick request: when (monotonic), seconds bare, seconds with obskit."""
        self._mix = {**MIX, **(SOCKETS if sockets else {})}
        self._pause_s = 1 / rate
        self._random = random.Random(seed)
        self._numbers = itertools.count(1)
        self._running: set[asyncio.Task[None]] = set()

    async def run(self, until: float) -> None:
        """Until this time of the monotonic clock; returns when all have their answers."""
        due = time.monotonic() + self._random.random() * self._pause_s  # not all pairs at once
        while (now := time.monotonic()) < until:
            if due > now:
                await asyncio.sleep(due - now)
            due = max(due + self._pause_s, now - 1.0)  # what could not be sent in time is not caught up with
            self.start(self._random.choices(list(self._mix), list(self._mix.values()))[0])
        await self.settle()

    def start(self, kind: str) -> None:
        task = asyncio.get_running_loop().create_task(self._both(kind, next(self._numbers)))
        self._running.add(task)
        task.add_done_callback(self._running.discard)

    async def settle(self) -> None:
        while self._running:
            await asyncio.wait(self._running)

    async def _both(self, kind: str, number: int) -> None:
        if number % 2:
            bare = await self.bare.ask(kind, number)
            installed = await self.installed.ask(kind, number)
        else:
            installed = await self.installed.ask(kind, number)
            bare = await self.bare.ask(kind, number)
        if kind == "quick" and bare > 0 and installed > 0:
            self.took.append((time.monotonic(), bare, installed))


async def _rest(first: bytes, reader: asyncio.StreamReader) -> tuple[int, bytes, bool]:
    """Status and body of an answer of which the head has come, and whether another may follow."""
    start, *lines = first.decode("latin-1").rstrip().split("\r\n")
    headers = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in lines)}
    if headers.get("transfer-encoding", "").lower() == "chunked":
        parts = []
        while size := int(await reader.readuntil(b"\r\n"), 16):
            parts.append((await reader.readexactly(size + 2))[:-2])
        await reader.readexactly(2)
        body = b"".join(parts)
    elif "content-length" in headers:
        body = await reader.readexactly(int(headers["content-length"]))
    else:
        raise Broken(f"neither a length nor chunks: {first[:80]!r}")
    return int(start.split()[1]), body, headers.get("connection", "").lower() != "close"
