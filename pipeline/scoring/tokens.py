"""From items to token ids: one prompt around each item's columns, and the words that may follow it.

Invariant: what comes out equals encoding each whole string context + words by itself (joint and harness boundary), or
the context and the words by themselves (separate). An item is never parsed as special tokens, unless it is written with
the markup of its chat template, and only one of its columns is ever cut.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

from transformers import PreTrainedTokenizerBase

from pipeline.errors import InputError
from pipeline.prompts import CHARS_AT_END, Prompt, Values, Written, shorten
from pipeline.scoring.locality import LAST_BLANK, LAST_LINE, LAST_SPACE, beginning_before, end_window, ends_with
from pipeline.scoring.markup import Markup
from pipeline.scoring.strings import Ids, StringEncoder, num_common
from pipeline.templates import TEXT
from pipeline.wording import MAX_SIZE, show

_MAX_WINDOWS = 4096
# Of a text that is far longer than what may be kept of it, so many characters are encoded for each token ...
CHARS_A_TOKEN = 8
# ... and more, where these make fewer tokens than may be kept and this margin: a text's end changes its last tokens.
MARGIN_TOKENS = 256
MOST_CHARS_A_TOKEN = 64  # on average over a whole text: even runs of blanks and dashes have fewer


@dataclass(frozen=True, slots=True)
class TokenSequences:
    """One item under one prompt.

    `prompt_ids` are the tokens common to all labels, from BOS on; `branches` the tokens after them for each label, in
    the prompt's order, or for each of the item's own choices. The last `num_label_tokens[i]` of branch i are the
    label's and are scored; with a joint boundary the seam may lie at different places, and contexts may differ, so a
    branch may begin with prompt tokens. `prompt_ids` is empty where contexts begin differently. `truncated`: something
    was cut.
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


@dataclass(frozen=True, slots=True)
class _Piece:
    """A context of an item, solved examples included, with the words that may follow it."""

    context: str
    words: tuple[str, ...]


def most_chars(context_tokens: int) -> int:
    """So many characters of a text, and its end, are handed to an encoder, which needs no more to fill the context."""
    return MOST_CHARS_A_TOKEN * (context_tokens + MARGIN_TOKENS)


