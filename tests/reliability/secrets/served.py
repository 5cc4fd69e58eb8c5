"""The application of one kind for a real server to import: OBSKIT_SECRETS_KIND says which, and a folder takes notes."""

from __future__ import annotations

import os
import threading
import time
from pathlib import Path
from typing import Any

import obskit
from tests.reliability.secrets import apps, scenes
from tests.reliability.secrets.canaries import Canaries

NOTES = Path(os.environ["SECRETS_NOTES"])
KIND = os.environ["SECRETS_KIND"]

make = Canaries(os.environ["SECRETS_SEED"], NOTES / "places")


@scenes.scene
def hangs(make: Canaries, kind: str) -> None:
    """Waits until somebody kills it or lets it go, with a secret in its frame."""
    secret = make(f"{kind}: a local of a request that hangs")
    obskit.bind(password=make(f"{kind}: a fact of a request that hangs"))
    (NOTES / f"hangs-{os.getpid()}").touch()
    deadline = time.monotonic() + 60 + len(secret)
    while not (NOTES / "let-go").exists() and time.monotonic() < deadline:
        threading.Event().wait(0.1)


class _Noting(apps.Stage):
    def act(self, kind: str, name: str, *seen: Any) -> tuple[list[tuple[str, str]], bytes]:
        try:
            return super().act(kind, name, *seen)
        finally:
            with (NOTES / "arrived").open("a", encoding="utf-8", errors="replace") as file:
                file.write("\n".join(self.arrived))
            self.arrived.clear()


build, interface = apps.KINDS[KIND]
app = obskit.install(build(_Noting(make), KIND), service=KIND, interface=interface, redact=["iban"])
