"""One run from its configuration to its report, step by step: the flow calls the steps as they stand here.

Between `plan` and `tabulate` its workers score the shards (flows/run.py).

Invariant: a step takes what the steps before it found, and leaves the output in a state that a later run can go on
from. The caller holds the output's lock.
"""

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import astuple, dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from uuid import uuid4

import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq

from pipeline.analysis import scan_score_files
from pipeline.chat import check_messages
from pipeline.config import RunConfig
from pipeline.prompts import Prompt
from pipeline.pull import PullSummary, pull_items
from pipeline.reading.dataset import Dataset
from pipeline.reading.devices import kind_of
from pipeline.reading.model_ref import ModelRef
from pipeline.reporting.make import make_report
from pipeline.reporting.predictions import check_rule
from pipeline.reporting.report import Report
from pipeline.reporting.rules import CONTENT_FREE_TEXTS
from pipeline.scoring.counts import Counts
from pipeline.scoring.tokens import most_chars
from pipeline.sharding import ScoringSpec, Shard, ShardResult, cut_shards, item_values
from pipeline.storing.files import Output
from pipeline.storing.fingerprint import StoredPrompt
from pipeline.storing.history import read_history, write_history
from pipeline.storing.layout import HISTORY, TASKS, TASKS_SCHEMA, is_table
from pipeline.storing.manifest import Manifest, digest_of_shots
from pipeline.storing.runs import (
    LastRun,
    begin_run,
    look_at_last,
    need_whole,
    new_folder,
    open_run,
    publish,
    refuse_foreign,
    remove_old_folders,
)
from pipeline.storing.score_tables import write_tables
from pipeline.storing.store import Store
from pipeline.storing.tables import read_batches, write_table
from pipeline.target import Target, make_target

SECONDS_BETWEEN_LINES = 30.0  # about how far a shard is, which may take hours
COMPILED_FROM = 90_000  # texts of a worker: as measured on an H200, 6 s of compiling are made up for by then
COMPILED_FROM_IN_FP8 = 300_000  # which gains less by it
MOST_SHARDS = 1000  # of a run: each is a task that Prefect keeps some 20 kB of, and a part that is listed and verified


@dataclass(frozen=True, slots=True)
class Pulled:
    """What the run is about: everything that its configuration names, its items, and the run before it."""

    target: Target
    summary: PullSummary
    items: Path
    rejected: Path | None
    last: LastRun


@dataclass(frozen=True, slots=True)
class Planned:
    """What is to be scored, in shards, and what a worker needs for it; texts are counted once for each prompt.

    `redrawn`: prompts with other solved examples than in the last run, and how many texts they have to score.
    """

    store: Store
    spec: ScoringSpec
    shards: tuple[Shard, ...]
    num_missing: int
    num_stored: int
    redrawn: tuple[tuple[str, int], ...]


@dataclass(frozen=True, slots=True)
class Scored:
    """What scoring came to: texts (once for each prompt), token counts, and the way that the scorer took.

    `remark`: what a person should know of the scores besides. `kernels`: what attention ran on, and whether layers were
    compiled.
    """

    num_texts: int = 0
    counts: Counts = field(default_factory=Counts)
    path: str | None = None
    path_reason: str | None = None
    remark: str | None = None
    kernels: str | None = None


