"""What `labelscore compare` says, as a document: two runs on their common texts, and the items that flipped.

Invariant: nothing is said of figures that do not exist: without a common gold label neither run is called better.
"""

from collections.abc import Sequence

import polars as pl

from pipeline.reporting import document as doc
from pipeline.reporting.compare import RunComparison
from pipeline.reporting.families import comparison_section
from pipeline.reporting.formats import exact, excerpt, percent, text
from pipeline.reporting.item_rows import MAX_ITEMS
from pipeline.reporting.rules import CAUTIONS
from pipeline.storing.layout import DOCUMENTS

MAX_TEXT = 100  # characters of a text shown
NUM_FLIPS = 20  # items shown, those where a run was surest first


def _prediction(label: str, confidence: float) -> str:
    return f"{label} ({percent(confidence)})"


def _beginning(words: str) -> str:
    return excerpt(words, MAX_TEXT)


def _end(words: str) -> str:
    return excerpt(words, MAX_TEXT, from_end=True)


def _document(item_id: int) -> str:
    return str(item_id % DOCUMENTS)


FLIP_FIELDS: tuple[doc.Field, ...] = (
    ("prompt", exact, "prompt"),
    ("gold", text, "gold"),
    ("A predicts", _prediction, "predicted_a", "confidence_a"),
    ("B predicts", _prediction, "predicted_b", "confidence_b"),
    ("text", _beginning, "text"),
)


# Solved examples may stand before what is asked; the harness numbers the documents of a task.
TASK_FIELDS: tuple[doc.Field, ...] = (
    ("task", exact, "prompt"),
    ("document in A", _document, "item_id_a"),
    *FLIP_FIELDS[1:-1],
    ("text", _end, "text"),
)


def compare_document(comparison: RunComparison, gap: float | None = None) -> doc.Document:
    """Two runs compared; `gap` is a difference in points that the reader wants to see."""
    nothing = "The runs have no gold label in common, so neither can be called better; what flipped is below."
    share = None if gap is None else gap / 100
    compared = comparison_section(comparison.comparisons, nothing, by_task=comparison.of_tasks, gap=share)
    sections = (compared, _runs(comparison), _flips(comparison))
    return doc.Document("labelscore compare", f"two runs under the rule '{comparison.rule}'", sections)


def _runs(comparison: RunComparison) -> doc.Section:
    common = f"{comparison.num_common:,} items, {comparison.paired_by}"
    if comparison.of_tasks:
        num_tasks = comparison.num_tasks
        common = f"{num_tasks:,} {'task' if num_tasks == 1 else 'tasks'}, {common}"
    if comparison.num_distinct < comparison.num_common:
        common += f" ({comparison.num_distinct:,} distinct texts)"
    if comparison.num_gold_differs:
        common += f"; {comparison.num_gold_differs:,} of them have another gold label in B and are left out below"
    facts = [
        ("A", f"{comparison.name_a}, {comparison.num_a:,} items"),
        ("B", f"{comparison.name_b}, {comparison.num_b:,} items"),
        ("In both", common),
    ]
    blocks: list[doc.Block] = [doc.Definitions(facts, facts=True)]
    if comparison.unpaired:
        unpaired = "; ".join(comparison.unpaired)
        why = "they read other columns and nothing shows which of their items are the same"
        if comparison.of_tasks:
            why = "they ask nothing in common (other documents, solved examples or words)"
        words = f"Left out, as {why}: {unpaired}."
        blocks.append(doc.Paragraph(words))
    if comparison.rule in CAUTIONS:
        blocks.append(doc.Paragraph(f"Caution: '{comparison.rule}' {CAUTIONS[comparison.rule]}."))
    # Values are exact: a template's or a label word's blanks may be all that differs.
    columns = (doc.Column("what"), doc.Column("A", "exact"), doc.Column("B", "exact"))
    what = "Model, settings and tasks" if comparison.of_tasks else "Model, data, settings and prompts"
    same = doc.Paragraph(f"{what} are the same in both.")
    blocks.append(doc.Table("What differs", columns, comparison.differences) if comparison.differences else same)
    return doc.Section("runs", "The runs", blocks)


def _flips(comparison: RunComparison) -> doc.Section:
    num_flips = comparison.num_flips
    if not num_flips:
        none = "None: both runs predict the same label for every common item."
        return doc.Section("items", "Flipped items", [doc.Paragraph(none)])
    differ = f"{num_flips:,} predictions differ"
    some = f"; the {NUM_FLIPS} where a run was surest are shown" if num_flips > NUM_FLIPS else ""
    fields = TASK_FIELDS if comparison.of_tasks else FLIP_FIELDS
    table = doc.make_table("Predictions that differ", comparison.flips.head(NUM_FLIPS), fields)
    instead: list[doc.Block] = [doc.Paragraph(f"{differ}{some}."), table]
    return doc.Section("items", "Flipped items", [_flipped_items(comparison, instead)])


def _flipped_items(comparison: RunComparison, instead: Sequence[doc.Block]) -> doc.Items:
    """What both runs make of each, those first where a run was surest."""
    flips, number = comparison.flips.head(MAX_ITEMS), pl.col("item_id_a")
    pairs = [pl.concat_list(f"{name}_a", f"{name}_b").alias(name) for name in ("predicted", "correct", "confidence")]
    nothing = [pl.lit([None, None]).alias(name) for name in ("margin", "labels", "scores")]
    has_groups = flips["prompt"].n_unique() > 1
    rows = flips.select(
        (number % DOCUMENTS if comparison.of_tasks else number).alias("item_id"),
        pl.col("prompt").alias("group") if has_groups else pl.lit(None, pl.String).alias("group"),
        "text",
        pl.when(pl.col("gold").is_not_null()).then(pl.concat_list("gold")).alias("gold"),
        *pairs,
        *nothing,
    )
    return doc.Items(
        names=["A", "B"],
        unit="run",
        rows=rows,
        num_first=rows.height,
        first_are="surest",
        num_total=comparison.num_flips,
        instead=instead,
        group_unit="task" if comparison.of_tasks else "prompt",
        kind="A's document" if comparison.of_tasks else "A's item",
        shows_end=comparison.of_tasks,
        all_at_first=True,
    )
