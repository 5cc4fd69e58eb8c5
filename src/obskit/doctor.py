"""`obskit doctor`: the workers of this user on this host, and what one of them is doing right now."""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
from contextlib import suppress
from importlib.metadata import PackageNotFoundError, distribution
from typing import Any

from obskit.workers import Member, groups

POLL_S = 0.05
DEFAULT_TIMEOUT_S = 5.0


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of `obskit doctor`."""
    parser.add_argument(
        "--stacks", type=int, metavar="PID", help="ask this worker for all that it has in flight"
    )
    parser.add_argument(
        "--state-dir",
        default=os.environ.get("OBSKIT_STATE_DIR") or None,
        metavar="DIR",
        help="the option state_dir of the service (default: OBSKIT_STATE_DIR, else where services keep it by default)",
    )
    parser.add_argument(
        "--timeout",
        type=_seconds,
        default=DEFAULT_TIMEOUT_S,
        metavar="SECONDS",
        help="how long to wait for a worker's answer (default: %(default)g)",
    )
    parser.add_argument("--json", action="store_true", help="one JSON object on stdout")


def run(options: argparse.Namespace) -> int:
    """Do what was asked; the exit status."""
    if options.stacks is not None:
        return _stacks(options.stacks, options.state_dir, options.timeout, as_json=options.json)
    return _overview(options.state_dir, as_json=options.json)


def _overview(state_dir: str | None, *, as_json: bool) -> int:
    now = time.time()
    services: list[dict[str, Any]] = []
    for about, members in groups(state_dir):
        workers = [_worker(member, now) for member in members]
        services.append(
            {"service": about.get("service"), "address": about.get("address"), "workers": workers}
        )
    foreign = _foreign()
    if as_json:
        print(json.dumps({"services": services, "foreign_distribution": foreign}, indent=2))
    else:
        for service in services:
            print(f"{service['service']} at {service['address']}")
            for worker in service["workers"]:
                state = (
                    f"seen {worker['seen_s']:.0f} s ago" if worker["alive"] else "dead, not yet cleared away"
                )
                print(
                    f"  worker {worker['worker']}  pid {worker['pid']}  up {worker['age_s']:.0f} s  "
                    f"{worker['in_flight']} in flight  {state}"
                )
        if not services:
            print(
                "no service of this user keeps state here: none runs, none has had a request yet, it has another "
                "state_dir (--state-dir), or it does not share (share_workers=False, or no room for its files)"
            )
        if foreign:
            print(
                f"the distribution 'obskit' {foreign} is installed, another project that overwrites "
                "files of obskit-web: "
                "pip uninstall -y obskit obskit-web && pip install obskit-web"
            )
    return 1 if foreign else 0


def _worker(member: Member, now: float) -> dict[str, Any]:
    from obskit.watch import slots  # noqa: PLC0415  # half of what the command line takes to start

    return {
        "worker": member.number,
        "pid": member.pid,
        "alive": member.alive,
        "age_s": round(max(0.0, now - member.started_unix_ns * 1e-9), 1),
        "seen_s": round(max(0.0, now - member.seen_unix_ns * 1e-9), 1),
        "in_flight": slots.count(member),
    }


def _stacks(pid: int, state_dir: str | None, timeout_s: float, *, as_json: bool) -> int:
    found = [
        member for _, members in groups(state_dir) for member in members if member.pid == pid and member.alive
    ]
    if not found:
        known = sorted({member.pid for _, members in groups(state_dir) for member in members if member.alive})
        alive = f"workers are {', '.join(map(str, known))}" if known else "there are none"
        return _refuse(f"no worker with pid {pid} that has had a request and runs as this user; {alive}")
    reports = []
    for member in found:  # one for each install of the process
        try:
            report = _ask(member, timeout_s)
        except OSError as error:
            return _refuse(f"worker {pid} cannot be asked: {error}", 1)
        if report is None:
            return _refuse(
                f"worker {pid} did not answer within {timeout_s:g} s: it is stopped, or code that does not let go "
                "of the interpreter's lock keeps all its threads waiting (py-spy or gdb can look from outside)",
                1,
            )
        reports.append(report)
    if as_json:
        print(json.dumps(reports[0] if len(reports) == 1 else reports, indent=2))
    else:
        for report in reports:
            _print(report)
    return 0


def _ask(member: Member, timeout_s: float) -> dict[str, Any] | None:
    from obskit.watch import inquiry  # noqa: PLC0415

    question, reply = member.path(inquiry.ASK), member.path(inquiry.ANSWER)
    with suppress(FileNotFoundError):
        os.unlink(reply)
    os.close(os.open(question, os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC, 0o600))
    deadline = time.monotonic() + timeout_s
    try:
        while time.monotonic() < deadline:
            with suppress(FileNotFoundError), open(reply, encoding="utf-8") as file:
                report: dict[str, Any] = json.load(file)
                return report
            time.sleep(POLL_S)
        return None
    finally:
        for path in (question, reply):
            with suppress(FileNotFoundError):
                os.unlink(path)


def _print(report: dict[str, Any]) -> None:
    print(f"pid {report['pid']}: {report['in_flight']} in flight")
    for request in report["requests"]:
        print(
            f"\n{request['age_s']:.1f} s  {request['http_request_method']} {request['url_path']}  "
            f"({request['phase']}, trace {request['trace_id']})"
        )
        print(
            f"  {request['runs_in']}: {request['where'] or 'no line of the application'}; {request['doing']}"
        )
        for frame in request["stack"]:
            print(f"    {frame}")


def _foreign() -> str | None:
    try:
        return distribution("obskit").version
    except PackageNotFoundError:
        return None


def _seconds(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = 0.0
    if not 0 < value < 3600:
        raise argparse.ArgumentTypeError(f"saw {text!r}, expected seconds above 0")
    return value


def _refuse(message: str, exit_status: int = 2) -> int:
    print(f"obskit doctor: {message}", file=sys.stderr)
    return exit_status
