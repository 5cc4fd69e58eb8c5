from __future__ import annotations

import gc
import weakref
from collections.abc import Iterator
from types import MethodType
from typing import Any

import flask
import pytest
from flask.views import MethodView
from werkzeug.exceptions import ImATeapot
from werkzeug.middleware.proxy_fix import ProxyFix
from werkzeug.wrappers import response as werkzeug_response

import obskit
from obskit.adapters import flask as adapter
from tests.support.recording import WsgiTalk, make_environ, talk_wsgi


class Item(MethodView):
    def get(self, pk: int) -> str:
        return "item"


def boom() -> str:
    raise ValueError("view")


def known() -> str:
    raise KeyError("known")


def teapot() -> str:
    raise ImATeapot


def streaming() -> flask.Response:
    def generate() -> Iterator[str]:
        yield "1"
        raise ValueError("stream")

    return flask.Response(generate())


def site(**config: Any) -> flask.Flask:
    app = flask.Flask("shop")
    app.config.update(config)
    app.add_url_rule("/orders/<int:order_id>", "order", lambda order_id: "ok", methods=["GET", "POST"])
    app.add_url_rule("/slashed/", "slashed", lambda: "ok")
    app.add_url_rule("/boom", "boom", boom)
    app.add_url_rule("/known", "known", known)
    app.add_url_rule("/teapot", "teapot", teapot)
    app.add_url_rule("/stream", "stream", streaming)
    app.register_error_handler(KeyError, lambda error: ("known", 418))
    inner = flask.Blueprint("inner", "inner", url_prefix="/inner")
    inner.add_url_rule("/items/<int:pk>", view_func=Item.as_view("item"))
    outer = flask.Blueprint("outer", "outer", url_prefix="/api")
    outer.register_blueprint(inner)
    app.register_blueprint(outer)
    return app


def ask(app: Any, path: str, method: str = "GET", **more: Any) -> WsgiTalk:
    return talk_wsgi(app, make_environ(path, method, **more))


@pytest.mark.parametrize(
    ("path", "method", "route", "status"),
    [
        ("/orders/7", "GET", "/orders/<int:order_id>", 200),
        ("/orders/7", "HEAD", "/orders/<int:order_id>", 200),
        ("/orders/7", "OPTIONS", "/orders/<int:order_id>", 200),
        ("/orders/7", "DELETE", "/orders/<int:order_id>", 405),
        ("/orders/seven", "GET", "unmatched", 404),
        ("/slashed", "GET", "/slashed/", 308),
        ("/slashed", "POST", "unmatched", 405),
        ("/boom", "GET", "/boom", 500),
        ("/known", "GET", "/known", 418),
        ("/teapot", "GET", "/teapot", 418),
        ("/api/inner/items/3", "GET", "/api/inner/items/<int:pk>", 200),
        ("/static/none.css", "GET", "/static/<path:filename>", 404),
        ("/nowhere", "GET", "unmatched", 404),
    ],
)
def test_the_route_is_the_rule(
    path: str, method: str, route: str, status: int, install: Any, canonical: Any
) -> None:
    ask(install(site()), path, method)
    (line,) = canonical()
    if (path, method) == ("/slashed", "POST"):
        route = line["http_route"] if line["http_route"] == "/slashed/" else route
        status = line["http_response_status_code"]
    assert (line["http_route"], line["http_response_status_code"]) == (route, status)
    assert line["service_name"] == "shop"


def test_an_unhandled_exception_is_on_the_line_of_the_500(install: Any, canonical: Any) -> None:
    assert ask(install(site()), "/boom").status == "500 INTERNAL SERVER ERROR"
    (line,) = canonical()
    assert (line["outcome"], line["level"], line["http_route"]) == ("raised", "error", "/boom")
    assert (line["exception"]["type"], line["exception"]["message"]) == ("ValueError", "view")


@pytest.mark.parametrize(
    "config",
    [{"PROPAGATE_EXCEPTIONS": True}, {"TESTING": True}, {"DEBUG": True}],
    ids=lambda c: next(iter(c)),
)
def test_an_exception_flask_lets_through_reaches_the_server_and_the_line(
    config: dict[str, bool], install: Any, canonical: Any
) -> None:
    talk = ask(install(site(**config)), "/boom")
    assert str(talk.error) == "view"
    (line,) = canonical()
    assert (line["outcome"], line["http_response_status_code"], line["http_route"]) == (
        "raised",
        500,
        "/boom",
    )


