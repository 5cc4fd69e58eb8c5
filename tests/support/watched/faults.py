"""The faults: each a context manager that causes one and ends it, and the alerts that must tell of it.

Faults of one track happen one after the other, tracks side by side. What shares a service does so only where
neither Alertmanager's inhibition nor the fault itself keeps the other's alerts away.
"""

from __future__ import annotations

import itertools
import socket
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import dataclass

from tests.support.servers import Server
from tests.support.traffic import Step, Traffic, send
from tests.support.watched.world import (
    EDGES,
    EVENTS,
    EXPORT,
    MISSING_ORDER,
    WITH_EVENTS,
    World,
)


@dataclass(frozen=True)
class Fault:
    """`cause` is entered to begin the fault and left to end it. `alerts` are labels, alertname among them."""

    name: str
    cause: Callable[[World], AbstractContextManager[None]]
    alerts: tuple[dict[str, str], ...]


def alert(name: str, **labels: str) -> dict[str, str]:
    return {"alertname": name, **labels}


# ---- on the FastAPI shop ----------------------------------------------------------------------------


@contextmanager
def errors(world: World) -> Iterator[None]:
    with Traffic(world.servers["shop"].url, [Step("GET", "/api/v1/fail")], per_s=4):
        yield


@contextmanager
def slow_reports(world: World) -> Iterator[None]:
    """Always as many requests in flight as there are workers, each for two seconds."""
    with Traffic(
        world.servers["shop"].url, [Step("GET", "/api/v1/reports/slow?seconds=2")], per_s=20, workers=16
    ):
        yield


@contextmanager
def impatient_clients(world: World) -> Iterator[None]:
    with Traffic(world.servers["shop"].url, [Step("GET", EVENTS, leaves=True)], per_s=5):
        yield


@contextmanager
def scanner(world: World) -> Iterator[None]:
    with Traffic(world.servers["shop"].url, [Step("GET", MISSING_ORDER)], per_s=12):
        yield


@contextmanager
def no_collector(world: World) -> Iterator[None]:
    world.collector.leave()
    try:
        yield
    finally:
        world.collector.come_back()


@contextmanager
def forgotten_link(world: World) -> Iterator[None]:
    """Nobody finds one page any more."""
    world.traffic["shop"].steps = tuple(step for step in WITH_EVENTS if step.path != EXPORT)
    try:
        yield
    finally:
        world.traffic["shop"].steps = WITH_EVENTS


# ---- on the Flask shop ------------------------------------------------------------------------------


@contextmanager
def fewer_customers(world: World) -> Iterator[None]:
    with _pace(world.traffic["orders"], 0.5):
        yield


@contextmanager
def no_customers(world: World) -> Iterator[None]:
    with _pace(world.traffic["orders"], 0.0):
        yield


@contextmanager
def all_gone(world: World) -> Iterator[None]:
    with _down(world.servers["orders"]):
        yield


@contextmanager
def foreign_keys(world: World) -> Iterator[None]:
    """Cookies that another worker signed, with a key of its own."""
    port = world.servers["orders"].port

    def visit(number: int) -> None:
        send(port, Step("GET", "/me"), cookie=f"session=e30.aaaaaa.of-another-key-{number}")

    with _every(0.25, visit):
        yield


# ---- on the service that is made for it -------------------------------------------------------------


@contextmanager
def broken_responses(world: World) -> Iterator[None]:
    steps = [Step("GET", path) for path in ("/truncated", "/raised", "/nothing", "/cancelled")]
    with Traffic(world.servers["edge"].url, steps, per_s=4):
        yield


@contextmanager
def silent_failures(world: World) -> Iterator[None]:
    """Answers of status 200 that are not what they seem."""
    steps = [Step("GET", path) for path in ("/after", "/invariant", "/half", "/own")]
    with Traffic(world.servers["spare-edge"].url, steps, per_s=4):
        yield


@contextmanager
def hanging(world: World) -> Iterator[None]:
    """Requests that wait for nothing, and code that keeps the loop from all of them."""
    server = world.servers["spare-edge"]
    with (
        Traffic(server.url, [Step("GET", "/hang")], per_s=1, workers=4),
        Traffic(server.url, [Step("GET", "/block")], per_s=0.7, workers=1),
    ):
        yield


@contextmanager
def impatient_buyers(world: World) -> Iterator[None]:
    """Each order is sent three times, before the first is answered."""
    port = world.servers["mute"].port

    def click(number: int) -> None:
        step = Step("POST", "/checkout", body={"order": number})
        with ThreadPoolExecutor(3) as clicks:
            for _ in range(3):
                clicks.submit(send, port, step)

    with _every(0.2, click):
        yield


@contextmanager
def refused_payments(world: World) -> Iterator[None]:
    with Traffic(world.servers["mute"].url, [Step("GET", "/pay?refused")], per_s=3):
        yield


