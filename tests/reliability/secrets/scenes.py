"""What applications do with secrets, by mistake or not: one function per place, each run inside a request."""

from __future__ import annotations

import logging
import sqlite3
from collections import OrderedDict, UserDict, deque, namedtuple
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import MappingProxyType, SimpleNamespace
from typing import Any

import attrs
import httpx
import pydantic
import requests
import sqlalchemy
import structlog
from opentelemetry import trace

import obskit
from tests.reliability.secrets.canaries import SHAPES, Canaries

Scene = Callable[[Canaries, str], None]
SCENES: dict[str, Scene] = {}
# Where a canary stands that nothing of ours ever looks at: no control run can find it, however careless.
NEVER_LOOKED_AT: set[str] = set()
CLOSED_PORT = "127.0.0.1:9"

log = logging.getLogger("shop")
bound_log = obskit.get_logger("shop.structlog")


def scene(function: Scene) -> Scene:
    SCENES[function.__name__.replace("_", "-")] = function
    return function


@scene
def messages(make: Canaries, kind: str) -> None:
    for shape in SHAPES:
        if shape != "word":
            log.warning("call failed: %s (will retry)", make(f"{kind}: log argument, {shape}", shape))
            bound_log.warning(f"call failed: {make(f'{kind}: structlog event, {shape}', shape)}")
            log.info("e", extra={"note": make(f"{kind}: log field, {shape}", shape)})


@dataclass
class Login:
    user: str
    password: str


@dataclass(slots=True)
class Slotted:
    user: str
    api_key: str


@attrs.define
class Attrs:
    user: str
    secret: str


class Model(pydantic.BaseModel):
    user: str
    access_token: str


class Secretive(pydantic.BaseModel):
    password: pydantic.SecretStr


Pair = namedtuple("Pair", ["user", "password"])


class Speaking:
    def __init__(self, secret: str) -> None:
        self.secret = secret

    def __str__(self) -> str:
        return f"session of {self.secret}"

    __repr__ = __str__


class Ways(Mapping[str, str]):
    def __init__(self, secret: str) -> None:
        self._secret = secret

    def __getitem__(self, key: str) -> str:
        return self._secret

    def __iter__(self) -> Any:
        return iter(["user"])

    def __len__(self) -> int:
        return 1

    def __repr__(self) -> str:
        return self._secret


class OwnDict(dict[str, str]):
    def __repr__(self) -> str:
        return "OwnDict"

    def items(self) -> Any:
        return [("plain", self["password"])]


def values(make: Canaries, kind: str, way: str) -> dict[str, Any]:
    """One value of each type, under a key that says nothing."""

    def canary(place: str, shape: str = "word") -> str:
        return make(f"{kind}: {way}, {place}", shape)

    if way == "invariant fact":
        # Cut, or hidden by the text of the value itself, before anybody could look.
        NEVER_LOOKED_AT.update(
            f"{kind}: {way}, {place}"
            for place in ("a SecretStr", "a dict with items() of its own", "a token across the cut")
        )
    deep: Any = {"password": canary("a key in the depth")}
    for _ in range(8):
        deep = {"in": [deep]}
    return {
        "v_mapping": {"password": canary("a key in a mapping")},
        "v_nested": {"order": [{"card": {"card_number": canary("a key in a list in a mapping")}}]},
        "v_deep": deep,
        "v_ordered": OrderedDict(token=canary("a key in an OrderedDict")),
        "v_dataclass": Login("ann", canary("a dataclass")),
        "v_slots": Slotted("ann", canary("a dataclass with slots")),
        "v_attrs": Attrs("ann", canary("an attrs class")),
        "v_pydantic": Model(user="ann", access_token=canary("a pydantic model")),
        "v_secretstr": Secretive(password=pydantic.SecretStr(canary("a SecretStr"))),
        "v_namedtuple": Pair("ann", canary("a named tuple")),
        "v_namespace": SimpleNamespace(password=canary("a SimpleNamespace")),
        "v_object": Speaking(canary("an object with a __str__")),
        "v_objects": [Speaking(canary("an object in a list"))],
        "v_depths": {"a": {"b": {"c": {"d": {"e": Speaking(canary("an object in the depth"))}}}}},
        "v_userdict": UserDict(password=canary("a UserDict")),
        "v_proxy": MappingProxyType({"password": canary("a mappingproxy")}),
        "v_ways": Ways(canary("a Mapping of its own")),
        "v_own": OwnDict(password=canary("a dict with items() of its own")),
        "v_deque": deque([{"password": canary("a key in a deque")}]),
        "v_set": {canary("a token in a set", "jwt")},
        "v_bytes": canary("bytes", "bearer").encode(),
        "v_bytearray": bytearray(canary("a bytearray", "dsn").encode()),
        "v_keys": {canary("a token as a key", "github"): 1},
        "v_error": ValueError(f"cannot reach {canary('an exception as a value', 'dsn')}"),
        "v_errors": [KeyError(canary("an exception in a list", "stripe"))],
        "v_long": "x" * 2_030 + " " + canary("a token across the cut", "github"),
        "password": canary("a key"),
        "X-Api-Key": canary("a key in capitals"),
        "sentry_dsn": canary("a key of two words"),
        "iban": canary("a key named by the option redact"),
        "v_iban": f"paid from iban={canary('a name of the option redact in a text')} today",
    }


