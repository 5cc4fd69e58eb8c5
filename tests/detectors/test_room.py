"""The detector room: what is in it, how a user's own comes in, and that nothing in it can harm a request."""

from __future__ import annotations

import asyncio
import importlib
import io
from collections.abc import Callable
from pathlib import Path
from typing import Any
from zlib import crc32

import pytest
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

import obskit
from obskit import detectors
from obskit.asgi import AsgiDoor
from obskit.exchange import Evidence, Exchange, SessionFacts
from obskit.findings import MAX_EVIDENCE, MAX_TEXT, Setting
from obskit.judging import MAX_FINDINGS
from obskit.names import FINDINGS
from obskit.wsgi import WsgiDoor
from tests.support.exposition import Samples, labels, parse
from tests.support.recording import (
    body,
    call_asgi,
    http_scope,
    make_environ,
    make_pipeline,
    replying,
    start,
    talk_wsgi,
)

SHIPPED = detectors.shipped()
FILES = sorted(
    path.stem for path in Path(detectors.__file__).parent.glob("*.py") if not path.name.startswith("_")
)

Lines = Callable[[], list[dict[str, Any]]]


@pytest.fixture
def install(install: Any, tmp_path: Path) -> Any:
    """With a memory of its own: what one test asked is no repetition for the next."""
    return lambda app, **options: install(app, **{"state_dir": tmp_path, **options})


def own(name: str = "late_order", judge: Any = None, **more: Any) -> obskit.Detector:
    return obskit.Detector(
        name=name, help="An order came late.", why="Late is a 200 too.", judge=judge, **more
    )


def answering(environ: Any, start_response: Any) -> list[bytes]:
    exchange = obskit.current()
    if exchange is not None:
        exchange.name_route("/orders/{id}")
    start_response("200 OK", [("Content-Type", "text/plain")])
    return [b"ok"]


def scraped(app: Any) -> Samples:
    talk = talk_wsgi(app, make_environ("/metrics", HTTP_ACCEPT="text/plain; version=0.0.4"))
    return parse(talk.data.decode())


# ---- the shipped ones -------------------------------------------------------------------------------


def test_every_file_of_the_room_declares_the_detector_of_its_name() -> None:
    assert [one.name for one in SHIPPED] == FILES == sorted(FILES)
    for name in FILES:
        assert importlib.import_module(f"obskit.detectors.{name}").DETECTOR.name == name


@pytest.mark.parametrize("one", SHIPPED, ids=lambda one: one.name)
def test_a_shipped_detector_says_what_happened_and_why_nobody_saw(one: obskit.Detector) -> None:
    for sentence in (one.help, one.why):
        assert sentence[0].isupper(), sentence
        assert sentence.endswith("."), sentence
        assert len(sentence) <= 200
    assert one.help != one.why
    assert one.runbook.startswith("Obskit")
    assert one.severity in ("warning", "critical")
    assert one.metric is None or set(one.metric.labels) - {"http_route"}


def test_no_two_detectors_lead_to_the_same_runbook() -> None:
    runbooks = [one.runbook for one in SHIPPED]
    assert len(set(runbooks)) == len(runbooks)


def test_an_ordinary_request_is_no_finding_of_any_of_them(install: Any, canonical: Lines) -> None:
    app = install(answering)
    for method in ("GET", "HEAD", "POST", "OPTIONS"):
        talk_wsgi(app, make_environ("/orders/7", method=method))
    assert [line["findings"] for line in canonical()] == [[]] * 4


# ---- what a detector is asked about -----------------------------------------------------------------


def test_a_detector_about_a_field_is_asked_only_where_that_is_not_empty() -> None:
    asked: list[Exchange] = []
    pipeline, notes = make_pipeline(detectors=[(own(judge=asked.append, about="session"), None)])
    for session in (None, SessionFacts("a=b")):
        exchange = Exchange()
        pipeline.open(exchange, None)
        exchange.session = session
        pipeline.close(exchange)
    assert asked == [exchange]
    assert notes.stages == []


