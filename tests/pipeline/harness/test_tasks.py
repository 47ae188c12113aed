"""Tasks of lm-evaluation-harness as a source of items, and what it makes of their scores.

The oracle is the harness itself: `simple_evaluate` with a model that notes what it is asked, and answers by a hash.
"""

import hashlib
import random
import re
import threading
from pathlib import Path
from typing import Any

import polars as pl
import pytest

pytest.importorskip("lm_eval", reason="needs the extra 'harness'")

from lm_eval import simple_evaluate
from lm_eval.api.model import LM
from lm_eval.api.task import Task
from lm_eval.tasks import TaskManager

from pipeline.config import HARNESS_SEED
from pipeline.errors import InputError
from pipeline.harness.index import find_tasks
from pipeline.harness.tasks import Tasks, first_id
from pipeline.reading.dataset import Row
from pipeline.storing.layout import DOCUMENTS
from tests.pipeline.harness.own_tasks import NUM, TASKS, write_tasks


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> str:
    return str(write_tasks(tmp_path_factory.mktemp("tasks")))


def load(folder: str, *names: str, num_shots: int | None = None, limit: int | None = None) -> Tasks:
    tasks = Tasks(names, folder, num_shots=num_shots, seed=HARNESS_SEED, limit=limit)
    tasks.build()
    return tasks


def requests_of(row: Row) -> list[tuple[str, str]]:
    contexts, continuations = row.values[0], row.values[1]  # type: ignore[index]
    return list(zip(contexts, continuations, strict=True))  # type: ignore[call-overload]


def score(context: str, continuation: str) -> float:
    """A log-likelihood of no meaning, the same for the same strings."""
    digits = hashlib.sha256(f"{context}\0{continuation}".encode()).hexdigest()
    return -(int(digits, 16) % 10_000) / 500


class Oracle(LM):  # type: ignore[misc]
    """Answers the harness' requests by `score`, and keeps them."""

    def __init__(self) -> None:
        super().__init__()
        self.asked: dict[tuple[str, int], list[tuple[str, str]]] = {}

    def loglikelihood(self, requests: list[Any]) -> list[tuple[float, bool]]:
        for request in requests:
            self.asked.setdefault((request.task_name, request.doc_id), []).append(request.args)
        return [(score(*request.args), False) for request in requests]

    def loglikelihood_rolling(self, requests: list[Any]) -> list[float]:
        raise NotImplementedError

    def generate_until(self, requests: list[Any]) -> list[str]:
        raise NotImplementedError


@pytest.mark.parametrize("num_shots", [None, 2])
@pytest.mark.parametrize("limit", [None, 5])
def test_requests_and_metrics_are_those_of_the_harness(folder: str, num_shots: int | None, limit: int | None) -> None:
    """Contexts, continuations and solved examples to the letter, and every metric of every task and group."""
    names = [name for name in TASKS if name not in ("own_colours", "own_gaps")] + ["own_group"]
    oracle = Oracle()
    wanted = simple_evaluate(
        model=oracle,
        tasks=list(names),
        num_fewshot=num_shots,
        limit=limit,
        task_manager=TaskManager(include_path=folder, include_defaults=False),
        bootstrap_iters=0,
    )
    tasks = load(folder, *names, num_shots=num_shots, limit=limit)
    rows = list(tasks.rows())
    found = {(str(row.values[3]), row.position % DOCUMENTS): requests_of(row) for row in rows}  # type: ignore[index]
    assert found == oracle.asked
    scores = [
        {"item_id": row.position, "label_id": place, "logprob": score(*request)}
        for row in rows
        for place, request in enumerate(requests_of(row))
    ]
    judged = tasks.judge(pl.DataFrame(scores).sample(fraction=1, shuffle=True, seed=1))
    metrics = {(row["task"], f"{row['metric']},{row['filter']}"): row["value"] for row in judged}
    assert wanted is not None
    assert metrics == {
        (name, key): value
        for name, values in wanted["results"].items()
        for key, value in values.items()
        if "," in key and "_stderr" not in key
    }
    assert len(metrics) == 13
    sizes = {row["task"]: row["num_items"] for row in judged}
    assert sizes == {**dict.fromkeys(TASKS, limit or NUM), "own_group": 2 * (limit or NUM)}
    assert {row["task"] for row in judged if row["is_group"]} == {"own_group"}
    assert judged == tasks.judge(pl.DataFrame(scores)), "judging again changes nothing"


def test_gold_is_what_the_task_calls_right(folder: str) -> None:
    """A place, a list of places, the context that is right, or what the task's own code would count as right."""
    tasks = load(folder, *TASKS)
    golds: dict[str, list[object]] = {}
    for row in tasks.rows():
        golds.setdefault(str(row.values[3]), []).append(row.label)  # type: ignore[index]
    assert golds["own_colours"] == [[i % 2] for i in range(NUM)]
    assert golds["own_moods"] == [[i % 3] for i in range(NUM)]
    assert golds["own_gaps"] == [[i % 2] for i in range(NUM)]
    assert golds["own_plain"] == [[1]] * NUM
    assert golds["own_truths"] == golds["own_several"] == [[0, 2] if i % 2 else [0] for i in range(NUM)]


