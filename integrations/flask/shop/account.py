"""Log-in with a session in a signed cookie."""

from __future__ import annotations

import logging
from typing import Any

from flask import Blueprint, session
from sqlalchemy import select
from werkzeug.security import check_password_hash, generate_password_hash

from .database import get_database
from .inputs import credentials, json_object
from .models import User

account = Blueprint("account", __name__)
log = logging.getLogger(__name__)

# Compared with when there is no such user, so that the answer takes as long and tells nobody who exists.
NOBODYS_HASH = generate_password_hash("nobody")


@account.post("/login")
def log_in() -> tuple[dict[str, Any], int]:
    username, password = credentials(json_object())
    with get_database().session() as db:
        user = db.scalar(select(User).where(User.username == username))
    matches = check_password_hash(user.password_hash if user else NOBODYS_HASH, password)
    if user is None or not matches:
        log.warning("login refused")
        return {"error": "wrong user name or password"}, 401
    session.clear()
    session["user_id"] = user.id
    log.info("user logged in", extra={"user_id": user.id})
    return {"username": user.username}, 200


@account.get("/me")
def me() -> tuple[dict[str, Any], int]:
    user_id = session.get("user_id")
    if user_id is not None:
        with get_database().session() as db:
            user = db.get(User, user_id)
        if user is not None:
            return {"username": user.username}, 200
    return {"error": "not logged in"}, 401


@account.post("/logout")
def log_out() -> tuple[str, int]:
    session.clear()
    return "", 204
