"""The report's files: complete, escaped, honest in words, and made from the published files alone."""

import math
import os
import re
from pathlib import Path

import numpy as np
import polars as pl
import pytest

from pipeline.analysis import load_run
from pipeline.errors import InputError, RunError
from pipeline.reporting.calibration import margins_by_class
from pipeline.reporting.document import Table
from pipeline.reporting.make import AG_NEWS_TEXTS
from pipeline.reporting.notes import warnings
from pipeline.reporting.past_runs import past_runs
from pipeline.reporting.report import Report
from tests.conftest import ROOT
from tests.pipeline.reporting import tables
from tests.pipeline.reporting.tables import hash_text

CONTRACT = {
    "item_id": pl.Int64(),
    "text_hash": pl.String(),
    "prompt": pl.String(),
    "rule": pl.String(),
    "predicted_id": pl.Int16(),
    "predicted": pl.String(),
    "gold_id": pl.Int16(),
    "gold": pl.String(),
    "gold_ids": pl.List(pl.Int16()),
    "correct": pl.Boolean(),
    "copies": pl.Int32(),
    "confidence": pl.Float64(),
    "margin": pl.Float32(),
    "tie": pl.Boolean(),
    "truncated": pl.Boolean(),
}


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tables.write_run(tmp_path_factory.mktemp("run"), 150, ("answer", "topic"), seed=1, published={"topic": 0.68})


@pytest.fixture(scope="module")
def markdown(run: Path, report: Report) -> str:
    return (run / "report" / "report.md").read_text()


def test_the_folder_holds_all_files_and_no_leftovers(run: Path, report: Report) -> None:
    files = {path.name for path in (run / "report").iterdir()}
    assert files == {"report.md", "summary.md", "report.html", "metrics.parquet", "predictions.parquet"}


def test_predictions_follow_the_contract(run: Path, report: Report) -> None:
    """One row per item, prompt and rule; each rule's rows together, by item and prompt."""
    found = pl.read_parquet(run / "report" / "predictions.parquet")
    assert dict(found.schema) == CONTRACT
    assert found.height == 150 * 2 * len(report.rules)
    assert found.select("item_id", "prompt", "rule").is_duplicated().sum() == 0
    assert found["rule"].rle().len() == len(report.rules)
    for _, rows in found.group_by("rule"):
        assert rows.equals(rows.sort("item_id", "prompt"))
    assert found["confidence"].is_between(0, 1).all()
    assert (found["margin"] >= 0).all()


def test_metrics_file_holds_what_the_report_says(run: Path, report: Report) -> None:
    assert pl.read_parquet(run / "report" / "metrics.parquet").equals(report.metrics)


def test_a_report_made_again_is_the_same(run: Path, report: Report, markdown: str) -> None:
    """Nothing in it is random or depends on what was there."""
    before = (run / "report" / "predictions.parquet").read_bytes()
    tables.write_report(run)
    assert (run / "report" / "predictions.parquet").read_bytes() == before
    assert (run / "report" / "report.md").read_text() == markdown


