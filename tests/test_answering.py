"""The doors say when the last byte of an answer is about to be handed over: from there on a client may have it all.

Said a moment too early it would be before the bytes, said too late a worker could die in between: the notes below
hold the order of what the server gets and what the watch hears.
"""

from __future__ import annotations

from typing import Any

import pytest

from obskit.asgi import AsgiDoor
from obskit.wsgi import WsgiDoor
from tests.support.recording import (
    body,
    call_asgi,
    http_scope,
    listing,
    make_environ,
    make_pipeline,
    replying,
    start,
    talk_wsgi,
)

ANSWERING = "watch.answering"
END = {"type": "http.response.trailers", "headers": [], "more_trailers": False}


def order_of_asgi(*messages: dict[str, Any], method: str = "GET") -> list[str]:
    pipeline, notes = make_pipeline()
    seen: list[str] = []
    notes.called = lambda name: seen.append(name) if name == ANSWERING else None  # type: ignore[method-assign]
    door = AsgiDoor(replying(*messages), pipeline)
    call_asgi(door, http_scope(method=method), on_send=lambda m: seen.append(m["type"].rpartition(".")[2]))
    return seen


@pytest.mark.parametrize(
    ("messages", "order"),
    [
        ([start(), body(b"all")], ["start", ANSWERING, "body"]),
        (
            [start(), body(b"a", more=True), body(b"b", more=True), body()],
            ["start", "body", "body", ANSWERING, "body"],
        ),
        ([start(trailers=True), body(b"all"), END], ["start", "body", ANSWERING, "trailers"]),
        ([start(204), body()], ["start", ANSWERING, "body"]),
        ([start(), body(b"half", more=True)], ["start", "body"]),
        ([start(), body(b"all"), body(b"too much")], ["start", ANSWERING, "body", "body"]),
        ([], []),
    ],
    ids=["one part", "stream", "trailers", "no body", "cut off", "more than enough", "no answer"],
)
def test_an_asgi_answer_is_about_to_be_whole_right_before_its_last_message(
    messages: list[dict[str, Any]], order: list[str]
) -> None:
    assert order_of_asgi(*messages) == order


def order_of_wsgi(app: Any, method: str = "GET", **how: Any) -> list[str]:
    pipeline, notes = make_pipeline()
    seen: list[str] = []

    def called(name: str) -> None:
        if name in (ANSWERING, "metrics.close"):
            seen.append(name)

    notes.called = called  # type: ignore[method-assign]
    talk = talk_wsgi(WsgiDoor(noting(app, seen), pipeline), make_environ(method=method), **how)
    assert talk.error is None
    return seen


def noting(app: Any, seen: list[str]) -> Any:
    """The same application, whose parts are noted when they leave it."""

    def noted(environ: Any, start_response: Any) -> Any:
        for part in app(environ, start_response):
            seen.append(part.decode())
            yield part
        seen.append("end")

    return noted


LENGTH_2 = [("Content-Length", "2")]


def test_a_wsgi_answer_of_known_length_is_about_to_be_whole_with_its_last_part() -> None:
    order = order_of_wsgi(listing(b"a", b"b", headers=LENGTH_2))
    assert order == ["a", "b", ANSWERING, "end", "metrics.close"]


def test_a_wsgi_answer_of_unknown_length_is_about_to_be_whole_at_its_end() -> None:
    assert order_of_wsgi(listing(b"a", b"b")) == ["a", "b", "end", ANSWERING, "metrics.close"]


@pytest.mark.parametrize(
    ("app", "method"),
    [
        (listing(status="204 No Content"), "GET"),
        (listing(b"", headers=[("Content-Length", "0")]), "GET"),
        (listing(b"ab", headers=LENGTH_2), "HEAD"),
    ],
    ids=["204", "empty", "HEAD"],
)
def test_an_answer_without_a_body_is_whole_when_the_application_is_done(app: Any, method: str) -> None:
    order = order_of_wsgi(app, method)
    assert order[-2:] == [ANSWERING, "metrics.close"]
    assert order.count(ANSWERING) == 1


def test_an_answer_that_is_shorter_than_declared_is_never_whole() -> None:
    assert ANSWERING not in order_of_wsgi(listing(b"a", headers=LENGTH_2))


def test_an_answer_cut_off_by_its_client_is_never_whole() -> None:
    assert ANSWERING not in order_of_wsgi(listing(b"a", b"b"), take=1)
