"""What a run reads before it needs a model: the data set, its labels, the prompts, the source of solved examples.

Invariant: nothing here imports torch or asks for a model, so that whatever a user got wrong in these is told at once.
"""

import hashlib
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np

from pipeline.bundled import SAMPLE, sample_path
from pipeline.classes import choose_classes, choose_prompts, known_prompt
from pipeline.config import RunConfig
from pipeline.errors import InputError
from pipeline.items import Item, ItemShape
from pipeline.prompts import AG_NEWS, CLASS_RULES, Prompt, Values
from pipeline.reading.choice_gold import ChoiceGold, read_gold
from pipeline.reading.dataset import DEFAULT_LABEL_COLUMN, Dataset, open_dataset
from pipeline.reading.formats import ENDINGS, Layout, Unreadable, batched
from pipeline.reading.gold import Classes
from pipeline.reading.labels import label_values, shorten, whole_numbers
from pipeline.reading.places import existing_path, find_path, looks_local
from pipeline.reading.splits import SPLITS
from pipeline.shots import Example, draw_shots, first_shots
from pipeline.templates import TEXT

SMALL_BYTES = 32_000_000


@dataclass(frozen=True, slots=True)
class ShotsSource:
    """Where solved examples come from: its rows, and its own classes, which are those of the data set by name."""

    dataset: Dataset
    golds: Classes | ChoiceGold


@dataclass(frozen=True, slots=True)
class Inputs:
    """The data set, what its labels stand for (classes, or an item's own choices), the prompts, and what items are."""

    dataset: Dataset
    golds: Classes | ChoiceGold
    prompts: tuple[Prompt, ...]
    shape: ItemShape
    shots: ShotsSource | None


@dataclass(frozen=True, slots=True)
class Shots:
    """The solved examples drawn, by prompt; `num_left_out` rows hold a text that is scored."""

    examples: Mapping[str, tuple[Example, ...]] = field(default_factory=dict)
    num_left_out: int = 0
    remark: str | None = None  # on how the labels of their source were read


def read_inputs(config: RunConfig) -> Inputs:
    """Open everything that the configuration names but the model, and bring the classes together.

    Raises InputError for what does not exist or fit, RunError where the hub fails.
    """
    known = [known_prompt(config, name) for name in dict.fromkeys(config.prompt)]
    shape = ItemShape(known)
    _refuse_unused(config, shape, known)
    try:
        dataset = _open(config, config.dataset, config.split, known)
    except InputError as error:
        if unused := set(config.prompts) - set(config.prompt):
            raise InputError(f"{error} (not used: {_tables(unused)})") from None
        raise
    golds = _read_golds(config, dataset, shape)
    prompts = choose_prompts(config, golds) if isinstance(golds, Classes) else tuple(known)
    if isinstance(golds, Classes):
        shape = ItemShape(prompts)
    shots = _open_shots(config, dataset, golds, known) if config.num_shots else None
    return Inputs(dataset, golds, prompts, shape, shots)


def _tables(names: Collection[str]) -> str:
    """Prompts that a configuration defines and does not choose."""
    listed = ", ".join(sorted(names))
    return f'[prompts.{listed}]; choose them with prompt = ["{listed}"]'


def _refuse_unused(config: RunConfig, shape: ItemShape, prompts: Sequence[Prompt]) -> None:
    """Raises InputError for what was asked for and would change nothing here."""
    if shape.has_choices and config.rule in CLASS_RULES:
        raise InputError(
            f"rule '{config.rule}' needs the same labels for all items, and here each item brings its own choices; use "
            "sum, mean_char, mean_byte or mean_token"
        )
    if config.gold is not None and not shape.has_choices:
        raise InputError("gold is the place of a choice, and these prompts have labels; name a label column instead")
    if config.text_column != TEXT and TEXT not in shape.columns:
        raise InputError(
            f"text_column is '{config.text_column}', and no prompt has {{{TEXT}}}; write {{{config.text_column}}} in a "
            "template, or leave text_column out"
        )
    if shape.is_requests and config.label_column not in (DEFAULT_LABEL_COLUMN, "gold"):
        raise InputError("requests have their gold label in the column 'gold'; leave out label_column")
    if shape.is_requests and config.num_shots:
        raise InputError("requests are scored as they stand, without solved examples; leave out num_shots")
    for prompt in prompts:
        if config.max_text_tokens and not prompt.cut_columns:
            raise InputError(f"max_text_tokens: prompt '{prompt.name}' has no column that could be cut; leave it out")