@pytest.mark.parametrize("method", ["POST", "PUT"])
@pytest.mark.parametrize("digests", [(), ("POST",)])
def test_a_body_is_digested_where_a_detector_compares_those_of_its_method(
    method: str, digests: tuple[str, ...]
) -> None:
    seen: list[int | None] = []
    comparing = own(judge=lambda exchange: seen.append(exchange.body_checksum), digests=frozenset(digests))
    pipeline, notes = make_pipeline(detectors=[(comparing, None)])

    async def reading(scope: Any, receive: Any, send: Any) -> None:
        await receive()
        await replying(start(), body(b"ok"))(scope, receive, send)

    def reading_too(environ: Any, start_response: Any) -> list[bytes]:
        environ["wsgi.input"].read()
        return answering(environ, start_response)

    sent = b"number=7"
    length = str(len(sent))
    headers = [(b"content-length", length.encode())]
    call_asgi(
        AsgiDoor(reading, pipeline),
        http_scope(method=method, headers=headers),
        [{"type": "http.request", "body": sent}],
    )
    environ = make_environ("/", method, CONTENT_LENGTH=length, **{"wsgi.input": io.BytesIO(sent)})
    talk_wsgi(WsgiDoor(reading_too, pipeline), environ)
    assert notes.stages == []
    assert seen == [crc32(sent) if method in digests else None] * 2


# ---- a user's own ----------------------------------------------------------------------------------


def test_an_own_detector_reaches_line_metric_span_and_record_alike(
    install: Any, canonical: Lines, spans: InMemorySpanExporter
) -> None:
    kept: list[Exchange] = []

    def judge(exchange: Exchange) -> Evidence | None:
        kept.append(exchange)
        return {"days": 3, "carrier": "slow"} if exchange.status == 200 else None

    app = install(answering, detectors=[own(judge=judge, severity="critical")])
    talk_wsgi(app, make_environ("/orders/7"))
    (line,) = canonical()
    assert (line["findings"], line["level"]) == (["late_order"], "warning")
    assert line["evidence"] == {
        "late_order": {"severity": "critical", "why": "Late is a 200 too.", "days": 3, "carrier": "slow"}
    }
    assert scraped(app)[FINDINGS.name][labels(finding="late_order", http_route="/orders/{id}")] == 1
    (span,) = spans.get_finished_spans()
    assert span.attributes is not None
    assert span.attributes["obskit.findings"] == ("late_order",)
    (event,) = span.events
    assert event.name == "obskit.finding"
    assert event.attributes is not None
    assert event.attributes["obskit.finding.name"] == "late_order"
    assert event.attributes["obskit.finding.evidence.days"] == 3
    (finding,) = kept[0].findings
    assert (finding.finding, finding.severity, finding.http_route) == (
        "late_order",
        "critical",
        "/orders/{id}",
    )
    assert (finding.trace_id, finding.request_id) == (line["trace_id"], line["request_id"])
    assert dict(finding.evidence) == {"days": 3, "carrier": "slow"}


def test_an_own_detector_with_a_memory_is_made_once_per_install(install: Any, canonical: Lines) -> None:
    made: list[Setting] = []
    steps: list[str] = []

    class EverySecond:
        def __init__(self, setting: Setting) -> None:
            made.append(setting)
            self.seen = 0

        def begin(self) -> None:
            steps.append("begin")

        def opened(self, exchange: Exchange) -> None:
            steps.append("opened")

        def closed(self, exchange: Exchange) -> Evidence | None:
            steps.append("closed")
            self.seen += 1
            return {"seen": self.seen} if self.seen % 2 == 0 else None

        def shutdown(self) -> None:
            steps.append("shutdown")

    app = install(answering, detectors=[own(make=EverySecond)], service="shop", duplicate_window_s=7.0)
    for _ in range(4):
        talk_wsgi(app)
    assert [line["findings"] for line in canonical()] == [[], ["late_order"]] * 2
    obskit.shutdown()
    (setting,) = made
    assert (setting.service, setting.config.duplicate_window_s) == ("shop", 7.0)
    assert steps == ["begin", *["opened", "closed"] * 4, "shutdown"]


def test_an_own_finding_is_told_over_asgi_too(install: Any, canonical: Lines) -> None:
    app = install(
        replying(start(), body(b"ok")), detectors=[own(judge=lambda exchange: {})], interface="asgi"
    )
    assert call_asgi(app, http_scope("/")).body == b"ok"
    assert [line["findings"] for line in canonical()] == [["late_order"]]


