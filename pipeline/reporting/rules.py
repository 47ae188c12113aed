"""Rules: how the label scores of one item become a prediction, as Polars expressions over the score table.

Invariant: a rule is a row-wise expression over the stored columns and the four inputs that `with_inputs` adds, so a
prediction can be remade from the published tables at any time, without the model.
"""

from collections.abc import Sequence

import polars as pl

EMPTY_TEXT = ""
CONTENT_FREE_TEXTS = (EMPTY_TEXT, "N/A", "[MASK]")  # of Zhao et al. 2021

# The inputs beside the stored columns: `log_q`, and these, which are one number per (prompt, label).
CONSTANTS = ("log_prior", "log_cf", "log_batch")

# The rules that divide by what `norm_sizes` says of the words; older tables of predictions lack the first.
NORM_RULES = ("mean_char", "mean_byte")


def _column(name: str) -> pl.Expr:
    return pl.col(name).cast(pl.Float64)  # the table holds float32; differences of long sums need more


def log_sum_exp(values: pl.Expr) -> pl.Expr:
    """log of the sum of exp(values) over the rows of a group, shifted by the maximum so that nothing underflows."""
    return values.max() + (values - values.max()).exp().sum().log()


# A label's score under each rule, from the columns that `with_inputs` gives.
RULES: dict[str, pl.Expr] = {
    "sum": _column("logprob"),
    "mean_token": _column("logprob") / pl.col("num_tokens"),
    "mean_char": _column("logprob") / pl.col("norm_chars"),
    "mean_byte": _column("logprob") / pl.col("norm_bytes"),
    "logit": _column("logit"),
    "notebook": _column("notebook_logit"),
    "pmi": _column("logprob") - pl.col("log_prior"),
    "contextual": pl.col("log_q") - pl.col("log_cf"),
    "batch": pl.col("log_q") - pl.col("log_batch"),
}

# The same for a reader, with its source.
FORMULAS = {
    "sum": "logprob, the log-likelihood of the label words after the prompt (Brown et al. 2020, section 2.4).",
    "mean_token": "logprob / num_tokens (Brown et al. 2020, section 2.4: normalised for length).",
    "mean_char": "logprob / norm_chars, the characters of the words without one leading blank (lm-evaluation-harness "
    "'acc_norm': the same under any tokenizer).",
    "mean_byte": "logprob / norm_bytes, the same in UTF-8 bytes (lm-evaluation-harness 'acc_bytes').",
    "logit": "sum of the raw logits of the label's tokens, without the softmax's normaliser (what notebooks do).",
    "notebook": "logits at the label tokens' own positions, in reverse order; a mistake, kept to reproduce figures.",
    "pmi": "logprob - logprob of the same label after the empty text (Holtzman et al. 2021, PMI_DC).",
    "contextual": 'log q - log p_cf (Zhao et al. 2021, "Calibrate before use").',
    "batch": 'log q - log of the mean of q over the run\'s items (after Zhou et al. 2023, "Batch calibration").',
}

# What a reader must know where a rule's figures are shown.
CAUTIONS: dict[str, str] = {
    "logit": (
        "sums raw logits, so labels with few tokens or with many are favoured by the sign of the model's logits; "
        "it can collapse onto one class where 'sum' works"
    ),
    "notebook": (
        "reads logits that predict the next token, in reverse order: a mistake, kept so that its figures can be "
        "reproduced; being a sum of raw logits it also favours labels by their number of tokens"
    ),
    "batch": "looks at the unlabelled test items: a prediction depends on the other items of the run",
}


def label_constants(labels: pl.DataFrame, priors: pl.DataFrame | None) -> pl.DataFrame:
    """`labels` (prompt, label_id, ...) with `log_prior` and `log_cf` from the scores of the content-free texts.

    Without `priors` both are null.
    """
    if priors is None:
        return labels.with_columns(log_prior=pl.lit(None, pl.Float64), log_cf=pl.lit(None, pl.Float64))
    logprob = _column("logprob")
    by_label = priors.group_by("prompt", "label_id").agg(
        log_prior=logprob.filter(pl.col("text") == EMPTY_TEXT).first(),
        log_cf=log_sum_exp(logprob) - logprob.len().cast(pl.Float64).log(),
    )
    normalised = pl.col("log_cf") - log_sum_exp(pl.col("log_cf")).over("prompt")
    return labels.join(by_label, on=["prompt", "label_id"], how="left").with_columns(log_cf=normalised)


