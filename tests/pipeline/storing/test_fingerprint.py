"""What makes a score another score, and what does not."""

import hashlib
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.prompts import AG_NEWS, BUILT_IN, Chat, Label, Prompt, hash_item, make_prompt
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
        replace(PROMPT, chat=Chat("<user>", "<model>")),
        replace(PROMPT, chat=Chat("", "")),
        replace(PROMPT, chat=Chat("", "", "both")),
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


GOLDEN = {  # as they were when an item was one text: what was scored then is scored
    "answer": "c76c526a8568cad1",
    "detailed": "e7515b5cfb87882e",
    "described": "140505f54425d298",
    "topic-science": "4f4fab8e74338e8f",
    "topic": "6d134e66afbefdc4",
    "shots": "2cf9f4258ca6e7e5",
    "chat": "9351733cb5111d33",
    "braces": "2a75b2246c205273",
}


def test_prompts_on_one_text_keep_their_digests_and_hashes() -> None:
    """What prompts have learnt since stands in a fingerprint only where it is used."""
    labels = make_prompt("mine", 'JSON {1} {"a": "{text}"} \\frac{a}{b}:', (" yes", " no"), ("good", "bad")).labels
    prompts = {
        **BUILT_IN,
        "shots": replace(PROMPT, examples="Article: a\nTopic: World\n\n"),
        "chat": replace(PROMPT, chat=Chat("<user>", "<model>")),
        "braces": Prompt("mine", 'JSON {1} {"a": "{text}"} \\frac{a}{b}:', labels),
    }
    assert {name: make_fingerprint(p, **BASE).digest[:16] for name, p in prompts.items()} == GOLDEN  # type: ignore[arg-type]
    text = "Oil rises — again"
    assert hash_item(PROMPT, {"text": text}) == hashlib.sha256(text.encode()).hexdigest()


QUIZ = Prompt("quiz", "{question}", choices="options")


@pytest.mark.parametrize(
    "prompt",
    [
        replace(QUIZ, choices="others"),
        replace(QUIZ, choices=("options", "others")),
        replace(QUIZ, choices=("others", "options")),
        replace(QUIZ, choice=" ({choice})"),
        replace(QUIZ, strip=True),
        replace(QUIZ, cut="question"),
        replace(QUIZ, boundary="harness"),
        replace(QUIZ, has_markup=True),
    ],
)
def test_all_of_a_prompt_with_choices_of_the_item_changes_the_fingerprint(prompt: Prompt) -> None:
    """The choices are in an item's hash; where they come from and how they are written is here."""
    assert make_fingerprint(prompt, **BASE) != make_fingerprint(QUIZ, **BASE)  # type: ignore[arg-type]
    assert make_fingerprint(prompt, **BASE).has_choices  # type: ignore[arg-type]


def test_doubled_braces_are_another_fingerprint() -> None:
    """They were text before, and are single braces now."""
    doubled, single = (replace(PROMPT, template=f"{braces} {{text}}") for braces in ("{{1}}", "{1}"))
    assert doubled.fill({"text": "x"}) == single.fill({"text": "x"})
    assert "braces" in make_fingerprint(doubled, **BASE).parts  # type: ignore[arg-type]
    assert "braces" not in make_fingerprint(single, **BASE).parts  # type: ignore[arg-type]


def test_what_a_chat_template_was_scored_wrong_with_is_a_fix() -> None:
    """Trimming was not followed, and BOS stood before a template without it: such scores are not used again."""
    known = {**BASE, "fix": "soft cap"}
    variants = [
        Chat("<user>", "<model>"),
        Chat("<user>", "<model>", "right"),
        Chat("<user>", "<model>", "both"),
        Chat("<user>", "<model>", lacks_start=True),
        Chat("<user>", "<model>", texts=((0, 3),)),
    ]
    found = [make_fingerprint(replace(PROMPT, chat=chat), **BASE) for chat in variants]  # type: ignore[arg-type]
    assert len(set(found)) == len(variants)
    assert [each.parts.get("fix") for each in found] == [None, "chat", "chat", "chat", None]
    both = make_fingerprint(replace(PROMPT, chat=variants[1]), **known)  # type: ignore[arg-type]
    assert both.parts["fix"] == "chat + soft cap"
    assert make_fingerprint(PROMPT, **known).parts["fix"] == "soft cap"  # type: ignore[arg-type]
