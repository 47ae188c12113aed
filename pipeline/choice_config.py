"""What is offered to a choice, and what it may cost.

Invariant: a `ChoiceConfig` holds only known keys with allowed values, goes through JSON and back unchanged, and says
what is offered before any data or model is seen.
"""

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field

from pipeline.config import NO_TRUTH, Count, Name, RunConfig

# All but those that are no rules of a single item's own scores, by which a race could go item after item.
ChoiceRule = Literal["sum", "mean_token", "mean_char", "mean_byte", "logit", "pmi", "contextual"]
Value = str | bool | int | float
Shots = Annotated[int, Field(ge=0, le=1024), NO_TRUTH]
Words = tuple[str, ...] | dict[str, str]


class ChoiceConfig(BaseModel):
    """What `labelscore choose` chooses from: each axis with all its values, and one run's configuration for the rest.

    Of the axes `run` holds the first model and rule, the most shots, and a chat template where any has one;
    `settings_of` makes the runs that are offered.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    within: Annotated[float, Field(ge=0.1, le=50), NO_TRUTH] = Field(
        2.0,
        description="the margin, in points of accuracy: name one that is less than so many worse than the best, with "
        "95 % certainty",
    )
    budget: Count | None = Field(
        None,
        description="texts under prompts that are scored at most, those stored before included; where that does not "
        "decide it, what is left is told",
    )
    these_alone: bool = Field(
        False, description="ask which is best on these items alone, instead of on all such items as these"
    )
    models: tuple[Name, ...] = ("demo",)
    num_shots: tuple[Shots, ...] = (0,)
    chat_template: tuple[bool, ...] = (False,)
    chat: dict[Name, tuple[Value, ...]] = {}
    rules: tuple[ChoiceRule, ...]
    words: dict[Name, Words] = Field(
        {}, description="lists of label words, by name: each is offered with every prompt, beside its own words"
    )
    run: RunConfig

    @property
    def source(self) -> str:
        """The data set, for people."""
        return self.run.source

    @property
    def title(self) -> str:
        """What is chosen for, for people."""
        return f"a choice for {self.source}{self.run.part}"

    @property
    def output(self) -> str:
        """The output folder or URL: with one model that of its runs, which find the scores there."""
        of_several = self.run.out is None and len(self.models) > 1
        return (self.run.model_copy(update={"model": "choice"}) if of_several else self.run).output

    @property
    def draw_seed(self) -> int:
        """The seed of all that is drawn: the order of the items, and solved examples."""
        return self.run.draw_seed

    @property
    def used(self) -> "ChoiceConfig":
        """The configuration without prompts that are not offered: Prefect takes 512 KiB of it."""
        return self.model_copy(update={"run": self.run.used})
