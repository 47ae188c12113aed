"""Tasks of our own in the harness' form: YAML files, their data and their Python, in every shape that choices have.

Each is a few lines long and made up here. `write_tasks(folder)` puts them into a folder for --task-path.
"""

import json
from pathlib import Path
from typing import Any

NUM = 12
COLOURS = ("red", "green", "blue", "a very dark yellow", "ß")

DATA: dict[str, list[dict[str, Any]]] = {
    "colours": [
        {"thing": f"thing {i} ", "colours": list(COLOURS[: 2 + i % 3]), "answer": i % 2, "mood": i % 3}
        for i in range(NUM)
    ],
    "gaps": [
        {"sentence": f"The box was too big for the bag, so the _ stayed {i}.", "first": "box", "second": "bag",
         "answer": str(1 + i % 2)} for i in range(NUM)
    ],
    "truths": [
        {"question": f"What is {i} plus one?", "answers": [f"{i + 1}", f"{i}", f"one more than {i}"],
         "labels": [1, 0, i % 2]} for i in range(NUM)
    ],
}  # fmt: skip

COMMON = """dataset_path: json
dataset_kwargs:
  data_files:
    test: {folder}/{data}.jsonl
    train: {folder}/{data}_train.jsonl
test_split: test
training_split: train
output_type: multiple_choice
metadata:
  version: 2.0
"""
MEAN = "metric_list:\n  - metric: acc\n    aggregation: mean\n    higher_is_better: true\n"
NORM = MEAN + "  - metric: acc_norm\n    aggregation: mean\n    higher_is_better: true\n"

TASKS = {
    # choices of the item, a place as gold, white space at the context's end
    "own_colours": (
        "colours",
        'doc_to_text: "The {{thing}}"\ndoc_to_choice: "{{colours}}"\ndoc_to_target: answer\n' + NORM,
    ),
    # the same choices for all, and metrics over all items
    "own_moods": (
        "colours",
        'doc_to_text: "{{thing}}is\\n"\ndoc_to_choice: ["good", "bad", "neither of them"]\ndoc_to_target: "{{mood}}"\n'
        "description: \"Moods of {{colours[0]}} things.\\n\"\n"
        "metric_list:\n  - metric: acc\n  - metric: f1\n    average: macro\n    aggregation: !function own.macro_f1\n"
        "  - metric: mcc\n  - metric: brier_score\n",
    ),
    # a context for each choice
    "own_gaps": (
        "gaps",
        "doc_to_text: !function own.place\ndoc_to_choice: !function own.contexts\n"
        "doc_to_target: !function own.rest\n" + NORM,
    ),
    # no context
    "own_plain": (
        "colours",
        "doc_to_text: ''\ndoc_to_choice: \"{{[thing, thing + 'again']}}\"\ndoc_to_target: 1\n" + NORM,
    ),
    # several right choices, judged by the task itself
    "own_truths": (
        "truths",
        'doc_to_text: "{{question}}"\ndoc_to_choice: "{{answers}}"\ndoc_to_target: 0\n'
        "process_results: !function own.judge\n" + MEAN,
    ),
    # several right choices, as a list
    "own_several": (
        "truths",
        'num_fewshot: 0\ndoc_to_text: "{{question}}"\ndoc_to_choice: "{{answers}}"\n'
        "doc_to_target: !function own.several\n" + MEAN,
    ),
}  # fmt: skip

ODD = {  # what tasks of others do
    # golds that are numpy's
    "odd_numpy": (
        'doc_to_text: "{{thing}}"\ndoc_to_choice: "{{colours}}"\ndoc_to_target: !function own.numpy_place\n' + MEAN
    ),
    # choices drawn anew at every call
    "odd_draws": 'doc_to_text: "{{thing}}"\ndoc_to_choice: !function own.draw\ndoc_to_target: 0\n' + MEAN,
    # documents in another order each time
    "odd_shuffle": (
        'process_docs: !function own.shuffle\ndoc_to_text: "{{thing}}"\ndoc_to_choice: "{{colours}}"\n'
        "doc_to_target: answer\n" + MEAN
    ),
    # code of its own that takes a logarithm of what is impossible
    "odd_log": (
        'doc_to_text: "{{thing}}"\ndoc_to_choice: "{{colours}}"\ndoc_to_target: answer\n'
        "process_results: !function own.log_ratio\n"
        "metric_list:\n  - metric: ratio\n    aggregation: mean\n    higher_is_better: true\n"
    ),
    # no choice is right in the second document
    "odd_gold": 'doc_to_text: "{{thing}}"\ndoc_to_choice: "{{colours}}"\ndoc_to_target: !function own.lost\n' + MEAN,
    # a choice that is nothing but a blank, if not in the first document, where the harness fails
    "odd_blank": (
        'doc_to_text: "{{thing}}"\ndoc_to_target: 1\n'
        "doc_to_choice: \"{{['' if mood else 'bad', 'good']}}\"\n" + MEAN
    ),
    # a metric that the harness cannot make of three classes
    "odd_metric": (
        'doc_to_text: "{{thing}}"\ndoc_to_choice: ["a", "b", "c"]\ndoc_to_target: mood\nmetric_list:\n  - metric: f1\n'
    ),
    # words drawn while they are written
    "odd_words": 'doc_to_text: !function own.greet\ndoc_to_choice: ["a", "b"]\ndoc_to_target: 1\n' + MEAN,
}  # fmt: skip

