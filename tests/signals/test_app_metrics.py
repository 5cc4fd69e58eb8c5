"""The application's own counters are one truth, too, and nothing of the application is asked more than before."""

from __future__ import annotations

import errno
import os
import random
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from prometheus_client import CollectorRegistry, Counter, Enum, Gauge, Histogram, Info, Summary
from prometheus_client.core import GaugeMetricFamily
from prometheus_client.exposition import generate_latest
from prometheus_client.openmetrics.exposition import generate_latest as generate_openmetrics
from prometheus_client.openmetrics.parser import text_string_to_metric_families as parse_openmetrics

from obskit.signals import app_metrics, shelf
from obskit.signals.app_metrics import ARCHIVE, KIND, AppMetrics
from tests.support.group import Worker, in_child, listening

pytestmark = pytest.mark.usefixtures("server")


@pytest.fixture
def server() -> Iterator[socket.socket]:
    with listening() as one:
        yield one


def orders(worker: Worker, count: float = 1, **kind: str) -> Counter:
    """The application counts orders in this worker."""
    counter: Any = worker.registry._names_to_collectors.get("shop_orders")
    counter = counter or Counter("shop_orders", "Orders.", ["kind"], registry=worker.registry)
    counter.labels(kind.get("kind", "book")).inc(count)
    return counter  # type: ignore[no-any-return]


def errors(worker: Worker) -> float:
    return worker.number("obskit_internal_errors_total", "metrics.app") or 0.0


def publish(worker: Worker) -> None:
    worker.metrics.app._due = 0.0
    worker.metrics.publish()


def archive(worker: Worker) -> Path:
    return Path(worker.workers.folder, ARCHIVE)


def test_a_counter_is_the_sum_over_all_workers_living_and_dead(tmp_path: Path) -> None:
    one, two = Worker(tmp_path), Worker(tmp_path)
    orders(one, 3)
    orders(two, 4)
    orders(two, 2, kind="film")
    publish(two)
    assert one.app_number("shop_orders_total", kind="book") == 7
    assert one.app_number("shop_orders_total", kind="film") == 2
    two.die()
    assert one.app_number("shop_orders_total", kind="book") == 7
    assert one.bury() == 1
    assert not [name for name in os.listdir(one.workers.folder) if two.workers.token in name]
    three = Worker(tmp_path)
    orders(three)
    assert three.app_number("shop_orders_total", kind="book") == 8
    assert one.app_number("shop_orders_total", kind="book") == 8


def test_what_a_worker_has_shown_the_others_show_too(tmp_path: Path) -> None:
    one, two = Worker(tmp_path), Worker(tmp_path)
    orders(two, 5)
    assert two.app_number("shop_orders_total", kind="book") == 5, "it is scraped"
    assert one.app_number("shop_orders_total", kind="book") == 5, "without its second having passed"


def test_a_worker_that_ends_leaves_all_it_counted(tmp_path: Path) -> None:
    one, two = Worker(tmp_path), Worker(tmp_path)
    publish(two)
    two.metrics.app._due = float("inf")
    orders(two, 5)
    two.metrics.leave()
    two.workers.leave()
    one.bury()
    assert one.app_number("shop_orders_total", kind="book") == 5
    assert two.app_number("shop_orders_total", kind="book") == 5, "and goes on alone"


def test_histograms_and_summaries_are_summed_and_keep_the_newest_exemplar(tmp_path: Path) -> None:
    workers = one, two = Worker(tmp_path), Worker(tmp_path)
    made = [Histogram("work_seconds", "Work.", buckets=(0.5, 1.0), registry=w.registry) for w in workers]
    summaries = [Summary("size_bytes", "Sizes.", registry=w.registry) for w in workers]
    made[0].observe(0.2, {"trace_id": "old"})
    made[1].observe(0.3, {"trace_id": "new"})
    made[1].observe(7.0)
    for summary in summaries:
        summary.observe(8)
    publish(two)
    for _ in ("alive", "dead", "folded"):
        found = {(s.name, s.labels.get("le")): s for s in one.app()["work_seconds"].samples}
        assert [found["work_seconds_bucket", le].value for le in ("0.5", "1.0", "+Inf")] == [2, 2, 3]
        assert found["work_seconds_count", None].value == 3
        assert found["work_seconds_sum", None].value == 7.5
        assert found["work_seconds_bucket", "0.5"].exemplar.labels == {"trace_id": "new"}
        assert one.app_number("size_bytes_sum") == 16
        text = generate_openmetrics(one.metrics.app).decode()
        assert len([family for family in parse_openmetrics(text) if family.type == "histogram"]) == 1
        if two.workers.shared:
            two.die()
        else:
            one.bury()


