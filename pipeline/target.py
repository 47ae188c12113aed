"""What a run wants: which data set, which model, which prompts, under which fingerprints, in which shards.

Invariant: nothing here loads weights or scores; a run that has nothing to do ends after this.
"""

from dataclasses import dataclass, replace
from pathlib import Path

import pyarrow.parquet as pq
from transformers import PreTrainedTokenizerBase

from pipeline.bundled import DEMO_MODEL, demo_model_path
from pipeline.config import RunConfig
from pipeline.errors import InputError
from pipeline.inputs import Shots, draw, read_inputs
from pipeline.prompts import Prompt
from pipeline.reading.dataset import Dataset
from pipeline.reading.gold import Classes
from pipeline.reading.model import NO_CHAT_TEMPLATE, ModelRef, load_tokenizer, resolve_model
from pipeline.shard import PromptJob, ScoringJob, Shard
from pipeline.shots import format_shots
from pipeline.storing.files import Output
from pipeline.storing.fingerprint import Fingerprint, make_fingerprint
from pipeline.storing.parts import Wanted
from pipeline.storing.store import Store

# The fewer texts a shard has, the further apart their lengths lie, and the more attention pads.
SHARD_TEXTS = {"cpu": 2000, "cuda": 8000}
CHAT_SLOT = "\x00ARTICLE\x00"  # stands for the filled template while the tokenizer's chat template is rendered


@dataclass(frozen=True, slots=True)
class WantedPrompt:
    """A prompt of the run, the fingerprint that its scores are stored under, and the chat markup around it."""

    prompt: Prompt
    fingerprint: Fingerprint
    before: str
    after: str


@dataclass(frozen=True, slots=True)
class Target:
    """The data set, its classes, the model, and the prompts with their solved examples and fingerprints."""

    dataset: Dataset
    classes: Classes
    model: ModelRef
    prompts: tuple[WantedPrompt, ...]
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
    shots = draw(config, inputs)
    markup = chat_markup(load_tokenizer(model)) if config.chat_template else ("", "")
    prompts = tuple(_want(config, prompt, model, shots.examples, markup) for prompt in inputs.prompts)
    return Target(inputs.dataset, inputs.classes, model, prompts, shots)


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


def _want(
    config: RunConfig,
    prompt: Prompt,
    model: ModelRef,
    shots: tuple[tuple[str, int], ...],
    markup: tuple[str, str],
) -> WantedPrompt:
    examples = format_shots(prompt, shots)
    fingerprint = make_fingerprint(
        prompt,
        weights=model.weights,
        tokenizer=model.tokenizer,
        dtype=model.dtype,
        max_text_tokens=config.max_text_tokens,
        chat_template=CHAT_SLOT.join(markup) if config.chat_template else None,
        shots=examples or None,
    )
    return WantedPrompt(replace(prompt, examples=examples), fingerprint, *markup)


def open_store(target: Target, output: Output) -> Store:
    """The store of the target's fingerprints, its parts verified. The caller holds the output's lock."""
    model = target.model
    return Store(output, [Wanted(p.fingerprint, model.name, model.revision, p.prompt.name) for p in target.prompts])


def make_scoring_job(config: RunConfig, target: Target, store: Store) -> ScoringJob:
    """What a scoring process needs to know."""
    prompts = tuple(PromptJob(p.prompt, store.writer(p.fingerprint), p.before, p.after) for p in target.prompts)
    return ScoringJob(target.model, prompts, config.max_text_tokens, config.notebook_rule, config.batch_tokens)


def cut_shards(prompt: str, pending: Path, shard_size: int) -> list[Shard]:
    """The shards of a prompt's missing texts, in the order of `pending`."""
    num_texts = pq.ParquetFile(pending).metadata.num_rows
    num_shards = -(-num_texts // shard_size)
    return [
        Shard(
            f"{prompt} {index + 1}/{num_shards}",
            prompt,
            pending,
            index * shard_size,
            min((index + 1) * shard_size, num_texts),
        )
        for index in range(num_shards)
    ]
