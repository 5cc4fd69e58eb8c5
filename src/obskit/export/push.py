"""Imports the dashboards into a running Grafana, again and again with the same result.

Which dashboards are still ours is read from Grafana's own history: every save has a message, and ours holds the hash
of what was saved. So nothing of ours stands in the dashboard itself, a save by hand is always seen, whatever it
changed, and a Grafana that stores a dashboard in another form than it was sent does not look like one.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from hashlib import sha256
from typing import Any

from obskit.export.errors import ExportDiffers, ExportError
from obskit.export.grafana_http import Answer, Grafana
from obskit.version import __version__

FOLDER_UID = "obskit"
FOLDER_TITLE = "obskit"

_MESSAGE = re.compile(r"obskit export \S+ sha256:([0-9a-f]{64})")
_NEEDED = (
    "a service account token with the role Editor, or with the permissions folders:read, folders:create, "
    "dashboards:read, dashboards:create and dashboards:write"
)


class Action(StrEnum):
    """What a dashboard needs, or what stands in the way."""

    CREATE = "create"
    UPDATE = "update"
    NOTHING = "unchanged"
    CHANGED = "changed in Grafana"
    PROVISIONED = "provisioned from a file of that Grafana"


_CONFLICTS = frozenset({Action.CHANGED, Action.PROVISIONED})


@dataclass(frozen=True, slots=True)
class _Step:
    """One dashboard: what is to be done, on top of which version, in which folder (None: ours)."""

    uid: str
    dashboard: Mapping[str, Any]
    action: Action
    version: int | None = None
    folder: str | None = None


@dataclass(frozen=True, slots=True)
class Pushed:
    """What was done, or with a dry run would be: action by dashboard uid, and whether the folder was created."""

    grafana_version: str
    actions: Mapping[str, Action]
    folder_created: bool


def push(
    texts: Mapping[str, str],
    grafana: Grafana,
    *,
    force: bool = False,
    keep: bool = False,
    dry_run: bool = False,
) -> Pushed:
    """Makes the dashboards in Grafana what `texts` (JSON, by any name) say.

    A dashboard of the same uid that somebody saved in Grafana is left alone with `keep`, overwritten with `force`;
    with neither nothing at all is sent, and an ExportDiffers lists them. One that Grafana provisions from a file is
    never overwritten. With `dry_run` no request that writes is sent. ExportError when Grafana refuses.
    """
    version = _version(grafana)
    dashboards = [_without_state(json.loads(text)) for _, text in sorted(texts.items())]
    steps = [_step(grafana, dashboard, force=force) for dashboard in dashboards]
    conflicts = [step for step in steps if step.action in _CONFLICTS]
    if conflicts and not keep:
        listed = "\n".join(f"  {step.uid}: {step.action}" for step in conflicts)
        raise ExportDiffers(
            f"nothing was sent, because these dashboards in {grafana.url} are not as a push left them:\n{listed}\n"
            "--keep leaves them as they are and pushes the rest, --force overwrites what was changed in Grafana "
            "(not what it reads from files)"
        )
    saving = [step for step in steps if step.action in (Action.CREATE, Action.UPDATE)]
    folder, folder_created = FOLDER_UID, False
    if any(step.folder is None for step in saving):
        folder, folder_created = _folder(grafana, dry_run=dry_run)
    for number, step in enumerate([] if dry_run else saving):
        _save(grafana, step, folder, f"{number} of {len(saving)} dashboards were saved before", force=force)
    return Pushed(version, {step.uid: step.action for step in steps}, folder_created)


# ---- looking ----------------------------------------------------------------------------------------


def _version(grafana: Grafana) -> str:
    # Without the token: who answers here is not known yet.
    answer = grafana.get("/api/health", authorized=False)
    if "database" not in answer.fields:
        raise ExportError(
            f"--push: no Grafana at {grafana.url}: {answer.path} answered {answer.described}. Give the address that "
            "its start page has, with the path it is served below"
        )
    if answer.status != 200:
        raise ExportError(f"--push: {grafana.url} is not well: {answer.path} answered {answer.described}")
    return str(answer.fields.get("version") or "unknown")


def _step(grafana: Grafana, dashboard: Mapping[str, Any], *, force: bool) -> _Step:
    uid = dashboard["uid"]
    answer = grafana.get(f"/api/dashboards/uid/{uid}")
    if answer.status == 404:
        return _Step(uid, dashboard, Action.CREATE)
    _expect(answer)
    there, meta = answer.fields.get("dashboard"), answer.fields.get("meta")
    if not isinstance(there, dict) or not isinstance(meta, dict):
        raise ExportError(f"--push: {grafana.url}{answer.path} answered something that is no dashboard")
    version, folder = there.get("version"), str(meta.get("folderUid") or "")

    def step(action: Action) -> _Step:
        return _Step(uid, dashboard, action, version, folder)

    if _without_state(there) == dashboard:
        return step(Action.NOTHING)
    if meta.get("provisioned"):
        return step(Action.PROVISIONED)
    saved = _saved_by_us(grafana, uid, version)
    if saved == _hash(dashboard):
        return step(Action.NOTHING)
    return step(Action.UPDATE if saved or force else Action.CHANGED)


def _saved_by_us(grafana: Grafana, uid: str, version: object) -> str | None:
    """The hash of what the last push saved, None when the last save was somebody else's."""
    # This one version and not the list of them, in which Grafana calls every first one "Initial save".
    answer = grafana.get(f"/api/dashboards/uid/{uid}/versions/{version}")
    if answer.status in (401, 403):
        _expect(answer)
    # A version that is not found was not saved by us as far as we can know.
    match = _MESSAGE.fullmatch(str(answer.fields.get("message", "")))
    return match[1] if match else None


