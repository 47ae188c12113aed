"""The tokenizer beside its own file, its packages, and the model's embeddings."""

import json
import shutil
import sys
from pathlib import Path
from typing import Any

import pytest
import transformers
from packaging.version import Version
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers
from transformers import (
    AutoTokenizer,
    GemmaConfig,
    GemmaForCausalLM,
    PreTrainedTokenizerFast,
    Qwen2Config,
    Qwen2ForCausalLM,
)

from pipeline.errors import InputError
from pipeline.one_text import load
from pipeline.prompts import BUILT_IN
from pipeline.reading.model import check_vocabulary, load_model, load_tokenizer, resolve_model
from pipeline.reading.tokenizer_file import STRINGS, find_difference, is_the_file, looks_same
from tests.pipeline.reading.tiny import SIZES, edit_json, load_whole, refuse, save_llama, save_model
from tests.real_tokenizers import tokenizer_folder

# Against its own file


def test_the_strings_hold_the_seams_of_the_built_in_templates() -> None:
    """What a tokenizer may do otherwise: blanks, breaks, digits, other scripts, and what stands before a label."""
    heads = {prompt.template.partition("{text}")[0].strip() for prompt in BUILT_IN.values()}
    whole = "\n".join(STRINGS)
    assert any(head in whole for head in heads if head)
    assert all(part in whole for part in ("  ", "\n\n", "\r\n", "\t", "12 345", "é", "\u0301", "好", "\nTopic: World"))
    assert not any(string.startswith(" ") for string in STRINGS)


def ids_of_file(path: Path, string: str) -> list[int]:
    return list(Tokenizer.from_file(str(path / "tokenizer.json")).encode(string, add_special_tokens=False).ids)


def test_a_tokenizer_that_transformers_builds_otherwise_is_taken_as_its_file_has_it(tmp_path: Path) -> None:
    """For a Qwen 2 model it takes Qwen's pre-tokenizer, whatever the file says; scores of before are not used again."""
    path = save_model(Qwen2ForCausalLM(Qwen2Config(**SIZES)), tmp_path / "qwen2")
    string = STRINGS[6]
    assert AutoTokenizer.from_pretrained(path)(string, add_special_tokens=False)["input_ids"] != ids_of_file(
        path, string
    )
    ref = resolve_model(path, device="cpu")
    assert ref.fix == "tokenizer.json as it stands"
    tokenizer = load_tokenizer(ref)
    assert all(tokenizer(s, add_special_tokens=False)["input_ids"] == ids_of_file(path, s) for s in STRINGS)
    assert (tokenizer.bos_token, tokenizer.pad_token) == ("<bos>", "<pad>")


def save_gemma(folder: Path, *, blanks: bool) -> Path:
    """A Gemma whose tokenizer names Gemma's class; with `blanks` its file treats them as that class does."""
    letters = sorted({letter for string in STRINGS for letter in string} | set("▁"))
    names = ["<pad>", "<eos>", "<bos>", "<unk>", *(f"<0x{byte:02X}>" for byte in range(256)), *letters, "▁W"]
    backend = Tokenizer(
        models.BPE(
            {name: number for number, name in enumerate(dict.fromkeys(names))}, [("▁", "W")],
            unk_token="<unk>", fuse_unk=True, byte_fallback=True,
        )
    )  # fmt: skip
    backend.normalizer = normalizers.Replace(" ", "▁" if blanks else "_")
    backend.pre_tokenizer = pre_tokenizers.Split(" ", "merged_with_previous")
    config = GemmaConfig(**{**SIZES, "vocab_size": 400, "num_key_value_heads": 1}, head_dim=8)
    save_model(GemmaForCausalLM(config), folder)
    specials = {"pad_token": "<pad>", "eos_token": "<eos>", "bos_token": "<bos>", "unk_token": "<unk>"}
    PreTrainedTokenizerFast(tokenizer_object=backend, **specials).save_pretrained(folder)
    edit_json(folder / "tokenizer_config.json", tokenizer_class="GemmaTokenizer")
    return folder


