from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from obskit import redact
from obskit.redact import REDACTED, make_redactor, scrub
from tests.reliability.secrets.canaries import SHAPES, Canaries, found_in
from tests.reliability.secrets.pace import NEAR_MISSES, seconds


@pytest.mark.parametrize(
    "key",
    [
        "password", "Password", "user_password", "passwordHash", "DB_PASSWORD", "db.passwd", "secret", "client_secret",
        "authorization", "Authorization", "proxy-authorization", "api_key", "apiKey", "APIKey", "x-api-key", "apikey",
        "access_token", "accessToken", "token", "csrfmiddlewaretoken_csrftoken", "session_id", "sessionid", "cookie",
        "Set-Cookie", "private_key", "jwt", "card_number", "dsn", "sentry_dsn", "bearer", "passphrase", "password1",
    ],
)  # fmt: skip
def test_a_key_that_names_a_secret_is_one(key: str) -> None:
    assert make_redactor()(key)


@pytest.mark.parametrize(
    "key",
    [
        "author", "authority", "authenticated", "tokens_used", "token_count", "max_tokens", "secretary", "session",
        "key", "keyboard", "primary_key", "monkey", "order_id", "bearer_of_news", "signature_count", "compass", "",
        "42", "___", "пароль", "cardinality",
    ],
)  # fmt: skip
def test_a_key_that_only_looks_like_one_stays_readable(key: str) -> None:
    assert not make_redactor()(key)


def test_more_names_are_compared_whole_and_without_case() -> None:
    is_secret = make_redactor(["IBAN", "x.y"])
    assert is_secret("iban")
    assert is_secret("X.Y")
    assert not is_secret("iban_count")
    assert not make_redactor()("iban")


def test_only_the_start_of_an_endless_key_is_looked_at() -> None:
    is_secret = make_redactor()
    assert not is_secret("x" * 1_000_000 + "_password")
    assert is_secret("password_" + "x" * 1_000_000)


def test_an_endless_key_is_not_remembered_whole() -> None:
    is_secret = make_redactor()
    cache = next(
        cell.cell_contents
        for cell in is_secret.__closure__ or ()
        if hasattr(cell.cell_contents, "cache_info")
    )
    is_secret("k" * 1_000_000)
    is_secret("k" * 1_000_001)
    assert cache.cache_info().currsize == 1


# ---- secrets in texts ---------------------------------------------------------------------------------


@pytest.mark.parametrize("shape", [shape for shape in SHAPES if shape != "word"])
@pytest.mark.parametrize(
    "around", ["{}", "call failed: {} (will retry)", "/reset/{}/next", "{} and {}", "a={}"]
)
def test_a_secret_of_a_known_shape_is_found_wherever_it_stands(shape: str, around: str) -> None:
    secret = Canaries("0")("x", shape)
    text = around.format(secret, secret)
    assert found_in(text.encode())
    assert not found_in(scrub(text).encode()), scrub(text)
    assert REDACTED in scrub(text)


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("password=hunter2&page=1", "password=[redacted]&page=1"),
        ("PASSWORD : hunter2, user: ann", "PASSWORD : [redacted], user: ann"),
        ("user[password]=hunter2", "user[password]=[redacted]"),
        ("--api-key=abc --verbose", "--api-key=[redacted] --verbose"),
        ("host=db password=hunter2 user=ann", "host=db password=[redacted] user=ann"),
        ("Server=db;Pwd=hunter2;Database=x", "Server=db;Pwd=[redacted];Database=x"),
        ('{"password": "hun\\"ter2", "a": 1}', '{"password": "[redacted]", "a": 1}'),
        ('{"password":"unended', '{"password":"[redacted]"'),
        ("{'token': 'abc', 'user': 'ann'}", "{'token': '[redacted]', 'user': 'ann'}"),
        ("[(b'cookie', b'a=b; c=d'), (b'host', b'x')]", "[(b'cookie', b'[redacted]'), (b'host', b'x')]"),
        ("Cookie: a=b; c=d\nHost: x", "Cookie: [redacted]\nHost: x"),
        ("Authorization: Basic YW5uOnB3, Host: x", "Authorization: [redacted]"),
        ("sent Bearer abcdef1234567890 to x", "sent Bearer [redacted] to x"),
        ("postgres://app:hun/t@er2@db:5432/x", "postgres://[redacted]@db:5432/x"),
        ("redis://:hunter2@cache/0", "redis://[redacted]@cache/0"),
        ("https://key@errors.example/1", "https://[redacted]@errors.example/1"),
        ("amqp://a:b@x, amqp://c:d@y", "amqp://[redacted]@x, amqp://[redacted]@y"),
        ("postgres%3A%2F%2Fapp%3Ahunter2%40db%2Fx", "postgres://[redacted]@db/x"),
        ("next%253Ftoken%253Dabc", "next?token=[redacted]"),
        ("card 4111 1111 1111 1111 declined", "card [redacted] declined"),
        ("card=378282246310005", "card=[redacted]"),
        ("-----BEGIN PRIVATE KEY-----\nabc\n-----END PRIVATE KEY----- ok", "[redacted] ok"),
        ("-----BEGIN PRIVATE KEY-----\nabc", "[redacted]"),
    ],
)  # fmt: skip
def test_a_text_keeps_all_but_its_secret(text: str, shown: str) -> None:
    assert scrub(text) == shown
    assert scrub(shown) == shown


