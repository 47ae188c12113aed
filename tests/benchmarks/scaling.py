"""Scaling: items a second against the number of items, of labels, and the length of the items.

Invariant: one thing varies at a time, everything else stays: agnews-tiny-gemma, the prompt `answer`, real items.
"""

import argparse
import statistics
import time
from collections.abc import Sequence
from pathlib import Path

from pipeline.prompts import BUILT_IN, Prompt
from pipeline.scoring.scorer import Scorer
from pipeline.scoring.tokens import Encoder
from tests.benchmarks import inputs
from tests.benchmarks.measure import needed_work
from tests.benchmarks.results import RESULTS, command_line, number, table, write_section

TITLE = "Scaling, CPU"
COMMAND = "python -m tests.benchmarks.scaling"
NUM_ITEMS = (100, 1_000, 7_600, 50_000)
NUM_LABELS = (4, 16, 64, 200)
LENGTHS = (16, 64, 250, 1_000)
CONTEXT_TOKENS = 1_024


def rates(scorer: Scorer, encoder: Encoder, texts: Sequence[str], rounds: int) -> list[object]:
    """[items/s with tokenising, items/s of the scorer alone, trie tokens/s of the scorer alone], medians."""
    whole, alone = [], []
    for _ in range(rounds):
        start = time.perf_counter()
        items = encoder.encode(texts)
        encoded = time.perf_counter()
        for _batch in scorer.score(items):
            pass
        done = time.perf_counter()
        whole.append(done - start)
        alone.append(done - encoded)
    seconds = statistics.median(alone)
    tokens = needed_work(items).trie_tokens
    return [number(len(texts) / statistics.median(whole)), number(len(texts) / seconds), number(tokens / seconds)]


def long_articles(num_items: int) -> list[str]:
    """Texts of well over 1,000 tokens: each joins 40 items in a row."""
    texts = inputs.texts()
    return [" ".join(texts[(40 * i + k) % len(texts)] for k in range(40)) for i in range(num_items)]


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--items", type=int, nargs="+", default=NUM_ITEMS)
    parser.add_argument("--labels", type=int, nargs="+", default=NUM_LABELS)
    parser.add_argument("--lengths", type=int, nargs="+", default=LENGTHS)
    parser.add_argument("--label-items", type=int, default=1_000, help="items for each number of labels")
    parser.add_argument("--length-tokens", type=int, default=100_000, help="item tokens for each length")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--results", type=Path, default=RESULTS)
    options = parser.parse_args(arguments)
    tokenizer, scorer = inputs.tiny_tokenizer(), Scorer(inputs.tiny_gemma())

    def encoder(prompt: Prompt, max_text_tokens: int | None = None) -> Encoder:
        return Encoder(tokenizer, prompt, context_tokens=CONTEXT_TOKENS, max_text_tokens=max_text_tokens)

    answer = encoder(BUILT_IN["answer"])
    rates(scorer, answer, inputs.texts(100), 1)  # warm
    by_items, by_labels, by_length = [], [], []
    for num_items in options.items:
        rounds = options.rounds if num_items <= 7_600 else 1
        by_items.append([f"{num_items:,}", *rates(scorer, answer, inputs.texts(num_items), rounds)])
        print(by_items[-1], flush=True)
    texts = inputs.texts(options.label_items)
    label_sets = [("1 (as 2) of one token", inputs.short_labels(2)), ("4 of one token", inputs.short_labels(4))]
    label_sets += [(f"{n:,}", inputs.many_labels(n)) for n in options.labels]
    for name, prompt in label_sets:
        work = needed_work(encoder(prompt).encode(texts))
        sizes = [number(work.label_nodes / work.num_items), number(work.read_positions / work.num_items)]
        by_labels.append([name, *sizes, *rates(scorer, encoder(prompt), texts, options.rounds)])
        print(by_labels[-1], flush=True)
    for length in options.lengths:
        texts = long_articles(max(2, options.length_tokens // length))
        by_length.append([f"{length:,}", *rates(scorer, encoder(BUILT_IN["answer"], length), texts, options.rounds)])
        print(by_length[-1], flush=True)

    header = ["items/s from text", "items/s scoring", "trie tokens/s scoring"]
    body = (
        f"agnews-tiny-gemma, prompt `answer`, medians of {options.rounds} rounds (one above 7,600 items). Above 7,600 "
        "the test rows repeat with a number after the text; long items are 40 rows joined and cut.\n\n"
        + table(["items, 4 labels", *header], by_items)
        + f"\n\nOver {options.label_items:,} items. The first two rows have labels of one token, which are read at the "
        "item's last token and forward nothing; a prompt takes no fewer than two labels, so 1 is measured as 2, "
        "which reads and forwards the same. The others have two words, five labels to a first word:\n\n"
        + table(["labels", "trie nodes an item", "reads an item", *header], by_labels)
        + f"\n\nOver about {options.length_tokens:,} item tokens each; `from text` tokenises all 40 rows before it "
        "cuts them:\n\n" + table(["item tokens", *header], by_length)
    )
    write_section(TITLE, command_line(COMMAND, parser, options), body, options.results)


if __name__ == "__main__":
    main()