@contextmanager
def bad_evening(world: World) -> Iterator[None]:
    """All that troubles buyers, at once."""
    with impatient_buyers(world), cut_uploads(world), refused_payments(world):
        yield


@contextmanager
def cut_uploads(world: World) -> Iterator[None]:
    port = world.servers["mute"].port

    def upload(number: int) -> None:
        with socket.create_connection(("127.0.0.1", port), timeout=5) as connection:
            connection.sendall(
                b"POST /upload HTTP/1.1\r\nHost: edge\r\nContent-Length: 1000\r\n\r\na part of it"
            )

    with _every(0.25, upload):
        yield


@contextmanager
def lost_items(world: World) -> Iterator[None]:
    """The page is there, and most of what should be on it is not."""
    with _asked(world.traffic["known"], "/page?short"):
        yield


@contextmanager
def empty_page(world: World) -> Iterator[None]:
    for _ in range(550):  # by which obskit learns that it never is
        _tell(world.servers["mute"], "/page")
    with _asked(world.traffic["known"], "/page?empty"):
        yield


@contextmanager
def leaking_descriptors(world: World) -> Iterator[None]:
    _tell(world.servers["edge"], "/descriptors/hold")
    try:
        yield
    finally:
        _tell(world.servers["edge"], "/descriptors/release")


@contextmanager
def broken_span_processor(world: World) -> Iterator[None]:
    _tell(world.servers["edge"], "/spans/break")
    try:
        yield
    finally:
        _tell(world.servers["edge"], "/spans/mend")


@contextmanager
def nothing_but_errors(world: World) -> Iterator[None]:
    with ExitStack() as stack:
        for name in EDGES:
            stack.enter_context(_pace(world.traffic[name], 0.0))
        stack.enter_context(Traffic(world.servers["edge"].url, [Step("GET", "/boom")], per_s=3))
        yield


@contextmanager
def leak(world: World) -> Iterator[None]:
    """A restart ends it, as it does in life."""
    _tell(world.servers["leaky-edge"], "/leak")
    try:
        yield
    finally:
        _restart(world.servers["leaky-edge"])


@contextmanager
def logs_switched_off(world: World) -> Iterator[None]:
    """A release with the wrong log level, and the one that puts it right."""
    server = world.servers["mute"]
    server.env["OBSKIT_LOG_LEVEL"] = "critical"
    _restart(server)
    try:
        yield
    finally:
        server.env["OBSKIT_LOG_LEVEL"] = "info"
        _restart(server)


@contextmanager
def one_instance_down(world: World) -> Iterator[None]:
    with _down(world.servers["spare-edge"]):
        yield


@contextmanager
def route_for_each_path(world: World) -> Iterator[None]:
    """Only a restart forgets the series."""
    for number in range(50):
        _tell(world.servers["spare-edge"], f"/many/{number}")
    try:
        yield
    finally:
        _restart(world.servers["spare-edge"])


@contextmanager
def restart_loop(world: World) -> Iterator[None]:
    ended = threading.Event()
    instance = world.instance("spare-edge")
    seen = f'process_start_time_seconds{{instance="{instance}"}}'

    def restart() -> None:
        while not ended.is_set():
            _restart(world.servers["spare-edge"])
            # Prometheus has to see this process before the next one takes its place.
            started = time.time()
            world.prometheus.wait_until(f"timestamp({seen}) > {started}", bool)

    loop = threading.Thread(target=restart)
    loop.start()
    try:
        # There is always one in flight when the process is killed.
        with Traffic(world.servers["spare-edge"].url, [Step("GET", "/hang")], per_s=2, workers=4):
            yield
    finally:
        ended.set()
        loop.join()


@contextmanager
def _asked(traffic: Traffic, path: str) -> Iterator[None]:
    before, traffic.steps = traffic.steps, (Step("GET", path),)
    try:
        yield
    finally:
        traffic.steps = before


@contextmanager
def _every(seconds: float, do: Callable[[int], None]) -> Iterator[None]:
    """Calls `do` with 0, 1, 2 and so on, at that pace, until the context is left."""
    ended = threading.Event()

    def run() -> None:
        for number in itertools.count():
            if ended.wait(seconds):
                return
            do(number)

    thread = threading.Thread(target=run)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()


# ---- how ---------------------------------------------------------------------------------------------


@contextmanager
def _pace(traffic: Traffic, per_s: float) -> Iterator[None]:
    before, traffic.per_s = traffic.per_s, per_s
    try:
        yield
    finally:
        traffic.per_s = before


@contextmanager
def _down(server: Server) -> Iterator[None]:
    server.stop()
    try:
        yield
    finally:
        server.start()


def _restart(server: Server) -> None:
    # At once, as a process that crashes ends.
    server.stop(timeout_s=0)
    server.start()


