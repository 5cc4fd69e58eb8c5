"""The app of the storage tests, in a process of its own: serves itself, and says what came of it.

`python -m tests.reliability.fuzz.served FD STATE_DIR SECONDS [USER]`: FD is a listening socket, which makes workers
that start one after another members of one group. Tells when the first request is through, and in the end what it saw.
"""

from __future__ import annotations

import json
import os
import socket
import sys
import time
from typing import Any

import obskit
from obskit import folders
from tests.support.recording import make_environ, talk_wsgi


def main(fd: int, state_dir: str, seconds: float, user: int | None = None) -> None:
    listening = socket.socket(fileno=fd)
    # Without an option for it: what is there is met wherever obskit looks by itself.
    folders.places = lambda directory: (state_dir,)

    def app(environ: dict[str, Any], start_response: Any) -> list[bytes]:
        start_response("200 OK", [("Content-Type", "text/plain")])
        return [environ["PATH_INFO"].encode()]

    served = obskit.install(
        app, service="damaged", interface="wsgi", log_format="json", instrumentation=False
    )
    if user is not None:  # not before: another user may not read where Python lies
        os.setgroups([])
        os.setgid(user)
        os.setuid(user)
    asked = wrong = 0
    slowest = 0.0
    scrapes: dict[str, int] = {}

    def ask() -> None:
        nonlocal asked, wrong, slowest
        began = time.perf_counter()
        talk = talk_wsgi(served, make_environ(f"/{asked}", "POST", b"x", HTTP_COOKIE=f"a={asked}"))
        slowest = max(slowest, time.perf_counter() - began)
        wrong += talk.error is not None or talk.status != "200 OK" or talk.data != f"/{asked}".encode()
        asked += 1

    def scrape() -> str:
        talk = talk_wsgi(served, make_environ("/metrics"))
        status = "raised" if talk.error is not None else talk.status
        scrapes[status] = scrapes.get(status, 0) + 1
        return talk.data.decode()

    ask()
    sys.stderr.write("ready\n")
    until = time.monotonic() + seconds
    page = ""
    while time.monotonic() < until:
        for _ in range(50):
            ask()
        page = scrape()
        time.sleep(0.02)
    told = [line for line in page.splitlines() if line.startswith("obskit_internal_errors_total")]
    found = {
        "asked": asked,
        "wrong": wrong,
        "slowest_s": slowest,
        "scrapes": scrapes,
        "internal_errors": told,
    }
    sys.stderr.write(f"report {json.dumps(found)}\n")
    obskit.shutdown()
    listening.close()


if __name__ == "__main__":
    main(int(sys.argv[1]), sys.argv[2], float(sys.argv[3]), int(sys.argv[4]) if len(sys.argv) > 4 else None)
