"""A GPU goes from one plan to the next without a pause; scores, counts and errors are those of each plan alone."""

import copy
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch import Tensor

from pipeline.scoring.counts import Counts
from pipeline.scoring.lanes import Lanes
from pipeline.scoring.plan import Plan
from pipeline.scoring.scorer import NonFiniteScore, Scorer
from pipeline.scoring.tokens import TokenSequences
from tests.pipeline.scoring.items import make_items
from tests.pipeline.scoring.test_scorer import Cramped
from tests.pipeline.scoring.tiny_models import tiny_model


@pytest.fixture(autouse=True)
def as_on_a_gpu(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """One lane, two batches on their way, and the next plan's behind them."""
    usual = torch.get_num_threads()
    torch.set_num_threads(1)
    monkeypatch.setattr(Scorer, "_goes_ahead", True)

    def make(lanes: Lanes[Any, Any], *given: Any) -> None:
        made(lanes, *given)
        lanes.max_running = 2

    made = Lanes.__init__
    monkeypatch.setattr(Lanes, "__init__", make)
    yield
    torch.set_num_threads(usual)


@pytest.fixture
def items() -> list[list[TokenSequences]]:
    """Three shards' items; the last has another prompt."""
    return [make_items(30), make_items(30, seed=1), make_items(20, seed=2, shared=9)]


def score_all(scorer: Scorer, plans: list[Plan]) -> list[Tensor]:
    """Each plan's log-likelihoods, while the next is always ready."""
    found = []
    for number, plan in enumerate(plans):
        following = plans[number + 1] if number + 1 < len(plans) else None
        scores = torch.full((len(plan.items), len(plan.items[0].branches)), torch.nan)
        for batch in scorer.score(plan, lambda following=following: following):
            scores[batch.indices] = batch.logprob
        found.append(scores)
    return found


def scorer_of(items: list[list[TokenSequences]]) -> Scorer:
    """With the longest items checked."""
    scorer = Scorer(copy.deepcopy(tiny_model("gemma")), batch_tokens=200)
    list(scorer.score([item for shard in items for item in shard]))
    scorer.counts = Counts()
    return scorer


def test_the_next_plan_has_begun_before_the_last_scores_of_one_are_taken(items: list[list[TokenSequences]]) -> None:
    """And what each plan counts and scores is what it does by itself, to the bit."""
    expected, counts = [], []
    alone = scorer_of(items)
    for shard in items:
        expected += score_all(alone, [alone.plan(shard)])
        counts.append(alone.counts)
        alone.counts = Counts()
    scorer = scorer_of(items)
    plans = [scorer.plan(shard) for shard in items]
    for number, plan in enumerate(plans):
        following = plans[number + 1] if number + 1 < len(plans) else None
        scores = torch.full(expected[number].shape, torch.nan)
        for batch in scorer.score(plan, lambda following=following: following):
            scores[batch.indices] = batch.logprob
        assert torch.equal(scores, expected[number])
        assert scorer.counts == counts[number]
        scorer.counts = Counts()
        ahead = scorer._ahead
        assert (ahead is not None and ahead.plan is following and len(ahead._running) > 0) == (following is not None)


def test_memory_that_runs_out_meanwhile_loses_nothing(items: list[list[TokenSequences]]) -> None:
    """Of this plan or the next: what did not fit is scored in smaller batches, each score once."""
    expected = score_all(scorer_of(items), [scorer_of(items).plan(shard) for shard in items])
    scorer = scorer_of(items)
    with Cramped(scorer._model, 90) as cramped:
        found = score_all(scorer, [scorer.plan(shard) for shard in items])
    assert cramped.refused > 1
    assert scorer.batch_tokens <= 90
    for one, other in zip(found, expected, strict=True):
        torch.testing.assert_close(one, other, rtol=0, atol=1e-4)


def test_a_plan_that_was_begun_and_is_not_asked_for_is_dropped(items: list[list[TokenSequences]]) -> None:
    """A shard may be taken away; what is scored next is what is asked for, and so is what is given up halfway."""
    expected = score_all(scorer_of(items), [scorer_of(items).plan(shard) for shard in items])
    scorer = scorer_of(items)
    first, second, third = map(scorer.plan, items)
    list(scorer.score(first, lambda: second))
    assert torch.equal(score_all(scorer, [third])[0], expected[2])
    batches = scorer.score(first, lambda: second)
    next(batches)
    batches.close()
    assert torch.equal(score_all(scorer, [second])[0], expected[1])
    assert scorer._ahead is None


def test_nothing_goes_ahead_while_the_model_is_checked(
    items: list[list[TokenSequences]], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Else batches of the plan that was begun would be forwarded as the check has the model meanwhile."""
    scorer = scorer_of(items)
    first, second, third = map(scorer.plan, items)
    list(scorer.score(first, lambda: second))
    assert scorer._ahead is not None
    seen: list[object] = []
    monkeypatch.setattr(scorer._check, "reach", lambda _: seen.append(scorer._ahead))
    list(scorer.score(third))
    assert seen == [None]


def test_what_is_no_number_is_told_of_its_own_plan(items: list[list[TokenSequences]]) -> None:
    """The plan before it ends well."""
    scorer = scorer_of(items)
    poisoned = 7
    scorer._model.get_input_embeddings().register_forward_hook(
        lambda _, given, found: found.masked_fill(given[0][..., None] == poisoned, float("nan"))
    )
    clean = [item for item in items[0] if poisoned not in item.prompt_ids]
    branches, sizes = ((5,), (6,)), (1, 1)
    clean = [TokenSequences(item.prompt_ids, branches, sizes, False) for item in clean]
    bad = [*clean[:3], TokenSequences((*clean[3].prompt_ids, poisoned), branches, sizes, False)]
    plans = [scorer.plan(clean), scorer.plan(bad)]
    assert torch.cat([batch.logprob for batch in scorer.score(plans[0], lambda: plans[1])]).isfinite().all()
    assert scorer._ahead is not None
    with pytest.raises(NonFiniteScore) as raised:
        list(scorer.score(plans[1]))
    assert raised.value.index == 3


def test_a_plan_with_longer_texts_than_were_checked_waits_for_its_check(items: list[list[TokenSequences]]) -> None:
    """Nothing of it is forwarded before."""
    scorer = scorer_of(items)
    longer = [TokenSequences(item.prompt_ids * 2, item.branches, item.num_label_tokens, False) for item in items[1]]
    plan = scorer.plan(longer)
    list(scorer.score(scorer.plan(items[0]), lambda: plan))
    assert scorer._ahead is None
    score_all(scorer, [plan])
    assert scorer._check.covers(longer)
