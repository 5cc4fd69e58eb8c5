"""What the export tests share: a small grafana/ folder in place of the shipped one, and a Grafana to push to."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from obskit.export import shipped
from tests.export.fake_grafana import FakeGrafana


def small_dashboard(name: str, title: str = "") -> dict[str, Any]:
    """A dashboard with the variables that an export looks at, in the order of a shipped one."""
    everything = {"selected": True, "text": ["All"], "value": ["$__all"]}
    return {
        "editable": False,
        "panels": [{"id": 1, "title": "Größe", "type": "stat"}],
        "schemaVersion": 42,
        "templating": {
            "list": [
                {"name": "prometheus", "query": "prometheus", "type": "datasource"},
                {"current": everything, "multi": True, "name": "job", "type": "query"},
                {"current": everything, "multi": True, "name": "instance", "type": "query"},
            ]
        },
        "title": title or f"obskit / {name}",
        "uid": f"obskit-{name}",
    }


@pytest.fixture
def small(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A grafana/ folder with two dashboards and two runbooks, which the export takes for the shipped one."""
    folder = tmp_path / "grafana"
    (folder / "dashboards").mkdir(parents=True)
    (folder / "runbooks").mkdir()
    for name in ("overview", "slo"):
        text = json.dumps(small_dashboard(name), indent=2, ensure_ascii=False) + "\n"
        (folder / "dashboards" / f"obskit-{name}.json").write_text(text, "utf-8")
    for name in ("README", "ObskitServiceAbsent"):
        (folder / "runbooks" / f"{name}.md").write_text(f"# {name}\n")
    monkeypatch.setattr(shipped, "find_folder", lambda: folder)
    return folder


@pytest.fixture
def grafana(monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeGrafana]:
    """A Grafana without anything in it, and the token it takes in the environment."""
    monkeypatch.setenv("GRAFANA_TOKEN", "glsa_editor")
    with FakeGrafana({"glsa_editor": "Editor", "glsa_viewer": "Viewer"}) as running:
        yield running
