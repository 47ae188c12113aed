"""The arms and the candidates of a finished choice as tables of a document.

Invariant: names are shown whole in the table of candidates, and cut elsewhere where they are long.
"""

from collections.abc import Callable

import polars as pl

from pipeline.choosing.names import MAX_CHARS, show_candidates, show_name
from pipeline.choosing.record import CandidateRecord, ChoiceRecord
from pipeline.choosing.rows import arms_rows
from pipeline.choosing.words import count_words
from pipeline.reporting import document as doc
from pipeline.reporting.families import behind
from pipeline.reporting.formats import count, exact, percent, text, yes_no

MAX_ROWS = 30  # arms that are not folded away
MAX_WHOLE = 300  # characters of a name in the table of candidates
NOTHING = "none"
ARMS_SCHEMA = {
    **dict.fromkeys(("candidate", "rule", "state"), pl.String),
    **dict.fromkeys(("out_after", "num_items", "num_right"), pl.Int64),
    **dict.fromkeys(("right", "behind"), pl.Float64),
    "num_common": pl.Int64,
}


def arms_section(record: ChoiceRecord) -> doc.Section:
    """All arms, those at the end folded where they are many."""
    arms = arms_frame(record)
    caption = "Arms: the leader, then those that are in, then the others, the last ones out first"
    blocks: list[doc.Block] = [doc.make_table(caption, arms.head(MAX_ROWS), ARM_FIELDS)]
    others = arms.slice(MAX_ROWS)
    if others.height:
        moments = [moment for moment in others["out_after"] if moment is not None]
        num_in = others.height - len(moments)
        note = f"{num_in:,} of them in" if num_in else f"out after {count_words(max(moments), 'item')} or fewer"
        table = doc.make_table("The other arms", others, ARM_FIELDS)
        blocks.append(doc.Folded(f"The other {count_words(others.height, 'arm')}", note, [table]))
    return doc.Section("arms", "All arms", blocks)


def arms_frame(record: ChoiceRecord, max_chars: int = MAX_CHARS) -> pl.DataFrame:
    """The rows of all arms, with the names of candidates as they are shown."""
    names = show_candidates(record, max_chars)
    return pl.DataFrame([{**row, "candidate": names[row["candidate"]]} for row in arms_rows(record)], ARMS_SCHEMA)


def state_words(state: str, out_after: int | None) -> str:
    """Such as `named`, `in`, `out after 350 items`."""
    return state if out_after is None else f"out after {count_words(out_after, 'item')}"


ARM_FIELDS: tuple[doc.Field, ...] = (
    ("candidate", exact, "candidate"),
    ("rule", text, "rule"),
    ("items", count, "num_items"),
    ("right", percent, "right"),
    ("points behind", behind, "behind"),
    ("state", state_words, "state", "out_after"),
)


# Candidates

Show = Callable[[CandidateRecord], str]


def _variables(candidate: CandidateRecord) -> str:
    parts = (
        f"{name} = {yes_no(value) if isinstance(value, bool) else value}" for name, value in candidate.variables.items()
    )
    return show_name(", ".join(parts)) or NOTHING


# What a candidate is made of.
PARTS: dict[str, Show] = {
    "template": lambda each: show_name(each.prompt),
    "label words": lambda each: "its own" if each.words is None else show_name(each.words),
    "model": lambda each: show_name(each.model),
    "solved examples": lambda each: f"{each.num_shots:,}",
    "chat": lambda each: yes_no(each.chat),
    "chat variables": _variables,
}


def candidates_section(record: ChoiceRecord) -> doc.Section:
    """What each is made of, as far as they differ in it, and what it cost; in the order in which they were offered."""
    values = {title: [show(each) for each in record.candidates] for title, show in PARTS.items()}
    differ = {title: column for title, column in values.items() if len(set(column)) > 1}
    if differ.get("template") == [show_name(each.name) for each in record.candidates]:
        del differ["template"]  # the name says it
    columns = [doc.Column("candidate", "exact"), *map(doc.Column, differ)]
    columns += [doc.Column("items", "number"), doc.Column("forwards", "number")]
    rows = [
        [show_name(each.name, MAX_WHOLE), *parts, f"{each.num_items:,}", f"{each.num_forwards:,}"]
        for each, *parts in zip(record.candidates, *differ.values(), strict=True)
    ]
    blocks: list[doc.Block] = [doc.Table("Candidates in the order in which they were offered", columns, rows)]
    same = [(title, column[0]) for title, column in values.items() if len(set(column)) == 1 and column[0] != NOTHING]
    if same:
        all_have = "It has" if len(record.candidates) == 1 else "The same for all"
        blocks.append(doc.Paragraph(f"{all_have}: {'; '.join(f'{title}: {value}' for title, value in same)}."))
    return doc.Section("candidates", "Candidates", [*blocks, _words_of_leader(record)])


def _words_of_leader(record: ChoiceRecord) -> doc.Folded:
    """The template of the leader, and the words that are scored for each label."""
    leader = next(each for each in record.candidates if each.name == record.leader.candidate)
    blocks: list[doc.Block] = [doc.Verbatim("Template", leader.template)]
    if leader.label_words:
        columns = (doc.Column("label", "exact"), doc.Column("words", "exact"))
        blocks.append(doc.Table("Label words", columns, [list(pair) for pair in leader.label_words.items()]))
    note = count_words(len(leader.label_words), "label") if leader.label_words else "choices of the items"
    return doc.Folded(f"What {show_name(leader.name)} asks", note, blocks)
