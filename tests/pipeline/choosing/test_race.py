"""The race is what its docstring says, worked out anew from the whole table at each look."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from fractions import Fraction
from itertools import combinations_with_replacement, product

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.choosing.evidence import STAKES
from pipeline.choosing.race import ALPHA, BATCH, Race
from tests.pipeline.choosing.slow import slow_evidence

MARGIN = Fraction(1, 25)
PROMPTS = (0, 0, 1, 1, 2, 2)


@dataclass
class Look:
    """What a race knew after a batch."""

    out_after: list[int]
    named: int | None
    num_scored: list[int]
    num_right: list[int] = field(repr=False)


def race_looks(
    right: np.ndarray, prompts: Sequence[int], num_items: int | None = None, batch: int = BATCH
) -> list[Look]:
    """Of the real race, to the item where one is named, or to the last."""
    race, looks = Race(prompts, float(MARGIN), num_items), []
    for start in range(0, right.shape[1], batch):
        race.add(right[:, start : start + batch])
        looks.append(Look(race.out_after.tolist(), race.named, race.num_scored.tolist(), race.num_right.tolist()))
        if race.named is not None:
            break
    return looks


def slow_looks(
    right: np.ndarray, prompts: Sequence[int], num_items: int | None = None, batch: int = BATCH
) -> list[Look]:
    """From the docstring: every sum from all items that both arms of a pair were scored on, at each look anew."""
    arms, looks = range(len(right)), []
    bound = 2 * (len(right) - 1) / ALPHA
    out_after, num_scored = [0] * len(right), [0] * len(right)
    for end in [*range(batch, right.shape[1], batch), right.shape[1]]:
        running = {prompts[i] for i in arms if not out_after[i]}
        num_scored = [end if prompts[i] in running else num_scored[i] for i in arms]

        def evidence(j: int, i: int, null_mean: Fraction, scored: Sequence[int] = num_scored) -> float:
            x = right[j].astype(int) - right[i]
            return slow_evidence(x[: min(scored[i], scored[j])].tolist(), null_mean, num_items)

        against = [sum(evidence(j, i, Fraction(0)) for j in arms if j != i) for i in arms]
        for i in arms:
            if not out_after[i] and against[i] >= bound:
                out_after[i] = end
        left = [i for i in arms if not out_after[i]]
        passed = [k for k in left if all(against[i] + evidence(k, i, -MARGIN) >= bound for i in left if i != k)]
        num_right = [int(right[i, : num_scored[i]].sum()) for i in arms]
        named = max(passed, key=lambda k: (num_right[k], -k)) if passed else None
        looks.append(Look(list(out_after), named, num_scored, num_right))
        if named is not None:
            break
    return looks


def draw(accuracies: Sequence[float], num_items: int, seed: int, alike: float = 0.6) -> np.ndarray:
    """(arms, items) bool: arms that share the difficulty of a part of the items."""
    rng = np.random.default_rng(seed)
    shared = np.where(rng.random(num_items) < alike, rng.random(num_items), np.nan)
    own = rng.random((len(accuracies), num_items))
    found: np.ndarray = np.where(np.isnan(shared), own, shared) < np.array(accuracies)[:, None]
    return found


@pytest.mark.parametrize("whole", [False, True], ids=["population", "file"])
@pytest.mark.parametrize(
    "accuracies", [(0.4, 0.5, 0.7, 0.6, 0.9, 0.8), (0.3, 0.35, 0.8, 0.81, 0.5, 0.82), (0.5,) * 6, (0.9,) + (0.2,) * 5]
)
def test_the_race_is_what_its_docstring_says(accuracies: tuple[float, ...], whole: bool) -> None:
    for seed in range(2):
        right = draw(accuracies, 230, seed)
        num_items = right.shape[1] if whole else None
        found, expected = race_looks(right, PROMPTS, num_items), slow_looks(right, PROMPTS, num_items)
        assert found == expected
        if max(accuracies) - min(accuracies) > 0.4:  # else it would be a test of nothing
            assert any(found[-1].out_after)


@pytest.mark.parametrize("seed", range(6))
def test_it_decides_at_the_very_item_that_it_says(seed: int) -> None:
    """Looked at after each item, two arms and three: what is gathered for both decisions counts for the naming."""
    for accuracies in ((0.6, 0.75), (0.75, 0.6, 0.7)):
        right = draw(accuracies, 250, seed, alike=0.9)
        prompts = range(len(accuracies))
        found, expected = race_looks(right, prompts, batch=1), slow_looks(right, prompts, batch=1)
        assert found == expected
        assert found[-1].named is not None


def test_somebody_is_named_out_and_scored_no_more_in_what_is_compared() -> None:
    last = race_looks(draw((0.4, 0.5, 0.7, 0.6, 0.9, 0.8), 2000, 0), PROMPTS)[-1]
    assert last.named == 4
    assert last.out_after[0]
    assert last.num_scored[0] < last.num_scored[4]


@given(st.integers(0, 1000), st.integers(1, 12))
@settings(deadline=None, max_examples=25)
def test_what_comes_later_changes_nothing_that_was_decided(seed: int, num_batches: int) -> None:
    """Two tables that are the same up to a batch give the same decisions up to there."""
    right = draw((0.5, 0.55, 0.6, 0.7, 0.75, 0.9), 12 * BATCH, seed)
    other = right.copy()
    other[:, num_batches * BATCH :] ^= True
    assert race_looks(right, PROMPTS)[:num_batches] == race_looks(other, PROMPTS)[:num_batches]


@given(st.integers(0, 1000))
@settings(deadline=None, max_examples=25)
def test_who_is_out_stays_out_and_a_prompt_stops_when_all_its_arms_are(seed: int) -> None:
    right = draw((0.3, 0.5, 0.6, 0.7, 0.8, 0.75), 20 * BATCH, seed)
    race, before = Race(PROMPTS, 0.02), np.zeros(6, np.int64)
    for start in range(0, right.shape[1], BATCH):
        running = set(race.running.tolist())
        race.add(right[:, start : start + BATCH])
        assert (race.out_after[before > 0] == before[before > 0]).all()
        before = race.out_after.copy()
        for arm, prompt in enumerate(PROMPTS):
            assert race.num_scored[arm] == (start + BATCH if prompt in running else race.num_scored[arm])
        assert set(race.running.tolist()) == {PROMPTS[arm] for arm in range(6) if not before[arm]}
        assert race.is_in[race.leader]


def test_rows_of_a_prompt_that_runs_no_more_are_not_read() -> None:
    right = draw((0.2, 0.2, 0.9, 0.9, 0.85, 0.85), 1000, 0)
    races = Race(PROMPTS, 0.02), Race(PROMPTS, 0.02)
    for start in range(0, 1000, BATCH):
        part = right[:, start : start + BATCH]
        noise = part.copy()
        noise[~np.isin(PROMPTS, races[1].running)] ^= True
        races[0].add(part)
        races[1].add(noise)
    assert 0 not in races[0].running.tolist()
    for name in ("num_right", "num_scored", "out_after"):
        assert getattr(races[0], name).tolist() == getattr(races[1], name).tolist()
    assert races[0].behind(0) == races[1].behind(0)


def test_the_leader_is_the_first_of_those_that_are_right_most_often() -> None:
    race = Race((0, 1, 2), 0.01)
    assert race.leader == 0
    race.add(np.array([[1, 0, 0, 0], [1, 1, 0, 0], [0, 0, 1, 1]], bool))
    assert race.named is None
    assert race.leader == 1
    assert race.behind(0) == (1, 4)
    assert race.behind(1) == (0, 4)


def test_counts_run_from_the_first_item_when_the_leader_changes() -> None:
    right = draw((0.5, 0.5, 0.5), 8 * BATCH, 3)
    right[1, BATCH:] |= draw((0.3,), 7 * BATCH, 4)[0]
    race, leaders = Race((0, 1, 2), 0.001), set()
    for start in range(0, right.shape[1], BATCH):
        race.add(right[:, start : start + BATCH])
        leaders.add(race.leader)
        for arm in range(3):
            both = int(min(race.num_scored[arm], race.num_scored[race.leader]))
            assert race.behind(arm) == (right[race.leader, :both].sum() - right[arm, :both].sum(), both)
    assert len(set(race.num_scored.tolist())) > 1
    assert len(leaders) > 1


def test_one_arm_is_named_before_any_item() -> None:
    race = Race((0,), 0.02)
    assert race.named == race.leader == 0
    race.add(np.ones((1, 5), bool))
    assert race.named == 0
    assert race.num_right.tolist() == [5]


def test_arms_that_are_always_the_same_are_named_once_the_margin_allows_and_by_then_alone() -> None:
    """Nobody is out. Without a disagreement the best stake makes 1 + 0.95 d / (1 - d) of 1 on each item."""
    race, margin = Race((0, 0, 1, 1), 0.02), 0.02
    for number, right in enumerate(draw((0.5,), 3000, 0).T, 1):
        race.add(right[:, None].repeat(4, axis=0))
        evidence = np.mean((1 + STAKES * margin / (1 - margin)) ** number)
        assert (race.named is not None) == (3 + evidence >= 2 * 3 / ALPHA)
        if race.named is not None:
            break
    assert race.named == 0
    assert race.is_in.all()


def test_two_arms_of_which_one_is_always_right_are_decided_in_the_first_batch() -> None:
    race = Race((0, 1), 0.02)
    race.add(np.array([[False], [True]]) & np.ones(BATCH, bool))
    assert race.out_after.tolist() == [BATCH, 0]
    assert race.named == 1
    assert race.running.tolist() == [1]
    assert race.behind(0) == (BATCH, BATCH)


def test_the_leader_stays_where_all_would_be_out_at_once() -> None:
    """No items that we know of do this, as who is right most often has next to nothing against it; so it is put in."""
    race = Race((0, 1, 2), 0.02)
    race.add(np.array([[0, 0, 1, 0], [1, 1, 0, 0], [0, 0, 0, 0]], bool))
    race._take_out(np.full(3, np.inf))
    assert race.out_after.tolist() == [4, 0, 4]
    assert race.running.tolist() == [1]
    race.add(np.zeros((3, 4), bool))
    assert race.named == 1


def test_a_circle_of_arms_never_empties_the_race() -> None:
    """Each beaten badly by the one before at some time; the sums stay, so all may reach the bound."""
    race = Race((0, 1, 2), 0.001)
    patterns = ([1, 0, 0], [0, 1, 0], [0, 0, 1])
    for turn in range(60):
        right = np.array(patterns[turn % 3], bool)[:, None] & np.ones(BATCH * (1 + turn // 3), bool)
        race.add(right)
        assert race.is_in.any()
        assert race.is_in[race.leader]
        assert len(race.running)


def test_at_the_end_of_a_file_somebody_is_named_always() -> None:
    """Whoever is right most often on all items is above the others less the margin, and that is known then."""
    for seed, whole in product(range(6), (True, False)):
        n = 120
        right = draw((0.50, 0.52, 0.54, 0.52, 0.5, 0.54), n, seed)
        race = Race(PROMPTS, 0.02, n if whole else None)
        for start in range(0, n, BATCH):
            race.add(right[:, start : start + BATCH])
        if whole:
            assert race.named is not None
            assert right[race.named].mean() == right[race.is_in].mean(axis=1).max()
        else:
            assert race.named is None


def test_the_order_of_arms_settles_ties_and_nothing_else() -> None:
    """Arms in another order are in and out as before."""
    right = draw((0.4, 0.5, 0.9, 0.6, 0.8, 0.7), 12 * BATCH, 5)
    turned = [5, 3, 1, 0, 2, 4]
    for mine, other in zip(race_looks(right, range(6)), race_looks(right[turned], range(6)), strict=True):
        assert [mine.out_after[arm] for arm in turned] == other.out_after
        assert (mine.named is None) == (other.named is None)
        assert mine.named is None or turned[other.named or 0] == mine.named


def test_the_one_sum_over_both_mistakes_makes_at_most_what_the_bound_allows() -> None:
    """All outcomes of five items of two arms, the second worse by the margin exactly.

    What is gathered for either mistake (the first out, the second named) sums to 2 (K - 1) = 2 on average.
    """
    better, worse = Fraction(1, 2) + MARGIN / 2, Fraction(1, 2) - MARGIN / 2
    chances = {1: better * (1 - worse), -1: worse * (1 - better)}
    chances[0] = 1 - chances[1] - chances[-1]
    total = 0.0
    for x in combinations_with_replacement((1, 0, -1), 5):
        ways = math.factorial(5) // math.prod(math.factorial(x.count(one)) for one in (1, 0, -1))
        chance = float(ways * math.prod(chances[one] for one in x))
        turned = [-one for one in x]  # of the second arm less the first
        total += chance * (slow_evidence(turned, Fraction(0)) + slow_evidence(turned, -MARGIN))
    assert total < 2
    null = 1 + float(slow_mean_of_better(chances, 5))
    assert total == pytest.approx(null, abs=1e-9)


def slow_mean_of_better(chances: dict[int, Fraction], num_items: int) -> float:
    """The expected evidence that the second is better: each factor's mean is 1 less its stake times the margin."""
    mean = chances[-1] - chances[1]
    return sum(float((1 + Fraction(float(stake)) * mean) ** num_items) for stake in STAKES) / len(STAKES)
