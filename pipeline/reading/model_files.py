"""Which files of a directory or repository make a model, and what they amount to.

Invariant: weights are safetensors; no pickle is ever on the list of files that are fetched, hashed or loaded.
"""

import hashlib
import re
from collections.abc import Iterable
from pathlib import Path

from pipeline.errors import InputError

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
_TEMPLATES_FOLDER = "additional_chat_templates"
_TOKENIZER_SUFFIXES = (".model", ".tiktoken")
_PICKLES = (".bin", ".pt", ".pth", ".ckpt")


def list_files(path: Path) -> list[str]:
    """Names of the files in a directory and in its folder of chat templates; a wrong path is not crawled."""
    try:
        files = [*path.iterdir(), *(path / _TEMPLATES_FOLDER).glob("*")]
        return [file.relative_to(path).as_posix() for file in files if file.is_file()]
    except OSError as error:
        raise InputError(f"{path}: cannot be listed ({error.strerror}); check its permissions") from None


def weight_files(names: Iterable[str]) -> list[str]:
    """The safetensors files that transformers looks for, without variants in other precisions."""
    wanted = r"model(-\d+-of-\d+)?\.safetensors|model\.safetensors\.index\.json"
    return sorted(name for name in names if re.fullmatch(wanted, name))


def tokenizer_files(names: Iterable[str]) -> list[str]:
    """The files that decide how text becomes tokens, chat templates included."""
    return sorted(
        n
        for n in names
        if n in _TOKENIZER_FILES
        or ("/" not in n and n.endswith(_TOKENIZER_SUFFIXES))
        or n.startswith(f"{_TEMPLATES_FOLDER}/")
    )


def check_files(where: str, names: Iterable[str]) -> None:
    """Raise InputError, saying what is missing, where files of these names are no model with its tokenizer."""
    if "config.json" not in names:
        raise InputError(f"{where}: no config.json, so this is no model; give a directory that save_pretrained wrote")
    if not any(n.endswith(".safetensors") for n in weight_files(names)):
        if any(n.endswith(_PICKLES) for n in names):
            raise InputError(
                f"{where}: its weights are pickle files, which can run code and are never loaded; "
                "convert them to safetensors (load it once where you trust it, then save_pretrained)"
            )
        raise InputError(f"{where}: no model.safetensors (or shards of one), so there are no weights to load")
    if not tokenizer_files(names):
        raise InputError(f"{where}: no tokenizer files; save the tokenizer (tokenizer.json) beside the model")


def hash_files(path: Path, names: Iterable[str]) -> str:
    """sha256 over the names and contents of files."""
    total = hashlib.sha256()
    for name in sorted(names):
        try:
            with (path / name).open("rb") as file:
                digest = hashlib.file_digest(file, "sha256").hexdigest()
        except OSError as error:
            raise InputError(f"{path / name}: cannot be read ({error.strerror}); check the file") from None
        total.update(f"{name}\0{digest}\n".encode())
    return total.hexdigest()
