"""What a run wants: chat markup, solved examples, fingerprints and shards."""

from dataclasses import replace
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st
from transformers import AutoTokenizer

from pipeline.bundled import demo_model_path
from pipeline.config import RunConfig, load_config
from pipeline.errors import InputError
from pipeline.scoring.tokens import Encoder
from pipeline.shard import cut_shards
from pipeline.target import chat_markup, make_target

CHAT = (
    "{{ bos_token }}{% for m in messages %}<start_of_turn>{{ m['role'] }}\n{{ m['content'] }}<end_of_turn>\n"
    "{% endfor %}{% if add_generation_prompt %}<start_of_turn>model\n{% endif %}"
)


def target_of(tmp_path: Path, **options: object):  # type: ignore[no-untyped-def]
    return make_target(load_config(None, None, options))


def digest(tmp_path: Path, **options: object) -> str:
    return str(target_of(tmp_path, **options).prompts[0].fingerprint.digest)


def test_chat_markup_is_the_tokenizers_own_template(tmp_path: Path) -> None:
    """Markup before and after, with BOS once: the ids are those of the template rendered around the filled prompt."""
    tokenizer = AutoTokenizer.from_pretrained(demo_model_path())
    tokenizer.chat_template = CHAT
    tokenizer.add_special_tokens({"additional_special_tokens": ["<start_of_turn>", "<end_of_turn>"]})
    prompt = replace(target_of(tmp_path).prompts[0].prompt, chat=chat_markup(tokenizer))
    encoder = Encoder(tokenizer, prompt, context_tokens=1024)
    (found,) = encoder.encode(["A goal in the last minute."])
    message = [{"role": "user", "content": "Article: A goal in the last minute.\nTopic:"}]
    rendered = tokenizer.apply_chat_template(message, tokenize=False, add_generation_prompt=True)
    for label, branch in zip(prompt.labels, found.branches, strict=True):
        expected = tokenizer(rendered + label.words, add_special_tokens=False)["input_ids"]
        assert [*found.prompt_ids, *branch] == expected


def test_a_tokenizer_without_a_chat_template_is_refused(tmp_path: Path) -> None:
    """The message says what to leave out."""
    with pytest.raises(InputError, match="leave out --chat-template"):
        target_of(tmp_path, chat_template=True)


def test_settings_that_change_scores_change_the_fingerprint_and_others_do_not(tmp_path: Path) -> None:
    """Template, label words, boundary, truncation, shots and dtype count; names, batch and shard size do not."""
    plain = digest(tmp_path)
    template = {"template": "Article: {text}\nTopic:", "labels": [" World", " Sports", " Business", " Sci/Tech"]}
    renamed = {"prompt": ("mine",), "prompts": {"mine": template}, "label_names": "ag_news"}
    assert digest(tmp_path, **renamed) == plain
    assert digest(tmp_path, batch_tokens=64, shard_size=3, limit=5, out="elsewhere") == plain
    different = [
        digest(tmp_path, prompt=("topic",)),
        digest(tmp_path, boundary="separate"),
        digest(tmp_path, max_text_tokens=10),
        digest(tmp_path, num_shots=4),
        digest(tmp_path, num_shots=4, seed=1),
        digest(tmp_path, dtype="bfloat16"),
    ]
    assert len({plain, *different}) == 7


def test_examples_may_not_come_from_the_split_that_is_scored(tmp_path: Path) -> None:
    """Otherwise an item could stand among its own examples."""
    with pytest.raises(InputError, match="another split"):
        target_of(tmp_path, num_shots=4, shots_split="test")


def test_examples_stand_before_the_text_in_every_prompt(tmp_path: Path) -> None:
    """The prompt's head carries them, filled in with their labels' words."""
    wanted = target_of(tmp_path, num_shots=8).prompts[0].prompt
    assert wanted.examples.count("\nTopic:") == 8
    assert wanted.head == wanted.examples + "Article: "
    for words in (" World\n\n", " Sports\n\n", " Business\n\n", " Sci/Tech\n\n"):
        assert wanted.examples.count(f"Topic:{words}") == 2


@given(st.integers(0, 50), st.integers(1, 60))
def test_shards_cover_the_missing_texts_once(num_texts: int, shard_size: int) -> None:
    """Consecutive, disjoint, none larger than the shard size."""
    pending = pa.BufferOutputStream()
    pq.write_table(pa.table({"text": [str(i) for i in range(num_texts)]}), pending)
    shards = cut_shards("p", pa.BufferReader(pending.getvalue()), shard_size)  # type: ignore[arg-type]
    assert [i for shard in shards for i in range(shard.start, shard.stop)] == list(range(num_texts))
    assert all(shard.stop - shard.start <= shard_size for shard in shards)


def test_the_default_configuration_is_the_demonstration(tmp_path: Path) -> None:
    """The bundled model is told apart by its name."""
    assert target_of(tmp_path).is_demonstration
    assert RunConfig().dataset == "sample"
