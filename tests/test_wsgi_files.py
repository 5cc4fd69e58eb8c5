"""Files the WSGI server sends itself: its own wrapper goes back untouched, and its close() tells how it went."""

from __future__ import annotations

import io
from collections.abc import Callable, Iterator
from typing import Any
from wsgiref.util import FileWrapper

import pytest

from obskit.wsgi import WsgiDoor
from tests.support.recording import make_environ, make_pipeline, talk_wsgi


def sending(data: bytes = b"0123456789", close_error: BaseException | None = None) -> Callable[..., Any]:
    class File(io.BytesIO):
        closings = 0

        def close(self) -> None:
            self.closings += 1
            if close_error is not None:
                raise close_error
            super().close()

    def app(environ: Any, start_response: Any) -> Any:
        start_response("200 OK", [("Content-Length", "10")])
        app.file = File(data)  # type: ignore[attr-defined]
        app.wrapper = environ["wsgi.file_wrapper"](app.file)  # type: ignore[attr-defined]
        return app.wrapper  # type: ignore[attr-defined]

    return app


FILE_ENVIRON = {"wsgi.file_wrapper": FileWrapper}


@pytest.mark.parametrize("take", [0, None])
def test_the_servers_file_wrapper_is_handed_back_itself_and_its_close_observed(take: int | None) -> None:
    pipeline, notes = make_pipeline()
    app = sending()
    talk = talk_wsgi(WsgiDoor(app, pipeline), make_environ(**FILE_ENVIRON), take=take)
    assert talk.body is app.wrapper  # type: ignore[attr-defined]
    assert app.file.closings == 1  # type: ignore[attr-defined]
    assert (notes.record.outcome, notes.record.response_bytes) == ("completed", 10)
    assert notes.record.server_sends_file


@pytest.mark.parametrize(
    ("error", "outcome"),
    [(BrokenPipeError(), "client_disconnect"), (SystemExit(1), "unknown"), (ValueError(), "unknown")],
)
def test_a_file_whose_sending_fails_is_not_complete(error: BaseException, outcome: str) -> None:
    pipeline, notes = make_pipeline()
    app = WsgiDoor(sending(), pipeline)
    talk = talk_wsgi(app, make_environ(**FILE_ENVIRON), fails_on_chunk=error)
    assert talk.error is error
    assert notes.record.outcome == outcome


def test_bytes_left_in_the_servers_buffer_say_that_the_client_has_left() -> None:
    class Buffer(FileWrapper):
        remain = 7

    pipeline, notes = make_pipeline()
    talk_wsgi(WsgiDoor(sending(), pipeline), make_environ(**{"wsgi.file_wrapper": Buffer}))
    assert notes.record.outcome == "client_disconnect"


def test_a_file_whose_close_raises_is_recorded_all_the_same() -> None:
    error = ValueError("close")
    pipeline, notes = make_pipeline()
    talk = talk_wsgi(WsgiDoor(sending(close_error=error), pipeline), make_environ(**FILE_ENVIRON))
    assert talk.error is error
    assert len(notes.records) == 1


def test_a_file_wrapper_without_close_is_observed_too() -> None:
    class Bare:
        def __init__(self, file: Any) -> None:
            self.file = file

        def __iter__(self) -> Iterator[bytes]:
            return iter([self.file.read()])

    pipeline, notes = make_pipeline()
    talk_wsgi(WsgiDoor(sending(), pipeline), make_environ(**{"wsgi.file_wrapper": Bare}))
    assert notes.record.outcome == "completed"


def test_a_file_wrapper_that_is_a_function_gets_the_ordinary_body() -> None:
    pipeline, notes = make_pipeline()
    environ = make_environ(**{"wsgi.file_wrapper": lambda file: iter([file.read()])})
    talk = talk_wsgi(WsgiDoor(sending(), pipeline), environ)
    assert (talk.data, notes.record.outcome) == (b"0123456789", "completed")


def test_a_file_wrapper_that_cannot_be_observed_is_handed_back_and_counted() -> None:
    class Closed:
        __slots__ = ("file",)

        def __init__(self, file: Any) -> None:
            self.file = file

        def __iter__(self) -> Iterator[bytes]:
            return iter([self.file.read()])

    pipeline, notes = make_pipeline()
    talk = talk_wsgi(WsgiDoor(sending(), pipeline), make_environ(**{"wsgi.file_wrapper": Closed}))
    assert talk.data == b"0123456789"
    assert (notes.record.outcome, notes.stages) == ("unknown", ["wsgi.body"])
