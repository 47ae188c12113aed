"""GPU: Gemma-2B's shape with random weights, ours beside the notebook's loop and a harness-like batched loop.

Invariant: needs PyTorch, Triton and transformers and nothing else of the project's dependencies; a variant that fails
is a line in the table and never the end of the script. Without a GPU it runs a toy shape, to be tested.

    python tests/benchmarks/gpu.py --out DIR          all figures, into DIR/gpu.json and DIR/gpu.md
    python tests/benchmarks/gpu.py --keep DIR/gpu.json   writes them into the tracked results
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
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))  # a script's own folder is on the path, the project's root is not

import torch  # noqa: E402  (after the path is set)
from transformers import AutoModelForCausalLM, GemmaConfig  # noqa: E402

from pipeline.scoring.scorer import Scorer  # noqa: E402
from pipeline.scoring.tokens import TokenSequences  # noqa: E402
from tests.benchmarks.contenders import batched_rows, notebook_loop  # noqa: E402
from tests.benchmarks.measure import Work, body_parameters, matrix_rate, needed_work, synchronize  # noqa: E402
from tests.benchmarks.packed_flex import FlexPacked  # noqa: E402
from tests.benchmarks.results import machine, number, table, write_section  # noqa: E402

TITLE = "GPU, Gemma-2B's shape"
COMMAND = "python tests/benchmarks/gpu.py --out DIR"
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
    """Random ids; article lengths log-normal (median 49.5, sigma 0.37), clipped to 15..250: mean 53, as AG News has."""
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
    """The same with the model's body compiled in place (`uncompile` takes it back)."""
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
    """Takes back what a variant did to the model."""
    for module in model.modules():
        module._compiled_call_impl = None
    model.set_attn_implementation("sdpa")
    torch._dynamo.reset()
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()


def run_all(model: Any, shape: Shape, rounds: int, only: Sequence[str], save: Callable[[dict[str, Any]], None]) -> None:
    """Measures each variant, guarded, and saves the figures after each, so that a time limit loses only the rest."""
    items = synthetic_items(shape.items, shape.vocabulary)
    work = needed_work(items)
    flops = work.flops(body_parameters(model), shape.hidden, shape.vocabulary)
    figures: dict[str, Any] = {"machine": machine(), "date": f"{datetime.now(UTC):%Y-%m-%d}", "shape": asdict(shape)}
    figures |= {"prefix_tokens": PREFIX_TOKENS, "label_tokens": LABEL_TOKENS, "work": asdict(work), "variants": {}}
    figures |= {"flops_per_item": flops / len(items), "mean_article_tokens": mean_article_tokens(items)}
    reference = notebook_loop(model, items[: shape.notebook_items])
    rates = []
    for name, (num_items, make) in variants(model, shape).items():
        if only and name not in only:
            continue
        rates.append(matrix_rate(model, shape.matrix_tokens))
        try:
            result = measure_variant(make, items[:num_items], rounds)
            common = min(num_items, len(reference))
            difference = (result.pop("scores")[:common] - reference[:common]).abs().max().item()
            result |= {"max_difference": difference, "matrix_flops_per_second": rates[-1]}
            result |= rates_of(result, flops / len(items))
        except Exception as error:  # whatever a variant dies of is its result
            traceback.print_exc()
            result = {"failed": f"{type(error).__name__}: {error}".splitlines()[0][:300]}
        finally:
            restore(model)
        figures["variants"][name] = result
        print(name, json.dumps(result), flush=True)
        save(figures | {"matrix_flops_per_second": statistics.median(rates)})


def mean_article_tokens(items: Sequence[TokenSequences]) -> float:
    return statistics.mean(len(item.prompt_ids) - PREFIX_TOKENS for item in items)


