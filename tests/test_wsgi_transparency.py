"""A server cannot tell whether the WSGI door is there, nor can an application: the transcripts are the same.

`wsgiref.validate` stands on both sides of the door and fails the test for any breach of PEP 3333.
"""

from __future__ import annotations

import gc
from collections.abc import Callable, Iterator
from typing import Any
from wsgiref.util import FileWrapper
from wsgiref.validate import validator

import pytest

from obskit.wsgi import MARK, WsgiDoor
from obskit.wsgi_input import Input
from tests.support.recording import WsgiTalk, make_environ, make_pipeline, talk_wsgi
from tests.support.same_bytes import odd_wsgi

TEXT = ("Content-Type", "text/plain")


def returns_a_list(environ: Any, start_response: Any) -> list[bytes]:
    start_response("200 OK", [TEXT, ("Content-Length", "2"), ("Set-Cookie", "a=1"), ("Set-Cookie", "b=2")])
    return [b"ok"]


def yields(environ: Any, start_response: Any) -> Iterator[bytes]:
    start_response("200 OK", [TEXT])
    yield b"1"
    yield b""
    yield b"2"


def returns_nothing(environ: Any, start_response: Any) -> list[bytes]:
    start_response("204 No Content", [])
    return []


def writes(environ: Any, start_response: Any) -> list[bytes]:
    write = start_response("200 OK", [TEXT])
    write(b"written ")
    write(b"and ")
    return [b"returned"]


def reads(environ: Any, start_response: Any) -> list[bytes]:
    stream = environ["wsgi.input"]
    taken = [stream.read(2), stream.readline(), *stream.readlines(1), *iter(stream)]
    start_response("200 OK", [TEXT])
    return taken


def raises(environ: Any, start_response: Any) -> list[bytes]:
    raise KeyError("app")


def raises_while_yielding(environ: Any, start_response: Any) -> Iterator[bytes]:
    start_response("200 OK", [TEXT])
    yield b"1"
    raise ValueError("middle")


def raises_before_yielding(environ: Any, start_response: Any) -> Iterator[bytes]:
    start_response("200 OK", [TEXT])
    raise ValueError("first")
    yield b""


def replaces_its_answer(environ: Any, start_response: Any) -> list[bytes]:
    start_response("200 OK", [TEXT])
    try:
        raise ValueError("known")
    except ValueError as error:
        start_response("500 Error", [TEXT], (ValueError, error, error.__traceback__))
    return [b"sorry"]


def replaces_it_too_late(environ: Any, start_response: Any) -> list[bytes]:
    start_response("200 OK", [TEXT])(b"gone")
    try:
        raise ValueError("known")
    except ValueError as error:
        start_response("500 Error", [TEXT], (ValueError, error, error.__traceback__))
    return [b"never"]


class Instance:
    """A class-based application: the instance is the body."""

    def __init__(self, environ: Any, start_response: Any) -> None:
        self.start_response = start_response

    def __iter__(self) -> Iterator[bytes]:
        self.start_response("200 OK", [TEXT])
        yield b"class"


APPS = [
    *(
        returns_a_list,
        yields,
        returns_nothing,
        writes,
        reads,
        raises,
        raises_while_yielding,
        raises_before_yielding,
    ),
    *(replaces_its_answer, replaces_it_too_late, Instance),
]
ENVIRONS: dict[str, Callable[[], dict[str, Any]]] = {
    "get": lambda: make_environ("/orders"),
    "head": lambda: make_environ(method="HEAD"),
    "post": lambda: make_environ(method="POST", data=b"ab\ncd\nef"),
    "upload cut short": lambda: make_environ(method="POST", data=b"ab\ncd\nef", CONTENT_LENGTH="99"),
    "non-UTF-8": lambda: make_environ("/\xff", QUERY_STRING="\xff=\xfe", HTTP_X="\xff"),
    "bad length": lambda: make_environ(CONTENT_LENGTH="twelve"),
    "junk traceparent": lambda: make_environ(HTTP_TRACEPARENT="\x00,ÿ", HTTP_X_REQUEST_ID="a\r\nb"),
    "huge request id": lambda: make_environ(HTTP_X_REQUEST_ID="x" * 65_536),
    "unknown method": lambda: make_environ(method="BREW"),
}


