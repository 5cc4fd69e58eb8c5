"""Hundreds of secrets for each kind of application, and none of them in anything that obskit writes."""

from __future__ import annotations

import base64
from pathlib import Path

import pytest

from tests.reliability.secrets.canaries import SHAPES, Canaries, found_in, percent
from tests.reliability.secrets.hunt import ALLOWED, KINDS, hunt

pytestmark = pytest.mark.xdist_group("secrets")


@pytest.mark.parametrize(("log_format", "kinds"), [("json", KINDS), ("console", ("flask", "fastapi"))])
def test_no_planted_secret_leaves_by_default(log_format: str, kinds: tuple[str, ...], tmp_path: Path) -> None:
    result = hunt(tmp_path, log_format, kinds)
    assert result.leaks == []
    assert len(result.places) >= 200 * len(kinds)
    assert result.spans > 30 * len(kinds)
    assert result.lines > 200 * len(kinds)


def test_every_place_can_tell_its_secret(tmp_path: Path) -> None:
    result = hunt(tmp_path, "json", ("flask", "starlette"), careless=True)
    told = result.told("stdout", "stderr", "pages", "otlp", "arrived")
    assert [place for place in result.places if place not in told | result.never] == []
    assert len(result.told("stdout")) > 250
    assert len(result.told("otlp")) > 100
    assert len(result.told("pages")) > 10


@pytest.mark.parametrize("shape", SHAPES)
def test_the_search_finds_a_secret_in_every_shape_and_encoding(shape: str) -> None:
    make = Canaries("search")
    text = make("a place", shape)
    canary = next(iter(make.places))
    forms = {
        "raw": text.encode(),
        "percent": percent(text, 3).encode(),
        "base64": b"x " + base64.b64encode(text.encode()) + b" y",
        "url-safe base64 in a longer run": b"abc" + base64.urlsafe_b64encode(text.encode()).rstrip(b"="),
        "escaped": "".join(f"\\u{ord(character):04x}" for character in text).encode(),
        "escaped as bytes": "".join(f"\\x{ord(character):02x}" for character in text).encode(),
    }
    assert {name for name, data in forms.items() if canary in found_in(data)} == set(forms)
    assert found_in(b"nothing here") == set()


def test_what_may_leave_is_what_a_standard_passes_on() -> None:
    assert {"otlp: request, tracestate"} == ALLOWED
