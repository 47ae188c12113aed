"""Reading data sets: every format gives the same items, every bad row is named, nothing is half-written."""

import gzip
import hashlib
import io
import json
import re
import resource
import secrets
import signal
import tracemalloc
from contextlib import suppress
from pathlib import Path
from typing import Any, Literal

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.errors import InputError, LabelscoreError, RunError
from pipeline.pull import PullSummary, pull_items
from pipeline.reading.dataset import Dataset, Row, open_dataset
from pipeline.reading.formats import Layout
from pipeline.reading.gold import Classes, Names, read_classes
from pipeline.storing.layout import ITEMS_SCHEMA
from tests.pipeline.reading.data_files import TEXT_ALONE, TEXT_KINDS, write, write_bytes

_empty = io.BytesIO()
pq.write_table(pa.table({"text": pa.array([], pa.string())}), _empty)
NO_ROWS = _empty.getvalue()
NAMES = ("World", "Sports", "Business", "Sci/Tech")
Rows = list[dict[str, Any]]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One folder for all examples of a property: hypothesis allows no fixture for each."""
    return tmp_path_factory.mktemp("data")


def pull(
    source: Path | Dataset,
    out: Path,
    *,
    limit: int | None = None,
    on_bad_row: Literal["fail", "skip"] = "fail",
    names: tuple[str, ...] = NAMES,
    **how: Any,
) -> tuple[PullSummary, Rows]:
    """Open and pull; the summary and the items."""
    dataset = source if isinstance(source, Dataset) else open_dataset(source, **how)
    out.mkdir(parents=True, exist_ok=True)
    summary = pull_items(
        dataset,
        shape=TEXT_ALONE,
        golds=classes_of(dataset, names),
        limit=limit,
        on_bad_row=on_bad_row,
        items_path=out / "items.parquet",
        rejected_path=out / "rejected.parquet",
    )
    assert pq.read_schema(out / "items.parquet").equals(ITEMS_SCHEMA)
    return summary, pq.read_table(out / "items.parquet").to_pylist()


def classes_of(dataset: Dataset, names: tuple[str, ...] = NAMES) -> Classes:
    """The classes of these names, in the order of their ids where the data set does not name them itself."""
    return read_classes(dataset.count_labels(), dataset.names or Names.in_order(names), dataset.name)


def oracle(rows: Rows) -> Rows:
    """Items by the plainest code."""
    return [
        {
            "item_id": i,
            "text": row["text"],
            "gold_id": row["label"],
            "gold": NAMES[row["label"]],
            "text_hash": hashlib.sha256(row["text"].encode()).hexdigest(),
            "gold_ids": None,
        }
        for i, row in enumerate(rows)
    ]


def rows_of(num_rows: int) -> Rows:
    return [{"text": f"news {i}", "label": i % 4} for i in range(num_rows)]


# Formats

texts = st.text(st.characters(exclude_categories=["Cs"]), min_size=1).filter(str.strip)
tables = st.lists(st.fixed_dictionaries({"text": texts, "label": st.integers(0, 3)}), min_size=1, max_size=10)


@pytest.mark.parametrize("suffix", [".parquet", ".jsonl", ".csv"])
@given(rows=tables, cut=st.tuples(st.none() | st.integers(-14, 14), st.none() | st.integers(-14, 14)))
@settings(max_examples=60)
def test_what_is_written_is_read_and_sliced_like_a_list(
    folder: Path, suffix: str, rows: Rows, cut: tuple[int | None, int | None]
) -> None:
    """Texts with quotes, newlines, NUL bytes, emoji and right-to-left come through unchanged, with their positions."""
    path = write(folder / f"rows{suffix}", rows)
    expected = oracle(rows)[slice(*cut)]
    split = f"test[{'' if cut[0] is None else cut[0]}:{'' if cut[1] is None else cut[1]}]"
    if not expected:
        with pytest.raises(InputError, match="no rows"):
            pull(path, folder, split=split)
        return
    summary, items = pull(path, folder, split=split)
    assert items == expected
    assert summary == PullSummary(len(expected), 0, len(expected))


@pytest.mark.parametrize("ending", [*TEXT_KINDS, "csv.gz", "jsonl.zst", "parquet"])
@given(data=st.binary(max_size=300), encoding=st.sampled_from([None, "cp1252", "utf-16", "utf-16-be", "gb18030"]))
@settings(max_examples=60)
def test_random_bytes_are_never_a_traceback(folder: Path, ending: str, data: bytes, encoding: str | None) -> None:
    """Whatever lies behind a name, compressed or not, ends in items or in a one-line error."""
    path = folder / f"random.{ending}"
    for write_as in (write_bytes, Path.write_bytes):
        write_as(path, data)
        with suppress(LabelscoreError):
            pull(path, folder, on_bad_row="skip", layout=Layout(encoding))


@pytest.mark.parametrize("kind", TEXT_KINDS)
@given(text=st.text('ab,"\t\n\r {}[]:0\\\x00\ud800é', max_size=50), cut=st.integers(5, 30))
@settings(max_examples=120)
def test_text_that_is_nearly_right_is_never_a_traceback(folder: Path, kind: str, text: str, cut: int) -> None:
    """Loose quotes, ragged rows, half-open JSON."""
    head = {"csv": "text,label\n", "tsv": "text\tlabel\n", "json": '[{"text": "x"}, '}.get(kind, '{"text": "x"}\n')
    path = folder / f"nearly.{kind}"
    path.write_bytes((head[:cut] + text).encode("utf-8", "surrogatepass"))
    with suppress(LabelscoreError):
        pull(path, folder, on_bad_row="skip")


@given(place=st.integers(0, 10**6), flip=st.integers(1, 255))
@settings(max_examples=150)
def test_a_changed_byte_in_a_parquet_file_is_never_a_traceback(folder: Path, place: int, flip: int) -> None:
    """Nor do damaged files that still look like Parquet."""
    sink = io.BytesIO()
    pq.write_table(pa.table({"text": ["a", "b"] * 20, "label": [0, 1] * 20}), sink, write_page_checksum=True)
    data = bytearray(sink.getvalue())
    data[place % len(data)] ^= flip
    path = folder / "flipped.parquet"
    path.write_bytes(bytes(data))
    with suppress(LabelscoreError):
        pull(path, folder, on_bad_row="skip")


def test_a_directory_is_its_files_in_the_order_of_their_names(tmp_path: Path) -> None:
    """One kind; item ids run on; other files and hidden ones do not count."""
    rows = rows_of(7)
    write(tmp_path / "data" / "part-2.jsonl", rows[4:])
    write(tmp_path / "data" / "part-1.jsonl", rows[:4])
    (tmp_path / "data" / "README.md").write_text("no data")
    (tmp_path / "data" / ".part-0.jsonl").write_text("no data")
    assert pull(tmp_path / "data", tmp_path)[1] == oracle(rows)
    assert [item["item_id"] for item in pull(tmp_path / "data", tmp_path, split="all[3:5]")[1]] == [3, 4]
    assert open_dataset(tmp_path / "data").remarks == (f"{tmp_path / 'data'}: passed over README.md",)
    write(tmp_path / "data" / "more.csv", rows)
    with pytest.raises(InputError, match=r"several kinds \(\.csv, \.jsonl\)"):
        open_dataset(tmp_path / "data")


def test_in_a_directory_of_several_splits_only_the_one_asked_for_is_read(tmp_path: Path) -> None:
    """Test and train lie side by side in most downloads; mixing them would be a silent mistake."""
    write(tmp_path / "d" / "test-00000-of-00001.parquet", rows_of(3))
    write(tmp_path / "d" / "train-00000-of-00001.parquet", rows_of(9))
    assert [row.position for row in open_dataset(tmp_path / "d", split="test").rows()] == [0, 1, 2]
    assert [row.position for row in open_dataset(tmp_path / "d", split="train[:50%]").rows()] == [0, 1, 2, 3]
    with pytest.raises(InputError, match="no split 'everything'; the splits found are test, train"):
        open_dataset(tmp_path / "d", split="everything")


@pytest.mark.parametrize("suffix", [".parquet", ".jsonl", ".csv"])
def test_percentages_and_bounds_from_the_end_work_for_every_format(tmp_path: Path, suffix: str) -> None:
    """They need the number of rows, which a text file does not say."""
    path = write(tmp_path / f"rows{suffix}", rows_of(11))
    for split, expected in (("test[:50%]", range(6)), ("test[90%:]", range(10, 11)), ("test[-3:-1]", range(8, 10))):
        assert [item["item_id"] for item in pull(path, tmp_path, split=split)[1]] == list(expected)


def test_limit_counts_rows_from_the_start_of_the_slice(tmp_path: Path) -> None:
    """A limit beyond the end takes what there is."""
    path = write(tmp_path / "rows.csv", rows_of(10))
    for limit, expected in ((1, [2]), (3, [2, 3, 4]), (99, list(range(2, 10)))):
        assert [item["item_id"] for item in pull(path, tmp_path, split="test[2:]", limit=limit)[1]] == expected


def test_memory_does_not_grow_with_the_number_of_rows(tmp_path: Path) -> None:
    """Four times the rows, the same peak of Python's own memory, within a row group."""
    peaks = []
    for num_rows in (12_000, 48_000):
        path = tmp_path / f"{num_rows}.jsonl"
        with path.open("w") as file:
            file.writelines(f'{{"text": "news {i} {"x" * 100}", "label": 1}}\n' for i in range(num_rows))
        tracemalloc.start()
        dataset = open_dataset(path)
        pull_items(
            dataset,
            shape=TEXT_ALONE,
            golds=classes_of(dataset),
            limit=None,
            on_bad_row="fail",
            items_path=tmp_path / "items.parquet",
            rejected_path=tmp_path / "rejected.parquet",
        )
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
    assert peaks[1] < 1.3 * peaks[0]
    assert pq.ParquetFile(tmp_path / "items.parquet").metadata.row_group(0).num_rows == 10_000


