"""Dashboards as TypeScript: each panel's JSON is given to the type that Grafana publishes for its kind of panel.

A literal with a property that its type does not know is an error to the compiler, so a typo is one too.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from tests.support.node_tools import HERE, MODULES, installed, type_check

# One per major version that the dashboards are made for; the exact version stands in node/package.json.
VERSIONS = ("10", "11", "12", "13")

_ERROR = re.compile(r"^(?P<file>[^(\n]+\.ts)\((?P<line>\d+),\d+\): error TS\d+: (?P<text>.*)$", re.MULTILINE)
# The folder of a plugin's types is its id without dash, but for two that were renamed.
_FOLDERS = {"annolist": "annotationslist", "dashlist": "dashboardlist"}
# What the types of a query are called where a version has them: they moved out of the package one by one.
_QUERIES = {"prometheus": "PrometheusDataQuery", "loki": "LokiDataQuery", "tempo": "TempoQuery"}


class LeftOut(NamedTuple):
    """Properties of Grafana's that its published types do not know, by data source, with the reason."""

    properties: Mapping[str, str]
    reason: str


ANNOTATIONS = {
    "prometheus": LeftOut(
        dict.fromkeys(("expr", "step", "tagKeys", "textFormat", "titleFormat"), "string")
        | {"useValueForTime": "boolean"},
        "what a data source keeps in an annotation beside its query is typed in the plugin, which is not published",
    )
}
QUERIES = {
    "prometheus": LeftOut(
        {"interval": "string"},
        "the minimum step; the plugin adds it to the generated type in its own source",
    )
}


class Complaint(NamedTuple):
    """What the compiler says of one line of one dashboard."""

    dashboard: str
    line: str
    text: str

    def __str__(self) -> str:
        return f"{self.dashboard}: {self.text}\n    at {self.line.strip()}"


def complaints(
    version: str, dashboards: Mapping[str, dict[str, Any]], folder: Path, *, unknown: str = ""
) -> list[Complaint]:
    """What Grafana's types of this major version say against the dashboards, by name; `folder` is written to.

    `unknown` is a property not to add to the types although they leave it out.
    """
    installed()
    package = MODULES / f"schema-{version}"
    folder.mkdir(parents=True)
    (folder / "written.ts").write_text((HERE / "written.ts").read_text())
    for name, dashboard in dashboards.items():
        (folder / f"{name}.ts").write_text(_module(dashboard, package, unknown))
    (folder / "tsconfig.json").write_text(json.dumps(_project(package)))
    status, said = type_check(folder)
    found = [_complaint(folder, match) for match in _ERROR.finditer(said)]
    assert found or status == 0, f"the compiler failed:\n{said}"
    return found


def _complaint(folder: Path, match: re.Match[str]) -> Complaint:
    file = Path(match["file"])
    lines = (folder / file.name).read_text().splitlines()
    return Complaint(file.stem, lines[int(match["line"]) - 1], match["text"])


def _project(package: Path) -> dict[str, Any]:
    # Each version's types import "@grafana/schema" themselves: without these paths that would be nothing, nothing
    # would be `any`, and every typo would pass.
    index = next(
        path for folder in ("dist/types", "dist/esm") if (path := package / folder / "index.d.ts").exists()
    )
    return {
        "compilerOptions": {
            "strict": True,
            "noEmit": True,
            "target": "es2022",
            "module": "esnext",
            "moduleResolution": "bundler",
            "types": [],
            "skipLibCheck": True,
            "paths": {"@grafana/schema": [str(index)], "@grafana/schema/*": [f"{package}/*"]},
        },
        "include": ["*.ts"],
    }


def _module(dashboard: dict[str, Any], package: Path, unknown: str) -> str:
    """The dashboard as constants: itself without panels, each row without panels, each panel, each query."""
    lines = [
        'import type { Dashboard, RowPanel } from "@grafana/schema";',
        'import type { AnnotationOf, PanelOf, QueryOf, Written } from "./written";',
    ]
    imported: set[str] = set()

    def own(kind: str, path: Path, *names: str) -> list[str]:
        """Import `names` of a module of the package; what it does not have, as anything."""
        text = path.read_text() if path.exists() else ""
        found = []
        for name in names:
            has = f"export interface {name} " in text
            alias = f"{name}_{kind}"
            found.append(alias if has else "Record<string, unknown>")
            if has and alias not in imported:
                imported.add(alias)
                module = path.relative_to(package).as_posix().removesuffix(".d.ts")
                lines.insert(2, f'import type {{ {name} as {alias} }} from "@grafana/schema/{module}";')
        return found

    def constant(name: str, written_type: str, value: Any) -> None:
        lines.append(f"export const {name}: {written_type} = {json.dumps(value, indent=1)};")

    def added(what: Mapping[str, LeftOut], source: str) -> str:
        properties = what[source].properties if source in what else {}
        inside = [f"{name}?: {kind}" for name, kind in properties.items() if name != unknown]
        return f"{{ {'; '.join(inside)} }}"

    def queries(name: str, targets: Iterable[dict[str, Any]]) -> None:
        for place, target in enumerate(targets):
            source = target.get("datasource", {}).get("type", "")
            (query,) = own(source, _types(package, source, "dataquery"), _QUERIES.get(source, "DataQuery"))
            constant(f"{name}_query_{place}", f"QueryOf<{query}, {added(QUERIES, source)}>", target)

    container = dashboard.get("annotations", {})
    constant(
        "dashboard",
        "Written<Dashboard>",
        {**dashboard, "panels": [], "annotations": {**container, "list": []}},
    )
    for place, annotation in enumerate(container.get("list", [])):
        name = f"annotation_{place}"
        source = annotation["datasource"]["type"]
        constant(name, f"AnnotationOf<{added(ANNOTATIONS, source)}>", _without(annotation, "target"))
        queries(name, [annotation["target"]] if "target" in annotation else [])
    for panel in _flat(dashboard["panels"]):
        name = f"{'row' if panel['type'] == 'row' else 'panel'}_{panel['id']}"
        if panel["type"] == "row":
            constant(name, "Written<RowPanel>", {**panel, "panels": []})
            continue
        kind = re.sub(r"\W", "", panel["type"])
        types = _types(package, _FOLDERS.get(kind, kind), "panelcfg")
        options, custom = own(kind, types, "Options", "FieldConfig")
        constant(name, f"PanelOf<{options}, {custom}>", _without(panel, "targets"))
        queries(name, panel.get("targets", []))
    return "\n".join(lines) + "\n"


def _types(package: Path, folder: str, what: str) -> Path:
    found = sorted(package.glob(f"dist/esm/raw/composable/{folder}/{what}/x/*.gen.d.ts"))
    return found[0] if found else package / "absent.d.ts"


def _without(value: dict[str, Any], key: str) -> dict[str, Any]:
    return {name: inner for name, inner in value.items() if name != key}


def _flat(panels: Iterable[dict[str, Any]]) -> Iterable[dict[str, Any]]:
    for panel in panels:
        yield panel
        yield from _flat(panel.get("panels", []))