def test_a_tokenizer_that_does_not_encode_as_its_file_is_refused(tmp_path: Path) -> None:
    """With the first token that differs, and what to write to have the file used; doing that helps."""
    load_whole(save_gemma(tmp_path / "right", blanks=True))
    path = save_gemma(tmp_path / "wrong", blanks=False)
    refuse(path, r"transformers' GemmaTokenizer does not encode as tokenizer.json says \(token \d+ of 'Article: .*'_'")
    edit_json(path / "tokenizer_config.json", tokenizer_class="TokenizersBackend")
    load_whole(path)


REAL = {
    "gemma": "gemma", "gemma3": "gemma3", "llama3": "llama", "qwen3": "qwen3", "gptoss": "gpt_oss",
    "deepseek_v3": "deepseek_v3",
}  # fmt: skip


@pytest.mark.real
@pytest.mark.parametrize("name", REAL)
def test_real_tokenizers_pass_without_their_files_being_read_whole(name: str, tmp_path: Path) -> None:
    """As they are published."""
    for file in tokenizer_folder(name).iterdir():
        shutil.copy(file, tmp_path)
    (tmp_path / "config.json").write_text(f'{{"model_type": "{REAL[name]}"}}')
    tokenizer = AutoTokenizer.from_pretrained(tmp_path)
    assert find_difference(tokenizer, tmp_path) is None
    assert is_the_file(tokenizer) or looks_same(tokenizer, tmp_path / "tokenizer.json")
    assert all(tokenizer(s, add_special_tokens=False)["input_ids"] == ids_of_file(tmp_path, s) for s in STRINGS)


# A sentencepiece model alone


class Without:
    """Python as it is where a package is not installed."""

    def __init__(self, package: str) -> None:
        self.package = package

    def find_spec(self, name: str, path: object = None, target: object = None) -> None:
        if name.partition(".")[0] == self.package:
            raise ModuleNotFoundError(f"No module named {name!r}")


def save_pieces(path: Path, kind: str, **options: Any) -> None:
    """A sentencepiece model in the place of tokenizer.json."""
    pieces = pytest.importorskip("sentencepiece")
    corpus = path / "corpus.txt"
    corpus.write_text("\n".join([*STRINGS, *(f"oil prices rise {i} times in world markets" for i in range(200))] * 3))
    pieces.SentencePieceTrainer.train(
        input=str(corpus), model_prefix=str(path / "tokenizer"), vocab_size=400, model_type=kind, minloglevel=2,
        byte_fallback=True, normalization_rule_name="identity", remove_extra_whitespaces=False, hard_vocab_limit=False,
        **options,
    )  # fmt: skip
    for name in ("tokenizer.json", "tokenizer_config.json", "corpus.txt", "tokenizer.vocab"):
        (path / name).unlink()


@pytest.mark.parametrize("kind", ["bpe", "unigram"])
def test_a_sentencepiece_model_alone_gives_sentencepieces_own_ids(tmp_path: Path, kind: str) -> None:
    """transformers converts it; where an older one does so otherwise, that is told."""
    path = save_llama(tmp_path / "llama", vocab_size=400)
    save_pieces(path, kind)
    from sentencepiece import SentencePieceProcessor

    own = SentencePieceProcessor(str(path / "tokenizer.model"))
    if Version(transformers.__version__) < Version("5.21"):  # it left out the blank before a text
        refuse(path, "does not encode as tokenizer.model says")
        return
    tokenizer = load_tokenizer(resolve_model(path, device="cpu"))
    assert all(tokenizer(s, add_special_tokens=False)["input_ids"] == own.encode(s) for s in STRINGS)
    load_whole(path)


