"""What the WSGI door reads from the environ, however malformed, before the application runs."""

from __future__ import annotations

from typing import Any

import pytest

from obskit.wsgi import WsgiDoor
from tests.support.recording import listing, make_environ, make_pipeline, talk_wsgi, wsgi_record


def test_the_environ_is_read_once_and_whole() -> None:
    environ = make_environ("/7", "PATCH", SCRIPT_NAME="/orders", HTTP_USER_AGENT="curl/8", CONTENT_LENGTH="3")
    record = wsgi_record(listing(), {**environ, "wsgi.url_scheme": "https"})
    assert (record.protocol, record.method, record.method_original) == ("http", "PATCH", None)
    assert (record.url_path, record.scheme, record.http_version) == ("/orders/7", "https", "1.1")
    assert (record.client_address, record.server_address, record.server_port) == (
        "127.0.0.1",
        "127.0.0.1",
        8000,
    )
    assert (record.user_agent, record.declared_request_bytes, record.carrier) == ("curl/8", 3, None)


@pytest.mark.parametrize("missing", [k for k in make_environ() if k != "wsgi.errors"])
def test_an_environ_may_lack_anything(missing: str) -> None:
    environ = make_environ()
    del environ[missing]
    assert wsgi_record(listing(b"ok"), environ).outcome == "completed"


def test_what_an_environ_lacks_is_not_put_into_it() -> None:
    environ = make_environ("/7")
    del environ["SCRIPT_NAME"], environ["SERVER_PORT"]
    pipeline, notes = make_pipeline()
    seen: list[Any] = []

    def app(environ: Any, start_response: Any) -> list[bytes]:
        seen.append((environ["obskit.exchange"].request is environ, set(environ)))
        return listing(b"ok")(environ, start_response)  # type: ignore[no-any-return]

    before = set(environ)
    talk_wsgi(WsgiDoor(app, pipeline), environ)
    assert seen == [(True, before | {"obskit.exchange"})]
    assert (notes.record.url_path, notes.record.server_port, notes.record.scheme) == ("/7", None, "http")


@pytest.mark.parametrize(
    ("path", "shown"), [("/\xc3\xbc", "/ü"), ("/\xff", "/\ufffd"), ("/\u0151", "/?"), ("/a%20b", "/a%20b")]
)
def test_a_path_is_decoded_as_utf_8_and_never_fails(path: str, shown: str) -> None:
    assert wsgi_record(listing(), make_environ(path)).url_path == shown


@pytest.mark.parametrize(
    ("port", "known"), [("", None), ("x", None), ("123456", None), (80, 80), ("65535", 65535)]
)
def test_a_port_is_believed_only_if_it_can_be_one(port: Any, known: int | None) -> None:
    assert wsgi_record(listing(), make_environ(SERVER_PORT=port)).server_port == known


@pytest.mark.parametrize(("protocol", "version"), [("HTTP/1.0", "1.0"), ("INCLUDED", None)])
def test_the_protocol_version_is_that_of_http(protocol: str, version: str | None) -> None:
    assert wsgi_record(listing(), make_environ(SERVER_PROTOCOL=protocol)).http_version == version


@pytest.mark.parametrize("method", ["get", "BREW", "M" * 1000])
def test_an_unknown_method_is_other_and_its_original_is_bounded(method: str) -> None:
    record = wsgi_record(listing(), make_environ(method=method))
    assert (record.method, record.method_original) == ("_OTHER", method[:64])


@pytest.mark.parametrize("value", ["00-junk", "a,b", "ÿ", "x" * 65_536])
def test_the_headers_of_the_propagator_are_carried_as_they_came(value: str) -> None:
    record = wsgi_record(
        listing(), make_environ(HTTP_TRACEPARENT=value, HTTP_TRACESTATE="a=1", HTTP_X_B3="1")
    )
    assert record.carrier == {"traceparent": value, "tracestate": "a=1"}


@pytest.mark.parametrize(
    ("sent", "used"), [("abc-1", True), ("a\r\nx: y", False), ("x" * 65_536, False), ("é", False)]
)
def test_only_a_well_formed_request_id_is_taken(sent: str, used: bool) -> None:
    record = wsgi_record(listing(), make_environ(HTTP_X_REQUEST_ID=sent))
    assert record.request_id == (sent if used else record.trace_id)


@pytest.mark.parametrize("echo", [True, False])
def test_the_request_id_is_echoed_only_when_asked_for(echo: bool) -> None:
    pipeline, notes = make_pipeline(echo_request_id=echo)
    own = [("X-Own", "1")]
    talk = talk_wsgi(WsgiDoor(listing(headers=own), pipeline))
    assert talk.headers == {"X-Own": "1", **({"X-Request-ID": notes.record.request_id} if echo else {})}
