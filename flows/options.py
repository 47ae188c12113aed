"""The options of the command line that are keys of the configuration, made from `RunConfig`, and what others share.

Invariant: an option is what was typed, and stands only where it was; whether it is allowed is for `load_config` to
say, which tells it as for a key of the file.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any, TypeAlias, TypedDict

from cyclopts import Group, Parameter, Token, validators

from flows.typed import count, label_names, split_list
from pipeline.config import RunConfig, load_config

LISTS: dict[str, Callable[[str], object]] = {"label_names": label_names, "columns": split_list}
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
    is_number = any(kind["type"] == "integer" for kind in kinds)
    kind = bool if default is False else list[str] if isinstance(default, list) else str
    return Annotated[kind, Parameter(metavar="N" if is_number else name.split("_")[-1].upper(), **shown)]


_SCHEMAS = RunConfig.model_json_schema()["properties"]
# Tables belong into the file.
_OPTIONS = {name: _option(name, schema) for name, schema in _SCHEMAS.items() if schema.get("type") != "object"}

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
