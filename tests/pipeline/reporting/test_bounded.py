"""What is read a slice at a time and met a bucket at a time says what a loop over everything says."""

from collections import defaultdict
from collections.abc import Iterator
from itertools import count
from typing import Any

import numpy as np
import polars as pl
import pytest
from polars.testing import assert_frame_equal

from pipeline.analysis import Run, load_run
from pipeline.reporting import changed, pairing
from pipeline.reporting.changed import changed_predictions
from pipeline.reporting.compare import RunComparison, compare_runs
from pipeline.storing import spill
from tests.pipeline.reporting import tables


@pytest.fixture(params=[1 << 17, 7], ids=["at once", "in slices and buckets"])
def _slices(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(changed, "ITEMS_AT_ONCE", request.param)
    monkeypatch.setattr(spill, "KEYS_AT_ONCE", request.param)


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> tuple[Run, Run]:
    """Two prompts over texts of which many repeat; the second run has fewer rows, in another order, some without gold.

    Of some rows the gold label is another one.
    """
    folder = tmp_path_factory.mktemp("runs")
    items = tables.make_items(90, np.random.default_rng(0))
    items = tables.repeat(items, [1 + i % 4 for i in range(90)])
    other = items.sample(fraction=0.7, shuffle=True, seed=7).with_columns(item_id=pl.int_range(pl.len()) + 1_000)
    third = pl.col("item_id") % 3
    gold = pl.when(third == 0).then(None).when(third == 1).then((pl.col("gold_id") + 1) % 4).otherwise("gold_id")
    other = other.with_columns(gold.cast(items.schema["gold_id"]).alias("gold_id"))
    found = []
    for seed, own in enumerate((items, other)):
        out = tables.write_run(folder / f"{seed}", seed=seed, items=own)
        tables.write_report(out)
        found.append(load_run(out))
    return found[0], found[1]


Row = dict[str, Any]


def rows_of(run: Run, prompt: str, rule: str) -> Iterator[Row]:
    own = run.predictions.filter(pl.col("prompt") == prompt, pl.col("rule") == rule).collect()
    return own.sort("item_id").iter_rows(named=True)


def paired(a: Run, b: Run, prompt: str) -> list[tuple[Row, Row]]:
    """The n-th item with a text in one run, and the n-th with it in the other."""
    sides = []
    for run in (a, b):
        places, side = defaultdict[str, Iterator[int]](count), {}
        for row in rows_of(run, prompt, "sum"):
            side[row["text_hash"], next(places[row["text_hash"]])] = row
        sides.append(side)
    return [(sides[0][key], sides[1][key]) for key in sides[0].keys() & sides[1].keys()]


@pytest.mark.usefixtures("_slices")
def test_two_runs_meet_as_in_a_loop_over_their_items(runs: tuple[Run, Run]) -> None:
    """Counts, accuracies and flips of each prompt are those of pairs that were found one by one."""
    found: RunComparison = compare_runs(*runs)
    flips = found.flips
    assert found.num_flips == flips.height > 0
    for prompt in ("answer", "topic"):
        pairs = paired(*runs, prompt)
        assert found.num_common == len(pairs)
        assert found.num_distinct == len({a["text_hash"] for a, _ in pairs})
        assert found.num_gold_differs == sum(a["gold"] != b["gold"] for a, b in pairs) > 0
        judged = [(a["correct"], b["correct"]) for a, b in pairs if a["gold"] == b["gold"] is not None]
        row = found.comparisons.row(by_predicate=pl.col("prompt_a") == prompt, named=True)
        counts = [judged.count(pair) for pair in ((True, True), (True, False), (False, True), (False, False))]
        assert [row[name] for name in ("both", "only_a", "only_b", "neither")] == counts
        expected = {
            (a["item_id"], b["item_id"], a["predicted"], b["predicted"], a["gold"] if a["gold"] == b["gold"] else None)
            for a, b in pairs
            if a["predicted"] != b["predicted"]
        }
        names = ("item_id_a", "item_id_b", "predicted_a", "predicted_b", "gold")
        own = flips.filter(pl.col("prompt") == prompt)
        assert set(own.select(names).iter_rows()) == expected
        surest = own.select(pl.max_horizontal("confidence_a", "confidence_b")).to_series()
        assert surest.is_sorted(descending=True)


@pytest.mark.usefixtures("_slices")
def test_changed_predictions_are_those_of_a_loop_over_texts(runs: tuple[Run, Run]) -> None:
    old, new = runs
    found = changed_predictions(old.predictions, new.predictions)
    assert found.height >= 14
    for row in found.iter_rows(named=True):
        before, after = (
            {text["text_hash"]: text["predicted"] for text in rows_of(run, row["prompt"], row["rule"])} for run in runs
        )
        both = before.keys() & after.keys()
        assert row["num_common"] == len(both) > 0
        assert row["num_changed"] == sum(before[text] != after[text] for text in both)


def test_what_an_item_was_not_predicted_under_cannot_have_changed(runs: tuple[Run, Run]) -> None:
    """A rule that some items of one table lack."""
    old, new = runs
    key = pl.col("text_hash").str.head(1) < "8"
    some = old.predictions.filter((pl.col("rule") != "mean_token") | key)
    rows = {
        row["rule"]: row for row in changed_predictions(some, new.predictions).to_dicts() if row["prompt"] == "topic"
    }
    before, after = (
        {row["text_hash"]: row["predicted"] for row in rows_of(run, "topic", "mean_token")} for run in runs
    )
    both = [text for text in before.keys() & after.keys() if text < "8"]
    assert rows["mean_token"]["num_changed"] == sum(before[text] != after[text] for text in both) > 0


def test_of_many_flips_the_surest_are_kept(runs: tuple[Run, Run], monkeypatch: pytest.MonkeyPatch) -> None:
    """A page shows so many; how many there are is counted."""
    everything = compare_runs(*runs)
    monkeypatch.setattr(pairing, "MAX_FLIPS", 5)
    few = compare_runs(*runs)
    assert few.num_flips == everything.num_flips > 10
    for _, own in everything.flips.group_by("prompt", maintain_order=True):
        kept = few.flips.filter(pl.col("prompt") == own["prompt"][0])
        assert_frame_equal(kept, own.head(5))
