"""Solved examples: balanced, seeded, the same whatever the order of the source."""

import random
from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.errors import InputError
from pipeline.prompts import BUILT_IN
from pipeline.shots import Example, draw_shots, format_shots

NAMES = ("World", "Sports", "Business", "Sci/Tech")


def example(text: str, place: int) -> Example:
    return Example(text, {"text": text}, place)


ROWS = [example(f"text {i}", i % 4) for i in range(200)]


@given(st.integers(1, 40), st.integers(0, 5), st.randoms())
def test_a_draw_is_balanced_and_depends_on_the_seed_alone(num_shots: int, seed: int, shuffler: random.Random) -> None:
    """Labels differ by at most one in number; reordering the source changes nothing."""
    drawn = draw_shots(ROWS, num_shots=num_shots, label_names=NAMES, seed=seed)
    counts = Counter(row.place for row in drawn)
    assert len(drawn) == len({row.text for row in drawn}) == num_shots
    assert max(counts.values()) - min(counts.get(label, 0) for label in range(4)) <= 1
    reordered = shuffler.sample(ROWS, len(ROWS))
    assert draw_shots(reordered, num_shots=num_shots, label_names=NAMES, seed=seed) == drawn


def test_another_seed_draws_other_examples() -> None:
    """The seed matters."""
    draws = {tuple(r.text for r in draw_shots(ROWS, num_shots=8, label_names=NAMES, seed=seed)) for seed in range(5)}
    assert len(draws) == 5


def test_too_few_examples_of_a_label_is_an_error() -> None:
    """It names the label and both numbers."""
    rows = [example("a", 0), example("b", 0), example("c", 1)]
    with pytest.raises(InputError, match="needs 2 examples of label yes, and there are 1 whose text is not scored"):
        draw_shots(rows, num_shots=4, label_names=("no", "yes"), seed=0)


def test_examples_are_the_template_filled_in() -> None:
    """Each example is the template with its text, followed by its label's words."""
    text = format_shots(BUILT_IN["answer"], [example("Rain.", 0), example("A goal {text}.", 1)])
    assert text == "Article: Rain.\nTopic: World\n\nArticle: A goal {text}.\nTopic: Sports\n\n"
