"""What databases and validators say when they refuse, without the value they refused: it came with the request."""

from __future__ import annotations

import re
from typing import Any

from obskit.redact import REDACTED

_MAX_ERRORS = 16
_MAX_LOCATION = 8
# A value in the one line that says what is wrong: Postgres and SQLite put it behind a colon, MySQL between quotes.
_BEHIND_COLON = re.compile(r":(\s*)(\"[^\n]*\"|'[^\n]*')")
_MYSQL_VALUE = re.compile(r"\b(entry|value:?) '[^\n]*?' (for|in|at)\b|\b(entry|value:?) '[^\n]*'")
_SQL_NOTES = re.compile(r"\[(?:SQL|parameters): [\s\S]*?(?=\n\(Background|\nTraceback|\Z)")
_REFUSED = re.compile(r"((?:invalid input|unrecognized token)[^\n:\"]*+: )\"[^\n]*+")
_DETAIL = re.compile(r"(DETAIL: )[^\n]*")
_INPUT = re.compile(r"(input_value=|'input': )(?:'[^'\n]*+'|\"[^\"\n]*+\"|[^\n,\]}]*+)")
_QUERY_VALUE = re.compile(r"([?&][\w.\-\[\]%]{1,64}+=)(?!\[redacted)[^\s&#'\"<>()\]]++")


def database_message(text: str) -> str:
    """The first line of what a driver or SQLAlchemy said: DETAIL, SQL and parameters follow on the next ones."""
    # An argument in a tuple is written by repr: its lines are marked, not broken.
    line = re.split(r"\r|\n|\\n", text, maxsplit=1)[0]
    line = re.split(r"\s*(?:DETAIL|HINT|CONTEXT|\[SQL|\[parameters):?\s", line, maxsplit=1)[0]
    line = _BEHIND_COLON.sub(rf":\1{REDACTED}", line)
    return _MYSQL_VALUE.sub(_without_mysql_value, line)


def _without_mysql_value(match: re.Match[str]) -> str:
    return f"{match[1]} {REDACTED} {match[2]}" if match[1] else f"{match[3]} {REDACTED}"


def without_values(text: str) -> str:
    """The text of an exception that others wrote down (a traceback), without SQL, parameters, details and inputs."""
    if "[SQL: " in text or "[parameters: " in text:
        text = _SQL_NOTES.sub(f"[{REDACTED}]", text)
    if "DETAIL" in text:
        text = _DETAIL.sub(rf"\1{REDACTED}", text)
    if "input_value=" in text or "'input': " in text:
        text = _INPUT.sub(rf"\1{REDACTED}", text)
    if "invalid input" in text or "unrecognized token" in text:
        text = _REFUSED.sub(rf"\1{REDACTED}", text)
    if "entry '" in text or "value" in text:
        text = _MYSQL_VALUE.sub(_without_mysql_value, text)
    if "?" in text and "=" in text:
        text = _QUERY_VALUE.sub(rf"\1{REDACTED}", text)
    return text


def pydantic_message(error: Any) -> str:
    """Where the input is wrong and why, without the input: it is somebody's body."""
    errors = error.errors(include_url=False, include_context=False, include_input=False)
    return _located(errors, str(error.title))


def fastapi_message(errors: Any) -> str:
    """The same for FastAPI's own exceptions, which hold the list that pydantic made."""
    return _located(errors if type(errors) in (list, tuple) else (), "")


def _located(errors: Any, title: str) -> str:
    told = []
    for one in list(errors)[:_MAX_ERRORS]:
        if type(one) is not dict:
            continue
        place = ".".join(str(part)[:80] for part in list(one.get("loc", ()))[:_MAX_LOCATION])
        reason = one.get("msg")
        # No colon: `password: Input should ...` reads like a value that belongs to a key.
        told.append(f"{place} ({reason})" if type(reason) is str else place)
    many = f"{len(errors)} validation error{'' if len(errors) == 1 else 's'}"
    return f"{many}{f' for {title}' if title else ''}: {'; '.join(told)}"
