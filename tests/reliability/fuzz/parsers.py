"""Everything of obskit that reads what somebody else has written, each by itself: quick, so that millions fit in.

A reader may refuse in the one way it declares; any other exception is a failure.
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
import re
import struct
import tempfile
from collections.abc import Callable
from dataclasses import fields
from ipaddress import ip_address
from pathlib import Path
from typing import Any

from opentelemetry import propagate
from opentelemetry.context import Context
from prometheus_client import CollectorRegistry

from obskit.config import Config
from obskit.detectors import soft_error
from obskit.detectors._toplevel import members
from obskit.errors import InstallError
from obskit.exchange import Exchange, Outcome
from obskit.findings import Setting, bounded
from obskit.redact import make_redactor, scrub
from obskit.shared import Table
from obskit.signals import app_sums, cells, console, merge, shelf
from obskit.signals.exposition import Exposition
from obskit.signals.incoming import cleaned
from obskit.signals.lines import LineFormat, plain
from obskit.signals.writer import MAX_LINE_BYTES
from obskit.trust import Trust
from obskit.watch import slots
from obskit.watch.queueing import queue_seconds
from obskit.workers import Member, State, _member
from tests.reliability.fuzz.draw import NASTY, Draw
from tests.reliability.fuzz.world import METHODS, PATHS, SAMPLES, check_line

Target = Callable[[Draw], None]

_is_secret = make_redactor()
_NOW = 1_700_000_000.0
_NAMES = frozenset({"password", "author", "a", "api_key", "n"})


def queue(draw: Draw) -> None:
    waited = queue_seconds(draw.text(*SAMPLES["x-request-start"], *SAMPLES["x-queue-start"]), _NOW)
    assert waited is None or 0.0 <= waited <= 3600.0


class TraceContext(logging.Handler):
    """The headers that carry a trace: OpenTelemetry reads what we let through, and has nothing to warn of."""

    def __init__(self) -> None:
        super().__init__()
        logging.getLogger("opentelemetry").addHandler(self)
        self.warnings: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.warnings.append(record.getMessage()[:200])

    def __call__(self, draw: Draw) -> None:
        names = ("traceparent", "tracestate", "baggage", "b3")
        samples = (*SAMPLES["traceparent"], *SAMPLES["tracestate"], *SAMPLES["baggage"])
        carrier = {name: draw.native(*SAMPLES.get(name, samples)) for name in names if not draw.chance(3)}
        propagate.extract(cleaned(carrier), context=Context())
        if self.warnings:
            said, self.warnings = self.warnings, []
            raise AssertionError(f"OpenTelemetry warned: {said}")


def secret_key(draw: Draw) -> None:
    _is_secret(draw.text("password", "author", "tokens_used", "X-Api-Key", "sessionCount"))


def secret_text(draw: Draw) -> None:
    """Text in which secrets may stand: what is written instead is not longer than a few notes of it."""
    text = draw.text(
        "password=hunter2", "https://a:b@c/?token=x", "Bearer abc.def", "-----BEGIN PRIVATE KEY-----"
    )
    shown = scrub(text)
    assert len(shown) <= 10 * len(text) + 100


class Forwarding:
    """What proxies say of the client: believed or not, an address or nothing."""

    def __init__(self) -> None:
        self._trust = Trust(("loopback", "10.0.0.0/8", "unix"))

    def __call__(self, draw: Draw) -> None:
        exchange = Exchange()
        client = exchange.client_address = draw.text("127.0.0.1", "10.1.2.3", "::1", "8.8.8.8", "")
        names = ("x-forwarded-for", "x-forwarded-proto", "forwarded", "x-real-ip", "x-request-start")
        headers = [(name.encode(), draw.octets(*SAMPLES[name])) for name in names if draw.chance(2)]
        exchange.request = {"type": "http", "headers": headers}
        exchange.queue_start = draw.text(*SAMPLES["x-request-start"])
        self._trust.apply(exchange)
        if exchange.client_address not in (client, None):
            ip_address(exchange.client_address.partition("%")[0])
        assert exchange.scheme in ("http", "https", "ws", "wss")


class Negotiation:
    """Accept and Accept-Encoding of a scrape, and who it says that it is."""

    def __init__(self) -> None:
        self._ask = Exposition(Config(metrics_access="loopback"), CollectorRegistry(), CollectorRegistry())

    def __call__(self, draw: Draw) -> None:
        names = ("accept", "accept-encoding", "x-forwarded-for", "forwarded", "authorization")
        headers = {name: draw.text(*SAMPLES[name]) for name in names if draw.chance(2)}
        client = draw.text("127.0.0.1", "::1", "::ffff:127.0.0.1", "fe80::1%eth0", "10.0.0.1", "unix:")
        answer = self._ask(draw.text(*METHODS), headers, client)
        assert answer.status in (200, 403, 405)
        if answer.status == 200:
            assert client.strip().startswith(("127.", "::1", "::ffff:127.", "0:0", "0000", "::ffff:7f"))
        for name, value in answer.headers:
            assert not re.search(r"[\r\n\0]", name + value)


def value_of(draw: Draw, depth: int = 0) -> Any:
    """Something that application code hands over: nested, strange, huge."""
    kind = draw.number(14)
    if kind < 4:
        return draw.text("value", "password=hunter2", "é")
    if kind < 6:
        return draw.pick((0, -1, 2**63, -(2**70), 1.5, float("nan"), float("-inf"), True, None, 10**400))
    if kind == 6:
        return draw.raw()
    if depth < 7 and kind in (7, 8, 9):
        return [value_of(draw, depth + 1) for _ in range(draw.number(5))]
    if depth < 7 and kind in (10, 11):
        return {
            draw.text("key", "password", "findings"): value_of(draw, depth + 1) for _ in range(draw.number(5))
        }
    return draw.pick(
        (object(), ValueError("x" * 5_000), Outcome.RAISED, {1, 2}, (None,), b"\xff" * 5_000, _Odd())
    )


class _Odd:
    def __repr__(self) -> str:
        raise RuntimeError("no")


def log_value(draw: Draw) -> None:
    shown = plain(value_of(draw), _is_secret)
    json.dumps(shown, allow_nan=False)
    bounded(value_of(draw))


class Lines:
    """A whole line: JSON, and readable."""

    def __init__(self) -> None:
        self._format = LineFormat("shop", "1", "test", _is_secret, 1)
        self._readable = console.Renderer(_is_secret)

    def __call__(self, draw: Draw) -> None:
        exchange = Exchange("http", "GET", draw.text(*PATHS))
        exchange.trace_id, exchange.span_id = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"
        exchange.request_id = exchange.trace_id
        exchange.user_agent = draw.text(*SAMPLES["user-agent"])
        exchange.client_address = draw.text("127.0.0.1")
        exchange.outcome, exchange.ended_ns, exchange.status = Outcome.COMPLETED, exchange.started_ns + 5, 200
        exchange.http_route = draw.text("/items/{id}") or None
        if draw.chance(2):
            exchange.facts = {
                draw.text("key", "event", "password"): value_of(draw) for _ in range(draw.number(9))
            }
        check_line(self._format.canonical(exchange), None)
        event, fields = (
            draw.text("order.placed"),
            {draw.text("item"): value_of(draw) for _ in range(draw.number(5))},
        )
        check_line(self._format.line("info", event, draw.text("app"), exchange, fields), None)
        for shown in (
            self._readable.request(exchange, {}),
            self._readable.line("info", event, "app", None, fields),
        ):
            assert len(shown.encode("utf-8", "replace")) <= 2 * MAX_LINE_BYTES
            assert not re.search(
                r"[\x00-\x08\x0b-\x1a\x1c-\x1f\x7f-\x9f\u2028\u2029]", shown.replace("\n", "")
            )


def json_top(draw: Draw) -> None:
    """The first bytes of a response body, as soft_error reads them."""
    members(_json(draw))


_JSON = (
    '{"error":',
    '"a"',
    ":",
    ",",
    "{",
    "[",
    "]",
    "}",
    "true",
    '"\\',
    "1e5",
    " ",
    '"status":"error"',
    "null",
)


def _json(draw: Draw) -> bytes:
    pieces = []
    for _ in range(draw.number(12)):
        pieces.append(
            draw.pick(_JSON)
            if not draw.chance(4)
            else draw.text('{"error": "x"}')
        )  # fmt: skip
    return "".join(pieces).encode("utf-8", "surrogatepass")


class Bodies:
    """soft_error as it judges whole records."""

    def __init__(self) -> None:
        setting = Setting(Config(), "shop", lambda _stage, _error: None)
        self._judge = soft_error.SoftErrors(setting)

    def __call__(self, draw: Draw) -> None:
        exchange = Exchange()
        exchange.status, exchange.outcome = 200, Outcome.COMPLETED
        exchange.response_head = _json(draw)[:4096]
        exchange.response_bytes = len(exchange.response_head) + draw.number(2)
        exchange.response_headers = [("Content-Type", draw.text("application/json", "a/b+json; x=y"))]
        self._judge.closed(exchange)


def options(draw: Draw) -> None:
    """Options from the environment: a Config, or an InstallError that says what was seen."""
    name = draw.pick([one.name for one in fields(Config) if "parse" in one.metadata]).upper()
    value = draw.text(
        "/metrics", "/a,/b", "10", "error,!ok", "10.0.0.0/8,unix", "http://x:1/", "1e3", "/tmp", "info"
    )
    with contextlib.suppress(InstallError):
        Config.load({}, environ={f"OBSKIT_{name}": value})


# ---- files of ours that somebody has written into ---------------------------------------------------


def damaged(draw: Draw, sound: bytes) -> bytes:
    """A file as a crash, a full disk or somebody else may leave it."""
    data = bytearray(sound[: 1 + draw.number(4_096)] if draw.chance(2) else sound)
    for _ in range(draw.number(6)):
        if not data:
            break
        at = draw.number(min(len(data), 65_536))
        if draw.chance(2):
            at = min(at, 200 + at % 300, len(data) - 1)
        new = (
            draw.raw(8) if draw.chance(2) else struct.pack("<Q", draw.pick((0, 1, 2**63, 2**64 - 1, 65_536)))
        )
        data[at : at + len(new)] = new
    return bytes(data)


def _numbers_file() -> bytes:
    with tempfile.TemporaryDirectory() as folder:
        path = os.path.join(folder, "x")
        store = cells.Store(100)
        from obskit import names

        counts, times = store.numbers(names.OUTCOMES), store.histograms(names.REQUEST_DURATION)
        store.move(path)
        for route in ("/", "/items/{id}", "unmatched"):
            counts.add(1, route, "completed")
            cell = times.child("GET", route, "200", "")
            cell.observe(0.1, ("0af7651916cd43dd8448eb211c80319c", 0.1, 1.7e9))
        store.publish()
        return shelf.read(path)


class Numbers:
    """A worker's numbers, read by another worker."""

    def __init__(self) -> None:
        self._sound = _numbers_file()

    def __call__(self, draw: Draw) -> None:
        data = damaged(draw, self._sound)
        reading = merge._Reading()
        with contextlib.suppress(*merge.DAMAGE):
            reading.read_on(data)
        for series, metric, _labels in merge._series(data, reading):
            assert len(series.numbers) == merge._summed(metric)


