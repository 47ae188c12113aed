"""Prompts: a template, what may follow it (the words of each label, or an item's own choices), and what stands around.

Invariant: a `Prompt` is valid once made. Its template has a slot unless its items bring their choices; its labels are
distinct, also to the eye, and none is empty.
"""

import hashlib
import json
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, TypeAlias, cast

from pipeline.errors import InputError
from pipeline.templates import CHOICE, SLOT, TEXT, Slot, Template, check_template, parse, root_of, seen_slot
from pipeline.wording import MAX_SIZE, check_distinct, check_words, clip, find_glued, show

Boundary = Literal["joint", "separate", "harness"]
BOUNDARIES: tuple[Boundary, ...] = ("joint", "separate", "harness")
# Rules that compare a label's scores over texts, so that all items must have the same labels.
CLASS_RULES = ("pmi", "contextual", "batch")
AG_NEWS = ("World", "Sports", "Business", "Sci/Tech")
REQUEST = ("{context}", "continuation", f"{{{CHOICE}}}")  # template, choices and choice where all is written already
EACH_CHOICE = f" {{{CHOICE}}}"  # how a choice is written after the prompt, unless a prompt says otherwise
CHARS_AT_END = 256  # of a text that is shortened

Values: TypeAlias = Mapping[str, str | list[str]]
"""An item's columns: a text each; a list where it holds its choices, or (requests) something of each choice."""


@dataclass(frozen=True, slots=True)
class Label:
    """A class: its id in the data set, its name, and the words scored for it."""

    id: int
    name: str
    words: str


@dataclass(frozen=True, slots=True)
class Written:
    """An item as its prompt writes it: what is scored, and after what.

    contexts: one for all continuations, or one for each. sized: for each, the text whose characters and bytes
    normalise its score: the continuation without the blank that delimits it, or the context where only that differs.
    """

    contexts: tuple[str, ...]
    continuations: tuple[str, ...]
    sized: tuple[str, ...]


TRIMS = ("", "right", "left", "both")  # at which ends a chat template takes white space away from a message


@dataclass(frozen=True, slots=True)
class Chat:
    """What a chat template makes of an item's message: what it writes before and after it, and where it trims it.

    before: solved examples as turns among it; `texts` are their messages' places in it. after: the generation prompt
    and the beginning of the answer, if one was given. trim: one of TRIMS. lacks_start: the tokenizer puts a token
    before a text, mostly BOS, and the template writes none, so that none stands there.
    """

    before: str
    after: str
    trim: str = ""
    texts: tuple[tuple[int, int], ...] = ()
    lacks_start: bool = False

    def read(self, message: str) -> str:
        """The message as the template writes it."""
        if self.trim in ("left", "both"):
            message = message.lstrip()
        return message.rstrip() if self.trim in ("right", "both") else message

    @property
    def turns(self) -> list[str]:
        """The messages of the solved examples that stand before an item's."""
        return [self.before[start:end] for start, end in self.texts]