@scene
def log_fields(make: Canaries, kind: str) -> None:
    for key, value in values(make, kind, "log extra").items():
        log.warning("field", extra={key: value})
    for key, value in values(make, kind, "structlog field").items():
        bound_log.warning("field", **{key: value})
    for key, value in values(make, kind, "structlog bound").items():
        bound_log.bind(**{key: value}).warning("field")
    for key, value in values(make, kind, "structlog context").items():
        with structlog.contextvars.bound_contextvars(**{key: value}):
            bound_log.warning("field")
    log.warning("%s", Login("ann", f"password={make(f'{kind}: a dataclass as log argument')}"))


@scene
def facts(make: Canaries, kind: str) -> None:
    found = values(make, kind, "bind")
    obskit.bind(**found)
    log.info("with facts")


def _invariants(part: int) -> Scene:
    def check(make: Canaries, kind: str) -> None:
        # A request has room for so many findings.
        for key, value in list(values(make, kind, "invariant fact").items())[part::4]:
            obskit.invariant(False, f"never_{key.lower().replace('-', '_')}", **{key: value})

    return check


SCENES.update({f"invariants-{part}": _invariants(part) for part in range(4)})


@scene
def work(make: Canaries, kind: str) -> None:
    with obskit.unit_of_work("checkout", steps=["charge", "mail"]) as unit:
        unit.done("charge")
        unit.done(make(f"{kind}: an unknown step of a unit of work", "dsn"))


def _fails(call: Callable[[], Any]) -> Exception:
    local_of_a_frame = call
    try:
        local_of_a_frame()
    except Exception as error:
        return error
    raise AssertionError("it did not fail")


def _tell(error: Exception) -> None:
    """An exception in each way it can be logged."""
    log.error("failed", exc_info=error)
    bound_log.error("failed", exc_info=error)
    log.error("failed", extra={"error": error})
    if any(type(argument) is Speaking for argument in error.args):
        return  # OpenTelemetry calls its __str__ for the application, and what comes out is any text
    span = trace.get_tracer("shop").start_span("charge")
    span.record_exception(error)
    span.set_status(trace.StatusCode.ERROR, f"{type(error).__name__}: {error}")
    span.end()


class Rejected(Exception):
    def __init__(self, text: str, payload: Any) -> None:
        super().__init__(text, payload)
        self.payload = payload

    def __str__(self) -> str:
        return f"rejected: {self.payload}"


def exceptions(make: Canaries, kind: str) -> dict[str, Exception]:
    """One exception of each sort that has a secret to tell."""

    def canary(place: str, shape: str = "word") -> str:
        return make(f"{kind}: exception, {place}", shape)

    def with_local() -> None:
        secret = canary("a local variable")
        NEVER_LOOKED_AT.add(f"{kind}: exception, a local variable")
        raise ValueError(f"a secret of {len(secret)} characters is wrong")

    def chained() -> None:
        try:
            raise OSError(f"cannot connect to {canary('a cause', 'dsn')}")
        except OSError as error:
            raise RuntimeError("the order is lost") from error

    def in_context() -> None:
        try:
            raise KeyError(canary("a context", "gitlab"))
        except KeyError:
            raise RuntimeError("the order is lost")  # noqa: B904

    def noted() -> None:
        error = ValueError("out of stock")
        error.add_note(f"token={canary('a note')}")
        raise error

    def grouped() -> None:
        raise ExceptionGroup(f"api_key={canary('a group')}", [ValueError(canary("in a group", "dsn"))])

    engine = sqlalchemy.create_engine("sqlite://")

    def refused() -> None:
        with engine.connect() as connection:
            connection.execute(sqlalchemy.text("create table t (a text unique)"))
            parameters = {"a": canary("a parameter in SQLAlchemy")}
            for _ in range(2):
                connection.execute(sqlalchemy.text("insert into t values (:a)"), parameters)

    def misspelt() -> None:
        with engine.connect() as connection:
            connection.execute(sqlalchemy.text(f"selekt '{canary('a literal in SQLAlchemy')}'"))

    def unread() -> None:
        sqlite3.connect(":memory:").execute(f"select '{canary('an unended literal in sqlite3')}")

    class Body(pydantic.BaseModel):
        age: int
        tags: dict[str, int]

    def invalid() -> None:
        Body.model_validate(
            {"age": canary("a value that pydantic refuses"), "tags": {"a": canary("a second one")}}
        )

    postgres = (
        'duplicate key value violates unique constraint "email"\nDETAIL:  Key (email)=({}) already exists.'
    )
    import psycopg.errors
    from django.db import IntegrityError
    from fastapi.exceptions import RequestValidationError

    found = {
        "dsn": ValueError(f"cannot reach {canary('a DSN in its text', 'dsn')}"),
        "pair": RuntimeError(f"login failed for password={canary('a pair in its text')}"),
        "dict": RuntimeError({"user": "ann", "password": canary("a mapping as argument")}),
        "args": Rejected("no", Login("ann", canary("a dataclass as argument"))),
        "object": ValueError(Speaking(canary("an object as argument"))),
        "psycopg": psycopg.errors.UniqueViolation(postgres.format(canary("DETAIL of psycopg"))),
        "psycopg-value": psycopg.errors.InvalidTextRepresentation(
            f'invalid input syntax for type integer: "{canary("a value that psycopg refuses")}"\nLINE 1: select $1'
        ),
        "django": IntegrityError(postgres.format(canary("DETAIL in Django"))),
        "django-mysql": IntegrityError(
            1062, f"Duplicate entry '{canary('an entry in MySQL')}' for key 'users.email'"
        ),
        "fastapi": RequestValidationError(
            [
                {
                    "type": "int_parsing",
                    "loc": ("body", "age"),
                    "msg": "no int",
                    "input": canary("a body that FastAPI refuses"),
                }
            ]
        ),
        "local": _fails(with_local),
        "cause": _fails(chained),
        "context": _fails(in_context),
        "note": _fails(noted),
        "group": _fails(grouped),
        "sqlalchemy": _fails(refused),
        "sqlalchemy-literal": _fails(misspelt),
        "sqlite": _fails(unread),
        "pydantic": _fails(invalid),
    }
    clients = {"httpx": httpx.get, "requests": requests.get}
    for name, get in clients.items():
        NEVER_LOOKED_AT.add(f"{kind}: exception, userinfo of {name}")  # they do not tell it themselves
        url = (
            f"http://app:{canary(f'userinfo of {name}')}@{CLOSED_PORT}/pay?access_token={canary(f'a query of {name}')}"
            f"&page={canary(f'another query of {name}')}"
        )
        found[name] = _fails(lambda get=get, url=url: get(url, timeout=1))  # type: ignore[misc]
    return found


