"""What a choice is made from: candidates with their fingerprints, and the items in the order in which they are asked.

Invariant: nothing here loads weights or scores; no two candidates have the same fingerprint.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from pipeline.choice_config import ChoiceConfig, ChoiceRule
from pipeline.choice_settings import Offer, Setting, settings_of
from pipeline.choosing.order import Order, draw_order
from pipeline.errors import InputError
from pipeline.inputs import read_inputs
from pipeline.prompts import Prompt
from pipeline.pull import PullSummary, pull_items
from pipeline.reading.model import ModelRef
from pipeline.reporting.agreement import Arm
from pipeline.reporting.rules import CONTENT_FREE_TEXTS
from pipeline.storing.choices import begin_choice
from pipeline.storing.files import Output
from pipeline.storing.fingerprint import StoredPrompt
from pipeline.storing.runs import refuse_foreign
from pipeline.target import Target, find_model, fit_target


@dataclass(frozen=True, slots=True)
class Candidate:
    """A prompt as it is offered, under a name of its own, with what it was made for."""

    offer: Offer
    setting: Setting
    target: Target
    stored: StoredPrompt

    @property
    def num_content_free(self) -> int:
        """Texts that are scored for the rules which compare with them."""
        return 0 if self.stored.prompt.has_choices else len(CONTENT_FREE_TEXTS)


@dataclass(frozen=True, slots=True)
class Offered:
    """What is chosen from: candidates under `rules`, and the items in their order."""

    candidates: tuple[Candidate, ...]
    rules: tuple[ChoiceRule, ...]
    summary: PullSummary
    items: Path
    order: Order

    @property
    def arms(self) -> list[Arm]:
        """All candidates under all rules, those of one candidate together."""
        return [Arm(candidate.offer.name, rule) for candidate in self.candidates for rule in self.rules]

    def arm(self, number: int) -> tuple[Candidate, ChoiceRule]:
        """The candidate and the rule that an arm is."""
        return self.candidates[number // len(self.rules)], self.rules[number % len(self.rules)]

    @property
    def target(self) -> Target:
        """The data set, and what else all candidates have in common."""
        return self.candidates[0].target


def read_offered(config: ChoiceConfig, output: Output) -> Offered:
    """Resolve all that is offered, and stream the items into the work folder.

    Raises InputError for what is wrong with the configuration, the data set or a model, where no item can be asked
    about, and where two candidates are the same.
    """
    refuse_foreign(output)
    candidates = tuple(_candidates(settings_of(config)))
    _refuse_same(candidates)
    target = candidates[0].target
    items = output.work / "items.parquet"
    summary = pull_items(
        target.dataset,
        golds=target.golds,
        shape=target.shape,
        limit=config.run.limit,
        on_bad_row=config.run.on_bad_row,
        items_path=items,
        rejected_path=output.work / "rejected.parquet",
    )
    order = draw_order(items, _columns_of_texts([stored.prompt for stored in target.prompts]), config.draw_seed)
    if not len(order.rows):
        raise InputError(
            f"{target.dataset.name} ({target.dataset.split}): no item has a gold label, or each text has several, and "
            "nothing else can be chosen by; name the column that holds the labels with --label-column"
        )
    begin_choice(output, (candidate.stored.fingerprint.digest for candidate in candidates))
    return Offered(candidates, config.rules, summary, items, order)


def _columns_of_texts(prompts: Sequence[Prompt]) -> list[str]:
    """The columns of hashes that tell texts apart: of each set of columns that prompts read and no other contains.

    So the order of the items stays as it is where prompts are added that read no more.
    """
    read = {frozenset(prompt.columns): prompt.hash_column for prompt in prompts}
    widest = [columns for columns in read if not any(columns < other for other in read)]
    return [read[columns] for columns in sorted(widest, key=sorted)]


def _candidates(settings: Sequence[Setting]) -> Iterator[Candidate]:
    """Each offer with its prompt and its fingerprint; inputs and models are read once."""
    models: dict[str, ModelRef] = {}
    inputs = read_inputs(max(settings, key=lambda setting: setting.num_shots).config)
    for setting in settings:
        if setting.model not in models:
            models[setting.model] = find_model(setting.config)
        own = inputs if setting.num_shots else replace(inputs, shots=None)
        target = fit_target(setting.config, own, models[setting.model])
        prompts = {stored.prompt.name: stored for stored in target.prompts}
        for offer in setting.offers:
            stored = prompts[offer.key]
            yield Candidate(offer, setting, target, replace(stored, prompt=replace(stored.prompt, name=offer.name)))


def _refuse_same(candidates: Sequence[Candidate]) -> None:
    seen: dict[str, str] = {}
    for candidate in candidates:
        other = seen.setdefault(candidate.stored.fingerprint.digest, candidate.offer.name)
        if other != candidate.offer.name:
            raise InputError(
                f"candidates '{other}' and '{candidate.offer.name}' ask the very same; leave one of them out"
            )
        if candidate.stored.prompt.hash_column in candidate.target.shape.columns:
            raise InputError(
                f"candidate '{candidate.offer.name}' has its hashes in a column that the data has, too "
                f"({candidate.stored.prompt.hash_column}); give its prompt another name"
            )
