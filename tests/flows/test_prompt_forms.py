"""Runs whose prompts are more than a template, and models that take no tree: the stored scores are the slow ones."""

import shutil
import subprocess
import sys
from pathlib import Path

import polars as pl
import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, BloomConfig, BloomForCausalLM

from pipeline.analysis import load_run
from pipeline.bundled import demo_model_path, sample_path
from pipeline.prompts import AG_NEWS
from pipeline.shots import SEPARATOR, Example, draw_shots

CHAT = (
    "{{ bos_token }}{% for message in messages %}<start_of_turn>{{ message['role'] }}\n"
    "{{ message['content'] }}<end_of_turn>\n{% endfor %}{% if add_generation_prompt %}<start_of_turn>model\n{% endif %}"
)
NUM_ITEMS = 6


def run(*arguments: str, cwd: Path) -> str:
    """Run the command; returns what it said on standard error."""
    command = [sys.executable, "-m", "flows.cli", "run", "--limit", str(NUM_ITEMS), "--out", "out", *arguments]
    done = subprocess.run(command, cwd=cwd, capture_output=True, text=True, timeout=600, check=False)
    assert done.returncode == 0, done.stderr
    return done.stderr


@pytest.fixture(scope="module")
def chat_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The bundled model with a chat template of Gemma's form."""
    folder = tmp_path_factory.mktemp("chat") / "model"
    shutil.copytree(demo_model_path(), folder)
    tokenizer = AutoTokenizer.from_pretrained(folder)
    tokenizer.chat_template = CHAT
    tokenizer.save_pretrained(folder)
    return folder


@pytest.mark.parametrize("num_shots", [0, 4])
def test_chat_and_shots_store_the_scores_of_the_whole_conversation(
    num_shots: int, chat_model: Path, tmp_path: Path
) -> None:
    """Each stored log-likelihood is that of the label's words after the template that the tokenizer renders; before
    every item stand the same solved examples, as many of each class."""
    forms = ("--chat-template", "--num-shots", str(num_shots))
    run("--model", str(chat_model), *forms, cwd=tmp_path)
    scores = pl.read_parquet(tmp_path / "out" / "scores" / "scores.parquet")
    texts = dict(pl.read_parquet(tmp_path / "out" / "items.parquet").select("item_id", "text").iter_rows())
    assert scores.height == 4 * NUM_ITEMS

    tokenizer, model = AutoTokenizer.from_pretrained(chat_model), AutoModelForCausalLM.from_pretrained(chat_model)
    shots = shots_of(num_shots)
    for row in scores.iter_rows(named=True):
        content = f"{shots}Article: {texts[row['item_id']]}\nTopic:"
        message = [{"role": "user", "content": content}]
        rendered = tokenizer.apply_chat_template(message, tokenize=False, add_generation_prompt=True)
        prompt = tokenizer(rendered, add_special_tokens=False)["input_ids"]
        whole = tokenizer(rendered + row["label_words"], add_special_tokens=False)["input_ids"]
        assert whole[: len(prompt)] == prompt
        with torch.inference_mode():
            logprobs = model(torch.tensor([whole])).logits[0].log_softmax(-1)
        expected = sum(float(logprobs[i - 1, whole[i]]) for i in range(len(prompt), len(whole)))
        assert row["logprob"] == pytest.approx(expected, abs=1e-4)


def drawn(num_shots: int) -> tuple[Example, ...]:
    """The examples that every run with seed 0 draws."""
    train = pl.read_ndjson(sample_path("train"))
    rows = [Example(text, {"text": text}, label) for text, label in train.select("text", "label").iter_rows()]
    found = draw_shots(rows, num_shots=num_shots, label_names=AG_NEWS, seed=0)
    assert sorted(row.place for row in found) == [0, 1, 2, 3][:num_shots]
    return found


def shots_of(num_shots: int) -> str:
    """The same before an item's own text, written out."""
    words = (" World", " Sports", " Business", " Sci/Tech")
    return "".join(f"Article: {row.text}\nTopic:{words[row.place]}{SEPARATOR}" for row in drawn(num_shots))


