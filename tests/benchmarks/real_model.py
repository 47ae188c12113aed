"""A real model, side by side: the notebook's loop, lm-evaluation-harness at several batch sizes, and ours.

Invariant: one process, one model object, the same texts, solved examples, prompt and label words, encoded alike; each
contender starts from texts and ends with log-likelihoods, is warm at every batch size and takes its turn; a figure
counts only where the log-likelihoods agree.
"""

import argparse
import math
import os
import statistics
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from typing import Any

import psutil  # type: ignore[import-untyped]
import torch
from torch import Tensor

from pipeline.config import RunConfig
from pipeline.prompts import BUILT_IN, Prompt
from pipeline.reading.model import load_model, load_tokenizer
from pipeline.scoring.scorer import Scorer
from pipeline.scoring.tokens import Encoder, TokenSequences
from pipeline.target import find_model
from tests.benchmarks import contenders, inputs
from tests.benchmarks.cpu import our_scores
from tests.benchmarks.limit import best_matrix_rate, tokens_a_batch
from tests.benchmarks.measure import alternate, executed_flops, needed_flops, needed_work
from tests.benchmarks.real_model_report import HARNESS, NOTEBOOK, OURS, Figures, keep, make_parser

TOLERANCE = 1e-4  # nats
LOGIT_COPIES = 3  # of a batch in the harness: the model's, their log-softmax, and the last batch's


@dataclass(frozen=True, slots=True)
class Way:
    """A contender: the places of the texts that it takes, how it scores texts, and what makes it warm."""

    places: Sequence[int]
    score: Callable[[Sequence[str]], Tensor]
    num_warm: int = 1


class Setting:
    """A loaded model with its tokenizer, and one prompt over texts."""

    def __init__(self, model: Any, tokenizer: Any, context_tokens: int, prompt: Prompt, texts: list[str]) -> None:
        self.model, self.texts = model, texts
        self.encoder = Encoder(tokenizer, prompt, context_tokens=context_tokens)
        self.items = self.encoder.encode(texts)
        self.rows = contenders.label_rows(self.items, share_rows=True)  # as the harness has them, longest first
        self.scorer = Scorer(model)

    def ours(self, texts: Sequence[str]) -> Tensor:
        return our_scores(self.scorer, self.encoder, list(texts))

    def ways(self, lm: Any, options: argparse.Namespace, lacking: Collection[int]) -> dict[str, Way]:
        """All contenders, without the harness at batch sizes that are `lacking` memory."""
        by_notebook = Way(
            about_average(self.items, options.notebook_items),
            lambda texts: contenders.notebook_loop(self.model, self.encoder.encode(texts)),
        )
        sizes = [size for size in options.batch_sizes if size not in lacking]
        harness = {f"{HARNESS}{size}": self.by_harness(lm, size, options.harness_items) for size in sizes}
        return {NOTEBOOK: by_notebook, **harness, OURS: Way(range(len(self.texts)), self.ours, len(self.texts))}

    def by_harness(self, lm: Any, size: int, num_items: int) -> Way:
        """The harness over so many items, but no fewer than fill a batch."""
        num_full = math.ceil(size * len(self.items) / len(self.rows))
        return Way(
            about_average(self.items, max(num_full, num_items)),
            lambda texts: contenders.harness_token_scores(lm, self.encoder.encode(texts), size),
            num_full,
        )

    def lacking(self, sizes: Sequence[int]) -> dict[int, int]:
        """Of the harness' batch sizes those that do not fit into memory, and the bytes that they need."""
        vocabulary, longest = self.model.config.vocab_size, len(self.rows[0][0])
        needed = {size: LOGIT_COPIES * size * longest * vocabulary * torch.float32.itemsize for size in sizes}
        available = psutil.virtual_memory().available
        return {size: num_bytes for size, num_bytes in needed.items() if num_bytes > available}


def about_average(items: Sequence[TokenSequences], num: int) -> list[int]:
    """The places of the `num` items whose length is closest to the mean.

    So few stand for all, and no batch of the harness is padded: in a large job, too, the rows of one are about as long
    as each other, as the harness sorts them.
    """
    lengths = [len(item.prompt_ids) for item in items]
    mean = statistics.mean(lengths)
    return sorted(range(len(items)), key=lambda place: abs(lengths[place] - mean))[:num]


def measure(setting: Setting, lm: Any, options: argparse.Namespace) -> Figures:
    """Seconds of each contender in each round, and the machine's matrix rate before and after ours."""
    lacking = setting.lacking(options.batch_sizes)
    ways = setting.ways(lm, options, lacking)
    for way in ways.values():  # warm
        way.score([setting.texts[place] for place in way.places[: way.num_warm]])
    batch_tokens = tokens_a_batch(setting.scorer.counts)
    found: dict[str, Tensor] = {}
    rates: list[float] = []

    def run(name: str) -> None:
        way = ways[name]
        found[name] = way.score([setting.texts[place] for place in way.places])

    def rate() -> None:
        rates.append(best_matrix_rate(setting.model, batch_tokens))
        setting.scorer = Scorer(setting.model)  # which has no solved examples at hand yet

    others = {name: lambda name=name: run(name) for name in ways if name != OURS}
    turns = {**others, "before": rate, OURS: lambda: run(OURS), "after": rate}
    seconds = alternate(turns, options.rounds, warm=False)
    work = needed_work(setting.items)
    needed = needed_flops(setting.model, work)
    limits = [statistics.mean(rates[start : start + 2]) for start in range(0, len(rates), 2)]
    return Figures(
        {name: [len(ways[name].places) / each for each in seconds[name]] for name in ways},
        lacking,
        {name: len(way.places) for name, way in ways.items()},
        [needed / each / at for each, at in zip(seconds[OURS], limits, strict=True)],
        executed_flops(setting.model, lambda: run(OURS)) / needed,
        statistics.mean(len(item.prompt_ids) for item in setting.items),
        work.row_tokens / work.trie_tokens,
        sum(len(tokens) for tokens, _ in setting.rows) / work.trie_tokens,
        max(_difference(found[OURS], found[name], way) for name, way in ways.items()),
    )


def _difference(ours: Tensor, theirs: Tensor, way: Way) -> float:
    return float((ours[list(way.places)] - theirs).abs().max())


def main(arguments: list[str] | None = None) -> None:
    parser = make_parser(__doc__)
    options = parser.parse_args(arguments)
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    ref = find_model(RunConfig(model=options.model, device="cpu", dtype="float32"))
    model, tokenizer = load_model(ref), load_tokenizer(ref)
    lm, texts = contenders.harness(model, tokenizer), inputs.texts(options.items)
    options.model = ref.name
    cells: list[tuple[Prompt, int, Figures]] = []
    for num_shots in options.shots:
        names = options.prompts
        prompts = inputs.solved_prompts(names, num_shots) if num_shots else [BUILT_IN[name] for name in names]
        for prompt in prompts:
            figures = measure(Setting(model, tokenizer, ref.context_tokens, prompt, texts), lm, options)
            print(f"{prompt.name}, {num_shots} shots: {figures}", flush=True)
            if figures.difference > TOLERANCE:
                raise SystemExit(f"{prompt.name}, {num_shots} shots: scores differ by {figures.difference:.1e} nats")
            cells.append((prompt, num_shots, figures))
    keep(parser, options, f"{ref.name}, {model.num_parameters() / 1e6:,.1f} M parameters, {ref.dtype}", cells)


if __name__ == "__main__":
    main()
