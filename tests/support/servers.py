"""Real servers for tests: one process each, on a free loopback port, its stdout read as JSON lines."""

from __future__ import annotations

import http.client
import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, Self

POLL_S = 0.003
START_S = 30.0
STOP_S = 8.0

Line = dict[str, Any]

# What follows `python -m`. {bind} is host:port, {port} the port, {app} is "module:attribute".
# One worker each unless a test asks for more.
COMMANDS: Mapping[str, tuple[str, ...]] = {
    "uvicorn": (
        "uvicorn", "--host", "127.0.0.1", "--port", "{port}", "--workers", "{workers}", "--loop", "asyncio", "{app}",
    ),
    "uvicorn-uvloop": ("uvicorn", "--host", "127.0.0.1", "--port", "{port}", "--loop", "uvloop", "{app}"),
    "uvicorn-h11": ("uvicorn", "--host", "127.0.0.1", "--port", "{port}", "--http", "h11", "{app}"),
    "hypercorn": ("hypercorn", "--bind", "{bind}", "--workers", "{workers}", "{app}"),
    "hypercorn-trio": ("hypercorn", "-k", "trio", "--bind", "{bind}", "--workers", "{workers}", "{app}"),
    "granian": (
        "granian", "--interface", "asgi", "--host", "127.0.0.1", "--port", "{port}", "--workers", "{workers}", "{app}",
    ),
    "gunicorn-sync": ("gunicorn", "-k", "sync", "-w", "{workers}", "-b", "{bind}", "{app}"),
    "gunicorn-gthread": ("gunicorn", "-k", "gthread", "--threads", "4", "-w", "{workers}", "-b", "{bind}", "{app}"),
    "gunicorn-gevent": ("gunicorn", "-k", "gevent", "-w", "{workers}", "-b", "{bind}", "{app}"),
    "gunicorn-uvicorn": ("gunicorn", "-k", "uvicorn_worker.UvicornWorker", "-w", "{workers}", "-b", "{bind}", "{app}"),
    "waitress": ("waitress", "--listen={bind}", "{app}"),
    "wsgiref": ("tests.support.same_bytes.serve_wsgiref", "{port}", "{app}"),
}  # fmt: skip


class ServerError(Exception):
    """The server did not start, or died; the message holds its command and everything it wrote."""


