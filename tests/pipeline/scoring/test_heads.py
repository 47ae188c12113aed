"""A prompt's head is encoded once, and every string comes out as if it was encoded whole."""

import re
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import AddedToken, Regex, normalizers, pre_tokenizers
from transformers import AutoTokenizer, PreTrainedTokenizerBase, PreTrainedTokenizerFast

from pipeline.bundled import demo_model_path
from pipeline.errors import InputError
from pipeline.prompts import AG_NEWS, BOUNDARIES, BUILT_IN, Boundary, Chat, Prompt, Values, make_prompt
from pipeline.scoring import heads
from pipeline.scoring.heads import Head
from pipeline.scoring.locality import encodes_locally
from pipeline.scoring.strings import Ids, StringEncoder
from pipeline.scoring.tokens import Encoder, TokenSequences
from pipeline.smollm2 import SMOLLM2
from tests.flows.test_odd_texts import TEXTS as LONG_AND_ODD
from tests.pipeline.scoring.test_tokens import SPECIAL, TEXTS
from tests.pipeline.scoring.tiny_models import TOKENIZERS, tiny_tokenizer
from tests.real_tokenizers import NAMES, load_real_tokenizer

ODD_TEXTS = [text for text in LONG_AND_ODD.values() if len(text) < 1_000]
# How a text may begin so that it joins what stands before it, or changes it.
BEGINNINGS = (
    "", " ", "  ", "\n", "\n\n", "\t", " \n", "\u00a0", "\u0301", "\u200d", "▁", "▁▁", "1", "12,345", ".", ",", "...",
    "'s", "'", '"', '" said', ")", "-", "_", "/", "#", "s", "ing", "the", " the", "World", "é", "e\u0301", "数", "ж",
    "🏆", "<", "<bos>", "bos>", "</s>", "<|im_end|>", "<0x0A>", "{text}", "\x00", "\r\n",
)  # fmt: skip
AFTER = ("", " river in the city", "\nTopic:")
STRINGS = [begin + end for begin in BEGINNINGS for end in AFTER] + ODD_TEXTS
SHOT = (
    "Article: The council of the city voted\nTopic: World\n\nArticle: Shares fell 12%, it's said\nTopic: Business\n\n"
)
WORDS = (" World", " Sports", " Business", " Science")
HEADS = (
    "Classify the following news article into one of four categories.\nArticle:\n",
    "What is the topic of the following article?",
    f"{SHOT}Article: ",
    "So it was said in the old bo",
    "Read what they wrote in the café",
    "the words in it <bos> of the city <turn>",
    "of the best in the world  ",
    "a b c d e ж щ: ",
    "in 2004 12 345 of the 3",
    "It said \"this is the end of",
    "数学 it is of 数",
)  # fmt: skip


def encode_whole(tokenizer: PreTrainedTokenizerBase, strings: Sequence[str]) -> list[Ids]:
    """Each string alone, by the tokenizer's own call; special tokens in it are text."""
    strings_of = StringEncoder(tokenizer)  # which spells out what Unigram takes for a special token all the same
    options = {"add_special_tokens": False, "split_special_tokens": True}
    return [strings_of._spell_out(tokenizer(each, **options)["input_ids"]) for each in strings]


@contextmanager
def counted(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[int]]:
    """The lengths of all strings that are encoded meanwhile."""
    lengths: list[int] = []
    plain = StringEncoder.encode

    def noted(self: StringEncoder, strings: Sequence[str], *, markup: bool = False) -> list[Ids]:
        lengths.extend(map(len, strings))
        return plain(self, strings, markup=markup)

    with monkeypatch.context() as patch:
        patch.setattr(StringEncoder, "encode", noted)
        yield lengths


def check(tokenizer: PreTrainedTokenizerBase, head: str, texts: Sequence[str]) -> Head:
    """Strings with this head, and others, are encoded as they are whole; returns what encoded them."""
    encoder = Head(StringEncoder(tokenizer), head, markup=False)
    strings = [head + text for text in texts] + [*texts[:5], head[:-1], f"x{head[1:]} x"]
    for string, found, whole in zip(strings, encoder.encode(strings), encode_whole(tokenizer, strings), strict=True):
        assert found == whole, string[len(head) - 20 :]
    return encoder


