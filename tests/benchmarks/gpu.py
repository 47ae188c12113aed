"""GPU: models of known shapes with random weights, ours in many variants beside the notebook's loop and a batched loop.

Three calls, each of at most ten minutes on an H100 or H200:

    python tests/benchmarks/gpu.py --call 1 --out DIR   the machine, its ceilings, what ships, profiles, tests
    python tests/benchmarks/gpu.py --call 2 --out DIR   variants: attention, fusion, batch size, FP8; other workloads
    python tests/benchmarks/gpu.py --call 3 --out DIR   texts to Parquet, the loops we are compared with, accuracy
    python tests/benchmarks/gpu.py --keep DIR           writes the figures of the calls into the tracked results

Calls 1 and 2 need PyTorch, Triton, transformers and numpy and nothing else of the project's dependencies; call 3 also
pyarrow and fsspec. Without a GPU a toy shape runs, to be tested. A call that is repeated with the same DIR measures
what is missing there.

Call 2 is no full product of its axes, which would take an hour: each axis is varied around what ships, for a short run
and for a long one, in bfloat16 and in FP8.

Invariant: each measurement has a process and a time limit of its own; whatever fails is a line in the results and never
the end of the script, and figures are saved as they come.
"""

import argparse
import json
import multiprocessing
import os
import signal
import sys
import time
import traceback
from collections.abc import Callable
from contextlib import suppress
from dataclasses import asdict, replace
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))  # a script's own folder is on the path, the project's root is not

import torch  # noqa: E402  (after the path is set)

from tests.benchmarks import gpu_parts as parts  # noqa: E402
from tests.benchmarks.gpu_report import SCRIPT, TITLE, brief, render  # noqa: E402
from tests.benchmarks.gpu_variants import Setting, Variant, measure  # noqa: E402
from tests.benchmarks.gpu_work import SHAPES  # noqa: E402
from tests.benchmarks.results import RESULTS, command_line, machine, write_section  # noqa: E402

SECONDS_EACH = 90.0
LEAST_SECONDS = 15.0  # with less left no measurement begins
CALLS = (1, 2, 3)
Job = Callable[[Setting], dict[str, Any]]

SHIPPED = Variant()
BEST = Variant(fused="layers")  # what ships for a long run
BEST_FP8 = replace(BEST, linears="fp8")
MASKS = Variant(attention="masks")


def variants() -> list[Variant]:
    """What call 2 measures, most wanted first."""
    found = [BEST, BEST_FP8, replace(SHIPPED, linears="fp8"), replace(MASKS, fused="layers")]
    for workload in ("described", "20 labels", "5-shot", "300 tokens"):
        found += [replace(each, workload=workload) for each in (SHIPPED, BEST, BEST_FP8)]
    found += [replace(each, workload="5-shot", attention="repeated") for each in (BEST, BEST_FP8)]
    found += [replace(each, attention="cascade") for each in (BEST, BEST_FP8)]
    found += [replace(each, tokens=tokens) for tokens in (16_384, 65_536) for each in (SHIPPED, BEST, BEST_FP8)]
    found += [replace(BEST, linears="fp8 pytorch"), replace(MASKS, linears="fp8")]
    return found + [replace(each, fused=fused) for fused in ("leaves", "whole") for each in (BEST, BEST_FP8)]


def jobs(call: int) -> dict[str, Job]:
    """What a call measures, by name."""
    if call == 1:
        first = (SHIPPED, MASKS, replace(MASKS, cudnn=True))
        return {
            "environment": parts.environment,
            **{each.name: partial(measure, each) for each in first},
            "ceilings": parts.ceilings,
            **{f"profile: {each.name}": partial(parts.profile, each) for each in first},
            "tests": partial(parts.gpu_tests, root=ROOT),
            "host": parts.host,
        }
    if call == 2:
        found: dict[str, Job] = {variant.name: partial(measure, variant) for variant in variants()}
        return found | {f"profile: {each.name}": partial(parts.profile, each) for each in (BEST, BEST_FP8)}
    from tests.benchmarks import gpu_whole as whole  # it needs more than the other calls

    found = {f"texts: {each.name}": partial(whole.shards, each) for each in (SHIPPED, BEST, BEST_FP8)}
    found |= {"accuracy": whole.accuracy, "encoding": whole.encoding}
    return found | {name: partial(parts.loops, which=name) for name in parts.LOOPS}


def run_job(call: int, name: str, setting: Setting, log: Path, sender: Any) -> None:
    """In a process and session of its own: measure, and send the figures or what went wrong."""
    os.setsid()
    with log.open("a", encoding="utf-8") as stream:
        os.dup2(stream.fileno(), 1)
        os.dup2(stream.fileno(), 2)
        print(f"\n=== {name}", flush=True)
        try:
            sender.send(jobs(call)[name](setting))
        except BaseException as error:
            traceback.print_exc()
            sender.send({"failed": (f"{type(error).__name__}: {error}".splitlines() or [""])[0][:300]})
        sys.stdout.flush()


