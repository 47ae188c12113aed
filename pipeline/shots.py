"""Solved examples for few-shot prompts: a seeded draw that is balanced over the classes, or the first rows.

Invariant: the draw depends on the seed and the source rows alone, and is the same for every item, so that the examples
belong to the prefix that all items share.
"""

import hashlib
import random
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import islice

from pipeline.errors import InputError
from pipeline.prompts import Prompt, Values

SEPARATOR = "\n\n"


@dataclass(frozen=True, slots=True)
class Example:
    """A labelled row: its `text` (as JSON where it has several columns), its columns, and which words are right."""

    text: str
    values: Values
    place: int


def draw_shots(
    rows: Iterable[Example], *, num_shots: int, label_names: Sequence[str] | None, seed: int
) -> tuple[Example, ...]:
    """Draw `num_shots` rows, as evenly over the labels as the number allows (if there are any), shuffled.

    One pass, memory for the draw alone: each label keeps the texts with the smallest seeded hashes, which is a uniform
    sample without replacement whatever the order of the rows. Raises InputError where a label has too few rows.
    """
    names = label_names or ("",)
    num_labels = len(names)
    generator = random.Random(seed)
    order = list(range(num_labels))
    generator.shuffle(order)  # which labels get one more when the number does not divide evenly
    quota = {label: num_shots // num_labels + (rank < num_shots % num_labels) for rank, label in enumerate(order)}
    kept: dict[int, dict[bytes, Example]] = {label: {} for label in range(num_labels)}
    for row in rows:
        label = row.place if label_names else 0
        if quota.get(label):
            _keep_smallest(kept[label], row, seed, quota[label])
    for label, count in quota.items():
        if len(kept[label]) < count:
            of = f" of label {names[label]}" if label_names else ""
            raise InputError(
                f"num_shots = {num_shots} needs {count} examples{of}, and there are "
                f"{len(kept[label])} whose text is not scored; ask for fewer or choose another shots_split"
            )
    shots = [row for label in range(num_labels) for _, row in sorted(kept[label].items(), key=lambda pair: pair[0])]
    generator.shuffle(shots)
    return tuple(shots)


def first_shots(rows: Iterable[Example], *, num_shots: int) -> tuple[Example, ...]:
    """The first `num_shots` rows, as lm-evaluation-harness takes them. Raises InputError where there are fewer."""
    shots = tuple(islice(rows, num_shots))
    if len(shots) < num_shots:
        raise InputError(
            f"num_shots = {num_shots}, and there are {len(shots)} labelled rows whose text is not scored; ask for "
            "fewer or choose another shots_split"
        )
    return shots


def _keep_smallest(kept: dict[bytes, Example], row: Example, seed: int, count: int) -> None:
    rank = hashlib.sha256(f"{seed}\0{row.text}".encode()).digest()
    if len(kept) < count or rank < max(kept):
        kept[rank] = row  # a text that occurs twice has one rank, so it is drawn once
        if len(kept) > count:
            del kept[max(kept)]


def format_shots(prompt: Prompt, shots: Iterable[Example]) -> str:
    """The examples as text that goes before the template: each filled in and followed by the words that are right."""
    return "".join(f"{context}{words}{SEPARATOR}" for context, words in (_solved(prompt, row) for row in shots))


def shots_as_turns(prompt: Prompt, shots: Iterable[Example], begun: str = "") -> list[tuple[str, str]]:
    """The examples as turns of a conversation: what the user says, and the right words, no blank before them.

    begun: how the answer to an item begins; so do these, as with lm-evaluation-harness.
    """
    solved = (_solved(prompt, row) for row in shots)
    return [(context, begun + words if begun else words.lstrip()) for context, words in solved]


def _solved(prompt: Prompt, row: Example) -> tuple[str, str]:
    """An example as it is written, and the words that are right for it."""
    written = prompt.write(row.values)
    context = written.contexts[row.place] if len(written.contexts) > 1 else written.contexts[0]
    return context, written.continuations[row.place]
