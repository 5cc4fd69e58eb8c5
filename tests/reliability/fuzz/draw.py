"""Hostile values out of a string of bytes: the same grammar for a random loop, for hypothesis and for atheris."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeVar

T = TypeVar("T")

LONG = 65_536
# What breaks lines, terminals, JSON, labels and parsers.
NASTY = (
    "\r\n",
    "\n",
    "\0",
    "\x1b[31m",
    "\x1b]0;owned\x07",
    "\u2028",
    "\u2029",
    "\x85",
    "\x7f",
    "\ufeff",
    "\u202e",
    "\ud800",
    "\U0001f600",
    "ß",
    '"',
    "\\",
    "'",
    "{",
    "}",
    "%",
    "%0d%0a",
    "%00",
    "%s%n",
    "${jndi:x}",
    "<script>",
    ";",
    ",",
    "=",
    " ",
    "\t",
    "-",
    "0",
    "9" * 20,
    "٣",
    "²",
    "nan",
    "1e999",
    '{"level":"error"}',
)


class Draw:
    """Takes decisions from a string of bytes; when it is used up every decision is the first one."""

    __slots__ = ("_at", "_data")

    def __init__(self, data: bytes) -> None:
        self._data = data
        self._at = 0

    def number(self, below: int) -> int:
        """A number from 0, less than `below` (at most 65,536)."""
        at = self._at
        if below <= 256:
            self._at = at + 1
            return self._data[at] % below if at < len(self._data) else 0
        self._at = at + 2
        return int.from_bytes(self._data[at : at + 2], "little") % below

    def chance(self, one_in: int) -> bool:
        return self.number(one_in) == one_in - 1

    def pick(self, among: Sequence[T]) -> T:
        return among[self.number(len(among))]

    def raw(self, most: int = 64) -> bytes:
        """Bytes as they come."""
        size = self.number(most + 1)
        found = self._data[self._at : self._at + size]
        self._at += size
        return found

    def text(self, *samples: str) -> str:
        """One of the samples, or something made of it, or of anything else; now and then as long as 64 KiB."""
        kind = self.number(8)
        known = self.pick(samples) if samples else ""
        if kind == 0:
            return known
        if kind in (1, 2):
            for _ in range(1 + self.number(3)):
                at = self.number(len(known) + 1) if len(known) < LONG else 0
                known = known[:at] + self.pick(NASTY) + known[at + self.number(3) :]
            return known
        if kind == 3:
            return known[: self.number(len(known) + 1)] if len(known) < LONG else known
        if kind == 4:
            return self.raw().decode("latin-1")
        if kind == 5:
            return self.raw().decode("utf-8", "surrogateescape")
        if kind == 6:
            return (self.pick(NASTY) + self.pick(NASTY)) * self.number(9)
        if self.chance(32):
            piece = self.pick(NASTY) + known[:8]
            return (piece * (LONG // len(piece) + 1))[:LONG]
        return known + self.raw(16).decode("latin-1")

    def octets(self, *samples: str) -> bytes:
        """The same as a server hands over bytes."""
        return self.text(*samples).encode("utf-8", "surrogatepass")

    def native(self, *samples: str) -> str:
        """The same as PEP 3333 hands over strings: each character is a byte."""
        return self.octets(*samples).decode("latin-1")
