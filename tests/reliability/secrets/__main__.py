"""`python -m tests.reliability.secrets`: every secret, every kind of application, in process and over real servers."""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from pathlib import Path

from tests.reliability import results
from tests.reliability.secrets.hunt import KINDS, Hunt, hunt
from tests.reliability.secrets.long import SERVED, report, serve
from tests.reliability.secrets.pace import LOOKED_AT, doubling


def say(*lines: str) -> None:
    sys.stdout.write("\n  ".join(lines) + "\n")
    sys.stdout.flush()


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.reliability.secrets", description=__doc__)
    parser.add_argument("--kinds", nargs="+", choices=KINDS, default=list(KINDS))
    parser.add_argument("--formats", nargs="+", choices=("json", "console"), default=["json", "console"])
    parser.add_argument(
        "--seeds", type=int, default=3, help="how often the in-process part runs, with other secrets"
    )
    parser.add_argument(
        "--keep", action="store_true", help="write the figures to docs/reliability/secrets.json"
    )
    options = parser.parse_args()
    started = time.monotonic()
    rows: list[tuple[str, str]] = []
    failed = False

    def told(what: str, hunts: list[Hunt]) -> None:
        nonlocal failed
        planted = sum(len(one.places) for one in hunts)
        found = [leak for one in hunts for leak in one.leaks]
        failed = failed or bool(found)
        searched = sum(one.searched for one in hunts) / 1e6
        spans, lines = sum(one.spans for one in hunts), sum(one.lines for one in hunts)
        came = f"{planted:,} planted, {len(found)} found in {searched:.0f} MB of {lines:,} lines, {spans:,} spans"
        rows.append((what, came))
        say(what, came, *found)

    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder)
        for log_format in options.formats:
            hunts = [
                hunt(out / f"{log_format}-{seed}", log_format, options.kinds, seed=str(seed))
                for seed in range(options.seeds)
            ]
            told(
                f"{len(options.kinds)} kinds of application, {log_format} lines, {options.seeds} sets of secrets",
                hunts,
            )
        for log_format in options.formats:
            hunts = []
            for kind in options.kinds:
                hunts.append(
                    serve(
                        kind,
                        log_format,
                        out / f"{log_format}-{kind}-served".replace(" ", "-"),
                        f"served {kind}",
                    )
                )
                say(f"{kind} on {SERVED[kind]}", report(hunts[-1]))
            servers = ", ".join(sorted({SERVED[kind] for kind in options.kinds}))
            told(
                f"the same over {servers}: also stuck requests, killed workers, no collector; {log_format} lines",
                hunts,
            )
        control = hunt(out / "control", "json", options.kinds, careless=True)
        shown = control.told("stdout", "stderr", "pages", "otlp")
        arrived = control.told("arrived") - shown
        never = [place for place in control.places if place not in shown | arrived]
        came = f"{len(shown):,} of {len(control.places):,} found; {len(arrived):,} more reached the application and "
        came += f"are never read; {len(never):,} stand where nothing looks (local variables, the environment)"
        rows.append(("the same with every guard switched off (the control)", came))
        say(*rows[-1])
        failed = failed or not control.never.issuperset(never)
    worst, longest, ratio = doubling()
    came = f"at most {worst:.1f} ms; twice as much: {ratio:.1f} times as long; "
    came += f"at most {longest:.2f} ms for the {LOOKED_AT:,} characters that are ever looked at"
    rows.append(("near-misses of every secret's shape, 64 KB each", came))
    failed = failed or ratio > 2.5
    say(*rows[-1])
    if options.keep:
        results.keep(
            "secrets",
            title="Secrets",
            command="make secrets",
            rows=rows,
            took_s=time.monotonic() - started,
        )
    return int(failed)


if __name__ == "__main__":
    sys.exit(main())
