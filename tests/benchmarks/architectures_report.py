"""What the sweep found, as a section of RESULTS.md, and beside the outcomes of other code.

Invariant: every model type of the outcomes is named in the section exactly once per fault, and what is not exact over
trees in every case has its reason beside it.
"""

from collections import Counter, defaultdict
from collections.abc import Iterator
from typing import Any

from tests.benchmarks.architectures_cases import CASES
from tests.benchmarks.architectures_reasons import WHY_NOT_SCORED, WHY_ROWS
from tests.benchmarks.results import table

Outcomes = dict[str, dict[str, Any]]
VERDICTS = ("tree", "rows", "refused", "wrong", "crashed", "unbuilt")
EXACT = ("tree", "rows")
_ABOUT = """\
Each model type of `MODEL_FOR_CAUSAL_LM_MAPPING_NAMES` as a tiny random model (3 to 5 layers with each kind of layer
that its defaults have, hidden size 64, 113 tokens), saved to a folder and read by our own reader; seven items of 7 to
165 tokens with five labels of 1 to 4 tokens are scored by `Scorer`, together and by their shared beginning, and each
label is held against one plain forward of a fresh copy. **tree** and **rows**: exact to rounding, the way that the
self-check chose. **refused**: an error of one line. **wrong**: other scores without an error. **not made**:
transformers does not make or run it here on text alone. Rounding: 4e-5 x (1 + largest logit) nats in float32; in
bfloat16 four times the dtype's step x (1 + largest logit), or three times what padding alone moves a plain forward, or
twice what bfloat16 does to it (a mixture of experts sends tokens elsewhere by the last bit).
Cases: *float32* and *bfloat16* with windows of 9 tokens where a family has windows; *wide window*: of 100; *beyond
limits*: `index_topk`, `keep_window_size`, chunks and the like far below the items' lengths; *longrope*, *dynamic*:
rotary positions that change beyond 64 tokens. A case that changes nothing about a model is left out."""


def line(name: str, case: str, outcome: dict[str, Any]) -> str:
    """What to print while the sweep goes on."""
    difference = f" by {outcome['difference']:.2g} nats" if outcome.get("difference") else ""
    notes = "; ".join([outcome["why"][:160], *outcome.get("notes", [])])
    return f"{name}, {case}: {outcome['verdict']}{difference}. {notes}\n"


def section(outcomes: Outcomes, old_commit: str, old: Outcomes) -> str:
    """Counts, what became of the outcomes of `old_commit`, and the model types by what is the matter with them."""
    parts = [_ABOUT.replace("\n", " "), _counts(outcomes, old), *_missing(outcomes)]
    if old:
        parts.append(_comparison(outcomes, old_commit, old))
    trees = [name for name, found in _by_name(outcomes).items() if set(_faults(found)) == set()]
    parts.append(f"**On trees in every case** ({len(trees)}): {', '.join(sorted(trees))}.")
    parts.append(_others(outcomes))
    return "\n\n".join(parts)


def _counts(outcomes: Outcomes, old: Outcomes) -> str:
    rows = []
    for case in CASES:
        now, before = (Counter(_verdicts(each, case)) for each in (outcomes, old))
        cells = [f"{now[v]}" + (f" ({before[v]})" if old else "") for v in VERDICTS]
        if any(now.values()):
            rows.append([case, *cells])
    return table(["case", *VERDICTS[:-1], "not made"], rows) + ("\n\nIn brackets: before." if old else "")


def _missing(outcomes: Outcomes) -> list[str]:
    """Which model types were not measured in bfloat16, beside those that cannot be made."""
    measured = {key.split("/")[0] for key in outcomes if key.endswith("/bfloat16")}
    found = _by_name(outcomes).items()
    left = [
        name
        for name, cases in found
        if name not in measured and cases.get("float32", {"verdict": ""})["verdict"] not in ("", "unbuilt")
    ]
    return [f"Not measured in bfloat16 yet: {len(left)} ({', '.join(sorted(left))})."] if measured and left else []


