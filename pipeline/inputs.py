"""What a run reads before it needs a model: the data set, its classes, the prompts, the source of solved examples.

Invariant: nothing here imports torch or asks for a model, so that whatever a user got wrong in these is told at once.
"""

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from pipeline.bundled import SAMPLE, sample_path
from pipeline.classes import choose_classes, choose_prompts
from pipeline.config import RunConfig
from pipeline.errors import InputError
from pipeline.prompts import AG_NEWS, Prompt
from pipeline.reading.dataset import Dataset, open_dataset
from pipeline.reading.formats import ENDINGS, Layout, batched
from pipeline.reading.gold import Classes
from pipeline.reading.labels import shorten
from pipeline.reading.places import existing_path, find_path, looks_local
from pipeline.reading.rows import Item, check_row, check_text
from pipeline.reading.splits import SPLITS
from pipeline.shots import draw_shots, first_shots

SMALL_BYTES = 32_000_000


@dataclass(frozen=True, slots=True)
class ShotsSource:
    """Where solved examples come from: its rows, and its own classes, which are those of the data set by name."""

    dataset: Dataset
    classes: Classes


@dataclass(frozen=True, slots=True)
class Inputs:
    """The data set, its classes, and the prompts with their words for them."""

    dataset: Dataset
    classes: Classes
    prompts: tuple[Prompt, ...]
    shots: ShotsSource | None


@dataclass(frozen=True, slots=True)
class Shots:
    """The solved examples drawn: text and position of its class; `num_left_out` rows hold a text that is scored."""

    examples: tuple[tuple[str, int], ...] = ()
    num_left_out: int = 0
    remark: str | None = None  # on how the labels of their source were read


def read_inputs(config: RunConfig) -> Inputs:
    """Open everything that the configuration names but the model, and bring the classes together.

    Raises InputError for what does not exist or fit, RunError where the hub fails.
    """
    dataset = _open(config, config.dataset, config.split)
    classes = choose_classes(config, dataset)
    prompts = choose_prompts(config, classes)
    return Inputs(dataset, classes, prompts, _open_shots(config, dataset, classes) if config.num_shots else None)


def is_local(config: RunConfig) -> bool:
    """Whether the data set is on this machine. Raises InputError for a path to nothing."""
    return config.dataset == SAMPLE or find_path(config.dataset, ENDINGS, bundled=(SAMPLE,)) is not None


def _open(config: RunConfig, name: str, split: str) -> Dataset:
    if name == SAMPLE:
        dataset = open_dataset(sample_path(split.partition("[")[0]), split=split, class_names=AG_NEWS)
        return replace(dataset, name=SAMPLE, location=SAMPLE)
    return open_dataset(
        name,
        split=split,
        subset=config.subset,
        revision=config.dataset_revision,
        text_column=config.text_column,
        label_column=config.label_column,
        layout=Layout(config.encoding, config.columns),
    )


# Solved examples


def _open_shots(config: RunConfig, dataset: Dataset, classes: Classes) -> ShotsSource:
    """Open the source of the solved examples. Raises InputError where it is what is scored, or has other classes."""
    shots = _find_shots(config, dataset)
    scored, drawn = ({file.resolve() for file in each.files} for each in (dataset, shots))
    places = {(each.location, _base(each.split)) for each in (dataset, shots)}
    if scored & drawn or (not drawn and len(places) == 1):
        raise InputError(
            f"shots_split is '{config.shots_split}', and what it names is scored itself; draw the solved examples from "
            "another split, such as train, or from another file"
        )
    # What the configuration calls the ids of the data set says nothing of a file that names its own.
    own = choose_classes(config.model_copy(update={"label_names": None}) if shots.names else config, shots)
    if own.unread:
        raise InputError(
            f"shots_split '{config.shots_split}': its labels {shorten(own.unread)} are none of the classes "
            f"{own.shown}; mend the file, or choose another"
        )
    differ = set(zip(own.ids, own.names, strict=True)) != set(zip(classes.ids, classes.names, strict=True))
    by_id = shots.names is None and any(isinstance(value, int) for value in own.codes)
    if set(own.names) != set(classes.names) or (differ and by_id):
        raise InputError(
            f"shots_split '{config.shots_split}': its classes ({own.shown}) are not those of {dataset.name} "
            f"({classes.shown}); name them in the file, or choose another"
        )
    return ShotsSource(shots, own)


