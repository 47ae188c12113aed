"""How the benchmarks measure: needed work, the machine's matrix rate, alternating rounds.

Invariant: imports the standard library and torch only, so that the GPU script runs where nothing else is installed;
and needed work is counted from the token sequences alone, never taken from the scorer's own counts.
"""

import statistics
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any, Protocol
from unittest.mock import patch

import torch
import torch.nn.functional as F
from torch import nn


class Sequences(Protocol):
    """The fields of `pipeline.scoring.tokens.TokenSequences` that the work depends on."""

    @property
    def prompt_ids(self) -> tuple[int, ...]: ...
    @property
    def branches(self) -> tuple[tuple[int, ...], ...]: ...
    @property
    def num_label_tokens(self) -> tuple[int, ...]: ...


@dataclass(frozen=True, slots=True)
class Work:
    """What no exact method can avoid: tokens forwarded once, and positions whose logits are read."""

    num_items: int
    trie_tokens: int
    row_tokens: int  # the same with one row per label, nothing shared: what a loop over labels forwards
    read_positions: int
    label_nodes: int  # of the trie tokens, those that belong to labels

    def flops(self, body_parameters: int, hidden: int, vocabulary: int) -> float:
        """2 x non-embedding parameters x distinct trie tokens + 2 x hidden x vocabulary x read positions."""
        return 2.0 * body_parameters * self.trie_tokens + 2.0 * hidden * vocabulary * self.read_positions


def needed_flops(model: Any, work: Work) -> float:
    """What the work needs in this model."""
    return work.flops(body_parameters(model), model.config.hidden_size, model.config.vocab_size)


def executed_flops(model: nn.Module, run: Callable[[], object]) -> float:
    """Of all matrix products with the model's weights that are done while it runs, in copies of the model, too."""
    rows: list[float] = []

    def count(module: nn.Module, given: tuple[torch.Tensor, ...], _: torch.Tensor) -> None:
        weight = module.weight
        assert isinstance(weight, torch.Tensor)
        rows.append(2.0 * weight.numel() * given[0].numel() / given[0].shape[-1])

    handles = [m.register_forward_hook(count) for m in model.modules() if isinstance(m, nn.Linear)]
    try:
        run()
    finally:
        for handle in handles:
            handle.remove()
    return sum(rows)


def num_shared_tokens(items: Sequence[Sequences]) -> int:
    """Length of the prefix that all prompts share: that of the first and last in sorted order."""
    prompts = [item.prompt_ids for item in items]
    first, last = min(prompts), max(prompts)
    differing = (i for i, (a, b) in enumerate(zip(first, last, strict=False)) if a != b)
    return next(differing, min(len(first), len(last)))


def needed_work(items: Sequence[Sequences]) -> Work:
    """Counts by plain sets of token paths: the tokens all items share once, then each item's own trie.

    A label's last token is never needed: its score is read at the token before it.
    """
    shared = num_shared_tokens(items)
    tokens, reads, rows, label_nodes = shared, 0, 0, 0
    for item in items:
        nodes: set[tuple[int, ...]] = set()
        read: set[tuple[int, ...]] = set()
        for branch, num_scored in zip(item.branches, item.num_label_tokens, strict=True):
            nodes.update(branch[:end] for end in range(1, len(branch)))
            read.update(branch[:end] for end in range(len(branch) - num_scored, len(branch)))
            rows += len(item.prompt_ids) + len(branch)
        tokens += len(item.prompt_ids) - shared + len(nodes)
        reads += len(read)
        label_nodes += len(nodes)
    return Work(len(items), tokens, rows, reads, label_nodes)


def body_linears(model: nn.Module) -> list[nn.Linear]:
    """The model's matrices without the lm_head, in the order of the forward pass."""
    head = model.get_output_embeddings()  # type: ignore[operator]
    return [module for module in model.modules() if isinstance(module, nn.Linear) and module is not head]


