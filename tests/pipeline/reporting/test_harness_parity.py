"""The same predictions as lm-evaluation-harness' `acc` and `acc_norm`, item by item, ties included."""

import json
from pathlib import Path

import polars as pl
import pytest

from pipeline.analysis import load_run
from pipeline.storing.layout import norm_sizes
from tests.pipeline.reporting import choices, tables

# What the harness makes of a few small items: context, continuations, log-likelihoods, and what it predicts by each
# metric. Computed by hand: argmax of the sums, and of the sums over the characters of the choice; the first of equals.
OWN = (
    ("Which?", (" a", " bbbb"), (-3.0, -9.0), 0, 1),  # -3 a character, and -2.25
    ("Which?", (" aa", " bb", " cc"), (-4.0, -4.0, -5.0), 0, 0),  # a tie under both
    ("Which?", (" aaa", " b"), (-6.0, -2.0), 1, 0),  # -2 a character each: a tie under one
    ("Which?", (" same", " same"), (-7.5, -7.5), 0, 0),  # equal choices
    ("Which?", (" größer", " klein"), (-12.0, -10.4), 1, 0),  # characters: in bytes it would be -1.5, and still first
    ("Which?", (" ééé", " aaaa"), (-6.0, -7.9), 0, 1),  # characters and not bytes: -2 and -1.975, but -1 in bytes
    ("Which?", ("  a", " b"), (-3.0, -2.0), 1, 0),  # one blank is the delimiter, the other is the choice's
)


def write_requests(out: Path, rows: pl.DataFrame) -> Path:
    """A run of such rows: item, choice, context, continuation, logprob and gold."""
    items = rows.group_by("item", maintain_order=True).agg("context", "continuation", pl.col("gold").first())
    texts = [[text.removeprefix(" ") for text in texts] for texts in items["continuation"]]
    # Where the contexts differ and the continuation is the same, it is the contexts that are compared.
    varying = [len(set(contexts)) > 1 for contexts in items["context"]]
    choice = [
        contexts if varies else own for contexts, own, varies in zip(items["context"], texts, varying, strict=True)
    ]
    table = pl.DataFrame(
        [
            (i, contexts[0], "", own, gold, own[gold], None, None)
            for i, contexts, own, gold in zip(items["item"], items["context"], choice, items["gold"], strict=True)
        ],
        choices.ITEM_SCHEMA,
        orient="row",
    )
    prompts = {"harness": ("question",)}
    digests = dict(choices.with_hashes(table, prompts).select("item_id", "hash_harness").iter_rows())
    scores = pl.DataFrame(
        [
            (
                row["item"], digests[row["item"]], "harness", "m", "r", row["choice"], own[row["choice"]],
                row["continuation"], row["gold"], 1, len(row["continuation"].encode()),
                *norm_sizes(own[row["choice"]] if varies else row["continuation"]), row["logprob"], row["logprob"],
                None, 9, False,
            )
            for row, own, varies in (
                (row, choice[row["item"]], varying[row["item"]]) for row in rows.iter_rows(named=True)
            )
        ],
        tables.SCORE_SCHEMA,
        orient="row",
    )  # fmt: skip
    return choices.write_run(out, items=table, scores=scores, prompts=prompts)


def predicted(out: Path, rule: str) -> list[int]:
    rows = load_run(out).predictions.filter(pl.col("rule") == rule).sort("item_id").collect()
    return rows["predicted_id"].to_list()


def test_small_items_are_predicted_as_the_harness_does(tmp_path: Path) -> None:
    rows = [
        (item, place, context, continuation, logprob, 0)
        for item, (context, continuations, logprobs, *_) in enumerate(OWN)
        for place, (continuation, logprob) in enumerate(zip(continuations, logprobs, strict=True))
    ]
    columns = ["item", "choice", "context", "continuation", "logprob", "gold"]
    tables.write_report(write_requests(tmp_path, pl.DataFrame(rows, columns, orient="row")))
    assert predicted(tmp_path, "sum") == [acc for *_, acc, _ in OWN]
    assert predicted(tmp_path, "mean_char") == [acc_norm for *_, acc_norm in OWN]


TASKS = (
    *("banking77", "blimp_adjunct_island", "cola", "hellaswag", "mmlu_high_school_computer_science"),
    *("piqa", "rte", "sst2", "trec", "winogrande"),
)


@pytest.mark.parametrize("task", TASKS)
def test_real_items_are_predicted_as_the_harness_did(task: str, shared: Path, tmp_path: Path) -> None:
    """`sum` as its acc, `mean_char` as its acc_norm, each item; and the accuracies are those that it printed."""
    file = shared / "data" / "tasks" / "expected" / f"{task}.agnews-tiny-gemma.parquet"
    if not file.is_file():
        pytest.skip(f"no {file}")
    rows = pl.read_parquet(file)
    report = tables.write_report(write_requests(tmp_path, rows))
    expected = rows.group_by("item", maintain_order=True).agg(pl.col("acc_pred", "acc_norm_pred").first())
    assert predicted(tmp_path, "sum") == expected["acc_pred"].to_list()
    assert predicted(tmp_path, "mean_char") == expected["acc_norm_pred"].to_list()
    accuracy = {rule: round(share, 4) for rule, share in report.summary.select("rule", "accuracy").iter_rows()}
    printed = json.loads((file.parent / "summary.json").read_text())[f"{task}.agnews-tiny-gemma"]
    assert (accuracy["sum"], accuracy["mean_char"]) == (printed["acc"], printed["acc_norm"])
