from __future__ import annotations

import pytest

from obskit.redact import make_redactor


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
