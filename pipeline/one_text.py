"""One text at a time: classify it, look at its tokens, or continue it. Nothing is stored.

Invariant: `classify` uses the encoder, scorer and rules of a run, so a text gets the scores that a run would store.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, cast

import polars as pl
import torch
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from pipeline.bundled import DEMO_MODEL
from pipeline.config import load_config
from pipeline.errors import InputError
from pipeline.prompts import Boundary, Labels, Prompt, Values, make_one_text_prompt
from pipeline.reading.model import ModelRef, check_vocabulary, load_tokenizer
from pipeline.reporting.rules import CONTENT_FREE_TEXTS, RULES, label_constants, with_inputs
from pipeline.scoring.scorer import NonFiniteScore
from pipeline.scoring.tokens import Encoder
from pipeline.shard import explain, load_to_score, make_scorer, part_table
from pipeline.storing.layout import NORMS, norm_sizes
from pipeline.target import find_model
from pipeline.templates import TEXT
from pipeline.wording import check_unicode

# `batch` compares a text with the others of its run, and here there are none.
ONE_TEXT_RULES = tuple(rule for rule in RULES if rule != "batch")


@dataclass(frozen=True, slots=True)
class Loaded:
    """A model with its tokenizer, to be used for many texts."""

    ref: ModelRef
    model: PreTrainedModel
    tokenizer: PreTrainedTokenizerBase


def load(model: str = DEMO_MODEL, *, revision: str | None = None, device: str = "auto", dtype: str = "auto") -> Loaded:
    """Load a model by hub id or directory. Raises InputError where it cannot be had or used."""
    settings = {"model": model, "revision": revision, "device": device, "dtype": dtype}
    ref = find_model(load_config(None, None, settings))
    tokenizer, loaded = load_tokenizer(ref), load_to_score(ref)
    check_vocabulary(tokenizer, loaded, ref.name)
    return Loaded(ref, loaded, tokenizer)


def classify(loaded: Loaded, text: str, *, labels: Labels, template: str, boundary: Boundary = "joint") -> pl.DataFrame:
    """The score of each label's words after `template` with `text` in it, under every rule that one text allows.

    The words are scored exactly as they are written, as in a run: where a blank stands between template and words, it
    begins the words. One row per label in the given order: label (its name, else its words), num_tokens, truncated
    (whether the text was cut to fit the model's context), and one column for each of ONE_TEXT_RULES. The winner under a
    rule has the highest value; the first of equals wins. Raises InputError for a bad template, label or text, RunError
    for a score that is no number.
    """
    if not text.strip():
        raise InputError("the text is empty; give some words to classify")
    check_unicode("the text", text)
    prompt = make_one_text_prompt(labels, template, boundary)
    table = _score(loaded, prompt, [text, *CONTENT_FREE_TEXTS])
    rows = table.filter(pl.col("item_id") == 0)
    priors = table.filter(pl.col("item_id") > 0).with_columns(
        text=pl.col("item_id").replace_strict(dict(enumerate(CONTENT_FREE_TEXTS, 1)), return_dtype=pl.String)
    )
    constants = label_constants(rows.select("prompt", "label_id"), priors).with_columns(log_batch=pl.lit(0.0))
    return (
        with_inputs(rows.lazy(), constants)
        .select("label", "num_tokens", "truncated", *(RULES[rule].alias(rule) for rule in ONE_TEXT_RULES))
        .collect()
    )


def _score(loaded: Loaded, prompt: Prompt, texts: list[str]) -> pl.DataFrame:
    """The score table of some texts: item_id is the position in `texts`."""
    encoder = Encoder(loaded.tokenizer, prompt, context_tokens=loaded.ref.context_tokens)
    items: list[Values] = [{TEXT: text} for text in texts]
    encoded = encoder.encode(items)
    scorer = make_scorer(loaded.model, loaded.ref, notebook=True)
    try:
        batches = list(scorer.score(encoded))
    except NonFiniteScore as error:
        raise explain(error, loaded.ref, prompt, items[error.index]) from error
    hashes = pl.DataFrame({"text_hash": [str(position) for position in range(len(texts))]}).to_arrow()
    scores = pl.DataFrame(part_table(prompt, hashes, encoded, batches))
    labels = pl.DataFrame(
        [(label.words, label.id, label.name, *norm_sizes(label.words)) for label in prompt.labels],
        ["label_words", "label_id", "label", *NORMS],
        orient="row",
    ).cast({"label_id": pl.Int16})
    return scores.join(labels, on="label_words", maintain_order="left").with_columns(
        item_id=pl.col("text_hash").cast(pl.Int64), prompt=pl.lit(prompt.name)
    )


def inspect_tokens(loaded: Loaded, text: str, *, notebook: bool = False) -> pl.DataFrame:
    """What the model thinks of each token of a text.

    One row per token: position, token, id, logit, logprob and rank (1 is the most likely) at the position that
    predicts it, which is the one before it, and best, the token that the model would have chosen there. The first
    token is predicted by nothing and has nulls. With `notebook` the columns own_logit and own_logprob give the same
    id's values at the token's own position, which predicts the *next* token: where the notebook looked.

    Raises InputError for a text without tokens or one longer than the model's context.
    """
    ids = _tokenize(loaded, text)
    input_ids = torch.tensor([ids])
    with torch.inference_mode():
        output = loaded.model(input_ids=input_ids.to(loaded.model.device), use_cache=False)
    logits = output.logits[0].float().cpu()  # (tokens, vocabulary)
    logprobs = logits.log_softmax(-1)
    before, following = logits[:-1], input_ids[0, 1:, None]
    logit = before.gather(1, following)  # (tokens - 1, 1)
    columns: dict[str, Sequence[object]] = {
        "position": range(len(ids)),
        # As the vocabulary has them: blanks stay visible because vocabularies mark them.
        "token": loaded.tokenizer.convert_ids_to_tokens(ids),
        "id": ids,
        "logit": [None, *logit[:, 0].tolist()],
        "logprob": [None, *logprobs[:-1].gather(1, following)[:, 0].tolist()],
        "rank": [None, *((before > logit).sum(-1) + 1).tolist()],
        "best": [None, *loaded.tokenizer.convert_ids_to_tokens(before.argmax(-1).tolist())],
    }
    if notebook:
        columns["own_logit"] = logits.gather(1, input_ids.T)[:, 0].tolist()
        columns["own_logprob"] = logprobs.gather(1, input_ids.T)[:, 0].tolist()
    return pl.DataFrame(columns)


def generate(loaded: Loaded, text: str, *, max_new_tokens: int = 30) -> str:
    """`text` continued by the most likely token at each step, at most `max_new_tokens` of them.

    Raises InputError for a text without tokens or one that already fills the model's context.
    """
    ids = torch.tensor([_tokenize(loaded, text, room=1)], device=loaded.model.device)
    room = min(max_new_tokens, loaded.ref.context_tokens - ids.shape[1])
    with torch.inference_mode():
        output = cast(Any, loaded.model).generate(
            input_ids=ids, attention_mask=torch.ones_like(ids), max_new_tokens=room, do_sample=False
        )
    return text + str(loaded.tokenizer.decode(output[0, ids.shape[1] :], skip_special_tokens=True))


def _tokenize(loaded: Loaded, text: str, *, room: int = 0) -> list[int]:
    """The text's tokens, which leave `room` in the model's context."""
    check_unicode("the text", text)
    ids = list(loaded.tokenizer(text, split_special_tokens=True)["input_ids"])
    if not ids:
        raise InputError("the text has no tokens; give some words")
    if len(ids) + room > loaded.ref.context_tokens:
        raise InputError(f"the text has {len(ids)} tokens, the model takes {loaded.ref.context_tokens}; shorten it")
    return ids
