"""A source of rows as the configuration names it: its data set, and what its labels stand for.

Invariant: nothing here imports torch or asks for a model.
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from pipeline.bundled import SAMPLE, sample_path
from pipeline.classes import choose_classes
from pipeline.config import RunConfig
from pipeline.harness.installed import is_installed
from pipeline.items import ItemShape
from pipeline.prompts import AG_NEWS, Prompt
from pipeline.reading.choice_gold import ChoiceGold, read_gold
from pipeline.reading.dataset import Dataset, open_dataset
from pipeline.reading.formats import ENDINGS, Layout
from pipeline.reading.gold import Classes
from pipeline.reading.labels import label_values, whole_numbers
from pipeline.reading.places import find_path


def is_local(config: RunConfig) -> bool:
    """Whether the data set is on this machine. Raises InputError for a path to nothing."""
    return config.dataset == SAMPLE or find_path(config.dataset, ENDINGS, bundled=(SAMPLE,)) is not None


def open_source(config: RunConfig, name: str, split: str, prompts: Sequence[Prompt]) -> Dataset:
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
        gold_of=_gold_by_task if is_installed() else None,
        no_slots=[name for prompt in prompts for name in prompt.no_slots],
    )


def _gold_by_task(task: str, document: Mapping[str, Any]) -> int | None:
    """What the task's own code says of a document. The harness takes seconds to import, and few logs need it."""
    from pipeline.harness.logs import right_context

    return right_context(task, document)


def read_golds(config: RunConfig, dataset: Dataset, shape: ItemShape) -> Classes | ChoiceGold:
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
