"""Pushing dashboards into a running Grafana: the same result every time, and nothing of anybody's overwritten."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from obskit.cli import main
from obskit.export.grafana_http import Grafana
from tests.export.conftest import small_dashboard
from tests.export.fake_grafana import FakeGrafana, Reply, Stored

pytestmark = pytest.mark.usefixtures("small")

UIDS = ["obskit-overview", "obskit-slo"]


def push(capsys: pytest.CaptureFixture[str], grafana: FakeGrafana, *options: str) -> tuple[int, str, str]:
    """`obskit export --push` from the outside: exit status, stdout, stderr; the token is in neither."""
    status = main(["export", "--push", grafana.url, *options])
    said = capsys.readouterr()
    assert "glsa_" not in said.out + said.err
    return status, said.out, said.err


def dashboard_text(small: Path, name: str) -> Any:
    return json.loads((small / "dashboards" / f"obskit-{name}.json").read_text("utf-8"))


def change_shipped(small: Path, name: str, **changes: Any) -> None:
    """What a new version of ours brings."""
    file = small / "dashboards" / f"obskit-{name}.json"
    file.write_text(json.dumps({**dashboard_text(small, name), **changes}), "utf-8")


# ---- the way it should go ---------------------------------------------------------------------------


def test_the_first_push_creates_the_folder_and_every_dashboard_in_it(
    grafana: FakeGrafana, small: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    status, out, err = push(capsys, grafana)
    assert (status, err) == (0, "")
    assert grafana.folders == {"obskit": "obskit"}
    assert sorted(grafana.dashboards) == UIDS
    stored = grafana.dashboards["obskit-slo"]
    assert stored.folder == "obskit"
    assert stored.dashboard == dashboard_text(small, "slo")
    assert "created folder obskit" in out
    assert f"created {grafana.url}/d/obskit-slo" in out
    assert "Grafana 12.4.0" in out


def test_a_second_push_sends_nothing(grafana: FakeGrafana, capsys: pytest.CaptureFixture[str]) -> None:
    push(capsys, grafana)
    grafana.seen.clear()
    status, out, _ = push(capsys, grafana)
    assert status == 0
    assert out.count("unchanged") == 2
    assert grafana.writes == []


def test_a_grafana_that_stores_a_dashboard_in_another_form_is_not_written_to_again(
    grafana: FakeGrafana, capsys: pytest.CaptureFixture[str]
) -> None:
    grafana.stored_as = lambda dashboard: {**dashboard, "preload": False, "schemaVersion": 43}
    push(capsys, grafana)
    grafana.seen.clear()
    status, out, _ = push(capsys, grafana)
    assert status == 0
    assert out.count("unchanged") == 2
    assert grafana.writes == []


def test_a_dashboard_of_ours_is_updated_when_a_new_version_brings_another(
    grafana: FakeGrafana, small: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    push(capsys, grafana)
    change_shipped(small, "slo", title="obskit / Objectives")
    status, out, _ = push(capsys, grafana)
    assert status == 0
    assert f"updated {grafana.url}/d/obskit-slo" in out
    assert f"unchanged {grafana.url}/d/obskit-overview" in out
    assert grafana.dashboards["obskit-slo"].dashboard["title"] == "obskit / Objectives"
    assert grafana.dashboards["obskit-slo"].version == 2


def test_a_folder_that_provisioning_made_under_a_uid_of_its_own_is_used(
    grafana: FakeGrafana, capsys: pytest.CaptureFixture[str]
) -> None:
    grafana.folders.update({"team-a": "Team A", "fe4x": "obskit"})
    _, out, _ = push(capsys, grafana)
    assert {stored.folder for stored in grafana.dashboards.values()} == {"fe4x"}
    assert "folder" not in out


def test_a_folder_that_the_list_does_not_show_is_used_all_the_same(
    grafana: FakeGrafana, capsys: pytest.CaptureFixture[str]
) -> None:
    grafana.folders["obskit"] = "Renamed"
    grafana.replies["GET", "/api/folders"] = Reply(200, b"[]")
    status, out, _ = push(capsys, grafana)
    assert status == 0
    assert {stored.folder for stored in grafana.dashboards.values()} == {"obskit"}
    assert "folder" not in out


@pytest.mark.parametrize("moved_to", ["team-a", ""])
def test_a_dashboard_that_was_moved_stays_where_it_was_moved_to(
    grafana: FakeGrafana, small: Path, capsys: pytest.CaptureFixture[str], moved_to: str
) -> None:
    push(capsys, grafana)
    grafana.folders["team-a"] = "Team A"
    grafana.dashboards["obskit-slo"].folder = moved_to
    change_shipped(small, "slo", title="new")
    assert push(capsys, grafana)[0] == 0
    assert grafana.dashboards["obskit-slo"].folder == moved_to
    assert grafana.dashboards["obskit-slo"].dashboard["title"] == "new"


def test_a_service_opens_its_dashboards_at_its_job(
    grafana: FakeGrafana, capsys: pytest.CaptureFixture[str]
) -> None:
    push(capsys, grafana, "--service", "shop")
    variables = grafana.dashboards["obskit-slo"].dashboard["templating"]["list"]
    chosen = {variable["name"]: variable.get("current", {}).get("value") for variable in variables}
    assert chosen == {"prometheus": None, "job": ["shop"], "instance": ["$__all"]}


def test_a_grafana_below_a_path_is_reached_there(
    grafana: FakeGrafana, capsys: pytest.CaptureFixture[str]
) -> None:
    grafana.replies["GET", "/grafana/api/health"] = Reply(200, b'{"database":"ok"}')
    status, _, err = push(capsys, grafana, "--push", f"{grafana.url}/grafana/")
    assert status == 2
    assert grafana.seen[-1].path.startswith("/grafana/api/")
    assert "/api/folders" in err


def test_a_grafana_that_asks_nobody_for_a_token_needs_none(
    grafana: FakeGrafana, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    grafana.tokens = None
    monkeypatch.delenv("GRAFANA_TOKEN")
    assert push(capsys, grafana)[0] == 0
    assert {one.authorization for one in grafana.seen} == {None}


def test_the_result_can_be_read_by_a_machine(
    grafana: FakeGrafana, capsys: pytest.CaptureFixture[str]
) -> None:
    _, out, _ = push(capsys, grafana, "--json")
    assert json.loads(out) == {
        "grafana": {
            "url": grafana.url,
            "version": "12.4.0",
            "dry_run": False,
            "folder_created": True,
            "dashboards": dict.fromkeys(UIDS, "create"),
        }
    }


# ---- a dry run --------------------------------------------------------------------------------------


def test_a_dry_run_says_what_it_would_do_and_sends_no_request_that_writes(
    grafana: FakeGrafana, small: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    status, out, _ = push(capsys, grafana, "--dry-run")
    assert status == 0
    assert "would create folder obskit" in out
    assert f"would create {grafana.url}/d/obskit-slo" in out
    assert grafana.writes == []
    push(capsys, grafana)
    change_shipped(small, "slo", title="new")
    grafana.seen.clear()
    _, out, _ = push(capsys, grafana, "--dry-run")
    assert f"would update {grafana.url}/d/obskit-slo" in out
    assert f"unchanged {grafana.url}/d/obskit-overview" in out
    assert grafana.writes == []


# ---- what somebody else did there -------------------------------------------------------------------


def test_a_dashboard_saved_by_hand_keeps_everything_from_being_sent(
    grafana: FakeGrafana, small: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    push(capsys, grafana)
    grafana.saved_by_hand("obskit-slo", title="mine")
    change_shipped(small, "overview", title="new")
    grafana.seen.clear()
    status, _, err = push(capsys, grafana)
    assert status == 1
    assert "obskit-slo: changed in Grafana" in err
    assert "--force" in err
    assert grafana.writes == []


def test_a_dry_run_over_a_dashboard_saved_by_hand_ends_as_the_push_would(
    grafana: FakeGrafana, capsys: pytest.CaptureFixture[str]
) -> None:
    grafana.saved_by_hand("obskit-slo", title="mine")
    assert push(capsys, grafana, "--dry-run")[0] == 1


@pytest.mark.parametrize("message", ["", "Restored from version 1", "obskit export by hand", "Initial save"])
def test_a_save_of_anybody_else_is_seen_whatever_its_message(
    grafana: FakeGrafana, capsys: pytest.CaptureFixture[str], message: str
) -> None:
    grafana.saved_by_hand("obskit-slo", message, title="mine")
    assert push(capsys, grafana)[0] == 1


def test_force_overwrites_what_was_saved_by_hand_and_is_ours_again(
    grafana: FakeGrafana, small: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    push(capsys, grafana)
    grafana.saved_by_hand("obskit-slo", title="mine")
    status, out, _ = push(capsys, grafana, "--force")
    assert status == 0
    assert f"updated {grafana.url}/d/obskit-slo" in out
    assert grafana.dashboards["obskit-slo"].dashboard == dashboard_text(small, "slo")
    assert push(capsys, grafana)[1].count("unchanged") == 2


def test_keep_leaves_what_was_saved_by_hand_and_pushes_the_rest(
    grafana: FakeGrafana, small: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    push(capsys, grafana)
    grafana.saved_by_hand("obskit-slo", title="mine")
    change_shipped(small, "overview", title="new")
    status, out, _ = push(capsys, grafana, "--keep")
    assert status == 0
    assert f"changed in Grafana {grafana.url}/d/obskit-slo" in out
    assert grafana.dashboards["obskit-slo"].dashboard["title"] == "mine"
    assert grafana.dashboards["obskit-overview"].dashboard["title"] == "new"


def test_a_dashboard_imported_by_hand_that_is_the_same_is_unchanged(
    grafana: FakeGrafana, small: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    grafana.saved_by_hand("obskit-slo", "imported", **dashboard_text(small, "slo"))
    assert f"unchanged {grafana.url}/d/obskit-slo" in push(capsys, grafana)[1]


def test_a_dashboard_that_grafana_reads_from_a_file_is_not_overwritten_even_with_force(
    grafana: FakeGrafana, capsys: pytest.CaptureFixture[str]
) -> None:
    provisioned = {"uid": "obskit-slo", "title": "old"}
    grafana.dashboards["obskit-slo"] = Stored(provisioned, "", provisioned=True, messages=[""])
    status, _, err = push(capsys, grafana, "--force")
    assert status == 1
    assert "obskit-slo: provisioned from a file" in err
    assert push(capsys, grafana, "--keep")[0] == 0
    assert grafana.dashboards["obskit-slo"].dashboard == provisioned


def test_a_save_between_the_look_and_the_push_is_not_lost(
    grafana: FakeGrafana, small: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    push(capsys, grafana)
    for name in ("overview", "slo"):
        change_shipped(small, name, title="new")

    def somebody(uid: str) -> None:
        if uid == "obskit-slo":
            grafana.saved_by_hand(uid, title="mine")

    grafana.before_save = somebody
    status, _, err = push(capsys, grafana)
    assert status == 1
    assert "somebody saved obskit-slo in Grafana just now (1 of 2 dashboards were saved before)" in err
    assert grafana.dashboards["obskit-slo"].dashboard["title"] == "mine"


def test_a_history_that_cannot_be_read_counts_as_not_ours(
    grafana: FakeGrafana, small: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    push(capsys, grafana)
    change_shipped(small, "slo", title="new")
    grafana.replies["GET", "/api/dashboards/uid/obskit-slo/versions/1"] = Reply(404, b'{"message":"gone"}')
    assert push(capsys, grafana)[0] == 1


# ---- the token --------------------------------------------------------------------------------------


def test_the_token_goes_to_grafana_alone_and_only_after_it_has_said_that_it_is_one(
    grafana: FakeGrafana, capsys: pytest.CaptureFixture[str]
) -> None:
    push(capsys, grafana)
    assert [one.authorization for one in grafana.seen if one.path == "/api/health"] == [None]
    assert {one.authorization for one in grafana.seen[1:]} == {"Bearer glsa_editor"}


def test_without_a_token_it_is_said_where_it_belongs(
    grafana: FakeGrafana, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("GRAFANA_TOKEN", " ")
    status, _, err = push(capsys, grafana)
    assert status == 2
    assert "401 Unauthorized: GRAFANA_TOKEN is not set. It has to hold a service account token" in err


def test_an_unknown_token_is_told_from_a_missing_one(
    grafana: FakeGrafana, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("GRAFANA_TOKEN", "glsa_old")
    status, _, err = push(capsys, grafana)
    assert status == 2
    assert "401 Invalid API key: GRAFANA_TOKEN is unknown or expired" in err


def test_a_token_that_may_only_read_is_answered_with_the_permissions_it_needs(
    grafana: FakeGrafana, small: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("GRAFANA_TOKEN", "glsa_viewer")
    status, _, err = push(capsys, grafana)
    assert status == 2
    assert "GRAFANA_TOKEN may not do that" in err
    assert "dashboards:write" in err
    grafana.folders["obskit"] = "obskit"
    assert "saving obskit-overview: " in push(capsys, grafana)[2]
    # Nor may it read the history, without which we cannot know whose a dashboard is.
    grafana.saved_by_hand("obskit-slo", title="mine")
    status, _, err = push(capsys, grafana)
    assert status == 2
    assert "/versions/1" in err


@pytest.mark.parametrize("token", ["glsa_one\nX-Other: 1", "glsa_ö", "Bearer glsa_one"])
def test_a_token_that_is_none_is_refused_without_being_shown(
    grafana: FakeGrafana, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, token: str
) -> None:
    monkeypatch.setenv("GRAFANA_TOKEN", token)
    status, _, err = push(capsys, grafana)
    assert status == 2
    assert "no token has" in err
    assert grafana.seen == []


@pytest.mark.parametrize(
    "host", ["grafana.example.org", "10.0.0.7", "localhost.example.org", "[2001:db8::1]"]
)
def test_a_token_does_not_travel_unencrypted_to_another_host(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, host: str
) -> None:
    monkeypatch.setenv("GRAFANA_TOKEN", "glsa_editor")
    assert main(["export", "--push", f"http://{host}:3000"]) == 2
    said = capsys.readouterr().err
    assert "unencrypted" in said
    assert "--insecure" in said
    assert "glsa_" not in said


@pytest.mark.parametrize(
    "url", ["https://grafana.example.org", "http://127.9.9.9", "http://[::1]:3000", "http://g.localhost"]
)
def test_a_token_may_travel_encrypted_or_within_the_machine(url: str) -> None:
    assert Grafana(url, "glsa_editor").url == url


def test_insecure_is_the_users_word_that_the_network_is_theirs() -> None:
    assert Grafana("http://grafana.internal", "glsa_editor", insecure=True)


def test_a_redirect_is_not_followed_with_the_token(
    grafana: FakeGrafana, capsys: pytest.CaptureFixture[str]
) -> None:
    with FakeGrafana({}) as other:
        where = {"Location": f"{other.url}/login?secret=1#x"}
        for path in ("/api/health", "/api/dashboards/uid/obskit-overview"):
            grafana.replies = {("GET", path): Reply(302, b"", where)}
            status, _, err = push(capsys, grafana)
            assert status == 2
            assert f"{path} leads on to {other.url}/login (302)" in err
            assert "secret" not in err
        assert other.seen == []


def test_a_proxy_is_not_asked_for_the_own_machine(
    grafana: FakeGrafana, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("http_proxy", "HTTP_PROXY"):
        monkeypatch.setenv(name, "http://127.0.0.1:1")
    for name in ("no_proxy", "NO_PROXY"):
        monkeypatch.delenv(name, raising=False)
    assert push(capsys, grafana)[0] == 0


def test_the_small_dashboards_are_what_a_shipped_one_looks_like(small: Path) -> None:
    assert dashboard_text(small, "slo") == small_dashboard("slo")
