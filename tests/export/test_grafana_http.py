"""Grafana's HTTP API as a client meets it: what is no Grafana, what it refuses, and what happens on the way."""

from __future__ import annotations

import http.client
import json
import socket
import ssl
import threading
import urllib.error
from collections.abc import Iterator

import pytest

from obskit.cli import main
from obskit.export import grafana_http
from obskit.export.errors import ExportError
from obskit.export.grafana_http import Grafana
from tests.export.fake_grafana import FakeGrafana, Reply

pytestmark = pytest.mark.usefixtures("small")


def push(capsys: pytest.CaptureFixture[str], grafana: FakeGrafana, url: str = "") -> tuple[int, str]:
    """`obskit export --push` from the outside: exit status and stderr; the token is not in it."""
    status = main(["export", "--push", url or grafana.url])
    said = capsys.readouterr()
    assert "glsa_" not in said.out + said.err
    return status, said.err


@pytest.mark.parametrize(
    ("reply", "said"),
    [
        (Reply(404, b"<html>not here</html>"), "no Grafana at"),
        (Reply(200, b"hello"), "no Grafana at"),
        (Reply(200, b"[]"), "no Grafana at"),
        (Reply(200, b"\xff\xfe"), "no Grafana at"),
        (Reply(503, b'{"database":"failing"}'), "is not well: /api/health answered 503 failing"),
    ],
)
def test_what_is_no_grafana_in_order_is_told_apart(
    grafana: FakeGrafana, capsys: pytest.CaptureFixture[str], reply: Reply, said: str
) -> None:
    grafana.replies["GET", "/api/health"] = reply
    status, err = push(capsys, grafana)
    assert status == 2
    assert said in err
    assert len(grafana.seen) == 1


def test_a_dashboard_that_is_none_is_not_taken_for_one(
    grafana: FakeGrafana, capsys: pytest.CaptureFixture[str]
) -> None:
    grafana.replies["GET", "/api/dashboards/uid/obskit-overview"] = Reply(200, b'{"dashboard":[]}')
    status, err = push(capsys, grafana)
    assert status == 2
    assert "something that is no dashboard" in err


@pytest.mark.parametrize(
    ("path", "reply", "said"),
    [
        ("/api/folders", Reply(500, b'{"message":"disk\\nfull"}'), "/api/folders answered 500 disk full"),
        (
            "/api/dashboards/db",
            Reply(500, b"oops"),
            "saving obskit-overview: /api/dashboards/db answered 500 (0 of 2",
        ),
        (
            "/api/dashboards/db",
            Reply(400, b'{"message":"Dashboard refresh interval is too low"}'),
            "answered 400 Dashboard refresh interval is too low",
        ),
        (
            "/api/dashboards/db",
            Reply(412, b'{"status":"name-exists","message":"A dashboard with the same name exists"}'),
            "answered 412 A dashboard with the same name exists",
        ),
    ],
)
def test_what_grafana_refuses_is_said_in_its_own_words(
    grafana: FakeGrafana, capsys: pytest.CaptureFixture[str], path: str, reply: Reply, said: str
) -> None:
    grafana.replies["POST", path] = reply
    status, err = push(capsys, grafana)
    assert status == 2
    assert said in err


def test_a_long_refusal_is_cut(grafana: FakeGrafana, capsys: pytest.CaptureFixture[str]) -> None:
    grafana.replies["POST", "/api/folders"] = Reply(500, json.dumps({"message": "x" * 9999}).encode())
    assert len(push(capsys, grafana)[1]) < 600


def test_an_answer_without_end_is_not_read_to_it(
    grafana: FakeGrafana, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(grafana_http, "MAX_ANSWER_BYTES", 10)
    status, err = push(capsys, grafana)
    assert status == 2
    assert "more than 10 bytes" in err


def test_nobody_at_the_address_is_said_plainly(capsys: pytest.CaptureFixture[str]) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
    assert main(["export", "--push", f"http://127.0.0.1:{port}"]) == 2
    assert "cannot be reached: Connection refused" in capsys.readouterr().err


def test_an_https_address_of_an_http_server_is_recognised(
    grafana: FakeGrafana, capsys: pytest.CaptureFixture[str]
) -> None:
    status, err = push(capsys, grafana, grafana.url.replace("http:", "https:"))
    assert status == 2
    assert "Is it an http address?" in err


@pytest.fixture
def line_server() -> Iterator[tuple[int, list[bytes]]]:
    """A port that answers each connection with the bytes in the list, or with silence while it is empty."""
    lines: list[bytes] = []
    held: list[socket.socket] = []
    with socket.create_server(("127.0.0.1", 0)) as server:

        def serve() -> None:
            while True:
                try:
                    connection, _ = server.accept()
                except OSError:
                    return
                held.append(connection)
                if lines:
                    connection.recv(65536)
                    connection.sendall(lines[0])
                    connection.close()

        thread = threading.Thread(target=serve, daemon=True)
        thread.start()
        yield server.getsockname()[1], lines
        server.shutdown(socket.SHUT_RDWR)
        thread.join(timeout=10)
        for connection in held:
            connection.close()


def test_a_server_that_does_not_speak_http_is_recognised(
    line_server: tuple[int, list[bytes]], capsys: pytest.CaptureFixture[str]
) -> None:
    port, lines = line_server
    lines.append(b"SSH-2.0-OpenSSH_9.6\r\n")
    assert main(["export", "--push", f"http://127.0.0.1:{port}"]) == 2
    assert "does not speak HTTP as expected (BadStatusLine)" in capsys.readouterr().err


def test_silence_is_waited_for_no_longer_than_said(line_server: tuple[int, list[bytes]]) -> None:
    port, _ = line_server
    with pytest.raises(ExportError, match=r"did not answer within 0\.05 s"):
        Grafana(f"http://127.0.0.1:{port}", None, timeout_s=0.05).get("/api/health")


def test_a_certificate_that_is_not_trusted_leads_to_the_way_to_trust_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    refused = ssl.SSLCertVerificationError(1, "certificate verify failed")
    refused.verify_message = "self-signed certificate"
    grafana = Grafana("https://grafana.example.org", "glsa_editor")

    def fail(*_: object, **__: object) -> None:
        raise urllib.error.URLError(refused)

    monkeypatch.setattr(grafana._opener, "open", fail)
    with pytest.raises(ExportError, match=r"not trusted here \(self-signed certificate\).*SSL_CERT_FILE"):
        grafana.get("/api/health")


def test_a_host_that_does_not_exist_is_said_to_be_unknown(monkeypatch: pytest.MonkeyPatch) -> None:
    grafana = Grafana("https://grafana.example.org", None)

    def fail(*_: object, **__: object) -> None:
        raise urllib.error.URLError(socket.gaierror(-2, "Name or service not known"))

    monkeypatch.setattr(grafana._opener, "open", fail)
    with pytest.raises(ExportError, match="cannot be reached: Name or service not known"):
        grafana.get("/api/health")


def test_an_answer_that_breaks_off_is_no_traceback(monkeypatch: pytest.MonkeyPatch) -> None:
    grafana = Grafana("https://grafana.example.org", None)

    def fail(*_: object, **__: object) -> None:
        raise http.client.IncompleteRead(b"")

    monkeypatch.setattr(grafana._opener, "open", fail)
    with pytest.raises(ExportError, match="IncompleteRead"):
        grafana.get("/api/health")
