"""Models, tokenizer, texts and prompts that the CPU benchmarks share.

Invariant: seeded, so that two runs measure the same thing; nothing of the shared folder is copied anywhere.
"""

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, GemmaConfig, GemmaForCausalLM

from pipeline.bundled import sample_path
from pipeline.config import RunConfig
from pipeline.examples import draw
from pipeline.inputs import read_inputs
from pipeline.prompts import BUILT_IN, Label, Prompt
from pipeline.target import with_surroundings

CONTEXT_TOKENS = 2048


def shared_folder() -> Path:
    """Where the real test split and agnews-tiny-gemma lie: LABELSCORE_SHARED, else beside the checkout."""
    default = Path(__file__).resolve().parents[2].parent / "shared"
    folder = Path(os.environ.get("LABELSCORE_SHARED", default))
    if not folder.is_dir():
        raise SystemExit(f"no shared data at {folder}: set LABELSCORE_SHARED")
    return folder


def texts(num_items: int | None = None) -> list[str]:
    """The first rows of AG News' test split, repeated with a running number where more than 7,600 are wanted."""
    import polars as pl

    texts: list[str] = pl.read_parquet(shared_folder() / "data" / "ag_news_test.parquet")["text"].to_list()
    if num_items is None or num_items <= len(texts):
        return texts[:num_items]
    return [f"{texts[i % len(texts)]} {i // len(texts)}" if i >= len(texts) else texts[i] for i in range(num_items)]


def random_gemma(
    hidden: int = 256, layers: int = 6, heads: int = 4, intermediate: int = 1024, vocabulary: int = 32_000
) -> Any:
    """A Gemma with random weights, one key-value head, heads of hidden / heads; 13.9 M parameters by default."""
    torch.manual_seed(0)
    config = GemmaConfig(
        hidden_size=hidden,
        num_hidden_layers=layers,
        num_attention_heads=heads,
        num_key_value_heads=1,
        head_dim=hidden // heads,
        intermediate_size=intermediate,
        vocab_size=vocabulary,
        max_position_embeddings=CONTEXT_TOKENS,
    )
    return GemmaForCausalLM(config).eval()


def tiny_tokenizer() -> Any:
    """agnews-tiny-gemma's tokenizer (4,096 tokens): its ids fit every model here, 74 tokens to an item."""
    return AutoTokenizer.from_pretrained(shared_folder() / "models" / "agnews-tiny-gemma")


def tiny_gemma() -> Any:
    """agnews-tiny-gemma: 2.1 M parameters, vocabulary 4,096, with signal on real text."""
    return AutoModelForCausalLM.from_pretrained(shared_folder() / "models" / "agnews-tiny-gemma").eval()


def save_model_folder(folder: Path, model: Any) -> Path:
    """A directory that `labelscore run --model` takes: the model with agnews-tiny-gemma's tokenizer."""
    model.save_pretrained(folder)
    tiny_tokenizer().save_pretrained(folder)
    return folder


def solved_prompts(names: Sequence[str], num_shots: int) -> list[Prompt]:
    """Built-in prompts after solved examples, drawn as a run over the test split draws them from the bundled sample."""
    data, shots = shared_folder() / "data" / "ag_news_test.parquet", sample_path("train")
    config = RunConfig(dataset=str(data), prompt=tuple(names), num_shots=num_shots, shots_split=str(shots))
    found = read_inputs(config)
    drawn = draw(config, found.shots, found.prompts)
    return [with_surroundings(config, prompt, drawn, None) for prompt in found.prompts]


def short_labels(num_labels: int) -> Prompt:
    """The `answer` template with up to four labels of one token each; a prompt takes no fewer than two."""
    return _answer_with([" World", " Sports", " Business", " Health"][:num_labels])


def many_labels(num_labels: int) -> Prompt:
    """The `answer` template with up to 200 labels of two to eight tokens, five to a topic, as real label sets have."""
    topics = (
        "World Sports Business Science Health Music Travel Law Food Art Energy Defence Housing Weather Fashion "
        "Religion School Farming Shipping Football Cinema Theatre Banking Insurance Mining Aviation Railway "
        "Medicine Physics Chemistry Biology Astronomy Software Hardware Internet Privacy Elections "
        "Diplomacy Migration Climate"
    )
    aspects = ("research", "regulation", "history", "accidents", "leaders")
    return _answer_with([f" {topic} {aspect}" for topic in topics.split() for aspect in aspects][:num_labels])


def _answer_with(words: list[str]) -> Prompt:
    labels = tuple(Label(index, word.strip(), word) for index, word in enumerate(words))
    return Prompt(f"{len(words)}-labels", BUILT_IN["answer"].template, labels)
