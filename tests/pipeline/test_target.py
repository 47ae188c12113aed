"""What a run wants: chat markup, solved examples, fingerprints and shards."""

import datetime
import shutil
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st
from transformers.utils import chat_template_utils

from pipeline.bundled import demo_model_path
from pipeline.config import RunConfig, load_config
from pipeline.errors import InputError
from pipeline.job import _shard_size
from pipeline.sharding import cut_shards
from pipeline.target import make_target
from tests.pipeline.chat_templates import KNOWN


def target_of(tmp_path: Path, **options: object):  # type: ignore[no-untyped-def]
    return make_target(load_config(None, None, options))


def digest(tmp_path: Path, **options: object) -> str:
    return str(target_of(tmp_path, **options).prompts[0].fingerprint.digest)


def test_a_tokenizer_without_a_chat_template_is_refused(tmp_path: Path) -> None:
    """The message says what to leave out."""
    with pytest.raises(InputError, match="leave out --chat-template"):
        target_of(tmp_path, chat_template=True)


@pytest.fixture
def dated_model(tmp_path: Path) -> str:
    """The bundled model with a chat template that writes today's date and trims the message."""
    folder = tmp_path / "dated"
    shutil.copytree(demo_model_path(), folder)
    (folder / "chat_template.jinja").write_text(KNOWN["llama3.1"])
    return str(folder)


def test_a_template_with_todays_date_has_the_same_fingerprint_every_day(
    dated_model: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Another date is another fingerprint only where it is asked for; the date is told where it is written."""
    chat = {"model": dated_model, "chat_template": True}
    today = digest(tmp_path, **chat)

    class Later(datetime.datetime):
        @classmethod
        def now(cls, tz: datetime.tzinfo | None = None) -> "Later":
            return cls(2031, 3, 4, tzinfo=tz)

    monkeypatch.setattr(chat_template_utils, "datetime", Later)
    target = target_of(tmp_path, **chat)
    assert target.prompts[0].fingerprint.digest == today == digest(tmp_path, **chat, chat_date="2024-07-26")
    assert target.chat_date == "2024-07-26"
    assert "2024-07-26 in every run" in target.chat_remarks[0]
    assert digest(tmp_path, **chat, chat={"date_string": "26 Jul 2024"}) == today
    assert digest(tmp_path, **chat, chat_date="2026-01-31") != today
    assert target_of(tmp_path, **chat, chat={"date_string": "1 Jan"}).chat_date is None


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"chat": {"date": "1 Jan"}}, "no variable 'date'; it uses date_string"),
        ({"chat": {"date_string": "1 Jan"}, "chat_date": "2026-01-31"}, "chat_date: .* writes no date"),
    ],
)
def test_what_a_chat_template_does_not_use_is_refused(
    options: dict[str, object], said: str, dated_model: str, tmp_path: Path
) -> None:
    """It would change nothing."""
    with pytest.raises(InputError, match=said):
        target_of(tmp_path, model=dated_model, chat_template=True, **options)


def test_solved_examples_stand_in_the_message_or_before_it(dated_model: str, tmp_path: Path) -> None:
    """Both ways have all of them, and another fingerprint; the manifest's digest of them is of either."""
    chat = {"model": dated_model, "chat_template": True, "num_shots": 4}
    (inside,), (turns,) = (target_of(tmp_path, **chat, shots_as_turns=each).prompts for each in (False, True))
    assert inside.fingerprint != turns.fingerprint
    assert (turns.prompt.examples, len(turns.prompt.chat.turns)) == ("", 8)  # type: ignore[union-attr]
    assert sorted(turns.prompt.chat.turns[1::2]) == ["Business", "Sci/Tech", "Sports", "World"]  # type: ignore[union-attr]
    assert turns.prompt.solved
    assert inside.prompt.solved == inside.prompt.examples


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


def test_a_run_of_millions_has_a_thousand_shards() -> None:
    """Each is a task and a part: what has to be listed does not grow with the items."""
    assert [_shard_size("cpu", num) for num in (0, 10, 2_000_000, 10_000_000)] == [2000, 2000, 2000, 10_000]
    assert _shard_size("cuda", 10_000_001) == 10_001


@given(st.lists(st.integers(0, 3000), min_size=1, max_size=60), st.integers(1, 60), st.integers(1, 20))
def test_shards_of_long_texts_hold_fewer(lengths: list[int], shard_size: int, rows_in_group: int) -> None:
    """About so many bytes, told by what a row group holds, or one text; the texts of all shards are all texts."""
    pending = pa.BufferOutputStream()
    texts = [f"{number} " + "x" * length for number, length in enumerate(lengths)]
    pq.write_table(pa.table({"text": texts}), pending, row_group_size=rows_in_group, use_dictionary=False)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("pipeline.sharding.BYTES_IN_SHARD", 4000)
        shards = cut_shards("p", pa.BufferReader(pending.getvalue()), shard_size)  # type: ignore[arg-type]
    assert [i for shard in shards for i in range(shard.start, shard.stop)] == list(range(len(lengths)))
    groups = [texts[i : i + rows_in_group] for i in range(0, len(texts), rows_in_group)]
    most = [max(1, 4000 // (sum(map(len, group)) / len(group))) for group in groups]
    for shard in shards:
        rows = range(shard.start, shard.stop)
        assert len(rows) <= shard_size
        assert len(rows) <= max(most[row // rows_in_group] for row in rows)


def test_the_default_configuration_is_the_demonstration(tmp_path: Path) -> None:
    """The bundled model is told apart by its name."""
    assert target_of(tmp_path).is_demonstration
    assert RunConfig().dataset == "sample"
