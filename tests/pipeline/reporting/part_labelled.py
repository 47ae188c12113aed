"""A run that is labelled in part, for what data/README.md asks of it; and its ten answers by loops over the rows."""

import math
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from tests.pipeline.reporting import tables

PROMPTS = ("topic", "answer", "described")
WORDS = ("größer", "naïve", "日本語の新聞", "x²yz", "under_score", "ELEVEN", "élan", "2023rd", "ox")

Row = dict[str, Any]


def write_run(out: Path, num_texts: int = 160, share_gold: float = 0.7) -> Path:
    """Three prompts over items of which some have no gold label, some two right classes, and some texts repeat.

    One prompt's scores are far below what exp makes a float32 of, and some are ties. Each text has a word of its own.
    """
    rng = np.random.default_rng(17)
    items = tables.make_items(num_texts, rng)
    own = ["only" + "".join(chr(97 + int(digit)) for digit in str(number)) for number in range(num_texts)]
    texts = [f"{text} {' '.join(rng.choice(WORDS, 4))} {word}" for text, word in zip(items["text"], own, strict=True)]
    items = items.with_columns(
        pl.Series("text", texts), pl.Series("text_hash", [tables.hash_text(text) for text in texts])
    )
    items = tables.repeat(items, rng.choice([1, 1, 1, 2, 6], num_texts).tolist())
    known = pl.Series(rng.random(items.height) < share_gold)
    items = items.with_columns(pl.when(known).then(name).alias(name) for name in ("gold_id", "gold"))
    if share_gold:
        items = tables.with_several(items, rng, share=0.1)
    tables.write_run(out, prompts=PROMPTS, items=items, signal=1.5)
    file = out / "scores" / "scores.parquet"
    is_tie = pl.col("text_hash").str.starts_with("0") & (pl.col("label_id") < 2)
    logprob = pl.when(is_tie).then(-1.5).otherwise("logprob") - pl.when(pl.col("prompt") == "topic").then(
        200
    ).otherwise(0)
    pl.read_parquet(file).with_columns(logprob.cast(pl.Float32).alias("logprob")).write_parquet(file)
    tables.write_report(out)
    return out


