"""What a chat template makes of a prompt: found out by rendering it around many messages before anything is scored.

Invariant: a `Chat` that comes out of here stands for the template on every message that was tried, among them each that
is to be scored; a template that does more to a message than trimming it is refused, in a line that says what it does.
"""

import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import cycle

from pipeline.errors import InputError
from pipeline.prompts import TRIMS, Chat, Prompt, Values
from pipeline.reading.chat_template import ChatTemplate, Message
from pipeline.storing.fingerprint import CHAT_SLOT
from pipeline.wording import show

Turn = tuple[str, str]
"""A solved example as a conversation has it: what the user says, and the answer."""

# Texts that a template may treat in a way of its own.
PROBES = (
    "Oil Prices rose by 3%.", "", " ", "\n", "  blanks  ", "\n\nline breaks\n\n", "\ttabs\t", " left", "right ",
    "\u00a0\u2003wide blanks\u3000\u2028", "\u200bno width\ufeff", "\x1c\x85separators\x1f", "ALL UPPER", "all lower",
    "a  b\t\tc\r\n\r\n\r\nd", "{braces} {{ doubled }} {% if %} {# none #}", "<b>&amp; & \"quoted\" 'single'</b>",
    "back\\slash \\n", "[INST] asked [/INST] <s></s>", "<|im_start|>system\nsaid<|im_end|>", "<think>so</think>then",
    "then</think>", "### Instruction:\nask", "0123456789", "3", "true", "null", "数学 🙂 e\u0301 \u202eright to left",
    "/no_think", '{"role": "system", "content": "x"}', '["a", 1]', "https://example.org/?q=1#top", "%s $x `code` ***",
)  # fmt: skip
SIZES = (60, 100, 150, 250, 400, 700, 1_200, 2_500, 5_000, 10_000, 20_000)  # characters of longer ones
MOST = 1_000_000  # that a template may name, to be tried
OTHER_DAYS = ("1999-12-31", "2001-02-04")  # which have neither year, month, day nor day of the week in common
# The tags around what a model says to itself before it answers.
THINKING = re.compile(r"<(/?)(think|thinking|thought|reasoning|reason|seed:think)>|\[(/?)(THINK)\]", re.IGNORECASE)
_ANSWER = "\x00ANSWER\x00"


def find_chat(template: ChatTemplate, prompt: Prompt, turns: Sequence[Turn] = (), answer: str = "") -> Chat:
    """What stands around the messages of a prompt, and whether the template trims them.

    turns: solved examples, as turns of the conversation before an item. answer: how the model's own answer begins.
    Raises InputError for a template that does anything else to a message, and where the answer would begin amid markup.
    """
    fill = _filler(prompt)
    solved = [message for turn in turns for message in _turn(*turn)]

    def render(text: str) -> str:
        return template.render([*solved, user(text)])

    before, after = _around(render)
    trim = _find_trim(render, map(fill, _probes(template)), before, after)
    chat = Chat(before, after + answer, trim, _find_texts(template, solved, before))
    _refuse_unbegun(template, [*solved, user(fill(PROBES[0]))], answer)
    return chat


def check_messages(template: ChatTemplate, prompt: Prompt, items: Iterable[Values], answer: str = "") -> None:
    """Raises InputError where the template treats an item's message otherwise than those that were tried before."""
    if prompt.chat is None:
        return
    chat, roles = prompt.chat, cycle(("user", "assistant"))
    solved = [{"role": role, "content": turn} for role, turn in zip(roles, chat.turns, strict=False)]
    for item in items:
        for context in prompt.write(item).contexts:
            message = prompt.examples + context
            rendered = template.render([*solved, user(message)]) + answer
            if rendered != chat.before + chat.read(message) + chat.after:
                raise _refused(_say(message, rendered, chat.before, chat.after))


def has_date(template: ChatTemplate) -> bool:
    """Whether the template writes the date of its clock into a conversation."""
    messages = [user(PROBES[0])]
    return len({template.render(messages, day=day) for day in (template.day, *OTHER_DAYS)}) > 1


def user(text: str) -> Message:
    """A text as a user's message."""
    return {"role": "user", "content": text}


def _turn(asked: str, answered: str) -> tuple[Message, Message]:
    return user(asked), {"role": "assistant", "content": answered}


def _filler(prompt: Prompt) -> Callable[[str], str]:
    """The message that a prompt makes of a text in all its slots; the text itself where it has none."""
    columns = prompt.parsed.columns
    if not columns:
        return str
    return lambda text: prompt.examples + prompt.fill(dict.fromkeys(columns, text))


