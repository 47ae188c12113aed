"""Accuracy in FP8: the same rows of AG News in float32, bfloat16 and FP8, by what a run loads and scores with.

Invariant: one model, prompt and label words for all; what is compared are the scores that would be stored. On a CPU FP8
is emulated, with its own rounding, so that this says nothing of speed.
"""

import argparse
from collections.abc import Sequence
from pathlib import Path

import polars as pl
import torch
from torch import Tensor

from pipeline.config import RunConfig
from pipeline.prompts import BUILT_IN
from pipeline.reading.model import load_tokenizer
from pipeline.scoring.tokens import Encoder
from pipeline.shard import load_to_score, make_scorer
from pipeline.target import find_model
from tests.benchmarks import inputs
from tests.benchmarks.cpu import our_scores
from tests.benchmarks.results import RESULTS, command_line, table, write_section

TITLE = "Accuracy in FP8"
COMMAND = "python -m tests.benchmarks.fp8"
DTYPES = ("float32", "bfloat16", "fp8")
HEADER = (
    "model", "rows", "dtype", "accuracy", "same predictions", "right in float32 alone", "right here alone",
    "largest difference", "mean difference",
)  # fmt: skip


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--items", type=int, default=None, help="so many rows for agnews-tiny-gemma; else all 7,600")
    parser.add_argument("--model", default=None, help="another model beside it: smollm2, a directory or a GGUF")
    parser.add_argument("--model-items", type=int, default=1_000, help="rows for that one")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--results", type=Path, default=RESULTS)
    options = parser.parse_args(arguments)
    models = [(str(inputs.shared_folder() / "models" / "agnews-tiny-gemma"), options.items)]
    models += [(options.model, options.model_items)] if options.model else []
    rows = [row for model, num_items in models for row in compare(model, num_items, options.device)]
    body = (
        "The first test rows of AG News with the prompt `answer`, each model in three dtypes; accuracy under the rule "
        "`sum`, differences from float32 in nats, over all rows and labels. FP8 has scales by row for weights and "
        "tokens" + (", and is emulated on this CPU with the same rounding.\n\n" if options.device == "cpu" else ".\n\n")
    )
    write_section(TITLE, command_line(COMMAND, parser, options), body + table(HEADER, rows), options.results)


def compare(model: str, num_items: int | None, device: str) -> list[Sequence[object]]:
    """A row of the table for each dtype."""
    frame = pl.read_parquet(inputs.shared_folder() / "data" / "ag_news_test.parquet", n_rows=num_items)
    gold = torch.tensor(frame["label"].to_list())
    found = {dtype: score(model, dtype, device, frame["text"].to_list()) for dtype in DTYPES}
    exact = found["float32"][1]
    return [
        [name, f"{len(frame):,}", dtype, *figures(scores, None if scores is exact else exact, gold)]
        for dtype, (name, scores) in found.items()
    ]


def figures(scores: Tensor, exact: Tensor | None, gold: Tensor) -> list[object]:
    """The cells from the accuracy on, of logprob (rows, labels) beside that in float32, if it is not that."""
    is_right = scores.argmax(dim=1) == gold
    accuracy = f"{is_right.double().mean():.2%}"
    if exact is None:
        return [accuracy, *"-----"]
    was_right, gaps = exact.argmax(dim=1) == gold, (scores - exact).abs()
    is_same = (scores.argmax(dim=1) == exact.argmax(dim=1)).double().mean()
    turned = [int((was_right & ~is_right).sum()), int((is_right & ~was_right).sum())]
    return [accuracy, f"{is_same:.2%}", *turned, f"{gaps.max():.3f}", f"{gaps.mean():.4f}"]


def score(model: str, dtype: str, device: str, texts: list[str]) -> tuple[str, Tensor]:
    """The model's name, and logprob (texts, labels) as a run stores it."""
    ref = find_model(RunConfig(model=model, device=device, dtype=dtype))
    encoder = Encoder(load_tokenizer(ref), BUILT_IN["answer"], context_tokens=ref.context_tokens)
    scorer = make_scorer(load_to_score(ref), ref)
    scores = our_scores(scorer, encoder, texts)
    print(f"{ref.name} {dtype}: scored over {scorer.path}; {scorer.remark or 'nothing to remark'}", flush=True)
    return ref.name, scores


if __name__ == "__main__":
    main()
