"""Addresses in alerts: where they lead, and which are refused."""

from __future__ import annotations

import re

import pytest

from obskit.export.errors import ExportDiffers, ExportError
from obskit.export.links import Links, dashboard_uid, runbook_panel_id, web_address


def test_a_dashboard_is_opened_with_a_variable_for_each_label() -> None:
    assert Links().dashboard("routes", "job", "http_route") == (
        "http://localhost:3000/d/obskit-routes?var-job={{ $labels.job | urlquery }}"
        "&var-http_route={{ $labels.http_route | urlquery }}"
    )
    assert Links().dashboard("telemetry") == "http://localhost:3000/d/obskit-telemetry"
    assert Links().dashboard("slo", "job", dot=".Labels").endswith("?var-job={{ .Labels.job | urlquery }}")
    assert dashboard_uid("slo") == "obskit-slo"


def test_a_runbook_is_a_panel_in_grafana_or_a_file_at_the_users_own_address() -> None:
    own = Links(grafana_url="https://grafana.example", runbook_base="https://wiki.example/obskit")
    assert own.runbook("ObskitRouteErrors") == "https://wiki.example/obskit/ObskitRouteErrors.md"
    panel = runbook_panel_id("ObskitRouteErrors")
    assert (
        Links(grafana_url="https://grafana.example").runbook("ObskitRouteErrors")
        == f"https://grafana.example/d/obskit-runbooks?viewPanel={panel}"
    )


def test_the_panel_of_a_runbook_keeps_its_number_for_ever() -> None:
    # Links to it are in old messages.
    assert runbook_panel_id("ObskitRouteErrors") == 389238
    assert runbook_panel_id("ObskitServiceAbsent") == 983803


@pytest.mark.parametrize(
    ("text", "address"),
    [
        ("https://grafana.example", "https://grafana.example"),
        ("https://grafana.example/", "https://grafana.example"),
        ("http://[::1]:3000/grafana//", "http://[::1]:3000/grafana"),
    ],
)
def test_an_address_loses_its_trailing_slashes(text: str, address: str) -> None:
    assert web_address(text, "--grafana-url") == address


@pytest.mark.parametrize(
    "text",
    [
        "",
        "grafana.example",
        "ftp://grafana.example",
        "https://",
        "https://grafana.example/?orgId=1",
        "https://grafana.example/#a",
        "https://grafana.example:port",
        "https://grafana.example:99999",
        "https://[::1",
        "https://grafana.example/a b",
        "https://grafana.example/{{a}}",
        "https://grafana.example/'a",
        'https://grafana.example/"a',
    ],
)
def test_what_is_no_address_is_refused_with_what_was_seen(text: str) -> None:
    message = f"--grafana-url: saw {text!r}, expected an address such as https://"
    with pytest.raises(ExportError, match=re.escape(message)):
        web_address(text, "--grafana-url")


@pytest.mark.parametrize("text", ["https://me@grafana.example", "https://me:secret@grafana.example"])
def test_a_password_in_an_address_is_refused_and_not_repeated(text: str) -> None:
    with pytest.raises(ExportError, match="leave user and password out") as refused:
        web_address(text, "--grafana-url")
    assert "secret" not in str(refused.value)


def test_errors_carry_the_exit_status_they_end_in() -> None:
    assert (ExportError.exit_status, ExportDiffers.exit_status) == (2, 1)
