"""Tests that are wrong: each must fail, and say what was seen."""

from shop import app


def test_expects_no_finding(telemetry, chaos):
    chaos(app).post("/orders", json={"sku": "unsaved"})
    assert telemetry.findings == []


def test_expects_another_finding(telemetry, chaos):
    chaos(app).post("/orders", json={"sku": "unsaved"})
    telemetry.finding("soft_error")


def test_waits_for_what_never_comes(telemetry, chaos):
    chaos(app).get("/stock")
    telemetry.wait_for(2, timeout_s=0.1)


def test_asks_for_a_metric_that_is_none(telemetry):
    telemetry.metric("obskit_finding_total")


def test_asks_for_a_label_that_is_none(telemetry):
    telemetry.metric("obskit_findings_total", route="/orders")


def test_goes_elsewhere(chaos):
    chaos("http://192.0.2.1:8000")


def test_takes_two_for_one(telemetry, chaos):
    client = chaos(app)
    client.get("/stock")
    client.get("/stock")
    assert telemetry.line
