"""A receiver that answers at once and counts: spans of OTLP/HTTP, transactions of Sentry's envelopes, by sender.

    python -m benchmarks.cost.sink [CORE]

Prints its address. A sender is the number in the path (`/7/v1/traces`, `/api/7/envelope/`); `GET /counts` answers a
JSON object of counts by number. It decodes no span, only skips over them: what it costs is on another core.
"""

from __future__ import annotations

import asyncio
import gzip
import json
import os
import sys
from collections import Counter
from typing import ClassVar


def _varint(data: memoryview, at: int) -> tuple[int, int]:
    number = shift = 0
    while True:
        byte = data[at]
        at += 1
        number |= (byte & 0x7F) << shift
        if byte < 0x80:
            return number, at
        shift += 7


def _inner(data: memoryview, field: int) -> list[memoryview]:
    """The contents of a field that holds messages. Raises ValueError for what is no message."""
    found, at = [], 0
    while at < len(data):
        tag, at = _varint(data, at)
        if tag & 7 != 2:
            raise ValueError(f"wire type {tag & 7} where OTLP has none")
        length, at = _varint(data, at)
        if at + length > len(data):
            raise ValueError("a message that is longer than what it is in")
        if tag >> 3 == field:
            found.append(data[at : at + length])
        at += length
    return found


def spans_in(body: bytes) -> int:
    """How many spans an ExportTraceServiceRequest has, behind resource_spans and scope_spans."""
    return sum(
        len(_inner(scope, 2)) for resource in _inner(memoryview(body), 1) for scope in _inner(resource, 2)
    )


def transactions_in(body: bytes) -> int:
    """How many transactions an envelope has: a line about it, then items, each a line about it and its content."""
    found, at = 0, body.find(b"\n") + 1
    while 0 < at < len(body):
        end = body.find(b"\n", at)
        item = json.loads(body[at : end if end >= 0 else len(body)])
        found += item["type"] == "transaction"
        at = end + 1 + item["length"] + 1
    return found


class Receiver(asyncio.Protocol):
    counts: ClassVar[Counter[str]] = Counter()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = transport
        self.data = bytearray()

    def data_received(self, data: bytes) -> None:
        self.data += data
        while (end := self.data.find(b"\r\n\r\n")) >= 0:
            lines = bytes(self.data[:end]).decode("latin-1").split("\r\n")
            headers = {
                name.strip().lower(): value.strip()
                for name, _, value in (line.partition(":") for line in lines[1:])
            }
            length, begin = int(headers.get("content-length", 0)), end + 4
            if len(self.data) < begin + length:
                return
            body = bytes(self.data[begin : begin + length])
            del self.data[: begin + length]
            self.answer(lines[0].split()[1], headers, body)

    def answer(self, path: str, headers: dict[str, str], body: bytes) -> None:
        if path == "/counts":
            self.say(json.dumps(self.counts).encode(), "application/json")
            return
        if headers.get("content-encoding") == "gzip":
            body = gzip.decompress(body)
        parts = path.split("/")
        if path.endswith("/v1/traces"):
            self.counts[parts[1]] += spans_in(body)
            self.say(b"", "application/x-protobuf")
        elif parts[1] == "api":
            self.counts[parts[2]] += transactions_in(body)
            self.say(b"{}", "application/json")
        else:  # metrics and logs of those that send them as well
            self.say(b"", "application/x-protobuf")

    def say(self, body: bytes, media: str) -> None:
        self.transport.write(  # type: ignore[attr-defined]
            b"HTTP/1.1 200 OK\r\ncontent-type: %b\r\ncontent-length: %d\r\n\r\n%b"
            % (media.encode(), len(body), body)
        )


async def serve() -> None:
    server = await asyncio.get_running_loop().create_server(Receiver, "127.0.0.1", 0)
    host, port = server.sockets[0].getsockname()
    print(f"{host}:{port}", flush=True)
    await server.serve_forever()


if __name__ == "__main__":
    if len(sys.argv) > 1:
        os.sched_setaffinity(0, {int(sys.argv[1])})
    asyncio.run(serve())
