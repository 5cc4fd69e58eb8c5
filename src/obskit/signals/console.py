"""A log line for a person at a terminal, by structlog's console renderer."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import Any

from obskit.exchange import Exchange
from obskit.plain import MAX_ITEMS, clean, key_of, path_of, plain
from obskit.redact import REDACTED
from obskit.signals.lines import timestamp
from obskit.signals.writer import MAX_LINE_BYTES

# What would move the cursor, ring, retitle the window or fake a line of its own.
_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029]")
# Keys structlog's renderer gives a place or a meaning of their own.
_RENDERERS_OWN = frozenset(
    {"timestamp", "level", "event", "logger", "logger_name", "stack", "exc_info", "exception"}
)


class Renderer:
    """Renders lines readable and in colour."""

    def __init__(self, is_secret: Callable[[str], bool]) -> None:
        # Only a terminal needs it, and it loads whatever makes tracebacks colourful.
        from structlog.dev import ConsoleRenderer  # noqa: PLC0415

        self._is_secret = is_secret
        self._render = ConsoleRenderer(colors=True)

    def line(
        self, level: str, event: str, logger: str, exchange: Exchange | None, fields: Mapping[str, Any]
    ) -> str:
        """One line, and below it the exception if there is one."""
        shown: dict[str, Any] = {}
        facts = exchange.facts if exchange is not None else None
        for key, value in list({**fields, **(facts or {}), **fields}.items())[: 2 * MAX_ITEMS]:
            name = _CONTROL.sub(_escaped, key_of(key, self._is_secret))
            if name == "exception" and type(value) is dict:
                shown["exception"] = _traceback(plain(value, self._is_secret))
            elif value is not None:
                name = name + "_" if name in _RENDERERS_OWN else name
                shown[name] = REDACTED if self._is_secret(name) else _visible(plain(value, self._is_secret))
        if exchange is not None:
            shown["request_id"] = exchange.request_id
        head = {
            "timestamp": timestamp(),
            "level": level,
            "logger": logger,
            "event": _visible(clean(event, self._is_secret)),
        }
        return _bounded(str(self._render(None, level, {**head, **shown})))

    def request(self, exchange: Exchange, extra: Mapping[str, Any]) -> str:
        """A canonical line as a person reads it: what was asked, what came of it, and only then the rest."""
        status = "no answer" if exchange.status is None else exchange.status
        # The whole path is looked at first: a cut token has no shape any more.
        path = path_of(exchange, self._is_secret)[:120]
        asked = f"{exchange.method} {path} {status} in {exchange.duration * 1e3:.1f} ms"
        fields: dict[str, Any] = {"route": exchange.http_route}
        if exchange.outcome != "completed":
            fields["outcome"] = str(exchange.outcome)
        if exchange.findings:
            fields["findings"] = ", ".join(dict.fromkeys(one.finding for one in exchange.findings))
        return self.line(exchange.level, asked, "http.request", exchange, {**fields, **extra})


def _bounded(text: str) -> str:
    data = text.encode("utf-8", "replace") if len(text) * 4 > MAX_LINE_BYTES else b""
    if len(data) < MAX_LINE_BYTES:
        return text
    # Colours end where the line does.
    return data[: MAX_LINE_BYTES - 64].decode("utf-8", "ignore") + "…\x1b[0m"


def _visible(value: Any) -> Any:
    return _CONTROL.sub(_escaped, value) if isinstance(value, str) else value


def _escaped(match: re.Match[str]) -> str:
    return repr(match[0])[1:-1]


def _traceback(exception: Mapping[str, Any]) -> str:
    frames = exception.get("frames")
    told = [
        f'  File "{f.get("file")}", line {f.get("line")}, in {f.get("function")}'
        for f in (frames if type(frames) is list else ())
        if type(f) is dict
    ]
    last = f"{exception.get('type')}: {exception.get('message')}"
    return "\n".join(str(_visible(line)) for line in ["Traceback (most recent call last):", *told, last])
