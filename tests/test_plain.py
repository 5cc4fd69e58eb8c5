"""A value is told without running the application's code, bounded, and without what is secret in it."""

from __future__ import annotations

import ctypes
import json
import sqlite3
import threading
import time as clock
from collections import Counter, OrderedDict, UserDict, defaultdict, deque, namedtuple
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from datetime import UTC, date, datetime, time, timedelta, tzinfo
from decimal import Decimal
from enum import Enum, Flag
from fractions import Fraction
from ipaddress import ip_address, ip_network
from pathlib import Path, PurePosixPath
from types import MappingProxyType, SimpleNamespace
from typing import Any
from uuid import UUID
from weakref import proxy
from zoneinfo import ZoneInfo

import attrs
import httpx
import psycopg.errors
import pydantic
import pytest
import requests
import sqlalchemy
from hypothesis import given, settings
from hypothesis import strategies as st
from starlette.exceptions import HTTPException

from obskit.plain import (
    MAX_CHARACTERS,
    MAX_DEPTH,
    MAX_ITEMS,
    MAX_TEXT,
    clean,
    exception_of,
    key_of,
    message_of,
    plain,
    text_of,
    type_name,
)
from obskit.redact import REDACTED, make_redactor

HERE = "tests.test_plain"


# ---- values -------------------------------------------------------------------------------------------


class Colour(Enum):
    RED = 1


class Rights(Flag):
    READ = 1
    WRITE = 2


class Tagged(int):
    def __str__(self) -> str:
        raise RuntimeError


class Elsewhere(tzinfo):
    def utcoffset(self, when: datetime | None) -> timedelta:
        raise RuntimeError("the application's code ran")

    dst = tzname = utcoffset  # type: ignore[assignment]


class Born(date):
    def __str__(self) -> str:
        raise RuntimeError


Point = namedtuple("Point", ["x", "password"])


@dataclass
class Order:
    number: int
    password: str = "hunter2"
    lines: list[Any] = field(default_factory=list)
    note: str = field(default="", repr=False)

    @property
    def total(self) -> int:
        raise RuntimeError("a property ran")


@dataclass(slots=True)
class Slotted:
    number: int
    unset: Any = field(init=False)


@attrs.define
class Attrs:
    number: int
    api_key: str


class Model(pydantic.BaseModel):
    number: int
    access_token: str


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (None, None),
        (True, True),
        (Tagged(7), 7),
        (2**70, str(2**70)),
        (10**9_000, "<int of 29898 bits>"),
        (1.5, 1.5),
        (float("inf"), "inf"),
        (ctypes.c_int(7), "<ctypes.c_int>"),
        (Colour.RED, "Colour.RED"),
        (Rights.READ | Rights.WRITE, "Rights.READ|WRITE"),
        (datetime(2026, 1, 31, tzinfo=UTC), "2026-01-31 00:00:00+00:00"),
        (datetime(2026, 1, 31, tzinfo=ZoneInfo("UTC")), "2026-01-31 00:00:00+00:00"),
        (datetime(2026, 1, 31, tzinfo=Elsewhere()), "2026-01-31 00:00:00"),
        (Born(2026, 1, 31), "2026-01-31"),
        (time(1, 2, 3), "01:02:03"),
        (timedelta(hours=1), "1:00:00"),
        (Decimal("1.10"), "1.10"),
        (Fraction(1, 3), "1/3"),
        (UUID(int=7), "00000000-0000-0000-0000-000000000007"),
        (PurePosixPath("a/b"), "a/b"),
        (Path("/a"), "/a"),
        (ip_address("10.0.0.1"), "10.0.0.1"),
        (ip_network("::/64"), "::/64"),
        (1 + 2j, "(1+2j)"),
        (range(3), "range(0, 3)"),
        (b"\xff", "b'\\xff'"),
        (bytearray(b"ab"), "b'ab'"),
        (memoryview(b"ab"), "<memoryview>"),
        (deque([1, 2]), [1, 2]),
        (Counter("aab"), {"a": 2, "b": 1}),
        (defaultdict(int, a=1), {"a": 1}),
        (OrderedDict(a=1), {"a": 1}),
        (Point(1, "hunter2"), {"x": 1, "password": REDACTED}),
        (SimpleNamespace(a=1, token="t"), {"a": 1, "token": REDACTED}),
        (Order(7), {"number": 7, "password": REDACTED, "lines": [], "note": ""}),
        (Slotted(7), {"number": 7}),
        (Attrs(7, "k"), {"number": 7, "api_key": REDACTED}),
        (Model(number=7, access_token="t"), {"number": 7, "access_token": REDACTED}),
        (object(), "<object>"),
        (Order, f"<class {HERE}.Order>"),
        (len, "<function builtins.len>"),
        (type_name, "<function obskit.plain.type_name>"),
        (UserDict(a=1), "<collections.UserDict>"),
        (MappingProxyType({"password": "p"}), "<mappingproxy>"),
        (pydantic.SecretStr("s"), "<pydantic.types.SecretStr>"),
    ],
    ids=lambda value: type(value).__name__,
)
def test_a_known_value_is_written_out_a_record_by_its_fields_and_the_rest_by_name(
    value: Any, expected: Any
) -> None:
    assert plain(value) == expected
    json.dumps(plain(value), allow_nan=False)


