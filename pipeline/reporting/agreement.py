"""How often each two arms are right on the same items: all that differences between accuracies are made from.

An arm is a prompt under a rule. Invariant: what is kept does not grow with the items, but for those whose text repeats
(8 bytes and a bit per arm each): a text is one unit of every test, wherever its items stand.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from pipeline.reporting.stats import Pairs, design_effect

COMMONEST = ""  # the "prompt" of the arm that always answers the commonest class
CHUNK = 1 << 14  # items whose right answers are unpacked at once


class Arm(NamedTuple):
    """A prompt under a rule; of the arm that reads nothing the prompt is COMMONEST, and the rule what it answers."""

    prompt: str
    rule: str


@dataclass(frozen=True, slots=True, eq=False)
class Agreement:
    """Right answers of `arms` to the same items with a gold label."""

    arms: tuple[Arm, ...]
    num_items: int
    num_texts: int  # distinct ones of these items
    together: np.ndarray  # (arms, arms) int64: items that both get right; of an arm with itself all that it gets right
    squares: np.ndarray  # (arms, arms) int64: the same over texts, the product of how many items of each are right
    products: np.ndarray  # (arms,) int64: over texts, how many items it has times how many of them are right
    weights: int  # over texts, the square of how many items it has

    def num_right(self, arm: Arm) -> int:
        i = self.arms.index(arm)
        return int(self.together[i, i])

    def pairs(self, a: Arm, b: Arm) -> Pairs:
        """The 2x2 table of two arms, with the design effect of texts that repeat."""
        i, j = self.arms.index(a), self.arms.index(b)
        both, only_a, only_b = (
            int(self.together[i, j]),
            int(self.together[i, i] - self.together[i, j]),
            int(self.together[j, j] - self.together[i, j]),
        )
        squares = int(self.squares[i, i] + self.squares[j, j] - 2 * self.squares[i, j])
        products = int(self.products[i] - self.products[j])
        effect = design_effect(self.num_items, self.num_texts, only_a, only_b, squares, products, self.weights)
        return Pairs(both, only_a, only_b, self.num_items - both - only_a - only_b, effect)

    def same(self, a: Arm, b: Arm) -> bool:
        """Whether both are right on the very same items."""
        pairs = self.pairs(a, b)
        return pairs.only_a == pairs.only_b == 0


class AgreementCounter:
    """Counts an Agreement, some items at a time."""

    def __init__(self, arms: Sequence[Arm]) -> None:
        self._arms = tuple(arms)
        self._num_items = 0
        self._together = np.zeros((len(arms), len(arms)), np.int64)
        self._keys: list[np.ndarray] = []  # of the items whose text repeats
        self._bits: list[np.ndarray] = []  # (items, arms / 8): which arms are right

    def add(self, right: np.ndarray, copies: np.ndarray, keys: np.ndarray) -> None:
        """Items: `right` (arms, items) bool; `copies` and `keys` (items,): how many share its text, and which it is."""
        self._num_items += right.shape[1]
        self._together += count_together(right)
        again = copies > 1
        self._keys.append(keys[again])
        self._bits.append(np.packbits(right[:, again].T, axis=1))

    def finish(self) -> Agreement:
        """All items that were added."""
        # The arm that is right on every item, last, makes the sizes of texts one more row of what is summed.
        own = np.append(np.diagonal(self._together), self._num_items)
        squares, num_texts = np.zeros((len(own), len(own)), np.int64), self._num_items
        if any(map(len, self._keys)):
            keys, bits = np.concatenate(self._keys), np.concatenate(self._bits)
            num_texts -= len(keys) - len(np.unique(keys))
            squares = square_texts(keys, bits, len(self._arms))
        products = own + squares[-1]
        return Agreement(
            self._arms,
            self._num_items,
            num_texts,
            self._together,
            self._together + squares[:-1, :-1],
            products[:-1],
            int(products[-1]),
        )


def count_together(right: np.ndarray) -> np.ndarray:
    """(arms, items) bool to (arms, arms): items that both are right on. Exact: float32 counts to 2^24 items."""
    ones = right.astype(np.float32)
    together: np.ndarray = np.rint(ones @ ones.T).astype(np.int64)
    return together


def square_texts(keys: np.ndarray, bits: np.ndarray, num_arms: int) -> np.ndarray:
    """What texts of several items add to `together` for `squares`: (arms + 1, arms + 1).

    Sum over texts of s_i s_j, with s the number of its items that an arm gets right, less what these items are in
    `together` already. The last arm is right on every item.
    """
    order = np.argsort(keys, kind="stable")
    # Whether an item is the first of its text; differences of uint64, which wrap round.
    is_first = np.diff(keys[order], prepend=~keys[order[:1]]) != 0
    squares, carry = np.zeros((num_arms + 1, num_arms + 1)), np.zeros((1, num_arms + 1))
    for start in range(0, len(order), CHUNK):
        own = order[start : start + CHUNK]
        right = np.ones((len(own), num_arms + 1))  # (items, arms + 1)
        right[:, :-1] = np.unpackbits(bits[own], axis=1, count=num_arms)
        starts = np.flatnonzero(is_first[start : start + CHUNK])
        # The first text may have begun before, and the last may go on: its sums are kept for later.
        sums = np.add.reduceat(np.concatenate([carry, right]), np.append(0, starts + 1), axis=0)  # (texts, arms + 1)
        sums, carry = sums[:-1], sums[-1:]
        squares += sums.T @ sums - right.T @ right
    squares += carry.T @ carry
    whole: np.ndarray = np.rint(squares).astype(np.int64)
    return whole
