"""Token sequences are those of the whole strings; only the text is cut."""

import threading
from dataclasses import replace

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from tokenizers import Regex, normalizers
from transformers import PreTrainedTokenizerFast

from pipeline.errors import InputError
from pipeline.prompts import BUILT_IN, REQUESTS, Boundary, Chat, Prompt, Values, make_prompt
from pipeline.scoring.strings import StringEncoder
from pipeline.scoring.tokens import Encoder, Ids, TokenSequences
from tests.pipeline.scoring.tiny_models import TOKENIZERS, tiny_tokenizer

NAMES = ("a", "b", "c", "d")
TEMPLATES = ("Article: {text}\nTopic:", "{text}", "What is the topic?{text}", "{text} is about ", "Text: {text}.\n\n")
WORDS = (" World", "World", "ing", "s of science", "\nScience", "'s", "/", "2", " Sci/Tech", "▁x")
TEXTS = st.text(
    st.sampled_from([*"abeinorst", " ", " ", "\n", ".", "'", "2", "é", "数", "\u0301", "\u00a0", "\t", "<", "▁"]),
    max_size=30,
) | st.text(max_size=12)
SPECIAL = ("<bos>", "<eos>", "<turn>", "<pad>")


def encode_naively(name: str, strings: list[str]) -> list[Ids]:
    """Each string alone, special tokens in it taken as text, BOS as the tokenizer adds it."""
    tokenizer = tiny_tokenizer(name)
    return [tuple(tokenizer(string, split_special_tokens=True)["input_ids"]) for string in strings]


def num_shared(left: Ids, right: Ids) -> int:
    count = 0
    while count < min(len(left), len(right)) and left[count] == right[count]:
        count += 1
    return count


def check(sequences: TokenSequences, alone: Ids, joined: list[Ids]) -> None:
    """The parts put together are the whole, and what is scored begins where label and prompt part."""
    for branch, num_tokens, whole in zip(sequences.branches, sequences.num_label_tokens, joined, strict=True):
        assert sequences.prompt_ids + branch == whole
        assert num_tokens == len(whole) - num_shared(alone, whole)
    assert min(len(b) - n for b, n in zip(sequences.branches, sequences.num_label_tokens, strict=True)) == 0


@pytest.mark.parametrize("name", TOKENIZERS)
@settings(max_examples=150, deadline=None)
@given(
    texts=st.lists(TEXTS, min_size=1, max_size=3),
    template=st.sampled_from(TEMPLATES),
    words=st.lists(st.sampled_from(WORDS), min_size=2, max_size=4, unique_by=str.strip),
)
@example(texts=["a plant."], template="Article: {text}\nTopic:", words=[" World", "s"])
@example(texts=["half a w"], template="{text}", words=["ord", "World"])
@example(texts=["a b", "a"], template="{text}", words=[" b", " b c", "ing"])
def test_joint_sequences_are_the_whole_strings_encodings(
    name: str, texts: list[str], template: str, words: list[str]
) -> None:
    """For any text, template and label words: prompt + branch is the whole string's encoding, cut where the label's
    tokens part from the prompt's, however the seam was found."""
    prompt = make_prompt("p", template, tuple(words), NAMES[: len(words)])
    filled = [template.replace("{text}", text) for text in texts]
    alone = encode_naively(name, filled)
    joined = [encode_naively(name, [string + word for word in words]) for string in filled]
    try:
        found = Encoder(tiny_tokenizer(name), prompt, context_tokens=10_000).encode(texts)
    except InputError:  # words that have no tokens of their own, or nothing at all before them: see below
        return
    for sequences, ids, wholes in zip(found, alone, joined, strict=True):
        if ids and all(num_shared(ids, whole) for whole in wholes):
            check(sequences, ids, wholes)


@pytest.mark.parametrize("name", TOKENIZERS)
@given(text=TEXTS, template=st.sampled_from(TEMPLATES))
def test_separate_label_words_are_encoded_alone(name: str, text: str, template: str) -> None:
    """As the notebook did: the prompt's encoding, then the words' own without BOS."""
    words = (" World", "Sci/Tech", "s of science")
    prompt = make_prompt("p", template, words, NAMES[:3], "separate")
    (found,) = Encoder(tiny_tokenizer(name), prompt, context_tokens=10_000).encode([text])
    (alone,) = encode_naively(name, [template.replace("{text}", text)])
    branches = tuple(tuple(tiny_tokenizer(name)(word, add_special_tokens=False)["input_ids"]) for word in words)
    assert found.branches == branches
    assert found.num_label_tokens == tuple(map(len, branches))
    assert found.prompt_ids == (alone or found.prompt_ids[:1])


