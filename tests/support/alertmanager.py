"""The real Alertmanager on loopback, and a webhook receiver that keeps every notification."""

from __future__ import annotations

import copy
import json
import re
import threading
import time
from collections.abc import Mapping
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from typing import Any

from tests.support.program import Program
from tests.support.receiver import Receiver, body_of

_DURATIONS = frozenset({"group_wait", "group_interval", "repeat_interval"})
_UNIT_MS = {"ms": 1, "s": 1000, "m": 60_000, "h": 3_600_000, "d": 86_400_000}


class AlertmanagerError(Exception):
    """Alertmanager did not start, or a notification that was waited for never came; the message says which."""


def for_test(configuration: Mapping[str, Any], webhook_url: str, time_factor: int) -> dict[str, Any]:
    """`configuration` with its webhooks at `webhook_url`/<receiver> and every interval divided by `time_factor`."""
    config = copy.deepcopy(dict(configuration))
    for receiver in config["receivers"]:
        for webhook in receiver.get("webhook_configs", []):
            webhook["url"] = f"{webhook_url}/{receiver['name']}"
    _divide(config["route"], time_factor)
    return config


def _divide(route: dict[str, Any], time_factor: int) -> None:
    for name in _DURATIONS & route.keys():
        match = re.fullmatch(r"(\d+)(ms|[smhd])", route[name])
        assert match, f"{name}: saw {route[name]!r}, expected a number and a unit"
        route[name] = f"{int(match[1]) * _UNIT_MS[match[2]] // time_factor}ms"
    for below in route.get("routes", []):
        _divide(below, time_factor)


class AlertmanagerServer(Program):
    """An Alertmanager with its data in `directory`."""

    # Debian's name comes first.
    names = ("prometheus-alertmanager", "alertmanager")
    error = AlertmanagerError

    def __init__(self, directory: Path, configuration: Mapping[str, Any]) -> None:
        super().__init__(directory)
        # JSON is YAML.
        (directory / "alertmanager.yml").write_text(json.dumps(configuration, indent=1))

    def arguments(self) -> list[str]:
        return [
            f"--config.file={self.directory / 'alertmanager.yml'}",
            f"--storage.path={self.directory / 'data'}",
            f"--web.listen-address={self.address}",
            "--cluster.listen-address=",
            "--log.level=warn",
        ]


@dataclass(frozen=True, slots=True)
class Delivered:
    """One alert of one notification. `at` is in seconds since the epoch, `status` is firing or resolved."""

    at: float
    receiver: str
    status: str
    labels: dict[str, str]
    annotations: dict[str, str]

    def has(self, labels: Mapping[str, str]) -> bool:
        return labels.items() <= self.labels.items()


class Webhook(Receiver):
    """Receives notifications and keeps them all."""

    def __init__(self) -> None:
        super().__init__()
        self._delivered: list[Delivered] = []
        self._changed = threading.Condition()

    def handle(self, request: BaseHTTPRequestHandler) -> None:
        payload = json.loads(body_of(request))
        now, receiver = time.time(), request.path.strip("/")
        with self._changed:
            self._delivered += [
                Delivered(now, receiver, alert["status"], alert["labels"], alert["annotations"])
                for alert in payload["alerts"]
            ]
            self._changed.notify_all()
        request.send_response(200)
        request.send_header("Content-Length", "0")
        request.end_headers()

    @property
    def delivered(self) -> list[Delivered]:
        """Every alert of every notification until now, in order of arrival."""
        with self._changed:
            return list(self._delivered)

    def wait_for(
        self, status: str, labels: Mapping[str, str], *, after: float = 0.0, timeout: float = 60.0
    ) -> Delivered:
        """The first alert with `status` and `labels` that was delivered after the moment `after`.

        AlertmanagerError, with what came instead, when `timeout` seconds pass.
        """

        def found() -> Delivered | None:
            return next(
                (
                    one
                    for one in self._delivered
                    if one.status == status and one.at > after and one.has(labels)
                ),
                None,
            )

        with self._changed:
            if not self._changed.wait_for(lambda: found() is not None, timeout):
                told = "\n".join(f"{one.at:.1f} {one.status} {one.labels}" for one in self._delivered)
                raise AlertmanagerError(
                    f"no {status} {dict(labels)} after {after:.1f} within {timeout:g} s; delivered:\n{told}"
                )
            one = found()
            assert one is not None
            return one