class Encoder:
    """Encodes items under one prompt, many at a time; safe to call from several threads.

    One column is cut at its end, to `max_text_tokens` (of the column encoded alone) and so that prompt and longest
    label fit into `context_tokens`: the prompt's `cut`, else the text, else the item's longest. Requests have no
    columns; of them the beginning is cut. Of a long text no more is encoded than can be kept of it.

    Raises InputError where label words have no tokens, or the same, or too many, or the prompt without its items is too
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
        self._is_requests = prompt.is_requests
        self._columns = prompt.cut_columns
        self._context_tokens = context_tokens
        self._max_text_tokens = max_text_tokens
        self._markup = Markup(self._strings, prompt.chat, is_written=prompt.has_markup, head=prompt.head)
        self._seams: dict[tuple[str, tuple[str, ...]], _Seam] = {}
        if not prompt.has_choices:
            self._refuse_long_prompt()

    def encode(self, items: Sequence[Values | str]) -> list[TokenSequences]:
        """The token sequences of each item, in order; a string is an item that is its text and nothing else.

        Raises InputError where label words have no tokens, or the same.
        """
        values = [{TEXT: item} if isinstance(item, str) else item for item in items]
        short, columns = self._short_chars, self._prompt.columns
        given = [
            item if all(len(item[column]) <= short for column in columns) else self._bounded(item) for item in values
        ]
        kept = given if self._max_text_tokens is None else self._cut_to_limit(given, self._max_text_tokens)
        joined = list(self._join(kept))
        for i, sequences in enumerate(joined):
            if self._excess(sequences) > 0:
                joined[i] = self._cut_to_context(kept[i], sequences)
            elif kept[i] is not given[i]:
                joined[i] = replace(sequences, truncated=True)
        if self._context_tokens > MAX_SIZE:
            for item, sequences in zip(given, joined, strict=True):
                self._refuse_many_label_tokens(item, sequences)
        return joined

    # --- items and their contexts -----------------------------------------------------------------------------------

    def _join(self, items: Sequence[Values]) -> Iterator[TokenSequences]:
        if not self._prompt.has_choices:
            words = self._prompt.words
            yield from self._join_pieces([self._piece(self._prompt.fill(item), words) for item in items])
            return
        written = [self._prompt.write(item) for item in items]
        pieces = [piece for each in written for piece in self._pieces(each)]
        found = iter(self._join_pieces(pieces))
        for each in written:
            own = [next(found) for _ in each.contexts]
            yield own[0] if len(own) == 1 else _merge(own)

    def _pieces(self, written: Written) -> Iterator[_Piece]:
        if len(written.contexts) == 1:
            yield self._piece(written.contexts[0], written.continuations)
        else:
            for context, words in zip(written.contexts, written.continuations, strict=True):
                yield self._piece(context, (words,))

    def _piece(self, context: str, words: tuple[str, ...]) -> _Piece:
        """With the harness' boundary the white space at the context's end is moved to the words."""
        if self._is_requests:
            context = context[-self._window(context, self._context_tokens, at_end=True) :]
        context = self._markup.read(self._prompt.examples + context)
        if self._prompt.boundary != "harness":
            return _Piece(context, words)
        bare = context.rstrip() if self._markup.is_last else context
        return _Piece(bare, tuple(context[len(bare) :] + each for each in words))

    # --- the seam between prompt and label words --------------------------------------------------------------------

    def _join_pieces(self, pieces: Sequence[_Piece]) -> Iterator[TokenSequences]:
        prompts = self._markup.encode([piece.context for piece in pieces], [""] * len(pieces))
        find = self._append_words if self._prompt.boundary == "separate" else self._find_seams
        for ids, seam in zip(prompts, find(pieces, prompts), strict=True):
            shared = self._start_of(ids) + ids[: len(ids) - len(seam.tail) + seam.num_shared]
            yield _sequences(shared, seam) if shared else self._started(seam)

    def _start_of(self, prompt: Ids) -> Ids:
        """What to put before a prompt; one that is written with its markup may begin with it already."""
        start = self._markup.start
        return () if self._prompt.has_markup and prompt[: len(start)] == start else start

    def _started(self, seam: _Seam) -> TokenSequences:
        """Sequences that share no token: a model needs something to go on where nothing stands before a label."""
        alone = [len(branch) == num for branch, num in zip(seam.branches, seam.num_label_tokens, strict=True)]
        start = self._lone_start() if any(alone) else ()
        if all(alone):
            return _sequences(start, seam)
        branches = (start + branch if bare else branch for bare, branch in zip(alone, seam.branches, strict=True))
        return TokenSequences((), tuple(branches), seam.num_label_tokens, truncated=False)

    def _append_words(self, pieces: Sequence[_Piece], _prompts: Sequence[Ids]) -> list[_Seam]:
        """The words encoded alone, each set of them once."""
        if len(self._seams) > _MAX_WINDOWS:
            self._seams = {}
        new = [words for words in dict.fromkeys(piece.words for piece in pieces) if ("", words) not in self._seams]
        alone = iter(self._strings.encode([each for words in new for each in words]))
        learnt = {("", words): self._make_seam(words, (), [next(alone) for _ in words]) for words in new}
        seams = self._seams = {**self._seams, **learnt} if learnt else self._seams
        return [seams["", piece.words] for piece in pieces]

    def _find_seams(self, pieces: Sequence[_Piece], prompts: Sequence[Ids]) -> list[_Seam]:
        """Each piece's seam, found in a short window at the prompt's end where that is exact, else in the whole."""
        seams: list[_Seam | None] = [None] * len(pieces)
        if self._strings.is_local:
            for blank in (LAST_BLANK, LAST_LINE, LAST_SPACE):
                left = [
                    i
                    for i, seam in enumerate(seams)
                    if seam is None and not self._markup.is_forged(pieces[i].context, *pieces[i].words)
                ]
                windows = [(end_window(blank, self._markup.fill(pieces[i].context)), pieces[i].words) for i in left]
                known = self._learn_windows(windows)
                for i, window in zip(left, windows, strict=True):
                    seam = known.get(window)
                    if seam is not None and ends_with(prompts[i], seam.tail):
                        seams[i] = seam
        rest = [i for i, seam in enumerate(seams) if seam is None]
        wholes = [(pieces[i].context, words) for i in rest for words in pieces[i].words]
        joined = iter(self._markup.encode([context for context, _ in wholes], [words for _, words in wholes]))
        for i in rest:
            seams[i] = self._make_seam(pieces[i].words, prompts[i], [next(joined) for _ in pieces[i].words])
        return [seam for seam in seams if seam is not None]

    def _learn_windows(
        self, windows: Sequence[tuple[str, tuple[str, ...]]]
    ) -> dict[tuple[str, tuple[str, ...]], _Seam]:
        """The seams of prompts that end with these strings, by string and words; many prompts end alike.

        A window's encoding may take the place of the prompt's tail if both begin with the same token: see locality.py.
        """
        if len(self._seams) > _MAX_WINDOWS:
            self._seams = {}
        seams = self._seams
        new = [window for window in dict.fromkeys(windows) if window[0] and window not in seams]
        strings = [string + each for string, words in new for each in ("", *words)]
        encoded = iter(self._markup.encode_strings(strings))
        for window in new:
            tail, joined = next(encoded), [next(encoded) for _ in window[1]]
            if tail and self._strings.unknown not in tail and all(ids[:1] == tail[:1] for ids in joined):
                seams[window] = self._make_seam(window[1], tail, joined)
        return seams

    def _make_seam(self, words: tuple[str, ...], tail: Ids, joined: Sequence[Ids]) -> _Seam:
        """Cut each `joined` (tail and words as one): after the last token that it shares with `tail`.

        With the harness' boundary, after as many tokens as `tail` has.
        """
        shared = [num_common(tail, ids) for ids in joined]
        cuts = [len(tail)] * len(joined) if self._prompt.boundary == "harness" else shared
        num_label_tokens = tuple(max(0, len(ids) - cut) for ids, cut in zip(joined, cuts, strict=True))
        first = min(shared)
        seam = _Seam(tail, first, tuple(ids[first:] for ids in joined), num_label_tokens)
        self._check_label_tokens(words, seam)
        return seam

    def _check_label_tokens(self, words: tuple[str, ...], seam: _Seam) -> None:
        """Each label has tokens to score, and they are not those of another label, which would tie on every text."""
        where = f"prompt '{self._prompt.name}'"
        what = "the choice" if self._prompt.has_choices else "the label words"
        for each, num_tokens in zip(words, seam.num_label_tokens, strict=True):
            if num_tokens == 0:
                raise InputError(
                    f"{where}: {what} {show(each)} {'has' if self._prompt.has_choices else 'have'} no tokens of "
                    f"{'its' if self._prompt.has_choices else 'their'} own under this tokenizer; write other words for "
                    "this label"
                )
        if not self._prompt.has_choices and len(set(seam.branches)) < len(seam.branches):
            first, second = self._find_twins(words, seam.branches)
            raise InputError(
                f"{where}: the label words {show(first)} and {show(second)} have the same tokens under this tokenizer, "
                "so nothing can tell them apart; write other words for one of them"
            )

    def _find_twins(self, words: tuple[str, ...], branches: Sequence[Ids]) -> tuple[str, str]:
        """The first two labels' words that have the same tokens."""
        second = next(i for i, ids in enumerate(branches) if ids in branches[:i])
        return words[branches.index(branches[second])], words[second]

    def _lone_start(self) -> Ids:
        """What stands before a label when the prompt has no tokens at all: a model needs something to go on."""
        if not self._strings.lone_start:
            raise InputError(
                f"prompt '{self._prompt.name}': nothing stands before the label words for an empty text and the "
                "tokenizer has no BOS; write some words around {text}"
            )
        return self._strings.lone_start

    # --- what is too long -------------------------------------------------------------------------------------------

    @property
    def _most_tokens(self) -> int:
        """Of a column that is cut no more tokens are kept."""
        limit = self._context_tokens if self._max_text_tokens is None else self._max_text_tokens
        return min(limit, self._context_tokens)

    @property
    def _short_chars(self) -> int:
        """A column with no more characters is encoded whole, whatever they are."""
        return min(CHARS_A_TOKEN * (self._most_tokens + MARGIN_TOKENS), most_chars(self._context_tokens))

    def _bounded(self, item: Values) -> Values:
        """The item, with no more of the column that is cut than can be kept of it, so that memory stays bounded.

        Its end stays, too: what is cut depends on how it joins what follows.

        Raises InputError where another column alone is longer than the context, and for a text that was cut to
        `most_chars` and does not fill it.
        """
        cut = self._cut_column(item)
        strings = {column: value for column in self._prompt.columns if isinstance(value := item[column], str)}
        for column, value in strings.items():  # the others are lists of choices, or of the contexts of requests
            if column == cut or (column in self._columns and not self._has_own_cut):
                window = self._window(value, self._most_tokens if column == cut else self._context_tokens)
                if not self._has_own_cut:  # the longest is cut: it stays the longest
                    others = (len(other) for name, other in strings.items() if name != column)
                    window = max([window, *(size + 1 for size in others if size < len(value))])
                if window < len(value):
                    item = {**item, column: shorten(value, window)}
                    continue
            elif any(self._window(part, self._context_tokens) < len(part) for part in self._put_in(column, value)):
                raise self._too_long(f"more than {self._context_tokens:,}", cut)
            most = most_chars(self._context_tokens)
            if most < len(value) <= most + 2 * CHARS_AT_END and column not in self._prompt.read_columns:
                raise InputError(
                    f"prompt '{self._prompt.name}': an item's '{column}' is so long that {most:,} characters of it "
                    "were read, and these have too few tokens to stand for it; shorten it"
                )
        return item

    def _put_in(self, column: str, value: str) -> list[str]:
        """What of a column's value is put into each of its slots, which may be little of it."""
        parts = [slot.read(value) for slot in self._prompt.all_slots if slot.column == column] or [value]
        return [part.strip() for part in parts] if self._prompt.strip else parts

    def _window(self, text: str, limit: int, *, at_end: bool = False) -> int:
        """How many characters of a text have its first (or last) `limit` tokens in them, whatever comes after.

        White space at its beginning does not count where a prompt or its chat template takes it away.
        """
        is_trimmed = self._prompt.strip or (
            self._prompt.chat is not None and self._prompt.chat.trim in ("left", "both")
        )
        lead = len(text) - len(text.lstrip()) if is_trimmed and not at_end else 0
        window = CHARS_A_TOKEN * (limit + MARGIN_TOKENS)
        while lead + window < len(text):
            if at_end:  # a run of letters is encoded from where it begins
                window = len(text) - beginning_before(text, len(text) - window)
            part = text[-window:] if at_end else text[lead : lead + window]
            if len(self._strings.encode([part], markup=self._prompt.has_markup)[0]) >= limit + MARGIN_TOKENS:
                return lead + window
            window *= 2
        return len(text)

    def _excess(self, sequences: TokenSequences) -> int:
        return len(sequences.prompt_ids) + max(map(len, sequences.branches)) - self._context_tokens

    def _refuse_long_prompt(self) -> None:
        empty: Values = dict.fromkeys(self._prompt.columns, "")
        sequences = next(self._join([empty]))
        excess = self._excess(sequences)
        if excess > 0:
            raise InputError(
                f"prompt '{self._prompt.name}': with its longest label and no text at all it has "
                f"{self._context_tokens + excess} tokens, the model's context is {self._context_tokens}; "
                "shorten the template or the label words"
            )
        self._refuse_many_label_tokens(empty, sequences)

    def _refuse_many_label_tokens(self, item: Values, sequences: TokenSequences) -> None:
        """A long label, or a tokenizer that splits a whole text anew for the label behind it."""
        largest = max(sequences.num_label_tokens)
        if largest > MAX_SIZE:
            words = self._prompt.write(item).continuations[sequences.num_label_tokens.index(largest)]
            raise InputError(
                f"prompt '{self._prompt.name}': the label words {show(words)} make {largest:,} tokens under this "
                f"tokenizer, at most {MAX_SIZE:,} can be kept; shorten them, or cut the texts (max_text_tokens)"
            )

    @property
    def _has_own_cut(self) -> bool:
        """Whether the same column is cut of every item."""
        return bool(self._prompt.cut) or TEXT in self._columns

    def _cut_column(self, item: Values) -> str | None:
        """The column of an item that may be cut; None where it has none."""
        if not self._columns:
            return None
        if self._has_own_cut:
            return self._prompt.cut or TEXT
        return max(self._columns, key=lambda column: len(item[column]))

    def _cut_to_limit(self, items: Sequence[Values], limit: int) -> list[Values]:
        """The items, one column of each cut at its end to at most `limit` tokens."""
        kept = list(items)
        columns = [self._cut_column(item) for item in items]
        places = [i for i, column in enumerate(columns) if column is not None]
        texts = [str(items[i][columns[i] or ""]) for i in places]
        for i, text, ids in zip(places, texts, self._strings.encode(texts), strict=True):
            num_kept, num_tokens = limit, len(ids)
            # A cut text is encoded anew, at times into more tokens than were kept (half a letter becomes a whole one).
            while num_tokens > limit:
                cut = self._strings.first_tokens(text, num_kept)
                kept[i] = {**items[i], columns[i] or "": cut}
                num_kept, num_tokens = num_kept - 1, len(self._strings.encode([cut])[0])
        return kept

    def _cut_to_context(self, item: Values, sequences: TokenSequences) -> TokenSequences:
        if self._is_requests:
            return self._cut_beginning(sequences)
        column = self._cut_column(item)
        text = str(item[column]) if column else ""
        num_tokens = len(self._strings.encode([text])[0])
        while (excess := self._excess(sequences)) > 0 and num_tokens > 0:
            num_tokens = max(0, num_tokens - excess)
            cut = {**item, column or "": self._strings.first_tokens(text, num_tokens)}
            sequences = next(self._join([cut]))
        if excess > 0:
            raise self._too_long(f"{excess + self._context_tokens:,}", column)
        return replace(sequences, truncated=True)

    def _too_long(self, num_tokens: str, column: str | None) -> InputError:
        nothing_left = f" with nothing left of '{column}'" if column else ""
        return InputError(
            f"prompt '{self._prompt.name}': an item has {num_tokens} tokens{nothing_left}, the model's context is "
            f"{self._context_tokens:,}; shorten it or take it out"
        )

    def _cut_beginning(self, sequences: TokenSequences) -> TokenSequences:
        """As the harness does: of each sequence the last tokens stay, and a token to go on from."""
        whole = [sequences.prompt_ids + branch for branch in sequences.branches]
        if max(sequences.num_label_tokens) >= self._context_tokens:
            raise InputError(
                f"prompt '{self._prompt.name}': a continuation has {max(sequences.num_label_tokens):,} tokens, the "
                f"model's context is {self._context_tokens:,}; shorten it"
            )
        room = self._context_tokens + 1  # the last token is scored and never forwarded
        parts = [
            TokenSequences(ids[-room:-num], (ids[-num:],), (num,), truncated=len(ids) > room)
            for ids, num in zip(whole, sequences.num_label_tokens, strict=True)
        ]
        return _merge(parts)


def _sequences(prompt: Ids, seam: _Seam) -> TokenSequences:
    return TokenSequences(prompt, seam.branches, seam.num_label_tokens, truncated=False)


def _merge(parts: Sequence[TokenSequences]) -> TokenSequences:
    """An item's contexts as one: what all of them begin with, and the rest of each before its words."""
    whole = [(part.prompt_ids, part.branches[0], part.num_label_tokens[0]) for part in parts]
    size = min(num_common(whole[0][0], ids) for ids, _, _ in whole)
    return TokenSequences(
        whole[0][0][:size],
        tuple(ids[size:] + branch for ids, branch, _ in whole),
        tuple(num for _, _, num in whole),
        truncated=any(part.truncated for part in parts),
    )
