"""The one error obskit raises on purpose, and only at install time, and how it shows what was seen."""

from __future__ import annotations

from obskit.redact import scrub


def shown(value: object) -> str:
    """`repr(value)` for an error text: without secrets, cut at 120 characters, and never raising."""
    try:
        text = repr(value)
    except Exception:
        text = f"<{type(value).__name__}>"
    text = scrub(text[:2_048])
    return text if len(text) <= 120 else text[:117] + "..."


class InstallError(Exception):
    """`install` cannot do what was asked: the text says what was seen and what to do."""


class InvariantError(AssertionError):
    """An invariant did not hold, and the option `invariants` is "raise"."""
