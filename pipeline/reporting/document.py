"""A report as data: sections of sentences, tables and figures, in the order in which they are read.

Invariant: every text is plain. What a renderer has to know is the kinds of blocks, never which section it is in; it
escapes each text on its way out.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

import polars as pl

from pipeline.reporting.charts import Spec
from pipeline.reporting.formats import exact

Kind = Literal["text", "exact", "number"]
Format = Callable[..., str]
Field = tuple[str, Format, *tuple[str, ...]]
"""A column of a table: its title, how its values become text, and the columns of a frame that it takes them from."""


@dataclass(frozen=True, slots=True)
class Paragraph:
    """One or more sentences; a `note` is set smaller where there is room for such things."""

    text: str
    note: bool = False


@dataclass(frozen=True, slots=True)
class Warnings:
    """What a reader must know before the figures, a sentence or two each."""

    sentences: Sequence[str]


@dataclass(frozen=True, slots=True)
class Headline:
    """The one figure of a document, and the words that go on after it."""

    figure: str
    words: str


@dataclass(frozen=True, slots=True)
class Bullets:
    sentences: Sequence[str]


@dataclass(frozen=True, slots=True)
class Definitions:
    """Names and what they stand for: short `facts` beside each other, or explanations below each other."""

    pairs: Sequence[tuple[str, str]]
    facts: bool = False


@dataclass(frozen=True, slots=True)
class Column:
    """`exact` texts keep each blank; `numbers` line up on the right."""

    title: str
    kind: Kind = "text"


@dataclass(frozen=True, slots=True)
class Table:
    """`rows` are as long as `columns`; the first column names its row."""

    caption: str
    columns: Sequence[Column]
    rows: Sequence[Sequence[str]]


@dataclass(frozen=True, slots=True)
class Figure:
    """A chart, the sentence that says what it shows, how it is drawn (`legend`), and what is drawn as a table.

    `repeats`: another table of the document has these figures, so that without the chart nothing is left to show.
    """

    id: str
    title: str
    sentence: str
    legend: str
    spec: Spec
    table: Table
    repeats: bool = False


@dataclass(frozen=True, slots=True)
class Figures:
    """Figures that may stand beside each other."""

    figures: Sequence[Figure]


@dataclass(frozen=True, slots=True)
class Subheading:
    text: str


@dataclass(frozen=True, slots=True)
class Verbatim:
    """A text of several lines in which each blank counts; `name` says what it is."""

    name: str
    text: str


@dataclass(frozen=True, slots=True)
class Score:
    """The score of one label of an item; `mark`: gold or predicted, else empty."""

    label: str
    value: str
    mark: str


@dataclass(frozen=True, slots=True)
class WrongItem:
    """`scores`: highest first. `text`: whole, a renderer shows its beginning, or its end where examples come first.

    `item_id`: the item's number, and `kind` what it is the number of.
    """

    item_id: int
    prompt: str
    text: str
    gold: str
    predicted: str
    confidence: str
    scores: Sequence[Score]
    kind: str = "item"
    shows_end: bool = False


@dataclass(frozen=True, slots=True)
class WrongItems:
    """Confidently wrong items, those of one prompt in a row."""

    rows: Sequence[WrongItem]


@dataclass(frozen=True, slots=True, eq=False)
class Items:
    """Items to look through, a row each, with what each of `names` (prompts, or two runs) predicts side by side.

    `rows`: item_id, group, text, gold (a list of names, or null) and, with a value for each of `names`, the lists
    predicted, correct, confidence, margin, labels, scores (of a prediction both lists again; null where nobody knows).
    The first `num_first` rows, which are `first_are`, have to be shown where there is no room for all `num_total`.
    `unit` is what one of `names` is called, `group_unit` what a group is, `kind` what an item's number is the number
    of. `all_at_first`: else a reader sees the wrong ones first. `instead` stands for all of it where nothing can be
    looked through.
    """

    names: Sequence[str]
    unit: str
    rows: pl.DataFrame
    num_first: int
    first_are: str
    num_total: int
    instead: "Sequence[Block]"
    group_unit: str = ""
    kind: str = "item"
    shows_end: bool = False
    all_at_first: bool = False


@dataclass(frozen=True, slots=True)
class Folded:
    """What is behind its title until a reader unfolds it; `note` stands beside the title.

    `page_only`: too much for a text that is read from top to bottom, which then has the title and the note.
    """

    title: str
    note: str
    blocks: "Sequence[Block]"
    is_open: bool = False
    page_only: bool = False


Text = Paragraph | Warnings | Headline | Bullets | Definitions | Subheading | Verbatim
Block = Text | Table | Figures | WrongItems | Items | Folded


@dataclass(frozen=True, slots=True)
class Section:
    """`id` is its address within a page."""

    id: str
    title: str
    blocks: Sequence[Block]


@dataclass(frozen=True, slots=True)
class Document:
    """`kind` says what sort of document it is, `title` what it is about."""

    kind: str
    title: str
    sections: Sequence[Section]


def all_figures(blocks: Sequence[Block]) -> Iterator[Figure]:
    """Every figure of these blocks, folded ones too, in order."""
    for block in blocks:
        if isinstance(block, Figures):
            yield from block.figures
        elif isinstance(block, Folded):
            yield from all_figures(block.blocks)


def find_items(document: Document) -> Items | None:
    """The items to look through, which a document has once or not at all."""
    return next((b for section in document.sections for b in section.blocks if isinstance(b, Items)), None)


def make_table(caption: str, frame: pl.DataFrame, fields: Sequence[Field]) -> Table:
    """A table of the rows of `frame`; numbers are told from texts by the first column of a field."""

    def kind(show: Format, name: str) -> Kind:
        return "exact" if show is exact else "number" if frame.schema[name].is_numeric() else "text"

    columns = [Column(title, kind(show, names[0])) for title, show, *names in fields]
    rows = [[show(*(row[name] for name in names)) for _, show, *names in fields] for row in frame.iter_rows(named=True)]
    return Table(caption, columns, rows)
