"""How others choose at a fixed budget of forwards, without a bound: halving in rounds, and upper confidence bounds.

Invariant: a forward scores an item under a prompt and shows all its rules, as in the race; the nth item that a prompt
is scored on is the same for all prompts; who is answered is the rule that was right most often of the prompt chosen.
"""

from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass

import numpy as np

from tests.benchmarks.choose_race import NUM_PROCESSES, Orders
from tests.benchmarks.choose_scores import Scored

LEAST_SHARE, NUM_SHARES = 0.001, 24  # budgets that are tried: of what all items under all prompts would cost
HALVING = "halving"
EXPLORATIONS = (0.03, 0.1, 0.3, 1.0, 3.0, 10.0)  # UCB-E's parameter a, of which the best in hindsight is taken


@dataclass(frozen=True, slots=True)
class Counts:
    """Of one order: how often each arm was right on the first n items, and the best arm of each prompt there."""

    right: np.ndarray  # (arms, items + 1)
    best: np.ndarray  # (prompts, items + 1): the number right of its best rule

    @classmethod
    def of(cls, right: np.ndarray, prompts: np.ndarray) -> "Counts":
        counts = np.zeros((len(right), right.shape[1] + 1), np.int32)
        right.cumsum(axis=1, out=counts[:, 1:])
        starts = np.flatnonzero(np.diff(prompts, prepend=-1))
        return cls(counts, np.maximum.reduceat(counts, starts, axis=0))

    def answer(self, prompts: np.ndarray, chosen: int, num_items: int) -> int:
        """The arm of the chosen prompt that is right most often on so many items."""
        own = np.flatnonzero(prompts == chosen)
        return int(own[self.right[own, num_items].argmax()])


def halving(counts: Counts, prompts: np.ndarray, budget: int) -> int:
    """The arm that is left by successive halving (Karnin, Koren and Somekh 2013, algorithm 1).

    In each of ceil(log2 prompts) rounds the same part of the budget goes evenly to the prompts that are left, and the
    better half of them goes on. What earlier rounds showed is kept, which the original throws away; a file that is at
    its end gives no more.
    """
    left, num_items = np.arange(len(counts.best)), 0
    num_rounds = max(1, int(np.ceil(np.log2(len(left)))))
    for _ in range(num_rounds):
        num_items = min(num_items + budget // (len(left) * num_rounds), counts.best.shape[1] - 1)
        order = np.argsort(-counts.best[left, num_items], kind="stable")
        left = left[order[: (len(left) + 1) // 2]]
    return counts.answer(prompts, int(left[0]), num_items)


def upper_bounds(best: np.ndarray, exploration: float, budgets: Sequence[int]) -> np.ndarray:
    """(budgets, repetitions, 2): the prompt chosen, and its items so far, by UCB-E (Audibert, Bubeck and Munos 2010).

    `best` (repetitions, prompts, items + 1) as in Counts; all repetitions go in step. Each forward goes to the prompt
    with the highest mean + sqrt(exploration / items); the answer is the one with the highest mean. `budgets` rise.
    """
    repetitions, num_prompts, most = best.shape[0], best.shape[1], best.shape[2] - 1
    rows, found = np.arange(repetitions), np.zeros((len(budgets), repetitions, 2), np.int64)
    seen = np.ones((repetitions, num_prompts), np.int64)
    means = best[:, :, 1].astype(np.float64)
    index, done = means + np.sqrt(exploration), num_prompts
    for place, budget in enumerate(budgets):
        for _ in range(done, budget):
            pulled = index.argmax(axis=1)
            number = np.minimum(seen[rows, pulled] + 1, most)
            seen[rows, pulled] = number
            mean = best[rows, pulled, number] / number
            means[rows, pulled] = mean
            index[rows, pulled] = np.where(number == most, -np.inf, mean + np.sqrt(exploration / number))
        done = max(done, budget)
        chosen = means.argmax(axis=1)
        found[place] = np.stack([chosen, seen[rows, chosen]], axis=1)
    return found


def budgets_up_to(share: float) -> list[float]:
    """Shares of full evaluation, evenly spaced in their logarithm."""
    return [float(one) for one in np.geomspace(LEAST_SHARE, share, NUM_SHARES)]


def run_others(scored: Scored, margin: float, shares: Sequence[float], repetitions: int) -> dict[str, np.ndarray]:
    """Method to (shares,): in what share of orders of the file its answer for each budget is within the margin."""
    seeds = [range(first, repetitions, NUM_PROCESSES) for first in range(NUM_PROCESSES)]
    with ProcessPoolExecutor(NUM_PROCESSES) as pool:
        args = [[one] * NUM_PROCESSES for one in (scored, margin, shares)]
        parts = list(pool.map(_count_right, *args, seeds))
    return {name: sum(part[name] for part in parts) / repetitions for name in parts[0]}


def _count_right(
    scored: Scored, margin: float, shares: Sequence[float], seeds: range, chunk: int = 20
) -> dict[str, np.ndarray]:
    """Method to (shares,): in how many orders."""
    budgets = [max(scored.num_prompts, round(share * scored.num_prompts * scored.num_items)) for share in shares]
    truth = scored.accuracies
    is_right = truth > truth.max() - margin
    names = [HALVING, *map(ucb_name, EXPLORATIONS)]
    found = {name: np.zeros(len(shares), np.int64) for name in names}
    for start in range(0, len(seeds), chunk):
        some = [_counts(scored, seed) for seed in seeds[start : start + chunk]]
        found[HALVING] += [
            sum(is_right[halving(counts, scored.prompts, budget)] for counts in some) for budget in budgets
        ]
        best = np.stack([counts.best for counts in some])
        for exploration in EXPLORATIONS:
            chosen = upper_bounds(best, exploration, budgets)
            found[ucb_name(exploration)] += [
                sum(
                    is_right[counts.answer(scored.prompts, *one)]
                    for counts, one in zip(some, at_budget.tolist(), strict=True)
                )
                for at_budget in chosen
            ]
    return found


def _counts(scored: Scored, seed: int) -> Counts:
    right, _ = Orders(scored.right)(np.random.default_rng(seed))
    return Counts.of(right, scored.prompts)


def ucb_name(exploration: float) -> str:
    return f"UCB-E, a = {exploration:g}"
