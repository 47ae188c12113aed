"""GGUF: one file that holds a model's weights in few bits, its configuration and its tokenizer.

Which file of a folder is meant, what its header says, and transformers' reader without what it does over and over.

Invariant: a header is read once, and no tensor with it; a file that is cut short, or a piece of a model, is refused.
"""

import mmap
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from functools import cache, lru_cache, partial
from pathlib import Path, PurePosixPath
from tempfile import TemporaryDirectory
from threading import RLock
from typing import TYPE_CHECKING, Any

from pipeline.errors import InputError
from pipeline.reading.formats import one_line
from pipeline.reading.packages import GGUF_READERS, INSTALL_GGUF_READERS, is_installed

if TYPE_CHECKING:
    from gguf import GGUFReader

SUFFIX = ".gguf"
SAFETENSORS = "get the model as safetensors"
CHAT_TEMPLATE = "tokenizer.chat_template"
_PATCHING = RLock()  # what is patched is seen by every thread
_PIECE = re.compile(r"-\d{5}-of-\d{5}\.gguf$", re.IGNORECASE)
_A_PIECE = "a piece of a model; join the pieces (llama-gguf-split --merge)"


def is_gguf(path: str | Path) -> bool:
    """Whether a file's name says that it is one; a folder of such a name is none."""
    return str(path).lower().endswith(SUFFIX) and not (isinstance(path, Path) and path.is_dir())


# Which file


def split_choice(name: str) -> tuple[str, str | None]:
    """`owner/name:CHOICE` as a repository on the hub and the GGUF of it that is meant, None where nothing is chosen."""
    repo_id, _, choice = name.partition(":")
    is_file = "/" not in choice or is_gguf(choice)  # one in a folder of the repository
    return (repo_id, choice) if choice and repo_id.count("/") == 1 and is_file else (name, None)


def choose_gguf(where: str, names: Iterable[str], choice: str | None, between: str) -> str:
    """The one GGUF among these files, or the one that `choice` names by its name or a part such as Q4_K_M.

    `between` stands between `where` and a file's name in what a user writes. Raises InputError where there is none,
    more than one, or only a piece.
    """
    known = sorted(filter(is_gguf, names))
    found = [name for name in known if not PurePosixPath(name).name.lower().startswith("mmproj")]  # that one sees
    named = [name for name in found if choice is None or choice in (name, name[: -len(SUFFIX)])]
    if not named and choice is not None:
        part = re.compile(rf"(^|[-._/]){re.escape(choice)}(-\d{{5}}-of-\d{{5}})?\.gguf$", re.IGNORECASE)
        named = [name for name in found if part.search(name)]
    if not named:
        wanted = f"GGUF file {choice}" if choice else "GGUF file of a model that writes"
        raise InputError(f"{where}: it has no {wanted}; it has {', '.join((found or known)[:5]) or 'none'}")
    if all(map(_PIECE.search, named)):
        raise InputError(f"{where}: {named[0]} is {_A_PIECE}")
    if len(named) > 1:
        raise InputError(
            f"{where}: it has {len(named)} GGUF files, which are different models ({', '.join(named[:5])}); name one, "
            f"as {where}{between}{named[0]}"
        )
    return named[0]


# What is in it


def need_gguf(where: str) -> None:
    """Raise InputError where the packages that read GGUF are missing."""
    if missing := [name for name in GGUF_READERS if not is_installed(name)]:
        raise InputError(f"{where}: a GGUF file takes {' and '.join(missing)} to read; {INSTALL_GGUF_READERS}")


def read_header(file: Path, where: str) -> "GGUFReader":
    """The file's header: `fields` by their keys, and `tensors`, whose values are not read.

    Raises InputError for a file that is none, is broken or cut short, or is a piece of a model.
    """
    need_gguf(where)
    if _PIECE.search(file.name):
        raise InputError(f"{where}: {file.name} is {_A_PIECE}")
    try:
        return _known(file)
    except Exception as error:
        raise InputError(
            f"{where}: {file.name} cannot be read as GGUF, or is not whole ({one_line(error)}); get the file again"
        ) from None


