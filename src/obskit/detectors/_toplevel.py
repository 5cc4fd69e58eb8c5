"""The top level of a JSON object, read from its first bytes: also where the rest of the body was never seen.

Nothing nested is looked into, and nothing recurses.
"""

from __future__ import annotations

import json
import re
from enum import Enum
from typing import Any


class Shape(Enum):
    """A value that is no scalar, or of which the end was not seen: what it is, not what it says."""

    TEXT = "text"
    OBJECT = "object"
    LIST = "list"


# JSON's white space alone, and no pattern gives back what it took: each is linear, whatever a body holds.
_SPACE = rb"[ \t\r\n]*+"
_WHOLE = rb'"[^"\\]*+(?:\\.[^"\\]*+)*+"'
_OPEN = re.compile(_SPACE + rb"\{", re.DOTALL)
_KEY = re.compile(_SPACE + rb"(" + _WHOLE + rb")" + _SPACE + rb":" + _SPACE, re.DOTALL)
_TEXT = re.compile(_WHOLE, re.DOTALL)
_INSIDE = re.compile(rb"[\[{]" + _SPACE + rb"(.)", re.DOTALL)
_BRACKET = re.compile(rb'(?:[^"\[\]{}]++|' + _WHOLE + rb")*+([\[\]{}])", re.DOTALL)
_LITERAL = re.compile(rb"[-+.0-9A-Za-z]++(?=[ \t\r\n,}])")
_NEXT = re.compile(_SPACE + rb",")


def members(head: bytes) -> dict[str, Any]:
    """The members of the object that `head` begins with, as far as they were seen; empty if it begins with none.

    Numbers, true, false, null and whole strings have their value; a non-empty object or list, and a string that was
    cut, is a `Shape`; an empty object or list is {} or []. Of a repeated key the last counts, as for every reader of
    JSON. What is no JSON ends the reading; what came before it stays. Never raises.
    """
    found: dict[str, Any] = {}
    opened = _OPEN.match(head)
    if opened is None:
        return found
    position = opened.end()
    try:
        while key := _KEY.match(head, position):
            value, position = _value(head, key.end())
            found[json.loads(key[1].decode())] = value
            comma = _NEXT.match(head, position)
            if comma is None:
                break
            position = comma.end()
    except ValueError:
        pass  # the cut came too early to tell this value, or it is no JSON
    return found


def _value(head: bytes, start: int) -> tuple[Any, int]:
    """The value that begins here and the position after it. Raises ValueError for one that tells nothing."""
    first = head[start : start + 1]
    if first == b'"':
        text = _TEXT.match(head, start)
        if text is not None:
            return json.loads(text[0].decode()), text.end()
        if len(head) > start + 1:
            return Shape.TEXT, len(head)
    elif first in (b"{", b"["):
        inside = _INSIDE.match(head, start)
        if inside is not None:
            value: Any = Shape.OBJECT if first == b"{" else Shape.LIST
            if inside[1] in (b"}", b"]"):
                value = {} if first == b"{" else []
            return value, _end_of_nesting(head, start)
    else:
        literal = _LITERAL.match(head, start)
        if literal is not None:
            return json.loads(literal[0]), literal.end()
    raise ValueError("the body was cut before this value could be told")


def _end_of_nesting(head: bytes, start: int) -> int:
    depth, position = 0, start
    while bracket := _BRACKET.match(head, position):
        position = bracket.end()
        depth += 1 if bracket[1] in (b"{", b"[") else -1
        if depth == 0:
            return position
    return len(head)
