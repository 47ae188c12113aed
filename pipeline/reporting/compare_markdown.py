"""What `labelscore compare` prints: two runs on their common texts, in words, a table, and the items that flipped.

Invariant: whatever comes from outside passes through `escape` or `code` of pipeline.reporting.markup.
"""

from typing import Any

from pipeline.reporting.compare import RunComparison
from pipeline.reporting.comparisons import assumptions
from pipeline.reporting.differences import Difference
from pipeline.reporting.markdown import comparison_section
from pipeline.reporting.markup import code, escape, percent, table
from pipeline.reporting.rules import CAUTIONS

MAX_TEXT = 100  # characters of an article shown
NUM_FLIPS = 20  # items shown, those where a run was surest first


def render_comparison(comparison: RunComparison) -> str:
    """The comparison as Markdown that also reads in a terminal."""
    parts = [_header(comparison)]
    if comparison.comparisons.height:
        parts += [comparison_section(comparison.comparisons), assumptions(comparison.comparisons)]
    else:
        parts.append("The runs have no gold label in common, so neither can be called better; what flipped is below.")
    parts.append(_flips(comparison))
    return "\n\n".join(parts) + "\n"


def _header(comparison: RunComparison) -> str:
    lines = [
        f"# Two runs under the rule {code(comparison.rule)}",
        f"- A: {code(comparison.name_a)}, {comparison.num_a:,} articles\n"
        f"- B: {code(comparison.name_b)}, {comparison.num_b:,} articles\n"
        f"- {comparison.num_common:,} articles are in both, by their text",
    ]
    if comparison.num_distinct < comparison.num_common:
        lines[-1] += f" ({comparison.num_distinct:,} distinct texts)"
    if comparison.num_gold_differs:
        lines[-1] += f"; {comparison.num_gold_differs:,} of them have another gold label in B and are left out below"
    if comparison.rule in CAUTIONS:
        lines.append(f"Caution: {code(comparison.rule)} {escape(CAUTIONS[comparison.rule])}.")
    lines.append(_differences(comparison.differences))
    return "\n\n".join(lines)


def _differences(differences: tuple[Difference, ...]) -> str:
    """Names as code: a template's or a label word's blanks may be all that differs."""
    if not differences:
        return "Model, data, settings and prompts are the same in both."
    rows = [[escape(difference.what), code(difference.a), code(difference.b)] for difference in differences]
    return f"What differs:\n\n{table(['', 'A', 'B'], rows, left=3)}"


def _flips(comparison: RunComparison) -> str:
    flips = comparison.flips
    if not flips.height:
        return "## Flipped items\n\nNone: both runs predict the same label for every common article."
    header = ["prompt", "gold", "A predicts", "B predicts", "article"]
    rows = [_flip(row) for row in flips.head(NUM_FLIPS).iter_rows(named=True)]
    shown = f"; the {NUM_FLIPS} where a run was surest" if flips.height > NUM_FLIPS else ""
    return f"## Flipped items\n\n{flips.height:,} predictions differ{shown}:\n\n{table(header, rows, left=5)}"


def _flip(row: dict[str, Any]) -> list[str]:
    text = row["text"]
    return [
        code(row["prompt"]),
        "-" if row["gold"] is None else escape(row["gold"]),
        f"{escape(row['predicted_a'])} ({percent(row['confidence_a'])})",
        f"{escape(row['predicted_b'])} ({percent(row['confidence_b'])})",
        escape(text[:MAX_TEXT]) + (" ..." if len(text) > MAX_TEXT else ""),
    ]
