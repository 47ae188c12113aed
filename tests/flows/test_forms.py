"""The forms on Prefect's pages: made of the configuration's schema, whose texts are shown as Markdown."""

import re
from collections.abc import Iterator
from typing import Any

import pytest
from prefect import Flow

from flows.choose import choose_prompt
from flows.run import score_dataset
from pipeline.choice_config import ChoiceConfig
from pipeline.config import RunConfig


def texts_of(schema: Any) -> Iterator[str]:
    """Every title and description, however deep."""
    if isinstance(schema, dict):
        for key, value in schema.items():
            if key in ("title", "description") and isinstance(value, str):
                yield value
            else:
                yield from texts_of(value)
    elif isinstance(schema, list):
        for value in schema:
            yield from texts_of(value)


@pytest.mark.parametrize("flow", [score_dataset, choose_prompt], ids=lambda flow: flow.name)
def test_no_text_of_a_form_is_swallowed(flow: "Flow[..., Any]") -> None:
    """What stands in angle brackets is HTML there and vanishes; stars, and underscores around words, are emphasis."""
    texts = [*texts_of(flow.parameters.model_dump()), flow.description or ""]
    assert len(texts) > 40
    for text in texts:
        plain = re.sub(r"`[^`\n]*`", "", text)  # code is shown as it stands
        assert not re.search(r"[<>*~`]|(?<!\w)_|_(?!\w)|\]\(|&\w+;|&#|\n(#|    )", plain), text


@pytest.mark.parametrize(
    ("config", "title"),
    [
        (RunConfig(), "sample (test) with demo"),
        (RunConfig(split="train", limit=1000), "sample (train, the first 1,000) with demo"),
        (RunConfig(task=("piqa",)), "piqa with demo"),
        (RunConfig(task=("piqa", "copa"), limit=10), "piqa, copa (the first 10 of each) with demo"),
        (ChoiceConfig(rules=("sum",), run=RunConfig(limit=40)), "a choice for sample (test, the first 40)"),
    ],
)
def test_a_run_is_named_by_what_it_scores(config: RunConfig | ChoiceConfig, title: str) -> None:
    """The data set with its split and limit, or the tasks, which have splits of their own; and the model."""
    assert config.title == title
