"""Reports of items that bring their own choices, against plain Python over the same tables."""

import math
import re
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st
from polars.testing import assert_frame_equal
from statsmodels.stats.proportion import proportion_confint

from pipeline.analysis import load_run
from pipeline.errors import InputError, RunError
from pipeline.prompts import CLASS_RULES
from pipeline.reporting.document import all_figures
from pipeline.reporting.notes import warnings
from pipeline.reporting.predictions import cut_blocks
from pipeline.reporting.report import Report
from pipeline.reporting.rules import decide, score_items
from pipeline.reporting.sections import make_document
from pipeline.storing.files import Output, hash_file
from pipeline.storing.layout import SCORES_SCHEMA
from pipeline.storing.tables import write_table
from pipeline.storing.upkeep import verify
from tests.pipeline.reporting import choices, tables
from tests.pipeline.reporting.pages import read_html

NAMES = tuple(choices.PROMPTS)
RULES = ("sum", "mean_token", "mean_char", "mean_byte", "logit", "notebook")


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return choices.write_run(tmp_path_factory.mktemp("choices"), seed=3, notebook=True, several=0.2)


def slow_scores(rows: list[dict[str, Any]], rule: str) -> list[float]:
    """The rule's score of each place of one item, written as design.md says it."""
    texts = [row["label"] for row in rows]
    divisor = {
        "mean_token": [row["num_tokens"] for row in rows],
        "mean_char": [len(text) for text in texts],
        "mean_byte": [len(text.encode()) for text in texts],
    }
    column = {"logit": "logit", "notebook": "notebook_logit"}.get(rule, "logprob")
    return [row[column] / by for row, by in zip(rows, divisor.get(rule, [1] * len(rows)), strict=True)]


def slow_decision(scores: list[float], gold: int | None) -> dict[str, Any]:
    """What `decide` says of one item, which has no places but those of `scores`."""
    top = max(scores)
    shares = [math.exp(score - top) for score in scores]
    shares = [share / sum(shares) for share in shares]
    others = sorted(scores)[:-1]
    return {
        "predicted_id": scores.index(top),
        "confidence": max(shares),
        "margin": top - others[-1] if others else None,
        "tie": scores.count(top) > 1,
        "brier": None if gold is None else sum((p - (i == gold)) ** 2 for i, p in enumerate(shares)),
    }


ragged = st.lists(st.lists(st.integers(-5, -1), min_size=1, max_size=6), min_size=1, max_size=12)


@given(ragged, st.data())
def test_places_that_an_item_lacks_never_win_tie_or_have_a_share(items: list[list[int]], data: st.DataObject) -> None:
    """Whole numbers, so that ties are frequent; in any order of rows."""
    golds = [data.draw(st.none() | st.integers(0, len(scores) - 1)) for scores in items]
    rows = [
        {"item_id": i, "text_hash": str(i), "gold_id": golds[i], "label_id": place, "logprob": float(score),
         "truncated": False, "prompt_tokens": 9}
        for i, scores in enumerate(items)
        for place, score in enumerate(scores)
    ]  # fmt: skip
    shuffled = data.draw(st.permutations(rows))
    scores = pl.LazyFrame(shuffled, {name: tables.SCORE_SCHEMA[name] for name in rows[0]})
    found = decide(score_items(scores, ("sum",)).collect(), "sum").to_dicts()
    for row, values, gold in zip(found, items, golds, strict=True):
        for name, expected in slow_decision([float(value) for value in values], gold).items():
            assert row[name] == (pytest.approx(expected) if isinstance(expected, float) else expected), name
        assert row["correct"] == (None if gold is None else row["predicted_id"] == gold)


