"""The files that every export takes as they are: dashboards and runbooks, shipped with the library."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from obskit.export.errors import ExportError


def find_folder() -> Path:
    """The folder `grafana`: within the installed package, or at the top of a source checkout."""
    installed = Path(__file__).parents[1] / "grafana"
    checkout = Path(__file__).parents[3] / "grafana"
    for place in (installed, checkout):
        if (place / "dashboards").is_dir():
            return place
    raise ExportError(
        f"the dashboards are missing: neither {installed} nor {checkout} holds them. Reinstall obskit-web"
    )


def dashboards() -> Mapping[str, str]:
    """File name without suffix -> JSON of every dashboard."""
    return {file.stem: _read(file) for file in _all("dashboards", "*.json")}


def runbooks() -> Mapping[str, str]:
    """File name -> Markdown of every runbook, the index included."""
    return {file.name: _read(file) for file in _all("runbooks", "*.md")}


def _all(below: str, pattern: str) -> list[Path]:
    folder = find_folder() / below
    found = sorted(folder.glob(pattern))
    if not found:
        raise ExportError(f"{folder} holds no {pattern}. Reinstall obskit-web")
    return found


def _read(file: Path) -> str:
    return file.read_text("utf-8")
