"""A WSGI application that answers in all the ways that servers must cope with, one path each."""

from __future__ import annotations

import io
import json
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

Environ = dict[str, Any]
Page = Callable[[Environ, Any], Any]

FILE = Path(tempfile.mkdtemp()) / "file"
FILE.write_bytes(bytes(range(256)) * 1024)
TEXT = ("Content-Type", "text/plain")


def length(size: int) -> tuple[str, str]:
    return "Content-Length", str(size)


class Body:
    """No list, no generator: an iterable with a close()."""

    def __init__(self, *parts: bytes, fails: bool = False) -> None:
        self.parts = parts
        self.fails = fails

    def __iter__(self) -> Iterator[bytes]:
        return iter(self.parts)

    def close(self) -> None:
        if self.fails:
            raise ValueError("in close()")


class Sized(Body):
    def __len__(self) -> int:
        return len(self.parts)


def generated(*parts: Any) -> Iterator[bytes]:
    for part in parts:
        if isinstance(part, Exception):
            raise part
        yield part


# Status, headers, body: each made anew for a request.
TOLD: dict[str, Callable[[], tuple[Any, Any, Any]]] = {
    "one": lambda: ("200 OK", [TEXT, length(2)], [b"ok"]),
    "no-length": lambda: ("200 OK", [TEXT], [b"a single item"]),
    "no-length-of-two": lambda: ("200 OK", [TEXT], [b"a", b"b"]),
    "no-length-of-none": lambda: ("200 OK", [TEXT], []),
    "no-length-of-an-empty-one": lambda: ("200 OK", [TEXT], [b""]),
    "tuple": lambda: ("200 OK", [TEXT], (b"a tuple",)),
    "iterator": lambda: ("200 OK", [TEXT], iter([b"a", b"", b"b"])),
    "bytes": lambda: ("200 OK", [TEXT], b"items"),
    "generator": lambda: ("200 OK", [TEXT], generated(b"a", b"", b"c" * 70_000, b"d")),
    "generator-of-nothing": lambda: ("200 OK", [TEXT], generated()),
    "generator-with-length": lambda: ("200 OK", [TEXT, length(2)], generated(b"a", b"b")),
    "closable": lambda: ("200 OK", [TEXT], Body(b"a", b"b")),
    "sized": lambda: ("200 OK", [TEXT], Sized(b"just one")),
    "close-fails": lambda: ("200 OK", [TEXT, length(4)], Body(b"done", fails=True)),
    "large": lambda: ("200 OK", [TEXT, length(3_000_000)], [b"x" * 3_000_000]),
    "large-parts": lambda: ("200 OK", [TEXT], generated(*[b"y" * 100_000] * 20)),
    "204": lambda: ("204 No Content", [], []),
    "204-with-body": lambda: ("204 No Content", [], [b"not allowed"]),
    "304": lambda: ("304 Not Modified", [("ETag", '"v"')], []),
    "redirect": lambda: ("307 Temporary Redirect", [TEXT, ("Location", "/caf%C3%A9?x=1#y")], []),
    "reason": lambda: ("299 Of My Own", [TEXT], [b"x"]),
    "no-reason": lambda: ("200 ", [TEXT], [b"x"]),
    "cookies": lambda: ("200 OK", [TEXT, ("Set-Cookie", "a=1"), ("Set-Cookie", "b=2; HttpOnly")], [b"c"]),
    "duplicates": lambda: ("200 OK", [TEXT, ("X-A", "1"), ("x-a", "2"), ("X-A", "1"), ("Vary", "")], [b"d"]),
    "latin-1": lambda: ("200 OK", [TEXT, ("X-Latin", "caf\xe9 \xff")], ["\xfc".encode("latin-1")]),
    "own-headers": lambda: ("200 OK", [TEXT, ("Server", "mine"), ("X-Request-ID", "my own")], [b"x"]),
    "close": lambda: ("200 OK", [("Connection", "close")], [b"bye"]),
    "hop-by-hop": lambda: ("200 OK", [("Transfer-Encoding", "chunked")], [b"x"]),
    "too-long": lambda: ("200 OK", [TEXT, length(4)], [b"0123456789"]),
    "too-long-in-parts": lambda: ("200 OK", [TEXT, length(4)], [b"012", b"345", b"6"]),
    "too-short": lambda: ("200 OK", [TEXT, length(10)], [b"0123"]),
    "bad-length": lambda: ("200 OK", [("Content-Length", "four")], [b"0123"]),
    "newline": lambda: ("200 OK", [("X-A", "1\r\nX-B: 2")], [b"x"]),
    "header-of-bytes": lambda: ("200 OK", [(b"X-A", b"1")], [b"x"]),
    "header-of-number": lambda: ("200 OK", [("X-A", 1)], [b"x"]),
    "no-list": lambda: ("200 OK", (("X-A", "1"),), [b"x"]),
    "no-headers": lambda: ("200 OK", None, [b"x"]),
    "status-of-number": lambda: (200, [TEXT], [b"x"]),
    "no-body": lambda: ("200 OK", [TEXT], None),
    "body-of-text": lambda: ("200 OK", [TEXT], ["text"]),
    "raises-at-once": lambda: ("200 OK", [TEXT], generated(ValueError("first"))),
    "raises-in-the-middle": lambda: ("200 OK", [TEXT], generated(b"first", ValueError("middle"))),
    "raises-at-the-end": lambda: ("200 OK", [TEXT, length(1)], generated(b"x", ValueError("end"))),
}


def telling(told: Callable[[], tuple[Any, Any, Any]]) -> Page:
    def page(environ: Environ, start_response: Any) -> Any:
        status, headers, body = told()
        start_response(status, headers)
        return body

    return page


