"""tokenizer.json beside the tokenizer that transformers made of its folder: do both give the same ids?

Invariant: nothing is called a difference but other ids for one of a few strings; large files are read whole only where
their parts look different.
"""

import json
import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

FILE = "tokenizer.json"
# None begins with a blank: there transformers' Llama tokenizer puts no second one before it, as its file would, and a
# prompt begins with a word. Between them are the seams of the built-in templates, and what pre-tokenizers differ in.
STRINGS = (
    "Article: Wall St. Bears Claw Back\nTopic: World",
    "Text: Oil prices rise again.\n\nThis text is about Sci/Tech",
    "two  blanks   three\tand a tab",
    "line\nbreak\n\nand\r\nanother\n \n end",
    "0 12 345 6789 3.14 1,000,000 2004-08-12",
    "naïve café, ÄÖÜ ß Ærø Ωμέγα привет мир",
    "cafe\u0301 \u00a0 \u200b \ufb01 \uff21 ²",
    "你好 世界。こんにちは 안녕 مرحبا 🙂👍🏽",
    "don't WE'LL x=1;(y)!? \"q\" #1 @me <b> {a} [c] $5 50% a_b-c/d\\e",
)
_FLAGS = (
    "dropout", "unk_token", "continuing_subword_prefix", "end_of_word_suffix", "fuse_unk", "byte_fallback",
    "ignore_merges",
)  # fmt: skip
_SAID = ("content", "special", "lstrip", "rstrip", "single_word", "normalized")  # of an added token
_AS_IT_STANDS = 'to use the file as it stands, write "tokenizer_class": "TokenizersBackend" into tokenizer_config.json'
_GET_JSON = "get the model's tokenizer.json"
_SMALL = 1 << 20  # bytes of a file that is read whole in some milliseconds


def find_difference(tokenizer: Any, path: Path) -> str | None:
    """How the tokenizer's ids differ from those of its file, and what to do; None where they do not, or it has no file.

    transformers builds some tokenizers anew from vocabulary and merges, by the model's type.
    """
    file, pieces = path / FILE, sentencepiece_file(path)
    if file.is_file():
        if is_the_file(tokenizer) or (file.stat().st_size > _SMALL and looks_same(tokenizer, file)):
            return None
        difference, remedy = _first_difference(tokenizer, _encode_by_json(file)), _AS_IT_STANDS
    elif pieces is not None:
        file, difference, remedy = pieces, _first_difference(tokenizer, _encode_by_pieces(pieces)), _GET_JSON
    else:
        return None
    return difference and (
        f"does not encode as {file.name} says ({difference}), so the model would read other tokens than it learnt; "
        f"{remedy}"
    )


def sentencepiece_file(path: Path) -> Path | None:
    """The sentencepiece model that the tokenizer is made of, where there is no tokenizer.json."""
    found = sorted(path.glob("*.model"))
    # Those of tiktoken are text, and may have the same name.
    return found[0] if found and not (path / FILE).is_file() and found[0].read_bytes()[:1] == b"\n" else None


def _encode_by_json(file: Path) -> Callable[[str], list[int]]:
    from tokenizers import Tokenizer

    own = Tokenizer.from_file(str(file))
    own.no_truncation()
    own.no_padding()
    if getattr(own.model, "dropout", None):
        own.model.dropout = None  # a class that is built anew has none
    return lambda string: list(own.encode(string, add_special_tokens=False).ids)


def _encode_by_pieces(file: Path) -> Callable[[str], list[int]]:
    from sentencepiece import SentencePieceProcessor

    own = SentencePieceProcessor(str(file))
    return lambda string: list(own.encode(string))


def _first_difference(tokenizer: Any, encode: Callable[[str], list[int]]) -> str | None:
    for string in STRINGS:
        expected = encode(string)
        found = tokenizer(string, add_special_tokens=False, verbose=False)["input_ids"]
        if found != expected:
            place = next((i for i, pair in enumerate(zip(found, expected, strict=False)) if pair[0] != pair[1]), 0)
            is_, should = (_written(tokenizer, ids, place) for ids in (found, expected))
            return f"token {place} of {string!r} is {is_}, not {should}"
    return None


def _written(tokenizer: Any, ids: Sequence[int], place: int) -> str:
    return repr(tokenizer.convert_ids_to_tokens(ids[place])) if place < len(ids) else "nothing"


def is_the_file(tokenizer: Any) -> bool:
    """Whether the class has nothing of its own to build: then transformers reads the file as it stands."""
    from transformers import PreTrainedTokenizerFast

    kind = type(tokenizer)
    return kind is PreTrainedTokenizerFast or (
        issubclass(kind, PreTrainedTokenizerFast) and all("__init__" not in c.__dict__ for c in _between(kind))
    )


def _between(kind: type) -> list[type]:
    from transformers import PreTrainedTokenizerFast

    return list(kind.__mro__[: kind.__mro__.index(PreTrainedTokenizerFast)])


def looks_same(tokenizer: Any, file: Path) -> bool:
    """Whether all but vocabulary and merges, which are taken from the file, is the same and cuts strings alike."""
    from tokenizers import Tokenizer

    backend = tokenizer.backend_tokenizer
    head = _read_head(file)
    if head is None or not hasattr(tokenizer, "added_tokens_decoder"):
        return False
    listed = {t["id"]: tuple(t[key] for key in _SAID) for t in head["added_tokens"] if _occurs(t["content"])}
    decoder = tokenizer.added_tokens_decoder
    added = {i: tuple(getattr(t, key) for key in _SAID) for i, t in decoder.items() if _occurs(t.content)}
    try:
        own = Tokenizer.from_str(json.dumps(head | {"added_tokens": []}))
        flags = [(getattr(own.model, flag), getattr(backend.model, flag)) for flag in _FLAGS]
    except Exception:  # a model of another kind than byte-pair encoding: it is read whole
        return False
    return (
        listed == added
        and all(left == right for left, right in flags)
        and all(_pieces(own, string) == _pieces(backend, string) for string in STRINGS)
    )


def _read_head(file: Path) -> dict[str, Any] | None:
    """The file without the vocabulary and what follows it; None where that is no byte-pair encoding."""
    content = file.read_bytes()
    model = re.search(rb'"model"\s*:\s*\{', content)
    end = content.find(b'"vocab"', model.end()) if model else -1
    try:
        head: dict[str, Any] = json.loads(content[:end] + b'"vocab": {}, "merges": []}}') if end > 0 else {}
    except ValueError:
        return None
    return head if head.get("model", {}).get("type") == "BPE" and "added_tokens" in head else None


def _occurs(token: str) -> bool:
    """Whether an added token can matter to the strings."""
    return any(token in string for string in STRINGS)


def _pieces(tokenizer: Any, string: str) -> list[str]:
    """What byte-pair encoding is given of a string."""
    normalized = tokenizer.normalizer.normalize_str(string) if tokenizer.normalizer else string
    if tokenizer.pre_tokenizer is None:
        return [normalized]
    return [piece for piece, _ in tokenizer.pre_tokenizer.pre_tokenize_str(normalized)]
