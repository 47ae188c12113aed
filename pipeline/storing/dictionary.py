"""The data dictionary: name, type and meaning of every column, which each file carries in its own metadata.

Invariant: a meaning is written here once. The tables of data/README.md are these, with links (a test holds them equal).
"""

import json

import pyarrow as pa

Column = tuple[str, str, str]  # name, type as data/README.md writes it (`null`: may be empty), meaning

TABLES_VERSION = 2  # since 2 predictions.parquet has a row group for each rule, and its `margin` is a float32
VERSION_KEYS = ("schema_version", "labelscore.schema_version")  # the longer one is in every file of before, too
COLUMNS_KEY, SORTED_KEY = "labelscore.columns", "labelscore.sorted_by"

_TYPES = {
    "bool": pa.bool_(),
    "int16": pa.int16(),
    "int32": pa.int32(),
    "int64": pa.int64(),
    "float32": pa.float32(),
    "float64": pa.float64(),
    "string": pa.string(),
    "list of int16": pa.list_(pa.int16()),
    "timestamp, UTC": pa.timestamp("us", "UTC"),
}


def make_schema(columns: tuple[Column, ...], sorted_by: str = "") -> pa.Schema:
    """The schema of a table, which says its version, its columns and by which of them each row group is sorted."""
    fields = [described(name, _TYPES[kind.removesuffix(", null")], meaning) for name, kind, meaning in columns]
    return with_metadata(fields, sorted_by)


def described(name: str, kind: pa.DataType, meaning: str, *, nullable: bool = True) -> pa.Field:
    """A column that says what it means."""
    return pa.field(name, kind, nullable, {"description": meaning})


def with_metadata(fields: list[pa.Field], sorted_by: str) -> pa.Schema:
    """The schema of these columns, with what a file says of itself.

    Their meanings stand in the file's own metadata, too: those of a field only Arrow reads.
    """
    meanings = {field.name: field.metadata[b"description"].decode() for field in fields}
    metadata = dict.fromkeys(VERSION_KEYS, str(TABLES_VERSION))
    metadata |= {COLUMNS_KEY: json.dumps(meanings, ensure_ascii=False)}
    metadata |= {SORTED_KEY: sorted_by} if sorted_by else {}
    return pa.schema(fields, metadata)


_POSITION = "row position in the source split; in a run of tasks made of the task and the number of the document in it"

SCORES: tuple[Column, ...] = (
    ("item_id", "int64", _POSITION),
    (
        "text_hash",
        "string",
        "hash of what the prompt reads of the item, before any truncation: hex SHA-256 of the text's UTF-8 bytes as "
        "read, or of its columns as JSON (see items)",
    ),
    ("prompt", "string", "the prompt's name, or the item's task"),
    ("model", "string", "hub id or directory name"),
    ("revision", "string", "commit on the hub, or hash of the weights"),
    ("label_id", "int16", "class id, or place of the choice"),
    ("label", "string", "class name, or the choice"),
    ("label_words", "string", "the text scored for it"),
    ("gold_id", "int16, null", "the item's class or right choice, if known and the only right one"),
    ("num_tokens", "int16", "tokens of the label words"),
    ("num_bytes", "int16", "UTF-8 bytes of the label words"),
    (
        "norm_chars",
        "int32",
        "what `mean_char` divides by: characters of the label words without one leading blank; where only the contexts "
        "of an item's choices differ, of the context; in a run of tasks always of the task's own choice (`label`), an "
        "empty one counting as 1",
    ),
    ("norm_bytes", "int32", "what `mean_byte` divides by: the same in UTF-8 bytes"),
    ("logprob", "float32", "sum over the label's tokens of log p(token given all before it)"),
    ("logit", "float32", "sum of the raw logits at the same positions"),
    (
        "notebook_logit",
        "float32, null",
        "the notebook's rule, a mistake kept to reproduce its figures; only with `--notebook-rule`",
    ),
    ("prompt_tokens", "int32", "tokens before the label"),
    (
        "truncated",
        "bool",
        "whether the text, or another column, was cut at its end; requests and tasks at their beginning",
    ),
)

ITEMS: tuple[Column, ...] = (
    ("item_id", "int64", _POSITION),
    ("text", "string", "the text as read"),
    ("gold_id", "int16, null", "its class id, if known; null too where several are right"),
    ("gold", "string, null", "its class name, likewise"),
    ("text_hash", "string", "joins to the score table; equal texts share it"),
    (
        "gold_ids",
        "list of int16, null",
        "the class ids that are right, where several are; a prediction of any of them is correct",
    ),
)

# What items.parquet has where prompts read other columns than the text alone.
SLOT = (
    "what prompts read, named as the template writes it: `premise`, `answers.text`, `choices[0]`; `text` is what "
    "`--text-column` names"
)
CHOICES = "a text for each choice, where one column holds a list of them; else a string for each of their columns"
ITEM_CHOICES = "an item's choices in order, from whichever columns; only where items bring choices"
HASH = (
    "for each prompt that is not `{text}` alone: what `text_hash` is in the other tables. Hex SHA-256 of a JSON object "
    "of the columns that this prompt uses, keys sorted, without blanks between them, in UTF-8"
)
TASK = "the item's task; only in a run of tasks"

