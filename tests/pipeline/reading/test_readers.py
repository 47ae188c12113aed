"""Readers: the same rows from every kind of file, a broken row is one row, and what cannot be read is named."""

import codecs
import csv
import gzip
import io
import json
import os
import re
import time
import tracemalloc
from collections.abc import Sequence
from contextlib import suppress
from decimal import Decimal
from itertools import product
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from pipeline.errors import InputError
from pipeline.reading.csv_files import looks_like_data
from pipeline.reading.csv_rows import MAX_OPEN_CHARS
from pipeline.reading.formats import BATCH_ROWS, ENDINGS, FAMILY, PLAIN, Format, Layout, Unreadable, Values, format_of
from pipeline.reading.json_rows import CHUNK_CHARS
from pipeline.reading.readers import read_header, read_rows
from pipeline.reading.text_files import encoding_hint

Row = tuple[Any, ...]
TEXT_KINDS = ("csv", "tsv", "jsonl", "ndjson", "json")
COLUMNS = ("text", "label")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One folder for all examples of a property: hypothesis allows no fixture for each."""
    return tmp_path_factory.mktemp("readers")


def write(path: Path, rows: Sequence[Row], encoding: str = "utf-8", quoting: int = csv.QUOTE_ALL) -> Path:
    """Rows of text and label in the format that the name says."""
    endings = path.name.split(".")[1:]
    if endings[0] == "parquet":
        pq.write_table(pa.table({"text": [r[0] for r in rows], "label": [r[1] for r in rows]}), path, row_group_size=3)
        return path
    records = [dict(zip(COLUMNS, row, strict=True)) for row in rows]
    if endings[0] == "json":
        text = json.dumps(records, ensure_ascii=False, indent=len(rows) % 3 or None)
    elif endings[0] in ("jsonl", "ndjson"):
        text = "".join(json.dumps(record, ensure_ascii=False) + "\n" for record in records)
    else:
        file = io.StringIO(newline="")
        writer = csv.writer(file, delimiter="," if endings[0] == "csv" else "\t", quoting=quoting)  # type: ignore[arg-type]
        writer.writerows([COLUMNS, *rows])
        text = file.getvalue()
    return write_bytes(path, text.encode(encoding))


def write_bytes(path: Path, content: bytes) -> Path:
    """Compressed as the name says."""
    if path.suffix == ".gz":
        content = gzip.compress(content)
    elif path.suffix == ".zst":
        content = pa.compress(content, codec="zstd", asbytes=True)
    path.write_bytes(content)
    return path


def rows_of(path: Path, columns: Sequence[str] = COLUMNS, layout: Layout = PLAIN) -> list[Values]:
    """All rows; no batch is empty or too long, and a row has a value for each column."""
    rows: list[Values] = []
    for batch in read_rows(path, columns, layout):
        assert 1 <= len(batch) <= BATCH_ROWS
        rows += batch
    assert all(isinstance(row, Unreadable) or len(row) == len(columns) for row in rows)
    return rows


def told(path: Path, looked_for: Sequence[str] = (), layout: Layout = PLAIN) -> str:
    """The one line that refuses a file, from its header or else its rows."""
    with pytest.raises(InputError) as caught:
        read_rows_after_header(path, looked_for, layout)
    return str(caught.value)


def read_rows_after_header(path: Path, looked_for: Sequence[str], layout: Layout) -> list[Values]:
    columns = read_header(path, looked_for, layout).columns
    return rows_of(path, columns, layout)


def bad(row: Values) -> str:
    """Why a row is unreadable."""
    assert isinstance(row, Unreadable)
    return row.reason


# Names


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("x.csv", Format("csv", None)),
        ("A.CSV", Format("csv", None)),
        ("x.v1.2.jsonl.gz", Format("jsonl", "gzip")),
        ("y.TSV.ZST", Format("tsv", "zstd")),
        ("y.ndjson", Format("jsonl", None)),
        ("y.Json.Gz", Format("json", "gzip")),
        ("test-00000-of-00001.parquet", Format("parquet", None)),
        ("x.parquet.gz", None),
        ("x.txt", None),
        ("x.gz", None),
        ("csv", None),
        (".csv", None),
        ("x.csv.bak", None),
    ],
)
def test_the_endings_of_a_name_say_what_a_file_holds(name: str, expected: Format | None) -> None:
    """In any case; text files may be compressed, Parquet is inside."""
    assert format_of(Path("some.csv") / name) == expected


def test_every_ending_is_a_kind_of_a_family() -> None:
    """What messages list is what is read."""
    kinds = [how.kind for ending in ENDINGS if (how := format_of(Path(f"x{ending}")))]
    assert set(kinds) == set(FAMILY)
    assert len(kinds) == len(ENDINGS)


def test_a_name_that_says_nothing_is_told(tmp_path: Path) -> None:
    """With the endings that would."""
    assert "must end in one of .parquet, .csv, .tsv, .jsonl, .ndjson, .json" in told(tmp_path / "x.txt")


# The same rows from every kind of file

texts = st.text(st.characters(exclude_categories=["Cs"]), min_size=1)
latin_texts = st.text(st.characters(codec="cp1252"), min_size=1)
labels = st.sampled_from(["World", "Sci/Tech", "0", "1", ""])
tables = st.lists(st.tuples(texts, labels), min_size=1, max_size=10)
latin_tables = st.lists(st.tuples(latin_texts, labels), min_size=1, max_size=10)


@pytest.mark.parametrize("ending", ["parquet", *(k + c for k, c in product(TEXT_KINDS, ("", ".gz", ".zst")))])
@given(rows=tables)
@settings(max_examples=25)
def test_every_kind_and_compression_gives_the_rows_that_were_written(
    folder: Path, ending: str, rows: list[Row]
) -> None:
    """Quotes, line breaks of any kind, NUL bytes and emoji come through unchanged."""
    path = write(folder / f"rows.{ending}", rows)
    assert read_header(path, COLUMNS).columns == COLUMNS
    assert rows_of(path) == rows
    assert rows_of(path, ["label"]) == [row[1:] for row in rows]


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16", "utf-32"])
@pytest.mark.parametrize("kind", TEXT_KINDS)
@given(rows=tables)
@settings(max_examples=15)
def test_a_byte_order_mark_says_the_encoding(folder: Path, kind: str, encoding: str, rows: list[Row]) -> None:
    """Nobody has to name it, and it is no part of the first column's name."""
    path = write(folder / f"marked.{kind}", rows, encoding)
    assert read_header(path).columns == COLUMNS
    assert rows_of(path) == rows