def test_a_sentencepiece_model_that_transformers_reads_otherwise_is_refused(tmp_path: Path) -> None:
    """Gemma's class puts no blank before a text, whatever the model says."""
    path = save_llama(tmp_path / "llama", vocab_size=500)
    save_pieces(path, "bpe")
    (path / "tokenizer_config.json").write_text('{"tokenizer_class": "GemmaTokenizer"}')
    refuse(path, r"GemmaTokenizer does not encode as tokenizer.model says .* get the model's tokenizer.json")


@pytest.mark.parametrize(
    ("content", "packages", "missing"),
    [
        (b"\n\x0e\n\x05<unk>", "sentencepiece and protobuf", "sentencepiece"),
        (b"\n\x0e\n\x05<unk>", "sentencepiece and protobuf", "google"),
        (b"IQ== 0\nIg== 1\n", "tiktoken", "tiktoken"),
    ],
)
def test_packages_that_a_tokenizer_model_takes_are_named(
    llama: Path, monkeypatch: pytest.MonkeyPatch, content: bytes, packages: str, missing: str
) -> None:
    """In one line, for its kind: transformers asks for tiktoken in either case."""
    (llama / "tokenizer.json").unlink()
    (llama / "tokenizer.model").write_bytes(content)
    for name in [name for name in sys.modules if name.partition(".")[0] == missing]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setattr(sys, "meta_path", [Without(missing), *sys.meta_path])
    refuse(llama, f"tokenizer.model without a tokenizer.json takes {packages} to read; pip install")


# Against the embeddings


def add(path: Path, *, special: bool) -> Any:
    tokenizer = AutoTokenizer.from_pretrained(path)
    tokenizer.add_tokens(["<more>"], special_tokens=special)
    tokenizer.save_pretrained(path)
    return tokenizer


def test_a_token_beyond_the_embeddings_that_a_text_can_have_is_refused(llama: Path) -> None:
    """A word added after the weights were saved, or the tokenizer of another model."""
    add(llama, special=False)
    with pytest.raises(InputError, match=r"1 tokens that the model has no embedding for .it has 260; '<more>' is 260"):
        load(str(llama), device="cpu")
    small = save_llama(llama.parent / "small", vocab_size=200)
    with pytest.raises(InputError, match="60 tokens that the model has no embedding for"):
        load(str(small), device="cpu")


def test_a_special_token_beyond_the_embeddings_is_allowed_where_no_text_has_it(llama: Path) -> None:
    """A token for padding that somebody added; not where the markup has it, or texts begin with it."""
    add(llama, special=True)
    load(str(llama), device="cpu")
    ref = resolve_model(llama, device="cpu")
    tokenizer, model = load_tokenizer(ref), load_model(ref)
    check_vocabulary(tokenizer, model, "here", markup="<bos>user: ")
    with pytest.raises(InputError, match="'<more>' is 260"):
        check_vocabulary(tokenizer, model, "here", markup="<more>user: ")
    edit_json(llama / "tokenizer_config.json", bos_token="<more>", add_bos_token=True, tokenizer_class="LlamaTokenizer")
    starting = AutoTokenizer.from_pretrained(llama, bos_token="<more>", add_bos_token=True)
    starting.add_bos_token = True
    with pytest.raises(InputError, match="'<more>' is 260"):
        check_vocabulary(starting, model, "here")


def test_more_embeddings_than_tokens_are_usual(tmp_path: Path) -> None:
    """Vocabularies are padded."""
    load(str(save_llama(tmp_path / "padded", vocab_size=320)), device="cpu")


def test_a_tokenizer_that_leaves_merges_out_at_random_is_refused(llama: Path) -> None:
    """BPE dropout, as for training: a text would get other tokens, and other scores, each time."""
    content = json.loads((llama / "tokenizer.json").read_text())
    edit_json(llama / "tokenizer.json", model=content["model"] | {"dropout": 0.5})
    refuse(llama, r"leaves merges out at random \(dropout 0.5 in tokenizer.json\)")
