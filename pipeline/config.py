"""The configuration of a run: defaults, then a preset, then a TOML file, then the command line.

Invariant: a `RunConfig` holds only known keys with allowed values; whatever else was typed is an InputError that
names the key, the place it came from and what is allowed.
"""

import tomllib
from collections.abc import Mapping
from difflib import get_close_matches
from pathlib import Path
from typing import Annotated, Any, Literal, get_args

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError

from pipeline.errors import InputError
from pipeline.prompts import AG_NEWS, BUILT_IN, Boundary, Prompt, make_prompt

PRESETS = Path(__file__).with_name("presets")
Rule = Literal["sum", "mean_token", "mean_byte", "logit", "notebook", "pmi", "contextual", "batch"]
RULES: tuple[str, ...] = get_args(Rule)


def _refuse_truth(value: object) -> object:
    if isinstance(value, bool):  # Python's True is an int; in a TOML file it is a mistake
        raise ValueError("input should be a number")
    return value


_NO_TRUTH = BeforeValidator(_refuse_truth)  # after the limits: in the JSON schema, which Prefect checks, they get lost
Number = Annotated[int, _NO_TRUTH]
Count = Annotated[int, Field(ge=1, le=2**31 - 1), _NO_TRUTH]
Name = Annotated[str, Field(min_length=1)]


class PromptTable(BaseModel):
    """A prompt of the user's own: `[prompts.NAME]` in the TOML file."""

    model_config = ConfigDict(frozen=True, extra="forbid")
    template: str = Field(description="text with {text} in it, exactly once")
    labels: tuple[str, ...] | dict[str, str] = Field(
        description="the words of each label in the order of their ids, or a table of class name = words"
    )
    boundary: Boundary = Field("joint", description="how the label words join the prompt")