@pytest.mark.parametrize("name", TOKENIZERS)
@pytest.mark.parametrize("boundary", ["joint", "separate"])
def test_bos_stands_first_once_where_the_tokenizer_adds_one(name: str, boundary: Boundary) -> None:
    """Never twice, and never for a tokenizer that adds none."""
    tokenizer = tiny_tokenizer(name)
    prompt = make_prompt("p", "Article: {text}\nTopic:", (" World", " Science"), NAMES[:2], boundary)
    (found,) = Encoder(tokenizer, prompt, context_tokens=100).encode(["the <bos> river"])
    wanted = 0 if name == "bytes" else 1
    assert found.prompt_ids.count(tokenizer.bos_token_id) == wanted
    assert (found.prompt_ids[0] == tokenizer.bos_token_id) == bool(wanted)
    assert all(tokenizer.bos_token_id not in branch for branch in found.branches)


@pytest.mark.parametrize("name", TOKENIZERS)
@pytest.mark.parametrize("special", SPECIAL)
@pytest.mark.parametrize(("before", "after"), [("", ""), ("<bos><turn>user\n", "<turn>\nmodel\n"), ("One. ", " So")])
def test_a_text_never_makes_special_tokens(name: str, special: str, before: str, after: str) -> None:
    """A special token's name in a text is text, also amid chat markup, whose own special tokens count."""
    tokenizer = tiny_tokenizer(name)
    prompt = make_prompt("p", "Article: {text}\nTopic:", (" World", " Science"), NAMES[:2])
    encoder = Encoder(tokenizer, replace(prompt, chat=Chat(before, after)), context_tokens=300)
    plain, forged, split = encoder.encode(["a river", f"a {special} river", f"{special[1:]} river <"])
    ids = {tokenizer.convert_tokens_to_ids(token) for token in SPECIAL}
    specials = [[token for token in found.prompt_ids if token in ids] for found in (plain, forged, split)]
    assert specials[0] == specials[1] == specials[2]
    marks = [token for token in ("<bos>", "<turn>", "<turn>") if before.startswith("<bos>")]
    if marks:
        assert specials[0] == tokenizer.convert_tokens_to_ids(marks)


@pytest.mark.parametrize("name", TOKENIZERS)
@settings(max_examples=60, deadline=None)
@given(text=TEXTS)
def test_markup_around_a_prompt_is_encoded_as_one_string(name: str, text: str) -> None:
    """With chat markup the sequences are those of the whole string with its special tokens, BOS once."""
    tokenizer = tiny_tokenizer(name)
    before, after, words = "<bos><turn>user\n", "<turn>\nmodel\n", (" World", "Science")
    prompt = make_prompt("p", "Article: {text}\nTopic:", words, NAMES[:2])
    (found,) = Encoder(tokenizer, replace(prompt, chat=Chat(before, after)), context_tokens=300).encode([text])
    if any(token in f": {text}\n" for token in SPECIAL):
        return
    string = f"{before}Article: {text}\nTopic:{after}"
    alone, *joined = (tuple(tokenizer(string + w, add_special_tokens=False)["input_ids"]) for w in ("", *words))
    check(found, alone, joined)


@pytest.mark.parametrize("name", TOKENIZERS)
@settings(max_examples=60, deadline=None)
@given(text=TEXTS)
def test_requests_with_markup_in_them_are_encoded_as_they_stand(name: str, text: str) -> None:
    """What another tool has put into a chat template: its special tokens count, and BOS stands there once."""
    tokenizer = tiny_tokenizer(name)
    context, words = f"<bos><turn>user\n{text}<turn>\nmodel", (" World", "Science")
    for written in (context, context.removeprefix("<bos>")):
        item = {"context": [written] * 2, "continuation": list(words)}
        (found,) = Encoder(tokenizer, replace(REQUESTS, has_markup=True), context_tokens=300).encode([item])
        start = [tokenizer.bos_token_id] if written != context and StringEncoder(tokenizer).start else []
        alone, *joined = (
            [*start, *tokenizer(written + w, add_special_tokens=False)["input_ids"]] for w in ("", *words)
        )
        for branch, num, ids in zip(found.branches, found.num_label_tokens, joined, strict=True):
            assert list(found.prompt_ids + branch) == ids
            assert num == len(ids) - len(alone)


# --- too long -------------------------------------------------------------------------------------------------------

