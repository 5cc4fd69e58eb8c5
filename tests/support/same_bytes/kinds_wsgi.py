"""What a WSGI server of tests/e2e/test_same_bytes.py serves: each kind of application below a prefix of its own."""

from __future__ import annotations

import os
from typing import Any

import odd_wsgi
import shared

os.environ["CONFORMANCE_KIND"] = "django-wsgi"
if os.environ["SAME_BYTES"] == "bare":
    shared.install = lambda app, wrap: app

import django_app
import flask_app
import plain_wsgi

KINDS = {
    "plain": plain_wsgi.app,
    "flask": flask_app.app,
    "django": django_app.wsgi,
    "odd": shared.install(odd_wsgi.app, shared.wrap_wsgi),
}


def app(environ: dict[str, Any], start_response: Any) -> Any:
    kind, _, rest = environ.get("PATH_INFO", "").removeprefix("/").partition("/")
    # Not in a new environ: a server may look again at the one it made.
    environ["PATH_INFO"] = f"/{rest}"
    return KINDS.get(kind, KINDS["odd"])(environ, start_response)
