"""What a value of the application looks like where it is told: bounded, without secrets, and without running its code.

A `__str__` may query a database, block, raise, or hold a secret; so may an `items()` or a property. So known plain
types are written out, records (dataclasses, attrs, named tuples, pydantic models, namespaces) are shown by the fields
their instances hold, and anything else is named by its class. Types are looked at with `type(value)`, never through
`__class__` or `isinstance`, which the application's code can answer.
"""

from __future__ import annotations

import math
import sys
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping
from datetime import date, datetime, time, timedelta
from decimal import Decimal
from enum import EnumMeta
from fractions import Fraction
from ipaddress import IPv4Address, IPv4Interface, IPv4Network, IPv6Address, IPv6Interface, IPv6Network
from itertools import islice
from pathlib import PosixPath, PurePosixPath, PureWindowsPath, WindowsPath
from types import (
    BuiltinFunctionType,
    FunctionType,
    GetSetDescriptorType,
    MemberDescriptorType,
    SimpleNamespace,
)
from typing import Any, Final
from uuid import UUID
from weakref import CallableProxyType, ProxyType

from obskit.redact import REDACTED, is_secret_name, scrub

MAX_TEXT: Final = 2_048
MAX_ITEMS: Final = 64
MAX_DEPTH: Final = 4
MAX_FRAMES: Final = 20
# All that one value may bring to a line, in characters; every item counts for some, so that wide and deep ends too.
MAX_CHARACTERS: Final = 16_384
_ITEM_CHARACTERS: Final = 4
_MAX_NAME: Final = 200
_BEYOND: Final = 512
_MAX_ARGUMENTS: Final = 8

IsSecret = Callable[[str], bool]

_HEAP_TYPE: Final = 1 << 9
# Their text says what they are, and comes from the standard library alone.
_TEXT_OF_THE_LIBRARY: Final = frozenset(
    {PosixPath, PurePosixPath, PureWindowsPath, WindowsPath, UUID, Fraction, range, complex}
    | {IPv4Address, IPv4Interface, IPv4Network, IPv6Address, IPv6Interface, IPv6Network}
)
_TIME_ZONES: Final = ("datetime", "zoneinfo", "pytz", "dateutil", "django")
# Libraries whose exceptions make their own text out of plain values.
_KNOWN_LIBRARIES: Final = frozenset(
    {
        "starlette",
        "fastapi",
        "werkzeug",
        "flask",
        "httpx",
        "httpcore",
        "requests",
        "urllib3",
        "redis",
        "jinja2",
        "jwt",
    }
    | {"anyio", "h11", "h2", "click", "botocore", "grpc", "aiohttp", "websockets", "obskit"}
)
# They tell the URL of a call that failed, and with it what stood in its query.
_CALLERS: Final = frozenset({"requests", "urllib3", "httpx", "httpcore", "aiohttp"})
_DATABASES: Final = frozenset(
    {
        "psycopg",
        "psycopg2",
        "sqlite3",
        "asyncpg",
        "pymysql",
        "MySQLdb",
        "mysql",
        "mariadb",
        "aiomysql",
        "asyncmy",
    }
    | {"oracledb", "cx_Oracle", "pyodbc", "pymssql", "peewee", "sqlalchemy"}
)

# The attributes of a class as `type` has them: a metaclass may say otherwise.
_namespace: Final[Callable[[type], Mapping[str, Any]]] = type.__dict__["__dict__"].__get__
_mro_of: Final[Callable[[type], tuple[type, ...]]] = type.__dict__["__mro__"].__get__
_flags_of: Final[Callable[[type], int]] = type.__dict__["__flags__"].__get__
_qualname_of: Final[Callable[[type], str]] = type.__dict__["__qualname__"].__get__
_module_of_type: Final[Callable[[type], Any]] = type.__dict__["__module__"].__get__


def _reader(kind: type, name: str) -> Callable[[Any], Any]:
    """What reads the attribute `name` as `kind` itself has it, whatever a class below says."""
    reader: Callable[[Any], Any] = kind.__dict__[name].__get__
    return reader


_cause_of, _context_of, _traceback_of, _arguments_of, _suppressed = (
    _reader(BaseException, f"__{name}__" if name != "args" else name)
    for name in ("cause", "context", "traceback", "args", "suppress_context")
)
_ZONES: Final = {datetime: _reader(datetime, "tzinfo"), time: _reader(time, "tzinfo")}