class RunConfig(BaseModel):
    """What to score, with what, and where to put it. Each field is an option of `labelscore run` and a TOML key."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    dataset: Name = Field(
        "sample",
        description="hub id (fancyzhx/ag_news), or a local .parquet, .jsonl or .csv file or a folder of them; "
        "'sample' is the bundled one",
    )
    subset: Name | None = Field(None, description="the data set's configuration on the hub, where it has several")
    split: Name = Field("test", description="split, or a slice of it: test, train, test[:50]")
    dataset_revision: Name | None = Field(None, description="commit, tag or branch of a data set on the hub")
    text_column: Name = Field("text", description="column that holds the article")
    label_column: Name = Field("label", description="column that holds the gold label, an id or a name")
    label_names: tuple[Name, ...] | Literal["ag_news"] | None = Field(
        None, description="class names in the order of their ids, or ag_news; the default is the data set's own"
    )
    limit: Count | None = Field(None, description="score the first N rows only")
    on_bad_row: Literal["fail", "skip"] = Field(
        "fail", description="a row without text or with an unknown label: stop, or put it into rejected.parquet"
    )
    model: Name = Field(
        "demo", description="hub id (google/gemma-2b) or a directory with safetensors; 'demo' is the bundled one"
    )
    revision: Name | None = Field(None, description="commit, tag or branch of a model on the hub")
    trust_remote_code: bool = Field(False, description="let the model's repository run its own Python code")
    prompt: tuple[Name, ...] = Field(
        ("answer",), min_length=1, description="name of a prompt ('labelscore prompts' lists them); repeatable"
    )
    prompts: dict[Name, PromptTable] = Field({}, description="prompts of your own, as tables in the TOML file")
    boundary: Boundary | None = Field(None, description="how label words join the prompt, for all prompts of the run")
    chat_template: bool = Field(False, description="wrap the prompt in the tokenizer's chat template")
    num_shots: Annotated[int, Field(ge=0, le=1024), _NO_TRUTH] = Field(
        0, description="solved examples before each article: the same ones for all, balanced over the classes"
    )
    shots_split: Name = Field("train", description="split (or local file) that the solved examples are drawn from")
    seed: Number = Field(0, description="seed of the draw of solved examples")
    max_text_tokens: Count | None = Field(None, description="cut articles after N tokens; the default is the context")
    rule: Rule = Field("sum", description="scoring rule that leads the report")
    notebook_rule: bool = Field(False, description="also keep the notebook's mistaken score, to compare with")
    device: Literal["auto", "cpu", "cuda"] = Field("auto", description="where the model runs")
    dtype: Literal["auto", "float32", "bfloat16"] = Field(
        "auto", description="the model's number format; auto is bfloat16 on a GPU and float32 on a CPU"
    )
    batch_tokens: Count | None = Field(None, description="tokens in one forward pass; halved when memory runs out")
    shard_size: Count | None = Field(None, description="articles in one task; auto is 2000 on a CPU, 8000 on a GPU")
    workers: Annotated[int, Field(ge=1, le=4096), _NO_TRUTH] = Field(
        1, description="processes that score, each with the model loaded (more than one needs the extra 'ray')"
    )
    out: Name | None = Field(
        None, description="output folder or s3:// URL; the default is data/runs/<data set>-<model>"
    )
    force: bool = Field(False, description="score again what is already stored")
    published: dict[Name, Annotated[float, Field(ge=0, le=1), _NO_TRUTH]] = Field(
        {}, description="accuracies (0 to 1) to show beside those measured, by prompt"
    )

    @property
    def output(self) -> str:
        """The output folder or URL."""
        if self.out is not None:
            return self.out
        dataset = self.dataset.rstrip("/").split("/")[-1].split(".")[0]
        return f"data/runs/{dataset}-{self.model.rstrip('/').split('/')[-1]}"


def load_config(file: str | None, preset: str | None, options: Mapping[str, Any]) -> RunConfig:
    """The configuration of a run from a TOML file, a preset's name and the options that were given, later ones winning.

    Raises InputError for an unreadable file, an unknown key or preset, or a value that is not allowed.
    """
    merged: dict[str, Any] = {}
    for place, values in (
        (f"preset {preset}", _preset(preset) if preset else {}),
        (str(file), _toml(Path(file), str(file)) if file else {}),
        ("the command line", dict(options)),
    ):
        # Each layer is checked by itself first, so that the message names the right place.
        _validate(values, place)
        merged.update(values)
    config = _validate(merged, str(file or "the command line"))
    _check_prompts(config)
    if config.rule == "notebook" and not config.notebook_rule:
        raise InputError("rule 'notebook' needs scores that are only kept with notebook_rule; add --notebook-rule")
    return config


def _check_prompts(config: RunConfig) -> None:
    """Find mistakes in prompts before a data set or model is touched; their classes are checked once known."""
    for name, table in config.prompts.items():
        words = tuple(table.labels.values()) if isinstance(table.labels, dict) else table.labels
        make_prompt(name, table.template, words, tuple(table.labels), table.boundary)
    for name in (*config.prompt, *config.published):
        if name not in config.prompts and name not in BUILT_IN:
            known = [*config.prompts, *BUILT_IN]
            close = get_close_matches(name, known, n=1)
            hint = f"did you mean '{close[0]}'? " if close else ""
            raise InputError(f"unknown prompt '{name}'; {hint}known are {', '.join(known)}")


def _preset(name: str) -> dict[str, Any]:
    names = sorted(path.stem for path in PRESETS.glob("*.toml"))
    if name not in names:
        raise InputError(f"unknown preset '{name}'; known are {', '.join(names)}")
    return _toml(PRESETS / f"{name}.toml", f"preset {name}")


def _toml(path: Path, place: str) -> dict[str, Any]:
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise InputError(f"cannot read the configuration {place}: {error.strerror}; check the path") from None
    except UnicodeDecodeError:
        raise InputError(f"the configuration {place} is not UTF-8 text; save it as UTF-8") from None
    except (tomllib.TOMLDecodeError, RecursionError) as error:
        raise InputError(f"{place} is not valid TOML: {error}") from None
    except ValueError as error:  # such as an integer literal of thousands of digits
        raise InputError(f"{place} is not valid TOML: {error}") from None


def _validate(values: Mapping[str, Any], place: str) -> RunConfig:
    try:
        return RunConfig.model_validate(values)
    except ValidationError as error:
        raise InputError(_first_problem(error, place)) from None


def _first_problem(error: ValidationError, place: str) -> str:
    """One line about the first thing wrong: the key, the place, what is allowed."""
    problem = error.errors(include_url=False)[0]
    key = ".".join(str(part) for part in problem["loc"] if not str(part).startswith(("tuple[", "dict[", "literal[")))
    if problem["type"] == "extra_forbidden":
        fields = PromptTable.model_fields if key.startswith("prompts.") else RunConfig.model_fields
        name = key.split(".")[-1]
        close = get_close_matches(name, fields, n=1)
        hint = f"did you mean '{close[0]}'? " if close else ""
        return f"unknown key '{key}' in {place}; {hint}allowed are {', '.join(fields)}"
    message = problem["msg"].removeprefix("Value error, ")
    given = "" if problem["type"] == "missing" else f" (given: {problem['input']!r:.80})"
    return f"bad value for '{key}' in {place}: {message[:1].lower()}{message[1:]}{given}"


def choose_label_names(config: RunConfig, dataset_names: tuple[str, ...] | None) -> tuple[str, ...]:
    """Class names in the order of their ids: the configuration's, else the data set's own, else AG News's.

    The last holds only where every prompt of the run has AG News's labels. Raises InputError where none applies.
    """
    if config.label_names is not None:
        names = AG_NEWS if config.label_names == "ag_news" else config.label_names
    elif tables := _named_labels(config):
        names = tables
    elif dataset_names is not None:
        names = dataset_names
    elif all(name in BUILT_IN and name not in config.prompts for name in config.prompt):
        names = AG_NEWS
    else:
        raise InputError(
            f'the data set {config.dataset} does not name its classes; add label_names = ["...", ...] to the '
            'configuration (in the order of the label ids) or label_names = "ag_news"'
        )
    return tuple(names)


def _named_labels(config: RunConfig) -> tuple[str, ...] | None:
    """The class names of the first of the run's prompts that is written as a table of name = words."""
    for name in config.prompt:
        table = config.prompts.get(name)
        if table is not None and isinstance(table.labels, dict):
            return tuple(table.labels)
    return None


def choose_prompts(config: RunConfig, label_names: tuple[str, ...]) -> tuple[Prompt, ...]:
    """The run's prompts, each once, with the given class names. Raises InputError where they do not fit them."""
    return tuple(_make_prompt(config, name, label_names) for name in dict.fromkeys(config.prompt))


def _make_prompt(config: RunConfig, name: str, label_names: tuple[str, ...]) -> Prompt:
    if name in config.prompts:
        table = config.prompts[name]
        if isinstance(table.labels, dict):
            if set(table.labels) != set(label_names):
                raise InputError(
                    f"prompt '{name}': its labels ({', '.join(table.labels)}) are not the data set's classes "
                    f"({', '.join(label_names)}); use the same names"
                )
            words = tuple(table.labels[label] for label in label_names)
        else:
            words = table.labels
        return make_prompt(name, table.template, words, label_names, config.boundary or table.boundary)
    known = BUILT_IN[name]
    words = tuple(label.words for label in known.labels)
    return make_prompt(name, known.template, words, label_names, config.boundary or known.boundary)
