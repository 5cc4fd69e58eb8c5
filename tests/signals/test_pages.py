"""However often it is asked for, a page of metrics takes a bounded part of the application's time, and says its age."""

from __future__ import annotations

import gzip
import threading
from collections.abc import Callable
from contextlib import suppress

import pytest

from obskit.signals import pages as module
from obskit.signals.pages import (
    BURST_S,
    MAX_AGE_S,
    MAX_FORMATS,
    MAX_WAITING,
    REST,
    SHARE,
    WAIT_S,
    Budget,
    Page,
    Pages,
)
from tests.signals.conftest import wait_until


class Clock:
    """Two clocks that go when told to: the wall's, and that of the CPU."""

    def __init__(self) -> None:
        self.now = 1000.0
        self.cpu = 0.0
        self.made = 0

    def costing(self, seconds: float) -> Callable[[], bytes]:
        """Makes a page in so much time; its text is its number."""

        def make() -> bytes:
            self.now += seconds
            self.cpu += seconds
            self.made += 1
            return str(self.made).encode()

        return make


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def pages(clock: Clock) -> Pages:
    return Pages(lambda: clock.now, lambda: clock.cpu)


def body(page: Page | None) -> bytes | None:
    return None if page is None else page.body


@pytest.mark.parametrize(("cost_s", "every_s"), [(0.005, 1.0), (0.05, 1.0), (0.5, 15.0), (1.0, 15.0)])
def test_ordinary_scrapes_are_always_fresh(cost_s: float, every_s: float, pages: Pages, clock: Clock) -> None:
    for number in range(1, 2_000):
        page = pages.get("text", clock.costing(cost_s))
        assert page is not None
        assert (page.body, page.age_s) == (str(number).encode(), None)
        clock.now += every_s


@pytest.mark.parametrize("cost_s", [0.001, 0.02, 0.09, 0.3, 1.5])
@pytest.mark.parametrize("pause_s", [0.004, 0.02])
def test_a_flood_takes_the_share_and_a_burst_and_a_quarter_for_the_largest_pages(
    cost_s: float, pause_s: float, pages: Pages, clock: Clock
) -> None:
    began, lasting = clock.now, 120.0
    oldest = 0.0
    while clock.now - began < lasting:
        page = pages.get("text", clock.costing(cost_s))
        clock.now += pause_s
        if page is not None and page.age_s is not None:
            oldest = max(oldest, page.age_s)
    elapsed = clock.now - began
    share = SHARE if cost_s < SHARE * MAX_AGE_S else 1 / (1 + REST)
    assert clock.cpu <= share * elapsed + BURST_S + 2 * cost_s
    assert clock.cpu >= 0.9 * min(SHARE, cost_s / (cost_s + pause_s)) * elapsed
    # A cheap page stays young: ten times what it costs.
    assert oldest <= min(MAX_AGE_S, cost_s / SHARE * 1.1 + pause_s)


@pytest.mark.parametrize(("cost_s", "every_s", "scrapers"), [(1.0, 15.0, 3), (0.3, 5.0, 2), (2.0, 30.0, 2)])
def test_some_scrapers_of_a_large_page_are_all_answered_though_they_use_more_than_the_share(
    cost_s: float, every_s: float, scrapers: int, pages: Pages, clock: Clock
) -> None:
    for _ in range(500):
        for _ in range(scrapers):
            assert pages.get("text", clock.costing(cost_s)) is not None
            clock.now += every_s / scrapers - cost_s


def test_after_a_flood_scrapes_are_fresh_again(pages: Pages, clock: Clock) -> None:
    while (page := pages.get("text", clock.costing(0.1))) is not None and page.age_s is None:
        continue
    clock.now += 15.0
    page = pages.get("text", clock.costing(0.1))
    assert page is not None
    assert page.age_s is None


def test_who_floods_in_one_format_does_not_starve_another(pages: Pages, clock: Clock) -> None:
    for number in range(20_000):
        pages.get("text", clock.costing(0.02))
        clock.now += 0.005
        if number % 200 == 100:  # once a second, and more rarely while pages are made
            page = pages.get("openmetrics", clock.costing(0.02))
            if page is None:  # as Retry-After says
                clock.now += 1.0
                page = pages.get("openmetrics", clock.costing(0.02))
            assert page is not None
            assert (page.age_s or 0.0) <= MAX_AGE_S


def test_a_page_that_is_too_old_is_not_given_and_another_is_made_after_a_rest(
    pages: Pages, clock: Clock
) -> None:
    assert body(pages.get("text", clock.costing(0.3))) == b"1"
    pages._budget.take(100.0)
    given = pages.get("text", clock.costing(0.3))
    assert given is not None
    assert (given.body, given.age_s) == (b"1", pytest.approx(0.3))
    assert pages.get("never made", clock.costing(0.3)) is None
    clock.now += MAX_AGE_S
    assert body(pages.get("text", clock.costing(0.3))) == b"2"
    clock.now += 0.29 * REST
    assert pages.get("never made", clock.costing(0.3)) is None
    clock.now += 0.1
    assert body(pages.get("never made", clock.costing(0.3))) == b"3"


