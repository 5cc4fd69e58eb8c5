"""An import hook that turns each call in obskit, `f(x)`, into `__hit__(N, f)(x)`: site N can then be made to fail.

It has to be installed before obskit is imported. A site that is not armed gives back `f` itself, so that nothing else
about the call is different: not its frame, not `super()`, not its arguments.
"""

from __future__ import annotations

import ast
import builtins
import sys
from collections.abc import Callable
from dataclasses import dataclass
from importlib.machinery import ModuleSpec, PathFinder, SourceFileLoader
from pathlib import Path
from types import CodeType, ModuleType
from typing import Any

# Not in the process that serves: the command line, the demo, what is written for Grafana, what tests use.
ELSEWHERE = frozenset({"cli", "demo", "doctor", "export", "testing"})


@dataclass(frozen=True)
class Site:
    """One call in the source of obskit."""

    number: int
    file: str
    line: int
    column: int
    inside: str
    """The function it stands in, qualified."""
    callee: str
    """What is called, as it is written."""

    @property
    def name(self) -> str:
        return f"{self.file}:{self.line}:{self.column}"

    def __str__(self) -> str:
        return f"{self.name} {self.callee} (in {self.inside or 'the module'})"


sites: list[Site] = []
hits: set[int] | None = None
"""Where the numbers of the sites that are reached are kept; None while nobody asks."""
_armed: dict[int, Callable[[Any], Any]] = {}
reached: set[int] = set()
"""The armed sites that were reached since they were armed."""


def _hit(number: int, callee: Any) -> Any:
    if hits is not None:
        hits.add(number)
    make = _armed.get(number)
    if make is None:
        return callee
    armed = make(callee)
    if armed is not callee:
        reached.add(number)
    return armed


def arm(number: int, make: Callable[[Any], Any]) -> None:
    """From now on the call at this site is made to `make(callee)` instead of to its callee."""
    _armed[number] = make


def disarm() -> set[int]:
    """Arm nothing any more. Returns which of the armed sites were reached."""
    global reached
    _armed.clear()
    was, reached = reached, set()
    return was


class _Rewriter(ast.NodeTransformer):
    def __init__(self, file: str) -> None:
        self._file = file
        self._inside: list[str] = []

    def _scoped(self, node: Any) -> Any:
        # Decorators and defaults run at import, in the scope around.
        for field, value in ast.iter_fields(node):
            if field == "decorator_list":
                setattr(node, field, [self.visit(one) for one in value])
            elif field == "args":
                value.defaults = [self.visit(one) for one in value.defaults]
        self._inside.append(node.name)
        node.body = [self.visit(one) for one in node.body]
        self._inside.pop()
        return node

    visit_FunctionDef = visit_AsyncFunctionDef = visit_ClassDef = _scoped

    def visit_AnnAssign(self, node: ast.AnnAssign) -> Any:
        if node.value is not None:
            node.value = self.visit(node.value)
        return node

    def visit_Call(self, node: ast.Call) -> Any:
        shown = ast.unparse(node.func)
        self.generic_visit(node)
        node.func = self._marked(node.func, shown)
        return node

    def visit_With(self, node: Any) -> Any:
        # Entering a lock is a call, too.
        for item in node.items:
            if not isinstance(item.context_expr, ast.Call):
                shown = "with " + ast.unparse(item.context_expr)
                item.context_expr = self._marked(self.visit(item.context_expr), shown, "__hit_with__")
            else:
                self.visit(item.context_expr)
        node.body = [self.visit(one) for one in node.body]
        return node

    visit_AsyncWith = visit_With

    def _marked(self, node: ast.expr, shown: str, by: str = "__hit__") -> ast.Call:
        site = Site(len(sites), self._file, node.lineno, node.col_offset, ".".join(self._inside), shown[:80])
        sites.append(site)
        call = ast.Call(ast.Name(by, ast.Load()), [ast.Constant(site.number), node], [])
        return ast.copy_location(call, node)


def _hit_with(number: int, manager: Any) -> Any:
    chosen = _hit(number, type(manager))
    return manager if chosen is type(manager) else chosen(manager)


class _Loader(SourceFileLoader):
    def get_code(self, fullname: str) -> CodeType:
        # Never from the cache on disk, and never into it.
        path = self.get_filename(fullname)
        return self.source_to_code(self.get_data(path), path)

    def source_to_code(self, data: Any, path: Any, *_: Any, **__: Any) -> CodeType:
        root = Path(path).parts
        shown = "/".join(root[root.index("obskit", root.index("src")) + 1 :])
        tree = _Rewriter(shown).visit(ast.parse(data, path))
        code: CodeType = compile(ast.fix_missing_locations(tree), path, "exec", dont_inherit=True)
        return code


class _Finder:
    @staticmethod
    def find_spec(name: str, path: Any = None, target: ModuleType | None = None) -> ModuleSpec | None:
        if name.partition(".")[0] != "obskit" or name.partition(".")[2].partition(".")[0] in ELSEWHERE:
            return None
        spec = PathFinder.find_spec(name, path, target)
        if spec is not None and spec.origin is not None and spec.origin.endswith(".py"):
            spec.loader = _Loader(name, spec.origin)
        return spec


def install() -> None:
    """Rewrite obskit from now on. Raises RuntimeError if it has been imported already."""
    if "obskit" in sys.modules:
        raise RuntimeError("obskit was imported before its calls could be rewritten")
    builtins.__hit__ = _hit  # type: ignore[attr-defined]
    builtins.__hit_with__ = _hit_with  # type: ignore[attr-defined]
    sys.meta_path.insert(0, _Finder)  # type: ignore[arg-type]
