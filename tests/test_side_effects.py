"""What obskit does to the process around the application: nothing, but for what its documentation names.

Everything here is looked at in a process of its own, from before the first import on.
"""

from __future__ import annotations

import json
import os
import random
import re
import subprocess
import sys
import textwrap
from pathlib import Path
from typing import Any

import pytest

from tests.support.kinds import KINDS, ask, counted
from tests.support.recording import make_environ, talk_wsgi

ROOT = Path(__file__).resolve().parents[1]

# What there is to be changed, as text that can be compared.
SNAPSHOT = """
    import asyncio, faulthandler, gc, json, locale, logging, os, signal, socket, sys, threading, warnings

    def described(logger):
        return [logger.level, logger.propagate, logger.disabled, [type(f).__name__ for f in logger.filters],
                [[type(h).__module__, type(h).__name__, h.level, [type(f).__name__ for f in h.filters],
                  type(h.formatter).__name__] for h in logger.handlers]]

    def sockets():
        found = []
        for fd in os.listdir("/proc/self/fd"):
            try:
                where = os.readlink(f"/proc/self/fd/{fd}")
            except OSError:
                continue
            if where.startswith(("socket:", "anon_inode:[event")):
                found.append(where.partition(":")[0])
        return sorted(found)

    def snapshot():
        from opentelemetry import propagate, trace
        import structlog
        named = {n: described(l) for n, l in sorted(logging.root.manager.loggerDict.items()) if hasattr(l, "level")}
        return {
            "root logger": described(logging.root),
            "named loggers": {n: d for n, d in named.items() if d != [0, True, False, [], []] and n[:6] != "obskit"},
            "obskit's loggers": {n: d for n, d in named.items() if d != [0, True, False, [], []] and n[:6] == "obskit"},
            "classes of logging": [logging.getLoggerClass().__name__, logging.getLogRecordFactory().__qualname__,
                                   logging.raiseExceptions, logging.lastResort.level, logging.root.manager.disable],
            "tracer provider": repr(type(trace._TRACER_PROVIDER)),
            "propagators": repr(propagate.get_global_textmap()),
            "structlog": structlog.is_configured(),
            "hooks": [repr(h) for h in (sys.excepthook, threading.excepthook, sys.unraisablehook, sys.displayhook,
                                        sys.gettrace(), sys.getprofile(), threading.gettrace(), sys.breakpointhook)],
            "signals": {str(n): repr(signal.getsignal(n)) for n in sorted(signal.valid_signals())},
            "wake-up": signal.set_wakeup_fd(-1),
            "timers": [signal.getitimer(t) for t in (signal.ITIMER_REAL, signal.ITIMER_VIRTUAL, signal.ITIMER_PROF)],
            "warnings": repr(warnings.filters),
            "streams": [id(s) for s in (sys.stdout, sys.stderr, sys.stdin, sys.__stdout__)],
            "imports": [repr(sys.meta_path), repr(sys.path_hooks), sys.path],
            "gc": [gc.isenabled(), gc.get_threshold(), gc.get_debug(), gc.get_freeze_count()],
            "gc callbacks": len(gc.callbacks),
            "environment": dict(os.environ),
            "process": [os.getcwd(), os.umask(os.umask(0o22)) and 0, os.getpriority(os.PRIO_PROCESS, 0)],
            "interpreter": [sys.getrecursionlimit(), sys.getswitchinterval(), faulthandler.is_enabled(),
                            socket.getdefaulttimeout(), repr(locale.setlocale(locale.LC_ALL)), sys.flags.dev_mode],
            "loop policy": repr(type(asyncio.get_event_loop_policy())),
            "threads": sorted(t.name for t in threading.enumerate()),
            "sockets": sockets(),
            "children": open(f"/proc/self/task/{os.getpid()}/children").read(),
        }

    def changed(before, after):
        return {key: [before[key], after[key]] for key in before if before[key] != after[key]}
"""


