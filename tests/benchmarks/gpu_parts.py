"""The GPU benchmark's other measurements: the machine, its ceilings, where the time goes, the host's work.

Invariant: each returns plain figures, for JSON; none changes the device's settings.
"""

import inspect
import os
import platform
import re
import shutil
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any
from unittest.mock import patch

import torch
import torch.nn.functional as F
import transformers

from pipeline.scoring.forward import TreeForward
from pipeline.scoring.fp8_rounding import quantize
from pipeline.scoring.packed import PackedBatch
from tests.benchmarks.contenders import batched_rows, notebook_loop
from tests.benchmarks.gpu_variants import Setting, Variant, prepare, ready, score_all
from tests.benchmarks.gpu_work import make_items
from tests.benchmarks.measure import body_linears, synchronize

CEILING_TOKENS = (16_384, 32_768, 65_536)


def environment(setting: Setting) -> dict[str, Any]:
    """Versions, the device and what of attention and FP8 there is."""
    found: dict[str, Any] = {"python": platform.python_version(), "torch": torch.__version__}
    found |= {"transformers": transformers.__version__, "cores": os.cpu_count(), "compiler": shutil.which("gcc")}
    cuda = torch.backends.cuda
    for name in ("flash", "mem_efficient", "cudnn", "math"):
        found[f"{name} attention"] = getattr(cuda, f"{name}_sdp_enabled")()
    try:
        from torch.nn.attention import varlen

        found["varlen"] = str(inspect.signature(varlen.varlen_attn))
    except ImportError as error:
        found["varlen"] = f"none: {error}"
    found["flash schema"] = str(torch.ops.aten._flash_attention_forward.default._schema)
    if setting.is_toy:
        return found
    properties = torch.cuda.get_device_properties(0)
    found |= {"device": properties.name, "memory_bytes": properties.total_memory, "cuda": torch.version.cuda}
    found |= {"cudnn": torch.backends.cudnn.version(), "priority": str(torch._C._get_sdp_priority_order())}
    queries = "driver_version,power.limit,clocks.max.sm,temperature.gpu"
    found["nvidia-smi"] = nvidia_smi(queries)
    source = torch.empty(2**31, dtype=torch.int8, device="cuda").random_()
    target = torch.empty_like(source)
    found["copy_bytes_per_second"] = 2 * len(source) / seconds_of(lambda: target.copy_(source), 0.5)
    return found


def nvidia_smi(queries: str) -> str:
    """What the driver says of the device now; empty where it cannot be asked."""
    command = ["nvidia-smi", f"--query-gpu={queries}", "--format=csv,noheader"]
    try:
        return subprocess.run(command, capture_output=True, text=True, timeout=10, check=True).stdout.strip()
    except (OSError, subprocess.SubprocessError):
        return ""


def seconds_of(action: Any, min_seconds: float) -> float:
    """Mean seconds of an action on the GPU, repeated without a pause for at least so long, once warm."""
    action()
    torch.cuda.synchronize()
    started, num = time.perf_counter(), 0
    while (taken := time.perf_counter() - started) < min_seconds:
        for _ in range(4):
            action()
        torch.cuda.synchronize()
        num += 4
    return taken / num


def ceilings(setting: Setting, seconds: float = 5.0) -> dict[str, Any]:
    """FLOP/s of the model's own matrix products at the scorer's tokens a batch, sustained; inputs made before."""
    model = setting.model("Gemma-2B")
    sizes = CEILING_TOKENS if not setting.is_toy else (64,)
    found: dict[str, Any] = {}
    for num_tokens in sizes:
        for kind in ("bf16", "fp8"):
            if kind == "fp8" and setting.is_toy:
                continue
            products, flops = _products(model, num_tokens, kind)
            long = seconds if num_tokens == 32_768 else min(seconds, 2.0)
            taken = _sustained(products, long, setting)
            found[f"{kind} {num_tokens}"] = {"flops_per_second": flops / taken, "seconds": long}
            if not setting.is_toy:
                found[f"{kind} {num_tokens}"]["after"] = nvidia_smi("clocks.sm,power.draw,temperature.gpu")
            print(kind, num_tokens, found[f"{kind} {num_tokens}"], flush=True)
    return found


@torch.inference_mode()
def _sustained(products: Any, seconds: float, setting: Setting) -> float:
    if not setting.is_toy:
        return seconds_of(products, seconds)
    started = time.perf_counter()
    products()
    return time.perf_counter() - started


def _products(model: Any, num_tokens: int, kind: str) -> tuple[Any, float]:
    """(a function that does them all, their FLOPs)."""
    linears = body_linears(model)
    inputs = {
        size: torch.randn(num_tokens, size, device=model.device).to(model.dtype)
        for size in {linear.in_features for linear in linears}
    }
    flops = sum(2.0 * num_tokens * linear.weight.numel() for linear in linears)
    if kind == "bf16":
        return lambda: [F.linear(inputs[linear.in_features], linear.weight) for linear in linears] and None, flops
    with torch.inference_mode():
        rows = {size: quantize(given) for size, given in inputs.items()}
        weights = [quantize(linear.weight) for linear in linears]

    def run() -> None:
        for linear, (weight, scales) in zip(linears, weights, strict=True):
            given, given_scales = rows[linear.in_features]
            torch._scaled_mm(given, weight.T, given_scales, scales.T, out_dtype=torch.bfloat16, use_fast_accum=True)

    return run, flops


