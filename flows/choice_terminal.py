"""What a person sees of a finished choice: its arms, the elimination as bars of blocks, and what it came to.

Invariant: it fits 80 columns, and a pipe gets the same lines without colour.
"""

from rich.cells import cell_len, set_cell_size
from rich.text import Text

from flows.terminal import Field, can_encode, out, plain, print_table, say
from pipeline.bundled import DEMO_NOTE
from pipeline.choosing.picture import bar_rows
from pipeline.choosing.record import ChoiceRecord
from pipeline.choosing.tables import arms_frame
from pipeline.choosing.words import count_words, find_choice, offered_words, source_words
from pipeline.reporting.families import behind
from pipeline.reporting.formats import count, percent, text
from pipeline.storing.layout import CHOICE_MARKDOWN

MAX_ARMS, MAX_BARS = 25, 15
MAX_NAME = 24  # letters of a candidate's name
WIDTH = 36  # cells of the longest bar
EIGHTHS = " ▏▎▍▌▋▊▉"
BLOCK, HASH = "█", "#"
STYLES = {"leads": "bold cyan", "in": "cyan", "out": "bright_black"}


def print_choice(record: ChoiceRecord, output: str) -> None:
    """A choice in the output `output`: as a table, as a picture, and last in words."""
    say(f"{offered_words(record)}, on {source_words(record)}")
    if record.demonstration:
        say(DEMO_NOTE, "yellow")
    say("")
    _print_arms(record)
    if record.num_looked_at and len(record.candidates) > 1:
        _print_bars(record)
    found = find_choice(record, output)
    say("")
    say(found.lines[0], "bold")
    for sentence in found.sentences:
        say(f"- {sentence}")


def _print_arms(record: ChoiceRecord) -> None:
    """The leader, those that are in, and of the others the last ones out."""
    arms = arms_frame(record, MAX_NAME)
    fields: list[Field] = [
        ("candidate", text, "candidate"),
        ("rule", text, "rule"),
        ("items", count, "num_items"),
        ("right", percent, "right"),
        ("behind", behind, "behind"),
        ("state", _state, "state", "out_after"),
    ]
    print_table(
        "share right in per cent, and points behind the leader", arms.head(MAX_ARMS).iter_rows(named=True), fields
    )
    if arms.height > MAX_ARMS:
        num_in = arms.slice(MAX_ARMS)["out_after"].null_count()
        still = f", {num_in:,} of them in" if num_in else ", out sooner"
        say(f"and {arms.height - MAX_ARMS:,} more{still}: {CHOICE_MARKDOWN} has them all")


def _state(state: str, out_after: int | None) -> str:
    return state if out_after is None else f"out at {out_after:,}"


def _print_bars(record: ChoiceRecord) -> None:
    """A bar for each candidate, as long as the items that it was scored on."""
    bars = bar_rows(record, MAX_NAME)
    say("")
    say("items that each candidate was scored on", "italic")
    shown = bars.head(MAX_BARS).rows(named=True)
    widest = max(cell_len(plain(row["name"])) for row in shown)
    for row in shown:
        name = set_cell_size(plain(row["name"]), widest)
        style = STYLES[row["standing"]]
        line = Text.assemble((name, "bold" if row["standing"] == "leads" else ""), " ")
        line.append(draw_bar(row["n"] / record.num_looked_at), style)
        line.append(f" {row['n']:,}")
        out.print(line)
    if bars.height > MAX_BARS:
        say(f"and {count_words(bars.height - MAX_BARS, 'candidate')} more")


def draw_bar(share: float) -> str:
    """A bar of WIDTH cells at 1, to an eighth of a cell; of hashes where the terminal has no blocks.

    What is more than nothing is never drawn as nothing.
    """
    if not can_encode(BLOCK + EIGHTHS):
        return HASH * max(1 if share else 0, round(share * WIDTH))
    whole, rest = divmod(max(1 if share else 0, round(share * WIDTH * 8)), 8)
    return BLOCK * whole + EIGHTHS[rest].strip()
