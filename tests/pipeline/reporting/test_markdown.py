"""Markdown pieces: everything from outside stays text."""

import re

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.reporting.document import Bullets, Column, Document, Section, Table, Warnings
from pipeline.reporting.markdown import code, escape, render_summary, table


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


def test_tables_line_up_and_keep_the_blanks_of_what_is_exact() -> None:
    columns = (Column("a"), Column("b", "exact"), Column("c", "number"))
    lines = table(Table("", columns, (("x", " y", "1"), ("longer", "z", "23")))).splitlines()
    assert lines == [
        "| a      | b    |   c |",
        "| ------ | ---- | --: |",
        "| x      | ` y` |   1 |",
        "| longer | `z`  |  23 |",
    ]


def test_a_summary_says_how_many_sentences_it_leaves_out() -> None:
    """A warning that is cut off in silence is a warning that there is not."""
    blocks = [Bullets([f"found {i}" for i in range(12)]), Warnings([f"mind {i}" for i in range(40)])]
    text = render_summary(Document("labelscore report", "x", [Section("summary", "", blocks)]))
    assert text.count("found ") == 12
    assert text.count("mind ") == 12
    assert text.count("And ") == 1
    assert "And 28 more, in the whole report." in text
