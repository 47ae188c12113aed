"""Models: find one by directory or hub id, say exactly what it is, and load it.

Invariant: nothing but safetensors is ever read as weights, and no code of a model's own runs unless asked for.
"""

import json
import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from pipeline.errors import InputError, RunError
from pipeline.reading.formats import one_line
from pipeline.reading.hub import fetch, find_repo
from pipeline.reading.model_files import check_files, hash_files, list_files, tokenizer_files, weight_files
from pipeline.reading.places import find_path

if TYPE_CHECKING:
    from transformers import PreTrainedConfig, PreTrainedModel, PreTrainedTokenizerBase

# torch and transformers are imported where they are used: a rerun that has nothing to score should not wait for them.

CONFIG_FILES = ("config.json", "generation_config.json")
DTYPES = ("auto", "float32", "bfloat16")
DEVICES = ("auto", "cpu", "cuda")
ADVICE = "give a directory with a config.json, or a hub id such as google/gemma-2b"
NO_CHAT_TEMPLATE = "the model's tokenizer has no chat template; leave out --chat-template or use a chat model"
SOFT_CAP = "soft cap"  # under transformers 5.17 it was left out of plain forwards
UNLIMITED_CONTEXT = 1 << 30  # state-space and ALiBi models name no limit
CONTEXT_KEYS = ("max_position_embeddings", "n_positions", "n_ctx", "max_sequence_length", "max_seq_len", "seq_length")


@dataclass(frozen=True, slots=True)
class ModelRef:
    """A model that is on this machine, and its identity. Making one loads no weights."""

    name: str  # hub id, or the directory's name
    path: Path  # directory with config, weights and tokenizer
    revision: str  # hub commit, or "sha256:" and 16 digits of the weights hash
    weights: str  # identity for fingerprints: the weights hash, or id@commit
    tokenizer: str  # sha256 over the tokenizer's files
    device: str
    dtype: str
    context_tokens: int
    trust_remote_code: bool
    fix: str | None = None  # what moved the scores of such models: those of before are not used again


def resolve_model(
    name: str | Path,
    *,
    revision: str | None = None,
    device: str = "auto",
    dtype: str = "auto",
    trust_remote_code: bool = False,
) -> ModelRef:
    """Find a model by directory or hub id (downloading it if need be) and pin down what it is; loads no weights.

    Device "auto" is CUDA where there is one; dtype "auto" is bfloat16 there and float32 on a CPU.
    Raises InputError for what is no causal language model, an unknown device or dtype, or a model the hub will not
    give; RunError where the hub or the network fails.
    """
    device = _resolve_device(device)
    dtype = _resolve_dtype(dtype, device)
    path, label = find_directory(name, revision), str(name)
    if path is not None:
        label = path.resolve().name
        names = list_files(path)
        code = [file.relative_to(path).as_posix() for file in path.rglob("*.py")] if trust_remote_code else []
        weights = hash_files(path, [*weight_files(names), "config.json", *code])
        revision = f"sha256:{weights[:16]}"
    else:
        path, revision = _download(label, revision, trust_remote_code)
        weights = f"{label}@{revision}"
    config = _load_config(path, label, trust_remote_code)
    tokenizer = hash_files(path, tokenizer_files(list_files(path)))
    context_tokens = _context_tokens(config)
    fix = SOFT_CAP if _has_soft_cap(config) else None
    return ModelRef(label, path, revision, weights, tokenizer, device, dtype, context_tokens, trust_remote_code, fix)


# Device and dtype


def _resolve_device(device: str) -> str:
    if device not in DEVICES:
        raise InputError(f"unknown device '{device}'; use one of {', '.join(DEVICES)}")
    if device == "cpu":
        return device
    import torch

    if torch.cuda.is_available():
        return "cuda"
    if device == "cuda":
        raise InputError("device cuda: no usable GPU, or a torch built without CUDA; use --device cpu or auto")
    return "cpu"