def told(program: str, tmp_path: Path, **env: str) -> Any:
    """The JSON that a fresh interpreter writes to the file RESULT after this program."""
    result = tmp_path / "result"
    code = textwrap.dedent(SNAPSHOT) + textwrap.dedent(program)
    clean = {key: value for key, value in os.environ.items() if not key.startswith(("OTEL_", "OBSKIT_"))}
    done = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        timeout=60,
        cwd=ROOT,
        env={**clean, "RESULT": str(result), "OBSKIT_STATE_DIR": str(tmp_path), **env},
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return json.loads(result.read_text())


TELL = """
    with open(os.environ["RESULT"], "w") as file:
        json.dump(result, file)
"""

# ---- importing it -----------------------------------------------------------------------------------


def test_importing_it_changes_nothing_and_starts_nothing(tmp_path: Path) -> None:
    program = """
    # What others do when they are imported is theirs.
    import flask, fastapi, django.core.handlers.wsgi, structlog, prometheus_client, requests, anyio
    import opentelemetry.sdk.trace.export, opentelemetry.exporter.otlp.proto.http.trace_exporter
    before = snapshot()
    import obskit
    import obskit.install, obskit.wsgi, obskit.asgi, obskit.watch, obskit.signals.provider, obskit.adapters
    import obskit.adapters.flask, obskit.adapters.starlette, obskit.adapters.django
    obskit.get_logger("made at import")
    result = changed(before, snapshot())
    """
    assert told(program + TELL, tmp_path) == {}


# ---- installing it ----------------------------------------------------------------------------------

# What `install` sets up because it is what it is asked for, each undone by `shutdown`; nothing else may change.
SET_UP = {
    "root logger": "a handler of ours and our level, where the user made none",
    "named loggers": "console handlers of Flask, Django and servers give way; a server's access lines are left out",
    "obskit's loggers": "our own",
    "tracer provider": "where the user made none",
    "structlog": "where the user has not configured it",
    "imports": "a finder that finds nothing itself: what instruments a library waits until it is imported",
    "gc callbacks": "how long the collector stops the process",
    "threads": "from the first request on: spans leave, requests are watched",
}

MAKE = {
    "flask": "import flask; app = flask.Flask('a'); app.add_url_rule('/orders/7', view_func=lambda: 'ok')",
    "fastapi": "from tests.support.kinds import fastapi_app; app = fastapi_app()",
    "django": "from tests.support.kinds import django_wsgi; app = django_wsgi()",
    "plain": "from tests.support.kinds import wsgi_app as app",
}
NOTHING = ""
EVERYTHING = """
    import structlog
    logging.basicConfig(level=logging.INFO)
    structlog.configure(processors=[structlog.processors.JSONRenderer()])
    from opentelemetry import trace
    from opentelemetry.sdk.trace import TracerProvider
    trace.set_tracer_provider(TracerProvider(shutdown_on_exit=False))
    signal.signal(signal.SIGTERM, lambda *_: None)
    signal.signal(signal.SIGUSR1, lambda *_: None)
    sys.excepthook = lambda *_: None
    threading.excepthook = lambda *_: None
    warnings.simplefilter("error", ResourceWarning)
"""
LIFE = """
    from tests.support.kinds import ask
    # What the libraries that are watched or spoken through do when they are imported is theirs.
    import opentelemetry.sdk.trace.export, opentelemetry.exporter.otlp.proto.http.trace_exporter, obskit
    import charset_normalizer, requests, httpx, psycopg, sqlalchemy, urllib3
    # So is the filter for a warning of its own that OpenTelemetry's SDK adds with every tracer.
    opentelemetry.sdk.trace.TracerProvider(shutdown_on_exit=False).get_tracer("app")
    before = snapshot()
    served = obskit.install(app)
    installed = snapshot()
    interface = "asgi" if hasattr(app, "router") else "wsgi"
    assert ask(served, interface) == 200
    result = [changed(before, installed), changed(before, snapshot())]
    obskit.shutdown(1)
    # A thread that is told to end does so when its step is done.
    import time
    until = time.monotonic() + 10
    while threading.active_count() > len(before["threads"]) and time.monotonic() < until:
        time.sleep(0.01)
    result.append(changed(before, snapshot()))
"""


