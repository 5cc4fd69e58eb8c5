"""The cases: every module here that has CASES adds its own."""

from __future__ import annotations

import importlib
import pkgutil

from tests.conformance.model import Case


def all_cases() -> list[Case]:
    found: list[Case] = []
    for module in sorted(info.name for info in pkgutil.iter_modules(__path__)):
        found += importlib.import_module(f"{__name__}.{module}").CASES
    return found
