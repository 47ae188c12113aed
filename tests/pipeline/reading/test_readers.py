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
from pipeline.reading.formats import (
    BATCH_CHARS,
    BATCH_ROWS,
    ENDINGS,
    FAMILY,
    PLAIN,
    Format,
    Layout,
    Unreadable,
    Values,
    format_of,
)
from pipeline.reading.json_rows import CHUNK_CHARS
from pipeline.reading.readers import open_file, read_batches
from pipeline.reading.text_files import encoding_hint
from pipeline.wording import num_chars
from tests.pipeline.reading import data_files
from tests.pipeline.reading.data_files import TEXT_KINDS, write_bytes, write_lines

Row = tuple[Any, ...]
COLUMNS = ("text", "label")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One folder for all examples of a property: hypothesis allows no fixture for each."""
    return tmp_path_factory.mktemp("readers")


def write(path: Path, rows: Sequence[Row], encoding: str = "utf-8", quoting: int = csv.QUOTE_ALL) -> Path:
    """Rows of text and label in the format that the name says."""
    records = [dict(zip(COLUMNS, row, strict=True)) for row in rows]
    return data_files.write(path, records, encoding=encoding, quoting=quoting)


def rows_of(path: Path, columns: Sequence[str] = COLUMNS, layout: Layout = PLAIN) -> list[Values]:
    """All rows; no batch is empty or too long, and a row has a value for each column."""
    rows: list[Values] = []
    for batch in read_batches(open_file(path, layout=layout), columns):
        assert 1 <= len(batch) <= BATCH_ROWS
        rows += batch
    assert all(isinstance(row, Unreadable) or len(row) == len(columns) for row in rows)
    return rows


def message_of(path: Path, looked_for: Sequence[str] = (), layout: Layout = PLAIN) -> str:
    """The one line that refuses a file, from its header or else its rows."""
    with pytest.raises(InputError) as caught:
        read_rows_after_header(path, looked_for, layout)
    return str(caught.value)


def read_rows_after_header(path: Path, looked_for: Sequence[str], layout: Layout) -> list[Values]:
    columns = open_file(path, looked_for, layout).columns
    return rows_of(path, columns, layout)


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
    assert open_file(path, COLUMNS).columns == COLUMNS
    assert rows_of(path) == rows
    assert rows_of(path, ["label"]) == [row[1:] for row in rows]


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16", "utf-32"])
@pytest.mark.parametrize("kind", TEXT_KINDS)
@given(rows=tables)
@settings(max_examples=15)
def test_a_byte_order_mark_says_the_encoding(folder: Path, kind: str, encoding: str, rows: list[Row]) -> None:
    """Nobody has to name it, and it is no part of the first column's name."""
    path = write(folder / f"marked.{kind}", rows, encoding)
    assert open_file(path).columns == COLUMNS
    assert rows_of(path) == rows


@pytest.mark.parametrize("encoding", ["cp1252", "utf-16-le", "UTF8"])
@pytest.mark.parametrize("ending", ["csv", "tsv.gz", "jsonl", "json.zst"])
@given(rows=latin_tables)
@settings(max_examples=15)
def test_an_encoding_can_be_named(folder: Path, ending: str, encoding: str, rows: list[Row]) -> None:
    """As Python spells it."""
    path = write(folder / f"named.{ending}", rows, encoding)
    assert open_file(path, COLUMNS, Layout(encoding)).columns == COLUMNS
    assert rows_of(path, COLUMNS, Layout(encoding)) == rows


def looks_like_rows(text: str, delimiter: str) -> bool:
    """Whether each line of a text, quoted and with a label behind it, has one delimiter."""
    lines = re.split(r"\r\n|\r|\n", f'{text}"{delimiter}label')
    return len(lines) > 1 and all(line.count(delimiter) == 1 for line in lines)


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


@pytest.mark.parametrize("ending", ["csv", "tsv", "jsonl", "json", "json.gz"])
def test_memory_does_not_grow_with_the_number_of_rows(tmp_path: Path, ending: str) -> None:
    """Four times the rows, the same peak of Python's own memory."""
    peaks = []
    for num_rows in (10_000, 40_000):
        path = write(tmp_path / f"{num_rows}.{ending}", [(f"news {i} {'x' * 100}", "1") for i in range(num_rows)])
        tracemalloc.start()
        assert sum(map(len, read_batches(open_file(path), COLUMNS))) == num_rows
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
    assert peaks[1] < 1.2 * peaks[0]