def test_detectors_are_asked_in_the_order_of_their_names(install: Any) -> None:
    seen: list[str] = []

    def noting(name: str) -> obskit.Detector:
        return own(name, lambda exchange: seen.append(name))

    talk_wsgi(install(answering, detectors=[noting("zebra"), noting("aardvark")]))
    assert seen == ["aardvark", "zebra"]


# ---- switched off -------------------------------------------------------------------------------------


def test_a_detector_is_switched_off_by_its_name(install: Any, canonical: Lines) -> None:
    short = replying(start(200, (b"content-length", b"10")), body(b"1"))
    app = install(short, interface="asgi", disabled_detectors=["truncated_response"])
    call_asgi(app, http_scope("/"))
    (line,) = canonical()
    # What happened stays visible, as the outcome it was; it is only no finding.
    assert (line["findings"], line["outcome"]) == ([], "truncated")


def test_detectors_are_switched_off_by_the_environment(
    install: Any, canonical: Lines, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OBSKIT_DISABLED_DETECTORS", "no_response, late_order")
    app = install(
        lambda environ, start_response: [], detectors=[own(judge=lambda exchange: {})], interface="wsgi"
    )
    talk_wsgi(app)
    assert [line["findings"] for line in canonical()] == [[]]


def test_all_of_them_can_be_switched_off(install: Any, canonical: Lines) -> None:
    app = install(answering, disabled_detectors=FILES)
    talk_wsgi(app)
    assert [line["findings"] for line in canonical()] == [[]]


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"detectors": "soft_error"}, "option 'detectors': saw 'soft_error', expected a list"),
        ({"detectors": 7}, "option 'detectors': saw 7, expected a list"),
        ({"detectors": [len]}, "expected an obskit.Detector"),
        ({"detectors": [obskit.Detector]}, "expected an obskit.Detector"),
        ({"detectors": [own("soft_error")]}, "the name 'soft_error' is taken"),
        ({"detectors": [own(), own()]}, "the name 'late_order' is taken"),
        ({"disabled_detectors": ["soft_eror"]}, r"saw 'soft_eror' \(did you mean 'soft_error'\?\)"),
        ({"disabled_detectors": ["zzz"]}, "saw 'zzz'; detectors are: background_failure, "),
        ({"disabled_detectors": ["Soft Error"]}, "expected a list of detector names"),
    ],
)
def test_a_wrong_detector_is_refused_with_what_was_seen_and_what_to_do(
    options: dict[str, Any], said: str, install: Any
) -> None:
    with pytest.raises(obskit.InstallError, match=said):
        install(answering, **options)


def test_a_detector_that_cannot_be_made_fails_the_install_and_leaves_nothing_behind(install: Any) -> None:
    def make(setting: Setting) -> Any:
        raise OSError("no such folder")

    with pytest.raises(OSError, match="no such folder"):
        install(answering, detectors=[own(make=make)])
    talk_wsgi(install(answering))


# ---- harm -------------------------------------------------------------------------------------------


class Broken:
    def __init__(self, setting: Setting) -> None:
        pass

    def begin(self) -> None:
        raise ValueError("begin")

    def opened(self, exchange: Exchange) -> None:
        raise ValueError("opened")

    def closed(self, exchange: Exchange) -> Evidence | None:
        raise ValueError("closed")

    def shutdown(self) -> None:
        raise ValueError("shutdown")


def raising(exchange: Exchange) -> Evidence | None:
    raise ValueError("judge")


@pytest.mark.parametrize(
    ("broken", "stages"),
    [
        (own(make=Broken), {"detectors.late_order": 4.0, "detectors.begin": 1.0}),
        (own(judge=raising), {"detectors.late_order": 2.0}),
        (own(judge=lambda exchange: ["no", "mapping"]), {"detectors.late_order": 2.0}),
    ],
    ids=["make", "judge", "no mapping"],
)
def test_a_detector_that_raises_is_counted_and_changes_nothing(
    broken: obskit.Detector, stages: dict[str, float], install: Any, canonical: Lines
) -> None:
    app = install(answering, detectors=[broken, own("zebra", lambda exchange: {})])
    talks = [talk_wsgi(app) for _ in range(2)]
    assert [(talk.data, talk.error) for talk in talks] == [(b"ok", None)] * 2
    assert [line["findings"] for line in canonical()] == [["zebra"]] * 2
    counted = scraped(app)["obskit_internal_errors_total"]
    assert {dict(key)["stage"]: value for key, value in counted.items() if value} == stages
    obskit.shutdown()