def test_blocks_of_items_give_the_same_report_as_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Memory holds a block of items; where the cuts fall changes nothing."""
    out = tables.write_run(tmp_path, 90, ("answer", "topic"), seed=8)
    whole = tables.write_report(out)
    monkeypatch.setattr("pipeline.reporting.predictions.BLOCK_ROWS", 100)
    cut = tables.write_report(out)
    exact = ["prompt", "rule", "num_correct", "ties", "truncated"]
    assert whole.summary.select(exact).equals(cut.summary.select(exact))
    assert whole.summary["brier"].to_list() == pytest.approx(cut.summary["brier"].to_list())
    assert whole.length.equals(cut.length)


def test_the_summary_comes_first_with_the_verdict_and_its_interval(report: Report, markdown: str) -> None:
    top = tables.summary_of(markdown)
    row = report.headline.sort("accuracy").row(1, named=True)
    assert row["prompt"] == "topic"
    accuracy, low, high = (100 * row[name] for name in ("accuracy", "low", "high"))
    assert f"{row['num_correct']} of 150 items under the rule 'sum' ({accuracy:.1f} %), " in top
    assert re.search(rf"`topic` +\| +{accuracy:.1f} % \| +{low:.1f} to {high:.1f} % \|", top)
    for fact in ("Data set: random, split test", "Items: 150", "2026-01-02 03:05"):
        assert fact in top
    for fact in ("1,000 parameters, float32 on cpu", "Run: "):
        assert fact not in top
        assert fact in markdown


def test_published_figures_stand_beside_the_measured(report: Report, markdown: str) -> None:
    measured = report.headline.filter(pl.col("prompt") == "topic")["accuracy"].item()
    assert f"Published before, and here under 'sum': 'topic' 68 %, measured here {100 * measured:.1f} %" in markdown


def test_what_is_published_for_ag_news_is_said_of_its_own_texts_alone(tmp_path: Path, markdown: str) -> None:
    """Other items with the names of its classes are another data set."""
    assert "AG News" not in markdown
    items = tables.make_items(40, np.random.default_rng(0))
    known = pl.when(pl.col("item_id") == 7).then(pl.lit(AG_NEWS_TEXTS[1])).otherwise("text_hash")
    tables.run_and_report(tmp_path, prompts=("answer",), items=items.with_columns(text_hash=known))
    text = (tmp_path / "report" / "report.md").read_text()
    assert "34-45 % uncalibrated" in text
    assert "60-68 % after contextual calibration" in text


def test_the_known_texts_are_ag_news() -> None:
    path = Path(os.environ.get("LABELSCORE_SHARED", ROOT.parent / "shared")) / "data" / "ag_news_test.parquet"
    if not path.exists():
        pytest.skip("the shared folder is not here")
    texts = pl.read_parquet(path)["text"]
    assert [hash_text(texts[1_000 * i]) for i in range(len(AG_NEWS_TEXTS))] == list(AG_NEWS_TEXTS)


def test_own_published_figures_are_not_called_the_notebooks(tmp_path: Path) -> None:
    """A user's figures for another data set stand beside the measured, without a word about AG News."""
    names = ("negative", "positive")
    published = {"answer": 0.91}
    tables.run_and_report(tmp_path, 30, ("answer",), words=names, label_names=names, published=published)
    text = (tmp_path / "report" / "report.md").read_text()
    assert "'answer' 91 %, measured here" in text
    assert "notebook's" not in text


def test_the_notebooks_four_figures_stand_beside_the_measured(tmp_path: Path) -> None:
    published = {"detailed": 0.32, "described": 0.22, "topic-science": 0.46, "topic": 0.68}
    tables.run_and_report(tmp_path, 50, tuple(published), published=published)
    text = (tmp_path / "report" / "report.md").read_text()
    for name, share in published.items():
        assert f"'{name}' {100 * share:.0f} %, measured here" in text


def test_shots_chat_template_and_cut_are_named_where_they_apply(tmp_path: Path, markdown: str) -> None:
    """The report says what the model read beside the bare template; an ordinary run has no such line."""
    config = {"num_shots": 4, "shots_split": "train", "seed": 0, "chat_template": True, "max_text_tokens": 1200}
    tables.run_and_report(tmp_path, 30, config=config)
    text = (tmp_path / "report" / "report.md").read_text()
    line = "Solved examples: 4, from train, seed 0; chat template: yes; texts cut at: 1,200 tokens."
    assert "- Texts cut at: 1,200 tokens\n" in tables.summary_of(text)
    assert line in text.partition("## How this was made")[2]
    assert "- Solved examples: 4, from train, seed 0\n" in tables.summary_of(text)
    assert "olved examples" not in markdown
    assert "hat template" not in markdown


def test_versions_templates_and_label_words_are_in_the_report(markdown: str) -> None:
    assert "Made with labelscore 0.1.0, torch 2.13.0+cpu, transformers 5.23.0." in markdown
    assert "`Article: {text}\\nTopic:`" in markdown
    assert re.search(r"Label words of topic:\n(?:\n\|.*)+\n\| Sports +\| `Sports`", markdown)


def test_median_margins_are_those_of_the_items(run: Path, report: Report) -> None:
    """To within a bin, signed by whether the prediction was right."""
    (prompt,) = (prompt for prompt in report.manifest.prompts if prompt.name == "answer")
    found = margins_by_class(report.margins.filter(pl.col("prompt") == "answer"))
    rows = load_run(run).predictions.filter(pl.col("prompt") == "answer", pl.col("rule") == "sum").collect()
    signed = pl.when("correct").then("margin").otherwise(-pl.col("margin"))
    expected = dict(rows.group_by("gold").agg(signed.median()).iter_rows())
    width = (
        report.margins.filter(pl.col("prompt") == "answer").select(pl.col("bin_high") - pl.col("bin_low")).item(0, 0)
    )
    assert found["gold"].to_list() == [label.name for label in prompt.labels]
    for gold, median in found.select("gold", "median").iter_rows():
        assert median == pytest.approx(expected[gold], abs=2 * width)


