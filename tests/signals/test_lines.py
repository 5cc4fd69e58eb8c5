"""A line is one JSON object of bounded length, whatever the application put into it."""

from __future__ import annotations

import enum
import json
import re
import sys
from collections.abc import Iterator, Mapping
from datetime import UTC, date, datetime
from decimal import Decimal
from pathlib import PurePosixPath
from typing import Any
from uuid import UUID

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from obskit.exchange import MAX_FACTS, Exchange, Outcome
from obskit.names import CANONICAL_KEYS
from obskit.plain import agent_of, path_of
from obskit.redact import REDACTED, make_redactor
from obskit.signals.lines import (
    BASE_KEYS,
    MAX_DEPTH,
    MAX_FRAMES,
    MAX_ITEMS,
    MAX_TEXT,
    LineFormat,
    exception_of,
    plain,
    quote,
    quote_or_null,
    timestamp,
)
from obskit.signals.writer import MAX_LINE_BYTES

IS_SECRET = make_redactor()
FORMAT = LineFormat("shop", "1.2", "test", IS_SECRET, 4711)


def read(line: str) -> dict[str, Any]:
    """The object on a line as a reader of the stream gets it; fails for what is no single bounded JSON line."""
    data = (line + "\n").encode("utf-8", "replace")
    assert len(data) <= MAX_LINE_BYTES
    assert data.count(b"\n") == 1
    # Nothing that ends a line for one reader or another, and nothing that a terminal obeys.
    assert re.search("[\x00-\x1f\x7f-\x9f\u2028\u2029]", line) is None
    found = json.loads(data, object_pairs_hook=_without_duplicates, parse_constant=pytest.fail)
    assert isinstance(found, dict)
    return found


def _without_duplicates(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    assert len({key for key, _ in pairs}) == len(pairs)
    return dict(pairs)


def shown(value: Any) -> Any:
    """`value` as a field of a line."""
    return read(FORMAT.line("info", "e", "app", None, {"field": value}))["field"]


class Colour(enum.Enum):
    RED = 1


class Code(enum.IntEnum):
    LOST = 404


class Word(enum.StrEnum):
    YES = "yes"


class Unprintable:
    def __repr__(self) -> str:
        raise RuntimeError("no repr")

    __str__ = __repr__


class Mute:
    """Has a repr, for the report of a failing example, and no text."""

    def __str__(self) -> str:
        raise RuntimeError("no text")


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (None, None),
        (True, True),
        ("text", "text"),
        ("\ud800", "?"),
        ("a\r\nb", "a\r\nb"),
        ("\x1b[31mred\x1b[0m", "\x1b[31mred\x1b[0m"),
        ("\x00\u2028", "\x00\u2028"),
        (1.5, 1.5),
        (float("nan"), "nan"),
        (float("-inf"), "-inf"),
        (2**63 - 1, 2**63 - 1),
        (-(2**63), -(2**63)),
        (2**63, "9223372036854775808"),
        (10**5000, "<int of 16610 bits>"),
        (b"\xff\x00", "b'\\xff\\x00'"),
        (Colour.RED, "Colour.RED"),
        (Code.LOST, 404),
        (Word.YES, "yes"),
        (datetime(2026, 1, 31, tzinfo=UTC), "2026-01-31 00:00:00+00:00"),
        (date(2026, 1, 31), "2026-01-31"),
        (Decimal("1.10"), "1.10"),
        (UUID(int=7), "00000000-0000-0000-0000-000000000007"),
        (PurePosixPath("a/b"), "a/b"),
        ({1}, [1]),
        (frozenset({"a"}), ["a"]),
        ((1, "a", None), [1, "a", None]),
        ({1: "one", None: "none"}, {"1": "one", "None": "none"}),
        (Unprintable(), "<tests.signals.test_lines.Unprintable>"),
        ([Unprintable()], ["<tests.signals.test_lines.Unprintable>"]),
        ({Unprintable(): 1}, {"<tests.signals.test_lines.Unprintable>": 1}),
    ],
    ids=lambda value: type(value).__name__,
)
def test_a_value_is_shown_as_json_can_hold_it(value: Any, expected: Any) -> None:
    assert shown(value) == expected


