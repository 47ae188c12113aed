"""Open a finished run: `from pipeline.analysis import load_run`.

Invariant: everything is lazy and read-only. What the manifest vouches for is hashed on opening, so that the tables of
two runs are never joined; nothing else is read until a query is collected.
"""

from dataclasses import dataclass
from pathlib import Path

import polars as pl

from pipeline.errors import InputError
from pipeline.storing.files import Output
from pipeline.storing.layout import ITEMS, PREDICTIONS, SCORES
from pipeline.storing.manifest import Manifest, need_manifest
from pipeline.storing.published import need_whole


@dataclass(frozen=True, slots=True)
class Run:
    """A finished run: three LazyFrames (their columns are in data/README.md) and its manifest."""

    folder: Path
    scores: pl.LazyFrame
    items: pl.LazyFrame
    predictions: pl.LazyFrame
    manifest: Manifest


def load_run(out: str | Path) -> Run:
    """The tables of the run in `out`.

    Raises InputError where it holds no finished run with a report, RunError where its manifest is damaged or newer, or
    a table is not the one that it names.
    """
    output = Output(out, create=False)
    manifest = need_manifest(output)
    is_old = SCORES in manifest.files and PREDICTIONS not in manifest.files  # the run was killed before its report
    if is_old or not output.exists(PREDICTIONS):
        raise InputError(f"{out} has no {PREDICTIONS} of its last run; make it with `labelscore report {out}`")
    need_whole(output, manifest, (SCORES, ITEMS, PREDICTIONS))
    return Run(output.root, scan(output, SCORES), scan(output, ITEMS), scan(output, PREDICTIONS), manifest)


def scan(output: Output, name: str) -> pl.LazyFrame:
    """One of the run's tables, lazily. Raises InputError where the file is missing."""
    if not output.exists(name):
        raise InputError(f"{output} has no {name}; run `labelscore run --out {output}` again")
    return pl.scan_parquet(output.fetch(name), glob=False)
