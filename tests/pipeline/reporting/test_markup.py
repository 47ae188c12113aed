"""Markdown pieces: everything from outside stays text."""

import re

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.reporting.markup import code, escape, interval, p_value, percent, table


@settings(deadline=None)
@given(st.text())
def test_escaped_text_is_one_harmless_line(text: str) -> None:
    """No newline, no control character, no tag, and no mark that opens code, a cell, emphasis or a link."""
    found = escape(text)
    assert all(c.isprintable() for c in found)
    assert "<" not in found
    assert ">" not in found
    assert re.search(r"(?<!\\)(?:\\\\)*[`|*\[\]~$]", found) is None


@settings(deadline=None)
@given(st.text())
def test_code_never_ends_early(text: str) -> None:
    found = code(text)
    assert found.count("`") == 2
    assert "|" not in found
    assert all(c.isprintable() for c in found)


@pytest.mark.parametrize(("text", "expected"), [("mean_token", "mean_token"), ("_x_", r"\_x\_"), ("a<b", "a&lt;b")])
def test_words_stay_readable_in_a_terminal(text: str, expected: str) -> None:
    assert escape(text) == expected


def test_tables_line_up() -> None:
    lines = table(["a", "b"], [["x", "1"], ["longer", "23"]]).splitlines()
    assert lines == ["| a      |   b |", "| ------ | --: |", "| x      |   1 |", "| longer |  23 |"]


def test_figures_that_do_not_exist_are_a_dash() -> None:
    assert (percent(None), interval(None, None)) == ("-", "-")
    assert (percent(0.1234), interval(0.1, 0.234), p_value(1e-9)) == ("12.3 %", "[10.0, 23.4]", "< 0.0001")
