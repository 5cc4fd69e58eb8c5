"""A client cannot tell whether obskit is there: the bytes that a real server answers with are the same, all of them.

Each server runs twice, bare and installed, and is asked the same over bare sockets. Only the Date is masked. The
applications are those of the conformance suite and two that answer in all the ways a server must cope with
(`tests/support/same_bytes`), all kinds of one interface in one process.
"""

from __future__ import annotations

import re
import socket
import struct
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import h2.config
import h2.connection
import h2.events
import h2.exceptions
import pytest

from tests.support.same_bytes import odd_asgi, odd_wsgi
from tests.support.servers import Server

pytestmark = pytest.mark.e2e

ROOT = Path(__file__).resolve().parents[2]
APPS = (ROOT / "tests" / "support" / "same_bytes", ROOT / "tests" / "conformance" / "apps", ROOT)
ASGI_SERVERS = ("uvicorn", "uvicorn-h11", "hypercorn", "granian")
WSGI_SERVERS = ("gunicorn-sync", "gunicorn-gthread", "waitress", "wsgiref")
SILENCE_S = 20.0
DATE = re.compile(rb"(?i)(\r\ndate: )[^\r]*")


@dataclass(frozen=True)
class Wait:
    """Read until these bytes have come, before the next is sent; as the last step: do not wait for the end."""

    marker: bytes


Steps = Sequence[bytes | Wait]


def head(method: str, path: str, *more: str, version: str = "1.1", close: bool = True) -> bytes:
    lines = [f"{method} {path} HTTP/{version}", "Host: same.bytes", "X-Request-ID: known", *more]
    return "\r\n".join([*lines, *(["Connection: close"] if close else []), "", ""]).encode("latin-1")


def get(path: str, *more: str, **how: Any) -> Steps:
    return [head("GET", path, *more, **how)]


def post(path: str, body: bytes, *more: str) -> Steps:
    return [head("POST", path, f"Content-Length: {len(body)}", *more) + body]


# ---- what is asked of an application of each framework ----------------------------------------------

CHUNKED = "Transfer-Encoding: chunked"
FRAMEWORK_PATHS = (
    *(
        "/hello",
        "/orders/7",
        "/orders/999",
        "/orders/x",
        "/boom",
        "/teapot",
        "/redirect",
        "/items",
        "/items/",
    ),
    *("/empty", "/not-modified", "/stream", "/stream-raises/2", "/stream-raises/0", "/sse/3", "/file"),
    *(
        "/after-fails",
        "/api/v1/things/a%20b",
        "/articles/2024/",
        "/articles/99999/",
        "/class-view",
        "/nowhere",
    ),
    *("/greet/%C3%BC", "/greet/%FF%00", "/gr%C3%BC%C3%9Fe/x", "//hello", "/hello?a=%FF&a=1;b", "/upload"),
    *("/answers/full", "/answers/error", "/no-response", "/assume/0", "/unit-of-work/2", "/threadpool", "/"),
)


def framework_cases(kind: str) -> Iterator[tuple[str, Steps]]:
    for path in FRAMEWORK_PATHS:
        yield f"{kind}{path}", get(f"/{kind}{path}")
    for method in ("HEAD", "POST", "OPTIONS", "DELETE", "BREW"):
        yield f"{kind} {method}", [head(method, f"/{kind}/hello", "Content-Length: 0")]
    for path in ("/file", "/stream", "/boom", "/nowhere", "/redirect", "/answers/full"):
        yield f"{kind} HEAD {path}", [head("HEAD", f"/{kind}{path}")]
    yield f"{kind} range", get(f"/{kind}/file", "Range: bytes=5-9")
    yield f"{kind} cookies", get(f"/{kind}/hello", "Cookie: a=1; b=\xff", "Cookie: c=2")
    yield f"{kind} junk trace", get(f"/{kind}/hello", "traceparent: \xff", "traceparent: 00-0-0-0")
    yield f"{kind} upload", post(f"/{kind}/upload", b"u" * 100_000)
    yield (
        f"{kind} form",
        post(f"/{kind}/upload", b"a=1&b=2", "Content-Type: application/x-www-form-urlencoded"),
    )
    yield (
        f"{kind} upload in chunks",
        [head("POST", f"/{kind}/upload", CHUNKED) + b"3\r\nabc\r\n2\r\nde\r\n0\r\n\r\n"],
    )
    yield f"{kind} ignored upload", post(f"/{kind}/ignore-body", b"i" * 10)
    yield (
        f"{kind} on one connection",
        [head("GET", f"/{kind}/hello", close=False) * 2 + head("GET", f"/{kind}/orders/7")],
    )
    yield f"{kind} 1.0", get(f"/{kind}/stream", version="1.0")
    yield f"{kind} too short", [head("GET", f"/{kind}/truncated"), Wait(b"\r\n\r\n1234")]


