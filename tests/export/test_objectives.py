"""Objectives as a user writes them, and what is refused with which words."""

from __future__ import annotations

import re
from decimal import Decimal

import pytest

from obskit.export.errors import ExportError
from obskit.export.objectives import DEFAULTS, Objective, parse


def test_without_any_the_defaults_hold() -> None:
    assert parse([]) == DEFAULTS
    assert [one.text for one in DEFAULTS] == [
        "99.9 % of requests succeed",
        "99 % of requests are answered within 0.5 s",
    ]


def test_an_objective_replaces_the_default_of_the_same_thing_and_leaves_the_other() -> None:
    assert parse(["availability=99.5"]) == (Objective(Decimal("99.5")), DEFAULTS[1])
    assert parse(["latency=95:1s"]) == (DEFAULTS[0], Objective(Decimal(95), 1.0))


def test_an_objective_of_a_route_leaves_both_defaults() -> None:
    route = Objective(Decimal(95), 0.25, "/checkout")
    assert parse(["latency@/checkout=95:250ms"]) == (*DEFAULTS, route)


def test_the_order_does_not_depend_on_the_order_of_the_arguments() -> None:
    texts = ["latency@/b=95:1s", "availability@/a=99", "latency=99:1s", "availability@/b=99"]
    assert parse(texts) == parse(reversed(texts))
    assert [(one.route, one.slo) for one in parse(texts)] == [
        (None, "availability"),
        (None, "latency"),
        ("/a", "availability"),
        ("/b", "availability"),
        ("/b", "latency"),
    ]


@pytest.mark.parametrize(
    ("text", "target", "budget"),
    [
        ("availability=99.9", "0.999", "0.001"),
        ("availability=99.90", "0.999", "0.001"),
        ("availability=99.9%", "0.999", "0.001"),
        ("availability=99.999", "0.99999", "0.00001"),
        ("availability=94", "0.94", "0.06"),
        ("availability=95.0", "0.95", "0.05"),
    ],
)
def test_share_and_budget_are_exact_decimals(text: str, target: str, budget: str) -> None:
    (objective, _) = parse([text])
    assert (objective.target, objective.budget) == (target, budget)
    assert objective.slo == "availability"


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("500ms", 0.5), ("0.5s", 0.5), ("5ms", 0.005), ("7.5s", 7.5), ("10s", 10.0), ("2500ms", 2.5)],
)
def test_a_threshold_is_read_in_seconds_or_milliseconds(text: str, seconds: float) -> None:
    (_, objective) = parse([f"latency=99:{text}"])
    assert objective.threshold_s == seconds
    assert objective.slo == "latency"


@pytest.mark.parametrize(
    "route",
    [
        "/orders/{order_id}",
        "/orders/<int:order_id>",
        "/a=b",
        "/a@b",
        "/^x/(?P<y>[0-9]+)$",
        r"/^x/\d+/$",
        '/a"b',
    ],
)
def test_a_route_may_be_any_template_of_a_framework(route: str) -> None:
    *_, objective = parse([f"availability@{route}=99"])
    assert objective.route == route


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "saw '', expected availability=99.9, latency=99:0.5s or"),
        ("99.9", "saw '99.9', expected availability=99.9"),
        ("uptime=99", "saw 'uptime=99', expected availability=99.9"),
        ("availability@=99", "saw 'availability@=99', expected availability=99.9"),
        ("availability@checkout=99", "saw 'availability@checkout=99', expected availability=99.9"),
        ("availability=99:1s", "saw 'availability=99:1s', expected availability=99.9"),
        ("latency=99", "saw 'latency=99', expected availability=99.9"),
        ("availability@/{{x}}=99", "saw the route '/{{x}}', expected a template"),
        ("availability@/a\nb=99", "saw the route '/a\\nb', expected a template"),
        ("availability=much", "saw 'much' as the share of good requests, expected a percentage such as 99.9"),
        ("availability=", "saw '' as the share of good requests"),
        ("availability=NaN", "saw 'NaN' as the share of good requests"),
        ("availability=Infinity", "saw 'Infinity' as the share of good requests"),
        ("availability=93.9", "saw 93.9 % of good requests, expected 94 to 99.999"),
        ("availability=0.999", "saw 0.999 % of good requests, expected 94 to 99.999"),
        ("availability=100", "saw 100 % of good requests, expected 94 to 99.999"),
        ("latency=99:", "saw '' as latency threshold"),
        ("latency=99:fast", "saw 'fast' as latency threshold"),
        ("latency=99:0.5", "saw '0.5' as latency threshold"),
        ("latency=99:0.3s", "Only a bound of the duration histogram can be counted exactly: 0.005s 0.01s"),
        ("latency=99:300ms", "saw '300ms' as latency threshold"),
    ],
)
def test_what_is_no_objective_is_refused_with_what_was_seen_and_expected(text: str, message: str) -> None:
    with pytest.raises(ExportError, match=re.escape(message)) as refused:
        parse([text])
    assert str(refused.value).startswith("--slo: ")


@pytest.mark.parametrize(
    ("texts", "message"),
    [
        (
            ["availability=99", "availability=99.5"],
            "--slo: 'availability=99.5' is the second objective for availability: give one",
        ),
        (
            ["latency@/a=95:1s", "latency@/b=95:1s", "latency@/a=99:1s"],
            "--slo: 'latency@/a=99:1s' is the second objective for latency of /a: give one",
        ),
    ],
)
def test_two_objectives_of_the_same_thing_are_refused(texts: list[str], message: str) -> None:
    with pytest.raises(ExportError, match=re.escape(message)):
        parse(texts)
