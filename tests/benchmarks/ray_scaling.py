"""Workers: one process beside two on Ray, a thread each, and the bytes that an item leaves behind.

Invariant: the same model, items, prompt and shards on both sides, in turn; starting Ray and loading models count for
neither, waiting for the last shard does.
"""

import argparse
import os
import statistics
import tempfile
from pathlib import Path

import polars as pl

from pipeline.shard import SECONDS_BETWEEN_PARTS
from tests.benchmarks import inputs
from tests.benchmarks.command import CommandRun, run_labelscore
from tests.benchmarks.results import RESULTS, command_line, number, table, write_section

TITLE = "Workers on Ray, CPU"
COMMAND = "python -m tests.benchmarks.ray_scaling"
MODEL = "agnews-tiny-gemma"
NUM_PRIORS = 3  # content-free texts, in a part of their own
FILES = {"scores": "scores", "items": "items.parquet", "predictions": "report/predictions.parquet"}


def rate(run: CommandRun) -> float:
    """Items a second while scoring."""
    return float(run.manifest["counts"]["scored"] / run.manifest["timings"]["score"])


def bytes_each(out: Path, num_items: int) -> list[str]:
    """Of the store: parts, texts a part, bytes an item; of each other kind of file: bytes an item."""
    parts = list((out / "store").rglob("*.parquet"))
    parts = [
        part for part in parts if pl.read_parquet(part, columns=["text_hash"])["text_hash"].n_unique() > NUM_PRIORS
    ]
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
    parser.add_argument("--items", type=int, default=20_000)
    parser.add_argument("--shard-size", type=int, default=500)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--results", type=Path, default=RESULTS)
    options = parser.parse_args(arguments)
    os.environ["OMP_NUM_THREADS"] = "1"
    model, texts = inputs.shared_folder() / "models" / MODEL, inputs.texts(options.items)
    rows, gains = [], []
    with tempfile.TemporaryDirectory() as folder:
        dataset = Path(folder) / "items.parquet"
        pl.DataFrame({"text": texts, "label": [i % 4 for i in range(len(texts))]}).write_parquet(dataset)
        for index in range(options.rounds):
            shards = ("--shard-size", str(options.shard_size))
            one = run_labelscore(dataset, model, "answer", Path(folder) / f"one-{index}", *shards)
            two = run_labelscore(dataset, model, "answer", Path(folder) / f"two-{index}", *shards, "--workers", "2")
            gains.append(rate(two) / rate(one))
            loads = [f"{run.manifest['timings']['load']:.1f}" for run in (one, two)]
            peaks = [f"{run.peak_bytes / 1e9:.2f}" for run in (one, two)]
            rows.append([index + 1, number(rate(one)), number(rate(two)), f"{gains[-1]:.2f}", *loads, *peaks])
            print(rows[-1], flush=True)
        sizes = bytes_each(Path(folder) / "two-0", options.items)
    header = [
        "round",
        "1 worker, items/s",
        "2 workers, items/s",
        "gain",
        "load 1, s",
        "load 2, s",
        "peak 1, GB",
        "peak 2, GB",
    ]
    body = (
        f"{MODEL}, {options.items:,} items, prompt `answer`, shards of {options.shard_size:,}, one thread for each "
        f"worker. Median gain **{statistics.median(gains):.2f}**. `load` is starting Ray and loading the models. Load "
        f"average of the machine at the end: {os.getloadavg()[0]:.1f} (2 is what two workers make by themselves).\n\n"
        + table(header, rows)
        + "\n\nBytes an item, one prompt with four labels, two workers. A part of the store is what a worker scored of "
        f"a shard within {SECONDS_BETWEEN_PARTS:.0f} seconds: small parts weigh more for each item.\n\n"
        + table(["parts", "texts a part", "store", *FILES], [sizes])
    )
    write_section(TITLE, command_line(COMMAND, parser, options), body, options.results, num_threads=1)


if __name__ == "__main__":
    main()
