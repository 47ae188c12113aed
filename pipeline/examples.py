"""Where solved examples come from: another split or file, and of it the rows whose text is not scored.

Invariant: what is drawn for a prompt depends on the source's rows, on the whole scored source and on the columns of
that prompt, and on nothing else: neither on a slice, nor on other prompts.
"""

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from pipeline.classes import choose_classes
from pipeline.config import RunConfig
from pipeline.errors import InputError
from pipeline.items import Item, ItemShape, columns_of
from pipeline.prompts import Prompt, Values
from pipeline.reading.choice_gold import ChoiceGold
from pipeline.reading.dataset import Dataset
from pipeline.reading.formats import ENDINGS, Unreadable, batched
from pipeline.reading.gold import Classes
from pipeline.reading.labels import shorten
from pipeline.reading.places import existing_path, find_path, looks_local
from pipeline.reading.splits import SPLITS
from pipeline.shots import Example, draw_shots, first_shots
from pipeline.sources import open_source, read_golds


@dataclass(frozen=True, slots=True)
class ShotsSource:
    """Where solved examples come from: its rows, and its own classes, which are those of the data set by name."""

    dataset: Dataset
    golds: Classes | ChoiceGold
    scored: Dataset
    scored_golds: Classes | ChoiceGold


@dataclass(frozen=True, slots=True)
class Shots:
    """The solved examples drawn, by prompt; `num_left_out` rows hold a text that is scored."""

    examples: Mapping[str, tuple[Example, ...]] = field(default_factory=dict)
    num_left_out: int = 0
    remark: str | None = None  # on how the labels of their source were read


def open_shots(
    config: RunConfig, dataset: Dataset, golds: Classes | ChoiceGold, prompts: Sequence[Prompt]
) -> ShotsSource:
    """Open the source of the solved examples. Raises InputError where it is what is scored, or has other classes."""
    # A larger slice must not change the draw, so that it does not ask for what `where` asks.
    shots = _find_shots(config.model_copy(update={"where": {}}), dataset, prompts)
    scored, drawn = ({file.resolve() for file in each.files} for each in (dataset, shots))
    places = {(each.location, _base(each.split)) for each in (dataset, shots)}
    if scored & drawn or (not drawn and len(places) == 1):
        raise InputError(
            f"shots_split is '{config.shots_split}', and what it names is scored itself; draw the solved examples from "
            "another split, such as train, or from another file"
        )
    if isinstance(golds, ChoiceGold):
        return ShotsSource(shots, read_golds(config, shots, ItemShape(prompts)), dataset, golds)
    # What the configuration calls the ids of the data set says nothing of a file that names its own.
    own = choose_classes(config.model_copy(update={"label_names": None}) if shots.names else config, shots)
    _refuse_other_classes(config, dataset, golds, shots, own)
    return ShotsSource(shots, own, dataset, golds)


def _refuse_other_classes(config: RunConfig, dataset: Dataset, classes: Classes, shots: Dataset, own: Classes) -> None:
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


def _find_shots(config: RunConfig, dataset: Dataset, prompts: Sequence[Prompt]) -> Dataset:
    name = _base(config.shots_split)
    path = None if name.lower() in SPLITS else _find_file(name, dataset)
    if path is not None:
        split = "train" if path.is_dir() else path.name
        return open_source(config, str(path), split + config.shots_split.removeprefix(name), prompts)
    if [str(file.resolve()) for file in dataset.files] == [dataset.location]:
        raise InputError(
            f"the solved examples come from the split '{config.shots_split}', and {dataset.name} is one file; name a "
            "file with --shots-split"
        )
    return open_source(config, config.dataset, config.shots_split, prompts)


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


def draw(config: RunConfig, source: ShotsSource | None, prompts: Sequence[Prompt]) -> Shots:
    """The solved examples, from rows whose text stands nowhere in the whole scored source; none without a source.

    So a limit or a slice of it does not change them. Rows that cannot be used are passed over. Raises InputError where
    there are too few.
    """
    if source is None:
        return Shots()
    drawn: dict[tuple[str, ...], tuple[Example, ...]] = {}
    num_left_out = 0
    for prompt in prompts:
        if prompt.columns not in drawn:
            rows = _Candidates(source, prompt, columns_of(prompts))
            drawn[prompt.columns] = _draw(config, source, rows)
            num_left_out = max(num_left_out, rows.num_left_out)
    return Shots({prompt.name: drawn[prompt.columns] for prompt in prompts}, num_left_out, source.golds.remark)


def _draw(config: RunConfig, source: ShotsSource, rows: "_Candidates") -> tuple[Example, ...]:
    num_shots = config.num_shots or 0
    if config.shots_draw == "first":
        return first_shots(rows, num_shots=num_shots)
    names = source.scored_golds.names if isinstance(source.scored_golds, Classes) else None
    return draw_shots(rows, num_shots=num_shots, label_names=names, seed=config.draw_seed)


class _Candidates:
    """The rows that may be drawn for a prompt; counts those left out because what it reads of them is scored.

    What other prompts read changes nothing here. Of items with choices of their own the slots count: a question is the
    same in whatever order its choices stand.
    """

    def __init__(self, source: ShotsSource, prompt: Prompt, columns: Sequence[str]) -> None:
        """`columns`: those of all prompts of the run; what stands behind them in the source is no item's."""
        self._golds, self._shape = source.golds, ItemShape((prompt,))
        self._read = prompt.slot_columns or prompt.columns
        golds = source.scored_golds
        self._position = {name: at for at, name in enumerate(golds.names)} if isinstance(golds, Classes) else None
        sound = (self._shape.values(row) for row in source.scored.only(prompt.columns).every_item())
        keys = (self._key(values) for values in sound if not isinstance(values, Unreadable))
        self._scored = np.unique(np.fromiter(keys, np.uint64))  # 8 bytes a row
        behind = [column.name for column in source.dataset.columns[len(columns) :]]
        self._rows = source.dataset.only((*prompt.columns, *behind))
        self.num_left_out = 0

    def __iter__(self) -> Iterator[Example]:
        items = (self._shape.read(row, self._golds) for row in self._rows.rows())
        usable = (item for item in items if isinstance(item, Item) and len(item.gold) == 1)
        for batch in batched(usable):
            is_scored = np.isin(np.array([self._key(item.values) for item in batch], np.uint64), self._scored)
            for item, scored in zip(batch, is_scored, strict=True):
                if scored:
                    self.num_left_out += 1
                else:
                    place = item.gold[0] if self._position is None else self._position[item.names[0]]
                    yield Example(self._shape.shown(item.values), item.values, place)

    def _key(self, values: Values) -> int:
        """64 bits by which what is read is known again, white space aside. Two share one by chance once in 2^64."""
        texts = (" ".join(str(values[column]).split()) for column in self._read)
        return int.from_bytes(hashlib.sha256("\0".join(texts).encode()).digest()[:8])
