"""As much of Grafana's HTTP API as a push meets, on a real socket.

There is no grafana-server to test against. This one answers as Grafana's documentation ("Dashboard HTTP API",
"Dashboard versions", "Folder HTTP API") and its handlers have it: paths, payloads, status codes, the version that a
save must name, the history with its messages, and what each role may do.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler
from typing import Any, NamedTuple
from urllib.parse import urlsplit

from tests.support.receiver import Receiver, body_of

READING = frozenset({"GET"})
MAX_MESSAGE = 500
MAX_UID = 40


class Reply(NamedTuple):
    """An answer, for what the real one would not say."""

    status: int
    body: bytes = b""
    headers: Mapping[str, str] = {}


class Seen(NamedTuple):
    """A request as it arrived."""

    method: str
    path: str
    authorization: str | None
    body: Any


@dataclass
class Stored:
    """A dashboard and every version of it, the newest last."""

    dashboard: dict[str, Any]
    folder: str
    provisioned: bool = False
    messages: list[str] = field(default_factory=list)

    @property
    def version(self) -> int:
        return len(self.messages)


class FakeGrafana(Receiver):
    """Serves on loopback between enter and exit. `tokens` are the roles they have; None asks for no token."""

    def __init__(self, tokens: Mapping[str, str] | None) -> None:
        super().__init__()
        self.tokens = tokens
        self.folders: dict[str, str] = {}
        self.dashboards: dict[str, Stored] = {}
        self.seen: list[Seen] = []
        self.replies: dict[tuple[str, str], Reply] = {}
        """What to answer instead, by method and path without query."""
        self.before_save: Callable[[str], None] = lambda uid: None
        self.stored_as: Callable[[dict[str, Any]], dict[str, Any]] = lambda dashboard: dashboard
        """The form in which a dashboard is kept and given back."""

    @property
    def writes(self) -> list[str]:
        """Paths of the requests that wanted to change something."""
        return [one.path for one in self.seen if one.method not in READING]

    def saved_by_hand(self, uid: str, message: str = "", /, **changes: Any) -> None:
        """What a person does in the user interface."""
        stored = self.dashboards.setdefault(uid, Stored({"uid": uid, "title": uid}, folder=""))
        stored.dashboard = {**stored.dashboard, **changes}
        stored.messages.append(message)

    # ---- answering --------------------------------------------------------------------------------

    def handle(self, request: BaseHTTPRequestHandler) -> None:
        path = urlsplit(request.path).path
        content = body_of(request)
        body = json.loads(content) if content else None
        authorization = request.headers.get("Authorization")
        self.seen.append(Seen(request.command, path, authorization, body))
        reply = self.replies.get((request.command, path))
        if reply is None:
            status, answer = self._answer(request.command, path, authorization, body)
            reply = Reply(status, json.dumps(answer).encode(), {"Content-Type": "application/json"})
        request.send_response(reply.status)
        for name, value in reply.headers.items():
            request.send_header(name, value)
        request.send_header("Content-Length", str(len(reply.body)))
        request.end_headers()
        request.wfile.write(reply.body)

    def _answer(self, method: str, path: str, authorization: str | None, body: Any) -> tuple[int, Any]:
        if path == "/api/health":
            return 200, {"database": "ok", "version": "12.4.0", "commit": "abc"}
        if self.tokens is not None:
            role = self.tokens.get((authorization or "").removeprefix("Bearer "))
            if role is None:
                return 401, {"message": "Invalid API key" if authorization else "Unauthorized"}
            if role == "Viewer" and (method not in READING or "/versions/" in path):
                return 403, {"message": "You'll need additional permissions to perform this action."}
        if path == "/api/folders":
            if method == "GET":
                return 200, [{"uid": uid, "title": title} for uid, title in self.folders.items()]
            return self._create_folder(body)
        if match := re.fullmatch(r"/api/dashboards/uid/([^/]+)", path):
            return self._get(match[1])
        if match := re.fullmatch(r"/api/dashboards/uid/([^/]+)/versions/(\d+)", path):
            return self._get_version(match[1], int(match[2]))
        if path == "/api/dashboards/db" and method == "POST":
            return self._save(body)
        return 404, {"message": "Not found"}

    def _create_folder(self, body: Any) -> tuple[int, Any]:
        if body["uid"] in self.folders:
            return 409, {"message": "a folder with the same UID already exists"}
        self.folders[body["uid"]] = body["title"]
        return 200, {"uid": body["uid"], "title": body["title"], "version": 1}

    def _get(self, uid: str) -> tuple[int, Any]:
        stored = self.dashboards.get(uid)
        if stored is None:
            return 404, {"message": "Dashboard not found"}
        dashboard = {**stored.dashboard, "id": 7, "version": stored.version}
        return 200, {
            "dashboard": dashboard,
            "meta": {"folderUid": stored.folder, "provisioned": stored.provisioned},
        }

    def _get_version(self, uid: str, version: int) -> tuple[int, Any]:
        messages = self.dashboards[uid].messages
        if not 1 <= version <= len(messages):
            return 500, {"message": f"Dashboard version {version} not found"}
        return 200, {"uid": uid, "version": version, "message": messages[version - 1]}

    def _save(self, body: Any) -> tuple[int, Any]:
        dashboard = dict(body["dashboard"])
        uid, folder = dashboard["uid"], body.get("folderUid", "")
        if not dashboard.get("title"):
            return 400, {"message": "Dashboard title cannot be empty", "status": "empty-name"}
        if len(uid) > MAX_UID or len(body["message"]) > MAX_MESSAGE:
            return 400, {"message": "uid or message too long"}
        if folder and folder not in self.folders:
            return 400, {"message": "folder not found"}
        self.before_save(uid)
        stored = self.dashboards.get(uid)
        if stored is None:
            stored = self.dashboards[uid] = Stored({}, folder)
        elif stored.provisioned:
            return 400, {"message": "Cannot save provisioned dashboard"}
        elif dashboard.get("version") != stored.version and not body["overwrite"]:
            return 412, {
                "message": "The dashboard has been changed by someone else",
                "status": "version-mismatch",
            }
        kept = {key: value for key, value in dashboard.items() if key not in ("id", "version")}
        stored.dashboard, stored.folder = self.stored_as(kept), folder
        stored.messages.append(body["message"])
        return 200, {"uid": uid, "status": "success", "version": stored.version, "url": f"/d/{uid}"}