class Answers:
    """Each answer as a list of rows, in the order that it has."""

    def __init__(self, out: Path) -> None:
        self.predictions = pl.read_parquet(out / "report" / "predictions.parquet").to_dicts()
        self.headline = [row for row in self.predictions if row["rule"] == "sum"]
        self.judged = [row for row in self.headline if row["correct"] is not None]
        self.texts = {row["item_id"]: row["text"] for row in pl.read_parquet(out / "items.parquet").to_dicts()}
        self.scores: dict[tuple[str, int], list[Row]] = defaultdict(list)
        for row in pl.read_parquet(out / "scores" / "scores.parquet").to_dicts():
            self.scores[row["prompt"], row["item_id"]].append(row)

    def answer(self, number: str) -> list[Row]:
        answers: dict[str, Callable[[], list[Row]]] = {
            "": self.overall, "1": self.accuracies, "2": self.by_length, "3": self.mistaken, "4": self.preferred,
            "5": self.agreement, "6": self.together, "7": self.hardest, "8": self.thresholds, "9": self.calibrated,
            "10": self.words,
        }  # fmt: skip
        return answers[number]()

    def overall(self) -> list[Row]:
        return [{"n": len(self.judged), "accuracy": share(row["correct"] for row in self.judged)}]

    def accuracies(self) -> list[Row]:
        judged = [row for row in self.predictions if row["correct"] is not None]
        found = [
            {"prompt": prompt, "rule": rule, "n": len(rows), "accuracy": share(row["correct"] for row in rows)}
            for (prompt, rule), rows in groups(judged, "prompt", "rule")
        ]
        return sorted(found, key=lambda row: -row["accuracy"])

    def by_length(self) -> list[Row]:
        rows = [row | {"characters": len(self.texts[row["item_id"]]) // 50 * 50} for row in self.judged]
        return [
            {"prompt": prompt, "characters": length, "n": len(own), "accuracy": share(row["correct"] for row in own)}
            for (prompt, length), own in groups(rows, "prompt", "characters")
        ]

    def mistaken(self) -> list[Row]:
        wrong = [row for row in self.judged if not row["correct"] and row["gold"] is not None]
        found = [
            {"prompt": prompt, "gold": gold, "predicted": predicted, "n": len(rows)}
            for (prompt, gold, predicted), rows in groups(wrong, "prompt", "gold", "predicted")
        ]
        return sorted(found, key=lambda row: -row["n"])

    def shares(self, prompt: str, item: int) -> list[float]:
        """The softmax over an item's labels, in the order of their ids."""
        scores = [row["logprob"] for row in sorted(self.scores[prompt, item], key=lambda row: row["label_id"])]
        weights = [math.exp(score - max(scores)) for score in scores]
        return [weight / sum(weights) for weight in weights]

    def preferred(self) -> list[Row]:
        found = []
        for prompt in sorted(PROMPTS):
            items = {item: rows[0]["gold_id"] for (name, item), rows in self.scores.items() if name == prompt}
            golds = {item: gold for item, gold in items.items() if gold is not None}
            for label, name in sorted(enumerate(tables.AG_NEWS), key=lambda pair: pair[1]) if golds else ():
                preference = sum(self.shares(prompt, item)[label] for item in golds) / len(golds)
                gold = share(gold == label for gold in golds.values())
                found.append({"prompt": prompt, "label": name, "preference": preference, "gold": gold})
        return found

    def agreement(self) -> list[Row]:
        predicted = {(row["prompt"], row["item_id"]): row["predicted"] for row in self.headline}
        return [
            {
                "prompt": a,
                "prompt_b": b,
                "n": len(self.texts),
                "agreement": share(predicted[a, item] == predicted[b, item] for item in self.texts),
            }
            for a in sorted(PROMPTS)
            for b in sorted(PROMPTS)
            if a < b
        ]

    def together(self) -> list[Row]:
        one = [row for row in self.judged if row["gold_id"] is not None]
        right = {prompt: [row["correct"] for row in rows] for (prompt,), rows in groups(one, "prompt")}
        for (item, gold), _ in groups(one, "item_id", "gold_id"):
            means = [
                sum(shares) / len(PROMPTS) for shares in zip(*(self.shares(p, item) for p in PROMPTS), strict=True)
            ]
            right.setdefault("(together)", []).append(means.index(max(means)) == gold)
        found = [{"prompt": name, "n": len(hits), "accuracy": share(hits)} for name, hits in sorted(right.items())]
        return sorted(found, key=lambda row: -row["accuracy"])

    def hardest(self) -> list[Row]:
        found = []
        for (item, gold), rows in groups([row for row in self.judged if row["gold"] is not None], "item_id", "gold"):
            if any(row["correct"] for row in rows):
                continue
            behind = []
            for prompt in PROMPTS:
                scores = {row["label"]: row["logprob"] for row in self.scores[prompt, item]}
                behind.append(max(scores.values()) - scores[gold])
            names = sorted({row["predicted"] for row in rows})
            found.append(
                {"item_id": item, "text": self.texts[item], "gold": gold, "predicted": names, "behind": min(behind)}
            )
        return sorted(found, key=lambda row: -row["behind"])[:10]

    def thresholds(self) -> list[Row]:
        found = []
        for (prompt, predicted), rows in groups(self.judged, "prompt", "predicted"):
            for confidence in sorted({row["confidence"] for row in rows}):  # the lowest that will do
                kept = [row["correct"] for row in rows if row["confidence"] >= confidence]
                if share(kept) >= 0.95:
                    facts = {"threshold": confidence, "kept": len(kept), "n": len(rows)}
                    found.append({"prompt": prompt, "predicted": predicted} | facts)
                    break
        return found

    def calibrated(self) -> list[Row]:
        pmi = {(row["prompt"], row["item_id"]): row for row in self.predictions if row["rule"] == "pmi"}
        rows = [(row, pmi[row["prompt"], row["item_id"]]) for row in self.headline]
        moved = [
            row | {"predicted_pmi": other["predicted"], "correct_pmi": other["correct"]}
            for row, other in rows
            if row["predicted"] != other["predicted"]
        ]
        found = [
            {
                "prompt": prompt,
                "predicted": predicted,
                "predicted_pmi": other,
                "n": len(own),
                "with_gold": sum(row["correct"] is not None for row in own),
                "sum_right": sum(row["correct"] is True for row in own),
                "pmi_right": sum(row["correct_pmi"] is True for row in own),
            }
            for (prompt, predicted, other), own in groups(moved, "prompt", "predicted", "predicted_pmi")
        ]
        return sorted(found, key=lambda row: -row["n"])

    def words(self) -> list[Row]:
        wrong: dict[tuple[str, str], list[bool]] = defaultdict(list)
        texts: dict[tuple[str, str], Counter[str]] = defaultdict(Counter)
        for row in self.judged:
            for word in {word for word in letters(self.texts[row["item_id"]].lower()) if len(word) >= 4}:
                wrong[row["prompt"], word].append(not row["correct"])
                texts[row["prompt"], word][row["text_hash"]] += 1
        found = [
            {"prompt": p, "word": w, "n": len(hits), "texts": len(texts[p, w]), "wrong": share(hits)}
            for (p, w), hits in wrong.items()
            if len(texts[p, w]) >= 5
        ]
        return sorted(found, key=lambda row: (-row["wrong"], -row["n"], row["word"], row["prompt"]))[:20]


def share(hits: Iterable[bool]) -> float:
    values = list(hits)
    return sum(values) / len(values) if values else math.nan


def groups(rows: Sequence[Row], *columns: str) -> list[tuple[tuple[Any, ...], list[Row]]]:
    """The rows by these columns, in their order."""
    found: dict[tuple[Any, ...], list[Row]] = defaultdict(list)
    for row in rows:
        found[tuple(row[column] for column in columns)].append(row)
    return sorted(found.items(), key=lambda group: group[0])


def letters(text: str) -> list[str]:
    """The runs of letters in a text, a character at a time."""
    words, word = [], ""
    for character in f"{text} ":
        if character.isalpha():
            word += character
        else:
            words.append(word)
            word = ""
    return words
