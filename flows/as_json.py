"""What `--json` prints: the record that the terminal shows, as one JSON document on standard output.

Invariant: a figure has the name that a file of the run has for it, in full; what is no finite number is null, a moment
is ISO 8601, and all of it is ASCII. data/README.md lists the keys.
"""

import json
import math
from collections.abc import Iterable, Mapping
from dataclasses import fields, is_dataclass
from datetime import datetime
from typing import TYPE_CHECKING, Any

from flows.terminal import paste

if TYPE_CHECKING:
    import polars as pl

    from pipeline.reporting.compare import RunComparison
    from pipeline.reporting.report import Report


def print_json(record: object) -> None:
    """Print a record as JSON, and nothing else."""
    paste(json.dumps(as_data(record), indent=1, allow_nan=False) + "\n")


def as_data(value: Any) -> Any:
    """A record as what JSON has: a table is a list of its rows as objects. Raises TypeError for what has no form."""
    if value is None or isinstance(value, str | int):
        return value
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, datetime):
        return value.isoformat()
    if isinstance(value, Mapping):
        return {str(name): as_data(each) for name, each in value.items()}
    if is_dataclass(value):
        return {field.name: as_data(getattr(value, field.name)) for field in fields(value)}
    if hasattr(value, "model_dump"):  # pydantic's
        return as_data(value.model_dump(mode="json"))
    if hasattr(value, "to_dicts"):  # Polars'
        return as_data(value.to_dicts())
    if isinstance(value, Iterable):
        return [as_data(each) for each in value]
    raise TypeError(f"no JSON for {type(value).__name__}")


def prompts_data() -> list[dict[str, Any]]:
    """The built-in prompts, as a manifest has them."""
    from pipeline.prompts import BUILT_IN

    names = ("name", "template", "boundary")
    return [
        {**{name: getattr(prompt, name) for name in names}, "labels": prompt.labels} for prompt in BUILT_IN.values()
    ]


def report_data(report: "Report") -> dict[str, Any]:
    """A report: its manifest, the rows of metrics.parquet and tasks.parquet, the ranking, and the verdict in words."""
    from pipeline.reporting.findings import find
    from pipeline.storing.layout import SCHEMA_VERSION

    found = find(report)
    return {
        "out": report.out,
        "manifest": {**as_data(report.manifest), "schema_version": SCHEMA_VERSION},
        "ranking": report.ranking if report.has_gold else [],
        "metrics": report.metrics,
        "tasks": report.harness,
        "findings": found.lines if found else [],
    }


def comparison_data(comparison: "RunComparison", gap: float | None) -> dict[str, Any]:
    """Two runs compared; `gap`: the points that were asked about, and how many items would show them."""
    from pipeline.reporting.findings import items_for_pairs

    names = ("what", "a", "b")
    differences = [dict(zip(names, row, strict=True)) for row in comparison.differences]
    pairs, num_needed = comparison.comparisons, None
    if gap is not None and pairs.height:
        num_needed = math.ceil(items_for_pairs(gap / 100, pairs, pairs.height)[0])
    return {**as_data(comparison), "differences": differences, "gap": gap, "num_needed": num_needed}


def classification_data(table: "pl.DataFrame") -> dict[str, Any]:
    """The scores of one text, a row for each label, and the label that wins under each rule."""
    winners = {rule: table.sort(rule, descending=True, maintain_order=True)["label"][0] for rule in table.columns[3:]}
    return {"labels": table, "winners": winners}
