"""What the operator is told of a collector: which one, what to do, and no more than once a minute of each kind."""

from __future__ import annotations

import logging
import threading
from typing import Any

import pytest

from obskit.signals import collector
from obskit.signals.collector import DO, FINE, Hush, Saw, Teller, heard_of, shown
from tests.signals.conftest import records_of


@pytest.mark.parametrize(
    ("endpoint", "said"),
    [
        ("http://user:password@collector:4318/token/v1/traces?key=secret#secret", "http://collector:4318"),
        ("https://collector.example", "https://collector.example"),
        ("http://[::1]:4318/x", "http://[::1]:4318"),
        ("collector:4317", "collector:4317"),
        ("user:secret@collector:4317", "collector:4317"),
        ("http://collector:secret", "an address that cannot be read"),
        ("http://[secret", "an address that cannot be read"),
    ],
)
def test_an_address_is_shown_without_what_may_be_secret_in_it(endpoint: str, said: str) -> None:
    assert shown(endpoint) == said


class Told(list[tuple[int, str, dict[str, Any]]]):
    """What a teller said, on a clock of its own."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now = 1000.0
        monkeypatch.setattr(collector, "monotonic", lambda: self.now)
        self.teller = Teller("http://c:4318", lambda *said: self.append(said))


@pytest.fixture
def told(monkeypatch: pytest.MonkeyPatch) -> Told:
    return Told(monkeypatch)


def test_ten_minutes_of_an_outage_are_ten_lines_with_all_losses_in_them(told: Told) -> None:
    for _ in range(600):
        told.teller.failed(Saw("refused", "ConnectionRefusedError"), 512)
        told.now += 1
    assert len(told) == 10
    level, event, facts = told[0]
    assert (level, event) == (logging.WARNING, "telemetry.export_failed")
    assert facts == {
        "signal": "traces", "collector": "http://c:4318", "reason": "refused", "do": DO["refused"],
        "error": "ConnectionRefusedError", "failures": 1, "spans_lost": 512,
    }  # fmt: skip
    told.teller.arrived()
    assert sum(facts["spans_lost"] for _, _, facts in told) == 600 * 512


def test_trouble_of_another_kind_is_said_at_once(told: Told) -> None:
    told.teller.failed(Saw("refused"), 1)
    told.teller.failed(Saw("timeout"), 1)
    told.teller.failed(Saw("refused"), 1)
    assert [facts["reason"] for _, _, facts in told] == ["refused", "timeout"]


def test_the_end_of_an_outage_is_said_once_with_how_long_it_was(told: Told) -> None:
    told.teller.arrived()
    told.teller.failed(Saw("refused"), 1)
    told.now += 42
    told.teller.arrived()
    told.teller.arrived()
    level, event, facts = told[-1]
    assert (len(told), level, event, facts["after_s"]) == (
        2,
        logging.INFO,
        "telemetry.export_recovered",
        42.0,
    )


def test_a_collector_that_comes_and_goes_is_told_of_once_a_minute(told: Told) -> None:
    for _ in range(60):
        told.teller.failed(Saw("reset"), 1)
        told.teller.arrived()
        told.now += 1
    assert [event for _, event, _ in told] == ["telemetry.export_failed", "telemetry.export_recovered"]


def test_a_rejection_is_no_outage_and_says_the_collectors_reason(told: Told) -> None:
    told.teller.failed(Saw("rejected", "", 3, "too long"), 3)
    told.teller.arrived()
    ((_, event, facts),) = told
    assert (event, facts["collector_says"], facts["spans_lost"]) == ("telemetry.export_failed", "too long", 3)


def test_a_warning_is_said_as_one(told: Told) -> None:
    told.teller.warned("old names")
    told.teller.warned("old names")
    ((level, event, facts),) = told
    assert (level, event) == (logging.WARNING, "telemetry.collector_warned")
    assert (facts["reason"], facts["collector_says"]) == ("warned", "old names")


def test_each_kind_that_is_told_has_a_word_of_advice_and_its_own_minute(told: Told) -> None:
    for kind in DO:
        told.teller.failed(Saw(kind), 1)
    assert [facts["do"] for _, _, facts in told] == list(DO.values())


def test_a_full_queue_and_the_end_say_how_many_spans_that_cost(told: Told) -> None:
    told.teller.pushed_out(7, 2048)
    told.teller.pushed_out(7, 2048)
    told.teller.gave_up(9)
    assert [(event, facts["spans_lost"]) for _, event, facts in told] == [
        ("telemetry.queue_full", 7),
        ("telemetry.spans_lost", 9),
    ]


def test_lines_go_to_the_logger_of_obskit_unless_told_otherwise() -> None:
    with records_of("obskit") as records:
        Teller("c").failed(Saw("refused"), 1)
    (record,) = records
    assert (record.name, record.getMessage()) == ("obskit", "telemetry.export_failed")


@pytest.fixture
def hush() -> Any:
    made = Hush()
    made.attach()
    yield made
    made.detach()


@pytest.mark.parametrize("name", Hush.LOGGERS)
def test_what_an_exporter_logs_is_kept_from_others_while_it_exports_for_us_and_only_then(
    name: str, hush: Hush
) -> None:
    logger = logging.getLogger(name)
    with records_of(name) as records:
        with hush.listening() as heard:
            logger.debug("POST /?key=secret")
            logger.warning("first")
            logger.error("last")
            elsewhere = threading.Thread(target=lambda: logger.error("an exporter of the user's"))
            elsewhere.start()
            elsewhere.join()
        logger.error("after")
    assert [record.getMessage() for record in heard] == ["last"]
    assert [record.getMessage() for record in records] == ["an exporter of the user's", "after"]


def test_an_exporter_without_answers_is_known_by_the_status_it_logs_and_nothing_else_of_that(
    hush: Hush,
) -> None:
    logger = logging.getLogger(Hush.LOGGERS[2])
    with hush.listening() as heard:
        logger.error(
            "Failed to export traces to user:secret@c:4317, error code: StatusCode.UNAVAILABLE, details"
        )
    assert heard_of(heard, None) == Saw("grpc_error", "UNAVAILABLE")
    with hush.listening() as heard:
        logger.error("Exporter already shutdown: secret")
    assert heard_of(heard, None) == Saw("failed")
    assert heard_of([], RuntimeError("secret")) == Saw("failed", "RuntimeError")
    assert FINE.kind == ""
