"""Switches on the installed opentelemetry-instrumentation-* packages: outbound HTTP, databases, caches.

Those that instrument servers are left out: the SERVER span is ours, and a request has exactly one.
"""

from __future__ import annotations

import logging
import os
from importlib.metadata import EntryPoint, entry_points
from typing import Any

_SERVERS = frozenset(
    {
        "asgi",
        "wsgi",
        "django",
        "flask",
        "fastapi",
        "starlette",
        "falcon",
        "pyramid",
        "tornado",
        "aiohttp-server",
    }
)
# These change how logging works or emit signals of their own; both are ours to do.
_NOT_CLIENTS = frozenset({"logging", "system_metrics", "asyncio", "threading"})

_switched_on: dict[str, Any] = {}


def switch_on(
    disabled: tuple[str, ...], tracer_provider: Any
) -> tuple[list[str], list[tuple[str, Exception]]]:
    """Instrument every installed client library; returns the names now on, and those that failed with why.

    `disabled` and OTEL_PYTHON_DISABLED_INSTRUMENTATIONS name those to leave off.
    """
    off = {
        name.strip().lower()
        for name in os.environ.get("OTEL_PYTHON_DISABLED_INSTRUMENTATIONS", "").split(",")
    }
    off |= {name.lower() for name in disabled}
    failed: list[tuple[str, Exception]] = []
    if "*" in off:
        return [], failed
    for entry in sorted(entry_points(group="opentelemetry_instrumentor"), key=lambda found: found.name):
        name = entry.name
        if name in _SERVERS or name in _NOT_CLIENTS or name.lower() in off or name in _switched_on:
            continue
        try:
            instrumentor = _applicable(entry)
            if instrumentor is not None:
                instrumentor.instrument(tracer_provider=tracer_provider, skip_dep_check=True)
                _switched_on[name] = instrumentor
        except Exception as error:
            failed.append((name, error))
    return sorted(_switched_on), failed


def _applicable(entry: EntryPoint) -> Any:
    """The instrumentor, if the library it is for is installed in a version it knows and nobody switched it on yet."""
    from opentelemetry.instrumentation.dependencies import (  # noqa: PLC0415
        get_dependency_conflicts,
        get_dist_dependency_conflicts,
    )

    if entry.dist is not None and get_dist_dependency_conflicts(entry.dist) is not None:
        return None
    instrumentor = entry.load()()
    if get_dependency_conflicts(instrumentor.instrumentation_dependencies()) is not None:
        return None
    return None if instrumentor.is_instrumented_by_opentelemetry else instrumentor


def switch_off() -> None:
    """Undo `switch_on` for all that it switched on."""
    for name, instrumentor in list(_switched_on.items()):
        del _switched_on[name]
        try:
            instrumentor.uninstrument()
        except Exception:
            logging.getLogger("obskit").exception(
                "instrumentation.undo_failed", extra={"instrumentation": name}
            )
