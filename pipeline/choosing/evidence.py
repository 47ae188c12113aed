"""Evidence that one arm is right more often than another, valid however often one looks: a bet that pays where it is.

Of two arms let X be 1 where only the first is right, -1 where only the second is, 0 where both or neither are. Who
doubts that the mean of X is above m stakes a share s of all he has on each item, at odds that are fair at the mean m:

    1 + s (X - m) / (1 + m),    0 < s < 1.

For items drawn independently with a mean of at most m the expected factor is at most 1, whatever came before. So the
product over items is a supermartingale that begins at 1 and is never negative, and so is the mean over several stakes;
it reaches c once or ever with probability 1/c at the most (Ville 1939). That is an e-process: evidence that may be
looked at after every item, and by which one may stop. Sums of e-processes over the same items are supermartingales,
too.

Items of a file are drawn without replacement, and who asks about these N items alone knows more with each: before item
t, with S the sum of X so far, the mean of the rest is (N m - S) / (N - t + 1) if that of all is m. This number takes
the place of m in the factor (Waudby-Smith and Ramdas 2024, "Estimating means of bounded random variables by betting",
section 5). Below -1 no rest could make up for what was seen, and the doubt is refuted; above 1 nothing can be lost by
not betting.

Invariant: of a pair what was gathered stays when one of its arms is scored no more; it is not bet on again.
"""

import numpy as np

from pipeline.reporting.agreement import count_together

# Shares of the most that can be staked. The bet that gains most on a mean of m + gap, where two arms disagree on a
# share v of the items, stakes about gap / v; the mean over all costs log(14) at the most against the best of them.
STAKES = np.geomspace(0.02, 0.95, 14)
EPSILON = 1e-9  # of a mean, in whose units rounding errors are smaller


class Bets:
    """The log of the evidence, for each pair of arms, that the first one's accuracy less the second's is above a mean.

    `null_mean`: that mean, a share above -1 and below 1. `num_items`: how many items there are, where it is asked about
    these alone; else about whatever they are drawn from.
    """

    def __init__(self, num_arms: int, null_mean: float, num_items: int | None = None) -> None:
        self._null_mean, self._num_items = null_mean, num_items
        self._num_seen = 0
        self._sums = np.zeros((num_arms, num_arms))  # (first, second): of X
        self._logs = np.zeros((num_arms, num_arms, len(STAKES)))  # the log of what each stake has made of 1
        self.log_evidence = np.zeros((num_arms, num_arms))  # (first, second)

    def add(self, right: np.ndarray, arms: np.ndarray) -> None:
        """Bet on the next items: `right` (arms, items) bool of the `arms` (indices) that are scored still."""
        pairs = np.ix_(arms, arms)
        if self._num_items is None:
            self._logs[pairs] += _gains(right, self._null_mean)
        else:
            self._bet_on_rest(right, pairs, self._num_items)
        self._num_seen += right.shape[1]
        self.log_evidence[pairs] = _log_mean_exp(self._logs[pairs])

    def _bet_on_rest(self, right: np.ndarray, pairs: tuple[np.ndarray, ...], num_items: int) -> None:
        """One item after the other, each against what the mean of the rest would be."""
        sums, logs = self._sums[pairs], self._logs[pairs]
        total = num_items * self._null_mean
        for number, of_item in enumerate(right.T.astype(np.float64)):
            x = of_item[:, None] - of_item
            mean = (total - sums) / (num_items - self._num_seen - number)
            odds = np.where(mean >= 1, 0.0, (x - mean) / np.maximum(1 + mean, EPSILON))
            logs += np.log1p(odds[..., None] * STAKES)
            sums += x
        num_left = num_items - self._num_seen - right.shape[1]
        logs[total - sums < -num_left - EPSILON * num_items] = np.inf
        self._sums[pairs], self._logs[pairs] = sums, logs


def _gains(right: np.ndarray, null_mean: float) -> np.ndarray:
    """(first, second, stakes): the log of the product of the factors of all items, from counts of X = 1, -1 and 0."""
    only_first, only_second = count_disagreements(right)
    counts = np.stack([only_first, only_second, right.shape[1] - only_first - only_second], axis=-1)
    odds = (np.array([1.0, -1.0, 0.0]) - null_mean) / (1 + null_mean)
    gains: np.ndarray = counts @ np.log1p(np.outer(odds, STAKES))
    return gains


def count_disagreements(right: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(arms, items) bool to two of (first, second): items that only the first is right on, and only the second."""
    together = count_together(right)
    only_first = np.diagonal(together)[:, None] - together
    return only_first, only_first.T


def _log_mean_exp(logs: np.ndarray) -> np.ndarray:
    """Over the last axis; infinite where one is."""
    top = logs.max(axis=-1)
    finite = np.where(np.isfinite(top), top, 0.0)
    with np.errstate(over="ignore"):
        mean: np.ndarray = finite + np.log(np.exp(logs - finite[..., None]).mean(axis=-1))
    return mean