def _read_golds(config: RunConfig, dataset: Dataset, shape: ItemShape) -> Classes | ChoiceGold:
    """What the labels stand for, whatever slice of the source is scored."""
    if not shape.has_choices:
        return choose_classes(config, dataset)
    if config.gold is not None:
        return ChoiceGold("place", constant=config.gold)
    if name := _names_column(config, shape):
        return ChoiceGold("own name", column=name)
    if dataset.label is None:
        return ChoiceGold("place")  # that there is no label has been said
    names = (config.label_names if not isinstance(config.label_names, str) else None) or None
    columns = shape.choice_columns
    class_names = dataset.names.names if dataset.names else None
    own = columns if len(columns) > 1 else None
    where = f"{dataset.name} ({dataset.split})"
    narrow = dataset.only(columns)
    if dataset.where and any(whole_numbers(label_values(label)) for label, _ in shape.labelled(narrow.all_rows())):
        narrow = replace(narrow, where=())  # how numbers count, only all of them tell
    return read_gold(shape.labelled(narrow.all_rows()), where, names=names, class_names=class_names, column_names=own)


def _names_column(config: RunConfig, shape: ItemShape) -> str | None:
    """The column that says what the label calls an item's choices, where the configuration names one."""
    names = config.label_names
    if not shape.has_choices or names is None or isinstance(names, Mapping):
        return None
    if isinstance(names, tuple):
        return names[0] if len(names) == 1 else None
    return names


def is_local(config: RunConfig) -> bool:
    """Whether the data set is on this machine. Raises InputError for a path to nothing."""
    return config.dataset == SAMPLE or find_path(config.dataset, ENDINGS, bundled=(SAMPLE,)) is not None


def _open(config: RunConfig, name: str, split: str, prompts: Sequence[Prompt]) -> Dataset:
    shape = ItemShape(prompts)
    names = _names_column(config, shape)
    columns = (*shape.columns, *([names] if names and config.gold is None else []))
    if name == SAMPLE:
        dataset = open_dataset(
            sample_path(split.partition("[")[0]), split=split, columns=columns, where=config.where, class_names=AG_NEWS
        )
        return replace(dataset, name=SAMPLE, location=SAMPLE)
    return open_dataset(
        name,
        split=split,
        subset=config.subset,
        revision=config.dataset_revision,
        columns=columns,
        text_column=config.text_column,
        label_column=None if config.gold is not None else "gold" if shape.is_requests else config.label_column,
        where=config.where,
        layout=Layout(config.encoding, config.columns),
        is_requests=shape.is_requests,
        no_slots=[name for prompt in prompts for name in prompt.no_slots],
    )


# Solved examples


def _open_shots(
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
        return ShotsSource(shots, _read_golds(config, shots, ItemShape(prompts)))
    # What the configuration calls the ids of the data set says nothing of a file that names its own.
    own = choose_classes(config.model_copy(update={"label_names": None}) if shots.names else config, shots)
    _refuse_other_classes(config, dataset, golds, shots, own)
    return ShotsSource(shots, own)


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
        return _open(config, str(path), split + config.shots_split.removeprefix(name), prompts)
    if [str(file.resolve()) for file in dataset.files] == [dataset.location]:
        raise InputError(
            f"the solved examples come from the split '{config.shots_split}', and {dataset.name} is one file; name a "
            "file with --shots-split"
        )
    return _open(config, config.dataset, config.shots_split, prompts)


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
    drawn: dict[tuple[str, ...], tuple[Example, ...]] = {}
    num_left_out = 0
    for prompt in inputs.prompts:
        if prompt.columns not in drawn:
            rows = _Candidates(inputs.shots, inputs, prompt)
            drawn[prompt.columns] = _draw(config, inputs, rows)
            num_left_out = max(num_left_out, rows.num_left_out)
    examples = {prompt.name: drawn[prompt.columns] for prompt in inputs.prompts}
    return Shots(examples, num_left_out, inputs.shots.golds.remark)


def _draw(config: RunConfig, inputs: Inputs, rows: "_Candidates") -> tuple[Example, ...]:
    if config.shots_draw == "first":
        return first_shots(rows, num_shots=config.num_shots)
    names = inputs.golds.names if isinstance(inputs.golds, Classes) else None
    return draw_shots(rows, num_shots=config.num_shots, label_names=names, seed=config.seed)


class _Candidates:
    """The rows that may be drawn for a prompt; counts those left out because what it reads of them is scored.

    What other prompts read changes nothing here. Of items with choices of their own the slots count: a question is the
    same in whatever order its choices stand.
    """

    def __init__(self, shots: ShotsSource, inputs: Inputs, prompt: Prompt) -> None:
        self._shots, self._shape = shots, ItemShape((prompt,))
        self._read = prompt.slot_columns or prompt.columns
        golds = inputs.golds
        self._position = {name: at for at, name in enumerate(golds.names)} if isinstance(golds, Classes) else None
        sound = (self._shape.values(row) for row in inputs.dataset.only(prompt.columns).every_item())
        keys = (self._key(values) for values in sound if not isinstance(values, Unreadable))
        self._scored = np.unique(np.fromiter(keys, np.uint64))  # 8 bytes a row
        behind = [column.name for column in shots.dataset.columns[len(inputs.shape.columns) :]]
        self._rows = shots.dataset.only((*prompt.columns, *behind))
        self.num_left_out = 0

    def __iter__(self) -> Iterator[Example]:
        items = (self._shape.read(row, self._shots.golds) for row in self._rows.rows())
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