@pytest.mark.parametrize("ending", ["csv", "tsv", "jsonl", "json", "csv.gz", "parquet"])
def test_a_text_of_megabytes_is_a_text(tmp_path: Path, ending: str) -> None:
    """The csv module's own limit is 131,072 characters; the text spans many lines."""
    texts = ("before", 'many "long"\tlines,\n' * 200_000, "after")
    rows = [{"text": text, "label": i} for i, text in enumerate(texts)]
    assert pull(write(tmp_path / f"long.{ending}", rows), tmp_path)[1] == oracle(rows)


# Labels


@pytest.mark.parametrize(
    ("column", "expected"),
    [
        (pa.array([0, 3, None]), [0, 3, None]),
        (pa.array([0.0, 3.0, float("nan")]), [0, 3, None]),
        (pa.array(["World", "Sci/Tech", None]), [0, 3, None]),
        (pa.array(["0", "3", ""]), [0, 3, None]),
        (pa.array(["World", "3", None]).dictionary_encode(), [0, 3, None]),
        (pa.array([0, 3, 1], pa.uint64()), [0, 3, 1]),
        (pa.array([False, True, None]), [0, 1, None]),
        (pa.array([[0], [3], []]), [0, 3, None]),
    ],
)
def test_labels_are_ids_or_names(tmp_path: Path, column: "pa.Array[Any]", expected: list[int | None]) -> None:
    """Integers, whole floats, digits and names; null where there is none."""
    pq.write_table(pa.table({"text": ["a", "b", "c"], "label": column}), tmp_path / "x.parquet")
    items = pull(tmp_path / "x.parquet", tmp_path)[1]
    assert [item["gold_id"] for item in items] == expected
    assert [item["gold"] for item in items] == [None if i is None else NAMES[i] for i in expected]


