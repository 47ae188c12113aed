"""The classes of a run: names from the data set, the configuration and the prompts, brought together by name.

Invariant: the words of a prompt are scored for the class of their name, in whatever order file, configuration and
prompt list the classes; where two of them do not agree, nothing is scored.
"""

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace
from itertools import combinations

from pipeline.config import RunConfig
from pipeline.errors import InputError
from pipeline.prompts import AG_NEWS, BUILT_IN, KNOWN, Label, Prompt, make_prompt
from pipeline.reading.dataset import Dataset
from pipeline.reading.gold import Classes, Names, read_classes
from pipeline.reading.labels import TRUTH, compare_names, label_values, plain_name, shorten
from pipeline.wording import MAX_SIZE

MIN_STEM = 3
TABLE = 'labels = { CLASS = " words" }'


def choose_classes(config: RunConfig, dataset: Dataset) -> Classes:
    """The data set's classes: its own names, else the configuration's, else those that its prompts name.

    Reads the labels of the whole source where it does not name its classes itself. Raises InputError where names are
    missing or disagree, or a label could be read in two ways.
    """
    where = f"{dataset.name} ({dataset.split})"
    given, own = _given_names(config), dataset.names
    if own and given:
        _refuse_renaming(where, own, given)
    found = [] if own else dataset.count_labels()
    tables = _words_by_name(config)
    names = own or given or _prompt_names(config, tables)
    if names is None:
        values = dict.fromkeys(value for file in found for value in file.values)
        listed = f" (its labels are {shorten(values)})" if values else ""
        raise InputError(
            f'the data set {where} does not name its classes{listed}; add label_names = ["...", ...] to the '
            'configuration (in the order of the label ids) or label_names = "ag_news", or write the labels of its '
            'prompt as a table: labels = { NAME = " words" }'
        )
    for prompt, table in tables.items():
        if table.keys() != set(names.names):
            _refuse_other_names(prompt, table, names.names, where)
    return read_classes(found, names, where)


def _given_names(config: RunConfig) -> Names | None:
    """The names that the configuration gives to classes which have none."""
    if config.label_names is None:
        return None
    if config.label_names == "ag_news":
        return Names.in_order(AG_NEWS)
    if isinstance(config.label_names, str):
        raise InputError(
            f"label_names is one string, {config.label_names!r}; write a list of names in the order of their ids, or "
            '"ag_news"'
        )
    if isinstance(config.label_names, Mapping):
        return _by_id(config.label_names)
    return Names.in_order(_distinct(config.label_names))


def _distinct(names: Sequence[str]) -> Sequence[str]:
    names = [plain_name(name) for name in names]
    if twice := next((name for name, count in Counter(names).items() if count > 1), None):
        raise InputError(f"label_names: '{twice}' stands there twice; each class has a name of its own")
    return names


def _by_id(table: Mapping[str, str]) -> Names:
    """Names that are given with the ids that the data has. Raises InputError for what is no id."""
    ids: dict[int, str] = {}
    unnumbered = []  # classes whose label is their name already
    for key, name in table.items():
        values = label_values(key)
        number = TRUTH.get(key.lower(), values[0] if len(values) == 1 else key)
        if isinstance(number, int) and abs(number) <= MAX_SIZE and number not in ids:
            ids[number] = name
        elif not isinstance(number, int) and plain_name(key) == plain_name(name):
            unnumbered.append(name)
        else:
            raise InputError(
                f"label_names: '{key}' is not a whole number of its own between -{MAX_SIZE} and {MAX_SIZE}; write the "
                "id that the data has and the name of its class, such as 1=World"
            )
    invented = dict(enumerate(unnumbered, max(ids, default=-1) + 1))
    ids = dict(sorted((ids | invented).items()))
    return Names(tuple(_distinct([*ids.values()])), tuple(ids), is_complete=True, invented=frozenset(invented))


def _words_by_name(config: RunConfig) -> dict[str, Mapping[str, str]]:
    """Words by class name of each of the run's prompts that names its classes."""
    found: dict[str, Mapping[str, str]] = {}
    for name in dict.fromkeys(config.prompt):
        if name not in config.prompts:
            found[name] = {label.name: label.words for label in BUILT_IN[name].labels}
        elif isinstance(labels := config.prompts[name].labels, Mapping):
            found[name] = {plain_name(label): words for label, words in labels.items()}
            if len(found[name]) < len(labels):
                raise InputError(f"prompt '{name}': two of its labels look the same; each class has a name of its own")
    return found


def _prompt_names(config: RunConfig, tables: Mapping[str, Mapping[str, str]]) -> Names | None:
    """AG News's names in the order of their ids where a built-in prompt is used; else those of the first table."""
    if any(name not in config.prompts for name in config.prompt):
        return Names.in_order(AG_NEWS)
    return Names(tuple(next(iter(tables.values()))), None) if tables else None


