"""What the ASGI door reads from the scope, however malformed, before the application runs."""

from __future__ import annotations

from typing import Any

import pytest

from obskit.asgi import AsgiDoor
from tests.support.recording import (
    asgi_record,
    body,
    call_asgi,
    http_scope,
    make_pipeline,
    replying,
    start,
)


def test_the_scope_is_read_once_and_whole() -> None:
    scope = http_scope(
        "/orders/ü",
        "QUERY",
        [(b"user-agent", b"curl/8"), (b"content-length", b"3")],
        scheme="https",
        http_version="2",
    )
    record = asgi_record(replying(), scope)
    assert (record.protocol, record.method, record.method_original) == ("http", "QUERY", None)
    assert (record.url_path, record.scheme, record.http_version) == ("/orders/ü", "https", "2")
    assert (record.client_address, record.server_address, record.server_port) == (
        "127.0.0.1",
        "127.0.0.1",
        8000,
    )
    assert (record.user_agent, record.declared_request_bytes, record.carrier) == ("curl/8", 3, None)


@pytest.mark.parametrize(
    "missing", ["headers", "client", "server", "scheme", "http_version", "method", "path"]
)
def test_a_scope_may_lack_anything(missing: str) -> None:
    scope = http_scope()
    del scope[missing]
    assert asgi_record(replying(start(), body(b"ok")), scope).outcome == "completed"


@pytest.mark.parametrize(
    ("missing", "field", "default"),
    [
        ("headers", "user_agent", None),
        ("client", "client_address", None),
        ("server", "server_address", None),
        ("scheme", "scheme", "http"),
        ("http_version", "http_version", None),
        ("method", "method", "GET"),
        ("path", "url_path", ""),
        ("root_path", "path_prefix", ""),
    ],
)
def test_what_a_scope_lacks_has_its_default_and_the_rest_is_read(
    missing: str, field: str, default: str | None
) -> None:
    scope = http_scope(
        "/shop/7", "POST", [(b"user-agent", b"curl/8")], scheme="https", http_version="2", root_path="/shop"
    )
    del scope[missing]
    record = asgi_record(replying(start(), body(b"ok")), scope)
    whole = {
        "user_agent": "curl/8",
        "client_address": "127.0.0.1",
        "server_address": "127.0.0.1",
        "scheme": "https",
        "http_version": "2",
        "method": "POST",
        "url_path": "/shop/7",
        "path_prefix": "" if missing == "path" else "/shop",
    }
    assert {name: getattr(record, name) for name in whole} == {**whole, field: default}


@pytest.mark.parametrize(("client", "address"), [(None, None), (("", 0), None), (["::1", 5], "::1")])
def test_an_unknown_peer_is_none(client: Any, address: str | None) -> None:
    assert asgi_record(replying(), http_scope(client=client, server=None)).client_address == address


def test_a_server_on_a_unix_socket_has_no_port() -> None:
    record = asgi_record(replying(), http_scope(server=("/run/app.sock", None)))
    assert (record.server_address, record.server_port) == ("/run/app.sock", None)


@pytest.mark.parametrize("method", ["get", "BREW", "M" * 1000])
def test_an_unknown_method_is_other_and_its_original_is_bounded(method: str) -> None:
    record = asgi_record(replying(), http_scope(method=method))
    assert (record.method, record.method_original) == ("_OTHER", method[:64])


def test_headers_that_are_no_utf_8_are_read_as_latin_1() -> None:
    record = asgi_record(replying(), http_scope(headers=[(b"user-agent", b"\xff\xfe")]))
    assert record.user_agent == "ÿþ"


@pytest.mark.parametrize(
    ("headers", "carrier"),
    [
        ([(b"traceparent", b"00-junk")], {"traceparent": "00-junk"}),
        ([(b"traceparent", b"\xff")], {"traceparent": "ÿ"}),
        # A second traceparent makes both invalid (W3C Trace Context §4.3).
        ([(b"traceparent", b"a"), (b"traceparent", b"b")], {"traceparent": "a,b"}),
        (
            [(b"tracestate", b"a=1"), (b"tracestate", b"b=2"), (b"baggage", b"x=1")],
            {"tracestate": "a=1,b=2", "baggage": "x=1"},
        ),
        ([(b"x-b3-traceid", b"1")], None),
    ],
)
def test_the_headers_of_the_propagator_are_carried_as_they_came(headers: Any, carrier: Any) -> None:
    assert asgi_record(replying(), http_scope(headers=headers)).carrier == carrier


@pytest.mark.parametrize(
    ("sent", "used"),
    [(b"abc-1", True), (b"a\r\nx: y", False), (b"x" * 65_536, False), (b"\xc3\xa9", False), (b"", False)],
)
def test_only_a_well_formed_request_id_is_taken(sent: bytes, used: bool) -> None:
    record = asgi_record(replying(), http_scope(headers=[(b"x-request-id", sent)]))
    assert record.request_id == (sent.decode("latin-1") if used else record.trace_id)


@pytest.mark.parametrize("echo", [True, False])
def test_the_request_id_is_echoed_only_when_asked_for(echo: bool) -> None:
    pipeline, notes = make_pipeline(echo_request_id=echo)
    reply = start(200, (b"x-own", b"1"))
    talk = call_asgi(AsgiDoor(replying(reply, body()), pipeline))
    expected = {"x-own": "1", **({"x-request-id": notes.record.request_id} if echo else {})}
    assert talk.headers == expected
    assert reply["headers"] == [(b"x-own", b"1")]


def test_headers_that_can_be_read_only_once_are_left_to_the_application() -> None:
    seen: list[Any] = []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        seen.extend(scope["headers"])
        await send(start())
        await send(body(b"ok"))

    record = asgi_record(app, {**http_scope(), "headers": iter([(b"user-agent", b"curl/8")])})
    assert seen == [(b"user-agent", b"curl/8")]
    assert (record.user_agent, record.outcome) == (None, "completed")