INNOCENT = [
    "author=ann",
    "tokens_used=512",
    '{"input_tokens": 12, "output_tokens": 80}',
    "max_tokens: 4096",
    "session_count=3",
    "authority: example.com",
    "authenticated=true",
    "secretary: Bob",
    "primary_key=7",
    "key=value",
    "monkey: banana",
    "the password is required",
    "password: required",
    "password: must be at least 8 characters long",
    "token: expired",
    "invalid token: unexpected end of input",
    "Unexpected token } in JSON at position 4",
    "csrf check passed",
    "commit 3f786850e387550fdab836ed7e6dc881de23001b",
    "HEAD is now at 89e6c98d92887913cadf06b2adb97f26cde4849b",
    "3f2504e0-4f89-11d3-9a0c-0305e82c3301",
    "/users/3f2504e0-4f89-11d3-9a0c-0305e82c3301/orders",
    "trace_id=0af7651916cd43dd8448eb211c80319c",
    "traceparent: 00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01",
    "sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855",
    "md5=d41d8cd98f00b204e9800998ecf8427e",
    "order 1234567890123456 was paid",
    "snowflake 175928847299117063",
    "1769903999000001",
    "4111111111111112",
    "phone +49 170 1234567",
    "IBAN DE89370400440532013000",
    "10.0.0.1:5432",
    "http://127.0.0.1:8000/orders?page=2",
    "https://example.com/a:b/c?d=e",
    "http://[::1]:8080/x",
    "https://example.com/@scope/package",
    "mailto:ann@example.com",
    "ann@example.com",
    "user ann@example.com logged in from 10.0.0.1:80",
    "git@github.com:owner/repo.git",
    "npm install @types/node@20",
    "postgresql://db.internal:5432/shop",
    "redis://localhost:6379/0",
    "SELECT * FROM tokens WHERE id = 7",
    "select token from sessions",
    "UPDATE users SET name = 'x' WHERE id = 3",
    "KeyError: 'name'",
    "'order_id'",
    "invalid literal for int() with base 10: 'abc'",
    "[Errno 111] Connection refused",
    'File "/app/auth/token.py", line 3, in refresh_token',
    "/app/secrets/views.py:12 show_password_form",
    "shop.auth.TokenError",
    "token_count=4",
    "signature_count: 2",
    "bearer_of_news=bob",
    "Bearer of bad news arrived",
    "Basic authentication is needed",
    "Basic authentication-required",
    "Token bucket-refilled for client",
    "GET /static/js/app.3f2a1b9c.js HTTP/1.1",
    "Mozilla/5.0 (X11; Linux x86_64) AppleWebKit/537.36 (KHTML, like Gecko) Chrome/120.0.0.0 Safari/537.36",
    "curl/8.4.0",
    "python-requests/2.34.2",
    "kube-probe/1.29",
    "2026-01-31T23:59:59.000001Z",
    "duration=0.25s status=200 bytes=512",
    'level=info msg="done" took=3ms',
    '{"a": 1, "b": [1, 2, 3]}',
    "{'a': 1, 'b': ('x', 'y')}",
    "['password', 'email']",
    '["token", "user"]',
    "missing fields: ['password', 'email']",
    "100% of 25% done",
    "50%25 off",
    "caf%C3%A9",
    "/search/%E2%9C%93",
    "a=b&c=d",
    "x: y",
    ":::",
    "===",
    "key: ",
    "= value",
    "1:2:3",
    "ratio 4:3",
    "sk-SK",
    "sk_SK",
    "eyJ",
    "eyJhbGci",
    "AKIA",
    "ghp_short",
    "xox",
    "AIza",
    "npm_config_registry",
    "npm_lifecycle_event",
    "pypi-server",
    "pypi-mirror",
    "glpat-",
    "hf_hub",
    "gh_pages",
    "-----BEGIN CERTIFICATE-----",
    "-----BEGIN PUBLIC KEY-----",
    "SG.",
    "hvs.",
    "cardinality=12",
    "card: ann",
    "passenger=ann",
    "compass: north",
    "bypass=true",
    "keyboard: us",
    "dsn_count=2",
    "cookie_banner_shown",
    "authorize the payment",
    "session: 12 minutes",
    "x-request-id: 7f3b9c",
    "otpauth",
    "the secret of success",
    "expected token: str",
    "password=None",
    "password=***",
    "api_key=[redacted]",
    "Authorization: [redacted]",
    "unit test for tokens: 12 passed",
]


