"""The tables of a run of tasks: one store of requests, whose rows bear the names of their items' tasks."""

from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.items import Item, ItemShape
from pipeline.prompts import REQUESTS, Prompt, hash_item
from pipeline.storing.files import Output, hash_file
from pipeline.storing.layout import ITEM_CHOICES, ITEMS, SCORES, SCORES_SCHEMA, TASK
from pipeline.storing.manifest import Manifest, write_manifest
from pipeline.storing.score_tables import write_tables
from pipeline.storing.store import Store
from pipeline.storing.tables import write_table
from pipeline.storing.upkeep import verify
from tests.pipeline.storing.stored import PRIORS, manifest, score, wanted
from tests.pipeline.storing.test_choices import fill, write_in_groups

TASKS = {"arc": 123_456_789, "piqa": 999_999_999}  # the hash that an item's id begins with
LISTS = pa.list_(pa.string())
SCHEMA = pa.schema(
    [("item_id", pa.int64()), ("context", LISTS), ("continuation", LISTS), ("gold_id", pa.int16()),
     ("gold", pa.string()), ("text_hash", pa.string()), ("gold_ids", pa.list_(pa.int16())), (ITEM_CHOICES, LISTS),
     (REQUESTS.hash_column, pa.string()), (TASK, pa.string())]
)  # fmt: skip

requests = st.tuples(  # context, delimiter, continuation and the task's own choice, which may be anything
    st.sampled_from(["Q", "Shot\n\nQ"]), st.sampled_from(["", " "]), st.sampled_from(["a", "bé", "c d"]),
    st.sampled_from(["", "a", " bé", "another"]),
)  # fmt: skip
items = st.lists(
    st.tuples(st.sampled_from(sorted(TASKS)), st.lists(requests, min_size=1, max_size=4)), min_size=1, max_size=20
)
Rows = list[tuple[str, list[tuple[str, str, str, str]]]]


def records(rows: Rows) -> list[dict[str, object]]:
    """The rows of items.parquet, in the order of their ids."""
    found = []
    for number, (task, asked) in enumerate(rows):
        values = {"context": [c for c, _, _, _ in asked], "continuation": [f"{d}{w}" for _, d, w, _ in asked]}
        found.append(
            {"item_id": TASKS[task] * 10**9 + number, **values, "gold_id": 0, "gold": asked[0][3],
             ITEM_CHOICES: [choice for _, _, _, choice in asked], TASK: task,
             REQUESTS.hash_column: hash_item(REQUESTS, values)}
        )  # fmt: skip
    return sorted(found, key=lambda row: int(str(row["item_id"])))


def write_items(path: Path, rows: Rows) -> Path:
    pq.write_table(pa.Table.from_pylist(records(rows), schema=SCHEMA), path, row_group_size=3)
    return path


@settings(max_examples=40)
@given(items, st.integers(1, 12))
def test_rows_bear_their_items_task_and_are_normalised_by_its_own_choice(
    tmp_path_factory: pytest.TempPathFactory, rows: Rows, rows_in_group: int
) -> None:
    """Whatever the contexts and continuations are; a choice that is empty counts as one blank."""
    out = Output(tmp_path_factory.mktemp("out"))
    file = write_items(out.work / "items.parquet", rows)
    store = Store(out, [wanted(REQUESTS)], "model", "revision")
    fill(store, file, REQUESTS, 4)
    write_in_groups(out, store, file, rows_in_group)
    expected = [
        {
            "item_id": row["item_id"],
            "text_hash": row[REQUESTS.hash_column],
            "prompt": row[TASK],
            "label_id": place,
            "label": choice,
            "label_words": words,
            "norm_chars": len(choice) or 1,
            "norm_bytes": len(choice.encode()) or 1,
            "logprob": score(row[REQUESTS.hash_column], f"{place} {words}"),
        }
        for row in records(rows)
        for place, (words, choice) in enumerate(zip(row["continuation"], row[ITEM_CHOICES], strict=True))
    ]
    table = pq.read_table(out.path(SCORES))
    assert table.schema == SCORES_SCHEMA
    assert table.select(list(expected[0])).to_pylist() == expected


def test_verify_counts_an_item_under_its_own_task_alone(tmp_path: Path) -> None:
    """Ids are as large as an int64 holds; what is twice, out of order or of no task is found."""
    out = Output(tmp_path)
    rows: Rows = [(task, [("Q", " ", f"{task} {i}", "a"), ("Q", " ", "b", "b")]) for task in TASKS for i in range(5)]
    store = Store(out, [wanted(REQUESTS)], "model", "revision")
    file = write_items(out.work / "items.parquet", rows)
    fill(store, file, REQUESTS, 4)
    write_tables(out, store, file, PRIORS, notebook=False)
    task = {"columns": ["context"], "choices": ["continuation"], "choice": "{choice}", "task": {"num_items": 5}}
    plain = manifest((wanted(REQUESTS),)).model_dump(mode="json")["prompts"][0]

    def found() -> list[str]:
        names = (SCORES, ITEMS, "priors.parquet")
        facts = manifest(num_items=10).model_dump(mode="json")
        facts["prompts"] = [plain | task | {"name": name} for name in TASKS]
        facts["files"] = {name: hash_file(out.path(name)) for name in names}
        write_manifest(out, Manifest.model_validate(facts))
        return [str(finding) for finding in verify(out)]

    assert found() == []
    scores = pq.read_table(out.path(SCORES))
    other = scores["prompt"].to_pylist()
    other[3] = "no task"
    wrong = {
        "0 rows, not 20": scores.slice(0, 0),
        "19 rows, not 20": scores.slice(0, 19),
        "twice or out of order": pa.concat_tables([scores.slice(0, 19), scores.slice(18, 1)]),
        "out of order": scores.take([1, 0, *range(2, 20)]),
        "is there twice or": scores.set_column(2, SCORES_SCHEMA.field("prompt"), [other]),
    }
    for words, table in wrong.items():
        write_table(out.path(SCORES), SCORES_SCHEMA, [table])
        assert any(words in line for line in found()), words


def test_a_column_of_the_data_that_is_called_task_is_none(tmp_path: Path) -> None:
    """A template may have {task} in it: rows bear the prompt's name then."""
    prompt = Prompt("own", "{task}: {q}", choices="o")
    shape, values = ItemShape((prompt,)), [{"task": "sort", "q": f"q{i}", "o": ["a", "bb"]} for i in range(3)]
    found = [shape.record(Item(i, each, (0,), ("a",), ["a", "bb"])) for i, each in enumerate(values)]
    file = tmp_path / "items.parquet"
    rows = [dict(zip(shape.schema.names, row, strict=True)) for row in found]
    pq.write_table(pa.Table.from_pylist(rows, schema=shape.schema), file)
    out = Output(tmp_path / "out")
    store = Store(out, [wanted(prompt)], "model", "revision")
    fill(store, file, prompt, 4)
    write_tables(out, store, file, PRIORS, notebook=False)
    table = pq.read_table(out.path(SCORES))
    assert table["prompt"].to_pylist() == ["own"] * 6
    assert table["label_words"].to_pylist() == [" a", " bb"] * 3