def echo(environ: Environ, start_response: Any) -> Any:
    """The request as the application saw it."""
    declared = environ.get("CONTENT_LENGTH")
    stream = environ["wsgi.input"]
    terminated = environ.get("wsgi.input_terminated") or environ.get("HTTP_TRANSFER_ENCODING")
    seen = stream.read(int(declared)) if declared else stream.read() if terminated else b""
    keys = ("REQUEST_METHOD", "SCRIPT_NAME", "PATH_INFO", "QUERY_STRING", "CONTENT_TYPE", "CONTENT_LENGTH")
    told = {key: environ.get(key) for key in (*keys, "SERVER_PROTOCOL", "wsgi.url_scheme", "wsgi.version")}
    told |= {key: value for key, value in environ.items() if key.startswith("HTTP_")}
    told["body"] = f"{len(seen)} {seen[:100]!r}"
    data = json.dumps(told, sort_keys=True).encode()
    start_response("200 OK", [("Content-Type", "application/json"), length(len(data))])
    return [data]


def lines(environ: Environ, start_response: Any) -> Any:
    stream = environ["wsgi.input"]
    start_response("200 OK", [TEXT])
    return [stream.readline(), b"|", *stream.readlines(2), b"|", *stream, b"|", stream.read(5)]


def unread(environ: Environ, start_response: Any) -> Any:
    start_response("202 Accepted", [TEXT, length(6)])
    return [b"unread"]


def half_read(environ: Environ, start_response: Any) -> Any:
    first = environ["wsgi.input"].read(3)
    start_response("200 OK", [TEXT])
    return [first]


def raises(environ: Environ, start_response: Any) -> Any:
    raise ValueError("before")


def nothing(environ: Environ, start_response: Any) -> Any:
    return []


def exits(environ: Environ, start_response: Any) -> Any:
    start_response("200 OK", [TEXT])
    raise ValueError("after start_response")


def writes(environ: Environ, start_response: Any) -> Any:
    write = start_response("200 OK", [TEXT])
    write(b"written ")
    write(b"")
    write(b"twice, ")
    return [b"and returned"]


def writes_all(environ: Environ, start_response: Any) -> Any:
    start_response("200 OK", [TEXT, length(4)])(b"all.")
    return []


def writes_and_raises(environ: Environ, start_response: Any) -> Any:
    start_response("200 OK", [TEXT])(b"part")
    raise ValueError("after write()")


def replaced(environ: Environ, start_response: Any) -> Any:
    start_response("200 OK", [TEXT, length(999)])
    try:
        raise ValueError("known")
    except ValueError:
        start_response("503 Sorry", [TEXT, ("Retry-After", "1")], sys.exc_info())
    return [b"sorry"]


def replaced_too_late(environ: Environ, start_response: Any) -> Any:
    start_response("200 OK", [TEXT])(b"gone ")
    try:
        raise ValueError("known")
    except ValueError:
        start_response("503 Sorry", [TEXT], sys.exc_info())
    return [b"never"]


def started_twice(environ: Environ, start_response: Any) -> Any:
    start_response("200 OK", [TEXT])
    start_response("201 Created", [TEXT])
    return [b"x"]


def started_late(environ: Environ, start_response: Any) -> Iterator[bytes]:
    start_response("200 OK", [TEXT])
    yield b"from within "
    yield b"the generator"


def file(environ: Environ, start_response: Any) -> Any:
    start_response("200 OK", [TEXT, length(FILE.stat().st_size)])
    return environ["wsgi.file_wrapper"](FILE.open("rb"), 4096)


def file_unsized(environ: Environ, start_response: Any) -> Any:
    start_response("200 OK", [TEXT])
    return environ["wsgi.file_wrapper"](FILE.open("rb"))


def file_from_its_middle(environ: Environ, start_response: Any) -> Any:
    opened = FILE.open("rb")
    opened.seek(1000)
    start_response("200 OK", [TEXT, length(FILE.stat().st_size - 1000)])
    return environ["wsgi.file_wrapper"](opened)


def file_in_part(environ: Environ, start_response: Any) -> Any:
    start_response("206 Partial Content", [TEXT, length(100)])
    return environ["wsgi.file_wrapper"](FILE.open("rb"))


def file_that_is_none(environ: Environ, start_response: Any) -> Any:
    start_response("200 OK", [TEXT])
    return environ["wsgi.file_wrapper"](io.BytesIO(b"in memory"))


def hint(environ: Environ, start_response: Any) -> Any:
    if "wsgi.early_hints" in environ:
        environ["wsgi.early_hints"]([("Link", "</s.css>; rel=preload; as=style"), ("X-A", "b")])
    start_response("200 OK", [TEXT])
    return [b"hinted"]


PAGES: dict[str, Page] = {
    **{name: telling(told) for name, told in TOLD.items()},
    "echo": echo,
    "lines": lines,
    "unread": unread,
    "half-read": half_read,
    "raises": raises,
    "nothing": nothing,
    "raises-after-start": exits,
    "writes": writes,
    "writes-all": writes_all,
    "writes-and-raises": writes_and_raises,
    "replaced": replaced,
    "replaced-too-late": replaced_too_late,
    "started-twice": started_twice,
    "started-late": started_late,
    "file": file,
    "file-unsized": file_unsized,
    "file-from-its-middle": file_from_its_middle,
    "file-in-part": file_in_part,
    "file-that-is-none": file_that_is_none,
    "hint": hint,
}


def app(environ: Environ, start_response: Any) -> Any:
    return PAGES.get(environ["PATH_INFO"].removeprefix("/"), echo)(environ, start_response)
