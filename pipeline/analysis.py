"""Open a finished run: `from pipeline.analysis import load_run`.

Invariant: everything is lazy and read-only. What the manifest vouches for is hashed on opening, so that the tables of
two runs are never joined; nothing else is read until a query is collected.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import polars as pl
from pydantic import BaseModel, ConfigDict, ValidationError

from pipeline.errors import InputError
from pipeline.storing.files import Output
from pipeline.storing.published import ITEMS, MANIFEST, SCORES, need_whole, read_manifest

PREDICTIONS = "report/predictions.parquet"


@dataclass(frozen=True, slots=True)
class Run:
    """A finished run: three LazyFrames (their columns are in data/README.md) and the manifest as it stands."""

    folder: Path
    scores: pl.LazyFrame
    items: pl.LazyFrame
    predictions: pl.LazyFrame
    manifest: dict[str, Any]


def load_run(out: str | Path) -> Run:
    """The tables of the run in `out`.

    Raises InputError where it holds no finished run with a report, RunError where its manifest is damaged or newer, or
    a table is not the one that it names.
    """
    output = Output(out, create=False)
    manifest = need_manifest(output)
    is_old = (
        SCORES in manifest["files"] and PREDICTIONS not in manifest["files"]
    )  # the run was killed before its report
    if is_old or not output.exists(PREDICTIONS):
        raise InputError(f"{out} has no {PREDICTIONS} of its last run; make it with `labelscore report {out}`")
    need_whole(output, manifest, (SCORES, ITEMS, PREDICTIONS))
    return Run(output.root, scan(output, SCORES), scan(output, ITEMS), scan(output, PREDICTIONS), manifest)


def scan(output: Output, name: str) -> pl.LazyFrame:
    """One of the run's tables, lazily. Raises InputError where the file is missing."""
    if not output.exists(name):
        raise InputError(f"{output} has no {name}; run `labelscore run --out {output}` again")
    return pl.scan_parquet(output.fetch(name), glob=False)


def need_manifest(output: Output) -> dict[str, Any]:
    """The manifest of a finished run. Raises InputError where there is none, and what `read_manifest` raises."""
    manifest = read_manifest(output)
    if manifest is None:
        raise InputError(
            f"{output} holds no finished run (no {MANIFEST}); make one with `labelscore run --out {output}`"
        )
    return manifest


class _Facts(BaseModel):
    model_config = ConfigDict(frozen=True, extra="ignore")


class LabelFacts(_Facts):
    id: int
    name: str
    words: str


class PromptFacts(_Facts):
    """A prompt of the run; `published_accuracy` is a share between 0 and 1, where the prompt has one."""

    name: str
    template: str
    boundary: str
    labels: tuple[LabelFacts, ...]
    fingerprint: str
    published_accuracy: float | None = None

    @property
    def label_ids(self) -> tuple[int, ...]:
        return tuple(sorted(label.id for label in self.labels))

    @property
    def label_names(self) -> dict[int, str]:
        return {label.id: label.name for label in self.labels}


class DatasetFacts(_Facts):
    name: str
    split: str
    revision: str | None = None
    num_rows: int | None = None
    num_items: int
    num_rejected: int = 0


class ModelFacts(_Facts):
    name: str
    revision: str
    dtype: str
    device: str
    num_parameters: int | None = None
    demonstration: bool = False


class Manifest(_Facts):
    """What a report needs of manifest.json; its other keys are left alone."""

    labelscore: str = ""
    run_id: str
    started: str
    finished: str
    headline_rule: str
    dataset: DatasetFacts
    model: ModelFacts
    prompts: tuple[PromptFacts, ...]
    counts: dict[str, Any] = {}
    scoring: dict[str, Any] = {}
    libraries: dict[str, str] = {}
    timings: dict[str, Any] = {}


def read_facts(output: Output) -> Manifest:
    """What a report needs of a finished run's manifest. Raises as `need_manifest` does, and InputError for gaps."""
    try:
        return Manifest.model_validate(need_manifest(output))
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"])
        raise InputError(
            f"{output}: {MANIFEST}: {where}: {first['msg']}; run `labelscore run --out {output}` again"
        ) from None
