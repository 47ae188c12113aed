"""Runs of the whole command, for the benchmarks that measure it from outside.

Invariant: a run is a process of its own in a fresh output directory; its peak memory is that of the process and all
its children together, sampled while it runs.
"""

import json
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil  # type: ignore[import-untyped]

ROOT = Path(__file__).resolve().parents[2]
POLL_SECONDS = 0.02


@dataclass(frozen=True, slots=True)
class CommandRun:
    manifest: dict[str, Any]
    seconds: float
    peak_bytes: int  # resident, the whole process tree at its largest moment


def run_labelscore(dataset: Path, model: Path | str, prompt: str, out: Path, *options: str) -> CommandRun:
    """`labelscore run` to its end. Raises SystemExit with the command's own message where it fails."""
    return run_with(out, "--dataset", str(dataset), "--model", str(model), "--prompt", prompt, *options)


def run_with(
    out: Path, *options: str, poll_seconds: float = POLL_SECONDS, look: Callable[[int], None] = lambda pid: None
) -> CommandRun:
    """The same with any options, a configuration's file among them.

    `look` is called with the run's process at every poll. Looking every POLL_SECONDS takes a good part of a processor.
    """
    arguments = [sys.executable, "-m", "flows.cli", "run", *options, "--out", str(out)]
    log = out.with_suffix(".log")
    start = time.perf_counter()
    with log.open("wb") as stream:
        process = subprocess.Popen(arguments, cwd=ROOT, stdout=stream, stderr=subprocess.STDOUT)
        peak = 0
        while process.poll() is None:
            peak = max(peak, tree_use(process.pid)[1])
            look(process.pid)
            time.sleep(poll_seconds)
    seconds = time.perf_counter() - start
    if process.returncode != 0:
        raise SystemExit(f"labelscore run ended with {process.returncode}:\n{log.read_text(errors='replace')[-2000:]}")
    return CommandRun(json.loads((out / "manifest.json").read_text(encoding="utf-8")), seconds, peak)


def tree_use(pid: int) -> tuple[float, int]:
    """Processor seconds and resident bytes of a process and its descendants, with those it has waited for."""
    seconds, num_bytes = 0.0, 0
    try:
        root = psutil.Process(pid)
        processes = [root, *root.children(recursive=True)]
    except psutil.Error:
        return 0.0, 0
    for process in processes:
        try:
            seconds += sum(process.cpu_times()[:4])
            num_bytes += process.memory_info().rss
        except psutil.Error:
            continue
    return seconds, num_bytes
