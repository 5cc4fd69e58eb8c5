"""The generated dashboards: as the source makes them, and as Grafana's own models understand them."""

from __future__ import annotations

import json
import re
import subprocess
import sys
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import pytest

from obskit import detectors
from obskit.exchange import Outcome
from obskit.export.links import dashboard_uid, runbook_panel_id
from tests.grafana.dashboard_files import DASHBOARDS, GRAFANA, Json, all_panels, data_links, shipped

with warnings.catch_warnings():
    # The SDK prefers the next schema, which Grafana 10 and 11 cannot import.
    warnings.simplefilter("ignore", DeprecationWarning)
    from grafana_foundation_sdk.cog.encoder import JSONEncoder
    from grafana_foundation_sdk.cog.plugins import register_default_plugins
    from grafana_foundation_sdk.models.dashboard import Dashboard

GENERATE = GRAFANA / "source" / "generate.py"
SLUGS = ("dependencies", "overview", "routes", "runbooks", "runtime", "silent-failures", "slo", "telemetry")

# What the models add to every object of a kind when they write it; the generator takes it out again, see there.
ADDED_BY_THE_SDK = frozenset(
    """
    placement allowCustomValue percentChangeColorMode selectionMode footer auto auto_count auto_min repeatDirection
    """.split()
)


def _generate(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-W", "ignore", str(GENERATE), *arguments],
        capture_output=True,
        text=True,
        timeout=120,
    )


def test_committed_files_are_what_the_source_generates_byte_for_byte() -> None:
    checked = _generate("--check")
    assert checked.returncode == 0, checked.stderr


def test_there_is_one_file_for_each_dashboard_named_after_its_uid() -> None:
    assert {name: board["uid"] for name, board in shipped().items()} == {
        dashboard_uid(slug): dashboard_uid(slug) for slug in SLUGS
    }


@pytest.mark.parametrize("slug", SLUGS)
def test_a_dashboard_survives_the_models_of_grafana(slug: str) -> None:
    register_default_plugins()
    before = json.loads((DASHBOARDS / f"{dashboard_uid(slug)}.json").read_text(encoding="utf-8"))
    model = Dashboard.from_json(json.loads(json.dumps(before)))
    after = json.loads(json.dumps(model, cls=JSONEncoder))
    assert list(_differences(before, after, "")) == []


def test_a_misspelled_field_does_not_survive_the_models() -> None:
    register_default_plugins()
    board = shipped()["obskit-overview"]
    board["panels"][1]["gridPoss"] = board["panels"][1].pop("gridPos")
    after = json.loads(json.dumps(Dashboard.from_json(json.loads(json.dumps(board))), cls=JSONEncoder))
    assert list(_differences(board, after, "")) == ["/panels/1/gridPoss is lost"]


def _differences(before: Any, after: Any, path: str) -> Iterator[str]:
    """What the models lost, changed or added, but for what they add always."""
    if isinstance(before, dict) and isinstance(after, dict):
        for key in sorted(before.keys() | after.keys()):
            if key not in after:
                yield f"{path}/{key} is lost"
            elif key in before:
                yield from _differences(before[key], after[key], f"{path}/{key}")
            elif key not in ADDED_BY_THE_SDK:
                yield f"{path}/{key} is added"
    elif isinstance(before, list) and isinstance(after, list) and len(before) == len(after):
        for place, (one, other) in enumerate(zip(before, after, strict=True)):
            yield from _differences(one, other, f"{path}/{place}")
    elif before != after:
        yield f"{path} is {after!r}, was {before!r}"


def test_every_runbook_has_its_panel_under_the_number_that_alerts_link_to() -> None:
    panels = {
        panel["title"]: panel for panel in all_panels(shipped()["obskit-runbooks"]) if panel["type"] == "text"
    }
    alerts = {path.stem for path in (GRAFANA / "runbooks").glob("*.md") if path.name != "README.md"}
    assert panels.keys() == alerts
    assert {alert: panel["id"] for alert, panel in panels.items()} == {
        alert: runbook_panel_id(alert) for alert in alerts
    }


def test_no_text_panel_holds_anything_that_grafana_would_replace() -> None:
    for name, board in shipped().items():
        for panel in all_panels(board):
            if panel["type"] == "text":
                found = re.findall(r"\$\w|\$\{|\[\[|\{\{", panel["options"]["content"])
                assert not found, f"{name}: {panel['title']}"


# ---- the source --------------------------------------------------------------------------------------