def test_a_rule_chosen_after_the_run_is_not_said_to_have_been_chosen_before_it(tmp_path: Path) -> None:
    """Only the rule that the run named leads without having been seen; what the report was asked for later may not."""
    out = tables.write_run(tmp_path, 60, config={"rule": "sum"})
    before, after = "because the run named it, before there were figures", "perhaps after its figures were seen"

    def written() -> str:
        return (out / "report" / "report.md").read_text()

    first = tables.write_report(out)
    assert before in written()
    tables.write_report(out, "pmi")
    assert before not in written()
    assert after in written()
    # Neither when the report's rule has become the manifest's own, nor when the next run names it.
    tables.change_manifest(out, headline_rule="pmi")
    tables.write_report(out, "pmi")
    assert before not in written()
    first.history_rows.write_parquet(out / "history.parquet")
    tables.change_manifest(out, run_id="next", config={"rule": "pmi"})
    tables.write_report(out, "pmi")
    assert before not in written()
    assert "earlier runs of this output were led by" in written()


def test_other_label_sets_are_not_held_against_ag_news(tmp_path: Path) -> None:
    names = ("negative", "positive")
    tables.run_and_report(tmp_path, 30, ("answer",), words=names, label_names=names)
    assert "AG News" not in (tmp_path / "report" / "report.md").read_text()


def test_the_demonstration_model_is_named_first(tmp_path: Path) -> None:
    report = tables.run_and_report(tmp_path, 30, ("answer",), demonstration=True)
    assert "demonstration model" in warnings(report)[0]
    assert "demonstration model" in tables.summary_of((tmp_path / "report" / "report.md").read_text())


def test_small_runs_say_how_wide_their_interval_is(tmp_path: Path) -> None:
    report = tables.run_and_report(tmp_path, 50, ("answer",))
    assert any(
        re.match(r"Few items: at n = 50 an accuracy is uncertain by up to 1[34] points", w) for w in warnings(report)
    )


def test_the_width_of_an_interval_is_that_of_its_longer_side(tmp_path: Path) -> None:
    """12 of 12 right may be 76 %: 24 points, not half of them."""
    out = tables.write_run(tmp_path, 12, ("answer",), signal=1_000.0)
    report = tables.write_report(out)
    assert report.headline["num_correct"].item() == 12
    assert "Few items: at n = 12 an accuracy is uncertain by up to 24 points." in warnings(report)


def test_label_words_that_the_model_never_says_are_warned_about_and_explained(tmp_path: Path) -> None:
    """Under 0.1 % of the probability for all label words together; the table has tokens, bytes and prior."""
    out = tables.write_run(tmp_path, 60, ("answer", "topic"), seed=1)
    path = out / "scores" / "scores.parquet"
    rarely = pl.when(pl.col("prompt") == "topic").then(pl.col("logprob") - 30).otherwise(pl.col("logprob") / 1e6 - 2)
    pl.read_parquet(path).with_columns(logprob=rarely.cast(pl.Float32)).write_parquet(path)
    report = tables.write_report(out)
    (line,) = (line for line in warnings(report) if "hardly any probability" in line)
    assert re.search(r"hardly any probability: 'topic' \S+e-\d+\s% together", line)
    text = (out / "report" / "report.md").read_text()
    assert re.search(r"\| label +\| label words +\| tokens \| bytes \| probability after no text", text)
    words = report.label_words.filter(pl.col("prompt") == "topic", pl.col("label") == "Sports").row(0, named=True)
    scores = pl.read_parquet(path).filter(pl.col("prompt") == "topic", pl.col("label") == "Sports")
    priors = pl.read_parquet(out / "priors.parquet").filter(pl.col("prompt") == "topic", pl.col("label") == "Sports")
    assert (words["num_tokens"], words["num_bytes"]) == scores.select("num_tokens", "num_bytes").row(0)
    prior = math.exp(priors.filter(pl.col("text") == "")["logprob"].item())
    assert words["prior"] == pytest.approx(prior)


def test_collapse_of_the_headline_is_a_warning_and_of_others_is_said_beside_them(tmp_path: Path) -> None:
    """All labels but one are hopeless under `logit` only: the warning belongs to the rules' section."""
    out = tables.write_run(tmp_path, 80, ("answer",), seed=2)
    path = out / "scores" / "scores.parquet"
    boost = pl.when(pl.col("label_id") == 1).then(900).otherwise(0).cast(pl.Float32)
    pl.read_parquet(path).with_columns(logit=pl.col("logit") + boost).write_parquet(path)
    tables.write_report(out)
    text = (out / "report" / "report.md").read_text()
    sentence = "'answer' under 'logit' has collapsed onto one label: it predicts 'Sports' for 100 %"
    assert sentence not in tables.summary_of(text)
    assert sentence in text
    assert any("collapsed onto one label" in line for line in warnings(tables.write_report(out, "logit")))


