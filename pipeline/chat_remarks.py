"""What a person should know of a chat template that is used: lines that are no errors.

Invariant: nothing here changes what is scored.
"""

from collections.abc import Iterator, Sequence

from pipeline.chat import PROBES, THINKING, opening_of, user
from pipeline.prompts import Chat, Prompt
from pipeline.reading.chat_template import ChatTemplate
from pipeline.wording import find_glued, show


def remarks_on_chat(
    template: ChatTemplate, prompts: Sequence[Prompt], *, day: str | None, answer: str = ""
) -> Iterator[str]:
    """What a person should know of the template's doing: its date, thinking, and label words that do not fit it.

    day: the date that it writes. answer: how the model's own answer begins.
    """
    if day:
        yield (
            f"the chat template writes today's date, which is {day} in every run, so that scores are stored once; "
            "chat_date says another"
        )
    asked = [user(PROBES[0])]
    end, opening = template.render(asked).rpartition(PROBES[0])[2] + answer, opening_of(template, asked)
    if _opens_thinking(end):
        yield (
            "the chat template opens a block of thinking before the answer, so the label words are scored inside the "
            f"thinking; {_how_not_to_think(template)}"
        )
    elif name := template.unset("think"):
        yield (
            "the chat template lets the model think before it answers, and label words are scored as if it did not; "
            f"[chat] {name} = false has the template say so"
        )
    elif opening.strip() not in end:
        yield (
            f"in the chat template an answer begins with {show(opening)}, which its generation prompt leaves to the "
            f"model; chat_answer = {show(opening)} puts it before the label words"
        )
    if any(prompt.chat and prompt.chat.lacks_start for prompt in prompts):
        yield (
            "the chat template writes no token of the beginning (BOS), which the tokenizer puts before other texts: "
            "none is read, as with apply_chat_template"
        )
    for prompt in prompts:
        if prompt.chat and (note := _seam_note(prompt, prompt.chat, answer)):
            yield f"prompt '{prompt.name}': {note}"


def _opens_thinking(end: str) -> bool:
    """Whether an answer behind this would begin inside of what a model says to itself, which was opened there."""
    marks = list(THINKING.finditer(end))
    return bool(marks) and not (marks[-1][1] or marks[-1][3])


def _how_not_to_think(template: ChatTemplate) -> str:
    if name := template.unset("think"):
        return f"write [chat] {name} = false if they should not"
    return "close it with chat_answer if they should not"


def _seam_note(prompt: Prompt, chat: Chat, answer: str) -> str | None:
    """That label words have a blank too few behind the answer's beginning, or too many behind that or the markup."""
    words = prompt.words
    is_text = answer and not answer.endswith((">", "]"))  # behind markup an answer begins
    glued = find_glued(answer, words) if is_text and prompt.boundary != "separate" else None
    if glued is not None:
        return f'the label words follow "{answer[-20:]}" directly; write {show(" " + glued)} if a blank belongs there'
    if answer[-1:].isspace() and any(each[:1].isspace() for each in words):
        return (
            f"chat_answer ends with white space, and the label words begin with more ({show(words[0])}); take one away"
        )
    if chat.after[-1:].isspace() and all(each[:1] == " " for each in words):
        return (
            f"the label words begin with a blank ({show(words[0])}), and an answer in the chat template begins without "
            "one; take it away if the model is to answer as it would"
        )
    return None