@pytest.mark.parametrize("encoding", ["cp1252", "utf-16-le", "UTF8"])
@pytest.mark.parametrize("ending", ["csv", "tsv.gz", "jsonl", "json.zst"])
@given(rows=latin_tables)
@settings(max_examples=15)
def test_an_encoding_can_be_named(folder: Path, ending: str, encoding: str, rows: list[Row]) -> None:
    """As Python spells it."""
    path = write(folder / f"named.{ending}", rows, encoding)
    assert read_header(path, COLUMNS, Layout(encoding)).columns == COLUMNS
    assert rows_of(path, COLUMNS, Layout(encoding)) == rows


def looks_like_rows(text: str, delimiter: str) -> bool:
    """Whether each line of a text, quoted and with a label behind it, has one delimiter."""
    lines = re.split(r"\r\n|\r|\n", f'{text}"{delimiter}label')
    return len(lines) > 1 and all(line.count(delimiter) == 1 for line in lines)


@pytest.mark.parametrize(
    ("kind", "content", "expected"),
    [
        ("csv", 'text,label\nok,0\n"Best,1\nmiddle,2\nWorst",0\nend,1\n', ["ok", "line 3: its quotes reach to", "end"]),
        ("tsv", 'text\tlabel\ngood\t1\n" hello\t1\nfine film\t0\nhe said "\t1\nok\t0\n', ["good", "line 3", "ok"]),
        ("tsv", 'label\ttext\n1\t" hello\n0\tfine film\n1\tsaid "\n0\tok\n', ["line 2", "ok"]),
        ("csv", 'text,label\n"Dear John, hello\nyours, Jim",1\n', ["Dear John, hello\nyours, Jim"]),
        ("csv", 'text,label\n"one\ntwo",1\n', ["one\ntwo"]),
        ("tsv", 'text\tlabel\n"one\tor two\nthree"\t1\n', ["one\tor two\nthree"]),
    ],
)  # fmt: skip
def test_stray_quotes_never_make_one_row_of_several(
    tmp_path: Path, kind: str, content: str, expected: list[str]
) -> None:
    """Where the lines between two quotes could be rows, they are one broken row; else the text of several lines."""
    (tmp_path / f"x.{kind}").write_text(content)
    rows = rows_of(tmp_path / f"x.{kind}", ["text"])
    shown = [row.reason if isinstance(row, Unreadable) else str(row[0]) for row in rows]
    assert len(shown) == len(expected)
    for value, words in zip(shown, expected, strict=True):
        assert value == words or (words.startswith("line") and value.startswith(words))


@pytest.mark.parametrize("quoting", [csv.QUOTE_MINIMAL, csv.QUOTE_ALL, csv.QUOTE_NONNUMERIC])
@pytest.mark.parametrize("kind", ["csv", "tsv"])
@given(rows=st.lists(st.tuples(st.text('ab",\t\r\n ', min_size=1, max_size=12), labels), min_size=1, max_size=8))
@settings(max_examples=40)
def test_what_a_program_quotes_is_read_back(folder: Path, kind: str, quoting: int, rows: list[Row]) -> None:
    """Tabs, commas, quotes and line breaks inside a field, however a writer chooses which fields to quote.

    But for texts of several lines that each look like a row, where the label beside them is not quoted.
    """
    delimiter = "," if kind == "csv" else "\t"
    assume(not any(looks_like_rows(text, delimiter) for text, _ in rows))
    assert rows_of(write(folder / f"quoted.{kind}", rows, quoting=quoting)) == rows


@pytest.mark.parametrize("ending", ["csv", "tsv.gz", "jsonl", "json", "parquet"])
def test_many_rows_come_in_order(tmp_path: Path, ending: str) -> None:
    """Beyond one batch and one piece of a file."""
    rows = [(f"news {i} " + "x" * (i % 300), str(i % 4)) for i in range(3 * BATCH_ROWS + 1)]
    assert rows_of(write(tmp_path / f"many.{ending}", rows)) == rows


@pytest.mark.parametrize("ending", ["csv", "tsv", "jsonl", "json", "csv.gz", "parquet"])
def test_a_text_of_megabytes_is_a_text(tmp_path: Path, ending: str) -> None:
    """The csv module's own limit is 131,072 characters; the text spans many lines."""
    rows = [("before", "0"), ('many "long"\tlines,\n' * 200_000, "1"), ("after", "2")]
    assert rows_of(write(tmp_path / f"long.{ending}", rows)) == rows


@pytest.mark.parametrize("ending", ["csv", "tsv", "jsonl", "json", "json.gz"])
def test_memory_does_not_grow_with_the_number_of_rows(tmp_path: Path, ending: str) -> None:
    """Four times the rows, the same peak of Python's own memory."""
    peaks = []
    for num_rows in (10_000, 40_000):
        path = write(tmp_path / f"{num_rows}.{ending}", [(f"news {i} {'x' * 100}", "1") for i in range(num_rows)])
        tracemalloc.start()
        assert sum(map(len, read_rows(path, COLUMNS))) == num_rows
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
    assert peaks[1] < 1.2 * peaks[0]


@pytest.mark.parametrize("ending", [*TEXT_KINDS, "csv.gz", "jsonl.zst", "parquet"])
@given(data=st.binary(max_size=200), encoding=st.sampled_from([None, "cp1252", "utf-16", "utf-16-be", "gb18030"]))
@settings(max_examples=50)
def test_random_bytes_are_never_a_traceback(folder: Path, ending: str, data: bytes, encoding: str | None) -> None:
    """Whatever lies behind a name ends in rows or in one line."""
    path = folder / f"random.{ending}"
    for write_as in (write_bytes, Path.write_bytes):
        write_as(path, data)
        with suppress(InputError):
            read_rows_after_header(path, COLUMNS, Layout(encoding))


