"""The options of the command line: those that are keys of the configuration, made from `RunConfig`, and how lists,
counts and words are read as a person means them who types them.

Invariant: an option stands only where it was typed, and words keep their blanks; whether a key may have its value is
for `load_config` to say, which tells it as for a key of the file.
"""

import re
import tomllib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any, TypeAlias, TypedDict

from cyclopts import Group, Parameter, Token, validators

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
    choices = ", ".join(choice for kind in kinds for choice in kind.get("enum", ()))
    shown_default = False if default is None or default is False else str(default)
    shown = {
        "name": f"--{name.replace('_', '-')}",
        "help": schema["description"] + (f" ({choices})" if choices else ""),
        "show_default": ", ".join(default) if isinstance(default, list) else shown_default,
    }
    if name in LISTS:
        return Annotated[Any, read_by(LISTS[name], metavar="A,B,...", **shown)]
    if name in PAIRS:
        return Annotated[
            list[str], Parameter(**{**shown, "metavar": f"{PAIRS[name][0].upper()}=VALUE", "show_default": False})
        ]
    is_number = any(kind["type"] == "integer" for kind in kinds)
    kind = bool if default is False else list[str] if isinstance(default, list) else str
    return Annotated[kind, Parameter(metavar="N" if is_number else name.split("_")[-1].upper(), **shown)]


_SCHEMAS = RunConfig.model_json_schema()["properties"]
# Tables belong into the file.
_OPTIONS = {
    name: _option(name, schema) for name, schema in _SCHEMAS.items() if schema.get("type") != "object" or name in PAIRS
}

# Those that take no value; the others are flags of single commands.
FLAGS = {f"--{name.replace('_', '-')}" for name, schema in _SCHEMAS.items() if schema.get("type") == "boolean"}

if TYPE_CHECKING:
    Options: TypeAlias = dict[str, Any]
    ModelOptions: TypeAlias = dict[str, Any]
else:
    Options = TypedDict("Options", {"preset": PRESET, **_OPTIONS}, total=False)
    ModelOptions = TypedDict(
        "ModelOptions", {name: _OPTIONS[name] for name in ("model", "revision", "device", "dtype")}, total=False
    )


def configure(file: str | None, options: Options | None) -> RunConfig:
    """The configuration of a file, of the preset among the options, and of the options. Raises as `load_config`."""
    keys = dict(options or {})
    for name in PAIRS.keys() & keys.keys():
        pairs = [pair(f"--{name}", each) for each in keys[name]]
        keys[name] = {key: variable(value) if name == "chat" else value for key, value in pairs}
        if len(keys[name]) < len(pairs):
            raise InputError(f"--{name}: a {PAIRS[name][0]} stands there twice; each can have one value")
    return load_config(file, keys.pop("preset", None), keys)


_WHEN = Group("when to run", validator=validators.mutually_exclusive)


@dataclass(frozen=True, slots=True)
class Schedule:
    """How a deployment is called and when it runs: by `cron` (UTC), every `interval` seconds, or when told to."""

    name: Annotated[str | None, Parameter(help="name of the deployment; the default is the output's")] = None
    cron: Annotated[
        str | None, Parameter(group=_WHEN, metavar="'M H D M W'", help="in UTC: '0 6 * * *' is daily at six")
    ] = None
    interval: Annotated[int | None, read_by(count, group=_WHEN, metavar="SECONDS", help="every so many")] = None
