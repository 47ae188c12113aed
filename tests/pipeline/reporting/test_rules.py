"""Rules against a slow oracle in plain Python, and the identities that hold between them."""

import math
from typing import Any, get_args

import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.config import Rule
from pipeline.reporting.rules import (
    CAUTIONS,
    FORMULAS,
    RULES,
    decide,
    label_constants,
    log_sum_exp,
    score_items,
    with_inputs,
    with_log_q,
)
from pipeline.storing.dictionary import PREDICTIONS
from tests.conftest import README
from tests.pipeline.reporting import tables

PROMPT = "p"


def constants_of(scores: pl.DataFrame, priors: pl.DataFrame) -> pl.DataFrame:
    labels = scores.select("prompt", "label_id").unique()
    means = (
        with_log_q(scores.lazy())
        .group_by("prompt", "label_id")
        .agg(log_batch=log_sum_exp(pl.col("log_q")) - pl.len().cast(pl.Float64).log())
        .collect()
    )
    return label_constants(labels, priors).join(means, on=["prompt", "label_id"])


def predict(scores: pl.DataFrame, priors: pl.DataFrame, rules: tuple[str, ...]) -> dict[str, pl.DataFrame]:
    items = score_items(with_inputs(scores.lazy(), constants_of(scores, priors)), rules).collect()
    return {rule: decide(items, rule) for rule in rules}


def softmax(values: list[float]) -> list[float]:
    top = max(values)
    shares = [math.exp(v - top) for v in values]
    return [s / sum(shares) for s in shares]


def slow_scores(
    item: list[dict[str, Any]], rule: str, all_items: list[list[dict[str, Any]]], priors: pl.DataFrame
) -> list[float]:
    """The rule's score of each label of one item, written as design.md says it."""
    logprob = [row["logprob"] for row in item]
    q = softmax(logprob)

    def prior(text: str) -> list[float]:
        return priors.filter(pl.col("text") == text).sort("label_id")["logprob"].to_list()

    if rule == "sum":
        return logprob
    if rule == "mean_token":
        return [row["logprob"] / row["num_tokens"] for row in item]
    if rule in ("mean_char", "mean_byte"):
        choices = [row["label_words"].removeprefix(" ") for row in item]
        sizes = [len(choice if rule == "mean_char" else choice.encode()) for choice in choices]
        return [lp / size for lp, size in zip(logprob, sizes, strict=True)]
    if rule == "logit":
        return [row["logit"] for row in item]
    if rule == "notebook":
        return [row["notebook_logit"] for row in item]
    if rule == "pmi":
        return [a - b for a, b in zip(logprob, prior(""), strict=True)]
    if rule == "contextual":
        means = [float(np.mean(np.exp(lps))) for lps in zip(*(prior(t) for t in tables.CONTENT_FREE), strict=True)]
        return [math.log(a) - math.log(b / sum(means)) for a, b in zip(q, means, strict=True)]
    mean_q = np.mean([softmax([row["logprob"] for row in other]) for other in all_items], axis=0)
    return [math.log(a) - math.log(b) for a, b in zip(q, mean_q, strict=True)]


@pytest.mark.parametrize("rule", RULES)
def test_each_rule_agrees_with_its_formula_in_plain_python(rule: str) -> None:
    """Prediction, confidence, margin, tie and Brier score of every item, one at a time and without Polars."""
    rng = np.random.default_rng(3)
    words = (" Welt", " Spörts", "Bücher ", " 科学")  # characters, bytes and the leading blank all tell
    scores = tables.make_scores(tables.make_items(60, rng), PROMPT, rng, words=words, notebook=True)
    priors = tables.make_priors(PROMPT, rng)
    fast = predict(scores, priors, (rule,))[rule]
    items = [part.sort("label_id").to_dicts() for part in scores.partition_by("item_id", maintain_order=True)]
    for item, row in zip(items, fast.iter_rows(named=True), strict=True):
        slow = slow_scores(item, rule, items, priors)
        shares = softmax(slow)
        winner = slow.index(max(slow))
        assert row["predicted_id"] == winner
        assert row["correct"] == (winner == item[0]["gold_id"])
        assert row["confidence"] == pytest.approx(max(shares))
        assert row["margin"] == pytest.approx(max(slow) - sorted(slow)[-2])
        assert row["tie"] == (slow.count(max(slow)) > 1)
        truth = [float(i == item[0]["gold_id"]) for i in range(len(slow))]
        assert row["brier"] == pytest.approx(sum((s - t) ** 2 for s, t in zip(shares, truth, strict=True)))


