"""structlog: configured once if nobody has, added to if somebody has, left as it was on shutdown."""

from __future__ import annotations

import asyncio
import io
import json
import logging
import subprocess
import sys
from collections.abc import Callable
from typing import Any

import pytest
import structlog

import obskit
from obskit.signals import structured
from tests.signals.conftest import House

Make = Callable[..., House]
Lines = Callable[[], list[dict[str, Any]]]

MODULE_LOGGER = obskit.get_logger("made.at.import")
BOUND_AT_IMPORT = obskit.get_logger("made.at.import").bind(component="cart")


def test_a_logger_made_before_install_writes_through_it(house: Make, lines: Lines) -> None:
    with house().request() as exchange:
        MODULE_LOGGER.info("late")
    assert lines()[0]["trace_id"] == exchange.trace_id


LATE = """
import json, sys
import obskit
served = obskit.install(lambda environ, start_response: [], interface="wsgi", service="late", log_format="json")
loaded = [name for name in ("structlog", "rich") if name in sys.modules]
{used}
print(json.dumps(loaded))
"""


@pytest.mark.parametrize(
    "used",
    [
        "import structlog; structlog.get_logger('shop').info('told', a=1)",
        "obskit.get_logger('shop').info('told', a=1)",
        "from structlog import get_logger; log = get_logger('shop').bind(a=1); log.info('told')",
    ],
)
def test_structlog_is_loaded_by_whoever_logs_with_it_and_writes_through_us_from_the_start(used: str) -> None:
    program = [sys.executable, "-c", LATE.format(used=used)]
    ran = subprocess.run(program, capture_output=True, text=True, check=True, timeout=60)
    line, loaded = map(json.loads, ran.stdout.splitlines())
    assert loaded == []
    assert (line["event"], line["logger"], line["a"], line["service_name"]) == ("told", "shop", 1, "late")


def test_structlog_loaded_after_shutdown_is_left_alone() -> None:
    used = "obskit.shutdown(); import structlog; assert not structlog.is_configured()"
    subprocess.run(
        [sys.executable, "-c", LATE.format(used=used)], capture_output=True, check=True, timeout=60
    )


def test_a_logger_bound_before_install_writes_through_it(house: Make, lines: Lines) -> None:
    with house().request() as exchange:
        BOUND_AT_IMPORT.info("late")
    line = lines()[0]
    assert (line["event"], line["component"], line["trace_id"]) == ("late", "cart", exchange.trace_id)


@pytest.mark.parametrize(
    ("method", "level"),
    [
        ("debug", "debug"), ("info", "info"), ("msg", "info"), ("warning", "warning"), ("warn", "warning"),
        ("error", "error"), ("exception", "error"), ("critical", "critical"), ("fatal", "critical"),
    ],
)  # fmt: skip
def test_each_method_writes_its_level(method: str, level: str, house: Make, lines: Lines) -> None:
    house(log_level="debug")
    getattr(obskit.get_logger("shop"), method)("e")
    assert [line["level"] for line in lines()] == [level]


@pytest.mark.parametrize(
    ("number", "level"), [(10, "debug"), (30, "warning"), (25, "info"), ("high", "info")]
)
def test_log_writes_the_level_it_is_given(number: Any, level: str, house: Make, lines: Lines) -> None:
    house(log_level="debug")
    obskit.get_logger("shop").log(number, "e", a=1)
    assert [(line["event"], line["level"], line["a"]) for line in lines()] == [("e", level, 1)]


@pytest.mark.parametrize(
    "call",
    [
        lambda log: log.info(*("%d items", "three")),
        lambda log: log.info(*("%s %s", "one")),
        lambda log: log.info("%(name)s", {"other": 1}),
        lambda log: log.info("e", event="twice"),
        lambda log: log.info(),
        lambda log: log.log("nothing"),
        lambda log: log.error("%d items", "three", exc_info=True),
        lambda log: log.info(_Mute()),
        lambda log: log.info("%s items", _Mute()),
        lambda log: log.info(None),
    ],
    ids=["type", "missing", "mapping", "twice", "nothing", "no event", "exc_info", "event", "argument", "none"],
)  # fmt: skip
def test_bad_arguments_never_raise_and_still_give_a_line(
    call: Callable[[Any], Any], house: Make, lines: Lines
) -> None:
    house()
    call(obskit.get_logger("shop").bind(kept=1))
    (line,) = lines()
    assert line["kept"] == 1


