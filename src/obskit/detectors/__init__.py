"""One file per silent failure; the file's name is the failure's, and its `DETECTOR` is all there is to register.

Detectors are asked in the alphabetical order of their names, so that one may read what an earlier one found. A file
whose name begins with an underscore is no detector.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable
from functools import cache
from importlib import import_module
from pkgutil import iter_modules
from typing import Any

from obskit.errors import InstallError, shown
from obskit.findings import Detector


@cache
def shipped() -> tuple[Detector, ...]:
    """The detectors that come with obskit, by name."""
    found = []
    for module in iter_modules(__path__):
        if not module.name.startswith("_"):
            detector: Detector = import_module(f"{__name__}.{module.name}").DETECTOR
            found.append(detector)
    return tuple(sorted(found, key=lambda one: one.name))


def choose(own: Any, disabled: Iterable[str]) -> tuple[Detector, ...]:
    """The detectors of one install: those of obskit and the user's own, without those switched off.

    Raises InstallError for an object that is no Detector, for a name that is taken, and for a name to switch off
    that nobody has.
    """
    known = {detector.name: detector for detector in shipped()}
    if not isinstance(own, Iterable) or isinstance(own, str | bytes):
        raise InstallError(f"option 'detectors': saw {shown(own)}, expected a list of obskit.Detector")
    for detector in own:
        if not isinstance(detector, Detector):
            raise InstallError(f"option 'detectors': saw {shown(detector)}, expected an obskit.Detector")
        if detector.name in known:
            raise InstallError(f"option 'detectors': the name {detector.name!r} is taken, choose another")
        known[detector.name] = detector
    for name in disabled:
        if name not in known:
            close = difflib.get_close_matches(name, known, n=1)
            hint = f" (did you mean {close[0]!r}?)" if close else ""
            raise InstallError(
                f"option 'disabled_detectors': saw {name!r}{hint}; detectors are: {', '.join(sorted(known))}"
            )
    return tuple(known[name] for name in sorted(known) if name not in set(disabled))
