"""Who the client is, as far as somebody whom we believe says so."""

from __future__ import annotations

import time
from typing import Any

import pytest

from obskit.exchange import Exchange
from obskit.trust import (
    MAX_HEARD_LENGTH,
    MAX_HOPS,
    MAX_KNOWN,
    Trust,
    address_of,
    bare_address,
    is_near,
    is_unix,
)

PROXIES = ("loopback", "10.0.0.0/8", "2001:db8:1::/48", "unix")
HEADERS = ("X-Forwarded-For", "Forwarded", "X-Forwarded-Proto", "X-Request-Start")


def asgi(peer: Any, headers: dict[str, str], protocol: str = "http") -> Exchange:
    exchange = Exchange(protocol)
    pairs = [(k.lower().encode(), v.encode("latin-1")) for k, v in headers.items()]
    exchange.request = {"type": protocol, "client": peer, "headers": [(b"host", b"shop"), *pairs]}
    exchange.client_address = peer[0] if peer else None
    exchange.queue_start = headers.get("X-Request-Start")
    exchange.scheme = "ws" if protocol == "websocket" else "http"
    return exchange


def wsgi(peer: Any, headers: dict[str, str]) -> Exchange:
    exchange = Exchange()
    named = {"HTTP_" + k.upper().replace("-", "_"): v for k, v in headers.items()}
    exchange.request = {"REQUEST_METHOD": "GET", "REMOTE_ADDR": peer[0] if peer else "", **named}
    exchange.client_address = (peer[0] if peer else "") or None
    exchange.queue_start = headers.get("X-Request-Start")
    return exchange


# ---- one header, one answer ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("header", "client"),
    [
        ("203.0.113.7", "203.0.113.7"),
        ("203.0.113.7:4711", "203.0.113.7"),
        ("[2001:db8::7]:4711", "2001:db8::7"),
        ("[2001:db8::7]", "2001:db8::7"),
        ("2001:DB8:0::7", "2001:db8::7"),
        ("fe80::7%eth0", "fe80::7"),
        ("::ffff:203.0.113.7", "203.0.113.7"),
        ("127.0.0.1, 203.0.113.7", "203.0.113.7"),  # what stands before the first stranger is the stranger's
        ("6.6.6.6, 203.0.113.7, 10.0.0.1,10.2.2.2", "203.0.113.7"),
        ("203.0.113.7, ::ffff:10.0.0.1", "203.0.113.7"),
        ("203.0.113.7, 2001:db8:1::5", "203.0.113.7"),
        ("10.9.9.9, 10.0.0.1", "10.9.9.9"),  # one of ours asks
        (" , ,203.0.113.7,, ", "203.0.113.7"),
        ("garbage, 10.0.0.1", "10.0.0.1"),  # nobody knows who stands behind that proxy
        ("203.0.113.7, garbage, 10.0.0.1", "10.0.0.1"),
        ("203.0.113.7, unknown", None),
        ("_hidden", None),
        ("", None),
        (",,,", None),
        ("203.0.113.7:99999999", None),
        ("[203.0.113.7]", None),
        ("[2001:db8::7", None),
        ("203.0.113.7; DROP", None),
        ("0x7f.1", None),
        ("2130706433", None),
        ("\r\nSet-Cookie: a=b", None),
        ("1" * 65_536, None),
        ("6.6.6.6, " * 8_000 + "203.0.113.7", "203.0.113.7"),
        (", ".join(["203.0.113.7"] + ["10.0.0.1"] * 2 * MAX_HOPS), "10.0.0.1"),  # so far nobody looks
    ],
)
def test_the_client_of_x_forwarded_for_is_the_first_stranger_from_the_right(
    header: str, client: str | None
) -> None:
    assert Trust(PROXIES).client(header) == (client, None)


