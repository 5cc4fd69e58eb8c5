"""Greenlets in the place of threads: gevent may put them there before obskit is imported, or after it."""

from __future__ import annotations

import ast
import json
import os
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.otlp import SERVER, OtlpSink

SOURCE = Path(__file__).parents[1] / "src" / "obskit"
# The class that gevent replaces, and what it makes of another thread what it was made for.
REPLACED = frozenset({"Thread", "Timer", "get_ident", "current_thread", "local"})
# No part of what is served.
ELSEWHERE = ("demo/", "testing/", "export/")


def modules() -> Iterator[tuple[str, ast.Module]]:
    for path in sorted(SOURCE.rglob("*.py")):
        name = path.relative_to(SOURCE).as_posix()
        if not name.startswith(ELSEWHERE):
            yield name, ast.parse(path.read_text("utf-8"))


def test_what_gevent_replaces_is_looked_up_when_it_is_used() -> None:
    """`join` of a thread of the class as it was never ends: `gunicorn --preload` patches behind our import."""
    kept = {
        f"{name}: {alias.name}"
        for name, tree in modules()
        for node in ast.walk(tree)
        if isinstance(node, ast.ImportFrom) and node.module == "threading"
        for alias in node.names
        if alias.name in REPLACED
    }
    assert kept == set()


APP = """
import os, sys, warnings
warnings.simplefilter("ignore")
before, after = {order}
exec(before)
import logging, threading, time
import flask, obskit

app = flask.Flask("shop")
log = logging.getLogger("shop")
log.setLevel("INFO")

@app.get("/talk/<name>")
def talk(name):
    for number in range(10):
        time.sleep(0.001)
        log.info("said", extra={{"name_asked": name}})
    return name

@app.get("/wait")
def wait():
    waiting.wait(20)
    return "waited"

obskit.install(app, service="shop", stuck_request_s=0.4)
exec(after)
import gevent
waiting = threading.Event()

def ask(path):
    begun = []
    body = app.wsgi_app(
        {{"REQUEST_METHOD": "GET", "PATH_INFO": path, "wsgi.url_scheme": "http", "HTTP_HOST": "x"}},
        lambda status, headers, exc_info=None: begun.append(status),
    )
    answer = b"".join(body)
    body.close()
    return begun[0], answer

{then}
obskit.shutdown(5)
"""
ORDERS = {
    "patched before the import": ("from gevent import monkey; monkey.patch_all()", ""),
    "patched after the install": ("", "from gevent import monkey; monkey.patch_all()"),
}


@pytest.fixture(params=ORDERS.values(), ids=ORDERS)
def order(request: pytest.FixtureRequest) -> tuple[str, str]:
    found: tuple[str, str] = request.param
    return found


def started(order: tuple[str, str], then: str, endpoint: str, tmp_path: Path) -> subprocess.Popen[str]:
    """A process in which greenlets do this."""
    script = tmp_path / "shop.py"
    script.write_text(APP.format(order=order, then=then))
    env = {
        **os.environ,
        "OTEL_EXPORTER_OTLP_ENDPOINT": endpoint,
        "OBSKIT_STATE_DIR": str(tmp_path),
        "PYTHONPATH": str(SOURCE.parent),
    }
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    return subprocess.Popen([sys.executable, script], env=env, cwd=tmp_path, **pipes)  # type: ignore[call-overload, no-any-return]


def served(order: tuple[str, str], then: str, sink: OtlpSink, tmp_path: Path) -> list[dict[str, object]]:
    """The lines of a process in which greenlets did this. It has to end by itself, and to say nothing else."""
    with started(order, then, sink.url, tmp_path) as process:
        out, err = process.communicate(timeout=60)
    assert process.returncode == 0, err
    lines = [json.loads(line) for line in out.splitlines()]
    assert [
        line for line in lines if line["event"] in ("obskit.internal_error", "telemetry.flush_timeout")
    ] == []
    return lines


def test_the_first_requests_at_once_are_all_recorded_and_every_line_is_of_its_own_request(
    order: tuple[str, str], tmp_path: Path
) -> None:
    then = """
asked = [gevent.spawn(ask, f"/talk/{number}") for number in range(200)]
gevent.joinall(asked, raise_error=True)
assert [one.value for one in asked] == [("200 OK", str(number).encode()) for number in range(200)]
log.info("nobody's")
"""
    with OtlpSink() as sink:
        lines = served(order, then, sink, tmp_path)
        spans = sink.spans(kind=SERVER)
    canonical = {
        str(line["url_path"]).rpartition("/")[2]: line["trace_id"]
        for line in lines
        if line["event"] == "http.request"
    }
    assert len(canonical) == len(set(canonical.values())) == 200
    said = [(line["name_asked"], line["trace_id"]) for line in lines if line["event"] == "said"]
    assert len(said) == 2000
    assert [one for one in said if canonical[str(one[0])] != one[1]] == []
    assert [line.get("trace_id") for line in lines if line["event"] == "nobody's"] in ([None], [""])
    assert {span.trace_id for span in spans} == set(canonical.values())
    assert len(spans) == 200


def test_a_greenlet_that_hangs_is_told_of_with_the_line_it_hangs_in(
    order: tuple[str, str], tmp_path: Path
) -> None:
    then = """
asked = gevent.spawn(ask, "/wait")
gevent.sleep(1.5)
waiting.set()
assert asked.get() == ("200 OK", b"waited")
"""
    with OtlpSink() as sink:
        lines = served(order, then, sink, tmp_path)
    told = [line for line in lines if line.get("finding") == "request_stuck"]
    assert told
    assert str(told[0]["where"]).endswith("in wait"), told[0]
    assert told[0]["runs_in"] == "a greenlet"


def test_a_pipe_that_nobody_reads_stops_no_greenlet_and_all_lines_come_when_somebody_does(
    order: tuple[str, str], tmp_path: Path
) -> None:
    then = """
for _ in range(5):
    asked = [gevent.spawn(ask, "/talk/" + 100 * "long") for number in range(40)]
    gevent.joinall(asked, raise_error=True, timeout=20)
    assert all(one.successful() for one in asked)
print("answered", file=sys.stderr, flush=True)
"""
    with OtlpSink() as sink, started(order, then, sink.url, tmp_path) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        while (said := process.stderr.readline()) != "answered\n":
            assert said, "it has ended"
        lines = [json.loads(line) for line in process.stdout]
        assert process.wait(30) == 0, process.stderr.read()
    events = Counter(line["event"] for line in lines)
    assert (events["said"], events["http.request"]) == (2000, 200)
    assert events["obskit.internal_error"] == 0