def test_each_rule_predicts_as_plain_python_does(run: Path, report: Report, rows: list[dict[str, Any]]) -> None:
    """Place and text of prediction and gold, verdict, confidence, margin and ties of every item under every rule."""
    assert report.rules == RULES
    items, scores = choices.read_items(run), choices.read_choices(run, NAMES)
    assert len(rows) == len(items) * len(NAMES) * len(RULES)
    for row in rows:
        item = items[row["item_id"]]
        own = scores[row["prompt"], row["item_id"]]
        expected = slow_decision(slow_scores(own, row["rule"]), item["gold_id"])
        assert row["predicted_id"] == expected["predicted_id"]
        assert row["predicted"] == item["item_choices"][row["predicted_id"]]
        assert (row["gold_id"], row["gold"], row["gold_ids"]) == (item["gold_id"], item["gold"], item["gold_ids"])
        assert row["correct"] == (row["predicted_id"] in (item["gold_ids"] or [item["gold_id"]]))
        assert row["text_hash"] == item[f"hash_{row['prompt']}"]
        assert row["tie"] == expected["tie"]
        assert row["confidence"] == pytest.approx(expected["confidence"])
        assert row["margin"] == pytest.approx(expected["margin"])
    assert sum(row["tie"] for row in rows) > 50


def test_equal_choices_tie_and_the_first_of_them_wins(rows: list[dict[str, Any]], run: Path) -> None:
    items = choices.read_items(run)
    doubled = [row for row in rows if items[row["item_id"]]["item_choices"].count(row["predicted"]) > 1]
    assert len(doubled) > 20
    for row in doubled:
        assert row["tie"]
        assert row["predicted_id"] == items[row["item_id"]]["item_choices"].index(row["predicted"])


def test_figures_are_over_the_items_own_choices(run: Path, report: Report, rows: list[dict[str, Any]]) -> None:
    """Accuracy with its interval, Brier score, ties and cut items; chance is one in the number of choices."""
    items, scores = choices.read_items(run), choices.read_choices(run, NAMES)
    for found in report.summary.iter_rows(named=True):
        own = [row for row in rows if (row["prompt"], row["rule"]) == (found["prompt"], found["rule"])]
        right = sum(row["correct"] for row in own)
        assert (found["num_items"], found["num_gold"], found["num_correct"]) == (80, 80, right)
        assert (found["low"], found["high"]) == pytest.approx(proportion_confint(right, 80, method="wilson"))
        single = [row for row in own if row["gold_id"] is not None]
        assert found["num_single"] == len(single) < 80
        briers = [
            slow_decision(slow_scores(scores[row["prompt"], row["item_id"]], row["rule"]), row["gold_id"])["brier"]
            for row in single
        ]
        assert found["brier"] == pytest.approx(np.mean(briers))
        assert (found["ties"], found["truncated"]) == (sum(r["tie"] for r in own), sum(r["truncated"] for r in own))
        assert found["macro_f1"] is found["balanced_accuracy"] is None
        assert found["ece"] is not None
        assert found["accuracy_at_50"] is not None
    guesses = [Fraction(len(item["gold_ids"] or [0]), len(item["item_choices"])) for item in items.values()]
    assert report.chance == float(sum(guesses) / len(guesses))


def test_what_needs_fixed_classes_is_left_out_and_one_sentence_says_so(run: Path, report: Report) -> None:
    """No confusions, histogram, collapse, margins by class or label mass in any file; the rest is there."""
    assert not set(report.rules) & set(CLASS_RULES)
    for table in (report.classes, report.confusion, report.histogram, report.margins, report.mass):
        assert table.is_empty()
    metrics = {"accuracy", "num_correct", "ece", "brier", "ties", "truncated"}
    assert set(report.metrics["metric"]) == metrics | {"accuracy_at_50", "accuracy_at_80", "accuracy_at_90"} | {
        "ece_calibrated"
    }
    assert report.metrics["label"].null_count() == report.metrics.height
    sentence = (
        "Each item brings its own choices, so what needs the same labels for all items is left out: the rules pmi,"
    )
    markdown = (run / "report" / "report.md").read_text()
    assert markdown.count(sentence) == 1
    page = read_html((run / "report" / "report.html").read_text())
    assert [sentence in p.text for p in page.all("p")].count(True) == 1
    for gone in ("macro F1 |", "label mass |", "predicts 'way", "collapsed", "p_cf is", "lowest label id"):
        assert gone not in markdown
    assert any(
        line.startswith("Ties, each given to the choice that stands first: 'whole'") for line in warnings(report)
    )
    assert "They are the choices of each item: from 'options', each written as ' {choice}'." in markdown
    figures = {figure.id for section in make_document(report).sections for figure in all_figures(section.blocks)}
    assert {"accuracy", "rules-0", "reliability-0", "coverage-1", "length-0"} <= figures
    assert not any(id.startswith(("confusion", "margin")) for id in figures)


