"""Two runs side by side, joined by the hash of their texts."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest

from flows.cli import main
from pipeline.analysis import Run, load_run
from pipeline.errors import InputError
from pipeline.reporting.changed import changed_predictions
from pipeline.reporting.compare import RunComparison, compare_runs
from pipeline.reporting.compare_sections import compare_document
from pipeline.reporting.markdown import render_markdown
from pipeline.storing.files import Output
from pipeline.storing.manifest import write_manifest
from tests.pipeline.reporting import tables
from tests.pipeline.reporting.pages import read_html, read_items


def make_run(out: Path, items: pl.DataFrame, prompts: tuple[str, ...], seed: int, **facts: Any) -> Run:
    """A run over exactly these items; `facts` replace some of its manifest's."""
    rng = np.random.default_rng(seed)
    (out / "scores").mkdir(parents=True)
    scores = pl.concat(tables.make_scores(items, prompt, rng) for prompt in prompts)
    scores.sort("item_id", "prompt", "label_id").write_parquet(out / "scores" / "scores.parquet")
    items.write_parquet(out / "items.parquet")
    write_manifest(Output(out), tables.with_facts(tables.make_manifest(items.height, prompts), **facts))
    tables.write_report(out)
    return load_run(out)


def printed(comparison: RunComparison) -> str:
    return render_markdown(compare_document(comparison))


@pytest.fixture
def items() -> pl.DataFrame:
    return tables.make_items(120, np.random.default_rng(0))


def moved(items: pl.DataFrame) -> pl.DataFrame:
    """The same rows in another order, under other ids."""
    return items.sample(fraction=1.0, shuffle=True, seed=7).with_columns(item_id=pl.int_range(pl.len()) + 1_000)


def test_runs_meet_by_text_and_not_by_row(tmp_path: Path, items: pl.DataFrame) -> None:
    a = make_run(tmp_path / "a", items, ("answer",), seed=1)
    b = make_run(tmp_path / "b", moved(items.head(100)), ("answer",), seed=2)
    found = compare_runs(a, b)
    assert (found.num_a, found.num_b, found.num_common) == (120, 100, 100)
    sides = [r.predictions.filter(pl.col("rule") == "sum").collect() for r in (a, b)]
    by_text = [dict(side.select("text_hash", "predicted").iter_rows()) for side in sides]
    differing = {text for text in by_text[1] if by_text[0][text] != by_text[1][text]}
    flipped = found.flips.join(items.select("item_id", "text_hash"), left_on="item_id_a", right_on="item_id")
    assert set(flipped["text_hash"]) == differing
    row = found.comparisons.row(0, named=True)
    assert row["n"] == 100
    right = [sum(side.filter(pl.col("text_hash").is_in(list(by_text[1])))["correct"]) for side in sides]
    assert row["difference"] == pytest.approx((right[0] - right[1]) / 100)


def test_a_run_does_not_differ_from_itself(tmp_path: Path, items: pl.DataFrame) -> None:
    run = make_run(tmp_path / "a", items, ("answer", "topic"), seed=1)
    found = compare_runs(run, run)
    assert found.flips.is_empty()
    assert found.comparisons["p"].to_list() == [1.0, 1.0]


def test_repeated_texts_are_paired_once_each(tmp_path: Path, items: pl.DataFrame) -> None:
    """Three rows with one text meet two rows with it: two pairs, not six."""
    text = items.head(1)
    thrice, twice = (
        pl.concat([text] * n + [items.tail(20)]).with_columns(item_id=pl.int_range(pl.len())) for n in (3, 2)
    )
    a = make_run(tmp_path / "a", thrice, ("answer",), seed=1)
    b = make_run(tmp_path / "b", twice, ("answer",), seed=1)
    assert compare_runs(a, b).num_common == 22


def test_prompts_of_other_names_all_meet(tmp_path: Path, items: pl.DataFrame) -> None:
    a = make_run(tmp_path / "a", items, ("answer",), seed=1)
    b = make_run(tmp_path / "b", items, ("topic", "detailed"), seed=2)
    found = compare_runs(a, b).comparisons
    assert found.select("prompt_a", "prompt_b").rows() == [("answer", "topic"), ("answer", "detailed")]