OUR_FINDER = re.compile(r"<obskit\.signals\.late\._Finder object at \w+>, ")


def without_our_finder(changes: dict[str, Any]) -> dict[str, Any]:
    """What else an install changed."""
    if "imports" in changes:
        before, (finders, *rest) = changes["imports"]
        assert OUR_FINDER.search(finders)
        assert [OUR_FINDER.sub("", finders), *rest] == before
    return {key: change for key, change in changes.items() if key != "imports"}


@pytest.mark.parametrize("kind", MAKE)
def test_an_install_sets_up_what_it_names_and_shutdown_undoes_it(kind: str, tmp_path: Path) -> None:
    at_install, at_request, at_end = told(f"    {MAKE[kind]}\n{LIFE}{TELL}", tmp_path)
    at_install, at_request = without_our_finder(at_install), without_our_finder(at_request)
    # No thread before the process that serves has forked.
    assert set(at_install) <= set(SET_UP) - {"threads", "gc callbacks"}, at_install
    assert set(at_request) <= set(SET_UP), at_request
    assert at_end == {}


@pytest.mark.parametrize("kind", MAKE)
def test_an_install_changes_nothing_that_the_user_has_set_up(kind: str, tmp_path: Path) -> None:
    at_install, at_request, at_end = told(f"    {MAKE[kind]}\n{EVERYTHING}{LIFE}{TELL}", tmp_path)
    at_install, at_request = without_our_finder(at_install), without_our_finder(at_request)
    # The ids for the user's own formatter come by a filter on the user's own handler.
    if "root logger" in at_install:
        before, after = at_install.pop("root logger")
        at_request.pop("root logger")
        assert before[4][0][:3] == after[4][0][:3]
        assert (len(after[4]), after[:4]) == (len(before[4]), before[:4])
        assert after[4][0][3] == ["_RequestIds"]
    assert set(at_install) <= {"obskit's loggers"}, at_install
    assert set(at_request) <= {"obskit's loggers", "threads", "gc callbacks"}, at_request
    assert at_end == {}


def test_what_anybody_changes_is_seen(tmp_path: Path) -> None:
    # The tests above pass on an empty answer: this shows that their eyes are open.
    program = """
    import structlog, opentelemetry.propagate
    before = snapshot()
    logging.basicConfig(level=logging.DEBUG)
    logging.getLogger("app").setLevel(10)
    logging.raiseExceptions = False
    structlog.configure(processors=[])
    opentelemetry.trace.set_tracer_provider(opentelemetry.trace.NoOpTracerProvider())
    sys.excepthook = print
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    warnings.simplefilter("error")
    sys.stdout = sys.stderr
    sys.meta_path.append(object())
    gc.callbacks.append(print)
    gc.freeze()
    os.environ["NEW"] = "1"
    sys.setrecursionlimit(2000)
    threading.Thread(target=threading.Event().wait, daemon=True).start()
    listening = socket.socket()
    result = changed(before, snapshot())
    """
    assert set(told(program + TELL, tmp_path)) == {
        *(
            "root logger",
            "named loggers",
            "classes of logging",
            "structlog",
            "tracer provider",
            "hooks",
            "signals",
        ),
        *(
            "warnings",
            "streams",
            "imports",
            "gc",
            "gc callbacks",
            "environment",
            "interpreter",
            "threads",
            "sockets",
        ),
    }