# --- each string as it is whole -------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", TOKENIZERS)
@pytest.mark.parametrize("head", HEADS)
def test_whatever_a_text_begins_with_its_string_is_encoded_as_it_is_whole(name: str, head: str) -> None:
    check(tiny_tokenizer(name), head, STRINGS)


@pytest.mark.parametrize("name", TOKENIZERS)
@settings(max_examples=60, deadline=None)
@given(head=TEXTS, last=st.sampled_from(HEADS), texts=st.lists(TEXTS, min_size=1, max_size=4))
def test_any_head_and_any_text_are_encoded_as_they_are_whole(name: str, head: str, last: str, texts: list[str]) -> None:
    check(tiny_tokenizer(name), last + head, texts)
    check(tiny_tokenizer(name), head + last, texts)


def sequences(tokenizer: Any, prompt: Prompt, items: Any, **options: int) -> list[TokenSequences] | str:
    """The items' token sequences, or why there are none."""
    try:
        return Encoder(tokenizer, prompt, **options).encode(items)
    except InputError as error:
        return str(error)


def whole_sequences(
    patch: pytest.MonkeyPatch, tokenizer: Any, prompt: Prompt, items: Any, **options: int
) -> list[TokenSequences] | str:
    """The same where no head may be cut."""
    with patch.context() as patched:
        patched.setattr(heads, "BEFORE_WORD", re.compile("(?!)"))
        return sequences(tokenizer, prompt, items, **options)


TURN = "<turn>user\n"
PROMPTS = {
    "few-shot": make_prompt("p", "Article: {text}\nTopic:", WORDS, AG_NEWS, examples=SHOT),
    "words in the seam": make_prompt("p", "Read the article in it: {text}", ("s of science", "in it"), AG_NEWS[:2]),
    "stripped": make_prompt("p", "Read the article in it: {text} is about", WORDS, AG_NEWS, strip=True),
    "twice": make_prompt("p", "In this article of {text}\nit is {text}:", WORDS, AG_NEWS),
    "chat": make_prompt("p", BUILT_IN["detailed"].template, WORDS, AG_NEWS, chat=Chat(f"<bos>{TURN}", TURN, "both")),
    "few-shot chat": make_prompt(
        "p", "Article: {text}\nTopic:", WORDS, AG_NEWS, examples=SHOT, chat=Chat(f"{TURN}It is so\n", f"{TURN}It is")
    ),
    "turns": make_prompt(
        "p",
        "Article: {text}\nTopic:",
        WORDS,
        AG_NEWS,
        chat=Chat(f"{TURN}{SHOT}{TURN}", TURN, "left", ((len(TURN), len(TURN + SHOT)),)),
    ),
}


