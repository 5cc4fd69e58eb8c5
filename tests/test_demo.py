"""`obskit demo` as a user starts it: real servers, real traffic, and nothing left behind."""

from __future__ import annotations

import fcntl
import json
import os
import pty
import re
import select
import signal
import struct
import subprocess
import sys
import termios
import time
import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest

pytestmark = pytest.mark.e2e

DEADLINE_S = 90.0
FAILING, CREATE = "/api/v1/fail", "/api/v1/orders"


class Demo:
    """One `obskit demo`, and a way to find every process that it started."""

    def __init__(self, tmp_path: Path) -> None:
        # Every process below it inherits the environment, whatever else it does to hide.
        self.mark = f"OBSKIT_TEST_{uuid.uuid4().hex}"
        self.temporary = tmp_path / "temporary"
        self.temporary.mkdir()
        self.environment = {**os.environ, "DEMO_TEST_MARK": self.mark, "TMPDIR": str(self.temporary)}

    def command(self, *arguments: str) -> list[str]:
        return [sys.executable, "-m", "obskit.cli", "demo", *arguments]

    def run(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            self.command(*arguments), env=self.environment, capture_output=True, text=True, timeout=DEADLINE_S
        )

    def processes(self) -> list[int]:
        """Process ids of everything alive that carries the mark."""
        found = []
        for entry in Path("/proc").glob("[0-9]*/environ"):
            try:
                if self.mark.encode() in entry.read_bytes():
                    found.append(int(entry.parent.name))
            except OSError:  # it has just ended
                continue
        return found

    def assert_nothing_is_left(self) -> None:
        assert self.processes() == []
        assert list(self.temporary.glob("obskit-demo-*")) == []


@pytest.fixture
def demo(tmp_path: Path) -> Iterator[Demo]:
    one = Demo(tmp_path)
    yield one
    for pid in one.processes():  # only after a failure
        os.kill(pid, signal.SIGKILL)


@pytest.mark.parametrize(
    ("service", "pay"),
    [
        ("fastapi", "/api/v1/orders/{order_id}/pay"),
        ("flask", "/api/v1/orders/<int:order_id>/pay"),
        ("django", "/api/v1/orders/<int:order_id>/pay"),
    ],
)
def test_metrics_and_log_count_every_request_that_was_sent(service: str, pay: str, demo: Demo) -> None:
    done = demo.run("--service", service, "--duration", "5", "--json")
    assert done.returncode == 0, done.stderr
    demo.assert_nothing_is_left()
    result = json.loads(done.stdout)
    assert result["service"] == service
    assert result["agree"] is True
    assert result["requests_sent"] == result["requests_counted"] == result["canonical_lines"]
    assert result["requests_sent"] > 50
    assert result["requests_unanswered"] == result["connections_failed"] == 0
    routes = {route["http_route"]: route for route in result["routes"]}
    assert {FAILING, CREATE, pay, "/api/v1/reports/slow", "/login", "unmatched"} <= set(routes)
    assert routes[CREATE]["methods"] == ["GET", "POST"]
    assert routes[FAILING]["errors"] == routes[FAILING]["requests"] > 0
    assert routes[FAILING]["other_outcomes"] == {"raised": routes[FAILING]["requests"]}
    assert routes["/api/v1/orders/export"]["other_outcomes"]["client_disconnect"] > 0
    assert result["errors"] >= routes[FAILING]["errors"]
    assert 0.1 < result["p95_s"]["/api/v1/reports/slow"] <= 1.0
    assert result["canonical_line"]["event"] == "http.request"
    assert result["canonical_line"]["service_name"] == f"{service}-shop"
    assert re.fullmatch(r"http://127\.0\.0\.1:\d+/metrics", result["metrics_url"])


