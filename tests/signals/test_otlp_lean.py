"""The lean exporter: the settings of the official one, and what is sent and tried again on a real socket."""

from __future__ import annotations

import gzip
import os
import socket
import threading
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.sdk.trace.export import SpanExportResult
from opentelemetry.trace import SpanContext, TraceFlags

from obskit.signals import http_post, otlp_lean
from obskit.signals.collector import FINE
from obskit.signals.http_post import MAX_ANSWER, NoHttp, Poster
from obskit.signals.otlp_lean import LeanExporter, address, knows_the_way
from tests.signals.conftest import records_of

OK = b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n"
SPAN = ReadableSpan("s", SpanContext(7, 9, False, TraceFlags(1)), start_time=1, end_time=2)


class Script:
    """A server that gives one answer after another, and keeps what it was sent. None: it closes without one."""

    def __init__(self, *answers: bytes | None) -> None:
        self.answers = list(answers)
        self.heads: list[bytes] = []
        self.bodies: list[bytes] = []
        self.connections = 0
        self.close_after_answer = False
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port = self._listener.getsockname()[1]
        self.url = f"http://127.0.0.1:{self.port}/v1/traces"
        self.closed = threading.Event()
        threading.Thread(target=self._run, daemon=True).start()

    def _run(self) -> None:
        while True:
            try:
                connection, _ = self._listener.accept()
            except OSError:
                return
            self.connections += 1
            with connection:
                try:
                    while self._one(connection):
                        pass
                except ConnectionError:
                    pass  # who was sent too much has left
            self.closed.set()

    def _one(self, connection: socket.socket) -> bool:
        data = b""
        while b"\r\n\r\n" not in data:
            if not (more := connection.recv(65536)):
                return False
            data += more
        head, _, body = data.partition(b"\r\n\r\n")
        (length,) = [int(line[15:]) for line in head.split(b"\r\n") if line.startswith(b"Content-Length:")]
        while len(body) < length:
            body += connection.recv(65536)
        self.heads.append(head)
        self.bodies.append(body)
        answer = self.answers.pop(0) if self.answers else OK
        if answer is None:
            return False
        connection.sendall(answer)
        return not self.close_after_answer

    def stop(self) -> None:
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()

    def headers(self, number: int = 0) -> dict[str, str]:
        pairs = [line.partition(b": ") for line in self.heads[number].split(b"\r\n")[1:]]
        return {name.decode().lower(): value.decode("latin-1") for name, _, value in pairs}


@pytest.fixture
def script() -> Iterator[Callable[..., Script]]:
    made: list[Script] = []

    def make(*answers: bytes | None) -> Script:
        made.append(Script(*answers))
        return made[-1]

    yield make
    for one in made:
        one.stop()


def exported(exporter: LeanExporter) -> bool:
    return exporter.export([SPAN]) is SpanExportResult.SUCCESS


