"""What the cases run over: seven kinds of app, each on every server that can serve it."""

from __future__ import annotations

from dataclasses import dataclass

ASGI_KINDS = ("fastapi", "starlette", "django-asgi", "plain-asgi")
WSGI_KINDS = ("flask", "django-wsgi", "plain-wsgi")
KINDS = ASGI_KINDS + WSGI_KINDS

ASGI_SERVERS = ("uvicorn", "hypercorn", "granian", "gunicorn-uvicorn")
WSGI_SERVERS = ("gunicorn-sync", "gunicorn-gthread", "waitress")

# What a server is asked to serve, from the directory apps/.
APPS = {
    "fastapi": "fastapi_app:app",
    "starlette": "starlette_app:app",
    "django-asgi": "django_app:asgi",
    "plain-asgi": "plain_asgi:app",
    "flask": "flask_app:app",
    "django-wsgi": "django_app:wsgi",
    "plain-wsgi": "plain_wsgi:app",
}


@dataclass(frozen=True)
class Target:
    """One kind of app on one server. `install` is "once", or "nested" (see apps/shared.py)."""

    kind: str
    server: str
    install: str = "once"

    @property
    def interface(self) -> str:
        return "asgi" if self.kind in ASGI_KINDS else "wsgi"

    @property
    def app(self) -> str:
        return APPS[self.kind]

    @property
    def id(self) -> str:
        return f"{self.kind}-on-{self.server}" + ("" if self.install == "once" else f"-{self.install}")

    @property
    def keys(self) -> tuple[str, ...]:
        """What a case may say something particular about, from the general to the specific."""
        return (
            self.interface,
            self.kind,
            self.server,
            f"{self.interface}@{self.server}",
            f"{self.kind}@{self.server}",
        )


TARGETS = tuple(
    [Target(kind, server) for kind in ASGI_KINDS for server in ASGI_SERVERS]
    + [Target(kind, server) for kind in WSGI_KINDS for server in WSGI_SERVERS]
    # uvicorn's other event loop and its other HTTP parser: the same server, different code below us.
    + [Target("fastapi", "uvicorn-uvloop"), Target("plain-asgi", "uvicorn-h11")]
)

NESTED_TARGETS = tuple(
    [Target(kind, "uvicorn", "nested") for kind in ASGI_KINDS]
    + [Target(kind, "gunicorn-gthread", "nested") for kind in WSGI_KINDS]
)
