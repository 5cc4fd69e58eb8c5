"""In the process that runs a framework's own tests: obskit on every application they make.

Loaded there by name, and by a `.pth` file in the suite's virtual environment in each process that the tests start.
It does nothing unless OBSKIT_TRANSPARENCY asks for it. Everything here is the harness's; of obskit it calls `install`,
with no option, as a user does.

An application made within a test is installed for that test: when it ends, what was installed is shut down, so that
each test sees a process of its own as far as logging and tracing go. Applications made while modules are imported stay
installed to the end.
"""

from __future__ import annotations

import atexit
import functools
import importlib.abc
import importlib.util
import json
import os
import sys
from collections import Counter
from typing import Any

INSTALLED, BARE = "installed", "bare"
MODE = os.environ.get("OBSKIT_TRANSPARENCY", BARE)
# "header" or "swallow": the doors are broken on purpose, to see whether the comparison notices.
BROKEN = os.environ.get("OBSKIT_TRANSPARENCY_BROKEN", "")
# "native spans off": bare, but with the framework's own spans switched off as obskit does it.
CONTROL = os.environ.get("OBSKIT_TRANSPARENCY_CONTROL", "")
FACTS = os.environ.get("OBSKIT_TRANSPARENCY_FACTS", "")

seen: Counter[str] = Counter()
recording = False
"""Whether this process runs the tests; others (the servers that tests start) are killed, and tell at once."""
_before: list[Any] | None = None


def install(app: Any, **options: Any) -> Any:
    import obskit
    from obskit.asgi import AsgiDoor
    from obskit.wsgi import WsgiDoor

    if isinstance(app, AsgiDoor | WsgiDoor):
        return app
    _observe()
    served = obskit.install(app, **options)
    seen["installs"] += 1
    return served


@functools.cache
def _observe() -> None:
    """Count what passes, and what obskit's guard caught: a fault that is swallowed is a fault all the same."""
    from obskit.pipeline import Pipeline

    opened, failed = Pipeline.open, Pipeline.failed

    def counting_open(self: Any, exchange: Any, request_id: Any) -> None:
        seen["requests" if recording else "requests of servers"] += 1
        opened(self, exchange, request_id)
        if not recording:
            tell()

    def noting_failed(self: Any, stage: str, error: BaseException) -> None:
        seen[f"caught {stage}: {type(error).__name__}: {str(error)[:200]}"] += 1
        failed(self, stage, error)

    Pipeline.open, Pipeline.failed = counting_open, noting_failed
    if BROKEN:
        _break_the_doors()


def _break_the_doors() -> None:
    from obskit import asgi, wsgi

    call, send = wsgi.WsgiDoor.__call__, asgi._HttpCall.send

    def broken_call(self: Any, environ: Any, start_response: Any) -> Any:
        def start(status: str, headers: Any, *exc_info: Any) -> Any:
            return start_response(status, [*headers, ("Set-Cookie", "broken=1")], *exc_info)

        try:
            return call(self, environ, start if BROKEN == "header" else start_response)
        except Exception:
            if BROKEN != "swallow":
                raise
            start_response("500 Internal Server Error", [])
            return []

    async def broken_send(self: Any, message: Any) -> None:
        if BROKEN == "header" and message["type"] == "http.response.start":
            message = {**message, "headers": [*message.get("headers", ()), (b"set-cookie", b"broken=1")]}
        await send(self, message)

    wsgi.WsgiDoor.__call__, asgi._HttpCall.send = broken_call, broken_send


# ---- a test begins and ends ----


def test_begins() -> None:
    global _before
    if MODE == INSTALLED and _before is None:
        _before = list(sys.modules["obskit.install"]._installed) if "obskit.install" in sys.modules else []


def test_ends() -> None:
    """Shut down what was installed since it began; what was installed before goes on."""
    global _before
    if MODE != INSTALLED or "obskit.install" not in sys.modules:
        return
    before, _before = _before or [], None
    _give_back(before)


def _give_back(before: list[Any]) -> None:
    module = sys.modules["obskit.install"]
    with module._lock:
        going = [one for one in module._installed if one not in before]
        module._installed[:] = [one for one in module._installed if one in before]
        module.context._outside = module._installed[-1] if module._installed else None
    if going and not module._installed:
        module.instrumentation.switch_off()
    for pipeline in going:
        pipeline.shutdown(0.0)


