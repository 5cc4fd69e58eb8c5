"""A virtual environment for each set of peers, made on first use from the pins beside this file.

Peers disagree about versions (logfire bounds OpenTelemetry), and an instrumentation that is installed may switch
itself on: nobody is measured in somebody else's environment.
"""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
import tomllib
from pathlib import Path

HERE = Path(__file__).parent
ROOT = HERE.parent.parent
PINS = HERE / "requirements"
FOLDER = Path(os.environ.get("BENCH_ENVIRONMENTS", ROOT / ".venv-bench"))

_FRAMEWORKS = ("fastapi", "starlette", "flask", "django")
_SERVERS = ("uvicorn", "uvloop", "httptools", "gunicorn")
ASKED = {
    "stack": (
        "opentelemetry-sdk opentelemetry-exporter-otlp-proto-http opentelemetry-instrumentation-asgi "
        "opentelemetry-instrumentation-fastapi opentelemetry-instrumentation-starlette "
        "opentelemetry-instrumentation-flask opentelemetry-instrumentation-django prometheus-client "
        "prometheus-fastapi-instrumentator prometheus-flask-exporter django-prometheus structlog orjson"
    ).split(),
    "logfire": ["logfire[fastapi,starlette,flask,django]"],
    "sentry": ["sentry-sdk"],
}
"""What each is asked to hold beside frameworks and servers; `obskit` holds what pyproject.toml says."""
ENVIRONMENTS = (*ASKED, "obskit")


def python_of(environment: str) -> Path:
    return FOLDER / environment / "bin" / "python"


def ensure(environment: str, *, newest: bool = False) -> Path:
    """The interpreter of an environment, which is made or renewed where its pins have changed.

    With `newest` the pins themselves are made anew: whatever is newest today. Raises SystemExit, with what pip said,
    where that fails.
    """
    pins, stamp = PINS / f"{environment}.txt", FOLDER / environment / ".pins"
    if newest or not pins.exists():
        _make(environment, [*_FRAMEWORKS, *_SERVERS, *_asked(environment)])
        frozen = _pip(environment, "freeze", "--exclude", "setuptools", "--exclude", "pip")
        pins.parent.mkdir(exist_ok=True)
        pins.write_text(frozen, encoding="utf-8")
    elif not stamp.exists() or stamp.read_text() != _digest(pins):
        _make(environment, ["-r", str(pins)])
    stamp.write_text(_digest(pins))
    return python_of(environment)


def versions(environment: str) -> dict[str, str]:
    """What is pinned, by name as the index writes it."""
    lines = (PINS / f"{environment}.txt").read_text(encoding="utf-8").split()
    found = (line.split("==") for line in lines if "==" in line)
    return {name.lower().replace("_", "-"): version for name, version in found}


def _asked(environment: str) -> list[str]:
    if environment in ASKED:
        return ASKED[environment]
    with (ROOT / "pyproject.toml").open("rb") as file:
        return list(tomllib.load(file)["project"]["dependencies"])


def _make(environment: str, packages: list[str]) -> None:
    print(f"making the environment {environment!r} (once)", file=sys.stderr, flush=True)
    FOLDER.mkdir(parents=True, exist_ok=True)
    subprocess.run([sys.executable, "-m", "venv", "--clear", str(FOLDER / environment)], check=True)
    _pip(environment, "install", "--quiet", *packages)


def _pip(environment: str, *words: str) -> str:
    command = [str(python_of(environment)), "-m", "pip", "--disable-pip-version-check", "--no-input", *words]
    ran = subprocess.run(command, capture_output=True, text=True, check=False)
    if ran.returncode:
        raise SystemExit(f"the environment {environment!r} could not be made:\n{ran.stderr.strip()[-2000:]}")
    return ran.stdout


def _digest(pins: Path) -> str:
    return hashlib.sha256(pins.read_bytes()).hexdigest()