def test_an_exception_as_a_value_is_shown_by_type_and_message() -> None:
    assert shown(ValueError("bad")) == {"type": "ValueError", "message": "bad", "frames": []}


def test_a_string_of_100_mb_is_cut() -> None:
    text = shown("x" * 100_000_000)
    assert len(text) == MAX_TEXT
    assert text.endswith("x…")


def test_a_generator_is_not_consumed() -> None:
    numbers = iter([1, 2])
    assert "iterator" in shown(numbers)
    assert list(numbers) == [1, 2]


def test_a_cycle_ends() -> None:
    circle: dict[str, Any] = {}
    circle["self"] = [circle]
    assert isinstance(shown(circle), dict)


def test_nesting_is_cut_at_its_depth_and_told_as_text() -> None:
    deep: Any = "bottom"
    for _ in range(50):
        deep = {"in": deep}
    found = shown(deep)
    for _ in range(MAX_DEPTH):
        found = found["in"]
    assert isinstance(found, str)


@pytest.mark.parametrize("many", [list(range(1000)), {str(n): n for n in range(1000)}, set(range(1000))])
def test_a_collection_is_cut_at_its_items(many: Any) -> None:
    assert len(shown(many)) == MAX_ITEMS


class BrokenMapping(Mapping[str, Any]):
    def __getitem__(self, key: str) -> Any:
        raise KeyError(key)

    def __iter__(self) -> Iterator[str]:
        raise RuntimeError("no keys")

    def __len__(self) -> int:
        return 1

    def __str__(self) -> str:
        return "a broken mapping"


class BrokenList(list[Any]):
    def __iter__(self) -> Iterator[Any]:
        raise RuntimeError("no items")

    def __str__(self) -> str:
        return "a broken list"


class BrokenText(str):
    def __len__(self) -> int:
        raise RuntimeError("no length")


class BrokenFloat(float):
    def __float__(self) -> float:
        raise RuntimeError("no float")


class Liar:
    @property
    def __class__(self) -> type:  # type: ignore[override]
        raise RuntimeError("no class")


@pytest.mark.parametrize(
    "make", [BrokenMapping, lambda: BrokenList([1]), lambda: BrokenText("abc"), lambda: BrokenFloat(1.5), Liar],
    ids=["mapping", "list", "text", "float", "class"],
)  # fmt: skip
def test_a_value_that_raises_when_looked_at_costs_neither_the_line_nor_its_neighbours(make: Any) -> None:
    line = read(FORMAT.line("info", "order.paid", "app", None, {"before": 1, "field": make(), "after": 2}))
    assert (line["event"], line["before"], line["after"]) == ("order.paid", 1, 2)


@pytest.mark.parametrize("key", sorted(BASE_KEYS))
def test_a_key_that_is_ours_is_kept_beside_ours(key: str) -> None:
    line = read(FORMAT.line("info", "e", "app", Exchange(), {key: "theirs"}))
    assert line[key + "_"] == "theirs"
    assert line[key] != "theirs"


def test_keys_that_are_no_text_become_text() -> None:
    line = read(FORMAT.line("info", "e", "app", None, {1: "one", ("a",): "tuple"}))  # type: ignore[dict-item]
    assert line["1"] == "one"
    assert line["['a']"] == "tuple"


@pytest.mark.parametrize(
    "fields",
    [{"password": "p"}, {"order": {"card_number": "4111"}}, {"calls": [{"Authorization": "Bearer x"}]}],
)
def test_a_secret_is_redacted_at_any_depth(fields: dict[str, Any]) -> None:
    line = FORMAT.line("info", "e", "app", None, fields)
    assert REDACTED in line
    assert not any(secret in line for secret in ("4111", "Bearer", '"p"'))


CONTROL = "\r\n\x00\x1b[31m\x7f\x85\x9b2J\u2028\u2029"


def test_control_characters_stand_in_a_line_as_escapes_wherever_they_came_from() -> None:
    exchange = _ended()
    exchange.url_path = exchange.user_agent = exchange.http_route = exchange.client_address = CONTROL
    exchange.facts = {CONTROL: CONTROL}
    exchange.exception = ValueError(CONTROL)
    canonical = read(FORMAT.canonical(exchange))
    assert (canonical["url_path"], canonical[CONTROL], canonical["exception"]["message"]) == (CONTROL,) * 3
    own = read(FORMAT.line("info", CONTROL, CONTROL, exchange, {"field": {CONTROL: [CONTROL]}}))
    assert (own["event"], own["logger"], own["field"]) == (CONTROL, CONTROL, {CONTROL: [CONTROL]})


