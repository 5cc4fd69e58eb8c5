"""What can go wrong in a demonstration, with the exit status it ends in."""

from __future__ import annotations


class DemoError(Exception):
    """Something the user can mend: the message says what was seen and what to do."""

    exit_status = 2


class ServiceDied(DemoError):
    """A process of the demonstration did not start, or ended early; the message holds its last output."""

    exit_status = 1
