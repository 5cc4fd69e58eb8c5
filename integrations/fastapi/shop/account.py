"""Log-in with a session in a signed cookie."""

from __future__ import annotations

from fastapi import APIRouter, HTTPException, Request, Response
from sqlalchemy import select

import obskit

from .database import DatabaseDependency
from .models import User
from .passwords import hash_password, password_matches
from .schemas import Credentials

router = APIRouter()
log = obskit.get_logger(__name__)

# Compared with when there is no such user, so that the answer takes as long and tells nobody who exists.
NOBODYS_HASH = hash_password("nobody")


# Synchronous endpoints run in the thread pool, where the hash and the query block nobody's event loop.
@router.post("/login")
def log_in(request: Request, credentials: Credentials, database: DatabaseDependency) -> dict[str, str]:
    with database.session() as db:
        user = db.scalar(select(User).where(User.username == credentials.username))
    matches = password_matches(credentials.password, user.password_hash if user else NOBODYS_HASH)
    if user is None or not matches:
        log.warning("login.refused")
        raise HTTPException(401, "wrong user name or password")
    request.session.clear()
    request.session["user_id"] = user.id
    log.info("login.accepted", user_id=user.id)
    return {"username": user.username}


@router.get("/me")
def me(request: Request, database: DatabaseDependency) -> dict[str, str]:
    user_id = request.session.get("user_id")
    if user_id is not None:
        with database.session() as db:
            user = db.get(User, user_id)
        if user is not None:
            return {"username": user.username}
    raise HTTPException(401, "not logged in")


@router.post("/logout", status_code=204)
def log_out(request: Request) -> Response:
    request.session.clear()
    return Response(status_code=204)
