"""A success whose JSON body says that it is an error, and the many bodies that only hold the word."""

from __future__ import annotations

import json
import time
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from obskit.detectors._toplevel import Shape, members
from obskit.detectors.soft_error import SoftErrors, kind_of
from obskit.exchange import HEAD_BYTES, Evidence, Exchange, Outcome
from tests.detectors.conftest import setting

JSON = (b"content-type", b"application/json")


def answer(body: bytes, status: int = 200, *headers: tuple[Any, Any], rest: int = 0) -> Exchange:
    """A complete answer with this body, of which `rest` more bytes came in later pieces."""
    made = Exchange("http", "GET", "/orders/1")
    made.status, made.outcome = status, Outcome.COMPLETED
    made.response_started = made.response_complete = True
    made.response_head, made.response_bytes = body[:HEAD_BYTES], len(body) + rest
    made.response_headers = list(headers or (JSON,))
    return made


def judged(exchange: Exchange, **options: Any) -> Evidence | None:
    return SoftErrors(setting(**options)).closed(exchange)


def key_of(body: bytes | dict[str, Any], rest: int = 0, **options: Any) -> object:
    """The entry of `soft_error_keys` that holds; None for none."""
    found = judged(
        answer(json.dumps(body).encode() if isinstance(body, dict) else body, rest=rest), **options
    )
    return found["key"] if found is not None else None


ERRORS: list[tuple[Any, str]] = [
    ({"error": "not found"}, "error"),
    ({"error": {"code": 7}}, "error"),
    ({"error": True}, "error"),
    ({"error": 1}, "error"),
    ({"data": None, "errors": [{"message": "no such field"}]}, "errors"),
    ({"jsonrpc": "2.0", "id": 1, "error": {"code": -32601}}, "error"),
    ({"success": False}, "!success"),
    ({"ok": False, "reason": "closed"}, "!ok"),
    ({"status": "error", "message": "no"}, "status=error+message"),
    ({"status": "fail", "data": {"title": "required"}}, "status=fail+data"),
    (b' \r\n\t{ "x" : 1 ,\n "error" :\t"no" } \n', "error"),
    (b'{"a": "\\"", "b": "\\\\", "error": "no"}', "error"),
    (b'{"a": {"b": ["}", "]"]}, "error": "no"}', "error"),
    (b'{"error": null, "error": "the last one counts"}', "error"),
]


@pytest.mark.parametrize(("body", "key"), ERRORS)
@pytest.mark.parametrize("rest", [0, 5_000], ids=["whole", "first piece"])
def test_a_success_whose_body_says_error_is_one(body: Any, key: str, rest: int) -> None:
    assert key_of(body, rest) == key


NEAR_MISSES: list[Any] = [
    {"data": {"error": "nested"}},
    {"items": [{"error": "nested"}, {"success": False}]},
    {"note": '"error": true'},
    {"note": 'he said {"error": "no"}'},
    {"error_count": 3, "errors_total": 1, "last_error": "no"},
    {"id": 1, "status": "failed"},
    {"id": 1, "status": "error"},
    {"status": "fail"},
    {"status": "fail", "data": None},
    {"status": "error", "message": ""},
    *({"error": empty} for empty in (None, False, "", 0, 0.0, [], {})),
    *({"errors": empty} for empty in (None, False, "", 0, [], {})),
    *({"success": value} for value in (True, None, "false", 0, [])),
    {"ok": True},
    *({"parts": [{"success": False}], "success": value} for value in (None, 0, "", [])),
    {"Error": "another key"},
    b'[{"error": "in a list"}]',
    b'"error"',
    b'"\\"error\\": 1"',
    b"null",
    b"",
    b"   ",
    b'{"error": "the last one counts", "error": null}',
    # No JSON, or none that a strict reader takes.
    b'{"error": "no"',
    b'{"error": nope}',
    b"{error: 'no'}",
    b'{"error": "no",}',
    b'{"a": "\n", "error": "no"}',
    b'\xef\xbb\xbf{"error": "no"}',
    b'{"a": "\xff", "error": "no"}',
    b'{"error": "\xff"}',
    '{"error": "no"}'.encode("utf-16"),
    b'{"a": ' + b"[" * 2_000 + b"]" * 2_000 + b', "error": "n"',
    b"[" * 4_096,
    b'{"a":' * 800,
    b"<html>" + b'{"error": "no"}',
]


