"""From texts to token ids: one prompt and its label words around each text.

Invariant: what comes out equals encoding each whole string prompt + label words by itself (joint boundary), or the
prompt and the label words by themselves (separate). The text is never parsed as special tokens, and only the text is
ever cut.
"""

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from transformers import PreTrainedTokenizerBase

from pipeline.errors import InputError
from pipeline.prompts import Prompt
from pipeline.scoring.strings import Ids, StringEncoder
from pipeline.wording import MAX_SIZE, show

_MAX_WINDOWS = 4096


@dataclass(frozen=True, slots=True)
class TokenSequences:
    """One item under one prompt.

    `prompt_ids` are the tokens common to all labels, from BOS on; `branches` the tokens after them for each label, in
    the prompt's order. The last `num_label_tokens[i]` of branch i are the label's and are scored; with a joint boundary
    the seam may lie at different places, so a branch may begin with prompt tokens. `truncated`: the text was cut.
    """

    prompt_ids: Ids
    branches: tuple[Ids, ...]
    num_label_tokens: tuple[int, ...]
    truncated: bool


@dataclass(frozen=True, slots=True)
class _Seam:
    """How a prompt that ends with the tokens `tail` goes on: the first `num_shared` of them stay, then the branches."""

    tail: Ids
    num_shared: int
    branches: tuple[Ids, ...]
    num_label_tokens: tuple[int, ...]


