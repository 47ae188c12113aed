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
TABLES = (SCORES, ITEMS, REJECTED, PRIORS)  # what is made from the store
REPORT_FILES = (PREDICTIONS, METRICS, MARKDOWN, PAGE)  # what is made from these
RUN_FILES = (*TABLES, HISTORY, *REPORT_FILES)
RUNS = "runs"  # the folder of run folders
RUN_FOLDER = re.compile(r"runs/\d{8}T\d{6}-[0-9a-f]{8}(?=/|$)")  # one of them: when it was begun, and its own digits
CURRENT = "current"  # a link to the folder of the last finished run; those of its files in OUT/ lead through it
COPIED = (HISTORY, MARKDOWN, PAGE)  # what stands in OUT/ on an object store, where there are no links

# The store.
STORE, SET_ASIDE = "store", "store/set-aside"
FOLDER = re.compile(r"[0-9a-f]{16}")  # what was scored under one fingerprint
PART_NAME = re.compile(r"[0-9a-f]{64}\.parquet")
PLAN = "plan.json"  # what a run set out to score


def _schema(**types: pa.DataType) -> pa.Schema:
    return pa.schema(types, metadata={"labelscore.schema_version": str(SCHEMA_VERSION)})


ITEMS_SCHEMA = _schema(
    item_id=pa.int64(),
    text=pa.string(),
    gold_id=pa.int16(),
    gold=pa.string(),
    text_hash=pa.string(),
    gold_ids=pa.list_(pa.int16()),
)
REJECTED_SCHEMA = _schema(item_id=pa.int64(), reason=pa.string(), text=pa.string(), label=pa.string())
SCORES_SCHEMA = _schema(
    item_id=pa.int64(),
    text_hash=pa.string(),
    prompt=pa.string(),
    model=pa.string(),
    revision=pa.string(),
    label_id=pa.int16(),
    label=pa.string(),
    label_words=pa.string(),
    gold_id=pa.int16(),
    num_tokens=pa.int16(),
    num_bytes=pa.int16(),
    logprob=pa.float32(),
    logit=pa.float32(),
    notebook_logit=pa.float32(),
    prompt_tokens=pa.int32(),
    truncated=pa.bool_(),
)
PRIORS_SCHEMA = _schema(
    prompt=pa.string(),
    text=pa.string(),
    label_id=pa.int16(),
    label=pa.string(),
    label_words=pa.string(),
    num_tokens=pa.int16(),
    num_bytes=pa.int16(),
    logprob=pa.float32(),
    logit=pa.float32(),
)
PREDICTIONS_SCHEMA = _schema(
    item_id=pa.int64(),
    text_hash=pa.string(),
    prompt=pa.string(),
    rule=pa.string(),
    predicted_id=pa.int16(),
    predicted=pa.string(),
    gold_id=pa.int16(),
    gold=pa.string(),
    gold_ids=pa.list_(pa.int16()),
    correct=pa.bool_(),
    copies=pa.int32(),
    confidence=pa.float64(),
    margin=pa.float64(),
    tie=pa.bool_(),
    truncated=pa.bool_(),
)
METRICS_SCHEMA = _schema(
    prompt=pa.string(),
    rule=pa.string(),
    metric=pa.string(),
    label=pa.string(),
    value=pa.float64(),
    low=pa.float64(),
    high=pa.float64(),
    n=pa.int64(),
)
HISTORY_SCHEMA = _schema(
    run_id=pa.string(),
    finished=pa.timestamp("us", "UTC"),
    num_items=pa.int64(),
    prompt=pa.string(),
    rule=pa.string(),
    headline=pa.bool_(),
    accuracy=pa.float64(),
    num_correct=pa.int64(),
    num_gold=pa.int64(),
    num_changed=pa.int64(),
    num_scored=pa.int64(),
    seconds=pa.float64(),
)