@pytest.mark.parametrize("ending", ["csv", "jsonl", "json", "parquet"])
def test_memory_is_that_of_a_few_long_texts(tmp_path: Path, ending: str) -> None:
    """However many rows a batch may have, and where others are short."""
    texts = [str(i) + ("long " if i % 10 else "short") * (200_000 if i % 10 else 1) for i in range(40)]
    path = write(tmp_path / f"long.{ending}", [(text, "1") for text in texts])
    batches = list(read_batches(open_file(path), COLUMNS))
    assert [row[0] for batch in batches for row in batch if not isinstance(row, Unreadable)] == texts
    assert max(num_chars(batch) for batch in batches) < BATCH_CHARS + 1_100_000
    assert len(batches) > 5


# Broken rows

TORN = ", and each of these lines could be a row by itself; double the quotes in its text, or quote its other fields"
NAMED = Layout(columns=COLUMNS)


@pytest.mark.parametrize(
    ("name", "content", "layout", "expected"),
    [
        (
            "never closed.csv", 'text,label\none,0\n"open,1\nthree,2\n\nfour,3\n"fi\nve",0\n', PLAIN,
            [("one", "0"), Unreadable("line 3: a quote is opened and never closed", '"open,1'), ("three", "2"),
             ("four", "3"), ("fi\nve", "0")],
        ),
        (
            "open at the end.csv", 'text,label\none,0\n"never closed,1\n', PLAIN,
            [("one", "0"), Unreadable("line 3: a quote is opened and never closed", '"never closed,1')],
        ),
        *(
            (
                "behind a quote.csv", f'{end}text,label{end}one,0{end}"Best" ever,1{end}three,2{end}', PLAIN,
                [("one", "0"), Unreadable("line 4: text behind a closing quote", '"Best" ever,1'), ("three", "2")],
            )
            for end in ("\n", "\r\n", "\r")
        ),
        (
            "ragged.csv", 'text,label\n"fi\nne",1\nDallas, Texas,2\nshort\n"a\nb",c,1\n', PLAIN,
            [("fi\nne", "1"), Unreadable("line 4: 3 fields where the header has 2", "Dallas, Texas,2"),
             Unreadable("line 5: 1 fields where the header has 2", "short"),
             Unreadable("line 6: 3 fields where the header has 2 (its quotes reach to line 7)", '"a\nb",c,1')],
        ),
        (
            "torn.csv", 'text,label\nok,0\n"Best,1\nmiddle,2\nWorst",0\nend,1\n', PLAIN,
            [("ok", "0"), Unreadable(f"line 3: its quotes reach to line 5{TORN}", '"Best,1\nmiddle,2\nWorst",0'),
             ("end", "1")],
        ),
        ("a letter.csv", 'text,label\n"Dear John, hello\nyours, Jim",1\n', PLAIN,
         [("Dear John, hello\nyours, Jim", "1")]),
        ("two lines.csv", 'text,label\n"one\ntwo",1\n', PLAIN, [("one\ntwo", "1")]),
        ("no byte of cp1252.csv", b"text,label\n\x81,0\n\xe9,1\n", Layout("cp1252"), [("\udc81", "0"), ("é", "1")]),
        ("named.csv", "a,0\none\nb,1\n", NAMED,
         [("a", "0"), Unreadable("line 2: 1 fields where --columns names 2", "one"), ("b", "1")]),
        ("named.tsv", "a\t0\none\nb\t1\n", NAMED,
         [("a", "0"), Unreadable("line 2: 1 fields where --columns names 2", "one"), ("b", "1")]),
        # GLUE's files: a quote anywhere is a character.
        ("quotes nothing.tsv",
         'text\tlabel\n"Best" film ever\t1\nhe said " no\t0\n"open\t1\nplain\t0\n"a" and "b"\t1\nx\t"\n', PLAIN,
         [('"Best" film ever', "1"), ('he said " no', "0"), ('"open', "1"), ("plain", "0"), ('"a" and "b"', "1"),
          ("x", '"')]),
        # Quotes that happen to pair over lines, once the file has shown that it quotes nothing.
        ("pairs.tsv", 'text\tlabel\nhe said "no" again\t0\n"opens\t1\nplain\t0\ncloses"\t1\n', PLAIN,
         [('he said "no" again', "0"), ('"opens', "1"), ("plain", "0"), ('closes"', "1")]),
        # pandas' and spreadsheets' files.
        ("quotes.tsv", 'text\tlabel\n"a\tb ""c""\nd\te"\t1\nplain\t0\n', PLAIN,
         [('a\tb "c"\nd\te', "1"), ("plain", "0")]),
        ("quotes a tab.tsv", 'text\tlabel\n"one\tor two\nthree"\t1\n', PLAIN, [("one\tor two\nthree", "1")]),
        # A quoted row beside a stray quote: a row is refused only where neither way gives its width.
        ("both ways.tsv",
         'text\tlabel\n"a\tb"\t1\n"Best" film\t0\n"a\tb\n"open\na\tb\tc\n"x"\t1\n', PLAIN,
         [("a\tb", "1"), ('"Best" film', "0"), ('"a', "b"),
          Unreadable("line 5: 1 fields where the header has 2", '"open'),
          Unreadable("line 6: 3 fields where the header has 2", "a\tb\tc"), ("x", "1")]),
        ("torn.tsv", 'text\tlabel\ngood\t1\n" hello\t1\nfine film\t0\nhe said "\t1\nok\t0\n', PLAIN,
         [("good", "1"),
          Unreadable(f"line 3: its quotes reach to line 5{TORN}", '" hello\t1\nfine film\t0\nhe said "\t1'),
          ("ok", "0")]),
        ("torn behind a label.tsv", 'label\ttext\n1\t" hello\n0\tfine film\n1\tsaid "\n0\tok\n', PLAIN,
         [Unreadable(f"line 2: its quotes reach to line 4{TORN}", '1\t" hello\n0\tfine film\n1\tsaid "'), ("ok", "0")]),
        ("lines.jsonl", '{"text": "a", "label": 0}\n\n{"text": "torn\n[1, 2]\n{"label": NaN}\n', PLAIN,
         [("a", 0), Unreadable("line 3: not valid JSON", '{"text": "torn'),
          Unreadable("line 4: not a JSON object", "[1, 2]"), (None, float("nan"))]),
        ("list.json", '\n [ {"text": "a"},\n 5 , "two, [",\n[],{"text": NaN, "label": 1}]\n ', PLAIN,
         [("a", None), Unreadable("record 2: not a JSON object", "5"),
          Unreadable("record 3: not a JSON object", '"two, ["'), Unreadable("record 4: not a JSON object", "[]"),
          (float("nan"), 1)]),
        # Many write JSON lines into .json files; one record alone is one row.
        ("lines.json", '\n{"text": "a", "label": 0}\noops\n{"text": "b", "label": 1}\n', PLAIN,
         [("a", 0), Unreadable("line 3: not valid JSON", "oops"), ("b", 1)]),
        ("one.json", '{"text": "a", "label": ["x", "y"]}', PLAIN, [("a", ["x", "y"])]),
    ],
)  # fmt: skip
def test_a_broken_row_is_one_row_that_says_its_line(
    tmp_path: Path, name: str, content: str | bytes, layout: Layout, expected: list[Values]
) -> None:
    """What is broken costs its line, with the number that an editor shows; the rows behind it are rows."""
    (tmp_path / name).write_bytes(content if isinstance(content, bytes) else content.encode())
    assert list(map(repr, rows_of(tmp_path / name, COLUMNS, layout))) == list(map(repr, expected))  # NaN is not NaN


