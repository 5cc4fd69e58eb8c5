"""Other people's grammars, types and schemas, as npm packages, asked from Python."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

HERE = Path(__file__).resolve().parents[1] / "node"
MODULES = HERE / "node_modules"
_RUN_S = 120.0


class Query(NamedTuple):
    """One query: its language (logql or traceql), its text, and where it was found."""

    language: str
    text: str
    place: str


class Program(NamedTuple):
    """How a program ended: exit status, and what it wrote to both of its outputs."""

    status: int
    said: str


def installed() -> Path:
    """The folder with node_modules, in which `make test` has installed just the versions that package.json names."""
    absent = _absent()
    assert not absent, (
        f"not installed: {', '.join(absent)}. `make test` does it, or says what it needs for it"
    )
    return HERE


def _absent() -> list[str]:
    """The packages of package.json that are not there in the exact version it names."""
    found = []
    for name, wanted in json.loads((HERE / "package.json").read_text())["dependencies"].items():
        package = MODULES / name / "package.json"
        # An alias is written npm:name@version.
        version = wanted.rpartition("@")[2]
        if not package.exists() or json.loads(package.read_text())["version"] != version:
            found.append(f"{name} {version}")
    return found


def ask(script: str, question: Any) -> Any:
    """What a script of tests/node answers; question and answer are JSON."""
    done = subprocess.run(
        ["node", script],
        cwd=installed(),
        input=json.dumps(question),
        capture_output=True,
        text=True,
        timeout=_RUN_S,
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def parse_errors(queries: Sequence[Query]) -> list[str]:
    """What Grafana's LogQL and TraceQL grammars do not understand: one sentence per query that does not parse."""
    asked = [{"language": query.language, "query": query.text} for query in queries]
    return [
        f"{query.place}: {query.language} does not parse at {errors[0]['from']}"
        f" ({query.text[errors[0]['from'] :][:30]!r}): {query.text}"
        for query, errors in zip(queries, ask("parse_queries.mjs", asked), strict=True)
        if errors
    ]


def type_check(project: Path) -> Program:
    """The TypeScript compiler over the tsconfig.json in `project`; it writes no files."""
    compiler = installed() / "node_modules" / ".bin" / "tsc"
    done = subprocess.run(
        [str(compiler), "--project", str(project), "--pretty", "false"],
        capture_output=True,
        text=True,
        timeout=_RUN_S,
    )
    return Program(done.returncode, done.stdout + done.stderr)
