"""What a choice came to: OUT/choice/choice.json, which everything that is shown of it is made from.

Invariant: a record says what was offered, what of it was scored, and whether the question was decided; a share that it
holds was counted on the items that it names.
"""

from typing import Any, Literal

from pipeline.storing.manifest import DatasetRecord, Record

SCHEMA_VERSION = 1

State = Literal["named", "in", "out"]
Ending = Literal["named", "budget", "no more items"]


class CandidateRecord(Record):
    """A prompt that was offered, under the `name` that tells it from the others.

    prompt: the name that its template has; words: that of its list of label words, null for the prompt's own.
    template, label_words: what they are, the words by class; empty where items bring their own choices. variables: of
    the chat template, by name. num_items: what it was scored on in the race. num_forwards: all that was looked at under
    it, with items that were scored ahead, fresh ones, and the content-free texts that some rules compare with.
    """

    name: str
    prompt: str
    words: str | None
    template: str
    label_words: dict[str, str]
    model: str
    num_shots: int
    chat: bool
    variables: dict[str, str | bool | int | float]
    fingerprint: str
    num_items: int
    num_forwards: int


class ArmRecord(Record):
    """A candidate under a rule. `out_after`: the number of items after which it was out, null where it never was.

    It was scored on `num_items`, of which it has `num_right`. `behind`: how many more of the `num_common` items that
    both were scored on the leader is right on, the first arm of a record.
    """

    candidate: str
    rule: str
    state: State
    num_items: int
    num_right: int
    out_after: int | None
    behind: int
    num_common: int


class ItemsRecord(Record):
    """The items: `num_items` texts that can be asked about, out of `num_rows` rows.

    Left out are broken rows (`num_rejected`), those without a gold label, texts whose rows have different ones
    (`num_disputed` texts), and all but one of the rows with the same text (`num_repeats`).
    """

    num_rows: int
    num_items: int
    num_rejected: int
    num_without_gold: int
    num_disputed: int
    num_repeats: int


class FreshRecord(Record):
    """The winner on items that took no part in choosing it: shares, with Wilson's interval of 95 %."""

    num_items: int
    num_right: int
    low: float
    high: float


class ChoiceRecord(Record):
    """A finished choice. `arms`: the leader first, then those that are in, then the others, the last ones out first.

    within: the margin in points. of_these_alone: whether it is asked about these items, not about others like them.
    ending: `named` where the first arm won, else why the question was left undecided. num_looked_at: items of the race.
    num_forwards: items x prompts that were looked at, content-free texts and fresh items (num_fresh_forwards) among
    them; num_scored of them were not stored before. num_all: what all items under all candidates would be.
    fresh: null where there was no item or no budget left for it. demonstration: whether the bundled demonstration model
    is among the candidates' ones. seconds: of the choice, without start-up.
    """

    schema_version: int = SCHEMA_VERSION
    labelscore: str
    finished: str
    config: dict[str, Any]
    within: float
    of_these_alone: bool
    budget: int | None
    seed: int
    dataset: DatasetRecord
    demonstration: bool
    items: ItemsRecord
    candidates: tuple[CandidateRecord, ...]
    arms: tuple[ArmRecord, ...]
    ending: Ending
    num_looked_at: int
    num_forwards: int
    num_fresh_forwards: int
    num_scored: int
    num_all: int
    fresh: FreshRecord | None
    seconds: float

    @property
    def leader(self) -> ArmRecord:
        return self.arms[0]

    @property
    def left(self) -> tuple[ArmRecord, ...]:
        """The arms that are not out, the leader first."""
        return tuple(arm for arm in self.arms if arm.state != "out")
