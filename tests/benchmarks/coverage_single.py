"""The sections on single intervals: accuracies, differences, the gaps that items can show."""

import math
from collections.abc import Callable

import numpy as np

from pipeline.reporting.comparisons import num_pairs
from pipeline.reporting.stats import (
    Pairs,
    critical_value,
    detectable_gap,
    effective_number,
    items_for_gap,
    normal_quantile,
    wilson_interval,
)
from tests.benchmarks.coverage_exact import (
    bootstrap_ends,
    coverage,
    every_outcome,
    likely_most,
    random_wilson_coverage,
    tango_ends,
    wilson_coverage,
)
from tests.benchmarks.coverage_families import repeated_coverage, share_inside
from tests.benchmarks.results import table

SIZES = (20, 50, 400)
ACCURACIES = (0.02, 0.25, 0.5, 0.9, 0.98)
DISCORDANT = (0.01, 0.02, 0.05, 0.1, 0.2, 0.4, 0.6)
TILTS = (0, 0.25, 0.5, 0.75, 0.9, 1)  # the true difference as a share of the discordant items
FINE = np.linspace(0.005, 0.995, 199)


def percent(share: float) -> str:
    return "" if math.isnan(share) else f"{100 * share:.1f}"


def by_size(measure: Callable[[int], float]) -> list[str]:
    return [percent(measure(n)) for n in SIZES]


def heads() -> list[str]:
    return [f"n = {n}" for n in SIZES]