def guarded(context: Any, seconds: float, call: int, name: str, setting: Setting, log: Path) -> dict[str, Any]:
    """A job's figures; what takes too long is ended with all that it started."""
    receiver, sender = context.Pipe(duplex=False)
    process = context.Process(target=run_job, args=(call, name, setting, log, sender))
    started = time.perf_counter()
    process.start()
    sender.close()
    try:
        found: dict[str, Any] = receiver.recv() if receiver.poll(seconds) else {"failed": f"took over {seconds:.0f} s"}
    except EOFError:
        process.join(5)
        found = {"failed": f"ended with exit code {process.exitcode}"}
    process.join(2)
    with suppress(ProcessLookupError, PermissionError):
        os.killpg(process.pid, signal.SIGKILL)
    process.kill()
    process.join()
    return found | {"wall_seconds": time.perf_counter() - started}


def run_call(options: argparse.Namespace, command: str) -> dict[str, Any]:
    """Measures what the folder does not have yet, one job after the other; saves after each."""
    os.environ["PYTORCH_NVML_BASED_CUDA_CHECK"] = "1"  # CUDA must not be begun before the processes are forked
    on_gpu = torch.cuda.is_available()
    setting = Setting(
        "cuda" if on_gpu else "cpu", options.round_seconds * on_gpu, options.texts, options.tokenizer, options.trained
    )
    path = options.out / f"call-{options.call}.json"
    before = json.loads(path.read_text(encoding="utf-8"))["figures"] if path.is_file() else {}
    figures = {name: found for name, found in before.items() if "failed" not in found}
    kept = {"call": options.call, "command": command, "date": f"{datetime.now(UTC):%Y-%m-%d}", "is_toy": setting.is_toy}
    kept |= {"shapes": {name: asdict(setting.shape(name)) for name in SHAPES}, "figures": figures}
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["tests.benchmarks.gpu_parts", "transformers.models.gemma.modeling_gemma"])
    deadline = time.perf_counter() + 60 * options.minutes
    for name in jobs(options.call):
        if name in figures or (options.only and name not in options.only):
            continue
        left = deadline - time.perf_counter()
        found = {"failed": "no time was left", "wall_seconds": 0.0}
        if left > LEAST_SECONDS:
            seconds = min(options.seconds_each, left)
            found = guarded(context, seconds, options.call, name, setting, options.out / "log.txt")
        if "table" in found:
            with (options.out / "profile.txt").open("a", encoding="utf-8") as stream:
                stream.write(f"{name}\n{found.pop('table')}\n\n")
        print(brief(name, found), flush=True)
        figures[name] = found
        path.write_text(json.dumps(kept, indent=1), encoding="utf-8")
    kept["machine"] = machine()
    path.write_text(json.dumps(kept, indent=1), encoding="utf-8")
    return figures


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    what = parser.add_mutually_exclusive_group(required=True)
    what.add_argument("--call", type=int, choices=CALLS)
    what.add_argument("--keep", type=Path, metavar="DIR", help="write the results of the calls in this folder")
    parser.add_argument("--out", type=Path, help="folder for call-N.json, log.txt and profile.txt")
    parser.add_argument("--only", nargs="+", default=[], help="only these measurements, by name")
    parser.add_argument("--minutes", type=float, default=9.5, help="with less than these left nothing new begins")
    parser.add_argument("--seconds-each", type=float, default=SECONDS_EACH, help="limit of one measurement")
    parser.add_argument("--round-seconds", type=float, default=3.0, help="rounds go on for so long")
    parser.add_argument("--texts", type=Path, help="parquet file with text and label, for call 3")
    parser.add_argument("--tokenizer", type=Path, help="directory, for call 3")
    parser.add_argument("--trained", type=Path, help="directory of a model that knows the labels, for call 3")
    parser.add_argument("--results", type=Path, default=RESULTS)
    options = parser.parse_args(arguments)
    if options.keep:
        calls = [json.loads(path.read_text(encoding="utf-8")) for path in sorted(options.keep.glob("call-*.json"))]
        source = ", ".join(dict.fromkeys(f"{call['date']}, {call['machine']}" for call in calls))
        body = render(calls, [name for call in CALLS for name in jobs(call)], variants())
        write_section(TITLE, f"{SCRIPT} --keep DIR", body, options.results, source)
        return 0
    if options.out is None:
        parser.error("--call needs --out")
    options.out.mkdir(parents=True, exist_ok=True)
    figures = run_call(options, command_line(f"{SCRIPT} --out DIR", parser, options))
    return 1 if any("failed" in found for found in figures.values()) else 0


if __name__ == "__main__":
    sys.exit(main())
