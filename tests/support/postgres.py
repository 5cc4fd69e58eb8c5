"""A throw-away PostgreSQL: a real server, with a cluster of its own, gone when the test ends."""

from __future__ import annotations

import os
import pwd
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from tests.support.ports import free_port

START_S = 30.0
POLL_S = 0.05
DATABASE = "shop"
# Durability is nobody's concern here, and a small machine's memory is.
SETTINGS = {
    "listen_addresses": "127.0.0.1",
    "unix_socket_directories": "",
    "fsync": "off",
    "synchronous_commit": "off",
    "full_page_writes": "off",
    "shared_buffers": "16MB",
    "max_connections": "30",
}


class PostgresError(Exception):
    """PostgreSQL is not installed, or did not start; the message holds what it wrote."""


def find_program(name: str) -> Path:
    """`name` from the newest PostgreSQL under /usr/lib/postgresql (Debian keeps it off PATH), else from PATH."""
    installed = sorted(
        Path("/usr/lib/postgresql").glob(f"*/bin/{name}"), key=lambda path: float(path.parents[1].name)
    )
    if installed:
        return installed[-1]
    on_path = shutil.which(name)
    if on_path is None:
        raise PostgresError(f"no `{name}` found: `make test` installs PostgreSQL, or says how to")
    return Path(on_path)


@contextmanager
def postgres() -> Iterator[str]:
    """Run a PostgreSQL cluster on a free loopback port; yields the DATABASE_URL of an empty database in it."""
    # Not tmp_path: pytest's directories are closed to other users, and as root the server is another user.
    directory = Path(tempfile.mkdtemp(prefix="obskit-postgres-"))
    data, log_path, port = directory / "data", directory / "log", free_port()
    identity = _identity(directory)
    server: subprocess.Popen[bytes] | None = None
    try:
        _run(
            [
                find_program("initdb"),
                "-D",
                data,
                "-U",
                "postgres",
                "-A",
                "trust",
                "-E",
                "UTF8",
                "--locale=C",
                "-N",
            ],
            identity,
        )
        settings = [f"--{name}={value}" for name, value in {**SETTINGS, "port": str(port)}.items()]
        with log_path.open("wb") as log:
            server = subprocess.Popen(
                [find_program("postgres"), "-D", data, *settings],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                **identity,
            )
        _wait_until_ready(server, port, log_path)
        _run(
            [find_program("createdb"), "-h", "127.0.0.1", "-p", str(port), "-U", "postgres", DATABASE],
            identity,
        )
        yield f"postgresql://postgres@127.0.0.1:{port}/{DATABASE}"
    finally:
        if server is not None:
            _stop(server)
        shutil.rmtree(directory, ignore_errors=True)


def _identity(directory: Path) -> dict[str, Any]:
    """Popen arguments that make a process somebody PostgreSQL accepts: it refuses to run as root."""
    arguments: dict[str, Any] = {"cwd": directory}
    if os.geteuid() == 0:
        try:
            user = pwd.getpwnam("postgres")
        except KeyError:
            user = pwd.getpwnam("nobody")
        os.chown(directory, user.pw_uid, user.pw_gid)
        arguments |= {"user": user.pw_uid, "group": user.pw_gid, "extra_groups": []}
    return arguments


def _run(command: list[Any], identity: dict[str, Any]) -> None:
    done = subprocess.run(command, capture_output=True, timeout=120, check=False, **identity)
    if done.returncode:
        raise PostgresError(
            f"{Path(command[0]).name} failed:\n{(done.stdout + done.stderr).decode(errors='replace')}"
        )


def _wait_until_ready(server: subprocess.Popen[bytes], port: int, log_path: Path) -> None:
    probe = [find_program("pg_isready"), "-q", "-h", "127.0.0.1", "-p", str(port), "-U", "postgres"]
    deadline = time.monotonic() + START_S
    while subprocess.run(probe, check=False).returncode != 0:
        if server.poll() is not None or time.monotonic() > deadline:
            raise PostgresError(f"postgres did not start:\n{log_path.read_text('utf-8', 'replace')}")
        time.sleep(POLL_S)


def _stop(server: subprocess.Popen[bytes]) -> None:
    """End the server as `pg_ctl stop -m fast` would: connections are cut, not waited for."""
    server.send_signal(signal.SIGINT)
    try:
        server.wait(10)
    except subprocess.TimeoutExpired:
        server.kill()
        server.wait()
