"""The tokenizer of a model that was found: loaded, held against its own file, and against the model's embeddings.

Invariant: the ids are those that tokenizer.json gives, and each id that a text can have is one that the model knows.
"""

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pipeline.errors import InputError
from pipeline.reading.formats import one_line
from pipeline.reading.gguf_file import is_gguf
from pipeline.reading.gguf_tokenizer import load_gguf_tokenizer
from pipeline.reading.packages import is_installed
from pipeline.reading.quiet import quiet
from pipeline.reading.tokenizer_file import FILE, find_difference, sentencepiece_file

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

    from pipeline.reading.model_ref import ModelRef

AS_IT_STANDS = "tokenizer.json as it stands"  # transformers built another tokenizer of it


@quiet()
def load_tokenizer(ref: "ModelRef", **options: object) -> "PreTrainedTokenizerBase":
    """The model's tokenizer, made with its own `options`.

    Raises InputError where it is missing, broken or slow, or gives other ids than its file says.
    """
    path = ref.tokenizer_path or ref.path
    _refuse_unreadable(path, ref.name)
    options = {"local_files_only": True, "trust_remote_code": ref.trust_remote_code, **options}
    try:
        if is_gguf(path):
            return load_gguf_tokenizer(path, ref.name, **options)
        tokenizer = _load(path, as_it_stands=ref.fix is not None and AS_IT_STANDS in ref.fix, **options)
        difference = find_difference(tokenizer, path)
    except InputError:
        raise
    except Exception as error:
        raise InputError(f"{ref.name}: the tokenizer in {path} cannot be loaded ({one_line(error)})") from None
    if not getattr(tokenizer, "is_fast", False):
        raise InputError(f"{ref.name}: the tokenizer has no fast form; convert it to a {FILE}")
    if dropout := _dropout(tokenizer):
        raise InputError(
            f"{ref.name}: its tokenizer leaves merges out at random (dropout {dropout:g} in {FILE}), so that a text "
            "has other tokens each time; write null there"
        )
    if difference:
        raise InputError(f"{ref.name}: transformers' {type(tokenizer).__name__} {difference}")
    return tokenizer


def _refuse_unreadable(path: Path, where: str) -> None:
    """A tokenizer.model alone takes packages that are not ours, and transformers' words on them are of another one."""
    files = sorted(path.glob("*.model")) + sorted(path.glob("*.tiktoken"))
    if not files or any((path / name).is_file() for name in (FILE, "vocab.json", "vocab.txt")):
        return
    needed = ("sentencepiece", "google.protobuf") if sentencepiece_file(path) else ("tiktoken",)
    if not all(map(is_installed, needed)):
        packages = " and ".join(name.removeprefix("google.") for name in needed)
        raise InputError(
            f"{where}: {files[0].name} without a {FILE} takes {packages} to read; pip install "
            f"{packages.replace(' and ', ' ')}, or get the {FILE}"
        )


def _dropout(tokenizer: Any) -> float:
    model = getattr(getattr(tokenizer, "backend_tokenizer", None), "model", None)
    return getattr(model, "dropout", None) or 0.0


def _load(path: Path, *, as_it_stands: bool, **options: Any) -> "PreTrainedTokenizerBase":
    from transformers import AutoTokenizer, PreTrainedTokenizerFast

    kind: Any = PreTrainedTokenizerFast if as_it_stands else AutoTokenizer
    tokenizer: PreTrainedTokenizerBase = kind.from_pretrained(path, **options)
    return tokenizer


@quiet()
def is_rebuilt_wrongly(path: Path, model_type: str) -> bool:
    """Whether transformers passes over the class that a tokenizer names, and the ids are then other ones.

    For some model types it takes a class of its own whatever the tokenizer says. Looked into only there: it means to
    load the tokenizer.
    """
    from transformers.models.auto import tokenization_auto as auto

    own = str(auto.TOKENIZER_MAPPING_NAMES.get(model_type) or "").removesuffix("Fast")
    decided = model_type in getattr(auto, "MODELS_WITH_INCORRECT_HUB_TOKENIZER_CLASS", ())
    if not decided or not own.endswith("Tokenizer") or not (path / FILE).is_file() or own == _named_class(path):
        return False
    try:
        return find_difference(_load(path, as_it_stands=False, local_files_only=True), path) is not None
    except Exception:  # whatever is wrong with it is told where it is loaded to be used
        return False


def _named_class(path: Path) -> str | None:
    try:
        named = json.loads((path / "tokenizer_config.json").read_text(encoding="utf-8")).get("tokenizer_class")
    except (OSError, ValueError, AttributeError):
        return None
    return named.removesuffix("Fast") if isinstance(named, str) else None


def check_vocabulary(tokenizer: Any, model: "PreTrainedModel", where: str, markup: str = "") -> None:
    """Raise InputError where a text can have a token that the model has no embedding for.

    Special tokens are in no text; they count where `markup` has them written out, or the tokenizer begins texts with
    them. Others may lie beyond the embeddings, as a token for padding that somebody added does.
    """
    num_rows = _num_embeddings(model)
    special = set(tokenizer.all_special_ids)
    special |= {number for number, token in tokenizer.added_tokens_decoder.items() if token.special}
    beyond = {token: number for token, number in tokenizer.get_vocab().items() if number >= num_rows}
    if not beyond:
        return
    used = {*tokenizer("a")["input_ids"], *tokenizer(markup, add_special_tokens=False)["input_ids"]}
    wrong = sorted((number, token) for token, number in beyond.items() if number not in special or number in used)
    if wrong:
        raise InputError(
            f"{where}: the tokenizer has {len(wrong)} tokens that the model has no embedding for (it has {num_rows}; "
            f"{wrong[0][1]!r} is {wrong[0][0]}), so this is another model's tokenizer, or its weights were not saved "
            "after tokens were added"
        )


def _num_embeddings(model: Any) -> int:
    """The ids that go in and come out."""
    read, head = model.get_input_embeddings().weight.shape[0], model.get_output_embeddings()
    return int(min(read, head.weight.shape[0]) if hasattr(head, "weight") else read)
