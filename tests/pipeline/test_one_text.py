"""One text at a time: the same scores as a run's, the logits where they belong, and text that stays text."""

import copy
from typing import Any

import polars as pl
import pytest
import torch

from pipeline.errors import InputError, RunError
from pipeline.one_text import ONE_TEXT_RULES, Loaded, classify, generate, inspect_tokens, load
from pipeline.prompts import AG_NEWS, Boundary, make_prompt
from pipeline.reporting.rules import CONTENT_FREE_TEXTS
from pipeline.scoring.tokens import Encoder
from pipeline.shard import make_scorer

TEMPLATE = "Is the sentence positive or negative?: {text}"


@pytest.fixture(scope="module")
def demo() -> Loaded:
    return load()


def slow_logprob(loaded: Loaded, prompt: str, words: str) -> float:
    """The oracle: one forward pass of the whole string, the log-probabilities of its last tokens added up."""
    tokenizer = loaded.tokenizer
    context, whole = tokenizer(prompt)["input_ids"], tokenizer(prompt + words)["input_ids"]
    shared = next(i for i in range(len(whole)) if i >= len(context) or whole[i] != context[i])
    with torch.inference_mode():
        logprobs = loaded.model(torch.tensor([whole])).logits[0].log_softmax(-1)
    return float(sum(logprobs[i - 1, whole[i]] for i in range(shared, len(whole))))


def test_classify_gives_the_log_likelihood_of_each_label(demo: Loaded) -> None:
    """`sum` is what one forward pass of the whole string gives; pmi takes the empty text's score off it."""
    table = classify(demo, "I am happy!", labels=(" positive", " negative"), template=TEMPLATE)
    assert table.columns == ["label", "num_tokens", "truncated", *ONE_TEXT_RULES]
    assert not table["truncated"].any()
    for row in table.iter_rows(named=True):
        with_text = slow_logprob(demo, TEMPLATE.format(text="I am happy!"), row["label"])
        without = slow_logprob(demo, TEMPLATE.format(text=""), row["label"])
        assert row["sum"] == pytest.approx(with_text, abs=1e-4)
        assert row["pmi"] == pytest.approx(with_text - without, abs=2e-4)
        assert row["mean_token"] == pytest.approx(row["sum"] / row["num_tokens"], abs=1e-5)


@pytest.mark.parametrize("boundary", ["joint", "separate"])
@pytest.mark.parametrize("template", [TEMPLATE, "Review: {text}\nMood:", "Review: {text}\nMood: ", "{text} (it is"])
@pytest.mark.parametrize("words", [(" positive", " negative"), ("positive", "negative"), (" good", "n't good", ")")])
def test_words_are_scored_as_they_are_written(
    demo: Loaded, template: str, words: tuple[str, ...], boundary: Boundary
) -> None:
    """Whatever stands before them, no blank is put there: `classify` scores what a run of the same prompt does."""
    table = classify(demo, "I am happy!", labels=words, template=template, boundary=boundary)
    prompt = make_prompt("mine", template, words, ("a", "b", "c")[: len(words)], boundary)
    encoder = Encoder(demo.tokenizer, prompt, context_tokens=demo.ref.context_tokens)
    # The same texts in one batch: another batch may move a float32 score by a few of its last digits.
    items = encoder.encode(["I am happy!", *CONTENT_FREE_TEXTS])
    scores = {i: row for batch in make_scorer(demo.model, demo.ref, notebook=True).score(items)
              for i, row in zip(batch.indices, batch.logprob.tolist(), strict=True)}  # fmt: skip
    assert table["label"].to_list() == list(words)
    assert table["sum"].to_list() == pytest.approx(scores[0], abs=1e-6)
    assert table["num_tokens"].to_list() == list(items[0].num_label_tokens)


def test_a_blank_before_the_words_makes_another_score(demo: Loaded) -> None:
    """With a blank and without, words are other tokens, and neither is quietly turned into the other."""
    found = [
        classify(demo, "I am happy!", labels=words, template=TEMPLATE)["sum"].to_list()
        for words in ((" positive", " negative"), ("positive", "negative"))
    ]
    assert min(abs(a - b) for a, b in zip(*found, strict=True)) > 0.1


def test_labels_may_have_names(demo: Loaded) -> None:
    """A table of name = words, as in a configuration file, is not read as a list of its names."""
    named = classify(demo, "I am happy!", labels={"yes": " positive", "no": " negative"}, template=TEMPLATE)
    listed = classify(demo, "I am happy!", labels=[" positive", " negative"], template=TEMPLATE)
    assert named["label"].to_list() == ["yes", "no"]
    assert named.drop("label").equals(listed.drop("label"))


