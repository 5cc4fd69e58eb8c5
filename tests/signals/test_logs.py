"""All lines of the process end here: ids, levels, forms, counts; never an exception into the application."""

from __future__ import annotations

import asyncio
import contextvars
import io
import logging
import os
import pty
import re
import subprocess
import sys
import threading
from collections.abc import Callable
from typing import Any

import pytest

import obskit
from obskit.exchange import Exchange
from obskit.redact import make_redactor
from obskit.signals import structured
from obskit.signals.logs import Logs
from obskit.signals.metrics import Metrics
from obskit.signals.writer import Writer
from tests.signals.conftest import PRELUDE, House, read_lines, run_python

Make = Callable[..., House]
Lines = Callable[[], list[dict[str, Any]]]
Stdout = Callable[[], io.StringIO]
Together = Callable[[], list[list[str]]]
IDS = ("trace_id", "span_id", "request_id")


def _both(event: str) -> None:
    logging.getLogger("shop").warning(event)
    obskit.get_logger("shop").warning(event)


def _ids(line: dict[str, Any]) -> tuple[Any, ...]:
    return tuple(line.get(key) for key in IDS)


def test_stdlib_and_structlog_lines_have_one_form(house: Make, lines: Lines) -> None:
    house(service_version="1.2", environment="test")
    logging.getLogger("shop").warning("paid", extra={"amount": 3})
    obskit.get_logger("shop").warning("paid", amount=3)
    by_stdlib, by_structlog = lines()
    for line in (by_stdlib, by_structlog):
        assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{6}Z", line.pop("timestamp"))
    assert by_stdlib == by_structlog == {
        "level": "warning", "event": "paid", "logger": "shop", "service_name": "shop", "service_version": "1.2",
        "deployment_environment": "test", "amount": 3,
    }  # fmt: skip


def test_lines_written_during_a_request_carry_its_ids_and_facts(house: Make, lines: Lines) -> None:
    with house().request(request_id="req-7") as exchange:
        obskit.bind(tenant="acme")
        _both("inside")
    _both("outside")
    first, second, canonical, *outside = lines()
    for line in (first, second, canonical):
        assert _ids(line) == (exchange.trace_id, exchange.span_id, "req-7")
        assert line["tenant"] == "acme"
    assert len(exchange.trace_id) == 32
    assert len(exchange.span_id) == 16
    assert [_ids(line) for line in outside] == [(None, None, None)] * 2


def test_a_thread_started_through_the_context_carries_the_ids_and_a_plain_one_does_not(
    house: Make, lines: Lines
) -> None:
    with house().request() as exchange:
        context = contextvars.copy_context()
        for target, arguments in ((context.run, (_both, "with")), (_both, ("without",))):
            thread = threading.Thread(target=target, args=arguments)
            thread.start()
            thread.join(10)
    found = {line["event"]: _ids(line) for line in lines()}
    assert found["with"] == (exchange.trace_id, exchange.span_id, exchange.request_id)
    assert found["without"] == (None, None, None)


def test_an_asyncio_task_carries_the_ids_of_the_request_that_started_it(house: Make, lines: Lines) -> None:
    made = house()

    async def task(number: int, started: asyncio.Event) -> None:
        await started.wait()
        _both(f"task {number}")

    async def serve(number: int, started: asyncio.Event) -> tuple[str, asyncio.Task[None]]:
        with made.request() as exchange:
            child = asyncio.create_task(task(number, started))
        return exchange.trace_id, child

    async def main() -> list[str]:
        started = asyncio.Event()
        served = [await serve(number, started) for number in range(3)]
        started.set()  # the requests have ended: their tasks still belong to them
        await asyncio.gather(*(child for _, child in served))
        return [trace_id for trace_id, _ in served]

    traces = asyncio.run(main())
    found = {(line["event"], line["trace_id"]) for line in lines() if line["event"].startswith("task")}
    assert found == {(f"task {number}", trace_id) for number, trace_id in enumerate(traces)}


