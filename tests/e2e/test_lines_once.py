"""What a real server says of itself comes out once: as a line of ours, and not beside it in the server's own form."""

from __future__ import annotations

import urllib.error
import urllib.request
from pathlib import Path

import pytest

from tests.support.servers import Server

pytestmark = pytest.mark.e2e

ASGI = """
import obskit
from fastapi import FastAPI

app = FastAPI()


@app.get("/")
def index() -> str:
    return "ok"


@app.get("/fail")
def fail() -> str:
    raise RuntimeError("the warehouse does not answer")


obskit.install(app)
"""
WSGI = """
import obskit
from flask import Flask

app = Flask("shop")


@app.get("/")
def index() -> str:
    return "ok"


@app.get("/fail")
def fail() -> str:
    raise RuntimeError("the warehouse does not answer")


obskit.install(app)
"""


@pytest.mark.parametrize(
    ("server", "source"),
    [
        ("uvicorn", ASGI),
        ("hypercorn", ASGI),
        ("granian", ASGI),
        ("gunicorn-uvicorn", ASGI),
        ("gunicorn-gthread", WSGI),
        ("gunicorn-sync", WSGI),
        ("waitress", WSGI),
    ],
)
def test_no_line_of_a_server_comes_twice(server: str, source: str, tmp_path: Path) -> None:
    (tmp_path / "shop_app.py").write_text(source, encoding="utf-8")
    with Server(server, "shop_app:app", cwd=tmp_path, log_dir=tmp_path / "log") as running:
        urllib.request.urlopen(f"{running.url}/", timeout=10).read()
        with pytest.raises(urllib.error.HTTPError):
            urllib.request.urlopen(f"{running.url}/fail", timeout=10)
        running.wait_for_line(lambda line: line.get("url_path") == "/fail")
    lines = running.lines
    written_plain = running.stderr() + "\n".join(running.other_output)
    assert sum(line["event"] == "http.request" for line in lines) == 2
    assert '"GET / HTTP' not in written_plain, "an access line beside the canonical line"
    for line in lines:
        if line["logger"] not in ("obskit", "obskit.http"):
            again = [
                text for text in written_plain.splitlines() if text.endswith(line["event"].splitlines()[0])
            ]
            assert not again, f"{line['logger']} printed it a second time"