def test_choices_are_those_that_the_task_names(folder: str) -> None:
    """Without the delimiter, and the contexts where these vary: what the harness' acc_norm measures."""
    rows = {str(row.values[3]): row.values[2] for row in load(folder, "own_colours", "own_gaps").rows()}  # type: ignore[index]
    assert rows["own_colours"] == ["red", "green", "blue", "a very dark yellow"]
    assert rows["own_gaps"] == [f"The box was too big for the bag, so the {which}" for which in ("box", "bag")]


def test_item_ids_are_the_same_whatever_tasks_stand_beside(folder: str) -> None:
    """They rise from row to row, end with the document's number, and do not move with other tasks or limits."""
    whole = [row.position for row in load(folder, "own_plain", "own_colours", "own_gaps").rows()]
    assert whole == sorted(set(whole))
    alone = [row.position for row in load(folder, "own_colours", limit=3).rows()]
    assert alone == [first_id("own_colours") + i for i in range(3)]
    assert set(alone) < set(whole)


def test_names_may_be_patterns_and_groups(folder: str) -> None:
    assert find_tasks(["own_p*", "own_group"], folder) == ("own_plain", "own_group")
    assert set(load(folder, "own_group").by_name) == {"own_colours", "own_gaps"}


def test_what_is_no_choice_is_refused_by_name(folder: str) -> None:
    """In one line that says which task, why, and what to do."""
    cases = {
        "own_writing": "asks for generate_until, which is no choice",
        "own_exact": "wants the metric exact_match",
        "own_greedy": "asks whether the model itself would write a choice",
    }
    for name, why in cases.items():
        with pytest.raises(InputError, match=f"^task '{name}'.*{why}.*`labelscore lm-eval` runs it$"):
            list(load(folder, "own_colours", name).rows())


def test_mistakes_are_told_in_one_line(folder: str) -> None:
    cases = {
        ("own_colors",): "knows no task 'own_colors'; near are own_colours",
        ("own_broken",): "task 'own_broken': .*'nothing' is undefined.*check its data and its YAML file",
        ("own_group", "own_gaps"): "own_gaps.*name it once",
    }
    for names, why in cases.items():
        with pytest.raises(InputError, match=why) as caught:
            load(folder, *names)
        assert "\n" not in str(caught.value)
    with pytest.raises(InputError, match="no folder is there"):
        find_tasks(["own_plain"], f"{folder}/nowhere")


def test_data_that_is_not_there_is_told_with_the_task(folder: str, tmp_path: Path) -> None:
    text = (Path(folder) / "own_plain.yaml").read_text().replace("colours.jsonl", "gone.jsonl")
    (tmp_path / "gone.yaml").write_text(text.replace("own_plain", "own_gone"))
    with pytest.raises(InputError, match=r"^task 'own_gone': it cannot be loaded .*gone\.jsonl"):
        load(str(tmp_path), "own_gone")


def test_solved_examples_that_may_surprise_are_remarked(folder: str, tmp_path: Path) -> None:
    """A task that keeps its own 0, and one that has no other documents than those scored."""
    assert load(folder, "own_plain", num_shots=1).remarks == ()
    (remark,) = load(folder, "own_several", num_shots=1).remarks
    assert remark == "num_shots = 1 has no effect on tasks that say 0 themselves: own_several"
    text = re.sub(r"training_split: train\n|    train: .*\n", "", (Path(folder) / "own_plain.yaml").read_text())
    (tmp_path / "alone.yaml").write_text(text.replace("own_plain", "own_alone"))
    (remark,) = load(str(tmp_path), "own_alone", num_shots=1).remarks
    assert remark == "solved examples are drawn from the documents that are scored, as there are no others: own_alone"
    assert load(str(tmp_path), "own_alone").remarks == ()


def test_documents_that_spell_a_special_token_are_counted(folder: str) -> None:
    tasks = Tasks(["own_colours"], folder, num_shots=None, seed=HARNESS_SEED, limit=None)
    tasks.build(special=re.compile("thing 1"))
    (remark,) = tasks.remarks
    assert remark.startswith("task 'own_colours': 3 documents spell a special token of the model")  # 1, 10 and 11


