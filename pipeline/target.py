"""What a run wants: which data set, which model, which prompts, and under which fingerprints their scores are stored.

Invariant: nothing here loads weights or scores; a run that has nothing to do ends after this.
"""

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from transformers import PreTrainedTokenizerBase

from pipeline.bundled import DEMO_MODEL, demo_model_path
from pipeline.config import RunConfig
from pipeline.errors import InputError
from pipeline.examples import Shots, draw
from pipeline.inputs import read_inputs
from pipeline.items import ItemShape
from pipeline.reading.choice_gold import ChoiceGold
from pipeline.reading.dataset import Dataset
from pipeline.reading.gold import Classes
from pipeline.reading.model import NO_CHAT_TEMPLATE, ModelRef, load_tokenizer, resolve_model
from pipeline.scoring.strings import StringEncoder
from pipeline.shots import format_shots
from pipeline.storing.fingerprint import CHAT_SLOT, StoredPrompt, make_fingerprint

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

    @property
    def is_demonstration(self) -> bool:
        """Whether the bundled demonstration model is used, whose figures say nothing about real models."""
        return self.model.name == DEMO_MODEL


def make_target(config: RunConfig) -> Target:
    """Resolve everything that the configuration names.

    Raises InputError for what does not exist or fit, RunError where the hub fails.
    """
    inputs = read_inputs(config)
    model = find_model(config)
    shots = draw(config, inputs.shots, inputs.prompts)
    if isinstance(inputs.dataset, Dataset):
        chat = chat_markup(load_tokenizer(model)) if config.chat_template else None
        solved = {prompt.name: format_shots(prompt, shots.examples.get(prompt.name, ())) for prompt in inputs.prompts}
        prompts = [replace(prompt, examples=solved[prompt.name], chat=chat) for prompt in inputs.prompts]
    else:
        write_requests(inputs.dataset, model, with_chat=config.chat_template)
        prompts = [replace(prompt, has_markup=config.chat_template) for prompt in inputs.prompts]
    known = {"weights": model.weights, "tokenizer": model.tokenizer, "dtype": model.dtype}
    limit = config.max_text_tokens
    fingerprints = [make_fingerprint(prompt, **known, max_text_tokens=limit, fix=model.fix) for prompt in prompts]
    stored = tuple(StoredPrompt(*pair) for pair in zip(prompts, fingerprints, strict=True))
    return Target(inputs.dataset, inputs.golds, inputs.shape, model, stored, shots)


def write_requests(tasks: "Tasks", model: ModelRef, *, with_chat: bool) -> None:
    """Have the tasks' requests written, with the markup of the model's chat template if asked for.

    Raises InputError where that fails, or the tokenizer has no chat template.
    """
    tokenizer = load_tokenizer(model)
    if not with_chat:
        tasks.build(special=StringEncoder(tokenizer).special)
        return
    from pipeline.harness.chat import make_render

    tasks.build(make_render(tokenizer))


def find_model(config: RunConfig) -> ModelRef:
    """The configured model, resolved to files, revision, device and dtype. Raises what `resolve_model` raises."""
    demo = config.model == DEMO_MODEL
    model = resolve_model(
        str(demo_model_path()) if demo else config.model,
        revision=config.revision,
        device=config.device,
        dtype=config.dtype,
        trust_remote_code=config.trust_remote_code,
    )
    return replace(model, name=DEMO_MODEL) if demo else model


def chat_markup(tokenizer: PreTrainedTokenizerBase) -> tuple[str, str]:
    """What the tokenizer's chat template puts before and after a user's message, generation prompt included.

    Raises InputError where the tokenizer has none.
    """
    if not getattr(tokenizer, "chat_template", None):
        raise InputError(NO_CHAT_TEMPLATE)
    messages = [{"role": "user", "content": CHAT_SLOT}]
    rendered = str(tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True))
    before, slot, after = rendered.partition(CHAT_SLOT)
    if not slot:
        raise InputError("the tokenizer's chat template drops or rewrites the message; leave out --chat-template")
    return before, after
