"""Writing into a folder: nothing of the user's is lost, and a failure leaves things as they were."""

from __future__ import annotations

import errno
import json
import os
import re
import stat
from pathlib import Path
from typing import Any

import pytest

from obskit.export import write
from obskit.export.errors import ExportDiffers, ExportError
from obskit.export.write import MANIFEST, State

FILES = {"rules/obskit.yaml": "groups: []\n", "dashboards/a.json": "{}\n", "dashboards/b.json": "{}\n"}


def export(
    folder: Path, files: dict[str, str] = FILES, *, service: str | None = "shop", **how: bool
) -> write.Plan:
    plan = write.plan(files, folder, service, force=how.get("force", False))
    write.carry_out(plan, **how)
    return plan


def content(folder: Path) -> dict[str, str]:
    """Every file below `folder` but the manifest."""
    return {
        file.relative_to(folder).as_posix(): file.read_text("utf-8")
        for file in folder.rglob("*")
        if file.is_file() and file.name != MANIFEST
    }


def test_a_folder_that_is_not_there_is_created_with_everything_above_it(tmp_path: Path) -> None:
    folder = tmp_path / "a" / "b"
    export(folder)
    assert content(folder) == FILES


def test_the_manifest_names_version_service_and_the_hash_of_each_file(tmp_path: Path) -> None:
    export(tmp_path)
    manifest = json.loads((tmp_path / MANIFEST).read_text())
    assert manifest["service"] == "shop"
    assert manifest["obskit"]
    assert set(manifest["files"]) == set(FILES)
    assert all(re.fullmatch("[0-9a-f]{64}", digest) for digest in manifest["files"].values())


def test_a_second_export_touches_no_file(tmp_path: Path) -> None:
    export(tmp_path)
    times = {file: file.stat().st_mtime_ns for file in tmp_path.rglob("*")}
    plan = export(tmp_path)
    assert plan.differences == {}
    assert {file: file.stat().st_mtime_ns for file in tmp_path.rglob("*")} == times


def test_what_changed_in_the_export_is_written_and_the_rest_left_alone(tmp_path: Path) -> None:
    export(tmp_path)
    plan = export(tmp_path, {**FILES, "dashboards/a.json": "new\n"})
    assert plan.differences == {"dashboards/a.json": State.DIFFERS}
    assert (tmp_path / "dashboards/a.json").read_text() == "new\n"


def test_a_file_that_was_deleted_is_written_again(tmp_path: Path) -> None:
    export(tmp_path)
    (tmp_path / "rules/obskit.yaml").unlink()
    assert export(tmp_path).differences == {"rules/obskit.yaml": State.MISSING}
    assert content(tmp_path) == FILES


def test_one_changed_file_keeps_every_file_from_being_written(tmp_path: Path) -> None:
    export(tmp_path)
    (tmp_path / "dashboards/b.json").write_text("mine\n")
    (tmp_path / "rules/obskit.yaml").unlink()
    before = content(tmp_path)
    with pytest.raises(
        ExportDiffers, match=r"(?s)nothing was written.*dashboards/b.json: changed by you.*--force"
    ):
        export(tmp_path, {**FILES, "dashboards/a.json": "new\n"})
    assert content(tmp_path) == before


def test_a_file_that_was_there_before_us_is_not_ours_to_overwrite(tmp_path: Path) -> None:
    (tmp_path / "rules").mkdir()
    (tmp_path / "rules/obskit.yaml").write_text("mine\n")
    with pytest.raises(ExportDiffers, match=r"rules/obskit\.yaml: not written by obskit"):
        export(tmp_path)
    assert content(tmp_path) == {"rules/obskit.yaml": "mine\n"}
    assert not (tmp_path / "dashboards").exists()


def test_all_files_in_the_way_are_listed_at_once(tmp_path: Path) -> None:
    export(tmp_path)
    for path in FILES:
        (tmp_path / path).write_text("mine\n")
    with pytest.raises(ExportDiffers) as raised:
        export(tmp_path)
    assert all(path in str(raised.value) for path in FILES)
    assert raised.value.exit_status == 1


def test_a_file_that_is_already_as_we_would_write_it_becomes_ours(tmp_path: Path) -> None:
    (tmp_path / "rules").mkdir()
    (tmp_path / "rules/obskit.yaml").write_text(FILES["rules/obskit.yaml"])
    export(tmp_path)
    export(tmp_path, {**FILES, "rules/obskit.yaml": "new\n"})
    assert (tmp_path / "rules/obskit.yaml").read_text() == "new\n"


def test_force_overwrites_what_the_user_changed(tmp_path: Path) -> None:
    export(tmp_path)
    (tmp_path / "rules/obskit.yaml").write_text("mine\n")
    export(tmp_path, force=True)
    assert content(tmp_path) == FILES
    export(tmp_path, {**FILES, "rules/obskit.yaml": "new\n"})