# Files that are refused

CSV_FILE = b"text,label\na,0\n"
NO_LIST = "line 2 begins neither a list nor a record; write a list of records"
ONE_OBJECT = "holds one object, not a list of records, or its first line is broken; write a list of records, [{...}, {"
NO_HEADER = "holds no row, not even a header line; check the file"
EMPTY = {
    "csv": NO_HEADER, "tsv": NO_HEADER, "csv.gz": NO_HEADER,
    "jsonl": "holds no row, not even a line that is a JSON object; check the file",
    "json": "holds no row, not even a record that is a JSON object; check the file",
}  # fmt: skip


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        ("x.txt", b"", "must end in one of .parquet, .csv, .tsv, .jsonl, .ndjson, .json"),
        *((f"x.{kind}", content, words) for kind, words in EMPTY.items() for content in (b"", b"\n", b"\r\n\r\n")),
        *(("x.json", content, EMPTY["json"]) for content in (b"[]", b" [ ]\n", b"[1, 2]")),
        ("x.jsonl", b'[\n{"text": "a"},\n{"text": "b"},\n]',
         "is a list of records over several lines, not a record a line; rename it to .json"),
        ("x.csv", gzip.compress(CSV_FILE, mtime=0), "is compressed with gzip; add .gz to its name"),
        ("x.csv", pa.compress(b"text\n", codec="zstd", asbytes=True), "is compressed with zstd; add .zst to its name"),
        ("x.csv", b"PK\x03\x04rest", "is a spreadsheet or a ZIP archive; save or unpack it as .csv"),
        ("x.csv", b"PAR1rest", "is a Parquet file; rename it to .parquet"),
        ("x.csv", b'\n"text" it is,label\na,0\n',
         "line 2, its header, is broken: text behind a closing quote; mend it"),
        ("x.csv", "text,label\na,0\n".encode("utf-16") + b"\x00\xdc\x00", "x.csv: is no text in utf-16-le ("),
        ("x.csv", "text,label\na,0\n".encode("utf-16") + b"\x00\xdc\x00",
         "give its encoding with --encoding: utf-8, cp1252, latin-1 or utf-16, for example"),
        ("x.json", b'[{"text": "a"},\n{"text": "b", oops},\n{"text": "c"}]', "line 2: record 2 is not valid JSON ("),
        ("x.json", b'[{"text": "a"},\n{"text": "b"', "line 2: record 2 is not valid JSON ("),
        ("x.json", b'[{"text": "a"},\n{"text": "b', "line 2: record 2 is not valid JSON (Unterminated string"),
        ("x.json", b'[{"text": "a"}\n{"text": "b"}]', "line 2: record 1 is not valid JSON (no ',' or ']' behind it)"),
        ("x.json", b'[{"text": "a"}', "record 1 is not valid JSON (cut off)"),
        ("x.json", b'[{"text": "a"},]', "record 2 is not valid JSON"),
        ("x.json", b"[", "record 1 is not valid JSON"),
        ("x.json", b'[{"text": "a"}]\n\n{"text": "b"}', "line 3 goes on behind the end of the list"),
        ("x.json", b'[{"text": ' + b"[" * 100_000, "line 1: record 1 is not valid JSON (maximum recursion depth"),
        ("x.json", b'[{"text": ' + b"9" * 5_000 + b"}]", "line 1: record 1 is not valid JSON (Exceeds the limit"),
        ("x.json", b'{\n "data": [\n  {"text": "a"}\n ]\n}', ONE_OBJECT),
        ("x.json", b'{"text": ["a", "b"], "label": [0, 1]}', ONE_OBJECT),
        ("x.json", b'{"text": {"0": "a"}, "label": {"0": 1}}\n\n', ONE_OBJECT),
        ("x.json", b'{"data": [{"text": "a"}]}', ONE_OBJECT),
        ("x.json", b'\n"text"', NO_LIST),
    ],
    ids=lambda value: repr(value)[:40],
)  # fmt: skip
def test_a_file_that_is_none_is_told(tmp_path: Path, name: str, content: bytes, words: str) -> None:
    """With what it is, the line where it breaks, or what to rename it to; blank lines are nothing."""
    assert words in message_of(write_bytes(tmp_path / name, content))


