"""Real faults in real services: the shipped rules see them, Alertmanager tells of them and of their end.

Every duration of the rules is divided by one factor (tests/support/watched/world.py); all else is as shipped.
"""

from __future__ import annotations

import json
from urllib.parse import parse_qs, urlsplit

import pytest

from obskit.export.alertmanager import configuration
from obskit.export.objectives import DEFAULTS
from obskit.export.rules import alerts, groups
from tests.grafana.dashboard_files import all_panels, shipped
from tests.support.alertmanager import Delivered
from tests.support.watched.faults import TRACKS
from tests.support.watched.story import Seen, Story

pytestmark = pytest.mark.e2e

WATCHDOG = "ObskitWatchdog"
EXPECTED = [labels["alertname"] for track in TRACKS for fault in track for labels in fault.alerts]
HELD = {alert.name for alert in alerts(DEFAULTS) if alert.hold}

# Alerts that this run does not bring about. Their promtool tests show them firing and staying quiet.
NOT_BROUGHT_ABOUT = {
    "ObskitCpuSaturated": "a core of its own for ten seconds is not to be had on a machine that runs other tests",
    "ObskitWorkersDying": "the service whose process is killed here takes no part in its server's lifespan: "
    "nobody can say that it did not end in good order",
    "ObskitWorkersMissing": "each server of this run has one worker",
    "ObskitOldestRequest": "its minute is one by the clock",
    "ObskitCapacityExhausted": "the servers that are kept busy here set no limit",
    "ObskitRequestsQueue": "there is no proxy in front",
    "ObskitBacklogFull": "a server that does not accept answers no scrape either, with one worker",
    "ObskitThreadpoolExhausted": "forty threads that wait leave no room for the other faults of this machine",
    "ObskitGcPauses": "a collector that takes a twentieth of the time takes it from the other faults, too",
    "ObskitServerTimeouts": "no server of this run ends a request for its length",
}

only = pytest.mark.parametrize("name", EXPECTED)


def when(story: Story, seen: Seen, state: str) -> list[float]:
    """The moments of the run at which Prometheus held the alert in this state."""
    matchers = ",".join(
        f"{name}={json.dumps(value)}" for name, value in {**seen.labels, "alertstate": state}.items()
    )
    series = story.world.prometheus.query_range(f"ALERTS{{{matchers}}}", story.world.began, story.ended)
    return sorted(moment for _, samples in series for moment, _ in samples)


def fired(story: Story, name: str) -> Delivered:
    seen = story.of(name)
    assert seen.fired is not None, seen.problem
    return seen.fired


def test_every_rule_is_evaluated_without_an_error(story: Story) -> None:
    rules = story.world.prometheus.rules()
    assert {rule["name"] for rule in rules} >= {alert.name for alert in alerts(DEFAULTS)}
    assert {rule["name"]: rule["lastError"] for rule in rules if rule["health"] != "ok"} == {}
    assert story.world.prometheus.log() == ""
    assert story.world.alertmanager.log() == ""


def test_while_all_is_well_only_the_watchdog_fires(story: Story) -> None:
    watched_s = int(story.faults_began - story.world.began)
    firing = story.world.prometheus.query(
        f'group by (alertname) (last_over_time(ALERTS{{alertstate="firing"}}[{watched_s}s]))',
        at=story.faults_began,
    )
    assert [labels["alertname"] for labels, _ in firing] == [WATCHDOG]
    delivered = [one for one in story.world.webhook.delivered if one.at < story.faults_began]
    assert {(one.receiver, one.labels["alertname"]) for one in delivered} == {("deadman", WATCHDOG)}


def test_all_is_well_means_traffic_to_every_service(story: Story) -> None:
    # Without this, the test above could be about services that nobody asks.
    rates = story.world.prometheus.query("job:http_server_requests:rate5m", at=story.faults_began)
    assert {labels["job"] for labels, rate in rates if rate > 1} == {"shop", "orders", "edge", "mute"}


@only
def test_a_fault_makes_the_alert_pending_for_its_time_and_then_firing(story: Story, name: str) -> None:
    seen = story.of(name)
    assert seen.fired is not None, seen.problem
    firing = when(story, seen, "firing")
    assert firing
    assert firing[0] >= seen.began - 1
    if name in HELD:
        pending = when(story, seen, "pending")
        assert pending
        assert pending[0] < firing[0]


