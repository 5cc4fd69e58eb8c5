"""Spans that others made (client instrumentations, the application) on their way out, without what is secret in them.

Ours are clean when they end. Instrumentations write down whole URLs with their queries, SQL with its literals, and
exceptions with their source lines: query values and literals are taken out, and everything is looked at for secrets.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final

from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import Event, ReadableSpan
from opentelemetry.trace import Link, Status

from obskit.redact import REDACTED, is_secret_name, scrub
from obskit.refusals import database_message, without_values
from obskit.signals.otlp_wire import attributes_of

IsSecret = Callable[[str], bool]

MAX_VALUE: Final = 16_384
_OURS: Final = "obskit"
_URLS: Final = frozenset(
    {"url.full", "http.url", "http.target", "url.original", "http.request.header.referer"}
)
_QUERIES: Final = frozenset({"url.query", "url.fragment"})
_STATEMENTS: Final = frozenset({"db.statement", "db.query.text", "db.query.summary"})
_EXCEPTIONS: Final = frozenset({"exception.message", "exception.stacktrace"})
_DATABASE_ERROR = re.compile(
    r"(?:psycopg2?|sqlite3|asyncpg|pymysql|MySQLdb|mysql|oracledb|sqlalchemy|django\.db)\b[\w.]*\Z"
)

_QUERY_VALUE = re.compile(r"([?&;][^=&;#?\s]*+=)[^&;#\s]*+")
_BARE_QUERY = re.compile(r"\?[^=&#?\s]++(?=[&#\s]|$)")
_FRAGMENT = re.compile(r"#.*+", re.DOTALL)
_URL_USERINFO = re.compile(r"(://)[^/?#\s]*@")

_TEXT_LITERAL = re.compile(r"'(?:[^']|'')*+(?:'|\Z)")
_MYSQL_LITERAL = re.compile(r"\"(?:[^\"]|\"\")*+(?:\"|\Z)")
_DOLLAR_LITERAL = re.compile(r"\$(\w*+)\$[\s\S]*?(?:\$\1\$|\Z)")
# Not the numbers of placeholders ($1, :1, ?1) and names (t1, "t 1").
_NUMBER_LITERAL = re.compile(
    r"(?<![\w$:?@\".])-?(?:0[xX][0-9a-fA-F]++|\d++(?:\.\d++)?(?:[eE][+\-]?\d++)?)(?![\w\".])"
)


# Texts that were looked at and had nothing secret in them: most attributes of a service are the same again and again.
_CLEAN: Final[set[tuple[str, str]]] = set()
MAX_CLEAN: Final = 1024
MAX_CLEAN_TEXT: Final = 512
# What is done with these depends on other attributes.
_ELSEWHERE: Final = _STATEMENTS | _EXCEPTIONS


def _remember_clean(key: str, value: str) -> None:
    if len(key) + len(value) <= MAX_CLEAN_TEXT:
        if len(_CLEAN) >= MAX_CLEAN:
            _CLEAN.clear()
        _CLEAN.add((key, value))


def scrubbed(span: ReadableSpan, is_secret: IsSecret = is_secret_name) -> ReadableSpan:
    """`span`, or a copy without what is secret in it. The span itself is not changed: others export it too."""
    scope = span.instrumentation_scope
    if scope is not None and scope.name == _OURS:
        return span
    attributes = attributes_of(span)
    clean = scrubbed_attributes(attributes, is_secret)
    events = [_event(event, is_secret) for event in span.events]
    links = [_link(link, is_secret) for link in span.links]
    name = _name(span.name, is_secret)
    status = _status(span.status, is_secret)
    if (
        clean is attributes
        and name == span.name
        and status is span.status
        and all(new is old for new, old in zip(events, span.events, strict=True))
        and all(new is old for new, old in zip(links, span.links, strict=True))
    ):
        return span
    return _Scrubbed(span, name, clean, events, links, status)


def scrubbed_attributes(
    attributes: Mapping[str, Any], is_secret: IsSecret = is_secret_name
) -> Mapping[str, Any]:
    """The same mapping if nothing in it is secret, else a copy without that."""
    changed: dict[str, Any] = {}
    for key, value in attributes.items():
        if isinstance(value, str):
            if is_secret is is_secret_name and (key, value) in _CLEAN:
                continue
            new: Any = REDACTED if is_secret(key) else _text(key, value, attributes, is_secret)
            if new is value and is_secret is is_secret_name and key not in _ELSEWHERE:
                _remember_clean(key, value)
        elif isinstance(value, Sequence):
            new = (REDACTED,) if is_secret(key) else _texts(key, value, attributes, is_secret)
        elif isinstance(value, bool | int | float):
            continue  # a number under any key: counts of tokens are no tokens
        else:
            continue
        if new is not value:
            changed[key] = new
    return {**attributes, **changed} if changed else attributes


def scrubbed_resource(resource: Resource, is_secret: IsSecret = is_secret_name) -> Resource:
    """`resource` without secrets: OTEL_RESOURCE_ATTRIBUTES goes along with every span."""
    clean = scrubbed_attributes(resource.attributes, is_secret)
    return resource if clean is resource.attributes else Resource(dict(clean), resource.schema_url)


def sanitized(statement: str, *, double_quotes: bool = False) -> str:
    """A statement with every literal replaced by `?`; placeholders and names stay. `double_quotes`: they hold texts."""
    first = min((at for at in (statement.find("\\'"), statement.find('\\"')) if at >= 0), default=-1)
    if first >= 0:
        # Whether a backslash escapes a quote depends on the database: what cannot be told apart is left out.
        start = statement.find("'")
        start = first if start < 0 else min(first, start)
        return sanitized(statement[:start], double_quotes=double_quotes) + "?"
    text = statement
    if "$" in text:
        text = _DOLLAR_LITERAL.sub("?", text)
    if "'" in text:
        text = _TEXT_LITERAL.sub("?", text)
    if double_quotes and '"' in text:
        text = _MYSQL_LITERAL.sub("?", text)
    text = _NUMBER_LITERAL.sub("?", text)
    return statement if text == statement else text


def _text(key: str, value: str, attributes: Mapping[str, Any], is_secret: IsSecret) -> str:
    text = value if len(value) <= MAX_VALUE else value[:MAX_VALUE]
    if key in _URLS:
        text = _without_query(text)
    elif key in _QUERIES:
        text = _without_query(f"?{text}")[1:] if text else text
    elif key in _STATEMENTS:
        system = str(attributes.get("db.system.name") or attributes.get("db.system") or "")
        text = sanitized(text, double_quotes=system.startswith(("mysql", "mariadb")))
    elif key in _EXCEPTIONS:
        text = _exception_text(
            text, str(attributes.get("exception.type", "")), whole=key == "exception.message"
        )
    text = scrub(text, is_secret)
    return value if text == value else text


def _texts(
    key: str, values: Sequence[Any], attributes: Mapping[str, Any], is_secret: IsSecret
) -> Sequence[Any]:
    new = tuple(_text(key, one, attributes, is_secret) if isinstance(one, str) else one for one in values)
    return values if all(a is b for a, b in zip(new, values, strict=True)) else new


def _exception_text(text: str, kind: str, *, whole: bool) -> str:
    if whole and _DATABASE_ERROR.match(kind):
        return database_message(text)
    return without_values(text)


def _without_query(url: str) -> str:
    if "@" in url:
        url = _URL_USERINFO.sub(r"\1" + f"{REDACTED}@", url)
    if "#" in url:
        url = _FRAGMENT.sub("", url)
    if "?" in url:
        url = _BARE_QUERY.sub(f"?{REDACTED}", _QUERY_VALUE.sub(r"\1" + REDACTED, url))
    return url


def _name(name: str, is_secret: IsSecret) -> str:
    if ("", name) in _CLEAN and is_secret is is_secret_name:
        return name
    clean = scrub(_without_query(name) if "?" in name else name, is_secret)
    if clean == name and is_secret is is_secret_name:
        _remember_clean("", name)
    return clean


def _event(event: Event, is_secret: IsSecret) -> Event:
    attributes = event.attributes or {}
    clean = scrubbed_attributes(attributes, is_secret)
    name = scrub(event.name, is_secret)
    return event if clean is attributes and name == event.name else Event(name, clean, event.timestamp)


def _link(link: Link, is_secret: IsSecret) -> Link:
    attributes = link.attributes or {}
    clean = scrubbed_attributes(attributes, is_secret)
    return link if clean is attributes else Link(link.context, clean)


def _status(status: Status, is_secret: IsSecret) -> Status:
    told = status.description
    if not told:
        return status
    # The SDK writes "Type: text of the exception".
    kind, colon, text = told.partition(": ")
    clean = without_values(told)
    if colon and ("Error" in kind or "Exception" in kind) and clean == told and "\n" in text:
        clean = f"{kind}: {database_message(text)}"
    clean = scrub(clean, is_secret)
    return status if clean == told else Status(status.status_code, clean)


class _Scrubbed(ReadableSpan):
    """A copy that still says what the span had dropped before."""

    def __init__(
        self,
        span: ReadableSpan,
        name: str,
        attributes: Mapping[str, Any],
        events: Sequence[Event],
        links: Sequence[Link],
        status: Status,
    ) -> None:
        super().__init__(
            name,
            span.context,
            span.parent,
            span.resource,
            attributes,
            events,
            links,
            span.kind,
            None,
            status,
            span.start_time,
            span.end_time,
            span.instrumentation_scope,
        )
        self._dropped = (span.dropped_attributes, span.dropped_events, span.dropped_links)

    @property
    def dropped_attributes(self) -> int:
        return self._dropped[0]

    @property
    def dropped_events(self) -> int:
        return self._dropped[1]

    @property
    def dropped_links(self) -> int:
        return self._dropped[2]