@pytest.fixture
def source(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Makes the generator importable, and forgets it afterwards."""
    monkeypatch.syspath_prepend(str(GRAFANA / "source"))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        yield
    for name in [name for name in sys.modules if name == "generate" or name.startswith("obskit_dashboards")]:
        del sys.modules[name]


@pytest.mark.usefixtures("source")
def test_check_tells_what_is_missing_different_and_left_over(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import generate  # type: ignore[import-not-found]

    monkeypatch.setattr(generate, "GRAFANA", tmp_path)
    folder = tmp_path / "dashboards"
    folder.mkdir()
    for name, text in (("same", "{}\n"), ("changed", "{ }\n"), ("old", "{}\n")):
        (folder / f"{name}.json").write_text(text)
    wanted = {f"dashboards/{name}.json": "{}\n" for name in ("same", "changed", "new")}
    assert generate.differences(wanted) == [
        "differs: dashboards/changed.json",
        "missing: dashboards/new.json",
        "left over: dashboards/old.json",
    ]
    generate.write(wanted)
    assert generate.differences(wanted) == []


@pytest.mark.usefixtures("source")
def test_a_new_panel_changes_no_other_panels_number_and_two_of_one_name_are_refused() -> None:
    from obskit_dashboards.board import Board, Row  # type: ignore[import-not-found]
    from obskit_dashboards.panels import text  # type: ignore[import-not-found]

    def ids(*titles: str) -> dict[str, int]:
        rows = (Row("Row", [text(title, "About.", "Text.") for title in titles]),)
        board = Board(slug="sample", title="Sample", description="A sample.", rows=rows)
        return {panel["title"]: panel["id"] for panel in all_panels(board.to_json())}

    before, after = ids("One", "Two"), ids("New", "One", "Two")
    assert before.items() <= after.items()
    with pytest.raises(ValueError, match="'One' and 'One' get the same panel id"):
        ids("One", "One")


@pytest.mark.usefixtures("source")
def test_panels_fill_lines_and_closed_rows_hold_theirs() -> None:
    from obskit_dashboards.board import Board, Row
    from obskit_dashboards.panels import text

    def panel(title: str, width: int, height: int) -> Any:
        return text(title, "About.", "Text.", width=width, height=height)

    first = Row("Open", [panel("A", 12, 4), panel("B", 12, 6), panel("C", 8, 3)])
    second = Row("Closed", [panel("D", 24, 5)], collapsed=True)
    board: Json = Board(
        slug="sample", title="Sample", description="A sample.", rows=(first, second)
    ).to_json()
    places = {panel["title"]: tuple(panel["gridPos"].values()) for panel in all_panels(board)}
    assert places == {
        "Open": (1, 24, 0, 0),
        "A": (4, 12, 0, 1),
        "B": (6, 12, 12, 1),
        "C": (3, 8, 0, 7),
        "Closed": (1, 24, 0, 10),
        "D": (5, 24, 0, 11),
    }
    assert [panel["title"] for panel in board["panels"]] == ["Open", "A", "B", "C", "Closed"]


@pytest.mark.usefixtures("source")
@pytest.mark.parametrize(
    ("markdown", "shielded"),
    [
        ("Costs $5, **bold** `code`.", "Costs &#36;5, **bold** `code`."),
        ("See $job and ${job} and {{ x }}.", "See &#36;job and &#36;&#123;job} and &#123;&#123; x }}."),
        ('a `x=~"$job"` b', "a <code>x&#61;&#126;&#34;&#36;job&#34;</code> b"),
        ("`$__range`", "<code>&#36;&#95;&#95;range</code>"),
        ("```promql\nup > 0\n```\n", "```promql\nup > 0\n```\n"),
        (
            '```promql\nup{job=~"$job"} < 1\n\nx\n```\nafter',
            '<pre><code>up&#123;job=~"&#36;job"} &lt; 1\n\nx\n</code></pre>\nafter',
        ),
    ],
)
def test_text_panels_show_variables_instead_of_replacing_them(markdown: str, shielded: str) -> None:
    from obskit_dashboards import markdown as module  # type: ignore[import-not-found]

    assert module.shielded(markdown) == shielded


@pytest.mark.usefixtures("source")
def test_every_text_panel_is_made_so() -> None:
    from obskit_dashboards.panels import text

    panel = json.loads(json.dumps(text("Title", "About.", "`$job`").build(1), cls=JSONEncoder))
    assert panel["options"]["content"] == "<code>&#36;job</code>"


@pytest.mark.usefixtures("source")
def test_every_finding_and_every_outcome_that_no_status_tells_has_its_row() -> None:
    from obskit_dashboards.boards.silent_failures import FAILURES  # type: ignore[import-not-found]

    names = [failure.name for failure in FAILURES]
    assert names == [*(detector.name for detector in detectors.shipped()), "unknown"]
    # A request that raised before its headers is answered with 500: that one is not silent.
    told = {Outcome.COMPLETED, Outcome.RAISED}
    found_as = {"truncated": "truncated_response"}
    silent = {outcome.value for outcome in set(Outcome) - told}
    assert {found_as.get(outcome, outcome) for outcome in silent} <= set(names)
    rows = [
        panel["title"] for panel in shipped()["obskit-silent-failures"]["panels"] if panel["type"] == "row"
    ]
    assert [row for row in rows if ": " in row] == [
        f"{name}: why the status did not show it" for name in names
    ]


@pytest.mark.usefixtures("source")
def test_every_detector_that_ships_is_told_what_to_do_about_and_no_other() -> None:
    from obskit_dashboards.boards.silent_failures import DO

    assert set(DO) == {detector.name for detector in detectors.shipped()}


def test_the_row_of_a_finding_says_what_its_declaration_says() -> None:
    panels = {panel["title"]: panel for panel in all_panels(shipped()["obskit-silent-failures"])}
    for detector in detectors.shipped():
        content = panels[f"{detector.name}: what it is"]["options"]["content"]
        assert detector.help in content
        assert detector.why in content


def test_exceptions_lead_to_lines_that_name_the_class_with_its_module() -> None:
    links = [unquote(link["url"]) for _, link in data_links(shipped()["obskit-silent-failures"])]
    (comparison,) = {found[0] for link in links if (found := re.search(r"exception_type=[^`]*`[^`]*`", link))}
    match = re.fullmatch(r"exception_type=~`(.+)`", comparison)
    assert match, comparison
    pattern = re.sub(r"\$\{[^}]+\}", "OperationalError", match[1])
    for logged in ("OperationalError", "sqlalchemy.exc.OperationalError"):
        assert re.fullmatch(pattern, logged)
    assert not re.fullmatch(pattern, "NotAnOperationalError")
