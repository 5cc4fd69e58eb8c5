"""Where lines go: standard output, one write per line, never an exception into the application."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from typing import Final, TextIO

# One write of a whole line keeps the lines of several workers apart on one pipe.
MAX_LINE_BYTES: Final = 16_384


class Writer:
    """Writes whole lines to standard output as it is at that moment (a test or a server may replace it)."""

    def __init__(self, dropped: Callable[[str, str], None]) -> None:
        self._dropped = dropped
        self._torn = False

    def write(self, line: str) -> None:
        """Write one line (without its newline). Never raises; a line that cannot be written is counted."""
        try:
            stream: TextIO | None = sys.stdout
            if stream is None:
                self._dropped("logs", "stdout_closed")
                return
            data = (line + "\n").encode("utf-8", "replace")
            if sys.__stdout__ is not None and stream is sys.__stdout__:
                # Unbuffered and in one piece; what the application has printed so far stays in front of it.
                stream.flush()
                self._write_all(stream.fileno(), data)
            else:
                stream.write(data.decode("utf-8"))
                stream.flush()
        except Exception:  # a stream the application put there may raise anything
            self._dropped("logs", "write_failed")

    def _write_all(self, fd: int, data: bytes) -> None:
        if self._torn:
            data = b"\n" + data  # the line before ends in the middle
        self._torn = False
        written = os.write(fd, data)
        while written < len(data):
            self._torn = True
            written += os.write(fd, data[written:])
        self._torn = False

    def isatty(self) -> bool:
        """Whether a person is looking."""
        try:
            return sys.stdout is not None and sys.stdout.isatty()
        except Exception:  # as above
            return False
