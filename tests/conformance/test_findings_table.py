"""The table of what is seen where says what the cases say, about every detector there is."""

from __future__ import annotations

import re

import pytest

from obskit.detectors import shipped

from .cases import all_cases
from .findings_table import COLUMNS, ELSEWHERE, is_near_miss, near_misses, rows, table
from .targets import TARGETS

SHIPPED = sorted(detector.name for detector in shipped())
CASES = {case.name: case for case in all_cases()}


@pytest.mark.parametrize("name", SHIPPED)
def test_every_detector_has_a_case_that_brings_it_about_and_one_that_comes_near(name):
    if name in ELSEWHERE:
        assert f"- `{name}`: " in table()
        return
    assert name in {finding for finding, _ in rows()}
    assert near_misses()[name]


def test_nothing_is_told_of_a_detector_that_is_not_there():
    tagged = {case.shows for case in CASES.values() if case.shows}
    assert tagged | set(ELSEWHERE) == set(SHIPPED)
    assert not tagged & set(ELSEWHERE)


def test_every_server_has_a_column():
    assert {server for servers in COLUMNS.values() for server in servers} == {
        target.server for target in TARGETS
    }


def test_a_case_that_expects_its_finding_somewhere_is_no_near_miss():
    assert not is_near_miss(CASES["no_last_body_message"])
    assert is_near_miss(CASES["head"])


def test_what_a_server_hides_is_not_knowable_and_what_cannot_happen_there_is_a_no():
    lines = {
        tuple(cell.strip() for cell in line.split("|")[1:3]): line
        for line in table().splitlines()
        if "|" in line
    }
    cut_short = lines["`truncated_request`", "upload cut short"]
    assert cut_short.count("| yes ") == len(COLUMNS) - 1
    assert "| not knowable [" in cut_short
    assert lines["`truncated_response`", "no last body message"].count("| no [") == 3
    assert "plain-wsgi: yes; flask, django-wsgi: no [" in lines["`no_response`", "no response"]


def test_every_number_in_the_table_has_its_reason_below():
    text = table()
    numbers = {int(number) for number in re.findall(r"\[(\d+)\]", text)}
    below = {int(line.split(".")[0]) for line in text.splitlines() if line[:1].isdigit()}
    assert numbers == below
