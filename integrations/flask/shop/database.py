"""Where the shop keeps its data: SQLite in a file, or PostgreSQL when DATABASE_URL says so."""

from __future__ import annotations

import fcntl
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from flask import current_app
from sqlalchemy import URL, create_engine, event, make_url
from sqlalchemy.orm import DeclarativeBase, Session, sessionmaker

SQLITE_BUSY_TIMEOUT_S = 10
# Any number will do as long as every process of this shop takes the same.
SCHEMA_LOCK_KEY = 5_201_314


class Base(DeclarativeBase):
    """What all tables of the shop derive from."""


class Database:
    """An engine and its sessions. Connects on first use; safe to share between threads.

    Raises ValueError for a URL that is not postgresql://. The URL is never part of the message: it may carry a
    password.
    """

    def __init__(self, url: str | None, sqlite_path: str) -> None:
        if url:
            parsed = make_url(url)
            if parsed.drivername not in {"postgresql", "postgres", "postgresql+psycopg"}:
                raise ValueError(f"DATABASE_URL starts with {parsed.drivername!r}: write postgresql://...")
            self.sqlite_path: str | None = None
            self.engine = create_engine(
                parsed.set(drivername="postgresql+psycopg"), pool_size=8, pool_pre_ping=True
            )
        else:
            self.sqlite_path = sqlite_path
            self.engine = create_engine(
                URL.create("sqlite", database=sqlite_path),
                pool_size=8,
                connect_args={"timeout": SQLITE_BUSY_TIMEOUT_S},
            )
            event.listen(self.engine, "connect", _set_up_sqlite_connection)
        self.session: sessionmaker[Session] = sessionmaker(self.engine, expire_on_commit=False)

    def create_tables(self, seed: Callable[[Session], None] | None = None) -> None:
        """Makes what is missing, then calls `seed`; one process at a time, for all workers do it at start."""
        with self._schema_lock(), self.session.begin() as session:
            if self.sqlite_path is None:
                # Held to the end of the transaction; CREATE TABLE IF NOT EXISTS alone can still collide.
                session.connection().exec_driver_sql(f"SELECT pg_advisory_xact_lock({SCHEMA_LOCK_KEY})")
            Base.metadata.create_all(session.connection())
            if seed is not None:
                seed(session)
        # A worker that is forked later must open connections of its own.
        self.engine.dispose()

    @contextmanager
    def _schema_lock(self) -> Iterator[None]:
        if self.sqlite_path is None:
            yield
            return
        # A file beside the database: closing a second handle on the database itself would drop SQLite's locks.
        with open(f"{self.sqlite_path}-lock", "w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            with self.engine.connect() as connection:
                # Kept in the file. Readers go on while one writes.
                connection.exec_driver_sql("PRAGMA journal_mode=WAL")
            yield


def _set_up_sqlite_connection(connection: Any, record: Any) -> None:
    cursor = connection.cursor()
    cursor.execute("PRAGMA synchronous=NORMAL")
    cursor.execute("PRAGMA foreign_keys=ON")
    cursor.close()


def get_database() -> Database:
    """The database of the app that serves this request."""
    return current_app.extensions["database"]
