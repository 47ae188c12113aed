"""Whether a label is what the model itself would have chosen, token by token."""

import pytest
import torch
from torch import Tensor
from transformers import PreTrainedModel

from pipeline.scoring.scorer import Scorer
from pipeline.scoring.tokens import Ids, TokenSequences
from tests.pipeline.scoring.items import make_items
from tests.pipeline.scoring.tiny_models import ROWS_CONFIGS, TREE_CONFIGS, tiny_model

MODELS = [*TREE_CONFIGS, *ROWS_CONFIGS]


@torch.inference_mode()
def best_after(model: PreTrainedModel, ids: Ids) -> int:
    """The token with the largest logit after these, from one plain forward."""
    return int(model(input_ids=torch.tensor([ids])).logits[0, -1].argmax())


def is_greedy(model: PreTrainedModel, item: TokenSequences) -> list[bool]:
    """Of each label: whether every token is the best one after all that stands before it."""
    found = []
    for branch, num_tokens in zip(item.branches, item.num_label_tokens, strict=True):
        ids = item.prompt_ids + branch
        found.append(all(best_after(model, ids[:end]) == ids[end] for end in range(len(ids) - num_tokens, len(ids))))
    return found


def chosen(model: PreTrainedModel, prompt: Ids, num_tokens: int) -> Ids:
    for _ in range(num_tokens):
        prompt += (best_after(model, prompt),)
    return prompt[-num_tokens:]


def near_choices(model: PreTrainedModel, prompts: list[Ids]) -> list[TokenSequences]:
    """Items with the model's own words, and others that leave them at the first, a middle or the last token."""
    items = []
    for place, prompt in enumerate(prompts):
        own = chosen(model, prompt, 4)
        off = tuple(token % 100 + 4 for token in own)
        context = (7, 8, 9, 10, 11, 12)  # a context of its own behind the prompt
        labels = [own[:1], own, own[:3] + off[3:], own[:1] + off[1:2] + own[2:], off[:2], own[:2]]
        branches = [*labels, context + chosen(model, prompt + context, 2)]
        sizes = [*map(len, labels), 2]
        used = slice(0, 7 - place % 3)  # not as many for each item
        items.append(TokenSequences(prompt, tuple(branches[used]), tuple(sizes[used]), False))
    return items


def collect(scorer: Scorer, items: list[TokenSequences]) -> list[list[bool]]:
    found: dict[int, list[bool]] = {}
    for batch in scorer.score(items):
        assert isinstance(batch.is_greedy, Tensor)
        assert batch.is_greedy.shape == batch.logprob.shape
        assert not batch.is_greedy[batch.logprob.isnan()].any()  # nothing behind an item's own labels
        for index, row in zip(batch.indices, batch.is_greedy.tolist(), strict=True):
            found[index] = row[: len(items[index].branches)]
    return [found[index] for index in range(len(items))]


@pytest.mark.parametrize("name", MODELS)
def test_greedy_is_what_single_forwards_choose(name: str) -> None:
    """On trees and rows, over several batches, for labels of one and more tokens and contexts of their own."""
    model = tiny_model(name)
    items = near_choices(model, [item.prompt_ids for item in make_items(8)])
    scorer = Scorer(model, batch_tokens=90, greedy=True)
    found = collect(scorer, items)
    assert scorer.counts.batches > 2
    assert found == [is_greedy(model, item) for item in items]
    assert {True, False} == {each for row in found for each in row}


@pytest.mark.parametrize("name", ["gemma", "gpt2", "bloom"])
def test_greedy_holds_where_items_share_what_they_begin_with(name: str) -> None:
    """Behind a long head, several heads, and prompts that go on from each other; each item twice."""
    model = tiny_model(name)
    heads = [item.prompt_ids for item in make_items(2, shared=100)]
    prompts = [head + tail for head in heads for tail in ((5,), (5, 6), (5, 6, 7, 8), (30, 31))] * 2
    items = near_choices(model, prompts)
    scorer = Scorer(model, batch_tokens=150, greedy=True)
    assert collect(scorer, items) == [is_greedy(model, item) for item in items]


def test_greedy_moves_no_score_and_is_none_where_it_was_not_asked_for() -> None:
    """The scores are the same bytes, also beside the notebook's rule."""
    items = make_items(20)
    for notebook in (False, True):
        plain, asked = (
            list(Scorer(tiny_model("gemma"), batch_tokens=100, notebook=notebook, greedy=greedy).score(items))
            for greedy in (False, True)
        )
        for left, right in zip(plain, asked, strict=True):
            assert left.is_greedy is None
            assert right.is_greedy is not None
            assert torch.equal(left.logprob, right.logprob)
            assert torch.equal(left.logit, right.logit)
            assert (left.notebook_logit is None) is (right.notebook_logit is None) is not notebook
            if left.notebook_logit is not None and right.notebook_logit is not None:
                assert torch.equal(left.notebook_logit, right.notebook_logit)
