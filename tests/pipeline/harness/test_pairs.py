"""Ids of contexts and continuations are the harness' own, whatever is written in them."""

from functools import cache
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.errors import InputError
from pipeline.harness.pairs import Group, PairEncoder
from pipeline.scoring.strings import Ids
from pipeline.scoring.tokens import TokenSequences
from tests.pipeline.scoring.tiny_models import TOKENIZERS, tiny_model, tiny_tokenizer

pytest.importorskip("accelerate")
huggingface = pytest.importorskip("lm_eval.models.huggingface")

from lm_eval.api.instance import Instance  # noqa: E402  # after the skip

MAX_LENGTH = 40
Encoded = tuple[Ids, Ids]

CONTEXTS = (
    "", " ", "\n", "The council", "The council ", "The council \n\t", "<bos>The council", "<bos>", "<bos> ", "a<bos>b ",
    "<eos> of the", "Shares of the maker <turn>", "naïve café: 数学 ", "🙂", "Article:\nTopic:", "x\u00a0", "x\u2003",
    "The council of the city voted on Monday to rebuild the old bridge. " * 6, "Topic: Science\n\n" * 3,
)  # fmt: skip
CONTINUATIONS = (
    " the city", "the city", "  two blanks", "\nline", "<bos>", "<bos> the", "<eos>", "s", "é", " 数学", ".", " World ",
    " Sci/Tech", "🙂", "\u00a0", " voted on Monday to rebuild",
)  # fmt: skip


class Recorder(huggingface.HFLM):  # type: ignore[misc,name-defined]
    """The harness' own class, which keeps what it was about to score."""

    def _loglikelihood_tokens(self, requests: list[Any], **_: object) -> list[Any]:
        self.seen = requests
        return [None] * len(requests)


@cache
def recorder(name: str, add_bos: bool | None) -> Any:
    return Recorder(tiny_model("gemma"), tokenizer=tiny_tokenizer(name), add_bos_token=add_bos, max_length=MAX_LENGTH)


def expected(name: str, add_bos: bool | None, pairs: list[tuple[str, str]]) -> list[Encoded]:
    """What the harness' own class encodes, and what of it reaches its model and is scored."""
    harness = recorder(name, add_bos)
    harness.loglikelihood([Instance("loglikelihood", {}, pair, 0) for pair in pairs], disable_tqdm=True)
    found = []
    for _, context, scored in harness.seen:
        whole = (context + scored)[-MAX_LENGTH - 1 :]
        found.append((tuple(whole[: -len(scored)] if scored else whole), tuple(scored)))
    return found


def encoder(name: str, add_bos: bool | None) -> PairEncoder:
    tokenizer = tiny_tokenizer(name)
    token = tokenizer.bos_token_id
    assert isinstance(token, int)
    return PairEncoder(tokenizer, prefix_token=token, max_length=MAX_LENGTH, add_special_tokens=add_bos)


def unfold(item: TokenSequences) -> list[Encoded]:
    found = []
    for branch, num_tokens in zip(item.branches, item.num_label_tokens, strict=True):
        whole = item.prompt_ids + branch
        found.append((whole[:-num_tokens], whole[-num_tokens:]))
    return found


def is_refused(pair: Encoded) -> bool:
    """The harness stops at an assertion here."""
    return not pair[0] or not pair[1] or len(pair[1]) > MAX_LENGTH


@pytest.mark.parametrize("add_bos", [None, True, False])
@pytest.mark.parametrize("name", TOKENIZERS)
def test_odd_strings_give_the_ids_of_the_harness(name: str, add_bos: bool | None) -> None:
    """White space at the end, BOS spelt out, no context, one too long: alone and all in one call."""
    pairs = [(context, each) for context in CONTEXTS for each in CONTINUATIONS]
    wanted = expected(name, add_bos, pairs)
    right = [(pair, ids) for pair, ids in zip(pairs, wanted, strict=True) if not is_refused(ids)]
    assert len(right) > 0.8 * len(pairs)
    own = encoder(name, add_bos)
    for (context, each), ids in right:
        assert unfold(own.encode([Group(context, (each,))])[0]) == [ids]
    together = own.encode([Group(context, (each,)) for (context, each), _ in right])
    assert [unfold(item) for item in together] == [[ids] for _, ids in right]


PIECES = st.sampled_from([*CONTEXTS[:-2], *CONTINUATIONS, " of", " the", ", ", "\n", "Topic:", "(A)", "12%", " "])
STRINGS = st.lists(PIECES, max_size=4).map("".join)


@pytest.mark.parametrize("name", TOKENIZERS)
@settings(max_examples=60)
@given(context=STRINGS, words=st.lists(STRINGS.filter(bool), min_size=1, max_size=5, unique=True))
def test_a_group_gives_each_of_its_pairs(name: str, context: str, words: list[str]) -> None:
    """Continuations that share a context share its ids; one that cannot be scored is told by name."""
    wanted = expected(name, None, [(context, each) for each in words])
    group = Group(context, tuple(words))
    if any(map(is_refused, wanted)):
        with pytest.raises(InputError, match=r"tokens"):
            encoder(name, None).encode([group])
    else:
        assert unfold(encoder(name, None).encode([group])[0]) == wanted


@pytest.mark.parametrize("words", [("",), (" a", ""), (" city" * 50,)])
def test_what_cannot_be_scored_is_one_line(words: tuple[str, ...]) -> None:
    """No tokens of its own, or more than the model takes."""
    with pytest.raises(InputError, match=r"the continuation .* tokens"):
        encoder("bytes", None).encode([Group("The council", words)])