def test_draws_of_other_threads_are_not_the_tasks(folder: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A Prefect run's threads draw from the same numbers; the requests stay those of the first writing."""
    quiet = load(folder, "own_colours", num_shots=2)
    write = Task.build_all_requests

    def write_beside_a_thread(task: Task, **options: Any) -> None:
        thread = threading.Thread(target=random.random)
        thread.start()
        thread.join()
        write(task, **options)

    monkeypatch.setattr(Task, "build_all_requests", write_beside_a_thread)
    beside = load(folder, "own_colours", num_shots=2)
    assert beside.remarks == ()
    assert [requests_of(row) for row in beside.rows()] == [requests_of(row) for row in quiet.rows()]
    assert load(folder, "odd_words").remarks[0].startswith("task 'odd_words' draws at random")


def test_asking_whether_a_task_draws_moves_no_other_task(folder: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is written a second time for that; whatever this draws, the documents behind it come in the same order."""
    names, seen = ("odd_draws", "odd_shuffle"), set[int]()
    plain = load(folder, *names)
    write = Task.build_all_requests

    def write_and_draw(task: Task, **options: Any) -> None:
        write(task, **options)
        if id(task) in seen:
            random.random()
        seen.add(id(task))

    monkeypatch.setattr(Task, "build_all_requests", write_and_draw)
    drawing = load(folder, *names)
    assert [requests_of(row) for row in drawing.rows()] == [requests_of(row) for row in plain.rows()]
    assert len(drawing.remarks) == len(names), "both draw, and are written twice"


def test_templates_are_compiled_once_and_write_the_same(folder: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The harness compiles one for every document and solved example; afterwards it does so again."""
    import lm_eval.utils

    compiled: list[str] = []
    compile_template = lm_eval.utils.env.from_string

    def count(source: str) -> Any:
        compiled.append(source)
        return compile_template(source)

    monkeypatch.setattr(lm_eval.utils.env, "from_string", count)
    task = TaskManager(include_path=folder, include_defaults=False).load(["own_moods"])["tasks"]["own_moods"]
    task.build_all_requests()
    assert len(compiled) > 2 * NUM
    compiled.clear()
    found = [requests_of(row) for row in load(folder, "own_moods").rows()]
    num_loading = len(compiled)  # one document is tried when a task is loaded
    assert num_loading <= 4
    assert [pair for pairs in found for pair in pairs] == [request.args for request in task.instances]
    assert lm_eval.utils.env.from_string is count


def test_golds_may_be_numbers_of_numpy(folder: str) -> None:
    """As with the harness, to which what equals a place is one."""
    assert [row.label for row in load(folder, "odd_numpy").rows()] == [[i % 2] for i in range(NUM)]


def test_choices_are_those_that_were_written_where_a_task_draws_them_anew(folder: str) -> None:
    for row in load(folder, "odd_draws").rows():
        _, continuations, choices, _ = row.values  # type: ignore[misc]
        assert all(str(choice) in words for choice, words in zip(choices, continuations, strict=True))  # type: ignore[call-overload]


def test_documents_are_judged_as_they_were_scored_where_a_task_shuffles_them(folder: str) -> None:
    """The harness would take them anew; judged twice the same, and as the gold labels say."""
    tasks = load(folder, "odd_shuffle")
    rows = list(tasks.rows())
    scores = pl.DataFrame(
        [
            {"item_id": row.position, "label_id": place, "logprob": -float(place != row.label[0])}  # type: ignore[index]
            for row in rows
            for place in range(len(requests_of(row)))
        ]
    )
    assert [each["value"] for each in tasks.judge(scores)] == [1.0]
    assert [each["value"] for each in tasks.judge(scores)] == [1.0]


def test_a_judge_that_cannot_take_the_impossible_leaves_no_gold(folder: str) -> None:
    """Its figures are its own; of ours there are none, and a line says so."""
    tasks = load(folder, "odd_log")
    assert [row.label for row in tasks.rows()] == [None] * NUM
    (remark,) = tasks.remarks
    assert remark.startswith("task 'odd_log': of 12 documents no choice is known to be right")


def test_documents_without_a_right_choice_are_counted(folder: str) -> None:
    tasks = load(folder, "odd_gold")
    labels = [row.label for row in tasks.rows()]
    assert labels == [None if i == 1 else [i % 2] for i in range(NUM)]
    assert tasks.remarks[0].startswith("task 'odd_gold': of 1 documents no choice is known to be right")


def test_nobody_elses_random_numbers_are_touched(folder: str) -> None:
    import random

    random.seed(7)
    wanted = random.random()
    random.seed(7)
    load(folder, "odd_draws")
    assert random.random() == wanted


def test_metrics_that_cannot_be_made_are_told_before_anything_is_scored(folder: str) -> None:
    """With the one task that is to blame."""
    with pytest.raises(InputError, match=r"^task 'odd_metric': its metrics cannot be made .*multiclass"):
        load(folder, "own_plain", "odd_metric")


def test_words_drawn_at_random_are_remarked(folder: str) -> None:
    """A run of the harness has drawn other numbers by then: for its model, and its data."""
    assert load(folder, "odd_words").remarks[0].startswith("task 'odd_words' draws at random while it writes")
    assert not load(folder, "own_plain").remarks


def test_lists_with_commas_are_taken_as_the_harness_takes_them(folder: str) -> None:
    assert find_tasks(["own_plain,own_gaps"], folder) == ("own_plain", "own_gaps")
