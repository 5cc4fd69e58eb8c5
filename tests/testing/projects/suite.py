"""The user's test suite, the same for every framework; `shop` is the module with the application."""

import pytest
from orders import go_on, started
from shop import app

import obskit


@pytest.fixture(autouse=True)
def nobody_waits():
    started.clear()
    go_on.clear()
    yield
    go_on.set()


def test_a_good_order_has_no_finding(telemetry, chaos):
    seen = chaos(app).post("/orders", json={"sku": "chair"})
    assert (seen.status, seen.json()) == (200, {"status": "accepted"})
    assert telemetry.findings == []
    assert telemetry.line["outcome"] == "completed"
    assert telemetry.span.attributes["http.response.status_code"] == 200
    assert telemetry.metric("obskit_http_server_outcomes_total", outcome="completed") == 1


@pytest.mark.parametrize("again", [1, 2])
def test_what_an_earlier_test_sent_is_no_repeat(telemetry, chaos, again):
    chaos(app).post("/orders", json={"sku": "chair"})
    assert telemetry.findings == []


def test_an_order_that_is_charged_and_not_saved_is_a_partial_write(telemetry, chaos):
    assert chaos(app).post("/orders", json={"sku": "unsaved"}).status == 200
    assert telemetry.findings == ["partial_write"]
    found = telemetry.finding("partial_write")
    assert found.evidence["missing"] == ("saved",)
    assert found.http_route == "/orders"
    assert telemetry.line["evidence"]["partial_write"]["unit"] == "checkout"
    assert [event.name for event in telemetry.span.events] == ["obskit.finding"]
    assert telemetry.metric("obskit_partial_writes_total", kind="unit_of_work") == 1


def test_a_stock_that_cannot_be_had_is_a_soft_error(telemetry, chaos):
    assert chaos(app).get("/stock").status == 200
    assert telemetry.findings == ["soft_error"]


def test_a_double_click_is_seen(telemetry, chaos):
    first, second = chaos(app).request("POST", "/orders", json={"sku": "lamp"}).doubled()
    assert first.status == second.status == 200
    assert telemetry.findings == ["duplicate_request"]
    assert telemetry.finding("duplicate_request").evidence["kind"] == "concurrent"
    assert telemetry.metric("obskit_duplicate_requests_total", kind="concurrent") == 1


def test_a_retry_after_giving_up_is_seen(telemetry, chaos):
    client = chaos(app)
    report = client.request("POST", "/report")
    report.cut_download(until=started.wait)
    client.get("/elsewhere")  # a server that answers this has noticed what came before
    go_on.set()
    telemetry.wait_for(finding="client_disconnect")
    assert report.send().status == 200
    assert telemetry.findings == ["client_disconnect", "duplicate_request"]
    assert telemetry.finding("duplicate_request").evidence["kind"] == "retry_after_abort"


def test_what_the_app_logs_is_there(telemetry):
    obskit.get_logger("shop").info("stock.counted", pieces=3)
    (line,) = telemetry.log_lines
    assert (line["event"], line["pieces"]) == ("stock.counted", 3)
