"""Items with choices of their own: as many as they have, equal ones, and contexts that differ within an item."""

import random

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.scoring.parts import split_items
from pipeline.scoring.scorer import NonFiniteScore, Scorer
from pipeline.scoring.strings import num_common
from pipeline.scoring.tokens import Ids, TokenSequences
from tests.pipeline.scoring.items import make_items, ragged_sets
from tests.pipeline.scoring.oracle import score_slowly
from tests.pipeline.scoring.test_scorer import Poisoned, collect, largest_difference, scorer_of
from tests.pipeline.scoring.tiny_models import ROWS_CONFIGS, TREE_CONFIGS, tiny_model

WAYS = pytest.mark.parametrize("name", ["gemma", "gemma3", "gpt2", "bloom"])
EMPTY: Ids = ()


@WAYS
def test_behind_an_items_own_labels_stands_nan(name: str) -> None:
    """Three, four and two labels in one call: (3, 4) scores, of which the missing ones are no number, never 0."""
    choices = [((5,), (5, 6), (7,)), ((9, 4), (8,), (7, 7), (3,)), ((4,), (5,))]
    items = [make_items(1, labels=labels)[0] for labels in choices]
    found = collect(Scorer(tiny_model(name), notebook=True), items)
    for scores in found.values():
        assert scores.isnan().tolist() == [[False] * 3 + [True], [False] * 4, [False] * 2 + [True] * 2]
    assert largest_difference(found, score_slowly(tiny_model(name), items)) < 1e-4


@pytest.mark.parametrize("name", [*TREE_CONFIGS, *ROWS_CONFIGS])
@settings(max_examples=8, deadline=None)
@given(items=ragged_sets(), batch_tokens=st.integers(1, 300), notebook=st.booleans())
def test_ragged_items_have_the_scores_of_single_forwards(
    name: str, items: list[TokenSequences], batch_tokens: int, notebook: bool
) -> None:
    """Whatever they share, whichever way, with the notebook's rule and without."""
    scorer = scorer_of(name, notebook)
    scorer.batch_tokens = batch_tokens
    assert largest_difference(collect(scorer, items), score_slowly(tiny_model(name), items)) < 1e-4


@WAYS
def test_fifty_choices_beside_two(name: str) -> None:
    """Equal choices have equal scores, to the bit."""
    draw = random.Random(0)
    many = tuple(tuple(draw.randrange(3, 9) for _ in range(draw.randint(1, 6))) for _ in range(48))
    items = make_items(2, labels=((5,), (6,))) + make_items(2, labels=(*many, (7, 7, 8), (7, 7, 8)), seed=1)
    found = collect(Scorer(tiny_model(name), batch_tokens=200), items)
    assert torch.equal(found["logprob"][2:, -1], found["logprob"][2:, -2])
    assert largest_difference(found, score_slowly(tiny_model(name), items)) < 1e-4


@WAYS
def test_an_item_may_have_no_prompt_at_all(name: str) -> None:
    """Contexts that begin differently share nothing: each is scored behind its own."""
    items = [
        TokenSequences((), ((4, 8, 9), (5, 8, 9, 9), (4, 7)), (2, 2, 1), False),
        TokenSequences((), ((6, 3), (6, 3, 3)), (1, 2), False),
    ]
    found = collect(Scorer(tiny_model(name), notebook=True), items)
    assert largest_difference(found, score_slowly(tiny_model(name), items)) < 1e-4


@pytest.mark.parametrize("name", ["gemma", "bloom"])
def test_a_label_with_nothing_before_it_is_refused(name: str) -> None:
    """A model needs something to go on; there is no score to give."""
    items = [TokenSequences((), ((4, 8), (5,)), (1, 1), False)]
    with pytest.raises(ValueError, match="item 0, label 1: no token stands before"):
        list(Scorer(tiny_model(name)).score(items))


@given(items=ragged_sets())
def test_parts_spell_out_the_items_again(items: list[TokenSequences]) -> None:
    """Each label once, all of it, behind a prompt that is not empty; long contexts are prompts."""
    found: dict[tuple[int, int], tuple[Ids, int]] = {}
    for part in split_items(items):
        assert part.prompt
        for label, branch, num_tokens in zip(part.labels, part.branches, part.num_label_tokens, strict=True):
            assert (part.index, label) not in found
            assert len(branch) - num_tokens <= 4
            found[part.index, label] = part.prompt + branch, num_tokens
    assert found == {
        (index, label): (item.prompt_ids + branch, num_tokens)
        for index, item in enumerate(items)
        for label, (branch, num_tokens) in enumerate(zip(item.branches, item.num_label_tokens, strict=True))
    }


IDS = st.lists(st.integers(0, 1), max_size=8).map(tuple)


@given(left=IDS, right=IDS, guess=st.integers(0, 10))
def test_common_tokens_are_counted_whatever_is_guessed(left: Ids, right: Ids, guess: int) -> None:
    """The obvious way: the longest beginning of one that the other begins with."""
    expected = max(size for size in range(len(left) + 1) if right[:size] == left[:size])
    assert num_common(left, right, guess) == expected


@pytest.mark.parametrize("name", ["gemma", "bloom"])
def test_the_label_without_a_finite_score_is_found_among_ragged_items(name: str) -> None:
    """Missing labels are no trouble; NaN that spreads to others in a batch is traced to where it comes from."""
    items = make_items(3, labels=((5,), (6, 7))) + make_items(3, labels=((8,), (9,), (5, 5), (2, 7)), seed=1)
    model = tiny_model(name)
    scorer = Scorer(model)
    with Poisoned(model, 2, float("nan")), pytest.raises(NonFiniteScore) as caught:
        list(scorer.score(items))
    assert caught.value.index in (3, 4, 5)
    assert caught.value.label_index == 3
