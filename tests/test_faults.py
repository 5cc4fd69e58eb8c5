"""A stage of ours that fails is counted by its name and never reaches the application or the server."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import obskit
from obskit import asgi, asgi_scope, presence, wsgi, wsgi_environ, wsgi_input
from obskit.asgi import AsgiDoor
from obskit.wsgi import WsgiDoor
from tests.support.recording import (
    Broken,
    body,
    call_asgi,
    http_scope,
    make_environ,
    make_pipeline,
    start,
    talk_wsgi,
    websocket_scope,
)


def broken(*_: Any, **__: Any) -> Any:
    raise Broken


async def asgi_app(scope: Any, receive: Any, send: Any) -> None:
    await receive()
    await send(start(200, (b"content-length", b"2")))
    await send(body(b"o", more=True))
    await send(body(b"k"))


async def websocket_app(scope: Any, receive: Any, send: Any) -> None:
    await receive()
    await send({"type": "websocket.accept"})
    await receive()
    await send({"type": "websocket.send", "text": "x"})
    await receive()


WEBSOCKET = [
    {"type": "websocket.connect"},
    {"type": "websocket.receive", "text": "hello"},
    {"type": "websocket.disconnect", "code": 1000},
]


def wsgi_app(environ: Any, start_response: Any) -> Iterator[bytes]:
    environ["wsgi.input"].read(2)
    start_response("200 OK", [("Content-Length", "3")])(b"o")
    yield b"k"
    yield b"!"


SIGNALS = ["traces.begin", "traces.open", "metrics.open", "traces.enter", "traces.leave", "metrics.close"]
SIGNALS += ["logs.close", "traces.close", "logs.begin", "metrics.begin"]


@pytest.mark.parametrize("stage", SIGNALS)
@pytest.mark.parametrize("echo", [False, True])
def test_a_signal_that_fails_behind_the_asgi_door_is_counted_and_unseen(stage: str, echo: bool) -> None:
    pipeline, notes = make_pipeline(echo_request_id=echo)
    notes.broken = {stage}
    talk = call_asgi(AsgiDoor(asgi_app, pipeline))
    assert (talk.body, talk.error) == (b"ok", None)
    assert set(notes.stages) == {stage}


@pytest.mark.parametrize("stage", SIGNALS)
@pytest.mark.parametrize("echo", [False, True])
def test_a_signal_that_fails_behind_the_wsgi_door_is_counted_and_unseen(stage: str, echo: bool) -> None:
    pipeline, notes = make_pipeline(echo_request_id=echo)
    notes.broken = {stage}
    talk = talk_wsgi(WsgiDoor(wsgi_app, pipeline), make_environ(data=b"12"))
    assert (talk.data, talk.error) == (b"ok!", None)
    assert set(notes.stages) == {stage}


@pytest.mark.parametrize(
    ("owner", "helper", "stage"),
    [
        (asgi, "read_scope", "asgi.open"),
        (asgi._HttpCall, "begin", "asgi.open"),
        (asgi._HttpCall, "_note_sent", "asgi.send"),
        (asgi._HttpCall, "_complete", "asgi.send"),
        (asgi._HttpCall, "_with_request_id", "asgi.send"),
        (presence._Queue, "left", "asgi.presence"),
        (presence._Queue, "close", "adapter.route"),
        (asgi_scope, "Exchange", "asgi.open"),
        (asgi, "perf_counter_ns", "asgi.send"),
    ],
)
def test_a_helper_of_the_asgi_door_that_fails_is_counted_and_unseen(
    monkeypatch: pytest.MonkeyPatch, owner: Any, helper: str, stage: str
) -> None:
    monkeypatch.setattr(owner, helper, broken)
    pipeline, notes = make_pipeline(echo_request_id=True)
    sent: list[Any] = []

    async def send(message: Any) -> None:
        sent.append(message)

    async def main() -> None:
        queue: asyncio.Queue[Any] = asyncio.Queue()
        queue.put_nowait({"type": "http.request"})
        await AsgiDoor(asgi_app, pipeline)(http_scope(), queue.get, send)

    asyncio.run(main())
    assert b"".join(m.get("body", b"") for m in sent) == b"ok"
    assert set(notes.stages) == {stage}


def test_a_message_that_is_no_message_is_counted_and_handed_on() -> None:
    async def app(scope: Any, receive: Any, send: Any) -> None:
        assert await receive() == {}
        await send({"no": "type"})

    for scope in (http_scope(), websocket_scope()):
        pipeline, notes = make_pipeline()
        talk = call_asgi(AsgiDoor(app, pipeline), scope, [{}])
        assert (talk.sent, talk.error) == ([{"no": "type"}], None)
        assert notes.stages == ["asgi.receive", "asgi.send"]


@pytest.mark.parametrize(("helper", "stages"), [("begin", {"asgi.open"}), ("_complete", {"asgi.receive"})])
def test_a_helper_of_the_websocket_call_that_fails_is_counted_and_unseen(
    monkeypatch: pytest.MonkeyPatch, helper: str, stages: set[str]
) -> None:
    monkeypatch.setattr(asgi._WebSocketCall, helper, broken)
    pipeline, notes = make_pipeline()
    talk = call_asgi(AsgiDoor(websocket_app, pipeline), websocket_scope(), WEBSOCKET)
    assert [m["type"] for m in talk.sent] == ["websocket.accept", "websocket.send"]
    assert (set(notes.stages), talk.error) == (stages, None)


@pytest.mark.parametrize("error", [None, ValueError("app")])
def test_a_route_that_cannot_be_found_is_counted_and_the_request_is_unmatched(
    error: Exception | None,
) -> None:
    async def app(scope: Any, receive: Any, send: Any) -> None:
        if error is not None:
            raise error

    pipeline, notes = make_pipeline()
    assert call_asgi(AsgiDoor(app, pipeline, broken)).error is error
    assert (notes.stages, notes.record.http_route) == (["adapter.route"], "unmatched")


def test_a_rule_that_cannot_be_found_is_counted_and_the_request_is_unmatched() -> None:
    pipeline, notes = make_pipeline()
    assert talk_wsgi(WsgiDoor(wsgi_app, pipeline, broken), make_environ(data=b"12")).data == b"ok!"
    assert (set(notes.stages), notes.record.http_route) == ({"adapter.route"}, "unmatched")


@pytest.mark.parametrize(
    ("owner", "helper", "stage"),
    [
        (wsgi, "read_environ", "wsgi.open"),
        (wsgi, "observe_input", "wsgi.open"),
        (wsgi_environ, "Exchange", "wsgi.open"),
        (wsgi, "code_of", "wsgi.start_response"),
        (wsgi, "length", "wsgi.start_response"),
        (wsgi_environ, "_read_seldom", "wsgi.open"),
        (wsgi._Call, "observed", "wsgi.body"),
        (wsgi._Call, "sent", "wsgi.body"),
        (wsgi._Call, "exhausted", "wsgi.body"),
        (wsgi_input.Input, "_note", "wsgi.input"),
    ],
)
def test_a_helper_of_the_wsgi_door_that_fails_is_counted_and_unseen(
    monkeypatch: pytest.MonkeyPatch, owner: Any, helper: str, stage: str
) -> None:
    monkeypatch.setattr(owner, helper, broken)
    pipeline, notes = make_pipeline()
    talk = talk_wsgi(WsgiDoor(wsgi_app, pipeline), make_environ(data=b"12"))
    assert (talk.data, talk.error) == (b"ok!", None)
    assert set(notes.stages) == {stage}


def test_an_early_close_that_cannot_be_judged_still_closes_the_body(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(wsgi._Call, "closed_early", broken)
    pipeline, notes = make_pipeline()
    talk = talk_wsgi(WsgiDoor(wsgi_app, pipeline), make_environ(data=b"12"), take=1)
    assert talk.error is None
    assert (notes.stages, len(notes.records)) == (["wsgi.close"], 1)


def test_a_body_that_is_let_go_and_cannot_be_recorded_is_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    pipeline, notes = make_pipeline()
    talk = talk_wsgi(WsgiDoor(wsgi_app, pipeline), make_environ(data=b"12"), close=False)
    monkeypatch.setattr(pipeline, "close", broken)
    del talk
    assert notes.stages == ["wsgi.del"]


def test_chunks_without_a_length_are_handed_on_and_counted() -> None:
    class Odd:
        def __iter__(self) -> Iterator[Any]:
            yield 5

    def app(environ: Any, start_response: Any) -> Any:
        start_response("200 OK", [])
        return Odd()

    pipeline, notes = make_pipeline()
    assert list(WsgiDoor(app, pipeline)(make_environ(), lambda *a: None)) == [5]  # type: ignore[comparison-overlap]
    assert notes.stages == ["wsgi.body"]


GUARDS = ["open", "enter", "leave", "close", "answering"]


@pytest.mark.parametrize("guard", GUARDS)
def test_not_even_a_guard_that_fails_is_seen_behind_the_wsgi_door(
    monkeypatch: pytest.MonkeyPatch, guard: str
) -> None:
    pipeline, notes = make_pipeline()
    monkeypatch.setattr(pipeline, guard, broken)
    closed: list[str] = []

    class Body:
        def __iter__(self) -> Iterator[bytes]:
            yield b"ok"

        def close(self) -> None:
            closed.append("once")

    def app(environ: Any, start_response: Any) -> Any:
        start_response("200 OK", [("Content-Length", "2")])
        return Body()

    talk = talk_wsgi(WsgiDoor(app, pipeline), make_environ())
    assert (talk.data, talk.error, closed) == (b"ok", None, ["once"])
    assert set(notes.stages) <= {"wsgi.open", "wsgi.body", "wsgi.close"}
    assert notes.stages


@pytest.mark.parametrize("guard", GUARDS)
@pytest.mark.parametrize("error", [None, ValueError("app")])
def test_not_even_a_guard_that_fails_is_seen_behind_the_asgi_door(
    monkeypatch: pytest.MonkeyPatch, guard: str, error: Exception | None
) -> None:
    pipeline, notes = make_pipeline()
    monkeypatch.setattr(pipeline, guard, broken)

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await asgi_app(scope, receive, send)
        if error is not None:
            raise error

    talk = call_asgi(AsgiDoor(app, pipeline))
    assert (talk.body, talk.error) == (b"ok", error)
    assert set(notes.stages) <= {"asgi.open", "asgi.send", "asgi.close"}
    assert notes.stages


class Ended(BaseException):
    """A Ctrl-C, or what a server raises to end its worker."""


@pytest.mark.parametrize("stage", ["observed", "closed_early", "exhausted", "sent", "close"])
@pytest.mark.parametrize("take", [None, 1])
def test_what_ends_the_process_in_our_code_comes_out_and_the_body_is_closed_once(
    monkeypatch: pytest.MonkeyPatch, stage: str, take: int | None
) -> None:
    closed: list[str] = []

    class Body:
        def __iter__(self) -> Iterator[bytes]:
            yield b"o"
            yield b"k"

        def close(self) -> None:
            closed.append("once")

    def app(environ: Any, start_response: Any) -> Any:
        start_response("200 OK", [])
        return Body()

    ended = Ended()
    thrown: list[bool] = []

    def ending(*_: Any) -> Any:
        thrown.append(True)
        raise ended

    pipeline, _ = make_pipeline()
    monkeypatch.setattr(pipeline if stage == "close" else wsgi._Call, stage, ending)
    talk = talk_wsgi(WsgiDoor(app, pipeline), make_environ(), take=take)
    assert talk.error is (ended if thrown else None)
    assert closed == ["once"]


@pytest.mark.parametrize("answer", [broken, lambda *_: None, lambda *_: (200, "OK", [], b"")])
def test_an_endpoint_that_fails_or_gives_back_garbage_answers_503(answer: Any) -> None:
    pipeline, notes = make_pipeline({"/metrics": answer})
    talk = talk_wsgi(WsgiDoor(wsgi_app, pipeline), make_environ("/metrics"))
    assert (talk.status, talk.error) == ("503 Service Unavailable", None)
    pipeline, notes = make_pipeline({"/metrics": answer})
    assert call_asgi(AsgiDoor(asgi_app, pipeline), http_scope("/metrics")).status == 503
    assert notes.stages == ["endpoint"]


@pytest.mark.parametrize("name", ["headers_of", "_ask"])
def test_a_scrape_that_cannot_be_read_answers_503(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    pipeline, notes = make_pipeline({"/metrics": lambda *_: None})  # type: ignore[dict-item,return-value]
    monkeypatch.setattr(wsgi if name == "headers_of" else WsgiDoor, name, broken)
    talk = talk_wsgi(WsgiDoor(wsgi_app, pipeline), make_environ("/metrics"))
    assert (talk.status, notes.stages) == ("503 Service Unavailable", ["wsgi.open"])


def test_what_the_application_calls_of_ours_never_raises(monkeypatch: pytest.MonkeyPatch) -> None:
    pipeline, notes = make_pipeline()
    monkeypatch.setattr("obskit.context._outside", pipeline)
    monkeypatch.setattr("obskit.context._current", None)  # whatever is asked of it raises
    assert obskit.current() is None
    obskit.bind(a=1)
    assert obskit.invariant(1 + 1 == 3, "sums") is False
    with obskit.unit_of_work("checkout", ["charge", "order"]) as work:
        work.done("charge")
    assert notes.stages[:3] == ["current", "bind", "invariant"]


def test_the_stages_with_a_name_of_their_own_are_those_the_tests_make_fail() -> None:
    found: set[str] = set()
    for path in Path(obskit.__file__).parent.rglob("*.py"):
        found |= set(
            re.findall(r"(?:failed|lost|internal_error)\((?:[^\"()]*,)?\s*\"([^\"]+)\"", path.read_text())
        )
    assert found == {
        *("asgi.open", "asgi.receive", "asgi.send", "asgi.presence", "asgi.close"),
        *("adapter.route", "adapter.session"),
        "adapter.exception",  # tests/reliability/faults
        *("wsgi.open", "wsgi.start_response", "wsgi.input", "wsgi.body", "wsgi.close", "wsgi.del", "trust"),
        "metrics_port",  # tests/signals/test_scrape_server.py
        "traces.span",  # tests/signals/test_request_span.py
        *("current", "bind", "invariant", "metrics.invariant", "unit_of_work", "detectors.duplicate_request"),
        *(
            "close",
            "endpoint",
            "dropped",
            "traces.enter",
            "traces.leave",
            "traces.goodbye",
            "traces.span",
            "traces.keeps",
            "logs.emit",
        ),
        # tests/signals/test_merge.py, test_app_metrics.py
        *("metrics.app", "metrics.merge", "metrics.shelf"),
        # tests/test_together.py
        *("logs.close", "traces.close", "metrics.close", "watch.close"),
        # tests/test_pipeline.py, tests/watch/
        *("watch.look", "watch.begin", "watch.open", "watch.answering", "watch.goodbye", "watch.shutdown"),
        *(
            "watch.flight",
            "watch.housekeeping",
            "watch.metrics",
            "watch.stuck",
            "watch.loop",
            "watch.saturation",
        ),
    }
