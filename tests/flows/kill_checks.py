"""What must hold of an output, whatever was killed: all of it can be read, nothing is torn, doubled, lost or changed.

Invariant: nothing here changes what it looks at; a check returns what is wrong in words, nothing where all is right.
"""

from collections.abc import Mapping
from pathlib import Path

import polars as pl

from pipeline.analysis import load_run
from pipeline.storing.files import WORK, Output
from pipeline.storing.layout import ITEMS, MANIFEST, PREDICTIONS, SCORES
from pipeline.storing.runs import changed_files, open_run, run_folders
from pipeline.storing.upkeep import verify

KEYS = ["item_id", "prompt", "label_id"]


def check_readable(out: Path) -> list[str]:
    """What a reader of the published files would trip over at this moment: a torn file, a doubled row, a score lost."""
    wrong = []
    for path in out.rglob("*.parquet"):
        if path.name.startswith(".tmp-") or WORK in path.parts:
            continue
        try:
            table = pl.read_parquet(path)
        except Exception as error:
            wrong.append(f"{path.name} cannot be read: {error}")
            continue
        if path.name == "scores.parquet" and table.select(KEYS).is_duplicated().any():
            wrong.append("the score table has doubled rows")
    return wrong + (check_published(out) if (out / MANIFEST).exists() else [])


def check_published(out: Path) -> list[str]:
    """Whatever is wrong with the last finished run: each of its files, and the documented joins of its tables."""
    try:
        folder, manifest = open_run(Output(out, create=False))
        found = load_run(out)
    except Exception as error:
        return [f"the last run does not open: {error}"]
    wrong = [str(finding) for finding in changed_files(folder, manifest.files)]
    # By the names in `out`, too; a first run may be killed before it has made them.
    links = [out] if all((out / name).exists() for name in (SCORES, ITEMS, PREDICTIONS)) else []
    return wrong + [what for place in (found.folder, *links) for what in _check_joins(place)]


def _check_joins(folder: Path) -> list[str]:
    wrong = []
    items = pl.read_parquet(folder / ITEMS)
    for name in (SCORES, PREDICTIONS):
        table = pl.read_parquet(folder / name)
        if table["item_id"].n_unique() != items.height:
            wrong.append(f"{name} has {table['item_id'].n_unique()} items, not {items.height}")
        if table.join(items, on=["item_id", "text_hash"]).height != table.height:
            wrong.append(f"{name} has rows without their item")
    return wrong


def compare(out: str | Path, reference: Path, limit: int) -> list[str]:
    """Whatever differs between a finished output and the first `limit` items of another one; empty if nothing."""
    output = Output(out, create=False)
    # In a bucket no lock tells whether a run is at work: there the folder of a killed one stays for a day.
    left = [name for name, is_finished in run_folders(output).items() if output.remote and not is_finished]
    wrong = [str(finding) for finding in verify(output) if finding.name not in left]
    folder, _ = open_run(output)
    ours, theirs = pl.read_parquet(folder.fetch(SCORES)), pl.read_parquet(reference / SCORES)
    theirs = theirs.filter(pl.col("item_id") < limit)
    if not ours.select(KEYS).equals(theirs.select(KEYS)):
        return [*wrong, f"other keys: {ours.height} rows, undisturbed {theirs.height}"]
    for name in ("logprob", "logit"):
        # The bound for another composition of the batches.
        bound = 1e-6 * pl.max_horizontal(1.0, theirs[name].abs()) + 1e-5
        difference = (ours[name] - theirs[name]).abs()
        if not (difference <= theirs.select(bound).to_series()).all():
            wrong.append(f"{name} differs by up to {difference.max()!r}")
    set_aside = [name for name in output.list("store") if "set-aside" in name]
    return wrong + [f"a kill left a damaged part: {name}" for name in set_aside]


def check_kept(files: Mapping[str, object], kept: Mapping[str, object]) -> list[str]:
    """Those of `kept` that are gone or were replaced; both hold what tells a file from another one by its name."""
    gone = [f"{name} is gone" for name in kept if name not in files]
    return gone + [f"{name} was replaced" for name in kept if name in files and files[name] != kept[name]]


def check_last_line(said: str) -> list[str]:
    """A run that failed must end in one line for people."""
    last = said.rstrip().rpartition("\n")[2]
    wrong = ["it shows a traceback"] if "Traceback" in said else []
    return wrong + ([] if last.startswith("labelscore: error: ") else [f"it ended without its line: {last[-200:]!r}"])