LONG = "The council of the city voted on Monday to rebuild the old bridge over the river. " * 4
PROMPT = make_prompt("p", "Article: {text}\nTopic:", (" World", " Science and so on"), NAMES[:2])


@pytest.mark.parametrize("name", TOKENIZERS)
@pytest.mark.parametrize("template", ["Article: {text}\nTopic:", "{text}", "Read {text} and name its topic:"])
@pytest.mark.parametrize("boundary", ["joint", "separate"])
def test_only_the_texts_end_is_cut_to_fit_the_context(name: str, template: str, boundary: Boundary) -> None:
    """Prompt and longest label fit; what is left is the prompt around a beginning of the text; it is flagged."""
    prompt = make_prompt("p", template, (" World", " Science and so on"), NAMES[:2], boundary)
    for context_tokens in (40, 64, 65, 66):
        encoder = Encoder(tiny_tokenizer(name), prompt, context_tokens=context_tokens)
        whole, cut = encoder.encode(["The city.", LONG])
        assert (whole.truncated, cut.truncated) == (False, True)
        assert len(cut.prompt_ids) + max(map(len, cut.branches)) <= context_tokens
        candidates = encoder_without_limit(name, prompt).encode([LONG[:end] for end in range(len(LONG))])
        assert any(c.prompt_ids == cut.prompt_ids and c.branches == cut.branches for c in candidates)


def encoder_without_limit(name: str, prompt: Prompt) -> Encoder:
    return Encoder(tiny_tokenizer(name), prompt, context_tokens=10_000)


@pytest.mark.parametrize("name", TOKENIZERS)
@settings(max_examples=60, deadline=None)
@given(text=TEXTS, limit=st.integers(1, 12))
def test_texts_are_cut_to_so_many_tokens(name: str, text: str, limit: int) -> None:
    """The kept text has at most the limit's tokens by itself; one that has no more is left alone."""
    tokenizer = tiny_tokenizer(name)
    encoder = Encoder(tokenizer, PROMPT, context_tokens=10_000, max_text_tokens=limit)
    (found,) = encoder.encode([text])

    def count(string: str) -> int:
        return len(tokenizer(string, add_special_tokens=False, split_special_tokens=True)["input_ids"])

    assert found.truncated == (count(text) > limit)
    kept = [text[:end] for end in range(len(text) + 1) if count(text[:end]) <= limit]
    candidates = encoder_without_limit(name, PROMPT).encode(kept)
    assert any(c.prompt_ids == found.prompt_ids and c.branches == found.branches for c in candidates)


def test_a_prompt_longer_than_the_context_is_refused() -> None:
    """Instruction and labels are never cut; the message has the numbers."""
    with pytest.raises(InputError, match=r"no text at all .* context is 10"):
        Encoder(tiny_tokenizer("bytes"), PROMPT, context_tokens=10)


@pytest.mark.parametrize("boundary", ["joint", "separate"])
def test_label_words_without_tokens_are_refused(boundary: Boundary) -> None:
    """A tokenizer that drops some characters leaves nothing to score."""
    tokenizer = TOKENIZERS["bytes"]()
    tokenizer.backend_tokenizer.normalizer = normalizers.Replace("#", "")
    prompt = make_prompt("p", "Article: {text}\nTopic:", (" World", "##"), NAMES[:2], boundary)
    with pytest.raises(InputError, match="'##' have no tokens"):
        Encoder(tokenizer, prompt, context_tokens=100).encode(["the river"])


LOWER_CASING = ("bytes", "unigram")  # one whose seams are found in windows, and one that encodes every text whole


def lower_casing(name: str) -> PreTrainedTokenizerFast:
    """A tokenizer that takes capitals for small letters, as BERT's and many a translation model's do."""
    tokenizer = TOKENIZERS[name]()
    tokenizer.backend_tokenizer.normalizer = normalizers.Lowercase()
    return tokenizer


@pytest.mark.parametrize("name", LOWER_CASING)
@pytest.mark.parametrize("boundary", ["joint", "separate"])
def test_labels_with_the_same_tokens_are_refused(name: str, boundary: Boundary) -> None:
    """All their scores would be ties, which the first always wins; the line names the prompt and both labels' words."""
    words = (" Sports", " World", " the", " world")
    prompt = make_prompt("mine", "Article: {text}\nTopic:", words, NAMES, boundary)
    with pytest.raises(InputError, match=r"prompt 'mine'.* ' World' and ' world' have the same tokens .*other words"):
        Encoder(lower_casing(name), prompt, context_tokens=200)
    Encoder(tiny_tokenizer(name), prompt, context_tokens=200).encode(["The river."])


