"""Trees forward what items share once, everything else once, and nothing else."""

import random
from collections import Counter

from hypothesis import given
from hypothesis import strategies as st

from pipeline.scoring.packed import find_prefix, make_trees, num_fitting, pack
from pipeline.scoring.parts import split_items
from pipeline.scoring.tokens import Ids, TokenSequences
from pipeline.scoring.trie import part_trie
from tests.pipeline.scoring.items import item_sets, label_sets, make_items

PROMPTS = st.lists(st.lists(st.integers(0, 2), min_size=1, max_size=6).map(tuple), min_size=1, max_size=12)


@given(prompts=PROMPTS)
def test_the_prefix_is_the_longest_that_nine_in_ten_share(prompts: list[Ids]) -> None:
    """Nine in ten of the prompts begin with it and have a token of their own after it; no longer one is like that
    (unless one prompt is the beginning of others). One prompt shares nothing."""
    prefix = find_prefix(prompts)

    def num_following(candidate: Ids) -> int:
        return sum(ids[: len(candidate)] == candidate and len(ids) > len(candidate) for ids in prompts)

    if len(prompts) == 1:
        assert prefix == ()
        return
    assert not prefix or num_following(prefix) >= 0.9 * len(prompts)
    longer = Counter(ids[: len(prefix) + 1] for ids in prompts if ids[: len(prefix)] == prefix)
    shortest = min(map(len, prompts))
    if len(prefix) < shortest - 1:
        assert all(num_following(candidate) < 0.9 * len(prompts) for candidate in longer)


@given(items=item_sets(), max_tokens=st.integers(1, 200), max_reads=st.integers(1, 100))
def test_every_item_is_in_one_batch_within_the_budgets(
    items: list[TokenSequences], max_tokens: int, max_reads: int
) -> None:
    """Prefix and tree put together again are the item; a batch over a budget holds one item."""
    prefix = find_prefix([item.prompt_ids for item in items])
    trees = make_trees(split_items(items), prefix, notebook=False)
    for tree in trees:
        assert prefix[: tree.depth] + tree.own == items[tree.indices[0]].prompt_ids
        assert tree.own
    assert sorted(index for tree in trees for index in tree.indices) == list(range(len(items)))
    while trees:
        num = num_fitting(trees, max_tokens, max_reads)
        batch, trees = trees[:num], trees[num:]
        assert batch
        within = sum(t.num_tokens for t in batch) <= max_tokens and sum(len(t.trie.reads) for t in batch) <= max_reads
        assert len(batch) == 1 or within


@given(items=item_sets())
def test_a_batch_holds_the_tokens_of_its_trees_side_by_side(items: list[TokenSequences]) -> None:
    """In the trees' order; terms read at places of their own item alone."""
    trees = make_trees(split_items(items), (), notebook=True)
    batch = pack(trees)
    assert batch.ids[0].tolist() == [token for tree in trees for token in (*tree.own, *tree.trie.tokens)]
    assert batch.indices == [tree.indices[0] for tree in trees]
    assert sorted(
        place for group in batch.groups for place in range(group.begin, group.begin + group.num_tokens)
    ) == list(range(batch.num_tokens))
    read_by = [tree.indices[0] for tree in trees for _ in tree.trie.reads]
    assert all(read_by[read] == item for item, _, read, _ in batch.terms.tolist())
    assert len(read_by) == len(batch.reads)


@given(labels=label_sets(), notebook=st.booleans())
def test_a_trie_holds_each_distinct_beginning_once(labels: tuple[Ids, ...], notebook: bool) -> None:
    """All beginnings of labels without (for the notebook with) their last token; ancestors are beginnings."""
    trie = part_trie(labels, tuple(map(len, labels)), tuple(range(len(labels))), notebook)
    paths = {label[:end] for label in labels for end in range(1, len(label) + notebook)}
    assert len(trie.tokens) == len(paths)
    found = set()
    for node in range(len(trie.tokens)):
        way = [above for above in range(node + 1) if node < trie.ends[above]]
        assert way[-1] == node
        path = tuple(trie.tokens[i] for i in way)
        assert len(path) == trie.depths[node]
        found.add(path)
    assert found == paths


def test_items_with_choices_of_their_own_are_attended_together() -> None:
    """A group needs one depth and about one size, not one trie; at most 6 % of its cells are padding."""
    draw = random.Random(0)
    items = []
    for item in make_items(200):
        choices = tuple(tuple(draw.randrange(3, 60) for _ in range(draw.randint(1, 6))) for _ in range(4))
        items.append(TokenSequences(item.prompt_ids, choices, tuple(map(len, choices)), False))
    batch = pack(make_trees(split_items(items), items[0].prompt_ids[:6], notebook=False))
    num_cells = sum(group.num_trees * group.width for group in batch.groups)
    assert len(batch.groups) < 40
    assert num_cells < batch.num_tokens / 0.94
