from __future__ import annotations

import contextvars
import gc
import os
import threading
import weakref
from typing import Any

import pytest

from obskit import judging
from obskit import pipeline as pipelines
from obskit.context import current
from obskit.exchange import Exchange, Outcome
from obskit.findings import Detector
from obskit.pipeline import Answer
from tests.support.recording import TRACE_ID, Broken, make_pipeline

ONE_REQUEST = [
    *(
        "traces.begin",
        "metrics.begin",
        "logs.begin",
        "watch.begin",
        "traces.open",
        "metrics.open",
        "watch.open",
    ),
    *(
        "traces.enter",
        "traces.leave",
        "metrics.close",
        "watch.counted",
        "logs.close",
        "watch.close",
        "traces.close",
    ),
]


def one_request(pipeline: Any, **facts: Any) -> Exchange:
    exchange = Exchange()
    pipeline.open(exchange, None)
    pipeline.leave(pipeline.enter(exchange))
    for name, value in facts.items():
        setattr(exchange, name, value)
    pipeline.close(exchange)
    return exchange


def test_traces_open_first_because_they_give_the_ids_and_close_last() -> None:
    pipeline, notes = make_pipeline()
    one_request(pipeline)
    assert notes.calls == ONE_REQUEST


def test_signals_begin_once_with_the_first_request() -> None:
    pipeline, notes = make_pipeline()
    assert notes.calls == []
    one_request(pipeline)
    one_request(pipeline)
    pipeline.begin()
    assert [call for call in notes.calls if call.endswith(".begin")] == ONE_REQUEST[:4]


def test_the_watch_begins_with_the_first_request_or_scrape_and_not_before() -> None:
    pipeline, notes = make_pipeline({"/metrics": lambda *_: Answer(200, "OK", [], b"")})
    pipeline.begin()  # lifespan startup: no server listens yet
    assert "watch.begin" not in notes.calls
    for _ in range(2):
        pipeline.answer(pipeline.endpoints["/metrics"], "GET", {}, None)
    one_request(pipeline)
    assert notes.calls.count("watch.begin") == 1


