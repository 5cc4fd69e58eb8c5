"""The one error obskit raises on purpose, and only at install time."""

from __future__ import annotations


class InstallError(Exception):
    """`install` cannot do what was asked: the text says what was seen and what to do."""