class Job:
    """A run in progress: its configuration and output, and the seconds that its steps took.

    One that `looks_only` ends with its plan and leaves the output as it is.
    """

    def __init__(self, config: RunConfig, output: Output, *, looks_only: bool = False) -> None:
        self.config = config
        self.output = output
        self._looks_only = looks_only
        self.run_id = uuid4().hex
        self.started = datetime.now(UTC)
        self.timings: dict[str, float] = {}

    @contextmanager
    def timed(self, step: str) -> Iterator[None]:
        """Add the wall time of the block to `timings`, in seconds."""
        start = time.perf_counter()
        try:
            yield
        finally:
            self.timings[step] = self.timings.get(step, 0.0) + time.perf_counter() - start

    def pull(self) -> Pulled:
        """Resolve what the configuration names, and stream the items into the work folder.

        Raises InputError for what is wrong with the configuration, the data set or the model.
        """
        last = look_at_last(self.output) if self._looks_only else begin_run(self.output)
        items, rejected = self.output.work / "items.parquet", self.output.work / "rejected.parquet"
        with self.timed("resolve"):
            target = make_target(self.config)
        with self.timed("pull"):
            summary = pull_items(
                target.dataset,
                golds=target.golds,
                shape=target.shape,
                limit=None if self.config.task else self.config.limit,  # each task has its own
                on_bad_row=self.config.on_bad_row,
                items_path=items,
                rejected_path=rejected,
            )
        return Pulled(target, summary, items, rejected if summary.num_rejected else None, last)

    def plan(self, pulled: Pulled) -> Planned:
        """Verify what is stored, and cut what is missing into shards.

        Raises InputError for a missing text whose message the chat template changes.
        """
        config, model = self.config, pulled.target.model
        with self.timed("plan"):
            store = Store(self.output, pulled.target.prompts, model.name, model.revision, looks_only=self._looks_only)
            options: dict[str, Any] = {
                "notebook": config.notebook_rule,
                "force": config.force,
                "max_chars": most_chars(model.context_tokens),
            }
            # Two prompts that differ in name alone share a fingerprint, and so their scores.
            distinct = {stored.fingerprint: stored for stored in store.prompts}.values()
            found = [(s, store.pending(pulled.items, s, extra_texts=CONTENT_FREE_TEXTS, **options)) for s in distinct]
            for stored, pending in found:
                check_pending(pulled.target, stored.prompt, pending.path, config.chat_answer or "")
            size = config.shard_size or _shard_size(model.device, sum(pending.num_missing for _, pending in found))
            shards = [shard for s, pending in found for shard in cut_shards(s.prompt.name, pending.path, size)]
            writers = tuple(map(store.writer, store.prompts))
        spec = ScoringSpec(
            model,
            writers,
            config.max_text_tokens,
            config.notebook_rule,
            config.batch_tokens,
            config.tensor_parallel,
            does_compile(config, model, sum(pending.num_missing for _, pending in found)),
        )
        missing = [(s, pending.num_missing) for s, pending in found if pending.num_missing]
        redrawn = tuple((s.prompt.name, num) for s, num in missing if _has_other_shots(s, pulled.last.manifest))
        num_missing = sum(num for _, num in missing)
        num_stored = sum(pending.num_wanted for _, pending in found) - num_missing
        return Planned(store, spec, tuple(shards), num_missing, num_stored, redrawn)

    def tabulate(self, pulled: Pulled, planned: Planned) -> Output:
        """Write the run's tables into a folder of its own. Raises RunError where a text lacks its scores."""
        folder = self.output.inside(new_folder())
        with self.timed("publish"):
            planned.store.refresh()
            write_tables(
                folder,
                planned.store,
                pulled.items,
                CONTENT_FREE_TEXTS,
                notebook=self.config.notebook_rule,
                rejected=pulled.rejected,
            )
            if self.config.task:
                _write_task_metrics(folder, pulled.target)
        return folder

    def report(self, folder: Output, manifest: Manifest, last: LastRun) -> Report:
        """Write the report from the run's tables, and the history with a line of this run."""
        with self.timed("report"):
            previous = pl.scan_parquet(last.predictions, glob=False) if last.predictions else None
            past = pl.DataFrame(last.history)
            report = make_report(
                folder,
                manifest,
                self.config.rule,
                out=_shown(self.output, folder),
                previous=previous,
                past=past,
                gap=self.config.gap,
            )
            write_history(folder, last.history, report.history_rows.to_arrow())
        return report

    def publish(self, planned: Planned, folder: Output, manifest: Manifest) -> Manifest:
        """Let readers see this run instead of the one before it."""
        manifest = publish(self.output, folder, manifest.model_copy(update={"timings": dict(self.timings)}))
        planned.store.end_plans()
        return manifest


def texts_of_shard(device: str) -> int:
    """How many texts suit it: the fewer there are, the further apart their lengths lie, and the more attention pads."""
    return 2000 if kind_of(device) == "cpu" else 8000


def does_compile(config: RunConfig, model: ModelRef, num_missing: int) -> bool:
    """Whether each worker compiles the model's layers: if not told, where a GPU has so much to do that it pays."""
    if config.compile != "auto":
        return config.compile == "on"
    is_gpu = model.device.startswith("cuda") and config.tensor_parallel == 1
    pays_from = COMPILED_FROM_IN_FP8 if model.dtype == "fp8" else COMPILED_FROM
    return is_gpu and num_missing // config.workers >= pays_from


