"""Encoding: microseconds an item from texts to token sequences, with a prompt's head encoded once and with each item.

Invariant: both ways give the same token sequences, and they take turns. What is not spent in the tokenizer's library is
spent holding Python's lock, which the library frees while it encodes.
"""

import argparse
import os
import re
import statistics
import time
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any
from unittest.mock import patch

import pytest
from transformers import AutoTokenizer

from pipeline.bundled import demo_model_path
from pipeline.prompts import BUILT_IN, Prompt
from pipeline.scoring import heads
from pipeline.scoring.strings import StringEncoder
from pipeline.scoring.tokens import Encoder, TokenSequences
from pipeline.shard import ITEMS_AT_ONCE
from pipeline.smollm2 import SMOLLM2
from tests.benchmarks import inputs
from tests.benchmarks.measure import stage_shares
from tests.benchmarks.results import RESULTS, command_line, number, table, write_section
from tests.real_tokenizers import NAMES, load_real_tokenizer

TITLE = "Encoding, CPU"
COMMAND = "python -m tests.benchmarks.encoding"
BUNDLED = "bundled"
TOKENIZERS = (BUNDLED, "gemma", "llama3", "qwen3", "gptoss", SMOLLM2)
CONTEXT_TOKENS = 32_768
NO_PLACE = re.compile("(?!)")
LIBRARY = [(StringEncoder, "_encode_directly"), (StringEncoder, "_encode_by_call")]


@dataclass(frozen=True)
class Encoding:
    """Median seconds of the processor an item: in all, and those outside of the tokenizer's library."""

    in_all: float
    holding: float


def encoding_seconds(tokenizer: Any, prompt: Prompt, texts: Sequence[str], rounds: int) -> dict[str, Encoding]:
    """Of "once", as a run encodes them, and "each", where the head is encoded with each item.

    Raises RuntimeError where these give other token sequences.
    """
    found: dict[str, list[Encoding]] = {"once": [], "each": []}
    with patch.dict(os.environ, TOKENIZERS_PARALLELISM="false"):
        for _ in range(rounds):
            given: list[list[TokenSequences]] = []
            for way, encoder in make_encoders(tokenizer, prompt).items():
                start = time.thread_time()
                shares = stage_shares({"library": LIBRARY}, partial(encode, encoder, texts, given))
                seconds = (time.thread_time() - start) / len(texts)
                found[way].append(Encoding(seconds, seconds * shares["the rest"]))
            if given[0] != given[1]:
                raise RuntimeError(f"prompt '{prompt.name}': other token sequences where its head is encoded once")
    return {
        way: Encoding(*(statistics.median(getattr(each, name) for each in of_way) for name in ("in_all", "holding")))
        for way, of_way in found.items()
    }


def make_encoders(tokenizer: Any, prompt: Prompt) -> dict[str, Encoder]:
    """New ones, which know no seam between a text and the label words yet."""
    once = Encoder(tokenizer, prompt, context_tokens=CONTEXT_TOKENS)
    with patch.object(heads, "BEFORE_WORD", NO_PLACE):
        return {"once": once, "each": Encoder(tokenizer, prompt, context_tokens=CONTEXT_TOKENS)}


def encode(encoder: Encoder, texts: Sequence[str], given: list[list[TokenSequences]]) -> None:
    """Add their token sequences to `given`, as many at a time as a run encodes."""
    parts = (texts[place : place + ITEMS_AT_ONCE] for place in range(0, len(texts), ITEMS_AT_ONCE))
    given.append([sequences for part in parts for sequences in encoder.encode(part)])


def load_tokenizer(name: str) -> Any:
    if name == BUNDLED:
        return AutoTokenizer.from_pretrained(demo_model_path())
    try:
        return load_real_tokenizer(name)
    except pytest.skip.Exception as missing:
        raise SystemExit(f"{name}: {missing}") from None


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--tokenizers", nargs="+", choices=[BUNDLED, *NAMES, SMOLLM2], default=list(TOKENIZERS))
    parser.add_argument("--prompts", nargs="+", choices=list(BUILT_IN), default=["detailed", "answer"])
    parser.add_argument("--shots", nargs="+", type=int, default=[0, 5])
    parser.add_argument("--items", type=int, default=2_000)
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--results", type=Path, default=RESULTS)
    options = parser.parse_args(arguments)
    texts = inputs.texts(options.items)
    rows = []
    for name in options.tokenizers:
        tokenizer = load_tokenizer(name)
        for num_shots in options.shots:
            for prompt in inputs.solved_prompts(options.prompts, num_shots):
                found = encoding_seconds(tokenizer, prompt, texts, options.rounds)
                micros = [number(1e6 * each) for way in ("each", "once") for each in vars(found[way]).values()]
                rows.append([name, prompt.name, num_shots, f"{len(prompt.head):,}", *micros])
    header = [
        "tokenizer", "prompt", "solved examples", "characters of the head", "head with each item", "holding the lock",
        "head once", "holding the lock",
    ]  # fmt: skip
    body = (
        f"Microseconds of the processor an item, medians of {options.rounds} rounds that take turns, {len(texts):,} "
        f"rows of AG News' test split, {ITEMS_AT_ONCE} at a time, in one thread, by encoders that know no seam between "
        "texts and label words yet. Holding the lock: what is not spent in the tokenizer's library.\n\n"
    )
    write_section(
        TITLE, command_line(COMMAND, parser, options), body + table(header, rows), options.results, num_threads=1
    )


if __name__ == "__main__":
    main()