def _known(file: Path | str) -> "GGUFReader":
    place = Path(file).resolve()
    state = place.stat()  # times of modification are copied along with a file, times of change are not
    return _read_header(place, state.st_ino, state.st_ctime_ns, state.st_size)


@lru_cache(maxsize=2)
def _read_header(file: Path, inode: int, changed: int, size: int) -> "GGUFReader":
    reader: GGUFReader = _reader_class()(file)
    ends = [tensor.data_offset + tensor.n_bytes for tensor in reader.tensors]
    if ends and max(ends) > size:
        raise ValueError(f"it has {size:,} bytes of {max(ends):,}")
    return reader


def metadata(reader: "GGUFReader") -> Mapping[str, Any]:
    """The header's values by their keys, without the long lists of its vocabulary."""
    return {
        key: field.contents()
        for key, field in reader.fields.items()
        if not (key.startswith("tokenizer.") and len(field.data) > 1)
    }


@cache
def _reader_class() -> Any:
    """gguf's reader, but for lists: it makes an array of each word of a vocabulary, in seconds and 200 MB."""
    import numpy as np
    from gguf import GGUFReader, GGUFValueType

    class Reader(GGUFReader):
        def _get_field_parts(self, orig_offs: int, raw_type: int) -> Any:
            if raw_type != GGUFValueType.ARRAY:
                return super()._get_field_parts(orig_offs, raw_type)
            kind, size = (self._get(orig_offs + at, number) for at, number in ((0, np.uint32), (4, np.uint64)))
            start, count, item = orig_offs + 12, int(size[0]), GGUFValueType(kind[0])
            if item == GGUFValueType.STRING:
                values, end = self._strings(start, count)
            elif item in self.gguf_scalar_to_np:
                flat = np.asarray(self._get(start, self.gguf_scalar_to_np[item], count))
                values, end = list(flat[:, None]), start + flat.nbytes
            else:
                return super()._get_field_parts(orig_offs, raw_type)
            indices = list(range(2, count + 2))
            return end - orig_offs, [kind, size, *values], indices, [GGUFValueType.ARRAY, item]

        def _strings(self, end: int, count: int) -> tuple[list[memoryview], int]:
            memory, found = memoryview(self.data), []  # type: ignore[arg-type]
            for _ in range(count):
                start = end + 8
                end = start + int.from_bytes(memory[end:start], "little")
                if end > len(memory):
                    raise ValueError("a list of its header ends behind the file")
                found.append(memory[start:end])
            return found, end

    return Reader


@contextmanager
def read_alone(file: Path) -> Iterator[dict[str, Any]]:
    """What `from_pretrained` takes to read this file, and nothing that lies beside it.

    Meanwhile transformers' reader uses what was read already, and draws no bar: it reads the header several times, and
    makes a table of names for each module of the model. What it has dequantised does not stay in memory as blocks, too.
    """
    import gguf
    from transformers import modeling_gguf_pytorch_utils as untyped

    reading: Any = untyped
    with _PATCHING, TemporaryDirectory() as folder:
        link = Path(folder) / f"model{SUFFIX}"
        link.symlink_to(file.resolve())
        before = gguf.GGUFReader, gguf.get_tensor_name_map, gguf.dequantize, reading.tqdm
        gguf.GGUFReader, gguf.get_tensor_name_map = _known, cache(before[1])  # type: ignore[assignment,misc]
        gguf.dequantize, reading.tqdm = partial(_dequantise, before[2]), partial(before[3], disable=True)
        try:
            yield {"pretrained_model_name_or_path": folder, "gguf_file": link.name, "local_files_only": True}
        finally:
            gguf.GGUFReader, gguf.get_tensor_name_map, gguf.dequantize, reading.tqdm = before  # type: ignore[misc]


def _dequantise(dequantize: Callable[[Any, Any], Any], blocks: Any, kind: Any) -> Any:
    """A tensor's values; its pages of the file, which is mapped, are given back."""
    values = dequantize(blocks, kind)
    mapped = getattr(blocks, "_mmap", None)
    if mapped is not None and hasattr(mmap, "MADV_DONTNEED"):
        mapped.madvise(mmap.MADV_DONTNEED)
    return values
