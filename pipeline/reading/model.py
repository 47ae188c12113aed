"""Models: find one by directory or hub id, and say exactly what it is; the door to loading it, too.

Invariant: nothing but safetensors and GGUF is ever read as weights, and no code of a model's own runs unless asked for.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from pipeline.errors import InputError
from pipeline.reading.adapter import Adapter, base_of, check_adapter, is_adapter, make_adapter
from pipeline.reading.architecture import (
    UNLIMITED_CONTEXT,
    context_tokens,
    has_long_rotation,
    has_soft_cap,
    load_config,
)
from pipeline.reading.devices import resolve_device, resolve_dtype
from pipeline.reading.foreign_code import refuse_foreign_code
from pipeline.reading.gguf_file import (
    CHAT_TEMPLATE,
    choose_gguf,
    is_gguf,
    metadata,
    need_gguf,
    read_header,
    split_choice,
)
from pipeline.reading.hub import Repo, fetch, find_repo
from pipeline.reading.loading import count_parameters, keep_soft_cap, load_model
from pipeline.reading.model_files import (
    ADAPTER_CONFIG,
    ADAPTER_WEIGHTS,
    check_files,
    has_vocabulary,
    has_weights,
    hash_file,
    hash_files,
    list_files,
    loaded_files,
    tokenizer_files,
    weight_files,
)
from pipeline.reading.model_ref import ModelRef
from pipeline.reading.places import existing_path, find_path
from pipeline.reading.quantised import find_method, own_dtype
from pipeline.reading.tokenizer import AS_IT_STANDS, check_vocabulary, is_rebuilt_wrongly, load_tokenizer
from pipeline.reading.weight_keys import list_tensors

if TYPE_CHECKING:
    from transformers import PreTrainedConfig

__all__ = [
    "ADVICE",
    "NO_CHAT_TEMPLATE",
    "UNLIMITED_CONTEXT",
    "ModelRef",
    "check_vocabulary",
    "count_parameters",
    "find_local",
    "has_chat_template",
    "keep_soft_cap",
    "load_model",
    "load_tokenizer",
    "resolve_model",
]

CONFIG_FILES = ("config.json", "generation_config.json")
ADVICE = "give a directory with a config.json, a GGUF file, or a hub id such as google/gemma-2b"
APPLIED_TO = "an adapter is applied to safetensors in a directory, or on the hub"
NO_CHAT_TEMPLATE = "the model's tokenizer has no chat template; leave out --chat-template or use a chat model"
SOFT_CAP = "soft cap"  # under transformers 5.17 it was left out of plain forwards
ROTARY = "longrope"  # the longest text of a batch decided on the rotation of all


def resolve_model(
    name: str | Path,
    *,
    revision: str | None = None,
    device: str = "auto",
    dtype: str = "auto",
    trust_remote_code: bool = False,
) -> ModelRef:
    """Find a model by directory or hub id (downloading it if need be) and pin down what it is; loads no weights.

    Device "auto" is the accelerator where there is one; dtype "auto" is what suits the device (see `suited_dtype`), of
    quantised weights what their configuration names.
    Raises InputError for what is no causal language model, an unknown device or dtype, an adapter without its base, or
    a model the hub will not give; RunError where the hub or the network fails.
    """
    if trust_remote_code:
        refuse_foreign_code("trust_remote_code")
    device = resolve_device(device)
    is_auto, dtype = dtype == "auto", resolve_dtype(dtype, device)
    path = find_local(name, revision)
    found = _download(str(name), revision, trust_remote_code) if path is None else _on_disk(path, trust_remote_code)
    config = load_config(found.path, found.name, trust_remote_code)
    method = None if is_gguf(found.path) else find_method(config, found.name)
    if method and found.adapter:
        raise InputError(f"{found.name}: its base is quantised ({method}); {APPLIED_TO}, not quantised")
    if method and dtype == "fp8":
        raise InputError(
            f"{found.name}: its weights are quantised already ({method}), and --dtype fp8 rounds plain ones; leave it "
            "out"
        )
    if method and is_auto:
        dtype = own_dtype(config) or dtype
    if not is_gguf(found.path):
        list_tensors(found.path, loaded_files(found.path, found.name), found.name)  # a file cut short is told at once
    return ModelRef(
        found.name,
        found.path,
        found.revision,
        found.weights,
        _hash_tokenizer(found),
        device,
        dtype,
        context_tokens(config),
        trust_remote_code,
        _fix_of(config, found.tokenizer_path),
        found.adapter,
        found.tokenizer_path if found.tokenizer_path != found.path else None,
        method,
        _note_on(dtype, device, method),
    )


def _note_on(dtype: str, device: str, method: str | None) -> str | None:
    if dtype == "fp8" and device == "cpu":
        return "fp8 is emulated on a CPU, which is slow: for trying it out, as it is made for GPUs"
    return f"its weights are quantised ({method}), and it computes in {dtype}" if method else None


def _hash_tokenizer(found: "_Found") -> str:
    if is_gguf(found.tokenizer_path):
        return found.weights  # one file holds both
    return hash_files(found.tokenizer_path, tokenizer_files(list_files(found.tokenizer_path)))


def _fix_of(config: "PreTrainedConfig", tokenizer_path: Path) -> str | None:
    fixes = [fix for fix, concerns in ((SOFT_CAP, has_soft_cap), (ROTARY, has_long_rotation)) if concerns(config)]
    if is_rebuilt_wrongly(tokenizer_path, config.model_type):
        fixes.append(AS_IT_STANDS)
    return " + ".join(sorted(fixes)) or None


# On this machine


def find_local(name: str | Path, revision: str | None = None, bundled: Sequence[str] = ()) -> Path | None:
    """The model's directory or GGUF file, None for a hub id; `bundled` are names that stand for a bundled one.

    Raises InputError for a path to nothing, to no model, or to an adapter that cannot be applied.
    """
    repo_id, choice = split_choice(str(name))
    if choice is not None and existing_path(name) is None and find_path(repo_id) is None:
        need_gguf(str(name))
        return None
    path = find_path(str(name), bundled=bundled, what="file or directory", advice=ADVICE)
    if path is None:
        return None
    if revision is not None:
        raise InputError(f"{path}: a path has no revisions; leave out --revision or name a hub id")
    if not path.is_dir():
        if not is_gguf(path):
            raise InputError(f"{name}: is a file, and no GGUF; {ADVICE}")
        return _with_header(path, str(name))
    names = list_files(path)
    if _is_gguf_folder(names):
        return _with_header(path / choose_gguf(str(path), names, None, "/"), str(name))
    if ADAPTER_CONFIG in names:
        check_adapter(path, str(path), names)
    if is_adapter(names):
        base_directory(path)
    else:
        check_files(str(path), names)
    return path


def _is_gguf_folder(names: Iterable[str]) -> bool:
    """Whether a model's only weights are in GGUF: beside safetensors they are another form of the same."""
    known = list(names)
    return any(map(is_gguf, known)) and ADAPTER_CONFIG not in known and not has_weights(known)