@pytest.mark.parametrize("kind", TEXT_KINDS)
@given(text=st.text('ab,"\t\n\r {}[]:0\\\x00\ud800é', max_size=30), cut=st.integers(0, 30))
@settings(max_examples=60)
def test_text_that_is_nearly_right_is_never_a_traceback(folder: Path, kind: str, text: str, cut: int) -> None:
    """Loose quotes, ragged rows, half-open JSON."""
    head = {"csv": "text,label\n", "tsv": "text\tlabel\n", "json": '[{"text": "x"}, '}.get(kind, '{"text": "x"}\n')
    path = folder / f"nearly.{kind}"
    path.write_bytes((head[: max(cut, 5)] + text).encode("utf-8", "surrogatepass"))
    with suppress(InputError):
        read_rows_after_header(path, COLUMNS, Layout())


# Parquet


def test_only_the_parquet_columns_asked_for_are_read(tmp_path: Path) -> None:
    """In the order asked for; a damaged column that nobody wants does not matter; one that is not there is None."""
    table = pa.table({"long": ["z" * 5_000] * 3, "text": ["a", "b", "c"], "a.b": [{"a.b": 1}] * 3})
    pq.write_table(table, tmp_path / "x.parquet", use_dictionary=False, compression="none", write_page_checksum=True)
    raw = bytearray((tmp_path / "x.parquet").read_bytes())
    raw[raw.index(b"zzzz") + 100] ^= 1
    (tmp_path / "x.parquet").write_bytes(bytes(raw))
    assert rows_of(tmp_path / "x.parquet", ["text"]) == [("a",), ("b",), ("c",)]
    assert rows_of(tmp_path / "x.parquet", ["a.b", "title", "text"])[0] == ({"a.b": 1}, None, "a")
    with pytest.raises(InputError, match=r"x\.parquet: cannot be read as parquet .*; check the file"):
        rows_of(tmp_path / "x.parquet", ["long"])


def test_a_parquet_column_nobody_has_is_none_in_each_row(tmp_path: Path) -> None:
    """Also where nothing else is asked for."""
    assert rows_of(write(tmp_path / "x.parquet", [("a", "0"), ("b", "1")]), ["topic"]) == [(None,), (None,)]


@pytest.mark.parametrize(
    ("column", "expected"),
    [
        (pa.array([1, None]), [1, None]),
        (pa.array([Decimal("1.0"), None], pa.decimal128(5, 1)), [Decimal("1.0"), None]),
        (pa.array(["a", None]).dictionary_encode(), ["a", None]),
        (pa.array([["a", "b"], []]), [["a", "b"], []]),
        (pa.array([{"text": ["a"]}, None]), [{"text": ["a"]}, None]),
        (pa.array([b"fine", b"\xff"]), ["fine", b"\xff"]),
        (pa.array([b"fine", b"\xff"]).cast(pa.string(), safe=False), ["fine", b"\xff"]),
        (pa.array(["a", "b"], pa.large_string()), ["a", "b"]),
        (pa.array(["a", "b"], pa.string_view()), ["a", "b"]),
        (pa.array([True, None]), [True, None]),
    ],
)
def test_parquet_values_are_python_objects(tmp_path: Path, column: "pa.Array[Any]", expected: list[object]) -> None:
    """Bytes stay bytes only where they are not UTF-8."""
    pq.write_table(pa.table({"x": column}), tmp_path / "x.parquet")
    assert rows_of(tmp_path / "x.parquet", ["x"]) == [(value,) for value in expected]


def test_a_parquet_list_with_bytes_that_are_no_text_is_one_bad_row(tmp_path: Path) -> None:
    """In every column; the rest is read."""
    words = pa.array([b"fine", b"\xff\xfe", b"too"]).cast(pa.string(), safe=False)
    lists = pa.ListArray.from_arrays([0, 1, 2, 3], words)
    pq.write_table(pa.table({"choices": lists, "text": ["a", "b", "c"]}), tmp_path / "x.parquet")
    rows = rows_of(tmp_path / "x.parquet", ["text", "choices"])
    assert [rows[0], rows[2]] == [("a", ["fine"]), ("c", ["too"])]
    assert "not valid UTF-8" in bad(rows[1])


def test_class_names_come_from_the_footer_also_for_lists(tmp_path: Path) -> None:
    """`datasets` writes a list of ClassLabel in three ways; other features have no names."""
    label = {"names": ["bad", "good"], "_type": "ClassLabel"}
    features = {
        "label": label,
        "a": {"feature": label, "_type": "Sequence"},
        "b": {"feature": label, "length": -1, "_type": "List"},
        "c": [label],
        "text": {"dtype": "string", "_type": "Value"},
        "d": {"feature": {"dtype": "string", "_type": "Value"}, "_type": "List"},
        "e": {"names": [], "_type": "ClassLabel"},
        "f": [{"dtype": "int64", "_type": "Value"}],
    }
    table = pa.table({"text": ["a"], "label": [1]})
    table = table.replace_schema_metadata({"huggingface": json.dumps({"info": {"features": features}})})
    pq.write_table(table, tmp_path / "x.parquet")
    header = read_header(tmp_path / "x.parquet")
    assert header.class_names == dict.fromkeys(["label", "a", "b", "c"], ("bad", "good"))
    assert (header.columns, header.num_rows) == (("text", "label"), 1)


@pytest.mark.parametrize("footer", ["", "[]", '{"info": 5}', '{"info": {"features": {"label": {"_type": []}}}}'])
def test_a_footer_of_another_make_has_no_names(tmp_path: Path, footer: str) -> None:
    """It is no error."""
    table = pa.table({"label": [1]}).replace_schema_metadata({"huggingface": footer})
    pq.write_table(table, tmp_path / "x.parquet")
    assert read_header(tmp_path / "x.parquet").class_names == {}