def _find_shots(config: RunConfig, dataset: Dataset) -> Dataset:
    name = _base(config.shots_split)
    path = None if name.lower() in SPLITS else _find_file(name, dataset)
    if path is not None:
        split = "train" if path.is_dir() else path.name
        return _open(config, str(path), split + config.shots_split.removeprefix(name))
    if [str(file.resolve()) for file in dataset.files] == [dataset.location]:
        raise InputError(
            f"the solved examples come from the split '{config.shots_split}', and {dataset.name} is one file; name a "
            "file with --shots-split"
        )
    return _open(config, config.dataset, config.shots_split)


def _find_file(name: str, dataset: Dataset) -> Path | None:
    """The file that solved examples come from, None for a split. Raises InputError where it could be either of two."""
    path, within = existing_path(name), existing_path(Path(dataset.location) / name)
    if within is None:
        return path if path or not looks_local(name, ENDINGS) else find_path(name, ENDINGS)
    if path is not None and path.resolve() != within.resolve():
        raise InputError(f"shots_split '{name}' may be {path.resolve()} or {within}; write the whole path")
    return path  # None for a file of the data set's folder, which it has as a split


def _base(split: str) -> str:
    return split.partition("[")[0]


def is_small(inputs: Inputs) -> bool:
    """Whether drawing solved examples, which reads every text, takes no time to speak of."""
    files = inputs.dataset.files + (inputs.shots.dataset.files if inputs.shots else ())
    return sum(file.stat().st_size for file in files) < SMALL_BYTES


def draw(config: RunConfig, inputs: Inputs) -> Shots:
    """The solved examples, from rows whose text stands nowhere in the whole scored source.

    So a limit or a slice of it does not change them. Rows that cannot be used are passed over. Raises InputError where
    there are too few.
    """
    if inputs.shots is None:
        return Shots()
    rows = _Candidates(inputs.shots, inputs.classes, inputs.dataset)
    if config.shots_draw == "first":
        examples = first_shots(rows, num_shots=config.num_shots)
    else:
        examples = draw_shots(rows, num_shots=config.num_shots, label_names=inputs.classes.names, seed=config.seed)
    return Shots(examples, rows.num_left_out, inputs.shots.classes.remark)


class _Candidates:
    """The (text, class) of rows that may be drawn; counts those left out because their text is scored."""

    def __init__(self, shots: ShotsSource, classes: Classes, scored: Dataset) -> None:
        self._shots = shots
        self._position = {name: position for position, name in enumerate(classes.names)}
        keys = (_key(text) for texts in scored.all_texts() for text in texts if isinstance(check_text(text), str))
        self._scored = np.unique(np.fromiter(keys, np.uint64))  # 8 bytes a row
        self.num_left_out = 0

    def __iter__(self) -> Iterator[tuple[str, int]]:
        items = (check_row(row, self._shots.classes) for row in self._shots.dataset.rows())
        usable = ((i.text, i.gold) for i in items if isinstance(i, Item) and i.gold is not None)
        for batch in batched(usable):
            keys = np.array([_key(text) for text, _ in batch], np.uint64)
            for (text, gold), is_scored in zip(batch, np.isin(keys, self._scored), strict=True):
                if is_scored:
                    self.num_left_out += 1
                else:
                    yield text, self._position[gold]


def _key(text: object) -> int:
    """64 bits by which a text is known again, white space aside. Two texts share one by chance once in 2^64."""
    return int.from_bytes(hashlib.sha256(" ".join(str(text).split()).encode()).digest()[:8])
