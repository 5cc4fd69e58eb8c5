"""However often and wherever obskit is installed, a request is one span, one line and one count."""

from __future__ import annotations

from typing import Any

import pytest
from opentelemetry import trace

from obskit.errors import InstallError
from tests.support.kinds import (
    KINDS,
    ask,
    counted,
    fastapi_app,
)


@pytest.mark.parametrize("kind", KINDS)
def test_one_request_is_one_span_one_line_and_one_count(
    kind: str, install: Any, spans: Any, canonical: Any
) -> None:
    make, interface, same_object = KINDS[kind]
    app = make()
    served = install(app)
    assert (served is app) == same_object
    assert ask(served, interface) == 200
    (span,) = spans.get_finished_spans()
    (line,) = canonical()
    assert span.kind is trace.SpanKind.SERVER
    assert line["trace_id"] == f"{span.context.trace_id:032x}"
    assert counted(served, interface) == 1


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("again", ["the app", "what was served"])
def test_a_second_install_changes_nothing(
    kind: str, again: str, install: Any, spans: Any, canonical: Any
) -> None:
    make, interface, _ = KINDS[kind]
    app = make()
    served = install(app)
    if kind.startswith("plain") and again == "the app":
        return  # a callable says nothing of a door around it: that is a second, independent install
    assert install(app if again == "the app" else served) is served
    assert ask(served, interface) == 200
    assert len(spans.get_finished_spans()) == 1
    assert len(canonical()) == 1
    assert counted(served, interface) == 1


@pytest.mark.parametrize("kind", KINDS)
def test_a_second_install_still_refuses_a_bad_option(kind: str, install: Any) -> None:
    served = install(KINDS[kind][0]())
    with pytest.raises(InstallError, match="log_level"):
        install(served, log_level="loud")


@pytest.mark.parametrize("kind", ["flask", "fastapi", "starlette"])
def test_an_install_after_the_first_request_records_from_then_on(
    kind: str, install: Any, spans: Any, canonical: Any
) -> None:
    make, interface, _ = KINDS[kind]
    app = make()
    assert ask(app, interface) == 200
    spans.clear()  # FastAPI's own, from before
    assert install(app) is app
    assert ask(app, interface) == 200
    (span,) = spans.get_finished_spans()
    assert span.kind is trace.SpanKind.SERVER
    assert [line["http_route"][:8] for line in canonical()] == ["/orders/"]
    assert counted(app, interface) == 1


def mounted_in_starlette(inner: Any) -> Any:
    from starlette.applications import Starlette
    from starlette.routing import Mount

    return Starlette(routes=[Mount("/shop", inner)])


def mounted_in_fastapi(inner: Any) -> Any:
    import fastapi

    app = fastapi.FastAPI()
    app.mount("/shop", inner)
    return app


def mounted_in_flask(inner: Any) -> Any:
    import flask
    from werkzeug.middleware.dispatcher import DispatcherMiddleware

    app = flask.Flask("front")
    app.wsgi_app = DispatcherMiddleware(app.wsgi_app, {"/shop": inner})  # type: ignore[method-assign]
    return app


def inside_a_plain_asgi_callable(inner: Any) -> Any:
    async def outer(scope: Any, receive: Any, send: Any) -> None:
        await inner({**scope, "root_path": "/shop"}, receive, send)

    return outer


def inside_a_plain_wsgi_callable(inner: Any) -> Any:
    return lambda environ, start_response: inner(
        {**environ, "PATH_INFO": environ["PATH_INFO"][5:]}, start_response
    )


NESTINGS = [
    *((mounted_in_starlette, kind) for kind in ("starlette", "fastapi", "django asgi", "plain asgi")),
    *((mounted_in_fastapi, kind) for kind in ("starlette", "fastapi")),
    *((inside_a_plain_asgi_callable, kind) for kind in ("starlette", "fastapi", "plain asgi")),
    *((mounted_in_flask, kind) for kind in ("flask", "django wsgi", "plain wsgi")),
    *((inside_a_plain_wsgi_callable, kind) for kind in ("flask", "plain wsgi")),
]


@pytest.mark.parametrize(("mount", "kind"), NESTINGS, ids=lambda value: getattr(value, "__name__", value))
def test_an_installed_app_inside_an_installed_app_records_once(
    mount: Any, kind: str, install: Any, spans: Any, canonical: Any
) -> None:
    make, interface, _ = KINDS[kind]
    inner = install(make(), service="inner")
    outer = install(mount(inner), service="outer")
    assert ask(outer, interface, "/shop/orders/7") == 200
    servers = [span for span in spans.get_finished_spans() if span.kind is trace.SpanKind.SERVER]
    assert len(servers) == 1
    assert [line["service_name"] for line in canonical()] == ["outer"]
    assert (counted(outer, interface), counted(inner, interface)) == (1, 0)


def test_fastapi_has_exactly_one_server_span_and_no_children_of_its_own(install: Any, spans: Any) -> None:
    app = install(fastapi_app())
    assert ask(app, "asgi") == 200
    (span,) = spans.get_finished_spans()
    assert (span.name, span.kind) == ("GET /orders/{order_id}", trace.SpanKind.SERVER)


@pytest.mark.parametrize("kind", KINDS)
def test_a_second_install_says_that_it_does_nothing(kind: str, install: Any, lines: Any) -> None:
    make, _, _ = KINDS[kind]
    served = install(make())
    lines()
    install(served)
    assert [line["event"] for line in lines()] == ["obskit.already_installed"]