# Compressed files


@pytest.mark.parametrize("ending", ["gz", "zst"])
def test_all_members_of_a_compressed_file_are_read(tmp_path: Path, ending: str) -> None:
    """Files put one behind the other with cat are one file."""
    path = write(tmp_path / f"x.csv.{ending}", [("a", "0")])
    whole = path.read_bytes()
    write_bytes(path, b"b,1\n")
    path.write_bytes(whole + path.read_bytes())
    assert rows_of(path) == [("a", "0"), ("b", "1")]


@pytest.mark.parametrize("ending", ["gz", "zst"])
@given(share=st.floats(0, 1, exclude_max=True), lines=st.lists(texts, max_size=50))
@settings(max_examples=60)
def test_a_compressed_file_that_is_cut_off_is_never_read_as_fewer_rows(
    folder: Path, ending: str, share: float, lines: list[str]
) -> None:
    """At whatever byte."""
    path = write(folder / f"cut.jsonl.{ending}", [(line, "0") for line in lines] or [("a", "0")])
    whole = path.read_bytes()
    path.write_bytes(whole[: int(share * len(whole))])
    message = told(path)
    assert message.startswith(str(path))
    assert "cannot be read as" in message or "holds no row" in message


@given(place=st.integers(0, 10**6), flip=st.integers(1, 255))
@settings(max_examples=60)
def test_a_changed_byte_in_a_gzip_file_is_found(folder: Path, place: int, flip: int) -> None:
    """By its check sum; bytes that mean nothing, as the time in its head, may change."""
    rows = [(f"news {i}", "0") for i in range(50)]
    path = write(folder / "flipped.csv.gz", rows)
    raw = bytearray(path.read_bytes())
    raw[place % len(raw)] ^= flip
    path.write_bytes(bytes(raw))
    with suppress(InputError):
        assert rows_of(path) == rows


def test_damage_in_a_compressed_file_is_told_in_one_line(tmp_path: Path) -> None:
    """What, where and what to do."""
    path = write(tmp_path / "x.csv.gz", [("a", "0")] * 9)
    path.write_bytes(path.read_bytes()[:-3])
    message = told(path)
    assert message == f"{path}: cannot be read as gzip-compressed csv (Truncated compressed stream); check the file"
    path.write_bytes(b"text,label\na,0\n")
    assert "cannot be read as gzip-compressed csv" in told(path)


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (gzip.compress(b"text,label\na,0\n", mtime=0), "is compressed with gzip; add .gz to its name"),
        (pa.compress(b"text\n", codec="zstd", asbytes=True), "is compressed with zstd; add .zst to its name"),
        (b"PK\x03\x04rest", "is a spreadsheet or a ZIP archive; save or unpack it as .csv"),
        (b"PAR1rest", "is a Parquet file; rename it to .parquet"),
    ],
)
def test_another_file_under_the_name_of_a_text_file_is_named(tmp_path: Path, content: bytes, words: str) -> None:
    """In place of columns made of noise."""
    (tmp_path / "x.csv").write_bytes(content)
    assert words in told(tmp_path / "x.csv")


# Encodings


@pytest.mark.parametrize("name", ["latin-one", "", "rot13", "base64", "a\0b"])
def test_an_encoding_that_python_does_not_know_is_told(tmp_path: Path, name: str) -> None:
    """With examples of what can be written."""
    path = write(tmp_path / "x.csv", [("a", "0")])
    message = told(path, layout=Layout(encoding=name))
    assert message.startswith("--encoding '")
    assert "no such encoding; write utf-8, cp1252, latin-1 or utf-16, for example" in message


@pytest.mark.parametrize("encoding", ["utf-16-le", "utf-16-be", "utf-32-le", "utf-32-be"])
@pytest.mark.parametrize("kind", TEXT_KINDS)
def test_utf_16_without_a_mark_is_named(tmp_path: Path, kind: str, encoding: str) -> None:
    """Python would find no column in it; what to write is told, and then it is read."""
    rows = [("Ölpreise steigen", "0"), ("a\0b", "1")]
    path = write(tmp_path / f"x.{kind}", rows, encoding)
    message = told(path)
    assert f"looks like {encoding[:6].upper()} without a mark; write --encoding {encoding}" in message
    assert f"begins like {encoding}, not like utf-8; write --encoding" in told(path, layout=Layout("utf-8"))
    for written in (encoding, encoding[:6]):
        assert rows_of(path, COLUMNS, Layout(written)) == rows


@pytest.mark.parametrize("written", ["utf-8", "UTF-8-sig", "utf8"])
def test_a_mark_never_gets_into_a_name(tmp_path: Path, written: str) -> None:
    """Whether or not the encoding is named."""
    path = write(tmp_path / "x.csv", [("é", "0")], "utf-8-sig", csv.QUOTE_MINIMAL)
    assert read_header(path, (), Layout(written)).columns == COLUMNS
    path.write_bytes(codecs.BOM_UTF16_BE + "text,label\né,0\n".encode("utf-16-be"))
    for layout in (Layout(), Layout("utf-16"), Layout("utf-16-be")):
        assert read_header(path, (), layout).columns == COLUMNS
        assert rows_of(path, COLUMNS, layout) == [("é", "0")]
    path = write(tmp_path / "y.csv", [("中", "0")], "gb18030", csv.QUOTE_MINIMAL)
    path.write_bytes("\ufeff".encode("gb18030") + path.read_bytes())
    assert rows_of(path, COLUMNS, Layout("gb18030")) == [("中", "0")]


def test_an_encoding_that_the_mark_denies_is_refused(tmp_path: Path) -> None:
    """Read as told, every letter with an accent would be two others."""
    path = write(tmp_path / "x.csv", [("é", "0")], "utf-8-sig")
    assert "begins like utf-8, not like cp1252; leave out --encoding" in told(path, layout=Layout("cp1252"))