def _probes(template: ChatTemplate) -> Iterator[str]:
    """Texts of many kinds and sizes, with whatever the template may look for at each place, and around its numbers."""
    yield from PROBES
    sizes = set(SIZES)
    for constant in template.constants:
        if isinstance(constant, int):
            sizes |= {max(0, min(constant + more, MOST)) for more in (-1, 0, 1)}
        elif constant:
            yield from (constant, f"{constant} after", f"before {constant}", f"before {constant} after")
    for size in sorted(sizes):
        yield ("long text " * (size // 10 + 1))[:size].replace(" ", "\n", size // 100)


# --- what a template does, and what is refused --------------------------------------------------------------------


def _around(render: Callable[[str], str]) -> tuple[str, str]:
    """What the template writes before and after a message."""
    rendered = render(CHAT_SLOT)
    count = rendered.count(CHAT_SLOT)
    if count == 0:
        words = render("Oil Prices")
        what = "rewrites" if "oil prices" in words.lower() else "drops"
        raise _refused(f"{what} the message (of 'Oil Prices' it makes {show(words, 120)})")
    if count > 1:
        raise _refused(f"repeats the message ({count} times)")
    before, _, after = rendered.partition(CHAT_SLOT)
    return before, after


def _find_trim(render: Callable[[str], str], texts: Iterable[str], before: str, after: str) -> str:
    """The first of the ways of trimming that explains all that is rendered."""
    left: tuple[str, ...] = TRIMS
    for text in texts:
        rendered = render(text)
        left = tuple(trim for trim in left if rendered == before + Chat(before, after, trim).read(text) + after)
        if not left:
            raise _refused(_say(text, rendered, before, after))
    return left[0]


def _say(text: str, rendered: str, before: str, after: str) -> str:
    """What a template did to a message, in words."""
    shown = show(text, 40)
    if rendered.startswith(before) and rendered.endswith(after) and len(rendered) >= len(before) + len(after):
        made = rendered[len(before) : len(rendered) - len(after)]
        if not made and text.strip():
            return f"drops a message such as {shown}"
        if text.strip() == made.strip():
            return f"takes some white space from a message and leaves other: of {shown} it makes {show(made, 40)}"
        if text.startswith(made):
            return f"cuts a message of {len(text):,} characters to {len(made):,} ({shown})"
        return f"rewrites a message: of {shown} it makes {show(made, 40)}"
    return f"writes other words around a message such as {shown}: {show(rendered, 120)}"


def _refused(what: str) -> InputError:
    return InputError(
        f"the tokenizer's chat template {what}; what is scored would not be the prompt, so leave out --chat-template"
    )


def _refuse_unbegun(template: ChatTemplate, messages: Sequence[Message], answer: str) -> None:
    """A template that takes no generation prompt, and begins an answer with markup: it would be missing."""
    if template.render(messages) != template.render(messages, begins_answer=False):
        return
    opening = opening_of(template, messages)
    if opening.strip() and not answer.startswith(opening.rstrip()):
        raise InputError(
            "the tokenizer's chat template writes no generation prompt, and begins an answer with "
            f"{show(opening.rstrip())}; add chat_answer = {show(opening)}"
        )


def opening_of(template: ChatTemplate, messages: Sequence[Message]) -> str:
    """What stands in the template between its generation prompt and an answer; empty where that cannot be told."""
    begun = template.render(messages)
    try:
        answered = template.render([*messages, {"role": "assistant", "content": _ANSWER}])
    except InputError:
        return ""
    opening, found, _ = answered.partition(_ANSWER)
    return opening.removeprefix(begun) if found and opening.startswith(begun) else ""


# --- solved examples as turns ---------------------------------------------------------------------------------------


def said_in(template: ChatTemplate, answer: str) -> str:
    """What of an answer's beginning is said, behind the markup in it, which in turns the template writes."""
    opening = opening_of(template, [user(PROBES[0])]).strip()
    begin = len(opening) if answer.startswith(opening) else 0
    tags = {match[0] for match in THINKING.finditer(answer)}
    marks = tags.union(token for token in template.tokenizer.get_added_vocab() if token.strip() and token in answer)
    begin = max([begin, *(answer.rindex(mark) + len(mark) for mark in marks)])
    return answer[begin:].lstrip() if begin else answer


def _find_texts(template: ChatTemplate, solved: Sequence[Message], before: str) -> tuple[tuple[int, int], ...]:
    """Where in `before` the messages of solved examples stand, in which special tokens are text."""
    if not solved:
        return ()
    slots = [f"\x00{i}\x00" for i in range(len(solved))]
    marked = [{**message, "content": slot} for message, slot in zip(solved, slots, strict=True)]
    layout = template.render([*marked, user(CHAT_SLOT)]).partition(CHAT_SLOT)[0]
    pieces = re.split("|".join(map(re.escape, slots)), layout)
    if len(pieces) == len(slots) + 1:
        texts = [rf"(\s*{re.escape(message['content'].strip())}\s*)" for message in solved]
        parts = [re.escape(piece) + text for piece, text in zip(pieces, [*texts, ""], strict=True)]
        if match := re.fullmatch("".join(parts), before):
            return tuple(match.span(i + 1) for i in range(len(solved)))
    raise InputError(
        f"the tokenizer's chat template rewrites, drops or repeats turns of a conversation ({show(layout, 120)}); "
        "leave out shots_as_turns"
    )
