"""Switches on the installed opentelemetry-instrumentation-* packages: outbound HTTP, databases, caches.

Those that instrument servers are left out: the SERVER span is ours, and a request has exactly one.
"""

from __future__ import annotations

import logging
import os
from importlib.metadata import entry_points
from typing import Any, NamedTuple

from opentelemetry.instrumentation.dependencies import get_dependency_conflicts, get_dist_dependency_conflicts

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


class Switched(NamedTuple):
    """What `switch_on` did: names now on, names left off with why, and failures."""

    on: list[str]
    skipped: dict[str, str]
    failed: list[tuple[str, Exception]]


def switch_on(disabled: tuple[str, ...], tracer_provider: Any) -> Switched:
    """Instrument every installed client library.

    `disabled` and OTEL_PYTHON_DISABLED_INSTRUMENTATIONS name those to leave off ("*" is all of them). One whose
    library is absent is passed over; one whose library has a version it does not know is skipped and told.
    """
    off = {
        name.strip().lower()
        for name in os.environ.get("OTEL_PYTHON_DISABLED_INSTRUMENTATIONS", "").split(",")
    }
    off |= {name.lower() for name in disabled}
    result = Switched([], {}, [])
    if "*" in off:
        return result
    for entry in sorted(entry_points(group="opentelemetry_instrumentor"), key=lambda found: found.name):
        name = entry.name
        if name in _SERVERS or name in _NOT_CLIENTS or name.lower() in off or name in _switched_on:
            continue
        try:
            if entry.dist is not None and _conflicts(get_dist_dependency_conflicts(entry.dist), name, result):
                continue
            instrumentor = entry.load()()
            # One distribution may instrument several libraries, each by an entry of its own (httpx and httpx2).
            if _conflicts(
                get_dependency_conflicts(instrumentor.instrumentation_dependencies()), name, result
            ):
                continue
            if not instrumentor.is_instrumented_by_opentelemetry:
                instrumentor.instrument(tracer_provider=tracer_provider, skip_dep_check=True)
                _switched_on[name] = instrumentor
        except Exception as error:
            result.failed.append((name, error))
    result.on.extend(sorted(_switched_on))
    return result


def _conflicts(conflict: Any, name: str, result: Switched) -> bool:
    if conflict is None:
        return False
    if conflict.found or conflict.found_any:
        wanted = conflict.required or " or ".join(map(str, conflict.required_any))
        result.skipped[name] = f"wants {wanted}, found {conflict.found or conflict.found_any}"
    return True


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