def test_workers_of_two_versions_with_other_buckets_still_make_a_histogram(tmp_path: Path) -> None:
    one, two = Worker(tmp_path), Worker(tmp_path)
    Histogram("work_seconds", "Work.", buckets=(1.0, 10.0), registry=one.registry).observe(0.5)
    Histogram("work_seconds", "Work.", buckets=(5.0, 10.0), registry=two.registry).observe(3.0)
    publish(two)
    for _ in ("alive", "folded"):
        assert [(s.labels["le"], s.value) for s in one.app()["work_seconds"].samples if "le" in s.labels] == [
            ("1.0", 1),
            ("5.0", 2),
            ("10.0", 2),
            ("+Inf", 2),
        ]
        two.die() if two.workers.shared else None
        one.bury()


def test_gauges_are_of_the_living_each_or_as_their_mode_says(tmp_path: Path) -> None:
    workers = one, two = Worker(tmp_path), Worker(tmp_path)
    for worker, value in ((one, 3.0), (two, 5.0)):
        for mode in ("all", "livesum", "max", "min", "mostrecent"):
            Gauge(f"jobs_{mode}", "Jobs.", registry=worker.registry, multiprocess_mode=mode).set(value)  # type: ignore[arg-type]
        Gauge("tasks", "Tasks.", ["worker"], registry=worker.registry).labels("mine").set(value)
    publish(two)
    for each in ("jobs_all", "jobs_mostrecent"):
        assert [one.app_number(each, worker=str(w.workers.number)) for w in workers] == [3, 5]
    assert [one.app_number(f"jobs_{mode}") for mode in ("livesum", "max", "min")] == [8, 5, 3]
    assert one.app_number("tasks", worker="mine", obskit_worker="1") == 5
    two.die()
    for _ in ("dead", "folded"):
        assert [one.app_number(f"jobs_{mode}") for mode in ("livesum", "max", "min")] == [3, 3, 3]
        assert one.app_number("jobs_all", worker="1") is None
        one.bury()


def test_what_the_application_computes_is_asked_when_scraped_and_only_then(tmp_path: Path) -> None:
    one, two = Worker(tmp_path), Worker(tmp_path)
    asked: list[str] = []

    class Own:
        def collect(self) -> Any:
            asked.append("collector")
            return [GaugeMetricFamily("queue", "Queue.", value=2)]

    def depth() -> float:
        asked.append("function")
        return 4.0

    two.registry.register(Own())
    Gauge("depth", "Depth.", registry=two.registry).set_function(depth)
    Gauge("by_queue", "Depth.", ["q"], registry=two.registry).labels("a").set_function(depth)
    Info("build", "Build.", registry=two.registry).info({"version": "1"})
    Enum("mode", "Mode.", states=["on", "off"], registry=two.registry)
    orders(two)
    asked.clear()
    publish(two)
    assert asked == []
    assert (two.app_number("queue"), two.app_number("depth"), two.app_number("by_queue", q="a")) == (2, 4, 4)
    assert two.app_number("build_info", version="1") == 1
    assert two.app_number("mode", mode="on") == 1
    assert set(one.app()) == {"shop_orders"}, "it has none of these"


def test_an_application_without_metrics_of_its_own_has_no_file(tmp_path: Path) -> None:
    one = Worker(tmp_path)
    publish(one)
    assert list(one.metrics.app.collect()) == []
    assert not os.path.exists(one.workers.path(KIND))


def test_alone_the_registry_is_shown_as_it_is(tmp_path: Path) -> None:
    one = Worker(tmp_path, joins=False)
    Gauge("jobs", "Jobs.", registry=one.registry).set(3)
    orders(one)
    assert generate_latest(one.metrics.app) == generate_latest(one.registry)


