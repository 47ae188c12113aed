"""Prompts: a template and the words that stand for each label.

Invariant: a `Prompt` is valid once made. Its template holds `{text}` exactly once, its labels are distinct and none is
empty.
"""

from dataclasses import dataclass
from typing import Literal

from pipeline.errors import InputError

Boundary = Literal["joint", "separate"]
BOUNDARIES: tuple[Boundary, ...] = ("joint", "separate")
AG_NEWS = ("World", "Sports", "Business", "Sci/Tech")
SLOT = "{text}"


@dataclass(frozen=True, slots=True)
class Label:
    """A class: its id in the data set, its name, and the words scored for it."""

    id: int
    name: str
    words: str


@dataclass(frozen=True, slots=True)
class Prompt:
    """A named template with the label words that may follow it.

    `boundary` says how label words join the prompt: "joint" encodes prompt + words as one string, "separate"
    encodes the words alone and appends their tokens.

    Raises InputError where the template does not hold `{text}` exactly once, or labels are missing, empty or repeated.
    """

    name: str
    template: str
    labels: tuple[Label, ...]
    boundary: Boundary = "joint"
    examples: str = ""
    """Solved examples put before the template, the same for every article (few-shot)."""

    def __post_init__(self) -> None:
        where = f"prompt '{self.name}'"
        slots = self.template.count(SLOT)
        if slots != 1:
            raise InputError(
                f"{where}: the template must contain {SLOT} exactly once, it has it {slots} times; "
                "write it where the article goes"
            )
        if self.boundary not in BOUNDARIES:
            raise InputError(f"{where}: unknown boundary '{self.boundary}'; use one of {', '.join(BOUNDARIES)}")
        if len(self.labels) < 2:
            raise InputError(f"{where}: {len(self.labels)} labels; at least two are needed to choose between")
        _check_distinct(where, "words", [label.words for label in self.labels])
        _check_distinct(where, "name", [label.name for label in self.labels])

    @property
    def head(self) -> str:
        """The text before the article: solved examples, if any, and the template's beginning."""
        return self.examples + self.template.partition(SLOT)[0]

    @property
    def tail(self) -> str:
        """The template's text between the article and the label words."""
        return self.template.partition(SLOT)[2]


def _check_distinct(where: str, what: str, values: list[str]) -> None:
    for position, value in enumerate(values):
        if not value.strip():
            raise InputError(f"{where}: the {what} of label {position} is empty; give each label some text")
        if value in values[:position]:
            raise InputError(f"{where}: two labels have the same {what} '{value}'; each label needs its own")


def make_prompt(
    name: str, template: str, words: tuple[str, ...], label_names: tuple[str, ...], boundary: Boundary = "joint"
) -> Prompt:
    """A prompt from one string of label words for each of `label_names`, in the order of their ids."""
    if len(words) != len(label_names):
        raise InputError(
            f"prompt '{name}': {len(words)} label words for {len(label_names)} label names "
            f"({', '.join(label_names[:8])}); give one for each, in the same order"
        )
    labels = tuple(Label(i, n, w) for i, (n, w) in enumerate(zip(label_names, words, strict=True)))
    return Prompt(name, template, labels, boundary)


_INSTRUCTION = (
    "Classify the following news article into one of four categories: World, Sports, Business, or Sci/Tech. "
    "The classification should be based solely on the content of the article.\nArticle:\n{text}"
)
_DESCRIPTIONS = (
    "World: This category includes news articles about international events, politics, conflicts, and global issues.",
    "Sports: This category includes news articles about various sports, athletic events, players, "
    "and sports-related topics.",
    "Business: This category includes news articles about finance, economy, companies, markets, "
    "and business-related topics.",
    "Sci/Tech: This category includes news articles about science, technology, innovations, research, "
    "and tech industry news.",
)
_QUESTION = "What is the topic of the following article?{text}"

BUILT_IN: dict[str, Prompt] = {
    prompt.name: prompt
    for prompt in (
        make_prompt("answer", "Article: {text}\nTopic:", (" World", " Sports", " Business", " Sci/Tech"), AG_NEWS),
        # The notebook's four, word for word.
        make_prompt("detailed", _INSTRUCTION, AG_NEWS, AG_NEWS, "separate"),
        make_prompt("described", _INSTRUCTION, _DESCRIPTIONS, AG_NEWS, "separate"),
        make_prompt("topic-science", _QUESTION, ("World", "Sports", "Business", "Science"), AG_NEWS, "separate"),
        make_prompt("topic", _QUESTION, AG_NEWS, AG_NEWS, "separate"),
    )
}
