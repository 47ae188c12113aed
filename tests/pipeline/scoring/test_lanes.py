"""Batches forwarded side by side give what they give one after the other, and leave nothing behind."""

import threading
import time
from collections.abc import Iterator

import pytest
import torch
from torch import Tensor, nn

from pipeline.errors import RunError
from pipeline.scoring.counts import Counts
from pipeline.scoring.forward import TreeForward
from pipeline.scoring.lanes import open_lanes
from pipeline.scoring.probe import sequence_size
from pipeline.scoring.scorer import Scorer
from pipeline.scoring.tokens import TokenSequences
from tests.pipeline.scoring.items import make_items
from tests.pipeline.scoring.oracle import score_slowly
from tests.pipeline.scoring.shapes import SHAPES
from tests.pipeline.scoring.test_scorer import Cramped, collect, largest_difference
from tests.pipeline.scoring.tiny_models import TREE_CONFIGS, VOCABULARY, tiny_model


@pytest.fixture(autouse=True)
def num_threads() -> Iterator[int]:
    """Also where the machine has fewer cores."""
    usual = torch.get_num_threads()
    torch.set_num_threads(2)
    yield 2
    torch.set_num_threads(usual)


def lane_threads() -> list[threading.Thread]:
    return [thread for thread in threading.enumerate() if thread.name.startswith("lane")]


def check_longest(scorer: Scorer, items: list[TokenSequences]) -> None:
    """Have the self-check's plain forwards of the longest item behind us."""
    list(scorer.score([max(items, key=sequence_size)]))


class Watched:
    """Notes in which threads a model's copies are forwarded, and how many at once at most."""

    def __init__(self, model: nn.Module, seconds: float = 0.0) -> None:
        self.threads: list[str] = []
        self.at_once: list[int] = []
        now: list[str] = []

        def enter(module: object, args: object) -> None:
            self.threads.append(threading.current_thread().name)
            now.append(self.threads[-1])
            self.at_once.append(len(now))
            time.sleep(seconds)

        def leave(module: object, args: object, output: object) -> None:
            now.remove(threading.current_thread().name)

        self._hooks = [model.register_forward_pre_hook(enter), model.register_forward_hook(leave)]

    def __enter__(self) -> "Watched":
        return self

    def __exit__(self, *error: object) -> None:
        for hook in self._hooks:
            hook.remove()


@pytest.mark.parametrize("name", TREE_CONFIGS)
def test_every_lane_scores_and_all_give_the_scores_of_single_forwards(name: str, num_threads: int) -> None:
    """Each token is forwarded once, but for a few that begin some items alike; the prefix first, by the caller."""
    model, items = tiny_model(name), make_items(60)
    scorer = Scorer(model, batch_tokens=100, notebook=True)
    check_longest(scorer, items)
    scorer.counts = Counts()
    with Watched(model, seconds=0.002) as watched:
        found = collect(scorer, items)
    assert largest_difference(found, score_slowly(model, items)) < 1e-4
    assert set(watched.threads) == {"MainThread", *(f"lane_{i}" for i in range(num_threads))}
    assert watched.threads.count("MainThread") == 1
    assert max(watched.at_once) == num_threads
    assert scorer.counts.trie_tokens <= scorer.counts.forwarded_tokens < 1.02 * scorer.counts.trie_tokens