@pytest.mark.parametrize("name", ["spaces", "unigram"])
@pytest.mark.parametrize("boundary", ["joint", "separate"])
def test_labels_that_are_the_same_unknown_token_are_refused(name: str, boundary: Boundary) -> None:
    """Words in letters that a vocabulary lacks are all the unknown token."""
    prompt = make_prompt("p", "Article: {text}\nTopic:", (" World", " ж", " щ"), NAMES[:3], boundary)
    with pytest.raises(InputError, match="' ж' and ' щ' have the same tokens"):
        Encoder(tiny_tokenizer(name), prompt, context_tokens=200)


def test_labels_that_become_the_same_behind_some_text_are_refused_there() -> None:
    """What a tokenizer makes of label words may hang on the letter before them: every seam is looked at."""
    tokenizer = TOKENIZERS["bytes"]()
    tokenizer.backend_tokenizer.normalizer = normalizers.Replace(Regex("xA"), "xb")
    encoder = Encoder(tokenizer, make_prompt("p", "{text}", ("A", "b"), NAMES[:2]), context_tokens=200)
    encoder.encode(["the river", "a city of"])
    with pytest.raises(InputError, match="'A' and 'b' have the same tokens"):
        encoder.encode(["the river", "a box"])


@pytest.mark.parametrize("name", TOKENIZERS)
@pytest.mark.parametrize("boundary", ["joint", "separate"])
def test_a_label_may_begin_another(name: str, boundary: Boundary) -> None:
    """The longer one has tokens of its own, behind those that they share."""
    prompt = make_prompt("p", "Article: {text}\nTopic:", (" the", " the river"), NAMES[:2], boundary)
    (found,) = Encoder(tiny_tokenizer(name), prompt, context_tokens=200).encode(["A city."])
    short, long = found.branches
    assert long[: len(short)] == short
    assert found.num_label_tokens[0] < found.num_label_tokens[1]


@pytest.mark.parametrize("boundary", ["joint", "separate"])
def test_more_label_tokens_than_the_score_table_can_say_are_refused(boundary: Boundary) -> None:
    """Their number is kept as int16; a tokenizer may make many of a few bytes."""
    tokenizer = TOKENIZERS["bytes"]()
    tokenizer.backend_tokenizer.normalizer = normalizers.Replace("#", "x" * 40)
    prompt = make_prompt("p", "Article: {text}\nTopic:", (" World", " " + "#" * 1000), NAMES[:2], boundary)
    with pytest.raises(InputError, match=r"the label words ' ##.*…' make 40,001 tokens .* at most 32,767") as caught:
        Encoder(tokenizer, prompt, context_tokens=100_000)
    assert len(str(caught.value)) < 300


def test_a_text_that_swells_a_label_beyond_the_table_is_refused() -> None:
    """A tokenizer that splits all of a long text anew for the label behind it leaves no tokens for the prompt."""
    tokenizer = TOKENIZERS["bytes"]()
    tokenizer.backend_tokenizer.normalizer = normalizers.Replace(Regex("q(?=x+Z)"), "Z")
    encoder = Encoder(tokenizer, make_prompt("p", "{text}", ("Z", "W"), NAMES[:2]), context_tokens=100_000)
    encoder.encode(["the river"])
    with pytest.raises(InputError, match="'Z' make"):
        encoder.encode(["q" + "x" * 40_000])


def test_a_prompt_of_no_tokens_starts_with_bos_or_eos() -> None:
    """An empty text in a bare template under a tokenizer without BOS still leaves something to go on."""
    prompt = make_prompt("p", "{text}", (" World", " Science"), NAMES[:2])
    tokenizer = tiny_tokenizer("bytes")
    (found,) = Encoder(tokenizer, prompt, context_tokens=100).encode([""])
    assert found.prompt_ids == (tokenizer.bos_token_id,)


# --- together -------------------------------------------------------------------------------------------------------