def test_items_whose_gold_differs_are_left_out_and_counted(tmp_path: Path, items: pl.DataFrame) -> None:
    relabelled = items.with_columns(gold_id=pl.lit(0, pl.Int16), gold=pl.lit("World"))
    a = make_run(tmp_path / "a", items, ("answer",), seed=1)
    b = make_run(tmp_path / "b", relabelled, ("answer",), seed=1)
    found = compare_runs(a, b)
    same = items.filter(pl.col("gold_id") == 0).height
    assert found.num_gold_differs == 120 - same
    assert found.comparisons["n"].to_list() == [same]


def test_what_flipped_is_right_or_wrong_only_by_a_gold_label_of_both(tmp_path: Path, items: pl.DataFrame) -> None:
    """One that another run has otherwise, or not at all, must not stand beside what that run got right by its own."""
    other = (pl.col("gold_id") + 1) % 4
    changed = pl.when(pl.col("item_id") % 3 == 0).then(other).when(pl.col("item_id") % 3 == 1).then("gold_id")
    names = changed.replace_strict(dict(enumerate(tables.AG_NEWS)), return_dtype=pl.String)
    relabelled = items.with_columns(changed.cast(pl.Int16).alias("gold_id"), names.alias("gold"))
    a, b = make_run(tmp_path / "a", items, ("p",), 1), make_run(tmp_path / "b", relabelled, ("p",), 2)
    gold = {row["item_id"]: (row["gold"], row["item_id"] % 3 == 1) for row in items.to_dicts()}
    flips = compare_runs(a, b).flips.to_dicts()
    assert len({row["item_id_a"] % 3 for row in flips}) == 3
    for row in flips:
        name, same = gold[row["item_id_a"]]
        right = [row["predicted_a"] == name, row["predicted_b"] == name]
        assert [row["gold"], row["correct_a"], row["correct_b"]] == ([name, *right] if same else [None] * 3)


def test_runs_without_a_common_text_cannot_be_compared(tmp_path: Path, items: pl.DataFrame) -> None:
    a = make_run(tmp_path / "a", items.head(20), ("answer",), seed=1)
    b = make_run(tmp_path / "b", items.tail(20), ("answer",), seed=1)
    with pytest.raises(InputError, match="no text in common"):
        compare_runs(a, b)
    with pytest.raises(InputError, match="no predictions under rule 'notebook'"):
        compare_runs(a, a, "notebook")


def test_changed_predictions_count_the_common_texts(tmp_path: Path, items: pl.DataFrame) -> None:
    a = make_run(tmp_path / "a", items, ("answer", "topic"), seed=1)
    b = make_run(tmp_path / "b", moved(items.head(80)), ("answer",), seed=2)
    changed = changed_predictions(a.predictions, b.predictions)
    assert set(changed["prompt"]) == {"answer"}
    assert changed["num_common"].unique().to_list() == [80]
    flips = compare_runs(a, b).flips.height
    assert changed.filter(pl.col("rule") == "sum")["num_changed"].item() == flips
    assert changed_predictions(None, b.predictions).is_empty()


def test_the_printed_comparison_names_both_runs_and_escapes_the_texts(tmp_path: Path, items: pl.DataFrame) -> None:
    """Sizes, common items, flipped items; a text that is markup stays text."""
    nasty = pl.lit("<script>alert(1)</script> | `code` ") + pl.col("text")
    marked = items.with_columns(text=nasty)
    a = make_run(tmp_path / "a", marked, ("answer",), seed=1)
    b = make_run(tmp_path / "b", moved(marked.head(100)), ("answer",), seed=2)
    words = printed(compare_runs(a, b))
    assert "120 items" in words
    assert "In both: 100 items, by their text" in words
    assert f"{compare_runs(a, b).flips.height} predictions differ; the 20 where a run was surest" in words
    assert "<script>" not in words
    assert "\\| \\`code\\`" in words
    assert "None: both runs" in printed(compare_runs(a, a))


