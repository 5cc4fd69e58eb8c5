"""What `shutdown` undoes, and what a failed install or the end of the process leaves."""

from __future__ import annotations

import logging
import sys
from collections.abc import Callable
from typing import Any

import pytest
import structlog
from opentelemetry import trace
from opentelemetry.sdk.trace import TracerProvider

import obskit
from obskit.signals import instrumentation
from tests.support.kinds import (
    KINDS,
    asgi_app,
    ask,
    flask_app,
    wsgi_app,
)


@pytest.mark.parametrize("kind", KINDS)
def test_shutdown_undoes_logging_structlog_and_the_provider_and_may_be_called_again(
    kind: str, install: Any
) -> None:
    app = KINDS[kind][0]()  # before: Django and Flask set up loggers of their own

    def process_wide() -> Any:
        loggers = [
            logging.getLogger(),
            *(logging.getLogger(n) for n in ("uvicorn", "django", "obskit", "werkzeug")),
        ]
        return (
            [(x.level, x.propagate, list(x.handlers)) for x in loggers],
            structlog.is_configured(),
            trace._TRACER_PROVIDER,
        )

    before = process_wide()
    install(app)
    assert process_wide() != before
    assert isinstance(trace.get_tracer_provider(), TracerProvider)
    for _ in range(2):
        obskit.shutdown()
        assert process_wide() == before
    assert isinstance(trace.get_tracer_provider(), trace.ProxyTracerProvider)


@pytest.mark.parametrize("kind", KINDS)
def test_an_application_keeps_running_unrecorded_after_shutdown(
    kind: str, install: Any, canonical: Any
) -> None:
    make, interface, _ = KINDS[kind]
    app = install(make())
    assert ask(app, interface) == 200
    assert len(canonical()) == 1
    obskit.shutdown()
    assert ask(app, interface) == 200
    assert canonical() == []


@pytest.mark.parametrize("interface", ["wsgi", "asgi"])
def test_a_shutdown_in_the_middle_of_a_request_leaves_it_whole(
    interface: str, install: Any, lines: Any
) -> None:
    async def asgi(scope: Any, receive: Any, send: Any) -> None:
        obskit.shutdown()
        await asgi_app(scope, receive, send)

    def wsgi(environ: Any, start_response: Any) -> Any:
        obskit.shutdown()
        return wsgi_app(environ, start_response)

    assert ask(install(asgi if interface == "asgi" else wsgi), interface) == 200
    assert [line for line in lines() if line["event"] == "obskit.internal_error"] == []


def test_shutdown_switches_instrumentations_off_with_the_installs_it_ends(
    install: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls: list[str] = []
    monkeypatch.setattr(instrumentation, "switch_off", lambda: calls.append("off"))
    obskit.shutdown()
    assert calls == []
    install(wsgi_app)
    obskit.shutdown()
    obskit.shutdown()
    assert calls == ["off"]


def test_shutdown_without_any_install_does_nothing() -> None:
    obskit.shutdown(0)


def test_a_negative_timeout_is_refused() -> None:
    with pytest.raises(ValueError, match="timeout_s must not be negative, saw -1"):
        obskit.shutdown(-1)


def test_what_is_still_buffered_at_exit_is_flushed_within_a_bound(
    monkeypatch: pytest.MonkeyPatch, install: Any
) -> None:
    # `obskit.install` is the function: the module of that name is found among the loaded ones.
    module = sys.modules["obskit.install"]
    registered: list[Callable[[], None]] = []
    given: list[float] = []
    monkeypatch.setattr(module, "_at_exit_set", False)
    monkeypatch.setattr(module.atexit, "register", registered.append)  # type: ignore[attr-defined]
    monkeypatch.setattr(module, "shutdown", given.append)
    install(wsgi_app)
    install(asgi_app)
    (at_exit,) = registered
    at_exit()
    assert given == [2.0]


@pytest.mark.parametrize("failing", ["serves", "attach"])
def test_an_install_that_fails_leaves_nothing_behind(
    failing: str, install: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    from obskit.adapters import flask as adapter

    def broken(*_: Any) -> Any:
        raise RuntimeError(failing)

    monkeypatch.setattr(adapter, failing, broken)
    handlers = list(logging.getLogger().handlers)
    with pytest.raises(RuntimeError, match=failing):
        install(flask_app())
    obskit.shutdown()
    assert logging.getLogger().handlers == handlers
    assert not structlog.is_configured()
    assert isinstance(trace.get_tracer_provider(), trace.ProxyTracerProvider)
