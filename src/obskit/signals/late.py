"""Does something right after a module was first imported: what is there for a library waits until it is used.

Loading a library only to add to it would cost every process its memory and its time, also those that never use it.
"""

from __future__ import annotations

import logging
import sys
import threading  # looked up when used: gevent may replace what is in it after we were imported
from collections.abc import Callable, Sequence
from importlib.machinery import ModuleSpec
from types import ModuleType
from typing import Any

_waiting: dict[str, list[Callable[[], None]]] = {}


def when_imported(names: Sequence[str], then: Callable[[], None]) -> None:
    """Call `then` as soon as one of these modules is imported, at once if one is, and again when another one is.

    It should bear to be called twice: two threads may import at the same moment.
    """
    for name in names:
        if name not in sys.modules:
            _waiting.setdefault(name, []).append(then)
    if _waiting and _finder not in sys.meta_path:
        sys.meta_path.insert(0, _finder)
    # Looked for after that: a thread that was just importing it had found it before we were in the way.
    if any(name in sys.modules for name in names):
        _call(then)


def forget(then: Callable[[], None]) -> bool:
    """Wait no longer for what `then` waits for; whether it still did. With the last one, our finder goes."""
    found = False
    for name, waiting in list(_waiting.items()):
        if then in waiting:
            waiting.remove(then)
            found = True
        if not waiting:
            _waiting.pop(name, None)
    if not _waiting and _finder in sys.meta_path:
        # A list of its own: a thread that goes through the old one just now would pass over a finder.
        sys.meta_path = [finder for finder in sys.meta_path if finder is not _finder]
    return found


def _imported(name: str) -> None:
    for then in _waiting.pop(name, ()):
        _call(then)


def _call(then: Callable[[], None]) -> None:
    try:
        then()
    except Exception:  # whoever imports has nothing to do with it
        logging.getLogger("obskit").exception("obskit.late_failed")


class _Finder:
    """Stands before all others; finds nothing itself, and lets what is waited for say when it has been loaded."""

    def __init__(self) -> None:
        self._looking: set[tuple[int, str]] = set()

    def find_spec(
        self, name: str, path: Sequence[str] | None = None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        looking = (threading.get_ident(), name)
        if name not in _waiting or looking in self._looking:
            return None
        self._looking.add(looking)
        try:
            spec = self._found(name, path, target)
            if spec is not None and hasattr(spec.loader, "exec_module"):
                spec.loader = _Telling(spec.loader, name)  # type: ignore[assignment]
            return spec
        except Exception:
            return None  # the finders behind us are asked next, and raise it themselves
        finally:
            self._looking.discard(looking)

    def _found(self, name: str, path: Sequence[str] | None, target: ModuleType | None) -> ModuleSpec | None:
        for finder in list(sys.meta_path):
            find = None if finder is self else getattr(finder, "find_spec", None)
            spec: ModuleSpec | None = None if find is None else find(name, path, target)
            if spec is not None:
                return spec
        return None


class _Telling:
    """A loader until it loads: then the real one takes its place, and we say when the module is there."""

    def __init__(self, loader: Any, name: str) -> None:
        self._loader = loader
        self._name = name

    def create_module(self, spec: ModuleSpec) -> ModuleType | None:
        made: ModuleType | None = self._loader.create_module(spec)
        return made

    def exec_module(self, module: Any) -> None:
        for place, name in ((getattr(module, "__spec__", None), "loader"), (module, "__loader__")):
            if getattr(place, name, None) is self:
                setattr(place, name, self._loader)
        self._loader.exec_module(module)
        _imported(self._name)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._loader, name)


_finder = _Finder()
