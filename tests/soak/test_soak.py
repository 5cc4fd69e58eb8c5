"""A short soak of the three shops, and that its verdict misses nothing."""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import replace

import pytest

from .plants import Planted
from .run import Soaked, read_lines, report, run, verdict
from .visitors import VISITS

ROUNDS = 1
FAULT = Planted("order_sent_twice", ("duplicate_request",), ("planted-2",))
CLEAN = Soaked(
    framework="flask",
    server="gunicorn-gthread",
    seconds=1.0,
    visits=Counter(),
    answered=3,
    planted=[FAULT],
    lines=3,
    found={"planted-2": [{"request_id": "planted-2", "findings": ["duplicate_request"]}]},
    counted=Counter(duplicate_request=1),
    problems=[],
)


@pytest.mark.e2e
def test_ordinary_visits_of_every_kind_leave_no_finding_beside_the_planted_ones(tmp_path):
    results = run(3_000, rounds=ROUNDS, seed=7, directory=tmp_path)
    assert [problem for one in results for problem in verdict(one)] == [], report(results)
    assert sum(one.lines for one in results) >= 3_000
    for one in results:
        assert set(one.visits) == {visit.__name__ for visit in VISITS}, one.framework


def test_a_run_in_which_only_the_planted_was_found_has_no_problem():
    assert verdict(CLEAN) == []


@pytest.mark.parametrize(
    ("soaked", "said"),
    [
        (replace(CLEAN, found={}, counted=Counter()), "planted order_sent_twice (planted-2): found []"),
        (
            replace(
                CLEAN, found={"planted-2": CLEAN.found["planted-2"] * 2}, counted=Counter(duplicate_request=2)
            ),
            "found [('duplicate_request',), ('duplicate_request',)]",
        ),
        (
            replace(
                CLEAN,
                found={**CLEAN.found, "browser-1": [{"request_id": "browser-1", "findings": ["soft_error"]}]},
                counted=Counter(duplicate_request=1, soft_error=1),
            ),
            'nobody planted this: {"request_id": "browser-1", "findings": ["soft_error"]}',
        ),
        (replace(CLEAN, counted=Counter()), "metrics count {}, lines have {'duplicate_request': 1}"),
        (replace(CLEAN, lines=2), "2 canonical lines for 3 requests"),
        (replace(CLEAN, problems=["visit 7: 500"]), "flask: visit 7: 500"),
    ],
    ids=["missed", "found twice", "nobody's", "metrics differ", "line lost", "visit failed"],
)
def test_whatever_differs_from_what_was_planted_is_a_problem(soaked, said):
    (problem,) = verdict(soaked)
    assert said in problem


def test_a_finding_outside_of_a_request_is_read_from_the_log_too(tmp_path):
    log = tmp_path / "out"
    lines = [
        {"event": "http.request", "request_id": "a", "findings": []},
        {"event": "http.request", "request_id": "b", "findings": ["soft_error"]},
        {"event": "obskit.finding", "finding": "invariant_failed"},
        {"event": "order created"},
    ]
    log.write_text("not JSON\n" + "".join(json.dumps(line) + "\n" for line in lines))
    count, found = read_lines(log)
    assert count == 2
    assert {request: [line["findings"] for line in of] for request, of in found.items()} == {
        "b": [["soft_error"]],
        "no request": [["invariant_failed"]],
    }
