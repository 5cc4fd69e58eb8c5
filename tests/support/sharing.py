"""Which tests run in the same worker, because they look at the same servers."""

from __future__ import annotations

import re

from xdist.scheduler import LoadScopeScheduling

# A test belongs with those of which the same text is matched. (`xdist_group`, made for this, does nothing with
# pytest 9.2 and pytest-xdist 3.8.)
SHARED = (
    re.compile(r"tests/e2e/test_prometheus\.py"),
    # The story of tests/support/watched, which takes minutes.
    re.compile(r"tests/e2e/(?=test_(alerts|dashboards|runbooks)\.py)"),
    # One target, all cases: [fastapi-on-uvicorn-head].
    re.compile(r"tests/conformance/test_signals_agree\.py::\w+\[.+-(?=\w+\]$)"),
)


class SharedScheduling(LoadScopeScheduling):  # type: ignore[misc]
    """Hands out tests one by one, and those that share a server together. The largest group goes first."""

    def _split_scope(self, nodeid: str) -> str:
        for pattern in SHARED:
            match = pattern.match(nodeid)
            if match is not None:
                return match[0]
        return nodeid
