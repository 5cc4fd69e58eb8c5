"""Claims beyond "the three agree", each a function of what was seen of one request."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any
from urllib.parse import unquote

from .views import Seen


def named(name: str, claim: Callable[[Seen], None]) -> Callable[[Seen], None]:
    claim.__name__ = name
    return claim


def line_has(**facts: Any) -> Callable[[Seen], None]:
    """The canonical line holds exactly these values."""

    def claim(seen: Seen) -> None:
        found = {key: seen.line.get(key) for key in facts}
        assert found == facts, f"line has {found}, expected {facts}"

    return named("line_has", claim)


def span_has(**facts: Any) -> Callable[[Seen], None]:
    """The span holds these attributes; "__" stands for the dot in a name."""

    def claim(seen: Seen) -> None:
        expected = {key.replace("__", "."): value for key, value in facts.items()}
        found = {key: seen.span.attributes.get(key) for key in expected}
        assert found == expected, f"span has {found}, expected {expected}"

    return named("span_has", claim)


def takes(at_least: float, under: float = 5.0) -> Callable[[Seen], None]:
    """The duration, in seconds, lies in this range."""

    def claim(seen: Seen) -> None:
        duration = seen.line["duration_s"]
        assert at_least <= duration < under, f"duration_s {duration}, expected {at_least} to {under}"

    return named("takes", claim)


def first_byte_after(at_least: float) -> Callable[[Seen], None]:
    """The first body byte came so late, and clearly before the last one."""

    def claim(seen: Seen) -> None:
        first, last = seen.line["ttfb_s"], seen.line["duration_s"]
        assert first is not None, "ttfb_s null, expected a time"
        assert at_least <= first, f"ttfb_s {first}, expected {at_least} at least"
        assert first < last, f"ttfb_s {first} is not before the last byte at {last}"

    return named("first_byte_after", claim)


def no_body(seen: Seen) -> None:
    assert seen.line["response_bytes"] == 0, f"response_bytes {seen.line['response_bytes']}, expected 0"
    assert seen.line["ttfb_s"] is None, f"ttfb_s {seen.line['ttfb_s']}, expected null"
    assert seen.change.first_bytes() == 0, "a time to first byte was measured where no body was sent"


def error_type(expected: str) -> Callable[[Seen], None]:
    """The metric's error_type label; the span has the same, or none where the label is empty."""

    def claim(seen: Seen) -> None:
        labels = seen.change.error_types()
        assert labels == {expected}, f"error_type label {labels}, expected {expected!r}"
        attribute = seen.span.attributes.get("error.type", "")
        assert attribute == expected, f"span error.type {attribute!r}, expected {expected!r}"

    return named("error_type", claim)


def path_is(path: str) -> Callable[[Seen], None]:
    """url_path means this path, percent-encoded or not, without the query, in line and span alike."""

    def claim(seen: Seen) -> None:
        found = seen.line["url_path"]
        assert unquote(found) == unquote(path), f"url_path {found!r}, expected {path!r}"
        assert seen.span.attributes.get("url.path") == found, "url.path: not the line's"

    return named("path_is", claim)


def no_parent(seen: Seen) -> None:
    assert seen.span.parent_span_id == "", f"parent {seen.span.parent_span_id}, expected none"


def id_is_the_trace_id(seen: Seen) -> None:
    assert seen.line["request_id"] == seen.line["trace_id"], f"request_id {seen.line['request_id']!r}"


def started_with_the_client(seen: Seen) -> None:
    """The span began after the client began, on the same clock, and is no longer than the client waited."""
    late = (seen.span.start_ns - seen.reply.started_ns) / 1e9
    assert -SAME_CLOCK_S < late < 5, f"span starts {late} s after the client"


SAME_CLOCK_S = 0.002


def app_lines(*events: str) -> Callable[[Seen], None]:
    """The app wrote exactly these lines, each carrying this request's ids, none twice."""

    def claim(seen: Seen) -> None:
        written = sorted(str(line["event"]).split(" ")[0] for line in seen.app_lines)
        assert written == sorted(events), f"app lines {written}, expected {sorted(events)}"
        for line in seen.app_lines:
            ids = {key: line.get(key) for key in ("trace_id", "span_id", "request_id")}
            own = {key: seen.line[key] for key in ids}
            assert ids == own, f"{line['event']}: ids {ids}, its request's are {own}"
            assert line.get("logger") == "shop", f"logger {line.get('logger')!r}, expected 'shop'"
            assert line.get("level") == "info", f"level {line.get('level')!r}, expected 'info'"

    return named("app_lines", claim)


def found(finding: str, **facts: Any) -> Callable[[Seen], None]:
    """The evidence of this finding holds exactly these values; a function is asked about its value."""

    def claim(seen: Seen) -> None:
        evidence = seen.evidence().get(finding, {})
        wrong = {
            key: evidence.get(key)
            for key, value in facts.items()
            if not (value(evidence.get(key)) if callable(value) else evidence.get(key) == value)
        }
        assert not wrong, f"evidence has {wrong} of {evidence}, expected {facts}"

    return named("found", claim)


def kind_counted(metric: str, kind: str) -> Callable[[Seen], None]:
    """The finding's own counter moved by one, under this kind and the request's route."""

    def claim(seen: Seen) -> None:
        counted = dict(seen.change.kinds(metric))
        expected = {(kind, seen.line["http_route"]): 1}
        assert counted == expected, f"{metric}: {counted}, expected {expected}"

    return named("kind_counted", claim)


def kinds_counted_none(metric: str) -> Callable[[Seen], None]:
    def claim(seen: Seen) -> None:
        assert not seen.change.kinds(metric), f"{metric}: {dict(seen.change.kinds(metric))}, expected nothing"

    return named("kinds_counted_none", claim)


def invariant_counted(name: str, result: str) -> Callable[[Seen], None]:
    def claim(seen: Seen) -> None:
        counted = {key: number for key, number in seen.change.invariants().items() if number}
        assert counted == {(name, result): 1}, f"invariants {counted}, expected {name} {result} once"

    return named("invariant_counted", claim)


def reply_is(body: bytes) -> Callable[[Seen], None]:
    """What the client got is what the app sends without us."""

    def claim(seen: Seen) -> None:
        assert seen.reply.body == body, f"body {seen.reply.body[:200]!r}, expected {body[:200]!r}"

    return named("reply_is", claim)


def timestamp_is_utc(seen: Seen) -> None:
    stamp = seen.line["timestamp"]
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d+)?Z", stamp), f"timestamp {stamp!r}"
