"""The verdict in words: what it calls best, worse and open, and what it does not promise."""

import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import polars as pl
import pytest

from pipeline.reporting.families import assumptions
from pipeline.reporting.figures import accuracy_figure, rule_figures
from pipeline.reporting.findings import find
from pipeline.reporting.report import Report
from pipeline.reporting.sections import make_document
from pipeline.storing.files import Output
from pipeline.storing.manifest import need_manifest
from tests.pipeline.reporting import tables
from tests.pipeline.reporting.choices import write_run as write_choices

MINUS = "\N{MINUS SIGN}"
NUMBER = r"[\d,]+"


def report_of(
    out: Path, rights: dict[str, float], num_items: int = 400, seed: int = 0, gap: float | None = None
) -> Report:
    """A report of prompts that get these shares right, whichever items these are."""
    out = tables.write_run(out, num_items, tuple(rights), seed=seed)
    rng = np.random.default_rng(seed)
    path = out / "scores" / "scores.parquet"
    scores = pl.read_parquet(path)
    right = {prompt: rng.random(num_items) < share for prompt, share in rights.items()}
    keys = [(prompt, i, bool(right[prompt][i])) for prompt in rights for i in range(num_items)]
    known = pl.DataFrame(keys, {"prompt": pl.String, "item_id": pl.Int64, "right": pl.Boolean}, orient="row")
    wanted = pl.when("right").then("gold_id").otherwise((pl.col("gold_id") + 1) % 4)
    logprob = pl.when(pl.col("label_id") == wanted).then(-1.0).otherwise(-9.0).cast(pl.Float32)
    scores = scores.join(known, on=["prompt", "item_id"], maintain_order="left").with_columns(logprob=logprob)
    scores.drop("right").write_parquet(path)
    return tables.write_report(out, gap=gap)


def lines_of(report: Report) -> list[str]:
    findings = find(report)
    assert findings is not None
    return findings.lines


def test_a_clear_winner_is_named_with_what_it_is_ahead_by(tmp_path: Path) -> None:
    first, *rest = lines_of(report_of(tmp_path, {"a": 0.5, "b": 0.9, "c": 0.6}))
    assert first.startswith("'b' is the best of 3 prompts: ")
    assert re.search(r": \d+ of 400 items under the rule 'sum' \(\d+\.\d.%\), \d", first)
    assert re.search(r"points more \(.*\) than always answering '.*' \(\d+\.\d", first)
    assert re.match(r"Worse than 'b': 'c' by [\d.]+ points \([\d.]+ to [\d.]+\); 'a' by ", rest[0])


def test_prompts_that_do_not_differ_are_not_told_apart_and_no_number_is_promised(tmp_path: Path) -> None:
    """Instead: how far apart they can be, and what gap so many items show."""
    report = report_of(tmp_path, {"a": 0.7, "b": 0.7, "c": 0.7}, seed=3)
    first, *rest = lines_of(report)
    assert first.startswith("No prompt of 3 can be called the best: ")
    text = " ".join(rest)
    assert "Cannot be told from " in rest[0]
    assert "Worse" not in rest[0]
    widest = max(max(-row["low"], row["high"]) for row in report.verdict.prompts[1:].iter_rows(named=True))
    assert f"With 95 % confidence these gaps are at most {100 * widest:.1f} points" in text
    assert re.search(r"These 400 items would show a gap of [\d.]+ points or more to '.' 8 times in 10", text)
    assert not re.search(rf"{NUMBER} (more )?items would settle|would be shown", text)


def test_some_may_be_the_best_and_some_are_worse(tmp_path: Path) -> None:
    first, *rest = lines_of(report_of(tmp_path, {"a": 0.8, "b": 0.8, "c": 0.3}))
    assert first.startswith("2 of 3 prompts may be the best: ")
    assert rest[0].startswith("Cannot be told from '")
    assert rest[1].startswith("Worse than '")


def test_prompts_that_say_the_same_are_said_to(tmp_path: Path) -> None:
    first, *rest = lines_of(report_of(tmp_path, {"a": 1.0, "b": 1.0}))
    assert first.startswith("No prompt of 2 can be called the best: ")
    assert "'a' is highest, level with 1 other, with 400 of 400 items" in first
    assert rest[0] == "Right on the very same items as 'a': 'b'."