def test_labels_that_are_never_predicted_are_named(tmp_path: Path) -> None:
    """A prompt whose words for one class never win may look fine by accuracy alone."""
    out = tables.write_run(tmp_path, 80, ("answer",), seed=2)
    path = out / "scores" / "scores.parquet"
    hopeless = pl.when(pl.col("label_id") == 3).then(-500).otherwise(0).cast(pl.Float32)
    pl.read_parquet(path).with_columns(logprob=pl.col("logprob") + hopeless).write_parquet(path)
    assert any(
        re.match(r"'answer' never predicts 'Sci/Tech' \(\d\d\s% of", w) for w in warnings(tables.write_report(out))
    )


def test_texts_stay_text_in_markdown(run: Path, report: Report, markdown: str) -> None:
    """Texts hold tags, pipes, code marks, newlines and terminal colours; none of it may act."""
    assert "<script" not in markdown
    assert "\x1b" not in markdown
    assert "&lt;script&gt;" in markdown
    item = next(line for line in markdown.splitlines() if line.startswith("- item "))
    assert re.search(r"(?<!\\)[|`]", item.partition("gold")[2]) is None
    tags = set(re.findall(r"</?[a-zA-Z][^>]*>", markdown))
    assert tags == {"<details>", "</details>", "<summary>", "</summary>"}


def test_names_stay_text_too(tmp_path: Path) -> None:
    """A prompt or a label may be called anything; tables keep their shape."""
    names = ("a|b", "<b>bold</b>", "`code`\n# heading", "*stars*")
    tables.run_and_report(tmp_path, 60, ("p|q `r` <i>", "other"), words=names, label_names=names)
    text = (tmp_path / "report" / "report.md").read_text()
    assert "<b>" not in re.sub(r"`[^`\n]*`", "", text)  # inside code it is text
    assert "\n# heading" not in text
    for block in re.findall(r"(?:^\|.*\n)+", text, flags=re.MULTILINE):
        widths = {len(re.findall(r"(?<!\\)\|", line)) for line in block.splitlines()}
        assert len(widths) == 1


def test_confidently_wrong_items_are_wrong_and_the_surest_first(run: Path, report: Report) -> None:
    predictions, items = load_run(run).predictions.collect(), load_run(run).items.collect()
    for prompt in ("answer", "topic"):
        rows = predictions.filter(pl.col("prompt") == prompt, pl.col("rule") == "sum", ~pl.col("correct"))
        shown = report.wrong.filter(pl.col("prompt") == prompt)
        expected = rows.sort("margin", descending=True).head(shown.height)
        assert shown["margin"].to_list() == expected["margin"].to_list()
        texts = dict(items.select("item_id", "text").iter_rows())
        assert all(texts[i] == text for i, text in shown.select("item_id", "text").iter_rows())
        scores = load_run(run).scores.filter(pl.col("prompt") == prompt).sort("item_id", "label_id").collect()
        by_item = {i[0]: part["logprob"].to_list() for i, part in scores.group_by("item_id")}
        assert all(by_item[i] == list(found) for i, found in shown.select("item_id", "scores").iter_rows())


def test_without_gold_labels_there_are_predictions_and_histograms_only(tmp_path: Path) -> None:
    report = tables.run_and_report(tmp_path, 40, gold=False)
    assert not report.has_gold
    assert report.reliability.is_empty()
    assert report.coverage.is_empty()
    assert report.wrong.is_empty()
    assert set(report.metrics["metric"]) == {"ties", "truncated", "share", "label_mass"}
    text = (tmp_path / "report" / "report.md").read_text()
    assert "No item has a gold label" in text
    assert "What answer predicts:" in text
    assert "accuracy |" not in text


def test_items_without_gold_beside_others_are_left_out_of_the_figures(tmp_path: Path) -> None:
    out = tables.write_run(tmp_path, 60, ("answer",))
    path = out / "scores" / "scores.parquet"
    known = pl.when(pl.col("item_id") < 45).then("gold_id")
    pl.read_parquet(path).with_columns(gold_id=known).write_parquet(path)
    report = tables.write_report(out)
    assert report.summary["num_gold"].unique().to_list() == [45]
    assert report.summary["num_items"].unique().to_list() == [60]
    assert "15 without a gold label" in (out / "report" / "report.md").read_text()


