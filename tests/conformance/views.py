"""The three views of one request, side by side, and what is wrong between them."""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import dataclass, field
from typing import Any

from tests.support import otlp

from .client import Reply
from .metrics import Change
from .model import UNMATCHED, Expect

# "Within 1 ms of each other" (all three come from one record; what may differ is rounding).
SAME_S = 0.001

CANONICAL = "http.request"
FINDING_EVENT = "obskit.finding"
EVIDENCE_PREFIX = "obskit.finding.evidence."
CANONICAL_KEYS = frozenset(
    "timestamp level event logger service_name service_version deployment_environment trace_id span_id "
    "request_id http_request_method http_route url_path http_response_status_code outcome duration_s "
    "ttfb_s request_bytes response_bytes client_address user_agent worker_pid findings".split()
)


@dataclass(frozen=True)
class Seen:
    """Everything seen of one request. `change` is of the whole case; `app_lines` are of this request."""

    reply: Reply
    line: dict[str, Any]
    span: otlp.ReceivedSpan
    all_spans: list[otlp.ReceivedSpan]
    app_lines: list[dict[str, Any]]
    change: Change
    expect: Expect
    server: str

    def evidence(self) -> dict[str, dict[str, Any]]:
        """By finding, as the line tells it; a request of the suite meets no finding twice."""
        return dict(self.line.get("evidence") or {})

    def as_line(self) -> dict[str, Any]:
        line = self.line
        return {
            "route": line.get("http_route"),
            "method": line.get("http_request_method"),
            "status": line.get("http_response_status_code"),
            "outcome": line.get("outcome"),
            "findings": line.get("findings"),
            "trace_id": line.get("trace_id"),
            "duration_s": line.get("duration_s"),
        }

    def as_span(self) -> dict[str, Any]:
        attributes = self.span.attributes
        return {
            # By the semantic conventions a span whose route nobody knows has no http.route at all.
            "route": attributes.get("http.route", UNMATCHED),
            "method": attributes.get("http.request.method"),
            "status": attributes.get("http.response.status_code"),
            "outcome": attributes.get("obskit.outcome"),
            "findings": list(attributes.get("obskit.findings", ())),
            "trace_id": self.span.trace_id,
            "duration_s": self.span.duration_s,
        }

    def as_expected(self) -> dict[str, Any]:
        expect = self.expect
        return {
            "route": expect.route,
            "method": expect.method,
            "status": expect.status,
            "outcome": expect.outcome,
            "findings": expect.expected_findings(),
            "trace_id": "any, the same",
            "duration_s": "any, the same",
        }