def test_a_number_of_items_is_named_for_a_gap_that_the_reader_states(tmp_path: Path) -> None:
    """Connor's number at the level of the family; with fewer items than that the price of looking again is said."""
    few = report_of(tmp_path / "few", {"a": 0.7, "b": 0.7}, seed=3, gap=2)
    (line,) = (line for line in lines_of(few) if line.startswith("A gap of 2.0 points"))
    found = re.search(rf"8 times in 10 by about ({NUMBER}) items", line)
    assert found
    assert int(found[1].replace(",", "")) > 4_000
    assert "each further look at growing data is another chance to find a gap that is not there" in line
    many = report_of(tmp_path / "many", {"a": 0.7, "b": 0.7}, seed=3, gap=20)
    (line,) = (line for line in lines_of(many) if line.startswith("A gap of 20.0 points"))
    assert "look" not in line


@pytest.mark.parametrize(
    "rights", [{"a": 0.7, "b": 0.7}, {"a": 0.9, "b": 0.8, "c": 0.2}, {"a": 0.95, "b": 0.1, "c": 0.5}, {"a": 1, "b": 1}]
)
def test_the_gap_that_items_show_and_the_items_that_show_a_gap_agree(tmp_path: Path, rights: dict[str, float]) -> None:
    """The gap that the report says these items would show takes as many items as there are, and no sentence more."""
    report = report_of(tmp_path, rights)
    (sight,) = (line for line in lines_of(report) if "would show a gap of" in line)
    shown = re.search(r"would show a gap of ([\d.]+) points", sight)
    assert shown
    for more, is_enough in ((0.1, True), (-0.2, False)):
        gap = round(float(shown[1]) + more, 1)
        (line,) = (each for each in lines_of(replace(report, gap=gap / 100)) if each.startswith("A gap of "))
        assert ("Settle on a number" not in line) == is_enough
    (line,) = (each for each in lines_of(replace(report, gap=0.6)) if each.startswith("A gap of "))
    is_seen = "the disagreement seen here (" in line
    assert is_seen != ("the least disagreement that such a gap takes (60.0" in line)


