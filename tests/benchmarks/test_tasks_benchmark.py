"""The benchmark beside lm-evaluation-harness measures its own requests, and the count of its tasks tells them apart."""

import json
import re
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("lm_eval")

from tests.benchmarks import harness_tasks, known, tasks, tasks_report
from tests.benchmarks.harness_ways import counted, load, row_sizes
from tests.benchmarks.measure import stage_shares
from tests.flows.known_tasks import expected

SOUND = {
    "task": "made_up",
    "output_type": "multiple_choice",
    "dataset_path": "json",
    "test_split": "test",
    "doc_to_text": "{{text}}",
    "doc_to_choice": ["no", "yes"],
    "doc_to_target": "label",
}


@pytest.mark.parametrize("name", ["cola", "winogrande", "blimp_adjunct_island"])
def test_the_requests_are_those_that_the_harness_logged(shared: Path, name: str) -> None:
    """The copies of the YAML files differ in where the data lies and in nothing that is scored."""
    with harness_tasks.open_tasks() as manager:
        items = harness_tasks.build(manager, name, shots=0, limit=60)
    written = [instance.args for item in items for instance in item.instances]
    assert written == [(row["context"], row["continuation"]) for row in expected(shared, name)]


def test_mmlu_has_the_same_five_shots_before_all_other_rows(shared: Path) -> None:
    """The first rows of the file are solved, in order, and none of them is an item."""
    name = harness_tasks.MMLU[0]
    rows = [json.loads(line) for line in (shared / f"data/tasks/{name}.jsonl").read_text().splitlines()]
    with harness_tasks.open_tasks() as manager:
        items = harness_tasks.build(manager, harness_tasks.FIRST + name, harness_tasks.FIRST_SHOTS)
    heads = {
        item.values["context"][0].rsplit("\n\n" + row["question"].strip(), 1)[0]
        for item, row in zip(items, rows[5:], strict=True)
    }
    (head,) = heads
    places = [head.index(row["question"].strip()) for row in rows[:5]]
    assert places == sorted(places)
    assert re.findall(r"Answer: ([A-D])", head) == ["ABCD"[row["answer"]] for row in rows[:5]]


def test_items_are_taken_as_long_as_they_fit() -> None:
    """From the first on; a few are taken whatever their size."""
    items: Any = list("abcdef")
    assert harness_tasks.first_within(items, [3, 3, 3, 1, 1, 1], 9, at_least=2) == ["a", "b", "c"]
    assert harness_tasks.first_within(items, [9] * 6, 9, at_least=2) == ["a", "b"]
    assert harness_tasks.first_within(items, [1] * 6, 9) == items


def test_forwarded_tokens_of_the_harness_are_counted_with_their_padding(shared: Path) -> None:
    """In batches of one they are the lengths of its rows, of which equal ones are one; in one batch all are as long."""
    ways = load("tiny", shared / "models/agnews-tiny-gemma")
    with harness_tasks.open_tasks() as manager:
        items = harness_tasks.build(manager, "cola", shots=0, limit=4)
    sizes = [size for each in ways.own.encode(items) for size in row_sizes(each)]
    for batch_size, tokens in ((1, sum(sizes)), (64, len(sizes) * max(sizes))):
        with counted(ways.hf) as count:
            ways.of(items, [batch_size])[f"harness {batch_size}"]()
        assert count["tokens"] == tokens


def test_a_measured_row_is_kept_and_not_measured_again(shared: Path, tmp_path: Path) -> None:
    """All ways agree; the same command again gives the same seconds; other settings are measured anew."""
    out, results = tmp_path / "out.json", tmp_path / "RESULTS.md"
    few = ["--model", str(shared / "models/agnews-tiny-gemma"), "--tasks", "winogrande", "--shots", "0"]
    few += ["--limit", "4", "--rounds", "1", "--batch-sizes", "4", "--out", str(out), "--results", str(results)]
    tasks.main([*few, "--profile"])
    first = json.loads(out.read_text(encoding="utf-8"))
    (cell,) = first.values()
    assert max(cell["difference"].values()) <= tasks_report.TOLERANCE
    assert sum(share for name, share in cell["shares"].items() if "of all" not in name) == pytest.approx(1)
    assert "| agnews-tiny-gemma | winogrande | 0 | 4 |" in results.read_text(encoding="utf-8")
    tasks.main(few)
    assert json.loads(out.read_text(encoding="utf-8")) == first
    tasks.main([*few, "--limit", "5"])
    assert json.loads(out.read_text(encoding="utf-8")) != first


