"""Finding the files that travel with the library."""

from __future__ import annotations

from pathlib import Path

import pytest

from obskit.export import shipped
from obskit.export.errors import ExportError


def test_dashboards_and_runbooks_are_where_they_are_looked_for() -> None:
    assert "obskit-overview" in shipped.dashboards()
    assert any(name.startswith("Obskit") for name in shipped.runbooks())


def test_an_installed_package_is_looked_into_before_a_checkout(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        shipped, "__file__", str(tmp_path / "site-packages" / "obskit" / "export" / "shipped.py")
    )
    checkout = tmp_path / "grafana"
    (checkout / "dashboards").mkdir(parents=True)
    assert shipped.find_folder() == checkout
    installed = tmp_path / "site-packages" / "obskit" / "grafana"
    (installed / "dashboards").mkdir(parents=True)
    assert shipped.find_folder() == installed


def test_dashboards_that_are_nowhere_are_said_to_be_missing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shipped, "__file__", str(tmp_path / "a" / "b" / "c" / "shipped.py"))
    with pytest.raises(ExportError, match="Reinstall obskit-web"):
        shipped.dashboards()


def test_a_folder_without_runbooks_is_no_export_without_runbooks(small: Path) -> None:
    for file in (small / "runbooks").iterdir():
        file.unlink()
    with pytest.raises(ExportError, match=r"holds no \*\.md"):
        shipped.runbooks()
