"""The rules of the house, read from the imports of every file: arrows run down, and only then."""

from __future__ import annotations

import ast
import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
SOURCE = ROOT / "src" / "obskit"
MAX_LINES = 500

FRAMEWORKS = frozenset({"django", "flask", "werkzeug", "starlette", "fastapi", "asgiref"})
SIGNAL_LIBRARIES = frozenset({"structlog", "prometheus_client", "opentelemetry"})

# ---- the table: a room is what follows `obskit.` in a module's name -------------------------------

FLOOR = frozenset({"errors", "exchange", "names", "plain", "redact", "version"})
BASE = FLOOR | {"config", "context"}
HOUSE = BASE | {"pipeline", "wsgi", "asgi", "adapters", "signals", "probes", "detectors", "findings", "watch"}
HOUSE |= {"workers"}
# They stand outside and look in: commands, the demonstration, help for users' own tests.
TOOLS = frozenset({"cli", "console", "demo", "doctor", "export", "testing"})


@dataclass(frozen=True)
class Room:
    """What the modules of one room may import: of obskit, and of other people's packages."""

    rooms: frozenset[str] = frozenset()
    libraries: frozenset[str] = frozenset()


ROOMS = {
    **{name: Room() for name in FLOOR},
    "errors": Room(frozenset({"redact"})),
    "plain": Room(frozenset({"redact", "refusals"})),
    "refusals": Room(frozenset({"redact"})),
    "config": Room(frozenset({"errors"})),
    # signals only inside get_logger(): see below
    "context": Room(frozenset({"errors", "exchange", "names", "signals"})),
    "work": Room(frozenset({"context", "exchange"})),
    "findings": Room(FLOOR | {"config"}),
    "folders": Room(),
    "shared": Room(frozenset({"folders"})),
    "listeners": Room(),
    "workers": Room(frozenset({"folders", "listeners"})),
    "watch": Room(BASE | {"aside", "pipeline", "listeners", "workers", "folders", "detectors"}),
    "aside": Room(),
    "desk": Room(),
    "trust": Room(frozenset({"exchange"})),
    "parts": Room(frozenset({"exchange"})),
    "answering": Room(frozenset({"parts"})),
    "judging": Room(BASE | {"answering", "findings", "parts"}),
    "together": Room(frozenset({"exchange"})),
    "pipeline": Room(BASE | {"aside", "findings", "judging", "parts", "together", "trust"}),
    "wsgi": Room(BASE | {"pipeline", "wsgi_environ", "wsgi_input"}),
    "wsgi_environ": Room(frozenset({"exchange", "names"})),
    "wsgi_input": Room(frozenset({"exchange"})),
    "presence": Room(),
    "asgi": Room(BASE | {"asgi_lifespan", "asgi_scope", "desk", "pipeline", "presence"}),
    "asgi_lifespan": Room(frozenset({"aside", "pipeline"})),
    "asgi_scope": Room(frozenset({"exchange", "names"})),
    "signals": Room(
        BASE | {"refusals", "pipeline", "listeners", "workers", "folders", "desk", "trust"},
        SIGNAL_LIBRARIES | {"requests", "certifi"},
    ),
    "adapters": Room(BASE | {"pipeline", "wsgi", "wsgi_environ", "asgi"}, FRAMEWORKS),
    "detectors": Room(FLOOR | {"config", "findings", "shared"}),
    "install": Room(HOUSE),
    "__init__": Room(HOUSE | {"install", "work"}),
    **{name: Room(HOUSE | TOOLS | {"install", "__init__"}, frozenset({"rich"})) for name in TOOLS},
}
ROOMS["demo"] = Room(ROOMS["demo"].rooms, ROOMS["demo"].libraries | FRAMEWORKS)
# It looks into the signals of an install, and runs applications.
ROOMS["testing"] = Room(ROOMS["testing"].rooms, SIGNAL_LIBRARIES | {"pytest", "uvicorn"})
# Alerts about findings follow from the declarations of their detectors.
ROOMS["export"] = Room(FLOOR | {"export", "detectors", "findings"}, frozenset({"yaml"}))


