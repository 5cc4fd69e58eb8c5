"""YAML as a person would write it, and as every reader reads it back."""

from __future__ import annotations

import yaml

from obskit.export.yaml_text import yaml_text


def test_what_is_written_is_read_back_the_same() -> None:
    content = {"b": [1, {"x": "a: b"}], "a": "two\nlines", "c": "é", "n": None, "s": "yes", "t": "0644"}
    assert yaml.safe_load(yaml_text(content)) == content


def test_keys_keep_their_order_and_lists_stand_below_their_key() -> None:
    assert yaml_text({"b": [1], "a": {"c": [{"d": 2}]}}) == "b:\n  - 1\na:\n  c:\n    - d: 2\n"


def test_several_lines_are_a_block_and_one_line_is_never_folded() -> None:
    assert yaml_text({"a": "one\ntwo"}) == "a: |-\n  one\n  two\n"
    assert yaml_text({"a": "word " * 500 + "end"}).count("\n") == 1


def test_what_is_used_twice_is_written_twice() -> None:
    shared = ["x"]
    assert yaml_text({"a": shared, "b": shared}) == "a:\n  - x\nb:\n  - x\n"


def test_a_comment_stands_above_an_empty_line_of_it_as_a_bare_mark() -> None:
    assert yaml_text({"a": 1}, "first", "", "third") == "# first\n#\n# third\na: 1\n"
