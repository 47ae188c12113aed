"""The manifest: everything that is recorded of a finished run, as one typed record that is written and read.

Invariant: manifest.json names the hash of every other file of its run and carries one of itself, so that a reader can
tell a finished run from one that was changed since. Keys of other versions are kept as they stand.
"""

import json
from datetime import datetime
from typing import Any

from pydantic import BaseModel, ConfigDict, ValidationError

from pipeline.errors import InputError, LabelscoreError, RunError
from pipeline.storing.files import Output, hash_bytes
from pipeline.storing.layout import MANIFEST, SCHEMA_VERSION
from pipeline.storing.sealed import seal, unseal

OWN_KEYS = {"schema_version", "sha256", "run_id", "prompts", "files"}  # of a manifest: together they are only ours


class NewerSchema(RunError):
    """A file of a newer labelscore: neither read nor overwritten."""


class Record(BaseModel):
    """Facts by name, as attributes or by key: `manifest.dataset.num_items` is `manifest["dataset"]["num_items"]`."""

    model_config = ConfigDict(frozen=True, extra="allow")

    def keys(self) -> list[str]:
        return [*type(self).model_fields, *(self.model_extra or {})]

    def __contains__(self, name: str) -> bool:
        return name in self.keys()

    def __getitem__(self, name: str) -> Any:
        if name not in self:
            raise KeyError(name)
        return getattr(self, name)

    def get(self, name: str, default: Any = None) -> Any:
        return getattr(self, name) if name in self else default


class Settings(Record):
    """The run's configuration; named are those keys that a report tells."""

    rule: str | None = None
    gap: float | None = None
    num_shots: int | None = None
    shots_split: str = "train"
    shots_draw: str = "random"
    seed: int = 0
    chat_template: bool = False
    chat: dict[str, Any] = {}
    chat_date: str | None = None
    chat_answer: str | None = None
    shots_as_turns: bool = False
    where: dict[str, Any] = {}
    max_text_tokens: int | None = None
    task: tuple[str, ...] = ()
    task_path: str | None = None


class DatasetRecord(Record):
    """`max_choices`: the most choices that an item brings; 0 where all items have the same labels."""

    name: str
    location: str | None = None
    subset: str | None = None
    split: str
    revision: str | None = None
    num_rows: int | None = None
    num_items: int
    num_rejected: int = 0
    max_choices: int = 0
    label_names: tuple[str, ...] = ()


class ShotsRecord(Record):
    num_left_out: int = 0


class ChatRecord(Record):
    """What the chat template was found to do. `date`: the one that it writes as today's, null where it writes none.

    `trims`: at which ends of its message ("left", "right", "both") a prompt loses white space; others lose none.
    """

    date: str | None = None
    trims: dict[str, str] = {}


class ModelRecord(Record):
    name: str
    revision: str
    weights: str = ""
    adapter: str | None = None
    dtype: str
    device: str
    num_parameters: int | None = None
    demonstration: bool = False


class LabelRecord(Record):
    id: int
    name: str
    words: str


class TaskRecord(Record):
    """A task of lm-evaluation-harness: its items, its own version, how many solved examples stand before each.

    `seed` is that of their draw. `dataset` is its data set as it names it, `revision` the commit of one on the hub.
    """

    num_items: int
    version: str = ""
    num_shots: int = 0
    seed: int | None = None
    dataset: str | None = None
    revision: str | None = None


class PromptRecord(Record):
    """A prompt of the run. `shots` is a hash of its solved examples; `published_accuracy` a share between 0 and 1.

    `columns` are the slots of its template. Where the choices are the item's there are no labels: `choices` are the
    columns that they come from, and `choice` is how one is written after the prompt. A prompt that is a `task` of
    lm-evaluation-harness has items of its own, those of this name in the column `task` of items.parquet.
    """

    name: str
    template: str
    boundary: str
    labels: tuple[LabelRecord, ...]
    fingerprint: str
    shots: str | None = None
    published_accuracy: float | None = None
    columns: tuple[str, ...] = ()
    choices: tuple[str, ...] | None = None
    choice: str | None = None
    task: TaskRecord | None = None

    @property
    def has_choices(self) -> bool:
        """Whether its items bring their own choices, so that there are no labels which all of them share."""
        return self.choices is not None

    @property
    def is_requests(self) -> bool:
        """Whether its items are what another tool has written, a task of the harness among them."""
        return self.columns == ("context",) and self.choices == ("continuation",)

    @property
    def label_ids(self) -> tuple[int, ...]:
        return tuple(sorted(label.id for label in self.labels))

    @property
    def label_names(self) -> dict[int, str]:
        return {label.id: label.name for label in self.labels}


