"""Password hashes by scrypt, as text: salt and key in hexadecimal."""

from __future__ import annotations

import hashlib
import hmac
import secrets

# 16 MiB and some 40 ms a try: dear to guess with, bearable for a log-in.
COST, BLOCK_SIZE, PARALLELISM = 2**14, 8, 1


def hash_password(password: str) -> str:
    salt = secrets.token_bytes(16)
    return f"{salt.hex()}${_key(password, salt).hex()}"


def password_matches(password: str, stored: str) -> bool:
    salt, _, key = stored.partition("$")
    return hmac.compare_digest(_key(password, bytes.fromhex(salt)), bytes.fromhex(key))


def _key(password: str, salt: bytes) -> bytes:
    return hashlib.scrypt(password.encode(), salt=salt, n=COST, r=BLOCK_SIZE, p=PARALLELISM)
