from __future__ import annotations

import asyncio
from types import SimpleNamespace
from typing import Any

import pytest

from obskit.exchange import Exchange, Outcome

STARTED = {"response_started": True, "status": 200}
WHOLE = {**STARTED, "response_complete": True}


def exchange(method: str = "GET", **facts: Any) -> Exchange:
    made = Exchange("http", method, "/orders/1")
    for name, value in facts.items():
        setattr(made, name, value)
    return made


@pytest.mark.parametrize(
    ("facts", "outcome"),
    [
        (WHOLE, "completed"),
        ({**WHOLE, "declared_response_bytes": 10, "response_bytes": 10}, "completed"),
        ({**WHOLE, "declared_response_bytes": 10, "response_bytes": 12}, "completed"),
        ({**WHOLE, "exception": ValueError(), "exception_handled": True, "status": 418}, "completed"),
        # After a whole answer, an exception was background work ...
        ({**WHOLE, "exception": ValueError()}, "completed"),
        # ... unless the answer was the 500 with which a framework told of it.
        ({**WHOLE, "exception": ValueError(), "status": 500}, "raised"),
        ({**WHOLE, "exception": ValueError(), "exception_handled": True, "status": 500}, "raised"),
        ({"exception": ValueError()}, "raised"),
        ({**STARTED, "exception": ValueError()}, "raised_after_headers"),
        ({}, "no_response"),
        ({"exception": ValueError(), "exception_handled": True}, "no_response"),
        ({"disconnected": True}, "client_disconnect"),
        ({**STARTED, "disconnected": True, "exception": asyncio.CancelledError()}, "client_disconnect"),
        ({**WHOLE, "upload_cut": True, "status": 400}, "client_disconnect"),
        (STARTED, "truncated"),
        ({**WHOLE, "declared_response_bytes": 10, "response_bytes": 4}, "truncated"),
        ({"exception": asyncio.CancelledError()}, "cancelled"),
        ({**STARTED, "exception": KeyboardInterrupt()}, "cancelled"),
        ({**WHOLE, "exception": asyncio.CancelledError()}, "completed"),
        ({**WHOLE, "server_sends_file": True, "declared_response_bytes": 10}, "completed"),
        ({**STARTED, "server_sends_file": True}, "unknown"),
    ],
)
def test_the_outcome_follows_from_the_transport_facts(facts: dict[str, Any], outcome: str) -> None:
    assert exchange(**facts).judge() == Outcome(outcome)


def test_judging_writes_nothing() -> None:
    made = exchange(**STARTED)
    made.judge()
    assert made.outcome is None
    assert not made.closed


@pytest.mark.parametrize(
    ("method", "status"), [("HEAD", 200), ("GET", 204), ("GET", 205), ("GET", 304), ("GET", 101)]
)
def test_bytes_missing_where_no_body_is_expected_are_no_truncation(method: str, status: int) -> None:
    made = exchange(method, **{**WHOLE, "status": status, "declared_response_bytes": 10})
    assert not made.body_expected()
    assert made.judge() is Outcome.COMPLETED


@pytest.mark.parametrize(
    ("method", "status"), [("GET", 200), ("POST", 201), ("GET", 404), ("GET", 500), ("GET", None)]
)
def test_a_body_is_expected_of_any_other_answer(method: str, status: int | None) -> None:
    assert exchange(method, status=status).body_expected()


@pytest.mark.parametrize(
    ("facts", "level"),
    [
        ({**WHOLE, "outcome": Outcome.COMPLETED}, "info"),
        ({**WHOLE, "status": 404, "outcome": Outcome.COMPLETED}, "info"),
        ({**WHOLE, "outcome": Outcome.TRUNCATED}, "warning"),
        ({"outcome": Outcome.CANCELLED, "exception": asyncio.CancelledError()}, "warning"),
        ({**WHOLE, "status": 503, "outcome": Outcome.COMPLETED}, "error"),
        ({**WHOLE, "outcome": Outcome.COMPLETED, "exception": ValueError()}, "error"),
        (
            {
                **WHOLE,
                "status": 418,
                "outcome": Outcome.COMPLETED,
                "exception": ValueError(),
                "exception_handled": True,
            },
            "info",
        ),
        (
            {
                **WHOLE,
                "status": 500,
                "outcome": Outcome.RAISED,
                "exception": ValueError(),
                "exception_handled": True,
            },
            "error",
        ),
        ({"disconnected": True, "outcome": Outcome.CLIENT_DISCONNECT, "exception": OSError()}, "warning"),
    ],
)
def test_the_level_says_whose_fault_it_was(facts: dict[str, Any], level: str) -> None:
    assert exchange(**facts).severity() == level