def _tell(server: Server, path: str) -> None:
    status = send(server.port, Step("GET", path))
    assert status == 200, f"{path}: {status}"


TRACKS: tuple[tuple[Fault, ...], ...] = (
    (
        Fault(
            "errors",
            errors,
            (
                alert("ObskitAvailabilityBudgetBurn", job="shop", severity="critical"),
                alert("ObskitRouteErrors", job="shop", http_route="/api/v1/fail"),
                alert("ObskitNewExceptionType", job="shop", exception_type="RuntimeError"),
            ),
        ),
    ),
    (
        Fault(
            "slow reports",
            slow_reports,
            (
                alert("ObskitLatencyBudgetBurn", job="shop", severity="critical"),
                alert("ObskitRequestsPileUp", job="shop"),
            ),
        ),
    ),
    (
        Fault(
            "impatient clients",
            impatient_clients,
            (alert("ObskitClientDisconnects", job="shop", http_route=EVENTS),),
        ),
    ),
    (Fault("scanner", scanner, (alert("ObskitClientErrorSpike", job="shop"),)),),
    (
        Fault(
            "no collector",
            no_collector,
            (
                alert("ObskitTelemetryExportFailing", job="shop", signal="traces"),
                alert("ObskitTelemetryDropped", job="shop", reason="export_failed"),
            ),
        ),
    ),
    (
        Fault(
            "forgotten link",
            forgotten_link,
            (alert("ObskitRouteTrafficVanished", job="shop", http_route=EXPORT),),
        ),
    ),
    (
        Fault(
            "foreign keys",
            foreign_keys,
            (alert("ObskitSessionsLost", job="orders", reason="bad_signature"),),
        ),
        Fault("fewer customers", fewer_customers, (alert("ObskitTrafficDrop", job="orders"),)),
        Fault("no customers", no_customers, (alert("ObskitTrafficStopped", job="orders"),)),
        Fault("all gone", all_gone, (alert("ObskitServiceAbsent", job="orders"),)),
    ),
    (
        Fault(
            "broken responses",
            broken_responses,
            (
                alert("ObskitTruncatedResponses", job="edge", http_route="/truncated"),
                alert("ObskitRaisedAfterHeaders", job="edge", http_route="/raised"),
                alert("ObskitNoResponse", job="edge", http_route="/nothing"),
                alert("ObskitRequestsCancelled", job="edge", http_route="/cancelled"),
            ),
        ),
        Fault("nothing but errors", nothing_but_errors, (alert("ObskitAllRequestsFailing", job="edge"),)),
    ),
    (
        Fault("leaking descriptors", leaking_descriptors, (alert("ObskitFdExhaustion", job="edge"),)),
        Fault("broken span processor", broken_span_processor, (alert("ObskitInternalErrors", job="edge"),)),
    ),
    (Fault("leak", leak, (alert("ObskitMemoryGrowth", job="edge"),)),),
    (
        # Before those that restart the process: it counts what these read, and learns what is usual.
        Fault(
            "bad evening",
            bad_evening,
            (
                alert("ObskitDuplicateRequests", job="mute", http_route="/checkout"),
                alert("ObskitRetryStorm", job="mute", http_route="/checkout"),
                alert("ObskitTruncatedRequests", job="mute", http_route="/upload"),
                alert("ObskitSoftErrors", job="mute", http_route="/pay"),
            ),
        ),
        Fault(
            "lost items",
            lost_items,
            (alert("ObskitResponseSizeCollapse", job="mute", http_route="/page"),),
        ),
        Fault("empty page", empty_page, (alert("ObskitEmptySuccess", job="mute", http_route="/page"),)),
        Fault("logs switched off", logs_switched_off, (alert("ObskitLogsSilent", job="mute"),)),
    ),
    (
        Fault(
            "silent failures",
            silent_failures,
            (
                alert("ObskitBackgroundFailures", job="edge", http_route="/after"),
                alert("ObskitInvariantFailed", job="edge", invariant="stock_not_negative"),
                alert("ObskitPartialWrites", job="edge", http_route="/half"),
                alert("ObskitOwnFindings", job="edge", finding="stale_price", http_route="/own"),
            ),
        ),
        Fault(
            "hanging",
            hanging,
            (
                alert("ObskitRequestsStuck", job="edge", http_route="/hang"),
                alert("ObskitEventLoopBlocked", job="edge", http_route="/block"),
                alert("ObskitEventLoopLag", job="edge"),
            ),
        ),
    ),
    (
        Fault("one instance down", one_instance_down, (alert("ObskitTargetDown", job="edge"),)),
        Fault("route for each path", route_for_each_path, (alert("ObskitCardinalityLimit", job="edge"),)),
        Fault(
            "restart loop",
            restart_loop,
            (
                alert("ObskitRestartLoop", job="edge"),
                alert("ObskitRequestsLost", job="edge", http_route="/hang"),
            ),
        ),
    ),
)
