"""Where the bundled sample and the demonstration model lie.

Invariant: a path handed out here exists, in a checkout, an editable install and a wheel alike.
"""

from pathlib import Path

from pipeline.errors import InputError

SAMPLE = "sample"  # what `--dataset` calls the bundled news items
DEMO_MODEL = "demo"  # what `--model` calls the bundled model
SPLITS = ("test", "train")

# Quoted by every report of a run with this model; a test holds the figures in it to the files.
DEMO_NOTE = (
    "This is the demonstration model: 0.3 million parameters, trained on 80 news items and 1,700 phrases of our own "
    "writing. Its figures show that the pipeline works; they say nothing about real models or real news."
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


def bundled_path(name: str) -> Path:
    """The bundled file `name`, relative to the sample's folder. Raises InputError where the installation lacks it."""
    for folder in _FOLDERS:
        if (folder / name).is_file():
            return folder / name
    raise InputError(
        f"the bundled file '{name}' is in neither {' nor '.join(map(str, _FOLDERS))}; "
        "reinstall labelscore, or name a --dataset and a --model of your own"
    )
