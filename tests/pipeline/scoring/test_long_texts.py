"""Of a text that is far longer than the context no more is read than can be kept, and what is kept is the same."""

import random
from collections.abc import Sequence

import pytest

from pipeline.errors import InputError
from pipeline.prompts import REQUESTS, Prompt, Values, make_prompt
from pipeline.scoring import tokens
from pipeline.scoring.strings import Ids, StringEncoder
from pipeline.scoring.tokens import Encoder, TokenSequences, most_chars
from tests.pipeline.scoring.tiny_models import TOKENIZERS, tiny_tokenizer

CONTEXT = 48
KINDS = {
    "words": ["the", "a", "plant", "in", "best", "World", "Sports.", "Science,", "born's", "2", "\n"],
    "no blanks": list("abeinorst"),
    "letters of many bytes": ["数", "é", "👩", " ", "a\u0301"],
    "blanks": [" ", "  ", "\n", "     "],
    "one letter": ["a"],
}


def long_text(kind: str, num_chars: int) -> str:
    draw = random.Random(kind)
    pieces: list[str] = []
    while sum(map(len, pieces)) < num_chars:
        pieces += draw.choices(KINDS[kind], k=1000)
    return "".join(pieces)


def note_lengths(patch: pytest.MonkeyPatch, lengths: list[int]) -> None:
    """Add the length of every string that is encoded from now on."""
    plain = StringEncoder.encode

    def noted(self: StringEncoder, strings: Sequence[str], *, markup: bool = False) -> list[Ids]:
        lengths.extend(map(len, strings))
        return plain(self, strings, markup=markup)

    patch.setattr(StringEncoder, "encode", noted)


def encode(
    name: str, prompt: Prompt, item: Values | str, monkeypatch: pytest.MonkeyPatch, **options: int
) -> tuple[TokenSequences, TokenSequences, int]:
    """The sequences with all of the text encoded, those with as much as is needed, and the longest string encoded."""
    lengths: list[int] = []
    encoder = Encoder(tiny_tokenizer(name), prompt, context_tokens=CONTEXT, **options)
    with monkeypatch.context() as patch:
        patch.setattr(tokens, "CHARS_A_TOKEN", 10**9)
        (whole,) = encoder.encode([item])
        patch.undo()
        note_lengths(patch, lengths)
        (bounded,) = encoder.encode([item])
    return whole, bounded, max(lengths)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", TOKENIZERS)
@pytest.mark.parametrize("options", [{}, {"max_text_tokens": 5}], ids=["to the context", "to a limit"])
def test_what_is_kept_of_a_long_text_is_what_would_be_kept_of_all_of_it(
    name: str, kind: str, options: dict[str, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    prompt = make_prompt("p", "Article: {text}\nTopic:", (" World", " Sports"), ("World", "Sports"))
    text = long_text(kind, 60_000)
    whole, bounded, longest = encode(name, prompt, text, monkeypatch, **options)
    assert bounded == whole
    assert bounded.truncated
    assert longest < len(text)


@pytest.mark.parametrize("kind", sorted(KINDS.keys() - {"blanks"}))  # at a context's end they are scored
def test_of_the_contexts_of_requests_the_ends_are_kept(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    item: Values = {"context": [long_text(kind, 60_000)] * 2, "continuation": [" yes", " no"]}
    whole, bounded, longest = encode(next(iter(TOKENIZERS)), REQUESTS, item, monkeypatch)
    assert bounded == whole
    assert bounded.truncated
    assert longest < 60_000


def test_a_second_column_that_cannot_fit_is_refused_unread(monkeypatch: pytest.MonkeyPatch) -> None:
    """Only one column is cut."""
    prompt = make_prompt("p", "{title}: {text}\nTopic:", (" World", " Sports"), ("World", "Sports"))
    lengths: list[int] = []
    note_lengths(monkeypatch, lengths)
    encoder = Encoder(tiny_tokenizer(next(iter(TOKENIZERS))), prompt, context_tokens=CONTEXT)
    with pytest.raises(InputError, match="an item has more than 48 tokens with nothing left of 'text'"):
        encoder.encode([{"title": long_text("words", 500_000), "text": "short"}])
    assert max(lengths) < 10_000


def test_a_text_that_was_cut_and_does_not_fill_the_context_is_no_text(monkeypatch: pytest.MonkeyPatch) -> None:
    """What lies beyond was not read, so nothing may be said of it."""
    monkeypatch.setattr(tokens, "MOST_CHARS_A_TOKEN", 1)
    prompt = make_prompt("p", "{text}\nTopic:", (" World", " Sports"), ("World", "Sports"))
    encoder = Encoder(tiny_tokenizer(next(iter(TOKENIZERS))), prompt, context_tokens=CONTEXT)
    text = "a best world sport in it " * 100
    with pytest.raises(InputError, match="an item's 'text' is so long that 304 characters of it were read"):
        encoder.encode([text[: most_chars(CONTEXT)]])
    assert encoder.encode([text[: most_chars(CONTEXT) - 1]])[0].truncated
