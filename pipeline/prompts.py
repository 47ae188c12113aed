"""Prompts: a template, the words that stand for each label, and what stands around both.

Invariant: a `Prompt` is valid once made. Its template holds `{text}` exactly once and nothing that may have been meant
as a slot or a line break; its labels are distinct, also to the eye, and none is empty.
"""

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Literal

from pipeline.errors import InputError
from pipeline.wording import MAX_SIZE, SLOT, TEXT, check_distinct, check_template, check_words, clip, find_glued, show

Boundary = Literal["joint", "separate"]
BOUNDARIES: tuple[Boundary, ...] = ("joint", "separate")
AG_NEWS = ("World", "Sports", "Business", "Sci/Tech")


@dataclass(frozen=True, slots=True)
class Label:
    """A class: its id in the data set, its name, and the words scored for it."""

    id: int
    name: str
    words: str


@dataclass(frozen=True, slots=True)
class Prompt:
    """Everything that is the same for all items: a named template, its surroundings, and the words that may follow it.

    boundary: how label words join the prompt; "joint" encodes prompt + words as one string, "separate" encodes the
    words alone and appends their tokens. examples: solved ones put before the template (few-shot). chat: what the
    model's chat template puts before and after all of that as a message; its special tokens count as such.

    Raises InputError where the template does not hold `{text}` exactly once or holds what looks like another slot,
    where labels are missing, empty, repeated or too long, and where a line break stands as a backslash and an n.
    """

    name: str
    template: str
    labels: tuple[Label, ...]
    boundary: Boundary = "joint"
    examples: str = ""
    chat: tuple[str, str] | None = None

    def __post_init__(self) -> None:
        where = f"prompt '{clip(self.name)}'"
        check_template(where, self.template)
        if self.boundary not in BOUNDARIES:
            raise InputError(f"{where}: unknown boundary '{self.boundary}'; use one of {', '.join(BOUNDARIES)}")
        if len(self.labels) < 2:
            raise InputError(f"{where}: {len(self.labels)} labels; at least two are needed to choose between")
        if len(self.labels) > MAX_SIZE:
            raise InputError(f"{where}: {len(self.labels):,} labels; at most {MAX_SIZE:,} can be told apart")
        check_distinct(where, "words", [label.words for label in self.labels])
        check_distinct(where, "name", [label.name for label in self.labels])
        check_words(where, [(label.name, label.words) for label in self.labels])

    @property
    def columns(self) -> tuple[str, ...]:
        """The columns whose values fill the template's slots, in their order."""
        return (TEXT,)

    @property
    def pieces(self) -> tuple[str, ...]:
        """The template's own text before, between and after its slots: one piece more than there are slots."""
        return tuple(self.template.split(SLOT))

    def fill(self, values: Mapping[str, str]) -> str:
        """The template with an item's values in its slots, put in as they are."""
        first, *rest = self.pieces
        return first + "".join(values[column] + piece for column, piece in zip(self.columns, rest, strict=True))

    @property
    def head(self) -> str:
        """What is written before an item's text: solved examples, if any, and the template's beginning."""
        return self.examples + self.pieces[0]

    @property
    def tail(self) -> str:
        """What is written between an item's text and the label words."""
        return self.pieces[-1]


def make_prompt(
    name: str, template: str, words: tuple[str, ...], label_names: tuple[str, ...], boundary: Boundary = "joint"
) -> Prompt:
    """A prompt from one string of label words for each of `label_names`, in the order of their ids."""
    labels = tuple(Label(i, n, w) for i, (n, w) in enumerate(zip(label_names, words, strict=True)))
    return Prompt(name, template, labels, boundary)


Labels = Iterable[str] | Mapping[str, str]


def make_one_text_prompt(labels: Labels, template: str, boundary: Boundary = "joint") -> Prompt:
    """The prompt of `classify`: label words that are their own names, or a table of class name = words.

    The one string "ag_news" stands for AG News's four names. Raises InputError for what is no prompt.
    """
    if isinstance(labels, str) and labels == "ag_news":
        labels = AG_NEWS
    if isinstance(labels, str | bytes):
        raise InputError(
            f"the labels are one string, {show(str(labels))}, which would be taken letter by letter; give a list of "
            'strings, such as [" positive", " negative"], or "ag_news"'
        )
    names = tuple(labels)
    words = tuple(labels.values()) if isinstance(labels, Mapping) else names
    for each in (*names, *words):
        if not isinstance(each, str):
            raise InputError(f"the label {show(str(each))} is no string; write the words that are to be scored")
    return make_prompt("one text", template, words, names, boundary)


def glued_words(prompt: Prompt) -> str | None:
    """Label words as they follow the template without a blank, such as "Topic:World"; None where none do.

    They begin with a letter or digit and follow a visible character. Words that join the prompt separately follow
    nothing; there is no blank to miss after an opening bracket or quote, nor in Chinese, Japanese, Thai and the like.
    """
    words = _glued(prompt)
    if words is None:
        return None
    end = re.split(r"\s", prompt.tail)[-1]
    before = f"…{end[-20:]}" if end == prompt.tail or len(end) > 20 else end
    return before + clip(words, 30)


def seam_note(prompt: Prompt) -> str | None:
    """One line about words that seem to have a blank too few or too many before them; None where all is well."""
    words = _glued(prompt)
    if words is not None:
        return (
            f'the label words follow the template directly ("{glued_words(prompt)}"); '
            f'write " {clip(words, 30)}" with a blank before it if one belongs there'
        )
    doubled = [label.words for label in prompt.labels if prompt.tail[-1:] == label.words[0] == " "]
    if doubled:
        return (
            f'the template ends in a blank and the label words "{clip(doubled[0], 30)}" begin with one; take one of '
            "them away if two do not belong there"
        )
    return None


def _glued(prompt: Prompt) -> str | None:
    words = [label.words for label in prompt.labels]
    return find_glued(prompt.tail, words) if prompt.boundary == "joint" else None


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