def _resolve_dtype(dtype: str, device: str) -> str:
    if dtype not in DTYPES:
        raise InputError(f"unknown dtype '{dtype}'; use one of {', '.join(DTYPES)}")
    if dtype == "auto":
        return "bfloat16" if device == "cuda" else "float32"  # bfloat16 is slower than float32 on most CPUs
    return dtype


# Where it comes from


def find_directory(name: str | Path, revision: str | None = None, bundled: Sequence[str] = ()) -> Path | None:
    """The model's directory, None for a hub id; `bundled` are names that stand for a bundled one.

    Raises InputError for a path to nothing, or to no model.
    """
    path = find_path(str(name), bundled=bundled, what="directory", advice=ADVICE)
    if path is None:
        return None
    if not path.is_dir():
        raise InputError(f"{name}: is a file, not a directory; {ADVICE}")
    if revision is not None:
        raise InputError(f"{path}: a directory has no revisions; leave out --revision or name a hub id")
    check_files(str(path), list_files(path))
    return path


def has_chat_template(path: Path) -> bool:
    """Whether some file of a model's directory may hold a chat template; reads them as text, without the tokenizer."""
    names = tokenizer_files(list_files(path))
    config = path / "tokenizer_config.json"
    return any("chat_template" in name for name in names) or (
        config.name in names and "chat_template" in config.read_text(encoding="utf-8", errors="replace")
    )


def _download(repo_id: str, revision: str | None, trust_remote_code: bool) -> tuple[Path, str]:
    """Folder and commit of a model on the hub, of which only the files that are needed are fetched; never pickles."""
    repo = find_repo(repo_id, "model", revision, probe="config.json")
    check_files(repo_id, repo.files)
    code = [n for n in repo.files if n.endswith(".py")] if trust_remote_code else []
    path = fetch(repo, [n for n in repo.files if n in CONFIG_FILES] + tokenizer_files(repo.files) + code)
    _load_config(path, repo_id, trust_remote_code)  # before gigabytes come: is it a model that can be used at all?
    return fetch(repo, weight_files(repo.files)), repo.commit


# What kind of model it is


def _load_config(path: Path, name: str, trust_remote_code: bool) -> "PreTrainedConfig":
    """The configuration of a causal language model. Raises InputError for one that is broken or of another model."""
    from transformers import AutoConfig

    try:
        known = json.loads((path / "config.json").read_text(encoding="utf-8"))
        if not isinstance(known, dict):
            raise ValueError("it is not a JSON object")
        if "auto_map" in known and not trust_remote_code and "model_type" not in known:
            raise ValueError("it needs code of its own")
        config: PreTrainedConfig = AutoConfig.from_pretrained(
            path, local_files_only=True, trust_remote_code=trust_remote_code
        )
    except Exception as error:
        if "trust_remote_code" in str(error) or "code of its own" in str(error):
            raise InputError(
                f"{name}: this model runs code of its own; if you trust it, set trust_remote_code = true"
            ) from None
        raise InputError(f"{name}: config.json cannot be used ({one_line(error)})") from None
    _check_causal(config, name, trust_remote_code)
    return config


def _check_causal(config: "PreTrainedConfig", name: str, trust_remote_code: bool) -> None:
    """Refuse what transformers would load as a causal LM with a random head or bidirectional attention."""
    from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES

    known = MODEL_FOR_CAUSAL_LM_MAPPING_NAMES.get(config.model_type)
    if known is None and trust_remote_code and "AutoModelForCausalLM" in (getattr(config, "auto_map", None) or {}):
        return
    architectures = getattr(config, "architectures", None) or []
    listed = MODEL_FOR_CAUSAL_LM_MAPPING_NAMES.values()
    causal = {name for value in listed for name in ([value] if isinstance(value, str) else value)}
    is_encoder = getattr(config, "is_decoder", True) is False or getattr(config, "is_encoder_decoder", False)
    if known is None or is_encoder or (architectures and not causal.intersection(architectures)):
        what = ", ".join(architectures) or config.model_type
        raise InputError(
            f"{name}: {what} is not a causal language model (it does not predict the next token); "
            "choose a decoder-only model such as google/gemma-2b"
        )


