"""stdlib logging: every line once, the user's set-up kept, everything undone."""

from __future__ import annotations

import io
import logging
import logging.config
import logging.handlers
import re
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import obskit
from obskit.signals import capture, structured
from tests.signals.conftest import House, logging_state

Make = Callable[..., House]
Lines = Callable[[], list[dict[str, Any]]]
Both = Callable[[], tuple[str, str]]

SERVER_LOGGERS = [
    "uvicorn", "uvicorn.error", "uvicorn.asgi", "gunicorn.error", "hypercorn.error", "_granian", "waitress",
    "django", "django.request", "werkzeug",
]  # fmt: skip
ACCESS_LOGGERS = ["uvicorn.access", "gunicorn.access", "hypercorn.access", "granian.access", "django.server"]


@pytest.fixture(autouse=True)
def loggers_of_servers(monkeypatch: pytest.MonkeyPatch) -> None:
    """As they are before a server of another test has configured them."""
    for name in ("uvicorn", "uvicorn.error", "uvicorn.access"):
        monkeypatch.setattr(logging.getLogger(name), "handlers", [])
        monkeypatch.setattr(logging.getLogger(name), "propagate", True)


@pytest.fixture
def out(capsys: pytest.CaptureFixture[str]) -> Both:
    """What stdout and stderr got since the last call."""

    def taken() -> tuple[str, str]:
        captured = capsys.readouterr()
        return captured.out, captured.err

    return taken


@pytest.fixture
def root() -> logging.Logger:
    return logging.getLogger()


def times(needle: str, both: tuple[str, str]) -> int:
    return sum(len(re.findall(rf"\b{re.escape(needle)}\b", text)) for text in both)


# ---- nothing configured -------------------------------------------------------------------------------


def test_with_nothing_configured_a_line_comes_once_as_ours(house: Make, lines: Lines) -> None:
    house()
    logging.getLogger("shop").info("paid %d", 3)
    logging.getLogger().warning("root")
    assert [(line["event"], line["logger"]) for line in lines()] == [("paid 3", "shop"), ("root", "root")]


@pytest.mark.parametrize("level", [logging.DEBUG, logging.ERROR])
def test_a_level_the_user_gave_the_root_logger_is_kept(level: int, house: Make) -> None:
    logging.getLogger().setLevel(level)
    house()
    assert logging.getLogger().level == level


@pytest.mark.parametrize(
    "arguments",
    [("%d items", "three"), ("%s and %s", "one"), ("no placeholder", 1), ("%(name)s", {"other": 1})],
    ids=["type", "missing", "surplus", "mapping"],
)
def test_bad_format_arguments_give_the_bare_event_and_say_what_was_wrong(
    arguments: tuple[Any, ...], house: Make, lines: Lines
) -> None:
    house()
    logging.getLogger("shop").warning(*arguments)
    (line,) = lines()
    assert line["event"] == arguments[0]
    assert re.match(r"TypeError|KeyError", line["log_error"])


class _Mute:
    def __str__(self) -> str:
        raise RuntimeError("no text")

    __repr__ = __str__


@pytest.mark.parametrize(
    "record",
    [
        {"msg": _Mute()},
        {"msg": "e", "value": _Mute()},
        {"msg": "e", "exc_info": (None, None, None)},
        {"msg": "e", "exc_info": True},
        {"msg": "e", "exc_info": (1,)},
        {"msg": "e", "exc_info": ("a", "b", "c")},
        {"msg": "e", "levelno": 5},
        {"msg": "e", "levelno": 10_000},
        {"msg": {1: 2}},
        {"msg": None},
        {"msg": "e", "name": None},
        {"msg": "e", "args": 7},
    ],
    ids=lambda record: ",".join(f"{key}={type(value).__name__}" for key, value in record.items()),
)  # fmt: skip
def test_whatever_a_record_holds_nothing_is_raised_and_a_line_written(
    record: dict[str, Any], house: Make, lines: Lines, root: logging.Logger
) -> None:
    house(log_level="debug")
    made = logging.makeLogRecord(
        {"levelno": logging.WARNING, "levelname": "WARNING", "name": "shop", **record}
    )
    logging.getLogger().handle(made)
    assert len(lines()) == 1