def _with_header(file: Path, where: str) -> Path:
    read_header(file, where)
    return file


def base_directory(path: Path) -> Path | None:
    """The directory of the base of the adapter in `path`; None where the hub has it.

    A relative one is looked for beside the adapter and where the program was started. Raises InputError where it is
    in neither, in both, or has an adapter of its own.
    """
    name, _ = base_of(path, str(path))
    places = {place.resolve() for place in (existing_path(path / name), existing_path(name)) if place is not None}
    if len(places) > 1:
        raise InputError(f"{path}: its base {name} is in two places; write an absolute path into {ADAPTER_CONFIG}")
    if not places:
        return find_path(name, what=f"directory (the base of the adapter in {path})", advice=ADVICE)
    base = places.pop()
    if not base.is_dir() or _is_gguf_folder(list_files(base)):
        raise InputError(f"{path}: its base {name} is a file; {APPLIED_TO}")
    if base == path.resolve() or ADAPTER_CONFIG in list_files(base):
        raise InputError(f"{path}: its base {name} is an adapter or has one; merge that first")
    return find_local(base)


def has_chat_template(path: Path) -> bool:
    """Whether some file of a model may hold a chat template; reads them as text, without the tokenizer."""
    if is_gguf(path):
        return CHAT_TEMPLATE in metadata(read_header(path, str(path)))
    names = list_files(path)
    if is_adapter(names) and not has_vocabulary(names):
        base = base_directory(path)
        return base is None or has_chat_template(base)
    config = path / "tokenizer_config.json"
    return any("chat_template" in name for name in tokenizer_files(names)) or (
        config.name in names and "chat_template" in config.read_text(encoding="utf-8", errors="replace")
    )