def plain(value: Any, is_secret: IsSecret = is_secret_name, depth: int = 0) -> Any:
    """`value` as JSON can hold it: bounded in depth, items and length; secrets redacted. Runs none of its code."""
    kind = type(value)
    if kind is str:
        return clean(value, is_secret)
    if value is None or kind is bool or (kind is int and -(2**63) <= value < 2**63):
        return value
    return _Telling(is_secret).plain(value, depth)


def text_of(value: Any, is_secret: IsSecret = is_secret_name) -> str:
    """`value` as text of at most 2,048 characters, without secrets. Runs none of its code; never raises."""
    shown = plain(value, is_secret)
    return shown if type(shown) is str else clean(str(shown), is_secret)


def clean(text: str, is_secret: IsSecret = is_secret_name, limit: int = MAX_TEXT) -> str:
    """`text` without secrets, cut at `limit` characters (at most 2,048)."""
    if len(text) <= limit:
        return scrub(text, is_secret)
    # Looked at beyond the cut: half a token has no shape any more.
    return scrub(text[: limit + _BEYOND], is_secret)[: limit - 1] + "…"


def path_of(exchange: Any, is_secret: IsSecret = is_secret_name) -> str:
    """The path of a request as it is shown, by whichever signal; looked at once."""
    shown: str | None = exchange.shown_path
    if shown is None:
        shown = exchange.shown_path = clean(exchange.url_path, is_secret)
    return shown


def agent_of(exchange: Any, is_secret: IsSecret = is_secret_name) -> str | None:
    """The same of its user agent; None without one."""
    shown: str | None = exchange.shown_agent
    if shown is None and exchange.user_agent:
        shown = exchange.shown_agent = clean(exchange.user_agent, is_secret)
    return shown


def key_of(key: Any, is_secret: IsSecret = is_secret_name) -> str:
    """A mapping's key as the text it is in JSON."""
    return clean(key, is_secret) if type(key) is str else text_of(key, is_secret)


def type_name(kind: type) -> str:
    """`module.QualName`, without the module for what is built in."""
    try:
        module = _module_of(kind)
        name = _qualname_of(kind)
        return (name if module == "builtins" else f"{module}.{name}")[:_MAX_NAME]
    except Exception:
        return "?"


def exception_of(error: BaseException, is_secret: IsSecret = is_secret_name) -> dict[str, Any]:
    """Type, message and frames (innermost last, without locals or source text) of an exception."""
    found: dict[str, Any] = {
        "type": type_name(type(error)),
        "message": message_of(error, is_secret),
        "frames": _frames(error),
    }
    cause = _cause_of(error)
    if cause is None and not _suppressed(error):
        cause = _context_of(error)
    if cause is not None:
        found["cause"] = {"type": _short_name(type(cause)), "message": message_of(cause, is_secret)}
    return found


def message_of(error: BaseException, is_secret: IsSecret = is_secret_name) -> str:
    """What an exception says, without what is not its to say: SQL and its parameters, the input that was refused.

    The text of exceptions that Python or a known library writes; of others their arguments. Never raises.
    """
    try:
        return clean(_message(error, is_secret), is_secret)
    except Exception as failure:
        return f"<{_short_name(type(error))}: {_short_name(type(failure))} in str()>"


# ---- values -------------------------------------------------------------------------------------------


