"""On a CUDA device: the same scores, the self-check, and recovery from really running out of memory."""

import copy
from collections.abc import Iterator

import pytest
import torch

from pipeline.scoring import forward
from pipeline.scoring.scorer import Scorer
from tests.pipeline.scoring.items import make_items
from tests.pipeline.scoring.oracle import score_slowly
from tests.pipeline.scoring.test_scorer import collect, largest_difference
from tests.pipeline.scoring.tiny_models import ROWS_CONFIGS, TREE_CONFIGS, tiny_model

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device"),
]


@pytest.mark.parametrize("name", [*TREE_CONFIGS, *ROWS_CONFIGS])
def test_float32_scores_on_cuda_are_those_of_single_forwards(name: str) -> None:
    """Within 1e-4 of the oracle on the CPU; the self-check picks the path that it picks there."""
    items = make_items(12)
    scorer = Scorer(copy.deepcopy(tiny_model(name)).cuda(), batch_tokens=100, notebook=True)
    assert scorer.path == ("tree" if name in TREE_CONFIGS else "rows"), scorer.path_reason
    assert largest_difference(collect(scorer, items), score_slowly(tiny_model(name), items)) < 1e-4


@pytest.mark.parametrize("name", TREE_CONFIGS)
def test_bfloat16_scores_on_cuda_differ_no_more_than_bfloat16_does(name: str) -> None:
    """A tree in bfloat16 is as near to float32 as single forwards in bfloat16 are, give or take one such distance."""
    items = make_items(12)
    exact = score_slowly(tiny_model(name), items)["logprob"]
    model = copy.deepcopy(tiny_model(name, torch.bfloat16)).cuda()
    scorer = Scorer(model, batch_tokens=200)
    assert scorer.path == "tree", scorer.path_reason
    own = (score_slowly(model, items)["logprob"] - exact).abs()
    ours = (collect(scorer, items)["logprob"].double() - exact).abs()
    assert float(ours.max()) <= 2 * float(own.max())


def test_cudnn_does_no_attention(monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither over trees nor over rows, as it sets up a plan for every new shape; afterwards it may be used again."""
    seen = []

    def note(*args: object, **kwargs: object) -> torch.Tensor:
        seen.append(torch.backends.cuda.cudnn_sdp_enabled())
        return attend(*args, **kwargs)

    attend = torch.nn.functional.scaled_dot_product_attention
    before = torch.backends.cuda.cudnn_sdp_enabled()
    for name in ("llama", "bloom"):
        scorer = Scorer(copy.deepcopy(tiny_model(name)).cuda())
        monkeypatch.setattr(torch.nn.functional, "scaled_dot_product_attention", note)
        collect(scorer, make_items(4))
        monkeypatch.undo()
    assert seen
    assert not any(seen)
    assert torch.backends.cuda.cudnn_sdp_enabled() == before


@pytest.fixture
def small_device() -> Iterator[None]:
    """Leaves this process a sliver of the device's memory."""
    torch.cuda.empty_cache()
    total = torch.cuda.get_device_properties(0).total_memory
    torch.cuda.set_per_process_memory_fraction(min(1.0, (torch.cuda.memory_reserved() + 96 * 2**20) / total))
    yield
    torch.cuda.set_per_process_memory_fraction(1.0)
    torch.cuda.empty_cache()


def test_out_of_memory_on_cuda_halves_the_budget_and_goes_on(small_device: None) -> None:
    """A batch that needs more than the process may take is split until it fits; all scores come out right."""
    items = make_items(3000)
    model = copy.deepcopy(tiny_model("llama")).cuda()
    scorer = Scorer(model, batch_tokens=1_000_000)
    found = collect(scorer, items)
    assert scorer.counts.out_of_memory > 0
    some = {rule: scores[:20] for rule, scores in found.items()}
    assert largest_difference(some, score_slowly(tiny_model("llama"), items[:20])) < 1e-4


@pytest.mark.parametrize("name", TREE_CONFIGS)
def test_attention_without_masks_on_cuda_gives_the_scores_of_masks(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """In bfloat16, by the kernel: as near as masks are to float32, give or take; a soft cap keeps its masks."""
    items = make_items(12, labels=((5,), (6,), (7,), (8, 9, 10)))
    exact = score_slowly(tiny_model(name), items)["logprob"]
    model = copy.deepcopy(tiny_model(name, torch.bfloat16)).cuda()
    scorer = Scorer(model, batch_tokens=200)
    without = (collect(scorer, items)["logprob"].double() - exact).abs()
    assert scorer.kernels is not None
    assert ("without masks: flash" in scorer.kernels) == (name != "gemma2")
    monkeypatch.setattr(forward, "has_kernel", lambda _: False)
    masked = Scorer(copy.deepcopy(tiny_model(name, torch.bfloat16)).cuda(), batch_tokens=200)
    with_masks = (collect(masked, items)["logprob"].double() - exact).abs()
    assert masked.kernels is not None
    assert "without masks" not in masked.kernels
    assert float(without.max()) <= 2 * float(with_masks.max())


def test_plans_on_cuda_follow_each_other() -> None:
    """The next plan has begun when the last scores of one are taken, and each gets its own."""
    shards = [make_items(300, seed=seed) for seed in range(3)]
    scorer = Scorer(copy.deepcopy(tiny_model("llama")).cuda(), batch_tokens=1_000)
    plans = [scorer.plan(shard) for shard in shards]
    for number, plan in enumerate(plans):
        following = plans[number + 1] if number + 1 < len(plans) else None
        scores = torch.full((300, 5), torch.nan)
        for batch in scorer.score(plan, lambda following=following: following):
            scores[batch.indices] = batch.logprob
        assert (scorer._ahead is not None) == (following is not None)
        expected = score_slowly(tiny_model("llama"), shards[number][:20])["logprob"]
        assert float((scores[:20].double() - expected).abs().max()) < 1e-4
