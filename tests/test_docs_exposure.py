"""docs/exposure.md: its applications serve as the page says, and its bounds are those of the code."""

from __future__ import annotations

import http.client
import re
import shutil
import subprocess
from pathlib import Path

import pytest

from obskit.config import METRICS_ACCESS, PROXY_PLACES
from obskit.desk import RATE
from obskit.signals import pages, scrape_server
from obskit.signals.incoming import cleaned
from tests.support.ports import free_port
from tests.support.servers import Server

TEXT = (Path(__file__).parents[1] / "docs" / "exposure.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"^```(\w+)\n(?:# (\S+)\n)?(.*?)^```$", TEXT, re.MULTILINE | re.DOTALL)
FILES = {name: body for _, name, body in BLOCKS if name}
TRACE_ID = "0af7651916cd43dd8448eb211c80319c"


def ask(port: int, path: str = "/", **headers: str) -> tuple[int, str]:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=10)
    connection.request(
        "GET", path, headers={name.replace("_", "-"): value for name, value in headers.items()}
    )
    response = connection.getresponse()
    body = response.read().decode()
    connection.close()
    return response.status, body


def serve(folder: Path, name: str, body: str) -> Server:
    (folder / name).write_text(body)
    return Server("waitress", f"{Path(name).stem}:app", cwd=folder, log_dir=folder / "log")


def test_every_file_of_the_page_is_known_to_these_tests() -> None:
    assert set(FILES) == {"own_port.py", "behind_a_proxy.py", "public_edge.py", "prometheus.yml"}


def test_a_port_of_its_own_answers_and_the_applications_port_does_not(tmp_path: Path) -> None:
    port = free_port()
    with serve(tmp_path, "own_port.py", FILES["own_port.py"].replace("9464", str(port))) as running:
        running.wait_for_line(lambda line: line["event"] == "http.request")
        assert ask(running.port, "/metrics") == (200, "hello")
        status, page = ask(port, "/metrics")
        assert status == 200
        assert "obskit_app_info" in page


def test_a_proxy_that_is_named_says_who_asks(tmp_path: Path) -> None:
    # waitress would take the header away from a proxy that it does not know itself.
    (tmp_path / "behind_a_proxy.py").write_text(FILES["behind_a_proxy.py"])
    with Server("gunicorn-sync", "behind_a_proxy:app", cwd=tmp_path, log_dir=tmp_path / "log") as running:
        since = running.mark()
        ask(running.port, X_Forwarded_For="6.6.6.6, 203.0.113.7, 10.0.0.1", X_Request_Start="t=1")
        line = running.wait_for_line(lambda line: line["event"] == "http.request", since=since)
    assert line["client_address"] == "203.0.113.7"


def test_at_a_public_edge_a_trace_begins_anew(tmp_path: Path) -> None:
    with serve(tmp_path, "public_edge.py", FILES["public_edge.py"]) as running:
        since = running.mark()
        ask(running.port, traceparent=f"00-{TRACE_ID}-b7ad6b7169203331-01")
        line = running.wait_for_line(lambda line: line["event"] == "http.request", since=since)
    assert line["trace_id"] != TRACE_ID


def test_prometheus_takes_the_scrape_configuration(tmp_path: Path) -> None:
    promtool = shutil.which("promtool")
    assert promtool, "promtool is not on PATH: install Prometheus (Debian: apt-get install prometheus)"
    (tmp_path / "prometheus.yml").write_text(FILES["prometheus.yml"])
    done = subprocess.run(
        [promtool, "check", "config", str(tmp_path / "prometheus.yml")],
        capture_output=True,
        text=True,
        timeout=30,
    )
    assert done.returncode == 0, done.stderr


def test_every_way_of_access_and_every_place_is_told() -> None:
    assert all(f"| `{access}`" in TEXT for access in METRICS_ACCESS)
    assert all(f"`{place}`" in TEXT for place in PROXY_PLACES)


@pytest.mark.parametrize(
    ("said", "is_so"),
    [
        ("a tenth of the time", pages.SHARE == 0.1),
        ("a burst of a second", pages.BURST_S == 1.0),
        ("for up to a second", pages.MAX_AGE_S == 1.0),
        ("a quarter of the time", pages.REST == 3.0),
        ("a hundred answers a second", RATE == 100.0),
        ("A client has 2 s", scrape_server.READ_S == 2.0),
        ("eight are served at once", scrape_server.MAX_CLIENTS == 8),
        ("within about a\nsecond", scrape_server.RETRY_S == 1.0),
        ("told once a minute at most", scrape_server.TELL_EVERY_S == 60.0),
    ],
)
def test_the_bounds_of_the_page_are_those_of_the_code(said: str, is_so: bool) -> None:
    assert said in TEXT
    assert is_so


def test_what_is_handed_on_of_a_callers_context_is_bounded_as_the_page_says() -> None:
    state = ",".join(f"vendor{n}=" + "x" * 50 for n in range(30))
    baggage = ",".join(f"k{n}=" + "x" * 20 for n in range(100))
    kept = cleaned({"traceparent": "x", "tracestate": state, "baggage": baggage})
    assert 0 < len(kept["tracestate"]) <= 512
    assert len(kept["baggage"].split(",")) == 64
    for said in ("512 characters", "32 members", "8,192 bytes", "64 members"):
        assert said in TEXT
