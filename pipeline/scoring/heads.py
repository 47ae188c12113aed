"""What all strings of a prompt begin with, solved examples and instruction, is encoded once and not with each string.

Invariant: what comes out equals encoding each string whole. A head is shared only where `locality.py` says why that is
exact, and a string in which its last words come out otherwise is encoded whole.
"""

import string
from collections.abc import Sequence

from pipeline.scoring.locality import BEFORE_WORD, ends_with
from pipeline.scoring.strings import Ids, StringEncoder

# What may follow a head, to try it: what joins its last word, and what closes whatever is open in it.
_TRIALS = ("", "a", " a b c", "\u0301", string.printable, "\n\n数")


class Head:
    """Encodes strings, most of which begin with `head`.

    Such a string is cut before the head's last word but one. What stands before it is encoded once, the rest with each
    string. It must begin with the tokens that this word has in the head: then what follows has changed nothing up to
    the last word, and what stands before it neither. That is tried once on what might.
    """

    def __init__(self, strings: StringEncoder, head: str, *, markup: bool) -> None:
        self._strings, self._markup = strings, markup
        self._head, self._cut = head, 0
        self._before, self._word = Ids(), Ids()  # what stands before the cut, and the first word behind it
        places = [match.start() for match in BEFORE_WORD.finditer(head)]
        if strings.is_local and len(places) > 1:
            self._learn(places[-2], places[-1])
            if not self._word:  # the tokenizer may put a blank before every string: then the word's own is left out
                self._learn(places[-2] + 1, places[-1])

    def encode(self, wholes: Sequence[str]) -> list[Ids]:
        """The ids of each string."""
        if not self._word:
            return self._encode(wholes)
        begun = [whole.startswith(self._head) for whole in wholes]
        encoded = self._encode([whole[self._cut :] if has else whole for whole, has in zip(wholes, begun, strict=True)])
        before, word, size = self._before, self._word, len(self._word)
        others = []
        for i, ids in enumerate(encoded):
            if begun[i]:
                if ids[:size] == word:
                    encoded[i] = before + ids
                else:
                    others.append(i)
        for i, ids in zip(others, self._encode([wholes[i] for i in others]), strict=True):
            encoded[i] = ids
        return encoded

    def _learn(self, cut: int, last: int) -> None:
        """Cut the head there if that can be."""
        rest = self._head[cut:]
        if any(rest.strip() in token.replace("▁", " ") for token in self._strings.added_tokens):
            return  # found as one in a string that goes on with it
        whole, tail, word = self._encode([self._head, rest, self._head[cut:last]])
        if not word or not ends_with(whole, tail) or tail[: len(word)] != word:
            return
        tried = [self._head + trial for trial in _TRIALS]
        self._cut, self._before, self._word = cut, whole[: len(whole) - len(tail)], word
        if self.encode(tried) != self._encode(tried):
            self._word = ()

    def _encode(self, strings: Sequence[str]) -> list[Ids]:
        return self._strings.encode(strings, markup=self._markup)
