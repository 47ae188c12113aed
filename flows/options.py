"""The options of the command line: those that are keys of a configuration, made from `RunConfig` and `ChoiceKeys`, and
how lists, counts and words are read as a person means them who types them.

Invariant: an option stands only where it was typed, and words keep their blanks; whether a key may have its value is
for `load_config` and `load_choice_config` to say, which tell it as for a key of the file.
"""

import re
import tomllib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any, TypeAlias, TypedDict

from cyclopts import Group, Parameter, Token, validators

from pipeline.choice_config import ChoiceConfig
from pipeline.choice_loading import NO_KEYS, ChoiceKeys, load_choice_config
from pipeline.config import RunConfig, load_config
from pipeline.errors import InputError
from pipeline.wording import show

# The csv module keeps the blanks after every comma or drops them all; here they belong to words, and not before quotes.
_PART = re.compile(r'\s*"((?:[^"]|"")*)"\s*,|([^",]*),')
_WRAPPED = re.compile(r"\s*(?:\[[^][]*,[^][]*\]|\([^()]*,[^()]*\)|'[^']*,[^']*')\s*")


def with_line_breaks(text: str) -> str:
    """Text as a person means it who types \\n or \\t in a shell, where they are a backslash and a letter."""
    return text.replace(r"\r\n", "\r\n").replace(r"\n", "\n").replace(r"\t", "\t")


def count(text: str) -> int:
    """A whole number of 1 or more; cyclopts itself would take 1.5 for 2. Raises ValueError for anything else."""
    if not text.isdecimal() or int(text) < 1:
        raise ValueError(f"'{text}' is not a whole number of 1 or more")
    return int(text)


def points(text: str) -> float:
    """A difference in points of accuracy, from 0.01 to under 100. Raises ValueError for anything else."""
    try:
        value = float(text)
    except ValueError:
        value = 0.0
    if not 0.01 <= value < 100:
        raise ValueError(f"'{text}' is not a number of points from 0.01 to under 100")
    return value


def pair(option: str, text: str) -> tuple[str, str]:
    """What stands before and behind the first equals sign. Raises InputError where there is none."""
    name, sign, value = text.partition("=")
    if not sign or not name.strip():
        what, example = PAIRS[option.removeprefix("--")]
        raise InputError(f"{option} {show(text)}: write a {what} and a value, such as {option} {example}")
    return name.strip(), value.strip()


def variable(text: str) -> str | bool | int | float:
    """A value of a chat template as in the file: true, false, a number, or else a text, also in double quotes."""
    try:
        value = tomllib.loads(f"value = {text}")["value"]
    except tomllib.TOMLDecodeError:
        return text
    is_word = not isinstance(value, str | bool | int | float) or re.search("[a-z]", text) is not None
    return text if is_word and not isinstance(value, str | bool) else value


def split_list(text: str) -> tuple[str, ...]:
    """The parts between commas, without the blanks around them. Raises as `_split_commas` does."""
    return tuple(part.strip() for part in _split_commas(text))


def label_names(text: str) -> tuple[str, ...] | dict[str, str] | str:
    """Names in the order of their ids, or by id where each part says one: 1=World,2=Sports.

    Raises InputError where only some say one, or two the same.
    """
    parts = split_list(text)
    pairs = [re.fullmatch(r"([^=]*?)\s*=\s*(.*)", part, re.DOTALL) for part in parts]
    by_id = {pair[1]: pair[2] for pair in pairs if pair}
    if not any(re.fullmatch(r"[+-]?[0-9]+|true|false", key) for key in by_id):  # names may hold an equals sign
        return text if text == "ag_news" else parts
    if len(by_id) < len(parts):
        raise InputError(f"--label-names {show(text)}: give each class an id of its own, as in 1=World,2=Sports")
    return by_id