def copies_of(num_texts: int) -> dict[str, np.ndarray]:
    """How often each text stands there."""
    rng = np.random.default_rng(1)
    return {
        "each three times": np.full(num_texts, 3),
        "1 to 8 times, most once": np.minimum(rng.geometric(0.5, num_texts), 8),
        "one more text, a fifth of the items": np.append(np.ones(num_texts, np.int64), num_texts // 4),
    }


def accuracies(num_sets: int) -> str:
    """Wilson's interval of an accuracy, a precision and a recall."""
    rows = [[f"accuracy {p:.0%}", *by_size(lambda n, p=p: wilson_coverage(n, p))] for p in ACCURACIES]
    least, mean = ([fold([wilson_coverage(n, float(p)) for p in FINE]) for n in SIZES] for fold in (min, np.mean))
    rows += [["least over 0.5 to 99.5 %", *map(percent, least)], ["mean over them", *map(percent, mean)]]
    rows += [
        [f"precision {p:.0%}, a quarter predicted so", *by_size(lambda n, p=p: random_wilson_coverage(n, 0.25, p))]
        for p in ACCURACIES
    ]
    for name in copies_of(1):
        for p in (0.5, 0.9):
            rows.append(
                [f"accuracy {p:.0%}; {name}", *by_size(lambda n, p=p, k=name: repeated_accuracy(n, k, p, num_sets))]
            )
    return (
        "**Accuracy, precision, recall** (Wilson), % of intervals that hold the truth, exact but for repeated texts "
        "(n is then the number of texts). Wilson's interval holds 95 % on average over the accuracies and dips below "
        f"at some, least at the ends: to {percent(min(least))} %. Intervals of a class, of a bin of confidence or of a "
        "length are of the kind of a precision.\n\n" + table(["truth", *heads()], rows)
    )


def repeated_accuracy(num_texts: int, name: str, p: float, num_sets: int) -> float:
    copies = copies_of(num_texts)[name]
    n, effective = int(copies.sum()), effective_number(int(copies.sum()), int((copies**2).sum()))
    right = (np.random.default_rng(0).random((num_sets, len(copies))) < p) @ copies
    return share_inside([wilson_interval(k, n, effective) for k in right.tolist()], p)


def differences() -> str:
    """Tango's interval beside the percentile bootstrap, over how many items differ and by how much."""
    rows, least = [], {"tango": 1.0, "bootstrap": 1.0}
    for discordant in DISCORDANT:
        row: list[str] = []
        for n in SIZES:
            outcomes = every_outcome(n, likely_most(n, discordant))
            ends = {"tango": tango_ends(outcomes, critical_value(1)), "bootstrap": bootstrap_ends(outcomes)}
            chances = {tilt: outcomes.chances(discordant, tilt * discordant) for tilt in TILTS}
            for name, own in ends.items():
                found = [coverage(own, chances[tilt], tilt * discordant) for tilt in TILTS]
                least[name] = min(least[name], *found)
                row.append(f"{percent(min(found))} to {percent(max(found))}")
        rows.append([f"{discordant:.0%} of the items", *row])
    header = ["only one right", *(f"{name}, {n}" for n in SIZES for name in ("Tango", "bootstrap"))]
    return (
        "**Paired differences**, % of intervals that hold the true difference, exact; from the least to the most over "
        f"true differences of {', '.join(f'{tilt:.0%}' for tilt in TILTS)} of the items that only one gets right. The "
        "bootstrap is the percentile interval of infinitely many draws, which was printed before. Tango's interval "
        f"goes down to {percent(least['tango'])} %, the bootstrap's to {percent(least['bootstrap'])} %.\n\n"
        + table(header, rows)
    )


def repeated_differences(num_sets: int) -> str:
    """Tango's interval where texts repeat, with the design effect."""
    rows, least = [], 1.0
    for name in copies_of(1):
        for discordant in (0.02, 0.1, 0.3):
            cells = []
            for n in SIZES:
                copies = copies_of(n)[name]
                found = [repeated_coverage(copies, discordant, tilt * discordant, num_sets) for tilt in (0, 0.5, 1)]
                least = min(least, *found)
                cells.append(f"{percent(min(found))} to {percent(max(found))}")
            rows.append([f"{name}; {discordant:.0%}", *cells])
    return (
        f"**Paired differences where texts repeat**: n texts, so many of which only one gets right; {num_sets:,} draws "
        "each, from the least to the most over true differences of 0, half and all of these. The least is "
        f"{percent(least)} %.\n\n" + table(["texts stand there; only one right", *heads()], rows)
    )


def single_intervals() -> str:
    """How far one interval of a family keeps its share of the 5 %."""
    rows = []
    for num in (1, 3, num_pairs(5), num_pairs(20), num_pairs(35)):
        z, none, some = critical_value(num), [], []
        for n in SIZES:
            missed = {0.0: 0.0, 1.0: 0.0}
            for discordant in DISCORDANT:
                outcomes = every_outcome(n, likely_most(n, discordant))
                ends = tango_ends(outcomes, z)
                for tilt in TILTS:
                    chance = 1 - coverage(ends, outcomes.chances(discordant, tilt * discordant), tilt * discordant)
                    missed[float(tilt > 0)] = max(missed[float(tilt > 0)], chance)
            none.append(percent(num * missed[0.0]))
            some.append(percent(num * missed[1.0]))
        rows.append([f"{num:,}", *none, *some])
    header = ["comparisons", *(f"nothing differs, {n}" for n in SIZES), *(f"something does, {n}" for n in SIZES)]
    return (
        "**One interval of a family**: the chance that it misses times the number of comparisons, in %, exact, the "
        f"worst of {', '.join(f'{share:.0%}' for share in DISCORDANT)} discordant items. It bounds the chance that any "
        "misses; 5 is the goal. Where nothing differs a miss is a false 'worse'. Where something does, far tails of "
        "few items are thicker than the normal's: an interval of a large family then misses more often than its share, "
        "always a difference that is there.\n\n" + table(header, rows)
    )


def gaps(num_sets: int) -> str:
    """Power at the gap that is called detectable, and with the number of items that is named for a gap."""
    rows = []
    for num in (1, 10, 190):
        z = critical_value(num)
        for discordant in (0.05, 0.2, 0.4):
            cells = []
            for n in SIZES:
                d = round(n * discordant)
                gap = detectable_gap(Pairs(n - d, d, 0, 0), z)
                cells.append("none can be" if gap >= 1 else f"{100 * gap:.1f}: {percent(power(n, d / n, gap, z))}")
            needed = items_for_gap(0.1, discordant, z)
            cells.append(f"{needed:,}: {percent(power(needed, discordant, 0.1, z))}")
            rows.append([f"{num}; {discordant:.0%}", *cells])
    low, middle, high = old_words(num_sets)
    return (
        "**Gaps**: the detectable gap in points and the chance that it is established (80 % are meant), exact; then "
        "the items named for a gap of 10 points, and that chance with them.\n\n"
        + table(["comparisons; only one right", *heads(), "items for 10 points"], rows)
        + "\n\nWhat the report no longer says: the items that 'would settle' the difference that was observed. At n = "
        f"400 with 15 % discordant items and no true difference they were from {low:,} to {high:,} (10th to 90th "
        f"percentile of {num_sets:,} draws, median {middle:,}), where no number would have."
    )


def power(n: int, discordant: float, gap: float, z: float) -> float:
    """The chance that the interval excludes 0 at a true difference of `gap`."""
    discordant = max(discordant, gap)
    outcomes = every_outcome(n, likely_most(n, discordant))
    ends = tango_ends(outcomes, z)
    chances = outcomes.chances(discordant, gap)
    return float(chances[(ends[:, 0] > 0) | (ends[:, 1] < 0)].sum() / chances.sum())


def old_words(num_sets: int, n: int = 400, discordant: float = 0.15) -> tuple[int, int, int]:
    """The 10th, 50th and 90th percentile of Connor's number with the observed difference put in; ties name none."""
    half = discordant / 2
    drawn = np.random.default_rng(0).multinomial(n, [half, half, 1 - discordant], num_sets) / n
    gap, share = np.abs(drawn[:, 0] - drawn[:, 1]), drawn[:, 0] + drawn[:, 1]
    gap, share = gap[gap > 0], share[gap > 0]
    root = critical_value(1) * np.sqrt(share) + normal_quantile(0.8) * np.sqrt(share - gap**2)
    low, middle, high = np.quantile((root / gap) ** 2, [0.1, 0.5, 0.9])
    return math.ceil(low), math.ceil(middle), math.ceil(high)