def with_log_q(scores: pl.LazyFrame) -> pl.LazyFrame:
    """The scores of one prompt with `log_q`, the log of the softmax over labels of logprob within each item.

    The maximum first, in a step of its own: one expression for both takes ten times as long.
    """
    shifted = pl.col("log_q")
    return scores.with_columns(log_q=_column("logprob") - _column("logprob").max().over("item_id")).with_columns(
        log_q=shifted - shifted.exp().sum().over("item_id").log()
    )


def with_inputs(scores: pl.LazyFrame, constants: pl.DataFrame) -> pl.LazyFrame:
    """The scores of one prompt with `log_q` and the columns CONSTANTS, ready for any rule.

    `constants`: label_id, log_prior, log_cf, log_batch of that prompt; without any only the rules that ask for none are
    left. Items must be whole: all labels or none.
    """
    if constants.is_empty():
        return scores
    ids = constants["label_id"].to_list()
    return with_log_q(scores).with_columns(
        pl.col("label_id").replace_strict(ids, constants[name].to_list(), return_dtype=pl.Float64).alias(name)
        for name in CONSTANTS
    )


def score_items(scores: pl.LazyFrame, rules: Sequence[str]) -> pl.LazyFrame:
    """One row per item of one prompt: its facts, and for each rule what `decide` makes its decision from.

    Takes the result of `with_inputs`, in any order of rows; an item has the labels that it has rows of. Of each rule:
    `top`, the highest score; `winner`, the lowest label id that has it; `num_top`, how many have it; `next`, the
    highest score below it; and with share = exp(score - top) the sums `total` of shares and `squares` of squared ones,
    and `gold_share`, that of the gold label.

    Every step is a plain column or a plain sum: in one expression within the groups it takes ten times as long.
    """
    is_gold = pl.col("label_id") == pl.col("gold_id")
    rows = scores.with_columns(RULES[rule].alias(rule) for rule in rules)
    rows = rows.with_columns(pl.col(rule).max().over("item_id").alias(f"top:{rule}") for rule in rules)
    rows = rows.with_columns((pl.col(rule) - pl.col(f"top:{rule}")).exp().alias(f"share:{rule}") for rule in rules)
    parts = []
    for rule in rules:
        score, top, share = pl.col(rule), pl.col(f"top:{rule}"), pl.col(f"share:{rule}")
        rows = rows.with_columns(
            pl.when(score == top).then("label_id").alias(f"winner:{rule}"),
            pl.when(score < top).then(score).alias(f"next:{rule}"),
            pl.when(is_gold).then(share).alias(f"gold_share:{rule}"),
            share.pow(2).alias(f"squares:{rule}"),
        )
        parts += [
            top.first(),
            pl.col(f"winner:{rule}").min(),
            pl.col(f"winner:{rule}").count().alias(f"num_top:{rule}"),
            pl.col(f"next:{rule}").max(),
            share.sum().alias(f"total:{rule}"),
            pl.col(f"squares:{rule}").sum(),
            pl.col(f"gold_share:{rule}").max(),
        ]
    facts = [
        pl.col("text_hash", "gold_id").first(),
        pl.col("truncated").any(),
        pl.col("prompt_tokens").min(),
        pl.col("logprob").cast(pl.Float64).exp().sum().alias("label_mass"),
    ]
    return rows.group_by("item_id").agg(*facts, *parts).sort("item_id")


def decide(items: pl.DataFrame, rule: str) -> pl.DataFrame:
    """One row per item of `score_items`: predicted_id, confidence, margin, tie and its Brier score under one rule.

    The highest score wins; equal highest scores are a tie, which goes to the lowest label id. Confidence is the
    winner's softmax over the item's labels of the rule's scores, margin the distance to the second score in the rule's
    units, null where the item has one label only. Brier (1950): the sum over labels of (softmax - [label is gold])^2,
    between 0 and 2; null without a gold label.
    """
    part = {name: pl.col(f"{name}:{rule}") for name in ("top", "winner", "num_top", "next", "total", "squares")}
    total, is_tie = part["total"], part["num_top"] > 1
    # With p = share / total: the sum of (p - y)^2 is the sum of p^2, less twice the gold label's p, plus 1.
    brier = part["squares"] / total.pow(2) - 2 * pl.col(f"gold_share:{rule}").fill_null(0.0) / total + 1
    return items.select(
        "item_id",
        "text_hash",
        part["winner"].alias("predicted_id"),
        "gold_id",
        (part["winner"] == pl.col("gold_id")).alias("correct"),
        (1 / total).alias("confidence"),
        pl.when(is_tie).then(0.0).otherwise(part["top"] - part["next"]).alias("margin"),
        is_tie.alias("tie"),
        "truncated",
        pl.when(pl.col("gold_id").is_not_null()).then(brier).alias("brier"),
    )
