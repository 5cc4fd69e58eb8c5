"""What a scrape gets: the format it asks for, everything this process measures, and only if it may look."""

from __future__ import annotations

import gzip
import shutil
import socket
import subprocess
from collections.abc import Callable, Iterator
from typing import Any

import prometheus_client
import pytest
from prometheus_client.openmetrics.parser import text_string_to_metric_families as parse_openmetrics

from obskit.pipeline import Answer
from tests.signals.conftest import House
from tests.support.exposition import parse

Make = Callable[..., House]
OPENMETRICS = "application/openmetrics-text; version=1.0.0; charset=utf-8"
# What Prometheus 2.42 and 3 send.
PROMETHEUS_2 = (
    "application/openmetrics-text;version=1.0.0,application/openmetrics-text;version=0.0.1;q=0.75,"
    "text/plain;version=0.0.4;q=0.5,*/*;q=0.1"
)
PROMETHEUS_3 = (
    "application/openmetrics-text;version=1.0.0;escaping=allow-utf-8;q=0.6,"
    "text/plain;version=0.0.4;q=0.3,*/*;q=0.2"
)  # fmt: skip


def header(answer: Answer, name: str) -> str | None:
    found = [value for key, value in answer.headers if key.lower() == name]
    assert len(found) < 2
    return found[0] if found else None


@pytest.mark.parametrize(
    "accept",
    ["", "*/*", "text/plain", "text/html", "application/openmetrics-text;version=0.0.1", "\ud800;;;,"],
)
def test_the_text_format_is_the_default(accept: str, house: Make) -> None:
    made = house()
    made.serve()
    answer = made.scrape(accept)
    assert answer.status == 200
    assert (header(answer, "content-type") or "").startswith("text/plain; version=0.0.4")
    assert parse(answer.body.decode())["http_server_request_duration_seconds_count"]


@pytest.mark.parametrize("accept", [OPENMETRICS, "application/openmetrics-text", PROMETHEUS_2, PROMETHEUS_3])
def test_openmetrics_is_given_to_who_asks_for_it(accept: str, house: Make) -> None:
    made = house()
    made.serve()
    answer = made.scrape(accept)
    assert (header(answer, "content-type") or "").startswith("application/openmetrics-text; version=1.0.0")
    text = answer.body.decode()
    assert text.endswith("# EOF\n")
    assert "http_server_request_duration_seconds" in {family.name for family in parse_openmetrics(text)}


@pytest.mark.parametrize("version", ["abc", "", "1", "99.0", "1.0.0.0.0", "-1"])
def test_a_version_nobody_knows_still_gets_a_page(version: str, house: Make) -> None:
    made = house()
    assert made.pipeline.answer(
        made.pipeline.endpoints["/metrics"], "GET", {"accept": f"application/openmetrics-text;version={version}"}, "::1"
    ).status == 200  # fmt: skip


@pytest.mark.parametrize("encoding", ["gzip", "gzip, deflate, br", "GZIP;q=0.5", "identity, gzip"])
def test_a_page_is_compressed_for_who_accepts_gzip(encoding: str, house: Make) -> None:
    answer = house().scrape(accept_encoding=encoding)
    assert header(answer, "content-encoding") == "gzip"
    assert header(answer, "content-length") == str(len(answer.body))
    assert "obskit_app_info" in gzip.decompress(answer.body).decode()


@pytest.mark.parametrize("encoding", ["", "identity", "br", "gzip;q=0"])
def test_a_page_is_plain_for_who_does_not_accept_gzip(encoding: str, house: Make) -> None:
    answer = house().scrape(accept_encoding=encoding)
    assert header(answer, "content-encoding") is None
    assert b"obskit_app_info" in answer.body


def test_a_page_may_not_be_kept_by_a_cache_and_varies_by_what_was_asked(house: Make) -> None:
    answer = house().scrape()
    assert header(answer, "cache-control") == "no-store"
    assert header(answer, "vary") == "Accept, Accept-Encoding"


