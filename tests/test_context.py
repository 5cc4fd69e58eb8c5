from __future__ import annotations

import asyncio
import contextvars
import threading
from typing import Any

import pytest

import obskit
from obskit.asgi import AsgiDoor
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
