"""Which route, method and status: ordinary clients, one request each."""

from __future__ import annotations

from tests.conformance import checks
from tests.conformance.client import Caller, Reply
from tests.conformance.model import UNMATCHED, Case, Expect, differs

NO_ROUTER = "a plain callable has no router that could redirect"
NO_CLASSES = "a plain callable has no class-based views"
NO_MOUNT = "{} has no mounts: a sub-app is included or behind a dispatcher of its own"


def _brew(caller: Caller) -> Reply:
    request_id = caller.new_id()
    with caller.connect() as connection:
        connection.send(caller.head_of("BREW", "/hello", request_id, "Connection: close"))
        status, _ = connection.read_response()
    return Reply(request_id, status)


BAD_ID = "spaces and " + "x" * 200

CASES = [
    Case(
        "ok",
        lambda caller: caller.get("/hello"),
        Expect(
            "/hello",
            checks=(
                checks.reply_is(b"hello"),
                checks.no_parent,
                checks.error_type(""),
                checks.path_is("/hello"),
                checks.timestamp_is_utc,
                checks.started_with_the_client,
            ),
        ),
    ),
    Case(
        "path_parameter",
        lambda caller: caller.get("/orders/7?q=secret"),
        Expect("/orders/{order_id:int}", checks=(checks.path_is("/orders/7"),)),
    ),
    Case(
        "not_found_by_the_app",
        lambda caller: caller.get("/orders/999"),
        Expect("/orders/{order_id:int}", status=404, checks=(checks.error_type(""),)),
    ),
    Case("not_found_unrouted", lambda caller: caller.get("/nowhere/7"), Expect(UNMATCHED, status=404)),
    Case(
        "method_not_allowed",
        lambda caller: caller.request("POST", "/hello"),
        Expect("/hello", method="POST", status=405),
    ),
    Case(
        "raise",
        lambda caller: caller.get("/boom"),
        Expect(
            "/boom", status=500, outcome="raised", raises="ValueError", checks=(checks.error_type("500"),)
        ),
        shows="raised_after_headers",
    ),
    Case("custom_exception_handler", lambda caller: caller.get("/teapot"), Expect("/teapot", status=418)),
    Case("redirect", lambda caller: caller.get("/redirect"), Expect("/redirect", status=302)),
    Case(
        "slash_redirect",
        lambda caller: caller.get("/items"),
        Expect("/items/", status=307),
        not_for={"plain-asgi": NO_ROUTER, "plain-wsgi": NO_ROUTER},
        differs={
            "flask": differs("Werkzeug keeps the method with 308", status=308),
            "django-asgi": differs("CommonMiddleware answers 301", status=301),
            "django-wsgi": differs("CommonMiddleware answers 301", status=301),
        },
    ),
    Case(
        "head",
        lambda caller: caller.request("HEAD", "/hello"),
        Expect("/hello", method="HEAD", checks=(checks.no_body,)),
        shows="truncated_response",
    ),
    Case(
        "options",
        lambda caller: caller.request("OPTIONS", "/hello"),
        Expect("/hello", method="OPTIONS", status=405),
        differs={"flask": differs("Flask answers OPTIONS by itself", status=200)},
    ),
    Case(
        "no_content",
        lambda caller: caller.get("/empty"),
        Expect("/empty", status=204, checks=(checks.no_body,)),
        shows="no_response",
    ),
    Case(
        "not_modified",
        lambda caller: caller.get("/not-modified"),
        Expect("/not-modified", status=304, checks=(checks.no_body,)),
        shows="truncated_response",
    ),
    Case(
        "unknown_method",
        _brew,
        Expect(
            "/hello",
            method="_OTHER",
            status=405,
            checks=(checks.span_has(http__request__method_original="BREW"),),
        ),
        differs={
            "uvicorn": differs("httptools knows a fixed list of methods: 400, and no app", telemetry=False),
            "uvicorn-uvloop": differs("as on uvicorn", telemetry=False),
            "gunicorn-uvicorn": differs("as on uvicorn", telemetry=False),
        },
    ),
    Case(
        "mounted_sub_app",
        lambda caller: caller.get("/sub/things/a"),
        Expect("/sub/things/{thing}"),
        not_for={
            "flask": NO_MOUNT.format("Flask"),
            "django-asgi": NO_MOUNT.format("Django"),
            "django-wsgi": NO_MOUNT.format("Django"),
            "plain-asgi": NO_MOUNT.format("a plain callable"),
            "plain-wsgi": NO_MOUNT.format("a plain callable"),
        },
    ),
    Case(
        "mounted_sub_app_with_an_install_of_its_own",
        lambda caller: caller.get("/installed/things/a"),
        Expect("/installed/things/{thing}"),
        not_for={
            "flask": NO_MOUNT.format("Flask"),
            "django-asgi": NO_MOUNT.format("Django"),
            "django-wsgi": NO_MOUNT.format("Django"),
            "plain-asgi": NO_MOUNT.format("a plain callable"),
            "plain-wsgi": NO_MOUNT.format("a plain callable"),
        },
    ),
    # FastAPI: routers in a router; Starlette: mounts in a mount; Flask: a blueprint in a blueprint;
    # Django: include() in include(); plain: what the app itself calls its route.
    Case("included_router", lambda caller: caller.get("/api/v1/things/a"), Expect("/api/v1/things/{thing}")),
    Case(
        "included_router_method_not_allowed",
        lambda caller: caller.request("DELETE", "/api/v1/things/a"),
        Expect("/api/v1/things/{thing}", method="DELETE", status=405),
        not_for={
            "django-asgi": "this view of the Django app takes every method",
            "django-wsgi": "this view of the Django app takes every method",
        },
    ),
    Case(
        "included_router_not_found",
        lambda caller: caller.get("/api/v1/nothing/a"),
        Expect(UNMATCHED, status=404),
    ),
    Case("regex_route", lambda caller: caller.get("/articles/2026/"), Expect("/articles/{year:year}/")),
    Case(
        "regex_route_no_match", lambda caller: caller.get("/articles/20266/"), Expect(UNMATCHED, status=404)
    ),
    Case(
        "class_based_view",
        lambda caller: caller.get("/class-view"),
        Expect("/class-view"),
        not_for={"plain-asgi": NO_CLASSES, "plain-wsgi": NO_CLASSES},
    ),
    Case(
        "class_based_view_method_not_allowed",
        lambda caller: caller.request("PATCH", "/class-view"),
        Expect("/class-view", method="PATCH", status=405),
        not_for={"plain-asgi": NO_CLASSES, "plain-wsgi": NO_CLASSES},
    ),
    Case(
        "unicode_path",
        lambda caller: caller.get("/greet/J%C3%B6rg%20%F0%9F%8C%8D"),
        Expect(
            "/greet/{name}",
            checks=(checks.path_is("/greet/Jörg 🌍"), checks.reply_is("hello Jörg 🌍".encode())),
        ),
    ),
    Case(
        "percent_encoded_path",
        lambda caller: caller.get("/greet/100%25%3Fa%3Db"),
        Expect(
            "/greet/{name}",
            checks=(checks.path_is("/greet/100%25%3Fa%3Db"), checks.reply_is(b"hello 100%?a=b")),
        ),
    ),
    Case(
        "unicode_route",
        lambda caller: caller.get("/gr%C3%BC%C3%9Fe/a"),
        Expect("/grüße/{name}", checks=(checks.path_is("/grüße/a"),)),
    ),
    Case("path_not_utf8", lambda caller: caller.get("/greet/%ff%fe"), Expect("/greet/{name}")),
    Case(
        "request_id_malformed",
        lambda caller: caller.get("/hello", send_id=False, headers={"X-Request-ID": BAD_ID}),
        Expect("/hello", checks=(checks.id_is_the_trace_id,)),
    ),
    Case(
        "request_id_absent",
        lambda caller: caller.get("/hello", send_id=False),
        Expect("/hello", checks=(checks.id_is_the_trace_id,)),
    ),
]
