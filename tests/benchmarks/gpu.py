"""GPU: Gemma-2B's shape with random weights, ours beside the notebook's loop and a harness-like batched loop.

Invariant: needs PyTorch, Triton and transformers and nothing else of the project's dependencies; whatever fails is a
line in the results and never the end of the script. Without a GPU it runs a toy shape, to be tested.

    python tests/benchmarks/gpu.py --out DIR          all figures, into DIR/gpu.json and DIR/gpu.md
    python tests/benchmarks/gpu.py --keep DIR/gpu.json   writes them into the tracked results
    python tests/benchmarks/gpu.py --outstanding      writes there what is still to be measured
"""

import argparse
import gc
import importlib.util
import json
import math
import random
import statistics
import subprocess
import sys
import time
import traceback
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, TypeVar

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))  # a script's own folder is on the path, the project's root is not

import torch  # noqa: E402  (after the path is set)
from transformers import AttentionInterface, AutoModelForCausalLM, GemmaConfig  # noqa: E402

from pipeline.scoring import attention  # noqa: E402
from pipeline.scoring.scorer import Scorer  # noqa: E402
from pipeline.scoring.tokens import TokenSequences  # noqa: E402
from tests.benchmarks.contenders import batched_rows, notebook_loop  # noqa: E402
from tests.benchmarks.measure import Work, body_parameters, matrix_rate, needed_work, synchronize  # noqa: E402
from tests.benchmarks.packed_flex import FlexPacked  # noqa: E402
from tests.benchmarks.results import RESULTS, command_line, machine, number, table, write_section  # noqa: E402

TITLE = "GPU, Gemma-2B's shape"
SCRIPT = "python tests/benchmarks/gpu.py"
COMMAND = f"{SCRIPT} --out DIR"
GOALS = "Goals: 60 % of the limit, 150 times the notebook's loop, 8 times the batched loop."
OUTSTANDING = (
    f"Outstanding: `{COMMAND}` on an NVIDIA H200 takes these figures (items/s, TFLOP/s on needed FLOPs, share of the "
    "matrix rate, peak memory, for ours in several variants, the notebook's loop and the batched loops) and runs the "
    f"tests marked `gpu`; `{SCRIPT} --keep DIR/gpu.json` puts them here. {GOALS}"
)
Score = Callable[[Sequence[TokenSequences]], torch.Tensor]


@dataclass(frozen=True, slots=True)
class Shape:
    """The model and the amounts of work for each contender."""

    hidden: int
    layers: int
    heads: int
    head_dim: int
    intermediate: int
    vocabulary: int
    items: int
    notebook_items: int
    batched_items: int
    matrix_tokens: int
    row_tokens: int  # of the FlexAttention variant


GEMMA_2B = Shape(2048, 18, 8, 256, 16384, 256_000, 7_600, 50, 1_000, 16_384, 4_096)
TOY = Shape(64, 2, 2, 32, 128, 512, 24, 4, 12, 512, 256)
LABEL_TOKENS = (1, 1, 1, 3)  # World, Sports, Business, Sci/Tech under Gemma's tokenizer
PREFIX_TOKENS = 38  # BOS and the head of `detailed` under Gemma's tokenizer, about


def random_model(shape: Shape, device: str, dtype: torch.dtype) -> Any:
    """Gemma's architecture with seeded random weights, made on the device."""
    torch.manual_seed(0)
    config = GemmaConfig(
        hidden_size=shape.hidden,
        num_hidden_layers=shape.layers,
        num_attention_heads=shape.heads,
        num_key_value_heads=1,
        head_dim=shape.head_dim,
        intermediate_size=shape.intermediate,
        vocab_size=shape.vocabulary,
        max_position_embeddings=2048,
    )
    with torch.device(device):
        return AutoModelForCausalLM.from_config(config, dtype=dtype, attn_implementation="sdpa").eval()


def synthetic_items(num_items: int, vocabulary: int) -> list[TokenSequences]:
    """Random ids; item lengths log-normal (median 49.5, sigma 0.37), clipped to 15..250: mean 53, as AG News has."""
    source = random.Random(0)

    def draw(num_tokens: int) -> tuple[int, ...]:
        return tuple(source.randrange(3, vocabulary) for _ in range(num_tokens))

    prefix, branches = (2, *draw(PREFIX_TOKENS - 1)), tuple(draw(n) for n in LABEL_TOKENS)
    lengths = [min(250, max(15, round(source.lognormvariate(math.log(49.5), 0.37)))) for _ in range(num_items)]
    return [TokenSequences(prefix + draw(length), branches, LABEL_TOKENS, False) for length in lengths]