def test_bytes_that_are_no_utf8_come_through_as_surrogates(tmp_path: Path) -> None:
    """Row by row they are refused elsewhere; the hint says how they would read."""
    (tmp_path / "x.csv").write_bytes(b"text,label\nfine,0\nCaf\xe9 prices,1\n")
    rows = rows_of(tmp_path / "x.csv")
    assert rows == [("fine", "0"), ("Caf\udce9 prices", "1")]
    assert encoding_hint(rows[1][0]) == "if 'Café prices' is right, write --encoding cp1252"
    assert encoding_hint("\udc81") == "if '\x81' is right, write --encoding latin-1"
    assert encoding_hint("fine é") == encoding_hint("\ud800") == ""


def test_a_byte_that_an_encoding_lacks_is_one_bad_row(tmp_path: Path) -> None:
    """cp1252 has no 0x81."""
    (tmp_path / "x.csv").write_bytes(b"text,label\n\x81,0\n\xe9,1\n")
    assert rows_of(tmp_path / "x.csv", COLUMNS, Layout("cp1252")) == [("\udc81", "0"), ("é", "1")]


def test_text_that_is_not_in_its_encoding_is_told(tmp_path: Path) -> None:
    """Where no single row can be blamed."""
    path = write(tmp_path / "x.csv", [("a", "0")], "utf-16")
    path.write_bytes(path.read_bytes() + b"\x00\xdc\x00")
    message = told(path)
    assert message.startswith(f"{path}: is no text in utf-16-le (")
    assert "give its encoding with --encoding: utf-8, cp1252, latin-1 or utf-16, for example" in message


def test_a_header_that_is_not_utf8_is_told_where_a_column_is_missing(tmp_path: Path) -> None:
    """Only there: another column's name may be what it likes."""
    (tmp_path / "x.csv").write_bytes("größe,label\nx,0\n".encode("cp1252"))
    message = told(tmp_path / "x.csv", ["größe"])
    assert "its header is not text in utf-8; give its encoding with --encoding, cp1252 for example" in message
    assert read_header(tmp_path / "x.csv", ["label"]).columns[1] == "label"
    assert read_header(tmp_path / "x.csv", ["größe"], Layout("cp1252")).columns == ("größe", "label")


# CSV: broken rows


def table(path: Path, *lines: str, end: str = "\n") -> Path:
    path.write_text("".join(line + end for line in lines), newline="")
    return path


def test_a_quote_that_is_never_closed_costs_its_line(tmp_path: Path) -> None:
    """The rows behind it are rows, quoted ones too."""
    path = table(tmp_path / "x.csv", "text,label", "one,0", '"open,1', "three,2", "", "four,3", '"fi\nve",0')
    rows = rows_of(path)
    assert [rows[0], *rows[2:]] == [("one", "0"), ("three", "2"), ("four", "3"), ("fi\nve", "0")]
    assert rows[1] == Unreadable("line 3: a quote is opened and never closed", '"open,1')


@pytest.mark.parametrize("end", ["\n", "\r\n", "\r"])
def test_text_behind_a_closing_quote_costs_its_line(tmp_path: Path, end: str) -> None:
    """With the line's number as an editor counts, whatever ends a line."""
    path = table(tmp_path / "x.csv", "", "text,label", "one,0", '"Best" player ever,1', "three,2", end=end)
    rows = rows_of(path)
    assert [rows[0], rows[2]] == [("one", "0"), ("three", "2")]
    assert rows[1] == Unreadable("line 4: text behind a closing quote", '"Best" player ever,1')


def test_a_quote_left_open_at_the_end_of_a_file_is_a_bad_row(tmp_path: Path) -> None:
    """Not the end of everything."""
    rows = rows_of(table(tmp_path / "x.csv", "text,label", "one,0", '"never closed,1', end="\n"))
    assert rows[0] == ("one", "0")
    assert bad(rows[1]) == "line 3: a quote is opened and never closed"


def test_a_ragged_row_says_its_line_and_both_widths(tmp_path: Path) -> None:
    """A comma that nobody quoted must not shift a label; line numbers count the lines inside quotes."""
    path = table(tmp_path / "x.csv", "text,label", '"fi\nne",1', "Dallas, Texas,2", "short", '"a\nb",c,1')
    rows = rows_of(path)
    assert rows[0] == ("fi\nne", "1")
    assert [bad(row) for row in rows[1:]] == [
        "line 4: 3 fields where the header has 2",
        "line 5: 1 fields where the header has 2",
        "line 6: 3 fields where the header has 2 (its quotes reach to line 7)",
    ]
    assert [row.raw for row in rows[1:]] == ["Dallas, Texas,2", "short", '"a\nb",c,1']


def oracle(lines: list[str], width: int) -> list[object]:
    """The rule in plain words, and in a time that grows with the square: from each line on, what csv makes of it."""
    rows: list[object] = []
    at = 0
    while at < len(lines):
        reader = csv.reader(iter(lines[at:]), strict=True)
        try:
            row = next(reader)
        except csv.Error:
            rows.append(at + 1)
            at += 1
        else:
            if row:
                rows.append(row if len(row) == width else at + 1)
            at += reader.line_num
    return rows


@given(text=st.text('abx",,""\n\n', max_size=60))
@settings(max_examples=60)
def test_giving_up_early_changes_no_row(folder: Path, text: str) -> None:
    """Beside the slow reader: the same rows, the same lines refused."""
    (folder / "oracle.csv").write_text("a,b\n" + text, newline="")
    lines = list(io.StringIO("a,b\n" + text, newline=""))
    found = [
        int(row.reason.partition(":")[0].removeprefix("line ")) if isinstance(row, Unreadable) else list(row)
        for row in rows_of(folder / "oracle.csv", ["a", "b"])
    ]
    assert found == oracle(lines, 2)[1:]


