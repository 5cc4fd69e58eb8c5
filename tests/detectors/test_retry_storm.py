"""Retries that have become most of a route's traffic: records in, one finding for all of them out."""

from __future__ import annotations

import http.client
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from obskit.config import Config
from obskit.detectors.retry_storm import ENOUGH, Storms
from obskit.exchange import Exchange, Finding
from obskit.findings import Setting
from tests.support.recording import body as body_message
from tests.support.recording import call_asgi, http_scope, replying, start
from tests.support.servers import Server

T0 = 10**15
TWICE = Finding("duplicate_request", "warning", "why", {"kind": "repeat"})
OTHER = Finding("soft_error", "warning", "why", {})


class Worker:
    """One worker's judge; `serve` is one request that closes `at` seconds after T0."""

    def __init__(self, directory: Path, **options: Any) -> None:
        config = Config(state_dir=str(directory), **options)
        self.judge = Storms(Setting(config, "shop", lambda stage, error: None))
        self.judge.begin()

    def serve(
        self, at: float, *, again: bool = False, route: str = "/pay", found: tuple[Finding, ...] = ()
    ) -> dict[str, Any] | None:
        exchange = Exchange("http", "POST", "/pay")
        exchange.ended_ns = T0 + int(at * 1e9)
        exchange.http_route = route
        exchange.findings = (*found, TWICE) if again else found
        evidence = self.judge.closed(exchange)
        return None if evidence is None else dict(evidence)

    def storm(self, at: float = 0, *, operations: int = 10, retries: int = 10, **more: Any) -> list[Any]:
        """The findings of so many operations, and then so many retries, 10 ms apart."""
        seen = [self.serve(at + n / 100, **more) for n in range(operations)]
        seen += [self.serve(at + (operations + n) / 100, again=True, **more) for n in range(retries)]
        return [one for one in seen if one is not None]


@pytest.fixture
def worker(tmp_path: Path) -> Iterator[Worker]:
    one = Worker(tmp_path)
    yield one
    one.judge.shutdown()


def test_as_many_retries_as_operations_are_a_storm(worker: Worker) -> None:
    assert worker.storm() == [
        {"attempts": 20, "operations": 10, "amplification": 2.0, "window_s": 60.0, "scope": "host"}
    ]


def test_fewer_retries_than_operations_are_none(worker: Worker) -> None:
    assert worker.storm(operations=100, retries=99) == []


def test_a_handful_of_retries_is_none_however_few_the_operations(worker: Worker) -> None:
    assert worker.storm(operations=1, retries=ENOUGH - 1) == []


def test_one_operation_sent_over_and_over_is_a_storm(worker: Worker) -> None:
    (evidence,) = worker.storm(operations=1, retries=50)
    assert (evidence["attempts"], evidence["operations"], evidence["amplification"]) == (11, 1, 11.0)


def test_a_storm_is_told_once_a_minute(worker: Worker) -> None:
    assert len([one for n in range(170) for one in worker.storm(n, operations=5, retries=10)]) == 3


def test_retries_long_after_one_another_are_no_storm(worker: Worker) -> None:
    assert [worker.serve(n * 10, again=True) for n in range(100)] == [None] * 100


def test_a_storm_over_the_turn_of_a_half_is_seen(worker: Worker) -> None:
    worker.serve(0)
    seen = [worker.serve(29.9 + n / 50, again=True) for n in range(12)]
    assert len([one for one in seen if one]) == 1


def test_operations_of_the_half_before_count_too(worker: Worker) -> None:
    assert worker.storm(operations=100, retries=0) == []
    assert worker.storm(31, operations=0, retries=50) == []


def test_what_was_more_than_a_minute_ago_does_not_count(worker: Worker) -> None:
    worker.storm(operations=1, retries=ENOUGH - 1)
    assert worker.serve(61, again=True) is None


def test_each_route_has_a_storm_of_its_own(worker: Worker) -> None:
    assert len(worker.storm(route="/pay")) == 1
    assert worker.storm(1, route="/quiet", operations=20, retries=5) == []
    assert len(worker.storm(2, route="/buy")) == 1


def test_other_findings_are_no_retries(worker: Worker) -> None:
    assert [worker.serve(n / 100, found=(OTHER,)) for n in range(100)] == [None] * 100


def test_a_retry_beside_other_findings_counts(worker: Worker) -> None:
    assert len(worker.storm(found=(OTHER,))) == 1


