"""What a person reads at a terminal: bounded, without secrets, and nothing in it that the terminal obeys."""

from __future__ import annotations

import re
from typing import Any

import pytest

from obskit.exchange import Exchange, Outcome
from obskit.plain import exception_of
from obskit.redact import make_redactor
from obskit.signals.console import Renderer
from obskit.signals.lines import own_fields
from obskit.signals.writer import MAX_LINE_BYTES

RENDERER = Renderer(make_redactor(["iban"]))
TOKEN = "ghp_" + "a1" * 15
CONTROL = "\r\n\x00\x07\x1b[2J\x7f\x85\x9b2J\u2028\u2029"
_COLOUR = re.compile(r"\x1b\[[0-9;]*m")


def line(event: str = "e", **fields: Any) -> str:
    return RENDERER.line("info", event, "app", None, fields)


def bare(text: str) -> str:
    return _COLOUR.sub("", text)


def _ended(path: str = "/orders/7") -> Exchange:
    exchange = Exchange("http", "GET", path)
    exchange.outcome, exchange.status = Outcome.COMPLETED, 200
    exchange.last_byte_ns = exchange.started_ns + 1_000_000
    return exchange


@pytest.mark.parametrize(
    "exception", [CONTROL, {"type": CONTROL, "message": CONTROL}, {"frames": CONTROL}, {"frames": [7]}]
)
def test_nothing_of_the_applications_moves_the_cursor_or_fakes_a_line(exception: Any) -> None:
    exchange = _ended(f"/{CONTROL}")
    exchange.facts = {CONTROL: CONTROL}
    for text in (
        line(CONTROL, field=CONTROL, nested={CONTROL: [CONTROL]}, **{CONTROL: CONTROL}),
        RENDERER.request(exchange, {"field": CONTROL}),
    ):
        assert not re.search("[\x00-\x1f\x7f-\x9f\u2028\u2029]", bare(text))
    # An exception alone has lines of its own, and what the application says of one begins none.
    text = bare(line(exception=exception))
    assert not re.search("[\x00-\x09\x0b-\x1f\x7f-\x9f\u2028\u2029]", text)
    assert text.count("\n") <= 3


def test_an_exception_is_told_with_its_frames() -> None:
    try:
        raise ValueError("out of stock")
    except ValueError as error:
        text = bare(line(exception=exception_of(error)))
    assert re.search(r'File ".*test_console\.py", line \d+, in test_an_exception', text)
    assert text.endswith("ValueError: out of stock")


def test_a_token_is_in_no_part_of_a_line() -> None:
    exchange = _ended(f"/reset/{TOKEN}")
    exchange.facts = {"note": f"see {TOKEN}", "password": TOKEN, TOKEN: 1}
    exchange.exception = ValueError(f"cannot use {TOKEN}")
    told = RENDERER.request(exchange, own_fields(exchange)) + RENDERER.line(
        "info", f"using {TOKEN}", "app", exchange, {"a": [TOKEN], "exception": {"message": f"token={TOKEN}"}}
    )
    assert "a1a1" not in told
    assert "/reset/[redacted]" in told


def test_a_token_across_the_cut_of_a_path_leaves_no_half() -> None:
    assert "a1a1" not in RENDERER.request(_ended("/" + "x" * 105 + "/" + TOKEN), {})


def test_the_users_own_names_count() -> None:
    assert "DE00" not in line("paid from iban=DE00", iban="DE00", note="iban=DE00")


def test_a_line_is_bounded_whatever_is_in_it() -> None:
    exchange = _ended()
    exchange.facts = {f"fact{n}": "é" * 5_000 for n in range(64)}
    for text in (
        RENDERER.request(exchange, {}),
        line("x" * 100_000, **{f"f{n}": "y" * 5_000 for n in range(500)}),
    ):
        assert len(text.encode()) < MAX_LINE_BYTES
        assert text.endswith("…\x1b[0m")


def test_the_lines_own_fields_come_before_the_facts_of_its_request() -> None:
    exchange = _ended()
    exchange.facts = {f"fact{n}": n for n in range(64)} | {"step": 1}
    told = bare(RENDERER.line("info", "e", "app", exchange, {"own": 7, "step": 2}))
    assert "own=7" in told
    assert "step=2" in told
    assert "step=1" not in told
