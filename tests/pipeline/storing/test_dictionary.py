"""What a table says of itself in its metadata, which is what data/README.md says of it."""

import io
import json
import re
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pipeline.items import ItemShape
from pipeline.prompts import BUILT_IN, REQUESTS, Prompt
from pipeline.storing import dictionary, layout, parts
from pipeline.storing.tables import write_table
from tests.conftest import ROOT

DOCUMENT = (ROOT / "data" / "README.md").read_text()
TABLES = {
    "scores/scores.parquet": dictionary.SCORES,
    "items.parquet": dictionary.ITEMS,
    "rejected.parquet": dictionary.REJECTED,
    "priors.parquet": dictionary.PRIORS,
    "tasks.parquet": dictionary.TASKS,
    "report/predictions.parquet": dictionary.PREDICTIONS,
    "report/metrics.parquet": dictionary.METRICS,
    "history.parquet": dictionary.HISTORY,
}
SCHEMAS = {name: value for name, value in vars(layout).items() if name.endswith("_SCHEMA")}


def rows_of(part: str) -> list[tuple[str, ...]]:
    """The rows of the first table of Markdown."""
    lines = part.partition("|---|---|---|\n")[2].partition("\n\n")[0].splitlines()
    return [tuple(cell.strip() for cell in line.strip("|").split(" | ")) for line in lines]


def section(name: str) -> str:
    return DOCUMENT.partition(f"\n### {name}\n")[2].partition("\n### ")[0]


@pytest.mark.parametrize("name", TABLES)
def test_the_document_lists_the_columns_as_the_files_do(name: str) -> None:
    assert rows_of(section(name)) == [(f"`{column}`", kind, meaning) for column, kind, meaning in TABLES[name]]


def test_the_document_lists_the_columns_of_other_items() -> None:
    rows = rows_of(section("items.parquet").partition("That is a run whose prompts read")[2])
    meanings = {name.strip("`"): meaning for name, _, meaning in rows}
    assert meanings["a column for each slot"] == dictionary.SLOT
    assert meanings["a column for the choices"] == dictionary.CHOICES
    assert meanings[layout.ITEM_CHOICES] == dictionary.ITEM_CHOICES
    assert meanings["hash_PROMPT"] == dictionary.HASH
    assert meanings[layout.TASK] == dictionary.TASK


def check_metadata(schema: pa.Schema) -> None:
    """Version, meanings and sorting are in the file's metadata, meanings also in the fields'."""
    metadata = {key.decode(): value.decode() for key, value in schema.metadata.items()}
    assert metadata["schema_version"] == metadata["labelscore.schema_version"] == "2"
    meanings = json.loads(metadata["labelscore.columns"])
    assert list(meanings) == schema.names
    assert [field.metadata[b"description"].decode() for field in schema] == list(meanings.values())
    assert all(meanings.values())
    assert set(metadata.get("labelscore.sorted_by", "").split(", ")) - {""} <= set(schema.names)


@pytest.mark.parametrize("schema", SCHEMAS.values(), ids=SCHEMAS)
def test_every_schema_says_version_meanings_and_sorting(schema: pa.Schema) -> None:
    check_metadata(schema)
    assert len(SCHEMAS) == len(TABLES)


QUIZ = Prompt("quiz", "{question}\n", (), choices="options", choice=" {choice}")
PAIR = Prompt("pair", "{premise} {text}", BUILT_IN["answer"].labels)


@pytest.mark.parametrize(
    ("shape", "own"),
    [
        (ItemShape([QUIZ]), {"question": dictionary.SLOT, "options": dictionary.CHOICES}),
        (ItemShape([PAIR]), {"premise": dictionary.SLOT, "text": dictionary.SLOT, "hash_pair": dictionary.HASH}),
        (ItemShape([REQUESTS], has_tasks=True), {"context": dictionary.CHOICES, "task": dictionary.TASK}),
    ],
    ids=["choices", "columns", "tasks"],
)
def test_items_with_columns_of_their_own_say_as_much(shape: ItemShape, own: dict[str, str]) -> None:
    check_metadata(shape.schema)
    for column, meaning in own.items():
        assert shape.schema.field(column).metadata[b"description"].decode() == meaning


def written(schema: pa.Schema, columns: dict[str, Any]) -> pq.ParquetFile:
    file = io.BytesIO()
    write_table(file, schema, [pa.table(columns, schema=schema)])
    return pq.ParquetFile(file)


def test_a_file_says_what_its_rows_are_sorted_by_and_holds_scores_byte_by_byte() -> None:
    """Read back, they are the numbers that were written; texts, those in lists too, have their dictionary."""
    schema = ItemShape([QUIZ]).schema
    columns = {name: [[name], [name]] if name in ("options", "item_choices") else [None] * 2 for name in schema.names}
    file = written(schema, columns | {"item_id": [3, 2**40]})
    group = file.metadata.row_group(0)
    assert [column.column_index for column in group.sorting_columns] == [0]
    encodings = {group.column(i).path_in_schema: group.column(i).encodings for i in range(group.num_columns)}
    assert "RLE_DICTIONARY" in encodings["options.list.element"]
    assert "DELTA_BINARY_PACKED" in encodings["item_id"]
    assert file.read()["item_id"].to_pylist() == [3, 2**40]

    values = [0.1, -1e-300, float("inf")]
    file = written(
        layout.METRICS_SCHEMA, {name: [None] * 3 for name in layout.METRICS_SCHEMA.names} | {"value": values}
    )
    assert "BYTE_STREAM_SPLIT" in file.metadata.row_group(0).column(4).encodings
    assert not file.metadata.row_group(0).sorting_columns
    assert file.read()["value"].to_pylist() == values


def test_parts_of_the_store_are_written_as_before() -> None:
    """They are named by their bytes and read by older versions: nothing of this is in their schema."""
    assert parts.SCHEMA.metadata is None
    assert all(field.metadata is None for field in parts.SCHEMA)
    columns = {name: [] for name in parts.SCHEMA.names}
    schema = written(parts.SCHEMA, columns).schema_arrow
    assert not schema.metadata
    assert re.fullmatch(r"(\w+: \w+( not null)?\n?)+", str(schema))
