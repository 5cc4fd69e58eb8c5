from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
from fastapi import APIRouter, FastAPI
from opentelemetry import trace
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.trace import SpanKind
from starlette.applications import Starlette
from starlette.background import BackgroundTask
from starlette.endpoints import HTTPEndpoint
from starlette.responses import PlainTextResponse
from starlette.routing import BaseRoute, Host, Mount, Route, Router, WebSocketRoute
from starlette.staticfiles import StaticFiles

import obskit
from obskit.adapters import starlette as adapter
from tests.support.recording import AsgiTalk, call_asgi, http_scope, websocket_scope


async def ok(request: Any) -> PlainTextResponse:
    return PlainTextResponse("ok")


async def boom(request: Any) -> PlainTextResponse:
    raise ValueError("endpoint")


class Item(HTTPEndpoint):
    async def get(self, request: Any) -> PlainTextResponse:
        return PlainTextResponse("item")


async def socket(websocket: Any) -> None:
    await websocket.accept()
    await websocket.close()


def site(files: Any = ".") -> Starlette:
    tenant = Mount(
        "/tenants/{tenant}",
        routes=[Route("/items/{item:int}", Item), Mount("/deep", routes=[Route("/", ok)])],
    )
    return Starlette(
        routes=[
            Route("/", ok),
            Route("/orders/{order_id:int}", ok, methods=["GET", "POST"]),
            Route("/files/{name:path}", ok),
            Route("/boom", boom),
            Route("/slashed/", ok),
            Mount(
                "/api",
                routes=[
                    Route("/v1/{thing}", ok),
                    Route("/", ok),
                    Route("/end/", ok),
                    Mount("/inner", Router([Route("/x", ok)])),
                ],
            ),
            tenant,
            Mount("/static", StaticFiles(directory=files)),
            Mount("/opaque", app=opaque),
            Host(
                "{sub}.example.org", Router([Mount("/hosted", routes=[Route("/{x}", ok)]), Route("/top", ok)])
            ),
            WebSocketRoute("/ws/{room}", socket),
            Mount("/sockets", routes=[WebSocketRoute("/{room}", socket)]),
        ]
    )


async def opaque(scope: Any, receive: Any, send: Any) -> None:
    await PlainTextResponse("opaque")(scope, receive, send)


def ask(app: Any, path: str, method: str = "GET", **more: Any) -> AsgiTalk:
    return call_asgi(app, http_scope(path, method, **more), patient=True)


@pytest.mark.parametrize(
    ("path", "method", "route", "status"),
    [
        ("/", "GET", "/", 200),
        ("/orders/7", "GET", "/orders/{order_id}", 200),
        ("/orders/7", "HEAD", "/orders/{order_id}", 200),
        ("/orders/7", "DELETE", "/orders/{order_id}", 405),
        ("/orders/seven", "GET", "unmatched", 404),
        ("/orders/7/", "GET", "/orders/{order_id}", 307),
        ("/slashed", "GET", "/slashed/", 307),
        ("/files/a/b/c", "GET", "/files/{name}", 200),
        ("/boom", "GET", "/boom", 500),
        ("/api/v1/x", "GET", "/api/v1/{thing}", 200),
        ("/api/", "GET", "/api/", 200),
        ("/api/end", "GET", "/api/end/", 307),
        ("/api/nothing", "GET", "unmatched", 404),
        ("/api/inner/x", "GET", "/api/inner/x", 200),
        ("/tenants/t1/items/3", "GET", "/tenants/{tenant}/items/{item}", 200),
        ("/tenants/t1/items/3", "POST", "/tenants/{tenant}/items/{item}", 405),
        ("/tenants/t1/deep/", "GET", "/tenants/{tenant}/deep/", 200),
        ("/static/there.txt", "GET", "/static/{path}", 200),
        ("/static/missing.txt", "GET", "/static/{path}", 404),
        ("/opaque/anything", "GET", "/opaque/{path}", 200),
        ("/nowhere", "GET", "unmatched", 404),
    ],
)
def test_the_route_is_the_full_template(
    path: str, method: str, route: str, status: int, install: Any, canonical: Any, tmp_path: Any
) -> None:
    (tmp_path / "there.txt").write_text("x")
    app = install(site(tmp_path))
    ask(app, path, method)
    ask(app, path, method)  # the second time from what was remembered
    assert [(line["http_route"], line["http_response_status_code"]) for line in canonical()] == [
        (route, status)
    ] * 2


@pytest.mark.parametrize(
    ("path", "route"), [("/hosted/1", "/hosted/{x}"), ("/top", "/top"), ("/nothing", "unmatched")]
)
def test_a_host_is_no_part_of_the_route(path: str, route: str, install: Any, canonical: Any) -> None:
    ask(install(site()), path, headers=[(b"host", b"a.example.org")])
    assert [line["http_route"] for line in canonical()] == [route]


