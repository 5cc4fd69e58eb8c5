"""How a run ends: by its result, by a service that does not work, from whatever thread it was called."""

from __future__ import annotations

import json
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from types import SimpleNamespace
from typing import Any

import pytest

from obskit.cli import main
from obskit.demo import run as run_module
from obskit.demo.errors import ServiceDied
from obskit.demo.plain import PlainView, QuietView
from obskit.demo.run import Stop, _Session, _stop_signals, _view
from obskit.demo.screen import ScreenView
from obskit.demo.state import Result
from obskit.demo.traffic import Tally
from obskit.demo.watch import Report

RESULT = Result(
    "flask", "gunicorn", "http://x/metrics", 5.0, Tally(sent=9), 9, Report(5, 9, 0, 1.8, 0, 0, ()), None, 9
)


@pytest.mark.parametrize(("counted", "status", "said"), [(9, 0, "they agree"), (8, 1, "THEY DIFFER by 1")])
@pytest.mark.parametrize("as_json", [False, True])
def test_the_exit_status_says_whether_the_numbers_agree(
    counted: int,
    status: int,
    said: str,
    as_json: bool,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    result = Result(
        **{**{name: getattr(RESULT, name) for name in RESULT.__dataclass_fields__}, "counted": counted}
    )

    @contextmanager
    def nothing(*_: Any) -> Iterator[Any]:
        yield SimpleNamespace(service=SimpleNamespace(name="flask"), port=1)

    monkeypatch.setattr(run_module, "Demonstration", nothing)
    monkeypatch.setattr(_Session, "live", lambda *_: result)
    assert main(["demo", "--service", "flask", *(["--json"] if as_json else [])]) == status
    out = capsys.readouterr().out
    assert json.loads(out)["requests_counted"] == counted if as_json else said in out


class Standing:
    """A demonstration of a service that stands at a port and whose processes live."""

    def __init__(self, port: int) -> None:
        self.service = SimpleNamespace(name="flask")
        self.port = port
        self.asked = 0

    def check_alive(self) -> None:
        self.asked += 1


@pytest.fixture
def closed_port() -> Iterator[int]:
    with socket.socket() as bound:  # and never listening
        bound.bind(("127.0.0.1", 0))
        yield bound.getsockname()[1]


def session(port: int) -> tuple[_Session, Standing]:
    standing: Any = Standing(port)
    return _Session(standing, 1.0, Stop()), standing


def test_a_service_that_takes_no_order_does_not_work(closed_port: int) -> None:
    one, standing = session(closed_port)
    with pytest.raises(ServiceDied, match="the service does not work: the first order"):
        one.live(QuietView(), 1.0)
    assert standing.asked >= 3  # whether it died is asked first, for that says more


def test_waiting_for_the_count_has_an_end(closed_port: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(run_module, "DRAIN_TIMEOUT_S", 0.3)
    one, standing = session(closed_port)
    one._traffic.tally.sent = 1
    began = time.monotonic()
    one._drain()
    assert time.monotonic() - began < 30
    assert standing.asked > 2


def test_outside_the_main_thread_signals_are_left_alone() -> None:
    before, seen = signal.getsignal(signal.SIGINT), []

    def enter() -> None:
        with _stop_signals() as stop:
            seen.append((stop.is_set(), signal.getsignal(signal.SIGINT)))

    thread = threading.Thread(target=enter)
    thread.start()
    thread.join()
    assert seen == [(False, before)]


def test_the_users_signal_handlers_come_back() -> None:
    before = signal.getsignal(signal.SIGINT)
    with _stop_signals() as stop:
        signal.raise_signal(signal.SIGINT)
        assert stop.is_set()
    assert signal.getsignal(signal.SIGINT) is before


SIGNALS_WHILE_WAITING = """
import signal
from obskit.demo.run import Stop
stop = Stop()
signal.signal(signal.SIGALRM, lambda *_: stop.set())
for turn in range(5_000):
    stop.close()
    stop = Stop()
    signal.setitimer(signal.ITIMER_REAL, 1e-6 * (turn % 50 + 1))
    while not stop.is_set():
        stop.wait(1e-6)
print("done")
"""


def test_a_signal_at_any_moment_of_waiting_ends_the_wait() -> None:
    """In a process of its own: with an event of `threading`, which this caught, it hangs after a few turns."""
    done = subprocess.run(
        [sys.executable, "-c", SIGNALS_WHILE_WAITING], capture_output=True, text=True, timeout=60
    )
    assert (done.stdout, done.stderr) == ("done\n", "")


@pytest.mark.parametrize(
    ("tty", "term", "as_json", "kind"),
    [
        (True, "xterm-256color", False, ScreenView),
        (True, "xterm-256color", True, QuietView),
        (True, "dumb", False, PlainView),
        (False, "xterm-256color", False, PlainView),
    ],
)
def test_a_screen_is_for_terminals(
    tty: bool, term: str, as_json: bool, kind: type, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TERM", term)
    monkeypatch.setattr("sys.stdout.isatty", lambda: tty)
    assert type(_view(as_json)) is kind
