"""Variants of the scorer that the GPU benchmark measures, each on items that it has not seen before.

Invariant: a variant's scores are held against one forward for each label before its time counts; each round has fresh
items, so that whatever is set up for a shape is paid as often as it is in real use.
"""

import math
import statistics
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager, nullcontext
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, Literal
from unittest.mock import patch

import torch

from pipeline.scoring import forward, fp8, scorer
from pipeline.scoring.fused import keep_from_compiler
from pipeline.scoring.packed import PackedBatch, Unmasked, num_fitting
from pipeline.scoring.scorer import Scorer
from pipeline.scoring.tokens import TokenSequences
from tests.benchmarks.contenders import notebook_loop
from tests.benchmarks.gpu_work import SHAPES, TOY_SHAPES, WORKLOADS, Shape, Workload, make_items, random_model
from tests.benchmarks.measure import body_parameters, needed_work, synchronize

CHECKED_ITEMS = 6
SETTLING_ROUNDS = 2  # in which compiled code may still be compiled anew for other sizes; not in the steady rate


@dataclass(frozen=True, slots=True)
class Setting:
    """Where variants run: on a GPU in bfloat16 at full size, or a toy in float32 on a CPU."""

    device: str
    round_seconds: float  # rounds are added until they took so long together
    texts: Path | None = None  # a parquet file with text and label; without it the bundled sample
    tokenizer: Path | None = None  # a directory; without it that of the bundled model
    trained: Path | None = None  # a model that knows the labels; without it the bundled one

    @property
    def is_toy(self) -> bool:
        return self.device == "cpu"

    @property
    def dtype(self) -> torch.dtype:
        return torch.float32 if self.is_toy else torch.bfloat16

    def shape(self, name: str) -> Shape:
        return (TOY_SHAPES if self.is_toy else SHAPES)[name]

    def workload(self, name: str) -> Workload:
        workload = WORKLOADS[name]
        return replace(workload, num_items=24) if self.is_toy else workload

    def model(self, shape: str) -> Any:
        return random_model(self.shape(shape), self.device, self.dtype)


@dataclass(frozen=True, slots=True)
class Variant:
    """One way to score; the defaults are what ships for a short run, `layers` what it takes for a long one.

    attention: what ships, masks everywhere, or the prefix always repeated or always merged. fused: what is compiled,
    `leaves` being MLPs and norms. linears: `fp8 pytorch` is without kernels of our own.
    """

    workload: str = "detailed"
    tokens: int = 32_768
    cudnn: bool = False
    attention: Literal["shipped", "masks", "repeated", "cascade"] = "shipped"
    fused: Literal["eager", "leaves", "layers", "whole"] = "eager"
    linears: Literal["bf16", "fp8 pytorch", "fp8"] = "bf16"

    @property
    def name(self) -> str:
        """Where it departs from the defaults."""
        parts = [] if self.workload == "detailed" else [self.workload]
        parts += [] if self.tokens == 32_768 else [f"{self.tokens // 1024}k tokens"]
        parts += {"shipped": [], "masks": ["masks"], "repeated": ["prefix repeated"], "cascade": ["prefix merged"]}[
            self.attention
        ]
        parts += ["cuDNN allowed"] if self.cudnn else []
        parts += [] if self.fused == "eager" else [f"compiled {self.fused}"]
        parts += {"bf16": [], "fp8 pytorch": ["FP8 by PyTorch"], "fp8": ["FP8"]}[self.linears]
        return ", ".join(parts) or "as shipped"