def body_parameters(model: nn.Module) -> int:
    """Parameters outside the embeddings and the lm_head; each does one multiply-add per token."""
    outside = {id(model.get_input_embeddings().weight), id(model.get_output_embeddings().weight)}  # type: ignore[operator]
    return sum(p.numel() for p in model.parameters() if id(p) not in outside)


@torch.inference_mode()
def matrix_seconds(model: nn.Module, num_tokens: int) -> tuple[float, float]:
    """(seconds, FLOPs) of the model's own matrix products, and nothing else, for `num_tokens` tokens."""
    linears = body_linears(model)
    weight = linears[0].weight
    inputs = {  # in_features -> (tokens, in_features)
        size: torch.randn(num_tokens, size, device=weight.device).to(weight.dtype)
        for size in {linear.in_features for linear in linears}
    }
    synchronize(weight.device)
    start = time.perf_counter()
    for linear in linears:
        F.linear(inputs[linear.in_features], linear.weight)
    synchronize(weight.device)
    return time.perf_counter() - start, sum(2.0 * num_tokens * linear.weight.numel() for linear in linears)


def matrix_rate(model: nn.Module, num_tokens: int, min_seconds: float = 0.5) -> float:
    """FLOP/s of the model's matrix products at `num_tokens` tokens a batch, warm, over at least `min_seconds`."""
    matrix_seconds(model, num_tokens)
    seconds, flops = 0.0, 0.0
    while seconds < min_seconds:
        one_seconds, one_flops = matrix_seconds(model, num_tokens)
        seconds, flops = seconds + one_seconds, flops + one_flops
    return flops / seconds


def synchronize(device: torch.device) -> None:
    """Waits for the GPU, so that a clock read afterwards counts its work."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def alternate(contenders: Mapping[str, Callable[[], object]], rounds: int, warm: bool = True) -> dict[str, list[float]]:
    """Seconds of each contender in each round, all of them in turn, so that a noisy machine is noisy for all."""
    if warm:
        for run in contenders.values():
            run()
    seconds: dict[str, list[float]] = {name: [] for name in contenders}
    for _ in range(rounds):
        for name, run in contenders.items():
            start = time.perf_counter()
            run()
            seconds[name].append(time.perf_counter() - start)
    return seconds


def median_ratio(slow: Sequence[float], fast: Sequence[float]) -> float:
    """The ratio of the medians."""
    return statistics.median(slow) / statistics.median(fast)


@contextmanager
def one_thread() -> Iterator[None]:
    """Work in the caller's thread only, where clocks and the profiler see all of it."""
    num_threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(num_threads)


def stage_shares(stages: Mapping[str, Sequence[tuple[Any, str]]], run: Callable[[], object]) -> dict[str, float]:
    """Share of a run's time in one thread that each stage's functions take, (owner, name) each, and `the rest`.

    The functions of two stages may not call each other.
    """
    seconds = dict.fromkeys(stages, 0.0)
    with ExitStack() as stack:
        for stage, functions in stages.items():
            for owner, name in functions:
                stack.enter_context(patch.object(owner, name, _clocked(getattr(owner, name), seconds, stage)))
        stack.enter_context(one_thread())
        start = time.perf_counter()
        run()
        total = time.perf_counter() - start
    shares = {stage: each / total for stage, each in seconds.items()}
    return {**shares, "the rest": 1 - sum(shares.values())}


def _clocked(function: Callable[..., Any], seconds: dict[str, float], stage: str) -> Callable[..., Any]:
    def clocked(*args: Any, **kwargs: Any) -> Any:
        start = time.perf_counter()
        try:
            return function(*args, **kwargs)
        finally:
            seconds[stage] += time.perf_counter() - start

    return clocked


def operator_shares(run: Callable[[], object]) -> dict[str, float]:
    """Each operator's share of a run's processor time in one thread, under the profiler."""
    with one_thread(), torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU]) as profiled:
        run()
    times = {event.key: event.self_cpu_time_total for event in profiled.key_averages()}
    total = sum(times.values())
    return {name: each / total for name, each in times.items()}
