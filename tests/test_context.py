from __future__ import annotations

import asyncio
import contextvars
import threading
from typing import Any

import pytest

import obskit
from obskit.asgi import AsgiDoor
from obskit.context import MAX_NAME
from obskit.detectors import invariant_failed
from obskit.exchange import MAX_FACTS
from tests.support.recording import asgi_record, call_asgi, make_pipeline, replying, wsgi_record


def test_outside_a_request_there_is_no_exchange_and_bind_does_nothing() -> None:
    obskit.bind(order=1)
    assert obskit.current() is None


def test_facts_bound_in_a_request_are_on_its_record_and_later_ones_win() -> None:
    async def app(scope: Any, receive: Any, send: Any) -> None:
        obskit.bind(order=1, user="ann")
        obskit.bind(order=2)

    assert asgi_record(app).facts == {"order": 2, "user": "ann"}


def test_at_most_64_facts_are_kept_and_the_others_counted() -> None:
    async def app(scope: Any, receive: Any, send: Any) -> None:
        for number in range(MAX_FACTS + 3):
            obskit.bind(**{f"fact_{number}": number})
        obskit.bind(fact_0="known keys still change")

    pipeline, notes = make_pipeline()
    call_asgi(AsgiDoor(app, pipeline))
    assert len(notes.record.facts) == MAX_FACTS == 64
    assert notes.record.facts["fact_0"] == "known keys still change"
    assert notes.lost == [("logs", "too_many_facts")] * 3


def test_facts_beyond_the_limit_are_dropped_without_a_pipeline_too() -> None:
    exchange = obskit.Exchange()
    token = obskit.context._current.set(exchange)
    try:
        obskit.bind(**{f"fact_{number}": number for number in range(MAX_FACTS + 1)})
    finally:
        obskit.context._current.reset(token)
    assert exchange.facts is not None
    assert len(exchange.facts) == MAX_FACTS


def test_after_the_end_of_the_request_the_exchange_is_read_only() -> None:
    kept: list[Any] = []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        kept.append(contextvars.copy_context())

    record = asgi_record(app)
    kept[0].run(lambda: obskit.bind(late=1))
    exchange = kept[0].run(obskit.current)
    assert exchange.closed
    assert exchange.facts is None
    assert record.facts == {}


def test_the_exchange_follows_into_tasks_and_copied_contexts_but_not_into_other_threads() -> None:
    seen: dict[str, Any] = {}

    async def app(scope: Any, receive: Any, send: Any) -> None:
        async def task() -> None:
            seen["task"] = obskit.current()

        await asyncio.create_task(task())
        await asyncio.to_thread(lambda: seen.update(thread=obskit.current()))
        bare = threading.Thread(target=lambda: seen.update(bare=obskit.current()))
        bare.start()
        bare.join()
        seen["here"] = obskit.current()

    asgi_record(app)
    assert seen["task"] is seen["thread"] is seen["here"] is not None
    assert seen["bare"] is None


def test_concurrent_requests_do_not_mix_their_facts() -> None:
    pipeline, notes = make_pipeline()
    together = 20

    async def main() -> None:
        arrived = 0
        all_there = asyncio.Event()

        async def app(scope: Any, receive: Any, send: Any) -> None:
            nonlocal arrived
            obskit.bind(path=scope["path"])
            arrived += 1
            if arrived == together:
                all_there.set()
            await all_there.wait()
            obskit.bind(again=scope["path"])

        door = AsgiDoor(app, pipeline)
        from tests.support.recording import http_scope, talk_asgi

        await asyncio.gather(*(talk_asgi(door, http_scope(f"/{n}")) for n in range(together)))

    asyncio.run(main())
    assert len(notes.records) == together
    assert all(r.facts == {"path": r.url_path, "again": r.url_path} for r in notes.records)


def test_a_plain_application_names_its_route() -> None:
    def app(environ: Any, start_response: Any) -> list[bytes]:
        exchange = obskit.current()
        assert exchange is not None
        exchange.name_route("orders/{id}")
        start_response("204 No Content", [])
        return []

    assert wsgi_record(app).http_route == "/orders/{id}"


@pytest.mark.parametrize("name", [None, "shop.orders"])
def test_a_logger_made_before_install_writes_through_it(name: str | None, install: Any, lines: Any) -> None:
    log = obskit.get_logger(name)
    install(replying())
    lines()
    log.info("order.paid", order=7)
    (line,) = lines()
    assert (line["event"], line["order"], line["level"]) == ("order.paid", 7, "info")
    assert line["logger"] == (name or "app")


# ---- invariants -----------------------------------------------------------------------------------------