@pytest.mark.parametrize("kind", ["csv", "tsv"])
@pytest.mark.parametrize(
    "line", ['"Best" ever,1\n', '"open,1\n', '"""odd,1\n', 'x","w\n', 'x",w\n"\n', '"\n'], ids=lambda line: repr(line)
)
def test_stray_quotes_cost_a_time_that_grows_with_the_file(tmp_path: Path, kind: str, line: str) -> None:
    """100,000 lines take seconds, also where each looks open to the file's end (`x","w`)."""
    delimiter = "," if kind == "csv" else "\t"
    (tmp_path / f"x.{kind}").write_text(("text,label\n" + line * 100_000).replace(",", delimiter))
    started = time.monotonic()
    rows = rows_of(tmp_path / f"x.{kind}")
    assert time.monotonic() - started < 10
    assert len(rows) >= 50_000


def test_an_open_quote_looks_ahead_only_so_far(tmp_path: Path) -> None:
    """Where the next quote is megabytes away, the line is broken and the rest are rows; memory stays bounded."""
    line = "y" * 999 + ",0\n"
    num_lines = MAX_OPEN_CHARS // len(line) + 100
    path = tmp_path / "x.csv"
    path.write_text('text,label\n"open,0\n' + line * num_lines + 'end",0\n')
    rows = rows_of(path)
    assert bad(rows[0]) == "line 2: a quote is opened and never closed"
    assert rows[1:-1] == [("y" * 999, "0")] * num_lines
    assert rows[-1] == ('end"', "0")


# TSV


def test_tsv_that_quotes_nothing_keeps_its_quotes(tmp_path: Path) -> None:
    """GLUE's files: a quote anywhere is a character."""
    lines = ['"Best" film ever\t1', 'he said " no\t0', '"open\t1', "plain\t0", '"a" and "b"\t1', 'x\t"']
    path = table(tmp_path / "x.tsv", "text\tlabel", *lines)
    assert rows_of(path) == [tuple(line.split("\t")) for line in lines]


def test_tsv_with_quotes_that_happen_to_pair_over_lines_stays_a_row_a_line(tmp_path: Path) -> None:
    """Once the file has shown that it quotes nothing."""
    lines = ['he said "no" again\t0', '"opens\t1', "plain\t0", 'closes"\t1']
    assert rows_of(table(tmp_path / "x.tsv", "text\tlabel", *lines)) == [tuple(line.split("\t")) for line in lines]


def test_tsv_that_quotes_may_hold_tabs_and_line_breaks(tmp_path: Path) -> None:
    """pandas' and spreadsheets' files."""
    path = table(tmp_path / "x.tsv", "text\tlabel", '"a\tb ""c""\nd\te"\t1', "plain\t0")
    assert rows_of(path) == [('a\tb "c"\nd\te', "1"), ("plain", "0")]


def test_tsv_of_both_ways_is_read_line_by_line(tmp_path: Path) -> None:
    """A quoted row beside a stray quote; a row is refused only where neither way gives its width."""
    path = table(
        tmp_path / "x.tsv", "text\tlabel", '"a\tb"\t1', '"Best" film\t0', '"a\tb', '"open', "a\tb\tc", '"x"\t1'
    )
    rows = rows_of(path)
    assert [row for row in rows if not isinstance(row, Unreadable)] == [
        ("a\tb", "1"),
        ('"Best" film', "0"),
        ('"a', "b"),
        ("x", "1"),
    ]
    assert [bad(row) for row in rows if isinstance(row, Unreadable)] == [
        "line 5: 1 fields where the header has 2",
        "line 6: 3 fields where the header has 2",
    ]


def test_a_tsv_header_may_have_stray_quotes(tmp_path: Path) -> None:
    """Its line is taken as it stands too."""
    path = table(tmp_path / "x.tsv", 'the "text"\t"la"bel', "a\t0")
    assert read_header(path).columns == ('the "text"', '"la"bel')


# Columns without a header

NAMED = Layout(columns=("text", "label"))


@pytest.mark.parametrize("kind", ["csv", "tsv"])
def test_named_columns_make_every_line_a_row(tmp_path: Path, kind: str) -> None:
    """The first one too."""
    delimiter = "," if kind == "csv" else "\t"
    path = table(tmp_path / f"x.{kind}", f"a{delimiter}0", "one", f"b{delimiter}1")
    assert read_header(path, ["text"], NAMED).columns == COLUMNS
    rows = rows_of(path, ["label", "text"], NAMED)
    assert [rows[0], rows[2]] == [("0", "a"), ("1", "b")]
    assert bad(rows[1]) == "line 2: 1 fields where --columns names 2"


def test_named_columns_for_a_file_with_a_header_are_refused(tmp_path: Path) -> None:
    """Its header would become an article."""
    path = table(tmp_path / "x.csv", " Text,LABEL", "a,0")
    assert "x.csv: its first line is a header already; leave out --columns" in told(path, layout=NAMED)


@pytest.mark.parametrize("kind", ["jsonl", "json", "parquet"])
def test_named_columns_for_a_file_that_names_its_own_are_refused(tmp_path: Path, kind: str) -> None:
    """No option is silently ignored."""
    path = write(tmp_path / f"x.{kind}", [("a", "0")])
    assert f"a .{kind} file names its own columns; leave out --columns" in told(path, layout=NAMED)


def test_options_that_mean_nothing_are_refused(tmp_path: Path) -> None:
    """Two columns of one name; an encoding of a Parquet file."""
    path = table(tmp_path / "x.csv", "a,b,0")
    assert "--columns: names 'text' twice" in told(path, layout=Layout(columns=("text", "x", "text")))
    parquet = write(tmp_path / "x.parquet", [("a", "0")])
    assert "a .parquet file says its own encoding; leave out --encoding" in told(parquet, layout=Layout("utf-8"))


# Delimiters


