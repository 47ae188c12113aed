"""The places of an item by id and by name, for labels that all items share and for choices of their own."""

from typing import Any

import polars as pl
import pytest

from pipeline.reporting.items import with_gold_ids
from pipeline.reporting.places import Places, join_names, num_places
from pipeline.storing.manifest import PromptRecord
from tests.pipeline.reporting import choices, tables

LABELS = [{"id": i, "name": name, "words": f" {name}"} for i, name in ((-1, "joy"), (1, "anger"), (4, "love"))]
GOLDS = {"gold_id": pl.Int16, "gold_ids": pl.List(pl.Int16)}


def fixed() -> Places:
    (prompt,) = tables.make_manifest(3, ("p",)).prompts
    record = PromptRecord.model_validate(prompt.model_dump() | {"labels": LABELS})
    return Places(record, pl.LazyFrame({"item_id": [0, 1, 2]}))


def own() -> Places:
    (prompt,) = choices.make_manifest(3, {"p": ("question",)}).prompts
    items = pl.LazyFrame({"item_id": [2, 0, 1], "item_choices": [["c"], ["a", "b"], ["x", "x", "z"]]})
    return Places(prompt, items)


def ask(places: Places, rows: dict[str, Any], expression: pl.Expr) -> list[Any]:
    schema = {name: dtype for name, dtype in GOLDS.items() if name in rows}
    table = pl.LazyFrame({"item_id": [0, 1, 2], **rows}, schema_overrides=schema)
    return places.read().beside(table).select(expression).collect().to_series().to_list()


def test_ids_have_names_and_numbers() -> None:
    ids = {"id": [4, -1, 7]}
    assert ask(fixed(), ids, fixed().name("id")) == ["love", "joy", None]
    assert ask(fixed(), ids, fixed().number("id")) == [2, 0, None]
    ids = {"id": [1, 2, None]}
    assert ask(own(), ids, own().name("id")) == ["b", "z", None]
    assert ask(own(), {"id": [1, 3, 0]}, own().name("id")) == ["b", None, "c"]


@pytest.mark.parametrize(
    ("places", "golds", "names"),
    [
        (fixed(), {"gold_id": [1, None, None], "gold_ids": [None, [-1, 4], None]}, ["anger", "joy or love", None]),
        (own(), {"gold_id": [1, None, None], "gold_ids": [None, [0, 2], None]}, ["b", "x or z", None]),
    ],
)
def test_right_places_are_named_whether_there_is_one_or_there_are_several(
    places: Places, golds: dict[str, Any], names: list[str | None]
) -> None:
    assert ask(places, golds, join_names(places.right_names)) == names
    before = with_gold_ids(pl.LazyFrame({"item_id": [0], "gold_id": [1]}, schema_overrides={"gold_id": pl.Int16}))
    assert places.beside(before).select(join_names(places.right_names)).collect().item() == names[0]


def test_items_have_as_many_places_as_their_prompt_has_labels_or_they_have_choices() -> None:
    assert own().items.select("item_id", n=num_places(own().prompt)).collect()["n"].to_list() == [1, 2, 3]
    assert fixed().items.select("item_id", n=num_places(fixed().prompt)).collect()["n"].to_list() == [3, 3, 3]