OTHERS = {  # what is no choice between continuations
    "own_writing": 'output_type: generate_until\ndoc_to_text: "{{thing}}"\ndoc_to_target: "{{answer}}"\n',
    "own_exact": (
        'doc_to_text: "{{thing}}"\ndoc_to_choice: "{{colours}}"\ndoc_to_target: answer\n'
        "metric_list:\n  - metric: exact_match\n"
    ),
    "own_greedy": (
        'doc_to_text: "{{thing}}"\ndoc_to_choice: "{{colours}}"\ndoc_to_target: answer\n'
        "process_results: !function own.greedy\n" + MEAN
    ),
    "own_broken": 'doc_to_text: "{{nothing.there}}"\ndoc_to_choice: "{{colours}}"\ndoc_to_target: answer\n' + MEAN,
}  # fmt: skip

GROUP = """group: own_group
task:
  - own_colours
  - own_gaps
aggregate_metric_list:
  - metric: acc
    aggregation: mean
    weight_by_size: true
metadata:
  version: 3.0
"""

PYTHON = """
import math
import random
import numpy as np

def greet(doc): return random.choice(["Hey, ", "Say, "]) + doc["thing"]
def numpy_place(doc): return np.int32(doc["answer"])
def draw(doc): return random.sample(["ash", "beech", "cedar", "dogwood"], 2)
def shuffle(docs): return docs.shuffle(seed=random.randrange(10**9))
def log_ratio(doc, results): return {"ratio": math.log(math.exp(results[0][0]) / math.exp(results[1][0]))}
def lost(doc): return -1 if "thing 1 " in doc["thing"] else int(doc["answer"])
def place(doc): return int(doc["answer"]) - 1
def contexts(doc):
    before, _ = doc["sentence"].split("_")
    return [before + doc["first"], before + doc["second"]]
def rest(doc): return doc["sentence"].split("_")[1].strip()
def several(doc): return [i for i, label in enumerate(doc["labels"]) if label]
def judge(doc, results):
    likelihoods, _ = zip(*results)
    shares = np.exp(np.array(likelihoods) - max(likelihoods))
    return {"acc": float(shares[np.array(doc["labels"]) == 1].sum() / shares.sum())}
def greedy(doc, results): return {"acc": float(results[0][1])}
def macro_f1(items):
    from sklearn.metrics import f1_score
    golds, predictions = zip(*items)
    return f1_score(golds, predictions, average="macro")
"""


def write_tasks(folder: Path) -> Path:
    """All of them, their data and code, in `folder`."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, rows in DATA.items():
        lines = [json.dumps(row) + "\n" for row in rows]
        (folder / f"{name}.jsonl").write_text("".join(lines))
        (folder / f"{name}_train.jsonl").write_text("".join(line.replace("thing ", "sample ") for line in lines[::-1]))
    (folder / "own.py").write_text(PYTHON)
    for name, (data, text) in TASKS.items():
        _write(folder, name, data, text)
    for name, text in (OTHERS | ODD).items():
        _write(folder, name, "colours", text)
    (folder / "own_group.yaml").write_text(GROUP)
    return folder


def _write(folder: Path, name: str, data: str, text: str) -> None:
    common = COMMON.replace("output_type: multiple_choice\n", "") if "output_type" in text else COMMON
    (folder / f"{name}.yaml").write_text(f"task: {name}\n{common.format(folder=folder, data=data)}{text}")
