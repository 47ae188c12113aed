"""The words that are scored for each label: what may explain that the model never says them.

Invariant: figures come from the stored scores alone; nothing is tokenised again.
"""

import polars as pl

from pipeline.reporting.predictions import Source

LOW_MASS = 0.001  # probability of all label words together under which the model would have said something else
SCHEMA = {
    **dict.fromkeys(("prompt", "label", "label_words"), pl.String),
    **dict.fromkeys(("num_tokens", "num_bytes"), pl.Int16),
    "prior": pl.Float64,
}


def label_words_table(source: Source) -> pl.DataFrame:
    """A row for each label of each prompt (columns in SCHEMA); none where items bring their own choices.

    `prior`: the probability of the words after the prompt with an empty text, null where it is not stored.
    """
    prompts = [prompt for prompt in source.prompts if not prompt.has_choices]
    if not prompts or not source.blocks:
        return pl.DataFrame(schema=SCHEMA)
    first = source.scores.filter(pl.col("item_id") == source.blocks[0][0])
    found = first.select("prompt", "label_id", "num_tokens", "num_bytes").collect()
    priors = source.constants.select("prompt", "label_id", prior=pl.col("log_prior").exp())
    rows = [(prompt.name, label.id, label.name, label.words) for prompt in prompts for label in prompt.labels]
    table = pl.DataFrame(rows, ["prompt", "label_id", "label", "label_words"], orient="row")
    table = table.with_columns(pl.col("label_id").cast(pl.Int16))
    for other in (found, priors):
        table = table.join(other, on=["prompt", "label_id"], how="left", maintain_order="left")
    return table.select(pl.col(name).cast(dtype) for name, dtype in SCHEMA.items())