def told(talk: WsgiTalk) -> Any:
    events = [(*e[:3], *((type(x), str(x)) for x in e[3:] if x)) for e in talk.events]
    error = talk.error and (type(talk.error), talk.error.args)
    return events, error


@pytest.mark.parametrize("app", APPS, ids=lambda app: app.__name__)
@pytest.mark.parametrize("environ", ENVIRONS.values(), ids=ENVIRONS)
@pytest.mark.parametrize("take", [0, 1, None])
def test_the_transcript_is_the_same_with_and_without_the_door(
    app: Any, environ: Any, take: int | None
) -> None:
    pipeline, notes = make_pipeline()
    bare = talk_wsgi(app, environ(), take=take)
    observed = talk_wsgi(WsgiDoor(app, pipeline), environ(), take=take)
    # A body of ours has a close() that the application's own may lack.
    without_close = [[e for e in told(t)[0] if e != ("close",)] for t in (observed, bare)]
    assert without_close[0] == without_close[1]
    assert told(observed)[1] == told(bare)[1]
    assert notes.stages == []


# A HEAD with a body, a length on a 204 and the like are the application's own breaches.
VALID_APPS = [
    returns_a_list,
    yields,
    returns_nothing,
    writes,
    raises,
    raises_while_yielding,
    replaces_its_answer,
]


@pytest.mark.filterwarnings("ignore:Unknown REQUEST_METHOD")
@pytest.mark.parametrize("app", VALID_APPS, ids=lambda app: app.__name__)
@pytest.mark.parametrize("name", ["get", "post", "non-UTF-8", "junk traceparent", "unknown method"])
@pytest.mark.parametrize("take", [0, 1, None])
@pytest.mark.parametrize("echo", [False, True])
def test_the_door_keeps_pep_3333_towards_both_sides(
    app: Any, name: str, take: int | None, echo: bool
) -> None:
    pipeline, notes = make_pipeline(echo_request_id=echo)
    bare = talk_wsgi(validator(app), ENVIRONS[name](), take=take)
    observed = talk_wsgi(validator(WsgiDoor(validator(app), pipeline)), ENVIRONS[name](), take=take)
    assert (observed.data, type(observed.error)) == (bare.data, type(bare.error))
    assert not isinstance(observed.error, AssertionError)
    assert len(notes.records) == 1
    assert notes.stages == []


@pytest.mark.parametrize("environ", ENVIRONS.values(), ids=ENVIRONS)
def test_the_application_sees_the_servers_environ_itself_with_nothing_changed(environ: Any) -> None:
    seen: list[Any] = []

    def app(environ: Any, start_response: Any) -> list[bytes]:
        seen.append(environ)
        return returns_a_list(environ, start_response)

    given = environ()
    before = dict(given)
    talk_wsgi(WsgiDoor(app, make_pipeline()[0]), given)
    assert seen[0] is given
    if isinstance(given["wsgi.input"], Input):
        before["wsgi.input"] = given["wsgi.input"]
    assert {key: value for key, value in given.items() if key != MARK} == before


def test_what_start_response_and_write_return_is_handed_on() -> None:
    returned: list[Any] = []

    def app(environ: Any, start_response: Any) -> list[bytes]:
        returned.append(start_response("200 OK", [])(b"x"))
        return []

    WsgiDoor(app, make_pipeline()[0])(make_environ(), lambda *a: lambda data: "result")
    assert returned == ["result"]