# ---- what is asked of the applications that answer in odd ways --------------------------------------

EXPECT = "Expect: 100-continue"


def connection_cases(one: bytes = b"ok") -> Iterator[tuple[str, Steps]]:
    """How a connection is used, whatever answers."""
    kept = head("GET", "/odd/one", close=False)
    last = head("GET", "/odd/one")
    yield "keep-alive", [kept, Wait(one), kept, Wait(one), last]
    yield "pipelined", [kept * 5 + last]
    yield (
        "pipelined with a body",
        [head("POST", "/odd/echo", "Content-Length: 3", close=False) + b"abc" + kept + last],
    )
    yield "pipelined behind a stream", [head("GET", "/odd/no-length", close=False) + last]
    yield "pipelined behind an error", [head("GET", "/odd/raises", close=False) + last]
    yield (
        "pipelined behind an unread body",
        [head("POST", "/odd/unread", "Content-Length: 3", close=False) + b"abc" + last],
    )
    yield "byte by byte", [bytes([byte]) for byte in head("GET", "/odd/echo?slow=1", "X-A: b")]
    yield (
        "100-continue",
        [
            head("POST", "/odd/echo", "Content-Length: 3", EXPECT),
            Wait(b" 100 "),  # hypercorn gives no reason
            b"abc",
        ],
    )
    yield "100-continue at once", [head("POST", "/odd/echo", "Content-Length: 3", EXPECT) + b"abc"]
    yield "unread upload", post("/odd/unread", b"u" * 10)
    yield (
        "chunks with a trailer",
        [head("POST", "/odd/echo", CHUNKED) + b"3;x=y\r\nabc\r\n0\r\nX-T: 1\r\n\r\n"],
    )
    yield "bad chunk", [head("POST", "/odd/echo", CHUNKED) + b"zz\r\nabc\r\n0\r\n\r\n"]
    yield "1.0", get("/odd/one", version="1.0", close=False)
    yield (
        "1.0 keep-alive",
        [
            head("GET", "/odd/one", "Connection: keep-alive", version="1.0", close=False),
            Wait(one),
            head("GET", "/odd/one", version="1.0"),
        ],
    )
    yield "1.0 stream", get("/odd/no-length", version="1.0")
    yield "0.9", [b"GET /odd/one\r\n\r\n"]
    yield "garbage", [b"\x16\x03\x01 hello?\r\n\r\n"]
    yield "no host", [b"GET /odd/echo HTTP/1.1\r\nConnection: close\r\n\r\n"]
    yield "bad header", get("/odd/echo", "no colon here")
    yield "header name with a space", get("/odd/echo", "a b: c")
    yield "bad length", [head("POST", "/odd/echo", "Content-Length: twelve")]
    yield "two lengths", [head("POST", "/odd/echo", "Content-Length: 1", "Content-Length: 2") + b"ab"]
    yield "length and chunks", [head("POST", "/odd/echo", "Content-Length: 5", CHUNKED) + b"0\r\n\r\n"]
    yield "huge header", get("/odd/echo", "X-Huge: " + "h" * 20_000)
    yield "latin-1 header", get("/odd/echo", "X-Latin: caf\xe9\xff", "X-Latin: twice")
    yield "absolute form", get("http://same.bytes/odd/echo?x")
    yield "asterisk", [head("OPTIONS", "*")]
    yield "encoded path", get("/odd/a%2Fb%00%FF%C3%BC;p?q=%FF+%20&&=#f")
    yield "a long path", get("/odd/" + "p" * 3000)
    yield "unknown method", [head("BREW", "/odd/echo")]
    yield "our own path below a prefix", get("/nobody/metrics/")


# Asked for in ways of their own: a server may wait for a body that a GET does not bring.
READERS = ("lines", "half-read")


def odd_cases(pages: Sequence[str]) -> Iterator[tuple[str, Steps]]:
    for page in READERS:
        yield f"{page} of an upload", post(f"/odd/{page}", b"one\ntwo\nthree\nfour\nfive and six")
    for page in pages:
        if page.startswith("ws") or page in READERS:
            continue
        for method, version in (("GET", "1.1"), ("HEAD", "1.1"), ("GET", "1.0")):
            yield f"{page} {method} {version}", [head(method, f"/odd/{page}", version=version)]


UPGRADE = ("Upgrade: websocket", "Sec-WebSocket-Version: 13", "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==")


def frame(kind: int, data: bytes) -> bytes:
    """A client's frame, with a mask of zeros."""
    size = bytes([0x80 | len(data)]) if len(data) < 126 else b"\xfe" + struct.pack(">H", len(data))
    return bytes([0x80 | kind]) + size + b"\0\0\0\0" + data


BYE = frame(8, struct.pack(">H", 1000))


