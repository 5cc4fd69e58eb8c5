"""The schemas of Kubernetes and of the Prometheus operator, as npm packages: no cluster is needed to ask them.

The validators know patterns and what is required, but let unknown properties pass; a TypeScript literal may have none.
So each object goes through both.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tests.support.node_tools import MODULES, ask, type_check

_TYPES = {
    "PrometheusRule": "@kubernetes-models/prometheus-operator/monitoring.coreos.com/v1",
    "ServiceMonitor": "@kubernetes-models/prometheus-operator/monitoring.coreos.com/v1",
    "ConfigMap": "kubernetes-models/v1",
}


def complaints(objects: Sequence[dict[str, Any]], folder: Path) -> list[str]:
    """What schemas and types have against `objects`; `folder` is an empty one to work in."""
    return _of_schemas(objects) + _of_types(objects, folder)


def _of_schemas(objects: Sequence[dict[str, Any]]) -> list[str]:
    return [said for said in ask("validate_objects.mjs", objects) if said is not None]


def _of_types(objects: Sequence[dict[str, Any]], folder: Path) -> list[str]:
    lines = [f'import type {{ I{kind} }} from "{module}";' for kind, module in _TYPES.items()]
    for number, one in enumerate(objects):
        lines.append(f"export const object{number}: I{one['kind']} = {json.dumps(one)};")
    (folder / "objects.ts").write_text("\n".join(lines) + "\n")
    options = {"strict": True, "noEmit": True, "module": "nodenext", "skipLibCheck": True, "types": []}
    (folder / "tsconfig.json").write_text(json.dumps({"compilerOptions": options, "files": ["objects.ts"]}))
    (folder / "node_modules").symlink_to(MODULES)
    return type_check(folder).said.splitlines()
