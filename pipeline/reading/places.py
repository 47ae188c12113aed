"""Is a name a path on this machine or an id on the hub?

Invariant: what may be a path with a slip in it is never looked up on the hub, where somebody else's data or model of
that name may lie, and where the answer takes half a minute.
"""

from collections.abc import Sequence
from difflib import get_close_matches
from pathlib import Path

from huggingface_hub.errors import HFValidationError
from huggingface_hub.utils import validate_repo_id  # type: ignore[attr-defined]  # listed there lazily

from pipeline.errors import InputError
from pipeline.reading.formats import one_line

# Endings of files that people mean when a name has one.
_TABLES = (".txt", ".xls", ".xlsx", ".ods", ".arrow", ".feather", ".zip", ".tar", ".gz", ".zst", ".bz2", ".pkl")
_MODELS = (".safetensors", ".gguf", ".bin", ".pt", ".pth")
ALIKE = 0.8  # from which ratio of equal letters on a name is taken for a slip of one that is there


def find_path(
    name: str,
    endings: Sequence[str] = (),
    *,
    bundled: Sequence[str] = (),
    what: str = "file or directory",
    advice: str = "check the path",
) -> Path | None:
    """The path that lies under this name; None where the name is a hub id.

    `endings` are those of the files looked for, `bundled` names that stand for what is bundled. Raises InputError for
    a path to nothing, naming what lies near it.
    """
    path = existing_path(name)
    if path is not None:
        return path
    known = get_close_matches(name.lower(), bundled, n=1, cutoff=ALIKE) if "/" not in name else []
    near = next(iter(known), None) or _near(Path(name).expanduser())
    if near is None and _looks_like_hub_id(name) and not looks_local(name, endings):
        return None
    hint = f"did you mean {near}? " if near is not None else ""
    raise InputError(f"{name}: no such {what}; {hint}{advice}")


def existing_path(name: str | Path) -> Path | None:
    """The path where something lies under this name, None where nothing does. Raises InputError if one cannot look."""
    try:
        path = Path(name).expanduser()
        return path if path.exists() else None
    except (OSError, RuntimeError) as error:
        raise InputError(f"{one_line(name)}: no path that can be looked at ({one_line(error)})") from None


def looks_local(name: str, endings: Sequence[str]) -> bool:
    """Whether nobody would call data or a model on the hub so."""
    lower = name.lower()
    if name.startswith((".", "/", "~")) or name.count("/") > 1 or lower.endswith((*endings, *_TABLES, *_MODELS)):
        return True
    return "/" in name and existing_path(Path(name).parent) is not None


def _looks_like_hub_id(name: str) -> bool:
    try:
        validate_repo_id(name)
    except HFValidationError:
        return False
    return True


def _near(path: Path) -> Path | None:
    """The path that is there and differs from `path` by a slip in one or more of its names."""
    found = Path(path.anchor)
    for part in path.parts[1:] if path.anchor else path.parts:
        if part == ".." or existing_path(found / part):
            found /= part
            continue
        try:
            there = {entry.name: entry.name for entry in found.iterdir() if not entry.name.startswith(".")}
        except OSError:
            return None
        there |= {Path(entry).stem: entry for entry in there.values() if Path(entry).stem not in there}
        close = get_close_matches(part, there, n=1, cutoff=ALIKE)
        if not close:
            return None
        found /= there[close[0]]
    return found if existing_path(found) else None