def test_damage_in_a_compressed_file_is_told_in_one_line(tmp_path: Path) -> None:
    """What, where and what to do."""
    path = write(tmp_path / "x.csv.gz", [("a", "0")] * 9)
    path.write_bytes(path.read_bytes()[:-3])
    message = message_of(path)
    assert message == f"{path}: cannot be read as gzip-compressed csv (Truncated compressed stream); check the file"
    path.write_bytes(CSV_FILE)
    assert "cannot be read as gzip-compressed csv" in message_of(path)


@pytest.mark.parametrize(
    ("name", "layout", "words"),
    [
        *(("x.csv", Layout(name), "no such encoding; write utf-8, cp1252, latin-1 or utf-16, for example")
          for name in ("latin-one", "", "rot13", "base64", "a\0b")),
        ("x.csv", Layout("latin-one"), "--encoding 'latin-one'"),
        ("marked.csv", Layout("cp1252"), "begins like utf-8, not like cp1252; leave out --encoding"),
        ("x.parquet", Layout("utf-8"), "a .parquet file says its own encoding; leave out --encoding"),
        ("capitals.csv", NAMED, "capitals.csv: its first line is a header already; leave out --columns"),
        *((f"x.{kind}", NAMED, f"a .{kind} file names its own columns; leave out --columns")
          for kind in ("jsonl", "json", "parquet")),
        ("x.csv", Layout(columns=("text", "x", "text")), "--columns: names 'text' twice"),
        ("semicolons.csv", NAMED, "separated by ';', not by commas (good;1)"),
        ("empty.csv", NAMED, "empty.csv: holds no row; check the file"),
    ],
)  # fmt: skip
def test_options_that_do_not_fit_the_file_are_refused(tmp_path: Path, name: str, layout: Layout, words: str) -> None:
    """No option is silently ignored, and no header becomes an item."""
    for kind in ("csv", "jsonl", "json", "parquet"):
        write(tmp_path / f"x.{kind}", [("a", "0")])
    write(tmp_path / "marked.csv", [("é", "0")], encoding="utf-8-sig")
    write_lines(tmp_path / "capitals.csv", " Text,LABEL", "a,0")
    write_lines(tmp_path / "semicolons.csv", "good;1", "bad;0")
    write_lines(tmp_path / "empty.csv")
    assert words in message_of(tmp_path / name, layout=layout)


