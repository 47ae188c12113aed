"""Overlap: the whole pipeline's items a second beside the scorer's own.

Invariant: the same model, texts and prompt on both sides, in turn; model load and server start count for neither.
"""

import argparse
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

import polars as pl

from pipeline.prompts import BUILT_IN
from pipeline.scoring.scorer import Scorer
from pipeline.scoring.tokens import Encoder
from tests.benchmarks import inputs
from tests.benchmarks.command import run_labelscore
from tests.benchmarks.results import RESULTS, command_line, number, table, write_section

TITLE = "Overlap: end to end beside the scorer alone, CPU"
COMMAND = "python -m tests.benchmarks.overlap"
STAGES = ("pull", "plan", "score", "publish")
GOAL = 0.95


def scorer_seconds(model: Any, texts: list[str], prompt: str) -> float:
    """The scorer alone: items already tokenised, results thrown away."""
    items = Encoder(inputs.tiny_tokenizer(), BUILT_IN[prompt], context_tokens=inputs.CONTEXT_TOKENS).encode(texts)
    scorer = Scorer(model)
    start = time.perf_counter()
    for _batch in scorer.score(items):
        pass
    return time.perf_counter() - start


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--items", type=int, default=7_600)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--prompt", default="detailed")
    parser.add_argument("--results", type=Path, default=RESULTS)
    options = parser.parse_args(arguments)
    model, texts = inputs.random_gemma(), inputs.articles(options.items)
    num_texts = len(set(texts))
    rows, shares = [], []
    with tempfile.TemporaryDirectory() as folder:
        directory = inputs.save_model_folder(Path(folder) / "random-gemma", model)
        dataset = Path(folder) / "articles.parquet"
        pl.DataFrame({"text": texts, "label": [i % 4 for i in range(len(texts))]}).write_parquet(dataset)
        scorer_seconds(model, texts[:100], options.prompt)  # warm
        for index in range(options.rounds):
            alone = num_texts / scorer_seconds(model, list(dict.fromkeys(texts)), options.prompt)
            run = run_labelscore(dataset, directory, options.prompt, Path(folder) / f"out-{index}")
            timings = run.manifest["timings"]
            whole = num_texts / sum(timings[stage] for stage in STAGES)
            shares.append(whole / alone)
            cells = [f"{timings[stage]:.1f}" for stage in (*STAGES, "report")]
            cells += [f"{seconds:.1f}" for seconds in (run.seconds - sum(timings.values()), run.seconds)]
            rows.append([index + 1, number(alone), number(whole), f"{whole / alone:.1%}", *cells])
            print(rows[-1], flush=True)
    header = ["round", "scorer alone, items/s", "end to end, items/s", "share"]
    header += [f"{stage}, s" for stage in (*STAGES, "report")] + ["start and end, s", "whole command, s"]
    body = (
        f"Random Gemma of 13.9 M parameters, {options.items:,} test rows ({num_texts:,} distinct texts), prompt "
        f"`{options.prompt}`. End to end = {' + '.join(STAGES)} from the run's manifest. Median share "
        f"**{statistics.median(shares):.1%}**, goal {GOAL:.0%}. Start and end: what the whole command takes beside its "
        "stages: importing libraries, starting Prefect's server and stopping it.\n\n"
    )
    write_section(TITLE, command_line(COMMAND, parser, options), body + table(header, rows), options.results)


if __name__ == "__main__":
    main()