@pytest.mark.parametrize(
    ("header", "client", "scheme"),
    [
        ("for=203.0.113.7", "203.0.113.7", None),
        ("For=203.0.113.7;Proto=https;by=10.0.0.1", "203.0.113.7", "https"),
        ('for="[2001:db8::7]:4711";proto=http', "2001:db8::7", "http"),
        ('for="203.0.113.7:_secret"', "203.0.113.7", None),
        (r'for="203.0.113\.7"', "203.0.113.7", None),
        (
            "for=6.6.6.6;proto=http, for=203.0.113.7;proto=https, for=10.0.0.1;proto=http",
            "203.0.113.7",
            "https",
        ),
        (
            'host="a,b;for=6.6.6.6";for=203.0.113.7',
            "203.0.113.7",
            None,
        ),  # a comma inside quotes parts nothing
        ("for=_hidden", None, None),
        ("for=unknown, for=10.0.0.1;proto=https", "10.0.0.1", "https"),
        ("proto=https", None, "https"),
        ("for=203.0.113.7;for=6.6.6.6", "203.0.113.7", None),
        ("for=203.0.113.7;proto=gopher", "203.0.113.7", None),
        ('for="203.0.113.7', None, None),
        ("for 203.0.113.7", None, None),
        ("for=203.0.113.7,,", None, None),
        ("", None, None),
        ('for="' + "\\" * 65_536, None, None),
        ("for=203.0.113.7;" * 8_000, None, None),
    ],
)
def test_the_client_of_forwarded_is_the_first_stranger_from_the_right(
    header: str, client: str | None, scheme: str | None
) -> None:
    assert Trust(PROXIES).client(None, header) == (client, scheme)


@pytest.mark.parametrize(
    ("fors", "protos", "scheme"),
    [
        ("203.0.113.7", "https", "https"),
        ("203.0.113.7", "HTTPS ", "https"),
        ("6.6.6.6, 203.0.113.7, 10.0.0.1", "http, https, http", "https"),  # one for each hop: the client's
        ("203.0.113.7, 10.0.0.1", "https", "https"),
        ("203.0.113.7", "gopher, https", "https"),  # else the nearest proxy's
        ("203.0.113.7", "javascript:alert(1)", None),
        ("203.0.113.7", "", None),
        ("_hidden", "https", "https"),
    ],
)
def test_the_scheme_is_that_of_the_clients_hop(fors: str, protos: str, scheme: str | None) -> None:
    assert Trust(PROXIES).client(fors, None, protos)[1] == scheme


@pytest.mark.parametrize("forwarded", ["for=6.6.6.6", "for=_x", "garbage", "for=6.6.6.6;" * 8_000])
def test_two_headers_that_disagree_are_both_not_believed(forwarded: str) -> None:
    # A proxy writes one of the two, and lets pass the other as the client wrote it.
    assert Trust(PROXIES).client("203.0.113.7", forwarded, "https") == (None, None)
    assert Trust(PROXIES).client("203.0.113.7", "for=203.0.113.7;proto=https") == ("203.0.113.7", "https")


# ---- whom we believe ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("named", "believed", "others"),
    [
        (
            ("loopback",),
            ["127.0.0.1", "127.9.9.9", "::1", "::ffff:127.0.0.1", "::1%lo"],
            ["10.0.0.1", None, "unix:", "localhost", "::ffff:10.0.0.1"],
        ),
        (
            ("private",),
            ["127.0.0.1", "10.1.2.3", "172.31.0.1", "192.168.9.9", "fd00::1", "fe80::1%eth0", "169.254.0.1"],
            ["203.0.113.7", "192.0.2.1", "0.0.0.0", "0.1.2.3", "100.64.0.1", "::", "172.32.0.1", None],
        ),
        (("unix",), [None, "", "unix:", "unix:/run/app.sock", "localhost", "/run/app.sock"], ["127.0.0.1"]),
        (("203.0.113.7/32",), ["203.0.113.7", "::ffff:203.0.113.7"], ["203.0.113.8", "203.0.113.7, 1.1.1.1"]),
        (("::ffff:203.0.113.0/120",), ["203.0.113.7", "::ffff:203.0.113.7"], ["203.0.114.7"]),
        (("2001:db8::/32",), ["2001:db8::1"], ["2001:db9::1", "32.1.13.184"]),
        (("0.0.0.0/0",), ["8.8.8.8"], ["2001:db8::1", "", "localhost", "testclient"]),
    ],
)
def test_a_peer_is_believed_if_it_is_named(
    named: tuple[str, ...], believed: list[str | None], others: list[str | None]
) -> None:
    trust = Trust(named)
    for _ in range(2):  # the second time it is known
        assert [peer for peer in believed if not trust.believes(peer)] == []
        assert [peer for peer in others if trust.believes(peer)] == []


