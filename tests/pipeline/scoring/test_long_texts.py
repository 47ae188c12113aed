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
    assert longest < 60_000 or kind == "one letter"  # which is encoded from its beginning


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
        encoder.encode([text[: most_chars(CONTEXT) + 1]])
    assert encoder.encode([text[: most_chars(CONTEXT)]])[0].truncated


def test_blanks_that_a_prompt_takes_away_do_not_stand_for_the_text(monkeypatch: pytest.MonkeyPatch) -> None:
    """However many they are: what stands behind them is scored, and whether something was cut is told."""
    prompt = make_prompt("p", "Article: {text}\nTopic:", (" World", " Sports"), ("World", "Sports"), strip=True)
    for text in (" " * 50_000 + "a best world", "in it" + " " * 50_000, "in" + " " * 50_000 + "it" + "\n" * 900):
        whole, bounded, _ = encode(next(iter(TOKENIZERS)), prompt, text, monkeypatch)
        assert bounded == whole
    blank, *_ = encode(next(iter(TOKENIZERS)), prompt, "", monkeypatch)
    assert encode(next(iter(TOKENIZERS)), prompt, " " * 50_000 + "best", monkeypatch)[1] != blank


def test_a_slot_reads_up_to_its_mark_however_long_the_rest_is(monkeypatch: pytest.MonkeyPatch) -> None:
    """Only what is put in has to fit."""
    prompt = make_prompt("p", "{text.after(#)}\nTopic:", (" World", " Sports"), ("World", "Sports"))
    item: Values = {"text": long_text("words", 60_000) + "#a best world"}
    whole, bounded, _ = encode(next(iter(TOKENIZERS)), prompt, item, monkeypatch)
    assert bounded == whole
    assert not bounded.truncated


def test_the_longest_column_stays_the_one_to_cut(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of two that are long, the second is cut where a limit made the first short."""
    prompt = make_prompt("p", "{a}: {b}\nTopic:", (" World", " Sports"), ("World", "Sports"))
    item: Values = {"a": long_text("words", 60_000), "b": long_text("words", 30_000)}
    whole, bounded, longest = encode(next(iter(TOKENIZERS)), prompt, item, monkeypatch, max_text_tokens=5)
    assert bounded == whole
    assert longest < 60_000


def test_the_end_of_a_run_of_letters_is_that_of_the_whole_run(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its tokens are counted from its beginning on."""
    tokenizer = next(iter(TOKENIZERS))
    for num_letters in range(20_000, 20_008):
        item: Values = {"context": ["it " + "a" * num_letters] * 2, "continuation": [" yes", " no"]}
        whole, bounded, _ = encode(tokenizer, REQUESTS, item, monkeypatch)
        assert bounded == whole
