"""A GGUF's tokenizer gives the ids of the tokenizer.json that it was made of.

Rule: how a text is cut into words is said by a name in the header; a name gives the words of the tokenizers that were
published under it, or is refused.
"""

import json
import random
from pathlib import Path
from typing import Any

import gguf
import pytest
from tokenizers import Tokenizer

from pipeline.errors import InputError
from pipeline.reading.gguf_tokenizer import WORDS, load_gguf_tokenizer
from pipeline.reading.tokenizer_file import STRINGS
from tests.pipeline.reading.gguf_files import add_tokenizer, with_merges
from tests.pipeline.reading.tiny import save_tokenizer
from tests.real_tokenizers import tokenizer_folder

# What pre-tokenizers differ in, to be put together at random.
PIECES = [
    *" \n\t\r0123456789aAbZz.,;:!?'\"-_/()[]{}<>|@#$%^&*~`",
    *"éÄßøΩдж中文日本あア한🙂👍🏽\u0301\u00a0\u200b\ufb01²½Ⅷ٣\u2581",
    " the", " World", "Sci/Tech", "don't", "WE'LL", "\r\n", "  12", "  ", "123", "<unk>", "\n\n",
]  # fmt: skip
# The name under which llama.cpp's converter writes them, and the id of BOS that a text begins with.
REAL = {
    "llama3_1": ("llama-bpe", 128000),
    "qwen3": ("qwen2", None),
    "mistral_nemo": ("tekken", 1),
    "gptoss": ("gpt-4o", None),
    "gemma": ("default", 2),
    "gemma3": ("default", 2),
}


def random_strings(num: int) -> list[str]:
    rng = random.Random(0)
    return ["".join(rng.choices(PIECES, k=rng.randint(1, 30))) for _ in range(num)]


def write(file: Path, tokenizer: Path, pre: str, architecture: str = "llama", **said: Any) -> Path:
    """A GGUF with a tokenizer and no weights; `said` are further values of its tokenizer."""
    writer = gguf.GGUFWriter(file, architecture)
    writer.add_name("tiny")
    add_tokenizer(writer, tokenizer, pre)
    for key, value in said.items():
        add = writer.add_bool if isinstance(value, bool) else writer.add_uint32
        add(f"tokenizer.ggml.{key}", value)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return file


@pytest.fixture
def words(tmp_path: Path) -> Path:
    """A tokenizer.json with the words " t", "12", two blanks and " th"."""
    return with_merges(save_tokenizer(tmp_path / "tokenizer") / "tokenizer.json")


def test_digits_are_words_where_the_name_says_so(words: Path, tmp_path: Path) -> None:
    """transformers takes a name that it does not know for GPT-2's, which joins digits, and a blank to the first."""
    plain = load_gguf_tokenizer(write(tmp_path / "a.gguf", words, "gpt-2"), "a")
    assert plain.tokenize("the12 th  1") == ["t", "h", "e", "12", "Ġth", "Ġ", "Ġ", "1"]
    digits = load_gguf_tokenizer(write(tmp_path / "b.gguf", words, "smollm"), "b")
    assert digits.tokenize("the12 th  1") == ["t", "h", "e", "1", "2", "Ġth", "ĠĠ", "1"]


def test_a_text_begins_as_the_file_says_or_its_words_imply(words: Path, tmp_path: Path) -> None:
    """BOS by the header's flag; without one where the models of that name have it. One that is not named is refused."""

    def first(pre: str, **said: Any) -> int:
        tokenizer = load_gguf_tokenizer(write(tmp_path / f"{pre}{len(said)}.gguf", words, pre, **said), "model")
        return int(tokenizer("th")["input_ids"][0])

    letter = first("gpt-2", bos_token_id=2)
    assert letter != 2
    assert first("gpt-2", bos_token_id=2, add_bos_token=True) == 2
    assert first("llama-bpe", bos_token_id=2) == 2
    assert first("llama-bpe", bos_token_id=2, add_bos_token=False) == letter
    with pytest.raises(InputError, match="texts begin with a BOS token that its header does not name"):
        first("gpt-2", add_bos_token=True)


def test_special_tokens_are_found_whole_in_markup_and_never_in_a_text(words: Path, tmp_path: Path) -> None:
    file = write(tmp_path / "a.gguf", words, "gpt-2", eos_token_id=1)
    assert load_gguf_tokenizer(file, "a")("a<eos>")["input_ids"][1:] == [1]
    assert 1 not in load_gguf_tokenizer(file, "a", split_special_tokens=True)("a<eos>")["input_ids"]


@pytest.mark.parametrize("pre", ["default", "chatglm-bpe", "falcon"])
def test_other_words_are_refused(pre: str, words: Path, tmp_path: Path) -> None:
    assert pre not in WORDS
    with pytest.raises(InputError, match=rf"cuts texts into words as '{pre}' does .tokenizer.ggml.pre."):
        load_gguf_tokenizer(write(tmp_path / "a.gguf", words, pre), "a")


