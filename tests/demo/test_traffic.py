"""The users: what they come for, and how fast they may be."""

from __future__ import annotations

import random
import socket
import threading
import time
from dataclasses import astuple

import pytest

from obskit.demo import visits
from obskit.demo.traffic import Pacer, Traffic
from obskit.demo.visits import Answer, Bag, Request


@pytest.mark.parametrize("service", ["fastapi", "flask", "django"])
def test_one_visit_of_each_kind_comes_first(service: str) -> None:
    bag = Bag(service)
    kinds = len(bag._weights)
    assert len({bag.draw() for _ in range(kinds)}) == kinds
    assert visits.fail in bag._weights
    assert (visits.leave_events in bag._weights) == (service == "fastapi")


def test_visits_come_in_their_proportions() -> None:
    bag = Bag("flask")
    for _ in bag._weights:
        bag.draw()
    drawn = [bag.draw() for _ in range(sum(bag._weights.values()))]
    assert {visit: drawn.count(visit) for visit in set(drawn)} == bag._weights


def test_who_buys_looks_at_the_order_and_pays_it() -> None:
    visit = visits.buy(random.Random(3))
    asked = [next(visit)]
    asked.append(visit.send(Answer(201, {"id": 41})))
    asked.append(visit.send(Answer(200, {})))
    assert [(request.method, request.path) for request in asked] == [
        ("POST", "/api/v1/orders"), ("GET", "/api/v1/orders/41"), ("POST", "/api/v1/orders/41/pay"),
    ]  # fmt: skip
    assert asked[0].content_type == "application/json"


def test_without_an_order_there_is_nothing_to_pay() -> None:
    visit = visits.buy(random.Random(3))
    next(visit)
    with pytest.raises(StopIteration):
        visit.send(Answer(503, None))


def test_no_more_turns_are_given_than_the_rate_allows() -> None:
    pacer = Pacer(500, threading.Event())
    began = time.monotonic()
    assert all(pacer.wait() for _ in range(101))
    # A hundred intervals of 1 to 3 ms each.
    assert time.monotonic() - began >= 0.1


def test_who_waits_for_a_turn_is_told_to_stop() -> None:
    stop = threading.Event()
    pacer = Pacer(0.01, stop)
    assert pacer.wait()
    threading.Timer(0.05, stop.set).start()
    began = time.monotonic()
    assert not pacer.wait()
    assert time.monotonic() - began < 30


def test_a_service_that_is_gone_is_no_request_sent() -> None:
    with socket.socket() as taken:  # bound and not listening: nobody can connect, and nobody else take it
        taken.bind(("127.0.0.1", 0))
        traffic = Traffic("flask", "127.0.0.1", taken.getsockname()[1], rate=1)
        with pytest.raises(OSError, match="nothing"):
            traffic.first_order()
    assert astuple(traffic.tally) == (0, 0, 0, 1)


def test_a_connection_that_ends_without_an_answer_is_counted_as_that() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        traffic = Traffic("flask", "127.0.0.1", server.getsockname()[1], rate=1)

        def hang_up() -> None:
            connection, _ = server.accept()
            connection.recv(65536)
            connection.close()

        thread = threading.Thread(target=hang_up)
        thread.start()
        with pytest.raises(OSError, match="nothing"):
            traffic.first_order()
        thread.join()
    assert (traffic.tally.sent, traffic.tally.unanswered) == (1, 1)


def test_bytes_go_out_as_bytes() -> None:
    assert Request("POST", "/x", b"\x00").content_type == "application/octet-stream"
    assert Request("GET", "/x").content == b""
