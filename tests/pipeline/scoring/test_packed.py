"""Trees forward what items share once, everything else once, and nothing else."""

import random

from hypothesis import example, given
from hypothesis import strategies as st

from pipeline.scoring.masked import MaskedGroup
from pipeline.scoring.packed import num_fitting, pack
from pipeline.scoring.parts import split_items
from pipeline.scoring.sharing import InOrder, make_trees
from pipeline.scoring.tokens import Ids, TokenSequences
from pipeline.scoring.trie import LabelTrie, part_trie
from tests.pipeline.scoring.items import item_sets, label_sets, make_items, ragged_sets


@given(items=ragged_sets(), max_tokens=st.integers(1, 200), notebook=st.booleans())
@example(  # one label is what another begins with, whose last token is forwarded then
    items=[TokenSequences((3,), ((3,),), (1,), False), TokenSequences((3,), ((3, 3),), (2,), False)],
    max_tokens=1,
    notebook=False,
)
def test_every_part_is_in_one_batch_within_the_budget(
    items: list[TokenSequences], max_tokens: int, notebook: bool
) -> None:
    """A batch over the budget holds one tree, which then is one part, and its trees go on from one prefix."""
    parts = split_items(items)
    trees = make_trees(InOrder(parts, notebook=notebook), max_tokens)
    found = [part for tree in trees for part in tree.parts]
    assert sorted(map(id, found)) == sorted(map(id, parts))
    while trees:
        num = num_fitting(trees, max_tokens)
        batch, trees = trees[:num], trees[num:]
        num_tokens = sum(tree.num_tokens for tree in batch)
        assert num_tokens <= max_tokens or len(batch) == len(batch[0].parts) == 1
        assert len({tree.prefix for tree in batch}) == 1


@given(items=ragged_sets(), max_tokens=st.integers(1, 200), notebook=st.booleans())
def test_a_tree_spells_out_what_its_parts_need(items: list[TokenSequences], max_tokens: int, notebook: bool) -> None:
    """Beginning of the prefix, own tokens and the ways through the trie, together; whole or split."""
    for whole in make_trees(InOrder(split_items(items), notebook=notebook), max_tokens):
        for tree in (whole, *whole.split()):
            assert tree.own
            root = tree.prefix[: tree.depth] + tree.own
            needed = {
                (part.prompt + branch)[: len(part.prompt) + len(branch) - (not notebook)][:end]
                for part in tree.parts
                for branch in part.branches
                for end in range(len(root) + 1, len(part.prompt) + len(branch) + notebook)
            }
            assert all(part.prompt[: len(root)] == root for part in tree.parts)
            assert ways(tree.trie, root) == needed
        halves = {part.index for tree in whole.split() for part in tree.parts}
        assert halves == ({part.index for part in whole.parts} if len(whole.parts) > 1 else set())


def ways(trie: LabelTrie, root: Ids) -> set[Ids]:
    """The path to each node; no two nodes have the same."""
    found = set()
    for node in range(len(trie.tokens)):
        way = [above for above in range(node + 1) if node < trie.ends[above]]
        assert len(way) == trie.depths[node]
        found.add(root + tuple(trie.tokens[above] for above in way))
    assert len(found) == len(trie.tokens)
    return found


@given(items=item_sets())
def test_a_batch_holds_the_tokens_of_its_trees_side_by_side(items: list[TokenSequences]) -> None:
    """In the order of their depth; terms read at places of a tree that their item is in."""
    trees = [tree for tree in make_trees(InOrder(split_items(items), notebook=True), 500) if tree.section == 0]
    batch = pack(trees)
    trees.sort(key=lambda tree: tree.depth)
    assert batch.ids[0].tolist() == [token for tree in trees for token in (*tree.own, *tree.trie.tokens)]
    assert batch.indices == [part.index for tree in trees for part in tree.parts]
    assert sorted(
        place for group in batch.layouts for place in range(group.begin, group.begin + group.num_tokens)
    ) == list(range(batch.num_tokens))
    read_by = [{part.index for part in tree.parts} for tree in trees for _ in tree.trie.reads]
    assert all(item in read_by[read] for item, _, read, _ in batch.terms.tolist())
    assert batch.terms[:, 2].tolist() == sorted(batch.terms[:, 2].tolist())
    assert len(read_by) == len(batch.reads)


@given(labels=label_sets(), notebook=st.booleans())
def test_a_trie_holds_each_distinct_beginning_once(labels: tuple[Ids, ...], notebook: bool) -> None:
    """All beginnings of labels without (for the notebook with) their last token; ancestors are beginnings."""
    trie = part_trie(labels, tuple(map(len, labels)), tuple(range(len(labels))), notebook)
    paths = {label[:end] for label in labels for end in range(1, len(label) + notebook)}
    assert len(trie.tokens) == len(paths)
    assert ways(trie, ()) == paths


def test_items_with_choices_of_their_own_are_attended_together() -> None:
    """A group needs one depth and about one size, not one trie; at most 6 % of its cells are padding."""
    draw = random.Random(0)
    items = []
    for item in make_items(200):
        choices = tuple(tuple(draw.randrange(3, 60) for _ in range(draw.randint(1, 6))) for _ in range(4))
        items.append(TokenSequences(item.prompt_ids, choices, tuple(map(len, choices)), False))
    batch = pack(make_trees(InOrder(split_items(items), notebook=False), 100_000))
    groups = [layout for layout in batch.layouts if isinstance(layout, MaskedGroup)]
    num_cells = sum(group.num_trees * group.width for group in groups)
    assert len(groups) == len(batch.layouts) < 40
    assert num_cells < batch.num_tokens / 0.94