@pytest.mark.parametrize("level", ["debug", "info", "warning", "error", "critical"])
def test_only_lines_of_the_log_level_and_above_are_written(level: str, house: Make, lines: Lines) -> None:
    order = ["debug", "info", "warning", "error", "critical"]
    made = house(log_level=level)
    before = made.value("obskit_log_records_total", level=level)  # the install's own notice is one
    for name in order:
        getattr(logging.getLogger("shop"), name)(name)
        getattr(obskit.get_logger("shop"), name)(name)
    assert [line["event"] for line in lines()] == [name for name in order[order.index(level) :] for _ in "ab"]
    assert made.value("obskit_log_records_total", level=level) == before + 2
    if level != "debug":
        assert made.value("obskit_log_records_total", level="debug") == 0


@pytest.mark.parametrize(
    ("how", "level"),
    [
        ({"status": 200}, "info"),
        ({"status": 404}, "info"),
        ({"status": 503}, "error"),
        ({"status": 200, "disconnected": True}, "warning"),
        ({"status": None, "raised": ValueError("x")}, "error"),
    ],
    ids=["ok", "not found", "server error", "left", "raised"],
)
def test_the_canonical_line_has_the_level_its_request_deserves_and_is_counted(
    how: dict[str, Any], level: str, house: Make, lines: Lines
) -> None:
    made = house()
    made.pipeline.begin()
    lines()
    before = made.value("obskit_log_records_total", level=level)
    made.serve(**how)
    (line,) = lines()
    assert (line["event"], line["level"]) == ("http.request", level)
    assert made.value("obskit_log_records_total", level=level) == before + 1


def test_a_canonical_line_below_the_log_level_is_not_written(house: Make, lines: Lines) -> None:
    made = house(log_level="warning")
    made.serve(status=200)
    made.serve(status=500)
    assert [line["http_response_status_code"] for line in lines()] == [500]


def test_facts_that_name_a_secret_are_redacted_on_every_line(
    house: Make, capsys: pytest.CaptureFixture[str]
) -> None:
    with house(redact=["iban"]).request():
        obskit.bind(password="p4ss", iban="DE00", nested={"api_key": "k3y"})
        _both("inside")
    out = capsys.readouterr().out
    assert out.count("[redacted]") == 9
    assert not any(secret in out for secret in ("p4ss", "DE00", "k3y"))


