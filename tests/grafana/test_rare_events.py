"""The query of panels for rare events, on the Prometheus that evaluates it."""

from __future__ import annotations

import json
import subprocess
import warnings
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.grafana.dashboard_files import GRAFANA

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


@pytest.mark.parametrize(
    ("values", "minute", "counted"),
    [
        pytest.param("_x9 1x10", "12m", 1, id="born at 1 is one event"),
        pytest.param("_x9 1 1 3x10", "13m", 3, id="born at 1 and risen since is all of them"),
        pytest.param("_x9 1x20", "25m", 0, id="born before the window is none of it"),
        pytest.param("7x9 _x9 7x10", "21m", 0, id="back after a gap of ten minutes is no event"),
        pytest.param("0x30", "20m", 0, id="a counter at rest is no event"),
    ],
)
def test_an_event_is_counted_when_its_series_is_born_with_it(
    events: Query, tmp_path: Path, values: str, minute: str, counted: float
) -> None:
    matchers = 'job="shop"'
    test = {
        "evaluation_interval": "1m",
        "tests": [
            {
                "interval": "1m",
                "input_series": [{"series": f"happened_total{{{matchers}}}", "values": values}],
                "promql_expr_test": [
                    {
                        "expr": events("happened_total", matchers, "job", "5m"),
                        "eval_time": minute,
                        "exp_samples": [{"labels": '{job="shop"}', "value": counted}],
                    }
                ],
            }
        ],
    }
    file = tmp_path / "test.yaml"
    file.write_text(json.dumps(test))  # JSON is YAML
    ran = subprocess.run(["promtool", "test", "rules", str(file)], capture_output=True, text=True, timeout=60)
    assert ran.returncode == 0, ran.stdout + ran.stderr
