"""The tables of the benchmark of choosing.

Invariant: sentences are made from the figures; a race that errs more often than its bound allows ends in an error.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace

import numpy as np

from tests.benchmarks.choose_others import EXPLORATIONS, HALVING, NUM_SHARES, budgets_up_to, run_others
from tests.benchmarks.choose_race import (
    Draws,
    Orders,
    Outcome,
    Setting,
    Swapped,
    TwoThresholds,
    most_errors,
    run_races,
)
from tests.benchmarks.choose_scores import Scored
from tests.benchmarks.results import table

MARGIN, SMALL_MARGIN = 0.02, 0.01
GRID_MARGINS = (0.005, 0.01, 0.02, 0.04)
USUALLY = 0.95  # right so often: one of two targets that others are held against
ERRORS = ["best arm out", "named one worse by the margin or more", "together", "undecided"]


def errors(sets: Sequence[Scored], repetitions: int) -> str:
    """Items drawn with replacement from the file, which is the population: its truth is known."""
    rows = []
    for scored, margin in [*((scored, MARGIN) for scored in sets), (sets[-1], SMALL_MARGIN)]:
        outcomes = run_races(Setting(Draws(scored.right), scored.prompts, margin), repetitions)
        rows.append([*_of_set(scored, margin), *count_errors(outcomes), _cost(outcomes)])
    most = most_errors(repetitions)
    words = (
        f"How often the race errs. For each of {repetitions:,} races as many items as the file has were drawn from it "
        "with replacement: the file is the population, and the truth is known. At most 5 % may err, so up to "
        f"{most} of {repetitions:,} are no sign of a broken bound: more would come with less than 2.5 % where exactly "
        "5 % err. Undecided: no arm was named when the items ran out. Cost: as below."
    )
    return f"{words}\n\n{table(['prompts', 'arms', 'margin', *ERRORS, 'cost, %'], rows)}"


def count_errors(outcomes: Sequence[Outcome]) -> list[int]:
    """As in ERRORS. Raises SystemExit where there are more errors than a bound of 5 % allows."""
    together = sum(outcome.is_wrong for outcome in outcomes)
    if together > most_errors(len(outcomes)):
        raise SystemExit(f"{together} of {len(outcomes)} races erred: at most {most_errors(len(outcomes))} may")
    counts = [sum(one.best_out for one in outcomes), sum(one.is_worse for one in outcomes), together]
    return [*counts, sum(not one.is_named for one in outcomes)]


def equals(scored: Scored, repetitions: int) -> str:
    """The two hardest cases: all arms equal, and one better than all others by the margin exactly."""
    rows = []
    for num_arms in (2, len(scored.right)):
        right, prompts = scored.right[:num_arms], scored.prompts[:num_arms]
        for lead, to_end, case in ((0.0, True, "all equal, to the last item"), (MARGIN, False, "one better by d")):
            outcomes = run_races(Setting(Swapped(right, lead), prompts, MARGIN, to_end=to_end), repetitions)
            any_out = sum(one.any_out for one in outcomes) if to_end else ""
            rows.append([f"{num_arms} arms, {case}", *count_errors(outcomes), any_out])
    words = (
        f"Where the bound is hardest to keep ({repetitions:,} times each). The right and wrong of real arms go round "
        "among them at random on each item, so that all are equal, and the first counts as the best; or it is then "
        f"made better than all others by d = {100 * MARGIN:g} points exactly. The last column counts the races that "
        "had any of equal arms out: of that no bound is promised, as any other is as good."
    )
    return f"{words}\n\n{table(['case', *ERRORS, 'any out'], rows)}"


def costs(sets: Sequence[Scored], repetitions: int) -> str:
    """Orders of the file itself; the form for these items alone is slow and gets a quarter of the repetitions."""
    rows: list[list[object]] = []
    sooner = []
    for scored, margin in [(scored, margin) for scored in sets for margin in (MARGIN, SMALL_MARGIN)]:
        setting = Setting(Orders(scored.right), scored.prompts, margin)
        ways = {
            "others like them": run_races(setting, repetitions),
            "the same, two thresholds": run_races(replace(setting, make=TwoThresholds), repetitions),
            "these items alone": run_races(replace(setting, whole=True), max(1, repetitions // 4)),
        }
        for asked, found in ways.items():
            undecided = f"{sum(not one.is_named for one in found)} of {len(found):,}"
            right = f"{100 * np.mean([one.is_right for one in found]):.1f}"
            rows.append([*_of_set(scored, margin), asked, _cost(found), undecided, right])
        sooner.append(_gain(*list(ways.values())[:2]))
    words = (
        "What it costs, in percent of all items under all prompts: median (5th to 95th percentile) over random orders "
        'of the file. "Two thresholds" gives half of alpha to each of the two mistakes, in place of the one sum over '
        "both. Right: an arm within the margin was named, in percent."
    )
    header = ["prompts", "arms", "margin", "asked about", "cost, %", "undecided", "right, %"]
    gains = f"What the one sum gains, in the order of the table: {'; '.join(sooner)}."
    return f"{words}\n\n{table(header, rows)}\n\n{gains}"


def _gain(found: Sequence[Outcome], halved: Sequence[Outcome]) -> str:
    """Of the same orders."""
    num = sum(one.share < other.share for one, other in zip(found, halved, strict=True))
    saved = 1 - sum(one.share for one in found) / sum(one.share for one in halved)
    return f"{num} of {len(found):,} races end sooner, and {100 * saved:.1f} % of the cost is saved"


def grid(scored: Scored, repetitions: int) -> str:
    """Medians by number of prompts and margin."""
    rows = []
    for num_prompts in sorted({min(num, scored.num_prompts) for num in (2, 5, 10, 20)}):
        part = scored.of_first(num_prompts)
        cells = []
        for margin in GRID_MARGINS:
            outcomes = run_races(Setting(Orders(part.right), part.prompts, margin), repetitions)
            cells.append(_cost(outcomes))
        rows.append([num_prompts, len(part.right), *cells])
    words = (
        f"The same cost by number of prompts, the first ones of the list, and by margin ({repetitions:,} orders each):"
    )
    header = ["prompts", "arms", *(f"margin {100 * margin:g}" for margin in GRID_MARGINS)]
    return f"{words}\n\n{table(header, rows)}"


def others(sets: Sequence[Scored], repetitions: int) -> Iterator[str]:
    """The race beside methods without a bound, on the same orders of the file."""
    yield (
        f"Beside methods that spend a fixed budget and give no bound ({repetitions:,} orders of the file, margin "
        f"{100 * MARGIN:g} points): the smallest of {NUM_SHARES} budgets, up to the race's own mean cost, at which the "
        "answer is within the margin in so many of the orders. In all of them a forward shows every rule of its "
        f"prompt. UCB-E's exploration parameter a is the best of {len(EXPLORATIONS)} in hindsight for each cell."
    )
    for scored in sets:
        outcomes = run_races(Setting(Orders(scored.right), scored.prompts, MARGIN), repetitions)
        shares = budgets_up_to(float(np.mean([one.share for one in outcomes])))
        yield _beside(scored, outcomes, shares, run_others(scored, MARGIN, shares, repetitions))


def _beside(
    scored: Scored, outcomes: Sequence[Outcome], shares: Sequence[float], found: Mapping[str, np.ndarray]
) -> str:
    """The table of a set, and which ways are cheaper."""
    own = float(np.mean([one.is_right for one in outcomes]))
    methods = {
        "successive halving": {HALVING: found[HALVING]},
        "UCB-E": {name: right for name, right in found.items() if name != HALVING},
    }
    reached = {title: [_cheapest(some, shares, goal) for goal in (USUALLY, own)] for title, some in methods.items()}
    rows = [["full evaluation", "100", "100"], ["the race, on average", "-", f"{100 * shares[-1]:.1f}"]]
    rows += [[title, *map(_of_budget, cells)] for title, cells in reached.items()]
    cheaper = [title for title, cells in reached.items() if cells[1] is not None]
    words = (
        f"At the race's own share right {' and '.join(cheaper)} {'are' if len(cheaper) > 1 else 'is'} cheaper than the "
        "race, which pays for knowing when to stop: what budget is enough is seen here because the truth is known."
        if cheaper
        else "At the race's own share right neither is cheaper than the race."
    )
    header = [f"{scored.num_prompts} prompts, {len(scored.right)} arms", f"cost, %, right in {100 * USUALLY:g} %"]
    return f"{table([*header, f'right in {100 * own:.1f} %, as the race'], rows)}\n\n{words}"


def _cheapest(found: Mapping[str, np.ndarray], shares: Sequence[float], goal: float) -> tuple[float, str] | None:
    """The smallest budget, a share, at which one of these methods is right so often, and its name."""
    reached = [(shares[int((right >= goal).argmax())], name) for name, right in found.items() if right.max() >= goal]
    return min(reached, default=None)


def _of_budget(cell: tuple[float, str] | None) -> str:
    if cell is None:
        return "more than the race"
    share, name = cell
    return f"{100 * share:.1f}" + ("" if name == HALVING else f" ({name.partition(', ')[2]})")


def _of_set(scored: Scored, margin: float) -> list[object]:
    return [scored.num_prompts, len(scored.right), f"{100 * margin:g}"]


def _cost(outcomes: Sequence[Outcome]) -> str:
    low, middle, high = np.quantile([100 * one.share for one in outcomes], [0.05, 0.5, 0.95])
    return f"{middle:.1f} ({low:.1f} to {high:.1f})"
