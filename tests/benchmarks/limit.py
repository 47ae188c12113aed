"""Share of the limit: needed FLOPs a second of the scorer over the machine's own matrix rate, and where the rest goes.

Invariant: the limit is measured in the same run, with the model's own weights at the scorer's own batch size, before
and after every round of scoring; only matrix products count as needed work, attention and elementwise do not.
"""

import argparse
import statistics
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import torch

from pipeline.prompts import BUILT_IN, Prompt
from pipeline.scoring.counts import Counts
from pipeline.scoring.masked import MaskedGroup
from pipeline.scoring.packed import num_fitting, pack
from pipeline.scoring.parts import split_items
from pipeline.scoring.scheduler import Scheduler
from pipeline.scoring.scorer import Scorer
from pipeline.scoring.sharing import InOrder, make_trees
from pipeline.scoring.tokens import Encoder, TokenSequences
from tests.benchmarks import inputs
from tests.benchmarks.measure import (
    executed_flops,
    matrix_rate,
    needed_flops,
    needed_work,
    one_thread,
    operator_shares,
)
from tests.benchmarks.results import RESULTS, command_line, number, table, write_section

TITLE = "Share of the limit, CPU"
COMMAND = "python -m tests.benchmarks.limit"
GOAL = 0.70
MIN_SHARE = 0.01  # operators below it are summed up


def share(name: str, model: Any, prompt: Prompt, num_items: int, rounds: int) -> list[object]:
    """A row of the table: rates, share of the limit, and the tokens forwarded and padded beyond the needed ones."""
    encoder = Encoder(inputs.tiny_tokenizer(), prompt, context_tokens=inputs.CONTEXT_TOKENS)
    items = encoder.encode(inputs.texts(num_items))
    work = needed_work(items)
    flops = needed_flops(model, work)
    scorer = Scorer(model)
    list(scorer.score(items[:1]))  # what is checked by plain forwards is no part of it
    scorer.counts = Counts()
    executed = executed_flops(model, lambda: list(scorer.score(items)))  # and warm
    counts = scorer.counts
    num_cells, batch_tokens = counts.forwarded_tokens + counts.padding_tokens, tokens_a_batch(counts)
    shares, seconds, rates = [], [], [best_matrix_rate(model, batch_tokens)]
    for _ in range(rounds):
        scorer = Scorer(model)
        start = time.perf_counter()
        list(scorer.score(items))
        seconds.append(time.perf_counter() - start)
        rates.append(best_matrix_rate(model, batch_tokens))
        shares.append(flops / seconds[-1] / statistics.mean(rates[-2:]))
    median = statistics.median(seconds)
    return [
        name,
        prompt.name,
        number(len(items) / median),
        number(len(items) * statistics.median(rates) / flops),
        number(flops / median / 1e9),
        number(statistics.median(rates) / 1e9),
        f"{statistics.median(shares):.0%}",
        f"{executed / flops:.3f}",
        f"{statistics.median(shares) * executed / flops:.0%}",
        batch_tokens,
        f"{counts.forwarded_tokens / work.trie_tokens:.3f}",
        f"{counts.padding_tokens / num_cells:.1%}",
        f"{attention_padding(items, scorer.batch_tokens):.1%}",
    ]


def tokens_a_batch(counts: Counts) -> int:
    """Padding included, on average."""
    return (counts.forwarded_tokens + counts.padding_tokens) // counts.batches


def best_matrix_rate(model: Any, num_tokens: int) -> float:
    """FLOP/s with the threads sharing each product or with products of their own, whichever is more."""
    num_threads = torch.get_num_threads()
    shared = matrix_rate(model, num_tokens)
    with ThreadPoolExecutor(num_threads, initializer=torch.set_num_threads, initargs=(1,)) as pool:
        each = list(pool.map(matrix_rate, [model] * num_threads, [num_tokens] * num_threads))
    torch.set_num_threads(num_threads)
    return max(shared, sum(each))


def attention_padding(items: Sequence[TokenSequences], batch_tokens: int) -> float:
    """The share of cells without a token when the tree path folds items of about one length for attention."""
    trees = make_trees(InOrder(split_items(items), notebook=False), batch_tokens)
    scheduler = Scheduler(trees, num_fitting, max_tokens=batch_tokens)
    num_tokens = num_cells = 0
    while (scheduled := scheduler.schedule()) is not None:
        batch = pack(scheduled.sequences)
        num_tokens += batch.num_tokens
        groups = [layout for layout in batch.layouts if isinstance(layout, MaskedGroup)]
        num_cells += sum(group.num_trees * group.width for group in groups)
    return 1 - num_tokens / num_cells


def profile(model: Any, prompt: Prompt, num_items: int) -> list[list[object]]:
    """[operator, share of the processor time] of one warm pass in one thread, largest first."""
    encoder = Encoder(inputs.tiny_tokenizer(), prompt, context_tokens=inputs.CONTEXT_TOKENS)
    items = encoder.encode(inputs.texts(num_items))
    scorer = Scorer(model)
    with one_thread():
        list(scorer.score(items))  # warm
    shares = operator_shares(lambda: list(scorer.score(items)))
    large = sorted((name for name in shares if shares[name] >= MIN_SHARE), key=shares.__getitem__, reverse=True)
    rows: list[list[object]] = [[f"`{name}`", f"{shares[name]:.1%}"] for name in large]
    return [*rows, ["all others", f"{1 - sum(shares[name] for name in large):.1%}"]]


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
    header += [
        "executed / needed",
        "share, executed",
        "tokens a batch",
        "forwarded / needed",
        "padding, linear layers",
        "padding, attention",
    ]
    first, (name, model) = options.prompts[0], next(iter(models.items()))
    operators = profile(model, BUILT_IN[first], options.items)
    body = (
        f"First {options.items} test rows, medians of {options.rounds} rounds; tokenising is not counted here. Needed "
        "FLOPs = 2 x non-embedding parameters x distinct trie tokens + 2 x hidden x vocabulary x read positions; the "
        "matrix rate is that of the model's own linear layers at the scorer's tokens a batch, with the cores sharing "
        "each product or with products of their own, whichever is faster; the mean of before and after each round. "
        "Executed FLOPs are of the matrix products that were done: fewer, as the last layer is done at "
        "the places that are read. "
        "Forwarded tokens are fewer than needed ones where a few texts begin alike behind what all share. "
        "Linear layers run over one row without padding; attention folds items of about one length into a matrix, and "
        f"pads there. Goal: {GOAL:.0%} for the 13.9 M model.\n\n"
        + table(header, rows)
        + f"\n\nWhere one pass goes, by operator ({name}, `{first}`, one thread, share of processor time under the "
        "profiler). What is not a matrix product (`aten::mm`) stands between the scorer and the limit.\n\n"
        + table(["operator", "share"], operators)
    )
    write_section(TITLE, command_line(COMMAND, parser, options), body, options.results)


if __name__ == "__main__":
    main()