class Folding:
    """The numbers of a dead worker, taken into an archive that may be damaged itself; on disk, so not so quick."""

    def __init__(self) -> None:
        self._sound = _numbers_file()
        self._folder = tempfile.TemporaryDirectory()

    def __call__(self, draw: Draw) -> None:
        member = Member(self._folder.name, "0" * 16, 0, 1, False, State.RUNNING, True, 1, 2, 0, 0.0, False)
        archive = Path(self._folder.name, merge.ARCHIVE)
        archive.write_bytes(damaged(draw, self._sound))
        Path(member.path(merge.KIND)).write_bytes(damaged(draw, self._sound))
        with contextlib.suppress(ValueError):
            merge.fold(member, 100)
        with contextlib.suppress(*merge.DAMAGE):
            merge._Reading().read_on(archive.read_bytes())


_COUNTED = [[["a", "b"]], [["jobs_total", "", [1.0], [{"trace_id": "x"}, 1.0, 2.0]]]]
_OBSERVED = [[], [["took_bucket", "1.0", [1], None], ["took_bucket", "+Inf", [2], None]]]
_SNAPSHOT = json.dumps(
    [
        ["t"],
        [
            ["jobs", "Jobs.", "counter", "", "sum", [_COUNTED]],
            ["took", "", "histogram", "", "sum", [_OBSERVED]],
        ],
    ]
).encode()


