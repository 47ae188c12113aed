"""The runs that a choice is made among: which candidates share a model, its prompts' surroundings and a batch.

Invariant: the configuration of a setting is that of a run, which would score its candidates under the same
fingerprints; a candidate's name is its own over all settings.
"""

from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import product
from typing import Any

import tomli_w

from pipeline.choice_config import ChoiceConfig, Value
from pipeline.config import PromptTable, Rule, RunConfig
from pipeline.errors import InputError
from pipeline.prompts import KNOWN, Prompt


@dataclass(frozen=True, slots=True)
class Offer:
    """A candidate: its `name`, the template's (`prompt`), that of its list of label words (None: the prompt's own).

    key: what its setting's configuration calls it.
    """

    name: str
    prompt: str
    words: str | None
    key: str


@dataclass(frozen=True, slots=True)
class Setting:
    """All candidates of one model, one number of solved examples, and one way of writing the chat, if any."""

    config: RunConfig
    model: str
    num_shots: int
    chat: bool
    variables: dict[str, Value]
    offers: tuple[Offer, ...]


@dataclass(frozen=True, slots=True)
class _Prompt:
    """A template with its own words or a list of others, as it would be written in a file."""

    key: str
    prompt: str
    words: str | None
    table: PromptTable
    is_built_in: bool = False  # as it is, which a run need not be told


def settings_of(config: ChoiceConfig) -> tuple[Setting, ...]:
    """Every prompt with its words and each list of words, under all models, shots and chats; model after model.

    Raises InputError where two of them are the same or could not be told apart, or a prompt can have no list of words.
    """
    prompts = _choose_prompts(config)
    settings = tuple(
        _make_setting(config, prompts, model, num_shots, chat, variables)
        for model in config.models
        for chat in config.chat_template
        for variables in (_combine(config.chat) if chat else [{}])
        for num_shots in config.num_shots
    )
    _refuse_same((offer.name for setting in settings for offer in setting.offers), "candidates")
    return settings


def _choose_prompts(config: ChoiceConfig) -> list[_Prompt]:
    """Each prompt with its own words and each list of words, every combination once.

    Two templates may be the same but for their words, so that a list makes the same prompt of both.
    """
    found: list[_Prompt] = []
    for each in (each for name in config.run.prompt for each in _with_words(config, name)):
        twin = next((other for other in found if _is_same(other.table, each.table)), None)
        if twin is None:
            found.append(each)
        elif each.words is None or (each.prompt == twin.prompt and twin.words is not None):
            raise InputError(f"prompts '{twin.key}' and '{each.key}' are the same; leave one of them out")
    _refuse_same((each.key for each in found), "prompts")
    return found


def _with_words(config: ChoiceConfig, name: str) -> Iterator[_Prompt]:
    """A prompt with its own words, if it has any, and with each list of words."""
    own = config.run.prompts.get(name)
    table = own or _as_table(KNOWN[name])
    if table.choices is not None and config.words:
        raise InputError(
            f"prompt '{name}' takes its choices from the items, and words.{next(iter(config.words))} lists label words "
            "for all of them; leave one of them out"
        )
    if table.choices is None and table.labels is None and not config.words:
        raise InputError(
            f"prompt '{name}': has neither labels nor choices, and there are no words to offer with it; add labels = "
            '{ CLASS = " words" }, or lists of words: [words.NAME] with CLASS = " words"'
        )
    if table.choices is not None or table.labels is not None:
        yield _Prompt(name, name, None, table, is_built_in=own is None)
    for called, words in config.words.items():
        yield _Prompt(f"{name}/{called}", name, called, table.model_copy(update={"labels": words}))


def _as_table(known: Prompt) -> PromptTable:
    """A built-in prompt as it would be written in a file."""
    labels = {label.name: label.words for label in known.labels} or None
    values = {name: getattr(known, name) for name in ("template", "boundary", "choices", "choice", "strip", "cut")}
    return PromptTable.model_validate({**values, "labels": labels})


def _is_same(a: PromptTable, b: PromptTable) -> bool:
    """Whether two prompts are the same, as far as it can be told before the classes are known."""
    words = [a.labels, b.labels]
    if not all(isinstance(each, Mapping) for each in words):
        words = [tuple(each.values()) if isinstance(each, Mapping) else each for each in words]
    return words[0] == words[1] and (a.template, a.surroundings) == (b.template, b.surroundings)


def _combine(chat: Mapping[str, tuple[Value, ...]]) -> list[dict[str, Value]]:
    """Each combination of the values of a chat template's variables; the one of none where there are none."""
    return [dict(zip(chat, values, strict=True)) for values in product(*chat.values())]


def _make_setting(
    config: ChoiceConfig,
    prompts: list[_Prompt],
    model: str,
    num_shots: int,
    chat: bool,
    variables: dict[str, Value],
) -> Setting:
    changes: dict[str, Any] = {
        "model": model,
        "num_shots": num_shots or None,
        "chat_template": chat,
        "chat": variables,
        "shots_as_turns": config.run.shots_as_turns and chat and num_shots > 0,
        "prompt": tuple(each.key for each in prompts),
        "prompts": {each.key: each.table for each in prompts if not each.is_built_in},
        "out": config.output,
    }
    if not chat:
        changes |= {"chat_date": None, "chat_answer": None}
    suffix = _suffix(config, model, num_shots, chat, variables)
    offers = tuple(Offer(each.key + suffix, each.prompt, each.words, each.key) for each in prompts)
    return Setting(config.run.model_copy(update=changes), model, num_shots, chat, variables, offers)


def _suffix(config: ChoiceConfig, model: str, num_shots: int, chat: bool, variables: Mapping[str, Value]) -> str:
    """What tells a setting from the others, behind the name of a prompt."""
    parts = [f"{num_shots} shot{'s' if num_shots != 1 else ''}"] if len(config.num_shots) > 1 else []
    if len(config.chat_template) > 1:
        parts.append("chat" if chat else "no chat")
    parts += [f"{name}={_spell(value)}" for name, value in variables.items() if len(config.chat[name]) > 1]
    if len(config.models) > 1:
        parts.append(_short_names(config.models)[model])
    return "".join(f", {part}" for part in parts)


def _short_names(models: tuple[str, ...]) -> dict[str, str]:
    """The last part of each model's name; the whole name of those that share it."""
    last = {model: model.rstrip("/").split("/")[-1] or model for model in models}
    shared = Counter(last.values())
    return {model: name if shared[name] == 1 else model for model, name in last.items()}


def _spell(value: Value) -> str:
    """A value as on the command line, where a text that reads as another kind stands in double quotes."""
    if isinstance(value, bool):
        return str(value).lower()
    if not isinstance(value, str):
        return str(value)
    return f'"{value}"' if value in ("true", "false") or value[:1] in "+-.0123456789" else value


def _refuse_same(names: Iterator[str], what: str) -> None:
    """Raises InputError for a name that two of them have."""
    if twice := next((name for name, count in Counter(names).items() if count > 1), None):
        raise InputError(f"two of the {what} offered would be called '{twice}'; give one of them another name")


def winner_toml(setting: Setting, key: str, out: str, rule: Rule = "sum") -> str:
    """The configuration of a run that scores everything with one candidate of a setting, and leads with a rule: TOML.

    Paths are as they were given: they hold from the folder where they did.
    """
    config = setting.config.model_copy(update={"prompt": (key,), "out": out, "rule": rule}).used
    return tomli_w.dumps(config.model_dump(exclude_defaults=True, exclude_none=True))
