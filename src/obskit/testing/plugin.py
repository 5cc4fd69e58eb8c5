"""The pytest plugin: three fixtures, and nothing for tests that do not ask for them.

It is imported in every pytest run of an environment that has obskit in it: what the fixtures need is imported when
one is used.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from obskit.testing.chaos import Chaos
    from obskit.testing.telemetry import Telemetry


@pytest.fixture
def telemetry() -> Iterator[Telemetry]:
    """What the instrumented applications of this process tell during the test (obskit.testing.Telemetry)."""
    from obskit.testing.telemetry import Telemetry  # noqa: PLC0415

    with Telemetry() as seen:
        yield seen


@pytest.fixture
def served() -> Iterator[Callable[..., str]]:
    """`served(app)` runs it on a real server of this process until the test ends, and returns its URL."""
    from obskit.testing.serving import serve  # noqa: PLC0415

    with ExitStack() as running:

        def start(app: Any, *, interface: str | None = None) -> str:
            return running.enter_context(serve(app, interface=interface))

        yield start


@pytest.fixture
def chaos(served: Callable[..., str]) -> Callable[..., Chaos]:
    """`chaos(app)` or `chaos("http://127.0.0.1:8000")`: a client that plays what production does to requests."""
    from obskit.testing.chaos import Chaos  # noqa: PLC0415

    def client(target: Any, *, interface: str | None = None, timeout_s: float = 10.0) -> Chaos:
        url = target if isinstance(target, str) else served(target, interface=interface)
        return Chaos(url, timeout_s=timeout_s)

    return client
