"""What is stored is found again, what is missing is scored once, and nothing damaged or foreign passes for a score."""

import io
import json
import pickle
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.errors import RunError
from pipeline.prompts import AG_NEWS, hash_text, make_prompt
from pipeline.storing import parts as parts_module
from pipeline.storing import spill
from pipeline.storing.files import Output, hash_bytes
from pipeline.storing.parts import PartWriter
from pipeline.storing.store import Store
from tests.pipeline.storing.stored import (
    ANSWER,
    PRIORS,
    ROOT,
    TOPIC,
    fill,
    fingerprint,
    open_store,
    run,
    score,
    scored,
    start,
    wanted,
    write_items,
)

TEXTS = [f"item {i}" for i in range(20)]


@pytest.fixture
def out(tmp_path: Path) -> Output:
    return Output(tmp_path / "out")


def missing(store: Store, folder: Output, texts: Sequence[str], **options: bool) -> list[str]:
    items = write_items(folder.work / "items.parquet", texts)
    pending = store.pending(items, wanted(), **options)
    table = pq.read_table(pending.path)
    assert table.num_rows == pending.num_missing
    assert table["text_hash"].to_pylist() == [hash_text(text) for text in table["text"].to_pylist()]
    assert pending.num_wanted == len(set(texts))
    return list(table["text"].to_pylist())


# What is scored again, and what is not


def test_a_finished_run_has_nothing_left_to_score(out: Output) -> None:
    """The second run of the same items forwards none."""
    assert run(out, TEXTS) == [*TEXTS, *PRIORS]
    assert run(out, TEXTS) == []


@pytest.mark.parametrize(
    ("texts", "new"),
    [
        ([*TEXTS, "more", "and more"], ["more", "and more"]),
        ([*TEXTS[:5], "changed", *TEXTS[6:]], ["changed"]),
        (TEXTS[::-1], []),
        ([*TEXTS, *TEXTS], []),
        (["new", "new", *TEXTS, "new"], ["new"]),
        (TEXTS[:3], []),
        (["item 1 ", "Item 1"], ["item 1 ", "Item 1"]),
    ],
    ids=["appended", "changed", "reordered", "doubled", "new duplicates", "smaller slice", "nearly equal"],
)
def test_only_texts_never_seen_are_scored(out: Output, texts: list[str], new: list[str]) -> None:
    """A text is known by its bytes: where it stands and how often does not matter."""
    run(out, TEXTS)
    assert run(out, texts) == new


def test_other_weights_and_other_prompts_are_scored_on_their_own(out: Output) -> None:
    """A fingerprint never serves another one's scores; coming back to it finds its own."""
    everything = [*TEXTS, *PRIORS]
    run(out, TEXTS)
    assert run(out, TEXTS, weights="others") == everything
    assert run(out, TEXTS, [ANSWER, TOPIC]) == everything
    assert run(out, TEXTS, [TOPIC]) == []


def test_two_prompts_that_differ_in_name_only_share_their_scores(out: Output) -> None:
    """The prompt's name is no part of the fingerprint."""
    again = make_prompt("renamed", ANSWER.template, tuple(x.words for x in ANSWER.labels), AG_NEWS)
    run(out, TEXTS)
    assert run(out, TEXTS, [again]) == []


def test_rows_without_the_notebooks_rule_are_scored_again_when_it_is_asked_for(out: Output) -> None:
    """A stored row without notebook_logit is missing for a run that wants it, and good for one that does not."""
    run(out, TEXTS)
    assert run(out, [*TEXTS, "new"], notebook=True) == [*TEXTS, "new", *PRIORS]
    assert run(out, TEXTS, notebook=True) == []
    assert run(out, TEXTS) == []


def test_force_scores_everything_and_the_new_scores_win(out: Output) -> None:
    """With --force all wanted texts are scored, and of two rows for a text the later run's is read."""
    with out.lock(print):
        items = write_items(out.work / "items.parquet", TEXTS)
        fill(open_store(out), items, wanted())
        for salt in (1, 2, 3):
            store = open_store(out)
            assert missing(store, out, TEXTS, force=True) == TEXTS
            for half in (TEXTS[:10], TEXTS[10:]):
                store.writer(wanted()).append(scored([hash_text(t) for t in half], fingerprint(), salt=salt))
            store.refresh()
            found = dict(zip(*flat(store, items), strict=True))
            assert found == {i: score(hash_text(t), fingerprint().label_words[0], salt) for i, t in enumerate(TEXTS)}


def flat(store: Store, items: Path) -> tuple[list[int], list[float]]:
    """Positions and the first label's logprob of everything that `scores` yields."""
    found = list(store.scores(items, wanted()))
    positions = np.concatenate([p for p, _ in found]).tolist()
    return positions, np.concatenate([r["logprob"][:, 0] for _, r in found]).tolist()


