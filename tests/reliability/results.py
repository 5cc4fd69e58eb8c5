"""Where a long form leaves its figures: one file per kind of trouble, from which docs/reliability.md is made."""

from __future__ import annotations

import json
import platform
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path

FOLDER = Path(__file__).resolve().parents[2] / "docs" / "reliability"


def keep(name: str, *, title: str, command: str, rows: Sequence[tuple[str, str]], took_s: float) -> Path:
    """Write what one long form saw. `rows` are pairs of what was tried and what came of it, figures included."""
    path = FOLDER / f"{name}.json"
    found = {
        "title": title,
        "command": command,
        "date": datetime.now(UTC).date().isoformat(),
        "python": platform.python_version(),
        "took_s": round(took_s),
        "rows": [list(row) for row in rows],
    }
    path.write_text(json.dumps(found, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
    return path
