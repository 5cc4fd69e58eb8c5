"""WebSockets: one line and one span per connection, and no request latency."""

from __future__ import annotations

from collections.abc import Callable
from socket import SHUT_RDWR

from websockets.exceptions import ConnectionClosed, InvalidStatus
from websockets.sync.client import ClientConnection, connect

from tests.conformance.client import Caller, Reply
from tests.conformance.model import Case, Expect, differs

NOT_FOR = {
    "wsgi": "WSGI has no WebSockets",
    "django-asgi": "Django's own handler refuses the websocket scope; that takes Channels",
}

SAYS_1005 = differs(
    "the server says 1005 for a lost connection, as for a closing frame without a code: nothing tells them apart",
    outcome="completed",
)


def _socket(path: str, talk: Callable[[ClientConnection], None]) -> Callable[[Caller], Reply]:
    def act(caller: Caller) -> Reply:
        request_id = caller.new_id()
        status = 101
        try:
            with connect(
                f"ws://127.0.0.1:{caller.port}{path}",
                additional_headers={"X-Request-ID": request_id},
                user_agent_header=request_id,
                proxy=None,
                open_timeout=10,
                close_timeout=5,
            ) as socket:
                talk(socket)
        except InvalidStatus as refused:
            status = refused.response.status_code
        except ConnectionClosed:
            pass
        return Reply(request_id, status)

    return act


def _echo(socket: ClientConnection) -> None:
    socket.send("ping")
    assert socket.recv(timeout=5) == "ping"
    # The server closes first; wait for it.
    try:
        socket.recv(timeout=5)
    except ConnectionClosed:
        pass


def _only_listen(socket: ClientConnection) -> None:
    socket.recv(timeout=5)


def _vanish(socket: ClientConnection) -> None:
    """Leave without a closing frame."""
    socket.send("bye")
    socket.socket.shutdown(SHUT_RDWR)


CASES = [
    Case("websocket", _socket("/ws/lobby", _echo), Expect("/ws/{room}", status=101, websocket=True), NOT_FOR),
    Case(
        "websocket_refused",
        _socket("/ws-refused", _only_listen),
        Expect("/ws-refused", status=403, websocket=True),
        NOT_FOR,
    ),
    Case(
        "websocket_raises",
        _socket("/ws-raises", _only_listen),
        Expect("/ws-raises", status=101, outcome="raised_after_headers", raises="ValueError", websocket=True),
        NOT_FOR,
    ),
    Case(
        "websocket_closed_by_the_client",
        _socket("/ws-left", lambda socket: socket.send("bye")),
        Expect("/ws-left", status=101, websocket=True),
        NOT_FOR,
        {
            "hypercorn": differs(
                "hypercorn says 1006 (abnormal) to the app, also when the client closed with 1000",
                outcome="client_disconnect",
            ),
        },
    ),
    Case(
        "websocket_left_by_the_client",
        _socket("/ws-left", _vanish),
        Expect("/ws-left", status=101, outcome="client_disconnect", websocket=True),
        NOT_FOR,
        {
            "uvicorn": SAYS_1005,
            "uvicorn-uvloop": SAYS_1005,
            "uvicorn-h11": SAYS_1005,
            "gunicorn-uvicorn": SAYS_1005,
            "granian": SAYS_1005,
        },
    ),
]
