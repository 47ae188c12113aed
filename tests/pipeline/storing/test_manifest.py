"""The manifest is one record: what was written comes back, and a changed byte is found."""

import itertools
import json
from pathlib import Path

import pytest

from pipeline.errors import InputError, RunError
from pipeline.storing.files import Output
from pipeline.storing.layout import MANIFEST, SCHEMA_VERSION
from pipeline.storing.manifest import need_manifest, read_manifest, write_manifest
from pipeline.storing.sealed import seal
from tests.pipeline.storing.stored import ANSWER, TOPIC, manifest, wanted


@pytest.fixture
def out(tmp_path: Path) -> Output:
    return Output(tmp_path / "out")


def test_the_manifest_comes_back_as_it_was_written(out: Output) -> None:
    """Every field; none is None, and a reader that needs one is told what to do."""
    assert read_manifest(out) is None
    with pytest.raises(InputError, match="holds no finished run"):
        need_manifest(out)
    written = manifest([wanted(ANSWER), wanted(TOPIC)], 3, run_id="é\ud800", counts={"items": 3})
    write_manifest(out, written)
    assert need_manifest(out) == written.model_copy(update={"schema_version": SCHEMA_VERSION})
    assert json.loads(out.read_bytes(MANIFEST))["run_id"] == "é\ud800"
    assert written["dataset"]["num_items"] == written.dataset.num_items == 3
    with pytest.raises(KeyError, match="nothing"):
        written["nothing"]
    assert ("dataset" in written, "nothing" in written, written.get("nothing", 7)) == (True, False, 7)
    assert dict(written)["run_id"] == {**written}["run_id"] == "é\ud800"


def test_keys_of_another_version_are_kept(out: Output) -> None:
    """Also inside of what is known: who writes the manifest again takes nothing away."""
    values = manifest(config={"rule": "sum", "later": 1}, later=["a"]).model_dump(mode="json")
    out.write_bytes(MANIFEST, seal({**values, "schema_version": 1}))
    write_manifest(out, need_manifest(out).model_copy(update={"headline_rule": "pmi"}))
    again = json.loads(out.read_bytes(MANIFEST))
    assert (again["later"], again["config"]["later"], again["headline_rule"]) == (["a"], 1, "pmi")


def test_a_manifest_that_lacks_a_fact_says_which(out: Output) -> None:
    """Whole by its hash, and not what a run writes."""
    values = manifest(num_items=3).model_dump(mode="json")
    del values["dataset"]["num_items"]
    out.write_bytes(MANIFEST, seal({**values, "schema_version": 1}))
    with pytest.raises(InputError, match=r"dataset\.num_items: Field required; run"):
        read_manifest(out)


def test_a_flipped_bit_or_a_cut_in_the_manifest_is_found(out: Output) -> None:
    """At every byte."""
    write_manifest(out, manifest([wanted()]))
    data = out.read_bytes(MANIFEST)
    for place, cut in itertools.product(range(len(data)), (False, True)):
        spoilt = bytearray(data)
        spoilt[place] ^= 1
        out.path(MANIFEST).write_bytes(data[:place] if cut else bytes(spoilt))
        with pytest.raises(RunError, match=r"manifest.json (is damaged|has schema version)"):
            read_manifest(out)


def test_a_manifest_of_a_newer_version_is_refused_with_what_to_do(out: Output) -> None:
    """An older labelscore does not guess."""
    out.write_bytes(MANIFEST, b'{"schema_version": 7}')
    with pytest.raises(RunError, match=r"schema version 7.*upgrade labelscore"):
        read_manifest(out)


def test_an_output_of_version_1_is_read_and_one_of_today_refused_by_who_reads_up_to_1(
    out: Output, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Such a labelscore would put today's parts aside, and take a score table's first file for all of it."""
    write_manifest(out, manifest([wanted(ANSWER)], 3))
    values = json.loads(out.read_bytes(MANIFEST))
    monkeypatch.setattr("pipeline.storing.manifest.SCHEMA_VERSION", 1)
    with pytest.raises(RunError, match="upgrade labelscore or use another --out"):
        read_manifest(out)
    monkeypatch.undo()
    out.write_bytes(MANIFEST, seal({**values, "schema_version": 1}))
    assert need_manifest(out).dataset.num_items == 3
