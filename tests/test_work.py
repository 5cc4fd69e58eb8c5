"""obskit.unit_of_work: half done is a finding, all or nothing is none, and nothing about it can raise."""

from __future__ import annotations

import asyncio
import threading
from contextlib import suppress
from typing import Any

import pytest

import obskit
from obskit.context import MAX_NAME
from obskit.detectors import partial_write
from obskit.exchange import Exchange
from obskit.work import UnitOfWork
from tests.support.recording import Notes, make_pipeline

STEPS = ["charge", "order", "mail"]


class Desk:
    """One open request of a pipeline that knows what a partial write is."""

    def __init__(self) -> None:
        self.pipeline, self.notes = make_pipeline(detectors=[(partial_write.DETECTOR, None)])
        self.exchange = Exchange()
        self.pipeline.open(self.exchange, None)

    @property
    def evidence(self) -> list[dict[str, Any]]:
        return [dict(finding.evidence) for finding in self.exchange.findings]


@pytest.fixture
def desk() -> Any:
    made = Desk()
    entered = made.pipeline.enter(made.exchange)
    yield made
    made.pipeline.leave(entered)


def test_some_steps_done_and_others_not_is_a_partial_write(desk: Desk) -> None:
    with obskit.unit_of_work("checkout", STEPS) as work:
        work.done("order")
        work.done("charge")
    assert desk.evidence == [
        {"kind": "unit_of_work", "unit": "checkout", "done": ("charge", "order"), "missing": ("mail",)}
    ]
    (finding,) = desk.exchange.findings
    assert (finding.finding, finding.severity) == ("partial_write", "critical")
    assert finding.metric == "obskit_partial_writes_total"


@pytest.mark.parametrize(
    ("done", "undone"),
    [
        ([], None),
        (STEPS, None),
        (STEPS * 2, None),
        (["charge"], ["charge"]),
        (["charge", "order"], []),
        (["charge", "order"], ["order", "charge"]),
        ([], ["mail"]),
    ],
)
def test_all_or_nothing_is_no_finding(done: list[str], undone: list[str] | None, desk: Desk) -> None:
    with obskit.unit_of_work("checkout", STEPS) as work:
        work.done(*done)
        if undone is not None:
            work.undone(*undone)
    assert desk.evidence == []
    assert desk.notes.stages == []


def test_a_step_that_was_taken_back_is_missing_again(desk: Desk) -> None:
    with obskit.unit_of_work("checkout", STEPS) as work:
        work.done(*STEPS)
        work.undone("mail")
    assert [one["missing"] for one in desk.evidence] == [("mail",)]


@pytest.mark.parametrize("error", [ValueError("card 4111"), KeyboardInterrupt(), asyncio.CancelledError()])
def test_an_exception_passes_through_as_it_is_and_is_named(error: BaseException, desk: Desk) -> None:
    def checkout() -> None:
        with obskit.unit_of_work("checkout", STEPS) as work:
            work.done("charge")
            raise error

    with pytest.raises(type(error)) as caught:
        checkout()
    assert caught.value is error
    assert [one["exception_type"] for one in desk.evidence] == [type(error).__name__]
    assert "4111" not in str(desk.exchange.findings)


def test_an_exception_before_the_first_step_left_nothing_half_done(desk: Desk) -> None:
    with suppress(ValueError), obskit.unit_of_work("checkout", STEPS):
        raise ValueError
    assert desk.evidence == []


def test_it_is_an_async_context_manager_too(desk: Desk) -> None:
    async def checkout() -> None:
        async with obskit.unit_of_work("checkout", STEPS) as work:
            work.done("charge")
            raise ValueError

    with pytest.raises(ValueError):  # noqa: PT011
        asyncio.run(checkout())
    assert [one["exception_type"] for one in desk.evidence] == ["ValueError"]


