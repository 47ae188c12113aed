"""A document as Markdown that also reads in a terminal: report.md, summary.md, and what `labelscore compare` prints.

Invariant: whatever a text, a label or a name holds, it stays text: no markup, no table cell and no terminal sequence of
it gets through.
"""

import re
from collections.abc import Iterable, Sequence
from dataclasses import replace
from itertools import groupby
from typing import NamedTuple, assert_never

from pipeline.reporting import document as doc
from pipeline.reporting.formats import excerpt

MAX_TEXT = 300  # characters of a text shown
MAX_LABEL = 100  # characters of a label or a choice shown beside its score
MAX_SUMMARY = 6_000  # bytes of summary.md: what a pull request's comment is read for


class Cut(NamedTuple):
    """How much of a document is kept: rows of a table, sentences of a list, characters of each text."""

    rows: int
    sentences: int
    chars: int


SUMMARY_CUTS = (Cut(30, 12, 1_000), Cut(20, 8, 500), Cut(10, 6, 250), Cut(5, 4, 120), Cut(2, 2, 60))


def render_markdown(document: doc.Document) -> str:
    """The whole document."""
    parts = [f"# {escape(f'{document.kind}: {document.title}')}"]
    for section in document.sections:
        parts += [f"## {escape(section.title)}", *_blocks(section.blocks)]
    return "\n\n".join(parts) + "\n"


def render_summary(document: doc.Document) -> str:
    """A document within MAX_SUMMARY bytes, whatever names and labels are in it: tables and sentences are cut to fit."""
    blocks = [block for section in document.sections for block in section.blocks]
    text = ""
    for cut in SUMMARY_CUTS:
        title = excerpt(f"{document.kind}: {document.title}", cut.chars)
        text = "\n\n".join([f"### {escape(title)}", *_blocks(_cut(block, cut) for block in blocks)]) + "\n"
        if len(text.encode()) <= MAX_SUMMARY:
            return text
    return text.encode()[:MAX_SUMMARY].decode(errors="ignore").rpartition("\n")[0] + "\n"


def _cut(block: doc.Block, cut: Cut) -> doc.Block:
    match block:
        case doc.Paragraph():
            return replace(block, text=excerpt(block.text, cut.chars))
        case doc.Headline():
            return doc.Headline(excerpt(block.figure, cut.chars), excerpt(block.words, cut.chars))
        case doc.Bullets() | doc.Warnings():
            num_more = len(block.sentences) - cut.sentences
            more = [f"And {num_more:,} more, in the whole report."] if num_more > 0 else []
            kept = [excerpt(words, cut.chars) for words in block.sentences[: cut.sentences]]
            return replace(block, sentences=[*kept, *more])
        case doc.Table():
            caption = block.caption
            if len(block.rows) > cut.rows:
                caption += f" (the first {cut.rows} of {len(block.rows):,})"
            rows = [[excerpt(cell, cut.chars) for cell in row] for row in block.rows[: cut.rows]]
            return doc.Table(caption, block.columns, rows)
        case doc.Definitions():
            pairs = [(name, excerpt(value, cut.chars)) for name, value in block.pairs]
            return doc.Definitions(pairs, block.facts)
    return block


def _blocks(blocks: Iterable[doc.Block]) -> list[str]:
    return [rendered for block in blocks if (rendered := _block(block))]


