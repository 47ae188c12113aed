"""The race: which arm is right most often, or at most a margin less often, from as few items as that takes.

An arm is a prompt under a rule. There are K of them; b is the one that is right most often, d the margin, and E(j over
i) the evidence (`evidence`) that arm j is right more often than arm i. With S(i) = the sum of E(j over i) over all j
but i:

- arm i is *out* once S(i) reaches 2 (K - 1) / alpha;
- arm l is *named* once S(i) + E(l within d of i) reaches it for every other arm i that is not out, where the last is
  the evidence against "i is right more often than l by d or more", of the same kind with a mean of -d.

All of it fails with probability alpha at the most, over all looks, whatever made somebody look. For b no other arm is
right more often, so each E(j over b) is evidence for what is false; so is E(l within d of b) of each l that is worse
by d or more, of which there are K - 1 at the most. Their sum begins at 2 (K - 1) at the most and is a supermartingale,
and reaches 2 (K - 1) / alpha with probability alpha at the most (Ville 1939). Where it does not, b is never out, and
whoever is named passed the test against b, so is within d of it. That one sum covers both mistakes is simpler than
half of alpha for each, and never later; a sum over rivals is sooner than the best of them alone, as the rules of one
prompt win together.

A prompt is scored until all its arms are out. What was gathered against others by an arm that is scored no more stays
in their sums as it was: a supermartingale that is stopped stays one. Karnin, Koren and Somekh (2013) halve the arms in
rounds instead, which names one for a fixed price and gives no bound that could be checked on the way.

Invariant: whatever is decided is decided at the end of a batch, by the items up to there and the order of the arms
alone.
"""

from collections.abc import Sequence

import numpy as np

from pipeline.choosing.evidence import Bets, count_disagreements

ALPHA = 0.05  # how often all of it may fail
BATCH = 50  # items between two looks


class Race:
    """Arms of several prompts: `prompts` (arms,) has the number of each arm's prompt, from 0 on.

    `margin`: d, a share above 0 and below 1. `num_items`: how many items there are, where it is asked about these
    alone; else about whatever they are drawn from.
    """

    def __init__(self, prompts: Sequence[int], margin: float, num_items: int | None = None) -> None:
        num_arms = len(prompts)
        self.prompts = np.asarray(prompts)
        self.num_items = 0  # looked at so far
        self.num_right = np.zeros(num_arms, np.int64)  # (arms,): of the items that each was scored on
        self.num_scored = np.zeros(num_arms, np.int64)  # (arms,): so many
        self.out_after = np.zeros(num_arms, np.int64)  # (arms,): after so many items it was out, 0 where it is in
        self.named: int | None = None if num_arms > 1 else 0
        self._better, self._within = (Bets(num_arms, mean, num_items) for mean in (0.0, -margin))
        self._ahead = np.zeros((num_arms, num_arms), np.int64)  # (first, second): items that only the first is right on
        self._log_bound = np.log(max(1, 2 * (num_arms - 1)) / ALPHA)

    @property
    def is_in(self) -> np.ndarray:
        """(arms,) bool: those that are not out."""
        is_in: np.ndarray = self.out_after == 0
        return is_in

    @property
    def running(self) -> np.ndarray:
        """The numbers of the prompts that are still scored, rising: those with an arm that is not out."""
        return np.unique(self.prompts[self.is_in])

    @property
    def leader(self) -> int:
        """The arm that is named, else the one of those in that is right most often, the first of such."""
        return int(np.argmax(np.where(self.is_in, self.num_right, -1))) if self.named is None else self.named

    def behind(self, arm: int) -> tuple[int, int]:
        """How many more items the leader is right on than an arm, of so many that both were scored on."""
        more = int(self._ahead[self.leader, arm] - self._ahead[arm, self.leader])
        return more, int(min(self.num_scored[self.leader], self.num_scored[arm]))

    def add(self, right: np.ndarray) -> None:
        """Look at the next items, BATCH of them or, at the very end, fewer: `right` (arms, items) bool.

        Rows of arms whose prompt is running no more are not read.
        """
        arms, still_in = np.flatnonzero(np.isin(self.prompts, self.running)), np.flatnonzero(self.is_in)
        self._better.add(right[arms], arms)  # an arm that is out is a rival while its prompt is scored
        self._within.add(right[still_in], still_in)
        self._ahead[np.ix_(arms, arms)] += count_disagreements(right[arms])[0]
        self.num_items += right.shape[1]
        self.num_right[arms] += right[arms].sum(axis=1)
        self.num_scored[arms] = self.num_items
        against = _log_sum_exp_of_others(self._better.log_evidence)
        self._take_out(against)
        self._name(against)

    def _take_out(self, against: np.ndarray) -> None:
        """Arms that rivals have gathered enough `against` (arms,); the leader stays where else none would be left."""
        out = self.is_in & (against >= self._log_bound)
        if not (self.is_in & ~out).any():
            out[self.leader] = False
        self.out_after[out] = self.num_items

    def _name(self, against: np.ndarray) -> None:
        """The arm that is right most often of those that are within the margin of each other one, if there is any."""
        arms = np.flatnonzero(self.is_in)
        settled = np.logaddexp(against[arms], self._within.log_evidence[np.ix_(arms, arms)]) >= self._log_bound
        np.fill_diagonal(settled, True)
        found = arms[settled.all(axis=1)]
        if found.size:
            self.named = int(found[np.argmax(self.num_right[found])])


def _log_sum_exp_of_others(log_evidence: np.ndarray) -> np.ndarray:
    """(first, second) to (second,): the log of the sum over all first ones but the second itself."""
    logs = log_evidence.copy()
    np.fill_diagonal(logs, -np.inf)
    total: np.ndarray = np.logaddexp.reduce(logs, axis=0)
    return total
