"""A program with an HTTP port and a /-/ready, as Prometheus and Alertmanager are: started, awaited, always gone."""

from __future__ import annotations

import shutil
import subprocess
import time
import urllib.request
from pathlib import Path
from types import TracebackType
from typing import ClassVar, Self

from tests.support.ports import free_port

POLL_S = 0.1
START_S = 30.0
STOP_S = 10.0


class Program:
    """On a free loopback port, with its files in `directory`. A context manager: it is ready inside."""

    names: ClassVar[tuple[str, ...]]
    """What it may be called on PATH."""
    error: ClassVar[type[Exception]]

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.port = free_port()
        self.address = f"127.0.0.1:{self.port}"
        self.url = f"http://{self.address}"
        self._log_path = directory / f"{self.names[0]}.log"
        self._process: subprocess.Popen[bytes] | None = None
        directory.mkdir(parents=True, exist_ok=True)

    def arguments(self) -> list[str]:
        """What follows the program's name."""
        raise NotImplementedError

    def log(self) -> str:
        """What the process wrote."""
        return self._log_path.read_text("utf-8", "replace")

    def __enter__(self) -> Self:
        with self._log_path.open("wb") as log:
            self._process = subprocess.Popen(
                [on_path(*self.names, error=self.error), *self.arguments()],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
            )
        try:
            self._wait_until_ready()
        except BaseException:
            self._stop()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stop()

    def _wait_until_ready(self) -> None:
        assert self._process is not None
        deadline = time.monotonic() + START_S
        while True:
            if self._process.poll() is not None:
                raise self.error(f"{self.names[0]} ended with {self._process.returncode}:\n{self.log()}")
            try:
                with urllib.request.urlopen(f"{self.url}/-/ready", timeout=2) as response:
                    if response.status == 200:
                        return
            except OSError:
                pass  # not listening yet, or 503 while it reads its (empty) storage
            if time.monotonic() > deadline:
                raise self.error(f"{self.names[0]} was not ready within {START_S:g} s:\n{self.log()}")
            time.sleep(POLL_S)

    def _stop(self) -> None:
        process = self._process
        if process is None or process.poll() is not None:
            return
        process.terminate()
        try:
            process.wait(STOP_S)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def on_path(*names: str, error: type[Exception] = AssertionError) -> str:
    """The path of the first of `names` that is installed; `error`, saying what to do, when none is."""
    for name in names:
        found = shutil.which(name)
        if found is not None:
            return found
    raise error(f"no `{names[0]}` on PATH: `make test` installs it, or says how to")
