"""Broken requests go to this machine, and nowhere else."""

from __future__ import annotations

import socket
from typing import Any

import pytest

from obskit.testing import Chaos, ChaosRefused


@pytest.mark.parametrize(
    "url",
    [
        "http://127.0.0.1:8000",
        "http://127.8.9.10",
        "http://localhost:8000/",
        "http://[::1]:8000",
        "http://[::ffff:127.0.0.1]",
    ],
)
def test_a_server_on_loopback_is_taken(url: str) -> None:
    assert Chaos(url).url == url.rstrip("/")


@pytest.mark.parametrize(
    "host", ["192.0.2.1", "10.0.0.1", "0.0.0.0", "[2001:db8::1]", "[::ffff:192.0.2.1]", "[::]"]
)
def test_a_server_elsewhere_is_refused_with_its_address_and_what_to_do(host: str) -> None:
    with pytest.raises(ChaosRefused, match="which is not on loopback") as refusal:
        Chaos(f"http://{host}:8000")
    assert host.strip("[]") in str(refusal.value)
    assert "obskit.testing.serve(app)" in str(refusal.value)


def resolving(*addresses: str) -> Any:
    def getaddrinfo(host: str, port: int, **_: Any) -> list[Any]:
        return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (address, port)) for address in addresses]

    return getaddrinfo


def test_a_name_that_also_leads_elsewhere_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(socket, "getaddrinfo", resolving("127.0.0.1", "192.0.2.7"))
    with pytest.raises(ChaosRefused, match=r"'shop\.test' is at 192\.0\.2\.7"):
        Chaos("http://shop.test")


def test_a_name_is_resolved_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(socket, "getaddrinfo", resolving("127.0.0.1"))
    client = Chaos("http://shop.test:1")
    monkeypatch.setattr(socket, "getaddrinfo", resolving("192.0.2.7"))
    with pytest.raises(ConnectionError, match="nobody answers"):
        client.get("/")


def test_a_name_that_does_not_resolve_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(*_: Any, **__: Any) -> Any:
        raise socket.gaierror("no such name")

    monkeypatch.setattr(socket, "getaddrinfo", fails)
    with pytest.raises(ChaosRefused, match="does not resolve"):
        Chaos("http://nowhere.test")


@pytest.mark.parametrize(
    "url",
    ["https://localhost", "localhost:8000", "http://", "http://localhost/shop", "http://localhost:port"],
)
def test_what_is_no_plain_http_url_is_refused(url: str) -> None:
    with pytest.raises(ValueError, match="chaos url: saw"):
        Chaos(url)
