"""A finished choice as rows: its arms, its candidates, and how far each of these came.

Invariant: a row holds plain values that a record names or that are quotients of them; words are made where it is shown.
"""

from typing import Any

from pipeline.choosing.record import ArmRecord, CandidateRecord, ChoiceRecord

Row = dict[str, Any]


def arms_rows(record: ChoiceRecord) -> list[Row]:
    """A row for each arm, the leader first; `right` and `behind` are shares, the latter null for the leader itself."""
    return [
        {
            "candidate": arm.candidate,
            "rule": arm.rule,
            "state": arm.state,
            "out_after": arm.out_after,
            "num_items": arm.num_items,
            "num_right": arm.num_right,
            "right": right_share(arm),
            "behind": None if arm is record.leader else behind_share(arm),
            "num_common": arm.num_common,
        }
        for arm in record.arms
    ]


def right_share(arm: ArmRecord) -> float | None:
    """The share that an arm has right of the items that it was scored on; None of no items."""
    return arm.num_right / arm.num_items if arm.num_items else None


def behind_share(arm: ArmRecord) -> float | None:
    """How far an arm is behind the leader, as a share of the items that both were scored on; None of no items."""
    return arm.behind / arm.num_common if arm.num_common else None


def ranked_candidates(record: ChoiceRecord) -> list[CandidateRecord]:
    """The candidates in the order of their best arms: the leader's first, then those in, then the last ones out."""
    by_name = {candidate.name: candidate for candidate in record.candidates}
    return [by_name[name] for name in dict.fromkeys(arm.candidate for arm in record.arms)]


def arms_of(record: ChoiceRecord) -> dict[str, list[ArmRecord]]:
    """The arms of each candidate, by its name, in the order of the record."""
    found: dict[str, list[ArmRecord]] = {}
    for arm in record.arms:
        found.setdefault(arm.candidate, []).append(arm)
    return found


def standing_of(record: ChoiceRecord, arms: list[ArmRecord]) -> str:
    """Of a candidate's arms: `leads`, `in` where another than the leader's candidate has one that is not out, `out`."""
    if record.leader in arms:
        return "leads"
    return "out" if all(arm.state == "out" for arm in arms) else "in"


def out_rows(arms: list[ArmRecord]) -> list[Row]:
    """(out_after, rules): of a candidate the rules that went out together, the first ones first."""
    moments: dict[int, list[str]] = {}
    for arm in arms:
        if arm.out_after is not None:
            moments.setdefault(arm.out_after, []).append(arm.rule)
    return [{"out_after": moment, "rules": moments[moment]} for moment in sorted(moments)]
