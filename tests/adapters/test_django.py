from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from django.core.handlers.asgi import ASGIHandler
from django.core.handlers.wsgi import WSGIHandler
from django.core.signals import got_request_exception, request_finished
from django.http import HttpResponse, StreamingHttpResponse
from django.test import override_settings
from django.urls import path as django_path

from obskit.adapters import django as adapter
from obskit.context import current
from tests.support import django_site
from tests.support.recording import call_asgi, http_scope, make_environ, talk_wsgi

django_site.configure()
HANDLERS = [WSGIHandler, ASGIHandler]


def ask(served: Any, path: str, method: str = "GET") -> int:
    if isinstance(served.app, ASGIHandler):
        return call_asgi(served, http_scope(path, method), patient=True).status
    return int(talk_wsgi(served, make_environ(path, method)).status[:3])


@pytest.mark.parametrize("handler", HANDLERS)
@pytest.mark.parametrize(
    ("path", "method", "route", "status"),
    [
        ("/", "GET", "/", 200),
        ("/orders/7", "GET", "/orders/<int:order_id>", 200),
        ("/orders/7", "HEAD", "/orders/<int:order_id>", 200),
        ("/async/7", "GET", "/async/<int:order_id>", 200),
        ("/orders/seven", "GET", "unmatched", 404),
        ("/api/v1/items/3", "GET", "/api/v1/items/<int:pk>", 200),
        ("/api/v1/items/3", "POST", "/api/v1/items/<int:pk>", 405),
        ("/api/v1/slashed/x", "GET", "/api/v1/slashed/<slug:name>/", 301),
        ("/api/v1/slashed/x/", "GET", "/api/v1/slashed/<slug:name>/", 200),
        ("/articles/2026/", "GET", "/articles/<year>/", 200),
        ("/articles/2026", "GET", "/articles/<year>/", 301),
        ("/boom", "GET", "/boom", 500),
        ("/async-boom", "GET", "/async-boom", 500),
        ("/nowhere", "GET", "unmatched", 404),
    ],
)
def test_the_route_is_the_full_template(
    handler: type, path: str, method: str, route: str, status: int, install: Any, canonical: Any
) -> None:
    assert ask(install(handler()), path, method) == status
    (line,) = canonical()
    assert (line["http_route"], line["http_response_status_code"]) == (route, status)


@pytest.mark.parametrize("handler", HANDLERS)
@pytest.mark.parametrize("path", ["/boom", "/async-boom"])
def test_an_unhandled_exception_is_on_the_line_of_the_500(
    handler: type, path: str, install: Any, canonical: Any
) -> None:
    ask(install(handler()), path)
    (line,) = canonical()
    assert (line["outcome"], line["level"]) == ("raised", "error")
    assert line["exception"]["type"] == "ValueError"


def test_a_cancelled_request_has_a_route_all_the_same(install: Any, canonical: Any) -> None:
    # A client that is gone before Django has answered: its handler cancels the view.
    call_asgi(install(ASGIHandler()), http_scope("/orders/7"))
    (line,) = canonical()
    assert (line["outcome"], line["http_response_status_code"]) == ("client_disconnect", None)


@pytest.mark.parametrize("handler", HANDLERS)
def test_a_handler_installed_twice_gives_the_same_door(handler: type, install: Any) -> None:
    app = handler()
    door = install(app)
    assert install(app) is install(door) is door


def test_lifespan_which_django_refuses_is_answered_by_the_door(install: Any) -> None:
    talk = call_asgi(
        install(ASGIHandler()),
        {"type": "lifespan"},
        [{"type": "lifespan.startup"}, {"type": "lifespan.shutdown"}],
    )
    assert [m["type"] for m in talk.sent] == ["lifespan.startup.complete", "lifespan.shutdown.complete"]
    assert talk.error is None