@pytest.mark.parametrize("character", ["\x7f", "\x85", "\u2028"])
@pytest.mark.parametrize("where", ["url_path", "user_agent", "client_address", "http_route", "request_id"])
def test_one_control_character_anywhere_is_an_escape_on_the_canonical_line(
    where: str, character: str
) -> None:
    for _ in range(2):  # new, and remembered
        exchange = _ended()
        setattr(exchange, where, f"a{character}b")
        assert read(FORMAT.canonical(exchange))[where] == f"a{character}b"


def test_a_line_full_of_characters_that_grow_is_bounded_after_they_grew() -> None:
    read(
        FORMAT.line(
            "info", "\u2028" * 5_000, "\x85" * 5_000, None, {f"f{n}": "\u2029" * 5_000 for n in range(10)}
        )
    )


TOKEN = "ghp_" + "a1" * 15


def test_a_token_in_what_the_client_sent_or_the_application_said_is_on_no_line() -> None:
    exchange = _ended()
    exchange.url_path, exchange.user_agent = f"/reset/{TOKEN}", f"curl/8 token={TOKEN}"
    exchange.facts = {"note": f"see {TOKEN}", TOKEN: 1}
    exchange.exception = ValueError(f"cannot use {TOKEN}")
    exchange.exception.__cause__ = KeyError(TOKEN)
    line = read(FORMAT.canonical(exchange))
    assert (line["url_path"], line["user_agent"]) == ("/reset/[redacted]", "curl/8 token=[redacted]")
    own = FORMAT.line("info", f"using {TOKEN}", "app", exchange, {"calls": [f"-H {TOKEN}"], "order": 7})
    assert read(own)["order"] == 7
    assert TOKEN not in json.dumps(line) + own


def test_a_token_across_the_cut_of_a_path_leaves_no_half() -> None:
    exchange = _ended()
    exchange.url_path = "/" + "x" * (MAX_TEXT - 20) + "/" + TOKEN
    assert "a1" not in FORMAT.canonical(exchange)


def test_a_secret_below_the_depth_that_is_shown_is_not_shown_as_text() -> None:
    deep: Any = {"password": "p4ss"}
    for _ in range(MAX_DEPTH):
        deep = {"in": deep}
    assert "p4ss" not in FORMAT.line("info", "e", "app", None, {"field": deep})


JSON_LIKE = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.binary(max_size=20) | st.datetimes()
    | st.text(st.characters(codec=None), max_size=40) | st.builds(Mute),
    lambda inner: st.lists(inner, max_size=4) | st.tuples(inner)
    | st.dictionaries(st.text(max_size=10), inner, max_size=4),
    max_leaves=20,
)  # fmt: skip
ANY_TEXT = st.text(st.characters(codec=None), max_size=100)


@settings(max_examples=100, deadline=None)
@given(
    fields=st.dictionaries(ANY_TEXT | st.sampled_from(sorted(BASE_KEYS)), JSON_LIKE, max_size=8),
    event=ANY_TEXT,
)
def test_any_fields_give_one_valid_line(fields: dict[str, Any], event: str) -> None:
    line = read(FORMAT.line("info", event, "app", Exchange(), fields))
    assert line["event"] == event.encode("utf-8", "replace").decode()


@settings(max_examples=50, deadline=None)
@given(
    st.lists(st.sampled_from(["x", "é", "\U0001f600", "\x01", "\ud800", '"']), min_size=1, max_size=3),
    st.integers(1, 80),
)
def test_a_line_is_bounded_whatever_its_characters_weigh(characters: list[str], count: int) -> None:
    text = "".join(characters) * MAX_TEXT
    read(FORMAT.line("info", text, "app", Exchange(), {f"field{n}": text for n in range(count)}))


