"""What differs between machines, read from the environment once (see README.md)."""

from __future__ import annotations

import os
from dataclasses import dataclass, field


@dataclass(frozen=True)
class Settings:
    """The shop's settings; an argument wins over the environment."""

    secret_key: str = field(
        default_factory=lambda: os.environ.get("SECRET_KEY", "dev-only-change-me-in-production"), repr=False
    )
    database_url: str | None = field(default_factory=lambda: os.environ.get("DATABASE_URL"), repr=False)
    sqlite_path: str = field(default_factory=lambda: os.environ.get("SHOP_DB_PATH", "shop.sqlite3"))
    payments_url: str = field(
        default_factory=lambda: os.environ.get("PAYMENTS_URL", "http://127.0.0.1:8900").rstrip("/")
    )
    secure_cookies: bool = field(default_factory=lambda: os.environ.get("SECURE_COOKIES") == "1")
    # A log-in that everybody knows is for a laptop.
    seed_demo_user: bool = field(default_factory=lambda: os.environ.get("SEED_DEMO_USER", "1") == "1")
    max_upload_bytes: int = 50 * 1024 * 1024
