"""Which files of a directory make up a split.

Invariant: the order of the files is the order of their names, so that a row keeps its position; no split is ever taken
for another, and what lies beside the files that are read is named.
"""

import re
from collections.abc import Iterable
from difflib import get_close_matches
from pathlib import Path
from typing import NamedTuple

from pipeline.errors import InputError
from pipeline.reading.formats import ENDINGS, FAMILY, format_of, need_format, reading
from pipeline.reading.labels import shorten

# What names of files call the splits, as `datasets` reads them.
SPLITS = {
    **dict.fromkeys(("train", "training"), "train"),
    **dict.fromkeys(("validation", "valid", "val", "dev"), "validation"),
    **dict.fromkeys(("test", "testing", "eval", "evaluation"), "test"),
}
DEFAULT_SPLIT = "test"
EVERYTHING = "all"
# What `datasets` writes beside the data.
_DESCRIPTIONS = {"dataset_infos.json", "dataset_info.json", "dataset_dict.json", "state.json"}


class FoundFiles(NamedTuple):
    """The files of a split, what they call it, and lines that name what is read or passed over."""

    files: list[Path]
    split: str
    remarks: tuple[str, ...] = ()


def find_files(path: Path, split: str) -> FoundFiles:
    """The data files of a split at `path`: the file itself, or those of a directory in the order of their names.

    A file belongs to the splits that its name has between separators (`news_test.csv`, `test-00000-of-00002.parquet`),
    else to the one that its folder is called; a file's own name is a split, too. Where no name says a split, the
    files are all there is. Raises InputError where there is none, or files of more than one kind.
    """
    if path.is_file():
        return _one_file(path, split)
    if not path.is_dir():
        raise InputError(f"{path}: no such file or directory; check the path")
    with reading(path):
        files, others = _list_files(path)
    if not files:
        folders = [place.name for place in others if place.is_dir()]
        hint = f"; its folders are {shorten(folders)}, name one of them" if folders else ""
        raise InputError(f"{path}: the directory holds no {', '.join(ENDINGS)} file{hint}")
    chosen = _called(path, files, split) or _of_split(path, files, split)
    _refuse_copies(path, chosen)
    kinds = {need_format(file).kind for file in chosen}
    if len({FAMILY[kind] for kind in kinds}) > 1:
        raise InputError(
            f"{path}: the directory holds files of several kinds ({', '.join(sorted(f'.{kind}' for kind in kinds))}); "
            f"name one file, such as --split {chosen[0].name}"
        )
    left = sorted([*(file for file in files if file not in chosen), *others])
    return FoundFiles(chosen, split, _remarks(path, chosen, left))


def _one_file(path: Path, split: str) -> FoundFiles:
    need_format(path)
    own = _splits_of(path.name)
    is_named = split in (path.name, _uncompressed(path.name)) or _key(split) in own or _has_word(path.stem, split)
    if is_named or (not own and _is_split(split)):
        return FoundFiles([path], split)
    if len(own) == 1 and split == DEFAULT_SPLIT:
        return FoundFiles([path], next(iter(own)))  # nobody named a split, so the file does
    says = f"its name says {' and '.join(sorted(own))}" if own else "it is one file and its name says no split"
    raise InputError(f"{path}: no split '{split}'; {says}; leave out --split")


def _list_files(path: Path) -> tuple[list[Path], list[Path]]:
    """Data files of a directory and of its folders that are called like a split, and everything else in them."""
    files, others = [], []
    for place in sorted(path.iterdir()):
        if place.name.startswith("."):
            continue
        if place.is_dir() and _splits_of(place.name):
            inner, rest = _list_files(place)
            files += inner
            others += rest
        elif place.is_file() and format_of(place) and place.name not in _DESCRIPTIONS:
            files.append(place)
        else:
            others.append(place)
    return files, others