def test_a_line_that_would_be_too_long_says_how_much_it_left_out() -> None:
    line = read(FORMAT.line("info", "e", "app", None, {f"f{n}": "x" * MAX_TEXT for n in range(20)}))
    assert line["left_out_characters"] > MAX_LINE_BYTES
    assert line["service_name"] == "shop"


def test_a_line_that_just_fits_is_whole() -> None:
    fields = {f"f{n}": "x" * MAX_TEXT for n in range(7)}
    assert read(FORMAT.line("info", "e", "app", None, fields))["f6"] == "x" * MAX_TEXT


@pytest.mark.parametrize("character", ["\x01", "\U0001f600"], ids=["control", "emoji"])
@pytest.mark.parametrize("facts", [None, {"a": 1}], ids=["no facts", "facts"])
def test_a_canonical_line_is_bounded_whatever_the_client_sent(
    character: str, facts: dict[str, Any] | None
) -> None:
    exchange = _ended()
    exchange.url_path = exchange.user_agent = exchange.http_route = character * 5000
    exchange.facts = facts
    assert read(FORMAT.canonical(exchange))["event"] == "http.request"


def test_a_line_of_the_application_is_bounded_by_its_event_and_logger_too() -> None:
    assert read(FORMAT.line("info", "\x01" * 5000, "\x02" * 5000, None, {}))["level"] == "info"


def _ended() -> Exchange:
    exchange = Exchange("http", "GET", "/orders/7")
    exchange.trace_id, exchange.span_id, exchange.request_id = "a" * 32, "b" * 16, "req-1"
    exchange.http_route, exchange.status, exchange.outcome = "/orders/{id}", 200, Outcome.COMPLETED
    exchange.last_byte_ns = exchange.started_ns + 250_000_000
    exchange.first_byte_ns = exchange.started_ns + 100_000_000
    exchange.response_bytes = 5
    exchange.settle()
    return exchange


def test_the_canonical_line_has_every_key_of_the_contract_in_its_order() -> None:
    exchange = _ended()
    exchange.queue_s = 1.23456789
    line = read(FORMAT.canonical(exchange))
    assert list(line) == [key for key in CANONICAL_KEYS if key not in ("exception", "evidence")]
    assert line["queue_s"] == 1.234568
    assert (line["duration_s"], line["ttfb_s"], line["worker_pid"]) == (0.25, 0.1, 4711)
    assert (line["client_address"], line["user_agent"]) == (None, None)


@settings(max_examples=200, deadline=None)
@given(
    texts=st.lists(ANY_TEXT | st.none(), min_size=4, max_size=4),
    status=st.none() | st.integers(100, 599),
    outcome=st.sampled_from(Outcome),
    level=st.sampled_from(["info", "warning", "error"]),
    nanoseconds=st.integers(0, 10**12),
    facts=st.none() | st.dictionaries(ANY_TEXT, JSON_LIKE, max_size=3),
)
def test_a_canonical_line_says_what_its_record_says_however_often_the_like_was_seen(
    texts: list[str | None], status: int | None, outcome: Outcome, level: str, nanoseconds: int, facts: Any
) -> None:
    exchange = _ended()
    path, exchange.http_route, exchange.user_agent, exchange.client_address = texts
    exchange.url_path, exchange.request_id = path or "/", path or exchange.trace_id
    exchange.status, exchange.outcome, exchange.level = status, outcome, level
    exchange.last_byte_ns, exchange.facts = exchange.started_ns + nanoseconds, facts
    exchange.settle()
    fresh = read(LineFormat("shop", "1.2", "test", IS_SECRET, 4711).canonical(exchange))
    again = read(FORMAT.canonical(exchange))
    assert {**fresh, "timestamp": ""} == {**again, "timestamp": ""}
    told = {
        "level": level, "trace_id": exchange.trace_id, "request_id": exchange.request_id, "http_request_method": "GET",
        "http_route": exchange.http_route or "", "url_path": path_of(exchange), "http_response_status_code": status,
        "outcome": outcome.value, "duration_s": round(nanoseconds * 1e-9, 6), "ttfb_s": 0.1, "response_bytes": 5,
        "client_address": exchange.client_address, "user_agent": agent_of(exchange), "findings": [],
    }  # fmt: skip
    as_read = json.loads(json.dumps(told, ensure_ascii=False).encode("utf-8", "replace"))
    assert {key: again[key] for key in told} == as_read


