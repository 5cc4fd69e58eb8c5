"""The composition root: what it accepts, what it refuses, what it undoes."""

from __future__ import annotations

import copy
import functools
import inspect
import logging
import re
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from opentelemetry import trace

import obskit
from obskit.asgi import AsgiDoor
from obskit.errors import InstallError
from obskit.install import _installed
from obskit.wsgi import WsgiDoor
from tests.support.kinds import (
    KINDS,
    asgi_app,
    ask,
    counted,
    django_wsgi,
    starlette_app,
    wsgi_app,
)
from tests.support.recording import body, call_asgi, make_environ, make_pipeline, replying, start, talk_wsgi


class WsgiObject:
    name = "object"

    def __call__(self, environ: Any, start_response: Any, extra: Any = None) -> Any:
        return wsgi_app(environ, start_response)

    def method(self, environ: Any, start_response: Any) -> Any:
        return wsgi_app(environ, start_response)


class AsgiObject:
    name = "object"

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        await asgi_app(scope, receive, send)

    async def method(self, scope: Any, receive: Any, send: Any) -> None:
        await asgi_app(scope, receive, send)


class AsgiReturningAwaitable:
    def __call__(self, scope: Any, receive: Any, send: Any) -> Any:
        return asgi_app(scope, receive, send)


class AsgiWithAnything:
    async def __call__(self, *args: Any) -> None:
        await asgi_app(*args)


class WsgiPerCall:
    def __init__(self, environ: Any, start_response: Any) -> None:
        self.start_response = start_response

    def __iter__(self) -> Any:
        self.start_response("200 OK", [])
        yield b"ok"


class AsgiPerCall:
    def __init__(self, scope: Any, receive: Any, send: Any) -> None:
        self.send = send

    def __await__(self) -> Any:
        return asgi_app(None, None, self.send).__await__()


def wsgi_with_setting(setting: int, environ: Any, start_response: Any) -> Any:
    return wsgi_app(environ, start_response)


async def asgi_with_setting(setting: int, scope: Any, receive: Any, send: Any) -> None:
    await asgi_app(scope, receive, send)


def anything(*args: Any) -> Any:
    return asgi_app(*args) if len(args) == 3 else wsgi_app(*args)


WSGI = {
    "function": wsgi_app,
    "object": WsgiObject(),
    "method": WsgiObject().method,
    "class": WsgiPerCall,
    "partial": functools.partial(wsgi_with_setting, 1),
    "partial of an object": functools.partial(WsgiObject()),
    "lambda": lambda environ, start_response: [*wsgi_app(environ, start_response)],
    "wrapped": functools.wraps(wsgi_app)(lambda *args: [*wsgi_app(*args)]),
}
ASGI = {
    "function": asgi_app,
    "object": AsgiObject(),
    "method": AsgiObject().method,
    "class": AsgiPerCall,
    "partial": functools.partial(asgi_with_setting, 1),
    "partial of an object": functools.partial(AsgiObject()),
    "object that returns an awaitable": AsgiReturningAwaitable(),
    "object that takes anything": AsgiWithAnything(),
    "lambda": lambda environ, receive, send: asgi_app({}, receive, send),
}


# ---- WSGI or ASGI -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("app", WSGI.values(), ids=WSGI)
def test_a_callable_of_two_is_wsgi(app: Any, install: Any, canonical: Any) -> None:
    served = install(app)
    assert isinstance(served, WsgiDoor)
    assert talk_wsgi(served).data == b"ok"
    (line,) = canonical()
    assert (line["http_response_status_code"], line["outcome"]) == (200, "completed")


@pytest.mark.parametrize("app", ASGI.values(), ids=ASGI)
def test_a_callable_of_three_is_asgi(app: Any, install: Any, canonical: Any) -> None:
    served = install(app)
    assert isinstance(served, AsgiDoor)
    assert call_asgi(served).body == b"ok"
    (line,) = canonical()
    assert (line["http_response_status_code"], line["outcome"]) == (200, "completed")


@pytest.mark.parametrize(
    "app",
    [anything, lambda scope: None, lambda: None, dict, print, SimpleNamespace],
    ids=["*args", "one", "none", "dict", "print", "namespace"],
)
def test_a_callable_that_does_not_show_what_it_is_has_to_be_told(app: Any, install: Any) -> None:
    with pytest.raises(
        InstallError, match=r"cannot tell WSGI from ASGI for .*: pass interface='wsgi' or interface='asgi'"
    ):
        install(app)


@pytest.mark.parametrize(("interface", "door"), [("wsgi", WsgiDoor), ("asgi", AsgiDoor)])
def test_interface_decides_for_a_callable_of_anything(interface: str, door: type, install: Any) -> None:
    served = install(anything, interface=interface)
    assert type(served) is door
    assert (talk_wsgi(served).data if interface == "wsgi" else call_asgi(served).body) == b"ok"


@pytest.mark.parametrize(
    "app", [None, 7, "shop:app", {}, [], object(), sys, make_environ()], ids=lambda app: type(app).__name__
)
def test_what_cannot_be_called_is_no_application(app: Any, install: Any) -> None:
    with pytest.raises(InstallError, match="is no application: expected a Flask, FastAPI or Starlette app"):
        install(app)