def test_a_detector_sees_the_request_and_cannot_keep_its_secrets(install: Any) -> None:
    seen: list[Any] = []
    kept: list[Exchange] = []

    def judge(exchange: Exchange) -> Evidence | None:
        seen.append((exchange.header("x-team"), exchange.query, exchange.response_header("content-type")))
        kept.append(exchange)
        return None

    app = install(answering, detectors=[own(judge=judge)])
    talk_wsgi(app, make_environ(HTTP_X_TEAM="blue", QUERY_STRING="a=1"))
    assert seen == [("blue", "a=1", "text/plain")]
    assert (kept[0].header("x-team"), kept[0].query, kept[0].request) == (None, "", None)


def test_evidence_is_bounded_in_number_and_size(install: Any, canonical: Lines) -> None:
    def judge(exchange: Exchange) -> dict[str, Any]:
        return {"long": "x" * 10_000, "list": ["y" * 10_000] * 100, **{f"fact_{n}": n for n in range(100)}}

    talk_wsgi(install(answering, detectors=[own(judge=judge)]))
    (line,) = canonical()
    evidence = line["evidence"]["late_order"]
    assert len(evidence) == MAX_EVIDENCE + len(["severity", "why"])
    assert (len(evidence["long"]), len(evidence["list"])) == (MAX_TEXT, MAX_EVIDENCE)
    assert len(str(line)) < 10_000


def test_a_request_has_a_bounded_number_of_findings_and_the_rest_is_counted(
    install: Any, canonical: Lines
) -> None:
    many = [own(f"own_{number:02}", lambda exchange: {}) for number in range(MAX_FINDINGS + 5)]
    app = install(answering, detectors=many)
    talk_wsgi(app)
    (line,) = canonical()
    assert line["findings"] == [f"own_{number:02}" for number in range(MAX_FINDINGS)]
    dropped = scraped(app)["obskit_telemetry_dropped_total"]
    assert dropped[labels(signal="findings", reason="too_many")] == 5


def test_evidence_whose_key_names_a_secret_leaves_neither_by_line_nor_by_span(
    install: Any, lines: Lines, spans: InMemorySpanExporter
) -> None:
    secrets = {"session_id": "hunter2", "api_key": "hunter2", "tenant": "hunter2", "order": 7}
    app = install(answering, detectors=[own(judge=lambda exchange: secrets)], redact=["tenant"])
    talk_wsgi(app)
    obskit.invariant(False, "nobody_asked", password="hunter2", order=8)
    written = lines()
    assert "hunter2" not in str(written)
    (line,) = [one for one in written if one["event"] == "http.request"]
    assert line["evidence"]["late_order"]["session_id"] == "[redacted]"
    assert line["evidence"]["late_order"]["order"] == 7
    (outside,) = [one for one in written if one["event"] == "obskit.finding"]
    assert (outside["password"], outside["order"]) == ("[redacted]", 8)
    (span,) = spans.get_finished_spans()
    assert "hunter2" not in span.to_json()
    assert "hunter2" not in talk_wsgi(app, make_environ("/metrics")).data.decode()


def test_concurrent_requests_keep_their_findings_apart(install: Any, canonical: Lines) -> None:
    together = 20

    async def main() -> None:
        arrived = asyncio.Barrier(together)

        async def app(scope: Any, receive: Any, send: Any) -> None:
            number = int(scope["path"][1:])
            await arrived.wait()
            obskit.invariant(number % 2, "odd", number=number)
            await arrived.wait()
            await send(start())
            await send(body(b"ok"))

        from tests.support.recording import talk_asgi

        door = install(app)
        await asyncio.gather(*(talk_asgi(door, http_scope(f"/{n}")) for n in range(together)))

    asyncio.run(main())
    told = {line["url_path"]: line["findings"] for line in canonical()}
    assert told == {f"/{n}": [] if n % 2 else ["invariant_failed"] for n in range(together)}