def test_a_missing_label_column_means_unlabelled_only_when_it_is_the_default(tmp_path: Path) -> None:
    """A column that somebody named must be there."""
    path = write(tmp_path / "x.parquet", [{"text": "a"}])
    assert pull(path, tmp_path)[1][0]["gold_id"] is None
    assert list(open_dataset(path).rows()) == [Row(0, ("a",), None)]
    with pytest.raises(InputError, match=r"no column 'topic'; it has text; choose one with --label-column"):
        open_dataset(path, label_column="topic")


def test_a_record_may_lack_its_label(tmp_path: Path) -> None:
    """In JSON lines a key that is not there is null; the first record does not decide for the rest."""
    (tmp_path / "x.jsonl").write_text('{"text": "a"}\n{"label": 1, "text": "b"}\n')
    assert [item["gold_id"] for item in pull(tmp_path / "x.jsonl", tmp_path)[1]] == [None, 1]


def test_files_of_which_only_some_are_labelled_are_refused(tmp_path: Path) -> None:
    """Half of the gold lost without a word would be worse."""
    write(tmp_path / "d" / "a.csv", rows_of(2))
    write(tmp_path / "d" / "b.csv", [{"text": "a"}])
    with pytest.raises(InputError, match="some of its files have a column 'label' and some have not"):
        open_dataset(tmp_path / "d")