def test_a_header_that_is_not_utf8_is_told_where_a_column_is_missing(tmp_path: Path) -> None:
    """Only there: another column's name may be what it likes."""
    (tmp_path / "x.csv").write_bytes("größe,label\nx,0\n".encode("cp1252"))
    message = message_of(tmp_path / "x.csv", ["größe"])
    assert "its header is not text in utf-8; give its encoding with --encoding, cp1252 for example" in message
    assert open_file(tmp_path / "x.csv", ["label"]).columns[1] == "label"
    assert open_file(tmp_path / "x.csv", ["größe"], Layout("cp1252")).columns == ("größe", "label")


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
    assert isinstance(rows[1], Unreadable)
    assert "not valid UTF-8" in rows[1].reason


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
    header = open_file(tmp_path / "x.parquet")
    assert header.class_names == dict.fromkeys(["label", "a", "b", "c"], ("bad", "good"))
    assert (header.columns, header.num_rows) == (("text", "label"), 1)


@pytest.mark.parametrize("footer", ["", "[]", '{"info": 5}', '{"info": {"features": {"label": {"_type": []}}}}'])
def test_a_footer_of_another_make_has_no_names(tmp_path: Path, footer: str) -> None:
    """It is no error."""
    table = pa.table({"label": [1]}).replace_schema_metadata({"huggingface": footer})
    pq.write_table(table, tmp_path / "x.parquet")
    assert open_file(tmp_path / "x.parquet").class_names == {}


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
    message = message_of(path)
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


# Encodings


@pytest.mark.parametrize("encoding", ["utf-16-le", "utf-16-be", "utf-32-le", "utf-32-be"])
@pytest.mark.parametrize("kind", TEXT_KINDS)
def test_utf_16_without_a_mark_is_named(tmp_path: Path, kind: str, encoding: str) -> None:
    """Python would find no column in it; what to write is told, and then it is read."""
    rows = [("Ölpreise steigen", "0"), ("a\0b", "1")]
    path = write(tmp_path / f"x.{kind}", rows, encoding)
    message = message_of(path)
    assert f"looks like {encoding[:6].upper()} without a mark; write --encoding {encoding}" in message
    assert f"begins like {encoding}, not like utf-8; write --encoding" in message_of(path, layout=Layout("utf-8"))
    for written in (encoding, encoding[:6]):
        assert rows_of(path, COLUMNS, Layout(written)) == rows


@pytest.mark.parametrize("written", ["utf-8", "UTF-8-sig", "utf8"])
def test_a_mark_never_gets_into_a_name(tmp_path: Path, written: str) -> None:
    """Whether or not the encoding is named."""
    path = write(tmp_path / "x.csv", [("é", "0")], "utf-8-sig", csv.QUOTE_MINIMAL)
    assert open_file(path, (), Layout(written)).columns == COLUMNS
    path.write_bytes(codecs.BOM_UTF16_BE + "text,label\né,0\n".encode("utf-16-be"))
    for layout in (Layout(), Layout("utf-16"), Layout("utf-16-be")):
        assert open_file(path, (), layout).columns == COLUMNS
        assert rows_of(path, COLUMNS, layout) == [("é", "0")]
    path = write(tmp_path / "y.csv", [("中", "0")], "gb18030", csv.QUOTE_MINIMAL)
    path.write_bytes("\ufeff".encode("gb18030") + path.read_bytes())
    assert rows_of(path, COLUMNS, Layout("gb18030")) == [("中", "0")]


