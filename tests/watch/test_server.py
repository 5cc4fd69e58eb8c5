"""What servers say of themselves: each is asked for real, in a process of its own (tests/e2e/test_saturation.py);
here is what is made of it."""

from __future__ import annotations

import signal
import socket
import socketserver
import sys
import threading
from types import SimpleNamespace
from typing import Any

import pytest
import uvicorn
from gunicorn.config import Config
from gunicorn.workers.gthread import ThreadWorker
from gunicorn.workers.sync import SyncWorker

from obskit.watch import server
from obskit.watch.server import ServerFacts, server_facts


@pytest.fixture
def handled(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Say who handles which signal."""

    def by(**owners: Any) -> None:
        handlers = {
            getattr(signal, name): getattr(owner, "handle_exit", owner) for name, owner in owners.items()
        }
        monkeypatch.setattr(signal, "getsignal", lambda number: handlers.get(number, signal.SIG_DFL))

    return by


def worker(kind: Any, **settings: Any) -> Any:
    made = kind.__new__(kind)
    made.cfg = Config()
    for name, value in settings.items():
        made.cfg.set(name, value)
    return made


def test_a_gunicorn_worker_does_as_much_at_once_as_it_has_threads(handled: Any) -> None:
    handled(SIGTERM=worker(SyncWorker, timeout=30))
    assert server_facts() == ServerFacts("gunicorn SyncWorker", 1, 30.0)
    handled(SIGTERM=worker(ThreadWorker, threads=8, timeout=60))
    facts = server_facts()
    assert (facts.name, facts.capacity) == ("gunicorn ThreadWorker", 8)


def test_uvicorn_has_the_limit_that_it_was_given(handled: Any) -> None:
    async def app(scope: Any, receive: Any, send: Any) -> None: ...

    # It refuses the request that reaches the limit.
    for limit, capacity in ((50, 49), (None, 0)):
        handled(SIGTERM=uvicorn.Server(uvicorn.Config(app, limit_concurrency=limit)))
        facts = server_facts()
        assert (facts.name, facts.capacity) == ("uvicorn", capacity)


def test_uwsgi_says_it_in_a_module_of_its_own(monkeypatch: pytest.MonkeyPatch, handled: Any) -> None:
    handled()
    monkeypatch.setitem(sys.modules, "uwsgi", SimpleNamespace(opt={"threads": b"4", "harakiri": b"20"}))
    assert server_facts() == ServerFacts("uwsgi", 4, 20.0)
    monkeypatch.setitem(sys.modules, "uwsgi", SimpleNamespace(opt={}))
    assert server_facts() == ServerFacts("uwsgi", 1, 0.0)


def test_waitress_names_its_threads(monkeypatch: pytest.MonkeyPatch, handled: Any) -> None:
    handled()
    names = [SimpleNamespace(name=f"waitress-{n}") for n in range(4)]
    monkeypatch.setattr(threading, "enumerate", lambda: [threading.main_thread(), *names])
    monkeypatch.setitem(sys.modules, "waitress", SimpleNamespace())
    assert server_facts().capacity == 4


@pytest.mark.parametrize("handler", [signal.SIG_DFL, None, lambda *_: None, "text".upper])
def test_anything_else_says_nothing(handler: Any, handled: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(sys.modules, "uwsgi", raising=False)
    handled(SIGTERM=handler)
    assert server_facts() == ServerFacts()


def test_a_server_of_another_make_than_we_know_says_nothing_and_raises_nothing(handled: Any) -> None:
    strange = ThreadWorker.__new__(ThreadWorker)  # without a configuration
    handled(SIGTERM=strange)
    assert server_facts() == ServerFacts()


def test_a_server_that_handles_no_signal_is_found_in_the_frames_that_called(
    handled: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    handled()
    told: list[ServerFacts] = []

    def serving(package: str, source: str) -> ServerFacts:
        monkeypatch.setitem(sys.modules, package, SimpleNamespace())
        monkeypatch.setattr(server, "_waitress", lambda: None)
        code = {"__name__": f"{package}.server", "request": lambda: told.append(server_facts())}
        exec(source, code)
        return told.pop()

    granian = """
def _spawn_{}_worker(backpressure, blocking_threads):
    request()
_spawn_{}_worker(64, 5)
"""
    assert serving("granian", granian.format("wsgi", "wsgi")) == ServerFacts("granian", 5)
    assert serving("granian", granian.format("asgi", "asgi")) == ServerFacts("granian", 64)
    assert serving("hypercorn", "request()") == ServerFacts("hypercorn")
    config = """
class ASGIWorker:
    def init_process(self):
        request()
ASGIWorker.__module__ = "gunicorn.workers.gasgi"
one = ASGIWorker()
one.cfg = cfg
one.init_process()
"""
    gunicorn = f"class cfg: worker_connections, timeout, threads = 100, 30, 1\n{config}"
    assert serving("gunicorn", gunicorn) == ServerFacts("gunicorn ASGIWorker", 100, 30.0)


@pytest.mark.parametrize(("threads", "facts"), [(False, ServerFacts("One", 1)), (True, ServerFacts())])
def test_a_loop_that_answers_itself_answers_one_at_a_time(
    threads: bool, facts: ServerFacts, handled: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    handled()
    monkeypatch.setattr(server, "_waitress", lambda: None)
    told: list[ServerFacts] = []

    class Handler(socketserver.BaseRequestHandler):
        def handle(self) -> None:
            told.append(server_facts())

    class One(socketserver.TCPServer): ...

    class Many(socketserver.ThreadingMixIn, One): ...

    with (Many if threads else One)(("127.0.0.1", 0), Handler) as serving:
        loop = threading.Thread(target=serving.serve_forever, args=(0.01,))
        loop.start()
        with socket.create_connection(serving.server_address) as client:
            assert client.recv(1) == b""
        serving.shutdown()
        loop.join()
    assert told == [facts]
