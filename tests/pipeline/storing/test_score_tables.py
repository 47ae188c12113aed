"""Published tables are exactly the items, prompts and labels of a run, whole or not there."""

import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.errors import RunError
from pipeline.prompts import Label, hash_text
from pipeline.storing import score_tables
from pipeline.storing.files import Output, hash_file
from pipeline.storing.layout import SCORES
from pipeline.storing.runs import new_folder
from pipeline.storing.score_tables import write_tables
from pipeline.storing.store import Store
from tests.pipeline.storing.stored import (
    ANSWER,
    PRIORS,
    ROOT,
    TOPIC,
    expected_scores,
    fill,
    fingerprint,
    open_store,
    published,
    published_scores,
    run,
    score,
    scored,
    scores_in,
    texts_of,
    wanted,
    write_items,
)

TEXTS = texts_of(23)
COLUMNS = {
    "item_id": pl.Int64,
    "text_hash": pl.String,
    "prompt": pl.String,
    "model": pl.String,
    "revision": pl.String,
    "label_id": pl.Int16,
    "label": pl.String,
    "label_words": pl.String,
    "gold_id": pl.Int16,
    "num_tokens": pl.Int16,
    "num_bytes": pl.Int16,
    "norm_chars": pl.Int32,
    "norm_bytes": pl.Int32,
    "logprob": pl.Float32,
    "logit": pl.Float32,
    "notebook_logit": pl.Float32,
    "prompt_tokens": pl.Int32,
    "truncated": pl.Boolean,
}


@pytest.fixture
def out(tmp_path: Path) -> Output:
    return Output(tmp_path / "out")


def test_the_table_has_the_columns_and_types_of_the_contract(out: Output) -> None:
    """design.md's columns, in order, zstd, the schema's version in the file's metadata, sorted, page checksums on."""
    run(out, TEXTS, [TOPIC, ANSWER])
    path = published(out)
    assert dict(pl.read_parquet_schema(path)) == COLUMNS
    file = pq.ParquetFile(path, page_checksum_verification=True)
    assert file.schema_arrow.metadata[b"labelscore.schema_version"] == b"2"
    assert file.metadata.row_group(0).column(0).compression == "ZSTD"
    table = pl.read_parquet(path)
    assert table.equals(table.sort("item_id", "prompt", "label_id"))


def test_every_row_belongs_to_its_item_prompt_and_label(out: Output) -> None:
    """Against the obvious table, with duplicate texts, gaps in the ids and two prompts; all columns."""
    run(out, TEXTS, [TOPIC, ANSWER])
    assert published_scores(out) == expected_scores(TEXTS, [TOPIC, ANSWER])
    for row in pl.read_parquet(published(out)).iter_rows(named=True):
        i = row["item_id"] // 2
        label = next(x for p in (ANSWER, TOPIC) if p.name == row["prompt"] for x in p.labels if x.id == row["label_id"])
        logprob = score(hash_text(TEXTS[i]), label.words)
        assert row == {
            "item_id": 2 * i,
            "text_hash": hash_text(TEXTS[i]),
            "prompt": row["prompt"],
            "model": "model-weights",
            "revision": "revision",
            "label_id": label.id,
            "label": label.name,
            "label_words": label.words,
            "gold_id": i % 4 if i % 5 else None,
            "num_tokens": 1 + len(label.words) % 3,
            "num_bytes": len(label.words),
            "norm_chars": len(label.words.removeprefix(" ")),
            "norm_bytes": len(label.words.removeprefix(" ")),
            "logprob": logprob,
            "logit": float(np.float32(logprob) + np.float32(0.5)),
            "notebook_logit": None,
            "prompt_tokens": 20 + int(hash_text(TEXTS[i])[:2], 16),
            "truncated": hash_text(TEXTS[i])[0] == "0",
        }