class Unaskable:
    """As an array is: it has no truth of its own."""

    def __bool__(self) -> bool:
        raise ValueError("ambiguous")


class Nameless:
    def __str__(self) -> str:
        raise ValueError("no text")


def checked(*checks: tuple[Any, ...], facts: Any = None, **options: Any) -> tuple[list[bool], Any, Any]:
    """What the checks returned in one request, its record, and what the signals saw."""
    pipeline, notes = make_pipeline(detectors=[(invariant_failed.DETECTOR, None)], **options)
    returned: list[bool] = []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        returned.extend(obskit.invariant(*check, **(facts or {})) for check in checks)

    call_asgi(AsgiDoor(app, pipeline))
    return returned, notes.record, notes


@pytest.mark.parametrize("condition", [True, 1, "text", [0], object()])
def test_an_invariant_that_holds_is_counted_and_is_no_finding(condition: Any) -> None:
    returned, record, notes = checked((condition, "stock_not_negative"), facts={"stock": 1})
    assert returned == [True]
    assert record.findings == ()
    assert notes.counted == [("stock_not_negative", True)]


@pytest.mark.parametrize("condition", [False, 0, "", [], None])
def test_an_invariant_that_does_not_hold_is_counted_and_a_finding_with_its_facts(condition: Any) -> None:
    returned, record, notes = checked((condition, "stock_not_negative"), facts={"stock": -1})
    assert returned == [False]
    assert [(one.finding, dict(one.evidence)) for one in record.findings] == [
        ("invariant_failed", {"invariant": "stock_not_negative", "stock": -1})
    ]
    assert notes.counted == [("stock_not_negative", False)]


def test_a_fact_may_be_called_as_the_parameters_are() -> None:
    _, record, _ = checked((False, "sum"), facts={"name": "a", "condition": "b", "invariant": "c"})
    (finding,) = record.findings
    assert finding.evidence == {"name": "a", "condition": "b", "invariant": "sum"}


def test_a_condition_that_cannot_be_asked_proves_nothing_and_stops_nobody() -> None:
    returned, record, notes = checked((Unaskable(), "sum"), (False, Nameless()))
    assert returned == [True, False], "it says whether the condition held, whatever its name"
    assert record.findings == ()
    assert notes.stages == ["invariant", "invariant"]


def test_the_name_of_an_invariant_is_bounded() -> None:
    _, _, notes = checked((False, "x" * 1_000))
    assert notes.counted == [("x" * MAX_NAME, False)]


def test_outside_a_request_an_invariant_is_counted_and_written(monkeypatch: pytest.MonkeyPatch) -> None:
    pipeline, notes = make_pipeline(detectors=[(invariant_failed.DETECTOR, None)])
    monkeypatch.setattr("obskit.context._outside", pipeline)
    assert not obskit.invariant(False, "stock_not_negative", stock=-1)
    assert obskit.invariant(True, "stock_not_negative")
    check, finding, again = notes.counted
    assert (check, again) == (("stock_not_negative", False), ("stock_not_negative", True))
    assert (finding.finding, finding.http_route) == ("invariant_failed", "")
    assert notes.lines[-1][3]["stock"] == -1


def test_without_an_install_an_invariant_only_tells_whether_it_holds() -> None:
    assert obskit.invariant(True, "sum")
    assert not obskit.invariant(False, "sum")


def test_in_tests_a_failed_invariant_may_raise(monkeypatch: pytest.MonkeyPatch) -> None:
    pipeline, notes = make_pipeline(detectors=[(invariant_failed.DETECTOR, None)], invariants="raise")
    monkeypatch.setattr("obskit.context._outside", pipeline)
    assert obskit.invariant(True, "sum")
    with pytest.raises(obskit.InvariantError, match=r"'sum' does not hold: \{'total': 3\}"):
        obskit.invariant(False, "sum", total=3)
    with pytest.raises(obskit.InvariantError, match="no facts given"):
        obskit.invariant(False, "sum")
    assert [one for one in notes.counted if isinstance(one, tuple)] == [
        ("sum", True),
        ("sum", False),
        ("sum", False),
    ]


def test_an_invariant_is_checked_also_where_its_finding_is_switched_off(install: Any, canonical: Any) -> None:
    async def app(scope: Any, receive: Any, send: Any) -> None:
        assert not obskit.invariant(False, "sum")

    call_asgi(install(app, disabled_detectors=["invariant_failed", "no_response"]))
    assert [line["findings"] for line in canonical()] == [[]]


def test_after_shutdown_nothing_outside_a_request_is_reported_any_more(install: Any, lines: Any) -> None:
    install(replying())
    obskit.shutdown()
    lines()
    assert not obskit.invariant(False, "sum")
    assert lines() == []