def test_a_snapshot_takes_no_more_than_its_share_of_the_time(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    one = Worker(tmp_path)
    orders(one)
    clock = [100.0]
    spent = iter([0.0, 0.010, 5.0, 5.0])
    time = SimpleNamespace(monotonic=lambda: clock[0], thread_time=lambda: next(spent))
    monkeypatch.setattr(app_metrics, "time", time)
    one.metrics.publish()
    orders(one, 8)
    for clock[0], known in ((103.9, 1.0), (104.1, 9.0)):
        one.metrics.publish()
        (family,) = app_metrics.app_sums.read(Path(one.workers.path(KIND)).read_bytes())[1]
        assert family.groups[("kind", "book"),][0][2] == [known]


def test_sums_are_exact_in_whatever_order_workers_die(tmp_path: Path) -> None:
    """0.1 + 0.2 + 0.3 is another number than 0.3 + 0.2 + 0.1: nothing of that may be seen."""
    one = Worker(tmp_path)
    orders(one, 1e-9)
    dying = [Worker(tmp_path) for _ in range(12)]
    chance = random.Random(1)
    for worker in dying:
        orders(worker, chance.random() * 10 ** chance.randrange(-6, 6))
        publish(worker)
    expected = one.app_number("shop_orders_total", kind="book")
    chance.shuffle(dying)
    for worker in dying:
        worker.die()
        one.bury()
        assert one.app_number("shop_orders_total", kind="book") == expected


def test_one_that_is_buried_while_another_looks_is_counted_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    one, two, three = Worker(tmp_path), Worker(tmp_path), Worker(tmp_path)
    orders(two, 2)
    publish(two)
    read = shelf.read
    for moment in range(1, 5):
        dying = Worker(tmp_path)
        orders(dying, 10)
        publish(dying)
        dying.die()
        seen = 0

        def reading(path: str, moment: int = moment) -> bytes:
            nonlocal seen
            seen += 1
            if seen == moment:
                monkeypatch.setattr(shelf, "read", read)
                three.bury()
                monkeypatch.setattr(shelf, "read", reading)
            return read(path)

        monkeypatch.setattr(shelf, "read", reading)
        assert one.app_number("shop_orders_total", kind="book") == 2 + 10 * moment
        monkeypatch.setattr(shelf, "read", read)
        three.bury()


def test_who_buries_may_die_in_the_midst_of_it(tmp_path: Path) -> None:
    one, two = Worker(tmp_path), Worker(tmp_path)
    orders(two, 4)
    publish(two)
    two.die()
    (dead,) = [member for member in one.workers.members() if not member.alive]
    one.metrics.inherit(dead)
    assert one.app_number("shop_orders_total", kind="book") == 4
    assert one.bury() == 1
    assert one.app_number("shop_orders_total", kind="book") == 4


def test_the_archive_does_not_grow_with_workers_or_without_end(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(app_metrics, "FOLDED_KEPT", 3)
    monkeypatch.setattr(app_metrics, "MAX_KEPT", 5)
    one = Worker(tmp_path)
    sizes = []
    for turn in range(10):
        dying = Worker(tmp_path)
        orders(dying, 1, kind=f"pid-{turn}")
        publish(dying)
        dying.die()
        if turn < 5:
            one.bury()
        else:
            with pytest.raises(ValueError, match="no room for 1 label sets"):
                one.bury()
        sizes.append(archive(one).stat().st_size)
    assert sizes[4:] == [sizes[4]] * 6


BROKEN = [
    b"short", b"\xff" * 99, b"[]", b"[[],[[1]]]", b'[[],[["","","counter","","sum",[]]]]',
    b'[[],[["a","","no","","sum",[]]]]',
    b'[[],[["a","","counter","","sum",[[[],[["a_total","",["x"],null]]]]]]]', b'{"a":1}', b"[[],[null]]", b"7",
    b'[[],[["a","","histogram","","sum",[[[],[["a_bucket","x",[1],null]]]]]]]',
    b'[[],[["a","","counter","","sum",[[[],[["a_total","",[1],[1,2,3]]]]]]]]',
    b'[[],[["a","","counter","","sum",[[[],[[1,"",[1],null]]]]]]]',
]  # fmt: skip


@pytest.mark.parametrize("content", BROKEN)
@pytest.mark.parametrize("which", ["worker", "archive"])
def test_a_file_that_is_none_of_ours_costs_its_own_numbers_alone(
    content: bytes, which: str, tmp_path: Path
) -> None:
    one, two = Worker(tmp_path), Worker(tmp_path)
    orders(one, 3)
    orders(two, 1)
    publish(two)
    (Path(two.workers.path(KIND)) if which == "worker" else archive(one)).write_bytes(content)
    kept = 3 if which == "worker" else 4
    assert one.app_number("shop_orders_total", kind="book") == kept
    assert errors(one) == 1
    two.die()
    with suppress(ValueError):
        one.bury()
    assert one.app_number("shop_orders_total", kind="book") == kept
    three = Worker(tmp_path)
    orders(three)
    publish(three)
    three.die()
    one.bury()
    assert one.app_number("shop_orders_total", kind="book") == kept + 1


def test_a_family_of_another_type_elsewhere_is_left_out(tmp_path: Path) -> None:
    one, two, three = Worker(tmp_path), Worker(tmp_path), Worker(tmp_path)
    Summary("work", "Work.", registry=one.registry).observe(1)
    for worker in (two, three):
        Counter("work", "Work.", registry=worker.registry).inc(7)
        publish(worker)
    assert one.app_number("work_total") is None
    assert one.app_number("work_count") == 1
    two.die()
    one.bury()
    assert one.app_number("work_count") == 1
    one.metrics.leave()
    one.die()
    three.bury()
    assert three.app_number("work_total") == 14


def test_infinite_and_unknown_numbers_are_shown_as_they_are(tmp_path: Path) -> None:
    one, two, three = Worker(tmp_path), Worker(tmp_path), Worker(tmp_path)
    for worker, amount in ((one, 1.0), (two, float("inf")), (three, 1e308)):
        orders(worker, amount)
        orders(worker, amount, kind="large" if amount == 1e308 else "small")
        publish(worker)
    orders(two, float("nan"), kind="large")
    publish(two)
    for _ in ("alive", "folded"):
        assert one.app_number("shop_orders_total", kind="book") == float("inf")
        assert str(one.app_number("shop_orders_total", kind="large")) == "nan"
        two.die() if two.workers.shared else None
        one.bury()


def test_on_a_full_disk_a_worker_shows_its_own_and_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    one = Worker(tmp_path)
    orders(one, 3)

    def full(*of: Any) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "replace", full)
    publish(one)
    assert errors(one) == 1
    assert one.app_number("shop_orders_total", kind="book") == 3
    assert errors(one) == 2
    assert not [name for name in os.listdir(one.workers.folder) if name.endswith(".new")]
    monkeypatch.undo()
    assert Worker(tmp_path).app_number("shop_orders_total", kind="book") is None
    publish(one)
    assert Worker(tmp_path).app_number("shop_orders_total", kind="book") == 3


def test_a_scrape_that_hangs_in_the_application_does_not_keep_the_watch_from_its_work(tmp_path: Path) -> None:
    one = Worker(tmp_path)
    orders(one)
    asked, go_on = threading.Event(), threading.Event()

    class Hangs:
        def collect(self) -> Any:
            asked.set()
            go_on.wait(20)
            return []

    one.registry._collector_to_names[Hangs()] = []
    scrape = threading.Thread(target=lambda: list(one.metrics.app.collect()))
    scrape.start()
    try:
        assert asked.wait(10)
        orders(one, 4)
        publish(one)
        assert Worker(tmp_path).app_number("shop_orders_total", kind="book") == 5
    finally:
        go_on.set()
        scrape.join(10)


def test_a_child_forked_while_the_lock_was_held_shows_its_own_page(tmp_path: Path) -> None:
    one = Worker(tmp_path)
    orders(one, 2)
    publish(one)
    with one.metrics.app._lock:
        assert in_child(lambda: one.app_number("shop_orders_total", kind="book")) == "2.0"


MULTIPROCESS = """
import os, sys
from prometheus_client import Counter, Gauge
from obskit.signals.app_metrics import AppMetrics
from obskit.workers import Workers
counter = Counter("shop_orders", "Orders.")
if os.fork() == 0:
    counter.inc(4)
    os._exit(0)
os.wait()
counter.inc(1)
app = AppMetrics()
app.join(Workers("", "", 0, 0))
app.publish(last=True)
print(app._workers)
print(sum(s.value for f in app.collect() for s in f.samples if s.name == "shop_orders_total"))
for name in os.listdir(os.environ["PROMETHEUS_MULTIPROC_DIR"]):
    os.unlink(os.path.join(os.environ["PROMETHEUS_MULTIPROC_DIR"], name))
os.rmdir(os.environ["PROMETHEUS_MULTIPROC_DIR"])
print(sum(s.value for f in app.collect() for s in f.samples if s.name == "shop_orders_total"))
"""


def test_the_applications_own_multiprocess_mode_is_the_one_truth(tmp_path: Path) -> None:
    folder = tmp_path / "theirs"
    folder.mkdir()
    done = subprocess.run(
        [sys.executable, "-c", MULTIPROCESS],
        env={**os.environ, "PROMETHEUS_MULTIPROC_DIR": str(folder)},
        capture_output=True,
        text=True,
        timeout=30,
    )
    assert done.stdout.split() == ["None", "5.0", "1.0"], done.stderr


def test_two_installs_show_the_same_application_each_in_its_group(tmp_path: Path) -> None:
    registry = CollectorRegistry()
    Counter("shop_orders", "Orders.", registry=registry).inc(3)
    for install in (0, 1):
        worker = Worker(tmp_path, install=install, joins=False)
        worker.metrics.app = AppMetrics(registry)
        worker.metrics.join(worker.workers)
        assert worker.app_number("shop_orders_total") == 3
