"""Where the shop keeps its data: SQLite in a file, or PostgreSQL when DATABASE_URL says so."""

from __future__ import annotations

from typing import Any
from urllib.parse import parse_qsl, unquote, urlsplit

from django.core.exceptions import ImproperlyConfigured


def database_settings(url: str | None, sqlite_path: str, conn_max_age_s: int) -> dict[str, Any]:
    """One entry of Django's DATABASES.

    Raises ImproperlyConfigured for a URL that is not postgresql://. The URL is never part of the message: it
    may carry a password.
    """
    if not url:
        return {
            "ENGINE": "django.db.backends.sqlite3",
            "NAME": sqlite_path,
            "CONN_MAX_AGE": conn_max_age_s,
            "OPTIONS": {
                # WAL lets readers go on while one writes; the timeout (seconds) lets writers queue. A
                # transaction takes the write lock at once: one that upgrades half-way fails, not waits.
                "timeout": 10,
                "transaction_mode": "IMMEDIATE",
                "init_command": "PRAGMA journal_mode=WAL; PRAGMA synchronous=NORMAL;",
            },
        }
    parts = urlsplit(url)
    if parts.scheme not in {"postgresql", "postgres"}:
        raise ImproperlyConfigured(f"DATABASE_URL starts with {parts.scheme!r}: write postgresql://...")
    return {
        "ENGINE": "django.db.backends.postgresql",
        "NAME": unquote(parts.path.lstrip("/")),
        "USER": unquote(parts.username or ""),
        "PASSWORD": unquote(parts.password or ""),
        "HOST": unquote(parts.hostname or ""),
        "PORT": str(parts.port or ""),
        "CONN_MAX_AGE": conn_max_age_s,
        "CONN_HEALTH_CHECKS": True,
        "OPTIONS": dict(parse_qsl(parts.query)),
    }