# ---- reading a file ---------------------------------------------------------------------------------


@dataclass(frozen=True)
class Import:
    module: str
    line: int
    late: bool
    """Inside a function: it runs when somebody calls, not when somebody imports."""
    for_types: bool
    """Below `if TYPE_CHECKING:`: it never runs."""


class _Reader(ast.NodeVisitor):
    def __init__(self, package: str) -> None:
        self.package = package
        self.late = self.for_types = False
        self.found: list[Import] = []

    def _add(self, module: str, node: ast.AST, *, late: bool = False) -> None:
        line = getattr(node, "lineno", 0)
        self.found.append(Import(module, line, self.late or late, self.for_types))

    def visit_Import(self, node: ast.Import) -> None:
        for alias in node.names:
            self._add(alias.name, node)

    def visit_ImportFrom(self, node: ast.ImportFrom) -> None:
        base = node.module or ""
        if node.level:
            above = self.package.split(".")[: len(self.package.split(".")) - node.level + 1]
            base = ".".join([*above, base]).rstrip(".")
        for alias in node.names:
            # `from obskit import names` means the module obskit.names, if there is one.
            full = f"{base}.{alias.name}"
            self._add(full if base == "obskit" and room_of(full) in ROOMS else base, node)

    def visit_Call(self, node: ast.Call) -> None:
        called = node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, "id", "")
        if called in {"import_module", "__import__"} and node.args:
            first = node.args[0]
            if isinstance(first, ast.JoinedStr) and first.values:
                first = first.values[0]
            if isinstance(first, ast.Constant) and isinstance(first.value, str):
                self._add(first.value.rstrip("."), node)
        self.generic_visit(node)

    def visit_If(self, node: ast.If) -> None:
        if ast.unparse(node.test) not in {"TYPE_CHECKING", "typing.TYPE_CHECKING"}:
            self.generic_visit(node)
            return
        before, self.for_types = self.for_types, True
        for child in node.body:
            self.visit(child)
        self.for_types = before
        for child in node.orelse:
            self.visit(child)

    def _visit_function(self, node: ast.FunctionDef | ast.AsyncFunctionDef) -> None:
        before, self.late = self.late, True
        self.generic_visit(node)
        self.late = before

    visit_FunctionDef = _visit_function
    visit_AsyncFunctionDef = _visit_function


def imports(module: str, source: str, *, is_package: bool = False) -> list[Import]:
    """Every import of a module's source text, relative names resolved, `import_module("...")` included."""
    reader = _Reader(module if is_package else module.rpartition(".")[0])
    reader.visit(ast.parse(source))
    return reader.found


def room_of(module: str) -> str:
    """obskit.signals.cells -> signals; obskit -> __init__."""
    _, _, rest = module.partition(".")
    return rest.partition(".")[0] or "__init__"


def violations(module: str, source: str, *, is_package: bool = False) -> list[str]:
    """What a module does against the rules of its room, as sentences; empty when it keeps them."""
    name = room_of(module)
    if name not in ROOMS:
        return [f"{module}: no such room in the table of this test: say there what it may import"]
    room, found = ROOMS[name], []
    for one in imports(module, source, is_package=is_package):
        top = one.module.partition(".")[0]
        where = f"{module}:{one.line}"
        if top == "obskit":
            target = room_of(one.module)
            if target != name and target not in room.rooms:
                found.append(f"{where} imports obskit.{target}: {name} may not know it")
            elif name == "context" and target == "signals" and not one.late:
                found.append(f"{where} imports obskit.signals at import: only a function of context may")
        elif top not in sys.stdlib_module_names and top not in room.libraries and not one.for_types:
            found.append(f"{where} imports {top}: {name} may not")
    lines = source.count("\n")
    if lines > MAX_LINES:
        found.append(f"{module} has {lines} lines, more than {MAX_LINES}: it holds more than one thing")
    return found


