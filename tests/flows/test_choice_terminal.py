"""A finished choice on a terminal: what is printed, in 80 columns, in a pipe, and without a single block."""

import io
import re
import sys
from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.cells import cell_len
from rich.console import Console

from flows import choice_terminal, terminal
from flows.choice_terminal import WIDTH, draw_bar, print_choice
from pipeline.choosing.record import ChoiceRecord
from tests.pipeline.choosing import records
from tests.pipeline.choosing.test_words import MAKERS

ESCAPE = re.compile(r"\x1b\[[0-9;]*m")
of_every_ending = pytest.mark.parametrize("make", MAKERS)
Make = Callable[[], ChoiceRecord]


def printed(
    record: ChoiceRecord, monkeypatch: pytest.MonkeyPatch, *, is_terminal: bool = False, encoding: str = "utf-8"
) -> str:
    """What comes out of a terminal of 80 columns, or of a pipe."""
    written = io.TextIOWrapper(io.BytesIO(), encoding=encoding, errors="replace", newline="\n")
    console = Console(
        file=written,
        highlight=False,
        soft_wrap=True,
        width=80 if is_terminal else 4096,
        force_terminal=is_terminal,
        color_system="standard" if is_terminal else None,
    )
    with monkeypatch.context() as patch:
        patch.setattr(sys, "stdout", written)
        for module in (terminal, choice_terminal):
            patch.setattr(module, "out", console)
        print_choice(record, "data/runs/news")
    written.flush()
    return written.buffer.getvalue().decode(encoding)  # type: ignore[attr-defined]


@of_every_ending
def test_a_pipe_gets_plain_text(make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    text = printed(make(), monkeypatch)
    assert all(c.isprintable() or c == "\n" for c in text)


@of_every_ending
def test_a_terminal_gets_the_same_lines_with_colours_alone(make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    """No name moves its cursor: only the sequences of colour are in it."""
    plain, coloured = (printed(make(), monkeypatch, is_terminal=is_terminal) for is_terminal in (False, True))
    assert coloured != plain
    assert ESCAPE.sub("", coloured) == plain


@of_every_ending
def test_table_and_picture_fit_80_columns(make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    """Wide letters and long names included; sentences are folded by the terminal."""
    table, _, _ = printed(make(), monkeypatch, is_terminal=True).partition("\x1b[1m'")
    lines = ESCAPE.sub("", table).partition("\nNot decided, ")[0].splitlines()[1:]
    assert len(lines) > 2
    assert max(map(cell_len, lines)) <= 80


def test_numbers_of_a_large_file_fit_80_columns(monkeypatch: pytest.MonkeyPatch) -> None:
    record = records.hostile()
    facts = {"num_items": 1_200_000, "num_right": 7, "out_after": 1_199_950, "rule": "mean_token"}
    arms = [arm.model_copy(update=facts) for arm in record.arms]
    text = printed(record.model_copy(update={"arms": tuple(arms)}), monkeypatch)
    rows = text.partition("points behind the leader\n")[2].partition("\n\n")[0].splitlines()
    assert max(map(cell_len, rows)) <= 80


def test_the_verdict_is_bold_and_after_the_figures(monkeypatch: pytest.MonkeyPatch) -> None:
    lines = printed(records.best_of_all(), monkeypatch, is_terminal=True).splitlines()
    place = next(
        i for i, line in enumerate(lines) if line.startswith("\x1b[1m'prompt-1' under 'sum' is the best of 35")
    )
    assert place > 30
    assert all(line.startswith("- ") for line in lines[place + 1 :])
    assert lines[-1] == "- To score all items with it: labelscore run data/runs/news/choice/run.toml"


def test_of_140_arms_25_are_shown_and_the_others_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    text = printed(records.many(), monkeypatch)
    table = text.partition("points behind the leader\n")[2].partition("\n\n")[0].splitlines()
    assert len(table) == 1 + 25 + 1
    assert table[-1] == "and 115 more, out sooner: choice/choice.md has them all"
    assert "and 5 candidates more" in text.splitlines()


def test_arms_in_beyond_those_shown_are_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    record = records.many()
    arms = tuple(arm.model_copy(update={"state": "in", "out_after": None}) for arm in record.arms[:28])
    text = printed(record.model_copy(update={"arms": arms + record.arms[28:]}), monkeypatch)
    assert "and 115 more, 3 of them in: choice/choice.md has them all" in text


def test_the_first_row_is_the_leaders(monkeypatch: pytest.MonkeyPatch) -> None:
    rows = printed(records.within_margin(), monkeypatch).splitlines()
    header = next(i for i, line in enumerate(rows) if line.startswith("candidate "))
    assert rows[header + 1].split()[:3] == ["prompt-1", "sum", "2,400"]
    assert rows[header + 1].split()[-1] == "named"
    assert rows[header + 3].split()[-3:] == ["out", "at", "250"]


def test_without_blocks_and_dashes_everything_is_ascii(monkeypatch: pytest.MonkeyPatch) -> None:
    """A terminal that lacks them gets hashes and hyphens, and no question mark for any of them."""
    text = printed(records.many(), monkeypatch, encoding="ascii")
    assert "#" * WIDTH in text
    assert "SmolLM ... " in text
    assert "?" not in text


@given(st.floats(0, 1))
def test_a_bar_is_as_long_as_its_share_to_an_eighth(share: float) -> None:
    bar = draw_bar(share)
    eighths = sum("▏▎▍▌▋▊▉█".index(cell) + 1 for cell in bar)
    assert eighths / 8 == pytest.approx(share * WIDTH, abs=1 / 8)
    assert (eighths > 0) == (share > 0)


def test_one_candidate_needs_no_picture(monkeypatch: pytest.MonkeyPatch) -> None:
    assert "█" not in printed(records.make_record(records.offer(1, 3)), monkeypatch)
    assert "█" in printed(records.make_record(records.offer(2, 3)), monkeypatch)
