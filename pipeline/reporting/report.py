"""What a finished run's report shows, as one record: small tables, and what follows from them.

Invariant: it holds figures and no words; nothing here knows how they are computed or shown.
"""

from dataclasses import dataclass
from typing import Any

import polars as pl

from pipeline.reporting.places import are_tasks
from pipeline.reporting.verdict import Verdict
from pipeline.storing.manifest import Manifest

MAX_DRAWN = 12  # tasks that are drawn each for itself; of more only tables are shown


@dataclass(frozen=True, slots=True)
class Report:
    """Everything a report shows, as small tables (their columns: the functions that make them).

    How many items have a gold label is the same under every prompt and rule; how far texts repeat may depend on the
    columns that a prompt reads. In a run of tasks the prompts are these, each with items of its own, and what is said
    of the run are sums over them. `gap` is a difference (0 to 1) that the reader wants to see. `harness`: what
    lm-evaluation-harness makes of them (tasks.parquet), else empty.
    """

    out: str
    manifest: Manifest
    headline_rule: str
    rules: tuple[str, ...]
    chance: float  # accuracy of guessing among the places of an item: several right ones are guessed sooner
    chances: dict[str, float]  # the same of the items of each prompt that has some with a gold label
    summary: pl.DataFrame
    classes: pl.DataFrame
    confusion: pl.DataFrame
    histogram: pl.DataFrame
    positions: pl.DataFrame
    reliability: pl.DataFrame
    coverage: pl.DataFrame
    margins: pl.DataFrame
    mass: pl.DataFrame
    length: pl.DataFrame
    verdict: Verdict
    label_words: pl.DataFrame
    wrong: pl.DataFrame
    items: pl.DataFrame
    history: pl.DataFrame
    history_rows: pl.DataFrame
    metrics: pl.DataFrame
    gap: float | None
    is_ag_news: bool
    harness: pl.DataFrame

    @property
    def has_tasks(self) -> bool:
        """Whether the prompts are tasks, which share no items."""
        return are_tasks(self.manifest.prompts)

    @property
    def unit(self) -> str:
        """What the prompts are called."""
        return "task" if self.has_tasks else "prompt"

    @property
    def draws_each(self) -> bool:
        """Whether there is a chart of each prompt for itself."""
        return not self.has_tasks or len(self.manifest.prompts) <= MAX_DRAWN

    def _over_items(self, column: str) -> int:
        """A count of items, which all prompts have in common, or each task has of its own."""
        return int(self.headline[column].sum() if self.has_tasks else self.summary[column][0])

    @property
    def num_gold(self) -> int:
        """Items with a gold label, that is with one right class or several."""
        return self._over_items("num_gold")

    @property
    def has_gold(self) -> bool:
        return self.num_gold > 0

    @property
    def has_choices(self) -> bool:
        """Whether items bring their own choices, so that there are no classes."""
        return any(prompt.has_choices for prompt in self.manifest.prompts)

    @property
    def num_single(self) -> int:
        """Items with exactly one right class: all with a gold label, but for those with several."""
        return self._over_items("num_single")

    @property
    def _texts(self) -> dict[str, Any]:
        """The row of `summary` of the prompt under which texts repeat most."""
        return self.summary.sort("num_distinct", maintain_order=True).row(0, named=True)

    @property
    def texts_of(self) -> str | None:
        """The prompt that `num_distinct` is of, where others see other repeats."""
        is_one = self.has_tasks or self.summary["num_distinct"].n_unique() == 1
        return None if is_one else str(self._texts["prompt"])

    @property
    def num_distinct(self) -> int:
        """Distinct texts of the items with a gold label, under the prompt that tells the fewest apart."""
        return self._over_items("num_distinct") if self.has_tasks else int(self._texts["num_distinct"])

    @property
    def repeats(self) -> bool:
        """Whether items with a gold label share a text."""
        return self.num_distinct < self.num_gold

    @property
    def num_effective(self) -> float:
        """As how many independent items those with a gold label count in intervals (Kish)."""
        if self.has_tasks:
            return float(self.headline["num_effective"].sum())
        return float(self._texts["num_effective"] or 0)

    @property
    def reference(self) -> tuple[float, str]:
        """What accuracies are held against, and its name: one answer for all items, or guessing among their choices."""
        found = self.verdict.baselines.select("share", "answer").head(1).rows()
        share, answer = found[0] if found else (self.chance, None)
        return share, "guessing" if answer is None else f"always answering '{answer}'"

    @property
    def published(self) -> dict[str, float]:
        """The published accuracy of each prompt that has one."""
        return {p.name: p.published_accuracy for p in self.manifest.prompts if p.published_accuracy is not None}

    @property
    def headline(self) -> pl.DataFrame:
        """The rows of `summary` under the headline rule, in the order of the run's prompts."""
        return self.summary.filter(pl.col("rule") == self.headline_rule)

    @property
    def ranked(self) -> pl.DataFrame:
        """The same, the most accurate prompt first; tasks share no items and stay in their order."""
        if self.has_tasks or not self.has_gold:
            return self.headline
        return self.headline.sort("num_correct", descending=True, maintain_order=True)

    @property
    def ranking(self) -> pl.DataFrame:
        """`ranked` with behind, behind_low, behind_high and standing against the leader, and published (or null)."""
        published = pl.col("prompt").replace_strict(self.published, default=None, return_dtype=pl.Float64)
        behind = self.verdict.prompts.select("prompt", "behind", "standing", behind_low="low", behind_high="high")
        ranked = self.ranked.join(behind, on="prompt", how="left", maintain_order="left")
        return ranked.with_columns(published=published)

    def under_headline(self, table: pl.DataFrame, prompt: str) -> pl.DataFrame:
        """The rows of one of these tables for one prompt under the headline rule."""
        return table.filter(pl.col("prompt") == prompt, pl.col("rule") == self.headline_rule)