@only
def test_the_alert_is_delivered_while_the_fault_lasts_and_resolved_after_it(story: Story, name: str) -> None:
    seen = story.of(name)
    assert seen.fired is not None, seen.problem
    assert seen.resolved is not None, seen.problem
    assert seen.began < seen.fired.at <= seen.ended
    assert seen.fired.at < seen.resolved.at


def test_alerts_of_every_family_were_seen() -> None:
    families = {alert.name: group.name for group in groups(DEFAULTS) for alert in group.alerts}
    assert {families[name] for name in EXPECTED} == set(families.values())
    assert len(set(families.values())) >= 8


def test_what_is_not_brought_about_is_listed_with_its_reason() -> None:
    every = {alert.name for alert in alerts(DEFAULTS)} - {WATCHDOG}
    assert sorted(NOT_BROUGHT_ABOUT) == sorted(every - set(EXPECTED))


@only
def test_its_texts_are_filled_in(story: Story, name: str) -> None:
    annotations = fired(story, name).annotations
    assert set(annotations) == {"summary", "description", "runbook_url", "dashboard_url"}
    assert not [text for text in annotations.values() if "{{" in text or "<no value>" in text or "%!" in text]
    assert fired(story, name).labels["job"] in annotations["summary"] + annotations["description"]


@only
def test_its_links_lead_to_a_dashboard_and_a_runbook_that_exist(story: Story, name: str) -> None:
    delivered = fired(story, name)
    by_uid = {dashboard["uid"]: dashboard for dashboard in shipped().values()}

    link = urlsplit(delivered.annotations["dashboard_url"])
    uid = link.path.removeprefix("/d/")
    assert uid in by_uid
    dashboard = by_uid[uid]
    variables = {variable["name"] for variable in dashboard["templating"]["list"]}
    chosen = {key.removeprefix("var-"): value for key, (value,) in parse_qs(link.query).items()}
    assert chosen["job"] == delivered.labels["job"]
    assert set(chosen) <= variables
    assert chosen.items() <= delivered.labels.items()

    link = urlsplit(delivered.annotations["runbook_url"])
    uid = link.path.removeprefix("/d/")
    assert uid in by_uid
    (panel,) = parse_qs(link.query)["viewPanel"]
    runbooks = {str(one["id"]): one["title"] for one in all_panels(by_uid[uid])}
    assert runbooks.get(panel) == name


@only
def test_its_severity_decides_who_hears_of_it(story: Story, name: str) -> None:
    delivered = fired(story, name)
    assert delivered.receiver == ("page" if delivered.labels["severity"] == "critical" else "ticket")


def test_the_watchdog_keeps_arriving_and_never_resolves(story: Story) -> None:
    arrived = [one for one in story.world.webhook.delivered if one.labels["alertname"] == WATCHDOG]
    assert {(one.receiver, one.status) for one in arrived} == {("deadman", "firing")}
    # Five minutes apart, five seconds here: more than half of those that are due.
    assert len(arrived) > (story.ended - story.world.began) / 10


def test_a_ticket_is_not_written_while_the_page_of_the_same_name_tells_it(story: Story) -> None:
    page = story.of("ObskitAvailabilityBudgetBurn")
    assert page.fired is not None
    assert page.resolved is not None
    tickets = [
        one
        for one in story.world.webhook.delivered
        if one.has({**page.labels, "severity": "warning"}) and page.fired.at < one.at < page.resolved.at
    ]
    assert tickets == []
    # It was there to be told: the rule fired, and Alertmanager kept it back.
    assert when(story, Seen({**page.labels, "severity": "warning"}, "", 0.0), "firing")


def test_the_sample_configuration_is_what_alertmanager_ran_on(story: Story) -> None:
    written = json.loads((story.world.alertmanager.directory / "alertmanager.yml").read_text())
    assert written["inhibit_rules"] == configuration()["inhibit_rules"]
    assert [receiver["name"] for receiver in written["receivers"]] == ["page", "ticket", "deadman"]