@pytest.mark.parametrize("name", TOKENIZERS)
@pytest.mark.parametrize("boundary", BOUNDARIES)
@pytest.mark.parametrize("kind", PROMPTS)
def test_token_sequences_are_those_of_whole_strings(
    name: str, boundary: Boundary, kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Prompts with solved examples, amid markup, with all boundaries; cut to a limit and to the context, too."""
    tokenizer, prompt = tiny_tokenizer(name), replace(PROMPTS[kind], boundary=boundary)
    items = [*STRINGS[1::3], *SPECIAL, *(f"of {special} it" for special in SPECIAL)]
    for options in ({"max_text_tokens": 3}, {}):
        whole = whole_sequences(monkeypatch, tokenizer, prompt, items, context_tokens=10_000, **options)
        assert sequences(tokenizer, prompt, items, context_tokens=10_000, **options) == whole
    if isinstance(whole, str):
        assert "have no tokens of their own" in whole  # words that join a text's last one
        return
    sizes = sorted(len(each.prompt_ids) + max(map(len, each.branches)) for each in whole)
    short = whole_sequences(monkeypatch, tokenizer, prompt, items, context_tokens=sizes[len(sizes) // 2])
    assert any(each.truncated for each in short)
    assert sequences(tokenizer, prompt, items, context_tokens=sizes[len(sizes) // 2]) == short


@pytest.mark.parametrize("name", TOKENIZERS)
@pytest.mark.parametrize("boundary", BOUNDARIES)
def test_choices_and_columns_are_those_of_whole_strings(
    name: str, boundary: Boundary, monkeypatch: pytest.MonkeyPatch
) -> None:
    """After solved examples, also where each choice has a context of its own."""
    tokenizer = tiny_tokenizer(name)
    quiz = Prompt("quiz", "Read what is in it: {passage}\n{q}:", choices="o", boundary=boundary, examples=SHOT)
    items: list[Values] = [{"passage": text, "q": text[:9], "o": [f"a{text}", f"b {text}"]} for text in STRINGS[::3]]
    gap = Prompt("gap", "{choice}{text}", choices=("a", "b"), choice=" was big.", boundary=boundary, examples=SHOT)
    gaps: list[Values] = [{"text": " of it", "a": f"it{text}", "b": text} for text in STRINGS[::3]]
    for prompt, given_items in ((quiz, items), (gap, gaps)):
        whole = whole_sequences(monkeypatch, tokenizer, prompt, given_items, context_tokens=10_000)
        assert Encoder(tokenizer, prompt, context_tokens=10_000).encode(given_items) == whole


# --- what is handed to the tokenizer --------------------------------------------------------------------------------


@pytest.mark.parametrize("prompt", [BUILT_IN["detailed"], PROMPTS["few-shot"]], ids=["detailed", "few-shot"])
@pytest.mark.parametrize("name", ["bundled", "bytes", "spaces", "dummy"])
def test_of_an_ordinary_item_little_more_than_its_text_is_encoded(
    name: str, prompt: Prompt, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The last two words of its head, what follows the text, and once for all items the seam."""
    tokenizer = AutoTokenizer.from_pretrained(demo_model_path()) if name == "bundled" else tiny_tokenizer(name)
    encoder = Encoder(tokenizer, prompt, context_tokens=10_000)
    texts = [f"The council of the city voted {i} times, and {text!r} is old." for i, text in enumerate(ODD_TEXTS)]
    encoder.encode(texts)
    with counted(monkeypatch) as lengths:
        encoder.encode(texts)
    rest = len(" said\nTopic: Business\n\nArticle: ") + len(prompt.tail)
    assert max(lengths) <= max(map(len, texts)) + rest + max(map(len, prompt.words))
    if name in ("bundled", "bytes"):  # those of the others cannot encode the line break in the seam
        assert sum(lengths) <= sum(map(len, texts)) + rest * len(texts)


@pytest.mark.parametrize("head", ["Article: ", "", "Article:", "two words", "数学数学数学", "It  is\nso it"])
def test_a_head_of_fewer_than_three_words_in_a_row_is_encoded_with_each_string(head: str) -> None:
    assert not check(tiny_tokenizer("bytes"), head, STRINGS)._word


LLAMA = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|"
    r"\s*[\r\n]+|\s+(?!\S)|\s+"
)
BYTES = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)


def split(pattern: str, behavior: str = "isolated") -> Any:
    return pre_tokenizers.Sequence([pre_tokenizers.Split(Regex(pattern), behavior), BYTES])


