"""The confidently wrong: one row per article, and what the page's filter offers.

Invariant: a row holds everything that the filter looks at, so that the table is whole without the page's script.
"""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from pipeline.reporting.page_tables import number, percent, text

if TYPE_CHECKING:
    from pipeline.reporting.report import Report

MAX_TEXT_CHARS = 1_000  # of an article in the page; all of it is in items.parquet


@dataclass(frozen=True, slots=True)
class Score:
    label: str
    value: str
    mark: str


@dataclass(frozen=True, slots=True)
class WrongRow:
    item_id: int
    text: str
    gold: str
    predicted: str
    confidence: str
    prompt: str
    scores: list[Score]


@dataclass(frozen=True, slots=True)
class Select:
    """A field of the filter: `name` is the data attribute of a row that it looks at."""

    name: str
    title: str
    choices: list[str]


def wrong_part(report: "Report") -> dict[str, Any]:
    """The confidently wrong: rows, and the choices that the filter offers."""
    rows = [_wrong_row(row) for row in report.wrong.iter_rows(named=True)]
    selects = [
        Select(name, title, list(report.wrong[name].drop_nulls().unique(maintain_order=True)))
        for name, title in (("gold", "Gold"), ("predicted", "Predicted"), ("prompt", "Prompt"))
    ]
    return {"rows": rows, "selects": selects}


def _wrong_row(row: dict[str, Any]) -> WrongRow:
    article = row["text"] or ""
    cut = article[:MAX_TEXT_CHARS] + " […]" if len(article) > MAX_TEXT_CHARS else article
    marks = {**dict.fromkeys(row["right"], "gold"), row["predicted"]: "predicted"}
    scores = [
        Score(label, number(score), marks.get(label, ""))
        for label, score in sorted(zip(row["labels"], row["scores"], strict=True), key=lambda pair: -pair[1])
    ]
    return WrongRow(
        row["item_id"], cut, text(row["gold"]), row["predicted"], percent(row["confidence"]), row["prompt"], scores
    )
