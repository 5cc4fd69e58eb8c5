"""What it costs to send a recorded span: obskit's queue and lean exporter beside the SDK's processor and exporter.

    python benchmarks/exporter.py [--rounds N] [--json FILE]

The same spans go through each in a new random order in every round, to a receiver in a process of its own. What counts
is the CPU time of this process from the first span that is handed over until all have been answered, per span.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import random
import statistics
import time
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from multiprocessing.connection import Connection
from typing import Any

from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor
from opentelemetry.trace import SpanKind

from obskit.signals import otlp_wire
from obskit.signals.collector import Teller
from obskit.signals.otlp_lean import LeanExporter
from obskit.signals.span_queue import Sizes, SpanQueue

SPANS = 1536
OFFICIAL = "SDK batch processor, official exporter"
OURS = "obskit, spans of requests (as bytes)"
OTHERS = "obskit, spans of others (scrubbed, encoded)"


class Receiver(BaseHTTPRequestHandler):
    """Takes everything, and looks at nothing."""

    protocol_version = "HTTP/1.1"
    wbufsize = -1

    def do_POST(self) -> None:
        self.rfile.read(int(self.headers["Content-Length"]))
        self.send_response(200)
        self.send_header("Content-Type", "application/x-protobuf")
        self.send_header("Content-Length", "0")
        self.end_headers()

    def log_message(self, format: str, *arguments: Any) -> None:
        pass


def receive(told: Connection) -> None:
    server = ThreadingHTTPServer(("127.0.0.1", 0), Receiver)
    told.send(server.server_address[1])
    server.serve_forever()


class Books:
    """Nothing may be lost, or what is measured is not what is said."""

    lost = 0

    def export(self, outcome: str) -> None:
        self.lost += outcome != "success"

    def dropped(self, reason: str, spans: int) -> None:
        self.lost += spans

    def fault(self, stage: str, error: BaseException) -> None:
        raise error


def made(scope: str) -> list[ReadableSpan]:
    """Ended spans as a service has them: paths and ids differ, the rest comes again and again."""
    provider = TracerProvider(
        resource=Resource.create({"service.name": "bench", "deployment.environment.name": "production"}),
        shutdown_on_exit=False,
    )
    tracer = provider.get_tracer(scope, "1.0")
    spans = []
    for number in range(SPANS):
        span = tracer.start_span(
            "GET /items/{id}",
            kind=SpanKind.SERVER,
            attributes={
                "http.request.method": "GET", "url.path": f"/items/{number}", "url.scheme": "http",
                "network.protocol.version": "1.1", "server.address": "127.0.0.1", "server.port": 8000,
                "client.address": "127.0.0.1", "user_agent.original": "Mozilla/5.0 (X11; Linux x86_64) bench",
                "http.route": "/items/{id}", "http.response.status_code": 200,
            },
        )  # fmt: skip
        span.end()
        assert isinstance(span, ReadableSpan)
        spans.append(span)
    return spans


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rounds", type=int, default=40)
    parser.add_argument("--json", metavar="FILE", help="write all figures there")
    options = parser.parse_args()
    here, there = multiprocessing.Pipe()
    context = multiprocessing.get_context("spawn")
    receiver = context.Process(target=receive, args=(there,), daemon=True)
    receiver.start()
    endpoint = f"http://127.0.0.1:{here.recv()}/v1/traces"
    sizes = Sizes(capacity=2 * SPANS, batch=512, delay_s=60.0)
    books = Books()
    official = BatchSpanProcessor(
        OTLPSpanExporter(endpoint), max_queue_size=2 * SPANS, schedule_delay_millis=60_000
    )
    queue = SpanQueue(LeanExporter(endpoint), books, Teller("bench"), sizes)
    queue.begin()
    ours, others = made("obskit"), made("somebody")
    ready = [otlp_wire.encoded(span) for span in ours]

    def through(
        put: Callable[[Any], object], spans: list[Any], flush: Callable[[], bool]
    ) -> Callable[[], None]:
        def run() -> None:
            for span in spans:
                put(span)
            if not flush():
                raise RuntimeError("not all spans were sent")

        return run

    variants = {
        OFFICIAL: through(official.on_end, ours, official.force_flush),
        OURS: through(queue.put, ready, queue.force_flush),
        OTHERS: through(queue.on_end, others, queue.force_flush),
    }
    used: dict[str, list[float]] = {name: [] for name in variants}
    for number in range(options.rounds + 1):
        for name in random.sample(list(variants), len(variants)):
            before = time.process_time_ns()
            variants[name]()
            if number:  # the first round makes the connections
                used[name].append((time.process_time_ns() - before) / SPANS / 1e3)
    queue.shutdown(5.0)
    official.shutdown()
    receiver.terminate()
    if books.lost:
        print(f"{books.lost} spans were lost: these figures say nothing")
        return 1
    figures = {}
    print(f"CPU time per span until it is answered, us; medians of {options.rounds} rounds of {SPANS} spans")
    for name, found in used.items():
        ratio = statistics.median(one / other for one, other in zip(found, used[OFFICIAL], strict=True))
        figures[name] = {"us": statistics.median(found), "of_official": ratio}
        print(f"  {name:46} {figures[name]['us']:7.2f}   {ratio:6.3f} of the official one's")
    if options.json:
        with open(options.json, "w", encoding="utf-8") as file:
            json.dump(figures, file, indent=1)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
