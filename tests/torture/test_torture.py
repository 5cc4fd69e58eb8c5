"""The short form of the torture run, and that its books miss nothing."""

from __future__ import annotations

from dataclasses import replace

import pytest

from .books import Books, claims, read_lines
from .faults import KINDS, Faults
from .run import report, run
from .scraper import cumulative, fell, lag_s
from .visitors import trace_of

SECONDS = 18.0


@pytest.mark.e2e
def test_nothing_is_lost_uncounted_or_unnamed_while_workers_are_killed_hung_and_replaced(tmp_path):
    results = run(SECONDS, tmp_path, every_s=0.8, recycle=120, seed=7)
    assert [claim.what for one in results for claim in one.claims if not claim.held] == [], report(results)
    for one in results:
        assert one.done.total() >= 6, report(results)


def died(request_id: str, **facts: object) -> list[dict[str, object]]:
    return [{"request_id": request_id, "trace_id": trace_of(request_id), "phase": "open", **facts}]


# a was answered, b cut off in the application, c before it; the answer of d was on its way.
BOOKS = Books(
    fates={"a": "answered", "b": "cut", "c": "cut", "d": "answered"},
    entered=["a", "b", "d"],
    lines={"a": [{"request_id": "a"}]},
    died={"b": died("b"), "d": died("d", phase="answering")},
    counted=2.0,
    lost=2.0,
)


def test_books_that_agree_hold_all_claims():
    assert [claim.what for claim in claims(BOOKS) if not claim.held] == []


@pytest.mark.parametrize(
    ("account", "failed"),
    [
        (replace(BOOKS, counted=1.0), ["what the clients saw answered is counted"]),
        (replace(BOOKS, counted=3.0), ["what the clients saw answered is counted"]),
        (
            replace(BOOKS, lines={}),
            ["what the clients saw answered is counted", "what a death cut off is named with its trace id"],
        ),
        (
            replace(BOOKS, died={"d": BOOKS.died["d"]}, lost=1.0),
            ["what a death cut off is named with its trace id"],
        ),
        (
            replace(BOOKS, died={**BOOKS.died, "b": died("b", trace_id="0" * 32)}),
            ["what a death cut off is named with its trace id"],
        ),
        (replace(BOOKS, lost=3.0), ["obskit_requests_lost_total counts the named"]),
        (
            replace(BOOKS, died={**BOOKS.died, "b": died("b") * 2}, lost=3.0),
            ["obskit_requests_lost_total counts the named"],
        ),
        (
            replace(BOOKS, died={**BOOKS.died, "a": died("a")}, lost=3.0),
            ["no request is both logged and lost"],
        ),
        (replace(BOOKS, lines={"a": [{"request_id": "a"}] * 2}), ["one canonical line each"]),
        (replace(BOOKS, entered=["a", "b", "d", "e"], died={**BOOKS.died, "e": died("e")}, lost=3.0),
         ["every request is a client's"]),
        (replace(BOOKS, wrong=["a: 200 b''"]), ["answers are what the application gives"]),
    ],
    ids=[
        "counted too few", "counted too many", "answered without a line", "cut off and not named", "wrong trace",
        "lost too many", "named twice", "logged and lost", "logged twice", "nobody's", "wrong answer",
    ],
)  # fmt: skip
def test_whatever_disagrees_fails_its_claim(account, failed):
    assert [claim.what for claim in claims(account) if not claim.held] == failed


def test_lines_are_read_by_what_they_tell_of(tmp_path):
    (tmp_path / "out").write_text(
        'not JSON\n{"event":"http.request","request_id":"a"}\n["b"]\n{"event":"obskit.finding","finding":"timeout"}\n'
        '{"event":"obskit.finding","finding":"worker_died","request_id":"c"}\n'
    )
    canonical, lost = read_lines(tmp_path / "out")
    assert (list(canonical), list(lost)) == (["a"], ["c"])


PAGE = """# TYPE x_total counter
x_total{a="1"} 5.0
# TYPE of_one_total counter
of_one_total{worker="0"} 5.0
# TYPE d histogram
d_bucket{le="+Inf"} 2.0
d_count 2.0
d_sum 0.5
# TYPE g gauge
g 7.0
"""


def test_a_counter_that_falls_or_goes_is_seen_and_nothing_else():
    before = cumulative(PAGE)
    assert set(before) == {'x_total{a="1"}', 'd_bucket{le="+Inf"}', "d_count", "d_sum"}
    later = PAGE.replace("d_count 2.0", "d_count 3.0").replace("g 7.0", "g 1.0")
    assert fell(before, cumulative(later)) == []
    assert fell(before, cumulative(PAGE.replace("d_sum 0.5", "d_sum 0.4"))) == ["d_sum: 0.5 then 0.4"]
    gone = PAGE.replace('x_total{a="1"} 5.0\n', "")
    assert fell(before, cumulative(gone)) == ['x_total{a="1"}: 5.0 then None']


def test_an_answer_that_a_scrape_does_not_count_yet_is_seen_with_how_long_it_was_missing():
    answered_at = [1.0, 2.0, 3.0]
    assert lag_s(answered_at, [(1.5, 1.0), (2.5, 2.0), (4.0, 3.0)]) == 0.0
    assert lag_s(answered_at, [(1.5, 1.0), (2.5, 1.0), (3.5, 1.0), (4.0, 3.0)]) == 1.5
    assert lag_s(answered_at, [(0.5, 0.0)]) == 0.0, (
        "what was answered behind the scrape is not missing from it"
    )


def test_each_kind_of_fault_can_be_had_alone():
    visitors = None
    for kind in KINDS:
        faults = Faults(0, visitors, 1.0, 1, upgrades=True, hang_s=1.0, only=[kind])
        assert [one.__name__ for one in faults._kinds] == [kind]
    assert len(Faults(0, visitors, 1.0, 1, upgrades=True, hang_s=1.0)._kinds) == len(KINDS)
