"""The parts of a split, which are files or what the hub streams: opened, and read a batch of rows at a time.

Invariant: memory does not grow with the number of rows, and a row is never dropped: what cannot be read as a row
becomes an `Unreadable` in its place, so that positions keep their meaning. Ids are read under the class names of the
part that carries them, and parts of one split have the same classes.
"""

from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path

from pipeline.errors import InputError
from pipeline.reading.csv_files import open_csv
from pipeline.reading.formats import FAMILY, PLAIN, Batch, Layout, Part, Unreadable, Values, need_format, reading
from pipeline.reading.json_rows import open_json
from pipeline.reading.labels import NO_LABEL, Unknown, compare_names, label_values, shorten
from pipeline.reading.parquet_rows import open_parquet
from pipeline.reading.text_files import known_encoding

OPENERS = {"parquet": open_parquet, "csv": open_csv, "json": open_json}


def open_files(
    files: Sequence[Path], looked_for: Sequence[str], layout: Layout, described: Mapping[str, tuple[str, ...]]
) -> tuple[Part, ...]:
    """The files of a split, read as far as the columns looked for.

    `described` are class names by column that the data set's description gives. Raises InputError for what is no such
    file, and for files that do not have the same classes.
    """
    parts = tuple(_described(open_file(file, looked_for, layout), described) for file in files)
    for column in looked_for:
        _refuse_other_classes(column, [part for part in parts if part.num_rows != 0])
    return parts


def open_file(file: Path, looked_for: Collection[str] = (), layout: Layout = PLAIN) -> Part:
    """A file and what it says of itself: column names, row count and class names.

    `looked_for` are the columns that the caller wants, that of the text first: a JSON file is read until they have all
    come up, and where a CSV file lacks the first, its delimiter is checked. Raises InputError.
    """
    family = _family(file, layout)
    with reading(file):
        return OPENERS[family](file, layout, looked_for)


def _family(file: Path, layout: Layout) -> str:
    """What the file's name says, where nothing was said of its layout that such a file says itself."""
    kind = need_format(file).kind
    if layout.columns is not None and FAMILY[kind] != "csv":
        raise InputError(f"{file}: a .{kind} file names its own columns; leave out --columns")
    if layout.encoding is not None:
        known_encoding(layout.encoding)
        if kind == "parquet":
            raise InputError(f"{file}: a .parquet file says its own encoding; leave out --encoding")
    return FAMILY[kind]


def _described(part: Part, described: Mapping[str, tuple[str, ...]]) -> Part:
    """The part with the class names of the data set's description, which must say what the file says."""
    for column, names in part.class_names.items():
        if described.get(column, names) != names:
            raise InputError(
                f"{part.file}: its classes ({shorten(names)}) are not those of the data set's description "
                f"({shorten(described[column])}); one of them is wrong"
            )
    return replace(part, class_names={**described, **part.class_names})


def _refuse_other_classes(column: str, parts: Sequence[Part]) -> None:
    """Raise InputError where the parts' classes differ; one without rows has nothing to mistake."""
    for part in parts[1:]:
        first, names = (each.class_names.get(column, ()) for each in (parts[0], part))
        if bool(names) != bool(first):
            named, unnamed = (parts[0], part) if first else (part, parts[0])
            raise InputError(
                f"{unnamed.file}: does not name the classes of its column '{column}', and {named.file} does; write "
                "them alike, or label the rows with names"
            )
        if set(names) != set(first):
            raise InputError(
                f"{part.file}: its classes ({shorten(names)}) are not those of {parts[0].file} ({shorten(first)}): "
                f"{compare_names(names, first)}; make them alike, or name one file"
            )


# Rows, with ids as the names that they stand for in their own part


def read_batches(part: Part, columns: Sequence[str]) -> Iterator[Batch]:
    """Batches of at most `BATCH_ROWS` rows in order: the values of the columns asked for as Python objects.

    A column that the file or a record lacks is None, ids of a column with class names are those names, and what is no
    row is an `Unreadable`. Raises InputError, also while it reads.
    """
    names = [part.class_names.get(column) for column in columns]
    with reading(part.file) if part.file else nullcontext():
        for batch in part.read(columns):
            yield [_by_name(row, names) for row in batch] if any(names) else batch


def _by_name(row: Values, names: Sequence[tuple[str, ...] | None]) -> Values:
    if isinstance(row, Unreadable):
        return row
    return tuple([value if own is None else _named(value, own) for value, own in zip(row, names, strict=True)])


def _named(value: object, names: tuple[str, ...]) -> object:
    """The name of an id; of a list of ids the list of their names."""
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