def test_numbers_of_a_seeded_generator_are_what_they_were(install: Any) -> None:
    """An application that seeds `random`, in a simulation or a test, counts on what comes."""
    seen: list[float] = []

    def app(environ: Any, start_response: Any) -> list[bytes]:
        seen.append(random.random())
        start_response("200 OK", [])
        return [b""]

    random.seed(7)
    for _ in range(3):
        talk_wsgi(app, make_environ("/"))
    bare, seen[:] = list(seen), []
    installed = install(app)
    random.seed(7)
    for _ in range(3):
        talk_wsgi(installed, make_environ("/"))
    assert seen == bare


def test_an_application_that_seeds_its_numbers_per_request_gets_a_trace_of_its_own_each_time(
    install: Any, canonical: Any
) -> None:
    def app(environ: Any, start_response: Any) -> list[bytes]:
        random.seed(7)
        start_response("200 OK", [])
        return [b""]

    installed = install(app)
    for _ in range(5):
        talk_wsgi(installed, make_environ("/"))
    assert len({line["trace_id"] for line in canonical()}) == 5


# ---- clocks that jump -------------------------------------------------------------------------------

CLOCKS = """
    import time
    offset = 0.0
    real_time, real_ns = time.time, time.time_ns
    # Before anybody takes a reference: everything that reads the wall clock sees it jump.
    time.time = lambda: real_time() + offset
    time.time_ns = lambda: real_ns() + int(offset * 1e9)
    import io, obskit
    from contextlib import redirect_stdout
    from opentelemetry import trace
    from opentelemetry.sdk.trace import TracerProvider
    from opentelemetry.sdk.trace.export import SimpleSpanProcessor
    from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
    from tests.support.recording import body, call_asgi, http_scope, make_environ, start, talk_wsgi

    exporter, provider = InMemorySpanExporter(), TracerProvider(shutdown_on_exit=False)
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    trace.set_tracer_provider(provider)
    jump = float(os.environ["JUMP"])

    def wsgi(environ, start_response):
        global offset
        start_response("200 OK", [])
        offset += jump
        with trace.get_tracer("app").start_as_current_span("child"):
            yield b"x"
        obskit.invariant(False, "never")
        time.sleep(0.01)
        yield b"y"

    async def asgi(scope, receive, send):
        global offset
        await send(start())
        offset += jump
        await send(body(b"x", more=True))
        time.sleep(0.01)
        await send(body(b"y"))

    out = io.StringIO()
    with redirect_stdout(out):
        served = [obskit.install(one, instrumentation=False, log_format="json") for one in (wsgi, asgi)]
        pages = []
        for _ in range(3):
            began = time.perf_counter()
            talk_wsgi(served[0], make_environ("/", HTTP_X_REQUEST_START=f"t={time.time()}"))
            call_asgi(served[1], http_scope("/", headers=[(b"x-request-start", f"t={time.time()}".encode())]))
            took = time.perf_counter() - began
            offset = 0.0
        pages = [talk_wsgi(served[0], make_environ("/metrics")).data.decode(),
                 call_asgi(served[1], http_scope("/metrics")).body.decode()]
        obskit.shutdown(2)
    result = {
        "lines": [json.loads(line) for line in out.getvalue().splitlines()],
        "spans": [[s.name, s.start_time, s.end_time, s.kind.name, [e.timestamp for e in s.events]]
                  for s in exporter.get_finished_spans()],
        "pages": pages,
        "took": took,
    }
"""


@pytest.mark.parametrize("jump", ["3600", "-3600"])
def test_a_clock_that_jumps_in_the_middle_of_a_request_makes_no_duration_wrong(
    jump: str, tmp_path: Path
) -> None:
    seen = told(CLOCKS + TELL, tmp_path, JUMP=jump)
    lines = [line for line in seen["lines"] if line["event"] == "http.request"]
    assert len(lines) == 6
    for line in lines:
        assert 0.01 <= line["duration_s"] < 30, line
        assert 0 <= line["ttfb_s"] <= line["duration_s"], line
    servers = [span for span in seen["spans"] if span[3] == "SERVER"]
    assert len(servers) == 6
    for name, began, ended, _, _ in servers:
        assert 0 <= ended - began < 30e9, name
    for page in seen["pages"]:
        samples = [line.split() for line in page.splitlines() if line and not line.startswith("#")]
        sums = [float(words[1]) for words in samples if "_duration_seconds_sum" in words[0]]
        assert sums
        assert all(0 <= value < 90 for value in sums), sums
    assert not [line for line in seen["lines"] if line["event"] == "obskit.internal_error"]