@settings(max_examples=30)
@given(
    st.lists(st.integers(0, 15), min_size=1, max_size=40),
    st.integers(1, 60),
    st.integers(1, 9),
    st.permutations(range(4)),
)
def test_chunks_parts_and_label_order_do_not_show(
    tmp_path_factory: pytest.TempPathFactory, numbers: list[int], rows_in_group: int, part_size: int, ids: list[int]
) -> None:
    """Whatever the sizes of row groups and parts, and however a prompt numbers its labels."""
    out = Output(tmp_path_factory.mktemp("out"))
    texts = [f"text {n}" for n in numbers]
    labels = tuple(Label(i, f"class {i}", label.words) for i, label in zip(ids, ANSWER.labels, strict=True))
    prompt = replace(ANSWER, labels=labels)
    items = write_items(out.work / "items.parquet", texts)
    score_tables.ROWS_IN_GROUP, usual = rows_in_group, score_tables.ROWS_IN_GROUP
    try:
        store = open_store(out, [prompt])
        fill(store, items, wanted(prompt), part_size=part_size)
        write_tables(out, store, items, PRIORS, notebook=False)
    finally:
        score_tables.ROWS_IN_GROUP = usual
    assert scores_in(out.path(SCORES)) == sorted(expected_scores(texts, [prompt]))


def test_priors_hold_the_content_free_texts_of_each_prompt(out: Output) -> None:
    """One row for each prompt, content-free text and label."""
    run(out, TEXTS, [TOPIC, ANSWER])
    table = pl.read_parquet(published(out, "priors.parquet"))
    expected = [
        (prompt.name, text, x.id, score(hash_text(text), x.words))
        for prompt in (ANSWER, TOPIC)
        for text in PRIORS
        for x in prompt.labels
    ]
    assert table.select("prompt", "text", "label_id", "logprob").rows() == expected


def test_the_notebooks_rule_is_published_only_when_asked_for(out: Output) -> None:
    """The column is null for a run that did not ask, also where the store has it."""
    run(out, TEXTS, notebook=True)
    asked = pl.read_parquet(published(out))
    assert (asked["notebook_logit"] == asked["logprob"] + 0.25).all()
    assert run(out, TEXTS) == []
    assert pl.read_parquet(published(out))["notebook_logit"].is_null().all()


def test_a_smaller_run_publishes_its_own_items_only(out: Output) -> None:
    """The table is that of the last run, not of everything that was ever stored."""
    run(out, TEXTS, [ANSWER, TOPIC])
    run(out, TEXTS[3:7], [TOPIC])
    assert published_scores(out) == expected_scores(TEXTS[3:7], [TOPIC])
    assert pl.read_parquet(published(out, "items.parquet"))["text"].to_list() == TEXTS[3:7]


def test_the_same_scores_give_the_same_bytes(tmp_path: Path) -> None:
    """Two outputs of the same run, in whatever parts, are the same files."""
    hashes = []
    for name in ("a", "b"):
        out = Output(tmp_path / name)
        if name == "b":
            run(out, TEXTS[:5])
        run(out, TEXTS, [ANSWER, TOPIC])
        hashes.append([hash_file(published(out, n)) for n in (SCORES, "items.parquet", "priors.parquet")])
    assert hashes[0] == hashes[1]


def test_a_missing_score_publishes_nothing(out: Output) -> None:
    """A table that would lack a row is not published: the last one stays."""
    run(out, TEXTS)
    before = {name: hash_file(out.path(name)) for name in out.list()}
    with out.lock(print):
        store = open_store(out)
        items = write_items(out.work / "items.parquet", [*TEXTS, "unscored", "unscored"])
        with pytest.raises(RunError, match="prompt 'answer': 2 texts have no scores; run again"):
            write_tables(out.inside(new_folder()), store, items, PRIORS, notebook=False)
    assert {name: hash_file(out.path(name)) for name in out.list()} == before


def test_items_whose_ids_do_not_rise_are_refused(out: Output) -> None:
    """Two rows of one id would be two rows for one item, prompt and label."""
    items = write_items(out.work / "items.parquet", TEXTS)
    table = pq.read_table(items)
    pq.write_table(pa.concat_tables([table, table.slice(3, 1)]), items)
    store = open_store(out)
    fill(store, items, wanted())
    with pytest.raises(RunError, match="item_id does not rise"):
        write_tables(out, store, items, PRIORS, notebook=False)
    assert not out.exists(SCORES)