def _called(path: Path, files: list[Path], split: str) -> list[Path]:
    """The file that is called so, with its folders or without them, compressed or not."""
    called = [f for f in files if split in (f.name, f.relative_to(path).as_posix(), _uncompressed(f.name))]
    if len(called) > 1:
        raise InputError(f"{path}: '{split}' may be {_listed(path, called)}; name one of them with its folder")
    return called


def _of_split(path: Path, files: list[Path], split: str) -> list[Path]:
    splits = {file: _splits_of(file.name) or _folder_splits(path, file) for file in files}
    chosen = [file for file in files if _has_word(file.relative_to(path).as_posix(), split)]
    if _key(split) in SPLITS.values():
        same = [file for file in files if _key(split) in splits[file]]
        # dev.csv beside validation.csv: two data sets that mean the same split, of which one has been named.
        chosen = [file for file in same if file in chosen] or same
    said = {name for file in chosen for name in splits[file]}
    if len(said) > 1:
        raise InputError(
            f"{path}: split '{split}' may be {_listed(path, chosen)}, whose names say "
            f"{' and '.join(sorted(said))}; name one file with --split"
        )
    known = sorted({name for names in splits.values() for name in names})
    if chosen or (not known and _is_split(split)):
        return chosen or files
    close = get_close_matches(split, [*known, *(file.relative_to(path).as_posix() for file in files)], n=1)
    hint = f"did you mean '{close[0]}'? " if close else ""
    says = f"the splits found are {', '.join(known)}" if known else "no file's name says a split"
    raise InputError(
        f"{path}: no split '{split}'; {hint}{says}; the files are {_listed(path, files)}, and one of them may be named "
        "with --split"
    )


def _refuse_copies(path: Path, files: list[Path]) -> None:
    """test.csv beside test.csv.gz: every row would count twice."""
    bare: dict[str, Path] = {}
    for file in files:
        first = bare.setdefault(_uncompressed(file.relative_to(path).as_posix()), file)
        if first is not file:
            raise InputError(f"{path}: {first.name} and {file.name} look like one file twice; name one with --split")


def _uncompressed(name: str) -> str:
    return re.sub(r"\.(gz|zst)$", "", name, flags=re.IGNORECASE)


def _folder_splits(path: Path, file: Path) -> set[str]:
    folders = file.relative_to(path).parts[:-1]
    return next((found for name in reversed(folders) if (found := _splits_of(name))), set())


def _splits_of(name: str) -> set[str]:
    """The splits that a name says between separators, which everything but letters is: test-1, TestSet, testset."""
    words = re.findall(r"[^\W\d_]+", re.sub(r"(?<=[a-z])(?=[A-Z])", " ", name))
    bare = [re.sub(r"(set|data|split|file)s?$", "", word.lower()) for word in words]
    return {SPLITS[word] for word in bare if word in SPLITS}


def _has_word(name: str, word: str) -> bool:
    whole = rf"(?<![^\W\d_]){re.escape(word.lower())}(?![^\W\d_])"
    return re.search(whole, name.lower()) is not None


def _key(split: str) -> str:
    return SPLITS.get(split.lower(), split)


def _is_split(name: str) -> bool:
    """Whether somebody may call a split so where no file's name says one: a slip of the pen is no split."""
    return name.lower() in SPLITS or name == EVERYTHING


def _remarks(path: Path, chosen: list[Path], left: list[Path]) -> tuple[str, ...]:
    """Files that were passed over, and those that are read where they are more than pieces of one."""
    pieces = {re.sub(r"\d+", "", file.name) for file in chosen}
    read = f"reads {_listed(path, chosen)}" if len(pieces) > 1 else ""
    passed = f"passed over {_listed(path, left)}" if left else ""
    return (f"{path}: {', '.join(filter(None, (read, passed)))}",) if read or passed else ()


def _listed(path: Path, files: Iterable[Path]) -> str:
    """The first of these files, as the directory has them, for a message."""
    return shorten(file.relative_to(path).as_posix() for file in files)
