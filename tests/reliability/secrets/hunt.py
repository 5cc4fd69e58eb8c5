"""Runs a scene in a process of its own, and searches all that came out of it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from tests.reliability.secrets.canaries import found_in
from tests.support.otlp import OtlpSink

ROOT = Path(__file__).resolve().parents[3]
KINDS = ("plain wsgi", "plain asgi", "flask", "fastapi", "starlette", "django wsgi", "django asgi")
# The caller's own vendor data of W3C Trace Context: it goes on with the trace, to every service and to the collector.
ALLOWED = {"otlp: request, tracestate"}


class Keeping(OtlpSink):
    """A collector that also keeps the very bytes it was sent."""

    def __init__(self) -> None:
        super().__init__()
        self.bodies: list[bytes] = []

    def take(self, path: str, body: bytes) -> bytes:
        self.bodies.append(body)
        return super().take(path, body)


@dataclass
class Hunt:
    """What one process was planted with, and in which of its outputs which place was found."""

    places: list[str]
    never: set[str]
    found: dict[str, list[str]] = field(default_factory=dict)
    """By output."""
    spans: int = 0
    lines: int = 0
    searched: int = 0
    """Bytes."""

    @property
    def leaks(self) -> list[str]:
        """Output and place of each canary that came out, but for those that a standard passes on."""
        found = [
            (output, place)
            for output, places in self.found.items()
            if output != "arrived"
            for place in places
            if f"{output}: {place.partition(': ')[2]}" not in ALLOWED
        ]
        return sorted(f"{output}: {place}" for output, place in found)

    def told(self, *outputs: str) -> set[str]:
        return {place for output in outputs for place in self.found[output]}


def hunt(
    out: Path, log_format: str, kinds: Sequence[str] = KINDS, *, careless: bool = False, seed: str = "0"
) -> Hunt:
    """Play every scene in these kinds of application, and search."""
    out.mkdir(parents=True, exist_ok=True)
    command = [sys.executable, "-m", "tests.reliability.secrets.scene", str(out), log_format, "--seed", seed]
    command += ["--kinds", *kinds, *(["--careless"] if careless else [])]
    with Keeping() as sink:
        environment = {
            **{
                name: value for name, value in os.environ.items() if not name.startswith(("OTEL_", "OBSKIT_"))
            },
            "OTEL_EXPORTER_OTLP_ENDPOINT": sink.url,
            "PYTHONPATH": str(ROOT),
        }
        with (out / "stdout").open("wb") as stdout, (out / "stderr").open("wb") as stderr:
            done = subprocess.run(
                command, cwd=ROOT, env=environment, stdout=stdout, stderr=stderr, timeout=300
            )
        if done.returncode:
            raise AssertionError((out / "stderr").read_text(errors="replace")[-4000:])
        assert sink.errors == []
        exported = b"\n".join(sink.bodies)
        spans = len(sink.spans())
    planted = json.loads((out / "places.json").read_text())
    result = Hunt(list(planted["places"].values()), set(planted["never"]), spans=spans)
    outputs = {name: (out / name).read_bytes() for name in ("stdout", "stderr", "pages", "arrived")}
    outputs["otlp"] = exported
    (out / "otlp").write_bytes(exported)
    result.lines = outputs["stdout"].count(b"\n")
    for name, data in outputs.items():
        result.searched += len(data) if name != "arrived" else 0
        result.found[name] = sorted(
            planted["places"].get(canary, f"unknown: {canary}") for canary in found_in(data)
        )
    return result
