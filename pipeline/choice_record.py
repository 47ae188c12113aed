"""What is kept of a choice, gathered from its steps, and put beside the output's last run.

Invariant: nothing here decides or computes anything that another module does not say.
"""

import importlib.metadata
from datetime import UTC, datetime

import numpy as np

from pipeline.choice import Choosing
from pipeline.choice_settings import winner_toml
from pipeline.choosing.race import Race
from pipeline.choosing.record import ArmRecord, CandidateRecord, ChoiceRecord, ItemsRecord
from pipeline.choosing.shown import choice_markdown, choice_page
from pipeline.record import record_dataset
from pipeline.storing.choices import write_choice
from pipeline.storing.layout import CHOICE_MARKDOWN, CHOICE_PAGE, CHOICE_RUN


def record_choice(choosing: Choosing) -> ChoiceRecord:
    """The choice, once the race is over and fresh items were looked at."""
    config, offered, race = choosing.config, choosing.offered, choosing.race
    return ChoiceRecord(
        labelscore=importlib.metadata.version("labelscore"),
        finished=datetime.now(UTC).isoformat(timespec="seconds"),
        config=config.model_dump(mode="json"),
        within=config.within,
        of_these_alone=config.these_alone,
        budget=config.budget,
        seed=config.draw_seed,
        dataset=record_dataset(offered.target, offered.summary, config.run.subset),
        demonstration=any(candidate.target.is_demonstration for candidate in offered.candidates),
        items=ItemsRecord(
            num_rows=offered.summary.num_rows_read,
            num_items=choosing.num_items,
            num_rejected=offered.summary.num_rejected,
            num_without_gold=offered.order.num_without_gold,
            num_disputed=offered.order.num_disputed,
            num_repeats=offered.order.num_repeats,
        ),
        candidates=tuple(_record_candidate(choosing, number) for number in range(len(offered.candidates))),
        arms=tuple(_record_arm(choosing, arm) for arm in rank_arms(race)),
        ending=choosing.ending,
        num_looked_at=race.num_items,
        num_forwards=choosing.num_forwards,
        num_fresh_forwards=choosing.num_fresh_forwards,
        num_scored=choosing.num_scored,
        num_all=choosing.num_all,
        fresh=choosing.fresh,
        seconds=choosing.seconds,
    )


def rank_arms(race: Race) -> list[int]:
    """The arms: the leader, those that are in, the most accurate first, those that are out, the last ones first."""
    share = race.num_right / np.maximum(1, race.num_scored)
    is_leader = np.arange(len(share)) == race.leader
    return [int(arm) for arm in np.lexsort([-share, -race.out_after, ~race.is_in, ~is_leader])]


def _record_arm(choosing: Choosing, arm: int) -> ArmRecord:
    race, (name, rule) = choosing.race, choosing.offered.arms[arm]
    behind, num_common = race.behind(arm)
    return ArmRecord(
        candidate=name,
        rule=rule,
        state="out" if not race.is_in[arm] else "named" if arm == race.named else "in",
        num_items=int(race.num_scored[arm]),
        num_right=int(race.num_right[arm]),
        out_after=int(race.out_after[arm]) or None,
        behind=behind,
        num_common=num_common,
    )


def _record_candidate(choosing: Choosing, number: int) -> CandidateRecord:
    candidate = choosing.offered.candidates[number]
    offer, setting = candidate.offer, candidate.setting
    return CandidateRecord(
        name=offer.name,
        prompt=offer.prompt,
        words=offer.words,
        template=candidate.stored.prompt.template,
        label_words={label.name: label.words for label in candidate.stored.prompt.labels},
        model=setting.model,
        num_shots=setting.num_shots,
        chat=setting.chat,
        variables=dict(setting.variables),
        fingerprint=candidate.stored.fingerprint.digest,
        num_items=int(choosing.race.num_scored[choosing.race.prompts == number].max()),
        num_forwards=choosing.num_forwards_of(number),
    )


def publish_choice(choosing: Choosing, record: ChoiceRecord) -> None:
    """Put the choice in place of the output's last one, with a run's configuration where something was named."""
    out = str(choosing.output)
    files = {CHOICE_MARKDOWN: choice_markdown(record, out), CHOICE_PAGE: choice_page(record, out)}
    if choosing.race.named is not None:
        winner, rule = choosing.offered.arm(choosing.race.named)
        files[CHOICE_RUN] = winner_toml(winner.setting, winner.offer.key, out, rule)
    encoded = {name: text.encode() for name, text in files.items()}
    write_choice(choosing.output, record.model_dump(mode="json"), encoded)
    choosing.end_plans()
