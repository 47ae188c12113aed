"""Questions of data/README.md whose answer is more than a column of the report, against a loop over the scores."""

import re
from pathlib import Path
from typing import Any

import polars as pl
import pytest

from pipeline.analysis import load_run
from tests.conftest import ROOT
from tests.pipeline.reporting import tables

FOLDER = "data/runs/sample-demo"  # where the document has its run


def block(heading: str) -> str:
    """The first block of Python under a heading."""
    section = (ROOT / "data" / "README.md").read_text().partition(heading)[2]
    found = re.search(r"```python\n(.*?)```", section, flags=re.DOTALL)
    assert found
    return found[1]


def test_the_hardest_items_are_those_whose_gold_label_is_furthest_behind(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Behind the winner, not how far the winner is ahead of the second; items that any prompt gets right are out."""
    run = load_run(tables.run_and_report(tmp_path / FOLDER, 120, ("answer", "topic"), signal=0.5).out)
    monkeypatch.chdir(tmp_path)
    names: dict[str, Any] = {}
    for heading in ("## Ten questions", "### 7."):
        exec(compile(block(heading), heading, "exec"), names)

    behind: dict[int, float] = {}
    for (item, _), rows in run.scores.collect().group_by("item_id", "prompt"):
        gold = rows.filter(pl.col("label_id") == pl.col("gold_id"))["logprob"].item()
        behind[item] = min(behind.get(item, float("inf")), rows["logprob"].max() - gold)
    hardest = sorted((item for item in behind if behind[item] > 0), key=lambda item: -behind[item])[:10]
    assert names["answer"]["item_id"].to_list() == hardest
    assert names["answer"]["behind"].to_list() == pytest.approx([behind[item] for item in hardest])
