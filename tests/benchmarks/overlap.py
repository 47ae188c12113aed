"""Overlap: the whole pipeline's items a second beside the scorer's own.

Two processes score the same texts, one with the whole command and one with the scorer alone; they take turns of some
seconds, in which the other is stopped. So a machine whose speed drifts over minutes drifts for both. Prefect's server
is stopped with its run; as what it does by the clock comes a little denser then, turns are not shorter.

Invariant: while a share is taken at most one of the two runs, and only the time in which it runs counts for either;
model load and server start count for neither.
"""

import argparse
import os
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from multiprocessing import get_context
from multiprocessing.connection import Connection
from pathlib import Path

import polars as pl
import psutil  # type: ignore[import-untyped]

from pipeline.job import Job
from pipeline.prompts import BUILT_IN
from pipeline.scoring.scorer import Scorer
from pipeline.scoring.tokens import Encoder
from tests.benchmarks import inputs
from tests.benchmarks.results import RESULTS, command_line, number, table, write_section

TITLE = "Overlap: end to end beside the scorer alone, CPU"
COMMAND = "python -m tests.benchmarks.overlap"
STAGES = ("pull", "plan", "score", "publish")
GOAL = 0.95
TURN_SECONDS = 5.0

Interval = tuple[float, float]


def score_alone(pipe: Connection, texts: Sequence[str], prompt: str) -> None:
    """The scorer alone, in a process of its own: items already tokenised, results thrown away."""
    items = Encoder(inputs.tiny_tokenizer(), BUILT_IN[prompt], context_tokens=inputs.CONTEXT_TOKENS).encode(texts)
    scorer = Scorer(inputs.random_gemma())
    list(scorer.score(items[:100]))  # warm
    pipe.send(("ready", 0.0, 0.0))
    pipe.recv()
    begin = time.perf_counter()
    for _batch in scorer.score(items):
        pass
    pipe.send(("alone", begin, time.perf_counter()))


def run_whole(pipe: Connection, arguments: Sequence[str]) -> None:
    """The whole command, in a process of its own; sends when each of its steps began and ended."""
    timed = Job.timed

    @contextmanager
    def told(job: Job, step: str) -> Iterator[None]:
        if step == "score":
            pipe.send(("ready", 0.0, 0.0))
            pipe.recv()
        begin = time.perf_counter()
        with timed(job, step):
            yield
        pipe.send((step, begin, time.perf_counter()))

    Job.timed = told  # type: ignore[method-assign]
    from flows.cli import main as labelscore

    raise SystemExit(labelscore(arguments))


def start_logged(log: Path, target: Callable[..., None], pipe: Connection, *arguments: object) -> None:
    """`target` with its output in a file."""
    with log.open("wb") as stream:
        os.dup2(stream.fileno(), 1)
        os.dup2(stream.fileno(), 2)
    target(pipe, *arguments)


class Runner:
    """One of the two processes, with its children; it is stopped whenever it is not its turn."""

    def __init__(self, log: Path, target: Callable[..., None], *arguments: object) -> None:
        self.steps: dict[str, Interval] = {}
        self.turns: list[Interval] = []
        self._log = log
        self._processes: list[psutil.Process] = []
        context = get_context("spawn")
        self._pipe, theirs = context.Pipe()
        self._process = context.Process(target=start_logged, args=(log, target, theirs, *arguments))
        self._process.start()
        theirs.close()

    def __enter__(self) -> "Runner":
        return self

    def __exit__(self, *error: object) -> None:
        self._signal(psutil.Process.resume)
        self._process.join(None if error[0] is None else 0)
        self._process.kill()

    def make_ready(self) -> None:
        """Let it run until it stands before what is measured, and stop it there. Raises SystemExit where it failed."""
        while self._receive() != "ready":
            pass
        root = psutil.Process(self._process.pid)
        self._processes = [root, *root.children(recursive=True)]
        self._signal(psutil.Process.suspend)
        self._pipe.send("go")

    def take_turn(self, seconds: float) -> None:
        """Let it run for so long. Raises SystemExit where it failed."""
        begin = time.perf_counter()
        self._signal(psutil.Process.resume)
        while (left := begin + seconds - time.perf_counter()) > 0 and self._pipe.poll(left) and not self.is_done:
            self._receive()
        self._signal(psutil.Process.suspend)
        self.turns.append((begin, time.perf_counter()))

    @property
    def is_done(self) -> bool:
        return STAGES[-1] in self.steps or "alone" in self.steps

    def seconds(self, step: str) -> float:
        """How long it ran for a step; what it did before its first turn, it did undisturbed."""
        begin, end = self.steps[step]
        if end <= self.turns[0][0]:
            return end - begin
        return sum(max(0.0, min(end, stop) - max(begin, start)) for start, stop in self.turns)

    def _receive(self) -> str:
        try:
            step, begin, end = self._pipe.recv()
        except EOFError:
            raise SystemExit(f"ended too early:\n{self._log.read_text(errors='replace')[-2000:]}") from None
        self.steps[step] = (begin, end)
        return str(step)

    def _signal(self, send: Callable[[psutil.Process], None]) -> None:
        for process in self._processes:
            with suppress(psutil.NoSuchProcess):
                send(process)


def take_turns(alone: Runner, whole: Runner) -> None:
    """Both to the end of what is measured, in turn."""
    for runner in (alone, whole):
        runner.make_ready()
    while not (alone.is_done and whole.is_done):
        for runner in (alone, whole):
            if not runner.is_done:
                runner.take_turn(TURN_SECONDS)


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--items", type=int, default=7_600)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--prompt", default="detailed")
    parser.add_argument("--results", type=Path, default=RESULTS)
    options = parser.parse_args(arguments)
    texts = list(dict.fromkeys(inputs.texts(options.items)))
    rows, shares = [], []
    with tempfile.TemporaryDirectory() as folder:
        model = inputs.save_model_folder(Path(folder) / "random-gemma", inputs.random_gemma())
        dataset = Path(folder) / "items.parquet"
        pl.DataFrame({"text": texts, "label": [i % 4 for i in range(len(texts))]}).write_parquet(dataset)
        for index in range(options.rounds):
            command = ["run", "--dataset", str(dataset), "--model", str(model), "--prompt", options.prompt]
            command += ["--out", str(Path(folder) / f"out-{index}")]
            with (
                Runner(Path(folder) / "alone.log", score_alone, texts, options.prompt) as alone,
                Runner(Path(folder) / "whole.log", run_whole, command) as whole,
            ):
                take_turns(alone, whole)
            seconds = {stage: whole.seconds(stage) for stage in STAGES}
            shares.append(alone.seconds("alone") / sum(seconds.values()))
            rates = (len(texts) / alone.seconds("alone"), len(texts) / sum(seconds.values()))
            cells = [number(rate) for rate in rates] + [f"{shares[-1]:.1%}"]
            rows.append([index + 1, *cells, *(f"{seconds[stage]:.1f}" for stage in STAGES)])
            print(rows[-1], flush=True)
    header = ["round", "scorer alone, items/s", "end to end, items/s", "share", *(f"{stage}, s" for stage in STAGES)]
    body = (
        f"Random Gemma of 13.9 M parameters, {len(texts):,} distinct test rows, prompt `{options.prompt}`; the two "
        f"take turns of {TURN_SECONDS:g} s. End to end = {' + '.join(STAGES)}. Median share "
        f"**{statistics.median(shares):.1%}**, goal {GOAL:.0%}.\n\n"
    )
    write_section(TITLE, command_line(COMMAND, parser, options), body + table(header, rows), options.results)


if __name__ == "__main__":
    main()