def modules() -> Iterator[tuple[str, Path]]:
    for path in sorted(SOURCE.rglob("*.py")):
        parts = path.relative_to(SOURCE.parent).with_suffix("").parts
        if "services" in parts and "demo" in parts:
            continue  # a shop of integrations/, only in a wheel: somebody else's house
        yield ".".join(parts[:-1] if parts[-1] == "__init__" else parts), path


# ---- the claims -------------------------------------------------------------------------------------


def test_every_module_keeps_the_rules_of_its_room() -> None:
    found, seen = [], 0
    for module, path in modules():
        seen += 1
        found += violations(module, path.read_text("utf-8"), is_package=path.name == "__init__.py")
    assert seen > 5, f"only {seen} modules were read below {SOURCE}"
    assert not found, "\n".join(found)


@pytest.mark.parametrize(
    ("module", "source", "said"),
    [
        ("obskit.exchange", "import structlog", "structlog"),
        ("obskit.exchange", "from obskit.names import X", "obskit.names"),
        ("obskit.names", "from . import config", "obskit.config"),
        ("obskit.config", "from obskit import pipeline", "obskit.pipeline"),
        ("obskit.config", "import yaml", "yaml"),
        ("obskit.pipeline", "import flask", "flask"),
        ("obskit.pipeline", "from django.http import HttpRequest", "django"),
        ("obskit.pipeline", "import prometheus_client.core", "prometheus_client"),
        ("obskit.pipeline", "def f():\n    from opentelemetry import trace", "opentelemetry"),
        ("obskit.pipeline", "from obskit.signals import logs", "obskit.signals"),
        ("obskit.wsgi", "from obskit.adapters import flask", "obskit.adapters"),
        ("obskit.asgi", "from .signals.metrics import Metrics", "obskit.signals"),
        ("obskit.asgi", "import starlette.types", "starlette"),
        ("obskit.wsgi", "from obskit.asgi import AsgiDoor", "obskit.asgi"),
        ("obskit.signals.logs", "import flask", "flask"),
        ("obskit.signals.logs", "from ..install import install", "obskit.install"),
        (
            "obskit.adapters.flask",
            "from importlib import import_module\nimport_module('structlog')",
            "structlog",
        ),
        (
            "obskit.adapters.flask",
            "import importlib\nimportlib.import_module(f'obskit.signals.{x}')",
            "signals",
        ),
        ("obskit.adapters.flask", "from obskit.install import install", "obskit.install"),
        ("obskit.context", "from obskit.signals.logs import get_logger", "at import"),
        ("obskit.install", "import fastapi", "fastapi"),
        ("obskit.install", "from obskit import cli", "obskit.cli"),
        ("obskit.exchange", "import obskit", "obskit.__init__"),
        ("obskit.cli", "import structlog", "structlog"),
        ("obskit.cli", "import yaml", "yaml"),
        ("obskit.export.prometheus", "from obskit.install import install", "obskit.install"),
        ("obskit.attic", "", "no such room"),
        ("obskit.exchange", "\n" * (MAX_LINES + 1), "lines"),
    ],
)
def test_a_broken_rule_is_named(module: str, source: str, said: str) -> None:
    (violation,) = violations(module, source)
    assert said in violation


@pytest.mark.parametrize(
    ("module", "source"),
    [
        ("obskit.exchange", "from enum import StrEnum\nimport collections.abc"),
        ("obskit.pipeline", "from obskit.exchange import Exchange\nfrom . import context, names"),
        ("obskit.context", "def get_logger():\n    from obskit.signals.logs import get_logger"),
        ("obskit.context", "if TYPE_CHECKING:\n    from structlog.typing import FilteringBoundLogger"),
        ("obskit.signals.logs", "import structlog\nfrom .cells import Store"),
        ("obskit.adapters.flask", "import flask"),
        ("obskit.install", "import_module(f'obskit.adapters.{name}')\nfrom obskit import asgi, wsgi"),
        ("obskit.demo.run", "import rich\nfrom obskit import install"),
        ("obskit.exchange", "\n" * MAX_LINES),
    ],
)
def test_what_a_room_may_do_is_no_violation(module: str, source: str) -> None:
    assert violations(module, source) == []


