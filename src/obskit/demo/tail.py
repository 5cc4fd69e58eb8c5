"""What a process writes, line by line: its last canonical lines, and its last words."""

from __future__ import annotations

import json
import threading
from collections import deque
from collections.abc import Iterable
from typing import Any

from obskit.names import CANONICAL_EVENT

CANONICAL_KEPT = 50
OUTPUT_KEPT = 30
MAX_OUTPUT_CHARS = 2_000

Line = dict[str, Any]


class LineTail:
    """Reads a stream to its end in a thread of its own, so that the writer never waits, and keeps the end of it."""

    def __init__(self) -> None:
        self.canonical: deque[Line] = deque(maxlen=CANONICAL_KEPT)
        self.canonical_seen = 0
        self.output: deque[str] = deque(maxlen=OUTPUT_KEPT)
        self._thread: threading.Thread | None = None

    def follow(self, stream: Iterable[bytes]) -> None:
        """Start reading; the thread ends with the stream."""
        self._thread = threading.Thread(
            target=self._read, args=(stream,), name="obskit-demo-tail", daemon=True
        )
        self._thread.start()

    def join(self, timeout_s: float) -> None:
        """Wait until the stream has ended, at most `timeout_s` seconds."""
        if self._thread is not None:
            self._thread.join(timeout_s)

    def feed(self, raw: bytes) -> None:
        """Take one line. What is no JSON object is kept as output only."""
        text = raw.decode("utf-8", "replace").rstrip()
        if not text:
            return
        self.output.append(printable(text)[:MAX_OUTPUT_CHARS])
        try:
            line = json.loads(text)
        except (ValueError, RecursionError):
            return
        if isinstance(line, dict) and line.get("event") == CANONICAL_EVENT:
            self.canonical.append(line)
            self.canonical_seen += 1

    def last(self, number: int) -> list[Line]:
        """The last canonical lines, oldest first."""
        # A copy in one step: the reader's thread may append meanwhile.
        return list(self.canonical.copy())[-number:]

    def _read(self, stream: Iterable[bytes]) -> None:
        try:
            for raw in stream:
                self.feed(raw)
        except (OSError, ValueError):  # the pipe was closed under the reader: there is nothing more to read
            pass


def printable(text: str) -> str:
    """`text` without control characters: what a client sent must not steer the terminal."""
    return "".join(
        character if character.isprintable() else "\N{REPLACEMENT CHARACTER}" for character in text
    )


def short_form(line: Line) -> list[str]:
    """A canonical line in columns: time, level, method and route, status, outcome, duration, trace id."""
    status, duration = line.get("http_response_status_code"), line.get("duration_s")
    route = line.get("http_route")
    where = line.get("url_path") if route in (None, "unmatched") else route
    cells = [
        str(line.get("timestamp", ""))[11:23],
        str(line.get("level", "")),
        f"{line.get('http_request_method', '')} {where}",
        "–" if status is None else str(status),
        str(line.get("outcome", "")),
        milliseconds(duration if isinstance(duration, int | float) else None),
        str(line.get("trace_id", ""))[:16],
    ]
    return [printable(cell) for cell in cells]


def milliseconds(seconds: float | None) -> str:
    """Seconds as text for people: 3.2 ms, 410 ms, 1.35 s; a dash for None and NaN."""
    if seconds is None or seconds != seconds:
        return "–"
    if seconds >= 1:
        return f"{seconds:.2f} s"
    return f"{seconds * 1000:.0f} ms" if seconds >= 0.1 else f"{seconds * 1000:.1f} ms"