def test_formats_that_are_kept_are_bounded(pages: Pages, clock: Clock) -> None:
    for number in range(5 * MAX_FORMATS):
        pages.get(f"format {number}", clock.costing(0.001))
    assert len(pages._made) == MAX_FORMATS


def test_compressing_is_done_once_and_counts(clock: Clock) -> None:
    took: list[float] = []
    page = Page(b"x" * 1_000_000, took.append)
    compressed = page.compressed()
    assert page.aged(3.0).compressed() is compressed
    assert gzip.decompress(compressed) == page.body
    assert len(took) == 1
    assert took[0] > 0.0


def test_an_error_is_raised_to_who_asked_and_the_next_one_tries_again(pages: Pages, clock: Clock) -> None:
    def failing() -> bytes:
        raise RuntimeError("a collector")

    for _ in range(2):
        with pytest.raises(RuntimeError):
            pages.get("text", failing)
    assert body(pages.get("text", clock.costing(0.01))) == b"1"


def test_a_clock_that_fails_costs_one_scrape_and_not_the_next(pages: Pages, clock: Clock) -> None:
    calls = fails_at = 0

    def failing() -> float:
        nonlocal calls
        calls += 1
        if calls == fails_at:
            raise OSError("a clock")
        return clock.now

    for fails_at in range(1, 12):  # noqa: B007 - the clock reads it
        calls = 0
        pages._clock = pages._budget._clock = failing
        with suppress(OSError):
            pages.get("text", clock.costing(0.01))
        calls = 100
        assert body(pages.get("text", clock.costing(0.01))) is not None
        assert not pages._making


def test_a_clock_that_goes_back_gives_nothing_away() -> None:
    now = [100.0]
    budget = Budget(clock=lambda: now[0])
    budget.take(1.0)
    now[0] = 50.0
    assert budget.level() == 1.0
    budget.take(-5.0)
    assert budget.level() == 1.0


class Slow:
    """Makes pages, each when it is let."""

    def __init__(self) -> None:
        self.begun = 0
        self.at_once = self.most = 0
        self.let = threading.Semaphore(0)

    def __call__(self) -> bytes:
        self.begun += 1
        number = self.begun
        self.at_once += 1
        self.most = max(self.most, self.at_once)
        assert self.let.acquire(timeout=10)
        self.at_once -= 1
        return str(number).encode()


def ask(pages: Pages, make: Callable[[], bytes], found: list[bytes | None]) -> threading.Thread:
    thread = threading.Thread(target=lambda: found.append(body(pages.get("text", make))), daemon=True)
    thread.start()
    return thread


def test_one_page_at_a_time_serves_all_who_came_before_it_was_begun(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(module, "MAX_WAITING", 20)
    pages, slow = Pages(), Slow()
    found: list[bytes | None] = []
    first = ask(pages, slow, found)
    wait_until(lambda: slow.begun == 1)
    # They may have been answered since the first page was begun: that one is not theirs.
    others = [ask(pages, slow, found) for _ in range(20)]
    wait_until(lambda: pages._waiting == 20)
    slow.let.release()
    first.join(10)
    wait_until(lambda: slow.begun == 2)
    slow.let.release()
    for other in others:
        other.join(10)
    assert found == [b"1"] + [b"2"] * 20
    assert (slow.begun, slow.most) == (2, 1)


def test_few_wait_for_the_next_page_and_others_get_the_last_one() -> None:
    pages, slow = Pages(), Slow()
    found: list[bytes | None] = []
    slow.let.release()
    ask(pages, slow, found).join(10)
    threads = [ask(pages, slow, found)]
    wait_until(lambda: slow.begun == 2)
    threads += [ask(pages, slow, found) for _ in range(MAX_WAITING)]
    wait_until(lambda: pages._waiting == MAX_WAITING)
    for _ in range(10):
        page = pages.get("text", slow)
        assert page is not None
        assert page.body == b"1"
        assert page.age_s is not None
    for _ in range(2):
        slow.let.release()
    for thread in threads:
        thread.join(10)
    assert found == [b"1", b"2"] + [b"3"] * MAX_WAITING


def test_nobody_waits_long_for_a_page_that_hangs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "WAIT_S", 0.05)
    pages, slow = Pages(), Slow()
    found: list[bytes | None] = []
    slow.let.release()
    ask(pages, slow, found).join(10)
    hanging = ask(pages, slow, found)
    wait_until(lambda: slow.begun == 2)
    for _ in range(3):
        page = pages.get("text", slow)
        assert page is not None
        assert page.body == b"1"
        assert page.age_s is not None
    slow.let.release()
    hanging.join(10)
    assert found == [b"1", b"2"]
    assert WAIT_S <= 5.0


def test_a_forked_child_does_not_wait_for_a_page_of_its_parents() -> None:
    pages, slow = Pages(), Slow()
    found: list[bytes | None] = []
    thread = ask(pages, slow, found)
    wait_until(lambda: slow.begun == 1)
    pages._restart()  # what a child does first
    assert body(pages.get("text", lambda: b"the child's")) == b"the child's"
    slow.let.release()
    thread.join(10)
