"""What `labelscore compare` prints, as a document: two runs on their common texts, and the items that flipped.

Invariant: nothing is said of figures that do not exist: without a common gold label neither run is called better.
"""

from pipeline.reporting import document as doc
from pipeline.reporting.compare import RunComparison
from pipeline.reporting.families import comparison_section
from pipeline.reporting.formats import exact, excerpt, percent, text
from pipeline.reporting.rules import CAUTIONS

MAX_TEXT = 100  # characters of a text shown
NUM_FLIPS = 20  # items shown, those where a run was surest first


def _prediction(label: str, confidence: float) -> str:
    return f"{label} ({percent(confidence)})"


def _beginning(words: str) -> str:
    return excerpt(words, MAX_TEXT)


FLIP_FIELDS: tuple[doc.Field, ...] = (
    ("prompt", exact, "prompt"),
    ("gold", text, "gold"),
    ("A predicts", _prediction, "predicted_a", "confidence_a"),
    ("B predicts", _prediction, "predicted_b", "confidence_b"),
    ("text", _beginning, "text"),
)


def compare_document(comparison: RunComparison) -> doc.Document:
    nothing = "The runs have no gold label in common, so neither can be called better; what flipped is below."
    sections = (_runs(comparison), comparison_section(comparison.comparisons, nothing), _flips(comparison))
    return doc.Document("labelscore compare", f"two runs under the rule '{comparison.rule}'", sections)


def _runs(comparison: RunComparison) -> doc.Section:
    common = f"{comparison.num_common:,} items, {comparison.paired_by}"
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
        words = f"Left out, as they read other columns and nothing shows which of their items are the same: {unpaired}."
        blocks.append(doc.Paragraph(words))
    if comparison.rule in CAUTIONS:
        blocks.append(doc.Paragraph(f"Caution: '{comparison.rule}' {CAUTIONS[comparison.rule]}."))
    # Values are exact: a template's or a label word's blanks may be all that differs.
    columns = (doc.Column("what"), doc.Column("A", "exact"), doc.Column("B", "exact"))
    same = doc.Paragraph("Model, data, settings and prompts are the same in both.")
    blocks.append(doc.Table("What differs", columns, comparison.differences) if comparison.differences else same)
    return doc.Section("runs", "The runs", blocks)


def _flips(comparison: RunComparison) -> doc.Section:
    num_flips = comparison.flips.height
    if not num_flips:
        none = "None: both runs predict the same label for every common item."
        return doc.Section("flips", "Flipped items", [doc.Paragraph(none)])
    words = f"{num_flips:,} predictions differ"
    if num_flips > NUM_FLIPS:
        words += f"; the {NUM_FLIPS} where a run was surest are shown"
    table = doc.make_table("Predictions that differ", comparison.flips.head(NUM_FLIPS), FLIP_FIELDS)
    return doc.Section("flips", "Flipped items", [doc.Paragraph(f"{words}."), table])
