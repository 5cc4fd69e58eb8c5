"""What wsgiref.validate is to WSGI: stands between an ASGI server and an application and holds both to the protocol.

A breach by either side is an AsgiBreach. After the ASGI specification 3.0 (HTTP and WebSocket 2.5, lifespan 2.0) and
its extensions; each extension's messages are allowed where the scope offers it.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable, Mapping, MutableMapping
from typing import Any

Scope = MutableMapping[str, Any]
Message = MutableMapping[str, Any]


class AsgiBreach(AssertionError):
    """One side has not kept the protocol."""


def need(held: object, said: str) -> None:
    if not held:
        raise AsgiBreach(said)


def field(of: Mapping[str, Any], key: str, kinds: type | tuple[type, ...], *, optional: bool = True) -> Any:
    """The value of `key`, of one of these kinds; None if it is not there and need not be."""
    need(isinstance(of, Mapping), f"{of!r} is no mapping")
    if key not in of:
        need(optional, f"{of.get('type')}: no {key}")
        return None
    value = of[key]
    # A bool is an int to Python, and not to the protocol.
    fits = isinstance(value, kinds) and (kinds is not int or not isinstance(value, bool))
    need(fits, f"{of.get('type')}: {key} is {value!r}")
    return value


def headers_of(of: Mapping[str, Any], *, lower: bool = True) -> None:
    """Headers are an iterable of pairs of bytes, names in lower case. One that can be read once is not looked at."""
    headers = of.get("headers", ())
    need(isinstance(headers, Iterable), f"{of.get('type')}: headers is {headers!r}")
    if hasattr(headers, "__next__"):
        return
    for pair in headers:
        need(len(pair) == 2, f"{of.get('type')}: {pair!r} is no pair")
        need(all(isinstance(part, bytes) for part in pair), f"{of.get('type')}: {pair!r} is not bytes")
        need(not lower or pair[0] == pair[0].lower(), f"{of.get('type')}: {pair[0]!r} is not in lower case")
        need(not pair[0].startswith(b":"), f"{of.get('type')}: {pair[0]!r} is a pseudo header")


def address(scope: Scope, key: str, port: tuple[type, ...]) -> None:
    value = scope.get(key)
    if value is None:
        return
    need(len(value) == 2, f"{key} is {value!r}")
    need(isinstance(value[0], str) and isinstance(value[1], port), f"{key} is {value!r}")


def check_scope(scope: Scope) -> None:
    need(isinstance(scope, MutableMapping), f"the scope is {type(scope).__name__}")
    kind = field(scope, "type", str, optional=False)
    asgi = field(scope, "asgi", Mapping, optional=False)
    field(asgi, "version", str, optional=False)
    field(asgi, "spec_version", str)
    field(scope, "state", MutableMapping)
    field(scope, "extensions", (Mapping, type(None)))
    if kind not in ("http", "websocket"):
        return
    if kind == "http":
        need(scope.get("http_version") in ("1.0", "1.1", "2", "3"), "http_version")
        method = field(scope, "method", str, optional=False)
        need(method == method.upper(), f"method {method!r}")
    else:
        field(scope, "http_version", str)
        for name in scope.get("subprotocols", ()):
            need(isinstance(name, str), f"subprotocol {name!r}")
    field(scope, "scheme", str)
    field(scope, "path", str, optional=False)
    field(scope, "raw_path", (bytes, type(None)))
    field(scope, "query_string", bytes, optional=kind == "websocket")
    field(scope, "root_path", str)
    headers_of(scope)
    address(scope, "client", (int,))
    address(scope, "server", (int, type(None)))


class _Talk:
    """One call. Subclasses know in which order the two sides may speak."""

    def __init__(self, scope: Scope) -> None:
        self.scope = scope
        self.over = False

    def offers(self, extension: str) -> bool:
        return extension in (self.scope.get("extensions") or {})

    def received(self, message: Message) -> None:
        """From the server to the application."""

    def sent(self, message: Message) -> None:
        """From the application to the server."""


class _Http(_Talk):
    def __init__(self, scope: Scope) -> None:
        super().__init__(scope)
        self.asking = True
        self.gone = False
        self.state = "start"
        self.trailers = False

    def received(self, message: Message) -> None:
        kind = field(message, "type", str, optional=False)
        if kind == "http.request":
            need(self.asking and not self.gone, "http.request after its end")
            field(message, "body", bytes)
            self.asking = bool(field(message, "more_body", bool))
        else:
            need(kind == "http.disconnect", f"the server says {kind}")
            self.gone = True

    def sent(self, message: Message) -> None:
        kind = field(message, "type", str, optional=False)
        state = self.state
        if kind == "http.response.start":
            need(state == "start", f"http.response.start when {state} was due")
            need(100 <= field(message, "status", int, optional=False) < 1000, "status")
            headers_of(message)
            self.trailers = bool(field(message, "trailers", bool))
            need(not self.trailers or self.offers("http.response.trailers"), "trailers that nobody offered")
            self.state = "body"
        elif kind == "http.response.body":
            need(state == "body", f"http.response.body when {state} was due")
            field(message, "body", bytes)
            self._ended(field(message, "more_body", bool))
        elif kind == "http.response.zerocopysend":
            need(self.offers(kind) and state == "body", f"{kind} when {state} was due")
            field(message, "file", object, optional=False)
            field(message, "offset", int)
            field(message, "count", int)
            self._ended(field(message, "more_body", bool))
        elif kind == "http.response.pathsend":
            need(self.offers(kind) and state == "body", f"{kind} when {state} was due")
            field(message, "path", str, optional=False)
            self._ended(False)
        elif kind == "http.response.trailers":
            need(state == "trailers", f"{kind} when {state} was due")
            headers_of(message)
            if not field(message, "more_trailers", bool):
                self.state = "nothing"
        elif kind == "http.response.early_hint":
            need(self.offers(kind) and state == "start", f"{kind} when {state} was due")
            for link in message.get("links", ()):
                need(isinstance(link, bytes), f"link {link!r}")
        elif kind == "http.response.push":
            need(self.offers(kind), f"{kind} that nobody offered")
            field(message, "path", str, optional=False)
            headers_of(message)
        elif kind == "http.response.debug":
            need(self.offers(kind) and state == "start", f"{kind} when {state} was due")
            field(message, "info", Mapping, optional=False)
        else:
            need(False, f"the application says {kind}")

    def _ended(self, more: Any) -> None:
        if not more:
            self.state = "trailers" if self.trailers else "nothing"


class _WebSocket(_Talk):
    def __init__(self, scope: Scope) -> None:
        super().__init__(scope)
        self.heard = "nothing"
        self.state = "handshake"

    def received(self, message: Message) -> None:
        kind = field(message, "type", str, optional=False)
        if kind == "websocket.connect":
            need(self.heard == "nothing", "websocket.connect twice")
            self.heard = "connect"
        elif kind == "websocket.receive":
            need(self.heard == "connect", "websocket.receive out of turn")
            need(self.state in ("open", "closed"), "websocket.receive before the handshake")
            data, text = (
                field(message, "bytes", (bytes, type(None))),
                field(message, "text", (str, type(None))),
            )
            need((data is None) != (text is None), "websocket.receive with both or neither")
        else:
            need(kind == "websocket.disconnect", f"the server says {kind}")
            field(message, "code", int)
            field(message, "reason", (str, type(None)))
            self.heard = "disconnect"

    def sent(self, message: Message) -> None:
        kind = field(message, "type", str, optional=False)
        state = self.state
        if kind == "websocket.accept":
            need(state == "handshake", f"websocket.accept in {state}")
            field(message, "subprotocol", (str, type(None)))
            headers_of(message)
            self.state = "open"
        elif kind == "websocket.send":
            need(state == "open", f"websocket.send in {state}")
            data, text = (
                field(message, "bytes", (bytes, type(None))),
                field(message, "text", (str, type(None))),
            )
            need((data is None) != (text is None), "websocket.send with both or neither")
        elif kind == "websocket.close":
            need(state in ("handshake", "open"), f"websocket.close in {state}")
            field(message, "code", int)
            field(message, "reason", (str, type(None)))
            self.state = "closed"
        elif kind == "websocket.http.response.start":
            need(state == "handshake" and self.offers("websocket.http.response"), f"{kind} in {state}")
            field(message, "status", int, optional=False)
            headers_of(message)
            self.state = "denying"
        elif kind == "websocket.http.response.body":
            need(state == "denying", f"{kind} in {state}")
            field(message, "body", bytes)
            if not field(message, "more_body", bool):
                self.state = "closed"
        else:
            need(False, f"the application says {kind}")


class _Lifespan(_Talk):
    def __init__(self, scope: Scope) -> None:
        super().__init__(scope)
        self.asked = ["lifespan.startup", "lifespan.shutdown"]
        self.due: str | None = None

    def received(self, message: Message) -> None:
        kind = field(message, "type", str, optional=False)
        need(self.asked and kind == self.asked[0] and self.due is None, f"the server says {kind} out of turn")
        self.due = self.asked.pop(0)

    def sent(self, message: Message) -> None:
        kind = field(message, "type", str, optional=False)
        need(
            self.due is not None and kind in (f"{self.due}.complete", f"{self.due}.failed"),
            f"the application says {kind} when {self.due} was asked",
        )
        field(message, "message", str)
        self.due = None


_TALKS: Mapping[str, type[_Talk]] = {"http": _Http, "websocket": _WebSocket, "lifespan": _Lifespan}


def validator(app: Callable[..., Awaitable[Any]]) -> Callable[..., Awaitable[Any]]:
    """`app`, with everything that passes between it and who calls it held to the protocol."""

    async def validated(*arguments: Any) -> Any:
        need(len(arguments) == 3, f"called with {len(arguments)} arguments")
        scope, receive, send = arguments
        check_scope(scope)
        talk = _TALKS.get(scope["type"], _Talk)(scope)

        async def checked_receive(*more: Any) -> Message:
            need(not more, "receive() takes no argument")
            need(not talk.over, "receive() after the end of the call")
            message: Message = await receive()
            talk.received(message)
            return message

        async def checked_send(*message: Any) -> None:
            need(len(message) == 1, "send() takes a message")
            need(not talk.over, "send() after the end of the call")
            talk.sent(message[0])
            returned = await send(message[0])
            need(returned is None, f"send() returned {returned!r}")

        try:
            return await app(scope, checked_receive, checked_send)
        finally:
            talk.over = True

    return validated