@dataclass(frozen=True, slots=True)
class Prompt:
    """Everything that is the same for all items: a named template, its surroundings, and what may follow it.

    labels: the words that are scored after every item. choices: instead of them the column that holds a list of the
    item's own choices, or a column for each; `choice` is how one is written. strip: values lose the white space around
    them. cut: the column that is cut where a prompt is too long. boundary: how words join the prompt; "joint" encodes
    prompt + words as one string, "separate" encodes the words alone and appends their tokens, "harness" is
    lm-evaluation-harness' way (white space at the prompt's end is scored with the words). examples: solved ones put
    before the template (few-shot). chat: what the model's chat template makes of all of that as a message; its special
    tokens count as such. has_markup: the item itself is written with the markup of a chat template.

    Raises InputError for a template without a slot, unless items bring their choices, or with what can be read in two
    ways, where labels are missing, empty, repeated or too long, and where a line break stands as a backslash and an n.
    """

    name: str
    template: str
    labels: tuple[Label, ...] = ()
    boundary: Boundary = "joint"
    examples: str = ""
    chat: Chat | None = None
    choices: str | tuple[str, ...] | None = None
    choice: str = EACH_CHOICE
    strip: bool = False
    cut: str | None = None
    has_markup: bool = False

    def __post_init__(self) -> None:
        where = f"prompt '{clip(self.name)}'"
        check_template(f"{where}: the template", self.template)
        if self.boundary not in BOUNDARIES:
            raise InputError(f"{where}: unknown boundary '{self.boundary}'; use one of {', '.join(BOUNDARIES)}")
        if self.choices is None:
            self._check_labels(where)
        else:
            self._check_choices(where)
        if self.cut is not None and self.cut not in self.cut_columns:
            raise InputError(
                f"{where}: cut = {show(self.cut)} cannot be cut; name a column of the template that no choice is "
                "written with"
            )

    def _check_labels(self, where: str) -> None:
        if not self.parsed.slots:
            raise InputError(
                f"{where}: the template has no slot{seen_slot(self.template)}; write {SLOT} where the text goes, or "
                "the name of another column in braces"
            )
        if self.choice != EACH_CHOICE:
            raise InputError(f'{where}: choice says how an item\'s own choices are written; add choices = "COLUMN"')
        if len(self.labels) < 2:
            raise InputError(f"{where}: {len(self.labels)} labels; at least two are needed to choose between")
        if len(self.labels) > MAX_SIZE:
            raise InputError(f"{where}: {len(self.labels):,} labels; at most {MAX_SIZE:,} can be told apart")
        check_distinct(where, "words", [label.words for label in self.labels])
        check_distinct(where, "name", [label.name for label in self.labels])
        check_words(where, [(label.name, label.words) for label in self.labels])

    def _check_choices(self, where: str) -> None:
        if self.labels:
            raise InputError(f"{where}: has labels and choices; leave one of them out")
        if not isinstance(self.choices, str) and len(self.choices or ()) < 2:
            raise InputError(
                f"{where}: choices names {len(self.choices or ())} columns; name one that holds a list (choices = "
                '"COLUMN"), or two or more'
            )
        check_template(f"{where}: choice", self.choice)
        if not self.is_requests and isinstance(self.choices, str) and self.choices in self.slot_columns:
            raise InputError(
                f"{where}: {{{self.choices}}} is the list of an item's choices; write {{{CHOICE}}} for the one that is "
                f"scored, or {{{self.choices}[0]}} for its first"
            )
        for text in self.no_slots:
            if re.match(rf"{CHOICE}\b", text):
                raise InputError(f"{where}: has {{{text}}}, which is no slot; write {{{CHOICE}}} for the choice")
        if CHOICE not in (*parse(self.choice).columns, *self.parsed.columns):
            raise InputError(
                f"{where}: neither its template nor choice has {{{CHOICE}}}, where a choice is written; write choice = "
                f'"{EACH_CHOICE}"'
            )

    @property
    def parsed(self) -> Template:
        return parse(self.template)

    @property
    def columns(self) -> tuple[str, ...]:
        """The columns whose values make an item under this prompt, each once: its slots' first, then its choices'."""
        return tuple(dict.fromkeys([*self.slot_columns, *self.choice_columns]))

    @property
    def slot_columns(self) -> tuple[str, ...]:
        """The columns that are put into slots, each once."""
        return tuple(dict.fromkeys(slot.column for slot in self.all_slots))

    @property
    def all_slots(self) -> tuple[Slot, ...]:
        """The slots of the template, and of how a choice is written, but for those of the choice itself."""
        written = parse(self.choice).slots if self.has_choices else ()
        slots = (*self.parsed.slots, *written)
        return tuple(slot for slot in slots if slot.column != CHOICE or not self.has_choices)

    @property
    def read_columns(self) -> set[str]:
        """The columns of whose values a slot reads a part, which may stand far behind: up to a mark, or from one on."""
        return {slot.column for slot in self.all_slots if slot.calls}

    @property
    def cut_columns(self) -> tuple[str, ...]:
        """The columns that may be cut where a prompt is too long: those of the template, but for what is scored."""
        if self.is_requests:
            return ()
        kept = self.read_columns & set(self.parsed.columns)  # a mark in them must stay
        if self.has_choices:
            kept |= {CHOICE, *parse(self.choice).columns}
        roots = {root_of(column) for column in self.choice_columns}
        return tuple(c for c in self.parsed.columns if c not in kept and root_of(c) not in roots)

    @property
    def no_slots(self) -> tuple[str, ...]:
        """What stands in braces as text, in the template or where a choice is written."""
        return self.parsed.no_slots + (parse(self.choice).no_slots if self.has_choices else ())

    @property
    def choice_columns(self) -> tuple[str, ...]:
        """The columns of an item's own choices: one that holds a list, or one for each."""
        return (self.choices,) if isinstance(self.choices, str) else self.choices or ()

    @property
    def has_choices(self) -> bool:
        """Whether items bring their own choices."""
        return self.choices is not None

    @property
    def is_requests(self) -> bool:
        """Whether an item is what another tool has written: lists of contexts and of their continuations."""
        return (self.template, self.choices, self.choice) == REQUEST

    @property
    def is_plain(self) -> bool:
        """Whether an item is its text and nothing else."""
        return self.columns == (TEXT,) and not self.has_choices

    @property
    def hash_column(self) -> str:
        """The column of items.parquet with its items' hashes."""
        return hash_column(self.name, is_plain=self.is_plain)

    def item_choices(self, values: Values) -> list[str]:
        """An item's own choices, in order."""
        if isinstance(self.choices, str):
            return list(values[self.choices])
        return [str(values[column]) for column in self.choices or ()]

    def fill(self, values: Values) -> str:
        """The template with an item's values in its slots, which are texts."""
        return self.parsed.fill(cast(Mapping[str, str], values), self.strip)

    def write(self, values: Values) -> Written:
        """An item as this prompt writes it, without examples and markup around it."""
        if self.choices is None:
            return Written((self.fill(values),), self.words, tuple(each.removeprefix(" ") for each in self.words))
        slots, written = self.parsed.columns, parse(self.choice)
        each = [_of_place(values, place, choice) for place, choice in enumerate(self.item_choices(values))]
        differs = CHOICE in slots or self.is_requests
        contexts = tuple(self.fill(of_choice) for of_choice in (each if differs else each[:1]))
        if len(set(contexts)) == 1:
            contexts = contexts[:1]
        words = tuple(written.fill(of_choice, self.strip) for of_choice in each)
        if len(contexts) > 1 and len(set(words)) == 1:
            sized = tuple(context or " " for context in contexts)  # nothing has no length to divide by
        else:
            delimiter = " " if self.is_requests else self.choice[: len(self.choice) - len(self.choice.lstrip())]
            sized = tuple(each.removeprefix(delimiter) for each in words)
        return Written(contexts, words, sized)

    @property
    def head(self) -> str:
        """What is written before an item's first value: solved examples, if any, and the template's beginning."""
        return self.examples + self.parsed.pieces[0]

    @property
    def solved(self) -> str:
        """The solved examples, as they stand in the message or before it as turns."""
        return self.examples + "\0".join(self.chat.turns if self.chat else ())

    @property
    def tail(self) -> str:
        """What is written between an item's last value and the label words."""
        return self.parsed.pieces[-1]

    @property
    def words(self) -> tuple[str, ...]:
        """The words of each label; of an item's own choices the way in which they are written, with a word for one."""
        return tuple(label.words for label in self.labels) or (self.choice.replace(f"{{{CHOICE}}}", "choice"),)