class _Ran(Exception):
    """Code of the application ran."""


ran: list[str] = []


def _trap(name: str) -> Callable[..., Any]:
    def method(self: Any, *_: Any, **__: Any) -> Any:
        ran.append(name)
        raise _Ran(name)

    return method


_METHODS = (
    "__str__ __repr__ __format__ __len__ __iter__ __bool__ __hash__ __eq__ __getattr__ __getattribute__ __getitem__ "
    "__contains__ __int__ __index__ __float__ __reduce__ __dir__ __next__ __instancecheck__ items keys values __pos__ "
    "__lt__ __add__ __reversed__ __copy__ __call__ __get__ isoformat tzinfo bit_length errors"
).split()


def _hostile(base: type) -> Any:
    class Meta(type(base)):  # type: ignore[misc]
        __instancecheck__ = __subclasscheck__ = __repr__ = _trap("metaclass")

        def mro(cls) -> list[type]:
            return type.mro(cls)

    traps: dict[str, Any] = {name: _trap(name) for name in _METHODS}
    traps["__class__"] = property(_trap("__class__"))
    traps["__dict__"] = property(_trap("__dict__"))
    traps["args"] = property(_trap("args"))
    traps["__traceback__"] = property(_trap("__traceback__"))
    traps["__cause__"] = property(_trap("__cause__"))
    traps["__context__"] = property(_trap("__context__"))
    return Meta("Hostile", (base,), traps)


@pytest.mark.parametrize(
    ("base", "arguments"),
    [
        (object, ()), (int, (7,)), (float, (1.5,)), (str, ("ab",)), (bytes, (b"ab",)), (bytearray, (b"ab",)),
        (list, ([1],)),
        (tuple, ([1],)), (dict, ([("a", 1)],)), (set, ([1],)), (frozenset, ([1],)), (deque, ([1],)),
        (Decimal, ("1.5",)),
        (date, (2026, 1, 31)), (datetime, (2026, 1, 31)), (time, (1,)), (timedelta, (1,)), (Fraction, ()), (UUID, ()),
        (Exception, ("text",)), (KeyError, ("text",)), (OSError, (1, "text")), (SimpleNamespace, ()), (UserDict, ()),
        (Mapping, ()), (OrderedDict, ()), (Order, ()), (complex, ()),
    ],
    ids=lambda value: value.__name__ if isinstance(value, type) else "",
)  # fmt: skip
def test_no_code_of_a_class_runs_to_tell_its_instance(base: type, arguments: tuple[Any, ...]) -> None:
    kind = _hostile(base)
    value = kind.__new__(kind, *arguments)
    for fill in (list, set, deque, dict):
        if issubclass(base, fill):
            fill.__init__(value, *arguments)
    ran.clear()
    told = [
        plain(value),
        plain([value]),
        plain({"a": value}),
        text_of(value),
    ]
    if base in (Exception, KeyError, OSError):
        told.append(exception_of(value))
    assert ran == []
    json.dumps(told)


def test_a_str_that_blocks_holds_nobody_up() -> None:
    class Lazy:
        def __str__(self) -> str:
            threading.Event().wait(60)
            return "late"

        __repr__ = __len__ = __iter__ = __bool__ = __str__  # type: ignore[assignment]

    started = clock.monotonic()
    assert plain([Lazy()]) == [f"<{HERE}.test_a_str_that_blocks_holds_nobody_up.<locals>.Lazy>"]
    assert "Lazy" in message_of(ValueError(Lazy()))
    assert clock.monotonic() - started < 30


def test_a_generator_and_an_iterator_are_not_consumed() -> None:
    numbers = (n for n in range(3))
    held = iter([1, 2])
    assert plain([numbers, held]) == ["<generator>", "<list_iterator>"]
    assert (list(numbers), list(held)) == ([0, 1, 2], [1, 2])


def test_what_a_weak_proxy_stands_for_is_not_asked() -> None:
    class Number:
        def __index__(self) -> int:
            raise _Ran

    number = Number()
    assert plain(proxy(number)) == "<weakref.ProxyType>"


