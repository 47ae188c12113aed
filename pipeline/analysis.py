"""Open a finished run: `from pipeline.analysis import load_run`.

Invariant: everything is lazy, read-only and of one run, whatever is published meanwhile. What the manifest vouches for
is hashed on opening; nothing else is read until a query is collected.
"""

import os
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import quote

import polars as pl

from pipeline.errors import InputError
from pipeline.reporting.formats import interval, percent
from pipeline.storing.files import Output
from pipeline.storing.layout import (
    ITEMS,
    MARKDOWN,
    METRICS,
    NORMS,
    PAGE,
    PREDICTIONS,
    SCORES,
    SCORES_FOLDER,
    SCORES_SCHEMA,
    SUMMARY,
    TASKS,
    TASKS_SCHEMA,
    norm_sizes,
    score_files,
)
from pipeline.storing.manifest import Manifest, PromptRecord
from pipeline.storing.runs import need_whole, open_run


@dataclass(frozen=True, slots=True)
class Run:
    """A finished run: the output asked for, the run's folder, and its tables, whose columns are in data/README.md.

    `tasks` has no rows where the run is not one of tasks. A notebook shows the run's summary, with links to its files.
    """

    out: str
    folder: Path
    scores: pl.LazyFrame
    items: pl.LazyFrame
    predictions: pl.LazyFrame
    manifest: Manifest
    tasks: pl.LazyFrame = field(default_factory=lambda: pl.LazyFrame(TASKS_SCHEMA.empty_table()))

    @property
    def accuracy(self) -> pl.DataFrame:
        """prompt, rule, accuracy, low, high, n: of each prompt (or task) under each rule, as in metrics.parquet.

        Raises RunError where that file is another one than the run's.
        """
        folder = Output(self.folder, create=False)
        need_whole(folder, self.manifest, [METRICS])
        metrics = scan(folder, METRICS).filter(metric="accuracy")
        return metrics.select("prompt", "rule", pl.col("value").alias("accuracy"), "low", "high", "n").collect()

    @property
    def page_path(self) -> Path:
        """The report as a page, report.html."""
        return self.folder / PAGE

    @property
    def report_path(self) -> Path:
        """The report as Markdown, report.md."""
        return self.folder / MARKDOWN

    def __repr__(self) -> str:
        """Such as `<labelscore run: 248 items, answer 87.5 % (82.8 to 91.1 %) under sum, data/runs/sample-demo>`."""
        found = [f"{self.manifest.dataset.num_items:,} items"]
        if (self.folder / METRICS).exists():
            found.append(self._accuracy_words())
        return f"<labelscore run: {', '.join([*found, self.out])}>"

    def _accuracy_words(self) -> str:
        """The highest accuracy under the rule that leads the report; an interval only where nothing was picked."""
        if any(prompt.task for prompt in self.manifest.prompts):  # they share no items, so none is the highest
            return f"{len(self.manifest.prompts):,} tasks"
        rule = self.manifest.headline_rule
        ranked = self.accuracy.filter(rule=rule).sort("accuracy", descending=True, maintain_order=True)
        if ranked.is_empty():
            return "no gold labels"
        prompt, _, accuracy, low, high, _ = ranked.row(0)
        words = f"{prompt} {percent(accuracy)}"
        if ranked.height == 1:
            return f"{words} ({interval(low, high)}) under {rule}"
        return f"{words}, the highest of {ranked.height:,} prompts under {rule}"

    def _repr_markdown_(self) -> str | None:
        """What a notebook shows: the summary that pull requests get, and links as seen from the working folder."""
        if not (self.folder / SUMMARY).exists():
            return None
        names = (PAGE, MARKDOWN, PREDICTIONS, METRICS, SCORES, ITEMS)
        links = [
            f"[{Path(name).name}]({quote(os.path.relpath(self.folder / name))})"
            for name in names
            if (self.folder / name).exists()
        ]
        summary = (self.folder / SUMMARY).read_text(encoding="utf-8")
        return f"{summary}\n{' · '.join(links)}\n"


def load_run(out: str | Path) -> Run:
    """The tables of the last finished run in `out`, or of the run whose folder `out` is.

    Raises InputError where it holds no finished run with a report, RunError where its manifest is damaged or newer, or
    a table is not the one that it names.
    """
    output = Output(out, create=False)
    folder, manifest = open_run(output)
    # An older version, which had no folders, could be killed before its report.
    is_cut_short = SCORES in manifest.files and PREDICTIONS not in manifest.files
    if is_cut_short or not folder.exists(PREDICTIONS):
        raise InputError(f"{out} has no {PREDICTIONS} of its last run; make it with `labelscore report {out}`")
    need_whole(folder, manifest, (*score_files(manifest.files), ITEMS, PREDICTIONS, TASKS))
    if output.remote:
        for name in filter(folder.exists, (METRICS, SUMMARY, MARKDOWN, PAGE)):
            folder.fetch(name)
    scores, items, predictions = scan_scores(folder, manifest.prompts), scan(folder, ITEMS), scan(folder, PREDICTIONS)
    return Run(str(out), folder.root, scores, items, predictions, manifest, scan_tasks(folder))


def scan_tasks(folder: Output) -> pl.LazyFrame:
    """What lm-evaluation-harness makes of a run's tasks, lazily; without rows where the run is not one of tasks."""
    return scan(folder, TASKS) if folder.exists(TASKS) else pl.LazyFrame(TASKS_SCHEMA.empty_table())


def scan(folder: Output, name: str) -> pl.LazyFrame:
    """One of a run's tables, lazily. Raises InputError where the file is missing."""
    if not folder.exists(name):
        raise InputError(f"{folder} has no {name}; run again to publish it")
    return pl.scan_parquet(folder.fetch(name), glob=False)


def scan_score_files(folder: Output) -> pl.LazyFrame:
    """The score table of a run as it was written, lazily. Raises InputError where it is missing."""
    names = score_files(folder.list(SCORES_FOLDER))
    if not names:
        raise InputError(f"{folder} has no {SCORES}; run again to publish it")
    return pl.scan_parquet([folder.fetch(name) for name in names], glob=False)


def scan_scores(folder: Output, prompts: Sequence[PromptRecord]) -> pl.LazyFrame:
    """The score table of a run of these prompts, lazily; an old one without `norm_chars` and `norm_bytes` gets them."""
    scores = scan_score_files(folder)
    if set(NORMS) <= set(scores.collect_schema()):
        return scores
    words = list(dict.fromkeys(label.words for prompt in prompts for label in prompt.labels))
    sizes = zip(*map(norm_sizes, words), strict=True)
    return scores.with_columns(
        pl.col("label_words").replace_strict(words, norms, return_dtype=pl.Int32).alias(name)
        for name, norms in zip(NORMS, sizes, strict=True)
    ).select(SCORES_SCHEMA.names)
