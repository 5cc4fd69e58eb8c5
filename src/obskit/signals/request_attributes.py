"""What the span of a request says, read from its record: by the semantic conventions, and the same on every way out."""

from __future__ import annotations

from collections.abc import Callable
from json import dumps as _dumps
from typing import Any, Final

from opentelemetry.trace import Status, StatusCode

from obskit import names
from obskit.exchange import Exchange, Finding
from obskit.plain import agent_of, exception_of, path_of, plain
from obskit.redact import REDACTED

IsSecret = Callable[[str], bool]

MAX_ATTRIBUTE: Final = 2048
_SERVER_ERROR = Status(StatusCode.ERROR)


def span_method(exchange: Exchange) -> str:
    """What a span's name begins with."""
    return name_of(exchange.method, None)


def span_name(exchange: Exchange) -> str:
    """The name of the span of a request that has ended."""
    return name_of(exchange.method, exchange.http_route)


def name_of(method: str, route: str | None) -> str:
    """The name of such a span. Semantic conventions: an unknown method must not become a span name."""
    shown = "HTTP" if method == names.OTHER_METHOD else method
    return shown if route is None or route == names.UNMATCHED_ROUTE else f"{shown} {route}"


def ended_at(exchange: Exchange) -> int:
    """When its span ends, in nanoseconds since the epoch: by our clock that nobody sets."""
    return exchange.started_unix_ns + (exchange.last_byte_ns or exchange.ended_ns or 0) - exchange.started_ns


def opening(exchange: Exchange, is_secret: IsSecret) -> dict[str, Any]:
    """The attributes that are known when a request comes in."""
    attributes: dict[str, Any] = {
        names.ATTR_METHOD: exchange.method,
        names.ATTR_URL_PATH: path_of(exchange, is_secret),
        names.ATTR_URL_SCHEME: exchange.scheme[:MAX_ATTRIBUTE],
    }
    if exchange.method_original is not None:
        attributes[names.ATTR_METHOD_ORIGINAL] = exchange.method_original
    if exchange.server_port is not None:
        attributes[names.ATTR_SERVER_PORT] = exchange.server_port
    for key, value in (
        (names.ATTR_PROTOCOL_VERSION, exchange.http_version),
        (names.ATTR_SERVER_ADDRESS, exchange.server_address),
        (names.ATTR_CLIENT_ADDRESS, exchange.client_address),
        (names.ATTR_USER_AGENT, agent_of(exchange, is_secret)),
    ):
        if value is not None:
            attributes[key] = value[:MAX_ATTRIBUTE]
    return attributes


def closing(exchange: Exchange, is_secret: IsSecret) -> dict[str, Any]:
    """Those that are known when it has ended."""
    attributes: dict[str, Any] = {
        names.ATTR_OUTCOME: str(exchange.outcome),
        names.ATTR_REQUEST_ID: exchange.request_id,
    }
    route = exchange.http_route
    if route is not None and route != names.UNMATCHED_ROUTE:
        attributes[names.ATTR_ROUTE] = route
    if exchange.status is not None:
        attributes[names.ATTR_STATUS] = exchange.status
    error_type = exchange.error_type
    if error_type:
        attributes[names.ATTR_ERROR_TYPE] = error_type
    if exchange.request_bytes:
        attributes[names.ATTR_REQUEST_SIZE] = exchange.request_bytes
    if exchange.response_bytes:
        attributes[names.ATTR_RESPONSE_SIZE] = exchange.response_bytes
    attributes.update(facts(exchange, is_secret))
    if exchange.findings:
        attributes[names.ATTR_FINDINGS] = list(dict.fromkeys(one.finding for one in exchange.findings))
    return attributes


def facts(exchange: Exchange, is_secret: IsSecret) -> dict[str, Any]:
    """What the application has bound."""
    return {
        names.ATTR_FACT_PREFIX + key: REDACTED if is_secret(key) else _attribute(value, is_secret)
        for key, value in (exchange.facts or {}).items()
    }


def describe(span: Any, exchange: Exchange, is_secret: IsSecret, kept: str = "") -> None:
    """Write on `span`, which must still record, all that is known of a request that has ended."""
    name = span_name(exchange)
    if name != span_method(exchange):
        span.update_name(name)
    attributes = closing(exchange, is_secret)
    if kept:
        attributes[names.ATTR_KEPT] = kept
    span.set_attributes(attributes)
    for finding in exchange.findings:
        span.add_event(names.FINDING_EVENT, _finding(finding, is_secret))
    if isinstance(exchange.exception, Exception):
        span.add_event("exception", _exception(exchange.exception))
    if exchange.level == "error":
        span.set_status(_SERVER_ERROR)


def _finding(finding: Finding, is_secret: IsSecret) -> dict[str, Any]:
    attributes: dict[str, Any] = {
        names.ATTR_FINDING: finding.finding,
        names.ATTR_FINDING_SEVERITY: finding.severity,
        names.ATTR_FINDING_WHY: finding.why,
        names.ATTR_FINDING_TIMES: finding.times,
    }
    for key, value in finding.evidence.items():
        shown = REDACTED if is_secret(key) else _attribute(value, is_secret)
        attributes[names.ATTR_EVIDENCE_PREFIX + key] = shown
    return attributes


def _attribute(value: Any, is_secret: IsSecret) -> Any:
    shown = plain(value, is_secret)
    if shown is None or isinstance(shown, list | dict):
        return _dumps(shown, ensure_ascii=False)[:MAX_ATTRIBUTE]
    return shown


def _exception(error: Exception) -> dict[str, Any]:
    """The attributes of an exception event (semantic conventions), without source text or locals.

    Not `span.record_exception`: that raises where `str(exception)` does.
    """
    known = exception_of(error)
    frames = [f'  File "{f["file"]}", line {f["line"]}, in {f["function"]}' for f in known["frames"]]
    summary = f"{known['type']}: {known['message']}"
    return {
        "exception.type": known["type"],
        "exception.message": known["message"],
        "exception.stacktrace": "\n".join(["Traceback (most recent call last):", *frames, summary]),
    }