def test_ag_news_stands_for_its_four_names(demo: Loaded) -> None:
    """As in a configuration's label_names."""
    table = classify(demo, "The striker scored.", labels="ag_news", template="{text}\nTopic: ")
    assert table["label"].to_list() == list(AG_NEWS)


@pytest.mark.parametrize("labels", ["abc", "positive,negative", "", b"abc", [" a", 1], {"a": " a", "b": 2}])
def test_labels_are_strings_in_a_list(demo: Loaded, labels: Any) -> None:
    """One string is never taken letter by letter."""
    with pytest.raises(InputError, match=r"letter by letter|is no string"):
        classify(demo, "I am happy!", labels=labels, template=TEMPLATE)


def test_classify_refuses_an_empty_text(demo: Loaded) -> None:
    """Nothing to classify is a mistake, not a score."""
    with pytest.raises(InputError, match="empty"):
        classify(demo, "  ", labels=("a", "b"), template=TEMPLATE)


def test_half_a_character_is_refused(demo: Loaded) -> None:
    """The command line refuses it; from Python it would end in a traceback of the tokenizer."""
    for call in (inspect_tokens, generate):
        with pytest.raises(InputError, match="not valid Unicode"):
            call(demo, "a\ud800b")
    with pytest.raises(InputError, match="not valid Unicode"):
        classify(demo, "a\ud800b", labels=(" a", " b"), template=TEMPLATE)


def test_a_text_that_is_cut_is_said_to_be(demo: Loaded) -> None:
    """A text longer than the model's context loses its end, not its label."""
    table = classify(demo, "word " * 2000, labels=(" positive", " negative"), template=TEMPLATE)
    assert table["truncated"].all()


def test_a_score_that_is_no_number_names_text_and_label(demo: Loaded) -> None:
    """One broken weight is one error in words, not a table of NaN."""
    broken = Loaded(demo.ref, copy.deepcopy(demo.model), demo.tokenizer)
    [token] = demo.tokenizer(" negative", add_special_tokens=False)["input_ids"][:1]
    with torch.no_grad():
        broken.model.get_output_embeddings().weight[token] = float("inf")
    with pytest.raises(RunError, match="not a finite number"):
        classify(broken, "I am happy!", labels=(" positive", " negative"), template=TEMPLATE)


def test_tokens_are_judged_where_they_are_predicted(demo: Loaded) -> None:
    """A token's logprob is read at the position before it; the notebook's at its own; rank 1 is the best guess."""
    table = inspect_tokens(demo, "The minister said so.", notebook=True)
    ids = demo.tokenizer("The minister said so.")["input_ids"]
    with torch.inference_mode():
        logprobs = demo.model(torch.tensor([ids])).logits[0].log_softmax(-1)
    assert table["id"].to_list() == ids
    assert table["logprob"][0] is None
    for i in range(1, len(ids)):
        assert table["logprob"][i] == pytest.approx(float(logprobs[i - 1, ids[i]]), abs=1e-4)
        assert table["own_logprob"][i] == pytest.approx(float(logprobs[i, ids[i]]), abs=1e-4)
        assert (table["rank"][i] == 1) == (table["best"][i] == table["token"][i])
    assert table.filter(pl.col("rank") < 1).is_empty()


def test_a_text_beyond_the_context_has_no_tokens_to_show(demo: Loaded) -> None:
    """The model was never trained on such positions, and some models have none."""
    with pytest.raises(InputError, match="the model takes 1024"):
        inspect_tokens(demo, "word " * 2000)


def test_the_spelling_of_a_special_token_is_text(demo: Loaded) -> None:
    """`<bos>` in a text is its characters; the only BOS is the tokenizer's own."""
    ids = inspect_tokens(demo, "a <bos> b")["id"].to_list()
    assert ids.count(demo.tokenizer.bos_token_id) == 1


def test_generate_continues_the_text(demo: Loaded) -> None:
    """The text comes back with at most the asked-for tokens behind it, each the likeliest one."""
    text = "Article: The striker scored twice.\nTopic:"
    continued = generate(demo, text, max_new_tokens=1)
    assert continued.startswith(text)
    assert continued != text
    with pytest.raises(InputError, match="1024"):
        generate(demo, "word " * 2000)