def pieces(folder: Path) -> Path:
    """A tokenizer.json of sentencepiece's kind, as Gemma 3's: bytes, words of letters, and runs of blanks."""
    tokens = ["<pad>", "<eos>", "<bos>", "<unk>", *(f"<0x{byte:02X}>" for byte in range(256)), *"\u2581abc"]
    merges = [("a", "b"), ("\u2581", "ab"), ("\u2581", "\u2581"), ("\u2581\u2581", "\u2581\u2581")]
    tokens += ["".join(pair) for pair in merges]
    added = [(number, token) for number, token in enumerate(tokens) if number < 4 or token.endswith("\u2581\u2581")]
    said = {
        "version": "1.0",
        "added_tokens": [
            {"id": number, "content": token, "special": number < 4, "normalized": False}
            | dict.fromkeys(("single_word", "lstrip", "rstrip"), False)
            for number, token in added
        ],
        "normalizer": {"type": "Replace", "pattern": {"String": " "}, "content": "\u2581"},
        "pre_tokenizer": None,
        "post_processor": None,
        "decoder": None,
        "model": {
            "type": "BPE",
            "unk_token": "<unk>",
            "fuse_unk": True,
            "byte_fallback": True,
            "vocab": {token: number for number, token in enumerate(tokens)},
            "merges": merges,
        },
    }
    file = folder / "pieces.json"
    file.write_text(json.dumps(said), encoding="utf-8")
    return file


def test_runs_of_blanks_are_the_tokens_that_they_were(tmp_path: Path) -> None:
    """Gemma 2's and 3's are blanks in a GGUF, as a text has them, and are not for that cut into pieces."""
    published = pieces(tmp_path)
    said = {"bos_token_id": 2, "add_space_prefix": False}
    tokenizer = load_gguf_tokenizer(write(tmp_path / "a.gguf", published, "default", "gemma3", **said), "a")
    own = Tokenizer.from_file(str(published))
    rng = random.Random(0)
    for string in ["a  b", *("".join(rng.choices(" \u2581abcd", k=9)) for _ in range(300))]:
        assert tokenizer(string)["input_ids"] == [2, *own.encode(string).ids], string


def test_phi_3s_markup_takes_the_line_end_behind_it(tmp_path: Path) -> None:
    """As in its tokenizer.json, and not so what a text begins with; its text is cut as ever."""
    file = write(tmp_path / "a.gguf", pieces(tmp_path), "default", "phi3", bos_token_id=2, eos_token_id=1)
    tokenizer = load_gguf_tokenizer(file, "a")
    line_end = 4 + ord("\n")
    told = tokenizer("<eos> \n ab<pad>\na", add_special_tokens=False)["input_ids"]
    ab, a = (tokenizer(text, add_special_tokens=False)["input_ids"] for text in ("ab", "a"))
    assert told == [1, *ab, 0, *a]
    assert line_end in tokenizer("a\nab")["input_ids"]
    other = write(tmp_path / "b.gguf", pieces(tmp_path), "default", "llama", bos_token_id=2, eos_token_id=1)
    assert line_end in load_gguf_tokenizer(other, "b")("<eos>\nab")["input_ids"]


@pytest.mark.parametrize(
    ("key", "edit", "reason"),
    [
        ("token_type", lambda kinds: kinds[:-1], "it lacks tokens, or their kinds or scores"),
        ("token_type", None, "it lacks tokens, or their kinds or scores"),
        ("scores", None, "it lacks tokens, or their kinds or scores"),
        ("scores", lambda scores: [-1000.0] * len(scores), "its scores are all the same"),
        ("tokens", lambda tokens: [*tokens[:-1], "a"], "it has a token twice"),
        ("tokens", None, "it lacks tokens, or their kinds or scores"),
    ],
)
def test_a_tokenizer_of_which_ids_do_not_follow_is_refused(
    key: str, edit: Any, reason: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without kinds, markup is cut into pieces; with all scores the same, any merge can be the first."""
    add = gguf.GGUFWriter.add_array

    def edited(writer: gguf.GGUFWriter, name: str, values: Any) -> None:
        if name != f"tokenizer.ggml.{key}":
            add(writer, name, values)
        elif edit is not None:
            add(writer, name, edit(values))

    monkeypatch.setattr(gguf.GGUFWriter, "add_array", edited)
    file = write(tmp_path / "a.gguf", pieces(tmp_path), "default", bos_token_id=2)
    with pytest.raises(InputError, match=reason):
        load_gguf_tokenizer(file, "a")


@pytest.mark.real
@pytest.mark.parametrize("name", REAL)
def test_a_published_tokenizer_comes_out_of_its_gguf(name: str, tmp_path: Path) -> None:
    """Some thousand strings, those of the check of every tokenizer among them, against tokenizer.json alone."""
    published = tokenizer_folder(name) / "tokenizer.json"
    pre, begin = REAL[name]
    said: dict[str, Any] = {} if begin is None else {"bos_token_id": begin}
    if name.startswith("gemma"):
        said["add_space_prefix"] = False
    architecture = {"gemma": "gemma2", "gemma3": "gemma3"}.get(name, "llama")
    file = write(tmp_path / "a.gguf", published, pre, architecture, **said)
    tokenizer = load_gguf_tokenizer(file, name)
    own = Tokenizer.from_file(str(published))
    start = [] if begin is None else [begin]
    for string in [*STRINGS, *random_strings(3_000)]:
        assert tokenizer(string)["input_ids"] == start + own.encode(string, add_special_tokens=False).ids, string
