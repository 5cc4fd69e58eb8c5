"""One file per framework, named after its top-level module; that name is the registration.

An adapter module has `matches(app)`, and `attach(app, pipeline) -> app`. It is imported only when its framework
already is, and is the only kind of file that imports a framework.
"""

from __future__ import annotations

import sys
from importlib import import_module
from pkgutil import iter_modules
from typing import Any, Protocol

from obskit import context
from obskit.pipeline import Pipeline


class Adapter(Protocol):
    """What an adapter module offers."""

    FRAMEWORK: str

    def matches(self, app: Any) -> bool: ...
    def interface(self, app: Any) -> str: ...
    def is_attached(self, app: Any) -> bool: ...
    def service_name(self, app: Any) -> str | None: ...
    def serves(self, app: Any, path: str) -> bool: ...
    def framework(self, app: Any) -> str: ...
    def attach(self, app: Any, pipeline: Pipeline) -> Any: ...

    # Optional, where a framework has such a thing:
    #   attached(app)              what an earlier attach returned, if that is not the app itself
    #   own_tracer_provider(app)   the provider the user gave to the framework's own telemetry
    #   console_handlers(app)      (logger, handler) pairs the framework brings along
    #   route_for(app, method, path)  the route that a request would meet: for what is rare, the record has it at close


def failed(stage: str, error: BaseException) -> None:
    """Count an error of an adapter with the request it happened in. Never raises."""
    try:
        context._failed(context.current(), stage, error)
    except Exception:
        return  # nobody is left to count it


def find(app: Any) -> Adapter | None:
    """The adapter for this application, or None for a plain callable."""
    for module in iter_modules(__path__):
        if module.name in sys.modules:
            adapter: Adapter = import_module(f"{__name__}.{module.name}")
            if adapter.matches(app):
                return adapter
    return None
