"""Configurations of ours for tasks that lm-evaluation-harness knows, made from its own YAML files.

Invariant: nothing of a task is written here but its shape: prompts and words come from the files in the shared folder,
and what the harness has written and scored (`expected/`) is only read by who compares.
"""

import json
from pathlib import Path
from typing import Any

import yaml

TASKS = (
    "banking77", "blimp_adjunct_island", "cola", "hellaswag", "mmlu_high_school_computer_science", "piqa", "rte",
    "sst2", "trec", "winogrande",
)  # fmt: skip

# What a task asks by code or by an expression, as a configuration of ours says it.
SHAPES: dict[str, tuple[str, str]] = {  # keys of the run, keys of the prompt
    "blimp_adjunct_island": ("gold = 0\n", 'choices = ["sentence_good", "sentence_bad"]\n'),
    "hellaswag": ('label_column = "gold"\n', 'choices = "choices"\n'),
    "piqa": ("", 'choices = ["sol1", "sol2"]\n'),
    "winogrande": (
        'label_column = "answer"\nlabel_names = ["1", "2"]\n',
        'choices = ["option1", "option2"]\nchoice = "{sentence.after(_)}"\n',
    ),
    "mmlu_high_school_computer_science": ('label_column = "answer"\n', ""),
    "trec": ('label_column = "coarse_label"\n', ""),
}
WINOGRANDE = "{sentence.before(_)}{choice}"


class _Loader(yaml.SafeLoader):
    """Reads `!function` as the name that follows it."""


_Loader.add_constructor("!function", lambda loader, node: str(node.value))


def configuration(shared: Path, task: str) -> str:
    """The TOML file of a task, whose data lies in the shared folder."""
    known = yaml.load((shared / f"data/tasks/harness/{task}.yaml").read_text(), _Loader)
    run, prompt = SHAPES.get(task, ("", ""))
    template = WINOGRANDE if task == "winogrande" else known.get("description", "") + slots(known["doc_to_text"])
    labels = known["doc_to_choice"]
    if not prompt:
        run += f"label_names = {{ {', '.join(f'{i} = {json.dumps(label)}' for i, label in enumerate(labels))} }}\n"
        prompt = f"labels = {json.dumps([f' {label}' for label in labels])}\n"
    data = json.dumps(str(shared / f"data/tasks/{task}.jsonl"))
    return (
        f'dataset = {data}\n{run}prompt = ["{task}"]\n[prompts.{task}]\ntemplate = {json.dumps(template)}\n{prompt}'
        'boundary = "harness"\n'
    )


def write_known_tasks(shared: Path, folder: Path) -> Path:
    """The harness' YAML files with the place of the data in them, and with as many solved examples as are asked for."""
    data = str(shared / "data/tasks")
    for file in (shared / "data/tasks/harness").glob("*.yaml"):
        text = file.read_text().replace("__DATA__", data).replace("num_fewshot: 0\n", "")
        (folder / file.name).write_text(text)
    return folder


def slots(template: str) -> str:
    """A template's double braces as single ones."""
    return template.replace("{{", "{").replace("}}", "}")


def expected(shared: Path, task: str) -> list[dict[str, Any]]:
    """What the harness wrote and scored, one row for each item and choice."""
    import polars as pl

    return pl.read_parquet(shared / f"data/tasks/expected/{task}.agnews-tiny-gemma.parquet").to_dicts()