def test_a_mapping_that_changes_while_it_is_told_costs_no_more_than_itself() -> None:
    shared: dict[str, Any] = {}
    stop = threading.Event()

    def change() -> None:
        while not stop.is_set():
            shared.update({str(n): n for n in range(100)})
            shared.clear()

    thread = threading.Thread(target=change)
    thread.start()
    try:
        for _ in range(300):
            json.dumps(plain({"a": shared, "b": 1}))
    finally:
        stop.set()
        thread.join()


def test_a_secret_stays_one_below_the_depth_that_is_shown() -> None:
    deep: Any = {"password": "hunter2"}
    for _ in range(MAX_DEPTH * 2):
        deep = {"in": [deep]}
    assert "hunter2" not in json.dumps(plain(deep))


def test_what_is_wide_and_deep_ends_too() -> None:
    wide: Any = "x" * 100
    for _ in range(MAX_DEPTH):
        wide = [wide] * MAX_ITEMS
    started = clock.thread_time()
    told = json.dumps(plain(wide))
    assert len(told) < 2 * MAX_CHARACTERS
    assert clock.thread_time() - started < 1


def test_100_mb_are_not_read_to_be_cut() -> None:
    for value in ("x" * 100_000_000, b"x" * 100_000_000, bytearray(100_000_000)):
        started = clock.thread_time()
        assert len(plain(value)) == MAX_TEXT
        assert clock.thread_time() - started < 0.2


def test_a_token_across_the_cut_leaves_no_half() -> None:
    text = "x" * (MAX_TEXT - 12) + " ghp_" + "A1" * 20
    assert "A1" not in clean(text)
    assert len(clean("y " * 5_000)) == MAX_TEXT


@pytest.mark.parametrize(
    ("key", "text"),
    [("a", "a"), (1, "1"), (None, "None"), (Colour.RED, "Colour.RED"), (("a", 1), "['a', 1]")],
)
def test_a_key_is_text(key: Any, text: str) -> None:
    assert key_of(key) == text


def test_a_token_is_no_key() -> None:
    assert plain({"ghp_" + "a1" * 15: 1}) == {REDACTED: 1}


def test_texts_know_the_users_own_names() -> None:
    assert plain("iban=DE00", make_redactor(["iban"])) == "iban=[redacted]"


ANY = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(st.characters(codec=None)) | st.binary()
    | st.decimals() | st.datetimes(timezones=st.none() | st.timezones()) | st.uuids() | st.complex_numbers()
    | st.builds(Order, st.integers()) | st.builds(ValueError, st.text()) | st.fractions(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text() | st.integers() | st.none(), inner) | st.tuples(inner),
)  # fmt: skip


@settings(max_examples=100, deadline=None)
@given(ANY)
def test_anything_becomes_json(value: Any) -> None:
    json.dumps(plain(value), allow_nan=False)


# ---- exceptions ---------------------------------------------------------------------------------------


class Rejected(Exception):
    def __init__(self, text: str, payload: Any) -> None:
        super().__init__(text, payload)

    def __str__(self) -> str:
        raise _Ran


def _refused(sql: str, **parameters: Any) -> Exception:
    with sqlalchemy.create_engine("sqlite://").connect() as connection:
        connection.execute(sqlalchemy.text("create table t (a text unique)"))
        try:
            for _ in range(2):
                connection.execute(sqlalchemy.text(sql), parameters)
        except sqlalchemy.exc.SQLAlchemyError as error:
            return error
    raise AssertionError


def _invalid() -> Exception:
    try:
        Model.model_validate({"number": "hunter2", "access_token": 7})
    except pydantic.ValidationError as error:
        return error
    raise AssertionError


def _request_invalid() -> Exception:
    from fastapi.exceptions import RequestValidationError

    return RequestValidationError(
        [{"loc": ("body", "age"), "msg": "no number", "input": "hunter2"}], body="hunter2"
    )


def _django(name: str, *arguments: Any) -> Exception:
    from django.db import utils

    made: Exception = getattr(utils, name)(*arguments)
    return made


NO_INTEGER = "Input should be a valid integer, unable to parse string as an integer"
UNIQUE = 'duplicate key value violates unique constraint "users_email_key"'
DETAIL = f"{UNIQUE}\nDETAIL:  Key (email)=(hunter2) already exists."