def started(process: subprocess.Popen[str]) -> int:
    """The process id of the service, from the first line of a plain demo."""
    assert process.stdout is not None
    found = re.search(r"process (\d+)", process.stdout.readline())
    assert found
    return int(found[1])


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_a_signal_ends_it_with_a_summary_and_nothing_left(number: signal.Signals, demo: Demo) -> None:
    with subprocess.Popen(
        demo.command(), env=demo.environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        started(process)
        assert len(demo.processes()) >= 3  # itself, the shop, the gateway
        process.send_signal(number)
        out, err = process.communicate(timeout=DEADLINE_S)
    assert process.returncode == 0
    assert err == ""
    assert "they agree" in out.splitlines()[-1]
    demo.assert_nothing_is_left()


def test_ctrl_c_before_the_service_answers_is_no_error(demo: Demo) -> None:
    with subprocess.Popen(
        demo.command(), env=demo.environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        deadline = time.monotonic() + DEADLINE_S
        while len(demo.processes()) < 2:
            assert time.monotonic() < deadline
            time.sleep(0.002)
        process.send_signal(signal.SIGINT)
        out, err = process.communicate(timeout=DEADLINE_S)
    assert (process.returncode, out, err) == (0, "", "")
    demo.assert_nothing_is_left()


def test_a_service_that_dies_on_the_way_ends_the_demo(demo: Demo) -> None:
    with subprocess.Popen(
        demo.command(), env=demo.environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        os.kill(started(process), signal.SIGKILL)
        _, err = process.communicate(timeout=DEADLINE_S)
    assert process.returncode == 1
    assert "obskit demo: the fastapi service ended with SIGKILL. Its last output:" in err
    assert "Uvicorn running" in err
    assert "Traceback" not in err
    demo.assert_nothing_is_left()


def test_plain_text_sums_up_with_a_row_for_each_route(demo: Demo) -> None:
    done = demo.run("--duration", "7", "--rate", "40")
    assert (done.returncode, done.stderr) == (0, "")
    assert "\x1b" not in done.stdout
    assert re.search(r"^up \d+ s, last \d+ s: \d+\.\d requests/s, errors \d+\.\d%", done.stdout, re.MULTILINE)
    assert re.search(r"^  /api/v1/orders +\d+ +0 +\d", done.stdout, re.MULTILINE)
    assert "they agree" in done.stdout.splitlines()[-1]


class Terminal:
    """The other end of a terminal of 100 by 40: what was drawn on it, and a keyboard."""

    def __init__(self, command: list[str], environment: dict[str, str]) -> None:
        self._master, slave = pty.openpty()
        fcntl.ioctl(slave, termios.TIOCSWINSZ, struct.pack("HHHH", 40, 100, 0, 0))
        self.process = subprocess.Popen(
            command,
            env={**environment, "TERM": "xterm-256color"},
            stdin=slave,
            stdout=slave,
            stderr=slave,
            start_new_session=True,
            # Its controlling terminal: Ctrl-C is then a key and not a signal that we send.
            preexec_fn=lambda: fcntl.ioctl(0, termios.TIOCSCTTY, 0),  # noqa: PLW1509 - no thread runs here
        )
        os.close(slave)
        self.drawn = ""

    def read_until(self, *patterns: str) -> None:
        """Read until every pattern has been drawn, or to the end without patterns."""
        deadline = time.monotonic() + DEADLINE_S
        while not patterns or not all(re.search(pattern, self.drawn) for pattern in patterns):
            assert time.monotonic() < deadline, self.drawn[-4000:]
            if not select.select([self._master], [], [], 1.0)[0]:
                continue
            try:
                data = os.read(self._master, 65536)
            except OSError:  # Linux says EIO when the last process has let go of the terminal
                data = b""
            if not data:
                assert not patterns, self.drawn[-4000:]
                return
            self.drawn += data.decode("utf-8", "replace")

    def press_ctrl_c(self) -> None:
        os.write(self._master, b"\x03")

    def close(self) -> None:
        os.close(self._master)


def test_the_live_screen_shows_routes_lines_and_the_way_to_metrics_until_ctrl_c(demo: Demo) -> None:
    terminal = Terminal(demo.command(), demo.environment)
    try:
        terminal.read_until(
            r"/api/v1/orders/\{order_id\}/pay",
            r"curl -s http://127\.0\.0\.1:\d+/metrics",
            r"pid \d+",
            r"requests [^/]*\d/s",
            r"(GET|POST) /api/v1/orders",
        )
        live = terminal.drawn
        terminal.press_ctrl_c()
        terminal.read_until()
        status = terminal.process.wait(DEADLINE_S)
    finally:
        terminal.close()
    assert status == 0
    assert "\x1b[?1049h" in live  # the alternate screen, given back at the end
    summary = terminal.drawn.rpartition("\x1b[?1049l")[2]
    assert "they agree" in summary
    assert "Traceback" not in terminal.drawn
    demo.assert_nothing_is_left()
