"""What is a secret: keys that name one, by whole words, and texts that hold one, by its shape or by the key before it.

Whole words decide, so `author` and `tokens_used` stay readable. Every pattern here reads its text once: none has a
repetition inside a repetition, and none starts again inside what it has just read.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from functools import lru_cache
from itertools import pairwise
from typing import Final
from urllib.parse import unquote

REDACTED: Final = "[redacted]"

_WORDS = re.compile(r"[A-Z]+(?![a-z])|[A-Z]?[a-z]+|[0-9]+")
# A secret wherever the word stands in the key ...
_ALWAYS: Final = frozenset(
    {"password", "passwd", "pwd", "passphrase", "secret", "secrets", "authorization", "apikey", "credentials"}
    | {"cookie", "cookies", "jwt", "csrftoken", "sessionid", "authtoken", "accesstoken", "refreshtoken"}
    | {"pgpassword", "userpass", "otp", "cvv", "cvc"}
)
# ... and only as its last word (`access_token`, `session_key`), for words that also count or describe things.
_LAST: Final = frozenset({"token", "credential", "dsn", "bearer", "signature"})
_PAIRS: Final = frozenset(
    {("api", "key"), ("private", "key"), ("access", "key"), ("secret", "key"), ("session", "id")}
    | {("session", "key"), ("encryption", "key"), ("card", "number"), ("set", "cookie"), ("account", "key")}
    | {("signing", "key"), ("shared", "key"), ("auth", "key")}
)
_KEY_CHARACTERS: Final = 128


def make_redactor(more: Iterable[str] = ()) -> Callable[[str], bool]:
    """A function that tells whether a key names a secret; `more` are further keys, compared without case."""
    extra = frozenset(name.lower() for name in more)

    @lru_cache(maxsize=4096)
    def known(key: str) -> bool:
        if key.lower() in extra:
            return True
        words = [word.lower() for word in _WORDS.findall(key)]
        if not words:
            return False
        return (
            not _ALWAYS.isdisjoint(words)
            or words[-1] in _LAST
            or any(pair in _PAIRS for pair in pairwise(words))
        )

    def is_secret(key: str) -> bool:
        # A key longer than any name is data: only its start is looked at, and remembered.
        return known(key if len(key) <= _KEY_CHARACTERS else key[:_KEY_CHARACTERS])

    is_secret.clean = set()  # type: ignore[attr-defined]  # what `scrub` has seen with these names
    return is_secret


is_secret_name: Final = make_redactor()

# ---- values -------------------------------------------------------------------------------------------

# Where a token may begin: not inside a word, but behind an encoded character (%2F, %252F) it does.
_EDGE = r"(?:(?<![A-Za-z0-9_\-])|(?<=%[2-7][0-9A-Fa-f])|(?<=25[2-7][0-9A-Fa-f]))"
# The shapes their issuers document. One alternative per first characters, each of them one run of characters.
_SHAPES = re.compile(
    _EDGE
    + r"(?:"
    + "|".join(
        (
            r"eyJ[\w\-]{5,}+\.[\w\-]{5,}+(?:\.[\w\-]*+){0,3}",  # JWT, JWE
            r"(?:AKIA|ASIA|ABIA|ACCA)[A-Z0-9]{16}\b",  # AWS access key id
            r"gh[pousr]_[A-Za-z0-9]{20,}+|github_pat_\w{20,}+",  # GitHub
            r"gl(?:pat|dt|rt|cbt|ptt|ft|soat|imt|agent|oas)-[\w\-]{16,}+",  # GitLab
            r"xox[abeoprs]-[\w\-]{10,}+|xapp-\d-[\w\-]{10,}+",  # Slack
            r"[srp]k_(?:live|test)_\w{10,}+|whsec_[\w+/=]{16,}+",  # Stripe
            r"AIza[\w\-]{35}|ya29\.[\w\-]{20,}+|GOCSPX-[\w\-]{20,}+",  # Google
            r"npm_[A-Za-z0-9]{30,}+|pypi-[\w\-]{16,}+",
            r"sk-(?:ant|proj|svcacct|or)-[\w\-]{16,}+|sk-[A-Za-z0-9]{32,}+",  # OpenAI, Anthropic
            r"SG\.[\w\-]{16,}+\.[\w\-]{16,}+",  # SendGrid
            r"do[opr]_v1_[0-9a-f]{64}|hf_[A-Za-z0-9]{30,}+|hv[sbr]\.[\w\-]{20,}+|shp(?:at|ca|pa|ss)_[0-9a-fA-F]{32}",
        )
    )
    + r")"
)
# A first look that costs little: a character that nearly all of them have, and what stands right before it.
_DASH_HINT = re.compile(
    r"-(?:(?<=[iktpsoXr]-)(?:(?<=sk-)|(?<=pypi-)|(?<=xox[oprs]-)|(?<=xapp-)|(?<=SPX-)|(?<=gl\w\w-)|(?<=gl\w{3}-)"
    r"|(?<=gl\w{4}-)|(?<=gl\w{5}-))|(?<=xox[abe]-))"
)
_LINE_HINT = re.compile(
    r"_(?:(?<=gh[pousr]_)|(?<=[srp]k_)|(?<=[pc]at_)|(?<=sec_)|(?<=npm_)|(?<=v1_)|(?<=hf_)|(?<=hp[acs][as]_))"
)
_DOT_HINT = re.compile(r"\.(?:(?<=29\.)|(?<=SG\.)|(?<=hv[sbr]\.))")
_CAPITAL_HINT = re.compile(r"A(?:KIA|SIA|BIA|CCA|Iza)")
# Payment cards, by the numbers their networks begin with; the check digit decides (one number in ten has a right one).
_CARD = re.compile(
    r"(?<![\w.\-])(?:[25][1-7]\d\d|4\d{3}|6(?:011|5\d\d))([ \-]?)\d{4}\1\d{4}\1\d{4}(?![\w\-]|\.\d)"
    r"|(?<![\w.\-])3[47]\d\d([ \-]?)\d{6}\2\d{5}(?![\w\-]|\.\d)"
)
_CARD_HINT = re.compile(r"[2-6][0-9]{3}[ \-]?[0-9]{4}(?:[ \-]?[0-9]{4}|[0-9]{2}[ \-][0-9])")
_PEM_BEGIN = re.compile(r"-----BEGIN [A-Z ]{0,40}PRIVATE KEY")
_PEM_END = re.compile(r"-----END [A-Z ]{0,40}PRIVATE KEY(?: BLOCK)?-----")
# scheme://user:password@host: a password may hold what RFC 3986 forbids it (/ and @), but //, and no port is one.
_USERINFO = re.compile(
    r"://[^\s\"'<>@/:?#]*+:(?!\d{1,5}(?:[/?#\s\"',)]|$))(?:[^\s\"'<>@/]|/(?!/))*+@(?:[^\s\"'<>@/?#]*+@)*+"
)
# A user alone ends at the first slash: what stands behind that is a path.
_USER_ONLY = re.compile(r"://[^\s\"'<>@/?#:]++@")
_CREDENTIALS = re.compile(r"(?<![\w\-])(Bearer|Basic|Digest|Negotiate|Token) {1,3}+([\w.~+/\-]{12,}+=*+)")

# key=value, key: value, "key": "value", ('key', 'value'), key%3Dvalue. The key is all of its run of characters,
# so a text is entered once per run.
_PAIR = re.compile(
    r"(?<![\w.\-])([\w.\-]++)"
    r"(?:[\"'\\\]]{0,4}+\s{0,3}+(?:=>|==?|:=?)\s{0,3}+|(?<=\w)b?[\"']\s{0,2}+,\s{0,2}+(?=b?[\"']))"
)
# A piece of each word above: a text without any has no key that names a secret.
_KEY_HINT = re.compile(
    r"pass|pwd|secret|authori|authtok|cred|cookie|jwt|token|session|dsn|bearer|signature|key|card|otp|cv[vc]"
)
_AFTER_TUPLE = re.compile(r"(?:\(b?|\[b)[\"']$")
_VALUE = re.compile(
    r"b?\"(?:[^\"\\]|\\[\s\S])*+\"?"
    r"|b?'(?:[^'\\]|\\[\s\S])*+'?"
    r"|\\+\"(?:[^\"\\]|\\(?!\"))*+(?:\\\")?"
    r"|(?i:bearer|basic|digest|negotiate|token|apikey) {1,3}+[^\s,;\"'<>\\]++"
    r"|[^\s&,;\"'<>)\]}|\\]++"
)
_REST_OF_LINE = re.compile(r"[^\r\n\"']*+")
_WHOLE_LINE = frozenset(
    {"cookie", "cookies", "set-cookie", "set_cookie", "cookie2", "authorization", "proxy-authorization"}
)
# What stands behind such a key and is none: states and the words of sentences.
_NO_VALUE: Final = frozenset(
    {
        "none",
        "null",
        "true",
        "false",
        "nil",
        "undefined",
        "required",
        "missing",
        "invalid",
        "expired",
        "empty",
        "str",
    }
    | {
        "string",
        "not",
        "must",
        "is",
        "was",
        "should",
        "cannot",
        "field",
        "unexpected",
        "bad",
        "wrong",
        "{",
        "[",
        "(",
        "...",
    }
    | {
        "***",
        "****",
        "*****",
        "********",
        "[redacted",
        "redacted",
        "<redacted",
        "[filtered",
        "the",
        "a",
        "an",
        "no",
        "too",
    }
)
_ENCODED = re.compile(r"%(?:25)*[2-7][0-9A-Fa-f]")
_ROUNDS: Final = 4
# Whatever is replaced below has one of these characters in it, or is a card's number: most paths are judged by that.
_harmless = re.compile(r"[^-_.A%=:, 0-9]*+(?:[0-9]{1,11}+(?![0-9])[^-_.A%=:, 0-9]*+)*+").fullmatch
_GLANCE_CHARACTERS: Final = 80
# Texts that hold no secret (only those) are remembered, for what is said again and again, such as user agents. The
# shortest are looked at sooner than they are looked up.
_WORTH_REMEMBERING: Final = 15
_REMEMBERED: Final = 1024
_REMEMBERED_CHARACTERS: Final = 256


def scrub(text: str, is_secret: Callable[[str], bool] = is_secret_name) -> str:
    """`text` with each secret in it replaced: tokens of known shapes, userinfo, values behind a key that names one.

    A text that hides a secret in percent-encoding, once or several times, is shown decoded. Text without a secret
    comes back as it is, the same object. The time grows linearly with the text. Never raises for any text.
    """
    clean: set[str] | None = None
    if _WORTH_REMEMBERING <= len(text) <= _REMEMBERED_CHARACTERS:
        if len(text) <= _GLANCE_CHARACTERS and _harmless(text) is not None:
            return text
        clean = getattr(is_secret, "clean", None)
        if clean is not None and text in clean:
            return text
    scrubbed = _scrub(text, is_secret)
    if "%" in text and _ENCODED.search(text) is not None:
        current = scrubbed
        for _ in range(_ROUNDS):
            decoded = unquote(current)
            if decoded == current:
                break
            current = _scrub(decoded, is_secret)
            if current != decoded:
                scrubbed = current
    if scrubbed != text:
        return scrubbed
    if clean is not None:
        if len(clean) >= _REMEMBERED:
            clean.clear()
        clean.add(text)
    return text


def _scrub(text: str, is_secret: Callable[[str], bool]) -> str:
    if len(text) >= 15:
        if _may_hold_a_token(text):
            text = _SHAPES.sub(REDACTED, text)
        if _CARD_HINT.search(text) is not None:
            text = _CARD.sub(_card, text)
        if "-----BEGIN" in text:
            text = _without_keys(text)
        if " " in text and _CREDENTIALS.search(text) is not None:
            text = _CREDENTIALS.sub(_credentials, text)
    if "=" in text or ":" in text or "', " in text or '", ' in text:
        if "@" in text and "://" in text:
            text = _USER_ONLY.sub(f"://{REDACTED}@", _USERINFO.sub(f"://{REDACTED}@", text))
        if is_secret is not is_secret_name or _KEY_HINT.search(text.lower()) is not None:
            text = _without_values(text, is_secret)
    return text


def _may_hold_a_token(text: str) -> bool:
    return (
        "eyJ" in text
        or ("-" in text and _DASH_HINT.search(text) is not None)
        or ("_" in text and _LINE_HINT.search(text) is not None)
        or ("." in text and _DOT_HINT.search(text) is not None)
        or ("A" in text and _CAPITAL_HINT.search(text) is not None)
    )


def _without_values(text: str, is_secret: Callable[[str], bool]) -> str:
    kept: list[str] = []
    at = start = 0
    while (pair := _PAIR.search(text, at)) is not None:
        at = pair.end()
        key = pair[1]
        if not is_secret(key if len(key) <= _KEY_CHARACTERS else key[-_KEY_CHARACTERS:]):
            continue
        if "," in pair[0] and _AFTER_TUPLE.search(text, max(0, pair.start() - 3), pair.start()) is None:
            continue  # ["password", "email"] names fields; ("password", "...") is one with its value
        value = _VALUE.match(text, at)
        if value is None or value[0].lower().rstrip(".,:;") in _NO_VALUE or value[0].startswith(REDACTED):
            continue
        end = value.end()
        if key.lower() in _WHOLE_LINE and value[0][0] not in "\"'b\\":
            end = max(end, _REST_OF_LINE.match(text, at).end())  # type: ignore[union-attr]
        kept += (text[start:at], _quoted(value[0]))
        start = at = end
    return "".join((*kept, text[start:])) if kept else text


def _quoted(value: str) -> str:
    """The stand-in, between the quotes that the value had: JSON stays JSON."""
    opened = value[: 2 if value[0] == "b" and value[1:2] in ("'", '"') else 1]
    if opened[-1] not in "\"'":
        return REDACTED
    return opened + REDACTED + opened[-1]


def _without_keys(text: str) -> str:
    kept: list[str] = []
    at = 0
    while (begin := _PEM_BEGIN.search(text, at)) is not None:
        kept += (text[at : begin.start()], REDACTED)
        end = _PEM_END.search(text, begin.end())
        at = len(text) if end is None else end.end()
    return "".join((*kept, text[at:])) if kept else text


def _credentials(match: re.Match[str]) -> str:
    # "Token expired-yesterday" is prose: a credential has a digit or both cases, or is long.
    value = match[2]
    prose = len(value) < 24 and value.replace("-", "").isalpha() and (value.islower() or value.istitle())
    return match[0] if prose else f"{match[1]} {REDACTED}"


def _card(match: re.Match[str]) -> str:
    digits = [int(character) for character in match[0] if character.isdecimal()]
    for place in range(len(digits) - 2, -1, -2):
        digits[place] = digits[place] * 2 - 9 * (digits[place] > 4)
    return REDACTED if sum(digits) % 10 == 0 else match[0]
