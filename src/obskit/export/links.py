"""Where an alert sends the person it wakes: the dashboard that shows it and the runbook that explains it."""

from __future__ import annotations

from dataclasses import dataclass
from urllib.parse import urlsplit
from zlib import crc32

from obskit.export.errors import ExportError

DEFAULT_GRAFANA_URL = "http://localhost:3000"
RUNBOOKS_UID = "obskit-runbooks"


def dashboard_uid(slug: str) -> str:
    """The uid under which the dashboard with this slug is imported, which is also its address below ``/d/``."""
    return f"obskit-{slug}"


def runbook_panel_id(alert: str) -> int:
    """The id of an alert's panel on the runbooks dashboard, the same for ever: links to it are in old messages."""
    return crc32(alert.encode()) % 1_000_000


@dataclass(frozen=True, slots=True)
class Links:
    """The addresses that go into alerts. Both are without a trailing slash.

    Without a `runbook_base` of the user's own, runbooks are read in Grafana itself, on the dashboard that holds
    them: then no link leads to a page that somebody has yet to publish.
    """

    grafana_url: str = DEFAULT_GRAFANA_URL
    runbook_base: str | None = None

    def dashboard(self, slug: str, *labels: str, dot: str = "$labels") -> str:
        """The dashboard `slug` with a variable set from each of `labels` of the alert (alert templating language)."""
        # urlquery: a route such as /orders/<int:id> would end the link in the middle.
        values = "&".join(f"var-{label}={{{{ {dot}.{label} | urlquery }}}}" for label in labels)
        address = f"{self.grafana_url}/d/{dashboard_uid(slug)}"
        return f"{address}?{values}" if values else address

    def runbook(self, alert: str) -> str:
        """The runbook of `alert`."""
        if self.runbook_base is not None:
            return f"{self.runbook_base}/{alert}.md"
        return f"{self.grafana_url}/d/{RUNBOOKS_UID}?viewPanel={runbook_panel_id(alert)}"


def web_address(text: str, option: str) -> str:
    """`text` as an http(s) address without trailing slash; ExportError when it is none."""
    try:
        parts = urlsplit(text)
        usable = (
            parts.scheme in ("http", "https") and bool(parts.hostname) and not (parts.query or parts.fragment)
        )
        usable = usable and not any(character.isspace() or character in "{}\"'" for character in text)
        _ = parts.port
    except ValueError:
        usable = False
    if not usable:
        raise ExportError(f"{option}: saw {text!r}, expected an address such as https://example.org/obskit")
    if parts.username or parts.password:
        # It would be written into every file and message.
        raise ExportError(f"{option}: leave user and password out of the address")
    return text.rstrip("/")
