"""Help for the tests of an instrumented application: see what it told, and play what production does to it.

The pytest plugin (`obskit.testing.plugin`) offers the fixtures `telemetry`, `served` and `chaos`; what stands behind
them can be used without pytest. Nothing is loaded before it is used: the plugin is imported in every pytest run of
whoever has obskit installed.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from obskit.testing.chaos import Chaos, Request
    from obskit.testing.loopback import ChaosRefused
    from obskit.testing.serving import ServeError, serve
    from obskit.testing.telemetry import Telemetry
    from obskit.testing.wire import Seen

__all__ = ["Chaos", "ChaosRefused", "Request", "Seen", "ServeError", "Telemetry", "serve"]

_LAZY = {
    "Chaos": "chaos",
    "ChaosRefused": "loopback",
    "Request": "chaos",
    "Seen": "wire",
    "ServeError": "serving",
    "Telemetry": "telemetry",
    "serve": "serving",
}


def __getattr__(name: str) -> Any:
    from importlib import import_module  # noqa: PLC0415

    if name in _LAZY:
        return getattr(import_module(f"obskit.testing.{_LAZY[name]}"), name)
    raise AttributeError(f"module 'obskit.testing' has no attribute {name!r}; it offers {', '.join(__all__)}")