def test_where_the_choices_stand_that_are_predicted(report: Report, rows: list[dict[str, Any]]) -> None:
    """How often each place was predicted and is gold: what position bias would show in."""
    own = [row for row in rows if (row["prompt"], row["rule"]) == ("whole", "mean_char")]
    single = [row["gold_id"] for row in own if row["gold_id"] is not None]
    chosen = report.positions.filter(pl.col("prompt") == "whole", pl.col("rule") == "mean_char")
    assert chosen["label_id"].to_list() == list(range(6))
    for row in chosen.iter_rows(named=True):
        assert row["n"] == sum(r["predicted_id"] == row["label_id"] for r in own)
        assert row["share"] == pytest.approx(row["n"] / 80)
        assert row["gold_share"] == pytest.approx(single.count(row["label_id"]) / len(single))


def test_rules_that_need_classes_are_refused_as_headline(run: Path) -> None:
    for rule in CLASS_RULES:
        with pytest.raises(InputError, match=f"rule '{rule}' needs labels that all items share.*use one of sum, mean_"):
            tables.write_report(run, rule)


@given(st.lists(st.integers(1, 40), min_size=1, max_size=60), st.integers(1, 100))
def test_blocks_cover_the_items_and_none_is_larger_than_it_may_be(sizes: list[int], most: int) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("pipeline.reporting.predictions.BLOCK_ROWS", most)
        ids = np.arange(0, 3 * len(sizes), 3)  # with gaps, as after rejected rows
        blocks = cut_blocks(ids, np.array(sizes, np.uint32))
    assert [low for low, _ in blocks[1:]] == [high for _, high in blocks[:-1]]
    assert (blocks[0][0], blocks[-1][1]) == (0, ids[-1] + 1)
    for low, high in blocks:
        inside = [size for i, size in zip(ids, sizes, strict=True) if low <= i < high]
        assert len(inside) == 1 or sum(inside) <= most
        assert inside


def test_blocks_of_items_give_the_same_report_as_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    out = choices.write_run(tmp_path, 50, seed=4)
    whole = tables.write_report(out)
    predictions = load_run(out).predictions.collect()
    monkeypatch.setattr("pipeline.reporting.predictions.BLOCK_ROWS", 30)
    cut = tables.write_report(out)
    assert_frame_equal(load_run(out).predictions.collect(), predictions)
    assert_frame_equal(whole.summary, cut.summary)
    assert whole.chance == cut.chance


