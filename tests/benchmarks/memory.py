"""Memory: the peak of the whole command for few and for many items.

Invariant: the same trivial model, prompt and options; only the number of rows differs, and all texts are distinct.
"""

import argparse
import tempfile
from pathlib import Path

import polars as pl

from tests.benchmarks import inputs
from tests.benchmarks.command import run_labelscore
from tests.benchmarks.results import RESULTS, command_line, table, write_section

TITLE = "Memory of the whole command, CPU"
COMMAND = "python -m tests.benchmarks.memory"
GOAL = 1.1


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--items", type=int, nargs=2, default=(4_000, 120_000))
    parser.add_argument("--prompt", default="answer")
    parser.add_argument("--results", type=Path, default=RESULTS)
    options = parser.parse_args(arguments)
    rows, peaks = [], []
    with tempfile.TemporaryDirectory() as folder:
        trivial = inputs.random_gemma(hidden=16, layers=1, heads=1, intermediate=16, vocabulary=4_096)
        directory = inputs.save_model_folder(Path(folder) / "trivial-gemma", trivial)
        for num_items in options.items:
            dataset = Path(folder) / f"{num_items}.parquet"
            labels = [i % 4 for i in range(num_items)]
            pl.DataFrame({"text": inputs.texts(num_items), "label": labels}).write_parquet(dataset)
            run = run_labelscore(dataset, directory, options.prompt, Path(folder) / f"out-{num_items}")
            peaks.append(run.peak_bytes)
            timings = run.manifest["timings"]
            cells = [f"{seconds:.1f}" for seconds in (*timings.values(), run.seconds - sum(timings.values()))]
            rows.append([f"{num_items:,}", f"{run.peak_bytes / 2**20:,.0f}", f"{run.seconds:.1f}", *cells])
            print(rows[-1], flush=True)
    body = (
        "Peak resident memory of the process and its children together. A Gemma of one layer and hidden size 16, "
        f"prompt `{options.prompt}`, distinct texts (test rows with a running number). Ratio "
        f"**{peaks[1] / peaks[0]:.2f}**, goal at most {GOAL}. Start and end: what the whole command takes beside its "
        "stages: importing libraries, starting Prefect's server and stopping it.\n\n"
    )
    header = ["items", "peak, MiB", "whole command, s", *(f"{stage}, s" for stage in timings), "start and end, s"]
    write_section(TITLE, command_line(COMMAND, parser, options), body + table(header, rows), options.results)


if __name__ == "__main__":
    main()