def test_exceptions_kept_in_although_testing_are_handled(install: Any, canonical: Any) -> None:
    talk = ask(install(site(TESTING=True, PROPAGATE_EXCEPTIONS=False)), "/boom")
    assert talk.error is None
    assert [line["outcome"] for line in canonical()] == ["raised"]


@pytest.mark.parametrize("path", ["/known", "/teapot"])
def test_a_handler_that_answers_for_an_exception_completes(path: str, install: Any, canonical: Any) -> None:
    ask(install(site()), path)
    (line,) = canonical()
    assert (line["outcome"], line["level"]) == ("completed", "info")
    assert "exception" not in line


def test_an_error_handler_of_500_that_answers_418_completes(install: Any, canonical: Any) -> None:
    app = site()
    app.register_error_handler(500, lambda error: ("mine", 418))
    ask(install(app), "/boom")
    (line,) = canonical()
    assert (line["outcome"], line["http_response_status_code"]) == ("completed", 418)


def test_a_stream_that_raises_in_the_middle_is_told(install: Any, canonical: Any) -> None:
    talk = ask(install(site()), "/stream")
    assert str(talk.error) == "stream"
    (line,) = canonical()
    assert (line["outcome"], line["http_route"], line["response_bytes"]) == (
        "raised_after_headers",
        "/stream",
        1,
    )


def test_the_exchange_is_current_in_views_and_teardown(install: Any, canonical: Any) -> None:
    app = site()
    seen: list[Any] = []
    app.before_request(lambda: seen.append(obskit.current()))
    app.teardown_request(lambda error: seen.append(obskit.current()))
    ask(install(app), "/orders/7")
    assert len(set(seen)) == 1
    assert seen[0] is not None


def on_close(seen: list[Any]) -> flask.Response:
    response = flask.Response("ok")
    response.call_on_close(lambda: seen.append(obskit.current()))
    return response


def own_close(seen: list[Any]) -> flask.Response:
    class Response(flask.Response):
        def close(self) -> None:
            seen.append(obskit.current())

    return Response("ok")


def close_of_one_response(seen: list[Any]) -> flask.Response:
    response = flask.Response("ok")
    response.close = MethodType(lambda self: seen.append(obskit.current()), response)  # type: ignore[method-assign]
    return response


def own_parts(seen: list[Any]) -> flask.Response:
    class Response(flask.Response):
        def iter_encoded(self) -> Iterator[bytes]:
            seen.append(obskit.current())
            yield b"ok"

    return Response("ok")


def generated(seen: list[Any]) -> flask.Response:
    def parts() -> Iterator[str]:
        seen.append(obskit.current())
        yield "ok"

    return flask.Response(parts())


def parts_of_one_response(seen: list[Any]) -> flask.Response:
    def parts() -> Iterator[bytes]:
        seen.append(obskit.current())
        yield b"ok"

    response = flask.Response("ok")
    response.iter_encoded = parts  # type: ignore[method-assign]
    return response


def encoded_elsewhere(seen: list[Any]) -> flask.Response:
    def parts() -> Iterator[str]:
        seen.append(obskit.current())
        yield "ok"

    class Response(flask.Response):
        def iter_encoded(self) -> Iterator[bytes]:
            return werkzeug_response._iter_encoded(parts())

    return Response("ok")


def on_close_asked_late(seen: list[Any]) -> flask.Response:
    response = flask.Response("ok")

    @flask.after_this_request
    def ask(same: Any) -> Any:
        same.call_on_close(lambda: seen.append(obskit.current()))
        return same

    return response


@pytest.mark.parametrize(
    "make",
    [
        *(on_close, on_close_asked_late, own_close, close_of_one_response),
        *(own_parts, parts_of_one_response, generated, encoded_elsewhere),
    ],
)
@pytest.mark.parametrize("take", [None, 0, 1])
def test_the_exchange_is_current_wherever_a_response_runs_the_applications_code(
    make: Any, take: int | None, install: Any, canonical: Any
) -> None:
    app = flask.Flask("shop")
    seen: list[Any] = []
    app.add_url_rule("/", "made", lambda: make(seen))
    install(app)
    talk = talk_wsgi(app, make_environ("/"), take=take)
    assert talk.data == (b"" if take == 0 else b"ok")
    ran = take != 0 or make not in (own_parts, parts_of_one_response, generated, encoded_elsewhere)
    assert [exchange.http_route for exchange in seen] == ["/"] * ran
    assert len(canonical()) == 1


