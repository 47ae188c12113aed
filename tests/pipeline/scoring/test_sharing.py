"""What items share is forwarded once, in every shape of task, and scores stay those of single forwards."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.scoring.parts import split_items
from pipeline.scoring.scorer import Scorer
from pipeline.scoring.sharing import InOrder, count_distinct, make_trees
from pipeline.scoring.tokens import Ids, TokenSequences
from tests.pipeline.scoring.items import make_items, ragged_sets
from tests.pipeline.scoring.oracle import score_slowly
from tests.pipeline.scoring.shapes import SHAPES, few_shot, yes_or_no
from tests.pipeline.scoring.test_scorer import Cramped, collect, largest_difference
from tests.pipeline.scoring.tiny_models import VOCABULARY, tiny_model


def distinct_nodes(items: list[TokenSequences], *, notebook: bool = False) -> int:
    """By plain sets of beginnings; a label's last token is never needed but for the notebook's rule."""
    sequences = {item.prompt_ids + branch for item in items for branch in item.branches}
    nodes: set[Ids] = set()
    for ids in sequences:
        nodes.update(ids[:end] for end in range(1, len(ids) + notebook))
    return len(nodes)


@pytest.mark.parametrize("name", SHAPES)
def test_what_items_share_is_forwarded_once(name: str) -> None:
    """At most 1.05 times the distinct nodes, which are counted; attention pads little; scores are right."""
    make, num = SHAPES[name]
    items = make(num, VOCABULARY)
    scorer = Scorer(tiny_model("gemma"), batch_tokens=2048)
    found = collect(scorer, items)
    counts = scorer.counts
    assert counts.trie_tokens == distinct_nodes(items)
    assert counts.trie_tokens <= counts.forwarded_tokens <= 1.05 * counts.trie_tokens
    assert counts.padding_tokens == 0
    some = range(0, len(items), len(items) // 6)
    expected = score_slowly(tiny_model("gemma"), [items[i] for i in some])["logprob"]
    assert torch.allclose(found["logprob"][list(some)].double(), expected, atol=2e-4, equal_nan=True)


@pytest.mark.parametrize("name", ["gemma2", "gemma3", "gpt_neox", "mistral"])
@settings(max_examples=8, deadline=None)
@given(items=ragged_sets(), batch_tokens=st.integers(40, 400), notebook=st.booleans())
def test_scores_are_right_whatever_is_shared(
    name: str, items: list[TokenSequences], batch_tokens: int, notebook: bool
) -> None:
    """Random items that begin alike, all repeated: each comes out once and right, past sliding windows too."""
    items = items + items
    scorer = Scorer(tiny_model(name), batch_tokens=batch_tokens, notebook=notebook)
    assert largest_difference(collect(scorer, items), score_slowly(tiny_model(name), items)) < 1e-4


@given(items=ragged_sets(), notebook=st.booleans())
def test_distinct_nodes_are_counted_as_plain_sets_count_them(items: list[TokenSequences], notebook: bool) -> None:
    """Prompts that go on from others, equal ones, and branches that meet prompts."""
    assert count_distinct(InOrder(split_items(items), notebook=notebook)) == distinct_nodes(items, notebook=notebook)


def test_choices_of_one_token_cost_nothing() -> None:
    """They are read at the end of their question, be there two or fifty."""
    forwarded = []
    for choices in (((5,), (6,)), tuple((token,) for token in range(3, 53))):
        scorer = Scorer(tiny_model("gemma"))
        list(scorer.score([TokenSequences(i.prompt_ids, choices, (1,) * len(choices), False) for i in make_items(9)]))
        forwarded.append(scorer.counts.forwarded_tokens)
    assert forwarded[0] == forwarded[1]


def test_a_few_shared_tokens_make_no_tree() -> None:
    """Dense attention over both would cost more than the tokens; what nearly all share is a prefix all the same."""
    items = [
        TokenSequences((3, 4, i % 5 + 5, *i.to_bytes(2), *range(20, 90)), ((5,), (6,)), (1, 1), False)
        for i in range(40)
    ]
    trees = make_trees(InOrder(split_items(items), notebook=False), 2048)
    assert {tree.prefix for tree in trees} == {(3, 4)}
    assert all(len(tree.parts) == 1 for tree in trees)


def test_each_prefix_goes_on_from_the_one_before() -> None:
    """Three few-shot heads that begin alike: the common tokens are forwarded once, each head is one section."""
    items = few_shot(60, VOCABULARY)
    trees = make_trees(InOrder(split_items(items), notebook=False), 2048)
    prefixes = list(dict.fromkeys(tree.prefix for tree in trees))
    assert [len(prefix) for prefix in prefixes] == [600] * 3
    assert prefixes == sorted(prefixes)
    assert all(len(tree.own) <= 110 for tree in trees)
    for prefix in prefixes:
        sizes = [tree.num_tokens for tree in trees if tree.prefix == prefix]
        assert sizes == sorted(sizes, reverse=True)


def test_a_passage_and_its_questions_are_one_tree() -> None:
    """All of a passage's questions together, each passage alone."""
    items = yes_or_no(10, VOCABULARY)
    trees = make_trees(InOrder(split_items(items), notebook=False), 2048)
    assert len(trees) == 10
    assert all(len({part.prompt[:100] for part in tree.parts}) == 1 for tree in trees)


def test_a_passage_that_does_not_fit_into_memory_is_split() -> None:
    """With its questions it is too large; with some of them it fits, and the scores are right."""
    passages = [(first, *range(30, 90)) for first in (2, 3, 4)]
    items = [
        TokenSequences((*p, q, *range(10, 29)), ((5,), (6,)), (1, 1), False) for p in passages for q in range(3, 9)
    ]
    scorer = Scorer(tiny_model("gemma"), batch_tokens=2048)
    with Cramped(tiny_model("gemma"), 130):
        found = collect(scorer, items)
    assert 3 * 2 * 61 + 18 * 20 <= scorer.counts.forwarded_tokens < 18 * 81
    assert scorer.counts.out_of_memory > 0
    assert largest_difference(found, score_slowly(tiny_model("gemma"), items)) < 1e-4


def test_the_same_call_gives_the_same_bytes_whatever_prefix_was_kept_before() -> None:
    """A prefix that goes on from one of another call would round differently."""
    first, second = few_shot(12, VOCABULARY), make_items(9)
    scorer = Scorer(tiny_model("gemma"), batch_tokens=1000)
    expected = collect(scorer, first)["logprob"]
    collect(scorer, [TokenSequences(first[0].prompt_ids[:300] + i.prompt_ids, *ends(i)) for i in second])
    assert torch.equal(collect(scorer, first)["logprob"], expected)


def ends(item: TokenSequences) -> tuple[tuple[Ids, ...], tuple[int, ...], bool]:
    return item.branches, item.num_label_tokens, item.truncated