def _context_tokens(config: "PreTrainedConfig") -> int:
    text = config.get_text_config()
    found = (getattr(text, key, None) for key in CONTEXT_KEYS)
    return next((value for value in found if isinstance(value, int) and value > 0), UNLIMITED_CONTEXT)


def count_parameters(ref: ModelRef) -> int:
    """The number of stored weights, from the headers of the safetensors files. Raises InputError for broken ones."""
    from safetensors import SafetensorError, safe_open

    total = 0
    for name in weight_files(list_files(ref.path)):
        if name.endswith(".json"):
            continue
        try:
            with safe_open(ref.path / name, "np") as file:
                total += sum(math.prod(file.get_slice(key).get_shape()) for key in file.keys())  # noqa: SIM118  # no dict
        except (SafetensorError, OSError) as error:
            raise InputError(f"{ref.name}: {name} cannot be read ({one_line(error)}); get the file again") from None
    return total


# Loading


@contextmanager
def _quiet() -> Iterator[None]:
    """Keep transformers' own bars and load reports off the screen; what matters of them becomes one line."""
    from transformers.utils import logging as untyped

    logging: Any = untyped

    verbosity = logging.get_verbosity()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        logging.set_verbosity(verbosity)
        logging.enable_progress_bar()


@_quiet()
def load_model(ref: ModelRef) -> "PreTrainedModel":
    """The model, in eval mode, on its device, in its dtype.

    Raises InputError for weights that are broken or incomplete, RunError where memory runs out.
    """
    import torch
    from transformers import AutoModelForCausalLM

    loader: Any = AutoModelForCausalLM
    try:
        model, info = loader.from_pretrained(
            ref.path,
            dtype=getattr(torch, ref.dtype),
            use_safetensors=True,
            local_files_only=True,
            trust_remote_code=ref.trust_remote_code,
            ignore_mismatched_sizes=True,  # so that they are named below, in one line
            output_loading_info=True,
        )
        model = model.to(ref.device).eval()
    except (torch.OutOfMemoryError, MemoryError):
        raise RunError(f"{ref.name}: not enough memory on {ref.device} to load it in {ref.dtype}") from None
    except Exception as error:
        raise InputError(f"{ref.name}: the model in {ref.path} cannot be loaded ({one_line(error)})") from None
    wrong = sorted(info["missing_keys"]) + sorted(key for key, *_ in info["mismatched_keys"])
    if wrong:
        raise InputError(
            f"{ref.name}: {len(wrong)} weights are missing or of another shape ({', '.join(wrong[:3])}), "
            "so its scores would be random; get a complete model"
        )
    keep_soft_cap(model)
    return cast("PreTrainedModel", model)


def keep_soft_cap(model: "PreTrainedModel") -> None:
    """Have attention with a soft cap (Gemma 2) done as written: transformers 5.17 takes a kernel that leaves it out."""
    if _has_soft_cap(model.config):
        model.set_attn_implementation("eager")


def _has_soft_cap(config: "PreTrainedConfig") -> bool:
    return bool(getattr(config.get_text_config(), "attn_logit_softcapping", None))


@_quiet()
def load_tokenizer(ref: ModelRef, **options: object) -> "PreTrainedTokenizerBase":
    """The model's tokenizer, made with its own `options`. Raises InputError where it is missing, broken or slow."""
    from transformers import AutoTokenizer

    try:
        tokenizer: PreTrainedTokenizerBase = AutoTokenizer.from_pretrained(
            ref.path, local_files_only=True, trust_remote_code=ref.trust_remote_code, **options
        )
    except Exception as error:
        raise InputError(f"{ref.name}: the tokenizer in {ref.path} cannot be loaded ({one_line(error)})") from None
    if not getattr(tokenizer, "is_fast", False):
        raise InputError(f"{ref.name}: the tokenizer has no fast form; convert it to a tokenizer.json")
    return tokenizer
