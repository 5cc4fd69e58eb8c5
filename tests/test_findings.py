"""The declaration of a detector, and what a finding may hold."""

from __future__ import annotations

import dataclasses
import re
from typing import Any

import pytest

from obskit.exchange import Exchange, Finding
from obskit.findings import MAX_EVIDENCE, MAX_TEXT, Detector, bounded
from obskit.names import PARTIAL_WRITES


def declared(**fields: Any) -> Detector:
    return Detector(
        **{"name": "late_order", "help": "An order came late.", "why": "Late is a 200 too.", **fields}
    )


def test_a_declaration_needs_a_name_and_two_sentences_and_has_quiet_defaults() -> None:
    made = declared()
    assert (made.severity, made.runbook, made.judge, made.make, made.always, made.metric) == (
        *("warning", "", None, None),
        *(True, None),
    )


def test_a_declaration_cannot_be_changed() -> None:
    with pytest.raises(dataclasses.FrozenInstanceError):
        declared().name = "other"  # type: ignore[misc]


@pytest.mark.parametrize("name", ["late", "late_order", "n_plus_1", "n_plus_one", "x2"])
def test_a_name_is_lower_case_words_joined_by_underscores(name: str) -> None:
    assert declared(name=name).name == name


@pytest.mark.parametrize(
    "name",
    [
        "",
        "Late",
        "late order",
        "late-order",
        "_late",
        "late_",
        "late__order",
        "2late",
        "späte",
        "late\n",
        7,
        None,
    ],
)
def test_any_other_name_is_refused_with_an_example(name: Any) -> None:
    with pytest.raises(ValueError, match=r"detector name: saw .*expected words such as 'partial_write'"):
        declared(name=name)


def judge(exchange: Exchange) -> None:
    return None


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"help": ""}, "'late_order': help is empty"),
        ({"help": None}, "'late_order': help is empty"),
        ({"why": " "}, "'late_order': why is empty"),
        ({"severity": "fatal"}, "severity is 'fatal', expected info, warning or critical"),
        ({"severity": None}, "severity is None"),
        ({"judge": judge, "make": judge}, "has both judge and make"),
        ({"judge": "closed"}, "judge is no function"),
        ({"make": 7}, "make is no function"),
        ({"about": "weather"}, "about is 'weather', expected a field of the record"),
        ({"about": 7}, "about is 7, expected a field of the record"),
        ({"digests": "POST"}, "digests is 'POST', expected a frozenset of methods"),
    ],
)
def test_a_declaration_that_is_none_says_what_is_wrong(fields: dict[str, Any], said: str) -> None:
    with pytest.raises(ValueError, match=re.escape(said)):
        declared(**fields)


@pytest.mark.parametrize("severity", ["info", "warning", "critical"])
def test_a_finding_takes_what_its_request_knows(severity: Any) -> None:
    exchange = Exchange()
    exchange.http_route, exchange.trace_id, exchange.request_id = "/orders", "t" * 32, "r-1"
    made = declared(severity=severity, metric=PARTIAL_WRITES).finding(exchange, {"days": 3})
    assert made == Finding(
        "late_order", severity, "Late is a 200 too.", {"days": 3}, "/orders", "t" * 32, "r-1", PARTIAL_WRITES.name
    )  # fmt: skip


def test_a_finding_outside_a_request_has_no_route_and_no_ids() -> None:
    made = declared().finding(None, {"days": 3})
    assert (made.http_route, made.trace_id, made.request_id, made.metric, made.times) == ("", "", "", "", 1)


def test_a_finding_keeps_a_bounded_number_of_facts_with_bounded_keys() -> None:
    made = declared().finding(Exchange(), {f"{n:03}" + "k" * 1_000: n for n in range(1_000)})
    assert list(made.evidence.values()) == list(range(MAX_EVIDENCE))
    assert {len(key) for key in made.evidence} == {MAX_TEXT}


class Named:
    def __str__(self) -> str:
        return "n" * 1_000


@pytest.mark.parametrize(
    ("value", "kept"),
    [
        (None, None),
        (True, True),
        (0, 0),
        (-1.5, -1.5),
        (2**63 - 1, 2**63 - 1),
        (2**63, "9223372036854775808"),
        (-(2**63) - 1, "-9223372036854775809"),
        ("x" * 1_000, "x" * MAX_TEXT),
        (["a", 1, None], ("a", "1", "None")),
        (("a" * 1_000,), ("a" * MAX_TEXT,)),
        ({"one"}, ("one",)),
        (list(range(1_000)), tuple(str(n) for n in range(MAX_EVIDENCE))),
        (Named(), "<tests.test_findings.Named>"),  # its code may query a database, or tell a secret
        (b"raw", "b'raw'"),
        ({"a": 1}, "{'a': 1}"),
    ],
)
def test_a_fact_is_a_number_a_short_text_or_a_short_list(value: Any, kept: Any) -> None:
    assert bounded(value) == kept
    assert type(bounded(value)) is type(kept)


class Nameless:
    def __str__(self) -> str:
        raise ValueError("no text")


@pytest.mark.parametrize(
    ("value", "kept"),
    [
        # Python refuses to write out integers of more than 4300 digits.
        (10**5_000, "<int of 16610 bits>"),
        (Nameless(), "<tests.test_findings.Nameless>"),
        ([Nameless(), "b"], ("<tests.test_findings.Nameless>", "b")),
    ],
    ids=["number", "object", "list"],
)
def test_a_fact_that_cannot_be_written_costs_no_finding(value: Any, kept: Any) -> None:
    assert declared().finding(None, {"fact": value}).evidence == {"fact": kept}
