"""One child process: in a session of its own, its output followed, and gone for certain when it is told to stop."""

from __future__ import annotations

import os
import signal
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path

from obskit.demo.errors import ServiceDied
from obskit.demo.tail import LineTail

TERM_TIMEOUT_S = 5.0
KILL_TIMEOUT_S = 5.0


class ChildProcess:
    """A command that runs until `stop`. `what` names it in messages."""

    def __init__(self, what: str, command: Sequence[str], cwd: Path, env: Mapping[str, str]) -> None:
        self.what = what
        self.stdout, self.stderr = LineTail(), LineTail()
        # A session of its own: Ctrl-C in the terminal must reach us alone, who then stop everything in order, and
        # its process group is the handle by which its workers are found.
        self._process = subprocess.Popen(
            command,
            cwd=cwd,
            env=dict(env),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            start_new_session=True,
        )
        for tail, stream in ((self.stdout, self._process.stdout), (self.stderr, self._process.stderr)):
            if stream is not None:
                tail.follow(stream)

    @property
    def pid(self) -> int:
        return self._process.pid

    def check_alive(self) -> None:
        """Raises ServiceDied, with its last output, if the process has ended."""
        status = self._process.poll()
        if status is not None:
            self._join_readers()
            raise ServiceDied(
                f"{self.what} ended with {_ended(status)}. Its last output:\n{self.last_words()}"
            )

    def last_words(self) -> str:
        """The last lines it wrote, for people."""
        lines = [*self.stdout.output.copy(), *self.stderr.output.copy()]
        return "\n".join(f"  {line}" for line in lines) or "  (nothing)"

    def stop(self) -> None:
        """SIGTERM, and SIGKILL to the whole group after TERM_TIMEOUT_S; returns when the process is gone."""
        if self._process.poll() is None:
            self._process.terminate()
            try:
                self._process.wait(TERM_TIMEOUT_S)
            except subprocess.TimeoutExpired:
                pass
        # Workers that outlived their parent, or a parent that did not listen. The group's number stays taken as
        # long as one of them lives; with nobody left there is no such group.
        try:
            os.killpg(self._process.pid, signal.SIGKILL)
        except (ProcessLookupError, PermissionError):
            pass
        self._process.wait(KILL_TIMEOUT_S)
        self._join_readers()
        for stream in (self._process.stdout, self._process.stderr):
            if stream is not None:
                stream.close()

    def _join_readers(self) -> None:
        for tail in (self.stdout, self.stderr):
            tail.join(1.0)


def _ended(status: int) -> str:
    if status >= 0:
        return f"status {status}"
    try:
        return signal.Signals(-status).name
    except ValueError:
        return f"signal {-status}"