@pytest.mark.parametrize(
    ("number", "level"),
    [(1, "debug"), (10, "debug"), (25, "info"), (35, "warning"), (50, "critical"), (99, "critical")],
)
def test_a_level_between_is_the_one_below_it(number: int, level: str, house: Make, lines: Lines) -> None:
    house(log_level="debug")
    logging.getLogger("shop").log(number, "e")
    assert [line["level"] for line in lines()] == ([level] if number >= 10 else [])


def _raise() -> None:
    raise ValueError("out of stock")


@pytest.mark.parametrize("how", ["exception", "exc_info"])
def test_an_exception_is_on_the_line(how: str, house: Make, lines: Lines) -> None:
    house()
    try:
        _raise()
    except ValueError as error:
        if how == "exception":
            logging.getLogger("shop").exception("failed")
        else:
            logging.getLogger("shop").error("failed", exc_info=error)
    (line,) = lines()
    assert (line["level"], line["exception"]["type"]) == ("error", "ValueError")
    assert line["exception"]["frames"][-1]["function"] == "_raise"


def test_stack_info_puts_the_stack_on_the_line(house: Make, capsys: pytest.CaptureFixture[str]) -> None:
    house()
    logging.getLogger("shop").warning("here", stack_info=True)
    assert "test_stack_info_puts_the_stack_on_the_line" in capsys.readouterr().out


def test_a_structlog_event_handed_to_stdlib_keeps_its_fields(house: Make, lines: Lines) -> None:
    house()
    logging.getLogger("shop").warning(
        {"event": "paid", "amount": 3}, extra={"_logger": object(), "_name": "warning", "more": 1}
    )
    (line,) = lines()
    assert (line["event"], line["amount"], line["more"]) == ("paid", 3, 1)
    assert "_logger" not in line