def websocket_cases() -> Iterator[tuple[str, Steps]]:
    def opening(path: str, *more: str) -> bytes:
        return head("GET", path, *UPGRADE, "Connection: Upgrade", *more, close=False)

    spoken = opening("/odd/ws", "Sec-WebSocket-Protocol: a, b")
    yield (
        "ws conversation",
        [
            spoken,
            Wait(b"\r\n\r\n"),
            frame(1, "grüß".encode()) + frame(2, b"\x00\xff" * 100),
            Wait(b"\x00\xff" * 100),
            frame(9, b"ping"),
            Wait(b"\x8a\x04ping"),
            BYE,
        ],
    )
    yield (
        "ws closed by the application",
        [spoken, Wait(b"\r\n\r\n"), frame(1, b"close"), Wait(b"as asked"), BYE],
    )
    yield "ws that raises", [spoken, Wait(b"\r\n\r\n"), frame(1, b"raise"), Wait(b"\x88")]
    yield "ws bad text", [spoken, Wait(b"\r\n\r\n"), frame(1, b"\xff\xfe"), Wait(b"\x88")]
    yield "ws refused", [opening("/odd/ws-refused"), Wait(b"\r\n\r\n")]
    yield "ws denied", [opening("/odd/ws-denied"), Wait(b"who?!")]
    yield "ws raises before", [opening("/odd/ws-raises"), Wait(b"\r\n\r\n")]
    yield "ws to a page", [opening("/odd/one"), Wait(b"\r\n\r\n")]
    for kind in ("plain", "starlette", "fastapi", "django"):
        yield f"{kind} ws", [opening(f"/{kind}/ws/a"), Wait(b"\r\n\r\n")]
        yield f"{kind} ws refused", [opening(f"/{kind}/ws-refused"), Wait(b"\r\n\r\n")]


def asgi_cases() -> list[tuple[str, Steps]]:
    cases = [*connection_cases(), *odd_cases(list(odd_asgi.PAGES)), *websocket_cases()]
    for kind in ("plain", "starlette", "fastapi", "django"):
        cases += framework_cases(kind)
    return cases


# The standard library's server knows none of these, nor the end of a body: it waits for what will not come.
BEYOND_WSGIREF = (
    *("100-continue", "chunks with a trailer", "bad chunk", "plain upload in chunks"),
    "lines of an upload",
)


def wsgi_cases(server: str) -> list[tuple[str, Steps]]:
    cases = [*connection_cases(), *odd_cases(list(odd_wsgi.PAGES))]
    for kind in ("plain", "flask", "django"):
        cases += framework_cases(kind)
    return [case for case in cases if server != "wsgiref" or case[0] not in BEYOND_WSGIREF]


# ---- the client -------------------------------------------------------------------------------------


def play(port: int, steps: Steps) -> bytes:
    """All that the server says, the Date masked; `<silence>` where it says nothing more and keeps the line open."""
    heard = b""
    with socket.create_connection(("127.0.0.1", port), timeout=SILENCE_S) as line:
        line.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        try:
            for step in steps:
                if isinstance(step, bytes):
                    line.sendall(step)
                    continue
                before = len(heard)
                while step.marker not in heard[before:] and (data := line.recv(262_144)):
                    heard += data
            while not isinstance(steps[-1], Wait) and (data := line.recv(262_144)):
                heard += data
        except TimeoutError:
            heard += b"<silence>"
        except ConnectionError:
            pass  # a server that refuses may reset; what it said before that is what there is
    if isinstance(steps[-1], Wait) and steps[-1].marker in heard:
        # How much more of the next has arrived by now is chance.
        heard = heard[: heard.rindex(steps[-1].marker) + len(steps[-1].marker)]
    return DATE.sub(rb"\1masked", heard)


def play_http2(port: int, path: str) -> list[tuple[Any, ...]]:
    """What the server tells on an HTTP/2 connection (prior knowledge) that asks for one path."""
    told: list[tuple[Any, ...]] = []
    body = b""
    talk = h2.connection.H2Connection(h2.config.H2Configuration(header_encoding=None))
    asked = [(":method", "GET"), (":path", path), (":scheme", "http"), (":authority", "same.bytes")]
    with socket.create_connection(("127.0.0.1", port), timeout=SILENCE_S) as line:
        talk.initiate_connection()
        talk.send_headers(1, [*asked, ("te", "trailers")], end_stream=True)
        line.sendall(talk.data_to_send())
        while data := line.recv(65_536):
            try:
                events = talk.receive_data(data)
            except h2.exceptions.ProtocolError as error:  # more or less bytes than declared
                return [*told, ("body", body), ("refused", str(error))]
            line.sendall(talk.data_to_send())
            for event in events:
                if isinstance(event, h2.events.DataReceived):
                    body += event.data
                    talk.acknowledge_received_data(event.flow_controlled_length, 1)
                elif hasattr(event, "headers"):
                    headers = [pair for pair in event.headers if pair[0] != b"date"]
                    told.append((type(event).__name__, headers))
                elif isinstance(event, h2.events.StreamReset | h2.events.StreamEnded):
                    return [*told, ("body", body), (type(event).__name__, getattr(event, "error_code", 0))]
            line.sendall(talk.data_to_send())
    return [*told, ("body", body), ("closed",)]


