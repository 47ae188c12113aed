"""How often arms are right together, counted a block at a time: against loops over the items and over the texts."""

from itertools import product

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.reporting import agreement
from pipeline.reporting.agreement import Agreement, AgreementCounter, Arm, count_together
from pipeline.reporting.stats import Pairs, design_effect

# An item: which text it has, and which of the arms are right on it.
items_of = st.integers(1, 4).flatmap(
    lambda arms: st.lists(
        st.tuples(st.integers(0, 9), st.lists(st.booleans(), min_size=arms, max_size=arms)), max_size=60
    )
)
Item = tuple[int, list[bool]]


def make_arms(num_arms: int) -> list[Arm]:
    return [Arm(f"prompt {i}", "sum") for i in range(num_arms)]


def count(items: list[Item], cuts: list[int], num_arms: int, also: list[int] | None = None) -> Agreement:
    """Add the items in blocks that end at `cuts`; `also` are the texts of items that are not added: without gold."""
    counter = AgreementCounter(make_arms(num_arms))
    texts = [text for text, _ in items] + (also or [])
    for start, end in zip([0, *cuts], [*cuts, len(items)], strict=True):
        block = items[start:end]
        right = np.array([answers for _, answers in block], dtype=bool).reshape(len(block), num_arms).T
        copies = np.array([texts.count(text) for text, _ in block], dtype=np.int64)
        keys = np.array([hash_of(text) for text, _ in block], dtype=np.uint64)
        counter.add(right, copies, keys)
    return counter.finish()


def hash_of(text: int) -> int:
    """The ends of the range included: differences of keys wrap round there."""
    return {0: 0, 1: 2**64 - 1, 2: 2**63}.get(text, text * 0x9E3779B97F4A7C15 % 2**64)


def slow_pairs(items: list[Item], i: int, j: int) -> Pairs:
    """The 2x2 table from a loop over the items, its design effect from one over the texts."""
    cells = dict.fromkeys(product((True, False), repeat=2), 0)
    nets: dict[int, list[int]] = {}
    for text, answers in items:
        cells[answers[i], answers[j]] += 1
        nets.setdefault(text, []).append(answers[i] - answers[j])
    only_a, only_b = cells[True, False], cells[False, True]
    sums = [(len(own), sum(own)) for own in nets.values()]
    squares, products = sum(net**2 for _, net in sums), sum(size * net for size, net in sums)
    weights = sum(size**2 for size, _ in sums)
    effect = design_effect(len(items), len(nets), only_a, only_b, squares, products, weights)
    return Pairs(cells[True, True], only_a, only_b, cells[False, False], effect)


@settings(max_examples=150, deadline=None)
@given(items_of, st.data())
def test_agreement_is_that_of_loops_however_the_items_are_cut(items: list[Item], data: st.DataObject) -> None:
    """Blocks of any size, empty ones too; texts may stand in several blocks, and have items without a gold label."""
    num_arms = len(items[0][1]) if items else 2
    items = [(text, (answers * num_arms)[:num_arms]) for text, answers in items]
    cuts = sorted(data.draw(st.lists(st.integers(0, len(items)), max_size=4)))
    also = data.draw(st.lists(st.integers(0, 12), max_size=5))
    found = count(items, cuts, num_arms, also)
    arms = make_arms(num_arms)
    assert (found.num_items, found.num_texts) == (len(items), len({text for text, _ in items}))
    for i, j in product(range(num_arms), repeat=2):
        assert found.pairs(arms[i], arms[j]) == slow_pairs(items, i, j)
        assert found.same(arms[i], arms[j]) == all(answers[i] == answers[j] for _, answers in items)
        assert found.num_right(arms[i]) == sum(answers[i] for _, answers in items)


@pytest.mark.parametrize("chunk", [1, 3, 50])
def test_texts_are_summed_in_parts(chunk: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Items are unpacked some at a time, whatever texts they are cut through, so that memory stays bounded."""
    rng = np.random.default_rng(0)
    texts = np.append(rng.integers(0, 40, 200), np.full(70, 7))
    items = [(int(text), list(map(bool, rng.random(9) < 0.6))) for text in texts]
    whole = count(items, [50, 120], 9)
    monkeypatch.setattr(agreement, "CHUNK", chunk)
    parts = count(items, [50, 120], 9)
    np.testing.assert_array_equal(parts.squares, whole.squares)
    np.testing.assert_array_equal(parts.products, whole.products)
    assert (parts.weights, parts.num_texts) == (whole.weights, whole.num_texts)


def test_without_repeats_texts_are_items() -> None:
    """Whatever is over texts is what it is over items, to the last bit."""
    rng = np.random.default_rng(1)
    found = count([(i, list(map(bool, rng.random(3) < 0.5))) for i in range(50)], [20], 3)
    np.testing.assert_array_equal(found.squares, found.together)
    np.testing.assert_array_equal(found.products, np.diagonal(found.together))
    assert (found.weights, found.num_texts) == (50, 50)
    assert all(found.pairs(a, b).design_effect == 1.0 for a, b in product(make_arms(3), repeat=2))


def test_nothing_added_is_an_agreement_of_no_items() -> None:
    found = AgreementCounter(make_arms(2)).finish()
    a, b = make_arms(2)
    assert (found.num_items, found.num_texts, found.pairs(a, b)) == (0, 0, Pairs(0, 0, 0, 0))
    assert found.same(a, b)


def test_counting_together_is_exact_in_large_blocks() -> None:
    """Of a million items, as integers would count them."""
    right = np.random.default_rng(2).random((3, 1_000_000)) < [[0.9], [0.5], [0.999]]
    expected = [[int(np.count_nonzero(a & b)) for b in right] for a in right]
    assert count_together(right).tolist() == expected