def test_keep_leaves_what_the_user_changed_and_writes_the_rest(tmp_path: Path) -> None:
    export(tmp_path)
    (tmp_path / "rules/obskit.yaml").write_text("mine\n")
    (tmp_path / "dashboards/c.json").write_text("mine too\n")
    wanted = dict.fromkeys((*FILES, "dashboards/c.json"), "new\n")
    export(tmp_path, wanted, keep=True)
    kept = {"rules/obskit.yaml": "mine\n", "dashboards/c.json": "mine too\n"}
    assert content(tmp_path) == {**wanted, **kept}
    # It is still known whose they are.
    states = write.plan(wanted, tmp_path, "shop").differences
    assert states == {"rules/obskit.yaml": State.CHANGED, "dashboards/c.json": State.FOREIGN}


def test_what_no_longer_belongs_is_removed_with_the_folder_it_leaves_empty(tmp_path: Path) -> None:
    export(tmp_path)
    plan = export(tmp_path, {"dashboards/a.json": "{}\n"})
    assert plan.paths(State.LEFT_OVER) == ["dashboards/b.json", "rules/obskit.yaml"]
    assert content(tmp_path) == {"dashboards/a.json": "{}\n"}
    assert not (tmp_path / "rules").exists()


def test_what_no_longer_belongs_stays_when_the_user_changed_it(tmp_path: Path) -> None:
    export(tmp_path)
    (tmp_path / "rules/obskit.yaml").write_text("mine\n")
    plan = export(tmp_path, {"dashboards/a.json": "{}\n"})
    assert plan.paths(State.LEFT_OVER_CHANGED) == ["rules/obskit.yaml"]
    assert (tmp_path / "rules/obskit.yaml").read_text() == "mine\n"
    assert export(tmp_path, {"dashboards/a.json": "{}\n"}).differences == {}


def test_what_no_longer_belongs_and_is_gone_is_not_spoken_of(tmp_path: Path) -> None:
    export(tmp_path)
    (tmp_path / "rules/obskit.yaml").unlink()
    assert export(tmp_path, {"dashboards/a.json": "{}\n", "dashboards/b.json": "{}\n"}).differences == {}


def test_the_export_of_another_service_is_not_replaced_unasked(tmp_path: Path) -> None:
    export(tmp_path)
    for service, whose in (("checkout", "service shop"), (None, "service shop")):
        with pytest.raises(ExportDiffers, match=f"holds the export for {whose}"):
            export(tmp_path, {}, service=service)
    export(tmp_path, {}, service=None, force=True)
    assert content(tmp_path) == {}
    with pytest.raises(ExportDiffers, match="holds the export for all services"):
        export(tmp_path)


# ---- folders that cannot be written -----------------------------------------------------------------


def test_a_file_in_the_place_of_the_folder_is_refused(tmp_path: Path) -> None:
    (tmp_path / "out").write_text("")
    with pytest.raises(ExportError, match="is no folder") as raised:
        export(tmp_path / "out")
    assert raised.value.exit_status == 2


def test_a_file_in_the_place_of_a_folder_below_is_refused(tmp_path: Path) -> None:
    (tmp_path / "rules").write_text("")
    with pytest.raises(ExportError, match="rules is a file where the export has a folder"):
        export(tmp_path)


def test_a_folder_in_the_place_of_a_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "rules/obskit.yaml").mkdir(parents=True)
    with pytest.raises(ExportError, match="is not a plain file"):
        export(tmp_path, force=True)


@pytest.mark.parametrize("link", ["rules", "rules/obskit.yaml"])
def test_nothing_is_written_through_a_symbolic_link(tmp_path: Path, link: str) -> None:
    outside = tmp_path / "outside"
    (outside / "rules").mkdir(parents=True)
    (outside / "rules/obskit.yaml").write_text("mine\n")
    folder = tmp_path / "out"
    (folder / link).parent.mkdir(parents=True)
    (folder / link).symlink_to(outside / link)
    with pytest.raises(ExportError, match="is a symbolic link"):
        export(folder, force=True)
    assert content(outside) == {"rules/obskit.yaml": "mine\n"}


def test_nothing_is_removed_through_a_symbolic_link(tmp_path: Path) -> None:
    folder, outside = tmp_path / "out", tmp_path / "outside"
    export(folder)
    (folder / "rules").rename(outside)
    (folder / "rules").symlink_to(outside)
    with pytest.raises(ExportError, match="is a symbolic link"):
        export(folder, {})
    assert content(outside) == {"obskit.yaml": "groups: []\n"}


def test_the_folder_itself_may_be_a_symbolic_link(tmp_path: Path) -> None:
    (tmp_path / "real").mkdir()
    (tmp_path / "out").symlink_to(tmp_path / "real")
    export(tmp_path / "out")
    assert content(tmp_path / "real") == FILES


def manifest(**fields: Any) -> str:
    return json.dumps({"obskit": "1", "service": "shop", "files": {}, **fields})


