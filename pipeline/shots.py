"""Solved examples for few-shot prompts: a seeded draw that is balanced over the classes, or the first rows.

Invariant: the draw depends on the seed and the source rows alone, and is the same for every item, so that the examples
belong to the prefix that all items share.
"""

import hashlib
import random
from collections.abc import Iterable, Sequence
from itertools import islice

from pipeline.errors import InputError
from pipeline.prompts import Prompt
from pipeline.wording import TEXT

SEPARATOR = "\n\n"


def draw_shots(
    rows: Iterable[tuple[str, int]], *, num_shots: int, label_names: Sequence[str], seed: int
) -> tuple[tuple[str, int], ...]:
    """Draw `num_shots` of (text, position of its label), as evenly over the labels as the number allows, shuffled.

    One pass, memory for the draw alone: each label keeps the texts with the smallest seeded hashes, which is a uniform
    sample without replacement whatever the order of the rows. Raises InputError where a label has too few rows.
    """
    num_labels = len(label_names)
    generator = random.Random(seed)
    order = list(range(num_labels))
    generator.shuffle(order)  # which labels get one more when the number does not divide evenly
    quota = {label: num_shots // num_labels + (rank < num_shots % num_labels) for rank, label in enumerate(order)}
    kept: dict[int, dict[bytes, str]] = {label: {} for label in range(num_labels)}
    for text, label in rows:
        if quota.get(label):
            _keep_smallest(kept[label], text, seed, quota[label])
    for label, count in quota.items():
        if len(kept[label]) < count:
            raise InputError(
                f"num_shots = {num_shots} needs {count} examples of label {label_names[label]}, and there are "
                f"{len(kept[label])} whose text is not scored; ask for fewer or choose another shots_split"
            )
    shots = [(text, label) for label in range(num_labels) for _, text in sorted(kept[label].items())]
    generator.shuffle(shots)
    return tuple(shots)


def first_shots(rows: Iterable[tuple[str, int]], *, num_shots: int) -> tuple[tuple[str, int], ...]:
    """The first `num_shots` rows, as lm-evaluation-harness takes them. Raises InputError where there are fewer."""
    shots = tuple(islice(rows, num_shots))
    if len(shots) < num_shots:
        raise InputError(
            f"num_shots = {num_shots}, and there are {len(shots)} labelled rows whose text is not scored; ask for "
            "fewer or choose another shots_split"
        )
    return shots


def _keep_smallest(kept: dict[bytes, str], text: str, seed: int, count: int) -> None:
    rank = hashlib.sha256(f"{seed}\0{text}".encode()).digest()
    if len(kept) < count or rank < max(kept):
        kept[rank] = text  # a text that occurs twice has one rank, so it is drawn once
        if len(kept) > count:
            del kept[max(kept)]


def format_shots(prompt: Prompt, shots: Iterable[tuple[str, int]]) -> str:
    """The examples as text that goes before the template: each filled in and followed by its label's words."""
    return "".join(f"{prompt.fill({TEXT: text})}{prompt.labels[label].words}{SEPARATOR}" for text, label in shots)