def test_what_differs_between_the_runs_is_named_and_nothing_else(tmp_path: Path, items: pl.DataFrame) -> None:
    """Model, revision, dtype, data, shots, chat template and rule come from the manifests."""
    plain = tables.make_manifest(120, ("answer",)).model_dump(mode="json")
    other = {
        "model": plain["model"] | {"name": "large|er", "revision": "abc123", "dtype": "bfloat16"},
        "dataset": plain["dataset"] | {"name": "news", "revision": "r2"},
        "config": {"rule": "pmi", "num_shots": 4, "seed": 3, "chat_template": True, "max_text_tokens": 50},
    }
    a = make_run(tmp_path / "a", items, ("answer",), seed=1)
    b = make_run(tmp_path / "b", items, ("answer",), seed=1, **other)
    found = {what: values for what, *values in compare_runs(a, b).differences}
    assert found == {
        "model": ["random", "large|er"],
        "model revision": ["sha256:0123456789abcdef", "abc123"],
        "dtype": ["float32", "bfloat16"],
        "data set": ["random", "news"],
        "data revision": ["none", "r2"],
        "solved examples": ["none", "4, from train, seed 3"],
        "chat template": ["none", "yes"],
        "texts cut at": ["none", "50 tokens"],
        "rule of the run": ["sum", "pmi"],
    }
    words = printed(compare_runs(a, b))
    assert "`large¦er`" in words
    assert "settings and prompts are the same in both" in printed(compare_runs(a, a))


def test_a_prompt_that_kept_its_name_but_not_its_words_is_a_difference(tmp_path: Path, items: pl.DataFrame) -> None:
    a = make_run(tmp_path / "a", items, ("answer",), seed=1)
    b = make_run(tmp_path / "b", items, ("answer",), seed=1)
    (prompt,) = b.manifest.prompts
    changed = prompt.model_copy(update={"template": "{text} "})
    b = replace(b, manifest=b.manifest.model_copy(update={"prompts": (changed,)}))
    ((what, _, value),) = compare_runs(a, b).differences
    assert (what, value) == ("template of 'answer'", "{text} ")


def test_runs_without_gold_labels_show_their_flips_and_no_accuracy(tmp_path: Path) -> None:
    """Nothing is said of 0 items: no sentence, no table, no nan."""
    bare = tables.make_items(60, np.random.default_rng(0), gold=False)
    a, b = (make_run(tmp_path / name, bare, ("answer",), seed=seed) for name, seed in (("a", 1), ("b", 2)))
    found = compare_runs(a, b)
    assert found.comparisons.is_empty()
    words = printed(found)
    assert "no gold label in common" in words
    assert f"{found.flips.height:,} predictions differ" in words
    assert "nan" not in words
    assert " 0 items" not in words


def test_a_comparison_under_batch_carries_its_caution(tmp_path: Path, items: pl.DataFrame) -> None:
    run = make_run(tmp_path / "a", items, ("answer",), seed=1)
    assert "looks at the unlabelled test items" in printed(compare_runs(run, run, "batch"))
    assert "Caution" not in printed(compare_runs(run, run, "sum"))


def test_the_page_has_every_item_that_flipped(
    tmp_path: Path, items: pl.DataFrame, capsys: pytest.CaptureFixture[str]
) -> None:
    """Under each prompt, with what both runs make of it; what is printed stays the same."""
    runs = [make_run(tmp_path / name, items, ("answer", "topic"), seed=i) for i, name in enumerate("ab")]
    outs, file = [str(tmp_path / name) for name in "ab"], tmp_path / "compared.html"
    assert main(["compare", *outs, "--html", str(file)]) == 0
    assert capsys.readouterr().out == printed(compare_runs(*runs))
    page = read_html(file.read_text(encoding="utf-8"))
    flips = {(row["item_id_a"], row["prompt"]): row for row in compare_runs(*runs).flips.iter_rows(named=True)}
    shown = {(item["id"], item["group"]): item for item in read_items(page)}
    assert shown.keys() == flips.keys()
    for key, row in flips.items():
        assert shown[key]["gold"] == [row["gold"]]
        assert shown[key]["predicted"] == [row["predicted_a"], row["predicted_b"]]
        assert shown[key]["correct"] == [row["correct_a"], row["correct_b"]]
        assert shown[key]["confidence"] == [pytest.approx(row[f"confidence_{side}"], abs=5.1e-4) for side in "ab"]
    assert f"All {len(flips):,} rows are here." in page.text


def test_a_page_that_cannot_be_written_is_one_line(
    tmp_path: Path, items: pl.DataFrame, capsys: pytest.CaptureFixture[str]
) -> None:
    make_run(tmp_path / "a", items, ("answer",), seed=1)
    for file in (tmp_path / "nowhere" / "page.html", tmp_path):
        assert main(["compare", str(tmp_path / "a"), str(tmp_path / "a"), "--html", str(file)]) == 2
        said = capsys.readouterr()
        assert said.out == ""
        assert said.err.startswith("labelscore: error: cannot write")
        assert said.err.rstrip().endswith("name another file with --html")
        assert said.err.count("\n") == 1
