"""Where a split's rows come from: one or many files, read one after the other.

Invariant: the order of the files is the order of their names, so that a row keeps its position; and what lies beside
them and is not read is named.
"""

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from functools import partial
from itertools import chain
from pathlib import Path

from pipeline.errors import InputError
from pipeline.reading.labels import NO_LABEL, Unknown, label_values
from pipeline.reading.readers import (
    ENDINGS,
    FAMILY,
    PLAIN,
    Batch,
    Header,
    Layout,
    format_of,
    read_header,
    read_rows,
    reading,
)

# What names of files call the splits, as `datasets` reads them.
SPLITS = {
    **dict.fromkeys(("train", "training"), "train"),
    **dict.fromkeys(("validation", "valid", "val", "dev"), "validation"),
    **dict.fromkeys(("test", "testing", "eval", "evaluation"), "test"),
}
DEFAULT_SPLIT = "test"
EVERYTHING = "all"
NUM_SHOWN = 8
# What `datasets` writes beside the data.
_DESCRIPTIONS = {"dataset_infos.json", "dataset_info.json", "dataset_dict.json", "state.json"}

Names = tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Source:
    """One split, wherever it lies: what is known of it, and passes over columns of it.

    Where a column has class names, its ids are read as those names.
    """

    name: str
    columns: tuple[str, ...]  # that every file has
    partial_columns: tuple[str, ...]  # that only some files have
    class_names: Mapping[str, Names]  # column -> names, where there is a ClassLabel feature
    num_rows: int | None  # None where only reading everything would tell
    read_each: Sequence[Callable[[Sequence[str]], Iterator[Batch]]]  # one for each file, in order
    revision: str | None = None
    files: tuple[Path, ...] = ()
    reordered: frozenset[str] = frozenset()  # columns whose class names the files list in different orders

    def read(self, columns: Sequence[str]) -> Iterator[Batch]:
        """A pass over columns of all files."""
        return chain.from_iterable(read(columns) for read in self.read_each)


@dataclass(frozen=True, slots=True)
class FoundFiles:
    """The files of a split, what they call it, and a line that names the files passed over."""

    files: tuple[Path, ...]
    split: str
    remark: str | None = None


# Which files


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
        hint = f"; its folders are {_shorten(folders)}, name one of them" if folders else ""
        raise InputError(f"{path}: the directory holds no {', '.join(ENDINGS)} file{hint}")
    chosen = _called(path, files, split) or _of_split(path, files, split)
    _refuse_twins(path, chosen)
    kinds = sorted({_family(file) for file in chosen})
    if len(kinds) > 1:
        endings = sorted({f".{found.kind}" for file in chosen if (found := format_of(file))})
        raise InputError(
            f"{path}: the directory holds files of several kinds ({', '.join(endings)}); name one file, such as "
            f"--split {chosen[0].name}"
        )
    return FoundFiles(tuple(chosen), split, _passed_over(path, [f for f in files if f not in chosen], others))


def _one_file(path: Path, split: str) -> FoundFiles:
    if format_of(path) is None:
        raise InputError(f"{path}: the name must end in one of {', '.join(ENDINGS)} to say what the file holds")
    own = _splits_of(path.name)
    if split in (path.name, _uncompressed(path.name)) or _key(split) in own or _has_word(path.stem, split):
        return FoundFiles((path,), split)
    if not own and _is_split(split):
        return FoundFiles((path,), split)
    if len(own) == 1 and split == DEFAULT_SPLIT:
        return FoundFiles((path,), next(iter(own)))  # nobody named a split, so the file does
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
        places = [file.relative_to(path).as_posix() for file in called]
        raise InputError(f"{path}: '{split}' may be {_shorten(places)}; name one of them with its folder")
    return called


def _of_split(path: Path, files: list[Path], split: str) -> list[Path]:
    splits = {file: _splits_of(file.name) or _folder_splits(path, file) for file in files}
    known = sorted({name for names in splits.values() for name in names})
    places = {file: file.relative_to(path).as_posix() for file in files}
    chosen = [file for file in files if _has_word(places[file], split)]
    if _key(split) in SPLITS.values():
        same = [file for file in files if _key(split) in splits[file]]
        # dev.csv beside validation.csv: two data sets that mean the same split, of which one has been named.
        chosen = [file for file in same if file in chosen] or same
    said = {name for file in chosen for name in splits[file]}
    if len(said) > 1:
        raise InputError(
            f"{path}: split '{split}' may be {_shorten([places[file] for file in chosen])}, whose names say "
            f"{' and '.join(sorted(said))}; name one file with --split"
        )
    if chosen:
        return chosen
    if known or not _is_split(split):
        listed = [*known, *(file.relative_to(path).as_posix() for file in files)]
        close = get_close_matches(split, listed, n=1)
        hint = f"did you mean '{close[0]}'? " if close else ""
        says = f"the splits found are {', '.join(known)}" if known else "no file's name says a split"
        raise InputError(
            f"{path}: no split '{split}'; {hint}{says}; the files are {_shorten(listed[len(known) :])}, and one of "
            "them may be named with --split"
        )
    return files