def label_words(text: str) -> tuple[str, ...] | str:
    """Label words as typed, each with its blank. Raises InputError where some have one and some do not."""
    if text.strip() == "ag_news":
        return "ag_news"
    words = tuple(with_line_breaks(part) for part in _split_commas(text))
    bare = [each.strip() for each in words]
    if all(bare) and len({each[0].isspace() for each in words}) > 1:
        with_blanks, without = (_join_commas([before + each for each in bare]) for before in (" ", ""))
        raise InputError(
            f"some of the label words {show(text)} begin with a blank and some do not, and they are scored as written; "
            f"write {show(with_blanks, 200)} or {show(without, 200)}"
        )
    return words


def _split_commas(text: str) -> tuple[str, ...]:
    """The parts between commas, with their blanks; a part in double quotes may hold commas and doubled quotes.

    Raises InputError where a quote is not closed, or all of it stands in brackets or single quotes.
    """
    if _WRAPPED.fullmatch(text):
        raise InputError(f"{show(text)} stands in brackets or single quotes; write the parts alone: a,b,c")
    found = list(_PART.finditer(f"{text},"))
    if "".join(match[0] for match in found) != f"{text},":
        raise InputError(
            f"cannot read {show(text)}: a double quote is not closed or stands amid a part; write a part that holds "
            'commas in double quotes, and a double quote inside them twice: "yes, of course",no'
        )
    return tuple(match[2] if match[1] is None else match[1].replace('""', '"') for match in found)


def _join_commas(parts: Sequence[str]) -> str:
    quoted = ('"' + part.replace('"', '""') + '"' for part in parts)
    return ",".join(in_quotes if set(',"') & set(part) else part for part, in_quotes in zip(parts, quoted, strict=True))


LISTS: dict[str, Callable[[str], object]] = {"label_names": label_names, "columns": split_list}
# Tables that may be typed, a pair at a time: what comes before the equals sign, and an example.
PAIRS = {"where": ("column", "subject=anatomy"), "chat": ("variable", "enable_thinking=false")}
PRESET = Annotated[str, Parameter(metavar="NAME", help="start from a bundled configuration: gemma, notebook")]


def read_by(read: Callable[[str], object], **shown: Any) -> Parameter:
    """A parameter that is made of its text by a function, which may raise InputError or ValueError."""

    def convert(_: Any, tokens: Sequence[Token]) -> object:
        return read(tokens[-1].value)

    return Parameter(converter=convert, **shown)


def _option(name: str, schema: dict[str, Any]) -> Any:
    """The type of an option as cyclopts reads it, from the JSON schema of its key."""
    kinds, default = schema.get("anyOf", [schema]), schema["default"]
    is_list = any(kind["type"] == "array" for kind in kinds)
    kinds = [kind.get("items", kind) for kind in kinds]
    choices = ", ".join(choice for kind in kinds for choice in kind.get("enum", ()))
    shown_default = False if default is None or default is False else str(default)
    shown = {
        "name": f"--{name.replace('_', '-')}",
        "help": schema["description"] + (f" ({choices})" if choices else ""),
        "show_default": ", ".join(map(_word, default)) if isinstance(default, list) else shown_default,
    }
    if name in LISTS:
        return Annotated[Any, read_by(LISTS[name], metavar="A,B,...", **shown)]
    if name in PAIRS:
        return Annotated[
            list[str], Parameter(**{**shown, "metavar": f"{PAIRS[name][0].upper()}=VALUE", "show_default": False})
        ]
    kind = bool if default is False else list[str] if is_list else str
    return Annotated[kind, Parameter(metavar=_metavar(name, kinds), **shown)]


def _metavar(name: str, kinds: Sequence[dict[str, Any]]) -> str:
    """What stands in help for the value of an option."""
    types = {kind["type"] for kind in kinds}
    by_type = {"integer": "N", "number": "POINTS", "boolean": "no|yes|both"}
    return next((by_type[each] for each in by_type if each in types), name.split("_")[-1].upper())


def _word(value: object) -> str:
    return "no" if value is False else str(value)


