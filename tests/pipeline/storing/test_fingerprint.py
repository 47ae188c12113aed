"""What makes a score another score, and what does not."""

import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.prompts import AG_NEWS, BUILT_IN, Label, Prompt, make_prompt
from pipeline.storing.fingerprint import canonical_json, fingerprint_of, make_fingerprint

PROMPT = BUILT_IN["answer"]
BASE = {
    "weights": "w",
    "tokenizer": "t",
    "dtype": "float32",
    "max_text_tokens": None,
}


@pytest.mark.parametrize(
    "change",
    [
        {"weights": "x"},
        {"tokenizer": "x"},
        {"dtype": "bfloat16"},
        {"max_text_tokens": 200},
    ],
)
def test_everything_that_may_change_a_score_changes_the_fingerprint(change: dict[str, object]) -> None:
    """Another model, tokenizer, dtype or truncation is another fingerprint."""
    assert make_fingerprint(PROMPT, **{**BASE, **change}) != make_fingerprint(PROMPT, **BASE)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "prompt",
    [
        make_prompt("answer", "Article: {text}\nLabel:", (" World", " Sports", " Business", " Sci/Tech"), AG_NEWS),
        make_prompt("answer", PROMPT.template, (" World", " Sports", " Business", " Science"), AG_NEWS),
        make_prompt("answer", PROMPT.template, (" World", " Sports", " Business", " Sci/Tech"), AG_NEWS, "separate"),
        replace(PROMPT, examples="Article: a\nTopic: World\n\n"),
        replace(PROMPT, chat=("<user>", "<model>")),
        replace(PROMPT, chat=("", "")),
    ],
)
def test_all_of_a_prompt_that_a_model_reads_changes_the_fingerprint(prompt: Prompt) -> None:
    """A prompt of the same name with other words, solved examples or chat markup is another fingerprint."""
    assert make_fingerprint(prompt, **BASE) != make_fingerprint(PROMPT, **BASE)  # type: ignore[arg-type]


def test_names_ids_and_the_order_of_labels_do_not_change_the_fingerprint() -> None:
    """A renamed prompt, renamed classes or reordered labels rescore nothing."""
    labels = tuple(Label(9 - i, f"class {i}", label.words) for i, label in enumerate(reversed(PROMPT.labels)))
    renamed = replace(PROMPT, name="mine", labels=labels)
    assert make_fingerprint(renamed, **BASE) == make_fingerprint(PROMPT, **BASE)  # type: ignore[arg-type]


def test_the_digest_is_pinned() -> None:
    """A digest that moves between versions would orphan every store: it changes on purpose or not at all."""
    digest = fingerprint_of({"a": 1, "b": ["x", "é"], "c": None}).digest
    assert digest == "f005690a9e907da07d9a432e8e44ebf3ae52baa81002383cfa765de1331ff735"


values = st.one_of(st.none(), st.integers(), st.text(), st.lists(st.text()))


@given(st.dictionaries(st.text(), values), st.randoms())
def test_the_order_of_parts_does_not_matter(parts: dict[str, object], random: object) -> None:
    """Equal parts have one spelling, and different parts have different ones."""
    items = list(parts.items())
    random.shuffle(items)  # type: ignore[attr-defined]
    assert fingerprint_of(dict(items)) == fingerprint_of(parts)  # type: ignore[arg-type]
    assert fingerprint_of({**parts, "more": 1, "still": "x"}) != fingerprint_of({**parts, "more": "1", "still": "x"})  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "value", [0.1, float("nan"), True, {"a"}, {"a": 1}, Path("x"), b"x", object(), [1], ["a", None], ("a",)]
)
def test_values_without_a_stable_form_are_refused(value: object) -> None:
    """What prints differently from process to process, or twice for one value, is no part of an identity."""
    with pytest.raises(TypeError, match=r"'odd' is .* no stable form"):
        canonical_json({"odd": value})  # type: ignore[dict-item]


def test_the_store_and_its_helpers_never_import_torch() -> None:
    """Reading and looking after an output needs no scoring stack."""
    code = "import sys, pipeline.storing.upkeep; assert not {'torch', 'transformers', 'prefect'} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True, cwd=Path(__file__).resolve().parents[3])
