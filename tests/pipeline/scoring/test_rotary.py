"""Rotary embeddings that depend on the length give each sequence what it gets when it is forwarded by itself."""

import copy
from collections.abc import Callable

import pytest
import torch
from torch import Tensor
from transformers import AutoModelForCausalLM, LlamaConfig, Phi3Config, PretrainedConfig, PreTrainedModel

from pipeline.scoring.rotary import Rotary
from pipeline.scoring.scorer import Scorer
from pipeline.scoring.tokens import TokenSequences
from tests.pipeline.scoring.items import make_items
from tests.pipeline.scoring.oracle import score_slowly
from tests.pipeline.scoring.test_scorer import collect, largest_difference
from tests.pipeline.scoring.tiny_models import VOCABULARY

LIMIT = 64
_SIZES = {"hidden_size": 32, "num_hidden_layers": 3, "num_attention_heads": 4, "intermediate_size": 48}
_COMMON = {"vocab_size": VOCABULARY, "bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 0}
_LONG = {
    "rope_type": "longrope",
    "rope_theta": 10000.0,
    "short_factor": [1.0, 1.1, 1.3, 1.5],
    "long_factor": [1.5, 3.0, 5.0, 9.0],
    "original_max_position_embeddings": LIMIT,
}
CONFIGS: dict[str, Callable[[], PretrainedConfig]] = {
    "longrope": lambda: Phi3Config(
        **_SIZES,
        **_COMMON,
        num_key_value_heads=2,
        max_position_embeddings=256,
        original_max_position_embeddings=LIMIT,
        rope_parameters=dict(_LONG),
    ),
    "dynamic": lambda: LlamaConfig(
        **_SIZES,
        **_COMMON,
        num_key_value_heads=2,
        max_position_embeddings=LIMIT,
        rope_parameters={"rope_type": "dynamic", "rope_theta": 10000.0, "factor": 4.0},
    ),
}


def make_model(kind: str) -> PreTrainedModel:
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(CONFIGS[kind](), dtype=torch.float32).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.dim() > 1:
                parameter.mul_(5)
    return model


def fresh_scores(model: PreTrainedModel, items: list[TokenSequences]) -> dict[str, Tensor]:
    """The slow oracle, each item's forwards by a model that has forwarded nothing before."""
    found: list[dict[str, Tensor]] = []
    for item in items:
        labels = zip(item.branches, item.num_label_tokens, strict=True)
        each = [
            score_slowly(copy.deepcopy(model), [TokenSequences(item.prompt_ids, (branch,), (num,), False)])
            for branch, num in labels
        ]
        found.append({rule: torch.cat([scores[rule] for scores in each], dim=1) for rule in each[0]})
    return {rule: torch.cat([scores[rule] for scores in found]) for rule in found[0]}


def both_sides() -> list[TokenSequences]:
    """Items of 36 to 100 tokens; some have labels on both sides of the limit, and some end exactly at it."""
    items = make_items(10, shared=35) + make_items(6, shared=60)
    edge = [TokenSequences(item.prompt_ids[: LIMIT - 2], item.branches, item.num_label_tokens, False) for item in items]
    return items + [item for item in edge[-3:] if len(item.prompt_ids) == LIMIT - 2]


@pytest.mark.parametrize("kind", CONFIGS)
@pytest.mark.parametrize("path", ["tree", "rows"])
def test_items_on_both_sides_of_the_limit_get_their_own_rotation(kind: str, path: str) -> None:
    """A prefix is shared and batches are made within a regime alone; sizes differ, also within an item."""
    model, items = make_model(kind), both_sides()
    expected = fresh_scores(model, items)
    scorer = Scorer(model, batch_tokens=300, notebook=True)
    assert scorer.path == "tree", scorer.path_reason
    if path == "rows":
        scorer._check.verdict.path = "rows"
    assert largest_difference(collect(scorer, items), expected) < 2e-4
    sizes = {len(item.prompt_ids) + len(branch) for item in items for branch in item.branches}
    assert min(sizes) < LIMIT in sizes
    assert LIMIT + 1 in sizes


@pytest.mark.parametrize("kind", CONFIGS)
def test_scores_do_not_depend_on_what_was_forwarded_before(kind: str) -> None:
    """Short, long, short again; and the model itself is left as one that has forwarded nothing."""
    model, items = make_model(kind), both_sides()
    scorer = Scorer(model)
    short = [item for item in items if len(item.prompt_ids) < LIMIT - 10]
    before = collect(scorer, short)
    collect(scorer, items)
    assert largest_difference(collect(scorer, short), {rule: each.double() for rule, each in before.items()}) < 1e-6
    assert largest_difference(before, score_slowly(model, short)) < 2e-4


@pytest.mark.parametrize("kind", CONFIGS)
def test_lanes_share_no_frequencies(kind: str) -> None:
    """A forward writes them: each lane has its own, and shares what the checkpoint holds."""
    tree = Scorer(make_model(kind))._tree
    mine, others = tree._model, tree.twin()._model
    weights = zip(mine.parameters(), others.parameters(), strict=True)
    assert all(left is right for left, right in weights)
    buffers = dict(others.named_buffers())
    assert buffers
    assert all(buffer is not buffers[name] for name, buffer in mine.named_buffers())


@pytest.mark.parametrize("num_threads", [2])
@pytest.mark.parametrize("kind", CONFIGS)
def test_lanes_give_the_same_scores(kind: str, num_threads: int) -> None:
    """Two lanes, each with batches of its own, over both regimes."""
    usual = torch.get_num_threads()
    torch.set_num_threads(num_threads)
    try:
        model, items = make_model(kind), both_sides()
        scorer = Scorer(model, batch_tokens=100)
        assert largest_difference(collect(scorer, items), fresh_scores(model, items)) < 2e-4
    finally:
        torch.set_num_threads(usual)


def test_regimes_are_told_by_length() -> None:
    """longrope knows two, dynamic one for each length beyond the limit; other models have none."""
    long, dynamic = Rotary(make_model("longrope")), Rotary(make_model("dynamic"))
    assert [long.regime(size) for size in (1, LIMIT, LIMIT + 1, 200)] == [0, 0, LIMIT + 1, LIMIT + 1]
    assert [dynamic.regime(size) for size in (1, LIMIT, LIMIT + 1, 200)] == [0, 0, LIMIT + 1, 200]