@dataclass(frozen=True, slots=True)
class _Found:
    """What `ModelRef` says of where a model lies and of its identity."""

    name: str
    path: Path
    revision: str
    weights: str
    tokenizer_path: Path
    adapter: Adapter | None = None


def _on_disk(path: Path, trust_remote_code: bool) -> _Found:
    if is_gguf(path):
        return _in_gguf(path.stem, path)
    names, name = list_files(path), path.resolve().name
    if is_adapter(names):
        base = base_directory(path)
        if base is not None:
            whole = _on_disk(base, trust_remote_code)
        else:
            whole = _download(*base_of(path, str(path)), trust_remote_code)
        return _with_adapter(name, whole, path)
    code = [file.relative_to(path).as_posix() for file in path.rglob("*.py")] if trust_remote_code else []
    weights = hash_files(path, {*weight_files(names), *loaded_files(path, str(path)), "config.json", *code})
    adapter = make_adapter(path, str(path)) if ADAPTER_CONFIG in names else None
    return _Found(name, path, f"sha256:{weights[:16]}", weights, path, adapter)


def _in_gguf(name: str, file: Path, commit: str | None = None) -> _Found:
    weights = hash_file(file)
    return _Found(name, file, commit or f"sha256:{weights[:16]}", weights, file)


def _with_adapter(name: str, base: _Found, path: Path, commit: str | None = None) -> _Found:
    """The adapter in `path` over its base, with the adapter's tokenizer if it has one."""
    if base.adapter is not None:
        raise InputError(f"{name}: its base {base.name} is an adapter or has one; merge that first")
    if is_gguf(base.path):
        raise InputError(f"{name}: its base {base.name} is a GGUF file; {APPLIED_TO}")
    names = list_files(path)
    if not has_vocabulary(names) and (parts := tokenizer_files(names)):
        raise InputError(
            f"{path}: {parts[0]} belongs to a tokenizer that is not there; put the whole tokenizer beside the adapter, "
            "or take the file away to use the base's"
        )
    adapter = make_adapter(path, name)
    tokenizer_path = path if has_vocabulary(names) else base.tokenizer_path
    revision = commit or f"sha256:{adapter.digest[:16]}"
    return _Found(name, base.path, revision, base.weights, tokenizer_path, adapter)


# On the hub


def _download(repo_id: str, revision: str | None, trust_remote_code: bool) -> _Found:
    """A model on the hub, of which only the files that are needed are fetched; never pickles."""
    name, (repo_id, choice) = repo_id, split_choice(repo_id)
    repo = find_repo(repo_id, "model", revision, probe="config.json")
    if choice is not None or _is_gguf_folder(repo.files):
        file = choose_gguf(repo_id, repo.files, choice, ":")
        need_gguf(name)
        return _in_gguf(name, fetch(repo, [file]) / file, repo.commit)
    if is_adapter(repo.files):
        return _download_adapter(repo, trust_remote_code)
    adapter = _fetch_adapter(repo) if ADAPTER_CONFIG in repo.files else None
    check_files(repo_id, repo.files)
    code = [n for n in repo.files if n.endswith(".py")] if trust_remote_code else []
    index = [n for n in weight_files(repo.files) if n.endswith(".json")]
    path = fetch(repo, [n for n in repo.files if n in CONFIG_FILES] + tokenizer_files(repo.files) + code + index)
    find_method(load_config(path, repo_id, trust_remote_code), repo_id)  # before gigabytes come: can it be used at all?
    path = fetch(repo, weight_files(repo.files))
    return _Found(repo_id, path, repo.commit, f"{repo_id}@{repo.commit}", path, adapter)


def _download_adapter(repo: Repo, trust_remote_code: bool) -> _Found:
    adapter = _fetch_adapter(repo)
    path = fetch(repo, tokenizer_files(repo.files))
    name, revision = base_of(adapter.path, repo.id)
    if find_path(name, what=f"model on the hub (the base of the adapter {repo.id})") is not None:
        raise InputError(
            f"{repo.id}: its base {name} is a path on this machine, not an id on the hub; fetch the adapter into a "
            "folder and name that"
        )
    return _with_adapter(repo.id, _download(name, revision, trust_remote_code), path, repo.commit)


def _fetch_adapter(repo: Repo) -> Adapter:
    path = fetch(repo, [ADAPTER_CONFIG])
    check_adapter(path, repo.id, repo.files)
    return make_adapter(fetch(repo, [ADAPTER_WEIGHTS]), repo.id)