def test_scores_that_differ_give_no_ratio() -> None:
    """A way that is fast and wrong reaches no goal, and the table says so."""
    cell: dict[str, Any] = {"model": "m", "task": "t", "shots": 0, "items": 4, "best": "harness 8"}
    cell |= {"padded_tokens": 200, "trie_tokens": 100, "forwarded_tokens": 100}
    cell["seconds"] = {"harness 8": [8.0, 9.0, 40.0], "inside": [1.0, 1.0, 10.0], "own": [2.0] * 3}
    cell["difference"] = {"inside": 1e-5, "own": 1e-3}
    assert tasks_report.times(cell, "inside") == 8.0  # the median of 8, 9 and 4
    assert tasks_report.gain(cell, "inside") == 4.0
    assert [tasks_report.reaches(cell, way) for way in tasks_report.WAYS] == [True, False]
    assert "scores differ" in tasks_report._row(cell)


def test_stages_share_the_time_of_a_run() -> None:
    """What a function takes is its stage's, whatever is around it; all shares together are the whole."""
    held = {"inner": lambda: sum(range(200_000)), "outer": lambda: sum(range(1_000))}
    owner: Any = type("Owner", (), {})()
    owner.inner, owner.outer = held["inner"], held["outer"]
    shares = stage_shares({"inner": [(owner, "inner")]}, lambda: (owner.outer(), owner.inner()))
    assert sum(shares.values()) == pytest.approx(1)
    assert shares["inner"] > shares["the rest"]
    assert owner.inner is held["inner"]


@pytest.mark.parametrize(
    ("changed", "outcome", "reason"),
    [
        ({}, known.SOUND, ""),
        ({"doc_to_text": "{{text"}, known.BROKEN, "TemplateSyntaxError"),
        ({"metric_list": [{"metric": "no_such_metric"}]}, known.BROKEN, "no metric no_such_metric"),
        ({"metric_list": [{"metric": "acc", "aggregation": "no_such"}]}, known.BROKEN, "no aggregation no_such"),
        ({"test_split": None}, known.BROKEN, "neither test_split nor validation_split"),
        ({"fewshot_config": {"sampler": "by_hand"}}, known.BROKEN, "no sampler is called by_hand"),
        ({"no_such_key": 1}, known.BROKEN, "no_such_key"),
        ({"metric_list": [{"metric": "acc_mutual_info"}]}, known.REFUSED, "acc_mutual_info"),
        ({"output_type": "generate_until"}, known.REFUSED, "generate_until"),
    ],
)
def test_a_yaml_file_is_told_sound_refused_or_broken(
    tmp_path: Path, changed: dict[str, Any], outcome: str, reason: str
) -> None:
    """By the harness' own constructor, by Jinja and by what the loader refuses; no data is asked for."""
    path = tmp_path / "made_up.yaml"
    path.write_text(json.dumps({**SOUND, **changed}))
    verdict = known.check("made_up", path)
    assert verdict.outcome == outcome
    assert reason in verdict.reason


@pytest.mark.parametrize(
    ("code", "outcome", "reason"),
    [
        ("import no_such_package.part", known.PACKAGE, "no_such_package"),
        ("raise ModuleNotFoundError('`needed` is required')", known.PACKAGE, "needed"),
        ("import json.no_such_part", known.BROKEN, "json.no_such_part"),
        ("choices = None", known.BROKEN, "has no function"),
    ],
)
def test_what_a_task_imports_must_be_there(tmp_path: Path, code: str, outcome: str, reason: str) -> None:
    """A package that is not installed is named; a module that an installed one no longer has breaks the task."""
    (tmp_path / "own.py").write_text(code)
    path = tmp_path / "made_up.yaml"
    path.write_text(json.dumps({**SOUND, "doc_to_text": "@"}).replace('"@"', "!function own.text"))
    verdict = known.check("made_up", path)
    assert verdict.outcome == outcome
    assert reason in verdict.reason


@pytest.mark.bench
def test_tasks_with_data_at_hand_are_built(shared: Path, tmp_path: Path) -> None:
    """Those of the shared folder; the others are checked, and each has one outcome."""
    out, results = tmp_path / "known.json", tmp_path / "RESULTS.md"
    pattern = "^(piqa|hellaswag|arc_easy|webqs)$"
    known.main(["--pattern", pattern, "--out", str(out), "--results", str(results)])
    found = {name: verdict["outcome"] for name, verdict in json.loads(out.read_text(encoding="utf-8")).items()}
    assert found["piqa"] == found["hellaswag"] == known.BUILT
    assert found["arc_easy"] == known.SOUND
    assert set(found) == {"piqa", "hellaswag", "arc_easy", "webqs"}
