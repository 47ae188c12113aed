"""Labels that could be read in two ways: refused, with what to write, or told.

Invariant: what is written here can be pasted; no reading is offered that would be refused in its turn.
"""

import json
import re
import shlex
from collections.abc import Iterable, Mapping, Sequence
from typing import NoReturn

from pipeline.errors import InputError
from pipeline.reading.labels import NO_LABEL, TRUTH, LabelCounts, shorten, whole_numbers

UNLIKELY = 0.05
NUM_OFFERED = 30  # ids in an option that is offered
_NO = ("no", "n", "negative", "neg", "bad", "false", "f", "0")
_YES = ("yes", "y", "positive", "pos", "good", "true", "t", "1")


def refuse_two_ways(where: str, names: Sequence[str], numbers: Sequence[int]) -> NoReturn:
    """Numbers that may be names or ids."""
    raise InputError(
        f"{where}: its labels {shorten(numbers)} may be names or ids of the classes {shorten(names)}; write "
        f"label_names = {_table((name, name) for name in names)} if they are names, label_names = "
        f"{_table(enumerate(names))} if they are ids that count from 0"
    )


def refuse_unnamed_ids(where: str, names: Sequence[str], ids: Sequence[object]) -> NoReturn:
    """Ids where nothing says which classes they are: the lines of a prompt's table are in no order."""
    pairs = ", ".join(f'{number} = "..."' for number in ids[:NUM_OFFERED])
    raise InputError(
        f"{where}: its labels are ids ({shorten(ids)}) and nothing says which of the classes {shorten(names)} they "
        f"are, as the lines of a prompt's table have no order; write label_names = {{ {pairs} }} with the class of each"
    )


def refuse_other_ids(where: str, names: Sequence[str], files: Sequence[LabelCounts]) -> None:
    """Ids that count from 1 or otherwise than 0, 1, ... are never scored shifted; each file has its own."""
    for numbers in map(_ids, files):
        if numbers and numbers[-1] >= len(names) and (numbers[0] > 0 or len(numbers) == len(names)):
            _refuse_range(where, names, numbers)
    numbers = sorted(number for file in files for number in _ids(file))
    if len(numbers) > 1 and numbers[0] > 0 and numbers[-1] < len(names):
        num_rows = sum(file.values[number] for file in files for number in numbers)
        # The chance that no row is of the first class, where all classes are as common.
        if (1 - 1 / len(names)) ** num_rows < UNLIKELY:
            _refuse_range(where, names, numbers)


def _ids(file: LabelCounts) -> list[int]:
    return [number for number in whole_numbers(file.values) if number != NO_LABEL]


def _refuse_range(where: str, names: Sequence[str], numbers: Sequence[int]) -> NoReturn:
    if numbers[0] > 0 and numbers[-1] <= len(names):
        ways = f"if 1 is {names[0]}, write {_option(enumerate(names, 1))}"
        if numbers[-1] < len(names):
            ways += f"; if 1 is {names[1]} and no row is {names[0]}, write {_option(enumerate(names))}"
    elif len(numbers) == len(names):
        ways = f"if they are the classes in that order, write {_option(zip(numbers, names, strict=True))}"
    else:
        ways = f"give each its class: --label-names={numbers[0]}=NAME,...,{numbers[-1]}=NAME"
    raise InputError(
        f"{where}: its labels run from {numbers[0]} to {numbers[-1]}, the ids of the {len(names)} classes from 0 "
        f"({names[0]}) to {len(names) - 1} ({names[-1]}); {ways}"
    )


def refuse_inverted_truth(where: str, names: Sequence[str], as_ids: Mapping[int, int]) -> None:
    """Where the classes are true and false, 1 is true, or somebody has to say that it is not."""
    named = {name.lower(): position for position, name in enumerate(names)}
    if named.keys() == TRUTH.keys() and any(as_ids.get(n, named[word]) != named[word] for word, n in TRUTH.items()):
        as_listed, as_meant = _option(enumerate(names)), _option(zip((1, 0), names, strict=True))
        raise InputError(
            f"{where}: its labels are 0 and 1, and 1 would be {names[1]}; write {as_listed} if that is so, {as_meant} "
            "if not"
        )