def _shard_size(device: str, num_missing: int) -> int:
    return max(texts_of_shard(device), -(-num_missing // MOST_SHARDS))


def check_pending(target: Target, prompt: Prompt, pending: Path, answer: str) -> None:
    """Raises InputError for a message of a missing text that the chat template treats otherwise than those it was tried
    with.
    """
    if target.chat_template is not None:
        for batch in read_batches(pending, pq.read_schema(pending).names):
            check_messages(target.chat_template, prompt, item_values(pa.Table.from_batches([batch])), answer)


def _write_task_metrics(folder: Output, target: Target) -> None:
    """Write what the tasks' own code makes of the run's scores."""
    assert not isinstance(target.dataset, Dataset)
    scores = scan_score_files(folder).select("item_id", "label_id", "logprob").collect()
    rows = pa.Table.from_pylist(target.dataset.judge(scores), TASKS_SCHEMA)
    with folder.writing(TASKS) as path:
        write_table(path, TASKS_SCHEMA, [rows])


def _shown(output: Output, folder: Output) -> str:
    """Where a report says that its files lie: on an object store most of them only in the folder of the run."""
    return str(folder if output.remote else output)


def _has_other_shots(stored: StoredPrompt, last: Manifest | None) -> bool:
    """Whether the last run had this prompt with other solved examples."""
    before = {prompt.name: prompt.shots for prompt in last.prompts} if last else {}
    return before.get(stored.prompt.name) not in (None, digest_of_shots(stored.prompt.solved))


class Progress:
    """How far scoring is; the clock starts when it is made, with models loaded."""

    def __init__(self, num_missing: int) -> None:
        self.scored = Scored()
        self._num_missing = num_missing
        self._num_seen = 0  # texts, those of shards that are not finished among them
        self._told: set[str] = set()
        self._since = self._told_at = time.perf_counter()
        self._changing = threading.Lock()

    def advance(self, num_texts: int) -> bool:
        """So many texts more, or fewer where a shard begins again; returns whether to tell it, which is now and then.

        Any thread may call it.
        """
        with self._changing:
            self._num_seen += num_texts
            is_due = num_texts > 0 and time.perf_counter() - self._told_at > SECONDS_BETWEEN_LINES
            if is_due:
                self._told_at = time.perf_counter()
            return is_due

    def add(self, result: ShardResult) -> list[str]:
        """Count what a shard's scoring did; returns what is to be told of it and was not yet."""
        counts = Counts(*map(sum, zip(astuple(self.scored.counts), astuple(result.counts), strict=True)))
        self.scored = Scored(
            self.scored.num_texts + result.num_texts,
            counts,
            result.path,
            result.path_reason,
            result.remark or self.scored.remark,
            result.kernels or self.scored.kernels,
        )
        self._told_at = time.perf_counter()
        new = [line for line in result.lines if line not in self._told]
        self._told.update(new)
        return new

    @property
    def percent(self) -> float:
        return 100 * self.scored.num_texts / self._num_missing

    def __str__(self) -> str:
        """Such as `scored 1,000 of 7,600 (410 items/s, 16 s left)`."""
        done, missing = self._num_seen, self._num_missing
        seconds = time.perf_counter() - self._since
        rate = done / seconds if seconds else 0.0
        left = (missing - done) / rate if rate else 0.0
        return f"scored {done:,} of {missing:,} ({rate:,.1f} items/s, {left:,.0f} s left)"


def remake_report(output: Output, rule: str | None = None, gap: float | None = None) -> Report:
    """Make the report of a finished run again from its tables, led by `rule` (by default the one it had).

    `gap`: a difference in points that the reader wants to see (by default what the run was told). The report is
    published as a run is, in a folder of its own. Raises InputError where there is no finished run or the rule's scores
    were not kept, RunError where the tables are not those of the finished run.
    """
    refuse_foreign(output)
    run, manifest = open_run(output)
    need_whole(run, manifest, filter(_is_kept, manifest.files))
    remove_old_folders(output)
    check_rule(run, manifest, rule or manifest.headline_rule)
    folder = output.inside(new_folder())
    kept = {name: digest for name, digest in manifest.files.items() if _is_kept(name)}
    for name in kept:
        run.link(name, folder, name)
    past = pl.DataFrame(read_history(run))
    manifest = manifest.model_copy(update={"headline_rule": rule or manifest.headline_rule, "files": kept})
    report = make_report(
        folder,
        manifest,
        manifest.headline_rule,
        out=_shown(output, folder),
        previous=None,
        past=past,
        gap=manifest.config.gap if gap is None else gap,
    )
    return replace(report, manifest=publish(output, folder, manifest))


def _is_kept(name: str) -> bool:
    """Whether a report made again leaves this file of a run as it is."""
    return name == HISTORY or is_table(name)
