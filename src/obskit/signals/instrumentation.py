"""Switches on the installed opentelemetry-instrumentation-* packages: outbound HTTP, databases, caches.

Those that instrument servers are left out: the SERVER span is ours, and a request has exactly one.

A package of these imports the library that it instruments. A process may have many of them and use few, so each waits
until the application has imported its library; what cannot be waited for is switched on at once.
"""

from __future__ import annotations

import logging
import os
import re
import sys
from collections.abc import Callable
from functools import partial
from importlib.metadata import Distribution, EntryPoint, PackageNotFoundError, distribution
from typing import Any, NamedTuple

# Keeps what it read of all installed distributions; OpenTelemetry's API has read it already.
from opentelemetry.util._importlib_metadata import entry_points

from obskit.signals import late

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

# The name of a library it instruments (extras `instruments`, `instruments-any`), rather than of what its tests need.
_REQUIRED = re.compile(r"^Requires-Dist: ([A-Za-z0-9][A-Za-z0-9._-]*).*\binstruments", re.MULTILINE)
_GROUP = "opentelemetry_instrumentor"

_switched_on: dict[str, Any] = {}
_waiting: dict[str, Callable[[], None]] = {}


class Switched(NamedTuple):
    """What `switch_on` did: names now on or waiting for their library, names left off with why, and failures."""

    on: list[str]
    skipped: dict[str, str]
    failed: list[tuple[str, Exception]]


def switch_on(
    disabled: tuple[str, ...],
    tracer_provider: Any,
    failed_later: Callable[[str, Exception], None] | None = None,
) -> Switched:
    """Instrument every installed client library, now or when it is imported.

    `disabled` and OTEL_PYTHON_DISABLED_INSTRUMENTATIONS name those to leave off ("*" is all of them). One whose
    library is absent is passed over; one whose library has a version it does not know is skipped and told.
    `failed_later` is told the stage and the error of one that fails after this has returned.
    """
    off = {
        name.strip().lower()
        for name in os.environ.get("OTEL_PYTHON_DISABLED_INSTRUMENTATIONS", "").split(",")
    }
    off |= {name.lower() for name in disabled}
    result = Switched([], {}, [])
    if "*" in off:
        return result
    found = sorted(entry_points(group=_GROUP), key=lambda entry: entry.name)
    for entry in found:
        name = entry.name
        if name in _SERVERS or name in _NOT_CLIENTS or name.lower() in off:
            continue
        if name in _switched_on or name in _waiting:
            continue
        try:
            modules = _modules_of(entry, found, result)
            if modules:
                waits = _waiting[name] = partial(_switch_on_late, entry, tracer_provider, failed_later)
                # The application may as well load the instrumentation itself, and by that the library.
                late.when_imported([*modules, entry.module], waits)
            elif modules is not None:
                _switch_on(entry, tracer_provider, result)
        except Exception as error:
            result.failed.append((name, error))
    result.on.extend(sorted({*_switched_on, *_waiting}))
    return result


def _switch_on(entry: EntryPoint, tracer_provider: Any, result: Switched) -> None:
    from opentelemetry.instrumentation.dependencies import get_dependency_conflicts  # noqa: PLC0415

    instrumentor = entry.load()()
    # One distribution may instrument several libraries, each by an entry of its own (httpx and httpx2).
    if _conflicts(get_dependency_conflicts(instrumentor.instrumentation_dependencies()), entry.name, result):
        return
    if not instrumentor.is_instrumented_by_opentelemetry:
        instrumentor.instrument(tracer_provider=tracer_provider, skip_dep_check=True)
        _switched_on[entry.name] = instrumentor


def _switch_on_late(
    entry: EntryPoint, tracer_provider: Any, failed_later: Callable[[str, Exception], None] | None
) -> None:
    loading = sys.modules.get(entry.module)
    if getattr(getattr(loading, "__spec__", None), "_initializing", False) and not hasattr(
        loading, entry.attr
    ):
        return  # it has just imported its library: we come again when it is there itself
    waits = _waiting.pop(entry.name, None)
    if waits is None:
        return  # switched on or off meanwhile
    late.forget(waits)
    result = Switched([], {}, [])
    try:
        _switch_on(entry, tracer_provider, result)
    except Exception as error:
        if failed_later is not None:
            failed_later(f"instrumentation.{entry.name}", error)
        else:
            logging.getLogger("obskit").exception(
                "instrumentation.failed", extra={"instrumentation": entry.name}
            )
    for name, why in result.skipped.items():
        logging.getLogger("obskit").warning(
            "instrumentation.skipped", extra={"instrumentation": name, "why": why}
        )


def _modules_of(entry: EntryPoint, among: list[EntryPoint], result: Switched) -> list[str] | None:
    """What an application that uses the library imports; [] if nobody can tell, None where there is nothing to do."""
    if entry.dist is None:
        return []
    wanted = _REQUIRED.findall(entry.dist.read_text("METADATA") or "")
    if not wanted:
        return [entry.name] if entry.name in sys.stdlib_module_names else []
    if entry.name in wanted and sum(other.dist is entry.dist for other in among) > 1:
        wanted = [entry.name]  # one distribution, an entry for each of its libraries
    libraries = [library for name in wanted if (library := _installed(name)) is not None]
    if not libraries:
        return None
    from opentelemetry.instrumentation.dependencies import get_dist_dependency_conflicts  # noqa: PLC0415

    if _conflicts(get_dist_dependency_conflicts(entry.dist), entry.name, result):
        return None
    modules = [_top_level(library) for library in libraries]
    return [name for names in modules for name in names] if all(modules) else []


def _installed(name: str) -> Distribution | None:
    try:
        return distribution(name)
    except PackageNotFoundError:
        return None


def _top_level(library: Distribution) -> list[str]:
    """The modules and packages it brings; none of a namespace, which is no library's own and never loaded."""
    found = set()
    for line in (library.read_text("RECORD") or "").splitlines():
        first, _, rest = line.partition(",")[0].partition("/")
        if rest == "__init__.py":
            found.add(first)
        elif not rest and first.endswith((".py", ".so")):
            found.add(first.partition(".")[0])
    return sorted(found)


def _conflicts(conflict: Any, name: str, result: Switched) -> bool:
    if conflict is None:
        return False
    if conflict.found or conflict.found_any:
        wanted = conflict.required or " or ".join(map(str, conflict.required_any))
        result.skipped[name] = f"wants {wanted}, found {conflict.found or conflict.found_any}"
    return True


def switch_off() -> None:
    """Undo `switch_on` for all that it switched on, and wait for no library any more."""
    for name, waits in list(_waiting.items()):
        _waiting.pop(name, None)
        late.forget(waits)
    for name, instrumentor in list(_switched_on.items()):
        del _switched_on[name]
        try:
            instrumentor.uninstrument()
        except Exception:
            logging.getLogger("obskit").exception(
                "instrumentation.undo_failed", extra={"instrumentation": name}
            )