@pytest.mark.parametrize(
    ("route", "template"),
    [
        ("", "/"),
        ("orders/<int:id>", "/orders/<int:id>"),
        ("^articles/(?P<year>[0-9]{4})/$", "/articles/<year>/"),
        (r"^a/(?P<x>(b|c(d))+)/(\d+)/$", "/a/<x>/<var>/"),
        ("^a/(?:page-(?P<n>[0-9]+)/)?$", "/a/<var>"),
        (r"^files/(?P<name>[^/]+\.txt)\Z", "/files/<name>"),
        (r"^v1\.0/x$", "/v1.0/x"),
        (r"api/^x/(?P<y>\(.*\))$", "/api/x/<y>"),
        ("^a/(?=b)c/$", "/a/c/"),
        (r"\A^a)b$", "/a)b"),
        (r"^a\$b$", "/a$b"),
    ],
)
def test_a_regular_expression_is_reduced_to_its_names(route: str, template: str) -> None:
    assert adapter.template(route) == template


@override_settings(APPEND_SLASH=False)
def test_without_append_slash_nothing_is_resolved_again(install: Any, canonical: Any) -> None:
    assert ask(install(WSGIHandler()), "/articles/2026") == 404
    assert [line["http_route"] for line in canonical()] == ["unmatched"]


@pytest.mark.parametrize("path", ["/elsewhere", "/elsewhere/"])
def test_a_redirect_of_something_else_has_no_route(path: str, install: Any, canonical: Any) -> None:
    from django.http import HttpResponsePermanentRedirect

    def redirecting(get_response: Any) -> Any:
        return lambda request: HttpResponsePermanentRedirect("https://example.org/")

    django_site.redirecting = redirecting  # type: ignore[attr-defined]
    with override_settings(MIDDLEWARE=[f"{django_site.__name__}.redirecting"]):
        assert ask(install(WSGIHandler()), path) == 301
    assert [line["http_route"] for line in canonical()] == ["unmatched"]


@pytest.mark.parametrize(
    ("root", "name"),
    [("shop.urls", "shop"), ("urls", None), (None, None), ([django_path("", django_site.ok)], None)],
)
def test_the_service_is_named_after_the_project(root: Any, name: str | None) -> None:
    with override_settings(ROOT_URLCONF=root):
        assert adapter.service_name(WSGIHandler()) == name


@pytest.mark.parametrize(("path", "served"), [("/metrics", True), ("/nowhere", False)])
def test_whether_the_site_serves_a_path(path: str, served: bool) -> None:
    assert adapter.serves(WSGIHandler(), path) is served


def test_a_broken_url_configuration_is_djangos_to_report(install: Any, canonical: Any) -> None:
    with override_settings(ROOT_URLCONF="no.such.module"):
        served = install(WSGIHandler())
        assert talk_wsgi(served).error is not None or canonical()


class OwnParts(HttpResponse):
    def __iter__(self) -> Iterator[bytes]:
        heard("parts")
        yield b"ok"


class OwnClose(HttpResponse):
    def close(self) -> None:
        heard("close")
        super().close()


heard_of: list[tuple[str, Any]] = []


def heard(where: str, **_: Any) -> None:
    heard_of.append((where, current()))


def generated() -> Iterator[bytes]:
    heard("parts")
    yield b"ok"


def remade() -> HttpResponse:
    response = HttpResponse()
    response._container = generated()
    return response


