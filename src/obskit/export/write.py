"""Writes an export into a folder without ever losing what somebody changed there.

A manifest beside the files holds the SHA-256 of each file as we wrote it. A file that is otherwise is the user's.
"""

from __future__ import annotations

import json
import os
import stat
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from enum import StrEnum
from hashlib import sha256
from pathlib import Path, PurePosixPath
from typing import Any

from obskit.export.errors import ExportDiffers, ExportError
from obskit.version import __version__

MANIFEST = ".obskit-export.json"


class State(StrEnum):
    """How a file in the folder stands to the export."""

    SAME = "unchanged"
    MISSING = "missing"
    DIFFERS = "differs"
    CHANGED = "changed by you"
    FOREIGN = "not written by obskit"
    LEFT_OVER = "left over"
    LEFT_OVER_CHANGED = "left over, changed by you"


# What stands in the way of writing, and what is left where it is.
CONFLICTS = frozenset({State.CHANGED, State.FOREIGN})


@dataclass(frozen=True, slots=True)
class _Manifest:
    """What the last export into the folder wrote, and for which service."""

    service: str | None
    hashes: Mapping[str, str]


@dataclass(frozen=True, slots=True)
class Plan:
    """What writing `files` into `directory` means, file by file."""

    directory: Path
    service: str | None
    files: Mapping[str, str]
    states: Mapping[str, State]
    before: Mapping[str, str]
    """Hashes of the export before."""
    manifest: bytes | None
    """The manifest as it was found."""

    def paths(self, *states: State) -> list[str]:
        """The paths in one of `states`."""
        return [path for path, state in self.states.items() if state in states]

    @property
    def conflicts(self) -> list[str]:
        """What would be lost by writing."""
        return self.paths(*CONFLICTS)

    @property
    def differences(self) -> dict[str, State]:
        """Everything in which the folder is not what this export writes."""
        return {path: state for path, state in self.states.items() if state is not State.SAME}


def plan(files: Mapping[str, str], directory: Path, service: str | None, *, force: bool = False) -> Plan:
    """Compares the folder with `files` and changes nothing.

    ExportError when the folder cannot be used at all. ExportDiffers when it holds the export of another service,
    whose rules would be removed, unless `force`.
    """
    try:
        return _plan(files, directory, service, force=force)
    except OSError as error:
        raise ExportError(f"cannot look into {directory}: {error.strerror} ({error.filename})") from None


def _plan(files: Mapping[str, str], directory: Path, service: str | None, *, force: bool) -> Plan:
    if directory.exists() and not directory.is_dir():
        raise ExportError(f"{directory} is no folder")
    found_manifest = _read_bytes(directory / MANIFEST)
    manifest = None if found_manifest is None else _parsed(found_manifest, directory)
    before: Mapping[str, str] = manifest.hashes if manifest else {}
    if manifest and manifest.service != service and not force:
        whose = f"service {manifest.service}" if manifest.service else "all services"
        raise ExportDiffers(
            f"{directory} holds the export for {whose}: give each export a folder of its own, or --force to "
            "replace that one"
        )
    states: dict[str, State] = {}
    for path, text in sorted(files.items()):
        found = _hash_of(directory, path)
        if found is None:
            states[path] = State.MISSING
        elif found == _hash(text.encode()):
            states[path] = State.SAME
        elif path not in before:
            states[path] = State.FOREIGN
        else:
            states[path] = State.DIFFERS if found == before[path] else State.CHANGED
    for path in sorted(before.keys() - files.keys()):
        found = _hash_of(directory, path)
        if found is not None:
            states[path] = State.LEFT_OVER if found == before[path] else State.LEFT_OVER_CHANGED
    return Plan(directory, service, files, states, before, found_manifest)


def carry_out(plan: Plan, *, force: bool = False, keep: bool = False) -> None:
    """Makes the folder what `plan` says: all of it or, when something fails, as a rule nothing.

    Files that the user changed are overwritten with `force` and left alone with `keep`; with neither they are
    listed in an ExportDiffers and nothing is written. ExportError when the folder refuses.
    """
    conflicts = plan.conflicts
    if conflicts and not (force or keep):
        raise ExportDiffers(
            "nothing was written, because these files in "
            f"{plan.directory} are not as an export left them:\n{_lines(plan, conflicts)}\n"
            "--keep leaves them as they are and writes the rest, --force overwrites them"
        )
    left_alone = frozenset() if force else frozenset(conflicts)
    written = {
        path: plan.files[path].encode()
        for path in plan.paths(State.MISSING, State.DIFFERS, *CONFLICTS)
        if path not in left_alone
    }
    manifest = _manifest_text(plan, left_alone).encode()
    if plan.manifest != manifest:
        written[MANIFEST] = manifest
    _replace(plan.directory, written)
    _remove(plan.directory, plan.paths(State.LEFT_OVER))