class Encoder:
    """Encodes texts under one prompt, many at a time; safe to call from several threads.

    Texts are cut at their end to `max_text_tokens` (of the text encoded alone), and so that prompt and longest label
    fit into `context_tokens`.

    Raises InputError where label words have no tokens, or the same, or too many, or the prompt without a text is too
    long.
    """

    def __init__(
        self,
        tokenizer: PreTrainedTokenizerBase,
        prompt: Prompt,
        *,
        context_tokens: int,
        max_text_tokens: int | None = None,
    ) -> None:
        self._strings = StringEncoder(tokenizer)
        self._prompt = prompt
        self._context_tokens = context_tokens
        self._max_text_tokens = max_text_tokens
        self._before, self._after = prompt.chat or ("", "")
        self._special = self._strings.special if any(prompt.chat or ()) else None
        self._words = [label.words for label in prompt.labels]
        self._start = self._strings.start if not self._brings_start() else ()
        self._seams: dict[str, _Seam] = {}
        words_alone = self._strings.encode(self._words) if prompt.boundary == "separate" else None
        self._appended = None if words_alone is None else self._make_seam((), words_alone)
        self._refuse_long_prompt()

    def encode(self, texts: Sequence[str]) -> list[TokenSequences]:
        """The token sequences of each text, in order. Raises InputError where label words have none, or the same."""
        kept = list(texts) if self._max_text_tokens is None else self._cut_to_limit(texts, self._max_text_tokens)
        joined = list(self._join(kept))
        for i, sequences in enumerate(joined):
            if self._excess(sequences) > 0:
                joined[i] = self._cut_to_context(kept[i])
            elif len(kept[i]) < len(texts[i]):
                joined[i] = _mark_truncated(sequences)
        if self._context_tokens > MAX_SIZE:
            for sequences in joined:
                self._refuse_many_label_tokens(sequences)
        return joined

    # --- from strings to ids ----------------------------------------------------------------------------------------

    def _fill(self, text: str) -> str:
        return self._before + self._prompt.head + text + self._prompt.tail + self._after

    def _brings_start(self) -> bool:
        """Whether the markup begins with the ids that the tokenizer would put before a text."""
        written = self._strings.encode([self._before], markup=True)[0] if self._before else ()
        return written[: len(self._strings.start)] == self._strings.start

    def _encode_whole(self, texts: Sequence[str], words: str = "") -> list[Ids]:
        """The ids of each filled template followed by `words`."""
        strings = [self._fill(text) + words for text in texts]
        encoded = self._strings.encode(strings, markup=self._special is not None)
        for i, text in enumerate(texts):
            if self._is_forged(text):
                encoded[i] = self._encode_pieces(text, words)
        return encoded

    def _is_forged(self, text: str) -> bool:
        """Whether, amid markup, template or text spell out a special token, which there is only text."""
        if self._special is None:
            return False
        begin = len(self._before)
        end = begin + len(self._prompt.head) + len(text) + len(self._prompt.tail)
        found = self._special.finditer(self._fill(text))
        return any(match.start() < end and match.end() > begin for match in found)

    def _encode_pieces(self, text: str, words: str) -> Ids:
        """The markup's own special tokens cut the string into pieces; the piece with the item's text is plain text."""
        assert self._special is not None
        last = [match.end() for match in self._special.finditer(self._before)]
        first = self._special.search(self._after)
        begin, end = last[-1] if last else 0, first.start() if first else len(self._after)
        middle = self._before[begin:] + self._prompt.head + text + self._prompt.tail + self._after[:end]
        if first is None:
            middle, words = middle + words, ""
        left, right = self._strings.encode([self._before[:begin], self._after[end:] + words], markup=True)
        return left + self._strings.encode([middle])[0] + right

    # --- the seam between prompt and label words --------------------------------------------------------------------

    def _join(self, texts: Sequence[str]) -> Iterator[TokenSequences]:
        prompts = self._encode_whole(texts)
        seams = self._find_seams(texts, prompts) if self._appended is None else [self._appended] * len(texts)
        for ids, seam in zip(prompts, seams, strict=True):
            shared = self._start + ids[: len(ids) - len(seam.tail) + seam.num_shared]
            yield TokenSequences(shared or self._lone_start(), seam.branches, seam.num_label_tokens, truncated=False)

    def _find_seams(self, texts: Sequence[str], prompts: Sequence[Ids]) -> list[_Seam]:
        """Each text's seam, found in a short window at the prompt's end where that is exact, else in the whole."""
        seams: list[_Seam | None] = [None] * len(texts)
        if self._strings.is_local:
            for blank in (_LAST_BLANK, _LAST_SPACE):
                open_texts = [i for i, seam in enumerate(seams) if seam is None and not self._is_forged(texts[i])]
                windows = [_window(blank, self._fill(texts[i])) for i in open_texts]
                known = self._learn_windows(windows)
                for i, window in zip(open_texts, windows, strict=True):
                    seam = known.get(window)
                    if seam is not None and _ends_with(prompts[i], seam.tail):
                        seams[i] = seam
        rest = [i for i, seam in enumerate(seams) if seam is None]
        joined = [self._encode_whole([texts[i] for i in rest], words) for words in self._words]
        for place, i in enumerate(rest):
            seams[i] = self._make_seam(prompts[i], [ids[place] for ids in joined])
        return [seam for seam in seams if seam is not None]

    def _learn_windows(self, windows: Sequence[str]) -> dict[str, _Seam]:
        """The seams of prompts that end with these strings; those of one template mostly end alike.

        Byte-pair encoding is local: [a, b] followed by [c, d] is how a string is encoded if [a, b] and [c, d] are how
        its parts are, and b and c stay apart, which is known where they are neighbours in the prompt's own encoding.
        So a window's encoding may take the place of the prompt's tail if both begin with the same token.
        """
        if len(self._seams) > _MAX_WINDOWS:
            self._seams = {}
        seams = self._seams
        new = [window for window in dict.fromkeys(windows) if window and window not in seams]
        columns = [
            self._strings.encode([w + words for w in new], markup=self._special is not None)
            for words in ["", *self._words]
        ]
        for window, tail, *joined in zip(new, *columns, strict=True):
            if tail and self._strings.unknown not in tail and all(ids[:1] == tail[:1] for ids in joined):
                seams[window] = self._make_seam(tail, joined)
        return seams

    def _make_seam(self, tail: Ids, joined: Sequence[Ids]) -> _Seam:
        """Cut each `joined` (tail and label words as one) after the last token that it shares with `tail`."""
        shared = [num_shared(tail, ids) for ids in joined]
        num_label_tokens = tuple(len(ids) - cut for ids, cut in zip(joined, shared, strict=True))
        first = min(shared)
        seam = _Seam(tail, first, tuple(ids[first:] for ids in joined), num_label_tokens)
        self._check_label_tokens(seam)
        return seam

    def _check_label_tokens(self, seam: _Seam) -> None:
        """Each label has tokens to score, and they are not those of another label, which would tie on every text."""
        where = f"prompt '{self._prompt.name}'"
        for words, num_tokens in zip(self._words, seam.num_label_tokens, strict=True):
            if num_tokens == 0:
                raise InputError(
                    f"{where}: the label words {show(words)} have no tokens of their own under this tokenizer; write "
                    "other words for this label"
                )
        if len(set(seam.branches)) < len(seam.branches):
            first, second = self._find_twins(seam.branches)
            raise InputError(
                f"{where}: the label words {show(first)} and {show(second)} have the same tokens under this tokenizer, "
                "so nothing can tell them apart; write other words for one of them"
            )

    def _find_twins(self, branches: Sequence[Ids]) -> tuple[str, str]:
        """The first two labels' words that have the same tokens."""
        second = next(i for i, ids in enumerate(branches) if ids in branches[:i])
        return self._words[branches.index(branches[second])], self._words[second]

    def _lone_start(self) -> Ids:
        """What stands before a label when the prompt has no tokens at all: a model needs something to go on."""
        if not self._strings.lone_start:
            raise InputError(
                f"prompt '{self._prompt.name}': nothing stands before the label words for an empty text and the "
                "tokenizer has no BOS; write some words around {text}"
            )
        return self._strings.lone_start

    # --- what is too long -------------------------------------------------------------------------------------------

    def _excess(self, sequences: TokenSequences) -> int:
        return len(sequences.prompt_ids) + max(map(len, sequences.branches)) - self._context_tokens

    def _refuse_long_prompt(self) -> None:
        sequences = next(self._join([""]))
        excess = self._excess(sequences)
        if excess > 0:
            raise InputError(
                f"prompt '{self._prompt.name}': with its longest label and no text at all it has "
                f"{self._context_tokens + excess} tokens, the model's context is {self._context_tokens}; "
                "shorten the template or the label words"
            )
        self._refuse_many_label_tokens(sequences)

    def _refuse_many_label_tokens(self, sequences: TokenSequences) -> None:
        """A long label, or a tokenizer that splits a whole text anew for the label behind it."""
        largest = max(sequences.num_label_tokens)
        if largest > MAX_SIZE:
            words = self._words[sequences.num_label_tokens.index(largest)]
            raise InputError(
                f"prompt '{self._prompt.name}': the label words {show(words)} make {largest:,} tokens under this "
                f"tokenizer, at most {MAX_SIZE:,} can be kept; shorten them, or cut the texts (max_text_tokens)"
            )

    def _cut_to_limit(self, texts: Sequence[str], limit: int) -> list[str]:
        """The texts, each cut at its end to at most `limit` tokens."""
        kept = list(texts)
        for i, ids in enumerate(self._strings.encode(texts)):
            num_kept, num_tokens = limit, len(ids)
            # A cut text is encoded anew, at times into more tokens than were kept (half a letter becomes a whole one).
            while num_tokens > limit:
                kept[i] = self._strings.first_tokens(texts[i], num_kept)
                num_kept, num_tokens = num_kept - 1, len(self._strings.encode([kept[i]])[0])
        return kept

    def _cut_to_context(self, text: str) -> TokenSequences:
        num_tokens = len(self._strings.encode([text])[0])
        sequences = next(self._join([text]))
        while (excess := self._excess(sequences)) > 0 and num_tokens > 0:
            num_tokens = max(0, num_tokens - excess)
            sequences = next(self._join([self._strings.first_tokens(text, num_tokens)]))
        return _mark_truncated(sequences)


# A place where every tokenizer begins anew: a single blank between two visible characters. After punctuation a line
# break may belong to the token before it; a space does not.
_LAST_BLANK = re.compile(r".*\S([ \n]\S.*)", re.DOTALL)
_LAST_SPACE = re.compile(r".*\S( \S.*)", re.DOTALL)


def _window(blank: re.Pattern[str], string: str) -> str:
    """The end of `string` from its last blank on; empty where there is none nearby."""
    match = blank.fullmatch(string[-256:])
    return match[1] if match else ""


def _ends_with(ids: Ids, tail: Ids) -> bool:
    return ids[len(ids) - len(tail) :] == tail and len(tail) <= len(ids)


def num_shared(left: Ids, right: Ids) -> int:
    """How many first tokens are the same."""
    pairs = enumerate(zip(left, right, strict=False))
    return next((i for i, (a, b) in pairs if a != b), min(len(left), len(right)))


def _mark_truncated(found: TokenSequences) -> TokenSequences:
    return TokenSequences(found.prompt_ids, found.branches, found.num_label_tokens, truncated=True)