def _refuse_renaming(where: str, own: Names, given: Names) -> None:
    """`label_names` gives names to data that has none; beside others it can only repeat them."""
    agrees = set(own.names) == set(given.names)
    if own.ids is not None:
        agrees = dict(zip(own.ids, own.names, strict=True)) == dict(zip(given.ids or (), given.names, strict=True))
    if not agrees:
        raise InputError(
            f"{where}: names its classes itself ({_listed(own)}), and label_names says {_listed(given)}; leave out "
            "label_names, which never renames"
        )


def _listed(names: Names) -> str:
    ids = names.ids or range(len(names.names))
    return shorten(f"{i} {name}" for i, name in zip(ids, names.names, strict=True))


def _refuse_other_names(prompt: str, table: Mapping[str, str], names: Sequence[str], where: str) -> None:
    if prompt in BUILT_IN and table.keys() == set(AG_NEWS):
        raise InputError(
            f"prompt '{prompt}' is for AG News's classes ({', '.join(AG_NEWS)}), and those of {where} are "
            f"{shorten(names)}; write a prompt of your own for them: [prompts.NAME] with {TABLE}"
        )
    raise InputError(
        f"prompt '{prompt}': its labels ({shorten(table)}) are not the classes of {where} ({shorten(names)}): "
        f"{compare_names(table, names)}; use the same names"
    )


# Prompts


def known_prompt(config: RunConfig, name: str) -> Prompt:
    """A prompt of the run with the labels that it lists or, where it lists none, the choices of the items."""
    table = config.prompts.get(name)
    if table is None:
        return replace(KNOWN[name], boundary=config.boundary or KNOWN[name].boundary)
    labels = table.labels or ()
    words = tuple(labels.values()) if isinstance(labels, Mapping) else labels
    prompt = make_prompt(name, table.template, words, tuple(labels), **table.surroundings)
    return replace(prompt, boundary=config.boundary or prompt.boundary)


def choose_prompts(config: RunConfig, classes: Classes) -> tuple[Prompt, ...]:
    """The run's prompts, each once, with the given classes. Raises InputError where they do not fit them."""
    tables = _words_by_name(config)
    prompts = []
    for name in dict.fromkeys(config.prompt):
        known = known_prompt(config, name)
        words = tables.get(name) or _pair(f"prompt '{name}'", tuple(config.prompts[name].labels or ()), classes)
        labels = tuple(Label(i, label, words[label]) for i, label in zip(classes.ids, classes.names, strict=True))
        prompts.append(replace(known, labels=labels))
    for a, b in combinations(prompts, 2):
        if not tables.keys() >= {a.name, b.name}:
            _refuse_disagreement(a, b)
    return tuple(prompts)


def _pair(where: str, words: Sequence[str], classes: Classes) -> Mapping[str, str]:
    """Words by class name of a prompt that lists its words: by name where they are the names, else by the ids."""
    if len(words) != len(classes.names):
        raise InputError(
            f"{where}: {len(words)} label words for {len(classes.names)} label names ({shorten(classes.names)}); "
            "give one for each, in the same order"
        )
    bare = {label.strip().casefold(): label for label in classes.names}
    by_name = {bare[text]: word for word in words if (text := word.strip().casefold()) in bare}
    if len(by_name) == len(words):
        return by_name
    parts = {label: _words_of(label) for label in classes.names}
    for label, word in zip(classes.names, words, strict=True):
        spoken = _words_of(word)
        if _speak_of(spoken, parts[label]):
            continue
        if others := [other for other, named in parts.items() if _speak_of(spoken, named)]:
            raise InputError(
                f"{where}: its words are in the order of the ids, where '{word}' is for {label} and not for "
                f"{others[0]}; write them as a table, {TABLE}"
            )
    if not classes.is_ordered:
        raise InputError(
            f"{where}: its words are a list in the order of the ids, and nothing gives the ids; write them as a table, "
            f"{TABLE}"
        )
    return dict(zip(classes.names, words, strict=True))


def _words_of(text: str) -> list[str]:
    return re.findall(r"\w+", text.casefold())


def _speak_of(spoken: Sequence[str], named: Sequence[str]) -> bool:
    """Whether label words hold a class's name, or words that begin like it: `is positive`, or `Positive` for pos."""
    return bool(named) and all(any(_is_like(word, part) for word in spoken) for part in named)


def _is_like(word: str, part: str) -> bool:
    return word == part or (len(part) >= MIN_STEM and word.startswith(part))


def _refuse_disagreement(a: Prompt, b: Prompt) -> None:
    """Words that a list pairs by order must not stand for another class in a prompt beside it."""
    seen = {label.words.strip().casefold(): label.name for label in a.labels}
    for label in b.labels:
        other = seen.get(label.words.strip().casefold(), label.name)
        if other != label.name:
            raise InputError(
                f"prompts '{a.name}' and '{b.name}': the words '{label.words}' are for {other} in the one and for "
                f"{label.name} in the other; write both as tables, {TABLE}"
            )