def test_objects_that_servers_hang_on_records_stay_off_the_line(
    house: Make, lines: Lines, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in (
        "uvicorn",
        "uvicorn.error",
    ):  # as they are before a server of another test has configured them
        monkeypatch.setattr(logging.getLogger(name), "handlers", [])
        monkeypatch.setattr(logging.getLogger(name), "propagate", True)
    house()
    logging.getLogger("uvicorn.error").warning("e", extra={"color_message": "\x1b[1m", "request": object()})
    assert {"color_message", "request"}.isdisjoint(lines()[0])


# ---- what the user made ---------------------------------------------------------------------------------

FORMAT = "%(levelname)s %(message)s trace=%(trace_id)s span=%(span_id)s request=%(request_id)s"


def test_a_basic_config_before_install_is_kept_and_its_lines_carry_the_ids(
    house: Make, out: Both, root: logging.Logger
) -> None:
    logging.basicConfig(format=FORMAT, level=logging.INFO)
    (handler,) = root.handlers
    with house().request(request_id="req-7") as exchange:
        logging.getLogger("shop").info("inside")
        logging.getLogger("shop").info("theirs", extra={"trace_id": "mine"})
    logging.getLogger("shop").info("outside")
    stdout, stderr = both = out()
    assert root.handlers == [handler]
    assert f"INFO inside trace={exchange.trace_id} span={exchange.span_id} request=req-7" in stderr
    assert "INFO theirs trace=mine" in stderr
    assert "INFO outside trace= span= request=\n" in stderr
    assert [times(event, both) for event in ("inside", "theirs", "outside")] == [1, 1, 1]
    assert stdout.count("http.request") == 1
    assert "http.request" not in stderr


def test_a_basic_config_after_install_prints_no_line_twice(
    house: Make, out: Both, root: logging.Logger
) -> None:
    house()
    logging.basicConfig(level=logging.INFO)
    logging.getLogger("shop").info("paid")
    assert times("paid", out()) == 1


def test_obskits_own_lines_come_beside_the_users_console_handler(
    house: Make, lines: Lines, root: logging.Logger
) -> None:
    logging.basicConfig()
    house()
    logging.getLogger("obskit").warning("ours")
    assert [line["event"] for line in lines()] == ["ours"]
    assert capture.keeps_users_console()


def test_a_file_handler_stays_and_its_lines_also_come_as_ours(
    house: Make, lines: Lines, out: Both, tmp_path: Path
) -> None:
    handler = logging.FileHandler(tmp_path / "app.log")
    logging.getLogger().addHandler(handler)
    house()
    logging.getLogger("shop").warning("paid")
    handler.close()
    assert (tmp_path / "app.log").read_text() == "paid\n"
    assert [line["event"] for line in lines()] == ["paid"]
    assert not capture.keeps_users_console()


@pytest.mark.parametrize("stream", ["stdout", "stderr"])
def test_capture_all_replaces_the_users_console_handler(
    stream: str, house: Make, out: Both, root: logging.Logger
) -> None:
    logging.basicConfig(stream=getattr(sys, stream), level=logging.INFO)
    house(capture_logs="all")
    logging.getLogger("shop").info("paid")
    stdout, stderr = out()
    assert (stdout.count('"event":"paid"'), stderr) == (1, "")


def test_capture_off_touches_no_logger_but_our_own(house: Make, lines: Lines, root: logging.Logger) -> None:
    uvicorn = logging.getLogger("uvicorn")
    uvicorn.addHandler(logging.StreamHandler(sys.stderr))
    before = logging_state()
    house(capture_logs="off").serve()
    after = logging_state()
    assert {name for name in after if after[name] != before.get(name, (set(), 0, True, False))} == {"obskit"}
    assert not uvicorn.handlers[0].filters
    logging.getLogger("obskit").warning("ours")
    assert [line["event"] for line in lines()] == ["http.request", "ours"]


def test_a_rich_console_handler_counts_as_the_users_console(
    house: Make, out: Both, root: logging.Logger
) -> None:
    from rich.console import Console
    from rich.logging import RichHandler

    root.addHandler(RichHandler(console=Console(file=sys.stderr, width=200)))
    root.setLevel(logging.INFO)
    house()
    logging.getLogger("shop").warning("paid")
    assert times("paid", out()) == 1


def test_a_user_handler_with_a_stream_of_its_own_is_no_console(house: Make, lines: Lines) -> None:
    own = io.StringIO()
    logging.getLogger().addHandler(logging.StreamHandler(own))
    house()
    logging.getLogger("shop").warning("paid")
    assert own.getvalue() == "paid\n"
    assert len(lines()) == 1


class _NoFileno(io.StringIO):
    def fileno(self) -> int:
        raise AttributeError("no descriptor")


@pytest.mark.parametrize(
    ("handler", "expected"),
    [
        (lambda: logging.StreamHandler(sys.stdout), True),
        (lambda: logging.StreamHandler(sys.__stderr__), True),
        (lambda: logging.StreamHandler(_NoFileno()), False),
        (lambda: logging.StreamHandler(open(1, "w", closefd=False)), True),  # noqa: SIM115
        (lambda: logging.handlers.BufferingHandler(1), False),
        (logging.NullHandler, False),
    ],
)
def test_a_console_handler_is_one_that_writes_to_stdout_or_stderr(
    handler: Callable[[], logging.Handler], expected: bool
) -> None:
    assert capture._is_console(handler()) is expected


# ---- what servers and frameworks make ---------------------------------------------------------------------


def _uvicorn() -> None:
    from uvicorn.config import LOGGING_CONFIG

    logging.config.dictConfig(LOGGING_CONFIG)


def _django() -> None:
    import django.conf
    from django.utils.log import DEFAULT_LOGGING

    if not django.conf.settings.configured:
        django.conf.settings.configure(DEBUG=True)
    logging.config.dictConfig(DEFAULT_LOGGING)


def _gunicorn() -> None:
    import gunicorn.config
    import gunicorn.glogging

    settings = gunicorn.config.Config()
    settings.set("accesslog", "-")
    gunicorn.glogging.Logger(settings)


def _flask() -> None:
    import flask.logging

    logging.getLogger("flaskapp").addHandler(flask.logging.default_handler)


SETUPS = {
    "uvicorn": (_uvicorn, ["uvicorn.error", "uvicorn"], ["uvicorn.access"]),
    "django": (_django, ["django.request", "django.security.csrf", "django"], ["django.server"]),
    "gunicorn": (_gunicorn, ["gunicorn.error"], ["gunicorn.access"]),
}
WHEN = ["before install", "after install"]


@pytest.mark.parametrize("when", WHEN)
@pytest.mark.parametrize("server", sorted(SETUPS))
def test_a_servers_lines_come_once_as_ours_and_its_access_lines_not_at_all(
    server: str, when: str, house: Make, out: Both, root: logging.Logger
) -> None:
    set_up, loggers, access = SETUPS[server]
    if when == "before install":
        set_up()
    made = house()
    if when == "after install":
        set_up()
    made.pipeline.begin()
    out()
    for number, name in enumerate(loggers):
        logging.getLogger(name).warning("line%d", number)
    for name in access:
        for level in (logging.INFO, logging.WARNING, logging.ERROR):
            logging.getLogger(name).log(level, "GET /orders")
    stdout, stderr = out()
    assert re.findall(r'"event":"(line\d)"', stdout) == [f"line{number}" for number in range(len(loggers))]
    assert "GET /orders" not in stdout
    assert stderr == ""


@pytest.mark.parametrize("server", sorted(SETUPS))
def test_access_lines_come_once_as_ours_when_asked_for(
    server: str, house: Make, out: Both, root: logging.Logger
) -> None:
    set_up, _, access = SETUPS[server]
    set_up()
    house(access_logs=True).pipeline.begin()
    out()
    logging.getLogger(access[0]).info("GET /orders", extra={"status_code": 200})
    stdout, stderr = out()
    assert stdout.count("GET /orders") == 1
    assert stderr == ""


@pytest.mark.parametrize("when", WHEN)
def test_a_servers_lines_stay_the_servers_beside_the_users_console_handler(
    when: str, house: Make, out: Both, root: logging.Logger
) -> None:
    logging.basicConfig(level=logging.INFO)
    if when == "before install":
        _uvicorn()
    made = house()
    if when == "after install":
        _uvicorn()
    made.pipeline.begin()
    logging.getLogger("uvicorn.error").info("started")
    assert times("started", out()) == 1


def test_a_servers_file_handler_is_kept(house: Make, lines: Lines, tmp_path: Path) -> None:
    access = logging.getLogger("gunicorn.access")
    handler = logging.FileHandler(tmp_path / "access.log")
    access.addHandler(handler)
    access.setLevel(logging.INFO)
    house().pipeline.begin()
    access.info("GET /orders")
    handler.close()
    assert (tmp_path / "access.log").read_text() == "GET /orders\n"
    assert lines() == []


def test_flasks_default_handler_is_released_when_the_root_is_ours(house: Make, out: Both) -> None:
    import flask.logging

    logger = logging.getLogger("flaskapp")
    logger.addHandler(flask.logging.default_handler)
    house()
    capture.release(logger, flask.logging.default_handler)
    out()
    logger.warning("paid")
    stdout, stderr = out()
    assert (stdout.count("paid"), stderr) == (1, "")


def test_flasks_default_handler_stays_beside_the_users_console_handler(
    house: Make, root: logging.Logger
) -> None:
    import flask.logging

    logging.basicConfig()
    logger = logging.getLogger("flaskapp")
    logger.addHandler(flask.logging.default_handler)
    house()
    capture.release(logger, flask.logging.default_handler)
    assert logger.handlers == [flask.logging.default_handler]


@pytest.mark.parametrize("when", WHEN)
def test_a_flask_apps_own_logger_prints_once(when: str, out: Both, root: logging.Logger) -> None:
    import flask

    app = flask.Flask("flaskapp")
    if when == "before install":
        assert app.logger
    obskit.install(app, instrumentation=False)
    out()
    app.logger.warning("paid")
    assert times("paid", out()) == 1


# ---- undone ----------------------------------------------------------------------------------------------


def _basic() -> None:
    logging.basicConfig(level=logging.INFO)


@pytest.mark.parametrize("mode", ["auto", "all", "off"])
@pytest.mark.parametrize(
    "set_up",
    [lambda: None, _basic, _uvicorn, _django, _gunicorn, _flask],
    ids=["nothing", "basic", "uvicorn", "django", "gunicorn", "flask"],
)
def test_shutdown_leaves_logging_as_it_was_found(
    set_up: Callable[[], None], mode: str, house: Make, root: logging.Logger
) -> None:
    for name in (*SERVER_LOGGERS, *ACCESS_LOGGERS, "obskit"):
        logging.getLogger(name)
    set_up()
    before = logging_state()
    filters = [list(handler.filters) for handler in root.handlers]
    house(capture_logs=mode).pipeline.begin()
    house(capture_logs=mode).pipeline.begin()
    obskit.shutdown()
    after = logging_state()
    assert {name: after[name] for name in before} == before
    assert [list(handler.filters) for handler in root.handlers] == filters


def test_after_shutdown_a_handler_somebody_kept_writes_nothing(house: Make, lines: Lines) -> None:
    house()
    handler = capture._handler
    assert handler is not None
    obskit.shutdown()
    lines()
    handler.handle(logging.makeLogRecord({"msg": "late", "levelno": 30}))
    assert lines() == []


def test_forgetting_one_of_two_installs_keeps_the_other_writing(house: Make, lines: Lines) -> None:
    first, second = house(service="one"), house(service="two")
    second.pipeline.shutdown(0.1)
    logging.getLogger("shop").warning("paid")
    assert [line["service_name"] for line in lines()] == ["one"]
    first.pipeline.shutdown(0.1)
    capture.detach(first.pipeline.logs)
    assert capture._handler is None


def test_a_handler_a_server_makes_when_it_first_logs_prints_no_line_twice(house: Make, out: Both) -> None:
    house().pipeline.begin()
    late = logging.getLogger("hypercorn.error")
    late.addHandler(logging.StreamHandler(sys.stderr))
    late.setLevel(logging.INFO)
    late.info("first")
    late.info("second")
    text = out()
    assert (times("first", text), times("second", text)) == (1, 1)
    assert "second" in text[0]


@pytest.mark.parametrize("wanted", [False, True])
def test_access_lines_of_flasks_development_server_come_only_when_asked_for(
    wanted: bool, house: Make, lines: Lines
) -> None:
    house(access_logs=wanted)
    server = logging.getLogger("werkzeug")
    server.setLevel(logging.INFO)
    server.info(
        '127.0.0.1 - - [23/Nov/2026 04:14:41] "%s" %s %s', "\x1b[33mGET /nope HTTP/1.1\x1b[0m", "404", "-"
    )
    server.info("\x1b[33mPress CTRL+C to quit\x1b[0m")
    events = [line["event"] for line in lines()]
    assert events[-1] == "Press CTRL+C to quit"
    assert any("GET /nope" in event for event in events) is wanted


@pytest.mark.parametrize("name", ["httpx", "urllib3.connectionpool", "werkzeug", "uvicorn.access"])
def test_a_library_that_logs_urls_tells_nothing_of_their_queries(
    name: str, house: Make, lines: Lines
) -> None:
    house(access_logs=True, log_level="debug")
    logging.getLogger(name).setLevel(logging.DEBUG)
    logging.getLogger(name).info('%s: "GET %s HTTP/1.1" 200', "HTTP Request", "/pay?q=hunter2&page=hunter2")
    event = lines()[-1]["event"]
    assert event == 'HTTP Request: "GET /pay?q=[redacted]&page=[redacted] HTTP/1.1" 200'


def test_an_argument_that_cannot_be_written_is_told_without_its_secret(house: Make, lines: Lines) -> None:
    class Broken:
        def __str__(self) -> str:
            raise ValueError("password=hunter2")

    house()
    logging.getLogger("shop").warning("%s items", Broken())
    assert lines()[-1]["log_error"] == "ValueError: password=[redacted]"


def test_what_a_record_logs_while_it_is_read_ends_after_one_turn_and_is_counted(
    house: Make, lines: Lines
) -> None:
    class Chatty:
        def __str__(self) -> str:
            logging.getLogger("shop").warning("within %s", self)
            return "chatty"

    made = house()
    logging.getLogger("shop").warning("outer %s", Chatty())
    assert [line["event"] for line in lines()] == ["outer chatty"]
    assert made.value("obskit_telemetry_dropped_total", signal="logs", reason="recursion") == 1


@pytest.mark.parametrize("then", ["none", "fails"])
def test_a_sink_that_cannot_be_found_fails_no_call_of_the_application(
    then: str, house: Make, lines: Lines, monkeypatch: pytest.MonkeyPatch
) -> None:
    house()
    with monkeypatch.context() as patch:
        patch.setattr(structured, "active", (lambda: None) if then == "none" else (lambda: 1 / 0))
        logging.getLogger("shop").warning("lost")
    logging.getLogger("shop").warning("found")
    assert [line["event"] for line in lines()] == ["found"]
