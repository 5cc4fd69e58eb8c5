"""Whose code a file is, and how its people know it: the application's, a library's, or obskit's own."""

from __future__ import annotations

import ast
import dis
import linecache
import os
import site
import sys
import sysconfig
from functools import cache, lru_cache
from itertools import islice
from types import FrameType

_MAX_NAME = 80
MAX_FILES = 4096
"""Code that is compiled at run time may have a new name each time."""
_CALLS = ("CALL", "PRECALL")


@cache
def _own() -> str:
    return os.path.dirname(os.path.dirname(os.path.abspath(__file__))) + os.sep


@cache
def _libraries() -> tuple[str, ...]:
    found = {sysconfig.get_path(name) for name in ("stdlib", "platstdlib", "purelib", "platlib")}
    found |= {*site.getsitepackages(), site.getusersitepackages()}
    return tuple(os.path.join(path, "") for path in found if path)


@lru_cache(MAX_FILES)
def is_own(file: str) -> bool:
    """Whether a file is of obskit; the services of its demonstration are applications like any other."""
    return file.startswith(_own()) and not file.startswith(os.path.join(_own(), "demo", "services"))


@lru_cache(MAX_FILES)
def is_application(file: str) -> bool:
    """Whether a file is the application's own: neither the standard library's, nor an installed package's, nor ours."""
    # What Cython compiles has frames with a path relative to nothing.
    if file.startswith("<") or file.endswith((".pyx", ".pxd")) or is_own(file):
        return False
    if file.startswith(_own()):
        return True
    return not (
        file.startswith(_libraries()) or f"{os.sep}site-packages{os.sep}" in file or "dist-packages" in file
    )


@lru_cache(MAX_FILES)
def shown(file: str) -> str:
    """A file as its people know it: below the working directory, or below the folder it was imported from."""
    try:
        here = [os.getcwd()]
    except OSError:  # it has been removed
        here = []
    for base in sorted({*filter(None, sys.path), *here}, key=len, reverse=True):
        below = os.path.join(base, "")
        if file.startswith(below):
            return file[len(below) :]
    return file


@lru_cache(MAX_FILES)
def module_of(file: str) -> str:
    """The module that a file of a library is."""
    return shown(file).removesuffix(".py").replace(os.sep, ".").removesuffix(".__init__")


def call_at(frame: FrameType) -> str:
    """The name of the function that a frame has called and waits for, as its source has it; empty if there is none.

    For functions that are not written in Python and so have no frame of their own, such as time.sleep.
    """
    code, at = frame.f_code, frame.f_lasti
    if at < 0 or not dis.opname[code.co_code[at]].startswith(_CALLS):
        return ""
    where = next(islice(code.co_positions(), at // 2, None), None)
    if where is None or None in where:
        return ""
    first, last, start, end = where
    lines = [line.encode() for line in linecache.getlines(code.co_filename)[first - 1 : last]]  # type: ignore[operator]
    if not lines:
        return ""
    lines[-1] = lines[-1][:end]
    lines[0] = lines[0][start:]
    try:
        call = ast.parse(b"".join(lines).decode("utf-8", "replace").strip(), mode="eval").body
    except (SyntaxError, ValueError):
        return ""
    return _name(call.func)[:_MAX_NAME] if isinstance(call, ast.Call) else ""


def _name(node: ast.expr) -> str:
    if isinstance(node, ast.Attribute):
        return f"{_name(node.value)}.{node.attr}"
    return node.id if isinstance(node, ast.Name) else "…"