def test_peers_that_were_judged_take_a_bounded_memory() -> None:
    trust = Trust(PROXIES)
    for number in range(3 * MAX_KNOWN):
        trust.believes(f"203.0.{number >> 8}.{number & 255}")
        long = f"203.0.{number >> 8}.{number & 255}, " * (1 + number % 30)
        trust.apply(asgi(("10.0.0.1", 1), {"X-Forwarded-For": long}))
        trust.believes(long)
    assert len(trust._known) <= MAX_KNOWN
    assert len(trust._heard) <= MAX_KNOWN
    assert max(len(fors or "") for fors, _, _ in trust._heard) <= MAX_HEARD_LENGTH
    assert max(len(peer or "") for peer in trust._known) <= MAX_HEARD_LENGTH


@pytest.mark.parametrize("make", [asgi, wsgi])
def test_a_proxy_that_is_believed_says_who_asked_and_when(make: Any) -> None:
    said = {
        "X-Forwarded-For": "6.6.6.6, 203.0.113.7",
        "X-Forwarded-Proto": "https",
        "X-Request-Start": "t=1",
    }
    exchange = make(("10.0.0.1", 4711), said)
    Trust(PROXIES).apply(exchange)
    assert (exchange.client_address, exchange.scheme) == ("203.0.113.7", "https")
    assert exchange.queue_start == "t=1"


@pytest.mark.parametrize("make", [asgi, wsgi])
@pytest.mark.parametrize("peer", [("203.0.113.9", 4711), ("::ffff:203.0.113.9", 1)])
def test_a_stranger_says_nothing(make: Any, peer: Any) -> None:
    exchange = make(peer, dict.fromkeys(HEADERS, "127.0.0.1"))
    Trust(PROXIES).apply(exchange)
    assert (exchange.client_address, exchange.scheme, exchange.queue_start) == (peer[0], "http", None)


@pytest.mark.parametrize("make", [asgi, wsgi])
def test_the_peer_stays_where_a_proxy_says_nothing_or_nothing_that_can_be_read(make: Any) -> None:
    for said in ({}, {"X-Forwarded-For": "_hidden"}, {"Forwarded": '"'}, {"X-Forwarded-Proto": "gopher"}):
        exchange = make(("10.0.0.1", 4711), said)
        Trust(PROXIES).apply(exchange)
        assert (exchange.client_address, exchange.scheme) == ("10.0.0.1", "http")


@pytest.mark.parametrize("make", [asgi, wsgi])
def test_the_scheme_alone_is_believed_too(make: Any) -> None:
    exchange = make(("10.0.0.1", 4711), {"X-Forwarded-Proto": "gopher, https"})
    Trust(PROXIES).apply(exchange)
    assert exchange.scheme == "https"


def test_a_websocket_behind_tls_is_a_wss() -> None:
    exchange = asgi(
        ("10.0.0.1", 1), {"X-Forwarded-For": "1.1.1.1", "X-Forwarded-Proto": "https"}, "websocket"
    )
    Trust(PROXIES).apply(exchange)
    assert exchange.scheme == "wss"