KINDS = (
    ("attention", r"flash|fmha|attention|sdpa|mha"),
    ("matrix products", r"gemm|nvjet|cutlass|xmma|wgmma|cublas|_mm_"),
    ("copies", r"memcpy|memset"),
    ("compiled", r"triton"),
    ("reductions", r"reduce|softmax|SoftMax"),
    ("gathers and cats", r"index|gather|Cat|scatter|copy"),
    ("element-wise", r"elementwise|gelu|mul|add"),
)


def kind_of(kernel: str) -> str:
    return next((kind for kind, pattern in KINDS if re.search(pattern, kernel, re.IGNORECASE)), "other")


def profile(variant: Variant, setting: Setting) -> dict[str, Any]:
    """Seconds by kernel and kind of kernel over fresh items, the whole span, and the table."""
    workload = setting.workload(variant.workload)
    shape = setting.shape(workload.shape)
    model = setting.model(workload.shape)
    on_gpu = not setting.is_toy
    activities = [torch.profiler.ProfilerActivity.CPU] + [torch.profiler.ProfilerActivity.CUDA] * on_gpu
    num_items = min(workload.num_items, 3_000)
    prepare(model, variant)
    with ready(model, variant) as scoring:
        score_all(scoring, make_items(workload, shape.vocabulary, num_items, seed=0))
        items = make_items(workload, shape.vocabulary, num_items, seed=1)
        with torch.profiler.profile(activities=activities) as profiled:
            started = time.perf_counter()
            score_all(scoring, items)
            synchronize(model.device)
            seconds = time.perf_counter() - started
    kernels: Counter[str] = Counter()
    calls: Counter[str] = Counter()
    for event in profiled.key_averages():
        if event.device_type == (torch.autograd.DeviceType.CUDA if on_gpu else torch.autograd.DeviceType.CPU):
            taken = event.self_device_time_total if on_gpu else event.self_cpu_time_total
            kernels[event.key] += taken / 1e6
            calls[event.key] += event.count
    kinds: Counter[str] = Counter()
    for name, taken in kernels.items():
        kinds[kind_of(name)] += taken
    key = "self_device_time_total" if on_gpu else "self_cpu_time_total"
    table = profiled.key_averages().table(sort_by=key, row_limit=40, max_name_column_width=90)
    return {
        "items": num_items,
        "seconds": seconds,
        "kernel_seconds": sum(kernels.values()),
        "kinds": dict(kinds.most_common()),
        "kernels": [[name[:120], taken, calls[name]] for name, taken in kernels.most_common(25)],
        "table": table,
    }


def host(setting: Setting) -> dict[str, Any]:
    """Microseconds an item of the scorer's own work on the host, with a forward that takes no time."""
    workload = setting.workload("detailed")
    shape = setting.shape(workload.shape)
    model = setting.model(workload.shape)

    def nothing(_: TreeForward, batch: PackedBatch, *, greedy: bool = False) -> torch.Tensor:
        return torch.zeros(2, len(batch.terms))

    with ready(model, Variant()) as scoring, patch.object(TreeForward, "scores", nothing):
        times = []
        for seed in range(3):
            items = make_items(workload, shape.vocabulary, workload.num_items, seed=seed)
            started = time.perf_counter()
            score_all(scoring, items)
            times.append((time.perf_counter() - started) / len(items) * 1e6)
    return {"microseconds_an_item": min(times)}


# Name -> the loop and its items a round.
LOOPS: dict[str, tuple[Callable[..., torch.Tensor], int]] = {
    "the notebook's loop": (notebook_loop, 50),
    "a batched loop, a row per label": (batched_rows, 1_000),
    "a batched loop, one-token labels share a row": (partial(batched_rows, share_rows=True), 1_000),
}


def loops(setting: Setting, which: str) -> dict[str, Any]:
    """The notebook's loop, or rows in batches, on fresh items after a first pass."""
    workload = setting.workload("detailed")
    shape = setting.shape(workload.shape)
    model = setting.model(workload.shape)
    score, num_items = LOOPS[which]
    num_items = 4 if setting.is_toy else num_items
    seconds = []
    for seed in range(3):
        items = make_items(workload, shape.vocabulary, num_items, seed=seed)
        synchronize(model.device)
        started = time.perf_counter()
        score(model, items)
        synchronize(model.device)
        seconds.append(time.perf_counter() - started)
    return {"items": num_items, "first_seconds": seconds[0], "seconds": seconds[1:]} | {
        "items_per_second": num_items / min(seconds[1:])
    }


def gpu_tests(setting: Setting, root: Path) -> dict[str, Any]:
    """pytest over the files with tests marked `gpu`, without what other tests need and is not installed here."""
    files = [str(p) for p in sorted((root / "tests").rglob("test_*.py")) if "mark.gpu" in p.read_text(encoding="utf-8")]
    if setting.is_toy:
        return {"outcome": "not run", "files": len(files)}
    options = ["-o", "addopts=-ra", "--noconftest", "-m", "gpu", "-p", "no:cacheprovider"]
    done = subprocess.run(
        [sys.executable, "-m", "pytest", *options, *files], cwd=root, capture_output=True, text=True, check=False
    )
    print(done.stdout[-8000:], done.stderr[-2000:], flush=True)
    lines = [line for line in done.stdout.splitlines() if line.startswith(("FAILED", "ERROR"))]
    outcome = done.stdout.strip().splitlines()[-1].strip("= ") if done.stdout else "no output"
    return {"outcome": outcome, "failures": lines} | ({"failed": f"{outcome}: {lines}"} if lines else {})