def test_threads_share_a_tokenizer() -> None:
    """Encoders of several prompts on several threads give what they give alone."""
    tokenizer = tiny_tokenizer("spaces")
    texts = [f"<bos> the city number {i} of the river" for i in range(40)]
    chat = Encoder(tokenizer, replace(PROMPT, chat=Chat("<bos><turn>", "<turn>")), context_tokens=200)
    plain = Encoder(tokenizer, PROMPT, context_tokens=200, max_text_tokens=20)
    expected = [encoder.encode(texts) for encoder in (chat, plain)]
    results: list[list[TokenSequences]] = [[], []]

    def encode(place: int) -> None:
        for _ in range(5):
            results[place] = (chat, plain)[place].encode(texts)

    threads = [threading.Thread(target=encode, args=(place,)) for place in (0, 1)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert results == expected


def test_items_of_one_prompt_share_their_branches() -> None:
    """With the seam in the template, labels are encoded once for all texts, not once a text."""
    found = Encoder(tiny_tokenizer("spaces"), BUILT_IN["answer"], context_tokens=500).encode(["the city", "a river."])
    assert found[0].branches is found[1].branches


# --- columns, choices of the item, contexts of their own ------------------------------------------------------------

QUIZ = Prompt("quiz", "{passage}|{question}:", choices="options")


@pytest.mark.parametrize("name", TOKENIZERS)
@settings(max_examples=100, deadline=None)
@given(
    passage=TEXTS,
    question=TEXTS,
    options=st.lists(TEXTS.filter(lambda text: bool(text.strip())), min_size=2, max_size=5),
    ends=st.sampled_from((":", "", "\n\n", " ", "A.\n")),
)
def test_choices_of_the_item_are_encoded_as_whole_strings(
    name: str, passage: str, question: str, options: list[str], ends: str
) -> None:
    """Joint, and as the harness does: white space moves to the choice, and the context's number of tokens cuts."""
    item: Values = {"passage": passage, "question": question, "options": options}
    prompt = replace(QUIZ, template=f"{{passage}}|{{question}}{ends}")
    context = f"{passage}|{question}{ends}"
    (sequences,) = Encoder(tiny_tokenizer(name), prompt, context_tokens=4096).encode([item])
    (alone,) = encode_naively(name, [context])
    check(sequences, alone, encode_naively(name, [f"{context} {option}" for option in options]))

    (sequences,) = Encoder(tiny_tokenizer(name), replace(prompt, boundary="harness"), context_tokens=4096).encode(
        [item]
    )
    bare = context.rstrip()
    (alone,) = encode_naively(name, [bare])
    joined = encode_naively(name, [f"{context} {option}" for option in options])
    for branch, num_tokens, whole in zip(sequences.branches, sequences.num_label_tokens, joined, strict=True):
        assert sequences.prompt_ids + branch == whole
        assert num_tokens == len(whole) - len(alone)


@pytest.mark.parametrize("name", TOKENIZERS)
def test_white_space_moves_from_solved_examples_too(name: str) -> None:
    """The harness strips its whole context: here an empty one behind examples that end in two line breaks."""
    prompt = Prompt("quiz", "", choices="options", boundary="harness", examples="Q: A.\n\n")
    (sequences,) = Encoder(tiny_tokenizer(name), prompt, context_tokens=100).encode([{"options": ["b", "ant"]}])
    (alone,) = encode_naively(name, ["Q: A."])
    joined = encode_naively(name, ["Q: A.\n\n b", "Q: A.\n\n ant"])
    assert [sequences.prompt_ids + branch for branch in sequences.branches] == joined
    assert list(sequences.num_label_tokens) == [len(ids) - len(alone) for ids in joined]


@pytest.mark.parametrize("name", TOKENIZERS)
def test_contexts_of_their_own_are_encoded_as_whole_strings(name: str) -> None:
    """What they share stands before the branches; where they share nothing, it is empty."""
    prompt = Prompt("gap", "{choice}{text}", choices=("a", "b"), choice=" was big.")
    item: Values = {"text": " is here because it", "a": "plant", "b": "ant"}
    (sequences,) = Encoder(tiny_tokenizer(name), prompt, context_tokens=4096).encode([item])
    contexts = [f"{item[column]}{item['text']}" for column in ("a", "b")]
    alone = encode_naively(name, contexts)
    joined = encode_naively(name, [f"{context} was big." for context in contexts])
    assert [sequences.prompt_ids + branch for branch in sequences.branches] == joined
    shared = [num_shared(*each) for each in zip(alone, joined, strict=True)]
    assert list(sequences.num_label_tokens) == [len(w) - s for w, s in zip(joined, shared, strict=True)]


def test_the_named_column_is_cut_else_the_text_else_the_longest() -> None:
    """At its end, until the longest choice fits; the others are whole, and nothing else is ever cut."""
    tokenizer = tiny_tokenizer(next(iter(TOKENIZERS)))
    item: Values = {"passage": "a b " * 40, "question": "c d " * 30, "text": "e f " * 3, "options": ["x", "y z"]}

    def strings(prompt: Prompt, context_tokens: int = 60, max_text_tokens: int | None = None) -> str:
        encoder = Encoder(tokenizer, prompt, context_tokens=context_tokens, max_text_tokens=max_text_tokens)
        (sequences,) = encoder.encode([item])
        assert sequences.truncated
        assert len(sequences.prompt_ids) + max(map(len, sequences.branches)) <= context_tokens
        return str(tokenizer.decode(sequences.prompt_ids, skip_special_tokens=True))

    short = replace(QUIZ, template="{passage}|{text}|{text}")
    (whole,) = Encoder(tokenizer, replace(QUIZ, template="{passage}|{question}"), context_tokens=4096).encode([item])
    room = len(whole.prompt_ids) - 10
    longest = strings(replace(QUIZ, template="{passage}|{question}"), context_tokens=room)
    assert str(item["question"]).strip() in longest
    assert str(item["passage"]).strip() not in longest
    named = strings(replace(QUIZ, template="{passage}|{question}", cut="question"), context_tokens=room)
    assert str(item["passage"]).strip() in named
    assert str(item["question"]).strip() not in named
    with pytest.raises(InputError, match="with nothing left of 'text'"):
        strings(short)
    few = strings(replace(QUIZ, template="{passage}|"), max_text_tokens=5)
    assert len(few) < 40
    with pytest.raises(InputError, match="cannot be cut"):
        replace(QUIZ, cut="options")


def test_of_requests_the_beginning_is_cut() -> None:
    """As the harness does: the last tokens of context and continuation stay, and a token to go on from."""
    tokenizer = tiny_tokenizer(next(iter(TOKENIZERS)))
    words = [" x y", " z"]
    item: Values = {"context": ["a b " * 40] * 2, "continuation": words}
    (sequences,) = Encoder(tokenizer, REQUESTS, context_tokens=20).encode([item])
    joined = encode_naively(next(iter(TOKENIZERS)), [f"{'a b ' * 40}{word}" for word in words])
    assert sequences.truncated
    assert [sequences.prompt_ids + branch for branch in sequences.branches] == [ids[-21:] for ids in joined]
    long: Values = {"context": ["a"] * 2, "continuation": [" x" * 60, " y"]}
    with pytest.raises(InputError, match=r"a continuation has \d+ tokens"):
        Encoder(tokenizer, REQUESTS, context_tokens=20).encode([long])


def test_choices_are_text_amid_markup_too() -> None:
    """A special token that a choice spells out is letters, like those of an item."""
    name = next(iter(TOKENIZERS))
    prompt = Prompt("quiz", "{q}", choices="o", choice="{choice}", chat=Chat("<turn>", "<turn>\n"))
    item: Values = {"q": "the shop", "o": ["opens", "<bos> x", "a <turn> b"]}
    tokenizer = tiny_tokenizer(name)
    (sequences,) = Encoder(tokenizer, prompt, context_tokens=200).encode([item])
    special = {token for token in tokenizer.all_special_ids if token is not None}
    for branch, num in zip(sequences.branches, sequences.num_label_tokens, strict=True):
        assert not special & set(branch[len(branch) - num :])
    assert tokenizer.decode(sequences.branches[2]).replace(" ", "").endswith("a<turn>b")


def test_without_bos_only_what_stands_alone_is_given_a_start() -> None:
    """Where one choice merges with a prompt of one token, the others still go on from it."""
    starts = {
        each: (tiny_tokenizer(each)("x")["input_ids"][0], tiny_tokenizer(each).bos_token_id) for each in TOKENIZERS
    }
    name = next(each for each, (first, bos) in starts.items() if first != bos)
    tokenizer = tiny_tokenizer(name)
    prompt = Prompt("quiz", "{q}", choices="o", choice="{choice}")
    for q in "abeinorst":
        for o in (["e", "he", "x y"], ["n", "s", "t r"]):
            (sequences,) = Encoder(tokenizer, prompt, context_tokens=200).encode([{"q": q, "o": o}])
            wholes = encode_naively(name, [q + each for each in o])
            for branch, num, whole in zip(sequences.branches, sequences.num_label_tokens, wholes, strict=True):
                ids = sequences.prompt_ids + branch
                started = ids if len(ids) == len(whole) else ids[1:]
                assert started == whole
                assert (len(ids) > len(whole)) == (num == len(whole))