# ---- what the environment says -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("environ", "endpoint", "url"),
    [
        ({}, None, "http://localhost:4318/v1/traces"),
        ({"OTEL_EXPORTER_OTLP_ENDPOINT": "http://c:1/"}, None, "http://c:1/v1/traces"),
        ({"OTEL_EXPORTER_OTLP_ENDPOINT": "http://c:1/base"}, None, "http://c:1/base/v1/traces"),
        ({"OTEL_EXPORTER_OTLP_ENDPOINT": "http://c:1", "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT": "http://t/x"}, None,
         "http://t/x"),
        ({"OTEL_EXPORTER_OTLP_ENDPOINT": "http://c:1"}, "http://given/y", "http://given/y"),
    ],
    ids=str,
)  # fmt: skip
def test_spans_go_where_the_official_exporter_sends_them(
    environ: dict[str, str], endpoint: str | None, url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter

    for name, value in environ.items():
        monkeypatch.setenv(name, value)
    assert address(endpoint) == url == OTLPSpanExporter(endpoint)._endpoint


def test_headers_of_the_environment_are_sent_and_come_before_ours(
    script: Callable[..., Script], monkeypatch: pytest.MonkeyPatch
) -> None:
    one = script()
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_HEADERS", "authorization=Bearer%20x,User-Agent=mine, x-odd = a b ")
    assert exported(LeanExporter(one.url))
    headers = one.headers()
    assert headers["content-type"] == "application/x-protobuf"
    assert (headers["authorization"], headers["user-agent"], headers["x-odd"]) == ("Bearer x", "mine", "a b")
    assert headers["host"] == f"127.0.0.1:{one.port}"
    assert one.heads[0].startswith(b"POST /v1/traces HTTP/1.1\r\n")


def test_a_name_and_password_of_the_address_are_sent_as_such(script: Callable[..., Script]) -> None:
    one = script()
    assert exported(LeanExporter(f"http://me:p%40ss@127.0.0.1:{one.port}/v1/traces?tenant=1"))
    assert one.headers()["authorization"] == "Basic bWU6cEBzcw=="
    assert one.headers()["host"] == f"127.0.0.1:{one.port}"
    assert one.heads[0].startswith(b"POST /v1/traces?tenant=1 HTTP/1.1\r\n")


@pytest.mark.parametrize(
    ("named", "unpack"),
    [("gzip", gzip.decompress), ("deflate", zlib.decompress), ("none", bytes), ("br", bytes)],
)
def test_a_batch_is_compressed_as_asked(
    named: str,
    unpack: Callable[[bytes], bytes],
    script: Callable[..., Script],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    one = script()
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_COMPRESSION", named)
    with records_of("obskit") as records:
        assert exported(LeanExporter(one.url))
    found = ExportTraceServiceRequest.FromString(unpack(one.bodies[0]))
    assert found.resource_spans[0].scope_spans[0].spans[0].name == "s"
    assert one.headers().get("content-encoding") == (named if named in ("gzip", "deflate") else None)
    assert [record.getMessage() for record in records] == ["telemetry.setting_ignored"] * (named == "br")


@pytest.mark.parametrize("value", ["soon", "0", "-3", "nan", "inf"])
def test_a_timeout_that_makes_no_sense_is_told_and_the_default_taken(
    value: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_TIMEOUT", value)
    with records_of("obskit") as records:
        assert LeanExporter("http://c/")._timeout_s == otlp_lean.DEFAULT_TIMEOUT_S
    assert [record.__dict__["variable"] for record in records] == ["OTEL_EXPORTER_OTLP_TIMEOUT"]


@pytest.mark.parametrize(
    ("environ", "url", "known"),
    [
        ({}, "http://collector:4318/v1/traces", True),
        ({}, "https://me:secret@c.example/a/b?x=1", True),
        ({}, "http://[::1]:4318/v1/traces", True),
        ({}, "collector:4318", False),
        ({}, "http+unix://socket/", False),
        ({}, "http://cöllector/", False),
        ({}, "http://c/a b", False),
        ({}, "http://c:99999/", False),
        ({}, "http://c/x#y", False),
        ({"HTTP_PROXY": "http://proxy:3128"}, "http://c/", False),
        ({"https_proxy": "http://proxy:3128"}, "http://c/", True),
        ({"https_proxy": "http://proxy:3128"}, "https://c/", False),
        ({"ALL_PROXY": "socks5://proxy"}, "http://c/", False),
        ({"http_proxy": "http://proxy:3128", "NO_PROXY": "c"}, "http://c/", True),
        ({"http_proxy": "http://proxy:3128", "no_proxy": "10.0.0.0/8"}, "http://10.1.2.3:4318/", True),
        ({"OTEL_PYTHON_EXPORTER_OTLP_HTTP_CREDENTIAL_PROVIDER": "x"}, "http://c/", False),
        ({"OTEL_PYTHON_EXPORTER_OTLP_HTTP_TRACES_CREDENTIAL_PROVIDER": "x"}, "http://c/", False),
        ({"OTEL_EXPORTER_OTLP_HEADERS": "a=b%0d%0ax:y"}, "http://c/", False),
        ({"OTEL_EXPORTER_OTLP_HEADERS": "content-length=3"}, "http://c/", False),
    ],
    ids=str,
)
def test_what_takes_more_than_a_connection_is_left_to_the_official_exporter(
    environ: dict[str, str], url: str, known: bool, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    for name in list(os.environ):
        if name.lower().endswith("_proxy"):
            monkeypatch.delenv(name)
    monkeypatch.setenv("NETRC", str(tmp_path / "none"))
    for name, value in environ.items():
        monkeypatch.setenv(name, value)
    assert knows_the_way(url) is known


def test_a_password_from_a_netrc_file_is_left_to_the_official_exporter(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    netrc = tmp_path / "netrc"
    netrc.write_text("machine collector login me password secret\n")
    netrc.chmod(0o600)
    monkeypatch.setenv("NETRC", str(netrc))
    assert not knows_the_way("http://collector:4318/")
    assert knows_the_way("http://another:4318/")


# ---- sending -----------------------------------------------------------------------------------------------------


def test_batches_share_a_connection(script: Callable[..., Script]) -> None:
    one = script()
    exporter = LeanExporter(one.url)
    assert [exported(exporter) for _ in range(3)] == [True] * 3
    assert (one.connections, len(one.bodies), exporter.saw) == (1, 3, FINE)
    exporter.shutdown()
    assert one.closed.wait(10)
    assert not exported(exporter)


def test_a_connection_that_the_collector_has_closed_is_made_anew(script: Callable[..., Script]) -> None:
    one = script()
    one.close_after_answer = True
    exporter = LeanExporter(one.url)
    assert exported(exporter)
    assert one.closed.wait(10)
    assert exported(exporter)
    assert (one.connections, len(one.bodies)) == (2, 2)


def test_a_connection_that_dies_under_a_batch_is_tried_again_at_once(
    script: Callable[..., Script], monkeypatch: pytest.MonkeyPatch
) -> None:
    one = script(None)
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_TIMEOUT", "0.9")  # less than the first pause
    assert exported(LeanExporter(one.url))
    assert one.connections == 2


@pytest.mark.parametrize("status", [429, 502, 503, 504])
def test_an_answer_that_may_pass_is_tried_again_when_it_says(
    status: int, script: Callable[..., Script]
) -> None:
    busy = b"HTTP/1.1 %d Busy\r\nRetry-After: 0.01\r\nContent-Length: 0\r\n\r\n" % status
    one = script(busy, busy)
    exporter = LeanExporter(one.url)
    assert exported(exporter)
    assert (len(one.bodies), exporter.saw) == (3, FINE)


def test_an_answer_that_stays_is_not_tried_again(script: Callable[..., Script]) -> None:
    one = script(b"HTTP/1.1 400 No\r\nContent-Length: 0\r\n\r\n")
    exporter = LeanExporter(one.url)
    assert not exported(exporter)
    assert (len(one.bodies), exporter.saw.kind) == (1, "http_error")


def test_a_pause_beyond_the_timeout_is_not_made(
    script: Callable[..., Script], monkeypatch: pytest.MonkeyPatch
) -> None:
    one = script(b"HTTP/1.1 503 Later\r\nRetry-After: 3600\r\nContent-Length: 0\r\n\r\n")
    exporter = LeanExporter(one.url)
    monkeypatch.setattr(exporter._end, "wait", lambda seconds: 1 / 0)
    assert not exported(exporter)
    assert exporter.saw.retry_after_s == 3600


def test_shutdown_ends_a_pause(script: Callable[..., Script]) -> None:
    one = script(*[b"HTTP/1.1 503 Later\r\nRetry-After: 9\r\nContent-Length: 0\r\n\r\n"] * 3)
    exporter = LeanExporter(one.url)
    done = threading.Event()
    threading.Thread(target=lambda: (exported(exporter), done.set()), daemon=True).start()
    while not one.bodies:
        assert not done.wait(0.001)
    exporter.shutdown()
    assert done.wait(5)


@pytest.mark.parametrize(
    ("value", "seconds"), [("", 0), ("7", 7), (" 1.5 ", 1.5), ("-1", 0), ("nan", 0), ("soon", 0),
                           ("Wed, 21 Oct 1998 07:28:00 GMT", 0)],
)  # fmt: skip
def test_retry_after_is_seconds_or_a_date(value: str, seconds: float) -> None:
    assert otlp_lean._later_s(value) == seconds


def test_certificates_that_are_not_there_are_no_reason_to_try_again(
    script: Callable[..., Script], monkeypatch: pytest.MonkeyPatch
) -> None:
    one = script()
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_CERTIFICATE", "/nowhere/ca.pem")
    exporter = LeanExporter(one.url.replace("http:", "https:"))
    monkeypatch.setattr(exporter._end, "wait", lambda seconds: 1 / 0)
    assert not exported(exporter)
    assert (exporter.saw.kind, exporter.saw.error) == ("failed", "CertificateUnusable")


def test_a_forked_child_leaves_the_connection_to_its_parent(script: Callable[..., Script]) -> None:
    one = script()
    exporter = LeanExporter(one.url)
    assert exported(exporter)
    with exporter._busy:  # held by a thread that is not there in the child
        child = os.fork()
        if not child:
            status = 1
            try:
                fresh = exporter._poster._socket is None and exporter._busy.acquire(blocking=False)
                status = 0 if fresh else 2
            finally:
                os._exit(status)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    assert exported(exporter)
    assert one.connections == 1


# ---- answers in HTTP ---------------------------------------------------------------------------------------------


def post(one: Script) -> http_post.Answer:
    return Poster("127.0.0.1", one.port, b"POST / HTTP/1.1\r\n").post(b"body", 5.0)


@pytest.mark.parametrize(
    ("answer", "status", "body"),
    [
        (b"HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\nabc", 200, b"abc"),
        (b"HTTP/1.1 200\r\ncontent-length:3\r\n\r\nabc", 200, b"abc"),
        (b"HTTP/1.1 204 No Content\r\n\r\n", 204, b""),
        (b"HTTP/1.1 103 Early\r\nLink: x\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 1\r\n\r\na", 200, b"a"),
        (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nab\r\n1;x\r\nc\r\n0\r\nT: x\r\n\r\n", 200, b"abc"),
        (b"HTTP/1.1 200 OK\nContent-Length: 2\n\nab", 200, b"ab"),
        (b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % (1 << 20) + b"x" * (1 << 20), 200, b"x" * (MAX_ANSWER + 1)),
    ],
    ids=lambda one: str(one)[:60],
)  # fmt: skip
def test_an_answer_is_read_as_http_has_it_and_no_more_of_it_than_it_may_have(
    answer: bytes, status: int, body: bytes, script: Callable[..., Script]
) -> None:
    found = post(script(answer))
    assert (found.status, found.body) == (status, body)


@pytest.mark.parametrize(
    "answer",
    [
        b"\x00\x01 noise \r\n\r\n",
        b"HTTP/2 200 OK\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nno colon\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: -1\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: many\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nxyz\r\n",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n1\r\nab\r\n",
        b"HTTP/1.1 200 OK\r\n" + b"X: y\r\n" * 20_000 + b"\r\n",
        b"H" * 70_000,
    ],
    ids=lambda one: str(one)[:60],
)
def test_what_is_no_answer_in_http_is_refused(answer: bytes, script: Callable[..., Script]) -> None:
    with pytest.raises(NoHttp):
        post(script(answer))


@pytest.mark.parametrize(
    "answer", [b"HTTP/1.1 200", b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nhalf"], ids=str
)
def test_an_answer_that_breaks_off_is_none(answer: bytes, script: Callable[..., Script]) -> None:
    one = script(answer)
    one.close_after_answer = True
    with pytest.raises(ConnectionResetError):
        post(one)


def test_an_answer_without_a_length_ends_with_its_connection(script: Callable[..., Script]) -> None:
    one = script(b"HTTP/1.0 200 OK\r\n\r\nabc")
    one.close_after_answer = True
    assert post(one).body == b"abc"


def test_the_time_for_an_answer_does_not_begin_anew_with_each_byte(
    script: Callable[..., Script], monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = iter(range(1000))
    monkeypatch.setattr(http_post, "monotonic", lambda: float(next(clock)))
    one = script(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n" + b"1\r\na\r\n" * 9)
    read: list[int] = []
    real = socket.socket.recv
    reading = threading.current_thread()

    def byte_by_byte(self: Any, size: int, *more: Any) -> bytes:
        mine = threading.current_thread() is reading
        if mine:
            read.append(size)
        return real(self, 1 if mine else size, *more)

    monkeypatch.setattr(http_post.socket, "socket", type("Slow", (socket.socket,), {"recv": byte_by_byte}))
    with pytest.raises(TimeoutError):
        Poster("127.0.0.1", one.port, b"POST / HTTP/1.1\r\n").post(b"", 20.0)
    assert 5 < len(read) < 25