def test_an_object_that_cannot_be_shown_is_named_by_its_type(install: Any) -> None:
    class Unshowable:
        def __repr__(self) -> str:
            raise RuntimeError

    with pytest.raises(InstallError, match=r"^<Unshowable> is no application"):
        install(Unshowable())
    with pytest.raises(InstallError, match=r"^'x{116}\.\.\. is no application"):
        install("x" * 1000)


@pytest.mark.parametrize("interface", ["WSGI", "http", "", 3, []])
@pytest.mark.parametrize("app", [wsgi_app, asgi_app])
def test_an_unknown_interface_is_refused(app: Any, interface: Any, install: Any) -> None:
    with pytest.raises(InstallError, match=r"option 'interface': saw .*, expected one of wsgi, asgi"):
        install(app, interface=interface)


@pytest.mark.parametrize("kind", KINDS)
def test_the_other_interface_of_a_known_framework_is_refused(kind: str, install: Any) -> None:
    make, interface, _ = KINDS[kind]
    if kind.startswith("plain"):
        return
    other = "asgi" if interface == "wsgi" else "wsgi"
    with pytest.raises(InstallError, match=rf"option 'interface': saw '{other}', but .* speaks {interface}"):
        install(make(), interface=other)


# ---- the user's own set-up --------------------------------------------------------------------------------------


def test_a_tracer_provider_the_user_made_is_kept_used_and_outlives_us(install: Any, spans: Any) -> None:
    theirs = trace.get_tracer_provider()
    app = install(wsgi_app)
    assert trace.get_tracer_provider() is theirs
    talk_wsgi(app)
    obskit.shutdown()
    assert trace.get_tracer_provider() is theirs
    trace.get_tracer("mine").start_span("after").end()
    finished = spans.get_finished_spans()
    assert [span.name for span in finished] == ["GET", "after"]
    assert finished[0].resource.attributes["service.name"] == "mine"


def test_two_apps_in_one_process_share_the_provider_and_have_metrics_of_their_own(install: Any) -> None:
    first = install(wsgi_app)
    provider = trace.get_tracer_provider()
    second = install(functools.partial(wsgi_app))
    assert trace.get_tracer_provider() is provider
    talk_wsgi(first)
    assert (counted(first, "wsgi"), counted(second, "wsgi")) == (1, 0)


def test_attributes_of_a_wrapped_app_are_reachable(install: Any) -> None:
    assert install(WsgiObject()).name == "object"
    assert install(AsgiObject()).name == "object"
    assert callable(install(django_wsgi()).load_middleware)


@pytest.mark.parametrize("copied", [copy.copy, copy.deepcopy])
@pytest.mark.parametrize(
    "door", [AsgiDoor(asgi_app, make_pipeline()[0]), WsgiDoor(wsgi_app, make_pipeline()[0])]
)
def test_what_is_served_may_be_copied(copied: Any, door: Any) -> None:
    assert copied(door).app is door.app
    assert copied(door).pipeline is door.pipeline


@pytest.mark.parametrize("kind", KINDS)
def test_a_server_tells_the_interface_of_what_is_served_as_before(kind: str, install: Any) -> None:
    make, interface, _ = KINDS[kind]
    assert inspect.iscoroutinefunction(install(make()).__call__) == (interface == "asgi")


# ---- what is said at start --------------------------------------------------------------------------------------


@pytest.fixture
def started(lines: Any) -> Any:
    """The lines written until each install of this test has begun to serve."""

    def read() -> list[dict[str, Any]]:
        for pipeline in _installed:
            pipeline.begin()
        found: list[dict[str, Any]] = lines()
        return found

    return read


def test_a_process_that_serves_nothing_has_its_output_for_itself(install: Any, lines: Any) -> None:
    install(wsgi_app, service="shop")
    assert lines() == [], "a command of the application may import it: what it prints is somebody's input"


def test_the_start_says_what_was_set_up(install: Any, started: Any) -> None:
    install(wsgi_app, service="shop", environment="test", service_version="1.2")
    (line,) = started()
    assert (line["event"], line["logger"], line["level"]) == ("obskit.installed", "obskit", "info")
    assert (line["service_name"], line["deployment_environment"], line["service_version"]) == (
        "shop",
        "test",
        "1.2",
    )
    assert (line["interface"], line["framework"], line["metrics_path"]) == ("wsgi", "none", "/metrics")
    assert line["traces_exporter"] == "none"
    assert "OTEL_EXPORTER_OTLP_ENDPOINT" in line["traces_note"]


def test_spans_that_go_somewhere_need_no_note(install: Any, started: Any) -> None:
    install(wsgi_app, otlp_endpoint="http://127.0.0.1:9")
    (line,) = started()
    assert line["traces_exporter"] == "otlp/http"
    assert "traces_note" not in line