def test_class_names_of_a_parquet_file_are_found_and_minus_one_is_no_label(tmp_path: Path) -> None:
    """`datasets` writes its ClassLabel feature into the footer, and -1 for rows without a label."""
    rows = [{"text": "a", "label": 1}, {"text": "b", "label": -1}]
    path = write(tmp_path / "d" / "b.parquet", rows, names=("bad", "good"))
    assert [item["gold"] for item in pull(path, tmp_path)[1]] == ["good", None]
    # A file without rows has no say in the classes.
    pq.write_table(pq.read_table(path)[:0].replace_schema_metadata(None), path.with_name("a.parquet"))
    for place in (path, path.parent):
        assert open_dataset(place).names == Names.in_order(("bad", "good"), is_own=True)


# Bad rows

SURROGATE = json.loads('"\\ud800"')
BAD_TEXTS: list[tuple[object, str]] = [
    (None, "null"),
    ("", "empty"),
    (" \t\u00a0\u2003\n", "only white space"),
    (5, "not a string but a number"),
    (True, "not a string but true or false"),
    (["a"], "not a string but a list"),
    ({"a": 1}, "not a string but a record"),
    (f"x{SURROGATE}", "not valid Unicode"),
]


@pytest.mark.parametrize(("text", "reason"), BAD_TEXTS)
def test_a_bad_text_stops_the_run_and_is_named(tmp_path: Path, text: object, reason: str) -> None:
    """The row number and the reason, and nothing is written."""
    path = write(tmp_path / "x.jsonl", [{"text": "fine", "label": 1}, {"text": text, "label": 1}])
    with pytest.raises(InputError) as caught:
        pull(path, tmp_path / "out")
    assert f"1 of 2 rows cannot be used: row 1: the text is {reason}" in str(caught.value)
    assert "--on-bad-row skip" in str(caught.value)
    assert not list((tmp_path / "out").iterdir())


def test_bad_rows_can_be_left_out_and_are_kept_with_their_reason(tmp_path: Path) -> None:
    """The rest keeps its positions; a later clean pull removes the list."""
    rows = [{"text": text, "label": 0} for text, _ in BAD_TEXTS] + [
        {"text": "fine", "label": 2},
        {"text": "label?", "label": 4},
        {"text": "label?", "label": "Weather"},
        {"text": "label?", "label": 1.5},
    ]
    path = write(tmp_path / "x.jsonl", rows)
    with path.open("ab") as file:
        file.write(b'{"text": "torn\n[1, 2]\n{"text": "bytes \xff", "label": 0}\n')
    summary, items = pull(path, tmp_path, on_bad_row="skip")
    (remark,) = summary.remarks
    assert summary == PullSummary(1, 14, 15, 0, (remark,))
    assert remark.startswith("by leaving out bad rows nothing is left of World (9 rows), label '4' (1 rows), label")
    assert [(item["item_id"], item["text"]) for item in items] == [(8, "fine")]
    rejected = pq.read_table(tmp_path / "rejected.parquet").to_pylist()
    for row, (_, reason) in zip(rejected, BAD_TEXTS, strict=False):
        assert reason in row["reason"]
    reasons = [row["reason"] for row in rejected[8:]]
    assert [r.split(" is ")[0] for r in reasons[:3]] == ["the label '4'", "the label 'Weather'", "the label '1.5'"]
    assert "0 World, 1 Sports, 2 Business, 3 Sci/Tech" in reasons[0]
    assert [reasons[3], reasons[4]] == ["line 13: not valid JSON", "line 14: not a JSON object"]
    assert "not valid Unicode" in reasons[5]
    pull(write(tmp_path / "x.jsonl", rows_of(2)), tmp_path)
    assert not (tmp_path / "rejected.parquet").exists()


def test_leaving_out_rows_is_no_advice_where_a_class_would_go_with_them(tmp_path: Path) -> None:
    """Rows whose label is no class, or that are all there is of one."""
    for rows, advice in (
        ([("a", 0), ("b", 1), ("c", 4), ("d", 4)], "give their labels a class with label_names"),
        ([("a", 0), ("b", 1), ("", 1)], "leave them out with --on-bad-row skip"),
        ([("a", 0), ("b", 0), ("", 1), ("", 1)], "without them nothing is left of Sports"),
    ):
        path = write(tmp_path / "x.jsonl", [{"text": text, "label": label} for text, label in rows])
        with pytest.raises(InputError, match=advice) as caught:
            pull(path, tmp_path)
        assert ("skip" in str(caught.value)) == ("skip" in advice)


