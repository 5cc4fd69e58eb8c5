"""What can go wrong in an export, with the exit status it ends in."""

from __future__ import annotations


class ExportError(Exception):
    """Something the user can mend: the message says what was seen and what to do."""

    exit_status = 2


class ExportDiffers(ExportError):
    """The work was understood and not done, or it found a difference; the message says which."""

    exit_status = 1