def test_a_console_handler_of_the_user_is_kept_and_that_is_said(install: Any, started: Any) -> None:
    root = logging.getLogger()
    handler = logging.StreamHandler(sys.stderr)
    root.addHandler(handler)
    try:
        install(wsgi_app)
        assert handler in root.handlers
        (line,) = started()
        assert "capture_logs='all'" in line["logging_note"]
    finally:
        obskit.shutdown()
        root.removeHandler(handler)


@pytest.mark.parametrize(
    ("options", "environ", "expected"),
    [
        ({}, {}, ("unknown_service", "", "")),
        ({"service": "a"}, {"OTEL_SERVICE_NAME": "b"}, ("a", "", "")),
        ({}, {"OTEL_SERVICE_NAME": " b ", "OTEL_RESOURCE_ATTRIBUTES": "service.name=c"}, ("b", "", "")),
        (
            {},
            {
                "OTEL_RESOURCE_ATTRIBUTES": "service.name=c, service.version = 3,junk,deployment.environment.name=e"
            },
            ("c", "3", "e"),
        ),
        ({}, {"OTEL_RESOURCE_ATTRIBUTES": "deployment.environment=old"}, ("unknown_service", "", "old")),
        (
            {"environment": "x", "service_version": "y"},
            {"OTEL_RESOURCE_ATTRIBUTES": "service.version=3,deployment.environment.name=e"},
            ("unknown_service", "y", "x"),
        ),
        ({}, {"OBSKIT_SERVICE": "d", "OTEL_SERVICE_NAME": "b"}, ("d", "", "")),
    ],
)
def test_the_resource_comes_from_options_then_otel_variables(
    options: Any, environ: Any, expected: Any, install: Any, started: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in environ.items():
        monkeypatch.setenv(name, value)
    install(wsgi_app, **options)
    (line,) = started()
    assert (line["service_name"], line["service_version"], line["deployment_environment"]) == expected
    resource = trace.get_tracer_provider().resource.attributes  # type: ignore[attr-defined]
    assert resource["service.name"] == expected[0]


@pytest.mark.parametrize("kind", ["flask", "fastapi", "starlette", "django wsgi"])
def test_a_route_of_the_app_hidden_by_the_metrics_path_is_warned_of(
    kind: str, install: Any, lines: Any
) -> None:
    app = KINDS[kind][0]()
    if kind == "flask":
        app.add_url_rule("/metrics", view_func=lambda: "mine", endpoint="metrics")
    elif kind in ("fastapi", "starlette"):
        app.add_route("/metrics", lambda request: None)
    install(app)
    (warning,) = [line for line in lines() if line["level"] == "warning"]
    assert (warning["event"], warning["path"]) == ("metrics_path.shadows_route", "/metrics")
    assert "metrics_path" in warning["do"]


@pytest.mark.parametrize("kind", KINDS)
def test_a_metrics_path_nobody_else_serves_is_not_warned_of(kind: str, install: Any, started: Any) -> None:
    install(KINDS[kind][0](), metrics_path="/-/internal/metrics")
    assert [line["level"] for line in started()] == ["info"]


def test_an_instrumentation_that_fails_is_counted_and_the_app_runs(
    install: Any, started: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    from obskit.signals import instrumentation

    switched = instrumentation.Switched(
        ["requests"], {"httpx": "wants 1, found 0"}, [("redis", ValueError("old"))]
    )
    monkeypatch.setattr(instrumentation, "switch_on", lambda disabled, provider, later: switched)
    app = install(wsgi_app, instrumentation=True)
    told, installed = started()
    assert (told["event"], told["stage"]) == ("obskit.internal_error", "instrumentation.redis")
    assert installed["instrumentations"] == ["requests"]
    assert installed["instrumentations_skipped"] == {"httpx": "wants 1, found 0"}
    page = talk_wsgi(app, make_environ("/metrics")).data.decode()
    assert 'obskit_internal_errors_total{stage="instrumentation.redis"} 1.0' in page


# ---- another project's distribution -----------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["obskit", "OBSKIT"])
def test_a_foreign_distribution_of_that_name_is_refused(
    name: str, tmp_path: Path, install: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / f"{name}-1.1.0.dist-info"
    folder.mkdir()
    (folder / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.1.0\n")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(
        InstallError, match=r"distribution 'obskit' 1\.1\.0 is installed.*pip uninstall"
    ) as raised:
        install(wsgi_app)
    assert "pip install obskit-web" in str(raised.value)
    assert re.search(r"install obskit(?!-web)", str(raised.value).replace("uninstall", "")) is None


def test_a_starlette_router_inside_a_plain_callable_names_the_route(install: Any, canonical: Any) -> None:
    inner = starlette_app()

    async def outer(scope: Any, receive: Any, send: Any) -> None:
        await inner(scope, receive, send)

    served = install(outer)
    assert ask(served, "asgi") == 200
    assert [line["http_route"] for line in canonical()] == ["/orders/{order_id}"]


def test_without_starlette_in_the_process_a_plain_callable_has_no_router(
    install: Any, canonical: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delitem(sys.modules, "starlette", raising=False)
    served = install(replying(start(), body(b"ok")))
    assert served.route_of is None
    assert ask(served, "asgi") == 200
    assert [line["http_route"] for line in canonical()] == ["unmatched"]