@pytest.mark.parametrize("shape", ["few_shot", "yes_or_no"])
def test_lanes_go_from_one_prefix_to_the_next(shape: str, num_threads: int) -> None:
    """While one lane computes the next prefix, the other still goes on from the one before; scores are right."""
    make, num = SHAPES[shape]
    model, items = tiny_model("gemma"), make(num // 3, VOCABULARY)
    scorer = Scorer(model, batch_tokens=400)
    with Watched(model, seconds=0.002) as watched:
        found = collect(scorer, items)
    assert len({name for name in watched.threads if name != "MainThread"}) == num_threads
    assert scorer.counts.forwarded_tokens <= 1.05 * scorer.counts.trie_tokens
    some = {rule: scores[:6] for rule, scores in found.items()}
    assert largest_difference(some, score_slowly(model, items[:6])) < 2e-4


def test_batches_come_in_the_same_order_with_the_same_bytes() -> None:
    """Whichever lane was faster; the last batches are smaller than the first."""
    model, items = tiny_model("gemma"), make_items(80)
    scorer = Scorer(model, batch_tokens=160)
    first, second = list(scorer.score(items)), list(scorer.score(items))
    assert [batch.indices for batch in first] == [batch.indices for batch in second]
    assert all(torch.equal(a.logprob, b.logprob) for a, b in zip(first, second, strict=True))
    sizes = [sum(len(items[index].prompt_ids) - 6 for index in batch.indices) for batch in first]
    assert sizes[-1] < sizes[0] / 2


def test_few_tokens_are_forwarded_by_all_threads_together() -> None:
    """One text has one batch: lanes would leave cores idle."""
    model = tiny_model("gemma")
    scorer = Scorer(model)
    with Watched(model) as watched:
        collect(scorer, make_items(2))
    assert set(watched.threads) == {"MainThread"}


def test_lanes_end_with_the_scoring(num_threads: int) -> None:
    """However it ends: neither threads nor their number for PyTorch stay; what has not begun is given up."""
    model, items = tiny_model("gemma"), make_items(60)
    scorer = Scorer(model, batch_tokens=20)
    with Watched(model, seconds=0.02) as watched:
        batches = scorer.score(items)
        next(batches)
        assert len(lane_threads()) == num_threads
        batches.close()
    assert len(watched.threads) < len(items) / 2
    collect(scorer, items)
    assert lane_threads() == []
    found: list[int] = []
    thread = threading.Thread(target=lambda: found.append(torch.get_num_threads()))
    thread.start()
    thread.join()
    assert (torch.get_num_threads(), *found) == (num_threads, num_threads)


def test_what_goes_wrong_in_a_lane_is_raised(num_threads: int) -> None:
    """With the model's own words."""
    model, items = tiny_model("gemma"), make_items(60)
    scorer = Scorer(model, batch_tokens=20)

    def fail(module: object, args: object, kwargs: dict[str, Tensor]) -> None:
        if threading.current_thread().name == f"lane_{num_threads - 1}":
            raise ValueError("no lane for me")

    hook = model.register_forward_pre_hook(fail, with_kwargs=True)
    try:
        with pytest.raises(ValueError, match="no lane for me"):
            list(scorer.score(items))
    finally:
        hook.remove()
    assert lane_threads() == []


def test_out_of_memory_halves_the_budget_once_for_all_lanes() -> None:
    """Batches that were on their way together fail together, and say nothing of half their size."""
    model, items = tiny_model("gemma"), make_items(80)
    scorer = Scorer(model, batch_tokens=400)
    with Cramped(model, 250) as cramped:
        found = collect(scorer, items)
    assert 150 < scorer.batch_tokens <= 200
    assert scorer.counts.out_of_memory == 1
    assert cramped.refused > 1
    assert largest_difference(found, score_slowly(model, items)) < 1e-4


def test_what_fits_alone_but_not_side_by_side_is_scored_alone() -> None:
    """The memory takes one item at a time, whatever the budget."""
    model, items = tiny_model("gemma"), make_items(40)
    scorer = Scorer(model, batch_tokens=1)
    lock, refused = threading.Lock(), []

    def enter(module: object, args: object) -> None:
        if not lock.acquire(blocking=False):
            refused.append(threading.current_thread().name)
            raise torch.OutOfMemoryError
        time.sleep(0.002)

    hooks = [
        model.register_forward_pre_hook(enter),
        model.register_forward_hook(lambda module, args, output: lock.release()),
    ]
    try:
        found = collect(scorer, items)
    finally:
        for hook in hooks:
            hook.remove()
    assert refused
    assert largest_difference(found, score_slowly(model, items)) < 1e-4


def test_an_item_that_does_not_fit_alone_is_an_error() -> None:
    """After it was tried without others beside it."""
    model = tiny_model("gemma")
    scorer = Scorer(model, batch_tokens=20)
    with Cramped(model, 8), pytest.raises(RunError, match=r"out of memory .* single item"):
        list(scorer.score(make_items(60)))
    assert lane_threads() == []


def test_many_threads_make_a_few_lanes_of_several() -> None:
    """So that batches in memory, and waiting for Python's lock, stay bounded."""
    tree = TreeForward(tiny_model("gemma"))
    for num_threads, num_lanes in [(1, 1), (8, 8), (10, 5), (12, 6), (64, 8)]:
        torch.set_num_threads(num_threads)
        with open_lanes(tree, 100) as lanes:
            each = lanes.start(lambda tree: torch.get_num_threads())()
            assert (lanes.num, each) == (num_lanes, num_threads // num_lanes)