def _block(block: doc.Block) -> str:
    match block:
        case doc.Paragraph():
            return escape(block.text)
        case doc.Warnings():
            return "\n>\n".join(f"> {escape(sentence)}" for sentence in block.sentences)
        case doc.Headline():
            return f"**{escape(block.figure)}** {escape(block.words)}"
        case doc.Bullets():
            return "\n".join(f"- {escape(sentence)}" for sentence in block.sentences)
        case doc.Definitions():
            return "\n".join(f"- {escape(name)}: {escape(value)}" for name, value in block.pairs)
        case doc.Table():
            return f"{escape(block.caption)}:\n\n{table(block)}"
        case doc.Figures():
            return "\n\n".join(_figure(figure) for figure in block.figures if not figure.repeats)
        case doc.Subheading():
            return f"### {escape(block.text)}"
        case doc.Verbatim():
            return code(block.text)
        case doc.WrongItems():
            return _wrong_items(block)
        case doc.Items():
            return "\n\n".join(_blocks(block.instead))
        case doc.Folded():
            title = f"{block.title}: {block.note}" if block.note else block.title
            if block.page_only:
                return f"{escape(title)} (more in report.html)"
            return _folded(title, "\n\n".join(_blocks(block.blocks)))
    assert_never(block)


def _figure(figure: doc.Figure) -> str:
    return f"**{escape(figure.title)}** {escape(figure.sentence)}\n\n{table(figure.table)}"


def _folded(title: str, body: str) -> str:
    return f"<details><summary>{escape(title)}</summary>\n\n{body}\n\n</details>"


def _wrong_items(block: doc.WrongItems) -> str:
    parts = []
    for prompt, rows in groupby(block.rows, key=lambda item: item.prompt):
        lines = [_wrong_item(row) for row in rows]
        parts.append(_folded(f"{prompt}: the {len(lines)} with the widest margin", "\n".join(lines)))
    return "\n\n".join(parts)


def _wrong_item(item: doc.WrongItem) -> str:
    scores = ", ".join(f"{escape(excerpt(score.label, MAX_LABEL))} {score.value}".rstrip() for score in item.scores)
    return (
        f"- {item.kind} {item.item_id}: predicted **{escape(item.predicted)}** ({escape(item.confidence)}), gold "
        f"**{escape(item.gold)}**. {escape(excerpt(item.text, MAX_TEXT, item.shows_end))}\n  Scores: {scores}"
    )


def table(block: doc.Table) -> str:
    """A table padded so that it also reads in a terminal; figures line up on the right."""
    rows = [[_cell(column, value) for column, value in zip(block.columns, row, strict=True)] for row in block.rows]
    lines = [[escape(column.title) for column in block.columns], *rows]
    widths = [max(3, *map(len, cells)) for cells in zip(*lines, strict=True)]
    rules = [f"{'-' * (w - 1)}:" if c.kind == "number" else "-" * w for c, w in zip(block.columns, widths, strict=True)]
    header, *body = [_line(block.columns, cells, widths) for cells in lines]
    return "\n".join([header, f"| {' | '.join(rules)} |", *body])


def _cell(column: doc.Column, value: str) -> str:
    if column.kind == "number":
        return " ".join(value.split())  # nothing from outside, and "&lt; 0.0001" would be hard to read
    return code(value) if column.kind == "exact" else escape(value)


def _line(columns: Sequence[doc.Column], cells: Sequence[str], widths: Sequence[int]) -> str:
    parts = [
        cell.rjust(width) if column.kind == "number" else cell.ljust(width)
        for column, cell, width in zip(columns, cells, widths, strict=True)
    ]
    return f"| {' | '.join(parts)} |"


def escape(text: str) -> str:
    """`text` on one line, with everything that Markdown, HTML or a terminal would interpret made harmless."""
    flat = "".join(c if c.isprintable() else " " for c in " ".join(text.split()))
    flat = flat.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
    # An underscore inside a word is plain text already, and names are full of them.
    return re.sub(r"([\\`*\[\]|~$]|(?<!\w)_|_(?!\w))", r"\\\1", flat)


def code(text: str) -> str:
    """`text` as inline code: names, label words and templates, whose blanks matter."""
    flat = "".join(c if c.isprintable() else " " for c in text.replace("\n", "\\n"))
    # A backtick would end the code and a pipe the cell, whatever precedes it; show look-alikes.
    return "`" + flat.replace("`", "'").replace("|", "¦") + "`"
