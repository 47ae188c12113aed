"""One run from its configuration to its report, step by step; the flow calls the steps in the order they stand here.

Invariant: each step leaves the output in a state that a later run can go on from. The caller holds the output's lock.
"""

import importlib.metadata
import platform
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import astuple, replace
from datetime import UTC, datetime
from uuid import uuid4

from pipeline.analysis import scan
from pipeline.config import RunConfig
from pipeline.prompts import seam_note
from pipeline.reading.model import count_parameters
from pipeline.reading.pull import PullSummary, pull_items
from pipeline.reporting.make import make_report
from pipeline.reporting.report import Report
from pipeline.reporting.rules import CONTENT_FREE_TEXTS
from pipeline.scoring.scorer import Counts
from pipeline.shard import ScoringJob, Shard, ShardResult
from pipeline.storing.files import Output, hash_bytes, hash_file
from pipeline.storing.layout import HISTORY, PREDICTIONS, REPORT_FILES, TABLES
from pipeline.storing.manifest import Manifest, need_manifest, read_manifest, write_manifest
from pipeline.storing.publish import Publication, publish_tables
from pipeline.storing.published import (
    append_history,
    mend_manifest,
    mend_tables,
    need_whole,
    refuse_foreign,
)
from pipeline.storing.store import Finding, Store
from pipeline.target import (
    SHARD_TEXTS,
    Target,
    WantedPrompt,
    cut_shards,
    make_scoring_job,
    make_target,
    open_store,
)

LIBRARIES = ("torch", "transformers", "tokenizers", "datasets", "pyarrow", "polars", "numpy", "prefect")


