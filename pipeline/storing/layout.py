"""Where everything lies in an output: names of files and folders, and the columns of the tables.

OUT/manifest.json names the folder of the last finished run, OUT/runs/ID/, which holds all its files under the names
below; links in OUT/ lead to them. OUT/store/ is what they are made from.

Invariant: names are relative, with forward slashes; a schema says its version in the file's own metadata.
"""

import re

import pyarrow as pa

SCHEMA_VERSION = 1

# A run's files, in its folder.
SCORES, ITEMS, REJECTED = "scores/scores.parquet", "items.parquet", "rejected.parquet"
PRIORS, HISTORY, MANIFEST = "priors.parquet", "history.parquet", "manifest.json"
PREDICTIONS, METRICS = "report/predictions.parquet", "report/metrics.parquet"
MARKDOWN, PAGE = "report/report.md", "report/report.html"
TASKS = "tasks.parquet"  # what lm-evaluation-harness makes of the scores of its tasks
TABLES = (SCORES, ITEMS, REJECTED, PRIORS, TASKS)  # what is made from the store
REPORT_FILES = (PREDICTIONS, METRICS, MARKDOWN, PAGE)  # what is made from these
RUN_FILES = (*TABLES, HISTORY, *REPORT_FILES)
RUNS = "runs"  # the folder of run folders
RUN_FOLDER = re.compile(r"runs/\d{8}T\d{6}-[0-9a-f]{8}(?=/|$)")  # one of them: when it was begun, and its own digits
CURRENT = "current"  # a link to the folder of the last finished run; those of its files in OUT/ lead through it
COPIED = (HISTORY, MARKDOWN, PAGE)  # what stands in OUT/ on an object store, where there are no links

ITEM_CHOICES = "item_choices"  # the column of items.parquet that has an item's own choices, in order
TASK = "task"  # the column of items.parquet that has an item's task, in a run of tasks
DOCUMENTS = 10**9  # there an item's id is so many times a hash of its task, and the document's number in it
NORMS = ("norm_chars", "norm_bytes")  # columns of the score table: what `norm_sizes` says of the label words

# The store.
STORE, SET_ASIDE = "store", "store/set-aside"
FOLDER = re.compile(r"[0-9a-f]{16}")  # what was scored under one fingerprint
PART = re.compile(r"store/[0-9a-f]{16}/[0-9a-f]{64}\.parquet")  # the hash of its bytes
PLAN = "plan.json"  # what a run set out to score


# The columns of the tables, in order.


def _schema(columns: str) -> pa.Schema:
    """A schema from names and types, both as Arrow prints them."""
    types = {"list<int16>": pa.list_(pa.int16()), "timestamp[us,UTC]": pa.timestamp("us", "UTC")}
    fields = [(name, types.get(kind) or pa.type_for_alias(kind)) for name, kind in map(str.split, columns.split(", "))]
    return pa.schema(fields, metadata={"labelscore.schema_version": str(SCHEMA_VERSION)})


ITEMS_SCHEMA = _schema("item_id int64, text string, gold_id int16, gold string, text_hash string, gold_ids list<int16>")
REJECTED_SCHEMA = _schema("item_id int64, reason string, text string, label string")
SCORES_SCHEMA = _schema(
    "item_id int64, text_hash string, prompt string, model string, revision string, "
    "label_id int16, label string, label_words string, gold_id int16, num_tokens int16, num_bytes int16, "
    "norm_chars int32, norm_bytes int32, logprob float32, logit float32, notebook_logit float32, "
    "prompt_tokens int32, truncated bool"
)
PRIORS_SCHEMA = _schema(
    "prompt string, text string, label_id int16, label string, label_words string, "
    "num_tokens int16, num_bytes int16, logprob float32, logit float32"
)
TASKS_SCHEMA = _schema(
    "task string, is_group bool, metric string, filter string, value float64, higher_is_better bool, "
    "num_items int64, num_shots int64, version string"
)
PREDICTIONS_SCHEMA = _schema(
    "item_id int64, text_hash string, prompt string, rule string, predicted_id int16, predicted string, "
    "gold_id int16, gold string, gold_ids list<int16>, correct bool, copies int32, "
    "confidence float64, margin float64, tie bool, truncated bool"
)
METRICS_SCHEMA = _schema(
    "prompt string, rule string, metric string, label string, value float64, low float64, high float64, n int64"
)
HISTORY_SCHEMA = _schema(
    "run_id string, finished timestamp[us,UTC], num_items int64, prompt string, rule string, headline bool, "
    "accuracy float64, num_correct int64, num_gold int64, num_changed int64, num_scored int64, seconds float64"
)


def norm_sizes(words: str) -> tuple[int, int]:
    """The characters and UTF-8 bytes of label words without one leading blank: `norm_chars` and `norm_bytes`.

    That blank is the delimiter between prompt and choice, which lm-evaluation-harness does not count.
    """
    choice = words.removeprefix(" ")
    return len(choice), len(choice.encode())