def test_rejected_rows_are_a_table_where_there_are_some(out: Output) -> None:
    """rejected.parquet comes with a run that rejected rows."""
    items = write_items(out.work / "items.parquet", TEXTS)
    rejected = out.work / "rejected.parquet"
    pq.write_table(pa.table({"item_id": [1], "reason": ["empty"]}), rejected)
    store = open_store(out)
    fill(store, items, wanted())
    for folder, rows in (("with", rejected), ("without", None)):
        write_tables(out.inside(folder), store, items, PRIORS, notebook=False, rejected=rows)
    assert [out.exists(f"{folder}/rejected.parquet") for folder in ("with", "without")] == [True, False]


def test_names_of_models_and_prompts_are_data_not_paths(out: Output) -> None:
    """A prompt or model called like a path writes nothing outside the output, and is found in its columns."""
    prompt = replace(ANSWER, name="../../escaped")
    items = write_items(out.work / "items.parquet", TEXTS)
    store = Store(out, [wanted(prompt)], "../../escaped", "/etc")
    fill(store, items, wanted(prompt))
    write_tables(out, store, items, PRIORS, notebook=False)
    assert [path.name for path in out.root.parent.iterdir()] == ["out"]
    assert pl.read_parquet(out.path(SCORES))["prompt"].unique().to_list() == ["../../escaped"]


# Faults


DISK_FULL = """
import resource, sys
from tests.pipeline.storing.stored import *
from pipeline.errors import RunError
out = Output(sys.argv[1])
run(out, texts_of(10))
items = write_items(out.work / "items.parquet", [f"{text} {'x' * 40}" for text in texts_of(400)], 100)
resource.setrlimit(resource.RLIMIT_FSIZE, (int(sys.argv[2]),) * 2)
try:
    store = open_store(out)
    fill(store, items, wanted(), part_size=400)
    folder = out.inside(new_folder())
    write_tables(folder, store, items, PRIORS, notebook=False)
    publish(out, folder, manifest(store.prompts, 400))
except RunError as error:
    print(error)
"""


@pytest.mark.parametrize(
    ("limit", "struck"),
    [(300, "scratch files"), (14_000, "scratch files"), (20_000, "store/"), (40_000, "scratch files"), (90_000, "")],
)
def test_a_disk_that_fills_up_leaves_the_store_and_the_tables_whole(tmp_path: Path, limit: int, struck: str) -> None:
    """A limit that strikes at the join, the pending texts, a part or the tables: one line, and the next run goes on."""
    env = os.environ | {"PYTHONPATH": f"{ROOT}:{ROOT / 'tests' / 'pipeline'}"}
    command = [sys.executable, "-c", DISK_FULL, str(tmp_path), str(limit)]
    done = subprocess.run(command, env=env, capture_output=True, text=True, check=True)
    assert struck in done.stdout
    assert ("File too large; free some space and run again" in done.stdout) == bool(struck)
    out = Output(tmp_path)
    texts = [f"{text} {'x' * 40}" for text in texts_of(400)]
    assert published_scores(out) == expected_scores(texts_of(10) if struck else texts)
    assert open_store(out).findings == []
    run(out, texts)
    assert published_scores(out) == expected_scores(texts)


def test_parts_of_two_runs_at_once_give_one_row_each(out: Output) -> None:
    """Without a lock (object storage) two runs may store a text twice; the published table has it once."""
    items = write_items(out.work / "items.parquet", TEXTS)
    first, second = (open_store(out) for _ in range(2))
    fill(first, items, wanted())
    hashes = [hash_text(text) for text in dict.fromkeys([*TEXTS, *PRIORS])]
    second.writer(wanted()).append(scored(hashes, fingerprint()))
    second.refresh()
    write_tables(out, second, items, PRIORS, notebook=False)
    assert scores_in(out.path(SCORES)) == expected_scores(TEXTS)
