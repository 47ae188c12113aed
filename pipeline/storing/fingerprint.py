"""The identity of a label score: a digest of everything that may change its value, and of nothing else.

Invariant: equal digests mean the same model, tokens and formula. Names, devices, batch and shard sizes are left out, so
changing them rescores nothing; a value without a stable textual form is refused rather than hashed.
"""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field

from pipeline.prompts import Prompt

SCORING_VERSION = 1  # raise it when a change in the code moves scores by more than rounding: stored ones are then stale

Value = str | int | None | list[str]


@dataclass(frozen=True, slots=True)
class Fingerprint:
    """`digest` is the hex SHA-256 of `parts` as canonical JSON."""

    digest: str
    parts: Mapping[str, Value] = field(compare=False, hash=False, repr=False)

    @property
    def has_choices(self) -> bool:
        """Whether texts bring their own choices: as many rows in the store, in their order."""
        return self.parts["label_words"] is None

    @property
    def label_words(self) -> list[str]:
        """The distinct label words, sorted: the order of a text's rows in the store. Not with choices of the text."""
        words = self.parts["label_words"]
        if not isinstance(words, list):
            raise TypeError("label_words must be a list")
        return words


@dataclass(frozen=True, slots=True)
class StoredPrompt:
    """A prompt, and the fingerprint that its scores are stored under."""

    prompt: Prompt
    fingerprint: Fingerprint


CHAT_SLOT = "\x00ARTICLE\x00"  # stands for the message in a chat template; a part of fingerprints, so it stays


def make_fingerprint(
    prompt: Prompt,
    *,
    weights: str,
    tokenizer: str,
    dtype: str,
    max_text_tokens: int | None,
    fix: str | None = None,
    adapter: str | None = None,
) -> Fingerprint:
    """The fingerprint of scores of `prompt` under a model.

    `weights` and `tokenizer` are content hashes, `dtype` the resolved one. Label words count as a set: their ids, names
    and order do not change a score. An item's own choices are in its hash; here is where they come from. What stands
    here only where it departs from the default leaves the fingerprints of before as they were. `fix` names what was
    mended for this model, whose scores of before are not used again: a chat template's trimming was ignored before, and
    BOS put before one that writes none. `adapter` is the digest of the model's adapter.
    """
    chat = prompt.chat
    parts: dict[str, Value] = {
        "scoring_version": SCORING_VERSION,
        "weights": weights,
        "tokenizer": tokenizer,
        "dtype": dtype,
        "template": prompt.template,
        "label_words": None if prompt.has_choices else sorted({label.words for label in prompt.labels}),
        "boundary": prompt.boundary,
        "max_text_tokens": max_text_tokens,
        "chat_template": CHAT_SLOT.join((chat.before, chat.after)) if chat else None,
        "shots": prompt.examples or None,
    }
    departures: dict[str, Value] = {
        "choices": ("list: " + prompt.choices) if isinstance(prompt.choices, str) else list(prompt.choices or ()),
        "choice": prompt.choice if prompt.has_choices else None,
        "strip": int(prompt.strip),
        "cut": prompt.cut,
        "braces": int(prompt.parsed.has_escapes),
        "markup": int(prompt.has_markup),
        "chat_trim": chat.trim if chat else None,
        "turns": chat.turns if chat else None,
        "fix": " + ".join(sorted(filter(None, (fix, "chat" if chat and (chat.trim or chat.lacks_start) else None)))),
        "adapter": adapter,
    }
    return fingerprint_of(parts | {name: value for name, value in departures.items() if value})


def fingerprint_of(parts: Mapping[str, Value]) -> Fingerprint:
    """The fingerprint of named values; raises TypeError for a value that has no stable form."""
    return Fingerprint(hashlib.sha256(canonical_json(parts).encode()).hexdigest(), dict(parts))


def canonical_json(parts: Mapping[str, Value]) -> str:
    """One spelling for one value: sorted keys, no spaces, ASCII only (so lone surrogates have a form too)."""
    for name, value in parts.items():
        listed = value if type(value) is list else [value]
        if not all(type(v) is str or (type(v) in (int, type(None)) and listed is not value) for v in listed):
            raise TypeError(
                f"fingerprint: '{name}' is {value!r}, which has no stable form; use str, int, None or list of str"
            )
    return json.dumps(dict(parts), sort_keys=True, separators=(",", ":"), ensure_ascii=True)
