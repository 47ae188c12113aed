"""Reports to render pages of, and a reader of HTML that keeps the tree."""

import base64
import json
import zlib
from dataclasses import dataclass, field
from datetime import timedelta
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import polars as pl

from pipeline.reporting.report import Report
from tests.pipeline.reporting.tables import write_report, write_run

INJECTION = "</script><script>document.title = 'taken over'</script>"
HOSTILE_LABELS = (f"World {INJECTION}", 'Sports" onclick="x', "<b>Business & co", "Sci/Tech")
PROMPTS = ("answer", f"topic {INJECTION}")
RANKED = PROMPTS[::-1]  # by their accuracy: the later a prompt, the stronger is what `tables` draws
VOID = {"meta", "input", "br", "link", "img", "hr"}


def write_hostile_report(out: Path, **run: Any) -> Report:
    """A report with a past run, whose labels, prompts and texts are full of markup."""
    chosen = {"prompts": PROMPTS, "label_names": HOSTILE_LABELS, "words": HOSTILE_LABELS, **run}
    write_run(out, **{"notebook": True, "demonstration": True, "published": {"answer": 0.32}, **chosen})
    items = pl.read_parquet(out / "items.parquet")
    items.with_columns(text=pl.col("text") + INJECTION).write_parquet(out / "items.parquet")
    first = write_report(out)
    past = first.history_rows.with_columns(
        pl.lit("earlier-run").alias("run_id"), pl.col("finished") - timedelta(days=1)
    )
    past.write_parquet(out / "history.parquet")
    return write_report(out)


@dataclass
class Element:
    tag: str
    attributes: dict[str, str]
    children: list["Element | str"] = field(default_factory=list)

    def all(self, *tags: str) -> list["Element"]:
        """Every element below with one of these tags (any, without tags), in the order of the page."""
        found = []
        for child in self.children:
            if isinstance(child, Element):
                found += [child] if not tags or child.tag in tags else []
                found += child.all(*tags)
        return found

    @property
    def text(self) -> str:
        return "".join(child if isinstance(child, str) else child.text for child in self.children)


class _Tree(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.open = [Element("document", {})]

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        names = [name for name, _ in attrs]
        if len(set(names)) < len(names):
            raise ValueError(f"<{tag}> has an attribute twice: {names}")
        element = Element(tag, {name: value or "" for name, value in attrs})
        self.open[-1].children.append(element)
        if tag not in VOID:
            self.open.append(element)

    def handle_endtag(self, tag: str) -> None:
        if self.open[-1].tag != tag:
            raise ValueError(f"</{tag}> closes <{self.open[-1].tag}>")
        self.open.pop()

    def handle_data(self, data: str) -> None:
        self.open[-1].children.append(data)


def read_html(html: str) -> Element:
    """The page as a tree. Raises ValueError where an element is not closed in its place."""
    tree = _Tree()
    tree.feed(html)
    tree.close()
    if len(tree.open) > 1:
        raise ValueError(f"<{tree.open[-1].tag}> is never closed")
    return tree.open[0]


def find_data(page: Element, id: str) -> Any:
    """What the page's script of JSON with this id holds."""
    return json.loads(next(script for script in page.all("script") if script.attributes.get("id") == id).text)


def read_items(page: Element) -> list[dict[str, Any]]:
    """The items in the page's data: id, text, group, gold, and of each prompt predicted, correct, confidence, margin,
    and the scores by label."""
    data = json.loads(zlib.decompress(base64.b64decode(find_data(page, "item-data"))))
    names = [*data["vocabulary"], None]  # of which None is the last

    def name(number: int | None) -> str | None:
        return names[-1 if number is None else number]

    def whole(values: list[int | None], times: int) -> list[float | None]:
        return [None if value is None else value / times for value in values]

    def scores(number: int | None, values: list[int]) -> list[tuple[str | None, float | None]]:
        labels = [] if number is None else data["labels"][number]
        return list(zip(map(name, labels), whole(values, 100), strict=True))

    return [
        {
            "id": id,
            "text": data["texts"][i],
            "group": name(data["groups"][i]),
            "gold": None if data["golds"][i] is None else [name(number) for number in data["golds"][i]],
            "predicted": [name(number) for number in data["predicted"][i]],
            "correct": [None if right is None else bool(right) for right in data["correct"][i]],
            "confidence": whole(data["confidence"][i], 1_000),
            "margin": whole(data["margins"][i], 100),
            "scores": [scores(*pair) for pair in zip(data["scored"][i], data["scores"][i], strict=True)],
        }
        for i, id in enumerate(data["ids"])
    ]