def small_run(seed: int, num_tokens: list[int] | None = None) -> tuple[pl.DataFrame, pl.DataFrame]:
    rng = np.random.default_rng(seed)
    scores = tables.make_scores(tables.make_items(40, rng), PROMPT, rng, num_tokens=num_tokens)
    return scores, tables.make_priors(PROMPT, rng, num_tokens=num_tokens)


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 10_000))
def test_with_one_token_labels_sum_mean_token_and_logit_agree(seed: int) -> None:
    """One token: its logit is its logprob plus the item's normaliser, which is the same for all labels."""
    scores, priors = small_run(seed, [1, 1, 1, 1])
    # Whole numbers, so that float32 holds logprob + normaliser exactly and ties stay ties.
    whole = pl.col("logprob").round()
    scores = scores.with_columns(logprob=whole, logit=whole + 7 + pl.col("item_id").cast(pl.Float32))
    found = predict(scores, priors, ("sum", "mean_token", "logit"))
    assert found["sum"]["predicted_id"].equals(found["mean_token"]["predicted_id"])
    assert found["sum"]["predicted_id"].equals(found["logit"]["predicted_id"])
    assert found["sum"]["tie"].equals(found["logit"]["tie"])


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 10_000))
def test_priors_without_preference_change_nothing(seed: int) -> None:
    """If every label has the same prior, pmi and contextual predict as sum, with the same confidence."""
    scores, priors = small_run(seed)
    found = predict(scores, priors.with_columns(logprob=pl.lit(-5.0, pl.Float32)), ("sum", "pmi", "contextual"))
    for rule in ("pmi", "contextual"):
        assert found["sum"]["predicted_id"].equals(found[rule]["predicted_id"])
        np.testing.assert_allclose(found["sum"]["confidence"], found[rule]["confidence"], rtol=1e-9)


def test_equal_lengths_make_the_means_agree_with_the_sum() -> None:
    """Dividing all labels' scores by one number keeps their order."""
    scores, priors = small_run(5, [2, 2, 2, 2])
    scores = scores.with_columns(norm_chars=pl.lit(7, pl.Int32), norm_bytes=pl.lit(9, pl.Int32))
    found = predict(scores, priors, ("sum", "mean_token", "mean_char", "mean_byte"))
    for rule in ("mean_token", "mean_char", "mean_byte"):
        assert found["sum"]["predicted_id"].equals(found[rule]["predicted_id"])


def test_batch_is_blind_to_a_constant_bias() -> None:
    """Adding a bias to one label's q everywhere is what batch divides out, up to the softmax's normaliser."""
    scores, priors = small_run(6)
    same = scores.with_columns(logprob=pl.lit(-1.0, pl.Float32))
    found = predict(same, priors, ("batch",))["batch"]
    assert found["tie"].all()
    assert (found["predicted_id"] == 0).all()


def test_ties_go_to_the_lowest_label_id_whatever_the_order_of_rows() -> None:
    """Three labels share the highest score: the lowest id of the three wins and the item is counted as a tie."""
    rng = np.random.default_rng(0)
    scores = tables.make_scores(tables.make_items(30, rng), PROMPT, rng)
    tied = pl.when(pl.col("label_id") == 0).then(-9.0).otherwise(-2.0).cast(pl.Float32)
    shuffled = scores.with_columns(logprob=tied).sample(fraction=1.0, shuffle=True, seed=1)
    found = predict(shuffled, tables.make_priors(PROMPT, rng), ("sum",))["sum"]
    assert found["predicted_id"].unique().to_list() == [1]
    assert found["tie"].all()
    assert found["margin"].to_list() == [0.0] * 30


def test_scores_of_long_labels_do_not_underflow() -> None:
    """exp(-2000) is zero in floating point; calibration works on logs."""
    scores, priors = small_run(7)
    far = pl.col("logprob") - 2000
    found = predict(scores.with_columns(logprob=far), priors.with_columns(logprob=far), ("contextual", "batch", "pmi"))
    for decisions in found.values():
        assert decisions["confidence"].is_finite().all()
        assert decisions["margin"].is_finite().all()


def test_items_without_gold_have_predictions_and_no_verdict() -> None:
    rng = np.random.default_rng(0)
    scores = tables.make_scores(tables.make_items(20, rng, gold=False), PROMPT, rng)
    found = predict(scores, tables.make_priors(PROMPT, rng), ("sum",))["sum"]
    assert found["predicted_id"].null_count() == 0
    assert found["correct"].null_count() == found["brier"].null_count() == 20


def test_rules_say_their_formula_and_the_traps_say_so() -> None:
    """Each rule has one; batch names the test items, the raw logits their bias."""
    assert list(FORMULAS) == list(RULES)
    assert "unlabelled test items" in CAUTIONS["batch"]
    assert "raw logits" in CAUTIONS["logit"]
    assert "raw logits" in CAUTIONS["notebook"]


@pytest.mark.parametrize("rule", RULES)
def test_a_rule_is_named_wherever_rules_are_listed(rule: str) -> None:
    """By the README's table, by the data dictionary, and by the configuration."""
    assert f"`{rule}`" in README.partition("\n### Rules")[2].partition("\n## ")[0]
    said = next(column[2] for column in PREDICTIONS if column[0] == "rule")
    assert f"`{rule}`" in said
    assert rule in get_args(Rule)
