from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from obskit.config import Config
from obskit.detectors.session_lost import DETECTOR, SLOTS
from obskit.exchange import Exchange, SessionFacts
from obskit.findings import Judge, Setting

Make = Callable[..., Judge]


@pytest.fixture
def make(tmp_path: Path) -> Iterator[Make]:
    """A judge of one worker; all that share a `state_dir` are workers of one host."""
    made: list[Any] = []

    def failed(stage: str, error: BaseException) -> None:
        raise AssertionError(stage) from error

    def call(place: Path = tmp_path, service: str = "shop") -> Judge:
        assert DETECTOR.make is not None
        judge: Any = DETECTOR.make(Setting(Config(state_dir=str(place)), service, failed))
        judge.begin()
        made.append(judge)
        return judge

    yield call
    for judge in made:
        judge.shutdown()


def closed(session: SessionFacts | None) -> Exchange:
    exchange = Exchange()
    exchange.session = session
    exchange.ended_ns = exchange.started_ns + 1_000_000
    return exchange


@pytest.mark.parametrize("reason", ["expired", "bad_signature", "missing"])
def test_a_lost_session_is_a_finding_with_its_reason_and_nothing_else(reason: str, make: Make) -> None:
    assert make().closed(closed(SessionFacts("secret", reason))) == {"reason": reason}


def test_a_request_without_a_session_or_with_one_that_was_found_is_none(make: Make) -> None:
    judge = make()
    assert judge.closed(closed(None)) is None
    assert judge.closed(closed(SessionFacts("found"))) is None


def test_one_lost_session_is_found_once_by_all_workers_together(make: Make) -> None:
    judges = [make(), make()]
    found = [judge.closed(closed(SessionFacts("gone", "missing"))) for judge in judges * 5]
    assert found == [{"reason": "missing"}] + [None] * 9
    assert judges[0].closed(closed(SessionFacts("another", "missing"))) is not None


def test_whoever_still_sends_the_cookie_of_an_ended_session_lost_nothing(make: Make) -> None:
    here, there = make(), make()
    assert here.closed(closed(SessionFacts("out", ended=True))) is None
    for judge in (there, here, there):
        assert judge.closed(closed(SessionFacts("out", "missing"))) is None


def test_an_ended_session_whose_cookie_still_comes_is_not_forgotten_before_others(make: Make) -> None:
    judge = make()
    judge.closed(closed(SessionFacts("out", ended=True)))
    for number in range(4 * SLOTS):
        judge.closed(closed(SessionFacts(f"someone-{number}", "missing")))
        if number % 1000 == 0:
            assert judge.closed(closed(SessionFacts("out", "missing"))) is None


def test_another_service_of_the_host_keeps_its_own_memory(make: Make) -> None:
    assert make(service="shop").closed(closed(SessionFacts("gone", "missing"))) is not None
    assert make(service="forum").closed(closed(SessionFacts("gone", "missing"))) is not None


def test_the_memory_outlives_a_restart_and_begins_only_once(make: Make) -> None:
    first: Any = make()
    table = first._table
    first.begin()
    assert first._table is table
    first.closed(closed(SessionFacts("gone", "missing")))
    first.shutdown()
    assert make().closed(closed(SessionFacts("gone", "missing"))) is None


def test_after_a_shutdown_it_says_nothing(make: Make) -> None:
    judge: Any = make()
    judge.shutdown()
    judge.shutdown()
    assert judge.closed(closed(SessionFacts("gone", "missing"))) is None


def test_the_cookie_is_not_in_the_file(make: Make, tmp_path: Path) -> None:
    judge = make()
    judge.closed(closed(SessionFacts("in-clear-text", "missing")))
    files = [path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()]
    assert files
    assert not any(b"in-clear-text" in data for data in files)


def test_a_cookie_of_any_characters_is_remembered(make: Make) -> None:
    judge = make()
    for cookie in ("\udcff", "\x00", "é" * 9000):
        assert judge.closed(closed(SessionFacts(cookie, "bad_signature"))) is not None
        assert judge.closed(closed(SessionFacts(cookie, "bad_signature"))) is None


def test_a_session_that_another_request_asks_for_while_the_log_out_still_runs_is_no_loss(make: Make) -> None:
    judge: Any = make()
    log_out = closed(SessionFacts("out", ended=True))
    judge.session_ended(log_out)
    assert judge.closed(closed(SessionFacts("out", "missing"))) is None
    assert judge.closed(log_out) is None
