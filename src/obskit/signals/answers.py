"""What an answer of a collector means for the spans it answers, and what keeps one from coming.

OTLP's own clients take any answer below 400 for a success and never read it: spans that a collector refused one by
one, and all of them behind a wrong URL, a redirect or a login page, would be lost without a trace.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from socket import gaierror
from typing import Any, Final

from obskit.signals.collector import FINE, Saw
from obskit.signals.http_post import MAX_ANSWER, NoHttp

MAX_SAYING: Final = 200


class NotOtlp(Exception):
    """An answer with a status of success from something that is no collector."""


def judge(status: int, headers: Mapping[str, str], body: bytes) -> Saw:
    """What an answer means for the spans it answers."""
    if status >= 400:
        retry_after_s = _seconds(headers.get("retry-after", ""))
        kind = "throttled" if status == 429 or (status == 503 and retry_after_s) else "http_error"
        return Saw(kind, f"status {status}", retry_after_s=retry_after_s)
    if status >= 300:
        return Saw("not_otlp", f"status {status}, a redirect")
    media = headers.get("content-type", "").partition(";")[0].strip().lower()
    start = body[:64].lstrip()[:1]
    if not body:
        return FINE  # the empty message: all spans were taken
    if len(body) > MAX_ANSWER or media == "text/html" or (start == b"<" and "protobuf" not in media):
        return Saw("not_otlp", f"status {status} with {media or 'something'} of {len(body)} bytes or more")
    try:
        if "protobuf" in media:
            rejected, says = partial_success(body)
        elif media == "application/json":
            found = json.loads(body)
            partial = (found.get("partialSuccess") if isinstance(found, dict) else None) or {}
            rejected, says = int(partial.get("rejectedSpans") or 0), partial.get("errorMessage") or ""
        else:
            return FINE  # nothing that says otherwise
    except Exception as error:
        return Saw("not_otlp", f"status {status} with {media} that is none: {type(error).__name__}")
    if rejected <= 0 and not says:
        return FINE
    printable = "".join(one if one.isprintable() else " " for one in str(says)[:MAX_SAYING])
    return Saw("rejected", "", rejected, printable) if rejected > 0 else Saw(says=printable)


def _seconds(value: str) -> float:
    return float(value) if re.fullmatch(r"\s*[0-9]{1,6}\s*", value) else 0.0


def partial_success(body: bytes) -> tuple[int, str]:
    """How many spans an ExportTraceServiceResponse says were refused, and why. Raises ValueError if it is none."""
    rejected, says = 0, ""
    for field, inner in _fields(body):
        if field == 1 and isinstance(inner, bytes):
            for number, value in _fields(inner):
                if number == 1 and isinstance(value, int):
                    rejected = value - (1 << 64) if value >> 63 else value
                elif number == 2 and isinstance(value, bytes):
                    says = value.decode("utf-8")
    return rejected, says


def _fields(data: bytes) -> list[tuple[int, int | bytes]]:
    """The fields of a protobuf message: numbers of those that are numbers, bytes of all others."""
    found: list[tuple[int, int | bytes]] = []
    at = 0
    while at < len(data):
        tag, at = _varint(data, at)
        field, kind = tag >> 3, tag & 7
        if not 0 < field < 1 << 29:
            raise ValueError("no field has this number")
        if kind == 0:
            number, at = _varint(data, at)
            found.append((field, number))
            continue
        if kind == 2:
            length, at = _varint(data, at)
        elif kind in (1, 5):
            length = 8 if kind == 1 else 4
        else:
            raise ValueError("no such type")
        if at + length > len(data):
            raise ValueError("more than there is")
        if kind == 2:
            found.append((field, data[at : at + length]))
        at += length
    return found


def _varint(data: bytes, at: int) -> tuple[int, int]:
    number = 0
    for shift in range(0, 70, 7):
        if at >= len(data):
            break
        byte = data[at]
        number |= (byte & 127) << shift
        at += 1
        if byte < 128:
            return number & (1 << 64) - 1, at
    raise ValueError("a number without an end")


_KINDS: Final[tuple[tuple[Any, str], ...]] = (
    (gaierror, "dns"),
    (ConnectionRefusedError, "refused"),
    ((ConnectionResetError, ConnectionAbortedError, BrokenPipeError, NoHttp), "reset"),
    (TimeoutError, "timeout"),
)


def why(error: BaseException, kinds: tuple[tuple[Any, str], ...] = ()) -> Saw:
    """What kept a batch from being answered. Never the error's own text: that has the URL in it, with its secrets.

    `kinds`: what a client of others raises, and what to call it.
    """
    seen: list[BaseException] = [error]
    for one in seen:
        if len(seen) > 50:
            break
        inner = [one.__cause__, one.__context__, getattr(one, "reason", None), *one.args]
        seen += [it for it in inner if isinstance(it, BaseException) and it not in seen]
    for one in seen:
        # By its module's name: who speaks no TLS need not load it.
        if any(kind.__module__ == "ssl" for kind in type(one).__mro__):
            return Saw("tls", type(one).__name__)
    for kind, name in (*kinds, *_KINDS):
        for one in seen:
            if isinstance(one, kind):
                return Saw(name, type(one).__name__)
    return Saw("failed", type(error).__name__)