def ours(model: Any, **options: Any) -> Score:
    """The product's own path."""
    scorer = Scorer(model, **options)

    def score(items: Sequence[TokenSequences]) -> torch.Tensor:
        scores = torch.empty(len(items), len(items[0].branches))
        for batch in scorer.score(items):
            scores[batch.indices] = batch.logprob
        return scores

    return score


def compiled(model: Any, **options: Any) -> Score:
    """The same with the model's body compiled in place, attention left out: its sizes differ with every batch."""
    AttentionInterface.register(attention.NAME, torch.compiler.disable(attention.attend))
    model.base_model.compile(**options)
    return ours(model)


def compiled_parts(model: Any) -> Score:
    """Only what lies between the matrix products fused: the MLPs and the norms, compiled in place."""
    for module in model.base_model.modules():
        if type(module).__name__.endswith(("MLP", "RMSNorm")):
            module.compile(dynamic=True)
    return ours(model)


def flex_packed(model: Any, shape: Shape) -> Score:
    packed = FlexPacked(model, row_tokens=shape.row_tokens, num_rows=max(1, shape.matrix_tokens // shape.row_tokens))
    return lambda items: packed.score(items, PREFIX_TOKENS)


def flex_compiled(model: Any, shape: Shape, mode: str | None = None) -> Score:
    model.base_model.compile(dynamic=False, mode=mode)
    return flex_packed(model, shape)


def variants(model: Any, shape: Shape) -> dict[str, tuple[int, Callable[[], Score]]]:
    """Name -> (items it gets, how it is made). The first is what ships."""
    whole = shape.items
    return {
        "ours, as shipped": (whole, lambda: ours(model)),
        "ours, 8,192 tokens a batch": (whole, lambda: ours(model, batch_tokens=8_192)),
        "ours, 16,384 tokens a batch": (whole, lambda: ours(model, batch_tokens=16_384)),
        "ours, 65,536 tokens a batch": (whole, lambda: ours(model, batch_tokens=65_536)),
        "ours + torch.compile of MLPs and norms": (whole, lambda: compiled_parts(model)),
        "ours + torch.compile": (whole, lambda: compiled(model, dynamic=True)),
        "ours + CUDA graphs": (whole, lambda: compiled(model, mode="reduce-overhead")),
        "FlexAttention, packed rows": (whole, lambda: flex_packed(model, shape)),
        "FlexAttention, packed rows + torch.compile": (whole, lambda: flex_compiled(model, shape)),
        "FlexAttention, packed rows + CUDA graphs": (whole, lambda: flex_compiled(model, shape, "reduce-overhead")),
        "notebook's loop": (shape.notebook_items, lambda: lambda items: notebook_loop(model, items)),
        "batched loop, a row per label": (shape.batched_items, lambda: lambda items: batched_rows(model, items)),
        "batched loop, one-token labels share a row": (
            shape.batched_items,
            lambda: lambda items: batched_rows(model, items, share_rows=True),
        ),
    }


def measure_variant(make: Callable[[], Score], items: list[TokenSequences], rounds: int) -> dict[str, Any]:
    """Warm once (which also compiles), then the median of the rounds; the scores come along to be compared."""
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    score = make()
    start = time.perf_counter()
    scores = score(items)
    first = time.perf_counter() - start
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats()
    seconds = []
    for _ in range(rounds):
        synchronize(device)
        start = time.perf_counter()
        score(items)
        synchronize(device)
        seconds.append(time.perf_counter() - start)
    peak = torch.cuda.max_memory_allocated() if device.type == "cuda" else 0
    return {"items": len(items), "seconds": seconds, "first_seconds": first, "peak_bytes": peak, "scores": scores}


def restore(model: Any) -> None:
    """Takes back what a variant did to the model and its attention."""
    AttentionInterface.register(attention.NAME, attention.attend)
    for module in model.modules():
        module._compiled_call_impl = None
    model.set_attn_implementation("sdpa")
    torch._dynamo.reset()
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()


T = TypeVar("T")


def attempt(errors: dict[str, str], what: str, action: Callable[[], T]) -> T | None:
    """What the action returns; whatever it dies of is noted under its name instead, and the script goes on."""
    try:
        return action()
    except Exception as error:
        traceback.print_exc()
        errors[what] = (f"{type(error).__name__}: {error}".splitlines() or [""])[0][:300]
        return None


def run_all(
    model: Any, shape: Shape, rounds: int, only: Sequence[str], figures: dict[str, Any], save: Callable[[], None]
) -> None:
    """Measures each variant, guarded, and saves the figures after each, so that a time limit loses only the rest."""
    items = synthetic_items(shape.items, shape.vocabulary)
    work = needed_work(items)
    flops = work.flops(body_parameters(model), shape.hidden, shape.vocabulary) / len(items)
    known = variants(model, shape)
    figures |= {"work": asdict(work), "flops_per_item": flops, "mean_text_tokens": mean_text_tokens(items)}
    figures |= {"variants": {}, "missing": list(known), "matrix_flops_per_second": None}
    errors = figures["errors"]
    reference = attempt(errors, "notebook_loop", lambda: notebook_loop(model, items[: shape.notebook_items]))
    rates = []
    for name, (num_items, make) in known.items():
        if only and name not in only:
            continue
        rate = attempt(errors, "matrix_rate", lambda: matrix_rate(model, shape.matrix_tokens))
        if rate is not None:
            rates.append(rate)
            figures["matrix_flops_per_second"] = statistics.median(rates)
        failed: dict[str, str] = {}
        result = attempt(failed, "failed", lambda: measure_variant(make, items[:num_items], rounds))  # noqa: B023 (now)
        attempt(errors, "restore", lambda: restore(model))
        figures["variants"][name] = failed if result is None else summary(result, reference, rate, flops)
        figures["missing"].remove(name)
        print(name, json.dumps(figures["variants"][name]), flush=True)
        save()


def mean_text_tokens(items: Sequence[TokenSequences]) -> float:
    return statistics.mean(len(item.prompt_ids) - PREFIX_TOKENS for item in items)


def summary(
    result: dict[str, Any], reference: torch.Tensor | None, matrix_rate: float | None, flops_per_item: float
) -> dict[str, Any]:
    """A variant's figures with items/s, needed FLOP/s, and where they could be measured share and difference."""
    scores = result.pop("scores")
    rate = result["items"] / statistics.median(result["seconds"])
    needed = rate * flops_per_item
    result |= {"items_per_second": rate, "needed_flops_per_second": needed, "matrix_flops_per_second": matrix_rate}
    common = 0 if reference is None else min(len(scores), len(reference))
    result["share"] = None if matrix_rate is None else needed / matrix_rate
    result["max_difference"] = None if reference is None else (scores[:common] - reference[:common]).abs().max().item()
    return result


def profile(model: Any, items: Sequence[TokenSequences], path: Path) -> None:
    """Where the shipped path's time goes, by kernel."""
    activities = [torch.profiler.ProfilerActivity.CPU]
    if torch.cuda.is_available():
        activities.append(torch.profiler.ProfilerActivity.CUDA)
    score = ours(model)
    with torch.profiler.profile(activities=activities) as profiled:
        score(items)
    key = "self_cuda_time_total" if torch.cuda.is_available() else "self_cpu_time_total"
    path.write_text(
        profiled.key_averages().table(sort_by=key, row_limit=30, max_name_column_width=80), encoding="utf-8"
    )


def render(figures: dict[str, Any]) -> str:
    """The table for people; the rest is in the JSON."""
    failures = "".join(f"\n\nFailed: {what}: {error}." for what, error in figures["errors"].items())
    if "work" not in figures:
        return failures.strip()
    work = Work(**figures["work"])
    rows = []
    done = {name: result for name, result in figures["variants"].items() if "failed" not in result}
    best = max((r["items_per_second"] for r in done.values()), default=0.0)
    for name, result in figures["variants"].items():
        if "failed" in result:
            rows.append([name, f"failed: {result['failed']}", "", "", "", "", ""])
            continue
        row = [name, number(result["items_per_second"]), number(result["needed_flops_per_second"] / 1e12)]
        row += [or_dash("{:.0%}", result["share"]), f"{result['peak_bytes'] / 2**30:.1f}"]
        row += [or_dash("{:.1e}", result["max_difference"])]
        rows.append([*row, f"{best / result['items_per_second']:.1f}"])
    if figures["missing"]:
        failures += f"\n\n**Partial**: not measured in this run: {', '.join(figures['missing'])}."
    matrix = figures["matrix_flops_per_second"]
    limit = None if matrix is None else matrix / figures["flops_per_item"]
    header = ["variant", "items/s", "needed TFLOP/s", "share", "peak GiB", "max difference", "best is times as fast"]
    shape, flops = figures["shape"], figures["flops_per_item"]
    labels = ", ".join(map(str, figures["label_tokens"]))
    return (
        f"Random weights, hidden {shape['hidden']}, {shape['layers']} layers, {figures['dtype']}; {work.num_items:,} "
        "items of random ids, item lengths log-normal (mean "
        f"{figures['mean_text_tokens']:.1f}, 15 to 250), shared prefix of {figures['prefix_tokens']} tokens, four "
        f"labels of {labels} tokens; {flops / 1e9:.3g} needed GFLOP an item, matrix rate "
        f"{or_dash('{:.3g}', matrix and matrix / 1e12)} TFLOP/s, limit {or_dash('{:,.0f}', limit)} items/s. Needed "
        "FLOP/s of the loops count the needed work too, not what they recompute. The notebook's loop ran "
        f"{shape['notebook_items']} items, the batched loops {shape['batched_items']:,}. {GOALS} "
        "Difference: against the notebook's loop in the same dtype, in nats. "
        f"Tests marked `gpu`: {figures['tests']}.{failures}\n\n" + table(header, rows)
    )


def or_dash(form: str, value: float | None) -> str:
    return "-" if value is None else form.format(value)


def run_gpu_tests() -> int | None:
    """The tests marked `gpu`, in the files that have them, without what other tests need and is not installed here.

    Returns pytest's exit code, or None where there is no GPU, no pytest or no such test.
    """
    files = [str(p) for p in sorted((ROOT / "tests").rglob("test_*.py")) if "mark.gpu" in p.read_text(encoding="utf-8")]
    if not torch.cuda.is_available() or importlib.util.find_spec("pytest") is None or not files:
        return None
    return subprocess.run(
        [sys.executable, "-m", "pytest", "-o", "addopts=-rA", "--noconftest", "-m", "gpu", *files],
        cwd=ROOT,
        check=False,
    ).returncode


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    what = parser.add_mutually_exclusive_group(required=True)
    what.add_argument("--out", type=Path, help="folder for gpu.json, gpu.md and profile.txt")
    what.add_argument("--keep", type=Path, help="a gpu.json to write into the tracked results")
    what.add_argument("--outstanding", action="store_true", help="write into them that the figures are to be taken")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--variants", nargs="+", default=[], help="only these, by name")
    parser.add_argument("--skip-tests", action="store_true")
    parser.add_argument("--results", type=Path, default=RESULTS)
    options = parser.parse_args(arguments)
    if options.outstanding:
        write_section(TITLE, f"{SCRIPT} --outstanding", OUTSTANDING, options.results)
        return 0
    if options.keep:
        figures = json.loads(options.keep.read_text(encoding="utf-8"))
        source = f"{figures['date']}, {figures['machine']}"
        write_section(TITLE, figures["command"], render(figures), options.results, source)
        return 0
    options.out.mkdir(parents=True, exist_ok=True)
    figures = measure(options, command_line(COMMAND, parser, options))
    print("\n" + render(figures))
    return 1 if figures["errors"] or figures["tests"] == "failed" else 0


def measure(options: argparse.Namespace, command: str) -> dict[str, Any]:
    """All figures of a run, saved as they come; then the profile and the tests, whatever went before."""
    on_gpu = torch.cuda.is_available()
    shape, device, dtype = (GEMMA_2B, "cuda", torch.bfloat16) if on_gpu else (TOY, "cpu", torch.float32)
    figures: dict[str, Any] = {"command": command, "machine": machine(), "date": f"{datetime.now(UTC):%Y-%m-%d}"}
    figures |= {"shape": asdict(shape), "dtype": str(dtype).removeprefix("torch."), "prefix_tokens": PREFIX_TOKENS}
    figures |= {"label_tokens": LABEL_TOKENS, "errors": {}, "tests": "not run"}
    errors = figures["errors"]

    def save() -> None:
        (options.out / "gpu.json").write_text(json.dumps(figures, indent=1), encoding="utf-8")
        (options.out / "gpu.md").write_text(render(figures) + "\n", encoding="utf-8")

    model = attempt(errors, "model", lambda: random_model(shape, device, dtype))
    if model is not None:
        attempt(errors, "run", lambda: run_all(model, shape, options.rounds, options.variants, figures, save))
        few = synthetic_items(min(1_000, shape.items), shape.vocabulary)
        attempt(errors, "profile", lambda: profile(model, few, options.out / "profile.txt"))
        del model, few
        gc.collect()
        if on_gpu:
            torch.cuda.empty_cache()
    save()
    code = None if options.skip_tests else attempt(errors, "tests", run_gpu_tests)
    figures["tests"] = "not run" if code is None else "failed" if code else "passed"
    save()
    return figures


if __name__ == "__main__":
    sys.exit(main())