def _hidden(option: Any) -> Any:
    """An option that is read and not shown, so that the configuration can say why it has no use."""
    kind, parameter = option.__origin__, option.__metadata__[0]
    return Annotated[kind, parameter, Parameter(show=False)]


_SCHEMAS = RunConfig.model_json_schema()["properties"]
_CHOICE_SCHEMAS = ChoiceKeys.model_json_schema()["properties"]


def _options(schemas: dict[str, dict[str, Any]]) -> dict[str, Any]:
    """An option for each key but tables, which belong into the file."""
    wanted = {name: each for name, each in schemas.items() if each.get("type") != "object" or name in PAIRS}
    return {name: _option(name, schema) for name, schema in wanted.items()}


_OPTIONS = _options(_SCHEMAS)
_CHOICE_OPTIONS = _options(_CHOICE_SCHEMAS) | {
    name: _hidden(option) for name, option in _OPTIONS.items() if name in NO_KEYS
}

# Those that take no value; the others are flags of single commands.
FLAGS = {
    f"--{name.replace('_', '-')}"
    for name, schema in (_CHOICE_SCHEMAS | _SCHEMAS).items()
    if schema.get("type") == "boolean"
}

if TYPE_CHECKING:
    Options: TypeAlias = dict[str, Any]
    ChoiceOptions: TypeAlias = dict[str, Any]
    ModelOptions: TypeAlias = dict[str, Any]
else:
    Options = TypedDict("Options", {"preset": PRESET, **_OPTIONS}, total=False)
    ChoiceOptions = TypedDict("ChoiceOptions", {"preset": PRESET, **_CHOICE_OPTIONS}, total=False)
    ModelOptions = TypedDict(
        "ModelOptions", {name: _OPTIONS[name] for name in ("model", "revision", "device", "dtype")}, total=False
    )


def configure(file: str | None, options: Options | None) -> RunConfig:
    """The configuration of a file, of the preset among the options, and of the options. Raises as `load_config`."""
    keys = dict(options or {})
    for name in PAIRS.keys() & keys.keys():
        keys[name] = _one_each(name, keys[name])
    return load_config(file, keys.pop("preset", None), keys)


def configure_choice(file: str | None, options: ChoiceOptions | None) -> ChoiceConfig:
    """What a file, the preset among the options, and the options offer. Raises as `load_choice_config`."""
    keys = dict(options or {})
    if "where" in keys:
        keys["where"] = _one_each("where", keys["where"])
    if "chat" in keys:
        keys["chat"] = _by_key("chat", keys["chat"])
    return load_choice_config(file, keys.pop("preset", None), keys)


def _one_each(name: str, typed: Sequence[str]) -> dict[str, object]:
    """Pairs as a table. Raises InputError for a second value of one key."""
    values = _by_key(name, typed)
    if len(values) < len(typed):
        raise InputError(f"--{name}: a {PAIRS[name][0]} stands there twice; each can have one value")
    return {key: value for key, (value,) in values.items()}


def _by_key(name: str, typed: Sequence[str]) -> dict[str, list[object]]:
    """The values of each key, as typed in pairs."""
    values: dict[str, list[object]] = {}
    for key, value in (pair(f"--{name}", each) for each in typed):
        values.setdefault(key, []).append(variable(value) if name == "chat" else value)
    return values


_WHEN = Group("when to run", validator=validators.mutually_exclusive)


@dataclass(frozen=True, slots=True)
class Schedule:
    """How a deployment is called and when it runs: by `cron` (UTC), every `interval` seconds, or when told to."""

    name: Annotated[str | None, Parameter(help="name of the deployment; the default is the output's")] = None
    cron: Annotated[
        str | None, Parameter(group=_WHEN, metavar="'M H D M W'", help="in UTC: '0 6 * * *' is daily at six")
    ] = None
    interval: Annotated[int | None, read_by(count, group=_WHEN, metavar="SECONDS", help="every so many")] = None
