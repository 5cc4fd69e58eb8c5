"""Alerts about findings follow from the declarations of their detectors."""

from __future__ import annotations

import re

import pytest

from obskit.detectors import shipped
from obskit.export import rules
from obskit.export.objectives import DEFAULTS
from obskit.export.rules import findings
from obskit.export.rules.model import Alert
from obskit.export.rules.series import RecordedSeries
from obskit.findings import Detector

ALERTS = {alert.name: alert for alert in rules.alerts(DEFAULTS)}
FAMILY = {alert.name: alert for alert in findings.alerts(RecordedSeries())}

each = pytest.mark.parametrize("detector", shipped(), ids=lambda detector: detector.name)


def family_of(monkeypatch: pytest.MonkeyPatch, *detectors: Detector) -> dict[str, Alert]:
    monkeypatch.setattr(findings, "shipped", lambda: detectors)
    return {alert.name: alert for alert in findings.alerts(RecordedSeries())}


def detector(name: str, runbook: str, **more: str) -> Detector:
    return Detector(name=name, help="It happened.", why="Nobody said.", runbook=runbook, **more)  # type: ignore[arg-type]


@each
def test_every_detector_that_ships_has_its_alert_with_the_severity_it_declares(detector: Detector) -> None:
    assert ALERTS[detector.runbook].severity == detector.severity


@each
def test_an_alert_of_the_family_says_what_its_detector_declares(detector: Detector) -> None:
    alert = FAMILY.get(detector.runbook)
    if alert is None:
        assert f'outcome="{detector.name.removesuffix("_response")}' in ALERTS[detector.runbook].expr
    else:
        assert detector.help in alert.description
        assert detector.why in alert.description


def test_a_new_detector_has_an_alert_at_its_first_finding_without_another_line_of_code(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    family = family_of(monkeypatch, detector("lost_parcel", "ObskitLostParcels", severity="critical"))
    alert = family["ObskitLostParcels"]
    assert alert.severity == "critical"
    assert 'finding="lost_parcel"' in alert.expr
    assert " > 0 or " in alert.expr


def test_a_detector_without_a_runbook_has_no_alert_and_is_none_of_the_users_own(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    family = family_of(monkeypatch, detector("lost_parcel", ""))
    assert list(family) == [findings.OWN]
    assert 'finding!~"lost_parcel"' in family[findings.OWN].expr


def test_a_detector_whose_runbook_belongs_to_an_outcome_has_no_second_alert(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    assert list(family_of(monkeypatch, detector("gone", "ObskitClientDisconnects"))) == [findings.OWN]


def test_the_alert_for_the_users_own_detectors_leaves_out_every_one_that_ships() -> None:
    (names,) = set(re.findall(r'finding!~"([^"]+)"', FAMILY[findings.OWN].expr))
    assert set(names.split("|")) == {detector.name for detector in shipped()}


def test_what_has_a_form_of_its_own_is_a_detector() -> None:
    assert set(findings._FORMS) <= {detector.name for detector in shipped()}