def _of_place(values: Values, place: int, choice: str) -> dict[str, str]:
    """What an item's choice is written with."""
    texts = {name: value if isinstance(value, str) else value[place] for name, value in values.items()}
    return {**texts, CHOICE: choice}


def hash_column(prompt: str, *, is_plain: bool = False) -> str:
    """The column of items.parquet with the hash of what a prompt reads, which in a plain one is the text alone."""
    return "text_hash" if is_plain else f"hash_{prompt}"


def hash_item(prompt: Prompt, values: Values) -> str:
    """The text_hash of an item under a prompt: hex SHA-256 of its text, or of its columns as canonical JSON."""
    if prompt.is_plain:
        return hash_text(str(values[TEXT]))
    return hash_columns(prompt.columns, values)


def hash_columns(columns: Sequence[str], values: Values) -> str:
    """Hex SHA-256 of columns as canonical JSON: sorted keys, no blanks, UTF-8."""
    used = {column: values[column] for column in columns}
    return hash_text(json.dumps(used, sort_keys=True, separators=(",", ":"), ensure_ascii=False))


def hash_text(text: str) -> str:
    """Hex SHA-256 of a text's UTF-8 bytes."""
    return hashlib.sha256(text.encode()).hexdigest()


def same_text(prompt: Prompt, text: str) -> Values:
    """An item with the same text in each column: a content-free one, for a prior."""
    return dict.fromkeys(prompt.columns, text)


