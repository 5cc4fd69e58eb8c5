"""All dashboards as files: path below `grafana/` -> text."""

from __future__ import annotations

import json
from importlib import import_module
from pathlib import Path
from pkgutil import iter_modules

from obskit.export.links import dashboard_uid
from obskit_dashboards import boards
from obskit_dashboards.board import Board


def dashboard_files(grafana: Path) -> dict[str, str]:
    """Every dashboard of `boards/`, found by file name. `grafana` is the folder that holds the runbooks."""
    return {f"dashboards/{dashboard_uid(board.slug)}.json": encode(board) for board in discover(grafana)}


def discover(grafana: Path) -> list[Board]:
    """What `board(grafana)` of each file in `boards/` returns, by name."""
    found = []
    for module in sorted(iter_modules(boards.__path__), key=lambda module: module.name):
        board: Board = import_module(f"{boards.__name__}.{module.name}").board(grafana)
        if board.slug != module.name.replace("_", "-"):
            raise ValueError(f"boards/{module.name}.py builds {board.slug!r}: file name and slug must agree")
        found.append(board)
    return found


def encode(board: Board) -> str:
    """The JSON, the same bytes for the same dashboard: keys in order, so that a diff shows what changed."""
    return json.dumps(board.to_json(), indent=2, sort_keys=True, ensure_ascii=False) + "\n"