def test_earlier_looks_at_other_items_are_said(tmp_path: Path) -> None:
    report = report_of(tmp_path, {"a": 0.7, "b": 0.7})
    assert not any("looked at" in line for line in lines_of(report))
    earlier = [
        report.history_rows.with_columns(
            run_id=pl.lit(name), num_gold=pl.lit(n, pl.Int64), num_correct=pl.lit(n // 2, pl.Int64)
        )
        for name, n in (("one", 50), ("two", 100), ("same", 400))
    ]
    pl.concat(earlier).write_parquet(tmp_path / "history.parquet")
    again = tables.write_report(tmp_path)
    (line,) = (line for line in lines_of(again) if "looked at" in line)
    assert "This output was looked at 2 times before with other items: the 95 % are for one look" in line


def test_a_gap_is_not_passed_over_where_nothing_is_compared(tmp_path: Path) -> None:
    assert any("'labelscore compare --gap'" in line for line in lines_of(report_of(tmp_path, {"a": 0.7}, gap=2)))


def test_one_prompt_is_held_against_the_commonest_class(tmp_path: Path) -> None:
    first, *_ = lines_of(report_of(tmp_path, {"a": 0.9}))
    assert re.match(r"\d\d\.\d.% right: with the prompt 'a' \d+ of 400 items ", first)
    assert "than always answering '" in first


def test_a_prompt_that_is_no_better_than_one_answer_for_all_is_said_to_be(tmp_path: Path) -> None:
    """And one that is worse, too."""
    out = report_of(tmp_path / "chance", {"a": 0.27}, seed=1)
    assert "which cannot be told from always answering '" in lines_of(out)[0]
    out = report_of(tmp_path / "bad", {"a": 0.02}, seed=1)
    assert re.search(r"points less \(.*\) than always answering '", lines_of(out)[0])


def test_charts_draw_the_baseline_that_the_verdict_names(tmp_path: Path) -> None:
    """The commonest class and not one of K: two baselines in one report would let a reader take the lower."""
    report = report_of(tmp_path, {"a": 0.7, "b": 0.6})
    (row, *_) = report.verdict.baselines.iter_rows(named=True)
    assert row["share"] > 0.26
    for figure in (accuracy_figure(report), *rule_figures(report)):
        assert f"dashed: always answering '{row['answer']}'." in figure.legend
        assert [{"chance": pytest.approx(row["share"])}] in figure.spec["datasets"].values()


def test_choices_are_held_against_guessing(tmp_path: Path) -> None:
    first, *_ = lines_of(tables.write_report(write_choices(tmp_path)))
    assert "guessing among the choices (" in first


def test_rules_are_ranked_by_the_same_standard(tmp_path: Path) -> None:
    """The line on rules names the highest arm, those that may be as good, and the headline rule where it is worse."""
    out = tables.write_run(tmp_path, 300, ("answer", "topic"), seed=2)
    path = out / "scores" / "scores.parquet"
    spoiled = pl.when(pl.col("label_id") == 2).then(pl.col("logprob") + 300).otherwise("logprob").cast(pl.Float32)
    pl.read_parquet(path).with_columns(logprob=spoiled).write_parquet(path)
    report = tables.write_report(out)
    best = report.verdict.arms.row(0, named=True)
    assert best["rule"] not in ("sum", "notebook")
    (line,) = (line for line in lines_of(report) if line.startswith("Of all prompts under all rules ("))
    assert f"'{best['prompt']}' with '{best['rule']}' is highest: {100 * best['accuracy']:.1f}" in line
    assert re.search(r"Worse than it: '.*' with 'sum' by [\d.]+ points", line)
    assert "flattered" in lines_of(report)[-1]


def test_rules_that_say_the_same_as_the_highest_are_neither_told_from_it_nor_worse(tmp_path: Path) -> None:
    """Their other prompts are not their best, and must not be shown as if they were."""
    report = report_of(tmp_path, {"weak": 0.4, "strong": 0.9})
    assert report.verdict.arms.row(0)[:2] == ("strong", "sum")
    same = report.verdict.arms.filter(pl.col("standing") == "same")["rule"].to_list()
    assert len(same) >= 3
    (line,) = (line for line in lines_of(report) if line.startswith("Of all prompts under all rules ("))
    assert f" is highest, too. Right on the very same items: 'strong' with '{same[0]}', " in line
    assert not any(f"'weak' with '{rule}'" in line for rule in same)


def test_a_rule_that_is_no_candidate_is_named_wherever_all_are_spoken_of(tmp_path: Path) -> None:
    """The notebook's mistake may have the highest figure, and is not called so; unless it leads the report."""
    report = tables.run_and_report(tmp_path, 200, notebook=True)
    markdown = (tmp_path / "report" / "report.md").read_text()
    assert any(line.startswith("Of all prompts under all rules but 'notebook' (") for line in lines_of(report))
    assert "All rules but 'notebook' are held to the standard of the prompts" in markdown
    assert "Every prompt under every rule but 'notebook', against the highest:" in markdown
    asked_for = tables.write_report(tmp_path, "notebook")
    assert not any("but 'notebook'" in line for line in lines_of(asked_for))


def test_of_equal_arms_that_leads_which_leads_the_report(tmp_path: Path) -> None:
    """The sentence on rules must not name another one as the highest where the leader gets as many items right."""
    report = report_of(tmp_path, {"a": 1.0, "b": 1.0}, num_items=40)
    for rule in ("sum", "mean_token", "mean_char"):
        report = tables.write_report(tmp_path, rule)
        (line,) = (line for line in lines_of(report) if line.startswith("Of all prompts under all rules ("))
        assert f"'a' with '{rule}' is highest, too." in line
        assert report.verdict.arms.row(0)[:2] == ("a", rule)


def test_the_verdict_is_the_first_thing_that_a_report_says(tmp_path: Path) -> None:
    """In report.md, on the page and in summary.md; the prompts stand in the order of their accuracy."""
    report = report_of(tmp_path, {"a": 0.5, "b": 0.9, "c": 0.6})
    markdown = (tmp_path / "report" / "report.md").read_text()
    assert markdown.split("\n\n")[2].startswith("**'b' is the best of 3 prompts**")
    assert (
        (tmp_path / "report" / "summary.md").read_text().split("\n\n")[1].startswith("**'b' is the best of 3 prompts**")
    )
    assert "<strong>&#39;b&#39; is the best of 3 prompts</strong>" in (tmp_path / "report" / "report.html").read_text()
    table = markdown.partition("Prompts under the rule 'sum':")[2].partition("\n\n\n")[0]
    assert re.findall(r"\| `(.)` ", table)[:3] == ["b", "c", "a"]
    summary = make_document(report).sections[0]
    assert summary.title == "Summary"


def test_no_interval_that_excludes_zero_prints_a_zero(tmp_path: Path) -> None:
    """The end next to 0 gets as many decimals as show on which side it is."""
    report = report_of(tmp_path, {"a": 0.5, "b": 0.9, "c": 0.6})
    for line in lines_of(report):
        if line.startswith("Worse"):
            assert not re.search(rf"\((0\.0|{MINUS})", line)


@pytest.mark.parametrize("num_prompts", [2, 20])
def test_twenty_prompts_are_groups_and_not_pairs(tmp_path: Path, num_prompts: int) -> None:
    """190 pairs gave 37 sentences; now it is as many lines as for two prompts, and report.md is short."""
    shares = {f"prompt {i:02}": 0.4 + 0.02 * i for i in range(num_prompts)}
    report = report_of(tmp_path, shares)
    assert report.verdict.pairs.height == num_prompts * (num_prompts - 1) // 2
    assert len(lines_of(report)) <= 6
    assert len((tmp_path / "report" / "report.md").read_bytes()) < 60_000
    assert len((tmp_path / "report" / "summary.md").read_bytes()) <= 6_000


def test_a_long_history_does_not_grow_a_report(tmp_path: Path) -> None:
    """Sixty nightly runs of twenty prompts: report.md has the last ones, the page all."""
    report = report_of(tmp_path, {f"prompt {i:02}": 0.4 + 0.02 * i for i in range(20)})
    day, rows = pl.duration(days=1), report.history_rows
    past = [
        rows.with_columns(run_id=pl.lit(f"run {i}"), finished=pl.col("finished") - (60 - i) * day) for i in range(60)
    ]
    pl.concat(past).write_parquet(tmp_path / "history.parquet")
    tables.write_report(tmp_path)
    markdown = (tmp_path / "report" / "report.md").read_text()
    assert len(markdown.encode()) < 60_000
    assert "The last 2 runs of this output:" in markdown
    assert "All 60 runs: 1,200 rows" in markdown


@pytest.mark.parametrize("num_pairs", [1, 190, 999, 1_000, 20_000])
def test_the_level_of_many_intervals_is_not_100_percent(num_pairs: int) -> None:
    found = re.search(r"each at ([\d.]+).%", assumptions(num_pairs, repeats=False).text)
    assert found
    assert float(found[1]) == pytest.approx(100 - 5 / num_pairs, rel=1e-9, abs=0.05 / num_pairs * 10)
    assert float(found[1]) < 100


def test_long_templates_do_not_grow_a_report(tmp_path: Path) -> None:
    """Twenty of a thousand characters: the page has them, and the manifest; short ones stand in report.md, too."""
    out = tables.write_run(tmp_path, 100, tuple(f"prompt {i:02}" for i in range(20)))
    facts = need_manifest(Output(out)).model_dump(mode="json")
    for n, has_them in ((1_000, False), (100, True)):
        prompts = [record | {"template": "x" * n + "{text}"} for record in facts["prompts"]]
        tables.change_manifest(out, prompts=prompts)
        tables.write_report(out)
        markdown, page = ((out / "report" / f"report.{kind}").read_text() for kind in ("md", "html"))
        assert len(markdown.encode()) < 60_000
        assert ("x" * n in markdown) == has_them
        assert "x" * n in page


def test_so_few_items_that_nothing_can_be_told_are_said_to_be(tmp_path: Path) -> None:
    """With 190 pairs and 10 items not even all against none is established."""
    report = report_of(tmp_path, {f"prompt {i}": 0.5 for i in range(20)}, num_items=10)
    assert any("So few items (10) can show no gap between prompts" in line for line in lines_of(report))
