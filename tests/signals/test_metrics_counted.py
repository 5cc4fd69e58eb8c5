"""A request is counted in one go, wherever its numbers move, and apart from its leaving if need be."""

from __future__ import annotations

import ast
import dis
import inspect
import textwrap
from collections.abc import Callable
from typing import Any

import pytest

from obskit.exchange import Exchange
from obskit.signals import cells
from obskit.signals.metrics import Metrics
from tests.signals.test_metrics import closing, serve


def undivided_by(function: Callable[..., Any]) -> list[ast.AST]:
    """What is done without the lock because it is undivided."""
    (tree,) = ast.parse(textwrap.dedent(inspect.getsource(function))).body
    choices = [
        node for node in ast.walk(tree) if isinstance(node, ast.If) and "UNDIVIDED" in ast.dump(node.test)
    ]
    return [inner for choice in choices for statement in choice.body for inner in ast.walk(statement)]


@pytest.mark.parametrize("step", [Metrics.opened, Metrics.left, Metrics.log_record])
def test_what_is_counted_without_the_lock_is_one_sum(step: Callable[..., Any]) -> None:
    done = undivided_by(step)
    assert isinstance(done[0], ast.AugAssign)
    assert not [node for node in done if isinstance(node, ast.Call)]


# CPython may stop a thread at a call, a jump back and, before 3.12, where an object with references is made.
STOPS = ("CALL", "PRECALL", "JUMP_BACKWARD", "FOR_", "BUILD_", "SEND", "YIELD")


def stops_in(instructions: list[dis.Instruction]) -> list[str]:
    return [one.opname for one in instructions if one.opname.startswith(STOPS)]


def test_a_request_is_counted_in_one_go() -> None:
    source, first = inspect.getsourcelines(Metrics.counted)
    (function,) = ast.parse(textwrap.dedent("".join(source))).body
    (counting,) = (node for node in ast.walk(function) if isinstance(node, ast.Try))
    lines = {first - 1 + line for line in range(counting.body[0].lineno, counting.finalbody[0].lineno)}
    within = [
        one
        for one in dis.get_instructions(Metrics.counted)
        if one.positions is not None and one.positions.lineno in lines
    ]
    assert [one.opname for one in within].count("STORE_SUBSCR") == 10
    assert not stops_in(within)


@pytest.mark.parametrize("kind", [cells.Number, cells.Histogram])
def test_a_series_that_has_begun_to_move_has_moved_before_anybody_counts(kind: Any) -> None:
    steps = list(dis.get_instructions(kind.move))
    copying = next(index for index, one in enumerate(steps) if one.argval == "own")
    copied = max(index for index, one in enumerate(steps) if one.opname in ("STORE_SUBSCR", "STORE_SLICE"))
    moved = max(
        index for index, one in enumerate(steps) if one.opname == "STORE_ATTR" and one.argval == "own"
    )
    assert copying < copied < moved
    assert not stops_in(steps[copied if kind is cells.Histogram else copying : moved])


def page_of(metrics: Metrics) -> dict[str, Any]:
    return {
        name: {labels: one.numbers for labels, one in series.items()}
        for name, series in metrics.store.page().items()
    }


@pytest.mark.parametrize(
    "fields",
    [{}, {"protocol": "websocket"}, {"exception": KeyError("x")}, {"request_bytes": 7, "status": 503}],
    ids=str,
)
def test_a_record_that_leaves_and_is_counted_later_is_counted_as_one_that_closes(
    fields: dict[str, Any],
) -> None:
    at_once, later, exchange = Metrics(10), Metrics(10), closing(**fields)
    for metrics in (at_once, later):
        metrics.opened(exchange)
    before = page_of(later)
    at_once.closed(exchange)
    later.left(exchange)
    gone = page_of(later)
    assert gone.pop("http_server_active_requests")["GET",] == [0]
    assert before.pop("http_server_active_requests")["GET",] == [fields.get("protocol") != "websocket"]
    assert gone == before
    later.counted(exchange)
    assert page_of(later) == page_of(at_once)


def test_a_record_that_cannot_leave_is_counted_all_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    metrics, exchange = Metrics(10), closing()

    def fail(_: Exchange) -> None:
        raise LookupError

    monkeypatch.setattr(metrics, "left", fail)
    with pytest.raises(LookupError):
        metrics.closed(exchange)
    assert metrics.store.page()["obskit_http_server_outcomes_total"]["/orders", "completed"].numbers == [1]


@pytest.mark.parametrize(
    "spoilt",
    [{"status": [200]}, {"duration_s": "long"}, {"response_bytes": "many"}, {"started_unix_ns": None}],
    ids=str,
)
def test_of_a_record_that_is_not_whole_nothing_is_counted(spoilt: dict[str, Any]) -> None:
    metrics = Metrics(10)
    serve(metrics)
    before, exchange = page_of(metrics), closing(sampled=True)
    for name, value in spoilt.items():
        setattr(exchange, name, value)
    with pytest.raises(TypeError):
        metrics.counted(exchange)
    assert page_of(metrics) == before


def test_what_waits_to_be_counted_is_on_the_page_that_is_asked_for() -> None:
    metrics = Metrics(10)
    metrics.before_page = lambda: metrics.log_record("info", 3)
    page = metrics.store.look()
    assert page["obskit_log_records_total"]["info",].numbers == [3]


def test_a_page_is_shown_also_when_what_waits_cannot_be_counted() -> None:
    metrics = Metrics(10)
    metrics.before_page = lambda: {}["nothing"]
    page = metrics.store.look()
    assert page["obskit_internal_errors_total"]["metrics.close",].numbers == [1]
    assert page["obskit_workers"][()].numbers == [1]
