"""SmolLM2-135M-Instruct as a folder, for what takes no GGUF: its weights in float32 as safetensors, and its tokenizer.

`labelscore --model smollm2` reads the GGUF itself (pipeline/smollm2.py says where it is from).

Invariant: the folder is made aside and renamed, so that one that exists is complete.
"""

import argparse
import tempfile
from pathlib import Path

from transformers import AutoModelForCausalLM, AutoTokenizer

from pipeline.config import RunConfig
from pipeline.reading.model import load_model, load_tokenizer
from pipeline.smollm2 import SMOLLM2
from pipeline.target import find_model


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path, metavar="DIR", help="where the model is put")
    options = parser.parse_args(arguments)
    if options.folder.exists():
        raise SystemExit(f"{options.folder} exists; name a folder that does not")
    ref = find_model(RunConfig(model=SMOLLM2, device="cpu", dtype="float32"))
    with tempfile.TemporaryDirectory(dir=options.folder.absolute().parent) as aside:
        made = Path(aside) / "model"
        load_model(ref).save_pretrained(made)
        load_tokenizer(ref).save_pretrained(made)
        made.rename(options.folder)
    print(f"{options.folder}: it goes on: {continuation(options.folder)!r}")


def continuation(folder: Path, prompt: str = "The capital of France is", num_tokens: int = 12) -> str:
    """Greedy text after a prompt, by which a reader sees that the weights are sound."""
    model, tokenizer = AutoModelForCausalLM.from_pretrained(folder), AutoTokenizer.from_pretrained(folder)
    given = tokenizer(prompt, return_tensors="pt")
    ids = model.generate(**given, max_new_tokens=num_tokens, do_sample=False, pad_token_id=tokenizer.eos_token_id)
    return prompt + str(tokenizer.decode(ids[0, given["input_ids"].shape[1] :]))


if __name__ == "__main__":
    main()