@scene
def raised_and_logged(make: Canaries, kind: str) -> None:
    for error in exceptions(make, kind).values():
        _tell(error)


@scene
def clients(make: Canaries, kind: str) -> None:
    """Calls that succeed: what instrumentations write of them into their spans."""
    from tests.reliability.secrets.scene import answering_port

    for name, get in {"httpx": httpx.get, "requests": requests.get}.items():
        get(
            f"http://app:{make(f'{kind}: span of {name}, userinfo')}@127.0.0.1:{answering_port()}"
            f"/pay/{make(f'{kind}: span of {name}, a token in the path', 'jwt')}"
            f"?q={make(f'{kind}: span of {name}, a query value')}",
            headers={"Authorization": make(f"{kind}: span of {name}, a header")},
            timeout=5,
        )
        NEVER_LOOKED_AT.add(f"{kind}: span of {name}, a header")
        # The instrumentations of today take it out themselves.
        NEVER_LOOKED_AT.add(f"{kind}: span of {name}, userinfo")
    database = sqlite3.connect(":memory:")
    database.execute(
        f"select '{make(f'{kind}: a literal of sqlite3')}', ?", (make(f"{kind}: a parameter of sqlite3"),)
    )
    database.cursor().execute(
        f"select '{make(f'{kind}: a literal of a cursor')}', ?", (make(f"{kind}: a parameter of a cursor"),)
    )
    for place in ("a literal of sqlite3", "a parameter of sqlite3", "a parameter of a cursor"):
        NEVER_LOOKED_AT.add(f"{kind}: {place}")


@scene
def own_spans(make: Canaries, kind: str) -> None:
    tracer = trace.get_tracer("shop")
    with tracer.start_as_current_span(f"GET /pay?token={make(f'{kind}: the name of a span')}") as span:
        span.set_attribute("api_key", make(f"{kind}: a key of a span"))
        span.set_attribute("note", make(f"{kind}: a text of a span", "dsn"))
        span.set_attribute("notes", [make(f"{kind}: a list of a span", "jwt")])
        span.set_attribute(
            "url.full", f"https://x/y?q={make(f'{kind}: the URL of a span')}#{make(f'{kind}: a fragment')}"
        )
        span.set_attribute("db.query.text", f"select '{make(f'{kind}: the statement of a span')}'")
        span.add_event(
            make(f"{kind}: the name of a span event", "slack"), {"password": make(f"{kind}: a span event")}
        )
        span.set_status(trace.StatusCode.ERROR, f"token={make(f'{kind}: the status of a span')}")


@scene
def raises(make: Canaries, kind: str) -> None:
    raise RuntimeError(f"cannot reach {make(f'{kind}: an exception that nobody catches', 'dsn')}")


@scene
def raises_refused(make: Canaries, kind: str) -> None:
    engine = sqlalchemy.create_engine("sqlite://")
    with engine.connect() as connection:
        parameter = {"a": make(f"{kind}: a parameter of a statement that nobody catches")}
        connection.execute(sqlalchemy.text("select :a from nowhere"), parameter)


@scene
def quiet(make: Canaries, kind: str) -> None:
    """Nothing but the request itself."""