@pytest.mark.parametrize(
    "text",
    [
        "",
        "[]",
        "{}",
        manifest(files=[]),
        manifest(files={"a": 1}),
        manifest(files={"": "0"}),
        manifest(files={"/etc/passwd": "0"}),
        manifest(files={"../passwd": "0"}),
        manifest(files={"a/../../passwd": "0"}),
        manifest(service=7),
    ],
)
def test_a_damaged_manifest_is_said_to_be_one_and_leads_nowhere(tmp_path: Path, text: str) -> None:
    (tmp_path / MANIFEST).write_text(text)
    with pytest.raises(ExportError, match="is damaged"):
        export(tmp_path, force=True)


def test_a_manifest_that_is_a_folder_is_named(tmp_path: Path) -> None:
    (tmp_path / MANIFEST).mkdir()
    with pytest.raises(ExportError, match=f"cannot look into .*: Is a directory .*{MANIFEST}"):
        export(tmp_path)


def test_a_folder_that_cannot_even_be_looked_into_is_named(tmp_path: Path) -> None:
    with pytest.raises(ExportError, match=r"cannot look into .*: File name too long") as raised:
        export(tmp_path / ("a" * 300))
    assert raised.value.exit_status == 2


class Disk:
    """A disk that refuses once `after` files were staged (or `what` was done that often)."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, what: str, after: int, code: int) -> None:
        self.left = after
        real = getattr(Path, what)

        def refuse(path: Path, *arguments: Any, **named: Any) -> Any:
            if what != "open" or "x" in str(arguments):
                if self.left == 0:
                    raise OSError(code, os.strerror(code), str(path))
                self.left -= 1
            return real(path, *arguments, **named)

        monkeypatch.setattr(Path, what, refuse)


@pytest.mark.parametrize(
    ("what", "after", "code", "said"),
    [
        ("open", 0, errno.EACCES, "Permission denied"),
        ("open", 2, errno.ENOSPC, "No space left on device"),
        ("mkdir", 0, errno.EROFS, "Read-only file system"),
        ("mkdir", 1, errno.EACCES, "Permission denied"),
    ],
)
def test_a_folder_that_refuses_halfway_is_left_as_it_was(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, what: str, after: int, code: int, said: str
) -> None:
    with monkeypatch.context() as patched:
        Disk(patched, what, after, code)
        with pytest.raises(ExportError, match=f"cannot write below .*{said}.*nothing was changed"):
            export(tmp_path / "new")
    assert list(tmp_path.iterdir()) == []
    export(tmp_path / "new")
    assert content(tmp_path / "new") == FILES


def test_a_full_disk_leaves_an_earlier_export_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    export(tmp_path)
    everything = {file.name for file in tmp_path.rglob("*")}
    with monkeypatch.context() as patched:
        Disk(patched, "open", 1, errno.ENOSPC)
        with pytest.raises(ExportError, match="nothing was changed"):
            export(tmp_path, dict.fromkeys(FILES, "new\n"))
    assert content(tmp_path) == FILES
    assert {file.name for file in tmp_path.rglob("*")} == everything


def test_a_failure_after_the_first_file_says_how_far_it_came_and_can_be_made_good(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    wanted = dict.fromkeys(FILES, "new\n")
    export(tmp_path)
    with monkeypatch.context() as patched:
        Disk(patched, "replace", 1, errno.EIO)
        with pytest.raises(ExportError, match="1 of 4 files were written"):
            export(tmp_path, wanted)
    assert not list(tmp_path.rglob("*.tmp"))
    export(tmp_path, wanted)
    assert content(tmp_path) == wanted


def test_a_leftover_that_cannot_be_removed_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    export(tmp_path)

    def refuse(path: Path, missing_ok: bool = False) -> None:
        if not missing_ok:
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(path))

    monkeypatch.setattr(Path, "unlink", refuse)
    with pytest.raises(
        ExportError, match=r"cannot remove .*obskit.yaml, which is left over: Permission denied"
    ):
        export(tmp_path, {"dashboards/a.json": "{}\n", "dashboards/b.json": "{}\n"})


def test_files_can_be_read_by_whom_the_umask_and_the_user_allow(tmp_path: Path) -> None:
    previous = os.umask(0o022)
    try:
        export(tmp_path)
        file = tmp_path / "rules/obskit.yaml"
        assert stat.S_IMODE(file.stat().st_mode) == 0o644
        file.chmod(0o640)
        export(tmp_path, dict.fromkeys(FILES, "new\n"))
        assert stat.S_IMODE(file.stat().st_mode) == 0o640
    finally:
        os.umask(previous)


def test_a_relative_folder_is_the_same_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    export(Path())
    export(Path("../here"), {"dashboards/a.json": "{}\n"})
    assert content(tmp_path / "here") == {"dashboards/a.json": "{}\n"}
    assert not (tmp_path / "here" / "rules").exists()
