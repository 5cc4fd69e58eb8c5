"""Runbooks: one panel each, so that an alert can lead to one without a web server of its own."""

from __future__ import annotations

from pathlib import Path

from obskit_dashboards.board import Board, Row
from obskit_dashboards.panels import Panel, text


def board(grafana: Path) -> Board:
    """Every `grafana/runbooks/<Alert>.md`, under the panel id that alerts link to."""
    runbooks = sorted((grafana / "runbooks").glob("Obskit*.md"))
    return Board(
        slug="runbooks",
        title="Runbooks",
        description="What to do when an alert fires. Alerts link here; Ctrl+F finds the rest.",
        rows=(Row("Runbooks", [_runbook(file) for file in runbooks]),),
        hidden=frozenset({"instance", "http_route", "http_request_method"}),
        refresh="",
        annotated=False,
    )


def _runbook(file: Path) -> Panel:
    return text(
        file.stem,
        f"What {file.stem} means, what to look at and what to do about it.",
        file.read_text(encoding="utf-8"),
        key=file.stem,
        height=16,
        width=12,
    )
