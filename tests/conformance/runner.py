"""Plays one case against one running server and collects what the three signals said."""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import httpx

from tests.support.otlp import SERVER, OtlpSink
from tests.support.servers import POLL_S, Server

from .client import Caller, Reply
from .metrics import Scrape, exemplar_trace_ids, scrape
from .model import Case, Expect, render
from .targets import Target
from .views import CANONICAL, CaseSeen, Seen

APPS_DIR = Path(__file__).parent / "apps"
UNHURRIED = Path(__file__).parent / "unhurried"
WAIT_S = 5.0


class Running:
    """A started server, the receiver of its spans, and the last scrape of its metrics."""

    def __init__(self, target: Target, sink: OtlpSink, http: httpx.Client, log_dir: Path) -> None:
        self.target = target
        self.sink = sink
        self.http = http
        state_dir = log_dir / f"state-{target.id}"
        state_dir.mkdir(exist_ok=True)
        self.server = Server(
            target.server,
            target.app,
            cwd=APPS_DIR,
            log_dir=log_dir,
            env={
                "OTEL_SERVICE_NAME": "conformance",
                "OTEL_EXPORTER_OTLP_ENDPOINT": sink.url,
                "OTEL_BSP_SCHEDULE_DELAY": "10",
                "CONFORMANCE_KIND": target.kind,
                "CONFORMANCE_INSTALL": target.install,
                # What this server's workers remember of earlier requests is no other server's affair.
                "OBSKIT_STATE_DIR": str(state_dir),
                "PYTHONPATH": str(UNHURRIED),
            },
        )
        self.server.start()
        self._last: Scrape | None = None
        # granian's parent process prints four lines and never loads the app: nothing of ours runs there.
        self._output_seen = len(self.server.other_output) if target.server == "granian" else 0

    def stop(self) -> None:
        self.server.stop()

    def before(self) -> Scrape:
        """A scrape; nothing may have moved since the case before was done with its own."""
        now = scrape(self.http, self.server.port)
        if self._last is not None:
            late = now.since(self._last).samples
            self._last = now
            assert not late, f"counted after the case before this one was over: {late}"
        return now

    def play(self, case: Case) -> None:
        """Run the case and hold the three signals against each other and against its expectation."""
        __tracebackhide__ = True
        expect = case.expected(self.target)
        before = self.before()
        if case.prepare is not None:
            self._prepare(case.prepare)
            before = scrape(self.http, self.server.port)
        since = self.server.mark()
        self._last = None  # until this case has gone well, its leftovers are no fault of the next one
        played = case.act(self._caller(since))
        replies = played if isinstance(played, list) else [played]
        if expect.telemetry:
            assert len(replies) >= expect.requests, (
                f"the client got {len(replies)} of {expect.requests} answers"
            )
            last = self._expect_telemetry(expect, replies, before, since)
        else:
            last = self._expect_nothing(replies, before, since)
        self._last = last
        self._only_json_on_stdout()

    def _prepare(self, prepare: Callable[[Caller], int]) -> None:
        since = self.server.mark()
        left, number = prepare(self._caller(since)), itertools.count(1)
        # A request is counted before its line is written.
        self.server.wait_for_line(
            lambda line: line.get("event") == CANONICAL and next(number) == left, WAIT_S, since=since
        )

    def _caller(self, since: int) -> Caller:
        def wait_for_event(event: str) -> None:
            self.server.wait_for_line(lambda line: line.get("event") == event, WAIT_S, since=since)

        def wait_for_record(request_id: str) -> None:
            self._canonical_line(request_id, since)

        return Caller(self.server.port, self.http, self.target.id, wait_for_event, wait_for_record)

    def _only_json_on_stdout(self) -> None:
        """The server's own loggers go through the same pipeline, its start included."""
        new = self.server.other_output[self._output_seen :]
        self._output_seen += len(new)
        assert not new, f"lines on stdout that are no JSON object: {new}"

    def _expect_telemetry(self, expect: Expect, replies: list[Reply], before: Scrape, since: int) -> Scrape:
        seen_lines = [self._canonical_line(reply.request_id, since) for reply in replies[: expect.requests]]
        after = self._after(before, len(seen_lines))
        change = after.since(before)
        requests = []
        for reply, line in zip(replies, seen_lines, strict=False):
            span = self.sink.wait_for(trace_id=line["trace_id"], kind=SERVER, timeout=WAIT_S)
            everything = self.sink.spans(line["trace_id"], kind=SERVER)
            of_app = [
                other
                for other in self.server.lines[since:]
                if other.get("event") != CANONICAL and reply.request_id in str(other.get("event"))
            ]
            own = expect.of_reply(reply)
            own = replace(own, route=render(own.route, self.target.kind))
            requests.append(Seen(reply, line, span, everything, of_app, change, own, self.target.server))
        routes = {line.get("http_route", "") for line in seen_lines}
        exemplars = exemplar_trace_ids(self.http, self.server.port, routes)
        CaseSeen(requests, change, exemplars).check()
        self._no_other_canonical_line([line["span_id"] for line in seen_lines], since)
        return after

    def _expect_nothing(self, replies: list[Reply], before: Scrape, since: int) -> Scrape:
        """The refused request left nothing: a second one, an ordinary one, is all there is to see."""
        fence = self._caller(since).get("/hello")
        line = self._canonical_line(fence.request_id, since)
        # Spans leave in the order they ended, so one of the refused request would be here by now.
        self.sink.wait_for(trace_id=line["trace_id"], kind=SERVER, timeout=WAIT_S)
        self._no_other_canonical_line([line["span_id"]], since)
        refused = {reply.request_id for reply in replies}
        spans = [s for s in self.sink.spans() if s.attributes.get("user_agent.original") in refused]
        assert not spans, f"spans of a request that the server refused: {spans}"
        after = self._after(before, 1)
        change = after.since(before)
        assert sum(change.outcomes().values()) == 1, f"counted a refused request: {change.outcomes()}"
        assert sum(change.requests().values()) == 1, f"counted a refused request: {change.requests()}"
        return after

    def _canonical_line(self, request_id: str, since: int) -> dict[str, Any]:
        # The client's User-Agent repeats the id, for cases that send none or a bad one.
        return self.server.wait_for_line(
            lambda line: (
                line.get("event") == CANONICAL
                and request_id in (line.get("request_id"), line.get("user_agent"))
            ),
            WAIT_S,
            since=since,
        )

    def _after(self, before: Scrape, requests: int) -> Scrape:
        """A scrape, as soon as `requests` more outcomes were counted than in `before`."""
        deadline = time.monotonic() + WAIT_S
        while True:
            now = scrape(self.http, self.server.port)
            if sum(now.since(before).outcomes().values()) >= requests or time.monotonic() > deadline:
                return now
            time.sleep(POLL_S)

    def _no_other_canonical_line(self, known: list[str], since: int) -> None:
        others = [
            line
            for line in self.server.lines[since:]
            if line.get("event") == CANONICAL and line.get("span_id") not in known
        ]
        assert not others, f"canonical lines nobody asked for: {others}"
        counted = [line for line in self.server.lines[since:] if line.get("event") == CANONICAL]
        assert len(counted) == len(known), f"{len(counted)} canonical lines for {len(known)} requests"
