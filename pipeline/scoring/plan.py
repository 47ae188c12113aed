"""What is to be forwarded for some items, worked out before it is their turn.

Invariant: a plan depends on the items, on the way through the model and on the budget of a batch alone.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from pipeline.scoring.packed import TokenTree
from pipeline.scoring.padded import LabelRow, make_rows
from pipeline.scoring.parts import by_regime, split_items
from pipeline.scoring.sharing import InOrder, count_distinct, make_trees
from pipeline.scoring.tokens import TokenSequences


@dataclass(frozen=True, slots=True, eq=False)
class Plan:
    """The sequences of some items in the order in which they are forwarded, stage by stage.

    path: "tree" or "rows". stages: a regime of the rotary embeddings (see Rotary) and its sequences. num_distinct: the
    nodes of the trie over all of them.
    """

    items: Sequence[TokenSequences]
    path: str
    stages: tuple[tuple[int, Sequence[TokenTree] | Sequence[LabelRow]], ...]
    num_distinct: int

    @property
    def indices(self) -> list[int]:
        """The item of each part or row that is forwarded."""
        found: list[int] = []
        for _, sequences in self.stages:
            for each in sequences:
                found += [each.index] if isinstance(each, LabelRow) else [part.index for part in each.parts]
        return found


def make_plan(
    items: Sequence[TokenSequences], path: str, regime: Callable[[int], int], batch_tokens: int, *, notebook: bool
) -> Plan:
    """Raises ValueError for a label with nothing at all before it."""
    by_length = by_regime(split_items(items), regime)
    ordered = {key: InOrder(parts, notebook=notebook) for key, parts in by_length.items()}
    num_distinct = sum(map(count_distinct, ordered.values()))
    if path == "tree":
        trees = {key: make_trees(parts, batch_tokens) for key, parts in ordered.items()}
        return Plan(items, path, tuple(trees.items()), num_distinct)
    rows = {key: make_rows(parts, notebook=notebook) for key, parts in by_length.items()}
    return Plan(items, path, tuple(rows.items()), num_distinct)