def test_bytes_that_are_no_utf8_are_found_in_every_format(tmp_path: Path) -> None:
    """Arrow does not check the strings it reads; here the row is named."""
    raw = pa.array([b"fine", b"\xff\xfe"])
    pq.write_table(pa.table({"text": raw.cast(pa.string(), safe=False)}), tmp_path / "x.parquet")
    pq.write_table(pa.table({"text": raw}), tmp_path / "y.parquet")
    (tmp_path / "x.csv").write_bytes(b"text\nfine\n\xff\xfe\n")
    (tmp_path / "x.jsonl").write_bytes(b'{"text": "fine"}\n{"text": "\xff\xfe"}\n')
    for path in sorted(tmp_path.iterdir()):
        with pytest.raises(InputError, match=r"row 1: the text is not valid (UTF-8|Unicode)"):
            pull(path, tmp_path)


def test_many_bad_rows_are_counted_and_a_few_shown(tmp_path: Path) -> None:
    """One line stays one line."""
    path = write(tmp_path / "x.csv", [{"text": " ", "label": 0}] * 50)
    with pytest.raises(InputError, match=r"50 of 50 rows cannot be used: row 0.*row 4: [^;]*; and 45 more"):
        pull(path, tmp_path)
    with pytest.raises(InputError, match="all 50 rows were rejected"):
        pull(path, tmp_path, on_bad_row="skip")
    assert not (tmp_path / "items.parquet").exists()


# Files that cannot be read


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("missing.parquet", None, "no such file or directory"),
        ("missing", None, "no such file or directory"),
        ("x.txt", b"text", r"must end in one of .parquet, .csv, .tsv, .jsonl"),
        ("x.parquet", b"", "cannot be read as parquet"),
        ("x.parquet", b"text,label\na,0\n", "cannot be read as parquet"),
        ("x.parquet", b"PAR1 and then nothing PAR1", "cannot be read as parquet"),
        ("x.parquet", NO_ROWS, r"x.parquet \(test\): no rows; choose another split"),
        ("x.csv", b"text,label\n", "no rows"),
        ("x.csv", b"title,topic\na,b\n", "no column 'text'; it has title, topic; choose one with --text-column"),
        ("x.csv", b"text,text\na,b\n", "2 columns named 'text'"),
        ("x.csv", b'text\n"never closed\n', r"row 0: line 2: .*quote"),
        ("x.csv", b"text,label\nfine,1\nDallas, Texas,2\nshort\n",
         r"row 1: line 3: 3 fields where the header has 2; row 2: line 4: 1 fields"),
        ("x.jsonl", b"not json\n", "holds no row, not even a line that is a JSON object"),
        ("x.jsonl", b'{"body": "a"}\n', "no column 'text'; it has body"),
        ("x.jsonl", b'{"text": ' + b"[" * 100_000 + b"}\n", "holds no row"),
    ],
)  # fmt: skip
def test_what_cannot_be_read_is_told_in_one_line(
    tmp_path: Path, name: str, content: bytes | None, message: str
) -> None:
    """What, where, and what to do; nothing is written."""
    if content is not None:
        (tmp_path / name).write_bytes(content)
    with pytest.raises(InputError, match=message) as caught:
        pull(tmp_path / name, tmp_path / "out")
    assert name in str(caught.value)
    assert not list((tmp_path / "out").glob("*"))


def test_a_directory_without_data_is_told(tmp_path: Path) -> None:
    """A directory must hold files of a known kind."""
    (tmp_path / "notes.txt").write_text("nothing")
    with pytest.raises(InputError, match=r"holds no \.parquet"):
        open_dataset(tmp_path)


@pytest.mark.parametrize(
    "name", ["x" * 300, "~nobody-of-this-name/x.csv", "a\0b", "a b", "a/b/c", "https://example.org/x"]
)
def test_names_that_are_neither_paths_nor_ids_are_told(name: str) -> None:
    """Whatever somebody types."""
    with pytest.raises(InputError):
        open_dataset(name)


@pytest.mark.parametrize("limit", [0, -1])
def test_a_limit_below_one_is_refused(tmp_path: Path, limit: int) -> None:
    """It would mean a run of nothing."""
    with pytest.raises(InputError, match=f"limit {limit}"):
        pull(write(tmp_path / "x.csv", rows_of(2)), tmp_path, limit=limit)


