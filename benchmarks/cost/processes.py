"""The processes of a run: the receiver, and a worker for each variant, alive side by side; one is asked at a time."""

from __future__ import annotations

import http.client
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

from benchmarks.cost import environments
from benchmarks.cost.environments import ROOT
from benchmarks.cost.served import environment_of


def cores() -> tuple[int, int]:
    """The core of what is measured, and that of everything else: the same where there is only one."""
    allowed = sorted(os.sched_getaffinity(0))
    return allowed[0], allowed[-1]


class Failed(Exception):
    """A variant that does not do what it is measured for. The message is for the user."""


class Sink:
    """The receiver, in a process of its own on the other core."""

    def __init__(self) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-m", "benchmarks.cost.sink", str(cores()[1])],
            cwd=ROOT,
            stdout=subprocess.PIPE,
            text=True,
        )
        assert self.process.stdout is not None
        self.address = self.process.stdout.readline().strip()
        self.connection = http.client.HTTPConnection(self.address, timeout=30)

    def counts(self) -> dict[str, int]:
        """How much each sender has sent, by number."""
        self.connection.request("GET", "/counts")
        found: dict[str, int] = json.loads(self.connection.getresponse().read())
        return found

    def close(self) -> None:
        self.connection.close()
        self.process.terminate()
        self.process.wait(10)


class Places:
    """Numbers and folders of the processes of a run."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.last = 0

    def variables(self, environment: str, name: str, sink: str) -> tuple[int, Path, dict[str, str]]:
        """The number of a new process, the file for its lines, and the variables it is started with."""
        self.last += 1
        state = self.folder / f"state-{self.last}"
        state.mkdir()
        path = [str(ROOT)] if environment != "obskit" else [str(ROOT / "src"), str(ROOT)]
        return (
            self.last,
            self.folder / f"{self.last}.lines",
            {
                **_clean(os.environ),
                "PYTHONPATH": os.pathsep.join(path),
                **environment_of(name, sink, self.last, str(state)),
            },
        )


def _clean(environ: Any) -> dict[str, str]:
    # What the user's own shell tells OpenTelemetry, Sentry or obskit would be told to all.
    ours = (
        "OTEL_",
        "OBSKIT_",
        "SENTRY_",
        "LOGFIRE_",
        "FASTAPI_",
        "PROMETHEUS_",
        "DJANGO_",
        "FLASK_",
        "PYTHON",
    )
    return {name: value for name, value in environ.items() if not name.startswith(ours)}


class Worker:
    """A variant in a process on the measured core."""

    def __init__(self, framework: str, name: str, environment: str, sink: Sink, places: Places) -> None:
        self.framework, self.name, self.environment = framework, name, environment
        self.number, self.lines, variables = places.variables(environment, name, sink.address)
        asked, ask = os.pipe()
        heard, answer = os.pipe()
        with self.lines.open("wb") as lines, self.errors.open("wb") as errors:
            self.process = subprocess.Popen(
                ["taskset", "-c", str(cores()[0]), *self.command(), framework, name, str(asked), str(answer)],
                cwd=ROOT,
                env=variables,
                stdout=lines,
                stderr=errors,
                pass_fds=(asked, answer),
            )
        os.close(asked)
        os.close(answer)
        self._ask, self._heard = os.fdopen(ask, "w"), os.fdopen(heard)

    def command(self) -> list[str]:
        return [str(environments.python_of(self.environment)), "-m", "benchmarks.cost.worker"]

    @property
    def errors(self) -> Path:
        return self.lines.with_suffix(".errors")

    def ask(self, question: str) -> dict[str, Any]:
        """Raises Failed, with the end of what it wrote to standard error, when it has ended."""
        try:
            self._ask.write(question + "\n")
            self._ask.flush()
            line = self._heard.readline()
        except BrokenPipeError:
            line = ""
        if not line:
            self.process.wait(10)  # until all of it is written
            said = self.errors.read_text(errors="replace").strip()[-1500:]
            raise Failed(f"{self.framework} {self.name} ended: {said}")
        found: dict[str, Any] = json.loads(line)
        return found

    def close(self) -> None:
        for pipe in (self._ask, self._heard):
            try:
                pipe.close()
            except BrokenPipeError:
                pass
        try:
            self.process.wait(10)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
