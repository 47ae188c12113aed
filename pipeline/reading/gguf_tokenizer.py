"""The tokenizer in a GGUF: transformers builds it of vocabulary and merges, and here it is made to cut texts as the
model's own does.

A GGUF has no tokenizer.json: how a text is cut into words before merging is said by a name (`tokenizer.ggml.pre`), of
which transformers knows some, and takes the others for GPT-2's without a word. The words here were held against the
tokenizers that the models were published with (tests/pipeline/reading/test_gguf_tokenizer.py).

Invariant: a name that is not known here is refused, and so is a special token that would be cut into pieces.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pipeline.errors import InputError
from pipeline.reading.gguf_file import SAFETENSORS, metadata, read_alone, read_header

if TYPE_CHECKING:
    from gguf import GGUFReader
    from transformers import PreTrainedTokenizerBase

_ELSEWHERE = f"{SAFETENSORS}, with its tokenizer.json"
_NORMAL, _DEFINED = 1, 4
_WHOLE = (3, _DEFINED)  # kinds of tokens that are found whole in a text: control, and defined by the user
_BLANK = "\u2581"  # how sentencepiece writes a blank


@dataclass(frozen=True, slots=True)
class Words:
    """How byte-level encoding cuts a text into words, and takes them.

    `cuts`: regular expressions, one after the other; none means GPT-2's own. `digits`: each is a word before that.
    `composed`: the text is normalised (NFC). `whole`: a word of the vocabulary is taken without merging. `begins`: a
    text begins with BOS where the file does not say.
    """

    cuts: tuple[str, ...] = ()
    digits: bool = False
    composed: bool = False
    whole: bool = False
    begins: bool = False


_SHORT = "(?i:'s|'t|'re|'ve|'m|'ll|'d)"
_BLANKS = r"\s*[\r\n]+|\s+(?!\S)|\s+"
_UPPER, _LOWER = r"\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}", r"\p{Ll}\p{Lm}\p{Lo}\p{M}"
_BEFORE = r"[^\r\n\p{L}\p{N}]?"


def _by_letters(digits: str) -> str:
    return rf"{_SHORT}|{_BEFORE}\p{{L}}+|{digits}| ?[^\s\p{{L}}\p{{N}}]+[\r\n]*|{_BLANKS}"


def _by_case(short: str, digits: str) -> str:
    cased = rf"{_BEFORE}[{_UPPER}]*[{_LOWER}]+{short}|{_BEFORE}[{_UPPER}]+[{_LOWER}]*{short}"
    return rf"{cased}|{digits}| ?[^\s\p{{L}}\p{{N}}]+[\r\n/]*|{_BLANKS}"


_DIGITS = Words(digits=True)
_LLAMA3 = Words((_by_letters(r"\p{N}{1,3}"),), whole=True, begins=True)
WORDS = {
    "gpt-2": Words(),
    "smollm": _DIGITS,
    "starcoder": _DIGITS,
    "refact": _DIGITS,
    "llama-bpe": _LLAMA3,
    "llama3": _LLAMA3,
    "llama-v3": _LLAMA3,
    "qwen2": Words((_by_letters(r"\p{N}"),), composed=True),
    "tekken": Words((_by_case("", r"\p{N}"),), whole=True, begins=True),
    "gpt-4o": Words((_by_case(f"{_SHORT}?", r"\p{N}{1,3}"),), whole=True),
}


def load_gguf_tokenizer(file: Path, where: str, **options: Any) -> "PreTrainedTokenizerBase":
    """The tokenizer of the file. Raises InputError where it cuts texts in a way that is not known here."""
    from transformers import AutoTokenizer

    header = read_header(file, where)
    said = metadata(header)
    kind, words = said.get("tokenizer.ggml.model"), None
    if kind == "gpt2":
        words = _find_words(said.get("tokenizer.ggml.pre"), where)
    elif kind != "llama" or _normalises(header):
        raise InputError(f"{where}: its tokenizer is of a kind that is not read from a GGUF ({kind}); {_ELSEWHERE}")
    vocabulary = _read_vocabulary(header, where, is_scored=kind == "llama")
    begins = said.get("tokenizer.ggml.add_bos_token", words is None or words.begins)
    with read_alone(file) as place:
        options = {"add_bos_token": begins, **place, **options}
        tokenizer: PreTrainedTokenizerBase = AutoTokenizer.from_pretrained(**options)
    backend = tokenizer.backend_tokenizer
    if words is not None:
        _cut_as(backend, words)
    else:
        _write_blanks(backend, prefixed=said.get("tokenizer.ggml.add_space_prefix", True))
        if said.get("general.architecture") == "phi3":
            _take_blanks_behind(tokenizer)
    _check_whole(tokenizer, vocabulary, where)
    if begins and tokenizer("a")["input_ids"][0] != said.get("tokenizer.ggml.bos_token_id"):
        raise InputError(f"{where}: texts begin with a BOS token that its header does not name; {_ELSEWHERE}")
    return tokenizer


def _normalises(header: "GGUFReader") -> bool:
    """Whether sentencepiece changes a text before it cuts it, which transformers does not do."""
    squeezes, changes = (
        header.fields.get(f"tokenizer.ggml.{key}") for key in ("remove_extra_whitespaces", "precompiled_charsmap")
    )
    return changes is not None or (squeezes is not None and bool(squeezes.contents()))


def _read_vocabulary(header: "GGUFReader", where: str, *, is_scored: bool) -> list[tuple[str, int]]:
    """The tokens and their kinds. Raises InputError where the ids of a text do not follow from the header."""
    lists = (header.fields.get(f"tokenizer.ggml.{name}") for name in ("tokens", "token_type", "scores"))
    tokens, kinds, scores = (list(field.contents()) if field else [] for field in lists)
    what = None
    named = [value for key, value in metadata(header).items() if re.fullmatch(r"tokenizer\.ggml\.\w+_token_id", key)]
    if not tokens or len(kinds) != len(tokens) or (is_scored and len(scores) != len(tokens)):
        what = "it lacks tokens, or their kinds or scores"
    elif not all(isinstance(number, int) and 0 <= number < len(tokens) for number in named):
        what = "it names a special token by an id that no token has"
    elif len(set(tokens)) < len(tokens):
        what = "it has a token twice"
    elif is_scored and len({score for score, kind in zip(scores, kinds, strict=True) if kind == _NORMAL}) == 1:
        what = "its scores are all the same, so they do not say what is merged first"
    if what is not None:
        raise InputError(f"{where}: the tokenizer in its header is not whole: {what}; {_ELSEWHERE}")
    return list(zip(tokens, kinds, strict=True))


def _find_words(name: object, where: str) -> Words:
    if name not in WORDS:
        raise InputError(
            f"{where}: it cuts texts into words as '{name}' does (tokenizer.ggml.pre), which is not known here, so its "
            f"tokens could be other ones than the model learnt; {_ELSEWHERE}"
        )
    return WORDS[str(name)]


def _cut_as(backend: Any, words: Words) -> None:
    from tokenizers import Regex, normalizers, pre_tokenizers

    steps: list[Any] = [pre_tokenizers.Digits(individual_digits=True)] if words.digits else []
    steps += [pre_tokenizers.Split(Regex(cut), behavior="isolated") for cut in words.cuts]
    steps.append(pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=not words.cuts))
    backend.pre_tokenizer = pre_tokenizers.Sequence(steps)
    backend.normalizer = normalizers.NFC() if words.composed else None
    backend.model.ignore_merges = words.whole


def _write_blanks(backend: Any, *, prefixed: bool) -> None:
    """As sentencepiece has it: a text is one word, with a blank before it or not."""
    from tokenizers import normalizers

    blanks = normalizers.Replace(" ", _BLANK)
    backend.normalizer = normalizers.Sequence([normalizers.Prepend(_BLANK), blanks]) if prefixed else blanks
    backend.pre_tokenizer = None


def _take_blanks_behind(tokenizer: Any) -> None:
    """Phi-3's markup swallows the blanks and line ends behind it, but for three of its tokens.

    Nothing in a header says so; llama.cpp goes by the model's name.
    """
    from tokenizers import AddedToken

    own = tokenizer.added_tokens_decoder.values()
    found = [token.content for token in own if token.content not in ("<unk>", "<s>", "<|endoftext|>")]
    tokenizer.add_tokens(
        [AddedToken(content, rstrip=True, normalized=False, special=True) for content in found], special_tokens=True
    )


def _check_whole(tokenizer: Any, vocabulary: Sequence[tuple[str, int]], where: str) -> None:
    """A special token that is not one for the tokenizer would be cut, in markup and before a text.

    Gemma's runs of blanks are blanks in a GGUF, and transformers finds them as sentencepiece writes them.
    """
    from tokenizers import AddedToken

    numbers = tokenizer.get_vocab()
    respelt = {}
    for number, (token, kind) in enumerate(vocabulary):
        blanks = _BLANK * len(token)
        if kind == _DEFINED and not token.strip(" ") and numbers.get(blanks) == number:
            respelt[token] = blanks
    tokenizer.add_tokens([AddedToken(blanks, normalized=False) for blanks in respelt.values()])
    known = {token.content: number for number, token in tokenizer.added_tokens_decoder.items()}
    special = [(number, token) for number, (token, kind) in enumerate(vocabulary) if kind in _WHOLE]
    lost = [token for number, token in special if known.get(respelt.get(token, token)) != number]
    if lost:
        raise InputError(
            f"{where}: {len(lost)} of its special tokens would be cut into pieces ({lost[0]!r}); {_ELSEWHERE}"
        )