def snapshot(draw: Draw) -> None:
    """The application's metrics of another worker."""
    data = bytearray(_SNAPSHOT)
    for _ in range(draw.number(5)):
        at = draw.number(len(data))
        data[at : at + draw.number(4)] = draw.pick(
            (b"null", b"[]", b"{}", b"NaN", b'"', b"-1e999", b"9" * 30, b"")
        )
    try:
        _folded, parts = app_sums.read(bytes(data))
    except ValueError:
        return
    families: dict[str, app_sums.Family] = {}
    app_sums.merge(families, parts, "1", alive=True)
    app_sums.merge(families, parts, "2", alive=False)
    for family in families.values():
        list(family.exposed().samples)
        app_sums.written([family.part()])


class Flight:
    """What a dead worker had in flight."""

    def __init__(self) -> None:
        data = bytearray(slots.FIRST + 2 * slots.SLOT_SIZE)
        data[: len(slots.MAGIC)] = slots.MAGIC
        said = b"1700000000000000000\nhttp\nGET\n0af7651916cd43dd8448eb211c80319c\nb7ad6b7169203331\nid\n\n/items/7\0"
        for at in (slots.FIRST, slots.FIRST + slots.SLOT_SIZE):
            data[at] = 2
            data[at + slots.TEXT_AT : at + slots.TEXT_AT + len(said)] = said
            slots.ANSWER.pack_into(data, at + slots.ANSWER_AT, 1_700_000_000_000_000_001, 200)
        self._sound = bytes(data)

    def __call__(self, draw: Draw) -> None:
        data = bytearray(self._sound)
        for _ in range(draw.number(6)):
            at = slots.FIRST + draw.number(slots.SLOT_SIZE)
            new = draw.raw(8) if draw.chance(2) else draw.pick(NASTY).encode("utf-8", "surrogatepass")
            data[at : at + len(new)] = new
        for lost in slots.in_slots(bytes(data)):
            assert lost.phase in slots.PHASES
            assert lost.exchange.http_route is None or len(lost.exchange.http_route) < 200