@pytest.mark.parametrize("text", INNOCENT)
def test_an_innocent_text_comes_back_as_the_same_object(text: str) -> None:
    assert scrub(text) is text


def test_names_of_the_option_count_in_texts_too() -> None:
    assert scrub("paid from iban=DE00 today", make_redactor(["iban"])) == "paid from iban=[redacted] today"
    assert scrub("paid from iban=DE00 today") == "paid from iban=DE00 today"


@given(
    st.text(st.characters(codec=None), max_size=300)
    | st.from_regex(r"(token|://|=|:|@|%3A|\"|\\|'|,| ){1,30}")
)
def test_no_text_makes_it_raise_and_what_is_clean_stays_clean(text: str) -> None:
    # What was hidden may make a pair or an address of what stands around it: looked at again, more is hidden, once.
    clean = scrub(scrub(text))
    assert scrub(clean) == clean or "%" in clean


PIECES = [
    *"aAkgs019 %-_./=:,'\"é@\n٣", "eyJhbGci", "eyJhbGciOi", "AKIA", "ghp_", "sk-", "sk-ant-", "xoxb-", "SG.", "hvs.",
    "npm_", "A" * 16, "a1" * 18, "4111", "1111", "4111111111111111", "378282246310005", "Bearer ", "token", "password",
    "iban", "://", "user:pw@", "%3D", "%253D", "%3A%2F%2F", "-----BEGIN PRIVATE KEY-----", "', '", "/orders/",
    "123456789012",
]  # fmt: skip


@settings(max_examples=500, deadline=None)
@given(st.lists(st.sampled_from(PIECES), max_size=12).map("".join) | st.text(st.characters(codec=None)))
def test_what_is_judged_at_a_glance_or_from_memory_is_judged_as_after_a_long_look(text: str) -> None:
    is_secret = make_redactor(["iban"])
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(redact, "_harmless", lambda text: None)
        looked_at = scrub(text, make_redactor(["iban"]))
    assert scrub(text, is_secret) == scrub(text, is_secret) == looked_at


@pytest.mark.parametrize(
    "path", ["/api/v1/orders/12345/items/99", "/orders/of/the/café", "/orders/12345678901"]
)
def test_an_ordinary_path_is_judged_at_a_glance(path: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(redact, "_scrub", lambda *_: pytest.fail("it was looked at"))
    assert scrub(path) is path


def test_only_clean_texts_are_remembered_and_not_many() -> None:
    is_secret = make_redactor()
    clean: set[str] = is_secret.clean  # type: ignore[attr-defined]
    scrub("password=hunter2", is_secret)
    assert not clean
    for number in range(5_000):
        scrub(f"order {number} of a customer who has ordered something" + "." * 40, is_secret)
        scrub(f"order {number} " + "x" * 300, is_secret)
    assert 0 < len(clean) <= 1024
    assert max(map(len, clean)) <= 256


def test_what_is_clean_by_our_names_is_looked_at_again_by_the_users() -> None:
    text = "what was ordered yesterday, and the day before, is paid today, as it should be, from iban=DE01"
    assert scrub(text) is text
    assert scrub(text, make_redactor(["iban"])) == text.replace("DE01", "[redacted]")


@pytest.mark.parametrize("piece", NEAR_MISSES)
def test_the_time_grows_with_the_text_and_not_faster(piece: str) -> None:
    # Quadratic would be 16 times; a quiet figure is in docs/reliability.md.
    assert seconds(piece, 65_536) <= 8 * max(seconds(piece, 16_384), 0.0005)