@pytest.mark.parametrize(
    ("make", "where"),
    [
        (lambda: HttpResponse("ok"), ["finished"]),
        (OwnParts, ["parts", "finished"]),
        (lambda: OwnClose("ok"), ["close", "finished"]),
        (lambda: StreamingHttpResponse(generated()), ["parts", "finished"]),
        (remade, ["parts", "finished"]),
    ],
)
def test_the_exchange_is_current_wherever_a_response_runs_the_applications_code(
    make: Any, where: list[str], install: Any, canonical: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    heard_of.clear()
    app = WSGIHandler()
    monkeypatch.setattr(app, "_middleware_chain", lambda request: make())

    def finished(**_: Any) -> None:
        heard("finished")

    request_finished.connect(finished)
    try:
        talk = talk_wsgi(install(app), make_environ("/"))
    finally:
        request_finished.disconnect(finished)
    assert talk.data == b"ok"
    assert [name for name, _ in heard_of] == where
    (line,) = canonical()
    assert {exchange.trace_id for _, exchange in heard_of} == {line["trace_id"]}


def test_a_response_that_holds_its_parts_is_entered_to_be_made_and_to_be_closed(
    install: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    door = install(WSGIHandler())
    entered: list[Any] = []
    enter = door.pipeline.enter
    monkeypatch.setattr(door.pipeline, "enter", lambda one: (entered.append(one), enter(one))[1])
    assert ask(door, "/orders/7") == 200
    assert len(entered) == 2


def test_a_signal_without_request_or_exception_is_nothing(install: Any) -> None:
    install(WSGIHandler())
    got_request_exception.send(sender=None)
    try:
        raise ValueError
    except ValueError:
        got_request_exception.send(sender=None, request=object())


def test_a_route_that_cannot_be_read_is_counted_and_the_answer_is_sent(install: Any, canonical: Any) -> None:
    class Odd:
        @property
        def route(self) -> str:
            raise RuntimeError("odd")

    def odd(get_response: Any) -> Any:
        def call(request: Any) -> Any:
            response = get_response(request)
            request.resolver_match = Odd()
            return response

        return call

    django_site.odd = odd  # type: ignore[attr-defined]
    with override_settings(MIDDLEWARE=[f"{django_site.__name__}.odd"]):
        served = install(WSGIHandler())
        assert ask(served, "/orders/7") == 200
    assert [line["http_route"] for line in canonical()] == ["unmatched"]
    page = talk_wsgi(served, make_environ("/metrics")).data.decode()
    assert 'obskit_internal_errors_total{stage="adapter.route"} 1.0' in page


def test_an_exception_django_tells_of_without_its_request_is_kept(install: Any, canonical: Any) -> None:
    def telling(get_response: Any) -> Any:
        def call(request: Any) -> Any:
            try:
                raise LookupError("told")
            except LookupError:
                got_request_exception.send(sender=None)
            return HttpResponse("broken", status=500)

        return call

    django_site.telling = telling  # type: ignore[attr-defined]
    with override_settings(MIDDLEWARE=[f"{django_site.__name__}.telling"]):
        ask(install(WSGIHandler()), "/orders/7")
    (line,) = canonical()
    assert (line["outcome"], line["exception"]["type"]) == ("raised", "LookupError")


def test_a_second_server_span_of_djangos_instrumentor_is_told(install: Any, lines: Any) -> None:
    with override_settings(MIDDLEWARE=["opentelemetry.instrumentation.django.middleware.otel_middleware.X"]):
        handler = WSGIHandler.__new__(WSGIHandler)
        handler.get_response = lambda request: HttpResponse()
        install(handler)
        assert "server_span.second" in [line["event"] for line in lines()]


@pytest.mark.parametrize(
    ("path", "route"),
    [
        ("/", "/"),
        ("/orders/7", "/orders/<int:order_id>"),
        ("/orders/seven", None),
        ("/api/v1/items/3", "/api/v1/items/<int:pk>"),
        ("/articles/2026/", "/articles/<year>/"),
        ("/articles/2026", None),
        ("/nowhere", None),
        ("", None),
    ],
)
def test_the_route_that_a_request_would_meet_can_be_asked_for(path: str, route: str | None) -> None:
    assert adapter.route_for(WSGIHandler(), "GET", path) == route


@pytest.mark.parametrize("kind", ["wsgi", "asgi"])
def test_behind_a_handler_of_static_files_the_route_and_the_session_are_seen_all_the_same(
    kind: str, install: Any, canonical: Any, lines: Any
) -> None:
    from django.contrib.staticfiles import handlers

    with override_settings(STATIC_URL="/static/"):
        app: Any = (
            handlers.StaticFilesHandler(WSGIHandler())
            if kind == "wsgi"
            else handlers.ASGIStaticFilesHandler(ASGIHandler())
        )
        served = install(app)
        assert ask(served, "/orders/7") == 200
        assert ask(served, "/static/nothing.css") == 404
    assert [line["http_route"] for line in canonical()] == ["/orders/<int:order_id>", "unmatched"]
    assert [line for line in lines() if line["event"] == "obskit.internal_error"] == []
