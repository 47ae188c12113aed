"""What of an item is forwarded together: a prompt and the labels that hang off its last token.

Invariant: each label of an item is in one of its parts; a part's prompt has a token at least, and with its branches it
spells out the item's own sequences.

Mostly an item is one part. Where labels bring contexts of their own, each context is the prompt of a part, so that
contexts can be shared as prompts are, by the labels of an item or between items.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from pipeline.scoring.strings import Ids, num_common
from pipeline.scoring.tokens import TokenSequences

# So many tokens of context at most stay in a branch: a seam within a token leaves one or two of them there.
_MAX_SEAM = 4


@dataclass(frozen=True, slots=True)
class ItemPart:
    """Labels of the item `index` behind one prompt; as in TokenSequences the last tokens of a branch are scored."""

    index: int
    prompt: Ids
    branches: tuple[Ids, ...]
    num_label_tokens: tuple[int, ...]
    labels: tuple[int, ...]  # places among the item's labels


def split_items(items: Sequence[TokenSequences]) -> list[ItemPart]:
    """The parts of all items, in the items' order. Raises ValueError for a label with nothing at all before it."""
    parts: list[ItemPart] = []
    places: dict[int, tuple[int, ...]] = {}  # shared by the items that have as many labels
    for index, item in enumerate(items):
        num_labels = len(item.branches)
        labels = places.setdefault(num_labels, tuple(range(num_labels)))
        part = ItemPart(index, item.prompt_ids, item.branches, item.num_label_tokens, labels)
        if item.prompt_ids and max(map(len, item.branches)) <= _MAX_SEAM:  # at a glance: no long context
            parts.append(part)
        else:
            parts += _unfold(part)
    return parts


def _unfold(part: ItemPart) -> Iterator[ItemPart]:
    """Labels whose context ends with the prompt, or nearly, stay; the others move on as far as they go together."""
    near: list[int] = []
    far: list[int] = []
    for place, (branch, num_tokens) in enumerate(zip(part.branches, part.num_label_tokens, strict=True)):
        is_near = part.prompt and len(branch) - num_tokens <= _MAX_SEAM
        (near if is_near else far).append(place)
    if not far:
        yield part
        return
    if near:
        yield _move_on(part, near, 0)
    followers: dict[int, list[int]] = {}
    for place in far:
        if len(part.branches[place]) == part.num_label_tokens[place]:
            raise ValueError(f"item {part.index}, label {part.labels[place]}: no token stands before the label's")
        followers.setdefault(part.branches[place][0], []).append(place)
    for places in followers.values():
        contexts = [part.branches[place][: -part.num_label_tokens[place]] for place in places]
        yield from _unfold(_move_on(part, places, num_common(min(contexts), max(contexts))))


def _move_on(part: ItemPart, places: list[int], num_tokens: int) -> ItemPart:
    """The labels at `places`, with the first tokens of their branches moved to the prompt."""
    return ItemPart(
        part.index,
        part.prompt + part.branches[places[0]][:num_tokens],
        tuple(part.branches[place][num_tokens:] for place in places),
        tuple(part.num_label_tokens[place] for place in places),
        tuple(part.labels[place] for place in places),
    )


def by_regime(parts: Sequence[ItemPart], regime: Callable[[int], int]) -> dict[int, list[ItemPart]]:
    """The parts by the regime of their sequences' lengths, largest first; one with several is cut into as many."""
    found: dict[int, list[ItemPart]] = {}
    for part in parts:
        places: dict[int, list[int]] = {}
        for place, branch in enumerate(part.branches):
            places.setdefault(regime(len(part.prompt) + len(branch)), []).append(place)
        for each, chosen in places.items():
            found.setdefault(each, []).append(part if len(places) == 1 else _move_on(part, chosen, 0))
    return dict(sorted(found.items(), reverse=True))