class _Telling:
    """One value on its way into a line, and how much of its space is left."""

    __slots__ = ("is_secret", "left")

    def __init__(self, is_secret: IsSecret) -> None:
        self.is_secret = is_secret
        self.left = MAX_CHARACTERS

    def plain(self, value: Any, depth: int) -> Any:
        try:
            shown = self._plain(value, type(value), depth)
        except Exception:
            shown = f"<{type_name(type(value))}>"
        self.left -= len(shown) + _ITEM_CHARACTERS if type(shown) is str else _ITEM_CHARACTERS
        return shown

    def _plain(self, value: Any, kind: type, depth: int) -> Any:
        if value is None or kind is bool:
            return value
        if issubclass(kind, str):
            return clean(str.__str__(value), self.is_secret)
        if issubclass(kind, int):
            return _number(int.__index__(value))
        if issubclass(kind, float):
            number = float.__pos__(value)
            return number if math.isfinite(number) else str(number)
        if issubclass(kind, dict):
            return self._mapping(dict.items(value), dict.__len__(value), kind, depth)
        for base in (list, tuple, set, frozenset, deque):
            if issubclass(kind, base):
                names = _named_tuple(kind) if base is tuple else None
                if names:
                    return self._mapping(
                        zip(names, tuple.__iter__(value), strict=False), len(names), kind, depth
                    )
                return self._list(base.__iter__(value), base.__len__(value), kind, depth)
        if issubclass(kind, BaseException):
            self.left -= MAX_TEXT // 2
            # Not from within the arguments of another exception, which come one below the last: they may go in circles.
            return exception_of(value, self.is_secret) if depth < MAX_DEPTH - 1 else f"<{type_name(kind)}>"
        text = _text(value, kind)
        if text is not None:
            return clean(text, self.is_secret)
        fields = _record(value, kind)
        if fields is not None:
            return self._mapping(fields.items(), len(fields), kind, depth)
        return _number_of_a_library(value, kind)

    def _mapping(self, items: Iterable[tuple[Any, Any]], size: int, kind: type, depth: int) -> Any:
        if depth >= MAX_DEPTH and size:
            return f"<{type_name(kind)} of {size}>"
        shown: dict[str, Any] = {}
        for key, item in list(islice(items, MAX_ITEMS)):
            if self.left <= 0:
                break
            name = key_of(key, self.is_secret)
            self.left -= len(name)
            shown[name] = REDACTED if self.is_secret(name) else self.plain(item, depth + 1)
        return shown

    def _list(self, items: Iterator[Any], size: int, kind: type, depth: int) -> Any:
        if depth >= MAX_DEPTH and size:
            return f"<{type_name(kind)} of {size}>"
        shown = []
        for item in list(islice(items, MAX_ITEMS)):
            if self.left <= 0:
                break
            shown.append(self.plain(item, depth + 1))
        return shown


def _number(number: int) -> int | str:
    # Numbers beyond 64 bits as text: readers would round them. Python refuses to write the largest ones.
    if -(2**63) <= number < 2**63:
        return number
    bits = number.bit_length()
    return str(number) if bits < 8_000 else f"<int of {bits} bits>"


def _text(value: Any, kind: type) -> str | None:
    """The text of a known plain type; None for any other."""
    if kind in _TEXT_OF_THE_LIBRARY:
        return str(value)
    if issubclass(kind, type):
        return f"<class {type_name(value)}>"
    if kind is FunctionType or kind is BuiltinFunctionType:
        return f"<function {value.__module__}.{value.__qualname__}>"
    if issubclass(kind, datetime):
        return datetime.isoformat(_without_foreign_zone(value, datetime), " ")
    if issubclass(kind, time):
        return time.isoformat(_without_foreign_zone(value, time))
    if issubclass(kind, date):
        return date.isoformat(value)
    if issubclass(kind, Decimal):
        return Decimal.__str__(value)
    if issubclass(kind, timedelta):
        return timedelta.__str__(value)
    if issubclass(type(kind), EnumMeta):
        name = object.__getattribute__(value, "_name_")
        return f"{_short_name(kind)}.{name}" if type(name) is str else None
    if issubclass(kind, bytes):
        return repr(bytes.__getitem__(value, slice(MAX_TEXT + _BEYOND)))
    if issubclass(kind, bytearray):
        return repr(bytes(bytearray.__getitem__(value, slice(MAX_TEXT + _BEYOND))))
    return None


def _without_foreign_zone(value: Any, base: Any) -> Any:
    """A time whose zone is no class of the application's: it would be asked for its offset."""
    zone = _ZONES[base](value)
    if zone is None or _module_of(type(zone)).partition(".")[0] in _TIME_ZONES:
        return value
    return base.replace(value, tzinfo=None)


def _record(value: Any, kind: type) -> dict[Any, Any] | None:
    """What an instance of a class made of fields holds, without calling its descriptors; None for other classes."""
    for owner in _mro_of(kind):
        namespace = _namespace(owner)
        for mark in ("__dataclass_fields__", "__pydantic_fields__", "__attrs_attrs__"):
            declared = namespace.get(mark)
            if declared is not None:
                names = [f if type(f) is str else f.name for f in islice(declared, MAX_ITEMS)]
                held = instance_of(value, kind)
                return {name: held[name] for name in names if name in held}
        if owner is SimpleNamespace:
            return instance_of(value, kind)
    return None


def instance_of(value: Any, kind: type) -> dict[str, Any]:
    """The attributes an instance holds in its `__dict__` and slots."""
    held: dict[str, Any] = {}
    for owner in _mro_of(kind):
        namespace = _namespace(owner)
        own = namespace.get("__dict__")
        if own is not None and type(own) in (GetSetDescriptorType, MemberDescriptorType):
            of = own.__get__(value)
            if type(of) is dict:
                held = {**of, **held}
        if namespace.get("__slots__"):
            for name, member in list(namespace.items()):
                if type(member) is MemberDescriptorType and name not in held:
                    try:
                        held[name] = member.__get__(value)
                    except AttributeError:
                        continue  # it was never set
    return held