def make_prompt(
    name: str,
    template: str,
    words: tuple[str, ...],
    label_names: tuple[str, ...],
    boundary: Boundary = "joint",
    **surroundings: Any,
) -> Prompt:
    """A prompt from one string of label words for each of `label_names`, in the order of their ids."""
    labels = tuple(Label(i, n, w) for i, (n, w) in enumerate(zip(label_names, words, strict=True)))
    return Prompt(name, template, labels, boundary, **surroundings)


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
    prompt = make_prompt("one text", template, words, names, boundary)
    if other := next((column for column in prompt.columns if column != TEXT), None):
        raise InputError(
            f"prompt 'one text': the template has {show(f'{{{other}}}')}, and only {SLOT} is filled in; leave it out, "
            "or write it in doubled braces if it is to be read as it stands"
        )
    return prompt


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
    if words is not None and prompt.has_choices:
        before = re.split(r"\s", prompt.tail)[-1][-20:]
        return (
            f'the choices follow the template directly ("{before}{prompt.choice}"); write choice = " {prompt.choice}" '
            "if a blank belongs there"
        )
    if words is not None:
        return (
            f'the label words follow the template directly ("{glued_words(prompt)}"); '
            f'write " {clip(words, 30)}" with a blank before it if one belongs there'
        )
    doubled = [words for words in prompt.words if prompt.tail[-1:] == words[:1] == " "]
    if doubled:
        return (
            f'the template ends in a blank and the label words "{clip(doubled[0], 30)}" begin with one; take one of '
            "them away if two do not belong there"
        )
    return None


def _glued(prompt: Prompt) -> str | None:
    return find_glued(prompt.tail, prompt.words) if prompt.boundary != "separate" else None


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
# What another tool has written, scored as it stands: see reading/requests.py.
REQUESTS = Prompt("requests", REQUEST[0], choices=REQUEST[1], choice=REQUEST[2], boundary="harness")
KNOWN = {**BUILT_IN, REQUESTS.name: REQUESTS}


def shorten(text: str, num_chars: int) -> str:
    """The beginning of a text that is longer, and its end: how that joins what follows tells what may be kept of it."""
    if len(text) <= num_chars:
        return text
    num_visible = max(num_chars, len(text.rstrip()))
    end = text[max(num_chars, num_visible - CHARS_AT_END) : num_visible] + text[num_visible:][-CHARS_AT_END:]
    return text[:num_chars] + end if num_chars + len(end) < len(text) else text
