"""Pairs of context and continuation as token ids, cut where lm-evaluation-harness cuts them.

Invariant: the ids of a pair are those that the harness' `TemplateLM._encode_pair` gives with its own class for models
of transformers, whatever the batch. Special tokens that are spelt out in a string count as such, as they do there.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from transformers import PreTrainedTokenizerBase

from pipeline.errors import InputError
from pipeline.scoring.locality import LAST_BLANK, LAST_SPACE, end_window, ends_with
from pipeline.scoring.strings import Ids, StringEncoder
from pipeline.scoring.tokens import TokenSequences
from pipeline.wording import show


@dataclass(frozen=True, slots=True)
class Group:
    """A context and the continuations that are scored after it."""

    context: str
    continuations: tuple[str, ...]


class PairEncoder:
    """Encodes groups, many at a time, each distinct string of a call once.

    prefix_token: stands for an empty context. max_length: the tokens that a model takes at once; of more the last are
    kept, and the one behind them, which is scored and not forwarded. add_special_tokens: None for the tokenizer's own
    way; in strings that begin with the prefix token's written form there is none to add.
    """

    def __init__(
        self,
        tokenizer: PreTrainedTokenizerBase,
        *,
        prefix_token: int,
        max_length: int,
        add_special_tokens: bool | None = None,
    ) -> None:
        self._tokenizer = tokenizer
        self._strings = StringEncoder(tokenizer)  # what it knows of the tokenizer
        self._prefix: Ids = (prefix_token,)
        self._written_prefix = str(tokenizer.decode(prefix_token))
        self._max_length = max_length
        self._add_special_tokens = add_special_tokens

    def encode(self, groups: Sequence[Group]) -> list[TokenSequences]:
        """The token sequences of each group; raises InputError for a continuation without tokens, or too many."""
        moved = [_move_blanks(group) for group in groups]
        contexts = self._encode({context for context, _ in moved if context is not None})
        scored_after = self._find_scored(
            [(context, each) for context, words in moved if context is not None for each in words], contexts
        )
        alone = self._encode({each for context, words in moved if context is None for each in words}, bare=True)
        found = []
        for group, (context, words) in zip(groups, moved, strict=True):
            if context is None:
                ids, scored = self._prefix, [self._without_prefix(alone[each]) for each in words]
            else:
                ids, scored = contexts[context], [scored_after[context, each] for each in words]
            self._check(group, ids, scored)
            found.append(self.cut(ids, scored))
        return found

    def cut(self, context: Ids, continuations: Sequence[Ids]) -> TokenSequences:
        """One item; what is too long loses its beginning, each continuation's sequence by itself."""
        sizes = tuple(map(len, continuations))
        if len(context) + max(sizes) <= self._max_length + 1:
            return TokenSequences(context, tuple(continuations), sizes, truncated=False)
        kept = tuple((context + each)[-self._max_length - 1 :] for each in continuations)
        return TokenSequences((), kept, sizes, truncated=True)

    def encode_text(self, text: str) -> Ids:
        """A string by itself, as a context is."""
        return self._encode([text])[text]

    def _find_scored(self, pairs: Sequence[tuple[str, str]], contexts: dict[str, Ids]) -> dict[tuple[str, str], Ids]:
        """What of context and continuation as one string comes behind as many tokens as the context has.

        Mostly a short window at the context's end tells it, as it does for `Encoder`: see there why that is exact.
        """
        found: dict[tuple[str, str], Ids] = {}
        left = list(dict.fromkeys(pairs))
        for blank in (LAST_BLANK, LAST_SPACE) if self._strings.is_local else ():
            windows = {context: end_window(blank, context) for context, _ in left}
            near = [(context, each) for context, each in left if self._is_plain(context, windows[context], each)]
            known = self._call(list({windows[context] + each for context, word in near for each in ("", word)}), False)
            for context, each in near:
                tail, joined = known[windows[context]], known[windows[context] + each]
                is_sure = tail and self._strings.unknown not in tail and joined[:1] == tail[:1]
                if is_sure and ends_with(contexts[context], tail):
                    found[context, each] = joined[len(tail) :]
            left = [pair for pair in left if pair not in found]
        wholes = self._encode({context + each for context, each in left})
        return found | {(context, each): wholes[context + each][len(contexts[context]) :] for context, each in left}

    def _is_plain(self, context: str, window: str, words: str) -> bool:
        """Whether no special token is spelt out near the seam, and the whole begins as the context does."""
        special = self._strings.special
        is_spelt = special is not None and special.search(window + words)
        return bool(window) and not is_spelt and len(context) >= len(self._written_prefix)

    def _encode(self, strings: Iterable[str], *, bare: bool = False) -> dict[str, Ids]:
        """Each string's ids; `bare` adds no special tokens."""
        begun: list[str] = []
        others: list[str] = []
        for string in strings:
            (begun if bare or string.startswith(self._written_prefix) else others).append(string)
        return self._call(begun, False) | self._call(others, self._add_special_tokens)

    def _call(self, strings: list[str], add_special_tokens: bool | None) -> dict[str, Ids]:
        if not strings:
            return {}
        options = {} if add_special_tokens is None else {"add_special_tokens": add_special_tokens}
        encoded = self._tokenizer(
            strings, return_attention_mask=False, return_token_type_ids=False, verbose=False, **options
        )
        return {string: tuple(ids) for string, ids in zip(strings, encoded["input_ids"], strict=True)}

    def _without_prefix(self, ids: Ids) -> Ids:
        return ids[1:] if ids[:1] == self._prefix else ids

    def _check(self, group: Group, context: Ids, scored: Sequence[Ids]) -> None:
        if not context:
            raise InputError(f"the context {show(group.context)} has no tokens, so nothing can be scored after it")
        for each, ids in zip(group.continuations, scored, strict=True):
            if not ids:
                raise InputError(
                    f"the continuation {show(each)} after {show(group.context[-40:])} has no tokens of its own"
                )
            if len(ids) > self._max_length:
                raise InputError(
                    f"the continuation {show(each)} has {len(ids):,} tokens, the model takes {self._max_length:,}"
                )


def _move_blanks(group: Group) -> tuple[str | None, list[str]]:
    """White space at a context's end is moved to the continuations; None for an empty context."""
    if not group.context:
        return None, list(group.continuations)
    bare = group.context.rstrip()
    return bare, [group.context[len(bare) :] + each for each in group.continuations]
