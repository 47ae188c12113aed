"""The ids of the built-in prompts under tokenizers of known models, against their files' own encoding of each string.

joint: a prompt's ids and a label's are those of the whole string, encoded at once; the label begins at the first token
that the prompt alone does not begin with. separate (the notebook's): those of the prompt and of the label words, each
encoded alone, so that they differ from the whole string's where a tokenizer would join the text's last word and the
label words, and nowhere else.
"""

import json
from dataclasses import dataclass, replace
from itertools import takewhile
from pathlib import Path
from typing import Any

import polars as pl
import pytest
from tokenizers import Tokenizer
from transformers import PreTrainedTokenizerBase

from pipeline.prompts import AG_NEWS, BUILT_IN, Prompt, make_prompt
from pipeline.scoring.tokens import Encoder, Ids, TokenSequences
from pipeline.smollm2 import SMOLLM2
from tests.conftest import ROOT
from tests.real_tokenizers import NAMES, load_real_tokenizer, tokenizer_folder

pytestmark = pytest.mark.real
SAMPLE = [json.loads(line)["text"] for line in (ROOT / "data/sample/test.jsonl").read_text("utf-8").splitlines()[::4]]
# As feeds of news write them: what is left of markup, blanks by the dozen, and ends that a label may join.
FEED = (
    'Oil Near #36;50 &lt;A HREF="http://www.investor.example/q.aspx?t=X"&gt;X.N&lt;/A&gt; a barrel\\on Friday -- ',
    "NEW  YORK   (AP) -    Stocks\\    fell &lt;b&gt;...&lt;/b&gt;", 'He said: "It is over', "Who won? 3-2 (aet)",
    "A comment (", "Apple's i", "$", "In 2004 12,345.67 units -", "Südkorea: „Präsident…", "日本の記事", "🙂",
    "ends\n", "ends ", "ends  \n\n", "ends\t", "", "A" * 300, "http://a.example/", "What's New", "New", "underscore_",
)  # fmt: skip
TEXTS = [*SAMPLE, *FEED]
# What transformers puts before a text. DeepSeek's configuration asks for BOS as well (add_bos_token), its file does
# not, and transformers 5 goes by the file.
STARTS = {"gemma": (2,), "gemma3": (2,), "llama3_1": (128000,), "llama3_2": (128000,), "mistral_nemo": (1,)}


@dataclass(frozen=True)
class Real:
    """A real tokenizer, what its file alone makes of a string, and the ids that it puts before a text."""

    tokenizer: PreTrainedTokenizerBase
    backend: Any
    start: Ids

    def ids(self, string: str) -> Ids:
        return tuple(self.backend.encode(string, add_special_tokens=False).ids)

    def encode(self, prompt: Prompt, texts: list[str]) -> list[TokenSequences]:
        return Encoder(self.tokenizer, prompt, context_tokens=10_000).encode(texts)


@pytest.fixture(scope="module", params=[*NAMES, SMOLLM2])
def real(request: pytest.FixtureRequest) -> Real:
    """One after another, so that one at a time is in memory."""
    return load_real(request.param)


def load_real(name: str) -> Real:
    tokenizer: Any = load_real_tokenizer(name)
    if name == SMOLLM2:  # a GGUF holds no such file
        return Real(tokenizer, tokenizer.backend_tokenizer, ())
    return Real(tokenizer, Tokenizer.from_file(str(tokenizer_folder(name) / "tokenizer.json")), STARTS.get(name, ()))


def num_common(left: Ids, right: Ids) -> int:
    return sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], zip(left, right, strict=False)))


def check_joint(real: Real, prompt: Prompt, texts: list[str]) -> None:
    """Each item's sequences are the whole strings' ids, cut where prompt and label part."""
    for text, found in zip(texts, real.encode(replace(prompt, boundary="joint"), texts), strict=True):
        written = prompt.template.replace("{text}", text)
        alone = real.ids(written)
        for words, branch, num in zip(prompt.words, found.branches, found.num_label_tokens, strict=True):
            whole = real.ids(written + words)
            assert found.prompt_ids + branch == real.start + whole, (text, words)
            assert num == len(whole) - num_common(alone, whole), (text, words)


def check_separate(real: Real, prompt: Prompt, texts: list[str]) -> int:
    """Each item's sequences are both parts' ids; returns how many differ from the whole strings'."""
    num_other = 0
    for text, found in zip(texts, real.encode(replace(prompt, boundary="separate"), texts), strict=True):
        written = prompt.template.replace("{text}", text)
        alone = real.ids(written)
        for words, branch, num in zip(prompt.words, found.branches, found.num_label_tokens, strict=True):
            assert (found.prompt_ids, branch) == (real.start + alone, real.ids(words)), (text, words)
            assert num == len(branch)
            whole = real.ids(written + words)
            if alone + branch != whole:
                num_other += 1
                check_seam(real, written, words, whole)
    return num_other


def check_seam(real: Real, written: str, words: str, whole: Ids) -> None:
    """Before the prompt's last word and behind the label's first one the whole string has the same ids."""
    last, first = len(written.rstrip().rpartition(" ")[0]), len(words.partition(" ")[0])
    before, behind = real.ids(written[:last]), real.ids(words[first:])
    assert whole[: len(before)] == before, (written[-40:], words)
    assert whole[len(whole) - len(behind) :] == behind, (written[-40:], words)


def test_gemma_gives_the_ids_that_the_notebook_printed() -> None:
    """The cell on tokens: BOS and five words."""
    prompt = make_prompt("bare", "{text}", (" World", " Sports"), AG_NEWS[:2])
    (found,) = load_real("gemma").encode(prompt, ["What is your name?"])
    assert found.prompt_ids == (2, 1841, 603, 861, 1503, 235336)


def test_texts_begin_as_the_file_has_them_begin(real: Real) -> None:
    """BOS once where there is one, and where a text spells it, it is text."""
    (found,) = real.encode(BUILT_IN["answer"], [f"{real.tokenizer.bos_token or '<s>'} here"])
    assert tuple(real.tokenizer("a")["input_ids"]) == real.start + real.ids("a")
    assert found.prompt_ids[: len(real.start)] == real.start
    assert not set(found.prompt_ids[len(real.start) :]) & set(real.tokenizer.all_special_ids)


@pytest.mark.parametrize("prompt", BUILT_IN.values(), ids=lambda prompt: prompt.name)
def test_joint_ids_are_those_of_the_whole_string(real: Real, prompt: Prompt) -> None:
    """Also of the prompts whose own boundary is the other one."""
    check_joint(real, prompt, TEXTS)


@pytest.mark.parametrize("prompt", BUILT_IN.values(), ids=lambda prompt: prompt.name)
def test_separate_ids_are_those_of_both_parts(real: Real, prompt: Prompt) -> None:
    """The whole string's differ at the seam alone; not at all where label words begin with a blank of their own."""
    num_other = check_separate(real, prompt, TEXTS)
    assert bool(num_other) == (prompt.name != "answer")


def test_rows_of_ag_news_have_the_ids_of_their_strings(real: Real, shared: Path) -> None:
    """A hundred of the test split, spread over it, under each built-in prompt with its own boundary."""
    texts = pl.read_parquet(shared / "data/ag_news_test.parquet")["text"].to_list()[::76]
    for prompt in BUILT_IN.values():
        (check_joint if prompt.boundary == "joint" else check_separate)(real, prompt, texts)
