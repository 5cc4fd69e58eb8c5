"""obskit: one call gives a Python web app structured logs, RED metrics and traces that agree with each other.

    app = obskit.install(app)

The public names are below and nowhere else; everything but the record itself is loaded when it is first used.
"""

from __future__ import annotations

import sys
from types import ModuleType
from typing import TYPE_CHECKING, Any

from obskit.context import bind, current, get_logger, invariant
from obskit.errors import InstallError, InvariantError
from obskit.exchange import Exchange, Finding, Outcome
from obskit.work import unit_of_work

if TYPE_CHECKING:
    from obskit.config import Config
    from obskit.findings import Detector
    from obskit.install import install, shutdown
    from obskit.version import __version__

__all__ = [
    "Config",
    "Detector",
    "Exchange",
    "Finding",
    "InstallError",
    "InvariantError",
    "Outcome",
    "__version__",
    "bind",
    "current",
    "get_logger",
    "install",
    "invariant",
    "shutdown",
    "unit_of_work",
]

_LAZY = {
    "Config": "config",
    "Detector": "findings",
    "install": "install",
    "shutdown": "install",
    "__version__": "version",
}


def __getattr__(name: str) -> Any:
    if name not in _LAZY:
        raise AttributeError(f"module 'obskit' has no attribute {name!r}; it offers {', '.join(__all__)}")
    from importlib import import_module  # noqa: PLC0415

    value = getattr(import_module(f"obskit.{_LAZY[name]}"), name)
    globals()[name] = value
    return value


class _Package(ModuleType):
    def __setattr__(self, name: str, value: Any) -> None:
        # Importing the submodule obskit.install sets the package's attribute of that name to the module; the
        # function is what `obskit.install` means, however it came to be loaded.
        if name == "install" and isinstance(value, ModuleType):
            value = value.install
        super().__setattr__(name, value)


sys.modules[__name__].__class__ = _Package
