"""What the GPU benchmark scores: models of known shapes with random weights, and items of random tokens.

Invariant: seeded; a seed gives other items of the same prompt, so that every round has items that no round before had.
Imports torch, numpy and transformers only.
"""

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from transformers import AutoModelForCausalLM, GemmaConfig, Qwen3Config

from pipeline.scoring.tokens import TokenSequences

BOS, FIRST_TOKEN = 2, 3  # ids below are special


@dataclass(frozen=True, slots=True)
class Shape:
    """A model's sizes; `family` is gemma or qwen3."""

    family: str
    hidden: int
    layers: int
    heads: int
    key_heads: int
    head_dim: int
    intermediate: int
    vocabulary: int


SHAPES = {
    "Gemma-2B": Shape("gemma", 2048, 18, 8, 1, 256, 16384, 256_000),
    "Qwen3-0.6B": Shape("qwen3", 1024, 28, 16, 8, 128, 3072, 151_936),
}
TOY_SHAPES = {
    "Gemma-2B": Shape("gemma", 64, 2, 2, 1, 32, 128, 512),
    "Qwen3-0.6B": Shape("qwen3", 64, 2, 4, 2, 16, 128, 512),
}


@dataclass(frozen=True, slots=True)
class Workload:
    """Items of one prompt: tokens that all share, labels, and how long the items are.

    Lengths are log-normal with this median and sigma, clipped; `num_items` make a round.
    """

    shape: str
    prefix_tokens: int
    label_tokens: tuple[int, ...]
    num_items: int
    median: float = 49.5  # with sigma 0.37 and these bounds the mean is 53, as AG News has
    sigma: float = 0.37
    shortest: int = 15
    longest: int = 250


WORKLOADS = {
    # BOS and the head of the prompt `detailed`, and its labels World, Sports, Business, Sci/Tech, as Gemma's tokenizer
    # has them.
    "detailed": Workload("Gemma-2B", 38, (1, 1, 1, 3), 4_500),
    "described": Workload("Gemma-2B", 38, (17, 17, 16, 17), 1_200),
    "20 labels": Workload("Gemma-2B", 38, (3,) * 20, 2_400),
    "5-shot": Workload("Gemma-2B", 1_000, (1, 1, 1, 3), 4_500),
    # The shape that SGLang publishes a rate for: 300 tokens an item, 0.6 B parameters.
    "300 tokens": Workload("Qwen3-0.6B", 20, (1, 1), 2_400, 280.0, 0.0, 280, 280),
}


def random_model(shape: Shape, device: str, dtype: torch.dtype) -> Any:
    """The architecture with seeded random weights, made on the device."""
    torch.manual_seed(0)
    make = {"gemma": GemmaConfig, "qwen3": Qwen3Config}[shape.family]
    config = make(
        hidden_size=shape.hidden,
        num_hidden_layers=shape.layers,
        num_attention_heads=shape.heads,
        num_key_value_heads=shape.key_heads,
        head_dim=shape.head_dim,
        intermediate_size=shape.intermediate,
        vocab_size=shape.vocabulary,
        max_position_embeddings=2048,
        tie_word_embeddings=True,
    )
    with torch.device(device):
        return AutoModelForCausalLM.from_config(config, dtype=dtype, attn_implementation="sdpa").eval()


def make_items(workload: Workload, vocabulary: int, num_items: int, seed: int = 0) -> list[TokenSequences]:
    """Items of random ids; prefix and labels are the same for every seed, and no label begins as another."""
    fixed = np.random.default_rng(0)
    firsts = fixed.permutation(np.arange(FIRST_TOKEN, vocabulary))[: len(workload.label_tokens)].tolist()

    def draw(source: np.random.Generator, num_tokens: int) -> tuple[int, ...]:
        return tuple(source.integers(FIRST_TOKEN, vocabulary, num_tokens).tolist())

    branches = tuple((first, *draw(fixed, n - 1)) for first, n in zip(firsts, workload.label_tokens, strict=True))
    prefix = (BOS, *draw(fixed, workload.prefix_tokens - 1))
    source = np.random.default_rng(seed + 1)
    lengths = np.exp(math.log(workload.median) + workload.sigma * source.standard_normal(num_items))
    ends = np.clip(np.rint(lengths), workload.shortest, workload.longest).astype(int).cumsum().tolist()
    ids = draw(source, ends[-1])
    return [
        TokenSequences(prefix + ids[begin:end], branches, workload.label_tokens, False)
        for begin, end in zip([0, *ends[:-1]], ends, strict=True)
    ]