def tell() -> None:
    """Append what this process has counted since it last told."""
    global seen
    if FACTS and seen:
        line = json.dumps(seen) + "\n"
        seen = Counter()
        with open(FACTS, "a", encoding="utf-8") as file:
            file.write(line)


# ---- each framework, when it is imported ----


def _after(cls: Any, method: str = "__init__", **options: Any) -> None:
    """Install on each instance when it has been made."""
    original = getattr(cls, method)

    @functools.wraps(original)
    def made(self: Any, *args: Any, **kwargs: Any) -> None:
        original(self, *args, **kwargs)
        install(self, **options)

    setattr(cls, method, made)


def starlette_applications(module: Any) -> None:
    _after(module.Starlette)


def fastapi_applications(module: Any) -> None:
    if "__init__" in vars(module.FastAPI):
        _after(module.FastAPI)


def starlette_testclient(module: Any) -> None:
    """Plain ASGI applications are not made by the framework: they get their door when they are put to use."""
    from starlette.applications import Starlette

    original = module.TestClient.__init__

    @functools.wraps(original)
    def made(self: Any, app: Any, *args: Any, **kwargs: Any) -> None:
        if not isinstance(app, Starlette) and module._is_asgi3(app):
            app = install(app, interface="asgi")
        original(self, app, *args, **kwargs)

    module.TestClient.__init__ = made


def flask_app(module: Any) -> None:
    _after(module.Flask)


def _wsgi(app: Any) -> Any:
    flask = sys.modules.get("flask")
    if not callable(app) or (flask is not None and isinstance(app, flask.Flask)):
        return app
    # Flask's own wsgi_app, if somebody serves that alone.
    if getattr(getattr(app, "__self__", None), "_obskit_door", None) is not None:
        return app
    return install(app, interface="wsgi")


def werkzeug_test(module: Any) -> None:
    made, run = module.Client.__init__, module.run_wsgi_app

    @functools.wraps(made)
    def client_made(self: Any, application: Any, *args: Any, **kwargs: Any) -> None:
        made(self, _wsgi(application), *args, **kwargs)

    @functools.wraps(run)
    def run_wsgi_app(app: Any, *args: Any, **kwargs: Any) -> Any:
        return run(_wsgi(app), *args, **kwargs)

    module.Client.__init__, module.run_wsgi_app = client_made, run_wsgi_app


def werkzeug_serving(module: Any) -> None:
    made = module.BaseWSGIServer.__init__

    @functools.wraps(made)
    def server_made(self: Any, host: str, port: int, app: Any, *args: Any, **kwargs: Any) -> None:
        made(self, host, port, _wsgi(app), *args, **kwargs)

    module.BaseWSGIServer.__init__ = server_made


def _returned(module: Any, name: str) -> None:
    original = getattr(module, name)

    @functools.wraps(original)
    def made(*args: Any, **kwargs: Any) -> Any:
        return install(original(*args, **kwargs))

    setattr(module, name, made)


def django_core_wsgi(module: Any) -> None:
    _returned(module, "get_wsgi_application")


def django_core_asgi(module: Any) -> None:
    _returned(module, "get_asgi_application")


def django_core_servers_basehttp(module: Any) -> None:
    """runserver and the live server of tests, which make their handler themselves."""
    made = module.WSGIServer.set_app

    @functools.wraps(made)
    def set_app(self: Any, application: Any) -> None:
        from django.contrib.staticfiles.handlers import StaticFilesHandler
        from django.core.handlers.wsgi import WSGIHandler

        inner = application
        while hasattr(inner, "application"):  # static files are served outside of the application
            inner = inner.application
        if isinstance(inner, WSGIHandler) and not isinstance(inner, StaticFilesHandler):
            application = _wsgi(application)
        made(self, application)

    module.WSGIServer.set_app = set_app