def _lines(plan: Plan, paths: list[str]) -> str:
    return "\n".join(f"  {path}: {plan.states[path]}" for path in paths)


# ---- looking ----------------------------------------------------------------------------------------


def _parsed(content: bytes, directory: Path) -> _Manifest:
    try:
        return _checked(json.loads(content))
    except (ValueError, TypeError, KeyError, AttributeError):
        raise ExportError(
            f"{directory / MANIFEST} is damaged. Restore it, or delete it: then files that are not as this export "
            "would write them count as yours"
        ) from None


def _checked(manifest: Any) -> _Manifest:
    service, hashes = manifest["service"], manifest["files"]
    for path, digest in hashes.items():
        parts = PurePosixPath(path).parts
        # It says what may be removed: a path that leads out of the folder is none of ours.
        if not parts or path.startswith("/") or ".." in parts or not isinstance(digest, str):
            raise ValueError(path)
    if not isinstance(service, str | None):
        raise TypeError(service)
    return _Manifest(service, dict(hashes))


def _manifest_text(plan: Plan, left_alone: frozenset[str]) -> str:
    hashes = {path: _hash(text.encode()) for path, text in plan.files.items() if path not in left_alone}
    # Of a file left as the user made it we still know what it was when it was ours.
    hashes |= {path: plan.before[path] for path in left_alone if path in plan.before}
    content = {"obskit": __version__, "service": plan.service, "files": dict(sorted(hashes.items()))}
    return json.dumps(content, indent=2) + "\n"


def _hash_of(directory: Path, path: str) -> str | None:
    """The hash of a file in the folder, None when there is none. ExportError for anything that is no plain file."""
    target = directory / path
    for part in (*reversed(_folders(directory, target)), target):
        if part.is_symlink():
            # Followed, it would have us write or delete outside of the folder.
            raise ExportError(f"{part} is a symbolic link; an export writes plain files only. Remove it")
        if part != target and part.exists() and not part.is_dir():
            raise ExportError(f"{part} is a file where the export has a folder. Remove it")
    if target.exists() and not target.is_file():
        raise ExportError(f"{target} is not a plain file, where the export has one. Remove it")
    content = _read_bytes(target)
    return None if content is None else _hash(content)


def _folders(directory: Path, target: Path) -> list[Path]:
    """The folders between `directory` and `target`, the innermost first."""
    return [folder for folder in target.parents if directory in folder.parents]


def _read_bytes(file: Path) -> bytes | None:
    try:
        return file.read_bytes()
    except FileNotFoundError:
        return None


def _hash(content: bytes) -> str:
    return sha256(content).hexdigest()


# ---- changing ---------------------------------------------------------------------------------------


def _replace(directory: Path, written: Mapping[str, bytes]) -> None:
    """Each file at once, and all of them only after all have found room on the disk."""
    staged: dict[Path, Path] = {}
    made: list[Path] = []
    replaced = 0
    try:
        for path, content in written.items():
            target = directory / path
            _make_folder(target.parent, made)
            staged[target] = target.with_name(f".{target.name}.{os.getpid()}.tmp")
            _stage(staged[target], content, target)
        for target, temporary in staged.items():
            temporary.replace(target)
            replaced += 1
    except OSError as error:
        done = f"{replaced} of {len(written)} files were written" if replaced else "nothing was changed"
        raise ExportError(
            f"cannot write below {directory}: {error.strerror} ({error.filename}); {done}. Choose another folder, "
            "or mend this one and try again"
        ) from None
    finally:
        # After success nothing of this exists any more.
        for temporary in staged.values():
            temporary.unlink(missing_ok=True)
        for folder in reversed(made):
            with suppress(OSError):  # it is in use now
                folder.rmdir()


def _stage(temporary: Path, content: bytes, target: Path) -> None:
    with temporary.open("xb") as file:
        file.write(content)
    # Who may read the file is the user's choice, and survives.
    with suppress(FileNotFoundError):
        temporary.chmod(stat.S_IMODE(target.stat().st_mode))


def _make_folder(folder: Path, made: list[Path]) -> None:
    """Creates `folder` and what is missing above it; each one created is added to `made`, the outermost first."""
    missing = [above for above in (folder, *folder.parents) if not above.exists()]
    for above in reversed(missing):
        above.mkdir()
        made.append(above)


def _remove(directory: Path, paths: list[str]) -> None:
    for path in paths:
        target = directory / path
        try:
            target.unlink()
        except OSError as error:
            raise ExportError(f"cannot remove {target}, which is left over: {error.strerror}") from None
        for folder in _folders(directory, target):
            with suppress(OSError):  # it holds more
                folder.rmdir()
