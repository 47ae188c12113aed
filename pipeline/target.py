"""What a run wants: which data set, which model, which prompts, and under which fingerprints their scores are stored.

Invariant: nothing here scores, and weights are loaded only to find out a dtype, once (half.py); a run that has nothing
to do ends after this.
"""

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from pipeline.bundled import DEMO_MODEL, named_model
from pipeline.chat import find_chat, has_date, said_in
from pipeline.chat_remarks import remarks_on_chat
from pipeline.config import CLOCK, RunConfig
from pipeline.errors import InputError
from pipeline.examples import Shots, draw
from pipeline.half import fit_float16, needs_fit
from pipeline.inputs import Inputs, read_inputs
from pipeline.items import ItemShape
from pipeline.prompts import Prompt
from pipeline.reading.chat_template import ChatTemplate
from pipeline.reading.choice_gold import ChoiceGold
from pipeline.reading.dataset import Dataset
from pipeline.reading.gold import Classes
from pipeline.reading.model import ModelRef, load_tokenizer, resolve_model
from pipeline.reading.sharded import check_slices
from pipeline.scoring.markup import lacks_start
from pipeline.scoring.strings import StringEncoder
from pipeline.shots import format_shots, shots_as_turns
from pipeline.storing.fingerprint import StoredPrompt, make_fingerprint

if TYPE_CHECKING:
    from pipeline.harness.tasks import Tasks


@dataclass(frozen=True, slots=True)
class Target:
    """The data set, what its labels stand for and its items are made of, the model, and the prompts.

    Each prompt with the fingerprint of its scores.
    """

    dataset: "Dataset | Tasks"
    golds: Classes | ChoiceGold
    shape: ItemShape
    model: ModelRef
    prompts: tuple[StoredPrompt, ...]
    shots: Shots
    chat_template: ChatTemplate | None = None
    chat_date: str | None = None  # that the chat template writes as today's
    chat_remarks: tuple[str, ...] = ()

    @property
    def is_demonstration(self) -> bool:
        """Whether the bundled demonstration model is used, whose figures say nothing about real models."""
        return self.model.name == DEMO_MODEL


def make_target(config: RunConfig) -> Target:
    """Resolve everything that the configuration names.

    Raises InputError for what does not exist or fit, RunError where the hub fails.
    """
    return fit_target(config, read_inputs(config), find_model(config))


def fit_target(config: RunConfig, inputs: Inputs, model: ModelRef) -> Target:
    """The same from what was read and found already. Raises InputError for what does not fit together."""
    shots = draw(config, inputs.shots, inputs.prompts)
    template = read_template(config, model) if config.chat_template else None
    if isinstance(inputs.dataset, Dataset):
        prompts = [with_surroundings(config, prompt, shots, template) for prompt in inputs.prompts]
    else:
        write_requests(inputs.dataset, model, template)
        prompts = [replace(prompt, has_markup=config.chat_template) for prompt in inputs.prompts]
    known = {"weights": model.weights, "tokenizer": model.tokenizer, "dtype": model.dtype}
    limit, adapter = config.max_text_tokens, model.adapter.digest if model.adapter else None
    fingerprints = [
        make_fingerprint(prompt, **known, max_text_tokens=limit, fix=model.fix, adapter=adapter) for prompt in prompts
    ]
    stored = tuple(StoredPrompt(*pair) for pair in zip(prompts, fingerprints, strict=True))
    found = Target(inputs.dataset, inputs.golds, inputs.shape, model, stored, shots)
    if template is None:
        return found
    date = template.day if has_date(template) else None
    return replace(
        found,
        chat_template=template,
        chat_date=date,
        chat_remarks=tuple(remarks_on_chat(template, prompts, day=date, answer=config.chat_answer or "")),
    )


def read_template(config: RunConfig, model: ModelRef) -> ChatTemplate:
    """The chat template of the model's tokenizer, with the configured variables and date.

    Raises InputError where it has none, or does not use what is configured.
    """
    template = ChatTemplate(load_tokenizer(model), day=config.chat_date or CLOCK, variables=config.chat)
    if config.chat_date and not has_date(template):
        raise InputError("chat_date: the tokenizer's chat template writes no date of today; leave it out")
    return template


def with_surroundings(config: RunConfig, prompt: Prompt, shots: Shots, template: ChatTemplate | None) -> Prompt:
    """A prompt with its solved examples and its chat template, if there are any."""
    examples = shots.examples.get(prompt.name, ())
    if not config.shots_as_turns:
        prompt = replace(prompt, examples=format_shots(prompt, examples))
    if template is None:
        return prompt
    answer = config.chat_answer or ""
    turns = shots_as_turns(prompt, examples, said_in(template, answer)) if config.shots_as_turns else ()
    chat = find_chat(template, prompt, turns, answer)
    return replace(prompt, chat=replace(chat, lacks_start=lacks_start(StringEncoder(template.tokenizer), chat)))


def write_requests(tasks: "Tasks", model: ModelRef, template: ChatTemplate | None) -> None:
    """Have the tasks' requests written, with the markup of the model's chat template if there is one.

    Raises InputError where that fails.
    """
    if template is None:
        tasks.build(special=StringEncoder(load_tokenizer(model)).special)
        return
    from pipeline.harness.chat import render_with

    tasks.build(render_with(template))


def find_model(config: RunConfig) -> ModelRef:
    """The configured model, resolved to files, revision, device and dtype.

    Raises what `named_model`, `resolve_model` and `fit_float16` raise.
    """
    path = named_model(config.model)
    model = resolve_model(
        path or config.model,
        revision=config.revision,
        device=config.device,
        dtype=config.dtype,
        trust_remote_code=config.trust_remote_code,
    )
    model = replace(model, name=config.model) if path else model
    if config.compile == "on" and (not model.device.startswith("cuda") or config.tensor_parallel > 1):
        raise InputError(
            "--compile on is for a whole model on a GPU: a CPU gains nothing by it, and slices are not compiled; leave "
            "it out"
        )
    if config.tensor_parallel > 1:
        check_slices(model, config.tensor_parallel)
        return model  # one device has no room to try the whole of it out
    return fit_float16(model) if config.dtype == "auto" and needs_fit(model) else model
