"""What a report needs beside predictions.parquet, counted while the predictions are made.

Invariant: memory does not grow with the items, but for those whose text repeats (`agreement`).
"""

from fractions import Fraction

import numpy as np
import polars as pl

from pipeline.reporting.agreement import Agreement, AgreementCounter, Arm


class Tallies:
    """What predictions.parquet does not hold, added up over all items, a block at a time."""

    def __init__(self) -> None:
        self._counters: dict[str, AgreementCounter] = {}
        self._brier: list[pl.DataFrame] = []
        self._mass: list[pl.DataFrame] = []
        self._length: list[pl.DataFrame] = []
        self._guesses: list[pl.DataFrame] = []

    def add(self, prompt: str, headline: str, items: pl.DataFrame, decisions: dict[str, pl.DataFrame]) -> None:
        """One prompt in one block: its scores, and in the same order of items the decisions of each rule."""
        name, brier = pl.lit(prompt), pl.col("brier")
        for rule, decision in decisions.items():
            self._brier.append(decision.select(brier.sum(), prompt=name, rule=pl.lit(rule), n=brier.count()))
        self._mass.append(items.select(pl.col("label_mass").sum(), prompt=name, n=pl.len()))
        facts = items.select("prompt_tokens", "num_places")
        judged = decisions[headline].select("correct", "copies", "gold_ids").with_columns(facts).drop_nulls("correct")
        counts = judged.group_by("prompt_tokens").agg(
            n=pl.len(), num_correct=pl.col("correct").sum(), copies=pl.col("copies").cast(pl.Int64).sum()
        )
        self._length.append(counts.with_columns(prompt=name))
        num_right = pl.col("gold_ids").list.len().fill_null(1)
        guesses = judged.group_by("num_places", num_right=num_right).agg(n=pl.len())
        self._guesses.append(guesses.with_columns(prompt=name))

    def add_right(self, group: str, right: dict[Arm, pl.Series], texts: pl.DataFrame) -> None:
        """Which items each arm of a group gets right, null without a gold label; `texts` (copies, key) of each item.

        A group shares its items: all prompts, or one task.
        """
        if group not in self._counters:
            self._counters[group] = AgreementCounter(list(right))
        has_gold = next(iter(right.values())).is_not_null().to_numpy()
        columns = [each.fill_null(False).to_numpy()[has_gold] for each in right.values()]
        copies, keys = (texts[name].to_numpy()[has_gold] for name in ("copies", "key"))
        self._counters[group].add(np.stack(columns), copies, keys)

    @property
    def agreements(self) -> dict[str, Agreement]:
        """Of each group of arms that share their items: the run's prompts under "", or each task under its name."""
        return {group: counter.finish() for group, counter in self._counters.items()}

    @property
    def brier(self) -> pl.DataFrame:
        """prompt, rule, brier (mean over items with one gold label), n."""
        return _mean(self._brier, "brier", "prompt", "rule")

    @property
    def mass(self) -> pl.DataFrame:
        """prompt, label_mass (mean over items), n."""
        return _mean(self._mass, "label_mass", "prompt")

    @property
    def length(self) -> pl.DataFrame:
        """prompt, prompt_tokens, n, num_correct, copies (summed; items with gold, headline rule)."""
        keys = ["prompt", "prompt_tokens"]
        return pl.concat(self._length).group_by(keys).agg(pl.col("n", "num_correct", "copies").sum()).sort(keys)

    @property
    def chance(self) -> float:
        """Accuracy of guessing among the places of each item that has a gold label; 0 where none has."""
        return _guess(pl.concat(self._guesses))

    @property
    def chances(self) -> dict[str, float]:
        """The same of the items of each prompt."""
        by_prompt = pl.concat(self._guesses).group_by("prompt", maintain_order=True)
        return {str(prompt): _guess(guesses) for (prompt,), guesses in by_prompt}


def _guess(guesses: pl.DataFrame) -> float:
    """In fractions: a sum of rounded shares would not be the share where all items have as many places."""
    counts = list(guesses.select("num_right", "num_places", "n").iter_rows())
    total = sum(n for _, _, n in counts)
    return float(sum(Fraction(n * right, places) for right, places, n in counts) / total) if total else 0.0


def _mean(sums: list[pl.DataFrame], name: str, *keys: str) -> pl.DataFrame:
    """Add up sums and counts over all blocks, and divide; null where nothing was counted."""
    total = pl.concat(sums).group_by(keys, maintain_order=True).agg(pl.col(name, "n").sum())
    return total.with_columns(pl.when(pl.col("n") > 0).then(pl.col(name) / pl.col("n")))
