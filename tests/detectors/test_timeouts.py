"""A server that gives up on a request: what gunicorn's sync worker does then, and what reaches the three signals."""

from __future__ import annotations

import asyncio
import http.client
import io
from contextlib import suppress
from pathlib import Path
from types import CodeType, FunctionType
from typing import Any
from wsgiref.util import FileWrapper

import pytest
from gunicorn.workers.base import Worker as GunicornWorker

from obskit.exchange import Exchange, Outcome, cut_off_by
from obskit.wsgi import WsgiDoor
from tests.support.otlp import SERVER, OtlpSink
from tests.support.recording import make_environ, make_pipeline, talk_wsgi, wsgi_record
from tests.support.servers import Server


def aborted() -> SystemExit:
    """What gunicorn's own handler of SIGABRT raises in the midst of the application."""

    class Settings:
        def worker_abort(self, worker: Any) -> None:
            pass

    class Worker(GunicornWorker):
        def __init__(self) -> None:
            self.cfg = Settings()

    try:
        Worker().handle_abort(6, None)
    except SystemExit as error:
        return error
    raise AssertionError("gunicorn's handle_abort raises SystemExit no more")


def raised(error: BaseException) -> BaseException:
    try:
        raise error
    except BaseException as caught:
        return caught


def raised_in(module: str, function: str, error: BaseException) -> BaseException:
    code = compile(f"def {function}(error):\n    raise error", "<test>", "exec")
    inner = next(constant for constant in code.co_consts if isinstance(constant, CodeType))
    try:
        FunctionType(inner, {"__name__": module})(error)
    except BaseException as caught:
        return caught
    raise AssertionError


@pytest.mark.parametrize(
    ("error", "outcome"),
    [
        (aborted(), Outcome.TIMEOUT),
        (raised(SystemExit(1)), Outcome.CANCELLED),
        (SystemExit(1), Outcome.CANCELLED),
        (raised(KeyboardInterrupt()), Outcome.CANCELLED),
        (raised(asyncio.CancelledError()), Outcome.CANCELLED),
        # Another signal of gunicorn's, an application's own handler of that name, another exception from it.
        (raised_in("gunicorn.workers.base", "handle_quit", SystemExit(0)), Outcome.CANCELLED),
        (raised_in("shop.signals", "handle_abort", SystemExit(1)), Outcome.CANCELLED),
        (raised_in("gunicorn.workers.base", "handle_abort", KeyboardInterrupt()), Outcome.CANCELLED),
    ],
)
def test_a_timeout_is_known_by_where_its_exit_was_raised(error: BaseException, outcome: Outcome) -> None:
    assert cut_off_by(error) is outcome


def test_a_timeout_after_a_whole_answer_ended_nothing() -> None:
    made = Exchange()
    made.exception, made.status = aborted(), 200
    assert made.judge() is Outcome.TIMEOUT
    made.response_started = made.response_complete = True
    assert made.judge() is Outcome.COMPLETED


def working(environ: Any, start_response: Any) -> Any:
    raise aborted()


def streaming(environ: Any, start_response: Any) -> Any:
    start_response("200 OK", [])
    yield b"1"
    raise aborted()


def sending_a_file(environ: Any, start_response: Any) -> Any:
    start_response("200 OK", [("Content-Length", "10")])
    return environ["wsgi.file_wrapper"](io.BytesIO(b"0123456789"))


def two_pieces(environ: Any, start_response: Any) -> Any:
    start_response("200 OK", [])
    return iter([b"1", b"2"])


@pytest.mark.parametrize(
    ("app", "while_sending", "status"),
    [
        (working, None, None),
        (streaming, None, 200),
        # The server was stuck in a send to a client that takes nothing.
        (two_pieces, aborted(), 200),
        (sending_a_file, aborted(), 200),
    ],
)
def test_the_door_sees_a_timeout_wherever_it_strikes(app: Any, while_sending: Any, status: Any) -> None:
    environ = make_environ(**{"wsgi.file_wrapper": FileWrapper})
    record = wsgi_record(app, environ, fails_on_chunk=while_sending)
    assert (record.outcome, record.status) == ("timeout", status)


def test_the_exit_passes_through_as_the_very_same_object() -> None:
    error = aborted()

    def app(environ: Any, start_response: Any) -> Any:
        raise error

    assert talk_wsgi(WsgiDoor(app, make_pipeline()[0])).error is error


SLOW = """
import time
import obskit

def app(environ, start_response):
    obskit.current().name_route(environ["PATH_INFO"])
    if environ["PATH_INFO"] == "/before":
        time.sleep(60)
    start_response("200 OK", [("Content-Type", "text/plain")])
    yield b"first"
    time.sleep(60)

app = obskit.install(app, instrumentation=False)
"""


@pytest.mark.e2e
@pytest.mark.parametrize(("path", "sent"), [("/before", None), ("/during", 200)])
def test_gunicorns_sync_timeout_reaches_line_and_span_before_the_worker_goes(
    path: str, sent: int | None, tmp_path: Path
) -> None:
    (tmp_path / "slow.py").write_text(SLOW)
    with OtlpSink() as sink:
        server = Server(
            "gunicorn-sync",
            "slow:app",
            cwd=tmp_path,
            log_dir=tmp_path / "log",
            env={"OTEL_EXPORTER_OTLP_ENDPOINT": sink.url},
        )
        server.command += ["--timeout", "1", "--no-control-socket"]
        with server:
            connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=20)
            connection.request("GET", path)
            with suppress(http.client.HTTPException):  # a body that was cut off is what it has to be
                connection.getresponse().read()
            connection.close()
            line = server.wait_for_line(lambda one: one["event"] == "http.request", 10)
            span = sink.wait_for(trace_id=line["trace_id"], kind=SERVER, timeout=10)
    assert (line["outcome"], line["findings"]) == ("timeout", ["timeout"])
    assert line["http_route"] == path
    assert line.get("http_response_status_code") == sent
    evidence = line["evidence"]["timeout"]
    assert evidence["status_sent"] == sent
    assert 0.9 < evidence["after_s"] < 10
    assert (span.attributes["obskit.outcome"], span.attributes["obskit.findings"]) == ("timeout", ["timeout"])
    assert [event.name for event in span.events if event.name == "obskit.finding"] == ["obskit.finding"]