@pytest.mark.parametrize("body", NEAR_MISSES)
def test_a_body_that_only_holds_the_word_is_none(body: Any) -> None:
    assert key_of(body) is None


@pytest.mark.parametrize(
    "body",
    [
        {"data": {"error": "nested"}},
        {"items": [{"error": "nested"}]},
        {"note": '"error": true'},
        {"error": None},
        {"errors": []},
        b'{"a": "\xff", "error": "no"}',
        b'{"a": "\n", "error": "no"}',
        b'{"a": tru, "error": "no"}',
        b'{"a" "error": "no"}',
        b'{"error": ',
        b'{"error": "',
        b'{"error": [',
        b'{"error": {  ',
        b'{"error": 1',
        b'{"error": fals',
        b'{"erro',
        b"{",
        b"[" * 4_096,
        b'{"a":' * 800,
    ],
)
def test_the_first_piece_of_a_longer_body_is_read_as_strictly(body: Any) -> None:
    assert key_of(body, rest=5_000) is None


@pytest.mark.parametrize(
    ("piece", "value"),
    [(b'{"error": "the card was ref', "text"), (b'{"error": {"co', "object"), (b'{"error": ["a', "list")],
)
def test_a_value_that_was_cut_still_shows_that_it_is_there(piece: bytes, value: str) -> None:
    found = judged(answer(piece, rest=9_000))
    assert found is not None
    assert found["value"] == value


def test_a_key_after_the_first_4_kib_is_not_seen() -> None:
    late = json.dumps({"text": "x" * HEAD_BYTES, "error": "no"}).encode()
    assert key_of(late) is None
    assert key_of(json.dumps({"error": "no", "text": "x" * HEAD_BYTES}).encode()) == "error"


@pytest.mark.parametrize(
    "exchange",
    [
        *(
            answer(b'{"error": "no"}', status)
            for status in (101, 204, 205, 206, 301, 304, 400, 404, 422, 500)
        ),
        answer(b'{"error": "no"}', 200, (b"content-type", b"text/plain")),
        answer(b'{"error": "no"}', 200, (b"content-type", b"application/json-seq")),
        answer(b'{"error": "no"}', 200, (b"content-type", b"application/x-ndjson")),
        answer(b'{"error": "no"}', 200, (b"x-other", b"application/json")),
        answer(b'{"error": "no"}', 200, JSON, (b"content-encoding", b"gzip")),
    ],
)
def test_what_is_no_success_or_no_plain_json_is_not_judged(exchange: Exchange) -> None:
    assert judged(exchange) is None


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("outcome", Outcome.TRUNCATED),
        ("outcome", Outcome.CLIENT_DISCONNECT),
        ("protocol", "websocket"),
        ("server_sends_file", True),
        ("status", None),
        ("response_headers", None),
    ],
)
def test_an_answer_that_was_none_is_not_judged(field: str, value: Any) -> None:
    exchange = answer(b'{"error": "no"}')
    setattr(exchange, field, value)
    assert judged(exchange) is None


@pytest.mark.parametrize(
    "headers",
    [
        [(b"Content-Type", b"Application/JSON; charset=utf-8")],
        [("Content-Type", "application/json")],
        [("content-type", "application/vnd.shop+json"), ("Content-Encoding", "identity")],
        [("content-type", "application/problem+json")],
    ],
)
def test_json_is_known_by_its_media_type(headers: Any) -> None:
    assert judged(answer(b'{"error": "no"}', 201, *headers)) is not None


def test_the_evidence_holds_nothing_of_the_body() -> None:
    found = judged(answer(b'{"error": "card 4111 refused", "hint": "ask ann@shop.example"}', 202))
    assert found == {"key": "error", "value": "text", "status": 202, "content_type": "application/json"}


@pytest.mark.parametrize(
    ("value", "kind"),
    [
        *((shape, shape.value) for shape in Shape),
        *(("x", "text"), (1, "number"), (1.5, "number"), (True, "true"), (False, "false")),
        *(([1], "list"), ({"a": 1}, "object")),
    ],
)
def test_a_value_is_told_by_its_kind(value: Any, kind: str) -> None:
    assert kind_of(value) == kind


