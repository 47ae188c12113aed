"""Attention without masks gives what attention with masks gives, and scores with it are those of single forwards."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from pipeline.scoring import forward, varlen
from pipeline.scoring.forward import Shortcut
from pipeline.scoring.layouts import Asked
from pipeline.scoring.masked import MaskedGroup
from pipeline.scoring.packed import PackedBatch, Unmasked, pack
from pipeline.scoring.parts import split_items
from pipeline.scoring.scorer import Scorer
from pipeline.scoring.sharing import InOrder, make_trees
from pipeline.scoring.tokens import TokenSequences
from pipeline.scoring.varlen import VarlenGroup
from pipeline.scoring.windows import narrowest_window
from tests.pipeline.scoring.items import item_sets, make_items, ragged_sets
from tests.pipeline.scoring.oracle import score_slowly
from tests.pipeline.scoring.shapes import SHAPES
from tests.pipeline.scoring.test_scorer import collect, largest_difference
from tests.pipeline.scoring.tiny_models import TREE_CONFIGS, VOCABULARY, tiny_model

KEY_HEADS, SIZE = 2, 4
CAPPED = {"gemma2"}  # a soft cap on attention is done with masks
LABELS = {
    "chain": ((5,), (6,), (7,), (8, 9, 10)),  # as AG News' have
    "chains": ((5,), (6, 7), (8, 9, 10, 11)),
    "branches": ((5,), (5, 6), (5, 7, 8, 9), (10, 11), (12,)),
}


def asked_of(batch: PackedBatch, depth: int, *, heads: int, seed: int) -> tuple[Asked, Asked]:
    """What a layer and the last layer may ask for: of all tokens, and of the places that are read."""
    source = torch.Generator().manual_seed(seed)

    def draw(*shape: int) -> Tensor:
        return torch.randn(shape, generator=source)

    num = batch.num_tokens
    queries, keys, values = draw(num, heads, SIZE), draw(num, KEY_HEADS, SIZE), draw(num, KEY_HEADS, SIZE)
    prefix = (draw(depth, KEY_HEADS, SIZE), draw(depth, KEY_HEADS, SIZE)) if depth else None
    of_all = Asked(queries, keys, values, prefix, SIZE**-0.5)
    return of_all, of_all._replace(queries=queries[batch.reads], at_reads=True)


def answer(batch: PackedBatch, asked: Asked) -> Tensor:
    outs, first_read = [], 0
    for layout in batch.layouts:
        outs.append(layout.attend(asked, first_read))
        first_read += layout.num_reads
    return torch.cat(outs)


@settings(deadline=None)
@given(
    items=st.one_of(item_sets(), ragged_sets()),
    heads=st.sampled_from([2, 4]),
    window=st.one_of(st.none(), st.integers(1, 30)),
    has_sinks=st.booleans(),
    most_repeated=st.sampled_from([0, 4, 1000]),
    seed=st.integers(0, 99),
)
def test_layouts_answer_as_masks_do(
    items: list[TokenSequences], heads: int, window: int | None, has_sinks: bool, most_repeated: int, seed: int
) -> None:
    """Whatever the trees, before a prefix that is repeated or merged, within windows and with attention sinks."""
    trees = make_trees(InOrder(split_items(items), notebook=bool(seed % 2)), 500)
    trees = [tree for tree in trees if tree.section == trees[0].section]
    unmasked = Unmasked(window, most_repeated)
    batch = pack(trees, unmasked=unmasked)
    trees = sorted(trees, key=lambda tree: (tree.depth, unmasked.shape(tree)))
    oracle = pack(trees)
    assert torch.equal(batch.ids, oracle.ids)
    sinks = torch.randn(heads, generator=torch.Generator().manual_seed(seed)) if has_sinks else None
    for asked in asked_of(batch, len(trees[0].prefix), heads=heads, seed=seed):
        for each in (asked._replace(window=window, sinks=sinks), asked._replace(sinks=sinks)):
            torch.testing.assert_close(answer(batch, each), answer(oracle, each), rtol=1e-4, atol=1e-5)


@pytest.fixture
def without_masks(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Models on a CPU, too, are attended without masks, by the slow twin of the kernel; which layouts were asked."""
    asked: list[str] = []
    for kind in (VarlenGroup, MaskedGroup):

        def attend(group: Any, *given: Any, usual: Callable[..., Tensor] = kind.attend) -> Tensor:
            asked.append(type(group).__name__)
            return usual(group, *given)

        monkeypatch.setattr(kind, "attend", attend)
    monkeypatch.setattr(forward, "has_kernel", lambda model: True)
    return asked