@pytest.mark.parametrize("method", ["GET", "HEAD"])
@pytest.mark.parametrize(
    "made", ["ok", b"ok", {"a": 1}, ("", 204), ["a"], flask.Response(["o", b"k"])], ids=str
)
def test_a_response_whose_parts_are_there_is_entered_once(
    method: str, made: Any, install: Any, canonical: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    app, bare = flask.Flask("shop"), flask.Flask("shop")
    for one in (app, bare):
        one.add_url_rule("/", "made", lambda: made)
    install(app)
    pipeline = vars(app)["_obskit_door"].pipeline
    entered: list[Any] = []
    enter = pipeline.enter
    monkeypatch.setattr(pipeline, "enter", lambda exchange: (entered.append(exchange), enter(exchange))[1])
    with_us, without = (talk_wsgi(one, make_environ("/", method)) for one in (app, bare))
    assert (with_us.data, with_us.status, with_us.headers) == (without.data, without.status, without.headers)
    bodiless = method == "HEAD" or with_us.status[:3] == "204"
    assert len(entered) == (3 if bodiless else 1)
    assert [line["outcome"] for line in canonical()] == ["completed"]


def test_an_exception_signal_outside_any_request_of_ours_is_nothing(install: Any) -> None:
    app = install(site())
    flask.got_request_exception.send(app, _async_wrapper=app.ensure_sync, exception=ValueError())


def test_an_exception_before_the_route_was_known_finds_it(install: Any, canonical: Any) -> None:
    app = site()

    @app.before_request
    def refuse() -> None:
        raise ValueError("before")

    ask(install(app), "/orders/7")
    assert [line["http_route"] for line in canonical()] == ["/orders/<int:order_id>"]


@pytest.mark.parametrize(
    ("name", "service"), [("shop", "shop"), ("__main__", None), ("app", None), ("wsgi", None)]
)
def test_a_name_that_says_nothing_is_no_service_name(name: str, service: str | None) -> None:
    assert adapter.service_name(flask.Flask(name)) == service


@pytest.mark.parametrize("case", ["no adapter", "no methods", "no rule"])
def test_a_rule_that_cannot_be_matched_again_is_no_route(case: str) -> None:
    from werkzeug.exceptions import MethodNotAllowed
    from werkzeug.routing import RequestRedirect

    app = site()
    error: Any = MethodNotAllowed() if case == "no methods" else RequestRedirect("/elsewhere")
    with app.test_request_context("/nowhere"):
        if case == "no adapter":
            flask.globals.request_ctx.url_adapter = None
        assert adapter._rule_behind(error) is None


def test_a_rule_with_a_slash_too_many_is_found_again() -> None:
    from werkzeug.routing import RequestRedirect

    app = site()
    with app.test_request_context("/orders/7/"):
        rule = adapter._rule_behind(RequestRedirect("/orders/7"))
    assert rule is not None
    assert rule.rule == "/orders/<int:order_id>"


def test_a_response_that_starts_outside_flask_has_no_rule(install: Any, canonical: Any) -> None:
    app = site()

    def refusing(environ: Any, start_response: Any) -> list[bytes]:
        start_response("403 Forbidden", [])
        return [b"no"]

    app.wsgi_app = refusing  # type: ignore[method-assign, assignment]
    ask(install(app), "/orders/7")
    assert [(line["http_route"], line["http_response_status_code"]) for line in canonical()] == [
        ("unmatched", 403)
    ]


def test_the_test_client_works_as_before(install: Any) -> None:
    client = install(site()).test_client()
    # Buffered: the client closes what it has read, as a server does.
    assert client.get("/orders/7", buffered=True).text == "ok"
    assert client.get("/nowhere", buffered=True).status_code == 404


def test_a_route_the_application_named_survives_an_exception(install: Any, canonical: Any) -> None:
    app = site()

    def named() -> str:
        exchange = obskit.current()
        assert exchange is not None
        exchange.name_route("/mine")
        raise ValueError("named")

    app.add_url_rule("/named", "named", named)
    ask(install(app), "/named")
    assert [line["http_route"] for line in canonical()] == ["/mine"]


def test_middleware_a_user_puts_around_wsgi_app_does_not_make_a_second_install_another(install: Any) -> None:
    app = install(site())
    app.wsgi_app = proxied = ProxyFix(app.wsgi_app)
    assert install(app) is app
    assert app.wsgi_app is proxied


def test_a_flask_instrumentor_makes_no_second_server_span_and_is_told(
    install: Any, spans: Any, lines: Any
) -> None:
    from opentelemetry.instrumentation.flask import FlaskInstrumentor

    app = site()
    FlaskInstrumentor().instrument_app(app)
    ask(install(app), "/orders/7")
    assert [span.name for span in spans.get_finished_spans()] == ["GET /orders/<int:order_id>"]
    assert [
        line["event"] for line in lines() if line["logger"] == "obskit" and "server_span" in line["event"]
    ] == ["server_span.taken_over"]


def test_middleware_around_a_flask_instrumentor_is_kept(install: Any, lines: Any) -> None:
    from opentelemetry.instrumentation.flask import FlaskInstrumentor

    app = site()
    FlaskInstrumentor().instrument_app(app)
    app.wsgi_app = ProxyFix(app.wsgi_app)
    install(app)
    assert isinstance(app.wsgi_app.app, ProxyFix)
    assert "server_span.second" in [line["event"] for line in lines()]


def test_installing_does_not_make_the_apps_logger(install: Any) -> None:
    app = site()
    install(app)
    assert "logger" not in vars(app)


@pytest.mark.parametrize(
    ("path", "method", "route"),
    [
        ("/orders/7", "GET", "/orders/<int:order_id>"),
        ("/orders/7", "HEAD", "/orders/<int:order_id>"),
        ("/orders/7", "DELETE", None),
        ("/orders/seven", "GET", None),
        ("/slashed", "GET", None),
        ("/slashed/", "GET", "/slashed/"),
        ("/api/inner/items/3", "GET", "/api/inner/items/<int:pk>"),
        ("/static/none.css", "GET", "/static/<path:filename>"),
        ("/nowhere", "GET", None),
        ("", "GET", None),
    ],
)
def test_the_rule_that_a_request_would_meet_can_be_asked_for(
    path: str, method: str, route: str | None
) -> None:
    assert adapter.route_for(site(), method, path) == route


# ---- an application is kept alive by those who kept it alive before, and by nobody else ----


@pytest.fixture
def _no_collector() -> Iterator[None]:
    gc.disable()
    yield
    gc.enable()


@pytest.mark.usefixtures("_no_collector")
def test_an_installed_app_is_freed_with_its_last_reference_even_after_requests(install: Any) -> None:
    app = install(site())
    assert ask(app, "/orders/7").status == "200 OK"
    known = weakref.ref(app)
    del app
    assert known() is None


@pytest.mark.usefixtures("_no_collector")
def test_whoever_serves_the_wsgi_app_alone_keeps_the_application_alive(install: Any, canonical: Any) -> None:
    served = install(site()).wsgi_app
    assert ask(served, "/orders/7").status == "200 OK"
    (line,) = canonical()
    assert line["http_route"] == "/orders/<int:order_id>"


def test_the_wsgi_app_of_an_installed_app_is_a_method_of_it_as_before(install: Any) -> None:
    class Shop(flask.Flask):
        """The shop's own."""

        def wsgi_app(self, environ: Any, start_response: Any) -> Any:
            environ["shop.seen"] = environ.get("shop.seen", 0) + 1
            return super().wsgi_app(environ, start_response)

    app = install(Shop("shop"))
    environ = make_environ("/")
    talk_wsgi(app, environ)
    assert environ["shop.seen"] == 1
    assert app.wsgi_app.__self__ is app
    assert isinstance(app, Shop)
    assert (type(app).__name__, type(app).__qualname__, type(app).__doc__, type(app).__module__) == (
        *("Shop", Shop.__qualname__, "The shop's own."),
        Shop.__module__,
    )


def test_a_sibling_the_application_makes_of_its_own_type_is_not_installed(
    install: Any, canonical: Any
) -> None:
    app = install(site())
    sibling = type(app)("sibling")
    assert ask(sibling, "/orders/7").status == "404 NOT FOUND"
    assert canonical() == []


@pytest.mark.parametrize("case", ["middleware", "final"])
def test_an_app_that_cannot_be_given_a_class_is_recorded_all_the_same(
    case: str, install: Any, canonical: Any
) -> None:
    class Final(flask.Flask):
        def __init_subclass__(cls) -> None:
            raise TypeError("nobody derives from this")

    app = Final("shop") if case == "final" else flask.Flask("shop")
    if case == "middleware":
        app.wsgi_app = ProxyFix(app.wsgi_app)  # type: ignore[method-assign]
    kind = type(app)
    assert ask(install(app), "/").status == "404 NOT FOUND"
    assert type(app) is kind
    assert [line["http_response_status_code"] for line in canonical()] == [404]


def test_the_route_of_a_request_can_be_asked_for_while_the_application_lives(install: Any) -> None:
    app = install(site())
    asked = vars(app)["_obskit_door"].pipeline.route_for
    assert asked("GET", "/orders/7") == "/orders/<int:order_id>"
    del app
    gc.collect()
    assert asked("GET", "/orders/7") is None