def free_port() -> int:
    """A loopback TCP port that nobody listened on a moment ago."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


class Server:
    """One server process serving `app` ("module:attribute", importable from `cwd`).

    `env` is added to this process's environment. stdout and stderr go to files in `log_dir`.
    Use as a context manager, or call start() and stop().
    """

    def __init__(
        self,
        server: str,
        app: str,
        *,
        cwd: Path,
        log_dir: Path,
        env: Mapping[str, str] | None = None,
        extra_args: tuple[str, ...] = (),
        workers: int = 1,
    ) -> None:
        self.name = server
        self.port = free_port()
        bind = f"127.0.0.1:{self.port}"
        facts = {"bind": bind, "port": self.port, "app": app, "workers": workers}
        words = [word.format(**facts) for word in COMMANDS[server]]
        self.command = [sys.executable, "-m", words[0], *extra_args, *words[1:]]
        self.cwd = cwd
        log_dir.mkdir(parents=True, exist_ok=True)
        own = {
            "PYTHONUNBUFFERED": "1",
            # What one server remembers of a request makes no duplicate of another test's.
            "OBSKIT_STATE_DIR": str(log_dir.resolve()),
        }
        self.env = {**os.environ, **own, **(env or {})}
        self.stdout_path = log_dir / f"{server}-{self.port}.out"
        self.stderr_path = log_dir / f"{server}-{self.port}.err"
        self._process: subprocess.Popen[bytes] | None = None
        self._offset = 0
        self._rest = b""
        self._lines: list[Line] = []
        self._other_output: list[str] = []

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    @property
    def pid(self) -> int:
        assert self._process is not None, "the server was not started"
        return self._process.pid

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    def start(self, ready_path: str = "/metrics") -> None:
        """Start the process and wait for any HTTP answer at `ready_path`; ServerError if none comes."""
        with self.stdout_path.open("wb") as out, self.stderr_path.open("wb") as err:
            # A session of its own, so that stop() reaches the workers too and nothing else.
            self._process = subprocess.Popen(
                self.command,
                cwd=self.cwd,
                env=self.env,
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=err,
                start_new_session=True,
            )
        deadline = time.monotonic() + START_S
        while not self._answers(ready_path):
            self.check_alive()
            if time.monotonic() > deadline:
                self.stop()
                raise ServerError(self._report(f"no answer within {START_S:g} s"))
            time.sleep(0.02)

    def _answers(self, path: str) -> bool:
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=5)
        try:
            connection.request("GET", path)
            connection.getresponse().read()
        except (OSError, http.client.HTTPException):
            return False
        else:
            return True
        finally:
            connection.close()

    def check_alive(self) -> None:
        """Raise ServerError if the process has ended."""
        if self._process is not None and self._process.poll() is not None:
            raise ServerError(self._report(f"ended with status {self._process.returncode}"))

    def wait_for_exit(self, timeout_s: float = 30.0) -> int:
        """The exit status of a server that was told to stop in a way of its own."""
        assert self._process is not None, "the server was not started"
        return self._process.wait(timeout_s)

    def stop(self, timeout_s: float = STOP_S) -> int | None:
        """SIGTERM to the server, SIGKILL to its whole session if it is not gone after `timeout_s`.

        Returns the exit status of the process (negative: the signal that ended it), None if it never ran.
        """
        process = self._process
        if process is None:
            return None
        if process.poll() is None:
            process.terminate()
            try:
                process.wait(timeout_s)
            except subprocess.TimeoutExpired:
                process.kill()
        # Workers that outlive their parent would hold the port and the two cores of a small machine.
        try:
            os.killpg(process.pid, signal.SIGKILL)
        except (ProcessLookupError, PermissionError):
            pass
        return process.wait(5)

    # -- what it wrote ---------------------------------------------------------------------------

    def read_new(self) -> None:
        """Take in what stdout has grown by since the last call."""
        with self.stdout_path.open("rb") as out:
            out.seek(self._offset)
            data = out.read()
        self._offset += len(data)
        *complete, self._rest = (self._rest + data).split(b"\n")
        for raw in complete:
            self._take(raw)

    def _take(self, raw: bytes) -> None:
        try:
            line = json.loads(raw)
        except ValueError:
            line = None
        if isinstance(line, dict):
            self._lines.append(line)
        elif raw.strip():
            self._other_output.append(raw.decode("utf-8", "replace"))

    @property
    def lines(self) -> list[Line]:
        """Every JSON object written to stdout until now, in order."""
        self.read_new()
        return self._lines

    @property
    def other_output(self) -> list[str]:
        """Every stdout line until now that is not a JSON object."""
        self.read_new()
        return self._other_output

    def mark(self) -> int:
        """A position in `lines`, for wait_for_line(since=...)."""
        return len(self.lines)

    def wait_for_line(
        self, predicate: Callable[[Line], bool], timeout: float = 5.0, *, since: int = 0
    ) -> Line:
        """The first line from `since` on that satisfies `predicate`; ServerError when `timeout` s pass."""
        deadline = time.monotonic() + timeout
        position = since
        while True:
            lines = self.lines
            while position < len(lines):
                if predicate(lines[position]):
                    return lines[position]
                position += 1
            if time.monotonic() > deadline:
                raise ServerError(self._report(f"no such log line within {timeout:g} s", since))
            self.check_alive()
            time.sleep(POLL_S)

    def stderr(self) -> str:
        return self.stderr_path.read_text("utf-8", "replace")

    def _report(self, what: str, since: int = 0) -> str:
        written = [json.dumps(line, ensure_ascii=False) for line in self.lines[since:]][-20:]
        return "\n".join(
            [
                f"{self.name}: {what}",
                f"command: {' '.join(self.command)}",
                "--- stdout, JSON lines (last 20)",
                *written,
                "--- stdout, other lines (last 20)",
                *self.other_output[-20:],
                "--- stderr (end)",
                self.stderr()[-4000:],
            ]
        )
