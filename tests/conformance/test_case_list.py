"""The suite holds what it promises: its cases, their reasons, and the failure text it prints."""

from __future__ import annotations

import pytest

from .cases import all_cases
from .metrics import Scrape
from .model import Case, render
from .targets import ASGI_SERVERS, KINDS, NESTED_TARGETS, TARGETS, WSGI_SERVERS
from .test_signals_agree import NESTED_CASES

CASES = all_cases()
KEYS = {key for target in TARGETS for key in target.keys}

# What must be covered, by the name a reader would look for, and the case that does.
PROMISED = {
    "200": "ok",
    "404 routed": "not_found_by_the_app",
    "404 unrouted": "not_found_unrouted",
    "405": "method_not_allowed",
    "500 by raise": "raise",
    "custom handler": "custom_exception_handler",
    "redirect": "redirect",
    "HEAD": "head",
    "204": "no_content",
    "304": "not_modified",
    "streaming": "stream",
    "stream that raises half-way": "stream_raises_half_way",
    "client leaves before headers": "client_leaves_before_headers",
    "client leaves during the body": "client_leaves_during_body",
    "client leaves after the body": "client_leaves_after_body",
    "slow upload": "upload_slow",
    "upload cut short": "upload_cut_short",
    "file response": "file",
    "background task that fails": "after_the_response_failing",
    "SSE": "server_sent_events",
    "WebSocket": "websocket",
    "mounted sub-app": "mounted_sub_app",
    "included router, blueprint, nested include": "included_router",
    "regex route": "regex_route",
    "unicode path": "unicode_path",
    "percent-encoded path": "percent_encoded_path",
    "1 MB header refused by the server": "huge_header",
    "unknown method": "unknown_method",
    "concurrent requests": "concurrent_requests",
    "threadpool endpoint": "threadpool_endpoint",
}


def test_there_are_forty_cases_with_names_of_their_own():
    names = [case.name for case in CASES]
    assert len(names) == len(set(names))
    assert len(names) >= 40


@pytest.mark.parametrize("promise", PROMISED)
def test_every_promised_situation_is_a_case(promise):
    assert PROMISED[promise] in {case.name for case in CASES}


def test_every_case_runs_on_a_server_of_its_interface_for_each_kind_it_applies_to():
    assert {target.kind for target in TARGETS} == set(KINDS)
    for case in CASES:
        kinds = {target.kind for target in TARGETS if case.applies_to(target)}
        assert kinds, f"{case.name} runs nowhere"
        for kind in kinds:
            servers = {target.server for target in TARGETS if target.kind == kind}
            assert servers >= set(ASGI_SERVERS) or servers >= set(WSGI_SERVERS)


def test_nested_installs_are_tried_with_every_kind():
    assert {target.kind for target in NESTED_TARGETS} == set(KINDS)
    assert set(NESTED_CASES) <= {case.name for case in CASES}


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_every_exception_from_the_rule_names_a_known_place_and_a_reason(case: Case):
    assert set(case.not_for) <= KEYS
    assert set(case.differs) <= KEYS
    assert all(len(reason) > 10 for reason in case.not_for.values())
    assert all(len(difference.reason) > 10 for difference in case.differs.values())


@pytest.mark.parametrize(
    ("kind", "expected"),
    [
        ("fastapi", "/a/{x}/{y}/"),
        ("starlette", "/a/{x}/{y}/"),
        ("flask", "/a/<int:x>/<y>/"),
        ("django-wsgi", "/a/<int:x>/<y>/"),
        ("plain-asgi", "/a/{x}/{y}/"),
    ],
)
def test_a_template_is_rendered_the_way_its_framework_writes_it(kind, expected):
    assert render("/a/{x:int}/{y}/", kind) == expected


def test_the_change_between_two_scrapes_is_what_moved():
    page = (
        "# TYPE http_server_request_duration_seconds histogram\n"
        'http_server_request_duration_seconds_count{http_request_method="GET",http_route="/a",'
        'http_response_status_code="200",error_type=""} %d\n'
        'obskit_http_server_outcomes_total{http_route="/a",outcome="completed"} 1.0\n'
    )
    change = Scrape.parse(page % 3).since(Scrape.parse(page % 1))
    assert change.requests() == {("/a", "GET", "200"): 2}
    assert change.outcomes() == {}
