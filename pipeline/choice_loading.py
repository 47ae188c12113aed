"""What is offered to a choice, as it is written: the keys of a run, some of which take one value or a list.

Invariant: what was typed is told in the words of `config`, key, place and what is allowed; each setting that is offered
passes all that a run of it would have to.
"""

from collections.abc import Mapping, Sequence
from copy import copy
from typing import Annotated, Any

from pydantic import AfterValidator, BeforeValidator, ConfigDict, Field, create_model

from pipeline.choice_config import ChoiceConfig, ChoiceRule, Shots
from pipeline.choice_settings import settings_of
from pipeline.config import (
    Name,
    RunConfig,
    check_chat,
    check_config,
    check_names,
    merge_layers,
    read_layers,
    refuse_several,
    validate,
)
from pipeline.errors import InputError
from pipeline.prompts import CLASS_RULES, KNOWN

RULES: tuple[ChoiceRule, ...] = ("sum", "mean_token", "mean_char", "mean_byte", "logit", "pmi", "contextual")
NO_TASKS = "tasks bring their own prompts and data; name a dataset, and write prompts for it"
# Keys of a run that say nothing here.
NO_KEYS = {
    "task": NO_TASKS,
    "task_path": NO_TASKS,
    "notebook_rule": "the notebook's rule is a mistake that is kept to compare with, and not offered; leave it out",
    "published": "accuracies of others stand beside those of a run; leave them out",
    "force": "what is stored is looked at as it is; labelscore run --force scores again",
    "gap": "the difference that matters is within; write within = POINTS",
}
NO_RULES = {
    "batch": "what batch predicts for an item depends on all the others, so that a part of them says nothing of it; "
    "leave it out",
    "notebook": "the notebook's rule is a mistake that is kept to compare with; leave it out",
}


MAX_ARMS = 2_000  # each two are held against each other, which takes 2.3 GB then


def _as_list(value: object) -> tuple[object, ...]:
    """A list as it is, and one value as a list of it."""
    if isinstance(value, list | tuple) and not value:
        raise ValueError("give at least one value")
    return tuple(value) if isinstance(value, list | tuple) else (value,)


def _refuse_twice(values: tuple[object, ...]) -> tuple[object, ...]:
    seen: set[tuple[type, object]] = set()
    for value in values:
        if (type(value), value) in seen:  # true and 1 are two
            raise ValueError(f"{value!r} stands there twice; each can be offered once")
        seen.add((type(value), value))
    return values


def _read_chats(value: object) -> tuple[object, ...]:
    """Whether there is a chat template, from words, too: one for both."""
    words = {"no": False, "yes": True}
    values = (False, True) if value in ("both", ["both"]) else _as_list(value)
    read = tuple(words.get(each, each) if isinstance(each, str) else each for each in values)
    if not all(isinstance(each, bool) for each in read):
        raise ValueError('write true, false or "both"; on the command line yes, no or both')
    return read


def _refuse_rule(value: object) -> object:
    if isinstance(value, str) and value in NO_RULES:
        raise ValueError(NO_RULES[value])
    return value


def _several(kind: Any, read: Any = _as_list) -> Any:
    """The type of a key that takes one value or a list, each value once."""
    return Annotated[tuple[kind, ...], BeforeValidator(read), AfterValidator(_refuse_twice)]


def _of_run(name: str) -> str:
    return str(RunConfig.model_fields[name].description)


_OWN = {name: (field.annotation, field) for name, field in ChoiceConfig.model_fields.items()}
_AXES: dict[str, tuple[Any, Any]] = {
    "model": (_several(Name), Field(("demo",), description=f"{_of_run('model')}; repeatable")),
    "prompt": (
        _several(Name) | None,
        Field(
            None,
            description="name of a prompt ('labelscore prompts' lists them); repeatable; the default is all that the "
            "file has, else answer",
        ),
    ),
    "num_shots": (
        _several(Shots),
        Field((0,), description="solved examples before each item, the same ones for all; repeatable"),
    ),
    "chat_template": (
        _several(bool, _read_chats),
        Field(
            (False,), description="wrap the prompt in the tokenizer's chat template; both offers it with and without"
        ),
    ),
    "chat": (
        dict[Name, _several(Annotated[Any, BeforeValidator(refuse_several)])],  # type: ignore[misc]
        Field({}, description=f"{_of_run('chat')}, and with several values of one all are offered"),
    ),
    "rule": (
        _several(Annotated[ChoiceRule, BeforeValidator(_refuse_rule)]) | None,
        Field(None, description="scoring rule that is offered; repeatable; the default is all that fit the prompts"),
    ),
}
_SAID = {  # of keys that mean a little less here, or more
    "limit": "choose on the first N rows only",
    "seed": "seed of the order of the items and of the draw of solved examples; the default is 0",
    "out": "output folder or s3:// URL; the default is data/runs/DATASET-MODEL, and with several models -choice",
}


def _as_in_run(name: str) -> tuple[Any, Any]:
    field = copy(RunConfig.model_fields[name])
    field.description = _SAID.get(name, field.description)
    return field.annotation, field


