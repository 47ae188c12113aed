"""The host beside a GPU: how busy it keeps a device that only sleeps, and its time an item by step.

The whole command runs over items that no run had before, with a device that sleeps for as long as a GPU would work
(sleeping_device.py), and all else as it is. Then each step runs alone, shard by shard. While a step holds Python's lock
no other step can run: that counts as held for all that is not spent in the tokenizer's library, which frees the lock
while it encodes. PyTorch frees it, too, in many operations, so it is held for less than is told.

Invariant: each step is the product's own code over the same texts in one thread; the best of the rounds counts, as
whatever else the machine does only adds to them.
"""

import argparse
import os
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from unittest.mock import patch

import polars as pl
import pyarrow as pa
import torch

from pipeline.job import Job
from pipeline.prompts import BUILT_IN, hash_text
from pipeline.scoring.forward import Shortcut, TreeForward
from pipeline.scoring.packed import num_fitting
from pipeline.scoring.plan import make_plan
from pipeline.scoring.scorer import ScoredBatch
from pipeline.scoring.terms import LabelSums
from pipeline.scoring.tokens import Encoder
from pipeline.scoring.transfers import send
from pipeline.shard import part_table
from pipeline.sharding import item_values
from pipeline.storing.files import Output
from pipeline.storing.fingerprint import StoredPrompt, make_fingerprint
from pipeline.storing.parts import PartWriter
from tests.benchmarks import inputs
from tests.benchmarks.encoding import LIBRARY
from tests.benchmarks.measure import stage_shares
from tests.benchmarks.results import RESULTS, command_line, number, table, write_section
from tests.benchmarks.sleeping_device import ELSEWHERE, SleepingDevice, scored_by

TITLE = "Host beside a GPU"
COMMAND = "python -m tests.benchmarks.host"
PROMPT = "detailed"
SECONDS_AN_ITEM = 281e-6  # an H200 at 3,560 items/s of Gemma-2B's shape, what it does in FP8
BATCH_TOKENS, SHARD_SIZE = 32_768, 4_000
LAYERS, HIDDEN, VOCABULARY = 18, 16, 4_096
STAGES = ("resolve", "pull", "plan", "load", "score", "publish", "report")
GOALS = {"busy": 0.97, "in all": 150.0, "holding the lock": 40.0}


# --- how busy the device is -----------------------------------------------------------------------------------------


@dataclass
class Busy:
    """What a whole run kept of the device's time, and when each of its stages began and ended."""

    num_items: int
    device: SleepingDevice
    stages: dict[str, tuple[float, float]]
    seconds: float

    def row(self, number_of_run: int) -> list[str]:
        first, last = self.device.spans[0][0], self.device.spans[-1][1]
        begin, end = self.stages["score"]
        other = [self.stages[stage][1] - self.stages[stage][0] for stage in STAGES if stage != "score"]
        return [
            str(number_of_run),
            f"{self.device.busy:.1%}",
            f"{last - first:.1f}",
            f"{max(self.device.gaps, default=0.0):.3f}",
            number(1e3 * sum(self.device.launch_seconds) / len(self.device.launch_seconds)),
            *(f"{seconds:.1f}" for seconds in (first - begin, end - last, *other)),
            f"{self.seconds - sum(stop - start for start, stop in self.stages.values()):.1f}",
        ]


def keep_busy(num_items: int, folder: Path) -> Busy:
    """The whole command over so many items, scored by the sleeping device."""
    model = inputs.save_model_folder(folder / "narrow", inputs.random_gemma(HIDDEN, LAYERS, 1, 32, VOCABULARY))
    dataset = folder / "items.parquet"
    texts = inputs.texts(num_items)
    pl.DataFrame({"text": texts, "label": [i % 4 for i in range(len(texts))]}).write_parquet(dataset)
    device, stages = SleepingDevice(SECONDS_AN_ITEM), dict[str, tuple[float, float]]()
    timed = Job.timed

    @contextmanager
    def told(job: Job, stage: str) -> Iterator[None]:
        begin = time.perf_counter()
        with timed(job, stage):
            yield
        stages[stage] = begin, time.perf_counter()

    from flows.cli import main as labelscore

    command = ["run", "--dataset", str(dataset), "--model", str(model), "--prompt", PROMPT]
    command += ["--batch-tokens", str(BATCH_TOKENS), "--out", str(folder / "out")]
    started = time.perf_counter()
    with patch.object(Job, "timed", told), scored_by(device):
        if labelscore(command):
            raise SystemExit("the run failed")
    return Busy(num_items, device, stages, time.perf_counter() - started)


# --- host time by step ----------------------------------------------------------------------------------------------


@dataclass
class Step:
    """One of the host's steps: what runs beside, and what it does with a shard that the steps before it made ready."""

    name: str
    thread: str
    work: Callable[[dict[str, Any]], None]