def test_each_write_goes_where_the_server_wanted_it() -> None:
    written: list[Any] = []

    def app(environ: Any, start_response: Any) -> list[bytes]:
        first, second = (start_response("200 OK", []) for _ in range(2))
        for write in (first, second, first):
            write(b"x")
        return []

    def start_response(*_: Any) -> Any:
        number = len(answers)
        answers.append(number)
        return lambda data: written.append((number, data))

    answers: list[int] = []
    pipeline, notes = make_pipeline()
    list(WsgiDoor(app, pipeline)(make_environ(), start_response))
    assert written == [(0, b"x"), (1, b"x"), (0, b"x")]
    gc.collect()
    assert notes.record.response_bytes == 3


@pytest.mark.parametrize("keyword", [False, True])
def test_start_response_takes_what_the_servers_takes(keyword: bool) -> None:
    given: list[Any] = []

    def app(environ: Any, start_response: Any) -> list[bytes]:
        if keyword:
            start_response("200 OK", headers=[TEXT], exc_info=None)
        else:
            start_response("200 OK", [TEXT], None)
        return [b"ok"]

    def start_response(status: str, headers: Any, exc_info: Any = None) -> Any:
        given.append((status, headers, exc_info))

    for called in (app, WsgiDoor(app, make_pipeline()[0])):
        called(make_environ(), start_response)
    assert given == [("200 OK", [TEXT], None)] * 2


def test_headers_from_a_generator_reach_the_server() -> None:
    # Not what PEP 3333 asks for, but servers that only iterate take it.
    def app(environ: Any, start_response: Any) -> list[bytes]:
        start_response("200 OK", (pair for pair in [TEXT]))
        return [b"ok"]

    assert talk_wsgi(WsgiDoor(app, make_pipeline()[0])).headers == dict([TEXT])


@pytest.mark.parametrize("status", ["", "OK", None, 200, "20"])
@pytest.mark.parametrize("headers", [None, [TEXT], [("odd",)], 7])
def test_a_malformed_answer_is_the_servers_to_refuse(status: Any, headers: Any) -> None:
    given: list[Any] = []

    def app(environ: Any, start_response: Any) -> list[bytes]:
        start_response(status, headers)
        return [b"ok"]

    WsgiDoor(app, make_pipeline()[0])(make_environ(), lambda *answer: given.append(answer))
    assert given == [(status, headers)]


@pytest.mark.parametrize("body", [None, 5, "text"])
def test_a_body_that_is_none_of_the_kind_fails_where_it_did(body: Any) -> None:
    def app(environ: Any, start_response: Any) -> Any:
        start_response("200 OK", [])
        return body

    def end(called: Any) -> Any:
        talk = talk_wsgi(called)
        return type(talk.error)

    assert end(WsgiDoor(app, make_pipeline()[0])) is end(app) is not type(None)


@pytest.mark.parametrize("where", ["call", "body", "close"])
@pytest.mark.parametrize("error", [ValueError("x"), KeyboardInterrupt(), SystemExit(3), GeneratorExit()])
def test_what_the_application_raises_reaches_the_server_as_the_same_object(
    where: str, error: BaseException
) -> None:
    class Body:
        def __iter__(self) -> Iterator[bytes]:
            yield b"1"
            if where == "body":
                raise error

        def close(self) -> None:
            if where == "close":
                raise error

    def app(environ: Any, start_response: Any) -> Any:
        if where == "call":
            raise error
        start_response("200 OK", [TEXT])
        return Body()

    pipeline, notes = make_pipeline()
    assert talk_wsgi(WsgiDoor(app, pipeline)).error is error
    assert len(notes.records) == 1
    assert notes.stages == []


def test_a_generator_closed_in_the_middle_sees_generator_exit() -> None:
    seen: list[BaseException] = []

    def app(environ: Any, start_response: Any) -> Iterator[bytes]:
        start_response("200 OK", [TEXT])
        try:
            yield b"1"
            yield b"2"
        except BaseException as error:
            seen.append(error)
            raise

    talk = talk_wsgi(WsgiDoor(app, make_pipeline()[0]), take=1)
    assert talk.error is None
    assert [type(error) for error in seen] == [GeneratorExit]