@pytest.mark.parametrize("labels", LABELS)
@pytest.mark.parametrize("name", TREE_CONFIGS)
def test_scores_without_masks_are_those_of_single_forwards(name: str, labels: str, without_masks: list[str]) -> None:
    """For every architecture: grouped heads, windows, attention sinks; the self-check takes masks for a soft cap."""
    model, items = tiny_model(name), make_items(12, labels=LABELS[labels])
    scorer = Scorer(model, batch_tokens=300)
    assert scorer.path == "tree"
    assert (Shortcut.NO_MASKS in scorer._tree.shortcuts) == (name != "gemma2")
    assert (Shortcut.LAST_LAYER in scorer._tree.shortcuts) == (name != "gpt2")
    collect(scorer, items)  # the longest are checked
    without_masks.clear()
    assert largest_difference(collect(scorer, items), score_slowly(model, items)) < 1e-4
    expected = {"VarlenGroup"}
    if name == "gemma2":
        expected = {"MaskedGroup"}
    elif labels != "chain" and narrowest_window(model.config):  # branches beyond a window
        expected = {"VarlenGroup", "MaskedGroup"}
    assert set(without_masks) == expected


@pytest.mark.parametrize("shape", SHAPES)
def test_what_items_share_is_shared_without_masks(shape: str, without_masks: list[str]) -> None:
    """Few-shot heads, passages with questions, choices of an item's own."""
    make, num = SHAPES[shape]
    model, items = tiny_model("llama"), make(max(2, num // 12), VOCABULARY)
    scorer = Scorer(model, batch_tokens=2048)
    without_masks.clear()
    found = collect(scorer, items)
    some = {rule: scores[:4] for rule, scores in found.items()}
    assert largest_difference(some, score_slowly(model, items[:4])) < 2e-4
    assert "VarlenGroup" in without_masks


def test_a_wrong_merge_is_seen_though_no_probe_has_a_long_prefix(
    monkeypatch: pytest.MonkeyPatch, without_masks: list[str]
) -> None:
    """Else few-shot prompts, which are merged, would be scored as no probe was."""
    usual = varlen.attend_densely

    def wrong(*given: Any) -> tuple[Tensor, Tensor]:
        out, sums = usual(*given)
        return out, sums + 1

    monkeypatch.setattr(varlen, "attend_densely", wrong)
    model = tiny_model("llama")
    scorer = Scorer(model)
    assert (scorer.path, Shortcut.NO_MASKS in scorer._tree.shortcuts) == ("tree", False)
    items = make_items(6, shared=80)
    assert largest_difference(collect(scorer, items), score_slowly(model, items)) < 1e-4


def test_a_tree_without_numbers_leaves_the_others_theirs() -> None:
    """Padding repeats what is of its own tree."""
    trees = make_trees(InOrder(split_items(make_items(4, labels=LABELS["branches"], shared=1)), notebook=False), 500)
    batch = pack(trees, unmasked=Unmasked(None))
    asked, _ = asked_of(batch, len(trees[0].prefix), heads=2, seed=0)
    first = trees[0].num_tokens
    expected = answer(batch, asked)[:first]
    for each in (asked.queries, asked.keys, asked.values):
        each[first:] = torch.nan
    assert torch.equal(answer(batch, asked)[:first], expected)


@pytest.mark.parametrize("window", [None, 5])
@pytest.mark.parametrize("is_causal", [True, False])
def test_the_kernel_is_asked_as_this_pytorch_has_it(is_causal: bool, window: int | None) -> None:
    """Its arguments, and the shapes of what it gives, without a GPU: by tensors that have nothing but a shape."""
    queries = torch.empty(7, 4, 64, dtype=torch.bfloat16, device="meta")
    keys = torch.empty(11, 2, 64, dtype=torch.bfloat16, device="meta")
    view = varlen.Queries(None, torch.empty(3, dtype=torch.int32, device="meta"), 4, is_causal)
    over = varlen.Sequences(keys, keys, view.ends, 6, 0.125, window if is_causal else None)
    out, sums = varlen.by_kernel(queries, view, over)
    assert (out.shape, sums.shape) == ((7, 4, 64), (7, 4))
    assert (out.dtype, sums.dtype) == (torch.bfloat16, torch.float32)


@pytest.mark.usefixtures("without_masks")
def test_a_head_size_that_the_kernel_does_not_take_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever the kernel raises: masks are taken."""

    def refuse(*_: object) -> None:
        raise RuntimeError("FlashAttention only supports head dimension at most 256")

    monkeypatch.setattr(varlen, "attend_sequences", refuse)
    model, items = tiny_model("llama"), make_items(6)
    scorer = Scorer(model)
    assert (scorer.path, Shortcut.NO_MASKS in scorer._tree.shortcuts) == ("tree", False)
    assert largest_difference(collect(scorer, items), score_slowly(model, items)) < 1e-4


def test_a_long_prefix_is_merged_and_a_short_one_repeated() -> None:
    """By what was measured; a window that does not hold all can only be had of a repeated one."""
    items = [
        TokenSequences(tuple(range(3, 3 + shared)) + (50, own) * 5, ((5,), (6,)), (1, 1), False)
        for shared in (6, 60)
        for own in (60, 61)
    ]
    for places, window, is_repeated in [((0, 1), None, True), ((2, 3), None, False), ((2, 3), 20, True)]:
        trees = make_trees(InOrder(split_items([items[place] for place in places]), notebook=False), 500)
        (group,) = pack(trees, unmasked=Unmasked(window)).layouts
        assert isinstance(group, VarlenGroup)
        assert group.is_repeated == is_repeated
        assert group.longest_key == trees[0].num_tokens + (group.depth if is_repeated else 0)
