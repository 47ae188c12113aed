"""The sections on what is said of several arms together, of the commonest class and of calibration."""

import numpy as np

from pipeline.reporting.stats import critical_value
from tests.benchmarks.coverage_calibration import CONFIDENCES, draw_errors
from tests.benchmarks.coverage_families import draw_commonest, draw_family
from tests.benchmarks.coverage_single import SIZES, percent
from tests.benchmarks.coverage_words import KINDS, count_sentences, draw_findings, make_base
from tests.benchmarks.results import table

# Arms by prompts and rules, with what makes answers alike: the items' difficulty, and what a prompt's rules share.
FAMILIES = {
    "2 prompts": (2, 1, (0.5, 0.0)),
    "5 prompts": (5, 1, (0.5, 0.0)),
    "20 prompts": (20, 1, (0.5, 0.0)),
    "20 prompts, hardly unlike": (20, 1, (0.97, 0.0)),
    "5 prompts x 7 rules": (5, 7, (0.4, 0.5)),
}


def families(num_sets: int) -> str:
    """Whether all intervals hold together, and who is called worse."""
    rows, least = [], {"together": 1.0, "alone": 1.0}
    for name, (prompts, rules, alike) in FAMILIES.items():
        equal = np.full((prompts, rules), 0.7)
        apart = np.linspace(0.62, 0.78, prompts)[:, None].repeat(rules, axis=1)
        for n in SIZES:
            nothing, gaps = (draw_family(truth, n, num_sets, alike) for truth in (equal, apart))
            shares = (nothing.all_hold, nothing.leader_holds, nothing.any_worse)
            shares += (nothing.accuracy_holds, nothing.counted_holds)
            shares += (gaps.all_hold, gaps.leader_holds, gaps.apart_holds, gaps.best_worse, gaps.power)
            rows.append([f"{name}, n = {n}", *map(percent, shares)])
            least["together"] = min(least["together"], nothing.all_hold, gaps.all_hold)
            least["alone"] = min(least["alone"], nothing.accuracy_holds)
    header = ["", "equal: all hold", "leader's hold", "any called worse", "leader's accuracy", "arms counted"]
    header += ["apart: all hold", "leader's hold", "'at most ... apart'", "best called worse", "worse ones called so"]
    return (
        f"**All together**, % of {num_sets:,} drawn data sets. Equal: every arm is right on 70 %. Apart: prompts from "
        "62 to 78 %. The leader is picked on the data, right answers are correlated; an arm is called worse where its "
        f"interval excludes 0. All hold in {percent(least['together'])} % or more. *Leader's accuracy*: its Wilson "
        "interval, which does not know that it was picked as the highest, and then holds down to "
        f"{percent(least['alone'])} %; *arms counted*: at 5 % over their number. *At most ... apart*: whether the "
        "prompts that may be the best are no further apart than is said.\n\n" + table(header, rows)
    )


def words(num_sets: int) -> str:
    """The sentences of findings, where nothing differs and where something does."""
    base, rows = make_base(), []
    for prompts in (2, 5, 20):
        for name, truth in (("equal", np.full(prompts, 0.7)), ("apart", np.linspace(0.62, 0.78, prompts))):
            for n in SIZES:
                counts = count_sentences(draw_findings(base, truth, n, num_sets, (0.5, 0.0)))
                cells = [percent(counts[kind] / num_sets) for kind in KINDS]
                rows.append([f"{prompts} prompts, {name}, n = {n}", *cells])
    return (
        f"**Words**: of {num_sets:,} drawn data sets, % in which a report begins so. Equal and apart as above; where "
        "nothing differs 'some may be the best', 'one is the best' and 'Worse than' are mistakes.\n\n"
        + table(["", *KINDS], rows)
    )


def commonest(num_sets: int) -> str:
    """Accuracy less the share of the commonest class, which is picked on the same items."""
    cases = {"60, 25 and 15 %; 80 % right": (np.array([0.6, 0.25, 0.15]), np.full(3, 0.8))}
    for classes in (2, 4, 10):
        shares, name = np.full(classes, 1 / classes), f"{classes} equal classes"
        cases |= {
            f"{name}; always one class": (shares, np.eye(classes)[0]),
            f"{name}; guesses": (shares, shares),
            f"{name}; 80 % right": (shares, np.full(classes, 0.8)),
        }
    rows, least = [], {True: 1.0, False: 1.0}
    for name, (shares, accuracy) in cases.items():
        row = [name]
        for counts_classes in (True, False):
            z = critical_value(len(shares) if counts_classes else 1)
            found = [draw_commonest(shares, accuracy, n, num_sets, z) for n in SIZES]
            least[counts_classes] = min(least[counts_classes], *(held for held, *_ in found))
            row += [*(percent(held) for held, *_ in found), *(percent(worse) for *_, worse in found)]
        rows.append(row)
    header = ["", *(f"{what}, {n}" for what in ("holds", "'worse'") for n in SIZES)]
    header += [f"{what} if classes were not counted, {n}" for what in ("holds", "'worse'") for n in SIZES]
    return (
        f"**Against the commonest class**, one prompt, % of {num_sets:,} drawn data sets. The class is the commonest "
        "of the same items, so where classes are about equal its share is flattered: each class counts as a "
        f"comparison. The interval then holds in {percent(least[True])} % or more; were they not counted, down to "
        f"{percent(least[False])} %.\n\n" + table(header, rows)
    )


def calibration(num_sets: int) -> str:
    rows = []
    for name in CONFIDENCES:
        for n in SIZES:
            drawn, printed, over = draw_errors(name, n, num_sets)
            rows.append([f"{name}; n = {n}", f"{100 * drawn:.1f}", f"{100 * printed:.1f}", percent(over)])
    header = ["confidences", "mean ECE drawn", "mean ECE printed", "% above the printed end"]
    return (
        f"**ECE of a calibrated model** in points, {num_sets:,} drawn data sets each; 5 % are to lie above the end.\n\n"
        + table(header, rows)
    )
