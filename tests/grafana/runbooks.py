"""The runbooks as data: sections, fenced blocks by language, and the panels they send their reader to."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

FOLDER = Path(__file__).resolve().parents[2] / "grafana" / "runbooks"
SECTIONS = ["Meaning", "Impact", "Diagnosis", "Mitigation", "False alarm"]

_FENCE = re.compile(r"^[ ]*```(?P<language>\w*)\n(?P<text>.*?)^[ ]*```$", re.MULTILINE | re.DOTALL)
_PANEL = re.compile(r"Dashboard: (?P<dashboard>obskit / [^,`]+), panel \"(?P<panel>[^\"]+)\"")


class Named(NamedTuple):
    """A panel that a runbook names: title of the dashboard, title of the panel."""

    dashboard: str
    panel: str


@dataclass(frozen=True)
class Runbook:
    """One runbook by the name of its alert."""

    alert: str
    text: str

    @property
    def prose(self) -> str:
        """The text without its fenced blocks."""
        return _FENCE.sub("", self.text)

    @property
    def sections(self) -> dict[str, str]:
        """The text below each `##` heading, in order."""
        parts = re.split(r"^## (.+)$", self.text, flags=re.MULTILINE)
        return dict(zip(parts[1::2], parts[2::2], strict=True))

    def blocks(self, language: str, section: str | None = None) -> list[str]:
        """The fenced blocks of one language, of the whole text or of one section."""
        text = self.text if section is None else self.sections[section]
        found = [match for match in _FENCE.finditer(text) if match["language"] == language]
        return ["\n".join(line.strip() for line in match["text"].splitlines()) for match in found]

    def panels(self) -> list[Named]:
        """Every panel the diagnosis names."""
        return [Named(match["dashboard"], match["panel"]) for match in _PANEL.finditer(self.text)]


def runbooks() -> list[Runbook]:
    """All runbooks, by name; the index is none of them."""
    return [
        Runbook(path.stem, path.read_text(encoding="utf-8"))
        for path in sorted(FOLDER.glob("*.md"))
        if path.name != "README.md"
    ]


def runbook_queries() -> Iterator[tuple[str, str]]:
    """(alert, query) for every PromQL query of every runbook."""
    for runbook in runbooks():
        for query in runbook.blocks("promql"):
            yield runbook.alert, query