def rates_of(result: dict[str, Any], flops_per_item: float) -> dict[str, float]:
    """items/s, needed FLOP/s, and the share of the matrix rate measured just before."""
    rate = result["items"] / statistics.median(result["seconds"])
    needed = rate * flops_per_item
    return {
        "items_per_second": rate,
        "needed_flops_per_second": needed,
        "share": needed / result["matrix_flops_per_second"],
    }


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
    work = Work(**figures["work"])
    rows = []
    done = {name: result for name, result in figures["variants"].items() if "failed" not in result}
    best = max((r["items_per_second"] for r in done.values()), default=0.0)
    for name, result in figures["variants"].items():
        if "failed" in result:
            rows.append([name, f"failed: {result['failed']}", "", "", "", "", ""])
            continue
        row = [name, number(result["items_per_second"]), number(result["needed_flops_per_second"] / 1e12)]
        row += [f"{result['share']:.0%}", f"{result['peak_bytes'] / 2**30:.1f}", f"{result['max_difference']:.1e}"]
        rows.append([*row, f"{best / result['items_per_second']:.1f}"])
    limit = figures["matrix_flops_per_second"] / figures["flops_per_item"]
    header = ["variant", "items/s", "needed TFLOP/s", "share", "peak GiB", "max difference", "best is times as fast"]
    shape, flops = figures["shape"], figures["flops_per_item"]
    labels = ", ".join(map(str, figures["label_tokens"]))
    return (
        f"Random weights, bf16 on a GPU; {work.num_items:,} items of random ids, article lengths log-normal (mean "
        f"{figures['mean_article_tokens']:.1f}, 15 to 250), shared prefix of {figures['prefix_tokens']} tokens, four "
        f"labels of {labels} tokens; {flops / 1e9:.3g} needed GFLOP an item, matrix rate "
        f"{figures['matrix_flops_per_second'] / 1e12:.3g} TFLOP/s, limit {number(limit)} items/s. Needed FLOP/s of the "
        "loops count the needed work too, not what they recompute. The notebook's loop ran "
        f"{shape['notebook_items']} items, the batched loops {shape['batched_items']:,}. Goals: 60 % of the limit, 150 "
        "times the notebook's loop, 8 times the batched loop. Difference: against the notebook's loop in the same "
        "dtype, in nats.\n\n" + table(header, rows)
    )


def run_gpu_tests() -> int:
    """The tests marked `gpu`, in the files that have them, without what other tests need and is not installed here."""
    if not torch.cuda.is_available() or importlib.util.find_spec("pytest") is None:
        print("gpu tests not run: no GPU or no pytest here")
        return 0
    files = [str(p) for p in sorted((ROOT / "tests").rglob("test_*.py")) if "mark.gpu" in p.read_text(encoding="utf-8")]
    if not files:
        print("gpu tests not run: no file has one")
        return 0
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
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--variants", nargs="+", default=[], help="only these, by name")
    parser.add_argument("--skip-tests", action="store_true")
    options = parser.parse_args(arguments)
    if options.keep:
        figures = json.loads(options.keep.read_text(encoding="utf-8"))
        write_section(TITLE, COMMAND, render(figures), source=f"{figures['date']}, {figures['machine']}")
        return 0
    options.out.mkdir(parents=True, exist_ok=True)
    on_gpu = torch.cuda.is_available()
    shape, device, dtype = (GEMMA_2B, "cuda", torch.bfloat16) if on_gpu else (TOY, "cpu", torch.float32)
    model = random_model(shape, device, dtype)

    def save(figures: dict[str, Any]) -> None:
        (options.out / "gpu.json").write_text(json.dumps(figures, indent=1), encoding="utf-8")
        (options.out / "gpu.md").write_text(render(figures) + "\n", encoding="utf-8")

    run_all(model, shape, options.rounds, options.variants, save)
    profile(model, synthetic_items(min(1_000, shape.items), shape.vocabulary), options.out / "profile.txt")
    print("\n" + (options.out / "gpu.md").read_text(encoding="utf-8"))
    del model
    restore_memory = torch.cuda.empty_cache if on_gpu else gc.collect
    restore_memory()
    return 0 if options.skip_tests else run_gpu_tests()


if __name__ == "__main__":
    sys.exit(main())
