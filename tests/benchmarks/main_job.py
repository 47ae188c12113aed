"""The main job on real input: the whole AG News test split with five prompts, and what its report concludes.

Invariant: the counts on the first 400 rows are held against an independent count of correct predictions; the section is
written only where they agree within one item each (with fewer than 400 rows nothing can be held against them).
"""

import argparse
import tempfile
from pathlib import Path

import polars as pl

from pipeline.analysis import load_run
from tests.benchmarks import inputs
from tests.benchmarks.command import run_labelscore
from tests.benchmarks.results import RESULTS, command_line, number, table, write_section

TITLE = "The main job on the whole AG News test split"
COMMAND = "python -m tests.benchmarks.main_job"
COUNTED_ITEMS = 400
# Right of the first 400 rows by summed log-likelihood in float32 without truncation, counted independently.
COUNTED = {"topic": 301, "topic-science": 271, "detailed": 302, "described": 103, "answer": 333}


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--items", type=int, default=7_600)
    parser.add_argument("--out", type=Path, help="keep the run's output here")
    parser.add_argument("--results", type=Path, default=RESULTS)
    options = parser.parse_args(arguments)
    with tempfile.TemporaryDirectory() as folder:
        out = options.out or Path(folder) / "out"
        model, data = (
            inputs.shared_folder() / "models/agnews-tiny-gemma",
            inputs.shared_folder() / "data/ag_news_test.parquet",
        )
        others = [option for prompt in list(COUNTED)[1:] for option in ("--prompt", prompt)]
        others += ["--limit", str(options.items)]
        run = run_labelscore(data, model, next(iter(COUNTED)), out, *others)
        predictions = load_run(out).predictions.filter(pl.col("rule") == "sum").collect()
        concluded = "\n".join(
            line
            for line in (out / "report" / "report.md").read_text().splitlines()
            if line.startswith("- '") and " more right than " in line
        )
    rows = []
    for prompt, counted in COUNTED.items():
        mine = predictions.filter(pl.col("prompt") == prompt)
        first = int(mine.filter(pl.col("item_id") < COUNTED_ITEMS)["correct"].sum())
        if options.items >= COUNTED_ITEMS and abs(first - counted) > 1:
            raise SystemExit(f"{prompt}: {first} of the first 400 right, counted independently {counted}")
        right = mine["correct"].sum()
        rows.append([f"`{prompt}`", f"{first} ({counted})", f"{right:,}", f"{right / mine.height:.1%}"])
    scoring, timings = run.manifest["scoring"], run.manifest["timings"]
    body = (
        f"{run.manifest['counts']['items']:,} items, agnews-tiny-gemma (2.1 M parameters), five prompts: "
        f"{run.manifest['counts']['scored']:,} texts x prompts at **{number(scoring['items_per_second'])} items/s**; "
        f"{', '.join(f'{step} {seconds:.1f} s' for step, seconds in timings.items())}; the whole command "
        f"{run.seconds:.0f} s.\n\n"
    )
    header = ["prompt", "right of the first 400 (counted independently)", "right of all", "accuracy"]
    body += table(header, rows) + f"\n\nThe report concludes:\n\n{concluded}"
    write_section(TITLE, command_line(COMMAND, parser, options), body, options.results)


if __name__ == "__main__":
    main()