def loaded_by(statement: str) -> dict[str, list[str] | int]:
    """What a fresh interpreter holds after `statement`: top-level modules that are not stdlib, and its threads."""
    report = "import json, sys, threading; print(json.dumps({'threads': threading.active_count(), 'modules': "
    report += "sorted({m.partition('.')[0] for m in sys.modules} - sys.stdlib_module_names)}))"
    done = subprocess.run(
        [sys.executable, "-c", f"{statement}\n{report}"],
        capture_output=True,
        text=True,
        timeout=60,
        env={**os.environ, "PYTHONPATH": str(SOURCE.parent)},
        check=True,
    )
    loaded: dict[str, list[str] | int] = json.loads(done.stdout)
    return loaded


def heavy(loaded: dict[str, list[str] | int]) -> set[str]:
    modules_found = loaded["modules"]
    assert isinstance(modules_found, list)
    return (FRAMEWORKS | SIGNAL_LIBRARIES | {"rich", "requests", "grpc", "yaml"}) & set(modules_found)


def test_importing_obskit_loads_no_framework_and_no_signal_library_and_starts_no_thread() -> None:
    loaded = loaded_by("import obskit; assert obskit.__file__, 'a namespace, not the package'")
    assert heavy(loaded) == set()
    assert loaded["threads"] == 1


def test_a_library_or_thread_that_an_import_brings_is_seen() -> None:
    # The test above passes on an empty answer: this shows that its eyes are open.
    loaded = loaded_by(
        "import structlog, threading\n"
        "forever = threading.Event()\n"
        "threading.Thread(target=forever.wait, daemon=True).start()"
    )
    assert "structlog" in heavy(loaded)
    assert loaded["threads"] == 2


# The distribution is obskit-web: what the shorter name installs is somebody else's package.
WRONG_INSTALL = re.compile(
    r"(?:\bpip3?\s+install|\bpipx\s+(?:install|run)|\buv\s+(?:add|tool\s+install)|\b(?:poetry|pdm)\s+add)"
    r"(?:\s+-\S+|\s+[\"']?[\w.\[\],<>=~]+[\"']?)*?\s+[\"']?obskit(?![\w-])",
)
TEXT_SUFFIXES = frozenset(
    {".py", ".md", ".toml", ".txt", ".cfg", ".ini", ".yaml", ".yml", ".json", ".html", ".sh", ".conf", ""}
)
NOT_OURS = frozenset({".git", ".venv", "build", "dist", "__pycache__", "node_modules", "htmlcov"})


def text_files() -> Iterator[Path]:
    for directory, below, names in os.walk(ROOT):
        below[:] = [name for name in below if name not in NOT_OURS and not name.endswith("_cache")]
        for name in names:
            path = Path(directory, name)
            if path.suffix in TEXT_SUFFIXES and not name.startswith(".coverage"):
                yield path


def test_no_file_tells_anybody_to_install_the_unrelated_package() -> None:
    found, seen = [], 0
    for path in text_files():
        try:
            text = path.read_text("utf-8")
        except UnicodeDecodeError:
            continue
        seen += 1
        found += [f"{path.relative_to(ROOT)}: {match.group()}" for match in WRONG_INSTALL.finditer(text)]
    assert seen > 20
    assert not found, "\n".join(found)


@pytest.mark.parametrize(
    "command", ["pip install", "pip3  install -U", "uv pip install", "uv add", "pip install rich"]
)
@pytest.mark.parametrize("name", ["obskit", '"obskit"', "obskit[cli]", "obskit==1.1.0"])
def test_an_install_of_the_unrelated_package_is_seen(command: str, name: str) -> None:
    assert WRONG_INSTALL.search(f"$ {command} {name}")


@pytest.mark.parametrize(
    "line", ["pip install obskit-web", "pip install 'obskit-web[cli]'", "pip install -e . # obskit"]
)
def test_an_install_of_ours_is_not(line: str) -> None:
    assert not WRONG_INSTALL.search(line)
