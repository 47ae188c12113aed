"""Made-up token sequences for tests of scoring."""

import random

from hypothesis import strategies as st

from pipeline.scoring.tokens import Ids, TokenSequences
from tests.pipeline.scoring.tiny_models import VOCABULARY

_TOKENS = st.integers(3, VOCABULARY - 1)


def make_items(
    num_items: int,
    *,
    labels: tuple[Ids, ...] = ((5,), (5, 6), (5, 7, 8, 9), (10, 11), (12,)),
    shared: int = 6,
    seed: int = 0,
) -> list[TokenSequences]:
    """Items of 1 to 40 own tokens behind a shared beginning, all with the same labels."""
    draw = random.Random(seed)
    head = tuple(draw.randrange(3, VOCABULARY) for _ in range(shared))
    sizes = tuple(map(len, labels))
    return [
        TokenSequences(
            head + tuple(draw.randrange(3, VOCABULARY) for _ in range(draw.randint(1, 40))), labels, sizes, False
        )
        for _ in range(num_items)
    ]


@st.composite
def label_sets(draw: st.DrawFn) -> tuple[Ids, ...]:
    """2 to 5 labels of 1 to 20 tokens; some begin alike, and one may be the beginning of another."""
    labels = draw(st.lists(st.lists(_TOKENS, min_size=1, max_size=20).map(tuple), min_size=2, max_size=4, unique=True))
    cut = draw(st.integers(1, len(labels[0])))
    relative = labels[0][:cut] + draw(st.lists(_TOKENS, max_size=3).map(tuple))
    return tuple(dict.fromkeys([*labels, relative]))


@st.composite
def item_sets(draw: st.DrawFn) -> list[TokenSequences]:
    """1 to 7 items with one number of labels: duplicates, departures from the shared beginning, seams that move."""
    labels = draw(label_sets())
    head = draw(st.lists(_TOKENS, max_size=8).map(tuple))
    items = []
    for _ in range(draw(st.integers(1, 6))):
        own = draw(st.lists(_TOKENS, min_size=1, max_size=20).map(tuple))
        kept = head[: draw(st.integers(0, len(head)))] if draw(st.integers(0, 3)) == 0 else head
        branches = labels
        if draw(st.integers(0, 3)) == 0:  # tokens of the prompt that a joint boundary leaves to the branches
            seam = draw(st.lists(_TOKENS, min_size=1, max_size=2).map(tuple))
            branches = tuple(seam + label for label in labels)
        items.append(TokenSequences(kept + own, branches, tuple(map(len, labels)), False))
    if draw(st.booleans()):
        items.append(items[0])
    return draw(st.permutations(items))


@st.composite
def ragged_sets(draw: st.DrawFn) -> list[TokenSequences]:
    """1 to 6 items of 1 to 12 choices each, some equal, some behind contexts of their own, a few behind no prompt."""
    few = st.integers(3, 6)  # few tokens, so that much begins alike
    heads = draw(st.lists(st.lists(few, max_size=12).map(tuple), min_size=1, max_size=3))
    items = []
    for _ in range(draw(st.integers(1, 6))):
        prompt = draw(st.sampled_from(heads)) + draw(st.lists(few, max_size=6).map(tuple))
        contexts = draw(st.lists(st.lists(few, max_size=12).map(tuple), min_size=1, max_size=2))
        choices = draw(st.lists(st.lists(few, min_size=1, max_size=5).map(tuple), min_size=1, max_size=12))
        contexts = [draw(st.sampled_from(contexts)) for _ in choices]
        if not prompt:  # something must stand before every choice
            contexts = [context or (draw(few),) for context in contexts]
        branches = tuple(context + choice for context, choice in zip(contexts, choices, strict=True))
        items.append(TokenSequences(prompt, branches, tuple(map(len, choices)), False))
    return items