def test_a_call_without_level_and_event_does_not_raise(house: Make) -> None:
    house()
    obskit.get_logger("shop").log()  # type: ignore[call-arg]


def test_a_line_with_bad_arguments_keeps_event_level_logger_and_says_what_was_wrong(
    house: Make, lines: Lines
) -> None:
    house()
    obskit.get_logger("shop").warning("%d items", "three", order=7)
    (line,) = lines()
    assert (line["event"], line["level"], line["order"]) == ("%d items", "warning", 7)
    assert line["log_error"].startswith("TypeError")
    assert line["logger"] == "shop"


class _Mute:
    def __str__(self) -> str:
        raise RuntimeError("no text")

    __repr__ = __str__


def test_the_async_methods_never_raise_either_and_carry_the_ids(house: Make, lines: Lines) -> None:
    made = house()

    async def serve() -> None:
        with made.request():
            await obskit.get_logger("shop").ainfo("good", a=1)
            await obskit.get_logger("shop").ainfo("%d items", "three")

    asyncio.run(serve())
    good, bad, canonical = lines()
    assert (good["event"], good["a"], good["trace_id"]) == ("good", 1, canonical["trace_id"])
    assert bad["event"] == "%d items"


def test_a_line_with_bad_arguments_outside_any_install_is_silent(capsys: pytest.CaptureFixture[str]) -> None:
    guarded = structured._guarded_logger()
    logger = guarded(structured._NamedLogger("shop"), [structured._emit], {})
    logger.info("%d items", "three")
    logger.info("fine")
    assert capsys.readouterr().out == ""


