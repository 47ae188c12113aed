"""Splits of hub data sets: `datasets` decides which files hold them, `pipeline.reading.hub` fetches those.

Invariant: only the files of the split asked for are downloaded, once, at one commit; afterwards no request is needed.

`datasets.load_dataset` is not used for the download: it fetches every split, keeps a second copy of all of it as Arrow
files, asks the hub again on each run, and when the hub says no (or HF_HUB_OFFLINE is set) takes the newest copy it has,
of whatever revision. Here it is shown a folder that looks like the repository, so that its rules for configurations,
splits and features apply without a request.
"""

import tempfile
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import datasets

from pipeline.errors import InputError
from pipeline.reading.formats import BATCH_ROWS, PLAIN, Batch, Part
from pipeline.reading.hub import Repo, fetch, find_repo
from pipeline.reading.hub_errors import describe
from pipeline.reading.readers import open_files

DESCRIPTIONS = ("README.md", ".huggingface.yaml", "dataset_infos.json")
Outline = tempfile.TemporaryDirectory  # it lives as long as somebody may read from it: a finalizer removes it at exit


def open_hub_split(
    repo_id: str, split: str, subset: str | None, revision: str | None, looked_for: Sequence[str]
) -> tuple[str, tuple[Part, ...]]:
    """Find, download and open one split of a hub data set: its commit, and its parts.

    `looked_for` are the columns that will be read. Raises InputError for a data set, subset, split or revision that is
    not there, RunError where the hub fails.
    """
    repo = find_repo(repo_id, "dataset", revision, probe="README.md")
    described = fetch(repo, [name for name in DESCRIPTIONS if name in repo.files])
    outline = Outline(prefix="labelscore-")
    folder = Path(outline.name)
    _draw_outline(folder, repo, described)
    builder = _builder(repo_id, folder, subset)
    names = _files_of(builder, repo_id, split, folder)
    snapshot = fetch(repo, names)
    class_names = _class_names(builder.info.features)
    if all(name.endswith(".parquet") for name in names):
        outline.cleanup()
        return repo.commit, open_files([snapshot / name for name in names], looked_for, PLAIN, class_names)
    for name in names:
        (folder / name).unlink()
        (folder / name).symlink_to((snapshot / name).resolve())
    return repo.commit, (_open_stream(repo_id, builder, split, class_names, outline),)


def _draw_outline(folder: Path, repo: Repo, described: Path) -> None:
    """An empty file for each of the repository's, and its real descriptions."""
    for name in repo.files:
        place = folder / name
        if not place.resolve().is_relative_to(folder.resolve()):
            raise InputError(f"{repo.id}: holds a file name that leads out of it ({name}); do not use it")
        place.parent.mkdir(parents=True, exist_ok=True)
        place.write_bytes((described / name).read_bytes() if name in DESCRIPTIONS else b"")


def _builder(repo_id: str, outline: Path, subset: str | None) -> datasets.DatasetBuilder:
    datasets.logging.set_verbosity_error()  # remarks on the card's details are for its author
    try:
        return datasets.load_dataset_builder(str(outline), name=subset, cache_dir=str(outline / ".cache"))
    except Exception as error:
        text = describe(error, 300).replace(str(outline), repo_id)
        raise InputError(f"{repo_id}: {text} (a configuration is chosen with --subset)") from None


def _files_of(builder: datasets.DatasetBuilder, repo_id: str, split: str, outline: Path) -> list[str]:
    data_files = builder.config.data_files or {}
    if split not in data_files:
        raise InputError(f"{repo_id}: no split '{split}'; it has {', '.join(map(str, data_files)) or 'none'}")
    return [Path(file).relative_to(outline.resolve()).as_posix() for file in data_files[split]]


def _class_names(features: Any) -> dict[str, tuple[str, ...]]:
    # A list of classes has the names in the feature of its elements.
    kinds = {column: getattr(feature, "feature", feature) for column, feature in (features or {}).items()}
    return {
        column: tuple(feature.names)
        for column, feature in kinds.items()
        if isinstance(feature, datasets.ClassLabel) and feature.names
    }


# Every other format is read by `datasets` itself


def _open_stream(
    repo_id: str,
    builder: datasets.DatasetBuilder,
    split: str,
    class_names: dict[str, tuple[str, ...]],
    outline: "Outline[str]",
) -> Part:
    builder.config.data_files = datasets.data_files.DataFilesDict({split: builder.config.data_files[split]})
    try:
        stream = builder.as_streaming_dataset(split=split)
        first = next(iter(stream), None)
    except Exception as error:
        raise InputError(f"{repo_id}: split '{split}' cannot be read ({describe(error, 300)})") from None
    if first is None:
        raise InputError(f"{repo_id}: split '{split}' holds no rows")
    info = (builder.info.splits or {}).get(split)
    num_rows = (info and info.num_examples) or None
    read = partial(_stream_rows, repo_id, stream, outline)
    return Part(None, tuple(first), read, num_rows, class_names | _class_names(stream.features))


def _stream_rows(
    repo_id: str, stream: datasets.IterableDataset, _outline: "Outline[str]", columns: Sequence[str]
) -> Iterator[Batch]:
    try:
        for batch in stream.select_columns(list(columns)).iter(BATCH_ROWS):
            yield list(zip(*(batch[column] for column in columns), strict=True))
    except Exception as error:
        raise InputError(f"{repo_id}: cannot be read ({describe(error, 300)})") from None