@pytest.mark.parametrize(
    ("name", "header", "message"),
    [
        (
            "x.csv",
            "text;label",
            "separated by ';', not by commas (text;label); save it with commas, or with tabs as .tsv",
        ),
        ("x.csv", '"text";"label"', "separated by ';', not by commas"),
        ("x.csv", "id;title, long;Text", "separated by ';', not by commas"),
        ("x.csv", "text|label", "separated by '|', not by commas"),
        ("x.csv", "text:label", "separated by ':', not by commas"),
        ("x.csv", "body;topic", "separated by ';', not by commas"),
        ("x.csv", "text\tlabel", "its columns are separated by tabs; rename it to .tsv"),
        ("x.csv.gz", "text\tlabel", "its columns are separated by tabs; rename it to .tsv.gz"),
        ("x.tsv", "text,label", "its columns are separated by commas; rename it to .csv"),
        (
            "x.tsv",
            "text;label",
            "separated by ';', not by tabs (text;label); save it with tabs, or with commas as .csv",
        ),
    ],
)
@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16"])
def test_another_delimiter_is_named(tmp_path: Path, name: str, header: str, message: str, encoding: str) -> None:
    """In place of a column that is not there; spreadsheets in much of Europe write semicolons."""
    path = write_bytes(tmp_path / name, f"{header}\r\na,b\r\n".encode(encoding))
    assert message in told(path, COLUMNS)


@pytest.mark.parametrize(
    ("header", "looked_for"),
    [
        ("text", ["text", "label"]),
        ("text;label,x", ["text;label"]),
        ("title: long,topic", ["text"]),
        ("a (b; c; d),e", ["text"]),
        ("note: this", ["text"]),
        ("text;label", []),
    ],
)
def test_a_header_that_is_right_or_only_lacks_a_column_is_left_alone(
    tmp_path: Path, header: str, looked_for: list[str]
) -> None:
    """A semicolon inside a name is no delimiter; who misses a column says so elsewhere."""
    path = table(tmp_path / "x.csv", header, "a,0")
    assert read_header(path, looked_for).columns == tuple(header.split(","))


def test_another_delimiter_is_named_for_named_columns_too(tmp_path: Path) -> None:
    """Where it gives as many columns as were named."""
    path = table(tmp_path / "y.csv", "good;1", "bad;0")
    assert "separated by ';', not by commas (good;1)" in told(path, layout=NAMED)


def test_a_broken_header_is_told(tmp_path: Path) -> None:
    """Without names there is nothing to read rows by."""
    path = table(tmp_path / "x.csv", "", '"text" it is,label', "a,0")
    assert "line 2, its header, is broken: text behind a closing quote; mend it" in told(path, ["text"])


@pytest.mark.parametrize(
    ("columns", "expected"),
    [
        (("text", "label"), False),
        (("", "text", "label"), False),
        (("v1", "v2", "", "", ""), False),
        (("Class Index", "Title", "Description"), False),
        (("3", "Fears for pension"), True),
        (("-1.5e3", "x"), True),
        (("good film", "good film"), True),
        (("A long sentence that nobody would give a column as its name, surely.", "x"), True),
    ],
)
def test_a_first_line_of_data_is_told_from_a_header(columns: tuple[str, ...], expected: bool) -> None:
    """Numbers, sentences, the same twice; empty names are common in headers."""
    assert looks_like_data(columns) is expected


# JSON


def test_lines_that_are_no_records_are_bad_rows_with_their_numbers(tmp_path: Path) -> None:
    """Blank lines are no rows, and are counted."""
    path = table(tmp_path / "x.jsonl", '{"text": "a", "label": 0}', "", '{"text": "torn', "[1, 2]", '{"label": NaN}')
    rows = rows_of(path)
    assert rows[0] == ("a", 0)
    assert [bad(row) for row in rows[1:3]] == ["line 3: not valid JSON", "line 4: not a JSON object"]
    assert [row.raw for row in rows[1:3]] == ['{"text": "torn', "[1, 2]"]
    assert rows[3][0] is None
    assert rows[3][1] != rows[3][1]  # NaN


@pytest.mark.parametrize("kind", ["jsonl", "json"])
def test_a_label_that_comes_up_late_counts(tmp_path: Path, kind: str) -> None:
    """What is looked for is looked for to the end, and what comes up on the way may be nearly that."""
    records: list[dict[str, object]] = [{"text": f"news {i}"} for i in range(5_000)]
    records += [{"text": "late", "label": 1, "note": "x"}, {"text": "later", "topic": 2}]
    lines = [json.dumps(record) for record in records]
    (tmp_path / f"x.{kind}").write_text("\n".join(lines) if kind == "jsonl" else f"[{','.join(lines)}]")
    assert read_header(tmp_path / f"x.{kind}").columns == ("text",)
    assert read_header(tmp_path / f"x.{kind}", ["text", "label"]).columns == ("text", "label", "note")
    assert read_header(tmp_path / f"x.{kind}", ["topic", "none", "label"]).columns == (
        "text", "label", "note", "topic"
    )  # fmt: skip
    assert rows_of(tmp_path / f"x.{kind}", ["label"])[-2:] == [(1,), (None,)]


def test_a_list_is_read_by_its_records(tmp_path: Path) -> None:
    """Those that are none are bad rows with their number."""
    (tmp_path / "x.json").write_text('\n [ {"text": "a"},\n 5 , "two, [",\n[],{"text": NaN, "label": 1}]\n ')
    rows = rows_of(tmp_path / "x.json")
    assert rows[0] == ("a", None)
    assert [bad(row) for row in rows[1:4]] == [f"record {n}: not a JSON object" for n in (2, 3, 4)]
    assert [row.raw for row in rows[1:4]] == ["5", '"two, ["', "[]"]
    assert rows[4][1] == 1


