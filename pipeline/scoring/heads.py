"""What all strings of a prompt begin with, solved examples and instruction, is encoded once and not with each string.

Invariant: what comes out equals encoding each string whole. A head is shared only where `locality.py` says why that is
exact, and a string in which its last words come out otherwise is encoded whole.
"""

import string
from collections.abc import Sequence

from pipeline.scoring.locality import BETWEEN_WORDS, ends_with
from pipeline.scoring.strings import Ids, StringEncoder

# What may follow a head, to try it: what joins its last word, and what closes whatever is open in it.
_TRIALS = ("", "a", " a b c", "\u0301", string.printable, "\n\n数")


class Head:
    """Encodes strings that mostly begin with `head`, which ends with the whole first words of what follows.

    A string is cut before the head's last word but one: what stands before it is encoded once, and the rest with each
    string. The rest must begin with the tokens of that word as the head itself does, so that what follows it has
    changed nothing up to the last word.
    """

    def __init__(self, strings: StringEncoder, head: str, *, markup: bool) -> None:
        self._strings, self._markup = strings, markup
        self._head = head
        self._cut, self._before, self._first = 0, Ids(), Ids()
        places = [match.start() for match in BETWEEN_WORDS.finditer(head)]
        if strings.is_local and len(places) > 1:
            # A tokenizer that puts a blank before every string encodes the word without its own as it stands there.
            any(self._learn(cut, places[-1]) for cut in (places[-2], places[-2] + 1))

    def encode(self, wholes: Sequence[str]) -> list[Ids]:
        """The ids of each string."""
        if not self._first:
            return self._encode(wholes)
        begun = [whole.startswith(self._head) for whole in wholes]
        rests = [whole[self._cut :] if has_head else whole for whole, has_head in zip(wholes, begun, strict=True)]
        before, first, size = self._before, self._first, len(self._first)
        encoded = self._encode(rests)
        others = []
        for i, ids in enumerate(encoded):
            if begun[i]:
                if ids[:size] == first:
                    encoded[i] = before + ids
                else:
                    others.append(i)
        for i, ids in zip(others, self._encode([wholes[i] for i in others]), strict=True):
            encoded[i] = ids
        return encoded

    def _learn(self, cut: int, last: int) -> bool:
        """Whether the head may be cut there."""
        rest = self._head[cut:]
        if any(rest.strip() in token.replace("▁", " ") for token in self._strings.added_tokens):
            return False
        whole, tail, first = self._encode([self._head, rest, self._head[cut:last]])
        is_alike = ends_with(whole, tail) and tail[: len(first)] == first
        if not first or not is_alike or self._strings.unknown in tail:
            return False
        self._cut, self._before, self._first = cut, whole[: len(whole) - len(tail)], first
        tried = [self._head + trial for trial in _TRIALS]
        if self.encode(tried) == self._encode(tried):
            return True
        self._first = ()
        return False

    def _encode(self, strings: Sequence[str]) -> list[Ids]:
        return self._strings.encode(strings, markup=self._markup)
