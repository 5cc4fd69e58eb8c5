"""What a case is: what the client does, and what the three signals must then say."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

from .targets import Target

if TYPE_CHECKING:
    from .client import Caller, Reply
    from .views import Seen

UNMATCHED = "unmatched"
FINDINGS_OF_OUTCOME: Mapping[str, tuple[str, ...]] = {
    "client_disconnect": ("client_disconnect",),
    "truncated": ("truncated_response",),
    "raised_after_headers": ("raised_after_headers", "truncated_response"),
    "no_response": ("no_response",),
    "cancelled": ("cancelled",),
    "timeout": ("timeout",),
}
_PARAMETER = re.compile(r"\{(\w+)(?::([^{}]+))?\}")


@dataclass(frozen=True)
class Expect:
    """What must be seen of every request of a case.

    route      template in neutral syntax, "/orders/{order_id:int}"; render() writes it per framework
    status     what was sent; None when nothing was
    level      of the canonical line; by default what the contract derives from status and outcome
    raises     class name of the exception on the line; None: no exception may be there
    client_got the status the client saw, where the server answers something else than the app sent
    requests   how many requests of the client must have left telemetry
    telemetry  False: the server answered by itself, the app never knew, and nothing may be recorded
    websocket  counted as an outcome, but not in the latency histograms
    findings   names of the silent failures seen; by default those that the outcome implies, so that every
               other case is a near miss
    earlier    what differs for the requests that only prepare what the case is about (Reply.earlier)
    checks     more claims, each a function of what was seen
    """

    route: str
    status: int | None = 200
    outcome: str = "completed"
    method: str = "GET"
    level: str | None = None
    raises: str | tuple[str, ...] | None = None
    client_got: int | None = None
    requests: int = 1
    telemetry: bool = True
    websocket: bool = False
    findings: tuple[str, ...] | None = None
    earlier: Mapping[str, Any] = field(default_factory=dict)
    checks: tuple[Callable[[Seen], None], ...] = ()

    def expected_findings(self) -> list[str]:
        """In the order of their names, as the detectors are asked."""
        if self.findings is not None:
            return sorted(self.findings)
        if self.outcome == "completed":
            # What raised had its whole answer out, so nobody but the log knew of it.
            return ["background_failure"] if self.raises is not None else []
        found = FINDINGS_OF_OUTCOME.get(self.outcome, ())
        return sorted(name for name in found if not (self.websocket and name == "truncated_response"))

    def of_reply(self, reply: Reply) -> Expect:
        """What must be seen of this one of the client's requests."""
        own = replace(self, checks=(), **self.earlier) if reply.earlier else self
        return replace(own, route=reply.route) if reply.route else own

    def expected_level(self) -> str:
        if self.level is not None:
            return self.level
        if self.raises is not None or (self.status or 0) >= 500:
            return "error"
        return "info" if self.outcome == "completed" and not self.expected_findings() else "warning"


@dataclass(frozen=True)
class Differs:
    """Where one interface, kind or server must show something else, and why that is right."""

    reason: str
    changes: Mapping[str, Any]


def differs(reason: str, **changes: Any) -> Differs:
    return Differs(reason, changes)


@dataclass(frozen=True)
class Case:
    """`act` plays the client; `not_for` and `differs` are keyed as Target.keys says.

    `shows` is the finding the case is there to bring about, or to come near to without bringing it about.
    `prepare` makes what the case needs to have happened before, and returns how many requests left a record of it.
    """

    name: str
    act: Callable[[Caller], list[Reply] | Reply | None]
    expect: Expect
    not_for: Mapping[str, str] = field(default_factory=dict)
    differs: Mapping[str, Differs] = field(default_factory=dict)
    shows: str = ""
    prepare: Callable[[Caller], int] | None = None

    def applies_to(self, target: Target) -> bool:
        return not any(key in self.not_for for key in target.keys)

    def expected(self, target: Target) -> Expect:
        expect = self.expect
        for key in target.keys:
            if key in self.differs:
                expect = replace(expect, **self.differs[key].changes)
        return replace(expect, route=render(expect.route, target.kind))


def render(route: str, kind: str) -> str:
    """The template as the framework itself writes it.

    >>> render("/orders/{order_id:int}", "flask")
    '/orders/<int:order_id>'
    >>> render("/orders/{order_id:int}", "fastapi")
    '/orders/{order_id}'
    """

    def parameter(match: re.Match[str]) -> str:
        name, converter = match[1], match[2]
        if kind == "flask":
            # A Flask app has no built-in regex converter; apps/flask_app.py registers "year".
            return f"<{converter}:{name}>" if converter else f"<{name}>"
        if kind.startswith("django"):
            # A re_path() group has no converter: ^articles/(?P<year>[0-9]{4})/$ is /articles/<year>/.
            return f"<int:{name}>" if converter == "int" else f"<{name}>"
        return f"{{{name}}}"

    return route if route == UNMATCHED else _PARAMETER.sub(parameter, route)