# What a tokenizer does before it merges, and whether a head may be cut under it.
LOCAL: dict[str, tuple[Any, Any]] = {
    "Llama 3": (None, split(LLAMA)),
    "Qwen": (normalizers.NFC(), split(LLAMA)),
    "digits alone": (None, pre_tokenizers.Sequence([pre_tokenizers.Digits(individual_digits=True), BYTES])),
    "a blank before": (None, pre_tokenizers.ByteLevel(add_prefix_space=True)),
    "words": (None, pre_tokenizers.Sequence([pre_tokenizers.WhitespaceSplit(), BYTES])),
    "small letters": (normalizers.Sequence([normalizers.NFKD(), normalizers.Lowercase()]), split(LLAMA)),
    "trimmed": (normalizers.Strip(), split(LLAMA)),
    "runs of blanks": (normalizers.Replace(Regex(r"\s+"), " "), split(LLAMA)),
    "two words at once": (None, split(r"[^\W]+ [^\W]+|\s+|[^\w\s]+|\w+")),
    "quotes at once": (None, split(r'"[^"]*"|' + LLAMA)),
    "quotes left out": (None, split(r'"[^"]*"', "removed")),
    "thousands": (None, split(r"\d{1,3}(?=(?:\d{3})*(?:\D|\n))|" + LLAMA)),
    "letters of a word at once": (normalizers.Replace("said", "▁"), split(LLAMA, "merged_with_next")),
}
FAR: dict[str, tuple[Any, Any]] = {
    "looks behind": (None, split(r"(?<=of) the| ?\w+|\s+|[^\w\s]+")),
    "at the beginning": (None, split(r"^ \w+| ?\w+|\s+|[^\w\s]+")),
    "at the end": (None, split(r"\w+ ?$| ?\w+|\s+|[^\w\s]+")),
    "far ahead": (None, split(r" (?=.*!)\w+| ?\w+|\s+|[^\w\s]+")),
    "so many letters": (None, pre_tokenizers.Sequence([pre_tokenizers.FixedLength(5), BYTES])),
    "by script": (None, pre_tokenizers.Sequence([pre_tokenizers.UnicodeScripts(), BYTES])),
    "two words joined": (normalizers.Replace("in the", "s"), split(LLAMA)),
}


def with_steps(normalizer: Any, pre_tokenizer: Any) -> PreTrainedTokenizerFast:
    tokenizer = TOKENIZERS["bytes"]()
    tokenizer.backend_tokenizer.normalizer, tokenizer.backend_tokenizer.pre_tokenizer = normalizer, pre_tokenizer
    return tokenizer