def _named_tuple(kind: type) -> tuple[str, ...] | None:
    for owner in _mro_of(kind):
        names = _namespace(owner).get("_fields")
        if type(names) is tuple and all(type(name) is str for name in names):
            return names
    return None


def _number_of_a_library(value: Any, kind: type) -> Any:
    # numpy's numbers and their like: types written in C, so it is no code of the application's that answers.
    if not _flags_of(kind) & _HEAP_TYPE and kind not in (ProxyType, CallableProxyType):
        namespaces = [_namespace(owner) for owner in _mro_of(kind)]
        if any("__index__" in namespace for namespace in namespaces):
            return _number(int(value.__index__()))
        if any("__float__" in namespace for namespace in namespaces):
            number = float(value)
            return number if math.isfinite(number) else str(number)
    return f"<{type_name(kind)}>"


def _module_of(kind: type) -> str:
    module = _namespace(kind).get("__module__")
    if module is None:  # a type written in C keeps it in its name
        module = _module_of_type(kind)
    return module if type(module) is str else "?"


def _short_name(kind: type) -> str:
    try:
        return str(_qualname_of(kind))[:_MAX_NAME]
    except Exception:
        return "?"


# ---- exceptions ---------------------------------------------------------------------------------------


def _frames(error: BaseException) -> list[dict[str, Any]]:
    innermost: deque[Any] = deque(maxlen=MAX_FRAMES)
    trace = _traceback_of(error)
    while trace is not None:
        innermost.append(trace)
        trace = trace.tb_next
    return [
        {
            "file": trace.tb_frame.f_code.co_filename[-_MAX_NAME:],
            "line": trace.tb_lineno,
            "function": trace.tb_frame.f_code.co_name[:_MAX_NAME],
        }
        for trace in innermost
    ]


def _message(error: BaseException, is_secret: IsSecret, depth: int = 0) -> str:
    kind = type(error)
    mro = _mro_of(kind)
    modules = [_module_of(owner) for owner in mro]
    known = {f"{module}.{_short_name(owner)}" for module, owner in zip(modules, mro, strict=True)}
    if "django.db.utils.Error" in known or any(module.partition(".")[0] in _DATABASES for module in modules):
        from obskit.refusals import database_message  # noqa: PLC0415  (only an error needs it)

        return database_message(_arguments(error, is_secret, depth))
    if "pydantic_core._pydantic_core.ValidationError" in known:
        from obskit.refusals import pydantic_message  # noqa: PLC0415

        return pydantic_message(error)
    if "fastapi.exceptions.ValidationException" in known:
        from obskit.refusals import fastapi_message  # noqa: PLC0415

        return fastapi_message(instance_of(error, kind).get("_errors"))
    if not _CALLERS.isdisjoint(module.partition(".")[0] for module in modules):
        from obskit.refusals import without_values  # noqa: PLC0415

        return without_values(_arguments(error, is_secret, depth))
    writer = next(
        module for module, owner in zip(modules, mro, strict=True) if "__str__" in _namespace(owner)
    )
    arguments = _arguments_of(error)
    if issubclass(kind, BaseExceptionGroup):
        return BaseExceptionGroup.__str__(error)
    if all(type(argument) in (str, int, float, bool, bytes, type(None)) for argument in arguments):
        root = writer.partition(".")[0]
        if root == "builtins" or root in sys.stdlib_module_names or root in _KNOWN_LIBRARIES:
            return str(error)
    return _arguments(error, is_secret, depth)


def _arguments(error: BaseException, is_secret: IsSecret, depth: int) -> str:
    """The arguments as BaseException writes them, each of them plain; exceptions among them by what they say."""
    arguments = _arguments_of(error)
    if not arguments:
        return ""
    shown = [
        _message(argument, is_secret, depth + 1)
        if issubclass(type(argument), BaseException) and depth < MAX_DEPTH - 1
        else plain(argument, is_secret, MAX_DEPTH - 1 if depth == 0 else MAX_DEPTH)
        for argument in arguments[:_MAX_ARGUMENTS]
    ]
    if len(shown) == 1:
        return shown[0] if type(shown[0]) is str else str(shown[0])
    return "(" + ", ".join(map(repr, shown)) + ")"
