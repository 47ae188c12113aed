"""Where the bundled sample and the models lie that `--model` calls by a name of ours.

Invariant: a path handed out here exists, in a checkout, an editable install and a wheel alike.
"""

from pathlib import Path

from pipeline.errors import InputError
from pipeline.smollm2 import SMOLLM2, find_smollm2

SAMPLE = "sample"  # what `--dataset` calls the bundled news items
DEMO_MODEL = "demo"  # what `--model` calls the bundled model
SPLITS = ("test", "train")

# Quoted by every report of a run with this model; a test holds the figures in it to the files.
DEMO_NOTE = (
    "This is the demonstration model: 0.3 million parameters, trained on 80 news items and 1,700 phrases of our own "
    "writing. Its figures show that the pipeline works; they say nothing about real models or real news. "
    f"For a real model: labelscore run --model {SMOLLM2}"
)

_PACKAGE = Path(__file__).resolve().parent
# A wheel carries the files inside the package; a checkout or an editable install has them at its root.
_FOLDERS = (_PACKAGE / "_bundled" / "sample", _PACKAGE.parent / "data" / "sample")


def sample_path(split: str = "test") -> Path:
    """The bundled items of `split` ("test" or "train") as JSON lines of `text` and `label`.

    Raises InputError for another split, or where the installation lacks the file.
    """
    if split not in SPLITS:
        raise InputError(f"the bundled sample has no split '{split}'; use one of {', '.join(SPLITS)}")
    return bundled_path(f"{split}.jsonl")


def demo_model_path() -> Path:
    """The demonstration model's directory: config, safetensors and tokenizer. Raises InputError where it is missing."""
    return bundled_path("model/config.json").parent


MODELS = {DEMO_MODEL: demo_model_path, SMOLLM2: find_smollm2}


def named_model(name: str) -> Path | None:
    """Where the model lies that has this name of ours; None for any other name.

    Raises InputError where it is missing, and where a folder of that name holds a model, too.
    """
    if name not in MODELS:
        return None
    if any(list(Path(name).glob(file)) for file in ("config.json", "adapter_config.json", "*.gguf")):
        raise InputError(
            f"{name}: is a model that labelscore knows, and that of a folder here; write --model ./{name} for the "
            "folder's, or go to another folder for the other"
        )
    return MODELS[name]()


def bundled_path(name: str) -> Path:
    """The bundled file `name`, relative to the sample's folder. Raises InputError where the installation lacks it."""
    for folder in _FOLDERS:
        if (folder / name).is_file():
            return folder / name
    raise InputError(
        f"the bundled file '{name}' is in neither {' nor '.join(map(str, _FOLDERS))}; "
        "reinstall labelscore, or name a --dataset and a --model of your own"
    )