def test_missing_texts_come_in_the_order_of_the_items_with_the_extra_ones_last(out: Output) -> None:
    """Order and distinctness are those of the first appearance."""
    with out.lock(print):
        items = write_items(out.work / "items.parquet", ["c", "a", "N/A", "c", "b", "a"])
        pending = open_store(out).pending(items, wanted(), extra_texts=PRIORS)
        assert pq.read_table(pending.path)["text"].to_pylist() == ["c", "a", "N/A", "b", "", "[MASK]"]


@settings(max_examples=60)
@given(
    st.lists(st.lists(st.integers(0, 12), max_size=8), max_size=5),
    st.lists(st.integers(0, 12), min_size=1, max_size=30),
    st.integers(1, 40),
)
def test_pending_is_the_set_difference(
    tmp_path_factory: pytest.TempPathFactory, appended: list[list[int]], asked: list[int], keys_at_once: int
) -> None:
    """Against the obvious oracle, with any number of buckets: first appearances of what no part holds."""
    folder = Output(tmp_path_factory.mktemp("out"))
    spill.KEYS_AT_ONCE, usual = keys_at_once, spill.KEYS_AT_ONCE
    try:
        store = open_store(folder)
        for numbers in appended:
            if numbers:
                hashes = [hash_text(f"text {n}") for n in dict.fromkeys(numbers)]
                store.writer(wanted()).append(scored(hashes, fingerprint()))
        store.refresh()
        held = {n for numbers in appended for n in numbers}
        expected = [f"text {n}" for n in dict.fromkeys(asked) if n not in held]
        assert missing(store, folder, [f"text {n}" for n in asked]) == expected
    finally:
        spill.KEYS_AT_ONCE = usual


@given(st.lists(st.lists(st.integers(0, 2), min_size=4, max_size=4), max_size=30))
def test_equal_keys_are_found_even_where_their_first_words_agree(rows: list[list[int]]) -> None:
    """A hash is compared in full: keys that share their first word and are mixed stay apart."""
    keys = np.array(rows, ">u8").reshape(-1, 4)
    assert spill.first_equal(keys).tolist() == [rows.index(row) for row in rows]


@given(st.lists(st.binary(min_size=32, max_size=32), max_size=20), st.integers(0, 5), st.sampled_from([1, 2, 64, 1024]))
def test_keys_hold_the_whole_hash_and_spread_over_the_buckets(hashes: list[bytes], skip: int, buckets: int) -> None:
    """A key is its 32 bytes, also from a slice, and its bucket is its leading bits."""
    for kind in (pa.string(), pa.large_string()):
        keys = spill.keys_of(pa.array([h.hex() for h in hashes], kind).slice(skip))
        assert keys.tobytes() == b"".join(hashes[skip:])
        leading = [int.from_bytes(h[:2], "big") * buckets >> 16 for h in hashes[skip:]]
        assert spill.bucket_of(keys, buckets).tolist() == leading


@pytest.mark.parametrize("value", [None, "", "0" * 63, "0" * 65, "A" * 64, "g" * 64, "é" * 32])
def test_what_is_no_hash_is_no_key(value: str | None) -> None:
    """A text_hash is 64 lower-case hex digits."""
    with pytest.raises(ValueError, match="hex SHA-256"):
        spill.keys_of(pa.array(["0" * 64, value], pa.string()))


# What may be appended


def spoil(column: str, change: Callable[[list[object]], list[object]]) -> Callable[[pa.Table], pa.Table]:
    def apply(table: pa.Table) -> pa.Table:
        return table.set_column(table.schema.get_field_index(column), column, [change(table[column].to_pylist())])

    return apply


@pytest.mark.parametrize(
    "change",
    [
        lambda table: table.slice(1),
        lambda table: table.slice(0, 0),
        lambda table: pa.concat_tables([table, table]),
        lambda table: pa.concat_tables([table.slice(0, 4), table.slice(0, 4)]),
        spoil("label_words", lambda column: ["other", *column[1:]]),
        spoil("label_words", lambda column: [None, *column[1:]]),
        spoil("label_words", lambda column: [column[1], *column[1:]]),
        spoil("text_hash", lambda column: ["x" * 64, *column[1:]]),
        spoil("text_hash", lambda column: ["x" * 64] * len(column)),
        spoil("logprob", lambda column: [float("nan"), *column[1:]]),
        spoil("logit", lambda column: [float("inf"), *column[1:]]),
        spoil("logprob", lambda column: [None, *column[1:]]),
        spoil("notebook_logit", lambda column: [1.0, *column[1:]]),
        spoil("num_tokens", lambda column: [100_000, *column[1:]]),
        lambda table: table.drop_columns(["logit"]),
    ],
)
def test_half_texts_and_impossible_rows_are_refused(out: Output, change: Callable[[pa.Table], pa.Table]) -> None:
    """A part holds whole texts with finite scores or is not written."""
    table = scored([hash_text(text) for text in TEXTS[:3]], fingerprint())
    with pytest.raises((ValueError, KeyError, pa.ArrowException)):
        open_store(out).writer(wanted()).append(change(table))
    assert out.list() == {}