def test_a_stream_with_nothing_to_read_yet_says_so() -> None:
    class NonBlocking:
        def read(self, size: int = -1) -> None:
            return None

    seen: list[Any] = []

    def app(environ: Any, start_response: Any) -> list[bytes]:
        seen.append(environ["wsgi.input"].read(5))
        return returns_a_list(environ, start_response)

    environ = make_environ(CONTENT_LENGTH="5", **{"wsgi.input": NonBlocking()})
    assert talk_wsgi(WsgiDoor(app, make_pipeline()[0]), environ).error is None
    assert seen == [None]


@pytest.mark.parametrize("body", [[b"a", b"b"], (b"a",), [b""]], ids=str)
def test_a_body_compares_indexes_and_measures_like_the_applications_own(body: Any) -> None:
    app = WsgiDoor(lambda environ, start_response: body, make_pipeline()[0])
    seen = app(make_environ(), lambda *_: None)
    assert seen == body
    assert seen != [b"other"]
    assert seen[0] == body[0]
    assert len(seen) == len(body)
    assert app(make_environ(), lambda *_: None) == seen
    assert len({seen}) == 1


def test_a_body_that_has_bytes_gives_them() -> None:
    class Response:
        def __iter__(self) -> Iterator[bytes]:
            yield b"item"

        def __bytes__(self) -> bytes:
            return b"whole"

    seen = WsgiDoor(lambda environ, start_response: Response(), make_pipeline()[0])(
        make_environ(), lambda *_: None
    )
    assert bytes(seen) == b"whole"  # type: ignore[call-overload]


def test_headers_that_are_no_list_are_the_servers_to_refuse_also_with_an_echoed_id() -> None:
    seen: list[Any] = []

    def app(environ: Any, start_response: Any) -> Any:
        start_response("200 OK", None)
        return [b"ok"]

    pipeline, notes = make_pipeline(echo_request_id=True)
    assert list(WsgiDoor(app, pipeline)(make_environ(), lambda status, headers: seen.append(headers))) == [
        b"ok"
    ]
    assert seen == [None]
    assert notes.stages == ["wsgi.start_response"]


# ---- a whole install, both sides of it, every kind of body, every manner of server ------------------


class Witnessed:
    """A body that notes what is done to it: by the server, or by what stands before the server."""

    def __init__(self, body: Any, seen: list[Any]) -> None:
        self.body, self.seen = body, seen
        if hasattr(body, "close"):
            self.close = self._close

    def __iter__(self) -> Iterator[bytes]:
        self.seen.append("iter")
        iterator = iter(self.body)
        while True:
            try:
                item = next(iterator)
            except StopIteration:
                self.seen.append("exhausted")
                return
            self.seen.append(("next", item))
            yield item

    def _close(self) -> None:
        self.seen.append("close")
        self.body.close()


class WitnessedSized(Witnessed):
    def __len__(self) -> int:
        self.seen.append("len")
        return len(self.body)


def witness(app: Any, seen: list[Any]) -> Any:
    """`app`, noting what it was asked and how its answer was taken."""

    def witnessed(environ: Any, start_response: Any) -> Any:
        seen.append({key: value for key, value in environ.items() if key != MARK and key[:5] != "wsgi."})

        def start(*arguments: Any) -> Any:
            try:
                write = start_response(*arguments)
            except Exception as error:
                seen.append(("start_response raised", type(error), error.args))
                raise
            return lambda data: seen.append(("write returned", write(data)))

        body = app(environ, start)
        if body is None or isinstance(body, bytes | FileWrapper):
            return body
        return (WitnessedSized if hasattr(body, "__len__") else Witnessed)(body, seen)

    return witnessed