@pytest.mark.parametrize("split", ["", "test[", "test[:5", "test[a:b]", "test[5]", "test[:5]]", "test[::2]", "[:5]"])
def test_a_split_that_cannot_be_understood_is_refused(tmp_path: Path, split: str) -> None:
    """With an example of what can."""
    with pytest.raises(InputError, match=re.escape("test[:50]")):
        open_dataset(write(tmp_path / "x.csv", rows_of(2)), split=split)


def test_a_full_disk_is_told_and_leaves_no_half_file(tmp_path: Path) -> None:
    """A limit on file sizes stands for the disk: one line, and the earlier items stay."""
    pull(write(tmp_path / "few.csv", rows_of(5)), tmp_path)
    before = (tmp_path / "items.parquet").read_bytes()
    path = write(tmp_path / "many.csv", [{"text": secrets.token_hex(500), "label": 0} for _ in range(500)])
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    ignored = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (50_000, hard))
    try:
        with pytest.raises(RunError, match=r"items\.parquet: cannot be written \(.*; make room"):
            pull(path, tmp_path)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
        signal.signal(signal.SIGXFSZ, ignored)
    assert (tmp_path / "items.parquet").read_bytes() == before
    assert not list(tmp_path.glob("*.partial"))


def test_a_second_pull_replaces_the_first_as_a_whole(tmp_path: Path) -> None:
    """A pull that fails leaves the earlier items as they were."""
    pull(write(tmp_path / "x.csv", rows_of(5)), tmp_path)
    before = (tmp_path / "items.parquet").read_bytes()
    with pytest.raises(InputError):
        pull(write(tmp_path / "x.csv", [*rows_of(5), {"text": "", "label": 0}]), tmp_path)
    assert (tmp_path / "items.parquet").read_bytes() == before
    assert sorted(path.name for path in tmp_path.iterdir()) == ["items.parquet", "x.csv"]


def test_the_real_test_split_is_read_whole(shared: Path, tmp_path: Path) -> None:
    """7,600 rows, 1,900 of each class."""
    summary, items = pull(shared / "data" / "ag_news_test.parquet", tmp_path)
    assert summary == PullSummary(7600, 0, 7600)
    assert [sum(item["gold"] == name for item in items) for name in NAMES] == [1900] * 4


# Which files a split has


def lay_out(folder: Path, *names: str) -> Path:
    """A folder of CSV files whose one text is their name."""
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(f"text,label\n{name},0\n")
    return folder


def names_read(folder: Path, split: str) -> list[str]:
    """The files that a split of the folder is read from."""
    dataset = open_dataset(folder, split=split)
    return [str(values[0]) for values in dataset.every_item() if isinstance(values, tuple)]


@pytest.mark.parametrize(
    ("names", "split", "expected"),
    [
        (("news_test.csv", "news_train.csv"), "test", ["news_test.csv"]),
        (("TEST.CSV", "train.csv"), "test", ["TEST.CSV"]),
        (("test-00000-of-00002.csv", "test-00001-of-00002.csv"), "test", None),
        (("test1.csv", "latest.csv", "contest.csv"), "test", ["test1.csv"]),
        (("test/b.csv", "test/a.csv", "train/c.csv"), "test", ["test/a.csv", "test/b.csv"]),
        (("val/a.csv", "train/c.csv"), "validation", ["val/a.csv"]),
        (("dev.csv", "validation.csv"), "dev", ["dev.csv"]),
        (("dev.csv", "validation.csv"), "validation", ["validation.csv"]),
        (("dev.csv", "train.csv"), "validation", ["dev.csv"]),
        (("a-unsupervised.csv", "train.csv"), "unsupervised", ["a-unsupervised.csv"]),
        (("train.csv", "validation.csv"), "train.csv", ["train.csv"]),
        (("my news (1).csv", "b.csv"), "my news (1).csv", ["my news (1).csv"]),
        (("train/x.csv", "test/x.csv"), "train/x.csv", ["train/x.csv"]),
        (("testset.csv", "trainset.csv"), "test", ["testset.csv"]),
        (("TestData.csv", "TrainData.csv"), "test", ["TestData.csv"]),
        (("validation_matched.csv", "validation_mismatched.csv"), "validation_matched", ["validation_matched.csv"]),
        (("train_unsup.csv", "train_sup.csv"), "unsup", ["train_unsup.csv"]),
        (("news_test.csv",), "news", ["news_test.csv"]),
        (("a.csv", "b.csv"), "test", None),
        (("a.csv", "b.csv"), "train", None),
    ],
)
def test_a_split_is_found_in_the_names_of_files_and_folders(
    tmp_path: Path, names: tuple[str, ...], split: str, expected: list[str] | None
) -> None:
    """Between separators, in any case; None stands for all of them, in the order of their names."""
    assert names_read(lay_out(tmp_path, *names), split) == (sorted(names) if expected is None else expected)