@pytest.mark.parametrize(
    ("path", "route"),
    [
        ("/front/api/v1/x", "/api/v1/{thing}"),
        ("/front/orders/7", "/orders/{order_id}"),
        ("/front/slashed", "/slashed/"),
        ("/orders/7", "/orders/{order_id}"),
    ],
)
def test_the_prefix_the_server_serves_under_is_no_part_of_the_route(
    path: str, route: str, install: Any, canonical: Any
) -> None:
    ask(install(site()), path, root_path="/front")
    assert [line["http_route"] for line in canonical()] == [route]


@pytest.mark.parametrize(
    ("path", "route", "status"),
    [("/ws/7", "/ws/{room}", 101), ("/sockets/7", "/sockets/{room}", 101), ("/nothing", "unmatched", 403)],
)
def test_a_websocket_has_a_route_and_a_line(
    path: str, route: str, status: int, install: Any, canonical: Any
) -> None:
    call_asgi(install(site()), websocket_scope(path), [{"type": "websocket.connect"}])
    (line,) = canonical()
    assert (line["http_route"], line["http_response_status_code"], line["http_request_method"]) == (
        route,
        status,
        "GET",
    )
    assert line["outcome"] == "completed"


def test_mounts_deeper_than_any_house_end_without_a_route_but_with_a_line(
    install: Any, canonical: Any
) -> None:
    inner: BaseRoute = Route("/leaf", ok)
    for depth in range(12):
        inner = Mount(f"/m{depth}", routes=[inner])
    path = "".join(f"/m{depth}" for depth in reversed(range(12))) + "/leaf"
    assert ask(install(Starlette(routes=[inner])), path).status == 200
    (line,) = canonical()
    assert line["http_response_status_code"] == 200


def test_mounts_with_a_parameter_are_not_remembered_by_value() -> None:
    app = site()
    finder = adapter.RouteFinder(app.router)
    for tenant in range(100):
        scope = http_scope(f"/tenants/{tenant}/none", root_path=f"/tenants/{tenant}", app_root_path="")
        assert finder.find(scope, 404) is None
    finder.find(http_scope("/api/none", root_path="/api", app_root_path=""), 404)
    assert list(finder._mounts) == ["/api"]


def test_a_root_path_that_is_not_below_the_apps_own_is_no_mount() -> None:
    finder = adapter.RouteFinder(site().router)
    assert finder.find(http_scope("/x", root_path="/a", app_root_path="/b"), 404) is None


# ---- FastAPI --------------------------------------------------------------------------------------------------


def shop() -> FastAPI:
    app = FastAPI(title="shop")
    router = APIRouter(prefix="/v1")

    @router.get("/items/{item_id}")
    async def item(item_id: int) -> str:
        return "item"

    @router.get("/slashed/")
    async def slashed() -> str:
        return "slashed"

    @app.get("/boom")
    async def failing() -> None:
        raise ValueError("endpoint")

    @app.get("/sync/{x}")
    def sync(x: str) -> str:
        exchange = obskit.current()
        assert exchange is not None
        return exchange.method

    @app.exception_handler(KeyError)
    async def teapot(request: Any, error: KeyError) -> PlainTextResponse:
        return PlainTextResponse("teapot", 418)

    @app.get("/known")
    async def known() -> None:
        raise KeyError("known")

    app.add_route("/plain/{x}", ok)
    app.include_router(router, prefix="/api")
    sub = FastAPI()
    sub.include_router(router, prefix="/sub")
    app.mount("/mounted/{tenant}", sub)
    return app


@pytest.mark.parametrize(
    ("path", "route", "status"),
    [
        ("/api/v1/items/3", "/api/v1/items/{item_id}", 200),
        ("/api/v1/items/three", "/api/v1/items/{item_id}", 422),
        ("/api/v1/slashed", "/api/v1/slashed/", 307),
        ("/mounted/t1/sub/v1/items/3", "/mounted/{tenant}/sub/v1/items/{item_id}", 200),
        ("/sync/1", "/sync/{x}", 200),
        ("/boom", "/boom", 500),
        ("/known", "/known", 418),
        ("/docs", "/docs", 200),
        ("/openapi.json", "/openapi.json", 200),
        ("/plain/1", "/plain/{x}", 200),
        ("/nothing", "unmatched", 404),
    ],
)
def test_routes_of_included_routers_and_mounted_apps_are_whole(
    path: str, route: str, status: int, install: Any, canonical: Any
) -> None:
    ask(install(shop()), path)
    (line,) = canonical()
    assert (line["http_route"], line["http_response_status_code"]) == (route, status)
    assert line["service_name"] == "shop"