def test_the_seam_on_a_line_of_its_own_is_found_once_whatever_ends_the_line_before(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Also where a line break is one token with the punctuation before it: no text's last word is encoded again."""
    encoder = Encoder(with_steps(None, split(LLAMA)), PROMPTS["few-shot"], context_tokens=10_000)
    texts = [f"{i} of the old city{end}" for i in range(3) for end in (".", "!?", "", "1", '"')]
    encoder.encode(["It is.", "It is"])
    with counted(monkeypatch) as lengths:
        found = encoder.encode(texts)
    assert len(lengths) == len(texts)
    assert all(each.branches is found[0].branches for each in found)


@pytest.mark.parametrize("kind", LOCAL | FAR)
def test_whatever_a_tokenizer_does_first_strings_are_encoded_as_they_are_whole(kind: str) -> None:
    """A head is cut only under what is known to look no farther than the next word, and then where that is exact."""
    tokenizer = with_steps(*(LOCAL | FAR)[kind])
    assert encodes_locally(tokenizer) == (kind in LOCAL)
    found = [check(tokenizer, head, STRINGS)._word for head in HEADS]
    assert any(found) == (kind in LOCAL)


def test_steps_in_python_are_not_trusted() -> None:
    class Halves:
        def pre_tokenize(self, text: Any) -> None:
            text.split(lambda _, part: [part[: len(str(part)) // 2], part[len(str(part)) // 2 :]])

    halves: Any = pre_tokenizers.PreTokenizer.custom(Halves())
    tokenizer = with_steps(None, pre_tokenizers.Sequence([halves, BYTES]))
    assert not encodes_locally(tokenizer)
    assert not check(tokenizer, HEADS[0], STRINGS)._word


@pytest.mark.parametrize("word", ["of the", "the following article?", "article into one", "four categories"])
@pytest.mark.parametrize("flags", [{}, {"lstrip": True, "rstrip": True}, {"single_word": True}, {"normalized": True}])
def test_added_tokens_of_several_words_are_found_as_in_the_whole(word: str, flags: dict[str, bool]) -> None:
    """Also one that begins in the head and ends in the text."""
    tokenizer = TOKENIZERS["spaces"]()
    tokenizer.add_tokens([AddedToken(word, special=False, **flags), AddedToken("what is known so far", special=False)])
    for head in (*HEADS, f"This is {word[:-2]}", "This is what is known"):
        check(tokenizer, head, [word[-2:], f" {word}", f"{word} x", " so far", *STRINGS])


@pytest.mark.parametrize(
    ("pattern", "text"), [("article:X", "X of it"), ("the topic of the", " of the river"), ("e:X", "X")]
)
def test_a_text_that_changes_a_heads_words_is_encoded_whole(
    pattern: str, text: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A rule over several words is not local; one that only a text completes shows in the head's last words."""
    tokenizer = with_steps(normalizers.Replace(pattern, "s"), split(LLAMA))
    head = "In it is the topic of the article:"
    found = check(tokenizer, head, [text, "x", *STRINGS])
    assert bool(found._word) == (" " not in pattern)


def test_a_text_that_changes_the_first_word_behind_the_cut_is_encoded_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    tokenizer = with_steps(normalizers.Replace(Regex("the[ ]article:X"), "s"), split(LLAMA))
    head = "In it is the topic of the article:"
    assert check(tokenizer, head, ["X of it", "x", *STRINGS])._word
    encoder = Head(StringEncoder(tokenizer), head, markup=False)
    with counted(monkeypatch) as lengths:
        encoder.encode([f"{head}X of it", f"{head}Y"])
    assert lengths == [len(" the article:X of it"), len(" the article:Y"), len(head) + len("X of it")]


def test_another_model_than_byte_pairs_encodes_each_string_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    prompt = replace(BUILT_IN["detailed"], examples=SHOT)
    encoder = Encoder(tiny_tokenizer("unigram"), prompt, context_tokens=10_000)
    with counted(monkeypatch) as lengths:
        encoder.encode(ODD_TEXTS)
    assert sorted(lengths) == sorted(len(prompt.head) + len(text) for text in ODD_TEXTS)


# --- the tokenizer's own ways ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("step", ["__call__", "_encode_plus"])
def test_a_tokenizer_with_a_call_of_its_own_is_called(step: str) -> None:
    """What its class does to texts is done; other tokenizers are left without that detour."""
    plain: Callable[..., Any] = getattr(PreTrainedTokenizerFast, step)

    def shouted(self: Any, text: Any, *args: Any, **options: Any) -> Any:
        return plain(
            self, [each.upper() for each in text] if isinstance(text, list) else text.upper(), *args, **options
        )

    base = TOKENIZERS["bytes"]()
    own = type("Shouting", (PreTrainedTokenizerFast,), {step: shouted})
    tokenizer = own(tokenizer_object=base.backend_tokenizer)
    head = HEADS[0].upper()
    assert Head(StringEncoder(tokenizer), head, markup=False).encode([head + "it", "of"]) == encode_whole(
        base, [f"{head}IT", "OF"]
    )


@pytest.mark.parametrize("name", TOKENIZERS)
def test_a_tokenizer_that_cuts_and_pads_does_neither_here(name: str) -> None:
    """Whatever its file or another user of it has set."""
    tokenizer = TOKENIZERS[name]()
    whole, encoder = encode_whole(tokenizer, STRINGS), StringEncoder(tokenizer)
    tokenizer.backend_tokenizer.enable_truncation(3)
    tokenizer.backend_tokenizer.enable_padding(length=50)
    assert encoder.encode(STRINGS) == whole


# --- tokenizers of known models -------------------------------------------------------------------------------------


@pytest.mark.real
@pytest.mark.parametrize("name", [*NAMES, SMOLLM2])
def test_heads_of_known_tokenizers_are_encoded_once(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Under each of them heads are cut, and every string is as it is whole, also in prompts of all boundaries."""
    tokenizer = load_real_tokenizer(name)
    for head in (BUILT_IN["detailed"].head, *HEADS):
        assert check(tokenizer, head, STRINGS)._word or head not in HEADS[:3]
    for kind in ("few-shot", "chat", "turns"):
        for boundary in BOUNDARIES:
            prompt = replace(PROMPTS[kind], boundary=boundary)
            whole = whole_sequences(monkeypatch, tokenizer, prompt, STRINGS, context_tokens=10_000)
            assert Encoder(tokenizer, prompt, context_tokens=10_000).encode(STRINGS) == whole
    prompt = replace(BUILT_IN["answer"], boundary="separate", examples=SHOT * 5)
    encoder = Encoder(tokenizer, prompt, context_tokens=10_000)
    with counted(monkeypatch) as lengths:
        encoder.encode(STRINGS)
    assert max(lengths) < max(map(len, STRINGS)) + 50