@pytest.mark.parametrize(
    ("names", "split", "words"),
    [
        (("train.csv", "validation.csv"), "test", "the splits found are train, validation"),
        (("train.csv", "notes.csv"), "test", "the splits found are train; the files are notes.csv, train.csv"),
        (("train.csv",), "trian", "did you mean 'train'"),
        (("a.csv", "b.csv"), "trian", "no file's name says a split"),
        (("train.csv",), "trian.csv", "did you mean 'train.csv'"),
        (("train_test.csv",), "test", "whose names say test and train"),
        (("train/en.csv", "test/en.csv"), "en.csv", "'en.csv' may be test/en.csv, train/en.csv; name one of them"),
        (("train/en.csv", "test/en.csv"), "en", "whose names say test and train"),
        (("news_test.csv", "news_train.csv"), "news", "whose names say test and train"),
        (("data/x.csv",), "test", "its folders are data, name one of them"),
    ],
)
def test_a_split_that_is_not_there_is_never_another_one(
    tmp_path: Path, names: tuple[str, ...], split: str, words: str
) -> None:
    """The error lists what was found."""
    with pytest.raises(InputError, match=re.escape(words)):
        open_dataset(lay_out(tmp_path, *names), split=split)


def test_the_split_of_one_file_is_what_its_name_says(tmp_path: Path) -> None:
    """Where nobody named one; a split that its name contradicts is refused, and so is a slip of the pen."""
    lay_out(tmp_path, "train.csv", "rows.csv")
    assert open_dataset(tmp_path / "train.csv").split == "train"
    assert open_dataset(tmp_path / "train.csv", split="test[:1]").split == "train[:1]"
    assert open_dataset(tmp_path / "rows.csv", split="validation").split == "validation"
    for name, split in (("train.csv", "validation"), ("rows.csv", "tset"), ("train.csv", "other.csv")):
        with pytest.raises(InputError, match=f"no split '{split}'"):
            open_dataset(tmp_path / name, split=split)


def test_a_compressed_file_goes_by_its_name_and_never_counts_twice(tmp_path: Path) -> None:
    """train.csv stands for train.csv.gz, and both together are refused."""
    (tmp_path / "train.csv.gz").write_bytes(gzip.compress(b"text,label\nx,0\n"))
    assert names_read(tmp_path, "train.csv") == ["x"]
    lay_out(tmp_path, "train.csv")
    with pytest.raises(InputError, match=r"train.csv and train.csv.gz look like one file twice"):
        open_dataset(tmp_path, split="train")


def test_what_is_passed_over_in_a_folder_is_named(tmp_path: Path) -> None:
    """Other files, files of other splits and folders, but no hidden ones."""
    lay_out(tmp_path, "test.csv", "train.csv", "old/x.csv", ".hidden.csv")
    (tmp_path / "README.md").touch()
    assert open_dataset(tmp_path).remarks == (f"{tmp_path}: passed over README.md, old, train.csv",)


def test_no_labels_are_said_and_near_misses_are_asked_about(tmp_path: Path) -> None:
    """Only case, blanks, a plural or a slip; another column is no label."""
    for header in ("Label", " label", "LABELS", "lable", "label "):
        (tmp_path / "x.csv").write_text(f"text,{header}\na,0\n")
        with pytest.raises(InputError, match=f"did you mean '{header}'"):
            open_dataset(tmp_path / "x.csv")
        assert open_dataset(tmp_path / "x.csv", label_column=header).label.name == header
    for header in ("category", "label_confidence", "table"):
        (tmp_path / "x.csv").write_text(f"text,{header}\na,0\n")
        (remark,) = open_dataset(tmp_path / "x.csv").remarks
        assert "no column 'label', so no accuracy" in remark