def digest_of_shots(examples: str) -> str | None:
    """What the manifest keeps of a prompt's solved examples: their hash, null without any."""
    return hash_bytes(examples.encode()) if examples else None


class CountsRecord(Record):
    """`texts` are distinct ones, once for each prompt: `scored` in this run, `reused` from the store."""

    items: int | None = None
    texts: int | None = None
    scored: int | None = None
    reused: int | None = None


class ScoringRecord(Record):
    """How the texts were scored; what it was padded with is not among the forwarded tokens.

    `kernels`: what attention ran on, and whether the model's layers were compiled.
    """

    path: str | None = None
    path_reason: str | None = None
    kernels: str | None = None
    forwarded_tokens: int = 0
    trie_tokens: int = 0
    padding_tokens: int = 0
    seconds: float | None = None
    items_per_second: float | None = None


class Manifest(Record):
    """`folder` is where the run's files lie, relative to this manifest; `files` are their names in it with SHA-256.

    `finished` is when its scores were complete, `published` when readers were given them, `replaced` when readers were
    given another than the runs in these folders. `libraries` are versions, `timings` seconds by step. `remarks`: what
    a reader must know of the figures: how tasks' came about, how rough the scores are. Outputs of before there were run
    folders have neither folder nor `published`, the manifest in a run's folder has no folder.
    """

    labelscore: str = ""
    run_id: str
    folder: str = ""
    started: str
    finished: str
    published: str = ""
    replaced: dict[str, datetime] = {}
    headline_rule: str
    config: Settings = Settings()
    dataset: DatasetRecord
    shots: ShotsRecord | None = None
    model: ModelRecord
    chat: ChatRecord | None = None
    prompts: tuple[PromptRecord, ...]
    counts: CountsRecord = CountsRecord()
    scoring: ScoringRecord = ScoringRecord()
    files: dict[str, str] = {}
    libraries: dict[str, str] = {}
    remarks: tuple[str, ...] = ()
    timings: dict[str, float] = {}


def write_manifest(out: Output, manifest: Manifest) -> None:
    """Write manifest.json with a hash of itself: one rename, or one PUT."""
    out.write_bytes(MANIFEST, seal({**manifest.model_dump(mode="json"), "schema_version": SCHEMA_VERSION}))


def read_manifest(out: Output) -> Manifest | None:
    """The manifest of the last finished run, or None when there is none.

    Raises RunError for one that is damaged or was written by a newer labelscore, InputError where it lacks a fact.
    """
    return _parse(out, out.read_bytes(MANIFEST)) if out.exists(MANIFEST) else None


def is_damaged(out: Output) -> bool:
    """Whether there is a manifest that cannot be used. Raises what reading it raises, and NewerSchema."""
    if not out.exists(MANIFEST):
        return False
    data = out.read_bytes(MANIFEST)
    try:
        _parse(out, data)
    except NewerSchema:
        raise
    except LabelscoreError:
        return True
    return False


def _parse(out: Output, data: bytes) -> Manifest:
    where = f"{out}/{MANIFEST}"
    try:
        version = int(json.loads(data)["schema_version"])
        if version > SCHEMA_VERSION:
            raise NewerSchema(
                f"{where} has schema version {version}, this labelscore reads up to {SCHEMA_VERSION}; "
                "upgrade labelscore or use another --out"
            )
        return Manifest.model_validate(unseal(data))
    except ValidationError as error:
        first = error.errors()[0]
        key = ".".join(str(part) for part in first["loc"])
        raise InputError(f"{out}: {MANIFEST}: {key}: {first['msg']}; run `labelscore run --out {out}` again") from None
    except (ValueError, TypeError, KeyError) as error:
        raise RunError(f"{where} is damaged or was edited ({error}); delete it and run again") from error


def need_manifest(out: Output) -> Manifest:
    """The manifest of a finished run. Raises InputError where there is none, and what `read_manifest` raises."""
    manifest = read_manifest(out)
    if manifest is None:
        raise InputError(f"{out} holds no finished run (no {MANIFEST}); make one with `labelscore run --out {out}`")
    return manifest