def test_the_order_of_appended_rows_does_not_matter(out: Output) -> None:
    """Rows are stored by text and label word, whatever order a shard hands them over in."""
    table = scored([hash_text(text) for text in TEXTS], fingerprint())
    shuffled = table.take(np.random.default_rng(0).permutation(table.num_rows))
    with out.lock(print):
        items = write_items(out.work / "items.parquet", TEXTS)
        store = open_store(out)
        store.writer(wanted()).append(shuffled)
        store.refresh()
        assert dict(zip(*flat(store, items), strict=True)) == {
            i: score(hash_text(t), fingerprint().label_words[0]) for i, t in enumerate(TEXTS)
        }


def test_a_writer_can_be_sent_to_another_process(out: Output) -> None:
    """What appends is small and picklable, and the same part twice is one file."""
    table = scored([hash_text("a")], fingerprint())
    writer = open_store(out).writer(wanted())
    copy = pickle.loads(pickle.dumps(writer))
    assert isinstance(copy, PartWriter)
    assert copy.append(table) == writer.append(table)
    assert len(out.list()) == 1


def test_processes_append_side_by_side(out: Output) -> None:
    """Two real processes that write the same and other texts at once: every part is whole, every text is there."""
    processes = [start("append", out.root, 0, 30), start("append", out.root, 20, 50)]
    for process in processes:
        _, errors = process.communicate(timeout=60)
        assert process.returncode == 0, errors
    store = open_store(out)
    assert store.findings == []
    assert missing(store, out, [f"item {i}" for i in range(60)]) == [f"item {i}" for i in range(50, 60)]


# What is damaged or foreign


def one_part(out: Output) -> tuple[str, bytes]:
    """A store with two parts; the name and bytes of the one that will be spoilt."""
    store = open_store(out)
    store.writer(wanted()).append(scored([hash_text(text) for text in TEXTS[10:]], fingerprint()))
    name = store.writer(wanted()).append(scored([hash_text(text) for text in TEXTS[:10]], fingerprint()))
    return name, out.read_bytes(name)


def assert_set_aside(out: Output, name: str, content: bytes, reason: str) -> None:
    """The file is named, kept under set-aside with its bytes, and its texts are pending again."""
    store = open_store(out)
    assert [finding.name for finding in store.findings] == [name]
    moved = f"store/set-aside/{reason}-{Path(name).name}"
    assert moved in str(store.findings[0])
    assert out.read_bytes(moved) == content
    assert not out.exists(name)
    assert missing(store, out, TEXTS) == TEXTS[:10]
    out.delete(moved)


def test_a_part_cut_short_anywhere_is_set_aside_and_scored_again(out: Output) -> None:
    """At every hundredth byte, and empty."""
    name, data = one_part(out)
    for length in range(0, len(data), 100):
        out.write_bytes(name, data[:length])
        assert_set_aside(out, name, data[:length], "damaged")


def test_a_flipped_bit_anywhere_is_found(out: Output) -> None:
    """One bit at 150 places all over the file, its footer and its magic bytes."""
    name, data = one_part(out)
    for place in {*range(0, len(data), len(data) // 140), *range(4), *range(len(data) - 8, len(data))}:
        spoilt = bytearray(data)
        spoilt[place] ^= 1 << place % 8
        out.write_bytes(name, bytes(spoilt))
        assert_set_aside(out, name, bytes(spoilt), "damaged")


def as_named(out: Output, data: bytes) -> str:
    """Write a file under the name that its bytes call for, in the fingerprint's folder."""
    name = f"store/{fingerprint().digest[:16]}/{hash_bytes(data)}.parquet"
    out.write_bytes(name, data)
    return name


def with_footer(data: bytes, **changes: object) -> bytes:
    table = pq.read_table(io.BytesIO(data))
    footer = json.loads(table.schema.metadata[b"labelscore.part"]) | changes
    stream = io.BytesIO()
    pq.write_table(table.replace_schema_metadata({b"labelscore.part": json.dumps(footer).encode()}), stream)
    return stream.getvalue()


def foreign_parquet() -> bytes:
    stream = io.BytesIO()
    pq.write_table(pa.table({"a": [1]}), stream)
    return stream.getvalue()


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (lambda data: foreign_parquet(), "foreign"),
        (lambda data: b"no parquet at all", "foreign"),
        (lambda data: with_footer(data, schema_version=0), "foreign"),
        (lambda data: with_footer(data, schema_version="1"), "foreign"),
        (lambda data: with_footer(data, fingerprint={"weights": "others"}), "foreign"),
        (lambda data: with_footer(data, fingerprint={"weights": 0.5}), "foreign"),
        (lambda data: with_footer(data, unknown=1), "foreign"),
    ],
)
def test_a_foreign_file_under_a_fitting_name_is_set_aside(
    out: Output, content: Callable[[bytes], bytes], reason: str
) -> None:
    """A hash that fits is not enough: the footer must say that the file is ours, readable and of this fingerprint."""
    name, data = one_part(out)
    out.delete(name)
    spoilt = content(data)
    assert_set_aside(out, as_named(out, spoilt), spoilt, reason)


