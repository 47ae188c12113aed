"""Records of choices, made by races over answers that are drawn: whatever a choice can end in."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from pipeline.choosing.race import BATCH, Race
from pipeline.choosing.record import ArmRecord, CandidateRecord, ChoiceRecord, FreshRecord, ItemsRecord
from pipeline.reporting.stats import wilson_interval
from pipeline.storing.manifest import DatasetRecord

RULES = ("sum", "mean_token", "mean_char", "mean_byte", "logit", "pmi", "contextual")
NUM_CONTENT_FREE = 3
INJECTION = "</script><script>document.title = 'taken over'</script>"
HOSTILE = (
    f"answer {INJECTION}",
    "a|b `c` [d](javascript:e) *f* _g_ ~h~ $i$ & \\ <b>",
    "\x1b[31mred\x07\x00 \u202eright to left\u2028two\nlines",
    "שלום עולם",
    f"{'long ' * 59}name 1",
    f"{'long ' * 59}name 2",
    "日本語の名前" * 5,
)  # two of 301 characters are alike but for the last one


@dataclass(frozen=True)
class Offer:
    """Candidates by name, and for each rule how often it is right."""

    names: Sequence[str]
    rules: Sequence[str]
    shares: np.ndarray  # (names, rules)


def offer(num_candidates: int, num_rules: int = 7, *, best: float = 0.8, gap: float = 0.08, seed: int = 0) -> Offer:
    """The first one under the first rule is right most often, by `gap` more than the next best."""
    shares = np.random.default_rng(seed).uniform(best - 0.5, best - gap, (num_candidates, num_rules))
    shares[0, 0] = best
    return Offer([f"prompt-{number}" for number in range(1, num_candidates + 1)], RULES[:num_rules], shares)


def make_record(
    offered: Offer,
    *,
    num_items: int = 4_000,
    within: float = 2.0,
    budget: int | None = None,
    of_these_alone: bool = False,
    num_fresh: int = 400,
    seed: int = 1,
    **facts: Any,
) -> ChoiceRecord:
    """The record of a race over `num_items` texts whose answers are drawn, each arm's for itself.

    The race ends where an arm is named, where another batch would cost more than `budget`, or with the items.
    """
    num_candidates, num_rules = offered.shares.shape
    rng = np.random.default_rng(seed)
    right = rng.random((offered.shares.size, num_items)) < offered.shares.reshape(-1, 1)
    numbers = np.repeat(np.arange(num_candidates), num_rules)
    race = Race(numbers.tolist(), within / 100, num_items if of_these_alone else None)
    num_forwards = NUM_CONTENT_FREE * num_candidates
    ending = "no more items"
    while race.named is None and race.num_items < num_items:
        batch = right[:, race.num_items : race.num_items + BATCH]
        cost = batch.shape[1] * race.running.size
        if budget is not None and num_forwards + cost > budget:
            ending = "budget"
            break
        num_forwards += cost
        race.add(batch)
    if race.named is not None:
        ending = "named"
    fresh = right[race.leader, race.num_items : race.num_items + num_fresh] if ending == "named" else right[0, :0]
    if budget is not None:
        fresh = fresh[: max(0, budget - num_forwards)]
    num_forwards += fresh.size
    known: dict[str, Any] = {
        "labelscore": "0.1.0",
        "finished": "2026-01-02T03:05:06+00:00",
        "config": {"within": within, "prompt": list(offered.names)},
        "within": within,
        "of_these_alone": of_these_alone,
        "budget": budget,
        "seed": seed,
        "demonstration": False,
        "dataset": DatasetRecord(name="news", split="test", num_rows=num_items, num_items=num_items),
        "items": ItemsRecord(
            num_rows=num_items, num_items=num_items, num_rejected=0, num_without_gold=0, num_disputed=0, num_repeats=0
        ),
        "candidates": _candidates(offered, race),
        "arms": _arms(offered, race, ending == "named"),
        "ending": ending,
        "num_looked_at": race.num_items,
        "num_forwards": num_forwards,
        "num_fresh_forwards": fresh.size,
        "num_scored": num_forwards,
        "num_all": (num_items + NUM_CONTENT_FREE) * num_candidates,
        "fresh": _fresh(fresh),
        "seconds": 12.34,
    }
    return ChoiceRecord.model_validate({**known, **facts})


def _candidates(offered: Offer, race: Race) -> list[CandidateRecord]:
    num_rules = len(offered.rules)
    return [
        CandidateRecord(
            name=name,
            prompt=name,
            words=None,
            template=f"{name}: {{text}}",
            label_words={"good": " good", name: f" {name}"},
            model="tiny",
            num_shots=0,
            chat=False,
            variables={},
            fingerprint=f"{number:016x}",
            num_items=int(race.num_scored[number * num_rules]),
            num_forwards=int(race.num_scored[number * num_rules]) + NUM_CONTENT_FREE,
        )
        for number, name in enumerate(offered.names)
    ]


def _arms(offered: Offer, race: Race, is_named: bool) -> list[ArmRecord]:
    """In the order of a record."""

    def key(arm: int) -> tuple[bool, bool, int, float]:
        out_after, num_scored = int(race.out_after[arm]), max(1, int(race.num_scored[arm]))
        return arm != race.leader, out_after > 0, -out_after, -int(race.num_right[arm]) / num_scored

    arms = []
    for arm in sorted(range(offered.shares.size), key=key):
        behind, num_common = race.behind(arm)
        out_after = int(race.out_after[arm]) or None
        arms.append(
            ArmRecord(
                candidate=offered.names[arm // len(offered.rules)],
                rule=offered.rules[arm % len(offered.rules)],
                state="out" if out_after else "named" if is_named and arm == race.leader else "in",
                num_items=int(race.num_scored[arm]),
                num_right=int(race.num_right[arm]),
                out_after=out_after,
                behind=behind,
                num_common=num_common,
            )
        )
    return arms


def _fresh(right: np.ndarray) -> FreshRecord | None:
    if not right.size:
        return None
    ends = wilson_interval(int(right.sum()), right.size, right.size)
    return FreshRecord(num_items=right.size, num_right=int(right.sum()), low=ends.low, high=ends.high)


def best_of_all() -> ChoiceRecord:
    """35 arms of which all but one go out."""
    return make_record(offer(5, gap=0.2), within=0.1)


def within_margin() -> ChoiceRecord:
    """Two rules that are right equally often, so that only the margin settles it."""
    offered = offer(3, 3, gap=0.1)
    offered.shares[0, 1] = offered.shares[0, 0]
    return make_record(offered, within=4.0)


def out_of_budget() -> ChoiceRecord:
    return make_record(offer(5, gap=0.02), budget=2_500)


def out_of_items(**facts: Any) -> ChoiceRecord:
    return make_record(offer(4, 4, gap=0.0), num_items=420, **facts)


def nothing_seen() -> ChoiceRecord:
    """A budget that does not do for one batch."""
    return make_record(offer(3, 2), budget=20)


def only_one() -> ChoiceRecord:
    return make_record(offer(1, 1))


def many() -> ChoiceRecord:
    """140 arms: 24 candidates of several templates, models, chats and shots under their rules, less some."""
    offered = offer(20, 7, gap=0.04, seed=4)
    record = make_record(offered, num_items=7_600, seed=5)
    models = ("SmolLM2-135M-Instruct", "google/gemma-2b")
    names = {
        name: f"{template}, {model}{shots}{chat}"
        for name, (template, model, shots, chat) in zip(
            offered.names,
            (
                (template, model, shots, chat)
                for template in ("answer", "topic", "described", "detailed", "topic-science")
                for model in models
                for shots, chat in (("", ""), (", 8 shots", ", chat"))
            ),
            strict=True,
        )
    }
    candidates = [
        each.model_copy(
            update={
                "name": names[each.name],
                "prompt": names[each.name].partition(",")[0],
                "model": models["gemma" in names[each.name]],
                "num_shots": 8 if "shots" in names[each.name] else 0,
                "chat": "chat" in names[each.name],
                "variables": {"enable_thinking": False} if "chat" in names[each.name] else {},
            }
        )
        for each in record.candidates
    ]
    arms = [arm.model_copy(update={"candidate": names[arm.candidate]}) for arm in record.arms]
    items = ItemsRecord(
        num_rows=7_640, num_items=7_600, num_rejected=1, num_without_gold=12, num_disputed=1, num_repeats=26
    )
    return record.model_copy(update={"candidates": tuple(candidates), "arms": tuple(arms), "items": items})


def hostile() -> ChoiceRecord:
    """Names full of markup, control characters, letters from right to left, and of 300 characters."""
    drawn = offer(len(HOSTILE), 3)
    record = make_record(Offer(HOSTILE, drawn.rules, drawn.shares))
    candidates = tuple(
        each.model_copy(
            update={"words": each.name if number else None, "model": each.name, "variables": {each.name: each.name}}
        )
        for number, each in enumerate(record.candidates)
    )
    dataset = record.dataset.model_copy(update={"name": HOSTILE[0]})
    return record.model_copy(update={"candidates": candidates, "dataset": dataset})