def worker(draw: Draw) -> None:
    """A worker's file."""
    head = b"obskitW\x01" + draw.raw(60)
    found = _member("/", "x", draw.chance(2), head)
    assert found.state in State
    found.exit_reason()


class Slots:
    """The memory that workers share, with whatever in it."""

    def __init__(self) -> None:
        self._table = Table.open(None, "fuzz", f"fuzz{os.getpid()}", 4)

    def __call__(self, draw: Draw) -> None:
        table = self._table
        new = draw.raw(32)
        at = 128 + draw.number(4) * 32
        table._map[at : at + len(new)] = new
        fingerprint = int.from_bytes(draw.raw(8), "little") or 1
        table.get(fingerprint, 10**18)
        table.put(fingerprint, 5, 6, draw.number(65_536), draw.number(65_536))
        entry = table.get(fingerprint, 10**18)
        assert entry is not None
        assert (entry.started_ns, entry.ended_ns) == (5, 6)


TARGETS: dict[str, Callable[[], Target]] = {
    "queue time header": lambda: queue,
    "trace context": TraceContext,
    "secret keys": lambda: secret_key,
    "secrets in text": lambda: secret_text,
    "forwarding headers": Forwarding,
    "scrape headers": Negotiation,
    "values in logs": lambda: log_value,
    "whole lines": Lines,
    "json of a body": lambda: json_top,
    "soft error": Bodies,
    "options": lambda: options,
    "numbers of a worker": Numbers,
    "archive of the dead": Folding,
    "app metrics snapshot": lambda: snapshot,
    "flight recorder": Flight,
    "worker file": lambda: worker,
    "shared memory": Slots,
}
