"""Open a finished run: `from pipeline.analysis import load_run`.

Invariant: everything is lazy, read-only and of one run, whatever is published meanwhile. What the manifest vouches for
is hashed on opening; nothing else is read until a query is collected.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import polars as pl

from pipeline.errors import InputError
from pipeline.storing.files import Output
from pipeline.storing.layout import (
    ITEMS,
    NORMS,
    PREDICTIONS,
    SCORES,
    SCORES_FOLDER,
    SCORES_SCHEMA,
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

    `tasks` has no rows where the run is not one of tasks.
    """

    out: str
    folder: Path
    scores: pl.LazyFrame
    items: pl.LazyFrame
    predictions: pl.LazyFrame
    manifest: Manifest
    tasks: pl.LazyFrame = field(default_factory=lambda: pl.LazyFrame(TASKS_SCHEMA.empty_table()))


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
