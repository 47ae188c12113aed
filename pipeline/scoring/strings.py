"""A tokenizer as this project uses it: strings to ids, with or without their special tokens, in any thread.

Invariant: outside of markup no string yields a special token, whatever is written in it; no ids are put before or
after a string's own.
"""

import re
import threading
from collections.abc import Iterator, Sequence
from typing import Any

from transformers import PreTrainedTokenizerBase, PreTrainedTokenizerFast

from pipeline.errors import InputError
from pipeline.scoring.locality import encodes_locally

Ids = tuple[int, ...]

# `split_special_tokens` is state inside a fast tokenizer, and one tokenizer serves several prompts and threads.
_TOKENIZER = threading.Lock()


class StringEncoder:
    """Encodes strings.

    start: the ids that the tokenizer puts before a text, mostly BOS. special_tokens: their written forms, the longest
    first; special matches them. added_tokens: all that are found before a string is encoded. is_local: a string's
    tokens do not depend on far ones.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerBase) -> None:
        self._tokenizer = tokenizer
        self._is_plain = _calls_backend(tokenizer)
        self._spelt = _spell_special_tokens(tokenizer)
        self.special_tokens = sorted(_special_tokens(tokenizer).values(), key=len, reverse=True)
        self.special = re.compile("|".join(map(re.escape, self.special_tokens))) if self.special_tokens else None
        self.added_tokens = [str(token) for token in tokenizer.added_tokens_decoder.values()]
        self.unknown = tokenizer.unk_token_id
        self.is_local = encodes_locally(tokenizer)
        self.start = self._find_start()

    @property
    def lone_start(self) -> Ids:
        """BOS or EOS, to stand before a label where a prompt has no tokens; empty where there is neither."""
        tokens = (self._tokenizer.bos_token_id, self._tokenizer.eos_token_id)
        return next(((token,) for token in tokens if isinstance(token, int)), ())

    def encode(self, strings: Sequence[str], *, markup: bool = False) -> list[Ids]:
        """The strings' ids without BOS; special tokens written out in them count as such only in `markup`."""
        if not strings:
            return []
        with _TOKENIZER:
            encoded = (
                self._encode_directly(strings, markup) if self._is_plain else self._encode_by_call(strings, markup)
            )
        return [tuple(ids) if markup else self._spell_out(ids) for ids in encoded]

    def _encode_by_call(self, strings: Sequence[str], markup: bool) -> Iterator[list[int]]:
        encoded = self._tokenizer(
            list(strings),
            add_special_tokens=False,
            split_special_tokens=not markup,
            return_attention_mask=False,
            return_token_type_ids=False,
            verbose=False,
        )
        return iter(encoded["input_ids"])

    def _encode_directly(self, strings: Sequence[str], markup: bool) -> Iterator[list[int]]:
        """What the call does in a tokenizer that changes nothing of it, without offsets and tokens' written forms."""
        backend: Any = self._tokenizer.backend_tokenizer
        backend.no_truncation()
        backend.no_padding()
        backend.encode_special_tokens = not markup
        return (encoding.ids for encoding in backend.encode_batch_fast(list(strings), add_special_tokens=False))

    def _spell_out(self, ids: list[int]) -> Ids:
        """Unigram models hold special tokens as words like others and find them even in plain text: spell them."""
        if self._spelt.keys().isdisjoint(ids):
            return tuple(ids)
        return tuple(letter for token in ids for letter in self._spelt.get(token, (token,)))

    def first_tokens(self, text: str, num_tokens: int) -> str:
        """The text up to the end of its `num_tokens`-th token."""
        if num_tokens == 0:
            return ""
        if not self._tokenizer.is_fast:
            raise InputError("a text is too long and this model's tokenizer has no fast version to cut it with")
        with _TOKENIZER:
            encoded = self._tokenizer(
                text, add_special_tokens=False, split_special_tokens=True, return_offsets_mapping=True, verbose=False
            )
        ends = [end for _, end in encoded["offset_mapping"]]
        return text[: ends[min(num_tokens, len(ends)) - 1]]

    def _find_start(self) -> Ids:
        with _TOKENIZER:
            bare = list(self._tokenizer("a", add_special_tokens=False)["input_ids"])
            full = list(self._tokenizer("a", add_special_tokens=True)["input_ids"])
        place = next((i for i in range(len(full)) if full[i : i + len(bare)] == bare), 0)
        return tuple(full[:place])


def _calls_backend(tokenizer: PreTrainedTokenizerBase) -> bool:
    """Whether a call of the tokenizer is one of its backend and nothing more: its class leaves both as they are."""
    own, plain = type(tokenizer), PreTrainedTokenizerFast
    steps = ("__call__", "_encode_plus")
    return issubclass(own, plain) and all(getattr(own, step, None) is getattr(plain, step, None) for step in steps)


def _special_tokens(tokenizer: PreTrainedTokenizerBase) -> dict[int, str]:
    """The special tokens' ids and written forms."""
    added = {i: str(token) for i, token in tokenizer.added_tokens_decoder.items() if token.special}
    return added | dict(zip(tokenizer.all_special_ids, tokenizer.all_special_tokens, strict=True))


def _spell_special_tokens(tokenizer: PreTrainedTokenizerBase) -> dict[int, Ids]:
    """Each special token's id and those of its letters."""
    spelt: dict[int, Ids] = {}
    for special, written in _special_tokens(tokenizer).items():
        letters = [tokenizer.convert_tokens_to_ids(letter) for letter in written]
        spelt[special] = tuple(letter for letter in letters if isinstance(letter, int))
    # An unknown letter is text, too.
    return {special: letters for special, letters in spelt.items() if special != tokenizer.unk_token_id}


def num_common(left: Ids, right: Ids, guess: int = 0) -> int:
    """How many first tokens are the same; at once where it is `guess`."""
    size = min(len(left), len(right))
    if guess <= size and left[:guess] == right[:guess]:
        low = guess
        if low == size or left[low] != right[low]:
            return low
        high = size
    else:
        low, high = 0, min(guess, size)
    while low < high:  # left and right have `low` tokens in common
        middle = (low + high + 1) // 2
        if left[low:middle] == right[low:middle]:
            low = middle
        else:
            high = middle - 1
    return low