def test_what_comes_with_every_request_is_remembered_within_bounds_and_no_secret_is() -> None:
    form = LineFormat("shop", "1.2", "test", IS_SECRET, 4711)
    for number in range(3_000):
        exchange = _ended()
        exchange.http_route = exchange.client_address = f"/{number}"
        exchange.user_agent = f"agent {number} " + (f"token={TOKEN}" if number % 2 else "x" * (number % 400))
        exchange.facts = {f"fact {number} {TOKEN if number % 2 else ''}": number}
        exchange.url_path = f"/{number}/" + (TOKEN if number % 2 else "x" * (number % 400))
        read(form.canonical(exchange))
        read(form.line("info", "e", "app", None, exchange.facts))
    memories = [form._kinds, form._paths, form._clients, form._agents, form._keys._known]
    memories.append(form._canonical_keys._known)
    assert all(0 < len(memory) <= 1_024 for memory in memories)
    assert TOKEN not in repr(memories)
    assert max(len(text) for memory in (form._agents, form._paths) for text in memory) <= 256


def test_what_the_canonical_line_shows_of_path_and_agent_every_other_signal_shows() -> None:
    for _ in range(2):  # new, and remembered
        exchange = _ended()
        exchange.url_path, exchange.user_agent = f"/reset/{TOKEN}", "curl/8"
        read(FORMAT.canonical(exchange))
        assert (exchange.shown_path, exchange.shown_agent) == ("/reset/[redacted]", "curl/8")
    exchange = _ended()
    exchange.shown_path = "/as/another/signal/showed"
    assert read(FORMAT.canonical(exchange))["url_path"] == "/as/another/signal/showed"


@pytest.mark.parametrize("agent", [None, ""])
def test_no_user_agent_is_null(agent: str | None) -> None:
    exchange = _ended()
    exchange.user_agent = agent
    assert read(FORMAT.canonical(exchange))["user_agent"] is None
    assert agent_of(exchange) is None


def test_what_is_not_known_is_null_on_the_canonical_line() -> None:
    exchange = _ended()
    exchange.status = exchange.first_byte_s = None
    exchange.server_sends_file = True
    line = read(FORMAT.canonical(exchange))
    assert (line["http_response_status_code"], line["ttfb_s"], line["response_bytes"]) == (None, None, None)


def test_a_file_the_server_sent_whole_has_its_bytes() -> None:
    exchange = _ended()
    exchange.server_sends_file = exchange.response_complete = True
    assert read(FORMAT.canonical(exchange))["response_bytes"] == 5


def test_a_request_of_which_nobody_knows_how_long_it_waited_says_nothing_of_it() -> None:
    assert "queue_s" not in read(FORMAT.canonical(_ended()))


@pytest.mark.parametrize("key", sorted(set(CANONICAL_KEYS) - {"exception", "evidence", "queue_s"}))
def test_a_bound_fact_does_not_replace_a_key_of_the_canonical_line(key: str) -> None:
    exchange = _ended()
    exchange.facts = {key: "theirs"}
    assert read(FORMAT.canonical(exchange))[key + "_"] == "theirs"


@pytest.mark.parametrize("size", [1, MAX_TEXT], ids=["many facts", "large facts"])
def test_the_exception_of_a_request_is_on_its_canonical_line_beside_all_its_facts(size: int) -> None:
    exchange = _ended()
    exchange.facts = {f"fact{n}": "x" * size for n in range(MAX_FACTS)}
    exchange.exception = ValueError("the cause of all this")
    assert read(FORMAT.canonical(exchange))["exception"]["type"] == "ValueError"


def test_a_line_shows_its_own_fields_before_the_facts_of_its_request() -> None:
    exchange = _ended()
    exchange.facts = {f"fact{n}": n for n in range(MAX_FACTS)}
    assert read(FORMAT.line("info", "e", "app", exchange, {"own": 1}))["own"] == 1


def test_a_line_carries_the_facts_of_its_request_and_its_own_fields_win() -> None:
    exchange = _ended()
    exchange.facts = {"tenant": "a", "step": 1}
    line = read(FORMAT.line("info", "e", "app", exchange, {"step": 2}))
    assert (line["tenant"], line["step"], line["trace_id"], line["request_id"]) == ("a", 2, "a" * 32, "req-1")


