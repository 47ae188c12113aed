"""The store and the tables where items bring their own choices: held against a dictionary, whatever the sizes."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.items import Item, ItemShape
from pipeline.prompts import Prompt, Values, hash_item
from pipeline.storing import score_tables
from pipeline.storing.files import Output
from pipeline.storing.layout import PRIORS as PRIORS_FILE
from pipeline.storing.layout import SCORES
from pipeline.storing.score_tables import write_tables
from pipeline.storing.store import Store
from tests.pipeline.storing.stored import PRIORS, score, wanted

QUIZ = Prompt("quiz", "{q}?", choices="o")
NOTED = Prompt("noted", "{note}: {q} {choice}", choices="o", choice="{note}")
SHAPE = ItemShape((QUIZ, NOTED))

items = st.lists(
    st.tuples(
        st.sampled_from("pqr"),
        st.sampled_from("mn"),
        st.lists(st.sampled_from(["a", "bé", " c"]), min_size=2, max_size=6),
    ),
    min_size=1,
    max_size=25,
)
Rows = list[tuple[str, str, list[str]]]


def values_of(rows: Rows) -> list[Values]:
    return [{"q": q, "note": note, "o": choices} for q, note, choices in rows]


def write_items(path: Path, rows: Rows) -> Path:
    found = []
    for i, values in enumerate(values_of(rows)):
        choices = QUIZ.item_choices(values)
        found.append(SHAPE.record(Item(2 * i, values, (i % len(choices),), (choices[i % len(choices)],), choices)))
    columns = [
        pa.array(column, field.type) for column, field in zip(zip(*found, strict=True), SHAPE.schema, strict=True)
    ]
    pq.write_table(pa.Table.from_arrays(columns, schema=SHAPE.schema), path, row_group_size=3)
    return path


def scored(prompt: Prompt, some: Sequence[Values], salt: int) -> pa.Table:
    cells = [(hash_item(prompt, v), k, w) for v in some for k, w in enumerate(prompt.write(v).continuations)]
    logprob = np.array([score(h, f"{k} {w}", salt) for h, k, w in cells], np.float32)
    return pa.table(
        {
            "text_hash": [h for h, _, _ in cells],
            "label_words": [w for _, _, w in cells],
            "num_tokens": np.ones(len(cells), np.int16),
            "num_bytes": np.array([len(w.encode()) for _, _, w in cells], np.int16),
            "logprob": logprob,
            "logit": logprob,
            "notebook_logit": pa.nulls(len(cells), pa.float32()),
            "prompt_tokens": np.full(len(cells), 9, np.int32),
            "truncated": np.zeros(len(cells), bool),
        }
    )


def fill(store: Store, file: Path, prompt: Prompt, part_size: int, *, salt: int = 0, force: bool = False) -> int:
    """Score what is missing; how many items that was."""
    pending = store.pending(file, wanted(prompt), extra_texts=PRIORS, force=force)
    missing = pq.read_table(pending.path).drop_columns("text_hash").to_pylist()
    for start in range(0, len(missing), part_size):
        store.writer(wanted(prompt)).append(scored(prompt, missing[start : start + part_size], salt))
    store.refresh()
    return len(missing)


def write_in_groups(out: Output, store: Store, file: Path, rows_in_group: int) -> None:
    """The run's tables, in row groups of so many rows."""
    score_tables.ROWS_IN_GROUP, usual = rows_in_group, score_tables.ROWS_IN_GROUP
    try:
        write_tables(out, store, file, PRIORS, notebook=False)
    finally:
        score_tables.ROWS_IN_GROUP = usual


@settings(max_examples=60)
@given(items, items, st.integers(1, 40), st.integers(1, 7))
def test_tables_hold_each_choice_of_each_item_once(
    tmp_path_factory: pytest.TempPathFactory, before: Rows, rows: Rows, rows_in_group: int, part_size: int
) -> None:
    """A run before scores some of them; what is new is scored once, forced scores win, and no row is another's."""
    out = Output(tmp_path_factory.mktemp("out"))
    prompts = (QUIZ, NOTED)
    known: dict[str, set[str]] = {prompt.name: set() for prompt in prompts}
    for number, some in enumerate((before, rows)):
        file = write_items(out.work / "items.parquet", some)
        store = Store(out, [wanted(prompt) for prompt in prompts], "model", "revision")
        for prompt in prompts:
            hashes = {hash_item(prompt, values) for values in values_of(some)}
            assert fill(store, file, prompt, part_size) == len(hashes - known[prompt.name]), number
            known[prompt.name] |= hashes
    store = Store(out, [wanted(prompt) for prompt in prompts], "model", "revision")
    fill(store, file, NOTED, part_size, salt=1, force=True)
    write_in_groups(out, store, file, rows_in_group)
    expected = [
        (
            2 * i,
            prompt.name,
            k,
            values["o"][k],
            words,
            score(hash_item(prompt, values), f"{k} {words}", salt),
            len(sized),
        )
        for i, values in enumerate(values_of(rows))
        for prompt, salt in ((NOTED, 1), (QUIZ, 0))
        for k, (words, sized) in enumerate(
            zip(prompt.write(values).continuations, prompt.write(values).sized, strict=True)
        )
    ]
    table = pq.read_table(out.path(SCORES))
    columns = ["item_id", "prompt", "label_id", "label", "label_words", "logprob", "norm_chars"]
    assert [tuple(row.values()) for row in table.select(columns).to_pylist()] == expected
    assert pq.read_table(out.path(PRIORS_FILE)).num_rows == 0


def test_a_part_whose_rows_do_not_stand_together_is_not_written(tmp_path: Path) -> None:
    store = Store(Output(tmp_path / "out"), [wanted(QUIZ)], "model", "revision")
    table = scored(QUIZ, values_of([("p", "m", ["a", "bé"]), ("q", "m", ["a", "bé"])]), 0)
    with pytest.raises(ValueError, match="not together"):
        store.writer(wanted(QUIZ)).append(table.take([0, 2, 1, 3]))