@dataclass
class CaseSeen:
    """All requests of a case, and the metrics that moved while it ran."""

    requests: list[Seen]
    change: Change
    exemplars: set[str]
    problems: list[str] = field(default_factory=list)

    def metrics_view(self) -> dict[str, Any]:
        requests, outcomes = self.change.requests(), self.change.outcomes()
        websocket = self.requests[0].expect.websocket
        if len(self.requests) > 1 or len(requests) != (0 if websocket else 1) or len(outcomes) != 1:
            return {
                "route": "see below",
                "requests": dict(requests),
                "outcomes": dict(outcomes),
                "findings": dict(self.change.findings()),
                "duration_s": self.change.duration_sum(),
            }
        (outcome_route, outcome), *_ = outcomes
        route, method, status = next(iter(requests), (outcome_route, "not measured", "not measured"))
        return {
            "route": route,
            "method": method,
            "status": status if websocket else (int(status) if status else None),
            "outcome": outcome,
            "findings": sorted(name for name, _ in self.change.findings().elements()),
            # Other requests left exemplars in other buckets; of one request there is at most one.
            "trace_id": next(iter(self.exemplars & {self.requests[0].line.get("trace_id")}), "no exemplar"),
            "duration_s": "not measured" if websocket else self.change.duration_sum(),
        }

    def side_by_side(self) -> str:
        """The table a failing case prints."""
        text: list[str] = []
        metrics = self.metrics_view()
        for seen in self.requests:
            views = {
                "expected": seen.as_expected(),
                "log line": seen.as_line(),
                "metrics": metrics,
                "span": seen.as_span(),
            }
            rows = [["", *views]]
            rows += [[key, *(str(view.get(key, "")) for view in views.values())] for key in seen.as_line()]
            widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
            text += [
                "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
                for row in rows
            ]
            text += [f"client got: status {seen.reply.status}, body bytes {seen.reply.body_bytes}"]
            text += [f"line: {json.dumps(seen.line, ensure_ascii=False)}"]
            text += [f"span: {seen.span}", ""]
        if "requests" in metrics:
            text += [f"metrics: requests {metrics['requests']}, outcomes {metrics['outcomes']}"]
        return "\n".join(text)

    # -- the claims ------------------------------------------------------------------------------

    def check(self) -> None:
        """AssertionError with the three views side by side, if anything is not as it must be."""
        __tracebackhide__ = True
        for seen in self.requests:
            self._check_request(seen)
        self._check_metrics()
        for seen in self.requests:
            for claim in seen.expect.checks:
                try:
                    claim(seen)
                except AssertionError as problem:
                    self.problems.append(f"{claim.__name__}: {problem}")
        if self.problems:
            raise AssertionError("\n".join([*self.problems, "", self.side_by_side()]))

    def _want(self, ok: bool, problem: str) -> None:
        if not ok:
            self.problems.append(problem)

    def _check_request(self, seen: Seen) -> None:
        line, span, expect, want = seen.line, seen.span, seen.expect, self._want
        in_line, in_span, expected = seen.as_line(), seen.as_span(), seen.as_expected()
        for key in ("route", "method", "status", "outcome", "findings"):
            want(in_line[key] == expected[key], f"{key}: line {in_line[key]!r}, expected {expected[key]!r}")
            want(in_line[key] == in_span[key], f"{key}: line {in_line[key]!r}, span {in_span[key]!r}")
        want(line.get("span_id") == span.span_id, "span_id: the line names another span")
        want(
            abs(in_line["duration_s"] - in_span["duration_s"]) < SAME_S,
            f"duration: line {in_line['duration_s']}, span {in_span['duration_s']}",
        )
        want(len(seen.all_spans) == 1, f"SERVER spans: {len(seen.all_spans)}, expected exactly 1")
        want(
            span.resource.get("service.name") == line.get("service_name"),
            f"service: line {line.get('service_name')!r}, span {span.resource.get('service.name')!r}",
        )
        want(span.attributes.get("obskit.request_id") == line.get("request_id"), "request_id: not the span's")
        name = expect.method if expect.route == UNMATCHED else f"{expect.method} {expect.route}"
        # "_OTHER" is no method: the conventions want "HTTP" in its place in a span's name.
        names = {name, name.replace("_OTHER", "HTTP", 1)}
        want(span.name in names, f"span name {span.name!r}, expected {name!r}")
        if (expect.outcome, line.get("level")) != ("completed", "error"):
            # Left open: work that failed after a whole response is an error line, but no failed request.
            failed = line.get("level") == "error"
            want(
                (span.status_code == otlp.STATUS_ERROR) == failed,
                f"span status {span.status_code} with a line of level {line.get('level')}",
            )
        self._check_findings(seen)
        self._check_line(seen)

    def _check_findings(self, seen: Seen) -> None:
        """One span event per finding, and the line's evidence says what it says."""
        want, told = self._want, seen.evidence()
        want(
            list(told) == seen.line.get("findings"),
            f"evidence of {list(told)}, findings {seen.line['findings']}",
        )
        events = [event for event in seen.span.events if event.name == FINDING_EVENT]
        want(
            [event.attributes.get("obskit.finding.name") for event in events] == list(told),
            f"span events {[event.attributes for event in events]}, findings {list(told)}",
        )
        for event in events:
            facts = dict(told.get(str(event.attributes.get("obskit.finding.name")), {}))
            for name in ("severity", "why"):
                in_event = event.attributes.get(f"obskit.finding.{name}")
                want(
                    facts.pop(name, None) == in_event,
                    f"{name} of the finding: span {in_event!r}, not the line's",
                )
            in_span = {
                key.removeprefix(EVIDENCE_PREFIX): value
                for key, value in event.attributes.items()
                if key.startswith(EVIDENCE_PREFIX)
            }
            # A span attribute is text, a number or a truth value; what is more in the line is its JSON there.
            in_line = {
                key: json.dumps(value) if value is None or isinstance(value, list) else value
                for key, value in facts.items()
            }
            want(in_span == in_line, f"evidence: span {in_span}, line {in_line}")

    def _check_line(self, seen: Seen) -> None:
        line, expect, reply, want = seen.line, seen.expect, seen.reply, self._want
        want(line.keys() >= CANONICAL_KEYS, f"keys missing: {sorted(CANONICAL_KEYS - line.keys())}")
        want(
            line.get("level") == expect.expected_level(),
            f"level {line.get('level')}, expected {expect.expected_level()}",
        )
        want(line.get("client_address") == "127.0.0.1", f"client_address {line.get('client_address')!r}")
        raised = (line.get("exception") or {}).get("type")
        allowed = (
            (expect.raises,) if expect.raises is None or isinstance(expect.raises, str) else expect.raises
        )
        want(
            raised in allowed or (raised or "").rpartition(".")[2] in allowed,
            f"exception {raised!r}, expected {expect.raises!r}",
        )
        first, total, sent = line.get("ttfb_s"), line.get("duration_s", 0.0), line.get("response_bytes")
        if not expect.websocket:
            want((first is None) == (not sent), f"ttfb_s {first!r} with {sent!r} body bytes")
            want(first is None or 0 <= first <= total, f"ttfb_s {first!r} beyond duration_s {total!r}")
        if reply.body_bytes is not None and expect.outcome == "completed" and not expect.websocket:
            want(sent == reply.body_bytes, f"response_bytes {sent}, the client got {reply.body_bytes}")
        if reply.status is not None and expect.status is not None:
            got = expect.client_got or expect.status
            want(reply.status == got, f"the client got status {reply.status}, expected {got}")

    def _check_metrics(self) -> None:
        change, want = self.change, self._want
        lines = [seen.as_line() for seen in self.requests]
        want(not change.internal_errors(), f"internal errors: {change.internal_errors()}")
        outcomes = Counter((line["route"], line["outcome"]) for line in lines)
        want(
            change.outcomes() == outcomes,
            f"outcomes: metrics {dict(change.outcomes())}, lines {dict(outcomes)}",
        )
        found = Counter((name, line["route"]) for line in lines for name in line["findings"] or ())
        want(change.findings() == found, f"findings: metrics {dict(change.findings())}, lines {dict(found)}")
        measured = [seen for seen in self.requests if not seen.expect.websocket]
        counted = Counter(
            (v["route"], v["method"], "" if v["status"] is None else str(v["status"]))
            for v in (seen.as_line() for seen in measured)
        )
        want(
            change.requests() == counted,
            f"requests: metrics {dict(change.requests())}, lines {dict(counted)}",
        )
        total = sum(seen.line["duration_s"] for seen in measured)
        want(
            abs(change.duration_sum() - total) < SAME_S * max(1, len(measured)),
            f"duration: metrics {change.duration_sum()}, line {total}",
        )
        firsts = [seen.line["ttfb_s"] for seen in measured if seen.line["ttfb_s"] is not None]
        want(
            change.first_bytes() == len(firsts),
            f"first bytes: metrics {change.first_bytes()}, lines {len(firsts)}",
        )
        want(
            abs(change.first_byte_sum() - sum(firsts)) < SAME_S * max(1, len(firsts)),
            f"time to first byte: metrics {change.first_byte_sum()}, lines {sum(firsts)}",
        )
        for key, counted_bytes in (
            ("request_bytes", change.request_bytes()),
            ("response_bytes", change.response_bytes()),
        ):
            of_lines = sum(seen.line[key] for seen in measured)
            want(counted_bytes == of_lines, f"{key}: metrics {counted_bytes}, lines {of_lines}")
        want(change.left_active() == 0, f"still in flight: {change.left_active()} requests more than before")
        if measured:
            known = {seen.line["trace_id"] for seen in measured}
            # Each bucket keeps its latest exemplar, so at least one must be of this case.
            want(bool(known & self.exemplars), f"trace_id: lines {known}, exemplars {self.exemplars}")