def _dive(depth: int) -> None:
    if depth:
        _dive(depth - 1)
    secret = "4711"
    raise KeyError(f"at the bottom, without {len(secret)} locals")


def _caught(call: Any, *arguments: Any) -> BaseException:
    try:
        call(*arguments)
    except Exception as error:
        return error
    raise AssertionError("nothing was raised")


def test_an_exception_has_its_innermost_frames_last_and_bounded() -> None:
    found = exception_of(_caught(_dive, 100))
    assert found["type"] == "KeyError"
    assert len(found["frames"]) == MAX_FRAMES
    assert {frame["function"] for frame in found["frames"]} == {"_dive"}
    assert set(found["frames"][-1]) == {"file", "line", "function"}
    assert "4711" not in json.dumps(found)


class ShopError(Exception):
    def __str__(self) -> str:
        raise RuntimeError("no text")


def test_an_exception_with_a_text_of_its_own_is_told_by_its_arguments() -> None:
    found = exception_of(ShopError("out of stock", 7))
    assert found["type"].endswith("test_lines.ShopError")
    assert found["message"] == "('out of stock', 7)"


def _chain(how: str) -> None:
    try:
        raise KeyError("first")
    except KeyError as error:
        if how == "from":
            raise ValueError("second") from error
        if how == "suppressed":
            raise ValueError("second") from None
        raise ValueError("second")  # noqa: B904


@pytest.mark.parametrize(
    ("how", "cause"), [("from", "KeyError"), ("during", "KeyError"), ("suppressed", None)]
)
def test_an_exception_names_its_cause_unless_it_was_suppressed(how: str, cause: str | None) -> None:
    found = exception_of(_caught(_chain, how))
    assert found.get("cause", {}).get("type") == cause


def test_an_exception_from_the_depths_of_a_recursion_is_told() -> None:
    def endless() -> None:
        endless()

    assert shown(_caught(endless))["type"] == "RecursionError"
    assert sys.getrecursionlimit() >= 1000


@pytest.mark.parametrize(
    ("unix_ns", "text"),
    [
        (0, "1970-01-01T00:00:00.000000Z"),
        (1_769_903_999_000_001_999, "2026-01-31T23:59:59.000001Z"),
        (1_769_903_999_500_000_000, "2026-01-31T23:59:59.500000Z"),
        (1_769_904_000_999_999_999, "2026-02-01T00:00:00.999999Z"),
    ],
)
def test_a_timestamp_is_rfc_3339_in_utc_to_the_microsecond(unix_ns: int, text: str) -> None:
    assert timestamp(unix_ns) == text
    exchange = _ended()
    exchange.started_unix_ns, exchange.ended_ns = unix_ns - 3_000_000_000, exchange.started_ns + 3_000_000_000
    assert read(FORMAT.canonical(exchange))["timestamp"] == text


def test_the_canonical_line_has_the_time_at_which_its_request_ended_whenever_it_is_written() -> None:
    exchange = _ended()
    exchange.started_unix_ns, exchange.ended_ns = 1_769_903_999_400_000_000, exchange.started_ns + 750_000_000
    assert read(FORMAT.canonical(exchange))["timestamp"] == "2026-02-01T00:00:00.150000Z"
    earlier = _ended()
    earlier.started_unix_ns, earlier.ended_ns = 1_769_903_998_000_000_000, earlier.started_ns + 999_999_999
    assert read(FORMAT.canonical(earlier))["timestamp"] == "2026-01-31T23:59:58.999999Z"
    exchange.ended_ns = None
    written = datetime.fromisoformat(read(FORMAT.canonical(exchange))["timestamp"])
    assert abs((datetime.now(UTC) - written).total_seconds()) < 10


def test_quoted_text_is_json_and_null_is_null() -> None:
    assert json.loads(quote('a"b\n' + "x" * 5000)).endswith("x…")
    assert (quote_or_null(None), quote_or_null("a")) == ("null", '"a"')


def test_a_value_below_the_depth_is_not_opened() -> None:
    assert plain([1], IS_SECRET, MAX_DEPTH) == "<list of 1>"