def test_a_short_page_is_not_compressed(house: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("obskit.signals.exposition._MIN_GZIP_BYTES", 10**9)
    assert header(house().scrape(accept_encoding="gzip"), "content-encoding") is None


def test_head_has_the_length_of_the_page_and_no_body(house: Make) -> None:
    answer = house().scrape(method="HEAD")
    assert (answer.status, answer.body) == (200, b"")
    assert int(header(answer, "content-length") or 0) > 1000


@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE", "OPTIONS", "get", "BREW"])
def test_other_methods_are_not_allowed_and_told_which_are(method: str, house: Make) -> None:
    answer = house().scrape(method=method)
    assert (answer.status, answer.reason) == (405, "Method Not Allowed")
    assert header(answer, "allow") == "GET, HEAD"
    assert header(answer, "content-length") == str(len(answer.body))


# ---- who may look -------------------------------------------------------------------------------------

LOOPBACK = ["127.0.0.1", "127.9.9.9", "::1", "::ffff:127.0.0.1", "::1%lo"]
PRIVATE = [
    "10.0.0.1",
    "172.16.5.5",
    "192.168.1.1",
    "fd00::1",
    "fe80::1%eth0",
    "::ffff:10.0.0.1",
    "169.254.1.1",
]
PUBLIC = ["8.8.8.8", "2001:4860:4860::8888", "::ffff:8.8.8.8", "172.32.0.1", "100.64.0.1"]
# Examples and "this network" are not private, whatever `ipaddress` says of them.
PUBLIC += ["192.0.2.7", "203.0.113.7", "198.18.0.1", "240.0.0.1", "0.1.2.3", "2001:db8::1", "64:ff9b::7f00:1"]
PUBLIC += [
    "2002:7f00:1::",
    "::127.0.0.1",
    "::ffff:0:127.0.0.1",
]  # 6to4 and the like of loopback are not loopback
NOBODY = [None, "", "localhost", "0.0.0.0", "::", "127.0.0.1:5000", "unix:", "127.0.0.1, 8.8.8.8", "0x7f.1"]
NOBODY += [
    "unix:/run/app.sock",
    "/run/app.sock",
    "testclient",
    "127.0.0.1 ",
    "127.1",
    "2130706433",
    "[::1]",
    "é",
]


@pytest.mark.parametrize(
    ("access", "allowed"),
    [
        ("loopback", LOOPBACK),
        ("private", [*LOOPBACK, *PRIVATE]),
        ("public", [*LOOPBACK, *PRIVATE, *PUBLIC, *NOBODY]),
    ],
)
def test_access_is_given_by_the_peers_address(access: str, allowed: list[str | None], house: Make) -> None:
    made = house(metrics_access=access)
    status = {client: made.scrape(client=client).status for client in [*LOOPBACK, *PRIVATE, *PUBLIC, *NOBODY]}
    assert {client for client, code in status.items() if code == 200} == set(allowed)
    assert set(status.values()) <= {200, 403}


@pytest.mark.parametrize(
    "name",
    ["forwarded", "x-forwarded-for", "x-forwarded-proto", "x-forwarded-host", "x-forwarded-anything", "x-real-ip",
     "via", "x-client-ip", "x-cluster-client-ip", "true-client-ip", "x-forwarded", "cf-connecting-ip",
     "x-request-start", "x-original-forwarded-for", "x-envoy-external-address", "fastly-client-ip", "client-ip"],
)  # fmt: skip
@pytest.mark.parametrize("access", ["loopback", "private"])
def test_a_request_that_came_through_a_proxy_is_refused_whatever_it_says(
    access: str, name: str, house: Make
) -> None:
    made = house(metrics_access=access)
    for value in ("127.0.0.1", "", "for=127.0.0.1"):
        assert made.scrape(**{name: value}).status == 403


def test_public_answers_through_a_proxy_too(house: Make) -> None:
    assert house(metrics_access="public").scrape(client="8.8.8.8", x_forwarded_for="1.2.3.4").status == 200


@pytest.mark.parametrize(("client", "seen"), [("8.8.8.8", "8.8.8.8"), (None, "an unknown peer")])
@pytest.mark.parametrize("method", ["GET", "POST"])
def test_a_refusal_says_who_asked_and_how_to_open(
    method: str, client: str | None, seen: str, house: Make
) -> None:
    answer = house().scrape(client=client, method=method)
    text = answer.body.decode()
    assert (answer.status, answer.reason) == (403, "Forbidden")
    ways = ("'private'", "'token'", "'public'", "OBSKIT_METRICS_ACCESS", "OBSKIT_METRICS_TOKEN")
    for part in (seen, "metrics_access=loopback", *ways):
        assert part in text
    assert "http_server" not in text


@pytest.mark.parametrize(
    "client", ["<script>alert(1)</script>", "8.8.8.8\r\nX: y", "8.8.8.8, 6.6.6.6", "\ud800", "x" * 10_000]
)
def test_a_refusal_repeats_nothing_but_an_address(client: str, house: Make) -> None:
    answer = house().scrape(client=client, host=client, x_real_ip=client, user_agent=client)
    assert answer.status == 403
    assert client.encode("utf-8", "replace") not in answer.body
    assert b"script" not in answer.body
    assert len(answer.body) < 500


@pytest.mark.parametrize(
    "host",
    ["", "127.0.0.1:8000", "127.9.9.9", "[::1]:8000", "localhost:8000", "LOCALHOST.", "app.localhost", "metrics",
     "shop-1:8000", "10.0.0.7", "app.internal", socket.gethostname()],
)  # fmt: skip
def test_a_local_request_for_this_host_by_any_of_its_names_is_answered(host: str, house: Make) -> None:
    assert house().scrape(host=host).status == 200


@pytest.mark.parametrize(
    "host",
    ["shop.example.com", "shop.example.com:443", "rebound.attacker.example.", "127.0.0.1.nip.io", "localhost.evil.com",
     "127.0.0.1,shop.example.com", "xn--a.com", "[::1].evil.com", "a." * 4_000],
)  # fmt: skip
def test_a_local_request_for_a_site_came_through_a_proxy_or_from_a_page_in_a_browser(
    host: str, house: Make
) -> None:
    answer = house().scrape(host=host)
    assert answer.status == 403
    assert b"Host" in answer.body
    # Where whole networks may look, names are their own.
    assert house(metrics_access="private").scrape(host=host).status == 200


@pytest.mark.parametrize("access", ["loopback", "token"])
@pytest.mark.parametrize("method", ["GET", "HEAD", "OPTIONS", "POST", "TRACE", "CONNECT"])
def test_a_stranger_is_refused_in_every_method_and_may_keep_nothing(
    method: str, access: str, house: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OBSKIT_METRICS_TOKEN", TOKEN)
    answer = house(metrics_access=access).scrape(
        client="8.8.8.8", method=method, x_http_method_override="GET"
    )
    assert answer.status == 403
    assert header(answer, "cache-control") == "no-store"
    assert header(answer, "allow") is None
    assert bool(answer.body) == (method != "HEAD")
    assert int(header(answer, "content-length") or 0) > 0


def test_a_stranger_costs_no_page(house: Make) -> None:
    made = house()
    exposition: Any = made.pipeline.endpoints["/metrics"]
    for _ in range(100):
        assert made.scrape(client="8.8.8.8").status == 403
        assert made.scrape(method="POST").status == 405
        assert exposition.at_once("GET", {}, "8.8.8.8").status == 403
    assert exposition.pages._begun == 0
    assert exposition.at_once("GET", {}, "127.0.0.1") is None


def test_a_page_that_was_made_for_somebody_else_says_how_old_it_is(house: Make) -> None:
    made = house()
    exposition: Any = made.pipeline.endpoints["/metrics"]
    assert header(made.scrape(), "age") is None
    exposition.pages._budget.take(3.0)
    made.serve()
    old = made.scrape()
    assert (old.status, header(old, "age")) == (200, "0")
    assert b"http_server_request_duration_seconds_count" not in old.body
    exposition.pages._cost = 100.0
    assert made.scrape(accept=OPENMETRICS).status == 503
    assert header(made.scrape(accept=OPENMETRICS), "retry-after") == "1"


@pytest.mark.parametrize("version", ["1.0.0", "2.0", "1.0.1", "99999.0.0.0.0.0", "1.0.0.0"])
def test_a_version_that_is_asked_for_is_not_repeated_and_makes_no_format_of_its_own(
    version: str, house: Make
) -> None:
    made = house()
    answer = made.scrape(f"application/openmetrics-text; version={version}; escaping=allow-utf-8")
    assert (header(answer, "content-type") or "").startswith("application/openmetrics-text; version=1.0.0;")
    exposition: Any = made.pipeline.endpoints["/metrics"]
    assert len(exposition.pages._made) == 1


def test_a_refusal_through_a_proxy_says_so(house: Make) -> None:
    assert "came through a proxy" in house().scrape(x_forwarded_for="127.0.0.1").body.decode()


TOKEN = "correct-horse-battery"


@pytest.fixture
def guarded(house: Make, monkeypatch: pytest.MonkeyPatch) -> House:
    monkeypatch.setenv("OBSKIT_METRICS_TOKEN", TOKEN)
    return house(metrics_access="token")


@pytest.mark.parametrize("value", [f"Bearer {TOKEN}", f"bearer {TOKEN}", f"Bearer  {TOKEN} "])
def test_the_right_token_opens_from_anywhere(value: str, guarded: House) -> None:
    assert guarded.scrape(client="8.8.8.8", authorization=value, x_forwarded_for="9.9.9.9").status == 200


@pytest.mark.parametrize(
    "value",
    [None, "", "Bearer", "Bearer ", f"Basic {TOKEN}", TOKEN, f"Bearer {TOKEN}x", f"Bearer {TOKEN[:-1]}", "Bearer é",
     "Bearer \ud800"],
)  # fmt: skip
def test_no_or_a_wrong_token_is_refused_even_from_loopback(value: str | None, guarded: House) -> None:
    headers = {} if value is None else {"authorization": value}
    answer = guarded.scrape(**headers)
    assert answer.status == 403
    assert "OBSKIT_METRICS_TOKEN" in answer.body.decode()
    assert TOKEN not in answer.body.decode()


# ---- what is on the page --------------------------------------------------------------------------------


@pytest.fixture
def theirs() -> Iterator[Any]:
    counter = prometheus_client.Counter("exposed_orders", "Orders of the application itself.")
    yield counter
    prometheus_client.REGISTRY.unregister(counter)


@pytest.mark.parametrize("accept", ["", OPENMETRICS])
def test_the_page_has_the_applications_own_metrics_and_the_process(
    accept: str, house: Make, theirs: Any
) -> None:
    theirs.inc(3)
    text = house().scrape(accept).body.decode()
    assert "exposed_orders_total 3.0" in text
    for name in (
        "process_resident_memory_bytes",
        "process_cpu_seconds_total",
        "python_gc_objects_collected_total",
        "obskit_app_info",
    ):
        assert f"\n{name}" in text


def test_a_number_of_this_process_is_shown_once_and_with_its_worker(house: Make) -> None:
    text = house().scrape().body.decode()
    for name in ("process_cpu_seconds_total", "process_open_fds", "python_gc_collections_total"):
        assert text.count(f"# TYPE {name} ") == 1
        assert all('worker="0"' in line for line in text.splitlines() if line.startswith(name))
    assert "\npython_info{" in text


@pytest.fixture
def failing() -> Iterator[None]:
    class Failing(prometheus_client.registry.Collector):
        def collect(self) -> Any:
            raise RuntimeError("the application's collector")

    collector = Failing()
    # Registering would collect it for its names, and fail at once.
    prometheus_client.REGISTRY._collector_to_names[collector] = []
    yield
    prometheus_client.REGISTRY._collector_to_names.pop(collector)


@pytest.mark.usefixtures("failing")
def test_a_collector_of_the_application_that_fails_gives_a_503_and_is_counted(house: Make) -> None:
    made = house()
    answer = made.pipeline.answer(made.pipeline.endpoints["/metrics"], "GET", {}, "127.0.0.1")
    assert answer.status == 503


def test_the_page_is_clean_for_promtool(house: Make) -> None:
    made = house()
    made.serve()
    made.serve(status=None, raised=ValueError("x"))
    made.pipeline.dropped("logs", "probe")
    made.pipeline.failed("probe", ValueError("x"))
    promtool = shutil.which("promtool")
    assert promtool, "promtool is not on PATH: install Prometheus (Debian: apt-get install prometheus)"
    own = b"".join(
        part
        for part in _by_family(made.scrape().body)
        if part.startswith((b"# HELP obskit_", b"# HELP http_"))
    )
    assert own.count(b"# HELP") > 10
    done = subprocess.run([promtool, "check", "metrics"], input=own, capture_output=True, timeout=30)
    assert (done.returncode, done.stdout + done.stderr) == (0, b"")


def _by_family(page: bytes) -> list[bytes]:
    return [b"# HELP" + part for part in page.split(b"# HELP")[1:]]


def test_the_page_is_answered_by_the_door_before_the_application(house: Make) -> None:
    started: list[Any] = []
    environ = {"REQUEST_METHOD": "GET", "PATH_INFO": "/metrics", "REMOTE_ADDR": "127.0.0.1"}
    made = house()
    body = b"".join(made.app(environ, lambda *answer: started.append(answer)))
    assert started[0][0] == "200 OK"
    assert b"obskit_app_info" in body
    assert "http_server_request_duration_seconds_count" not in made.samples()
