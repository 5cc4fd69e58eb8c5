"""The query of panels for rare events, on the Prometheus that evaluates it."""

from __future__ import annotations

import json
import warnings
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.grafana.dashboard_files import GRAFANA
from tests.grafana.promtool import promtool
from tests.grafana.substitute import Moment, Substitution

Query = Callable[..., str]


@pytest.fixture
def events(monkeypatch: pytest.MonkeyPatch) -> Query:
    """The function that writes the query."""
    monkeypatch.syspath_prepend(str(GRAFANA / "source"))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        from obskit_dashboards.queries import events  # type: ignore[import-not-found]

    found: Query = events
    return found


# Scraped all the time, a process of the day before, unless a case says otherwise.
WATCHED, OLD = "1x40", "-86400x40"


@pytest.mark.parametrize(
    ("values", "minute", "counted", "watched", "started"),
    [
        pytest.param("_x9 1x10", "12m", 1, WATCHED, OLD, id="born at 1 is one event"),
        pytest.param("_x9 1 1 3x10", "13m", 3, WATCHED, OLD, id="born at 1 and risen since is all of them"),
        pytest.param("_x9 1x20", "25m", 0, WATCHED, OLD, id="born before the window is none of it"),
        pytest.param(
            "2x9 2+1x10", "12m", 2, WATCHED, OLD, id="a counter that was there is counted by its growth"
        ),
        pytest.param(
            "5x9 _x20 1x10",
            "31m",
            1,
            WATCHED,
            "-86400x9 600x30",
            id="the first event since a restart is one event",
        ),
        pytest.param(
            "7x9 _x9 7x10", "21m", 0, "1x9 _x9 1x20", OLD, id="back after a gap of ten minutes is no event"
        ),
        pytest.param(
            "_x20 7x10", "21m", 0, "_x20 1x20", OLD, id="an old process that is scraped at last is no event"
        ),
        pytest.param(
            "_x20 7x10", "21m", 7, "_x20 1x20", "_x20 1140x20", id="what a new process did is all new"
        ),
        pytest.param("0x30", "20m", 0, WATCHED, OLD, id="a counter at rest is no event"),
    ],
)
def test_an_event_is_counted_when_its_series_is_born_with_it(
    events: Query, tmp_path: Path, values: str, minute: str, counted: float, watched: str, started: str
) -> None:
    labels = 'job="shop",instance="a"'
    series = {"happened_total": values, "obskit_app_info": watched, "process_start_time_seconds": started}
    # The range that is looked at: five minutes.
    query = Substitution(Moment(0, 300), {"job": ".*", "instance": ".*"}).apply(
        events("happened_total", 'job="shop"', "job")
    )
    test = {
        "evaluation_interval": "1m",
        "tests": [
            {
                "interval": "1m",
                "input_series": [
                    {"series": f"{name}{{{labels}}}", "values": text} for name, text in series.items()
                ],
                "promql_expr_test": [
                    {
                        "expr": f"round({query})",
                        "eval_time": minute,
                        "exp_samples": [{"labels": '{job="shop"}', "value": counted}],
                    }
                ],
            }
        ],
    }
    file = tmp_path / "test.yaml"
    file.write_text(json.dumps(test))  # JSON is YAML
    status, output = promtool("test", "rules", file)
    assert status == 0, output