@pytest.mark.parametrize(
    ("keys", "body", "key"),
    [
        (("code=E7",), {"code": "E7"}, "code=E7"),
        (("code=E7",), {"code": "E8"}, None),
        (("code=E7",), {"code": ["E7"]}, None),
        (("!status=ok",), {"status": "late"}, "!status=ok"),
        (("!status=ok",), {"status": "ok"}, None),
        (("!status=ok",), {"state": "late"}, None),
        (("a+!b",), {"a": 1, "b": False}, "a+!b"),
        (("a+!b",), {"a": 1}, None),
        (("fault.code",), {"fault.code": 1}, "fault.code"),
        (("fault.code",), {"faultXcode": 1}, None),
        (("ошибка",), {"ошибка": "да"}, "ошибка"),
        (("état=échec",), '{"état": "échec"}'.encode(), "état=échec"),
        (("a/b",), b'{"a\\/b": 1}', "a/b"),
        ((), {"error": "no"}, None),
    ],
)
def test_the_keys_are_the_users_to_choose(keys: tuple[str, ...], body: Any, key: str | None) -> None:
    assert key_of(body, soft_error_keys=keys) == key
    assert key_of(body, rest=9_000, soft_error_keys=keys) == key


SCALARS = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=8)
VALUES = st.recursive(
    SCALARS,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4), inner, max_size=3),
    max_leaves=8,
)
KEYS = st.sampled_from(["error", "errors", "success", "ok", "status", "message", "data"]) | st.text(
    max_size=5
)
OBJECTS = st.dictionaries(KEYS, VALUES, max_size=6)


def shape(value: Any) -> Any:
    if isinstance(value, dict) and value:
        return Shape.OBJECT
    return Shape.LIST if isinstance(value, list) and value else value


@given(OBJECTS, st.booleans(), st.sampled_from([None, 1]))
def test_the_top_level_of_any_object_is_what_a_json_parser_says(
    value: dict[str, Any], ascii_only: bool, indent: int | None
) -> None:
    text = json.dumps(value, ensure_ascii=ascii_only, indent=indent).encode("utf-8", "surrogatepass")
    expected = {key: shape(one) for key, one in json.loads(text).items()}
    if b"\xed" not in text:  # a lone surrogate is no UTF-8: nothing after it is read
        assert members(text) == expected


@given(OBJECTS, st.integers(0, 200))
def test_the_beginning_of_any_object_tells_nothing_that_the_whole_does_not(
    value: dict[str, Any], length: int
) -> None:
    whole = json.dumps(value).encode()
    for key, seen in members(whole[:length]).items():
        told = shape(value[key])
        assert seen == told or (seen is Shape.TEXT and isinstance(told, str) and told), (key, seen)
    if key_of(whole[:length], rest=len(whole)) is not None:
        assert key_of(value) is not None


@given(st.binary(max_size=200) | st.text('{}[]":,\\ \n0trufalsen', max_size=200).map(str.encode))
def test_no_bytes_make_it_raise(junk: bytes) -> None:
    for body in (junk, b'{"error":' + junk, b'{"error":1,' + junk):
        for rest in (0, 9_000):
            judged(answer(body, rest=rest))


def test_no_body_makes_it_slow() -> None:
    starts = [
        b'{"error":0,"a":"',
        b'{"error":0,"a":[',
        b'{"error":0,',
        b'{"error":',
        b'{"error":0,"a":{"b":"',
    ]
    fills = [b'\\"', b"\\", b'"', b'","', b"{", b"[]", b"{}", b" ", b"0", b'"":0,', b'"a":[],', b"\\u0000"]
    judge = SoftErrors(setting())
    for begin in starts:
        for fill in fills:
            exchange = answer((begin + fill * HEAD_BYTES)[:HEAD_BYTES], rest=9_000)
            best = min(_seconds(judge, exchange) for _ in range(3))
            # Linear is a millisecond, on a slow machine some; what goes back over its input takes tens of them.
            assert best < 0.03, (begin, fill, best)


def _seconds(judge: SoftErrors, exchange: Exchange) -> float:
    begun = time.thread_time()
    judge.closed(exchange)
    return time.thread_time() - begun