def test_the_workers_of_a_host_tell_one_storm_once(tmp_path: Path) -> None:
    one, other = Worker(tmp_path), Worker(tmp_path)
    assert len(one.storm()) == 1
    assert other.storm(1) == []
    assert len(other.storm(70)) == 1


def test_a_worker_that_shares_nothing_tells_for_itself(tmp_path: Path) -> None:
    (tmp_path / f"obskit-{os.geteuid()}").write_text("in the way")
    (evidence,) = Worker(tmp_path).storm()
    assert evidence["scope"] == "worker"


def test_routes_are_counted_up_to_the_cap_on_series(tmp_path: Path) -> None:
    worker = Worker(tmp_path, max_series=10)
    for n in range(10):
        worker.serve(0, route=f"/{n}")
    assert worker.storm(route="/one-too-many") == []
    assert len(worker.storm(route="/9", retries=11)) == 1


def test_before_it_begins_and_after_it_ends_a_judge_says_nothing(worker: Worker) -> None:
    worker.judge.shutdown()
    worker.judge.shutdown()
    assert worker.storm() == []
    worker.judge.begin()
    worker.judge.begin()
    assert len(worker.storm(70)) == 1


def test_without_the_detector_of_duplicates_there_is_no_storm(
    install: Any, canonical: Any, tmp_path: Path
) -> None:
    app = install(
        replying(start(200), body_message(b"ok")),
        interface="asgi",
        state_dir=str(tmp_path),
        disabled_detectors=["duplicate_request"],
    )
    for _ in range(30):
        call_asgi(app, http_scope("/pay", "POST", [(b"content-length", b"0")]))
    assert [line["findings"] for line in canonical()] == [[]] * 30


def test_with_it_a_client_that_sends_one_thing_thirty_times_makes_one(
    install: Any, canonical: Any, tmp_path: Path
) -> None:
    app = install(replying(start(503), body_message(b"no")), interface="asgi", state_dir=str(tmp_path))
    for _ in range(30):
        call_asgi(app, http_scope("/pay", "POST", [(b"content-length", b"0")]))
    lines = canonical()
    assert [line["findings"] for line in lines].count(["duplicate_request", "retry_storm"]) == 1
    assert [line["findings"] for line in lines].count(["duplicate_request"]) == 28
    (storm,) = [line["evidence"]["retry_storm"] for line in lines if "retry_storm" in line["findings"]]
    assert storm["severity"] == "critical"


BROKEN_SHOP = """
import os
import obskit


def shop(environ, start_response):
    obskit.current().name_route(environ["PATH_INFO"])
    environ["wsgi.input"].read(int(environ.get("CONTENT_LENGTH") or 0))
    start_response("503 Service Unavailable", [("Content-Length", "2")])
    return [b"no"]


app = obskit.install(
    shop, service="storm", interface="wsgi", state_dir=os.environ["STATE"], instrumentation=False, log_format="json"
)
"""


def test_a_storm_over_two_workers_of_a_real_server_is_told_once(tmp_path: Path) -> None:
    (tmp_path / "broken_shop.py").write_text(BROKEN_SHOP)
    (tmp_path / "state").mkdir()
    server = Server(
        "gunicorn-sync",
        "broken_shop:app",
        cwd=tmp_path,
        log_dir=tmp_path / "logs",
        env={"STATE": str(tmp_path / "state")},
    )
    server.command[server.command.index("-w") + 1] = "2"

    def post(path: str, body: str) -> None:
        connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=10)
        connection.request("POST", path, body)
        connection.getresponse().read()
        connection.close()

    def workers() -> set[int]:
        return {line["worker_pid"] for line in server.lines if line["event"] == "http.request"}

    with server:
        warm = iter(range(2_000))
        while len(workers()) < 2:
            post("/warm", f"{next(warm)}")
        # Each of the two sees enough of the storm to tell of it.
        for turn in range(200):
            post("/pay", "the same")
            post("/ordinary", f"order {turn}")
        post("/last", "")
        server.wait_for_line(lambda line: line.get("http_route") == "/last")
        requests = [line for line in server.lines if line["event"] == "http.request"]
    storms = [line for line in requests if "retry_storm" in line["findings"]]
    assert [line["http_route"] for line in storms] == ["/pay"]
    assert all(line["findings"] == [] for line in requests if line["http_route"] == "/ordinary")
