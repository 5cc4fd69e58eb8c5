"""A part of `python -m tests.reliability.faults`: what comes of calls of ours that fail, one at a time and in pairs."""

from __future__ import annotations

import ast
from typing import Any

import pytest

from tests.reliability.faults import exempt, hook
from tests.reliability.faults.__main__ import one_kind

SEED = 7
PARTS = [
    ("wsgi", 0.12, 1_500, 10),
    ("asgi", 0.12, 1_500, 12),
    ("wsgi, under load", 0.06, 500, 8),
    ("asgi, under load", 0.06, 500, 8),
    ("flask", 0.04, 300, 7),
    ("starlette", 0.04, 300, 7),
    ("django wsgi", 0.04, 300, 7),
]


@pytest.mark.parametrize(("kind", "share", "pairs", "seconds"), PARTS)
def test_no_fault_of_ours_is_seen_by_the_application(
    kind: str, share: float, pairs: int, seconds: int
) -> None:
    options = [f"--share={share}", f"--pairs={pairs}", "--asks=1", "--no-cold", f"--seed={SEED}"]
    found: dict[str, Any] = one_kind(kind, [*options, f"--seconds={seconds}"])
    assert found["effects"] == []
    assert found["unsteady"] == []
    assert len(found["hit"]) > 500
    assert found["totals"]["counted"] > found["totals"]["injected"] / 2
    assert found["totals"]["endings"]


def rewritten(source: str) -> tuple[str, list[hook.Site]]:
    before = len(hook.sites)
    try:
        tree = hook._Rewriter("some.py").visit(ast.parse(source))
        return ast.unparse(ast.fix_missing_locations(tree)), hook.sites[before:]
    finally:
        del hook.sites[before:]


def test_each_call_and_each_lock_becomes_a_site() -> None:
    source = "def f(a=g()):\n    with lock:\n        return len(h(a))\n"
    code, sites = rewritten(source)
    assert [(site.callee, site.inside, site.line) for site in sites] == [
        ("g", "", 1),
        ("with lock", "f", 2),
        ("h", "f", 3),
        ("len", "f", 3),
    ]
    assert code.count("__hit__(") == 3
    assert code.count("__hit_with__(") == 1


def test_a_site_that_is_not_armed_is_the_call_itself() -> None:
    assert hook._hit(0, len) is len
    hook.arm(0, lambda callee: lambda *_: "armed")
    try:
        assert hook._hit(0, len)("x") == "armed"
    finally:
        assert hook.disarm() == {0}
    assert hook._hit(0, len) is len


def test_what_is_not_armed_is_the_applications_the_servers_or_a_guard() -> None:
    def site(file: str, callee: str, inside: str = "f") -> hook.Site:
        return hook.Site(0, file, 1, 0, inside, callee)

    assert exempt.reason(site("wsgi.py", "self.app")) == "the application"
    assert exempt.reason(site("pipeline.py", "self.failed")) == "the guard itself"
    assert exempt.reason(site("pipeline.py", "opened")) is None
    assert exempt.reason(site("signals/metrics.py", "next")) is None
