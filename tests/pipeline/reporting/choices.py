"""Random runs whose items bring their own choices: several columns, ragged, with equal choices and ties."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from pipeline.prompts import hash_column
from pipeline.storing.files import Output
from pipeline.storing.layout import ITEM_CHOICES, SCORES_SCHEMA, norm_sizes
from pipeline.storing.manifest import Manifest, write_manifest
from pipeline.storing.tables import write_table
from tests.pipeline.reporting import tables

BOTH = ("question", "passage")
PROMPTS: Mapping[str, tuple[str, ...]] = {"whole": BOTH, "short": ("question",)}  # the columns that each reads

ITEM_SCHEMA = {
    "item_id": pl.Int64,
    "question": pl.String,
    "passage": pl.String,
    ITEM_CHOICES: pl.List(pl.String),
    "gold_id": pl.Int16,
    "gold": pl.String,
    "text_hash": pl.String,
    "gold_ids": pl.List(pl.Int16),
}


def make_choices(rng: np.random.Generator, most: int) -> list[str]:
    """2 to `most` choices of different sizes, now and then one twice."""
    choices = [f"way {n} {'é' * int(n)}" for n in rng.integers(0, 9, int(rng.integers(2, most + 1)))]
    return choices if rng.random() < 0.2 else [f"{choice}{'ab' * i}" for i, choice in enumerate(choices)]


def make_items(num_items: int, rng: np.random.Generator, most: int = 6, several: float = 0.0) -> pl.DataFrame:
    """Items with a question and a passage; a share `several` of them has two right choices."""
    rows = []
    for i in range(num_items):
        choices = make_choices(rng, most)
        gold = int(rng.integers(len(choices)))
        golds = sorted({gold, (gold + 1) % len(choices)}) if rng.random() < several else None
        one = (None, None) if golds else (gold, choices[gold])
        question = f"Question {i} | <script>alert({i})</script>\nand *more* `things`"
        rows.append((i, question, f"Passage {i // 2}", choices, *one, None, golds))
    return pl.DataFrame(rows, ITEM_SCHEMA, orient="row")


def with_hashes(items: pl.DataFrame, prompts: Mapping[str, tuple[str, ...]] = PROMPTS) -> pl.DataFrame:
    """The items with the hash of what each prompt reads: its columns and the choices."""

    def digest(row: dict[str, Any]) -> str:
        return tables.hash_text(json.dumps(row, sort_keys=True, separators=(",", ":"), ensure_ascii=False))

    hashes = {
        hash_column(prompt): [digest(row) for row in items.select(*columns, ITEM_CHOICES).to_dicts()]
        for prompt, columns in prompts.items()
    }
    return items.with_columns(pl.Series(name, values, dtype=pl.String) for name, values in hashes.items())


def make_scores(items: pl.DataFrame, prompt: str, rng: np.random.Generator, *, notebook: bool = False) -> pl.DataFrame:
    """Scores of one prompt: whole numbers, so that ties are frequent; equal choices of an item have equal scores."""
    rows = []
    for item in items.iter_rows(named=True):
        drawn = {choice: -float(rng.integers(1, 9)) for choice in item[ITEM_CHOICES]}
        for place, choice in enumerate(item[ITEM_CHOICES]):
            words, logprob = f" {choice}", drawn[choice]
            rows.append(
                (
                    item["item_id"], item[hash_column(prompt)], prompt, "random", "sha256:0123456789abcdef", place,
                    choice, words, item["gold_id"], 1 + len(choice) % 3, len(words.encode()), *norm_sizes(words),
                    logprob, logprob + 3 * (len(choice) % 2), logprob - 1 if notebook else None,
                    20 + item["item_id"] % 30, item["item_id"] % 7 == 0,
                )
            )  # fmt: skip
    return pl.DataFrame(rows, tables.SCORE_SCHEMA, orient="row")


def make_manifest(num_items: int, prompts: Mapping[str, tuple[str, ...]], **facts: Any) -> Manifest:
    plain = tables.make_manifest(num_items, tuple(prompts)).model_dump(mode="json")
    records = [
        record
        | {"labels": [], "template": "".join(f"{{{column}}}\n" for column in prompts[record["name"]]) + "Answer:"}
        | {"columns": prompts[record["name"]], "choices": ["options"], "choice": " {choice}"}
        for record in plain["prompts"]
    ]
    return Manifest.model_validate(plain | {"prompts": records} | facts)


def write_run(
    out: Path,
    num_items: int = 80,
    *,
    seed: int = 0,
    items: pl.DataFrame | None = None,
    scores: pl.DataFrame | None = None,
    prompts: Mapping[str, tuple[str, ...]] = PROMPTS,
    notebook: bool = False,
    several: float = 0.0,
    **facts: Any,
) -> Path:
    """A whole run in `out`, as `labelscore run` leaves it before its report."""
    rng = np.random.default_rng(seed)
    items = with_hashes(make_items(num_items, rng, several=several) if items is None else items, prompts)
    if scores is None:
        scores = pl.concat(make_scores(items, prompt, rng, notebook=notebook) for prompt in prompts)
    (out / "scores").mkdir(parents=True, exist_ok=True)
    table = scores.sort("item_id", "prompt", "label_id").to_arrow().cast(SCORES_SCHEMA)
    write_table(out / "scores" / "scores.parquet", SCORES_SCHEMA, [table])
    items.write_parquet(out / "items.parquet")
    write_manifest(Output(out), make_manifest(items.height, prompts, **facts))
    return out


def read_items(out: Path) -> dict[int, dict[str, Any]]:
    return {row["item_id"]: row for row in pl.read_parquet(out / "items.parquet").to_dicts()}


def read_choices(out: Path, prompts: Sequence[str]) -> dict[tuple[str, int], list[dict[str, Any]]]:
    """The score rows of each item under each prompt, in the order of its places."""
    rows = pl.read_parquet(out / "scores" / "scores.parquet").sort("item_id", "label_id").to_dicts()
    found: dict[tuple[str, int], list[dict[str, Any]]] = {}
    for row in rows:
        found.setdefault((row["prompt"], row["item_id"]), []).append(row)
    return {key: found[key] for key in found if key[0] in prompts}