# ---- installs that meet -----------------------------------------------------------------------------


def mounted_alone(kind: str, installed: Any) -> tuple[Any, str]:
    """`installed` as part of an application that is not installed."""
    if KINDS[kind][1] == "asgi":
        from starlette.applications import Starlette
        from starlette.routing import Mount

        return Starlette(routes=[Mount("/shop", installed)]), "asgi"
    from werkzeug.middleware.dispatcher import DispatcherMiddleware

    return DispatcherMiddleware(lambda environ, start_response: [], {"/shop": installed}), "wsgi"


@pytest.mark.parametrize("kind", KINDS)
def test_an_installed_app_inside_one_that_is_not_records_once(
    kind: str, install: Any, spans: Any, canonical: Any
) -> None:
    make, interface, _ = KINDS[kind]
    inner = install(make())
    outer, _ = mounted_alone(kind, inner)
    assert ask(outer, interface, "/shop/orders/7") == 200
    assert [span.kind.name for span in spans.get_finished_spans()] == ["SERVER"]
    (line,) = canonical()
    assert line["url_path"] == "/shop/orders/7"
    assert counted(inner, interface) == 1


@pytest.mark.parametrize("kind", KINDS)
def test_two_installs_of_one_application_below_one_door_each_record_once(
    kind: str, install: Any, spans: Any, canonical: Any
) -> None:
    """The same app mounted twice, and the whole installed as well: the outermost records, and it alone."""
    make, interface, _ = KINDS[kind]
    inner = install(install(make()))
    once, _ = mounted_alone(kind, inner)
    outer = install(once, interface=interface)
    assert install(outer) is outer
    for _ in range(2):
        assert ask(outer, interface, "/shop/orders/7") == 200
    assert [span.kind.name for span in spans.get_finished_spans()] == ["SERVER", "SERVER"]
    assert len(canonical()) == 2
    assert (counted(outer, interface), counted(inner, interface)) == (2, 0)


@pytest.mark.parametrize("kind", ["flask", "fastapi", "starlette"])
def test_an_install_from_within_a_request_lets_that_one_end_and_records_the_next(
    kind: str, install: Any, spans: Any, canonical: Any
) -> None:
    make, interface, _ = KINDS[kind]
    app = make()
    if kind == "flask":
        app.before_request(lambda: install(app) and None)
    else:

        class Installs:
            def __init__(self, inner: Any) -> None:
                self.inner = inner

            async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
                install(app)
                await self.inner(scope, receive, send)

        app.add_middleware(Installs)
    assert ask(app, interface) == 200
    assert canonical() == []
    spans.clear()
    assert ask(app, interface) == 200
    assert [span.kind.name for span in spans.get_finished_spans()] == ["SERVER"]
    assert len(canonical()) == 1
    assert counted(app, interface) == 1


@pytest.mark.parametrize("tracing", ["on", "off"])
def test_fastapi_with_its_own_tracing_switched_has_one_server_span(
    tracing: str, install: Any, spans: Any, canonical: Any
) -> None:
    import fastapi

    app = fastapi.FastAPI(telemetry={"tracing": tracing == "on"})

    @app.get("/orders/{order_id}")
    async def order(order_id: int) -> str:
        return "ok"

    outer = install(mounted_alone("fastapi", install(app))[0])
    assert ask(outer, "asgi", "/shop/orders/7") == 200
    assert [span.kind.name for span in spans.get_finished_spans()] == ["SERVER"]
    assert len(canonical()) == 1
    assert counted(outer, "asgi") == 1
