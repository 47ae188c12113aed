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

# The rules that these are for: they compare a label's scores over texts, so that all items must have the same labels.
CLASS_RULES = ("pmi", "contextual", "batch")


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


def score_column(rule: str, label_id: int) -> str:
    """Where `wide_scores` keeps the score of one label under one rule."""
    return f"{rule}:{label_id}"


def wide_scores(scores: pl.LazyFrame, rules: Sequence[str], label_ids: Sequence[int]) -> pl.LazyFrame:
    """One row per item of one prompt: its facts, `num_labels` rows found, and each rule's score of each label.

    The score of a label that an item does not have is null. Takes the result of `with_inputs`. Grouping with `when`
    costs about as much as reading a sorted table by position and asks nothing of the order of rows.
    """
    cells = [
        pl.when(pl.col("label_id") == label_id).then(pl.col(rule)).max().alias(score_column(rule, label_id))
        for rule in rules
        for label_id in label_ids
    ]
    return (
        scores.with_columns(RULES[rule].alias(rule) for rule in rules)
        .group_by("item_id")
        .agg(
            pl.col("text_hash", "gold_id").first(),
            pl.col("truncated").any(),
            pl.col("prompt_tokens").min(),
            pl.len().alias("num_labels"),
            pl.col("logprob").cast(pl.Float64).exp().sum().alias("label_mass"),
            *cells,
        )
        .sort("item_id")
    )


def decide(wide: pl.DataFrame, rule: str, label_ids: Sequence[int]) -> pl.DataFrame:
    """One row per item: predicted_id, confidence, margin, tie and the item's Brier score under one rule.

    The highest score wins; equal highest scores are a tie, which goes to the lowest label id. Labels whose score is
    null are none of the item's: they neither win nor tie, and have no share. Confidence is the
    winner's softmax over labels of the rule's scores, margin the distance to the second score in the rule's units, null
    where there is one label only.
    Brier (1950): the sum over labels of (softmax - [label is gold])^2, between 0 and 2; null without a gold label.
    """
    ids = sorted(label_ids)
    score = {label_id: pl.col(score_column(rule, label_id)) for label_id in ids}
    top = pl.col("top")
    shares = {label_id: (s - top).exp() for label_id, s in score.items()}
    # With p = share / total: the sum of (p - y)^2 is the sum of p^2, less twice the gold label's p, plus 1.
    squares, gold_share, total = pl.col("squares"), pl.col("gold_share").fill_null(0.0), pl.col("total")
    brier = squares / total.pow(2) - 2 * gold_share / total + 1
    return (
        wide.lazy()
        .with_columns(top=pl.max_horizontal(score.values()))
        .with_columns(
            predicted_id=pl.coalesce(pl.when(s == top).then(pl.lit(i, pl.Int16)) for i, s in score.items()),
            tie=pl.sum_horizontal((s == top).cast(pl.Int32) for s in score.values()) > 1,
            total=pl.sum_horizontal(shares.values()),
            squares=pl.sum_horizontal(share.pow(2) for share in shares.values()),
            gold_share=pl.coalesce(pl.when(pl.col("gold_id") == i).then(share) for i, share in shares.items()),
        )
        .with_columns(second=pl.max_horizontal(pl.when(pl.col("predicted_id") != i).then(s) for i, s in score.items()))
        .select(
            "item_id",
            "text_hash",
            "predicted_id",
            "gold_id",
            (pl.col("predicted_id") == pl.col("gold_id")).alias("correct"),
            (1 / pl.col("total")).alias("confidence"),
            (top - pl.col("second")).alias("margin"),
            "tie",
            "truncated",
            pl.when(pl.col("gold_id").is_not_null()).then(brier).alias("brier"),
        )
        .collect()
    )