def test_a_sink_that_fails_while_it_tells_of_bad_arguments_stays_silent(
    house: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = house()
    monkeypatch.setattr(made.pipeline.logs, "emit", lambda *_: 1 / 0)
    obskit.get_logger("shop").info("%d items", "three")


@pytest.mark.parametrize(
    "name", [None, "", "shop", 7, _Mute, _Mute()], ids=["none", "empty", "text", "number", "class", "mute"]
)
def test_any_logger_name_gives_a_line(name: Any, house: Make, lines: Lines) -> None:
    house()
    obskit.get_logger(name).info("e")
    (line,) = lines()
    expected = {None: "app", "": "app", "shop": "shop", 7: "7"}.get(name, f"{__name__}._Mute")
    assert expected in line["logger"]


def _raise() -> None:
    raise ValueError("out of stock")


@pytest.mark.parametrize("how", ["exception", "true", "instance", "tuple"])
def test_an_exception_is_on_the_line_however_it_was_given(how: str, house: Make, lines: Lines) -> None:
    house()
    log = obskit.get_logger("shop")
    try:
        _raise()
    except ValueError as error:
        given: dict[str, Any] = {"true": True, "instance": error, "tuple": (ValueError, error, None)}
        if how == "exception":
            log.exception("failed")
        else:
            log.error("failed", exc_info=given[how])
    (line,) = lines()
    assert (line["exception"]["type"], line["exception"]["message"]) == ("ValueError", "out of stock")
    assert line["exception"]["frames"][-1]["function"] == "_raise"
    assert "exc_info" not in line


@pytest.mark.parametrize("exc_info", [False, None, (), (None, None, None), True, "yes"], ids=repr)
def test_without_an_exception_exc_info_adds_nothing(exc_info: Any, house: Make, lines: Lines) -> None:
    house()
    obskit.get_logger("shop").error("failed", exc_info=exc_info)
    (line,) = lines()
    assert "exception" not in line


def test_stack_info_puts_the_stack_on_the_line(house: Make, lines: Lines) -> None:
    house()
    obskit.get_logger("shop").info("here", stack_info=True)
    assert "test_stack_info_puts_the_stack_on_the_line" in json.dumps(lines()[0])


def test_structlogs_own_context_variables_are_on_the_line(house: Make, lines: Lines) -> None:
    house()
    with structlog.contextvars.bound_contextvars(job="nightly", level="theirs"):
        obskit.get_logger("shop").info("e", own=1)
    (line,) = lines()
    assert (line["job"], line["own"], line["level"], line["level_"]) == ("nightly", 1, "info", "theirs")


# ---- a configuration the user made --------------------------------------------------------------------


@pytest.fixture
def theirs() -> list[dict[str, Any]]:
    """A structlog configuration of the user's; what came out at its end."""
    found: list[dict[str, Any]] = []

    def keep(_logger: Any, _method: str, event_dict: dict[str, Any]) -> Any:
        found.append(dict(event_dict))
        raise structlog.DropEvent

    structlog.configure(processors=[structlog.processors.add_log_level, keep])
    return found


def test_the_users_chain_is_kept_and_gets_the_ids_and_facts(
    house: Make, lines: Lines, theirs: list[dict[str, Any]]
) -> None:
    with house().request(request_id="req-7") as exchange:
        obskit.bind(tenant="acme", step=1)
        structlog.get_logger("shop").info("inside", step=2)
    structlog.get_logger("shop").info("outside")
    inside, canonical, outside = theirs
    for line in (inside, canonical):
        assert (line["trace_id"], line["span_id"], line["request_id"]) == (
            exchange.trace_id,
            exchange.span_id,
            "req-7",
        )
        assert line["tenant"] == "acme"
    assert inside["step"] == 2
    assert "trace_id" not in outside
    assert lines() == []


def test_a_logger_the_user_made_before_install_gets_the_ids_too(
    house: Make, theirs: list[dict[str, Any]]
) -> None:
    logger = structlog.get_logger("shop").bind(a=1)
    with house().request() as exchange:
        logger.info("inside")
    assert theirs[0]["trace_id"] == exchange.trace_id


def test_the_canonical_line_goes_through_the_users_chain_once_with_all_its_keys(
    house: Make, lines: Lines, theirs: list[dict[str, Any]]
) -> None:
    made = house()
    made.serve(status=500, raised=ValueError("out of stock"))
    (line,) = theirs
    assert (line["event"], line["level"], line["http_route"]) == ("http.request", "error", "/orders/{id}")
    assert (line["http_response_status_code"], line["duration_s"], line["outcome"]) == (500, 0.25, "raised")
    assert line["exception"]["message"] == "out of stock"
    assert lines() == []
    assert made.value("obskit_log_records_total", level="error") == 1


def test_a_secret_fact_does_not_reach_the_users_chain(house: Make, theirs: list[dict[str, Any]]) -> None:
    with house().request():
        obskit.bind(password="p4ss")
        structlog.get_logger().info("inside")
    assert len(theirs) == 2
    assert "p4ss" not in repr(theirs)


def test_a_chain_of_the_users_that_fails_does_not_reach_the_request(house: Make) -> None:
    structlog.configure(processors=[lambda *_: 1 / 0])
    made = house()
    made.serve()
    assert made.value("obskit_internal_errors_total", stage="logs.close") == 1


def test_a_users_processors_may_be_a_tuple(house: Make) -> None:
    out = io.StringIO()
    structlog.configure(
        processors=(structlog.processors.JSONRenderer(),), logger_factory=structlog.PrintLoggerFactory(out)
    )
    house().serve()
    assert json.loads(out.getvalue())["event"] == "http.request"


@pytest.mark.parametrize("final", ["formatter", "json"])
def test_the_canonical_line_of_a_chain_into_stdlib_comes_out_of_the_users_own_handler(
    final: str, house: Make, lines: Lines
) -> None:
    out = io.StringIO()
    handler = logging.StreamHandler(out)
    if final == "formatter":
        handler.setFormatter(
            structlog.stdlib.ProcessorFormatter(processor=structlog.processors.JSONRenderer())
        )
    last = {
        "formatter": structlog.stdlib.ProcessorFormatter.wrap_for_formatter,
        "json": structlog.processors.JSONRenderer(),
    }
    structlog.configure(
        processors=[structlog.stdlib.add_log_level, last[final]],
        logger_factory=structlog.stdlib.LoggerFactory(), wrapper_class=structlog.stdlib.BoundLogger,
    )  # fmt: skip
    root = logging.getLogger()
    root.addHandler(handler)
    root.setLevel(logging.INFO)
    # A console handler as far as obskit can tell: it writes to what is standard error.
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("sys.stderr", out)
        house().serve()
    written = [json.loads(line) for line in out.getvalue().splitlines() if line.startswith("{")]
    assert [line["http_route"] for line in written if line["event"] == "http.request"] == ["/orders/{id}"]
    assert lines() == []


# ---- undone -------------------------------------------------------------------------------------------


def test_shutdown_leaves_structlog_unconfigured_as_it_was(house: Make) -> None:
    house()
    assert structlog.is_configured()
    obskit.shutdown()
    assert not structlog.is_configured()


def test_shutdown_leaves_the_users_chain_as_it_was(house: Make) -> None:
    mine = [structlog.processors.add_log_level, structlog.processors.JSONRenderer()]
    structlog.configure(processors=mine)
    house(), house()
    assert len(structlog.get_config()["processors"]) == 3
    obskit.shutdown()
    assert structlog.is_configured()
    assert structlog.get_config()["processors"] == [mine[0], mine[1]]
    assert len(mine) == 2


def test_shutdown_copes_with_a_chain_that_no_longer_holds_what_was_added(house: Make) -> None:
    structlog.configure(processors=[structlog.processors.JSONRenderer()])
    house()
    structlog.get_config()["processors"].clear()
    obskit.shutdown()
    assert structlog.is_configured()


def test_shutdown_keeps_a_configuration_the_user_made_after_install(house: Make) -> None:
    house()
    mine = [structlog.processors.JSONRenderer()]
    structlog.configure(processors=mine)
    obskit.shutdown()
    assert structlog.is_configured()
    assert structlog.get_config()["processors"] is mine


def test_the_line_of_a_request_goes_to_its_own_install_also_when_another_came_later(
    house: Make, lines: Lines
) -> None:
    first = house(service="one")
    house(service="two")
    with first.request():
        assert structured.active() is first.pipeline.logs
    lines()
    obskit.shutdown()
    assert structured.active() is None


def test_bound_values_can_be_replaced_and_taken_off(house: Make, lines: Lines) -> None:
    house()
    bound = obskit.get_logger("shop").bind(a=1, b=2)
    bound.unbind("a").info("one")
    bound.try_unbind("a", "never").info("two")
    bound.new(c=3).info("three")
    seen = [{key: line[key] for key in ("a", "b", "c") if key in line} for line in lines()]
    assert seen == [{"b": 2}, {"b": 2}, {"c": 3}]


def test_taking_off_what_is_not_bound_raises_as_structlog_does() -> None:
    with pytest.raises(KeyError, match="never"):
        obskit.get_logger("shop").unbind("never")


@pytest.mark.parametrize("given", [lambda *_, **__: 1 / 0, lambda *_, **__: None], ids=["raises", "garbage"])
@pytest.mark.parametrize("method", ["info", "exception", "ainfo"])
def test_a_logger_that_cannot_be_made_costs_its_line_alone_and_is_counted(
    method: str, given: Any, house: Make, lines: Lines, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = house()
    logger = obskit.get_logger("shop").bind(a=1)
    with monkeypatch.context() as patch:
        patch.setattr(structlog, "get_logger", given)
        told: Any = getattr(logger, method)("lost", b=2)
        if method == "ainfo":
            asyncio.run(told)
    assert lines() == []
    assert made.value("obskit_internal_errors_total", stage="logs.emit") == 1
    logger.info("found")
    assert [line["a"] for line in lines()] == [1]


def test_a_method_no_logger_has_is_the_callers_mistake(house: Make) -> None:
    house()
    with pytest.raises(AttributeError):
        obskit.get_logger("shop").no_such_method  # type: ignore[attr-defined]  # noqa: B018


def test_without_an_install_a_logger_that_cannot_be_made_is_silent(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(structlog, "get_logger", lambda *_, **__: 1 / 0)
    obskit.get_logger("shop").info("lost")
    monkeypatch.setattr(structured, "active", lambda: 1 / 0)
    obskit.get_logger("shop").info("lost")


def test_binding_that_fails_keeps_a_logger(
    house: Make, lines: Lines, monkeypatch: pytest.MonkeyPatch
) -> None:
    house()
    logger: Any = obskit.get_logger("shop").bind(a=1)
    with monkeypatch.context() as patch:
        patch.setattr(structured, "LateLogger", lambda *_: 1 / 0)
        kept = [
            logger.bind(b=2),
            logger.try_unbind("a"),
            logger.unbind("a"),
            logger.new(b=2),
            obskit.get_logger("x"),
        ]
    for one in kept:
        one.info("e")
    assert [line.get("a") for line in lines()] == [1, 1, 1, None, None]
