"""What data/README.md says of choice.json: its keys, and the questions to it against loops over the record."""

import re
from pathlib import Path
from typing import Any

import polars as pl
import pytest
from pydantic import BaseModel

from pipeline.choosing.record import (
    ArmRecord,
    CandidateRecord,
    ChoiceRecord,
    FreshRecord,
    ItemsRecord,
)
from pipeline.choosing.shown import choice_json
from pipeline.storing.layout import CHOICE_MANIFEST
from tests.conftest import ROOT
from tests.pipeline.choosing import records

DOCUMENT = (ROOT / "data" / "README.md").read_text()
SECTION = DOCUMENT.partition("\n## A choice\n")[2].partition("\n## ")[0]
FOLDER = "data/runs/sample-demo"
DESCRIBED: dict[str, type[BaseModel]] = {
    "choice/choice.json": ChoiceRecord,
    "choice.json: items": ItemsRecord,
    "choice.json: candidates": CandidateRecord,
    "choice.json: arms": ArmRecord,
    "choice.json: fresh": FreshRecord,
}
TYPES = {"string": str, "int": int, "float": (int, float), "bool": bool, "object": dict, "list of objects": list}


def rows_of(title: str) -> list[list[str]]:
    """The rows of a table: key, type, meaning."""
    part = SECTION.partition(f"### {title}\n")[2].partition("\n### ")[0]
    rows = [
        [cell.strip() for cell in line.strip("|").split("|")] for line in part.splitlines() if line.startswith("| `")
    ]
    return [row for row in rows if not row[2].endswith("(not in what `--json` prints)")]


@pytest.mark.parametrize("title", DESCRIBED)
def test_the_document_lists_every_key_in_order(title: str) -> None:
    assert [key.strip("`") for key, *_ in rows_of(title)] == list(DESCRIBED[title].model_fields)


@pytest.mark.parametrize("title", DESCRIBED)
def test_the_types_are_those_of_the_document(title: str) -> None:
    """Of every kind of record that can be; null is only where the document says so."""
    seen_null = set()
    for make in (records.many, records.out_of_budget, records.only_one):
        whole = make().model_dump(mode="json")
        name = title.rpartition(" ")[2]
        values = whole if title == "choice/choice.json" else whole[name] or []
        for value in values if isinstance(values, list) else [values]:
            for key, kind, _ in rows_of(title):
                found = value[key.strip("`")]
                if found is None:
                    assert kind.endswith(", null"), key
                    seen_null.add(key)
                else:
                    assert isinstance(found, TYPES[kind.removesuffix(", null")]), key
    assert title not in ("choice/choice.json", "choice.json: arms") or seen_null


def test_the_states_and_endings_are_those_of_the_document() -> None:
    assert set(re.findall(r"`([a-z ]+)`", rows_of("choice.json: arms")[2][2])) == {"named", "in", "out"}
    ending = next(meaning for key, _, meaning in rows_of("choice/choice.json") if key == "`ending`")
    assert set(re.findall(r"`([a-z ]+)`", ending)) == {"named", "budget", "no more items"}


@pytest.fixture(scope="module")
def record() -> ChoiceRecord:
    return records.many()


@pytest.fixture(scope="module")
def answers(record: ChoiceRecord, tmp_path_factory: pytest.TempPathFactory) -> list[pl.DataFrame]:
    """What each block leaves in `answer`, run from top to bottom beside the record where the document has it."""
    folder: Path = tmp_path_factory.mktemp("questions")
    (folder / FOLDER / CHOICE_MANIFEST).parent.mkdir(parents=True)
    (folder / FOLDER / CHOICE_MANIFEST).write_text(choice_json(record))
    names: dict[str, Any] = {}
    found = []
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        for code in re.findall(r"```python\n(.*?)```", SECTION, flags=re.DOTALL):
            exec(compile(code, "data/README.md, a choice", "exec"), names)
            found.append(names["answer"])
    return found


def test_arms_that_may_be_the_best(answers: list[pl.DataFrame], record: ChoiceRecord) -> None:
    expected = [
        (arm.candidate, arm.rule, 100 * arm.num_right / arm.num_items, 100 * arm.behind / arm.num_common)
        for arm in record.left
    ]
    assert len(expected) > 2
    assert answers[0].rows() == expected


def test_how_far_each_rule_came(answers: list[pl.DataFrame], record: ChoiceRecord) -> None:
    for rule, still_in, out, last_out_after in answers[1].iter_rows():
        own = [arm for arm in record.arms if arm.rule == rule]
        assert still_in == sum(arm.state != "out" for arm in own)
        assert out == sum(arm.state == "out" for arm in own)
        assert last_out_after == max(arm.out_after for arm in own if arm.out_after is not None)
    assert answers[1].height == 7


def test_what_each_model_cost(answers: list[pl.DataFrame], record: ChoiceRecord) -> None:
    for model, number, forwards, share in answers[2].iter_rows():
        own = [each for each in record.candidates if each.model == model]
        assert (number, forwards) == (len(own), sum(each.num_forwards for each in own))
        assert share == pytest.approx(sum(each.num_items / record.items.num_items for each in own) / len(own))
    assert answers[2].height == 2
