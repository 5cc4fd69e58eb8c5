"""What the served apps do themselves: they write down who came in, and can be made to die or to hang."""

from __future__ import annotations

import ctypes
import os

LEDGER = "TORTURE_LEDGER"
PARTS = 5
PART_PAUSE_S = 0.03
_opened = -1


def enter(request_id: str | None) -> None:
    """Write down that this request has reached the application's own code: one line, whoever dies next."""
    global _opened
    if _opened < 0:
        _opened = os.open(os.environ[LEDGER], os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
    os.write(_opened, f"{request_id}\n".encode())


def read(path: str | os.PathLike[str]) -> list[str]:
    """The ids of all requests that came in."""
    with open(path, encoding="utf-8") as file:
        return file.read().split()


def part(request_id: str | None, number: int) -> bytes:
    return f"{request_id} part {number}\n".encode()


def die() -> None:
    os._exit(7)  # 3 says to both servers that the application does not start: they would end themselves


def crash() -> None:
    ctypes.string_at(1)


def hang() -> None:
    """Sleep for a minute without letting any other thread of this process run."""
    ctypes.PyDLL(None).sleep(60)