def test_runs_without_priors_have_no_rules_that_need_them(tmp_path: Path) -> None:
    report = tables.run_and_report(tmp_path, 30, priors=False)
    assert report.rules == ("sum", "mean_token", "mean_char", "mean_byte", "logit", "batch")
    with pytest.raises(InputError, match="needs scores that this run did not store"):
        tables.write_report(tmp_path, "pmi")
    with pytest.raises(InputError, match="unknown rule 'best'"):
        tables.write_report(tmp_path, "best")


def test_the_chosen_rule_leads(tmp_path: Path) -> None:
    report = tables.write_report(tables.write_run(tmp_path, 60), "pmi")
    assert report.headline["rule"].unique().to_list() == ["pmi"]
    text = (tmp_path / "report" / "report.md").read_text()
    assert "Prompts under the rule 'pmi':" in text
    assert set(report.verdict.pairs["rule_a"]) == {"pmi"}


def test_one_item_makes_a_report(tmp_path: Path) -> None:
    report = tables.run_and_report(tmp_path, 1, ("answer", "topic"))
    assert report.summary["num_items"].unique().to_list() == [1]
    assert " nan " not in (tmp_path / "report" / "report.md").read_text()


def test_a_missing_or_repeated_label_is_an_error_not_a_figure(tmp_path: Path) -> None:
    out = tables.write_run(tmp_path, 30)
    path = out / "scores" / "scores.parquet"
    whole = pl.read_parquet(path)
    whole.filter(~((pl.col("item_id") == 7) & (pl.col("label_id") == 2))).write_parquet(path)
    with pytest.raises(RunError, match="item 7 has 3 label scores under prompt 'answer'"):
        tables.write_report(out)
    pl.concat([whole, whole.head(1)]).write_parquet(path)
    with pytest.raises(RunError, match="item 0 has 5 label scores"):
        tables.write_report(out)
    assert not (out / "report" / "predictions.parquet").exists()


def test_an_item_without_any_scores_is_an_error(tmp_path: Path) -> None:
    out = tables.write_run(tmp_path, 30)
    path = out / "scores" / "scores.parquet"
    pl.read_parquet(path).filter(pl.col("item_id") != 7).write_parquet(path)
    with pytest.raises(RunError, match=r"scores of 29 items under prompt 'answer', items\.parquet has 30 items"):
        tables.write_report(out)


def test_history_adds_this_run_once_and_counts_changed_predictions(tmp_path: Path) -> None:
    """The first run has nothing to compare with; the next counts what it changed; a report made again adds nothing."""
    out = tables.write_run(tmp_path, 60, seed=1)
    first = tables.write_report(out)
    assert first.history_rows["num_changed"].null_count() == first.history_rows.height
    first.history_rows.write_parquet(out / "history.parquet")
    assert tables.write_report(out).history.height == first.history_rows.height

    old = load_run(out).predictions.collect()
    path = out / "scores" / "scores.parquet"
    scores = pl.read_parquet(path)
    scores.with_columns(logprob=scores["logprob"].reverse()).write_parquet(path)
    tables.change_manifest(out, run_id="next-run", finished="2026-01-03T03:05:05+00:00")
    second = tables.write_report(out)
    new = load_run(out).predictions.collect()
    changed = (
        old.join(new, on=["item_id", "prompt", "rule"], suffix="_new")
        .group_by("prompt", "rule")
        .agg(n=(pl.col("predicted") != pl.col("predicted_new")).sum())
    )
    expected = {(p, r): n for p, r, n in changed.iter_rows()}
    assert {
        (p, r): n for p, r, n in second.history_rows.select("prompt", "rule", "num_changed").iter_rows()
    } == expected
    assert second.history["run_id"].unique(maintain_order=True).to_list() == ["random-run", "next-run"]
    assert "## Past runs" in (out / "report" / "report.md").read_text()


def test_past_runs_are_shown_under_one_rule(tmp_path: Path) -> None:
    """A run led by another rule keeps its place on the line, with its accuracy under the rule that leads now."""
    out = tables.write_run(tmp_path, 60, seed=1)
    first = tables.write_report(out)
    first.history_rows.write_parquet(out / "history.parquet")
    tables.change_manifest(out, run_id="next", finished="2026-01-03T03:05:05+00:00")
    second = tables.write_report(out, "logit")
    section = past_runs(second)
    assert section is not None
    (table,) = (block for block in section.blocks if isinstance(block, Table))
    assert {row[2] for row in table.rows} == {"logit"}
    shown = [row[4] for row in table.rows]
    assert shown[:2] == shown[2:]
    past = (out / "report" / "report.md").read_text().partition("## Past runs")[2].partition("## ")[0]
    assert past.count("`logit`") == 4
    assert "`sum`" not in past
    assert "counts the distinct texts that a run shares with the run before" in past
