"""Contexts and words amid the markup of a chat template, as ids.

Invariant: the markup's own special tokens count as such, and what items, templates and solved examples spell is text.
"""

import re
from collections.abc import Sequence

from pipeline.prompts import Chat
from pipeline.scoring.heads import Head
from pipeline.scoring.strings import Ids, StringEncoder


class Markup:
    """Encodes contexts with what a chat template puts around them; without one (or with a bare one) as they are.

    is_written: the contexts hold such markup themselves, whose special tokens then count, whoever spelt them. head:
    what all contexts begin with. start: what is to be put before the ids, mostly BOS; a chat template writes it itself,
    if at all. is_last: nothing stands between a context and its words.
    """

    def __init__(self, strings: StringEncoder, chat: Chat | None, *, is_written: bool, head: str = "") -> None:
        self._strings = strings
        self._chat = chat or Chat("", "")
        self._before, self._after = self._chat.before, self._chat.after
        self._special = strings.special if self._before or self._after else None
        self._is_read = self._special is not None or is_written
        self._head = Head(strings, self._before + self._chat.read(head), markup=self._is_read)
        self.is_last = not self._after
        self.start = strings.start if chat is None else ()
        self._longest = max(map(len, strings.special_tokens), default=0)
        self._has_forged = False
        if self._special is not None:
            self._learn_own(self._special)

    def read(self, context: str) -> str:
        """A context as the chat template writes it."""
        return self._chat.read(context)

    def fill(self, context: str) -> str:
        """A context with all that stands around it."""
        return self._before + context + self._after

    def encode(self, contexts: Sequence[str], words: Sequence[str]) -> list[Ids]:
        """The ids of each context with all that stands around it, followed by its words; without `start`."""
        strings = [self.fill(context) + each for context, each in zip(contexts, words, strict=True)]
        encoded = self._head.encode(strings)
        for i, context in enumerate(contexts):
            if self.is_forged(context, words[i]):
                encoded[i] = self._encode_pieces(context, words[i])
        return encoded

    def encode_strings(self, strings: Sequence[str]) -> list[Ids]:
        """The ids of strings in which nothing is forged."""
        return self._strings.encode(strings, markup=self._is_read)

    def is_forged(self, context: str, *words: str) -> bool:
        """Whether, amid markup, template, item or words spell out a special token, which there is only text."""
        if self._special is None:
            return False
        if self._has_forged:
            return True
        filled, reach = self.fill(context), self._longest  # no token that touches a place begins or ends farther off
        begin, tail = len(self._before), filled[-reach:]
        end = begin + len(context)
        if any(m.end() > len(tail) for each in words if each for m in self._special.finditer(tail + each)):
            return True
        near = self._special.finditer(filled, max(0, begin - reach), end + reach)
        return any(match.start() < end and match.end() > begin for match in near)

    def _learn_own(self, special: re.Pattern[str]) -> None:
        """Where the markup's own special tokens stand: they cut a string into pieces, between which all is text."""
        found = [match.span() for match in special.finditer(self._before)]
        own = [span for span in found if not any(span[0] < end and span[1] > begin for begin, end in self._chat.texts)]
        self._has_forged = len(own) < len(found)
        self._begin = own[-1][1] if own else 0
        self._left = self._encode_before(own) if self._has_forged else self._read_as_markup(self._before[: self._begin])
        behind = [match.span() for match in special.finditer(self._after)]
        self._first, self._end = (behind[0][0], behind[-1][1]) if behind else (len(self._after), len(self._after))
        self._right = self._read_as_markup(self._after[self._first : self._end])

    def _read_as_markup(self, string: str) -> Ids:
        return self._strings.encode([string], markup=True)[0]

    def _encode_before(self, own: Sequence[tuple[int, int]]) -> Ids:
        """What stands before a message up to the last of its own special tokens, where its texts spell others."""
        ids: Ids = ()
        place = 0
        for begin, end in own:
            ids += self._strings.encode([self._before[place:begin]])[0]
            ids += self._read_as_markup(self._before[begin:end])
            place = end
        return ids

    def _encode_pieces(self, context: str, words: str) -> Ids:
        """The piece with the item is plain text, and so are the words behind the last of the markup's own tokens."""
        middle = self._before[self._begin :] + context + self._after[: self._first]
        tail = self._after[self._end :] + words
        if not self._right:  # nothing parts them
            return self._left + self._strings.encode([middle + tail])[0]
        inner, outer = self._strings.encode([middle, tail])
        return self._left + inner + self._right + outer


def lacks_start(strings: StringEncoder, chat: Chat) -> bool:
    """Whether a chat template does not begin with the ids that the tokenizer would put before a text."""
    written = strings.encode([chat.before], markup=True)[0] if chat.before else ()
    return written[: len(strings.start)] != strings.start