def test_a_line_written_while_a_line_is_written_does_not_recurse(
    house: Make, lines: Lines, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Chatty(io.StringIO):
        def write(self, text: str) -> int:
            logging.getLogger("shop").warning("from within")
            return super().write(text)

    made = house()
    monkeypatch.setattr(sys, "stdout", Chatty())
    logging.getLogger("shop").warning("outer")
    assert [line["event"] for line in read_lines(sys.stdout.getvalue())] == ["outer"]  # type: ignore[attr-defined]
    assert made.value("obskit_telemetry_dropped_total", signal="logs", reason="recursion") == 1


def test_what_cannot_be_rendered_is_counted_and_never_raised(
    house: Make, lines: Lines, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = house()
    logs = made.pipeline.logs
    monkeypatch.setattr(logs._format, "line", lambda *_: 1 / 0)
    logs.emit("warning", "lost", "shop", {})
    assert made.value("obskit_internal_errors_total", stage="logs.emit") == 1
    assert made.value("obskit_telemetry_dropped_total", signal="logs", reason="unprintable") == 1
    monkeypatch.undo()
    logs.emit("warning", "next", "shop", {})
    assert lines()[-1]["event"] == "next"


def test_a_level_nobody_knows_is_no_exception(house: Make) -> None:
    house().pipeline.logs.emit("verbose", "e", "shop", {})


def test_an_error_of_our_own_is_told_once_a_minute_with_its_stage(house: Make, lines: Lines) -> None:
    pipeline = house().pipeline
    for _ in range(3):
        pipeline.failed("probe", ValueError("ours"))
    (line,) = lines()
    assert (line["event"], line["stage"], line["exception"]["message"]) == (
        "obskit.internal_error",
        "probe",
        "ours",
    )


def test_logs_have_nothing_to_flush(house: Make) -> None:
    logs = house().pipeline.logs
    assert isinstance(logs, Logs)
    logs.flush(0.0)
    logs.opened(None)  # type: ignore[arg-type]


def test_the_canonical_line_has_the_pid_of_the_process_that_serves() -> None:
    done = run_python(
        """
        house = obskit.install(app, interface="wsgi", instrumentation=False)
        serve(house.pipeline)
        child = os.fork()
        serve(house.pipeline, url_path="/child" if not child else "/parent")
        if not child: os._exit(0)
        os.waitpid(child, 0)
        logging.getLogger("app").warning("pids", extra={"parent": os.getpid(), "child": child})
        """
    )
    *served, pids = read_lines(done.stdout)
    found = {line["url_path"]: line["worker_pid"] for line in served}
    assert found == {"/x": pids["parent"], "/parent": pids["parent"], "/child": pids["child"]}


# ---- the readable form ------------------------------------------------------------------------------


def readable(text: str) -> str:
    return re.sub(r"\x1b\[[0-9;]*m", "", text)


@pytest.fixture
def console(house: Make, capsys: pytest.CaptureFixture[str]) -> Callable[[Callable[[], Any]], str]:
    def of(write: Callable[[], Any]) -> str:
        house(log_format="console")
        capsys.readouterr()
        write()
        return readable(capsys.readouterr().out)

    return of


def test_the_console_shows_level_event_logger_and_fields(console: Callable[..., str]) -> None:
    text = console(lambda: logging.getLogger("shop").warning("paid", extra={"amount": 3, "password": "p4ss"}))
    for part in ("warning", "paid", "shop", "amount=3", "password=[redacted]"):
        assert part in text
    assert "p4ss" not in text


def test_the_console_shows_a_request_and_what_ended_it(
    house: Make, capsys: pytest.CaptureFixture[str]
) -> None:
    made = house(log_format="console")
    with made.request(status=500, raised=ValueError("out of stock"), request_id="req-7"):
        obskit.bind(tenant="acme")
    text = readable(capsys.readouterr().out)
    for part in (
        "http.request",
        "/orders/{id}",
        " 500 in ",
        "outcome=raised",
        "req-7",
        "tenant=acme",
        "out of stock",
    ):
        assert part in text


@pytest.mark.parametrize("key", ["level", "event", "timestamp", "logger", "stack", "exc_info", "exception"])
def test_a_field_of_our_name_does_not_cost_the_console_its_line(
    key: str, console: Callable[..., str]
) -> None:
    text = console(lambda: _emit_with(key))
    assert "paid" in text
    assert "warning" in text


def _emit_with(key: str) -> None:
    from obskit.signals import structured

    structured.active().emit("warning", "paid", "shop", {key: 5})


def test_keys_that_are_no_text_do_not_cost_the_console_its_line(console: Callable[..., str]) -> None:
    assert "numbered" in console(lambda: logging.getLogger("shop").warning({1: "numbered"}))


def test_a_terminal_never_gets_the_escape_sequences_of_a_value(
    house: Make, capsys: pytest.CaptureFixture[str]
) -> None:
    house(log_format="console")
    logging.getLogger("shop").warning("title \x1b]0;owned\x07", extra={"agent": "\x1b[2Jgone\r\nforged line"})
    out = capsys.readouterr().out
    assert "\x1b]0;" not in out
    assert "\x1b[2J" not in out


def test_an_exception_on_the_console_is_more_than_its_last_line(console: Callable[..., str]) -> None:
    def fail() -> None:
        try:
            raise ValueError("out of stock")
        except ValueError:
            logging.getLogger("shop").exception("failed")

    text = console(fail)
    assert "out of stock" in text
    assert "fail" in text


WRITES_ONE = """
obskit.install(app, interface="wsgi", instrumentation=False)
logging.getLogger("shop").warning("hello")
"""


def _on_a_terminal(log_format: str) -> str:
    ours, theirs = pty.openpty()
    process = subprocess.run(
        [sys.executable, "-c", PRELUDE + WRITES_ONE],
        stdout=theirs, env={**os.environ, "OBSKIT_LOG_FORMAT": log_format}, timeout=30,
    )  # fmt: skip
    os.close(theirs)
    assert process.returncode == 0
    found = b""
    while True:
        try:
            part = os.read(ours, 65536)
        except OSError:  # the terminal's other end is closed and read out
            break
        if not part:
            break
        found += part
    os.close(ours)
    return found.decode()


@pytest.mark.parametrize(("log_format", "is_json"), [("auto", False), ("json", True)])
def test_a_terminal_gets_the_readable_form_unless_json_is_asked_for(log_format: str, is_json: bool) -> None:
    out = _on_a_terminal(log_format)
    assert "hello" in out
    assert ('"event":"hello"' in out) is is_json
    assert ("\x1b[" in out) is not is_json


@pytest.mark.parametrize(("log_format", "is_json"), [("auto", True), ("console", False)])
def test_a_pipe_gets_json_unless_the_readable_form_is_asked_for(log_format: str, is_json: bool) -> None:
    out = run_python(WRITES_ONE, env={"OBSKIT_LOG_FORMAT": log_format}).stdout
    assert ('"event":"hello"' in out) is is_json
    assert "hello" in out


def test_two_installs_write_each_line_once(house: Make, lines: Lines) -> None:
    first, second = house(service="one"), house(service="two")
    with first.request():
        _both("of one")
    with second.request():
        _both("of two")
    _both("of none")
    found = [(line["event"], line["service_name"]) for line in lines()]
    assert found == [
        ("of one", "one"), ("of one", "one"), ("http.request", "one"),
        ("of two", "two"), ("of two", "two"), ("http.request", "two"),
        ("of none", "two"), ("of none", "two"),
    ]  # fmt: skip


def test_logs_alone_can_be_made_and_unmade(lines: Lines) -> None:
    from obskit.config import Config

    before = list(logging.getLogger().handlers)
    logs = Logs(Config(), Metrics(10), {"service.name": "alone"}, make_redactor())
    logging.getLogger("shop").warning("hello")
    logs.shutdown(0.0)
    assert lines()[0]["service_name"] == "alone"
    assert logging.getLogger().handlers == before


# ---- lines of requests that waited for each other -------------------------------------------------------


def _kept_back(made: House, count: int, **how: Any) -> list[Exchange]:
    """Records of requests that ended without a line of theirs."""
    closers = made.pipeline._closers
    made.pipeline._closers = tuple(closer for closer in closers if closer[0] != "logs.close")
    return [made.serve(path=f"/orders/{number}", **how) for number in range(count)]


@pytest.fixture
def own_stdout(monkeypatch: pytest.MonkeyPatch) -> Callable[[], io.StringIO]:
    """Makes standard output what a process has into which nobody has put another one; from the test itself."""

    def make() -> io.StringIO:
        out = io.StringIO()
        monkeypatch.setattr(sys, "stdout", out)
        monkeypatch.setattr(sys, "__stdout__", out)
        return out

    return make


@pytest.fixture
def together(
    own_stdout: Callable[[], io.StringIO], monkeypatch: pytest.MonkeyPatch
) -> Callable[[], list[list[str]]]:
    """From now on, the lines of each call to the writer for several."""

    def begin() -> list[list[str]]:
        own_stdout()
        calls: list[list[str]] = []
        monkeypatch.setattr(Writer, "write_together", lambda writer, lines: calls.append(list(lines)))
        return calls

    return begin


def _paths(*written: list[str]) -> list[list[str]]:
    return [[line["url_path"] for line in read_lines("\n".join(lines))] for lines in written]


def test_requests_closed_together_are_written_together_and_counted_each(
    house: Make, together: Together
) -> None:
    written = together()
    made = house()
    made.pipeline.begin()
    exchanges = [*_kept_back(made, 5), *_kept_back(made, 1, status=503)]
    logs = made.pipeline.logs
    before = made.value("obskit_log_records_total", level="info")
    logs.closed_together(iter(exchanges))
    assert _paths(*written) == [[*(f"/orders/{number}" for number in range(5)), "/orders/0"]]
    assert made.value("obskit_log_records_total", level="info") == before + 5
    assert made.value("obskit_log_records_total", level="error") == 1


def test_together_a_request_has_the_very_line_it_has_alone(
    house: Make, together: Together, monkeypatch: pytest.MonkeyPatch
) -> None:
    written = together()
    made = house()
    exchanges = _kept_back(made, 3)
    logs = made.pipeline.logs
    logs.closed_together(iter(exchanges))
    alone: list[str] = []
    monkeypatch.setattr(logs._writer, "write", alone.append)
    for exchange in exchanges:
        logs.closed(exchange)
    assert written == [alone]


def test_a_request_that_cannot_be_told_costs_no_other_its_line(
    house: Make, together: Together, monkeypatch: pytest.MonkeyPatch
) -> None:
    written = together()
    made = house()
    logs = made.pipeline.logs
    exchanges = _kept_back(made, 5)
    canonical = logs._format.canonical
    monkeypatch.setattr(
        logs._format, "canonical", lambda one: 1 / 0 if one is exchanges[2] else canonical(one)
    )
    left = iter(exchanges)
    with pytest.raises(ZeroDivisionError):
        logs.closed_together(left)
    logs.closed_together(left)
    logs.closed_together(left)
    assert _paths(*written) == [["/orders/0", "/orders/1"], ["/orders/3", "/orders/4"]]


def test_of_requests_closed_together_only_those_of_the_log_level_have_lines(
    house: Make, together: Together
) -> None:
    written = together()
    made = house(log_level="error")
    logs = made.pipeline.logs
    logs.closed_together(iter(_kept_back(made, 2)))
    assert written == []
    logs.closed_together(iter([*_kept_back(made, 1), *_kept_back(made, 1, status=500)]))
    assert [line["http_response_status_code"] for line in read_lines("\n".join(*written))] == [500]


def test_after_the_end_no_line_of_a_request_is_written(house: Make, own_stdout: Stdout) -> None:
    out = own_stdout()
    made = house(log_format="json")
    exchanges = _kept_back(made, 2)
    logs = made.pipeline.logs
    logs.shutdown(0.0)
    before = out.getvalue()
    logs.closed_together(iter(exchanges))
    logs.closed(exchanges[0])
    logs.inherited(exchanges[0], 1)
    assert out.getvalue() == before
    assert not logs.may_wait()


def test_what_waited_goes_to_whoever_is_there_when_it_is_written(
    house: Make, own_stdout: Stdout, monkeypatch: pytest.MonkeyPatch
) -> None:
    own_stdout()
    made = house()
    logs = made.pipeline.logs
    theirs = io.StringIO()
    monkeypatch.setattr(sys, "stdout", theirs)
    logs.closed_together(iter(_kept_back(made, 2)))
    assert _paths(theirs.getvalue().splitlines()[-2:]) == [["/orders/0", "/orders/1"]]
    told: list[Any] = []
    monkeypatch.setattr(structured, "_added_to", [])
    monkeypatch.setattr(structured, "log", lambda *line: told.append(line))
    logs.closed_together(iter(_kept_back(made, 2)))
    assert [line[3]["url_path"] for line in told] == ["/orders/0", "/orders/1"]


@pytest.mark.parametrize("stage", ["_writer", "_metrics", "_format"])
def test_whatever_fails_each_call_goes_on_behind_where_the_last_one_came_to(
    stage: str, house: Make, own_stdout: Stdout, monkeypatch: pytest.MonkeyPatch
) -> None:
    own_stdout()
    made = house()
    left = iter(_kept_back(made, 3))
    logs = made.pipeline.logs
    nothing = type("Nothing", (), {"canonical": lambda *_: 1 / 0})()
    monkeypatch.setattr(logs, stage, nothing)
    calls = 0
    while True:
        calls += 1
        try:
            logs.closed_together(left)
            break
        except (ZeroDivisionError, AttributeError):
            assert calls <= 3
    assert list(left) == []


def test_lines_may_wait_where_nobody_looks_at_them_at_once(house: Make, own_stdout: Stdout) -> None:
    own_stdout()
    assert house(log_format="json").pipeline.logs.may_wait()
    assert house(log_format="json", log_when_full="block").pipeline.logs.may_wait()


def _listen(logs: Logs, patch: pytest.MonkeyPatch) -> None:
    logs.listeners = (lambda line: None,)


def _configure(logs: Logs, patch: pytest.MonkeyPatch) -> None:
    patch.setattr(structured, "_added_to", [])


def _replace(logs: Logs, patch: pytest.MonkeyPatch) -> None:
    patch.setattr(sys, "stdout", io.StringIO())


@pytest.mark.parametrize("why_not", [_listen, _configure, _replace])
def test_lines_may_not_wait_where_somebody_does(
    why_not: Callable[..., None], house: Make, own_stdout: Stdout, monkeypatch: pytest.MonkeyPatch
) -> None:
    own_stdout()
    logs = house(log_format="json").pipeline.logs
    why_not(logs, monkeypatch)
    assert not logs.may_wait()


def test_lines_for_a_person_may_not_wait(house: Make, own_stdout: Stdout) -> None:
    own_stdout()
    assert not house(log_format="console").pipeline.logs.may_wait()


def test_a_request_of_a_dead_worker_has_a_line_with_the_pid_of_that(house: Make, lines: Lines) -> None:
    made = house()
    (exchange,) = _kept_back(made, 1)
    lines()
    before = made.value("obskit_log_records_total", level="info")
    made.pipeline.logs.inherited(exchange, 4711)
    (line,) = lines()
    assert (line["url_path"], line["worker_pid"]) == ("/orders/0", 4711)
    assert made.value("obskit_log_records_total", level="info") == before + 1
    made.pipeline.logs.closed(exchange)
    assert lines()[0]["worker_pid"] == os.getpid()


def test_a_request_of_a_dead_worker_is_told_in_the_users_own_form(
    house: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = house()
    (exchange,) = _kept_back(made, 1)
    told: list[Any] = []
    monkeypatch.setattr(structured, "_added_to", [])
    monkeypatch.setattr(structured, "log", lambda *line: told.append(line))
    made.pipeline.logs.inherited(exchange, 4711)
    assert [line[3]["worker_pid"] for line in told] == [4711]


def test_what_waits_is_written_before_any_line_that_is_emitted(house: Make, lines: Lines) -> None:
    made = house(log_level="warning")
    exchanges = _kept_back(made, 1, status=500)
    logs = made.pipeline.logs

    def write_what_waits() -> None:
        while exchanges:
            logs.closed(exchanges.pop())

    logs.before_line = write_what_waits
    logging.getLogger("shop").info("not shown")
    assert len(exchanges) == 1, "no line, nothing before it"
    _both("behind")
    assert [line["event"] for line in lines()] == ["http.request", "behind", "behind"]


def test_what_waits_may_itself_emit_a_line_and_fail(house: Make, lines: Lines) -> None:
    made = house()
    logs = made.pipeline.logs
    asked: list[None] = []

    def fail() -> None:
        asked.append(None)
        logs.emit("warning", "within", "shop", {})
        raise ValueError("cannot")

    logs.before_line = fail
    logging.getLogger("shop").warning("outer")
    logging.getLogger("shop").warning("next")
    assert [line["event"] for line in lines()] == ["within", "outer", "within", "next"]
    assert len(asked) == 2
    assert made.value("obskit_internal_errors_total", stage="logs.emit") == 2
    assert made.value("obskit_telemetry_dropped_total", signal="logs", reason="unprintable") == 0