def refuse_odd_truth(where: str, names: Sequence[str]) -> None:
    """true and false are the ids 1 and 0, unless the classes' names seem to say otherwise."""
    if any(_answer(name) not in (None, position) for position, name in enumerate(names)):
        first, second = names[0], names[1]
        raise InputError(
            f"{where}: its labels are true and false, and true would be {second}; write --label-names "
            f"{shlex.quote(f'false={first},true={second}')} if that is so, "
            f"{shlex.quote(f'true={first},false={second}')} if not"
        )


def _answer(name: str) -> int | None:
    """1 for a name that says yes, 0 for one that says no, None for any other."""
    bare = name.lower()
    if bare in _NO or bare.startswith(("not ", "no ", "non ", "non-")):
        return 0
    return 1 if bare in _YES else None


def refuse_lone_minus(where: str, names: Sequence[str], numbers: Sequence[int]) -> None:
    """-1 is no label, unless it looks as if it were one of the classes."""
    others = [number for number in numbers if number != NO_LABEL]
    signs = (NO_LABEL, 0, 1)  # of three classes
    fits = len(names) == len(signs) and set(numbers) <= set(signs)
    if NO_LABEL not in numbers or not others or not (fits or len(numbers) == len(names)):
        return
    as_class = zip(signs if fits else numbers, names, strict=True)
    raise InputError(
        f"{where}: its label -1 may be a class or mean that there is none: with {shorten(others)} there may be as many "
        f"labels as classes. Write label_names = {_table(as_class)} if it is a class, label_names = "
        f"{_table(enumerate(names))} if it is none"
    )


def refuse_flags(where: str, names: Sequence[str], files: Sequence[LabelCounts]) -> None:
    """Lists like [0, 1], which mark the right one of two classes or name both."""
    num_flags = sum(file.num_flags for file in files)
    if len(names) == 2 and num_flags and num_flags == sum(file.num_rows for file in files):
        raise InputError(
            f"{where}: each of its labels is a list of 0 and 1, which may mark the right one of two classes or name "
            "both; write the id or name of the right class"
        )


def remark_on(
    where: str,
    names: Sequence[str],
    values: Mapping[int | str, int],
    ids: Sequence[int],
    codes: Mapping[int | str, int],
) -> str | None:
    """What to know of how labels were read: `values` with how often each occurs, `ids` are those read as ids.

    `codes` are the positions in `names` of what was read.
    """
    remarks = []
    if ids and 0 not in ids:
        remarks.append(
            f"no row has the label 0 ({names[0]}); ids are taken to count from 0, so 1 is {names[1]}. If they count "
            f"from 1, write {_option(enumerate(names, 1))}"
        )
    if NO_LABEL in values and NO_LABEL not in ids and len(values) > 1:
        remarks.append(f"{values[NO_LABEL]:,} rows have the label -1, which is taken for none")
    if TRUTH.keys() & values.keys() and not TRUTH.keys() <= {name.lower() for name in names}:
        remarks += [f"{word} is taken for {names[codes[word]]}" for word in ("true", "false") if word in codes]
    return f"{where}: {'; '.join(remarks)}" if remarks else None


def _option(pairs: Iterable[tuple[int, str]]) -> str:
    """The option that gives names to ids, as it is typed in a shell."""
    listed = [f"{number}={name}" for number, name in pairs]
    more = [",..."] if len(listed) > NUM_OFFERED else []
    parts = ['"' + part.replace('"', '""') + '"' if set(',"') & set(part) else part for part in listed[:NUM_OFFERED]]
    text = ",".join(parts) + "".join(more)
    return f"--label-names{'=' if text.startswith('-') else ' '}{shlex.quote(text)}"


def _table(pairs: Iterable[tuple[object, object]]) -> str:
    """A TOML table, such as { 0 = "World", 1 = "Sports" }."""
    listed = [f"{_key(str(key))} = {json.dumps(str(name), ensure_ascii=False)}" for key, name in pairs]
    more = ", ..." if len(listed) > NUM_OFFERED else ""
    return "{ " + ", ".join(listed[:NUM_OFFERED]) + more + " }"


def _key(text: str) -> str:
    return text if re.fullmatch(r"[A-Za-z0-9_-]+", text) else json.dumps(text, ensure_ascii=False)