@pytest.mark.parametrize(
    ("facts", "error_type"),
    [
        ({**WHOLE, "outcome": Outcome.COMPLETED}, ""),
        ({**WHOLE, "status": 404, "outcome": Outcome.COMPLETED}, ""),
        ({**WHOLE, "status": 502, "outcome": Outcome.COMPLETED}, "502"),
        ({"status": 500, "outcome": Outcome.RAISED, "exception": ValueError()}, "500"),
        ({**STARTED, "outcome": Outcome.RAISED_AFTER_HEADERS, "exception": ValueError()}, "ValueError"),
        ({**WHOLE, "outcome": Outcome.COMPLETED, "exception": ValueError()}, ""),
        # The client left: no exception of the application cut this off.
        (
            {**STARTED, "disconnected": True, "outcome": Outcome.CLIENT_DISCONNECT, "exception": OSError()},
            "",
        ),
        ({"outcome": Outcome.CANCELLED, "exception": asyncio.CancelledError()}, "CancelledError"),
    ],
)
def test_error_type_is_the_status_for_5xx_else_the_exception_that_cut_the_response_off(
    facts: dict[str, Any], error_type: str
) -> None:
    assert exchange(**facts).error_type == error_type


def test_the_duration_of_an_open_exchange_is_an_error() -> None:
    with pytest.raises(ValueError, match="still open"):
        exchange().duration  # noqa: B018


@pytest.mark.parametrize(
    ("facts", "seconds"),
    [
        ({"ended_ns": 1_500_000_000}, 1.5),
        ({"ended_ns": 9_000_000_000, "last_byte_ns": 250_000_000}, 0.25),
    ],
)
def test_the_duration_runs_to_the_last_byte_or_to_the_end(facts: dict[str, int], seconds: float) -> None:
    assert exchange(started_ns=0, **facts).duration == pytest.approx(seconds)


@pytest.mark.parametrize(("first_byte_ns", "seconds"), [(None, None), (120_000_000, 0.12)])
def test_time_to_first_byte_is_none_when_no_byte_was_sent(first_byte_ns: Any, seconds: Any) -> None:
    assert exchange(started_ns=0, first_byte_ns=first_byte_ns).time_to_first_byte == pytest.approx(seconds)


@pytest.mark.parametrize(("named", "route"), [("/x/{id}", "/x/{id}"), ("x/{id}", "/x/{id}"), ("", None)])
def test_an_application_without_a_router_names_its_route(named: str, route: str | None) -> None:
    made = exchange()
    made.name_route(named)
    assert made.http_route == route


def test_a_closed_exchange_keeps_its_route() -> None:
    made = exchange(closed=True, http_route="/a")
    made.name_route("/b")
    assert made.http_route == "/a"


def test_its_text_says_request_status_and_state() -> None:
    made = exchange(status=200)
    assert repr(made) == "<Exchange GET /orders/1 200 open>"
    made.outcome, made.http_route = Outcome.TRUNCATED, "/orders/{id}"
    assert repr(made) == "<Exchange GET /orders/{id} 200 truncated>"


def test_the_record_has_no_room_for_stray_fields() -> None:
    with pytest.raises(AttributeError):
        exchange().surprise = SimpleNamespace()


# ---- what detectors may look at while the record is open -------------------------------------------

ASGI_REQUEST = {
    "type": "http",
    "headers": [(b"cookie", b"a=1"), (b"Cookie", b"b=2"), (b"x-name", b"caf\xe9")],
    "query_string": b"q=1",
}
WSGI_REQUEST = {
    "REQUEST_METHOD": "POST",
    "HTTP_COOKIE": "a=1,b=2",
    "HTTP_X_NAME": "caf\xe9",
    "CONTENT_TYPE": "text/plain",
    "QUERY_STRING": "q=1",
}


@pytest.mark.parametrize("request_", [ASGI_REQUEST, WSGI_REQUEST], ids=["asgi", "wsgi"])
def test_a_request_header_is_the_same_through_both_doors(request_: dict[str, Any]) -> None:
    exchange = Exchange()
    exchange.request = request_
    assert exchange.header("cookie") == "a=1,b=2"
    assert exchange.header("x-name") == "caf\xe9"
    assert exchange.header("authorization") is None
    assert exchange.query == "q=1"


def test_the_content_type_of_a_wsgi_request_is_found_where_cgi_puts_it() -> None:
    exchange = Exchange()
    exchange.request = WSGI_REQUEST
    assert exchange.header("content-type") == "text/plain"
    assert exchange.header("content-length") is None


def test_headers_that_can_be_read_only_once_are_left_to_the_application() -> None:
    exchange = Exchange()
    exchange.request = {"type": "http", "headers": iter([(b"cookie", b"a=1")])}
    assert exchange.header("cookie") is None
    assert list(exchange.request["headers"]) == [(b"cookie", b"a=1")]


@pytest.mark.parametrize(
    "headers",
    [[("Content-Type", "text/html"), ("x", "y")], [(b"Content-Type", b"text/html"), (b"x", b"y")], ()],
    ids=["wsgi", "asgi", "none"],
)
def test_a_response_header_is_found_in_any_case(headers: Any) -> None:
    exchange = Exchange()
    exchange.response_headers = headers
    assert exchange.response_header("content-type") == ("text/html" if headers else None)
    assert exchange.response_header("x-other") is None