def test_a_handler_that_answers_for_an_exception_completes(install: Any, canonical: Any) -> None:
    ask(install(shop()), "/known")
    (line,) = canonical()
    assert (line["outcome"], line["level"]) == ("completed", "info")
    assert "exception" not in line


@pytest.mark.parametrize("make", [site, shop])
def test_an_exception_is_on_the_line_of_the_500_and_reaches_the_server(
    make: Any, install: Any, canonical: Any
) -> None:
    talk = ask(install(make()), "/boom")
    assert (talk.status, type(talk.error)) == (500, ValueError)
    (line,) = canonical()
    assert (line["outcome"], line["level"], line["exception"]["type"]) == ("raised", "error", "ValueError")
    assert line["exception"]["message"] == "endpoint"


def test_background_work_that_fails_leaves_the_response_completed(install: Any, canonical: Any) -> None:
    def work() -> None:
        raise ValueError("background")

    async def endpoint(request: Any) -> PlainTextResponse:
        return PlainTextResponse("ok", background=BackgroundTask(work))

    ask(install(Starlette(routes=[Route("/", endpoint)])), "/")
    (line,) = canonical()
    assert (line["outcome"], line["http_response_status_code"], line["level"]) == ("completed", 200, "error")
    assert line["exception"]["message"] == "background"


# ---- what is around the app -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("make", "framework", "name"),
    [
        (Starlette, "starlette", None),
        (FastAPI, "fastapi", None),
        (shop, "fastapi", "shop"),
        (type("Sub", (Starlette,), {}), "starlette", None),
    ],
)
def test_framework_and_service_name(make: Any, framework: str, name: str | None) -> None:
    app = make()
    assert (adapter.framework(app), adapter.service_name(app)) == (framework, name)


def test_middleware_added_after_install_is_inside_the_door(install: Any, canonical: Any) -> None:
    app = install(site())

    class Refusing:
        def __init__(self, app: Any) -> None:
            self.app = app

        async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
            await PlainTextResponse("no", 403)(scope, receive, send)

    app.add_middleware(Refusing)
    assert ask(app, "/orders/7").status == 403
    assert [line["http_response_status_code"] for line in canonical()] == [403]


def test_a_redirect_of_something_else_has_no_route(install: Any, canonical: Any) -> None:
    app = install(site())

    class Moving:
        def __init__(self, app: Any) -> None:
            self.app = app

        async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
            await PlainTextResponse("", 307, {"location": "https://example.org/"})(scope, receive, send)

    app.add_middleware(Moving)
    for path in ("/elsewhere", "/elsewhere/"):
        ask(app, path)
    assert [line["http_route"] for line in canonical()] == ["unmatched", "unmatched"]


def test_starlettes_own_tracing_middleware_makes_no_second_server_span(install: Any, spans: Any) -> None:
    from starlette.middleware.opentelemetry import OpenTelemetryMiddleware

    app = site()
    app.add_middleware(OpenTelemetryMiddleware)
    ask(install(app), "/")
    assert [span.kind for span in spans.get_finished_spans()] == [SpanKind.SERVER]


def test_a_fastapi_instrumentor_makes_no_second_server_span_and_is_told(
    install: Any, spans: Any, lines: Any
) -> None:
    from opentelemetry.instrumentation.fastapi import FastAPIInstrumentor

    app = FastAPI()
    app.add_api_route("/", lambda: "ok")
    FastAPIInstrumentor.instrument_app(app)
    ask(install(app), "/")
    assert [span.kind for span in spans.get_finished_spans()] == [SpanKind.SERVER]
    (warning,) = [line for line in lines() if line["event"] == "server_span.taken_over"]
    assert warning["middleware"] == "opentelemetry.instrumentation.asgi.OpenTelemetryMiddleware"


def test_a_provider_given_to_fastapi_is_the_one_used(install: Any) -> None:
    exporter = InMemorySpanExporter()
    provider = TracerProvider(shutdown_on_exit=False)
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    app = FastAPI(telemetry={"tracer_provider": provider})
    app.get("/x/{y}")(lambda y: y)
    ask(install(app), "/x/1")
    (span,) = exporter.get_finished_spans()
    assert (span.name, span.kind) == ("GET /x/{y}", trace.SpanKind.SERVER)


