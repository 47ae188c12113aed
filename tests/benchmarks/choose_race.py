"""Races over items whose truth is known: how often they err, and what they cost.

Invariant: the shipped race is run, one repetition after the other by seeds of their own; what it is held against is the
accuracy of the population that its items are drawn from.
"""

from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass

import numpy as np

from pipeline.choosing.race import ALPHA, BATCH, Race
from tests.benchmarks.coverage_exact import binomial

NUM_PROCESSES = 2
ROUNDING = 1e-9
MakeRace = Callable[[Sequence[int], float, int | None], Race]


class TwoThresholds(Race):
    """Each mistake gets half of alpha for itself: its own sum, or the one piece of evidence, must reach the bound."""

    def _name(self, against: np.ndarray) -> None:
        super()._name(np.full_like(against, -np.inf))


@dataclass(frozen=True, slots=True)
class Orders:
    """The file's items in a random order."""

    right: np.ndarray  # (arms, items)

    def __call__(self, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
        """(arms, items) bool, and the accuracy (arms,) of each arm in what it is drawn from."""
        return self.right[:, rng.permutation(self.right.shape[1])], self.right.mean(axis=1)


@dataclass(frozen=True, slots=True)
class Draws:
    """As many items, drawn from the file with replacement: the file is the population."""

    right: np.ndarray

    def __call__(self, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
        return self.right[:, rng.integers(self.right.shape[1], size=self.right.shape[1])], self.right.mean(axis=1)


@dataclass(frozen=True, slots=True)
class Swapped:
    """Draws in which each item's right and wrong go round among the arms at random: all are equal.

    `lead`: by how much the first arm is then made better, by being right on some of the items that it was wrong on.
    """

    right: np.ndarray
    lead: float = 0.0

    def __call__(self, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
        drawn, truth = Draws(self.right)(rng)
        drawn = np.take_along_axis(drawn, rng.random(drawn.shape).argsort(axis=0), axis=0)
        accuracies = np.full(len(drawn), truth.mean())
        drawn[0] |= rng.random(drawn.shape[1]) < self.lead / (1 - accuracies[0])
        accuracies[0] += self.lead
        return drawn, accuracies


Draw = Orders | Draws | Swapped


@dataclass(frozen=True, slots=True)
class Setting:
    """One kind of race. `whole`: it is asked about the file alone. `to_end`: goes on when one is named."""

    draw: Draw
    prompts: np.ndarray  # (arms,)
    margin: float
    whole: bool = False
    to_end: bool = False
    make: MakeRace = Race


@dataclass(frozen=True, slots=True)
class Outcome:
    """Of one race. `best_out`: the first of the best arms; `is_worse`: named, and worse than it by the margin or more.

    share: of what all items under all prompts would cost.
    """

    best_out: bool
    any_out: bool  # whichever
    is_named: bool
    is_worse: bool
    share: float

    @property
    def is_wrong(self) -> bool:
        return self.best_out or self.is_worse

    @property
    def is_right(self) -> bool:
        """An answer, and one within the margin."""
        return self.is_named and not self.is_worse


def run_race(setting: Setting, seed: int) -> Outcome:
    right, truth = setting.draw(np.random.default_rng(seed))
    race = setting.make(setting.prompts.tolist(), setting.margin, right.shape[1] if setting.whole else None)
    num_forwards, named = 0, race.named
    for start in range(0, right.shape[1], BATCH):
        part = right[:, start : start + BATCH]
        num_forwards += len(race.running) * part.shape[1]
        race.add(part)
        named = race.named if named is None else named
        if named is not None and not setting.to_end:
            break
    best = int(truth.argmax())
    is_worse = named is not None and bool(truth[best] - truth[named] >= setting.margin - ROUNDING)
    num_all = right.shape[1] * len(set(setting.prompts.tolist()))
    return Outcome(not race.is_in[best], not race.is_in.all(), named is not None, is_worse, num_forwards / num_all)


def run_races(setting: Setting, repetitions: int) -> list[Outcome]:
    """With the seeds 0, 1, ..., in NUM_PROCESSES processes."""
    parts = [range(first, repetitions, NUM_PROCESSES) for first in range(NUM_PROCESSES)]
    with ProcessPoolExecutor(NUM_PROCESSES) as pool:
        found = list(pool.map(_run_some, [setting] * NUM_PROCESSES, parts))
    return [found[seed % NUM_PROCESSES][seed // NUM_PROCESSES] for seed in range(repetitions)]


def _run_some(setting: Setting, seeds: range) -> list[Outcome]:
    return [run_race(setting, seed) for seed in seeds]


def most_errors(repetitions: int, alpha: float = ALPHA) -> int:
    """The fewest that more of would come by chance with at most 2.5 % where the truth is alpha: 64 of 1,000 at 5 %."""
    return int(np.searchsorted(binomial(repetitions, alpha).cumsum(), 0.975))