@pytest.mark.parametrize(
    ("error", "message"),
    [
        (ValueError("out of stock"), "out of stock"),
        (ValueError(), ""),
        (ValueError("a", 1), "('a', 1)"),
        (KeyError("name"), "'name'"),
        (OSError(2, "No such file", "/x"), "[Errno 2] No such file: '/x'"),
        (FileNotFoundError(2, "No such file"), "[Errno 2] No such file"),
        (UnicodeDecodeError("ascii", b"hunter2", 0, 2, "bad"), "'ascii' codec can't decode bytes in position 0-1: bad"),
        (HTTPException(404, "no such order"), "404: no such order"),
        (ValueError("password=hunter2"), "password=[redacted]"),
        (ValueError({"password": "hunter2"}), "{'password': '[redacted]'}"),
        (Rejected("no", Order(7)), "('no', {'number': 7, 'password': '[redacted]', 'lines': [], 'note': ''})"),
        (ExceptionGroup("both", [ValueError("a"), ValueError("b")]), "both (2 sub-exceptions)"),
        (RuntimeError(ValueError("inner")), "inner"),
        (psycopg.errors.UniqueViolation(DETAIL), UNIQUE),
        (
            psycopg.errors.InvalidTextRepresentation('invalid input syntax for type integer: "hunter2"\nLINE 1'),
            "invalid input syntax for type integer: [redacted]",
        ),
        (_django("IntegrityError", DETAIL), UNIQUE),
        (
            _django("IntegrityError", 1062, "Duplicate entry 'hunter2' for key 'users.email'"),
            "(1062, \"Duplicate entry [redacted] for key 'users.email'\")",
        ),
        (_django("IntegrityError", 1, DETAIL), f"(1, '{UNIQUE}"),
        (sqlite3.OperationalError('unrecognized token: "\'hunter2"'), "unrecognized token: [redacted]"),
        (
            _refused("insert into t values (:a)", a="hunter2"),
            "(sqlite3.IntegrityError) UNIQUE constraint failed: t.a",
        ),
        (_refused("select :a from nowhere", a="hunter2"), "(sqlite3.OperationalError) no such table: nowhere"),
        (
            _invalid(),
            f"2 validation errors for Model: number ({NO_INTEGER}); access_token (Input should be a valid string)",
        ),
        (_request_invalid(), "1 validation error: body.age (no number)"),
        (
            requests.ConnectionError("Max retries exceeded with url: /pay?page=hunter2&token=hunter2 (Caused by x)"),
            "Max retries exceeded with url: /pay?page=[redacted]&token=[redacted] (Caused by x)",
        ),
        (httpx.ConnectError("All connection attempts failed"), "All connection attempts failed"),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, Exception) else "",
)  # fmt: skip
def test_an_exception_says_what_is_wrong_and_not_with_what(error: Exception, message: str) -> None:
    told = exception_of(error)
    assert told["message"] == message
    assert "hunter2" not in json.dumps(told)
    assert told["type"] == type_name(type(error))


def test_the_cause_is_told_by_the_same_rules() -> None:
    error = RuntimeError("lost")
    error.__cause__ = psycopg.errors.UniqueViolation(DETAIL)
    assert exception_of(error)["cause"] == {"type": "UniqueViolation", "message": UNIQUE}


def test_exceptions_that_hold_each_other_end() -> None:
    one, other = ValueError(), ValueError()
    one.args, other.args = (other, [other], {"a": other}), (one, [one])
    one.__cause__, other.__cause__ = other, one
    started = clock.thread_time()
    assert len(json.dumps(exception_of(one))) < 100_000
    assert clock.thread_time() - started < 1


def test_a_chain_of_10000_causes_is_told_by_its_first() -> None:
    error = ValueError("0")
    first = error
    for number in range(1, 10_000):
        error.__cause__ = ValueError(str(number))
        error = error.__cause__
    assert exception_of(first)["cause"] == {"type": "ValueError", "message": "1"}


def test_an_exception_of_10000_arguments_is_cut() -> None:
    assert len(message_of(ValueError(*("x" * 1_000 for _ in range(10_000))))) <= MAX_TEXT


class Nameless(type):
    @property
    def __module__(cls) -> Any:  # type: ignore[override]
        raise _Ran


def test_a_class_without_a_module_of_text_has_a_name() -> None:
    kind = type("Odd", (), {"__module__": 7})
    assert type_name(kind) == "?.Odd"
    assert plain(Nameless("Odd", (), {})()).endswith("Odd>")


def test_frames_name_file_line_and_function_and_nothing_else() -> None:
    def fail(secret: str) -> Iterator[None]:
        raise ValueError("no")
        yield

    try:
        next(fail("hunter2"))
    except ValueError as error:
        frames = exception_of(error)["frames"]
    assert set(frames[-1]) == {"file", "line", "function"}
    assert (frames[-1]["function"], frames[-1]["file"].endswith("test_plain.py")) == ("fail", True)
