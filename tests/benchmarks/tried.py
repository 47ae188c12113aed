"""What was tried on the CPU and is not shipped: each variant beside the scorer as it is, in turn.

Invariant: same model, items and process; a variant's scores are held against the shipped ones before its time counts.
"""

import argparse
import statistics
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any
from unittest.mock import patch

import torch
from torch import Tensor

from pipeline.prompts import BUILT_IN
from pipeline.scoring import attention, lanes
from pipeline.scoring.scorer import Scorer
from pipeline.scoring.tokens import Encoder, TokenSequences
from tests.benchmarks import inputs
from tests.benchmarks.gpu_variants import compile_leaves, score_all
from tests.benchmarks.measure import alternate
from tests.benchmarks.results import RESULTS, command_line, number, table, write_section

TITLE = "Tried on the CPU"
COMMAND = "python -m tests.benchmarks.tried"
SHIPPED = "as shipped, 2,048 tokens a batch"
BATCH_TOKENS = (512, 1_024, 4_096)
Score = Callable[[Sequence[TokenSequences]], Tensor]
MAX_DIFFERENCE = 1e-3  # nats, float32 over other kernels


def ours(model: Any, **options: Any) -> Score:
    """The product's own path."""
    scorer = Scorer(model, **options)
    return lambda items: score_all(scorer, items)


def compiled_parts(model: Any) -> Score:
    """The MLPs and the norms compiled in place."""
    compile_leaves(model)
    return ours(model)


def two_products(query: Tensor, key: Tensor, value: Tensor, attn_mask: Tensor, scale: float) -> Tensor:
    """Attention as PyTorch's fused kernel gives it, from two matrix products and a softmax."""
    return torch.softmax(query @ key.mT * scale + attn_mask, dim=-1) @ value


def with_two_products(score: Score) -> Score:
    def run(items: Any) -> Tensor:
        score(items)  # the self-check's plain forwards, which call the kernel in other ways, are over then
        with patch.object(attention.nn.functional, "scaled_dot_product_attention", two_products):
            return score(items)

    return run


def with_shared_cores(score: Score) -> Score:
    """All cores on one batch at a time, instead of a lane for each."""

    def run(items: Any) -> Tensor:
        with patch.object(lanes, "_MAX_LANES", 1):
            return score(items)

    return run


def variants() -> dict[str, Callable[[], Score]]:
    """Name -> what makes it; each has a model of its own, as compiling changes it."""
    found = {SHIPPED: lambda: ours(inputs.random_gemma())}
    for size in BATCH_TOKENS:
        found[f"{size:,} tokens a batch"] = lambda size=size: ours(inputs.random_gemma(), batch_tokens=size)
    found["attention as two products"] = lambda: with_two_products(ours(inputs.random_gemma()))
    found["cores share each batch"] = lambda: with_shared_cores(ours(inputs.random_gemma()))
    # Each lane would compile its copy of the model.
    found["cores share each batch, torch.compile"] = lambda: with_shared_cores(compiled_parts(inputs.random_gemma()))
    return found


def warm(make: Callable[[], Score], items: list[TokenSequences]) -> tuple[Score, Tensor, float]:
    """(variant, its scores, seconds until it had scored once)."""
    start = time.perf_counter()
    score = make()
    scores = score(items)
    return score, scores, time.perf_counter() - start


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--items", type=int, default=500)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--prompt", default="detailed")
    parser.add_argument("--variants", nargs="+", default=list(variants()), help="only these, by name")
    parser.add_argument("--results", type=Path, default=RESULTS)
    options = parser.parse_args(arguments)
    prompt = BUILT_IN[options.prompt]
    encoder = Encoder(inputs.tiny_tokenizer(), prompt, context_tokens=inputs.CONTEXT_TOKENS)
    items = encoder.encode(inputs.texts(options.items))
    ready = {name: warm(variants()[name], items) for name in dict.fromkeys([SHIPPED, *options.variants])}
    expected = ready[SHIPPED][1]
    for name, (_, scores, _) in ready.items():
        if (scores - expected).abs().max() > MAX_DIFFERENCE:
            raise SystemExit(f"{name}: its scores differ from the shipped ones")
    seconds = alternate({name: lambda s=score: s(items) for name, (score, _, _) in ready.items()}, options.rounds)
    rows = []
    for name, taken in seconds.items():
        gain = statistics.median(a / b for a, b in zip(seconds[SHIPPED], taken, strict=True))
        rows.append([name, number(len(items) / statistics.median(taken)), f"{gain:.2f}", f"{ready[name][2]:.1f}"])
    body = (
        f"Random Gemma of 13.9 M parameters, first {options.items} test rows, prompt `{options.prompt}`, medians of "
        f"{options.rounds} alternating rounds; tokenising is not counted. The gain is the median over the rounds. What "
        "gains little is left out: it would be more code, or a compiler and its time before the first score.\n\n"
    )
    header = ["variant", "items/s", "times as shipped", "first pass with set-up, s"]
    write_section(TITLE, command_line(COMMAND, parser, options), body + table(header, rows), options.results)


if __name__ == "__main__":
    main()
