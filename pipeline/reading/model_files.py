"""Which files of a directory or repository make a model, and what they amount to.

Invariant: weights are safetensors; no pickle is ever on the list of files that are fetched, hashed or loaded.
"""

import hashlib
import json
import re
from collections.abc import Iterable, Sequence
from pathlib import Path

from pipeline.errors import InputError

ADAPTER_CONFIG, ADAPTER_WEIGHTS = "adapter_config.json", "adapter_model.safetensors"
INDEX = "model.safetensors.index.json"
_TOKENIZER_FILES = (
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "vocab.json",
    "vocab.txt",
    "merges.txt",
    "chat_template.json",
    "chat_template.jinja",
)
_VOCABULARIES = ("tokenizer.json", "vocab.json", "vocab.txt")
_TEMPLATES_FOLDER = "additional_chat_templates"
_TOKENIZER_SUFFIXES = (".model", ".tiktoken")
_PICKLES = (".bin", ".pt", ".pth", ".ckpt")
# What transformers looks for, and what Mistral and Meta call the same; the second counts where the first is not there.
_USUAL = r"model(-\d+-of-\d+)?\.safetensors|model\.safetensors\.index\.json"
_CONSOLIDATED = r"consolidated(-\d+-of-\d+)?\.safetensors"
_VARIANT = r"model\.(\w+)(-\d+-of-\d+)?\.safetensors|model(-\d+-of-\d+)?\.(\w+)\.safetensors"


def list_files(path: Path) -> list[str]:
    """Names of the files in a directory and in its folder of chat templates; a wrong path is not crawled."""
    try:
        files = [*path.iterdir(), *(path / _TEMPLATES_FOLDER).glob("*")]
        return [file.relative_to(path).as_posix() for file in files if file.is_file()]
    except OSError as error:
        raise InputError(f"{path}: cannot be listed ({error.strerror}); check its permissions") from None


# Weights


def weight_files(names: Iterable[str]) -> list[str]:
    """The safetensors files that are taken, without variants in other precisions: model*, else consolidated*."""
    known = list(names)
    usual = sorted(name for name in known if re.fullmatch(_USUAL, name))
    if any(name.endswith(".safetensors") for name in usual):
        return usual
    return sorted(name for name in known if re.fullmatch(_CONSOLIDATED, name)) or usual


def loaded_files(path: Path, where: str) -> list[str]:
    """The safetensors files whose tensors are loaded: the only one, or those that the index names.

    Raises InputError for an index that is broken, or names what is not there or lies in another folder.
    """
    files = weight_files(list_files(path))
    if INDEX not in files or "model.safetensors" in files:
        return ["model.safetensors"] if "model.safetensors" in files else files
    try:
        named = sorted(set(json.loads((path / INDEX).read_text(encoding="utf-8"))["weight_map"].values()))
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        raise InputError(f"{where}: {INDEX} cannot be read; get the file again") from None
    if missing := [name for name in named if name not in files]:
        raise InputError(f"{where}: {INDEX} names {missing[0]}, which is not there; get the missing files")
    return named


def is_consolidated(files: Sequence[str]) -> bool:
    """Whether the weights come as Mistral and Meta write them."""
    return any(name.startswith("consolidated") for name in files)


# Tokenizer


def tokenizer_files(names: Iterable[str]) -> list[str]:
    """The files that decide how text becomes tokens, chat templates included."""
    return sorted(
        n
        for n in names
        if n in _TOKENIZER_FILES
        or ("/" not in n and n.endswith(_TOKENIZER_SUFFIXES))
        or n.startswith(f"{_TEMPLATES_FOLDER}/")
    )


def has_vocabulary(names: Iterable[str]) -> bool:
    """Whether a tokenizer can be made of these files."""
    return any(name in _VOCABULARIES or name.endswith(_TOKENIZER_SUFFIXES) for name in tokenizer_files(names))


# What is wrong with them


def check_files(where: str, names: Iterable[str]) -> None:
    """Raise InputError, saying what is missing, where files of these names are no model with its tokenizer."""
    known = list(names)
    if "config.json" not in known:
        raise InputError(f"{where}: no config.json, so this is no model; give a directory that save_pretrained wrote")
    if not has_weights(known):
        raise InputError(f"{where}: {_why_no_weights(known)}")
    if pieces := _without_index(known):
        raise InputError(f"{where}: {pieces[0]} is a piece of its weights, and {INDEX}, which lists all, is missing")
    if not tokenizer_files(known):
        raise InputError(f"{where}: no tokenizer files; save the tokenizer (tokenizer.json) beside the model")


def has_weights(names: Iterable[str]) -> bool:
    """Whether there are weights of a whole model among these files."""
    return any(name.endswith(".safetensors") for name in weight_files(names))


def _without_index(names: Sequence[str]) -> list[str]:
    """The pieces of weights that nothing says to be all of them."""
    files = weight_files(names)
    return [] if is_consolidated(files) or {INDEX, "model.safetensors"}.intersection(files) else files


def _why_no_weights(names: Sequence[str]) -> str:
    variants = sorted(name for name in names if re.fullmatch(_VARIANT, name))
    others = sorted(name for name in names if name.endswith(".safetensors"))
    if variants:
        return f"only a variant of its weights is there ({variants[0]}); rename it to model.safetensors to score it"
    if any(name.endswith(_PICKLES) for name in names):
        return (
            "its weights are pickle files, which can run code and are never loaded; "
            "convert them to safetensors (load it once where you trust it, then save_pretrained)"
        )
    if others:
        return f"no model.safetensors; {others[0]} is no name under which weights are looked for"
    return "no model.safetensors (or shards of one), so there are no weights to load"


def hash_files(path: Path, names: Iterable[str]) -> str:
    """sha256 over the names and contents of files."""
    total = hashlib.sha256()
    for name in sorted(names):
        total.update(f"{name}\0{hash_file(path / name)}\n".encode())
    return total.hexdigest()


def hash_file(path: Path) -> str:
    """sha256 over the content of a file. Raises InputError where it cannot be read."""
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror}); check the file") from None