def test_bytes_that_are_no_utf8_come_through_as_surrogates(tmp_path: Path) -> None:
    """Row by row they are refused elsewhere; the hint says how they would read."""
    (tmp_path / "x.csv").write_bytes(b"text,label\nfine,0\nCaf\xe9 prices,1\n")
    rows = rows_of(tmp_path / "x.csv")
    assert rows == [("fine", "0"), ("Caf\udce9 prices", "1")]
    assert encoding_hint(rows[1][0]) == "if 'Café prices' is right, write --encoding cp1252"
    assert encoding_hint("\udc81") == "if '\x81' is right, write --encoding latin-1"
    assert encoding_hint("fine é") == encoding_hint("\ud800") == ""


# CSV


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
    assert rows[0] == Unreadable("line 2: a quote is opened and never closed", '"open,0')
    assert rows[1:-1] == [("y" * 999, "0")] * num_lines
    assert rows[-1] == ('end"', "0")


def test_a_tsv_header_may_have_stray_quotes(tmp_path: Path) -> None:
    """Its line is taken as it stands too."""
    path = write_lines(tmp_path / "x.tsv", 'the "text"\t"la"bel', "a\t0")
    assert open_file(path).columns == ('the "text"', '"la"bel')


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
    assert message in message_of(path, COLUMNS)


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
    path = write_lines(tmp_path / "x.csv", header, "a,0")
    assert open_file(path, looked_for).columns == tuple(header.split(","))


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


@pytest.mark.parametrize("kind", ["jsonl", "json"])
def test_a_label_that_comes_up_late_counts(tmp_path: Path, kind: str) -> None:
    """What is looked for is looked for to the end, and what comes up on the way may be nearly that."""
    records: list[dict[str, object]] = [{"text": f"news {i}"} for i in range(5_000)]
    records += [{"text": "late", "label": 1, "note": "x"}, {"text": "later", "topic": 2}]
    lines = [json.dumps(record) for record in records]
    (tmp_path / f"x.{kind}").write_text("\n".join(lines) if kind == "jsonl" else f"[{','.join(lines)}]")
    assert open_file(tmp_path / f"x.{kind}").columns == ("text",)
    assert open_file(tmp_path / f"x.{kind}", ["text", "label"]).columns == ("text", "label", "note")
    assert open_file(tmp_path / f"x.{kind}", ["topic", "none", "label"]).columns == (
        "text", "label", "note", "topic"
    )  # fmt: skip
    assert rows_of(tmp_path / f"x.{kind}", ["label"])[-2:] == [(1,), (None,)]


def test_a_value_is_whole_wherever_a_piece_of_the_file_ends(tmp_path: Path) -> None:
    """Numbers of many lengths and texts longer than a piece, over several pieces."""
    numbers = [str(7 ** (i % 30)) + ("e5" if i % 7 == 0 else "") for i in range(CHUNK_CHARS // 5)]
    numbers[500] = json.dumps('quotes " and \\ é ' * (CHUNK_CHARS // 5), ensure_ascii=True)
    (tmp_path / "x.json").write_text('[{"text": "a"}, ' + ", ".join(numbers) + "]")
    assert [row.raw for row in rows_of(tmp_path / "x.json")[1:] if isinstance(row, Unreadable)] == numbers


def test_a_broken_record_far_into_a_list_is_told_with_its_line(tmp_path: Path) -> None:
    """Line numbers count what was let go."""
    lines = ['{"text": "news", "label": 1},'] * 50_000
    lines[40_000] = '{"text": "news" "label": 1},'
    (tmp_path / "x.json").write_text("[\n" + "\n".join(lines) + '\n{"text": "end"}]')
    assert "line 40002: record 40001 is not valid JSON (Expecting ',' delimiter)" in message_of(tmp_path / "x.json")


def test_a_folder_under_a_file_name_is_told(tmp_path: Path) -> None:
    """As whatever the system says."""
    for ending in ("csv", "csv.gz", "parquet", "json"):
        (tmp_path / f"x.{ending}").mkdir()
        assert "cannot be read as" in message_of(tmp_path / f"x.{ending}")


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
@pytest.mark.parametrize("ending", ["csv", "json.gz", "parquet"])
def test_a_file_without_permission_is_told(tmp_path: Path, ending: str) -> None:
    """In one line."""
    path = write(tmp_path / f"x.{ending}", [("a", "0")])
    path.chmod(0)
    assert "not readable; check its permissions" in message_of(path)


def test_a_column_that_is_not_there_is_none(tmp_path: Path) -> None:
    """In every kind, for every row."""
    for kind in ("csv", "tsv", "jsonl", "json", "parquet"):
        path = write(tmp_path / f"x.{kind}", [("a", "0"), ("b", "1")])
        assert rows_of(path, ["topic", "text"]) == [(None, "a"), (None, "b")]
