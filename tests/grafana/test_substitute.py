"""The stand-in for Grafana's variable substitution does what Grafana does."""

from __future__ import annotations

import pytest

from tests.grafana.substitute import Moment, Substitution

SELECTOR = 'x{http_route=~"$http_route"}[$__rate_interval]'


def applied(query: str, **choices: object) -> str:
    moment = Moment(start=1_000.0, end=4_600.0)
    return Substitution(moment, choices).apply(query)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("choice", "written"),
    [
        (".*", ".*"),
        (["/orders"], "/orders"),
        (["/orders/{order_id}"], r"/orders/\\{order_id\\}"),
        (["/a.b", "/c"], r"(/a\\.b|/c)"),
        (["back\\slash"], r"back\\\\slash"),
    ],
)
def test_choices_become_a_regular_expression_inside_a_string(choice: object, written: str) -> None:
    assert applied(SELECTOR, http_route=choice) == f'x{{http_route=~"{written}"}}[60s]'


@pytest.mark.parametrize("reference", ["$job", "${job}", "[[job]]", "${job:raw}"])
def test_every_way_to_name_a_variable_is_known(reference: str) -> None:
    assert applied(f'x{{job=~"{reference}|"}}', job=["shop"]) == 'x{job=~"shop|"}'


def test_macros_follow_the_time_range() -> None:
    query = "a[$__range] b[$__interval] $__range_s ${__range_ms} $__interval_ms"
    assert applied(query) == "a[3600s] b[15s] 3600 3600000 15000"


def test_the_rate_interval_is_four_scrapes_or_one_more_than_the_step() -> None:
    assert Moment(0, 60, interval_s=15, scrape_interval_s=15).rate_interval_s == 60
    assert Moment(0, 60, interval_s=300, scrape_interval_s=15).rate_interval_s == 315


def test_a_variable_without_a_value_is_an_error() -> None:
    with pytest.raises(KeyError, match=r"\$method"):
        applied('x{method="$method"}')