def measure(variant: Variant, setting: Setting) -> dict[str, Any]:
    """First pass, steady rate, rate of the device alone, peak memory, exactness and what was forwarded."""
    workload = setting.workload(variant.workload)
    shape = setting.shape(workload.shape)
    model = setting.model(workload.shape)
    work = needed_work(make_items(workload, shape.vocabulary, 2_000))
    needed = work.flops(body_parameters(model), shape.hidden, shape.vocabulary) / work.num_items
    checked = make_items(workload, shape.vocabulary, CHECKED_ITEMS, seed=1_000)
    prepare(model, variant)
    expected = notebook_loop(model, checked)
    started = time.perf_counter()
    with ready(model, variant) as scoring:
        result: dict[str, Any] = {"path": scoring.path, "path_reason": scoring.path_reason, "needed_flops": needed}
        result["remark"] = scoring.remark
        result["max_difference"] = (score_all(scoring, checked) - expected).abs().max().item()
        result["setup_seconds"] = time.perf_counter() - started
        device = torch.device(setting.device)
        first = make_items(workload, shape.vocabulary, workload.num_items // 4, seed=0)
        started = time.perf_counter()
        score_all(scoring, first)
        result |= {"first_seconds": time.perf_counter() - started, "first_items": len(first)}
        if not setting.is_toy:
            torch.cuda.reset_peak_memory_stats()
        seconds: list[float] = []
        scoring.counts = scorer.Counts()
        while len(seconds) < SETTLING_ROUNDS + 3 or sum(seconds[SETTLING_ROUNDS:]) < setting.round_seconds:
            items = make_items(workload, shape.vocabulary, workload.num_items, seed=len(seconds) + 1)
            synchronize(device)
            started = time.perf_counter()
            score_all(scoring, items)
            seconds.append(time.perf_counter() - started)
        counts = scoring.counts
        result |= {"seconds": seconds, "items": workload.num_items}
        result["items_per_second"] = workload.num_items / statistics.median(seconds[SETTLING_ROUNDS:])
        result["peak_bytes"] = 0 if setting.is_toy else torch.cuda.max_memory_allocated()
        result["tokens_per_batch"] = counts.forwarded_tokens / counts.batches
        result["executed_flops"] = executed_flops(shape, counts) / counts.items
        items = make_items(workload, shape.vocabulary, workload.num_items // 2, seed=500)
        result["device_items_per_second"] = device_rate(items, scoring)
        result["ran_on"] = scoring.kernels
    return result


def executed_flops(shape: Shape, counts: scorer.Counts) -> float:
    """FLOPs of the matrix products that are done: the last layer makes queries, keys and values of all tokens.

    All else of it, and queries once more, it does at the places that are read.
    """
    queries, keys = (2.0 * shape.hidden * heads * shape.head_dim for heads in (shape.heads, 2 * shape.key_heads))
    layer = 2 * queries + keys + 6.0 * shape.hidden * shape.intermediate
    body = counts.forwarded_tokens * (layer * (shape.layers - 1) + queries + keys)
    return body + counts.read_positions * (layer + 2.0 * shape.hidden * shape.vocabulary)


def prepare(model: Any, variant: Variant) -> None:
    """Changes the model's numbers as the variant does; its own single forwards are then the oracle."""
    if variant.linears == "bf16":
        return
    with ExitStack() as stack:
        if variant.linears == "fp8 pytorch":
            stack.enter_context(patch.object(fp8, "find_rounding", lambda device: (fp8.BY_PYTORCH, None)))
        is_toy = model.dtype == torch.float32
        fp8.to_fp8(model.to(torch.bfloat16), variant.linears)
        if why := fp8.why_slower(model):
            raise ValueError(why)
        if is_toy:
            model.float()  # tokens are then not rounded: the toy shows that all is in its place


@contextmanager
def ready(model: Any, variant: Variant) -> Iterator[Scorer]:
    """A scorer set up as the variant says; what it changed outside of the model is taken back."""
    with installed(variant):
        scoring = Scorer(model, batch_tokens=variant.tokens, compiles=variant.fused == "layers")
        if variant.fused in ("leaves", "whole"):
            keep_from_compiler()
            compile_leaves(model) if variant.fused == "leaves" else model.base_model.compile(dynamic=True)
        check_compiled(scoring, variant)
        yield scoring


def check_compiled(scoring: Scorer, variant: Variant) -> None:
    """Raises ValueError where the scorer goes on without what it was to compile: that is another variant."""
    if variant.fused == "layers" and "compiled layers" not in (scoring.kernels or ""):
        raise ValueError(scoring.remark or scoring.path_reason)


@contextmanager
def installed(variant: Variant) -> Iterator[None]:
    """What the variant changes of the product, for scorers that are made meanwhile; a toy goes a GPU's way on a CPU."""
    most_repeated = {"repeated": math.inf, "cascade": 0}
    with ExitStack() as stack:
        stack.enter_context(patch.object(forward, "has_kernel", lambda _: variant.attention != "masks"))
        if variant.attention in most_repeated:
            unmasked = partial(Unmasked, most_repeated=most_repeated[variant.attention])
            stack.enter_context(patch.object(forward, "Unmasked", unmasked))
        if variant.cudnn:
            stack.enter_context(patch.object(forward, "without_cudnn_attention", nullcontext))
        yield


def compile_leaves(model: Any) -> None:
    """Fuses what lies between the matrix products: MLPs, norms and, where they are FP8, the other linear layers."""
    inside: set[int] = set()
    for module in model.base_model.modules():
        if id(module) in inside:
            continue
        if type(module).__name__.endswith(("MLP", "RMSNorm")) or isinstance(module, fp8.Fp8Linear):
            inside.update(map(id, module.modules()))
            module.compile(dynamic=True)


def score_all(scoring: Scorer, items: Sequence[TokenSequences]) -> torch.Tensor:
    """logprob (items, labels)."""
    scores = torch.empty(len(items), len(items[0].branches))
    for batch in scoring.score(items):
        scores[batch.indices] = batch.logprob
    return scores


def device_rate(items: list[TokenSequences], scoring: Scorer) -> float:
    """Items a second of batches that are laid out before the clock starts: what the device could do, fed in time."""
    tree, batches = scoring._tree, laid_out(items, scoring)
    tree.scores(batches[0])
    synchronize(tree.device)
    started = time.perf_counter()
    for batch in batches:
        tree.scores(batch)
    synchronize(tree.device)
    return len(items) / (time.perf_counter() - started)


def laid_out(items: list[TokenSequences], scoring: Scorer) -> list[PackedBatch]:
    """The batches that the scorer would make of the items."""
    ((regime, sequences),) = scoring.plan(items).stages
    trees: Any = list(sequences)
    scoring._tree.set_regime(regime)
    batches = []
    while trees:
        num = num_fitting(trees, scoring.batch_tokens)
        scoring._tree.keep_prefix(trees[0].prefix)
        batches.append(scoring._tree.lay_out(trees[:num]))
        trees = trees[num:]
    return batches