def _folder(grafana: Grafana, *, dry_run: bool) -> tuple[str, bool]:
    """The uid of our folder, and whether it had to be created."""
    # From the list: asked for a folder that is not there, Grafana answers an Editor with 403 and not with 404.
    answer = _expect(grafana.get("/api/folders?limit=1000"))
    for folder in answer.items:
        # Provisioning creates it by title, with a uid of its own.
        if folder.get("uid") == FOLDER_UID or folder.get("title") == FOLDER_TITLE:
            return str(folder["uid"]), False
    if dry_run:
        return FOLDER_UID, True
    answer = grafana.post("/api/folders", {"uid": FOLDER_UID, "title": FOLDER_TITLE})
    if answer.status in (409, 412):  # somebody was faster, or it was beyond the list
        return FOLDER_UID, False
    _expect(answer)
    return FOLDER_UID, True


# ---- saving -----------------------------------------------------------------------------------------


def _save(grafana: Grafana, step: _Step, folder: str, so_far: str, *, force: bool) -> None:
    body: dict[str, Any] = {
        # With the version that was looked at and without `overwrite` a save in between is refused, not lost.
        "dashboard": {**step.dashboard, "id": None, "version": step.version},
        "message": f"obskit export {__version__} sha256:{_hash(step.dashboard)}",
        "overwrite": force,
    }
    # A dashboard that somebody moved stays where it was moved to; no folder at all is the root.
    if where := folder if step.folder is None else step.folder:
        body["folderUid"] = where
    answer = grafana.post("/api/dashboards/db", body)
    if answer.status == 412 and answer.fields.get("status") == "version-mismatch":
        raise ExportDiffers(
            f"--push: somebody saved {step.uid} in Grafana just now ({so_far}). Look at it, then push again"
        )
    _expect(answer, f"saving {step.uid}: ", f" ({so_far})")


def _expect(answer: Answer, what: str = "", so_far: str = "") -> Answer:
    """`answer`, if it is a success; ExportError with what to do if not."""
    if answer.status == 200:
        return answer
    if answer.status in (401, 403):
        problem = "is unknown or expired" if answer.status == 401 else "may not do that"
        if not answer.authorized:
            problem = "is not set"
        raise ExportError(
            f"--push: {what}{answer.path} answered {answer.described}: GRAFANA_TOKEN {problem}. It has to hold "
            f"{_NEEDED}{so_far}"
        )
    raise ExportError(f"--push: {what}{answer.path} answered {answer.described}{so_far}")


# ---- comparing --------------------------------------------------------------------------------------


def _without_state(dashboard: Mapping[str, Any]) -> dict[str, Any]:
    """The dashboard without what Grafana counts: its number in the database and how often it was saved."""
    return {key: value for key, value in dashboard.items() if key not in ("id", "version")}


def _hash(dashboard: Mapping[str, Any]) -> str:
    text = json.dumps(dashboard, sort_keys=True, separators=(",", ":"))
    return sha256(text.encode()).hexdigest()