_KEYS: dict[str, Any] = {
    **{name: _OWN[name] for name in ("within", "budget", "these_alone")},
    **{name: _AXES.get(name) or _as_in_run(name) for name in RunConfig.model_fields if name not in NO_KEYS},
    "words": _OWN["words"],
}
ChoiceKeys = create_model("ChoiceKeys", __config__=ConfigDict(frozen=True, extra="forbid"), **_KEYS)


def load_choice_config(file: str | None, preset: str | None, options: Mapping[str, Any]) -> ChoiceConfig:
    """What is offered by a TOML file, a preset's name and the options that were given, later ones winning.

    Raises InputError for what `load_config` raises it for, what says nothing here, and where nothing is left to choose.
    """
    layers = read_layers(file, preset, options)
    of_preset = layers[f"preset {preset}"]
    layers[f"preset {preset}"] = {name: value for name, value in of_preset.items() if name not in NO_KEYS}
    for place, values in layers.items():
        if unused := [key for key in values if key in NO_KEYS]:
            raise InputError(f"{unused[0]} (in {place}) has no use in a choice: {NO_KEYS[unused[0]]}")
    merged, places = merge_layers(ChoiceKeys, layers)
    config = _to_config(validate(ChoiceKeys, merged, str(file or "the command line")).model_dump())
    _check(config, places)
    return config


def _to_config(keys: dict[str, Any]) -> ChoiceConfig:
    """The axes taken apart from the rest."""
    prompts = keys["prompt"] or tuple(keys["prompts"]) or ("answer",)
    check_names(prompts, keys["prompts"])
    rules = _fitting_rules(keys["rule"], prompts, keys["prompts"])
    axes = {
        "models": keys["model"],
        "num_shots": keys["num_shots"],
        "chat_template": keys["chat_template"],
        "chat": keys["chat"],
        "rules": rules,
        **{name: keys.pop(name) for name in ("within", "budget", "these_alone", "words")},
    }
    most: dict[str, Any] = {
        "model": keys["model"][0],
        "num_shots": max(keys["num_shots"]) or None,
        "chat_template": max(keys["chat_template"]),
        "chat": {},
        "rule": rules[0],
        "prompt": prompts,
    }
    return ChoiceConfig.model_validate({**axes, "run": RunConfig.model_validate({**keys, **most})})


def _fitting_rules(
    given: tuple[ChoiceRule, ...] | None, prompts: Sequence[str], tables: Mapping[str, Mapping[str, Any]]
) -> tuple[ChoiceRule, ...]:
    """The rules that are offered: those given, else all that fit. Where items bring their own choices some do not."""
    if not any(_has_choices(name, tables) for name in prompts):
        return given or RULES
    fitting = tuple(rule for rule in RULES if rule not in CLASS_RULES)
    if wrong := [rule for rule in given or () if rule not in fitting]:
        raise InputError(
            f"rule '{wrong[0]}' needs the same labels for all items, and here each item brings its own choices; use "
            f"{', '.join(fitting)}"
        )
    return given or fitting


def _has_choices(name: str, tables: Mapping[str, Mapping[str, Any]]) -> bool:
    return tables[name]["choices"] is not None if name in tables else KNOWN[name].has_choices


# What does not go together


def _check(config: ChoiceConfig, places: Mapping[str, str]) -> None:
    """Raises InputError for what does not go together or cannot be meant."""
    if config.run.revision is not None and len(config.models) > 1:
        raise InputError(
            f"revision (in {places['revision']}) is that of one model, and {len(config.models)} are offered; leave it "
            "out, or name one model"
        )
    check_chat(config.run.model_copy(update={"chat": config.chat}), places)
    settings = settings_of(config)
    for setting in settings:
        check_config(setting.config, places)
    num_offers = sum(len(setting.offers) for setting in settings)
    if num_offers * len(config.rules) < 2:
        raise InputError(
            f"one prompt under one rule ({settings[0].offers[0].name}, {config.rules[0]}) leaves nothing to choose; "
            'offer more: prompt = ["A", "B"], or words, or several values of rule, num_shots, chat_template or model'
        )
    if (num_arms := num_offers * len(config.rules)) > MAX_ARMS:
        raise InputError(
            f"{num_offers:,} candidates under {len(config.rules)} rules are {num_arms:,} arms, and each two are held "
            f"against each other; at most {MAX_ARMS:,} can be offered: leave out prompts, words, shots or rules"
        )
    _check_budget(config, num_offers)


def _check_budget(config: ChoiceConfig, num_offers: int) -> None:
    """The race looks at a batch of items under all candidates before it can decide anything."""
    from pipeline.choosing.race import BATCH  # numpy, which help does not wait for
    from pipeline.reporting.rules import CONTENT_FREE_TEXTS

    table = config.run.prompts.get(config.run.prompt[0])
    has_choices = KNOWN[config.run.prompt[0]].has_choices if table is None else table.choices is not None
    num_items = min(BATCH, config.run.limit or BATCH)
    least = num_offers * (num_items + (0 if has_choices else len(CONTENT_FREE_TEXTS)))
    if config.budget is not None and config.budget < least:
        raise InputError(
            f"budget = {config.budget} ends before the first look, at {num_items} items under each of {num_offers} "
            f"candidates{'' if has_choices else f' and {len(CONTENT_FREE_TEXTS)} content-free texts'}; give it {least} "
            "or more, or offer fewer"
        )