def ask_for_length(body: Any) -> Any:
    """What servers do that set a Content-Length themselves (PEP 3333)."""
    try:
        return len(body)
    except TypeError:
        return None


MANNERS: dict[str, dict[str, Any]] = {
    "takes all": {},
    "takes one": {"take": 1},
    "takes none": {"take": 0},
    "never closes": {"close": False},
    "takes one and never closes": {"take": 1, "close": False},
    "its client has left": {"fails_on_chunk": BrokenPipeError("gone")},
    "fails": {"fails_on_chunk": ValueError("the server's own")},
    "gives up": {"fails_on_chunk": SystemExit(1)},
}
ODD_ENVIRONS: dict[str, Callable[[], dict[str, Any]]] = {
    "get": lambda: make_environ("/"),
    "head": lambda: make_environ("/", method="HEAD"),
    "upload": lambda: make_environ("/", method="POST", data=b"one\ntwo\nthree\nfour"),
    "upload cut short": lambda: make_environ("/", method="POST", data=b"one\ntwo", CONTENT_LENGTH="99"),
}


def transcript(app: Any, seen: list[Any], environ: dict[str, Any], page: str, manner: dict[str, Any]) -> Any:
    """All that a server and the application saw of one call, in order for each of them."""
    seen.clear()
    environ |= {"PATH_INFO": f"/{page}", "wsgi.file_wrapper": FileWrapper}
    talk = talk_wsgi(app, environ, **manner)
    events, error = told(talk)
    length = ask_for_length(talk.body)
    kind = type(talk.body) is FileWrapper
    talk.body = None
    gc.collect(0)  # a body that is dropped without close()
    # Left out on the server's side: a body of ours has a close() that the application's own may lack.
    return [event for event in events if event != ("close",)], error, length, kind, list(seen)


@pytest.mark.parametrize("manner", MANNERS)
@pytest.mark.parametrize("environ", ODD_ENVIRONS)
def test_both_sides_of_an_install_see_what_they_saw_without_it(
    environ: str, manner: str, install: Any, canonical: Any
) -> None:
    seen: list[Any] = []
    bare = witness(odd_wsgi.app, seen)
    installed = install(bare)
    differing = {}
    for page in odd_wsgi.PAGES:
        both = [
            transcript(app, seen, ODD_ENVIRONS[environ](), page, MANNERS[manner]) for app in (bare, installed)
        ]
        if both[0] != both[1]:
            differing[page] = both
    assert len(odd_wsgi.PAGES) >= 51
    assert differing == {}
    if MANNERS[manner].get(
        "close", True
    ):  # what is never closed, against PEP 3333, may never be known to have ended
        assert len(canonical()) == len(odd_wsgi.PAGES)


# Told apart by nothing but the type of the body, and before the first item is asked for; ours is of another type.
BODIES_OF_NO_KIND = ("bytes", "no-body")


@pytest.mark.parametrize("sides", ["both", "outside"])
@pytest.mark.parametrize("manner", ["takes all", "takes one", "takes none", "its client has left"])
def test_an_install_keeps_pep_3333_with_every_kind_of_body(sides: str, manner: str, install: Any) -> None:
    """validator(install(validator(app))): what is said of a breach is said of the application's own, or not at all."""
    app = odd_wsgi.app
    bare = validator(app)
    installed = validator(install(validator(app) if sides == "both" else app, interface="wsgi"))
    ends = {
        page: [
            transcript(called, [], ODD_ENVIRONS["get"](), page, MANNERS[manner])[:2]
            for called in (bare, installed)
        ]
        for page in odd_wsgi.PAGES
        if sides == "both" or page not in BODIES_OF_NO_KIND
    }
    assert {page: both for page, both in ends.items() if both[0] != both[1]} == {}
    sound = [page for page, (_, (_, error)) in ends.items() if not error or error[0] is not AssertionError]
    assert len(sound) >= 30, sorted(set(ends) - set(sound))