def django_test_client(module: Any) -> None:
    """The handlers of the test client return response objects where a server's handler speaks WSGI or ASGI.

    Each gets a served twin with the same attributes, which obskit is installed on; a call of the handler goes through
    the twin's door, and the test gets the very response that the view made.
    """
    from django.core.handlers.asgi import ASGIHandler
    from django.core.handlers.wsgi import WSGIHandler

    called, awaited = module.ClientHandler.__call__, module.AsyncClientHandler.__call__

    class ServedWsgi(WSGIHandler):
        __slots__ = ("handler",)

        def __init__(self, handler: Any) -> None:
            self.__dict__, self.handler = handler.__dict__, handler

        def __call__(self, environ: Any, start_response: Any) -> Any:
            response = called(self.handler, environ)
            environ["transparency.response"] = response
            start_response(f"{response.status_code} {response.reason_phrase}", list(response.items()))
            if getattr(response, "streaming", False):
                return response.streaming_content
            return [response.content] if hasattr(response, "content") else []

    class ServedAsgi(ASGIHandler):
        __slots__ = ("handler",)

        def __init__(self, handler: Any) -> None:
            self.__dict__, self.handler = handler.__dict__, handler

        async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
            response = await awaited(self.handler, scope)
            scope["transparency.response"] = response
            headers = [(k.lower().encode("latin-1"), v.encode("latin-1")) for k, v in response.items()]
            await send({"type": "http.response.start", "status": response.status_code, "headers": headers})
            body = b"" if getattr(response, "streaming", False) else response.content
            await send({"type": "http.response.body", "body": body})

    def call(self: Any, environ: Any) -> Any:
        if self._middleware_chain is None:
            self.load_middleware()
        door = vars(self).get("_obskit_door") or install(ServedWsgi(self))
        body = door(environ, lambda status, headers, exc_info=None: None)
        response = environ["transparency.response"]
        if getattr(response, "streaming", False):
            if not response.is_async:
                response.streaming_content = body
        else:
            for _ in body:
                pass
            if hasattr(body, "close"):
                body.close()
        return response

    async def async_call(self: Any, scope: Any) -> Any:
        if self._middleware_chain is None:
            self.load_middleware(is_async=True)
        door = vars(self).get("_obskit_door") or install(ServedAsgi(self))

        async def receive() -> Any:
            return {"type": "http.request", "body": b"", "more_body": False}

        async def send(message: Any) -> None:
            """There is no server: the test looks at the response itself."""

        await door(scope, receive, send)
        return scope["transparency.response"]

    module.ClientHandler.__call__, module.AsyncClientHandler.__call__ = call, async_call


def fastapi_without_spans(module: Any) -> None:
    original = module.FastAPI.__init__

    @functools.wraps(original)
    def made(self: Any, *args: Any, **kwargs: Any) -> None:
        original(self, *args, **kwargs)
        self._telemetry["tracing"] = False

    module.FastAPI.__init__ = made


PATCHES = {
    "starlette.applications": starlette_applications,
    "starlette.testclient": starlette_testclient,
    "fastapi.applications": fastapi_applications,
    "flask.app": flask_app,
    "werkzeug.test": werkzeug_test,
    "werkzeug.serving": werkzeug_serving,
    "django.core.wsgi": django_core_wsgi,
    "django.core.asgi": django_core_asgi,
    "django.core.servers.basehttp": django_core_servers_basehttp,
    "django.test.client": django_test_client,
}


class _WhenImported(importlib.abc.MetaPathFinder, importlib.abc.Loader):
    """Calls a patch right behind the module it is for."""

    def __init__(self) -> None:
        self._looking: set[str] = set()

    def find_spec(self, name: str, path: Any = None, target: Any = None) -> Any:
        if name not in PATCHES or name in self._looking:
            return None
        self._looking.add(name)
        try:
            spec = importlib.util.find_spec(name)
        finally:
            self._looking.discard(name)
        if spec is not None and spec.loader is not None:
            execute = spec.loader.exec_module

            def exec_module(module: Any) -> None:
                execute(module)
                PATCHES[name](module)

            spec.loader.exec_module = exec_module  # type: ignore[method-assign]
        return spec


@functools.cache
def start() -> None:
    if CONTROL:
        PATCHES.clear()
        PATCHES["fastapi.applications"] = fastapi_without_spans
    if MODE == INSTALLED or CONTROL:
        sys.meta_path.insert(0, _WhenImported())
        atexit.register(tell)


start()