def test_nested_units_are_told_of_each_by_its_name(desk: Desk) -> None:
    with obskit.unit_of_work("outer", ["a", "b"]) as outer:
        outer.done("a")
        with obskit.unit_of_work("inner", ["a", "b"]) as inner:
            inner.done("b")
    assert [(one["unit"], one["missing"]) for one in desk.evidence] == [("inner", ("a",)), ("outer", ("b",))]


def test_it_belongs_to_the_request_it_began_in_also_when_a_bare_thread_ends_it(desk: Desk) -> None:
    work = obskit.unit_of_work("checkout", STEPS)

    def finish() -> None:
        with work:
            work.done("charge")

    thread = threading.Thread(target=finish)
    thread.start()
    thread.join()
    assert len(desk.evidence) == 1


def test_after_the_request_has_closed_it_has_a_line_of_its_own(desk: Desk) -> None:
    with obskit.unit_of_work("checkout", STEPS) as work:
        work.done("charge")
        desk.pipeline.close(desk.exchange)
    assert desk.exchange.findings == ()
    _, event, _, fields = desk.notes.lines[-1]
    assert (event, fields["unit"], fields["missing"]) == ("obskit.finding", "checkout", ("order", "mail"))


@pytest.mark.parametrize("steps", [["mail"], [], ["mail", "mail"], "mail", None, 7], ids=repr)
def test_what_is_no_list_of_two_steps_is_counted_and_does_not_raise(steps: Any, desk: Desk) -> None:
    with obskit.unit_of_work("checkout", steps) as work:
        work.undone()
    assert isinstance(work, UnitOfWork)
    assert desk.evidence == []
    assert set(desk.notes.stages) == {"unit_of_work"}


def test_a_step_nobody_declared_is_counted_and_changes_nothing(desk: Desk) -> None:
    with obskit.unit_of_work("checkout", STEPS) as work:
        work.done("chrage")
        work.done(["unhashable"])  # type: ignore[arg-type]
        work.undone("nothing")
        work.undone(["unhashable"])  # type: ignore[arg-type]
    assert desk.evidence == []
    assert set(desk.notes.stages) == {"unit_of_work"}


class Odd:
    def __str__(self) -> str:
        raise ValueError("no text")


def test_a_name_without_a_text_is_counted_and_does_not_raise(desk: Desk) -> None:
    with obskit.unit_of_work(Odd(), STEPS) as work:  # type: ignore[arg-type]
        work.done("charge")
        work.done("no such step")
    with obskit.unit_of_work("checkout", [Odd(), "b"]) as work:  # type: ignore[list-item]
        work.done("b")
    assert set(desk.notes.stages) == {"unit_of_work"}


def test_names_are_bounded(desk: Desk) -> None:
    long = "x" * 1_000
    with obskit.unit_of_work(long, [long, "b"]) as work:
        work.done("b")
    assert [(one["unit"], one["missing"]) for one in desk.evidence] == [("x" * MAX_NAME, ("x" * MAX_NAME,))]


def test_without_an_install_it_only_runs_the_block() -> None:
    ran = []
    with obskit.unit_of_work("checkout", STEPS) as work:
        work.done("charge")
        work.done("no such step")
        ran.append(True)
    assert ran == [True]


def test_outside_a_request_it_is_counted_and_written(monkeypatch: pytest.MonkeyPatch) -> None:
    pipeline, notes = make_pipeline(detectors=[(partial_write.DETECTOR, None)])
    monkeypatch.setattr("obskit.context._outside", pipeline)
    with obskit.unit_of_work("nightly", STEPS) as work:
        work.done("charge")
    assert counted(notes) == [("partial_write", "")]
    assert notes.lines[-1][1] == "obskit.finding"


def counted(notes: Notes) -> list[tuple[str, str]]:
    return [(finding.finding, finding.http_route) for finding in notes.counted]


def test_a_pipeline_that_fails_is_no_matter_of_the_block(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: Any) -> None:
        raise ValueError

    monkeypatch.setattr(desk.pipeline, "report", broken)
    with obskit.unit_of_work("checkout", STEPS) as work:
        work.done("charge")
    assert desk.notes.stages == ["unit_of_work"]