def _refuse_twins(path: Path, files: list[Path]) -> None:
    """test.csv beside test.csv.gz: every row would count twice."""
    bare: dict[str, Path] = {}
    for file in files:
        name = _uncompressed(file.relative_to(path).as_posix())
        if name in bare:
            both = f"{bare[name].name} and {file.name}"
            raise InputError(f"{path}: {both} look like one file twice; name one with --split")
        bare[name] = file


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


def _family(file: Path) -> str:
    found = format_of(file)
    assert found is not None
    return FAMILY[found.kind]


def _passed_over(path: Path, files: list[Path], others: list[Path]) -> str | None:
    left = [file.relative_to(path).as_posix() for file in sorted([*files, *others])]
    return f"{path}: passed over {_shorten(left)}" if left else None


def _shorten(names: list[str]) -> str:
    more = f" and {len(names) - NUM_SHOWN} more" if len(names) > NUM_SHOWN else ""
    return ", ".join(names[:NUM_SHOWN]) + more


# What is in them


def open_files(
    name: str,
    files: Sequence[Path],
    looked_for: Sequence[str] = (),
    layout: Layout = PLAIN,
    class_names: Mapping[str, Names] | None = None,
) -> Source:
    """A source over files of one kind; reads their headers, as far as the columns looked for.

    `class_names` are those that the data set's description gives. Raises InputError for what is no such file, and for
    files that do not have the same classes.
    """
    headers = [read_header(file, looked_for, layout) for file in files]
    headers = [_described(file, header, class_names or {}) for file, header in zip(files, headers, strict=True)]
    seen = tuple(dict.fromkeys(column for header in headers for column in header.columns))
    common = tuple(c for c in headers[0].columns if all(c in header.columns for header in headers))
    counts = [header.num_rows for header in headers]
    num_rows = None if None in counts else sum(count or 0 for count in counts)
    missing = tuple(column for column in seen if column not in common)
    names = _agreed_names(files, headers, looked_for)
    reordered = frozenset(c for c in names if len({header.class_names.get(c, names[c]) for header in headers}) > 1)
    parts = zip(files, headers, strict=True)
    reads = [partial(_read_file, file, layout, header.class_names) for file, header in parts]
    return Source(name, common, missing, names, num_rows, reads, files=tuple(files), reordered=reordered)


def _described(file: Path, header: Header, class_names: Mapping[str, Names]) -> Header:
    """The header with the class names of the data set's description, which must say what the file says."""
    for column, names in header.class_names.items():
        if class_names.get(column, names) != names:
            raise InputError(
                f"{file}: its classes ({_shorten(list(names))}) are not those of the data set's description "
                f"({_shorten(list(class_names[column]))}); one of them is wrong"
            )
    return header._replace(class_names={**class_names, **header.class_names})


def _agreed_names(files: Sequence[Path], headers: list[Header], columns: Sequence[str]) -> dict[str, Names]:
    """Each column's class names, in the first file's order. Raises InputError where files have other classes."""
    parts = [part for part in zip(files, headers, strict=True) if part[1].num_rows != 0]  # no row, nothing to mistake
    agreed = dict(parts[0][1].class_names) if parts else {}
    for column in columns:
        for file, header in parts:
            names, first = header.class_names.get(column), agreed.get(column)
            if (names is None) != (first is None):
                named, unnamed = (parts[0][0], file) if first else (file, parts[0][0])
                raise InputError(
                    f"{unnamed}: does not name the classes of its column '{column}', and {named} does; write them "
                    "alike, or label the rows with names"
                )
            if set(names or ()) != set(first or ()):
                raise InputError(
                    f"{file}: its classes ({_shorten(list(names or ()))}) are not those of {parts[0][0]} "
                    f"({_shorten(list(first or ()))}); make them alike, or name one file"
                )
    return agreed


def _read_file(file: Path, layout: Layout, class_names: Mapping[str, Names], columns: Sequence[str]) -> Iterator[Batch]:
    """Columns of a file, ids under its own class names: they belong to the file that carries them."""
    for batch in read_rows(file, columns, layout):
        yield tuple(
            by_name(values, class_names[column]) if column in class_names else values
            for column, values in zip(columns, batch, strict=True)
        )


def by_name(values: Sequence[object], names: Names) -> list[object]:
    """A column with its ids (and lists of them) replaced by the names they stand for in their own file."""
    return [_named(value, names) for value in values]


def _named(value: object, names: Names) -> object:
    if isinstance(value, list):
        return [_named(element, names) for element in value]
    if isinstance(value, str) and value in names:
        return value
    number = label_values(value)
    if len(number) != 1 or not isinstance(number[0], int):
        return value
    if number[0] == NO_LABEL:
        return None
    return names[number[0]] if 0 <= number[0] < len(names) else Unknown(str(number[0]))