@pytest.mark.parametrize(("make", "peer"), [(asgi, None), (wsgi, None), (wsgi, ("localhost", 0))])
def test_a_unix_socket_is_believed_if_it_is_named(make: Any, peer: Any) -> None:
    said = {"X-Forwarded-For": "203.0.113.7", "X-Request-Start": "t=1"}
    believed, not_believed = make(peer, said), make(peer, said)
    Trust(("unix",)).apply(believed)
    Trust(("loopback",)).apply(not_believed)
    assert (believed.client_address, believed.queue_start) == ("203.0.113.7", "t=1")
    assert (not_believed.client_address, not_believed.queue_start) == (peer and peer[0], None)


def test_where_the_server_itself_believed_its_proxy_the_queue_time_counts() -> None:
    # uvicorn puts the client into the place of its proxy, with a port that nobody can come from.
    said = {"X-Forwarded-For": "203.0.113.7", "X-Request-Start": "t=1"}
    rewritten, direct = asgi(("203.0.113.7", 0), said), asgi(("203.0.113.7", 4711), said)
    for exchange in (rewritten, direct):
        Trust(("loopback",)).apply(exchange)
        assert exchange.client_address == "203.0.113.7"
    assert (rewritten.queue_start, direct.queue_start) == ("t=1", None)


def test_waitress_that_believed_its_proxy_still_knows_whom_it_spoke_to() -> None:
    class Channel:
        addr = ("127.0.0.1", 4711)

        def disconnected(self) -> bool:
            return False

    for address, kept in (("203.0.113.7", "t=1"), ("127.0.0.1", None)):
        exchange = wsgi((address, 0), {"X-Request-Start": "t=1"})
        exchange.request["waitress.client_disconnected"] = Channel().disconnected
        Trust(("10.0.0.1/32",)).apply(exchange)
        assert exchange.queue_start == kept


def test_repeated_headers_are_one_list() -> None:
    exchange = asgi(("10.0.0.1", 1), {})
    exchange.request["headers"] += [(b"x-forwarded-for", b"6.6.6.6"), (b"x-forwarded-for", b"203.0.113.7")]
    Trust(PROXIES).apply(exchange)
    assert exchange.client_address == "203.0.113.7"


def test_headers_that_can_be_read_once_are_left_to_the_application() -> None:
    exchange = asgi(("10.0.0.1", 1), {})
    exchange.request["headers"] = iter([(b"x-forwarded-for", b"6.6.6.6")])
    Trust(PROXIES).apply(exchange)
    assert exchange.client_address == "10.0.0.1"
    assert len(list(exchange.request["headers"])) == 1


# ---- addresses ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "text", ["", "localhost", "127.0.0.1 ", "0127.0.0.1", "127.1", "1.2.3.4.5", "::1::", "é"]
)
def test_what_is_no_address_is_none(text: str) -> None:
    assert bare_address(text) is None


def test_a_port_makes_no_other_address() -> None:
    assert str(address_of("203.0.113.7:80")) == "203.0.113.7"
    assert bare_address("203.0.113.7:80") is None


@pytest.mark.parametrize("peer", [None, "", "localhost", "unix:", "unix:/x", "/run/x"])
def test_a_unix_socket_has_many_names(peer: str | None) -> None:
    assert is_unix(peer)


def test_an_address_is_no_unix_socket_and_an_example_is_not_private() -> None:
    assert not is_unix("127.0.0.1")
    for text in ("192.0.2.1", "198.51.100.1", "203.0.113.1", "0.0.0.1", "240.0.0.1", "2001:db8::1"):
        address = bare_address(text)
        assert address is not None
        assert not is_near(address, "private")


@pytest.mark.parametrize(
    "header",
    [
        "1.1.1.1,",
        ",",
        "[",
        '"',
        "a=b;",
        'for="[::1]",',
        "for=\\",
        'for="\\',
        " \t",
        "for=a;" + " " * 40,
        ":",
        "%",
    ],
)
def test_the_time_for_a_header_grows_with_its_length_at_most(header: str) -> None:
    trust, text = Trust(PROXIES), header * (65_536 // len(header))
    began = time.thread_time()
    trust.client(text, text, text)
    assert time.thread_time() - began < 0.02
