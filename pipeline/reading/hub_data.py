"""Splits of hub data sets: `datasets` decides which files hold them, `pipeline.reading.hub` fetches those.

Invariant: only the files of the split asked for are downloaded, once, at one commit; afterwards no request is needed.

`datasets.load_dataset` is not used for the download: it fetches every split, keeps a second copy of all of it as Arrow
files, asks the hub again on each run, and when the hub says no (or HF_HUB_OFFLINE is set) takes the newest copy it has,
of whatever revision. Here it is shown a folder that looks like the repository, so that its rules for configurations,
splits and features apply without a request.
"""

import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import datasets  # type: ignore[import-untyped]

from pipeline.errors import InputError
from pipeline.reading import readers
from pipeline.reading.hub import Repo, fetch, find_repo
from pipeline.reading.hub_errors import redact
from pipeline.reading.sources import Source, by_name, open_files

DESCRIPTIONS = ("README.md", ".huggingface.yaml", "dataset_infos.json")


def open_hub_split(
    repo_id: str, split: str, subset: str | None, revision: str | None, looked_for: Sequence[str] = ()
) -> Source:
    """Find, download and open one split of a hub data set; `looked_for` are the columns that will be read.

    Raises InputError for a data set, subset, split or revision that is not there, RunError where the hub fails.
    """
    repo = find_repo(repo_id, "dataset", revision, probe="README.md")
    described = fetch(repo, [name for name in DESCRIPTIONS if name in repo.files])
    # The folder lives as long as somebody may read from it: a finalizer removes it at exit.
    outline = tempfile.TemporaryDirectory(prefix="labelscore-")
    _draw_outline(Path(outline.name), repo, described)
    builder = _builder(repo_id, Path(outline.name), subset)
    names = _files_of(builder, repo_id, split, Path(outline.name))
    snapshot = fetch(repo, names)
    files = [snapshot / name for name in names]
    class_names = _class_names(builder.info.features)
    if all(file.suffix == ".parquet" for file in files):
        outline.cleanup()
        return replace(open_files(repo_id, files, looked_for, class_names=class_names), revision=repo.commit)
    for name in names:
        _replace_by_link(Path(outline.name) / name, snapshot / name)
    return _streamed_split(repo, builder, split, class_names, outline)


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
        text = _short(error).replace(str(outline), repo_id)
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


def _replace_by_link(place: Path, target: Path) -> None:
    place.unlink()
    place.symlink_to(target.resolve())


# Every other format is read by `datasets` itself


def _streamed_split(
    repo: Repo,
    builder: datasets.DatasetBuilder,
    split: str,
    class_names: dict[str, tuple[str, ...]],
    outline: "tempfile.TemporaryDirectory[str]",
) -> Source:
    builder.config.data_files = datasets.data_files.DataFilesDict({split: builder.config.data_files[split]})
    try:
        stream = builder.as_streaming_dataset(split=split)
        first = next(iter(stream), None)
    except Exception as error:
        raise InputError(f"{repo.id}: split '{split}' cannot be read ({_short(error)})") from None
    if first is None:
        raise InputError(f"{repo.id}: split '{split}' holds no rows")
    info = (builder.info.splits or {}).get(split)
    num_rows = info.num_examples if info is not None and info.num_examples else None
    class_names = class_names | _class_names(stream.features)
    read = partial(_stream_rows, repo.id, stream, outline, class_names)
    return Source(repo.id, tuple(first), (), class_names, num_rows, [read], repo.commit)


def _stream_rows(
    repo_id: str,
    stream: datasets.IterableDataset,
    outline: "tempfile.TemporaryDirectory[str]",
    class_names: dict[str, tuple[str, ...]],
    columns: Sequence[str],
) -> Iterator[readers.Batch]:
    try:
        for batch in stream.select_columns(list(columns)).iter(readers.BATCH_ROWS):
            yield tuple(
                by_name(batch[column], class_names[column]) if column in class_names else list(batch[column])
                for column in columns
            )
    except Exception as error:
        raise InputError(f"{repo_id}: cannot be read ({_short(error)})") from None


def _short(error: Exception, limit: int = 300) -> str:
    return redact(" ".join(str(error).split()))[:limit]