def _verdicts(outcomes: Outcomes, case: str) -> Iterator[str]:
    for key, outcome in outcomes.items():
        if key.split("/")[1] == case:
            yield outcome["verdict"]


def _comparison(outcomes: Outcomes, old_commit: str, old: Outcomes) -> str:
    """What moved from `old` to now, worst first; empty lists are named too, as that is the claim."""
    moves: dict[tuple[str, str], list[str]] = defaultdict(list)
    for key, outcome in outcomes.items():
        before, now = old.get(key, outcome)["verdict"], outcome["verdict"]
        if before != now:
            name, case = key.split("/")
            moves[before, now].append(name if case == "float32" else f"{name} ({case})")
    lost = {move: names for move, names in moves.items() if move[0] in EXACT and move[1] not in EXACT}
    fallen = {move: names for move, names in moves.items() if move == ("tree", "rows")}
    other = {move: names for move, names in moves.items() if move not in lost and move not in fallen}
    return "\n".join(
        [
            f"Against {old_commit}:",
            "",
            f"- exact there, not now: {_told(lost)}",
            f"- on trees there, on rows now: {_told(fallen)}",
            *(f"- {before} there, {now} now: {', '.join(names)}" for (before, now), names in sorted(other.items())),
        ]
    )


def _told(moves: dict[tuple[str, str], list[str]]) -> str:
    return "; ".join(f"{now}: {', '.join(names)}" for (_, now), names in moves.items()) or "**none**"


def _by_name(outcomes: Outcomes) -> dict[str, dict[str, dict[str, Any]]]:
    found: dict[str, dict[str, dict[str, Any]]] = defaultdict(dict)
    for key, outcome in outcomes.items():
        name, case = key.split("/")
        found[name][case] = outcome
    return found


def _faults(found: dict[str, dict[str, Any]]) -> dict[str, dict[str, Any]]:
    """The cases of one model type that are not exact over trees."""
    return {case: outcome for case, outcome in found.items() if outcome["verdict"] != "tree"}


def _others(outcomes: Outcomes) -> str:
    """Those not on trees in every case, grouped by what they are and why."""
    groups: dict[tuple[str, str], list[str]] = defaultdict(list)
    for name, found in _by_name(outcomes).items():
        faults = _faults(found)
        if faults:
            groups[_told_cases(found, faults), _reason(name, faults)].append(name)
    rows = [[", ".join(sorted(names)), told, why] for (told, why), names in groups.items()]
    order = {verdict: place for place, verdict in enumerate(("wrong", "crashed", "refused", "tree", "rows", "unbuilt"))}
    rows.sort(key=lambda row: (min(order.get(word.strip(",:"), 9) for word in row[1].split()), row[2], row[0]))
    header = "| model types | found | why |\n|:--|:--|:--|\n"
    return header + "\n".join("| " + " | ".join(cell.replace("|", "\\|") for cell in row) + " |" for row in rows)


def _told_cases(found: dict[str, dict[str, Any]], faults: dict[str, dict[str, Any]]) -> str:
    """The verdict where all cases have it, else that of the first and the cases that depart from it."""
    plain = next(iter(found.values()))["verdict"]
    other = defaultdict(list)
    for case, outcome in found.items():
        if outcome["verdict"] != plain:
            other[outcome["verdict"]].append(case)
    return ", ".join([_word(plain), *(f"{_word(verdict)}: {' and '.join(cases)}" for verdict, cases in other.items())])


def _word(verdict: str) -> str:
    return {"unbuilt": "not made"}.get(verdict, verdict)


def _reason(name: str, faults: dict[str, dict[str, Any]]) -> str:
    worst = max(faults.values(), key=lambda outcome: VERDICTS.index(outcome["verdict"]))
    if worst["verdict"] in EXACT:
        return WHY_ROWS.get(name, worst["why"])
    why = WHY_NOT_SCORED.get(name, worst["why"])
    return f"by {worst['difference']:.2g} nats; {why}" if worst["verdict"] == "wrong" else why
