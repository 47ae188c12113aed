"""Names of candidates as they are shown: one line each, cut where they are long, and never two alike."""

from hypothesis import given
from hypothesis import strategies as st
from rich.cells import cell_len

from pipeline.choosing.names import show_candidates, show_name
from tests.pipeline.choosing.records import Offer, make_record, offer


@given(st.text(max_size=100), st.integers(20, 60))
def test_a_shown_name_is_printable_and_no_longer_than_it_may_be(name: str, max_chars: int) -> None:
    shown = show_name(name, max_chars)
    assert all(c.isprintable() for c in shown)
    assert len(shown) <= max_chars


def test_a_short_name_is_shown_as_it_is() -> None:
    assert show_name("answer, 4 shots, chat") == "answer, 4 shots, chat"


def test_a_long_name_keeps_its_beginning_and_its_end() -> None:
    """Names that are made of parts differ at both."""
    assert show_name("answer with a long explanation, 4 shots, chat", 25) == "answer with a l … s, chat"


def test_wide_letters_count_as_two() -> None:
    assert cell_len(show_name("日本語の名前" * 10, 24)) <= 24
    assert show_name("日本語の名前", 12) == "日本語の名前"


def test_what_directs_a_terminal_or_turns_a_line_around_is_not_shown() -> None:
    assert show_name("\x1b[31mred\u202e\n") == "\ufffd[31mred\ufffd\ufffd"


@given(st.lists(st.text("ab\n\x07", max_size=40), min_size=2, max_size=6, unique=True))
def test_no_two_candidates_are_shown_alike(names: list[str]) -> None:
    drawn = offer(len(names), 1)
    record = make_record(Offer(names, drawn.rules, drawn.shares), num_items=50)
    shown = show_candidates(record, 24)
    assert len(set(shown.values())) == len(names)
    assert all(len(name) <= 24 for name in shown.values())
