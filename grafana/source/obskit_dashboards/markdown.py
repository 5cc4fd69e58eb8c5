"""Markdown for text panels, in which nothing is taken for a variable of Grafana's.

A text panel first replaces variables in its source, code blocks included (and, from Grafana 13 on, may read it as a
Handlebars template), and only then renders it. A backslash escapes neither. Character references do: they are
looked at by the browser alone. Inside Markdown's code they would be shown as they are, so code that needs them
becomes HTML.
"""

from __future__ import annotations

import html
import re

# What Grafana would replace: $name, ${name...}, [[name]], {{...}}.
_REPLACED = re.compile(r"\$\w|\$\{|\[\[|\{\{")
_FENCE = re.compile(
    r"^(?P<indent> {0,3})(?P<mark>```+|~~~+)[^\n`]*\n(?P<code>.*?)^ {0,3}(?P=mark)[ \t]*$", re.M | re.S
)
_INLINE = re.compile(r"(?<!`)(?P<mark>`+)(?!`)(?P<code>.+?)(?<!`)(?P=mark)(?!`)", re.S)
_REFERENCES = {"$": "&#36;", "[": "&#91;", "{": "&#123;"}


def shielded(markdown: str) -> str:
    """`markdown` that shows the same in a text panel as anywhere else."""
    parts = []
    end = 0
    for fence in _FENCE.finditer(markdown):
        parts.append(_shielded_prose(markdown[end : fence.start()]))
        parts.append(_block(fence))
        end = fence.end()
    return "".join([*parts, _shielded_prose(markdown[end:])])


def _block(fence: re.Match[str]) -> str:
    code = fence["code"]
    if not _REPLACED.search(code):
        return fence[0]
    # CommonMark ends a <pre> block at </pre> only: empty lines within are safe.
    return f"<pre><code>{_referenced(html.escape(code, quote=False))}</code></pre>"


def _shielded_prose(markdown: str) -> str:
    parts = []
    end = 0
    for code in _INLINE.finditer(markdown):
        parts.append(_replaced(markdown[end : code.start()]))
        parts.append(_inline(code))
        end = code.end()
    return "".join([*parts, _replaced(markdown[end:])])


def _inline(code: re.Match[str]) -> str:
    if not _REPLACED.search(code["code"]):
        return code[0]
    # Inline HTML does not stop Markdown from reading what is in it: nothing that is a sign to it may stay.
    text = re.sub(r"[^\w\s]|_", lambda sign: f"&#{ord(sign[0])};", code["code"].strip())
    return f"<code>{text}</code>"


def _replaced(prose: str) -> str:
    return _REPLACED.sub(lambda found: _referenced(found[0]), prose)


def _referenced(text: str) -> str:
    return "".join(_REFERENCES.get(character, character) for character in text)
