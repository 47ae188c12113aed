"""Share of the limit: needed FLOPs a second of the scorer over the machine's own matrix rate.

Invariant: the limit is measured in the same run, with the model's own weights at the scorer's own batch size, before
and after every round of scoring; only matrix products count as needed work, attention and elementwise do not.
"""

import argparse
import statistics
import time
from pathlib import Path
from typing import Any

from pipeline.prompts import BUILT_IN, Prompt
from pipeline.scoring.scorer import Scorer
from pipeline.scoring.tokens import Encoder
from tests.benchmarks import inputs
from tests.benchmarks.measure import body_parameters, matrix_rate, needed_work
from tests.benchmarks.results import RESULTS, command_line, number, table, write_section

TITLE = "Share of the limit, CPU"
COMMAND = "python -m tests.benchmarks.limit"
GOAL = 0.70


def share(name: str, model: Any, prompt: Prompt, num_items: int, rounds: int) -> list[object]:
    """A row of the table: rates, share of the limit, and the tokens forwarded and padded beyond the needed ones."""
    encoder = Encoder(inputs.tiny_tokenizer(), prompt, context_tokens=inputs.CONTEXT_TOKENS)
    items = encoder.encode(inputs.articles(num_items))
    work = needed_work(items)
    flops = work.flops(body_parameters(model), model.config.hidden_size, model.config.vocab_size)
    list(Scorer(model).score(items))  # warm
    shares, seconds, rates = [], [], []
    for _ in range(rounds):
        scorer = Scorer(model)
        start = time.perf_counter()
        list(scorer.score(items))
        seconds.append(time.perf_counter() - start)
        counts = scorer.counts
        batch_tokens = (counts.forwarded_tokens + counts.padding_tokens) // counts.batches
        rates.append(matrix_rate(model, batch_tokens))
        shares.append(flops / seconds[-1] / rates[-1])
    median = statistics.median(seconds)
    return [
        name,
        prompt.name,
        number(len(items) / median),
        number(len(items) * statistics.median(rates) / flops),
        number(flops / median / 1e9),
        number(statistics.median(rates) / 1e9),
        f"{statistics.median(shares):.0%}",
        batch_tokens,
        f"{counts.forwarded_tokens / work.trie_tokens:.3f}",
        f"{counts.padding_tokens / (counts.forwarded_tokens + counts.padding_tokens):.1%}",
    ]


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--items", type=int, default=500)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--prompts", nargs="+", default=["detailed", "answer", "described"])
    parser.add_argument("--results", type=Path, default=RESULTS)
    options = parser.parse_args(arguments)
    models = {
        "random Gemma, 13.9 M": inputs.random_gemma(),
        "agnews-tiny-gemma, 2.1 M": inputs.tiny_gemma(),
    }
    rows = []
    for name, model in models.items():
        for prompt in options.prompts:
            rows.append(share(name, model, BUILT_IN[prompt], options.items, options.rounds))
            print(rows[-1], flush=True)
    header = ["model", "prompt", "items/s", "limit, items/s", "needed GFLOP/s", "matrix GFLOP/s", "share"]
    header += ["tokens a batch", "forwarded / needed", "padding"]
    body = (
        f"First {options.items} test rows, medians of {options.rounds} rounds; tokenising is not counted here. Needed "
        "FLOPs = 2 x non-embedding parameters x distinct trie tokens + 2 x hidden x vocabulary x read positions; the "
        "matrix rate is that of the model's own linear layers at the scorer's tokens a batch, taken after each round. "
        f"Goal: {GOAL:.0%} for the 13.9 M model.\n\n"
    )
    write_section(TITLE, command_line(COMMAND, parser, options), body + table(header, rows), options.results)


if __name__ == "__main__":
    main()