REJECTED: tuple[Column, ...] = (
    ("item_id", "int64", "row position in the source split"),
    ("reason", "string", "why the row was left out"),
    ("text", "string, null", "the text, as far as it can be shown; several columns as JSON"),
    ("label", "string, null", "the label as found"),
)

PRIORS: tuple[Column, ...] = (
    ("prompt", "string", "the prompt's name"),
    (
        "text",
        "string",
        "the content-free text: empty, `N/A` or `[MASK]`; it stands in every column that the prompt reads",
    ),
    ("label_id", "int16", "class id"),
    ("label", "string", "class name"),
    ("label_words", "string", "the text scored for the class"),
    ("num_tokens", "int16", "tokens of the label words"),
    ("num_bytes", "int16", "UTF-8 bytes of the label words"),
    ("logprob", "float32", "as in the score table"),
    ("logit", "float32", "as in the score table"),
)

TASKS: tuple[Column, ...] = (
    ("task", "string", "the task, or the group"),
    ("is_group", "bool", "whether it is a group"),
    ("metric", "string", "the harness' name of it: `acc`, `acc_norm`, `mcc`, `f1`, `brier_score` and the like"),
    ("filter", "string", "the harness' filter; `none` where it changes nothing"),
    ("value", "float64", "the figure"),
    ("higher_is_better", "bool, null", "whether a higher figure is a better one, as far as the task says"),
    ("num_items", "int64", "items that it is over"),
    ("num_shots", "int64, null", "solved examples before each of them"),
    ("version", "string, null", "the task's own version"),
)

PREDICTIONS: tuple[Column, ...] = (
    ("item_id", "int64", _POSITION),
    ("text_hash", "string", "as in the score table"),
    ("prompt", "string", "the prompt's name, or the item's task"),
    (
        "rule",
        "string",
        "`sum`, `mean_token`, `mean_char`, `mean_byte`, `logit`, `notebook`, `pmi`, `contextual` or `batch`",
    ),
    (
        "predicted_id",
        "int16",
        "the class, or the place of the choice, with the highest score; ties go to the lowest",
    ),
    ("predicted", "string", "its name, or the choice"),
    ("gold_id", "int16, null", "the item's class id or right place, if known; null too where several are right"),
    ("gold", "string, null", "its name, or the choice"),
    ("gold_ids", "list of int16, null", "the class ids that are right, where several are"),
    (
        "correct",
        "bool, null",
        "whether the predicted class is the right one, or one of several; null without a gold label",
    ),
    (
        "copies",
        "int32, null",
        "how many items with a gold label share what the prompt reads of this item, itself included; 1 where none "
        "repeats, null where `correct` is",
    ),
    (
        "confidence",
        "float64",
        "softmax over labels of the rule's scores, of the winner; not rounded to float32, where those near 1 would be "
        "equal",
    ),
    (
        "margin",
        "float32, null",
        "the winner's score minus the second's, in the rule's units; null where an item has one label",
    ),
    ("tie", "bool", "whether the highest score was reached more than once"),
    ("truncated", "bool", "as in the score table"),
)

METRICS: tuple[Column, ...] = (
    ("prompt", "string", "the prompt's name"),
    ("rule", "string, null", "the rule; null for `label_mass` and `harness_...`, which have none"),
    (
        "metric",
        "string",
        "`accuracy`, `num_correct`, `balanced_accuracy`, `macro_f1`, `ece`, `ece_calibrated` (the ECE of a calibrated "
        "model on so many items, `high`: what 95 % of such stay under), `brier`, `accuracy_at_50` (`_80`, `_90`: "
        "on the most confident share), `ties`, `truncated`, `precision`, `recall`, `f1`, `share` (of the predictions), "
        "`label_mass` (probability of all label words together), `harness_acc` and the like (of tasks.parquet; "
        "`prompt` is the task or the group)",
    ),
    (
        "label",
        "string, null",
        "class name, for figures of one class; of `harness_...` the filter, null where it is `none`",
    ),
    ("value", "float64", "the figure"),
    (
        "low",
        "float64, null",
        "lower end of its 95 % Wilson interval; `accuracy`, `precision` and `recall` have one. Where texts repeat it "
        "is that of Kish's effective number of texts, not of `n`",
    ),
    ("high", "float64, null", "upper end"),
    (
        "n",
        "int64",
        "items it is over: those predicted so for `precision`, those of the class for `recall` and `f1`, all items for "
        "`share`, `label_mass`, `ties` and `truncated`, those with exactly one right class for `balanced_accuracy`, "
        "`macro_f1` and `brier`, those with a gold label for the rest",
    ),
)

HISTORY: tuple[Column, ...] = (
    ("run_id", "string", "the run"),
    ("finished", "timestamp, UTC", "when it finished"),
    ("num_items", "int64", "items of the run, or of the task"),
    ("prompt", "string", "the prompt's name"),
    ("rule", "string", "the rule"),
    ("headline", "bool", "whether the rule led that run's report"),
    ("accuracy", "float64, null", "share of right predictions"),
    ("num_correct", "int64, null", "right predictions"),
    ("num_gold", "int64", "items with a gold label"),
    (
        "num_changed",
        "int64, null",
        "distinct texts of both runs predicted differently than in the run before; null for a first run",
    ),
    ("num_scored", "int64", "texts that went through the model in that run, once for each prompt"),
    ("seconds", "float64", "seconds spent on scoring"),
)