class Job:
    """A run in progress: its configuration, output, and what its steps have found so far."""

    target: Target
    mended: list[Finding]
    pulled: PullSummary
    store: Store
    scoring: ScoringJob

    def __init__(self, config: RunConfig, output: Output) -> None:
        self.config = config
        self.output = output
        self.run_id = uuid4().hex
        self.started = datetime.now(UTC)
        self.timings: dict[str, float] = {}
        self.previous: Manifest | None = None  # the manifest of the last run in this output
        self.redrawn: list[tuple[str, int]] = []  # prompts with other solved examples than then, and texts to score
        self.shards: list[Shard] = []
        self.num_missing = self.num_stored = self.num_scored = 0
        self.counts = Counts()
        self.path: str | None = None
        self.path_reason: str | None = None
        self.files: dict[str, str] = {}
        self.items = output.work / "items.parquet"
        self.rejected = output.work / "rejected.parquet"

    @contextmanager
    def timed(self, step: str) -> Iterator[None]:
        """Add the wall time of the block to `timings`, in seconds."""
        start = time.perf_counter()
        try:
            yield
        finally:
            self.timings[step] = self.timings.get(step, 0.0) + time.perf_counter() - start

    def pull(self) -> None:
        """Resolve what the configuration names, and stream the articles into the work folder.

        Raises InputError for what is wrong with the configuration, the data set or the model.
        """
        refuse_foreign(self.output, (*TABLES, HISTORY, *REPORT_FILES))
        self.mended = mend_manifest(self.output) + mend_tables(self.output, (HISTORY, PREDICTIONS))
        self.previous = read_manifest(self.output)
        with self.timed("resolve"):
            self.target = make_target(self.config)
        with self.timed("pull"):
            self.pulled = pull_items(
                self.target.dataset,
                classes=self.target.classes,
                limit=self.config.limit,
                on_bad_row=self.config.on_bad_row,
                items_path=self.items,
                rejected_path=self.rejected,
            )

    @property
    def remarks(self) -> Iterator[str]:
        """What a person should know of the data before it is scored."""
        target = self.target
        found = (self._other_data(), *target.dataset.remarks, target.classes.remark, target.shots.remark)
        yield from filter(None, found)
        if target.shots.num_left_out:
            yield (
                f"solved examples: {target.shots.num_left_out:,} rows of {self.config.shots_split} were left out "
                "because their text is scored"
            )
        for wanted in target.prompts:
            note = None if self.config.chat_template else seam_note(wanted.prompt)  # markup stands between them there
            if note:
                yield f"prompt '{wanted.prompt.name}': {note}"
        yield from self.pulled.remarks

    def _other_data(self) -> str | None:
        """That the output held another data set until now."""
        if self.previous is None:
            return None
        old, new = self.previous.dataset, self.target.dataset
        place = (old.location or old.name, old.split, old.subset)
        if place in ((new.location, new.split, self.config.subset), (new.name, new.split, None)):
            return None
        before, after = (old.location, new.location) if old.name == new.name else (old.name, new.name)
        return (
            f"{self.output} held {before} ({old.split}) until now; from this run on its tables and report are "
            f"of {after} ({new.split})"
        )

    def plan(self) -> None:
        """Verify what is stored, and cut what is missing into shards."""
        with self.timed("plan"):
            self.store = open_store(self.target, self.output)
            shard_size = self.config.shard_size or SHARD_TEXTS[self.target.model.device]
            self.shards, self.num_missing, self.num_stored, self.redrawn = [], 0, 0, []
            # Two prompts that differ in name alone share a fingerprint, and so their scores.
            for prompt in {wanted.fingerprint: wanted for wanted in self.target.prompts}.values():
                pending = self.store.pending(
                    self.items,
                    prompt.fingerprint,
                    notebook=self.config.notebook_rule,
                    force=self.config.force,
                    extra_texts=CONTENT_FREE_TEXTS,
                )
                if pending.num_missing and self._has_other_shots(prompt):
                    self.redrawn.append((prompt.prompt.name, pending.num_missing))
                self.num_missing += pending.num_missing
                self.num_stored += pending.num_wanted - pending.num_missing
                self.shards += cut_shards(prompt.prompt.name, pending.path, shard_size)
            self.scoring = make_scoring_job(self.config, self.target, self.store)

    def _has_other_shots(self, wanted: WantedPrompt) -> bool:
        """Whether the last run had this prompt with other solved examples."""
        old = {prompt.name: prompt.shots for prompt in self.previous.prompts} if self.previous else {}
        return old.get(wanted.prompt.name) not in (None, _shots_digest(wanted))

    @property
    def findings(self) -> list[Finding]:
        """What was wrong in the output and has been set aside."""
        return [*self.mended, *self.store.findings]

    def start_scoring(self) -> None:
        """Start the clock of `progress_line`; models are loaded."""
        self._scoring_since = time.perf_counter()

    def finish_shard(self, result: ShardResult) -> None:
        """Count what a shard's scoring did."""
        self.num_scored += result.num_texts
        self.counts = Counts(*map(sum, zip(astuple(self.counts), astuple(result.counts), strict=True)))
        self.path, self.path_reason = result.path, result.path_reason

    def progress_line(self) -> str:
        """Such as `scored 1,000 of 7,600 (410 items/s, 16 s left)`."""
        seconds = time.perf_counter() - self._scoring_since
        rate = self.num_scored / seconds if seconds else 0.0
        left = (self.num_missing - self.num_scored) / rate if rate else 0.0
        return f"scored {self.num_scored:,} of {self.num_missing:,} ({rate:,.1f} items/s, {left:,.0f} s left)"

    def publish(self) -> None:
        """Replace the published tables by this run's. Raises RunError where a text lacks its scores."""
        with self.timed("publish"):
            self.store.refresh()
            model = self.target.model
            publication = Publication(
                [(replace(wanted.prompt, examples=""), wanted.fingerprint) for wanted in self.target.prompts],
                model.name,
                model.revision,
                CONTENT_FREE_TEXTS,
                notebook=self.config.notebook_rule,
            )
            rejected = self.rejected if self.pulled.num_rejected else None
            self.files = publish_tables(self.store, publication, self.items, rejected)
            self._manifest = self._make_manifest()
            write_manifest(self.output, self._manifest)

    def report(self) -> Report:
        """Write the report from the published tables, add this run to the history, and complete the manifest."""
        with self.timed("report"):
            report = _write_report(self.output, self._manifest, self.config.rule)
            self.files[HISTORY] = append_history(self.output, report.history_rows.to_arrow())
            self.files |= _hash_report(self.output)
        write_manifest(
            self.output, self._manifest.model_copy(update={"files": self.files, "timings": dict(self.timings)})
        )
        return report

    def _make_manifest(self) -> Manifest:
        target, model = self.target, self.target.model
        seconds = self.timings.get("score", 0.0)
        values = {
            "labelscore": importlib.metadata.version("labelscore"),
            "run_id": self.run_id,
            "started": self.started.isoformat(timespec="seconds"),
            "finished": datetime.now(UTC).isoformat(timespec="seconds"),
            "headline_rule": self.config.rule,
            "config": self.config.model_dump(mode="json"),
            "dataset": {
                "name": target.dataset.name,
                "location": target.dataset.location,
                "subset": self.config.subset,
                "split": target.dataset.split,
                "revision": target.dataset.revision,
                "num_rows": self.pulled.num_rows_read,
                "num_items": self.pulled.num_items,
                "num_rejected": self.pulled.num_rejected,
                "label_names": list(target.classes.names),
            },
            "shots": {"num_left_out": target.shots.num_left_out} if self.config.num_shots else None,
            "model": {
                "name": model.name,
                "revision": model.revision,
                "weights": model.weights,
                "dtype": model.dtype,
                "device": model.device,
                "num_parameters": count_parameters(model),
                "demonstration": target.is_demonstration,
            },
            "prompts": [
                {
                    "name": wanted.prompt.name,
                    "template": wanted.prompt.template,
                    "boundary": wanted.prompt.boundary,
                    "labels": [
                        {"id": label.id, "name": label.name, "words": label.words} for label in wanted.prompt.labels
                    ],
                    "fingerprint": wanted.fingerprint.digest,
                    "shots": _shots_digest(wanted),
                    "published_accuracy": self.config.published.get(wanted.prompt.name),
                }
                for wanted in target.prompts
            ],
            "counts": {
                "items": self.pulled.num_items,
                "texts": self.num_missing + self.num_stored,
                "scored": self.num_scored,
                "reused": self.num_stored,
            },
            "scoring": {
                "path": self.path,
                "path_reason": self.path_reason,
                "forwarded_tokens": self.counts.forwarded_tokens,
                "trie_tokens": self.counts.trie_tokens,
                "padding_tokens": self.counts.padding_tokens,
                "seconds": seconds,
                "items_per_second": self.num_scored / seconds if seconds else None,
            },
            "files": self.files,
            "libraries": {
                "python": platform.python_version(),
                **{name: importlib.metadata.version(name) for name in LIBRARIES},
            },
            "timings": self.timings,
        }
        return Manifest.model_validate(values)


def _shots_digest(wanted: WantedPrompt) -> str | None:
    examples = wanted.prompt.examples
    return hash_bytes(examples.encode()) if examples else None


def remake_report(output: Output, rule: str | None = None) -> Report:
    """Write the report of a finished run again from its files, led by `rule` (by default the one it had).

    Raises InputError where there is no finished run or the rule's scores were not kept, RunError where the tables are
    not those of the finished run.
    """
    manifest = need_manifest(output)
    need_whole(output, manifest, TABLES)
    report = _write_report(output, manifest, rule or manifest.headline_rule)
    files = {**manifest.files, **_hash_report(output)}
    write_manifest(output, manifest.model_copy(update={"headline_rule": report.headline_rule, "files": files}))
    return report


def _write_report(output: Output, manifest: Manifest, rule: str) -> Report:
    previous = scan(output, PREDICTIONS) if output.exists(PREDICTIONS) else None
    past = scan(output, HISTORY).collect() if output.exists(HISTORY) else None
    return make_report(output, manifest, rule, out=str(output), previous=previous, past=past)


def _hash_report(output: Output) -> dict[str, str]:
    return {name: hash_file(output.path(name)) for name in REPORT_FILES}