def test_a_value_is_whole_wherever_a_piece_of_the_file_ends(tmp_path: Path) -> None:
    """Numbers of many lengths and texts longer than a piece, over several pieces."""
    numbers = [str(7 ** (i % 30)) + ("e5" if i % 7 == 0 else "") for i in range(CHUNK_CHARS // 5)]
    numbers[500] = json.dumps('quotes " and \\ é ' * (CHUNK_CHARS // 5), ensure_ascii=True)
    (tmp_path / "x.json").write_text("[" + ", ".join(numbers) + "]")
    assert [row.raw for row in rows_of(tmp_path / "x.json")] == numbers


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ('[{"text": "a"},\n{"text": "b", oops},\n{"text": "c"}]', "line 2: record 2 is not valid JSON ("),
        ('[{"text": "a"},\n{"text": "b"', "line 2: record 2 is not valid JSON ("),
        ('[{"text": "a"},\n{"text": "b', "line 2: record 2 is not valid JSON (Unterminated string"),
        ('[{"text": "a"}\n{"text": "b"}]', "line 2: record 1 is not valid JSON (no ',' or ']' behind it)"),
        ('[{"text": "a"}', "record 1 is not valid JSON (cut off)"),
        ('[{"text": "a"},]', "record 2 is not valid JSON"),
        ("[", "record 1 is not valid JSON"),
        ('[{"text": "a"}]\n\n{"text": "b"}', "line 3 goes on behind the end of the list"),
        ('[{"text": ' + "[" * 100_000, "line 1: record 1 is not valid JSON (maximum recursion depth"),
        ('[{"text": ' + "9" * 5_000 + "}]", "line 1: record 1 is not valid JSON (Exceeds the limit"),
    ],
)
def test_a_list_that_is_broken_is_told_with_line_and_record(tmp_path: Path, content: str, words: str) -> None:
    """Nothing behind the place could be trusted to be a record."""
    (tmp_path / "x.json").write_text(content)
    assert words in told(tmp_path / "x.json")


def test_a_broken_record_far_into_a_list_is_told_with_its_line(tmp_path: Path) -> None:
    """Line numbers count what was let go."""
    lines = ['{"text": "news", "label": 1},'] * 50_000
    lines[40_000] = '{"text": "news" "label": 1},'
    (tmp_path / "x.json").write_text("[\n" + "\n".join(lines) + '\n{"text": "end"}]')
    assert "line 40002: record 40001 is not valid JSON (Expecting ',' delimiter)" in told(tmp_path / "x.json")


def test_json_lines_in_a_json_file_are_json_lines(tmp_path: Path) -> None:
    """Many write them so; one record alone is one row."""
    path = table(tmp_path / "x.json", "", '{"text": "a", "label": 0}', "oops", '{"text": "b", "label": 1}')
    rows = rows_of(path)
    assert [rows[0], rows[2]] == [("a", 0), ("b", 1)]
    assert bad(rows[1]) == "line 3: not valid JSON"
    (tmp_path / "y.json").write_text('{"text": "a", "choices": ["x", "y"]}')
    assert rows_of(tmp_path / "y.json", ["text", "choices"]) == [("a", ["x", "y"])]


@pytest.mark.parametrize(
    "content",
    [
        '{\n "data": [\n  {"text": "a"}\n ]\n}',
        '{"text": ["a", "b"], "label": [0, 1]}',
        '{"text": {"0": "a"}, "label": {"0": 1}}\n\n',
        '{"data": [{"text": "a"}]}',
    ],
)
def test_one_object_that_holds_the_table_is_told(tmp_path: Path, content: str) -> None:
    """Over several lines or in one: no record of it is a row."""
    (tmp_path / "x.json").write_text(content)
    message = told(tmp_path / "x.json")
    assert "holds one object, not a list of records" in message
    assert "write a list of records, [{...}, {...}], or one record a line" in message


def test_json_that_is_neither_list_nor_record_is_told(tmp_path: Path) -> None:
    """A text, say."""
    (tmp_path / "x.json").write_text('\n"text"')
    assert "line 2 begins neither a list nor a record; write a list of records" in told(tmp_path / "x.json")


# Empty and unreadable files


@pytest.mark.parametrize("content", ["", "\n", "\r\n\r\n"])
@pytest.mark.parametrize(
    ("kind", "words"),
    [
        ("csv", "holds no row, not even a header line; check the file"),
        ("tsv", "holds no row, not even a header line; check the file"),
        ("jsonl", "holds no row, not even a line that is a JSON object; check the file"),
        ("json", "holds no row, not even a record that is a JSON object; check the file"),
        ("csv.gz", "holds no row, not even a header line; check the file"),
    ],
)
def test_an_empty_file_is_told(tmp_path: Path, kind: str, words: str, content: str) -> None:
    """Blank lines are nothing either."""
    assert words in told(write_bytes(tmp_path / f"x.{kind}", content.encode()))


def test_a_file_without_a_record_is_told(tmp_path: Path) -> None:
    """An empty list, a list of other things, a list under the name of JSON lines."""
    for content in ("[]", " [ ]\n", "[1, 2]"):
        (tmp_path / "x.json").write_text(content)
        assert "holds no row, not even a record that is a JSON object" in told(tmp_path / "x.json")
    (tmp_path / "x.jsonl").write_text('[\n{"text": "a"},\n{"text": "b"},\n{"text": "c"},\n]')
    message = told(tmp_path / "x.jsonl")
    assert "is a list of records over several lines, not a record a line; rename it to .json" in message
    assert "x.csv: holds no row; check the file" in told(table(tmp_path / "x.csv"), layout=NAMED)


def test_a_folder_under_a_file_name_is_told(tmp_path: Path) -> None:
    """As whatever the system says."""
    for ending in ("csv", "csv.gz", "parquet", "json"):
        (tmp_path / f"x.{ending}").mkdir()
        assert "cannot be read as" in told(tmp_path / f"x.{ending}")


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
@pytest.mark.parametrize("ending", ["csv", "json.gz", "parquet"])
def test_a_file_without_permission_is_told(tmp_path: Path, ending: str) -> None:
    """In one line."""
    path = write(tmp_path / f"x.{ending}", [("a", "0")])
    path.chmod(0)
    assert "not readable; check its permissions" in told(path)


def test_a_column_that_is_not_there_is_none(tmp_path: Path) -> None:
    """In every kind, for every row."""
    for kind in ("csv", "tsv", "jsonl", "json", "parquet"):
        path = write(tmp_path / f"x.{kind}", [("a", "0"), ("b", "1")])
        assert rows_of(path, ["topic", "text"]) == [(None, "a"), (None, "b")]