@pytest.mark.parametrize(
    "how", ["a row too few", "a row too many", "a row twice", "one twice, one not", "another place"]
)
def test_an_item_is_whole_when_it_has_a_row_for_each_of_its_choices(how: str, tmp_path: Path) -> None:
    """The number of rows alone does not tell: other items may have more places than this one."""
    out = choices.write_run(tmp_path, 20, seed=5)
    items, file = choices.read_items(out), out / "scores" / "scores.parquet"
    item = next(i for i, row in items.items() if len(row["item_choices"]) == 3)
    scores, item_rows = pl.read_parquet(file), pl.col("item_id") == item
    last = item_rows & (pl.col("label_id") == 2)
    rows = scores.filter(last)
    changed = {
        "a row too few": scores.filter(~last),
        "a row too many": pl.concat([scores, rows.with_columns(label_id=pl.lit(3, pl.Int16))]),
        "a row twice": pl.concat([scores.filter(~last), rows.with_columns(label_id=pl.lit(1, pl.Int16))]),
        "one twice, one not": scores.with_columns(
            label_id=pl.when(item_rows, pl.col("label_id") == 1).then(0).otherwise("label_id").cast(pl.Int16)
        ),
        "another place": scores.with_columns(label_id=pl.when(last).then(4).otherwise("label_id").cast(pl.Int16)),
    }
    changed[how].sort("item_id", "prompt", "label_id").write_parquet(file)
    with pytest.raises(
        RunError, match=rf"item {item} has \d label scores under prompt '\w+', not one for each of its 3"
    ):
        tables.write_report(out)
    assert not (out / "report" / "predictions.parquet").exists()


def test_wrong_items_show_their_columns_and_their_own_choices(run: Path, report: Report) -> None:
    """In the prompt's order, each with its name; of equal choices only the gold and the predicted one are marked."""
    items, scores = choices.read_items(run), choices.read_choices(run, NAMES)
    assert report.wrong.height > 60
    for row in report.wrong.iter_rows(named=True):
        item = items[row["item_id"]]
        lines = [f"{column}: {item[column]}" for column in choices.PROMPTS[row["prompt"]]]
        assert row["text"] == "\n".join(lines)
        assert row["labels"] == item["item_choices"]
        assert row["label_ids"] == list(range(len(row["labels"])))
        assert row["scores"] == [score["logprob"] for score in scores[row["prompt"], row["item_id"]]]
        right = item["gold_ids"] or [item["gold_id"]]
        assert row["right_ids"] == right
        assert row["gold"] == " or ".join(item["item_choices"][place] for place in right)
    (section,) = (section for section in make_document(report).sections if section.id == "items")
    first = tables.first_wrong(report)
    for shown, row in zip(section.blocks[0].instead[1].rows, first.iter_rows(named=True), strict=True):
        marks = [score.mark for score in shown.scores]
        assert marks.count("predicted") == 1
        assert marks.count("gold") == len(row["right_ids"])
    markdown = (run / "report" / "report.md").read_text()
    assert "question: Question" in markdown
    assert "<script" not in markdown


def test_an_item_of_one_choice_and_a_prompt_without_a_slot(tmp_path: Path) -> None:
    """Whole sentences are compared: the choices are all that there is to show."""
    rows = [(0, "q", "p", ["only"], 0, "only", None, None), (1, "q", "p", ["a", "bb"], 1, "bb", None, None)]
    items = pl.DataFrame(rows, choices.ITEM_SCHEMA, orient="row")
    report = tables.write_report(choices.write_run(tmp_path, items=items, prompts={"bare": ()}, seed=2))
    first = load_run(tmp_path).predictions.filter(pl.col("item_id") == 0, pl.col("rule") == "sum").collect()
    assert first.select("predicted", "confidence", "margin", "tie").row(0) == ("only", 1.0, None, False)
    assert set(report.wrong["text"]) <= {""}
    assert report.chance == 0.75


def test_without_gold_there_are_predictions_only(tmp_path: Path) -> None:
    rng = np.random.default_rng(6)
    bare = choices.make_items(30, rng).with_columns(gold_id=pl.lit(None, pl.Int16), gold=pl.lit(None, pl.String))
    report = tables.write_report(choices.write_run(tmp_path, items=bare))
    assert not report.has_gold
    assert set(report.metrics["metric"]) == {"ties", "truncated"}
    assert "is left out: the rules pmi" in (tmp_path / "report" / "report.md").read_text()


