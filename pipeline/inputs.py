"""What a run reads before it needs a model: the data set, its labels, the prompts, the source of solved examples.

Invariant: nothing here imports torch or asks for a model, so that whatever a user got wrong in these is told at once.
"""

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from pipeline.classes import choose_prompts, known_prompt
from pipeline.config import RunConfig
from pipeline.errors import InputError
from pipeline.examples import ShotsSource, open_shots
from pipeline.harness.installed import need_harness
from pipeline.items import ItemShape
from pipeline.prompts import CLASS_RULES, REQUESTS, Prompt
from pipeline.reading.choice_gold import ChoiceGold
from pipeline.reading.dataset import DEFAULT_LABEL_COLUMN, Dataset
from pipeline.reading.gold import Classes
from pipeline.sources import open_source, read_golds
from pipeline.templates import TEXT

if TYPE_CHECKING:
    from pipeline.harness.tasks import Tasks

SMALL_BYTES = 32_000_000


@dataclass(frozen=True, slots=True)
class Inputs:
    """The data set, what its labels stand for (classes, or an item's own choices), the prompts, and what items are."""

    dataset: "Dataset | Tasks"
    golds: Classes | ChoiceGold
    prompts: tuple[Prompt, ...]
    shape: ItemShape
    shots: ShotsSource | None = None


def read_inputs(config: RunConfig) -> Inputs:
    """Open everything that the configuration names but the model, and bring the classes together.

    Raises InputError for what does not exist or fit, RunError where the hub fails.
    """
    if config.task:
        shape = ItemShape((REQUESTS,), has_tasks=True)
        return Inputs(open_tasks(config), ChoiceGold("place"), (REQUESTS,), shape)
    known = [known_prompt(config, name) for name in dict.fromkeys(config.prompt)]
    shape = ItemShape(known)
    _refuse_unused(config, shape, known)
    try:
        dataset = open_source(config, config.dataset, config.split, known)
    except InputError as error:
        if unused := set(config.prompts) - set(config.prompt):
            raise InputError(f"{error} (not used: {_tables(unused)})") from None
        raise
    golds = read_golds(config, dataset, shape)
    prompts = choose_prompts(config, golds) if isinstance(golds, Classes) else tuple(known)
    shots = open_shots(config, dataset, golds, known) if config.num_shots else None
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


def open_tasks(config: RunConfig) -> "Tasks":
    """The tasks of lm-evaluation-harness that are asked for, with their data. Raises what `read_inputs` raises."""
    need_harness()
    from pipeline.harness.tasks import Tasks

    return Tasks(config.task, config.task_path, num_shots=config.num_shots, seed=config.draw_seed, limit=config.limit)


def check_tasks(config: RunConfig) -> None:
    """Look whether there are such tasks, without their data. Raises InputError where there are not."""
    need_harness()
    from pipeline.harness.index import find_tasks

    find_tasks(config.task, config.task_path)


def is_small(inputs: Inputs) -> bool:
    """Whether drawing solved examples, which reads every text, takes no time to speak of."""
    assert isinstance(inputs.dataset, Dataset)
    files = inputs.dataset.files + (inputs.shots.dataset.files if inputs.shots else ())
    return sum(file.stat().st_size for file in files) < SMALL_BYTES