def steps(tokenizer: Any, out: Path) -> list[Step]:
    prompt = BUILT_IN[PROMPT]
    encoder = Encoder(tokenizer, prompt, context_tokens=inputs.CONTEXT_TOKENS)
    tree = TreeForward(inputs.random_gemma(HIDDEN, LAYERS, 1, 32, VOCABULARY))
    tree.shortcuts |= {Shortcut.NO_MASKS}
    print_ = make_fingerprint(prompt, weights="none", tokenizer="none", dtype="bfloat16", max_text_tokens=None)
    writer = PartWriter(Output(str(out)), StoredPrompt(prompt, print_), "narrow", "none", 1)

    def encode(shard: dict[str, Any]) -> None:
        values = item_values(shard["texts"])
        shard["items"] = [item for at in range(0, len(values), 250) for item in encoder.encode(values[at : at + 250])]

    def plan(shard: dict[str, Any]) -> None:
        shard["plan"] = make_plan(shard["items"], "tree", lambda _: 0, BATCH_TOKENS, notebook=False)

    def lay_out(shard: dict[str, Any]) -> None:
        trees: Any = shard["plan"].stages[0][1]
        shard["batches"] = []
        while trees:
            num = num_fitting(trees, BATCH_TOKENS)
            shard["batches"].append(tree.lay_out(trees[:num]))
            send(shard["batches"][-1], ELSEWHERE)
            trees = trees[num:]

    def collect(shard: dict[str, Any]) -> None:
        sums, shard["scored"] = LabelSums(shard["items"], shard["plan"].indices), []
        for batch in shard["batches"]:
            done = sums.add(batch.indices, batch.terms, torch.full((2, len(batch.terms)), -1.0))
            logprob, logit, *_ = sums.of(done).float().unbind()
            shard["scored"].append(ScoredBatch(done, logprob, logit, None))

    def write(shard: dict[str, Any]) -> None:
        writer.append(part_table(prompt, shard["texts"], shard["items"], shard["scored"]))

    return [
        Step("encode", "encoding", encode),
        Step("plan", "encoding", plan),
        Step("lay out and send", "scoring", lay_out),
        Step("collect", "scoring", collect),
        Step("write", "writing", write),
    ]


def measure_steps(texts: list[str], rounds: int, folder: Path) -> list[tuple[Step, float, float]]:
    """Each step's microseconds of the processor an item: in all, and holding Python's lock, at most."""
    found = []
    all_steps = steps(inputs.tiny_tokenizer(), folder / "steps")
    hashes = [hash_text(text) for text in texts]
    tables = [
        pa.table({"text_hash": hashes[at : at + SHARD_SIZE], "text": texts[at : at + SHARD_SIZE]})
        for at in range(0, len(texts), SHARD_SIZE)
    ]
    shards: list[dict[str, Any]] = [{"texts": each} for each in tables]
    for step in all_steps:

        def work(step: Step = step) -> None:
            for shard in shards:
                step.work(shard)

        seconds, held = [], []
        for _ in range(3 * rounds):
            started = time.thread_time()
            with patch.dict(os.environ, TOKENIZERS_PARALLELISM="false"):
                shares = stage_shares({"library": LIBRARY}, work)
            seconds.append(time.thread_time() - started)
            held.append(seconds[-1] * shares["the rest"])
        found.append((step, min(seconds) / len(texts) * 1e6, min(held) / len(texts) * 1e6))
    return found


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--items", type=int, default=60_000, help="of the whole run")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--results", type=Path, default=RESULTS)
    options = parser.parse_args(arguments)
    torch.set_num_threads(1)  # as where a GPU scores
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        measured = measure_steps(inputs.texts(min(options.items, 12_000)), options.rounds, folder)
        runs = []
        for index in range(options.rounds):
            (folder / str(index)).mkdir()
            runs.append(keep_busy(options.items, folder / str(index)))
            print(runs[-1].row(index + 1), flush=True)
    in_all, held = sum(each for _, each, _ in measured), sum(each for _, _, each in measured)
    launch = [1e6 * sum(run.device.launch_seconds) / run.num_items for run in runs]
    rows = [[step.name, step.thread, number(seconds), number(lock)] for step, seconds, lock in measured]
    rows.append(["all of these", "", number(in_all), number(held)])
    busy = sorted(run.device.busy for run in runs)[len(runs) // 2]
    body = (
        f"AG News' test rows, with a running number beyond 7,600, prompt `{PROMPT}`, agnews-tiny-gemma's tokenizer (74 "
        f"tokens an item), batches of {BATCH_TOKENS:,} tokens. A device that sleeps {SECONDS_AN_ITEM * 1e6:.0f} us an "
        f"item, as long as an H200 works on one of Gemma-2B's shape in FP8. Median share of the time from its first "
        f"batch's start to its last one's end in which it was at work, over {options.items:,} items: **{busy:.1%}**, "
        f"goal {GOALS['busy']:.0%}. Host: **{in_all:.0f} us** an item in all, goal {GOALS['in all']:.0f}; **{held:.0f} "
        f"us** holding Python's lock at most, goal {GOALS['holding the lock']:.0f}; without launching forwards, which "
        f"took {min(launch):.0f} us an item here for a narrow model of {LAYERS} layers on a CPU.\n\n"
    )
    body += table(["step", "thread", "us an item", "holding the lock"], rows) + "\n\n"
    body += (
        "The whole command, Prefect and all. `at work` and `span`: of the device. `longest gap`: without work. "
        "`launch`: milliseconds a batch. Then seconds beside the span: of scoring before the first batch and after the "
        "last, of the other stages, and of starting and ending.\n\n"
    )
    header = ["run", "at work", "span, s", "longest gap, s", "launch, ms", "before", "after"]
    header += [stage for stage in STAGES if stage != "score"] + ["rest"]
    body += table(header, [run.row(index + 1) for index, run in enumerate(runs)])
    write_section(TITLE, command_line(COMMAND, parser, options), body, options.results)


if __name__ == "__main__":
    main()