def test_copies_are_counted_by_what_each_prompt_reads(tmp_path: Path) -> None:
    """Two questions on one passage are two texts for a prompt that reads both, and one for a prompt of the passage."""
    rng = np.random.default_rng(7)
    items = choices.make_items(40, rng).with_columns(pl.lit(["yes", "no"]).alias("item_choices"))
    items = items.with_columns(gold_id=pl.col("gold_id").clip(0, 1), gold=pl.lit("yes"))
    prompts = {"both": choices.BOTH, "passage": ("passage",)}
    report = tables.write_report(choices.write_run(tmp_path, items=items, prompts=prompts))
    copies = load_run(tmp_path).predictions.group_by("prompt").agg(pl.col("copies").unique()).collect()
    assert dict(copies.iter_rows()) == {"both": [1], "passage": [2]}
    assert (report.num_distinct, report.texts_of, report.num_effective) == (20, "passage", 20)
    assert "40 items hold 20 distinct texts under 'passage'" in warnings(report)[0]
    (row,) = report.verdict.pairs.to_dicts()
    assert row["n"] == 40
    by_item: dict[int, dict[str, bool]] = {}
    for prediction in load_run(tmp_path).predictions.filter(pl.col("rule") == "sum").collect().to_dicts():
        by_item.setdefault(prediction["item_id"], {})[prediction["prompt"]] = prediction["correct"]
    assert row["only_a"] == sum(right["both"] and not right["passage"] for right in by_item.values())
    nets = [sum(by_item[i + j]["both"] - by_item[i + j]["passage"] for j in (0, 1)) for i in range(0, 40, 2)]
    discordant = row["only_a"] + row["only_b"]
    assert row["design_effect"] >= max(2, sum(net * net for net in nets) / discordant) - 1e-12


def test_verify_counts_a_row_for_each_choice(tmp_path: Path) -> None:
    out = choices.write_run(tmp_path, 20)
    tables.write_report(out)

    def found() -> list[str]:
        names = [path.relative_to(out).as_posix() for path in out.rglob("*") if path.is_file()]
        files = {name: hash_file(out / name) for name in names if name != "manifest.json"}
        tables.change_manifest(out, files=files)
        return [str(finding) for finding in verify(Output(out))]

    assert found() == []
    file = out / "scores" / "scores.parquet"
    scores = pq.read_table(file)
    write_table(file, SCORES_SCHEMA, [scores.slice(0, scores.num_rows - 1)])
    (one,) = found()
    assert f"{scores.num_rows - 1} rows, not {scores.num_rows} for 20 items" in one


def test_every_text_of_a_report_is_escaped(run: Path, report: Report) -> None:
    html = (run / "report" / "report.html").read_text()
    assert "<script>alert" not in html
    read_html(html)  # every element is closed in its place
    for data in re.findall(r'<script type="application/json"[^>]*>(.*?)</script>', html, flags=re.DOTALL):
        assert "<" not in data


def test_a_report_stays_small_where_an_item_has_very_many_choices(tmp_path: Path) -> None:
    """A wrong item shows its highest scores, that of the right choice, and how many more there are."""
    rng = np.random.default_rng(1)
    many = [f"{i} {'word ' * 100}" for i in range(3_000)]
    items = choices.make_items(20, rng).with_columns(item_choices=pl.lit(many), gold_id=pl.lit(7, pl.Int16))
    report = tables.write_report(choices.write_run(tmp_path, items=items, prompts={"p": ("question",)}))
    (section,) = (section for section in make_document(report).sections if section.id == "items")
    for shown in section.blocks[0].instead[1].rows:
        assert len(shown.scores) in (101, 102)
        assert [score.mark for score in shown.scores].count("gold") == 1
        assert shown.scores[-1].label in ("and 2,900 more", "and 2,899 more")
    for name, most in (("report.html", 3_000_000), ("report.md", 400_000)):
        assert (tmp_path / "report" / name).stat().st_size < most