# ---- the two of them --------------------------------------------------------------------------------

Pair = tuple[Server, Server]
Start = Callable[..., Pair]


@pytest.fixture
def both(tmp_path: Path) -> Iterator[Start]:
    """Starts a server twice: bare, and with every application installed."""
    with ExitStack() as running, ThreadPoolExecutor(2) as pool:

        def start(name: str, app: str, **more: str) -> Pair:
            def one(how: str) -> Server:
                # One order of sets for both: frameworks write Allow from one.
                env = {
                    "SAME_BYTES": how,
                    "PYTHONPATH": ":".join(map(str, APPS)),
                    "PYTHONHASHSEED": "0",
                    **more,
                }
                return Server(name, app, cwd=APPS[0], log_dir=tmp_path / how, env=env)

            pair = one("bare"), one("installed")
            for server in pair:
                running.callback(server.stop)
            for started in [pool.submit(server.start, "/odd/one") for server in pair]:
                started.result()
            return pair

        yield start


def recorded(server: Server) -> int:
    return sum(line.get("event") == "http.request" for line in server.lines)


# uvicorn closes the line without a word.
MUTE = ("bad-length", "header-with-newline", "header-of-text")


def differences(pair: Pair, cases: Sequence[tuple[str, Steps]]) -> dict[str, tuple[bytes, ...]]:
    found = {}
    with ThreadPoolExecutor(2) as pool:
        for name, steps in cases:
            bare, installed = pool.map(play, [server.port for server in pair], [steps, steps])
            if bare != installed:
                found[name] = (bare[-2000:], installed[-2000:])
            elif (not bare and not name.startswith(MUTE)) or b"<silence>" in bare:
                found[name] = (b"nothing to compare", bare[-2000:])
    return found


# hypercorn leaves such a stream open for ever, what h2 makes of a wrong length is a matter of packets, and a pushed
# page is another request.
NOT_OVER_HTTP2 = (
    *(
        "no-end",
        "start-twice",
        "only-start",
        "raises-after-start",
        "raises-in-the-middle",
        "no-trailers",
        "push",
    ),
    *("pathsend", "pathsend-of-nothing", "zerocopysend", "stream-raises/2", "stream-raises/0"),
    *("too-long", "too-short"),
)


def same_over_http2(pair: Pair) -> None:
    paths = [f"/odd/{page}" for page in odd_asgi.PAGES if not page.startswith("ws")]
    paths += [f"/{kind}{path}" for kind in ("plain", "fastapi") for path in FRAMEWORK_PATHS]
    paths = [path for path in paths if not path.endswith(NOT_OVER_HTTP2)]
    bare, installed = ({path: play_http2(server.port, path) for path in paths} for server in pair)
    assert installed == bare
    seen = {what for told in bare.values() for what, *_ in told}
    assert {"ResponseReceived", "InformationalResponseReceived", "TrailersReceived", "body"} <= seen


@pytest.mark.parametrize("name", ASGI_SERVERS)
def test_an_asgi_server_answers_the_same_bytes(name: str, both: Start) -> None:
    pair = both(name, "kinds_asgi:app")
    cases = asgi_cases()
    assert differences(pair, cases) == {}
    if name == "hypercorn":  # the one that offers early hints and trailers
        same_over_http2(pair)
    assert (recorded(pair[0]), recorded(pair[1]) > 0.8 * len(cases)) == (0, True)


@pytest.mark.parametrize("name", WSGI_SERVERS)
def test_a_wsgi_server_answers_the_same_bytes(name: str, both: Start) -> None:
    pair = both(name, "kinds_wsgi:app")
    cases = wsgi_cases(name)
    assert differences(pair, cases) == {}
    assert (recorded(pair[0]), recorded(pair[1]) > 0.8 * len(cases)) == (0, True)


@pytest.mark.parametrize("name", ["uvicorn", "gunicorn-gthread"])
def test_the_only_header_more_is_the_one_the_user_asked_for(name: str, both: Start) -> None:
    interface = "asgi" if name in ASGI_SERVERS else "wsgi"
    bare, installed = both(name, f"kinds_{interface}:app", OBSKIT_ECHO_REQUEST_ID="1")
    for kind in ("odd", "plain", "django"):
        steps = get(f"/{kind}/hello")
        more = play(installed.port, steps)
        assert re.sub(rb"(?i)\r\nx-request-id: known", b"", more) == play(bare.port, steps) != more
