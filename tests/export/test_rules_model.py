"""Rules as data: how an expression becomes PromQL, for all jobs or one, in real time or scaled."""

from __future__ import annotations

import pytest

from obskit.export.rules.model import Alert, Group, Recording, Rendering, in_seconds


@pytest.mark.parametrize(
    ("duration", "seconds"), [("90s", 90), ("2m", 120), ("1h", 3600), ("3d", 259200), ("1w", 604800)]
)
def test_a_duration_has_one_number_and_one_unit(duration: str, seconds: int) -> None:
    assert in_seconds(duration) == seconds


@pytest.mark.parametrize("text", ["", "5", "m", "1h30m", "1.5h", "-5m", "5 m", "1y"])
def test_anything_else_is_no_duration(text: str) -> None:
    with pytest.raises(ValueError, match="expected a number and one of s, m, h, d, w"):
        in_seconds(text)


@pytest.mark.parametrize(
    ("job", "expression", "written"),
    [
        (None, "up{<job>}", "up"),
        (None, 'up{<job>,instance="a"}', 'up{instance="a"}'),
        ("shop", "up{<job>}", 'up{job="shop"}'),
        ("shop", 'up{<job>,instance="a"}', 'up{job="shop",instance="a"}'),
        ('a"b\\c', "up{<job>}", 'up{job="a\\"b\\\\c"}'),
        # Flask writes routes with the same marks.
        ("shop", 'up{<job>,http_route="/jobs/<job>"}', 'up{job="shop",http_route="/jobs/<job>"}'),
        (None, 'up{<job>,http_route="/jobs/<job>"}', 'up{http_route="/jobs/<job>"}'),
    ],
)
def test_the_mark_of_the_job_becomes_a_matcher_or_nothing(
    job: str | None, expression: str, written: str
) -> None:
    assert Rendering(job=job).expression(expression) == written


def test_white_space_of_the_source_is_not_the_expressions() -> None:
    assert Rendering().expression("sum(\n  up\n)") == "sum( up )"


def test_each_side_of_the_outermost_set_operators_has_a_line() -> None:
    text = 'a > 1 and (b or c) unless d{x="and or unless )"} or on (job) e'
    assert Rendering().expression(text).splitlines() == [
        "a > 1",
        "and (b or c)",
        'unless d{x="and or unless )"}',
        "or on (job) e",
    ]


def test_a_quote_within_a_value_ends_no_string() -> None:
    assert Rendering().expression('a{x="\\" and b"} and c').splitlines() == ['a{x="\\" and b"}', "and c"]


@pytest.mark.parametrize(
    ("expression", "written"),
    [
        ("rate(a[1h])", "rate(a[60s])"),
        ("rate(a[1h] offset 1d)", "rate(a[60s] offset 1440s)"),
        ("max_over_time(a[1d:5m])", "max_over_time(a[1440s:5s])"),
        ("a offset 10m", "a offset 10s"),
        ("a > seconds(2h)", "a > 120"),
        ("b * seconds(1m)", "b * 1"),
        # Names are no durations, and nothing becomes shorter than a second.
        ("job:a:rate5m", "job:a:rate5m"),
        ("rate(a[30s])", "rate(a[1s])"),
    ],
)
def test_all_durations_of_an_expression_are_divided_by_the_factor(expression: str, written: str) -> None:
    assert Rendering(time_factor=60).expression(expression) == written


def test_without_a_factor_durations_stay_as_they_were_written() -> None:
    assert Rendering().expression("rate(a[1h] offset 1d) > seconds(2h)") == "rate(a[1h] offset 1d) > 7200"
    assert Rendering().duration("1h") == "1h"


def test_no_duration_stays_none_whatever_the_factor() -> None:
    assert Rendering(time_factor=60).duration("") == ""
    assert Rendering(time_factor=60).duration("5m") == "5s"


def test_the_alerts_of_a_group_are_those_of_its_rules_that_are_none_for_recording() -> None:
    alert = Alert("A", "up == 0", "warning", "", "", "overview")
    assert Group("g", "1m", (Recording("r", "up"), alert)).alerts == (alert,)
