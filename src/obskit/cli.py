"""The command line: `obskit <command>`. One function per command; what a command needs is imported when it runs.

Exit status: 0 done, 1 the work failed or found a difference, 2 the command could not be carried out as asked.
"""

from __future__ import annotations

import argparse
import math
import os
import sys
from collections.abc import Callable, Sequence
from importlib.util import find_spec

from obskit import doctor
from obskit.export import command as export

SERVICES = ("fastapi", "flask", "django")
DEFAULT_RATE = 20.0
MAX_RATE = 200.0


def main(argv: list[str] | None = None) -> int:
    """Run one command (`argv` defaults to the process's own arguments) and return its exit status."""
    parser = _parser()
    try:
        options = parser.parse_args(argv)
    except SystemExit as stop:  # argparse has said what was wrong, or printed what was asked for
        return stop.code if isinstance(stop.code, int) else 2
    if options.command is None:
        parser.print_help(sys.stderr)
        return 2
    command: Callable[[argparse.Namespace], int] = options.run
    try:
        return command(options)
    except BrokenPipeError:
        # The reader (`| head`) left. What is still buffered must not fail again when the interpreter flushes.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="obskit",
        description="Structured logs, RED metrics and traces of Python web services that agree with each other.",
        epilog="Exit status: 0 done, 1 failed, 2 wrong arguments or something is missing.",
    )
    parser.add_argument("--version", action=_Version, help="print the version and exit")
    commands = parser.add_subparsers(dest="command", metavar="command", title="commands")
    _add_demo(commands)
    _add_export(commands)
    _add_doctor(commands)
    return parser


class _Version(argparse.Action):
    """--version; the version is looked up only when it is asked for."""

    def __init__(self, option_strings: Sequence[str], dest: str, help: str | None = None) -> None:
        super().__init__(option_strings, dest, nargs=0, default=argparse.SUPPRESS, help=help)

    def __call__(self, parser: argparse.ArgumentParser, *_: object) -> None:
        from obskit.version import __version__  # noqa: PLC0415

        print(f"obskit {__version__}")
        parser.exit(0)


# ---- obskit demo --------------------------------------------------------------------------------------


def _add_demo(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    demo = commands.add_parser(
        "demo",
        help="serve an instrumented shop under traffic and watch its telemetry",
        description="Starts a small order shop, instrumented by obskit.install, and a payment gateway on 127.0.0.1, "
        "sends them realistic traffic, and shows what /metrics and the log say about it. Nothing is left behind.",
        epilog="Stops on Ctrl-C. Exit status: 0 done, 1 the service failed or /metrics did not count what was sent, "
        "2 wrong arguments or something is missing.",
    )
    demo.add_argument(
        "--service", choices=SERVICES, default=SERVICES[0], help="framework (default: %(default)s)"
    )
    demo.add_argument(
        "--duration", type=_seconds, metavar="SECONDS", help="stop by itself (default: on Ctrl-C)"
    )
    demo.add_argument(
        "--rate",
        type=_rate,
        default=DEFAULT_RATE,
        metavar="REQUESTS_PER_SECOND",
        help=f"at most {MAX_RATE:g} (default: %(default)g)",
    )
    demo.add_argument("--port", type=_port, metavar="N", help="port of the service (default: a free one)")
    demo.add_argument("--json", action="store_true", help="no screen: one JSON object on stdout at the end")
    demo.set_defaults(run=_demo)


def _demo(options: argparse.Namespace) -> int:
    if find_spec("rich") is None:
        return _refuse("demo", "the screen needs rich, which is not installed: pip install 'obskit-web[cli]'")
    from obskit.demo.errors import DemoError  # noqa: PLC0415
    from obskit.demo.run import run  # noqa: PLC0415

    try:
        return run(
            service=options.service,
            duration_s=options.duration,
            rate=options.rate,
            port=options.port,
            as_json=options.json,
        )
    except DemoError as error:
        return _refuse("demo", str(error), error.exit_status)


# ---- obskit export ------------------------------------------------------------------------------------


def _add_export(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    parser = commands.add_parser(
        "export",
        help="write dashboards, alert rules and runbooks for a service",
        description="Writes what Prometheus, Alertmanager and Grafana need to watch a service into a folder, or "
        "imports the dashboards into a running Grafana. What somebody changed there is never overwritten unasked.",
        epilog="Exit status: 0 done, 1 something is not as an export left it (with --check: or would be written), "
        "2 wrong arguments or it could not be done.",
    )
    export.add_arguments(parser)
    parser.set_defaults(run=export.run)


# ---- obskit doctor ------------------------------------------------------------------------------------


def _add_doctor(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    parser = commands.add_parser(
        "doctor",
        help="show the running workers and what they are doing",
        description="Lists the services of this user on this host with their workers. With --stacks, asks one worker "
        "for everything it has in flight: each request with the line of the application it is at. No signal is sent, "
        "and it works while all other threads of the worker hang.",
        epilog="Exit status: 0 done, 1 the worker does not answer or another project's package is installed over ours, "
        "2 wrong arguments or there is no such worker.",
    )
    doctor.add_arguments(parser)
    parser.set_defaults(run=doctor.run)


# ---- arguments ----------------------------------------------------------------------------------------


def _refuse(command: str, message: str, exit_status: int = 2) -> int:
    print(f"obskit {command}: {message}", file=sys.stderr)
    return exit_status


def _number(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    return value


def _seconds(text: str) -> float:
    value = _number(text)
    if not 0 < value < math.inf:
        raise argparse.ArgumentTypeError(f"saw {text!r}, expected seconds above 0")
    return value


def _rate(text: str) -> float:
    value = _number(text)
    if not 0 < value <= MAX_RATE:
        raise argparse.ArgumentTypeError(
            f"saw {text!r}, expected requests per second above 0, at most {MAX_RATE:g}"
        )
    return value


def _port(text: str) -> int:
    if not (text.isascii() and text.isdecimal() and 1 <= int(text) <= 65535):
        raise argparse.ArgumentTypeError(f"saw {text!r}, expected a port from 1 to 65535")
    return int(text)


if __name__ == "__main__":
    sys.exit(main())
