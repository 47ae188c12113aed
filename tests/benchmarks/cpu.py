"""CPU, side by side: the notebook's loop, lm-evaluation-harness at three batch sizes, and ours.

Invariant: one process, one model object, the same texts, prompt and label words; each contender starts from texts
and ends with log-likelihoods; all are warm, at every batch size, and take turns.
"""

import argparse
import statistics
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Any

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from pipeline.prompts import BUILT_IN, Prompt
from pipeline.scoring.scorer import Scorer
from pipeline.scoring.tokens import Encoder
from tests.benchmarks import contenders, inputs
from tests.benchmarks.measure import alternate, median_ratio, needed_work
from tests.benchmarks.results import RESULTS, command_line, number, table, write_section

TITLE = "CPU, side by side"
COMMAND = "python -m tests.benchmarks.cpu"
BATCH_SIZES = (1, 16, 64)
CHOICE_ITEMS = 32  # two full batches of the largest size
MODELS = {
    "random": ("random Gemma, 13.9 M", inputs.random_gemma),
    "tiny": ("agnews-tiny-gemma, 2.1 M", inputs.tiny_gemma),
}
GOALS = {"notebook": 20.0, "harness": 8.0}  # with the prompt `detailed`


def our_scores(scorer: Scorer, encoder: Encoder, texts: list[str]) -> torch.Tensor:
    """Texts to logprob (items, labels) by the product's own path."""
    batches = list(scorer.score(encoder.encode(texts)))
    scores = torch.empty(len(texts), batches[0].logprob.shape[1])
    for batch in batches:
        scores[batch.indices] = batch.logprob
    return scores


@dataclass(frozen=True, slots=True)
class Setting:
    """A model with its tokenizer, which need not be its own where weights are random, and what each is called."""

    name: str
    model: Any
    tokenizer_name: str
    tokenizer: Any


def toy_setting(key: str) -> Setting:
    """A model of the toy tokenizer: each class of AG News has several tokens."""
    name, make = MODELS[key]
    return Setting(name, make(), "toy", inputs.tiny_tokenizer())


def real_settings(folder: Path) -> Iterator[Setting]:
    """A random Gemma and the model in the folder, both with its real tokenizer."""
    tokenizer = AutoTokenizer.from_pretrained(folder)
    model = inputs.random_gemma(vocabulary=len(tokenizer))
    yield Setting(f"random Gemma, {model.num_parameters() / 1e6:.1f} M", model, "real", tokenizer)
    yield Setting(folder.resolve().name, AutoModelForCausalLM.from_pretrained(folder).eval(), "real", tokenizer)


def compare(setting: Setting, prompt: Prompt, num_items: int, rounds: int) -> list[object]:
    """A row of the table."""
    model, tokenizer = setting.model, setting.tokenizer
    texts = inputs.texts(num_items)
    encoder = Encoder(tokenizer, prompt, context_tokens=inputs.CONTEXT_TOKENS)
    scorer, lm = Scorer(model), contenders.harness(model, tokenizer)
    few = texts[:: max(1, num_items // 20)]  # the notebook's loop takes a subset, and is scaled by items
    sample = texts[:: max(1, num_items // CHOICE_ITEMS)]

    for batch_size in BATCH_SIZES:  # warm
        contenders.harness_scores(lm, prompt, sample[:16], batch_size)
    contenders.notebook_loop(model, encoder.encode(few[:2]))
    our_scores(scorer, encoder, few)
    sizes = alternate({str(b): _harness_run(lm, prompt, sample, b) for b in BATCH_SIZES}, rounds, warm=False)
    choice = {b: statistics.median(sizes[str(b)]) for b in BATCH_SIZES}
    best = min(BATCH_SIZES, key=choice.__getitem__)
    seconds = alternate(
        {
            "notebook": lambda: contenders.notebook_loop(model, encoder.encode(few)),
            "harness": _harness_run(lm, prompt, texts, best),
            "ours": lambda: our_scores(scorer, encoder, texts),
        },
        rounds,
        warm=False,
    )
    scaled = [value * len(texts) / len(few) for value in seconds["notebook"]]
    ratios = median_ratio(scaled, seconds["ours"]), median_ratio(seconds["harness"], seconds["ours"])
    items = encoder.encode(texts)
    work, harness_rows = needed_work(items), contenders.label_rows(items, share_rows=True)
    rate = {k: len(texts) / statistics.median(v) for k, v in {**seconds, "notebook": scaled}.items()}
    others = ", ".join(f"{b}: {number(len(sample) / choice[b])}" for b in BATCH_SIZES)
    row: list[object] = [
        setting.name,
        setting.tokenizer_name,
        prompt.name,
        f"{len(harness_rows) / len(items):.1f}",
        number(rate["notebook"]),
        f"{number(rate['harness'])} (batch {best})",
        others,
    ]
    row += [number(rate["ours"]), f"{ratios[0]:.1f}", f"{ratios[1]:.1f}", f"{work.row_tokens / work.trie_tokens:.1f}"]
    return [*row, f"{sum(len(tokens) for tokens, _ in harness_rows) / work.trie_tokens:.1f}"]


def _harness_run(lm: Any, prompt: Prompt, texts: list[str], batch_size: int) -> Callable[[], object]:
    return lambda: contenders.harness_scores(lm, prompt, texts, batch_size)


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--items", type=int, default=500)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--prompts", nargs="+", default=["detailed", "answer", "described"])
    parser.add_argument("--models", nargs="*", default=list(MODELS), choices=list(MODELS))
    parser.add_argument(
        "--pretrained", type=Path, metavar="DIR", help="a real model's folder (tests.benchmarks.pretrained makes one)"
    )
    parser.add_argument("--results", type=Path, default=RESULTS)
    options = parser.parse_args(arguments)
    settings: Iterator[Setting] = map(toy_setting, options.models)
    if options.pretrained is not None:
        settings = chain(settings, real_settings(options.pretrained))
    rows = []
    for setting in settings:
        for prompt in options.prompts:
            rows.append(compare(setting, BUILT_IN[prompt], options.items, options.rounds))
            print(rows[-1], flush=True)
    header = ["model", "tokenizer", "prompt", "harness' rows an item", "notebook", "harness, best"]
    header += ["harness by batch size", "ours", "times the notebook", "times the harness", "token ratio"]
    header += ["token ratio to the harness"]
    body = (
        f"Items a second, first {options.items} test rows, medians of {options.rounds} alternating rounds. The "
        "notebook's loop runs over about 20 of them; the harness' batch size is chosen by as many rounds over about "
        f"{CHOICE_ITEMS} (evenly spread). Token ratio: tokens of one row per label over distinct trie tokens; to the "
        "harness: of its rows, as labels of one token share one. Tokenizer: toy is agnews-tiny-gemma's, of 4,096 "
        "tokens; real is the pretrained model's own, for which `World`, `Sports` and `Business` are one token each. "
        f"Goals with `detailed`: {GOALS['notebook']:.0f} times the notebook, {GOALS['harness']:.0f} the harness.\n\n"
    )
    write_section(TITLE, command_line(COMMAND, parser, options), body + table(header, rows), options.results)


if __name__ == "__main__":
    main()
