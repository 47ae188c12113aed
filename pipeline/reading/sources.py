"""Where a split's rows come from: one or many files, read one after the other.

Invariant: ids are read under the class names of the file that carries them, and files of one source have the same
classes.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import chain
from pathlib import Path

from pipeline.errors import InputError
from pipeline.reading.labels import NO_LABEL, Unknown, compare_names, label_values, shorten
from pipeline.reading.readers import (
    PLAIN,
    Batch,
    Header,
    Layout,
    read_header,
    read_rows,
)

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
                f"{file}: its classes ({shorten(list(names))}) are not those of the data set's description "
                f"({shorten(list(class_names[column]))}); one of them is wrong"
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
                    f"{file}: its classes ({shorten(list(names or ()))}) are not those of {parts[0][0]} "
                    f"({shorten(list(first or ()))}): {compare_names(names or (), first or ())}; make them alike, or "
                    "name one file"
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
