"""Workers: one process beside two on Ray, a thread each, where their processors' time goes, and bytes an item.

Invariant: the same model, items, prompt and shards on all sides, in turn; starting Ray and loading models count for
none, waiting for the last shard does. What looks at them looks twice a second: more often it would take a share itself.
"""

import argparse
import os
import statistics
import tempfile
import time
from contextlib import suppress
from pathlib import Path

import polars as pl
import psutil  # type: ignore[import-untyped]

from pipeline.shard import SECONDS_BETWEEN_PARTS
from tests.benchmarks import inputs
from tests.benchmarks.command import CommandRun, run_with
from tests.benchmarks.results import RESULTS, command_line, number, table, write_section

TITLE = "Workers on Ray, CPU"
COMMAND = "python -m tests.benchmarks.ray_scaling"
MODEL = "agnews-tiny-gemma"
FILES = {"scores": "scores", "items": "items.parquet", "predictions": "report/predictions.parquet"}


KINDS = ("workers", "command", "server", "Ray")
POLL_SECONDS = 0.5


class Processors:
    """The seconds that the processes of a run took of the processors, by what they are, over time."""

    def __init__(self) -> None:
        self._seen: list[tuple[float, dict[int, tuple[str, float]]]] = []

    def look(self, pid: int) -> None:
        found: dict[int, tuple[str, float]] = {}
        with suppress(psutil.Error):
            for process in (psutil.Process(pid), *psutil.Process(pid).children(recursive=True)):
                with suppress(psutil.Error):
                    times = process.cpu_times()
                    found[process.pid] = (kind_of(process, pid), times.user + times.system)
        self._seen.append((time.time(), found))

    def between(self, start: float, end: float) -> dict[str, float]:
        """Seconds by kind; what has ended in between counts up to where it was last seen."""
        seconds, before = dict.fromkeys(KINDS, 0.0), dict[int, float]()
        for at, found in self._seen:
            for process, (kind, taken) in found.items():
                if start < at <= end:
                    seconds[kind] += taken - before.get(process, 0.0)
                before[process] = taken
        return seconds


def kind_of(process: psutil.Process, root: int) -> str:
    words = " ".join(process.cmdline())
    if words.startswith("ray::ScoringActor"):
        return "workers"
    return "command" if process.pid == root else "server" if "flows.embedded" in words else "Ray"


def while_scoring(run: CommandRun, out: Path, processors: Processors) -> dict[str, float]:
    """What scoring took: up to the last part of the store, for as long as the run says that it scored."""
    end = max(part.stat().st_mtime for part in (out / "store").rglob("*.parquet"))
    return processors.between(end - float(run.manifest["timings"]["score"]), end)


def rate(run: CommandRun) -> float:
    """Items a second while scoring."""
    return float(run.manifest["counts"]["scored"] / run.manifest["timings"]["score"])


def bytes_each(out: Path, num_items: int) -> list[str]:
    """Of the store: parts, texts a part, bytes an item; of each other kind of file: bytes an item."""
    parts = list((out / "store").rglob("*.parquet"))
    sizes = [
        f"{len(parts):,}",
        number(num_items / len(parts)),
        number(sum(p.stat().st_size for p in parts) / num_items),
    ]
    for name in FILES.values():
        path = out / name
        files = path.rglob("*.parquet") if path.is_dir() else [path]
        sizes.append(number(sum(file.stat().st_size for file in files) / num_items))
    return sizes


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--items", type=int, default=10_000)
    parser.add_argument("--shard-size", type=int, default=2_000)
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--results", type=Path, default=RESULTS)
    options = parser.parse_args(arguments)
    os.environ["OMP_NUM_THREADS"] = "1"
    model, texts = inputs.shared_folder() / "models" / MODEL, inputs.texts(options.items)
    rows, gains, shares = [], [], []
    cores = os.sched_getaffinity(0)
    with tempfile.TemporaryDirectory() as folder:
        dataset = Path(folder) / "items.parquet"
        pl.DataFrame({"text": texts, "label": [i % 4 for i in range(len(texts))]}).write_parquet(dataset)

        def score(name: str, *more: str) -> tuple[CommandRun, dict[str, float]]:
            out, processors = Path(folder) / name, Processors()
            data = ("--dataset", str(dataset), "--model", str(model), "--prompt", "answer")
            shards = ("--shard-size", str(options.shard_size))
            run = run_with(out, *data, *shards, *more, poll_seconds=POLL_SECONDS, look=processors.look)
            return run, while_scoring(run, out, processors)

        for index in range(options.rounds):
            one, alone = score(f"one-{index}")
            os.sched_setaffinity(0, {min(cores)})
            held, _ = score(f"held-{index}")
            os.sched_setaffinity(0, cores)
            two, seconds = score(f"two-{index}", "--workers", "2")
            gains.append(rate(two) / rate(one))
            shares.append(1 - seconds["workers"] / sum(seconds.values()))
            used = sum(alone.values()) / one.manifest["timings"]["score"]
            rows.append(
                [index + 1, number(rate(one)), number(used), number(rate(held)), number(rate(two)), f"{gains[-1]:.2f}"]
                + [f"{rate(two) / rate(held):.2f}", *(f"{run.manifest['timings']['load']:.1f}" for run in (one, two))]
                + [f"{seconds[kind]:.1f}" for kind in KINDS]
                + [f"{run.peak_bytes / 1e9:.2f}" for run in (one, two)]
            )
            print(rows[-1], flush=True)
        sizes = bytes_each(Path(folder) / "two-0", options.items)
    header = ["round", "1 worker, items/s", "cores it used", "1 on one core, items/s", "2 workers, items/s", "gain"]
    header += ["gain over one core", "load 1, s", "load 2, s", *(f"{kind}, s" for kind in KINDS)]
    header += ["peak 1, GB", "peak 2, GB"]
    body = (
        f"{MODEL}, {options.items:,} items, prompt `answer`, shards of {options.shard_size:,}, one thread for each "
        f"worker. Median gain **{statistics.median(gains):.2f}**. One worker encodes, writes and has Prefect's server "
        "beside its one thread, for which two workers leave no core: `cores it used`. The next column holds all of its "
        "run to one core. `load` is starting Ray and loading the models. The seconds are those that the processes of "
        "the run with two workers took of the processors while it scored: what is not the workers' is "
        f"{100 * statistics.median(shares):.1f} % of them, Prefect in `command` and `server`, Ray's own in `Ray`. Load "
        f"average of the machine at the end: {os.getloadavg()[0]:.1f} (2 is what two workers make by themselves).\n\n"
        + table(header, rows)
        + "\n\nBytes an item, one prompt with four labels, two workers. A part of the store is what a worker scored of "
        f"a shard within {SECONDS_BETWEEN_PARTS:.0f} seconds: small parts weigh more for each item.\n\n"
        + table(["parts", "texts a part", "store", *FILES], [sizes])
    )
    write_section(TITLE, command_line(COMMAND, parser, options), body, options.results, num_threads=1)


if __name__ == "__main__":
    main()
