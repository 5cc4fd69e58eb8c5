"""From rows to figures, goals and pages: what the benchmark of a request says, and when it says nothing."""

from __future__ import annotations

import random
from typing import Any

import pytest

from benchmarks.cost import figures, report
from benchmarks.cost.inprocess import TWIN
from benchmarks.cost.variants import FRAMEWORKS, VARIANTS, of

BARE_US = 50.0
ADDED_US = {
    "assembled": 600.0,
    "careful": 240.0,
    "floor-lean": 14.0,
    "signals": 20.0,
    "obskit": 40.0,
    TWIN: 0.0,
}


def rows(added_us: float, jitter_us: float = 0.5, rounds: int = 24) -> list[dict[str, float]]:
    chance = random.Random(int(added_us))
    return [
        {
            "cpu": BARE_US + added_us + chance.uniform(-jitter_us, jitter_us),
            "background": added_us / 10,
            "wall": BARE_US + added_us,
            "bare_cpu": BARE_US,
            "bare_wall": BARE_US,
        }
        for _ in range(rounds)
    ]


def measured(jitter_us: float = 0.5, **more: float) -> dict[str, Any]:
    return {
        "rows": {key: rows(added, jitter_us) for key, added in (ADDED_US | more).items()},
        "seen": {key: {"spans": 2.0 if key == "assembled" else 1.0} for key in ADDED_US if key != TWIN},
    }


def test_what_a_variant_adds_is_the_median_over_the_rounds_above_its_own_bare_application() -> None:
    measured_twice = {"rows": {TWIN: rows(0.0), "obskit": [*rows(40.0, 0.0), *rows(4000.0, 0.0, rounds=5)]}}
    assert figures.figures(measured_twice)["obskit"]["added_us"] == pytest.approx(40.0)


def test_shares_of_the_others_and_the_background_of_a_span_follow() -> None:
    found = figures.figures(measured())
    assert found["signals"]["of_assembled"] == pytest.approx(20 / 600, rel=0.05)
    assert found["signals"]["of_bare"] == pytest.approx(20 / 50, rel=0.05)
    assert found["assembled"]["background_us_per_span"] == pytest.approx(30.0)
    assert found["obskit"]["rate_of_bare"] == pytest.approx(50 / 90)


def test_a_quiet_machine_is_believed() -> None:
    assert figures.too_noisy({"fastapi": figures.figures(measured())}, figures.NOISE_LIMIT_US) == []


@pytest.mark.parametrize(
    "trouble", [measured(jitter_us=40.0), measured(**{TWIN: 6.0})], ids=["unsteady", "unlike itself"]
)
def test_a_machine_that_makes_up_a_cost_for_the_bare_application_is_refused(trouble: dict[str, Any]) -> None:
    quiet = figures.figures(measured())
    reasons = figures.too_noisy({"fastapi": quiet, "flask": figures.figures(trouble)}, figures.NOISE_LIMIT_US)
    assert len(reasons) == 1
    assert reasons[0].startswith("flask: the bare application beside itself seems to cost")


@pytest.mark.parametrize(("p50_us", "cpu_us", "said"), [(510.0, 51.0, 0), (900.0, 51.0, 1), (510.0, 80.0, 1)])
def test_servers_whose_bare_applications_disagree_are_refused(
    p50_us: float, cpu_us: float, said: int
) -> None:
    server = {
        "figures": {"assembled": {"bare_us": 50.0}, "signals": {"bare_us": cpu_us}},
        "waited": {
            "bare@stack": {"p50_us": 500.0},
            "bare@obskit": {"p50_us": p50_us},
            "signals": {"p50_us": 9e9},
        },
    }
    assert len(figures.servers_too_noisy({"uvicorn": server}, figures.SERVER_NOISE_LIMIT)) == said


def test_a_goal_is_met_up_to_its_limit_and_missed_beyond() -> None:
    found = figures.figures(measured(jitter_us=0.0))
    judged = {(one.goal, one.where): one for one in figures.judge({"fastapi": found, "flask": found}, {})}
    against = judged["three signals against the careful stack", "fastapi"]
    assert (against.met, against.limit, against.seen) == (True, "1/12", "1/12")
    assert judged["three signals against the tuned floor", "fastapi"].met
    as_it_comes = judged["as it comes against the assembled stack", "fastapi"]
    assert (as_it_comes.met, as_it_comes.limit, as_it_comes.seen) == (False, "1/20", "1/15")
    assert judged["as it comes against the assembled stack", "flask"].met


@pytest.mark.parametrize(("more_us", "met"), [(0.5, True), (9.0, False)])
def test_with_many_routes_before_it_costs_the_same_within_noise_or_not(more_us: float, met: bool) -> None:
    found = figures.figures(measured(**{"obskit+routes": 40.0 + more_us}))
    judged = {one.goal: one.met for one in figures.judge({"flask": found}, {})}
    assert judged["as it comes: the same with 100 routes before"] is met


def run() -> dict[str, Any]:
    found = figures.figures(measured())
    server = {
        "framework": "fastapi",
        "rate": 300,
        "figures": {key: found[key] for key in ("assembled", "signals")},
    }
    server["waited"] = {key: {"p50_us": 900.0, "p99_us": 2000.0} for key in ("assembled", "signals")}
    server["waited"] |= {bare: {"p50_us": 500.0, "p99_us": 1000.0} for bare in ("bare@stack", "bare@obskit")}
    return {
        "command": "make bench",
        "date": "2026-11-29",
        "python": "3.11.7",
        "machine": "2 cores, x86_64",
        "took_s": 800,
        "rounds": 24,
        "versions": {"fastapi": "1"},
        "frameworks": {"fastapi": {"figures": found, "seen": {}}},
        "servers": {"uvicorn": server},
        "instructions": {"fastapi": {"obskit": 100_000.0}},
        "goals": [one._asdict() for one in figures.judge({"fastapi": found}, {"uvicorn": server})],
    }


def test_the_table_has_every_variant_in_one_row_and_every_goal() -> None:
    lines = report.text(run()).splitlines()
    for key in ADDED_US:
        assert sum(line.startswith(report.title_of(key) + " ") for line in lines) >= 1
    assert sum(line.startswith(("met ", "MISSED ")) for line in lines) == len(run()["goals"]) > 5


def test_the_tables_of_the_page_are_rectangles() -> None:
    page = report.markdown(run())
    tables = [block for block in page.split("\n\n") if block.startswith("|")]
    assert len(tables) >= 5
    for table in tables:
        assert len({line.count("|") for line in table.strip().splitlines()}) == 1, table


def test_the_chart_is_the_same_twice(tmp_path: Any) -> None:
    for name in ("one.svg", "two.svg"):
        report.chart(run(), tmp_path / name)
    assert (tmp_path / "one.svg").read_bytes() == (tmp_path / "two.svg").read_bytes()
    assert "FastAPI" in (tmp_path / "one.svg").read_text()


def test_every_framework_has_all_that_its_goals_compare() -> None:
    for framework in FRAMEWORKS:
        names = {one.name for one in of(framework)}
        assert {name for goal in figures.GOALS for name in (goal.ours, goal.theirs)} <= names
    assert len({one.name for one in VARIANTS}) == len(VARIANTS)