def test_spans_go_to_the_provider_that_was_given_to_starlettes_own_middleware(
    install: Any, spans: InMemorySpanExporter
) -> None:
    from starlette.middleware.opentelemetry import OpenTelemetryMiddleware

    exporter = InMemorySpanExporter()
    provider = TracerProvider(shutdown_on_exit=False)
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    app = Starlette(routes=[Route("/", ok)])
    app.add_middleware(OpenTelemetryMiddleware, tracer_provider=provider)
    ask(install(app), "/")
    assert [span.name for span in exporter.get_finished_spans()] == ["GET /"]
    assert spans.get_finished_spans() == ()


def test_a_provider_that_makes_nothing_is_no_place_for_our_spans(
    install: Any, spans: InMemorySpanExporter
) -> None:
    from starlette.middleware.opentelemetry import OpenTelemetryMiddleware

    app = Starlette(routes=[Route("/", ok)])
    app.add_middleware(OpenTelemetryMiddleware, tracer_provider=trace.NoOpTracerProvider())
    ask(install(app), "/")
    assert [span.name for span in spans.get_finished_spans()] == ["GET /"]


def test_a_fastapi_app_below_a_plain_callable_has_one_span(install: Any) -> None:
    exporter = InMemorySpanExporter()
    provider = TracerProvider(shutdown_on_exit=False)
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    trace.set_tracer_provider(provider)
    first, second = shop(), site()

    async def front(scope: Any, receive: Any, send: Any) -> None:
        await (first if scope["path"].startswith("/api") else second)(scope, receive, send)

    served = install(front)
    ask(served, "/api/v1/items/3")
    ask(served, "/orders/7")
    ask(served, "/orders/8")
    assert [span.name for span in exporter.get_finished_spans()] == [
        "GET /api/v1/items/{item_id}",
        "GET /orders/{order_id}",
        "GET /orders/{order_id}",
    ]


def test_a_fastapi_app_mounted_without_an_install_of_its_own_opens_no_span(install: Any, spans: Any) -> None:
    ask(install(shop()), "/mounted/t1/sub/v1/items/3")
    assert [span.name for span in spans.get_finished_spans()] == [
        "GET /mounted/{tenant}/sub/v1/items/{item_id}"
    ]


def test_a_template_that_is_no_text_is_no_route() -> None:
    assert adapter._template(object(), {}) is None


def test_the_context_of_another_route_says_nothing_of_this_one() -> None:
    other = SimpleNamespace(original_route=object(), starlette_route=object(), path_format="/other")
    route = Route("/this/{x}", ok)
    assert adapter._template(route, {"fastapi": {"effective_route_context": other}}) == "/this/{x}"


def test_the_openapi_schema_is_what_it_was(install: Any) -> None:
    assert install(shop()).openapi() == shop().openapi()


@pytest.mark.parametrize(
    ("path", "method", "route"),
    [
        ("/", "GET", "/"),
        ("/orders/7", "HEAD", "/orders/{order_id}"),
        ("/orders/7", "DELETE", None),
        ("/orders/seven", "GET", None),
        ("/files/a/b/c", "GET", "/files/{name}"),
        ("/api/", "GET", "/api/"),
        ("/api/v1/x", "GET", "/api/v1/{thing}"),
        ("/api/inner/x", "GET", "/api/inner/x"),
        ("/api/nothing", "GET", None),
        ("/tenants/t1/items/3", "GET", "/tenants/{tenant}/items/{item}"),
        ("/tenants/t1/deep/", "GET", "/tenants/{tenant}/deep/"),
        ("/static/there.txt", "GET", "/static/{path}"),
        ("/opaque/anything", "GET", "/opaque/{path}"),
        ("/hosted/1", "GET", "/hosted/{x}"),
        ("/ws/7", "GET", "/ws/{room}"),
        ("/sockets/7", "GET", "/sockets/{room}"),
        ("/nowhere", "GET", None),
        ("", "GET", None),
    ],
)
def test_the_template_that_a_request_would_meet_can_be_asked_for(
    path: str, method: str, route: str | None, tmp_path: Any
) -> None:
    assert adapter.route_for(site(tmp_path), method, path) == route


@pytest.mark.parametrize(
    ("path", "route"),
    [
        ("/api/v1/items/3", "/api/v1/items/{item_id}"),
        ("/mounted/t1/sub/v1/items/3", "/mounted/{tenant}/sub/v1/items/{item_id}"),
        ("/sync/1", "/sync/{x}"),
        ("/docs", "/docs"),
        ("/plain/1", "/plain/{x}"),
        ("/nothing", None),
    ],
)
def test_so_can_those_of_included_routers_and_mounted_apps(path: str, route: str | None) -> None:
    assert adapter.route_for(shop(), "GET", path) == route


def test_mounts_deeper_than_any_house_can_be_asked_for_without_end() -> None:
    app = Starlette()
    app.routes.append(Mount("/again", app))
    assert adapter.route_for(app, "GET", "/again" * 30) is None