def test_a_request_beside_the_first_one_waits_until_the_watch_has_begun(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    # It would be in flight where no heir of this worker looks.
    pipeline, notes = make_pipeline()
    beginning, go_on = threading.Event(), threading.Event()

    def begin(_seen: Any) -> None:
        beginning.set()
        go_on.wait(5)
        notes.called("watch.begin")

    monkeypatch.setattr(pipeline.watch, "begin", begin)
    first, second = (threading.Thread(target=one_request, args=(pipeline,)) for _ in range(2))
    first.start()
    assert beginning.wait(5)
    second.start()
    second.join(0.1)  # ends at once where it does not wait
    go_on.set()
    first.join(5)
    second.join(5)
    assert notes.calls.index("watch.begin") < notes.calls.index("watch.open")
    assert notes.calls.count("watch.open") == 2


@pytest.mark.parametrize("stage", ["look", "begin", "open", "close", "answering", "goodbye", "shutdown"])
def test_a_watch_that_fails_is_counted_and_harms_nobody(stage: str) -> None:
    pipeline, notes = make_pipeline()
    notes.broken.add(f"watch.{stage}")
    exchange = Exchange()
    pipeline.open(exchange, None)
    pipeline.answering(exchange)
    pipeline.close(exchange)
    pipeline.goodbye()
    pipeline.shutdown(0)
    assert notes.stages == [f"watch.{stage}"]
    assert len(notes.records) == 1


def test_trouble_of_a_running_request_is_counted_and_told_at_once_and_shown_again_at_its_end() -> None:
    pipeline, notes = make_pipeline(detectors=[detector("request_stuck")])
    pipeline.route_for = lambda method, path: f"/{method}{path}"
    seen: list[Any] = []
    emit = pipeline.logs.emit

    def noted(*line: Any, **more: Any) -> None:
        seen.append(current())
        emit(*line, **more)

    pipeline.logs.emit = noted  # type: ignore[method-assign]
    exchange = Exchange("http", "GET", "/orders")
    pipeline.open(exchange, None)
    pipeline.tell("request_stuck", exchange, {"age_s": 10})
    pipeline.tell("request_stuck", exchange, {"age_s": 20})
    assert [(one.http_route, one.times, one.told) for one in notes.counted] == [
        ("/GET/orders", 1, True),
        ("/GET/orders", 2, True),
    ]
    assert [line[3]["age_s"] for line in notes.lines] == [10, 20]
    assert seen == [exchange, exchange], "the lines are to carry the ids of the request"
    assert current() is None
    exchange.http_route = "/orders"
    pipeline.close(exchange)
    (finding,) = notes.record.findings
    assert (finding.evidence, finding.times, finding.http_route) == ({"age_s": 20}, 2, "/orders")
    assert finding.told
    pipeline.tell("request_stuck", exchange, {"age_s": 40})
    assert len(notes.counted) == 2, "it has ended: nothing hangs any more"


def test_trouble_that_cannot_be_told_is_counted_as_an_error_of_ours() -> None:
    pipeline, notes = make_pipeline(detectors=[detector("request_stuck")])
    exchange = Exchange()
    pipeline.open(exchange, None)
    notes.broken.add("logs.emit")
    pipeline.tell("request_stuck", exchange, {})
    assert notes.stages == ["detectors.request_stuck"]
    assert current() is None


def test_signals_begin_again_in_a_forked_worker() -> None:
    pipeline, notes = make_pipeline()
    pipeline.begin()
    read, write = os.pipe()
    pid = os.fork()
    if pid == 0:
        notes.calls.clear()
        pipeline.begin()
        os.write(write, ",".join(notes.calls).encode())
        os._exit(0)
    os.close(write)
    with os.fdopen(read) as pipe:
        assert pipe.read() == "traces.begin,metrics.begin,logs.begin"
    assert os.waitpid(pid, 0)[1] == 0


def test_the_hook_of_a_fork_makes_signals_begin_again_and_does_not_keep_a_pipeline_alive(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    hooks: list[Any] = []
    monkeypatch.setattr(os, "register_at_fork", lambda *, after_in_child: hooks.append(after_in_child))
    pipeline, notes = make_pipeline()
    pipeline.begin()
    for hook in hooks:
        hook()
    pipeline.begin()
    assert notes.calls == ONE_REQUEST[:3] * 2
    kept = weakref.ref(pipeline)
    del pipeline
    gc.collect()
    assert kept() is None
    for hook in hooks:
        hook()


def test_a_pipeline_nobody_uses_any_more_does_not_disturb_a_fork() -> None:
    pipeline, _ = make_pipeline()
    del pipeline
    pid = os.fork()
    if pid == 0:
        os._exit(0)
    assert os.waitpid(pid, 0)[1] == 0


def test_there_is_a_pipeline_where_there_is_no_fork(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(os, "register_at_fork")
    pipeline, notes = make_pipeline()
    one_request(pipeline)
    assert notes.record.outcome == "no_response"


@pytest.mark.parametrize("given", ["abc-123", "!", "~" * 128])
def test_a_well_formed_request_id_is_taken(given: str) -> None:
    pipeline, _ = make_pipeline()
    exchange = Exchange()
    pipeline.open(exchange, given)
    assert exchange.request_id == given


@pytest.mark.parametrize(
    "given", [None, "", "a b", "a\r\nSet-Cookie: x=1", "a\n", "x" * 129, "x" * 65_536, "naïve", "\x7f"]
)
def test_any_other_request_id_is_replaced_by_the_trace_id(given: str | None) -> None:
    pipeline, _ = make_pipeline()
    exchange = Exchange()
    pipeline.open(exchange, given)
    assert exchange.request_id == TRACE_ID


def test_the_exchange_is_current_between_enter_and_leave() -> None:
    pipeline, _ = make_pipeline()
    outer, inner = Exchange(), Exchange()
    entered_outer = pipeline.enter(outer)
    entered_inner = pipeline.enter(inner)
    assert current() is inner
    pipeline.leave(entered_inner)
    assert current() is outer
    pipeline.leave(entered_outer)
    assert current() is None


def test_leaving_in_another_context_is_no_error_and_detaches_nothing() -> None:
    pipeline, notes = make_pipeline()
    entered = contextvars.copy_context().run(pipeline.enter, Exchange())
    pipeline.leave(entered)
    assert notes.calls == ["traces.enter"]
    assert notes.stages == []


@pytest.mark.parametrize(
    ("facts", "status", "outcome"),
    [
        ({}, 500, "no_response"),
        ({"exception": ValueError(), "status": 200}, 500, "raised"),
        # A status the application named but never sent is not what the client got.
        ({"disconnected": True, "status": 200}, None, "client_disconnect"),
        ({"response_started": True, "status": 200}, 200, "truncated"),
        ({"response_started": True, "response_complete": True, "status": 404}, 404, "completed"),
    ],
)
def test_the_status_is_what_the_client_got(facts: dict[str, Any], status: int | None, outcome: str) -> None:
    pipeline, notes = make_pipeline()
    one_request(pipeline, **facts)
    assert (notes.record.status, notes.record.outcome) == (status, outcome)


def test_an_outcome_only_the_door_can_know_is_kept() -> None:
    pipeline, notes = make_pipeline()
    one_request(pipeline, outcome=Outcome.TIMEOUT, response_started=True, response_complete=True, status=200)
    assert (notes.record.outcome, notes.record.level) == ("timeout", "warning")


@pytest.mark.parametrize(("named", "route"), [(None, "unmatched"), ("/a/{b}", "/a/{b}")])
def test_a_request_no_route_matched_is_unmatched(named: str | None, route: str) -> None:
    pipeline, notes = make_pipeline()
    one_request(pipeline, http_route=named)
    assert notes.record.http_route == route


def test_closing_twice_reports_once_and_lets_go_of_the_exception() -> None:
    pipeline, notes = make_pipeline()
    exchange = one_request(pipeline, exception=ValueError())
    pipeline.close(exchange)
    assert isinstance(notes.record.exception, ValueError)
    assert exchange.closed
    assert exchange.exception is None


STAGES = [
    *("traces.begin", "metrics.begin", "logs.begin", "traces.open", "metrics.open", "traces.enter"),
    *("traces.leave", "metrics.close", "logs.close", "traces.close"),
]


@pytest.mark.parametrize("stage", STAGES)
def test_a_signal_that_raises_is_counted_and_told_and_the_others_go_on(stage: str) -> None:
    pipeline, notes = make_pipeline()
    notes.broken = {stage}
    one_request(pipeline)
    expected = [call for call in ONE_REQUEST if not (stage == "traces.enter" and call == "traces.leave")]
    assert [c for c in notes.calls if not c.startswith(("reporter.", "logs.tell"))] == expected
    assert (notes.stages, notes.told) == ([stage], [stage])


def test_a_failing_stage_is_counted_each_time_but_told_once_a_minute(monkeypatch: pytest.MonkeyPatch) -> None:
    pipeline, notes = make_pipeline()
    notes.broken = {"logs.close"}
    now = 1000.0
    monkeypatch.setattr(pipelines, "monotonic", lambda: now)
    for moment, told in ((1000.0, 1), (1059.9, 1), (1060.0, 2)):
        now = moment
        one_request(pipeline)
        assert len(notes.told) == told
    assert notes.stages == ["logs.close"] * 3


@pytest.mark.parametrize("broken", ["reporter.internal_error", "logs.tell"])
def test_the_application_goes_on_when_even_the_telling_fails(broken: str) -> None:
    pipeline, notes = make_pipeline()
    notes.broken = {"metrics.close", broken}
    one_request(pipeline)
    assert notes.record.outcome == "no_response"


def test_a_judgement_that_fails_still_reports_the_request(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(self: Exchange) -> Outcome:
        raise Broken

    monkeypatch.setattr(Exchange, "judge", broken)
    pipeline, notes = make_pipeline()
    one_request(pipeline, response_started=True, status=200)
    assert (notes.record.outcome, notes.record.status) == ("unknown", 200)
    assert notes.stages == ["close"]


def test_an_outcome_that_was_judged_survives_what_fails_after_it(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(self: Exchange) -> str:
        raise Broken

    monkeypatch.setattr(Exchange, "severity", broken)
    pipeline, notes = make_pipeline()
    one_request(pipeline, response_started=True, status=200)
    assert (notes.record.outcome, notes.stages) == ("truncated", ["close"])


def test_what_cannot_tell_whether_a_request_is_kept_costs_no_signal_its_view(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def broken(exchange: Exchange) -> str:
        raise RuntimeError("ours")

    pipeline, notes = make_pipeline()
    monkeypatch.setattr(pipeline, "_keeps", broken)
    one_request(pipeline, response_started=True, response_complete=True, status=200)
    assert notes.stages == ["traces.keeps"]
    assert (notes.record.outcome, notes.record.kept) == ("completed", "")


def test_an_endpoint_answers_with_what_it_was_asked() -> None:
    pipeline, _ = make_pipeline()
    asked: list[Any] = []

    def endpoint(*arguments: Any) -> Answer:
        asked.append(arguments)
        return Answer(200, "OK", [], b"page")

    assert pipeline.answer(endpoint, "GET", {"accept": "*/*"}, "::1").body == b"page"
    assert asked == [("GET", {"accept": "*/*"}, "::1")]


def test_an_endpoint_that_fails_answers_503() -> None:
    def endpoint(*_: Any) -> Answer:
        raise Broken

    pipeline, notes = make_pipeline()
    answer = pipeline.answer(endpoint, "GET", {}, None)
    assert (answer.status, answer.body, notes.stages) == (503, b"", ["endpoint"])


def test_lost_telemetry_is_counted_and_a_failure_to_count_is_too() -> None:
    pipeline, notes = make_pipeline()
    pipeline.dropped("logs", "too_many_facts")
    notes.broken = {"reporter.dropped"}
    pipeline.dropped("logs", "too_many_facts")
    assert notes.lost == [("logs", "too_many_facts")]
    assert notes.stages == ["dropped"]


@pytest.mark.parametrize("verb", ["flush", "shutdown"])
@pytest.mark.parametrize("broken", ["traces", "metrics", "logs"])
def test_flush_and_shutdown_reach_every_signal_whichever_fails(verb: str, broken: str) -> None:
    pipeline, notes = make_pipeline()
    notes.broken = {f"{broken}.{verb}"}
    getattr(pipeline, verb)(1.0)
    # The watch leaves last: what the others lost on their way out is still to be counted for all workers.
    reached = ("traces", "metrics", "logs", "watch") if verb == "shutdown" else ("traces", "metrics", "logs")
    assert [c for c in notes.calls if c.endswith(verb)] == [f"{s}.{verb}" for s in reached]
    assert notes.stages == [f"{broken}.{verb}"]


# ---- findings -----------------------------------------------------------------------------------


def detector(name: str, judge: Any = None, **more: Any) -> tuple[Detector, None]:
    return Detector(name=name, help="It broke.", why="Nobody said so.", judge=judge, **more), None


def found(exchange: Exchange) -> list[str]:
    return [finding.finding for finding in exchange.findings]


def test_detectors_are_asked_at_close_and_before_the_signals() -> None:
    seen: list[Any] = []
    pipeline, notes = make_pipeline(
        detectors=[detector("late", lambda e: seen.append(notes.calls[-1]) or {"n": 1})]
    )
    exchange = one_request(pipeline, response_started=True, response_complete=True, status=200)
    assert seen == ["traces.leave"]
    assert found(exchange) == [one.finding for one in notes.record.findings] == ["late"]
    (finding,) = exchange.findings
    assert (finding.evidence, finding.why, finding.trace_id) == ({"n": 1}, "Nobody said so.", TRACE_ID)
    assert exchange.level == "warning"


@pytest.mark.parametrize(
    ("facts", "asked"),
    [
        ({"response_started": True, "response_complete": True, "status": 200}, False),
        ({"response_started": True, "status": 200}, True),
        ({"response_started": True, "response_complete": True, "status": 200, "exception": OSError()}, True),
    ],
    ids=["completed", "cut off", "failed behind its answer"],
)
def test_a_detector_of_what_goes_wrong_never_meets_a_request_that_went_well(
    facts: dict[str, Any], asked: bool
) -> None:
    pipeline, _ = make_pipeline(detectors=[detector("seldom", lambda e: {}, always=False)])
    assert (found(one_request(pipeline, **facts)) == ["seldom"]) is asked


def test_a_finding_of_a_running_request_is_there_at_once_and_gets_its_route_at_close() -> None:
    pipeline, notes = make_pipeline(detectors=[detector("partial_write")])
    exchange = Exchange()
    pipeline.open(exchange, None)
    pipeline.report("partial_write", exchange, {"missing": ["mail"]})
    assert found(exchange) == ["partial_write"]
    exchange.http_route = "/orders"
    pipeline.close(exchange)
    (finding,) = notes.record.findings
    assert (finding.http_route, finding.evidence) == ("/orders", {"missing": ("mail",)})


def test_the_same_thing_met_again_in_a_request_is_one_finding_with_its_number() -> None:
    pipeline, notes = make_pipeline(detectors=[detector("invariant_failed")])
    exchange = Exchange()
    pipeline.open(exchange, None)
    for amount in (1, 2, 1, 1):
        pipeline.invariant("stock", exchange, False, {"amount": amount})
    assert [(f.evidence["amount"], f.times) for f in exchange.findings] == [(1, 3), (2, 1)]
    assert notes.counted == [("stock", False)] * 4


def test_an_invariant_keeps_its_name_whatever_facts_come_with_it() -> None:
    pipeline, _ = make_pipeline(detectors=[detector("invariant_failed")])
    exchange = Exchange()
    pipeline.open(exchange, None)
    facts = {"invariant": "mine", "why": "mine", "severity": 3, **{f"fact_{n}": n for n in range(40)}}
    pipeline.invariant("stock", exchange, False, facts)
    (finding,) = exchange.findings
    assert len(finding.evidence) == 16
    assert finding.evidence["invariant"] == "stock"
    # No fact says something else than the declaration in the place where a line says that.
    assert (finding.evidence["why_"], finding.evidence["severity_"]) == ("mine", 3)
    assert not {"why", "severity"} & set(finding.evidence)


def test_findings_of_a_request_are_bounded_and_the_rest_is_counted() -> None:
    pipeline, notes = make_pipeline(detectors=[detector("invariant_failed")])
    exchange = Exchange()
    pipeline.open(exchange, None)
    for amount in range(judging.MAX_FINDINGS + 3):
        pipeline.invariant("stock", exchange, False, {"amount": amount})
    assert len(exchange.findings) == judging.MAX_FINDINGS
    assert notes.lost == [("findings", "too_many")] * 3


@pytest.mark.parametrize("closed", [True, False], ids=["after close", "without a request"])
def test_what_is_found_outside_a_request_is_counted_and_has_a_line_of_its_own(closed: bool) -> None:
    pipeline, notes = make_pipeline(detectors=[detector("partial_write")])
    exchange = one_request(pipeline) if closed else None
    pipeline.report("partial_write", exchange, {"unit": "nightly"})
    (finding,) = notes.counted
    assert (finding.finding, finding.http_route) == ("partial_write", "")
    level, event, logger, fields = notes.lines[-1]
    assert (level, event, logger) == ("warning", "obskit.finding", "obskit.findings")
    assert (fields["finding"], fields["unit"], fields["why"]) == (
        "partial_write",
        "nightly",
        "Nobody said so.",
    )


def test_a_finding_that_is_switched_off_is_none() -> None:
    pipeline, notes = make_pipeline()
    exchange = Exchange()
    pipeline.open(exchange, None)
    pipeline.invariant("stock", exchange, False, {})
    pipeline.report("partial_write", None, {})
    assert exchange.findings == ()
    assert notes.counted == [("stock", False)]  # the check itself is counted all the same


@pytest.mark.parametrize("stage", ["metrics.invariant", "metrics.finding", "logs.emit"])
def test_a_signal_that_fails_to_take_a_finding_is_counted_and_harms_nobody(stage: str) -> None:
    pipeline, notes = make_pipeline(detectors=[detector("invariant_failed")])
    notes.broken.add(stage)
    pipeline.invariant("stock", None, False, {})
    assert notes.stages == [
        "metrics.invariant" if stage == "metrics.invariant" else "detectors.invariant_failed"
    ]


def test_the_record_forgets_what_may_hold_secrets_when_it_closes() -> None:
    seen: list[Any] = []
    pipeline, _ = make_pipeline(detectors=[detector("nosy", lambda e: seen.append(e.header("cookie")))])
    exchange = Exchange()
    exchange.request = {"REQUEST_METHOD": "GET", "HTTP_COOKIE": "id=7", "QUERY_STRING": "q=1"}
    exchange.response_headers = [("Content-Type", "text/plain")]
    exchange.response_head = b"secret"
    pipeline.open(exchange, None)
    assert (exchange.query, exchange.response_header("content-type")) == ("q=1", "text/plain")
    pipeline.close(exchange)
    assert seen == ["id=7"]
    assert (exchange.header("cookie"), exchange.query, exchange.response_header("content-type")) == (
        None,
        "",
        None,
    )
    assert exchange.response_head == b""