def test_a_part_of_another_fingerprint_is_not_served(out: Output) -> None:
    """A part moved into another fingerprint's folder keeps its own fingerprint, and is set aside."""
    name, data = one_part(out)
    out.delete(name)
    other = open_store(out, weights="others").writer(wanted(weights="others"))
    data = out.read_bytes(other.append(scored([hash_text(text) for text in TEXTS[:10]], fingerprint())))
    assert_set_aside(out, as_named(out, data), data, "foreign")


def test_a_part_of_an_older_schema_is_set_aside(out: Output, monkeypatch: pytest.MonkeyPatch) -> None:
    """After an upgrade that changes the schema old parts are kept aside and scored again."""
    name, data = one_part(out)
    out.delete(name)
    monkeypatch.setattr(parts_module, "SCHEMA_VERSION", 2)
    for part in out.list():
        moved = with_footer(out.read_bytes(part), schema_version=2)
        out.delete(part)
        as_named(out, moved)
    assert_set_aside(out, as_named(out, data), data, "old-schema")


def test_a_part_of_a_newer_schema_is_refused_with_what_to_do(out: Output) -> None:
    """An older labelscore neither misreads nor moves what a newer one wrote."""
    _, data = one_part(out)
    name = as_named(out, with_footer(data, schema_version=99))
    with pytest.raises(RunError, match=r"schema version 99.*upgrade labelscore or use another --out"):
        open_store(out)
    assert out.exists(name)


def test_a_stray_file_is_set_aside_and_others_left_alone(out: Output) -> None:
    """A file of the user's in a fingerprint's folder is moved, not deleted; elsewhere in the output it stays."""
    one_part(out)
    folder = f"store/{fingerprint().digest[:16]}"
    out.write_bytes(f"{folder}/notes.txt", b"mine")
    out.write_bytes("store/notes.txt", b"mine too")
    store = open_store(out)
    assert [str(finding) for finding in store.findings] == [
        f"{folder}/notes.txt: it is no file of the store; moved to store/set-aside/stray-notes.txt"
    ]
    assert out.exists("store/notes.txt")
    assert missing(store, out, TEXTS) == []


def test_a_part_that_changes_after_it_was_verified_is_not_read(out: Output) -> None:
    """The bytes are verified again whenever scores are taken from them."""
    name, data = one_part(out)
    store = open_store(out)
    items = write_items(out.work / "items.parquet", TEXTS)
    out.write_bytes(name, data[:-1])
    with pytest.raises(RunError, match=r"changed or is no part.*labelscore verify"):
        list(store.scores(items, wanted()))


THREADS_OF_A_READING = """
import os, sys
from pipeline.storing.parts import load_scores
from tests.pipeline.storing.stored import *
store = open_store(Output(sys.argv[1]))
before = set(os.listdir("/proc/self/task"))
for part in store.parts(fingerprint()):
    load_scores(store.out, part)
print(len(store.parts(fingerprint())), set(os.listdir("/proc/self/task")) - before)
"""


def test_a_part_is_read_without_a_thread_that_may_outlive_python(out: Output) -> None:
    """A thread of Arrow's that lets go of Python's bytes while Python ends aborts a process that failed in order."""
    run(out, TEXTS)
    done = subprocess.run(
        [sys.executable, "-c", THREADS_OF_A_READING, str(out)], cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert done.stdout.split(maxsplit=1) == ["5", "set()\n"]


def test_scratch_files_do_not_outlive_their_use(out: Output) -> None:
    """The join's folders go when it ends, also when it ends badly."""
    name, data = one_part(out)
    store = open_store(out)
    missing(store, out, TEXTS)
    items = write_items(out.work / "items.parquet", TEXTS)
    out.write_bytes(name, data[:-1])
    with pytest.raises(RunError):
        store.pending(items, wanted())
    assert {path.name for path in out.work.iterdir()} == {
        "items.parquet",
        f"pending-{fingerprint().digest[:16]}.parquet",
    }