DATED = (
    "{{ bos_token }}{% if not date_string is defined %}{% set date_string = strftime_now('%d %b %Y') %}{% endif %}"
    "<start_of_turn>system\n{{ date_string }}{% if calm %} calmly{% endif %}<end_of_turn>\n"
    "{% for message in messages %}<start_of_turn>{{ message['role'] }}\n{{ message['content'] | trim }}<end_of_turn>\n"
    "{% endfor %}{% if add_generation_prompt %}<start_of_turn>assistant\n{% endif %}"
)


RUN = """
chat_template = true
chat_answer = "The topic is"
num_shots = 4
shots_as_turns = true
prompt = ["bare"]

[chat]
calm = false

[prompts.bare]
template = " {text}\\n"
labels = [" World", " Sports", " Business", " Sci/Tech"]
"""


def test_turns_variables_and_the_answers_beginning_are_scored_as_the_conversation_has_them(
    chat_model: Path, tmp_path: Path
) -> None:
    """Examples as a user's message and an answer each, begun as the item's is; the trimmed message of the item, and
    what the answer begins with; the date is told, and kept in the manifest."""
    model_folder = tmp_path / "dated"
    shutil.copytree(chat_model, model_folder)
    tokenizer = AutoTokenizer.from_pretrained(model_folder)
    tokenizer.chat_template = DATED
    tokenizer.save_pretrained(model_folder)
    (tmp_path / "run.toml").write_text(RUN)
    said = run("run.toml", "--model", "dated", "--chat", "calm=true", cwd=tmp_path)
    assert said.count("today's date, which is 2024-07-26 in every run") == 1
    manifest = load_run(tmp_path / "out").manifest
    assert (manifest.chat.date, manifest.chat.trims) == ("2024-07-26", {"bare": "both"})
    report = (tmp_path / "out" / "report" / "report.md").read_text()
    assert 'chat template: yes, calm = true, the answer begins "The topic is"' in report

    model = AutoModelForCausalLM.from_pretrained(model_folder)
    texts = dict(pl.read_parquet(tmp_path / "out" / "items.parquet").select("item_id", "text").iter_rows())
    turns = [
        message
        for row in drawn(4)
        for message in (
            {"role": "user", "content": f" {row.text}\n"},
            {"role": "assistant", "content": f"The topic is {AG_NEWS[row.place]}"},
        )
    ]
    for row in pl.read_parquet(tmp_path / "out" / "scores" / "scores.parquet").iter_rows(named=True):
        messages = [*turns, {"role": "user", "content": f" {texts[row['item_id']]}\n"}]
        rendered = tokenizer.apply_chat_template(
            messages, tokenize=False, add_generation_prompt=True, date_string="26 Jul 2024", calm=True
        )
        prompt, whole = (
            tokenizer(f"{rendered}The topic is{words}", add_special_tokens=False)["input_ids"]
            for words in ("", row["label_words"])
        )
        assert whole[: len(prompt)] == prompt
        with torch.inference_mode():
            logprobs = model(torch.tensor([whole])).logits[0].log_softmax(-1)
        expected = sum(float(logprobs[i - 1, whole[i]]) for i in range(len(prompt), len(whole)))
        assert row["logprob"] == pytest.approx(expected, abs=1e-4)


def test_a_model_that_takes_no_tree_is_scored_in_rows_and_the_run_says_so(tmp_path: Path) -> None:
    """BLOOM's ALiBi cannot follow a tree of labels: one warning with the reason, and the manifest keeps it."""
    tokenizer = AutoTokenizer.from_pretrained(demo_model_path())
    torch.manual_seed(0)
    model = BloomForCausalLM(BloomConfig(vocab_size=len(tokenizer), hidden_size=32, n_layer=2, n_head=4))
    for part in (model, tokenizer):
        part.save_pretrained(tmp_path / "bloom")
    said = run("--model", "bloom", cwd=tmp_path)
    assert said.count("the slower path, a row for each label: ") == 1
    scoring = load_run(tmp_path / "out").manifest["scoring"]
    assert (scoring["path"], bool(scoring["path_reason"])) == ("rows", True)
