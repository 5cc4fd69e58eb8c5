"""`obskit export` from the outside: what it accepts, what it says, what it leaves on disk, and its exit status."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from obskit.cli import main
from obskit.export import bundle, shipped
from obskit.export.request import Request
from obskit.export.write import MANIFEST
from tests.export.fake_grafana import FakeGrafana


def export(capsys: pytest.CaptureFixture[str], *arguments: str | Path) -> tuple[int, str, str]:
    """Exit status, stdout and stderr of `obskit export`."""
    status = main(["export", *map(str, arguments)])
    said = capsys.readouterr()
    return status, said.out, said.err


def tree(folder: Path) -> set[str]:
    return {file.relative_to(folder).as_posix() for file in folder.rglob("*") if file.is_file()}


@pytest.fixture
def out(small: Path, tmp_path: Path) -> Path:
    """A folder to export into, which is not there yet."""
    return tmp_path / "out"


# ---- writing ----------------------------------------------------------------------------------------


def test_an_export_writes_every_file_and_says_where_each_belongs(
    out: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    status, said, err = export(capsys, out, "--service", "shop")
    assert (status, err) == (0, "")
    assert tree(out) == {
        MANIFEST,
        "alertmanager/alertmanager.yaml",
        "dashboards/obskit-overview.json",
        "dashboards/obskit-slo.json",
        "provisioning/dashboards/obskit.yaml",
        "provisioning/datasources/obskit.yaml",
        "rules/obskit-shop.yaml",
        "runbooks/ObskitServiceAbsent.md",
        "runbooks/README.md",
    }
    assert said.startswith(f"{out}: 8 written, 0 unchanged, 0 removed, 0 kept\n")
    for told in (
        "rule_files in prometheus.yml",
        "/etc/grafana/provisioning",
        "--push URL",
        "--runbook-base",
        MANIFEST,
    ):
        assert told in said


def test_an_export_says_when_its_links_lead_to_the_default_grafana(
    out: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    _, said, _ = export(capsys, out)
    assert said.endswith(
        "The alerts link to http://localhost:3000: name your own Grafana with --grafana-url\n"
    )
    _, said, _ = export(capsys, out, "--grafana-url", "https://grafana.example.org")
    assert "localhost" not in said


def test_the_installed_command_does_the_same(tmp_path: Path) -> None:
    command = Path(sys.executable).with_name("obskit")
    arguments = ["export", "out", "--service", "shop", "--json"]
    done = subprocess.run([command, *arguments], cwd=tmp_path, capture_output=True, text=True, timeout=120)
    assert (done.returncode, done.stderr) == (0, "")
    report = json.loads(done.stdout)
    assert set(report["written"]) | {MANIFEST} == tree(tmp_path / "out")
    assert "rules/obskit-shop.yaml" in report["written"]
    checked = subprocess.run([command, *arguments, "--check"], cwd=tmp_path, capture_output=True, timeout=120)
    assert checked.returncode == 0


def test_for_the_operator_it_says_how_to_apply(out: Path, capsys: pytest.CaptureFixture[str]) -> None:
    status, said, _ = export(
        capsys,
        out,
        "--format",
        "operator",
        "--service",
        "shop",
        "--namespace",
        "mon",
        "--label",
        "release=kps",
    )
    assert status == 0
    assert f"kubectl apply --server-side -R -f {out}/manifests" in said
    monitor = yaml.safe_load((out / "manifests/servicemonitor.yaml").read_text())
    assert monitor["metadata"]["namespace"] == "mon"
    assert monitor["metadata"]["labels"]["release"] == "kps"


def test_another_format_takes_the_place_of_the_first(out: Path, capsys: pytest.CaptureFixture[str]) -> None:
    export(capsys, out)
    status, said, _ = export(capsys, out, "--format", "grafana", "--prometheus-uid", "prom-1")
    assert status == 0
    assert "removed rules/obskit.yaml" in said
    assert "provisioning/alerting/obskit.yaml" in tree(out)
    assert not (out / "rules").exists()
    assert "datasourceUid: prom-1" in (out / "provisioning/alerting/obskit.yaml").read_text()


def test_options_reach_what_is_written(out: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["--service", "shop", "--job", "prod/shop", "--runbook-base", "https://docs.example.org/run/"]
    arguments += [
        "--grafana-url",
        "https://grafana.example.org/",
        "--loki-uid",
        "loki-1",
        "--tempo-uid",
        "tempo-1",
    ]
    assert export(capsys, out, *arguments)[0] == 0
    rules = (out / "rules/obskit-shop.yaml").read_text()
    assert 'job="prod/shop"' in rules
    assert "https://docs.example.org/run/ObskitServiceAbsent.md" in rules
    assert "https://grafana.example.org/d/obskit-slo" in rules
    sources = (out / "provisioning/datasources/obskit.yaml").read_text()
    assert "datasourceUid: loki-1" in sources
    assert "datasourceUid: tempo-1" in sources


OBJECTIVES = ["availability=99.5", "latency=95:250ms", "latency@/checkout=95:0.25s"]


@pytest.mark.parametrize(
    "arguments",
    [
        ["DIR", "--slo", *OBJECTIVES],
        ["--slo", *OBJECTIVES, "DIR"],
        ["--slo", *OBJECTIVES, "--service", "shop", "DIR"],
        ["--slo", OBJECTIVES[0], "--slo", *OBJECTIVES[1:], "DIR"],
        ["--slo", OBJECTIVES[0], "DIR", "--slo", *OBJECTIVES[1:]],
        ["--slo", *OBJECTIVES, "--", "DIR"],
    ],
)
def test_objectives_and_folder_may_stand_in_any_order(
    out: Path, capsys: pytest.CaptureFixture[str], arguments: list[str]
) -> None:
    status, _, err = export(capsys, *(str(out) if one == "DIR" else one for one in arguments))
    assert (status, err) == (0, "")
    ((path, text),) = [(file, file.read_text()) for file in (out / "rules").iterdir()]
    for share in ("0.995", "0.95 *", 'http_route="/checkout"'):
        assert share in text, path


def test_a_mistyped_objective_is_not_taken_for_the_folder(
    out: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(out.parent)
    for arguments in (
        ["--slo", "availability99.9"],
        [str(out), "--slo", "latency=99:1s", "availability99.9"],
    ):
        assert export(capsys, *arguments)[0] == 2
    assert not Path("availability99.9").exists()


# ---- what is wrong ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ([], "say where to: a folder, or --push URL, or both"),
        (["--check"], "say where to"),
        (["--check", "--push", "http://localhost:3000"], "--check compares a folder"),
        (["DIR", "--check", "--push", "http://localhost:3000"], "--check compares a folder"),
        (["DIR", "--slo", "availability=100"], "--slo: saw 100 % of good requests"),
        (["DIR", "--slo", "latency=99:0.3s"], "--slo: saw '0.3s' as latency threshold"),
        (["DIR", "--slo", "errors=1"], "--slo: saw 'errors=1', expected availability=99.9"),
        (["DIR", "--service", "../../etc"], "--service: saw '../../etc'"),
        (["DIR", "--job", "shop"], "give --service as well"),
        (["DIR", "--format", "helm"], "--format: saw 'helm', expected one of"),
        (["DIR", "--format", "operator"], "--format operator needs --service"),
        (["DIR", "--label", "a=b"], "--format operator only"),
        (["DIR", "--label", "ab"], "--label: saw 'ab'"),
        (["DIR", "--tempo-uid", "a b"], "--tempo-uid: saw 'a b'"),
        (["DIR", "--grafana-url", "grafana"], "--grafana-url: saw 'grafana', expected an address"),
        (["DIR", "--runbook-base", "ftp://x"], "--runbook-base: saw 'ftp://x'"),
        (["--push", "https://user:secret@grafana"], "--push: leave user and password out"),
        (["DIR", "--force", "--keep"], "not allowed with argument"),
        (["DIR", "--slo"], "expected at least one argument"),
    ],
)
def test_a_wrong_wish_is_answered_with_what_was_seen_and_writes_nothing(
    out: Path, capsys: pytest.CaptureFixture[str], arguments: list[str], said: str
) -> None:
    status, printed, err = export(capsys, *(str(out) if one == "DIR" else one for one in arguments))
    assert status == 2
    assert printed == ""
    assert said in err
    assert "Traceback" not in err
    assert not out.exists()


def test_a_folder_that_cannot_be_made_is_named(small: Path, capsys: pytest.CaptureFixture[str]) -> None:
    status, _, err = export(capsys, "/proc/obskit")
    assert status == 2
    assert err.startswith("obskit export: cannot write below /proc/obskit: ")
    assert "nothing was changed" in err


def test_a_file_in_place_of_the_folder_is_named(out: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out.write_text("mine")
    assert export(capsys, out)[0] == 2
    assert out.read_text() == "mine"


def test_without_pyyaml_it_says_what_to_install(
    out: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "yaml", None)
    status, _, err = export(capsys, out)
    assert status == 2
    assert err.endswith("pip install 'obskit-web[cli]'\n")


def test_without_the_shipped_files_it_says_so(
    out: Path, capsys: pytest.CaptureFixture[str], small: Path
) -> None:
    for file in (small / "dashboards").iterdir():
        file.unlink()
    status, _, err = export(capsys, out)
    assert status == 2
    assert "Reinstall obskit-web" in err


def test_neither_help_nor_the_other_commands_load_what_an_export_needs() -> None:
    program = (
        "import sys, obskit.cli\n"
        "try:\n    obskit.cli.main(['export', '--help'])\n"
        "finally:\n    print(*sorted(sys.modules), file=sys.stderr)"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60)
    assert done.stdout.startswith("usage: obskit export")
    loaded = set(done.stderr.split())
    assert "obskit.export.command" in loaded
    assert not loaded & {
        "yaml",
        "obskit.export.rules",
        "obskit.export.bundle",
        "urllib.request",
        "http.client",
        "ssl",
    }


# ---- what the user changed --------------------------------------------------------------------------


def test_a_changed_file_is_listed_and_nothing_is_written(
    out: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    export(capsys, out)
    file = out / "alertmanager/alertmanager.yaml"
    file.write_text("mine\n")
    (out / "rules/obskit.yaml").unlink()
    status, said, err = export(capsys, out)
    assert (status, said) == (1, "")
    assert "alertmanager/alertmanager.yaml: changed by you" in err
    assert file.read_text() == "mine\n"
    assert not (out / "rules/obskit.yaml").exists()


def test_keep_and_force_are_the_two_ways_on(out: Path, capsys: pytest.CaptureFixture[str]) -> None:
    export(capsys, out)
    file = out / "alertmanager/alertmanager.yaml"
    file.write_text("mine\n")
    status, said, _ = export(capsys, out, "--keep", "--slo", "availability=99")
    assert status == 0
    assert "kept as you changed it: alertmanager/alertmanager.yaml" in said
    assert file.read_text() == "mine\n"
    assert "0.99 *" in (out / "rules/obskit.yaml").read_text()
    status, said, _ = export(capsys, out, "--force")
    assert status == 0
    assert said.startswith(f"{out}: 2 written, 6 unchanged")
    assert file.read_text() != "mine\n"


def test_the_folder_of_another_service_is_not_taken_over(
    out: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    export(capsys, out, "--service", "shop")
    for arguments in ([], ["--check"], ["--dry-run"]):
        status, _, err = export(capsys, out, "--service", "checkout", *arguments)
        assert status == 1
        assert "holds the export for service shop" in err
    assert "rules/obskit-shop.yaml" in tree(out)


# ---- checking ---------------------------------------------------------------------------------------


def test_a_check_of_a_fresh_export_finds_nothing(out: Path, capsys: pytest.CaptureFixture[str]) -> None:
    export(capsys, out)
    before = {file: file.stat().st_mtime_ns for file in out.rglob("*")}
    assert export(capsys, out, "--check") == (0, f"{out} is as this export writes it\n", "")
    assert {file: file.stat().st_mtime_ns for file in out.rglob("*")} == before


def test_a_check_lists_every_difference_with_its_kind_and_mends_none(
    out: Path, small: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (small / "runbooks/Old.md").write_text("old\n")
    export(capsys, out)
    (small / "runbooks/Old.md").unlink()
    (small / "runbooks/README.md").write_text("# new\n")
    (small / "runbooks/New.md").write_text("# new\n")
    (out / "runbooks/New.md").write_text("# mine\n")
    (out / "rules/obskit.yaml").unlink()
    (out / "alertmanager/alertmanager.yaml").write_text("mine\n")
    before = tree(out)
    status, said, _ = export(capsys, out, "--check")
    assert status == 1
    assert said.splitlines() == [
        "changed by you: alertmanager/alertmanager.yaml",
        "missing: rules/obskit.yaml",
        "not written by obskit: runbooks/New.md",
        "differs: runbooks/README.md",
        "left over: runbooks/Old.md",
    ]
    assert tree(out) == before
    report = json.loads(export(capsys, out, "--check", "--json")[1])
    assert report["differences"]["rules/obskit.yaml"] == "missing"


def test_a_check_of_other_objectives_finds_the_rules(out: Path, capsys: pytest.CaptureFixture[str]) -> None:
    export(capsys, out)
    assert export(capsys, out, "--check", "--slo", "availability=99")[:2] == (
        1,
        "differs: rules/obskit.yaml\n",
    )


def test_a_check_that_keeps_what_the_user_changed_finds_only_the_rest(
    out: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    export(capsys, out)
    (out / "alertmanager/alertmanager.yaml").write_text("mine\n")
    assert export(capsys, out, "--check")[0] == 1
    assert export(capsys, out, "--check", "--keep")[0] == 0
    (out / "rules/obskit.yaml").unlink()
    assert export(capsys, out, "--check", "--keep")[:2] == (1, "missing: rules/obskit.yaml\n")


def test_a_check_of_nothing_finds_everything_missing(out: Path, capsys: pytest.CaptureFixture[str]) -> None:
    status, said, _ = export(capsys, out, "--check")
    assert status == 1
    assert said.count("missing: ") == 8
    assert not out.exists()


# ---- a dry run --------------------------------------------------------------------------------------


def test_a_dry_run_says_what_would_happen_and_does_not_let_it(
    out: Path, small: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    status, said, _ = export(capsys, out, "--dry-run")
    assert status == 0
    assert "would write rules/obskit.yaml" in said
    assert not out.exists()
    export(capsys, out)
    assert export(capsys, out, "--dry-run")[:2] == (0, f"{out} is as this export writes it already\n")
    (out / "alertmanager/alertmanager.yaml").write_text("mine\n")
    (out / "runbooks/README.md").write_text("mine\n")
    (small / "runbooks/README.md").unlink()
    (small / "dashboards/obskit-slo.json").unlink()
    status, said, _ = export(capsys, out, "--dry-run")
    assert status == 1
    assert said.splitlines() == [
        "would refuse, because it is changed by you, alertmanager/alertmanager.yaml",
        "would remove dashboards/obskit-slo.json",
        "would leave, because it is changed by you, runbooks/README.md",
    ]
    status, said, _ = export(capsys, out, "--dry-run", "--force", "--json")
    assert status == 0
    assert set(json.loads(said)["would_change"]) > {"alertmanager/alertmanager.yaml"}
    assert "would overwrite alertmanager" in export(capsys, out, "--dry-run", "--force")[1]
    assert "alertmanager" not in export(capsys, out, "--dry-run", "--keep")[1]
    assert (out / "dashboards/obskit-slo.json").exists()


# ---- machine readable, and with a push --------------------------------------------------------------


def test_the_report_for_machines_says_what_became_of_each_file(
    out: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    export(capsys, out)
    (out / "rules/obskit.yaml").unlink()
    (out / "runbooks/README.md").write_text("mine\n")
    report = json.loads(export(capsys, out, "--json", "--keep", "--format", "grafana")[1])
    assert report["directory"] == str(out)
    assert report["written"] == ["provisioning/alerting/obskit.yaml"]
    assert report["removed"] == ["alertmanager/alertmanager.yaml"]
    assert report["kept"] == ["runbooks/README.md"]
    assert "dashboards/obskit-slo.json" in report["unchanged"]


def test_a_failure_is_in_the_report_for_machines_as_well(
    out: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    status, said, err = export(capsys, out, "--json", "--service", "..")
    assert status == 2
    assert json.loads(said)["error"] in err


def test_files_and_push_go_together(
    out: Path, grafana: FakeGrafana, capsys: pytest.CaptureFixture[str]
) -> None:
    status, _, err = export(capsys, out, "--push", grafana.url)
    assert (status, err) == (0, "")
    assert sorted(grafana.dashboards) == ["obskit-overview", "obskit-slo"]
    # Alerts lead to the Grafana that was pushed to.
    assert f"{grafana.url}/d/obskit-slo" in (out / "rules/obskit.yaml").read_text()


def test_nothing_is_pushed_when_the_files_could_not_be_written(
    out: Path, grafana: FakeGrafana, capsys: pytest.CaptureFixture[str]
) -> None:
    out.mkdir()
    (out / "rules").mkdir()
    (out / "rules/obskit.yaml").write_text("mine\n")
    assert export(capsys, out, "--push", grafana.url)[0] == 1
    assert export(capsys, out, "--push", grafana.url, "--dry-run")[0] == 1
    assert grafana.seen == []


def test_a_push_takes_the_dashboards_of_every_format(
    grafana: FakeGrafana, small: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert export(capsys, "--push", grafana.url, "--format", "operator", "--service", "shop")[0] == 0
    assert sorted(grafana.dashboards) == sorted(shipped.dashboards())
    assert bundle.dashboards(Request(service="shop")).keys() == shipped.dashboards().keys()
