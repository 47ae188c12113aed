"""Configuration: layers, unknown keys, label names and prompts."""

from contextlib import suppress
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from flows.options import configure
from pipeline.config import RunConfig, load_config
from pipeline.errors import InputError


def write(folder: Path, text: str) -> str:
    path = folder / "config.toml"
    path.write_text(text)
    return str(path)


def test_defaults_are_the_embedded_run() -> None:
    """Without anything given, the bundled sample is scored by the bundled model with the prompt `answer`."""
    config = load_config(None, None, {})
    assert (config.dataset, config.model, config.prompt) == ("sample", "demo", ("answer",))
    assert config.output == "data/runs/sample-demo"


def test_later_layers_win(tmp_path: Path) -> None:
    """The command line wins over the file, the file over the preset."""
    file = write(tmp_path, 'model = "from-file"\nlimit = 7\n')
    config = load_config(file, "notebook", {"limit": "9"})
    assert (config.split, config.model, config.limit) == ("test[:50]", "from-file", 9)


def test_notebook_preset_is_the_notebook() -> None:
    """Four prompts, Gemma-2B, the first 50 test rows, float32, no truncation, its rule and its published figures."""
    config = load_config(None, "notebook", {})
    assert config.prompt == ("detailed", "described", "topic-science", "topic")
    assert (config.model, config.dataset, config.split) == ("google/gemma-2b", "fancyzhx/ag_news", "test[:50]")
    assert (config.dtype, config.max_text_tokens, config.notebook_rule) == ("float32", None, True)
    assert config.published == {"detailed": 0.32, "described": 0.22, "topic-science": 0.46, "topic": 0.68}


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("batch_token = 5", ["unknown key 'batch_token'", "did you mean 'batch_tokens'", "config.toml"]),
        ("limit = 0", ["'limit'", "greater than or equal to 1", "config.toml"]),
        ('device = "tpu"', ["'device'", "unknown device 'tpu'; use auto, cpu, cuda"]),
        ("[prompts.mine]\ntemplate = 'x'\nlabels = ['a', 'b']", ["'mine'", "the template has no slot"]),
        ("[prompts.mine]\ntemplate = '{text}{{text}}'\nlabels = ['a', 'b']", ["'mine'", "two ways"]),
        ("[prompts.mine]\ntemplate = '{text}'\nlabels = ['a', ' ']", ["'mine'", "empty"]),
        ("[prompts.mine]\ntemplate = '{text}'\nlabels = ['a', 'a']", ["'mine'", "same words 'a'"]),
        ("[prompts.mine]\ntemplate = '{text}'\nlabels = ['a']", ["'mine'", "at least two"]),
        ("[prompts.mine]\ntemplate = '{text}'\nlabels = ['a', 'b']\ncolour = 1", ["prompts.mine.colour", "boundary"]),
        ("[prompts.mine]\nlabels = ['a', 'b']", ["prompts.mine.template", "required"]),
        ('prompt = ["anwser"]', ["unknown prompt 'anwser'", "did you mean 'answer'"]),
        ("rule = 'notebook'", ["--notebook-rule"]),
        ("[chat]\nenable_thinking = false", ["chat (in ", "config.toml", "no chat template", "--chat-template"]),
        ('chat_answer = "So"', ["chat_answer (in ", "--chat-template"]),
        ("chat_date = 2026-01-31", ["chat_date (in ", "--chat-template"]),
        ("shots_as_turns = true\nnum_shots = 2", ["shots_as_turns (in ", "--chat-template"]),
        ("shots_as_turns = true\nchat_template = true", ["shots_as_turns", "num_shots"]),
        ("chat_template = true\nchat_date = 'today'", ["'chat_date'", "YYYY-MM-DD", "'today'"]),
        ("chat_template = true\nchat_date = true", ["'chat_date'", "YYYY-MM-DD"]),
        ("chat_template = true\nchat_answer = ''", ["'chat_answer'"]),
        ("chat_template = true\nchat_answer = 'It is\\n'", ["chat_answer has a backslash"]),
        ("chat_template = true\n[chat]\nx = [1]", ["'chat.x'", "one value"]),
        ('task = ["piqa"]\nchat_template = true\nchat_answer = "So"', ["chat_answer", "no use beside task"]),
        ("a = ", ["not valid TOML"]),
    ],
)
def test_a_mistake_is_one_line_that_names_key_and_place(tmp_path: Path, text: str, words: list[str]) -> None:
    """Unknown keys and bad values are refused with the key, the file and what is allowed."""
    with pytest.raises(InputError) as caught:
        load_config(write(tmp_path, text), None, {})
    message = str(caught.value)
    assert "\n" not in message
    for word in words:
        assert word in message


@given(st.text(max_size=200))
def test_any_text_as_toml_is_a_configuration_or_one_line(tmp_path_factory: pytest.TempPathFactory, text: str) -> None:
    """Whatever stands in the file, nothing but InputError comes out."""
    path = tmp_path_factory.mktemp("fuzz") / "config.toml"
    path.write_bytes(text.encode("utf-8", "surrogatepass"))
    with suppress(InputError):
        load_config(str(path), None, {})


def test_two_data_sets_never_share_an_output(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A hub id is named whole, with its subset; a file has a few digits of its place, whatever it is called by."""
    monkeypatch.chdir(tmp_path)
    for name in ("a/x.csv", "b/x.csv", "a/x.jsonl", "a--b/x.csv"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    named = [{"dataset": name} for name in ("a/x.csv", "b/x.csv", "a/x.jsonl", "a--b/x.csv", "a", "sample")]
    named += [{"dataset": name} for name in ("some/news", "other/news", "some--news", "news")]
    named += [{"dataset": "some/news", "subset": subset} for subset in ("long", "short")]
    outputs = [RunConfig.model_validate(config).output for config in named]
    assert len(set(outputs)) == len(outputs) - 1  # no id on the hub has two dashes in a row
    assert RunConfig(dataset="./a/../a/x.csv").output == RunConfig(dataset=str(tmp_path / "a/x.csv")).output
    assert RunConfig(dataset="fancyzhx/ag_news", model="google/gemma-2b").output == "data/runs/ag_news-gemma-2b"
    assert RunConfig(dataset="other/ag_news").output == "data/runs/other--ag_news-demo"


def test_a_run_takes_along_what_it_uses_and_no_more(tmp_path: Path) -> None:
    """Prompts and published figures of other runs stay in the file."""
    tables = "".join(f"[prompts.p{i}]\ntemplate = '{{text}}'\nlabels = ['a', 'b']\n" for i in range(3))
    config = load_config(write(tmp_path, f'prompt = ["p1"]\npublished = {{ p1 = 0.5, p2 = 0.6 }}\n{tables}'), None, {})
    assert (list(config.used.prompts), config.used.published) == (["p1"], {"p1": 0.5})


def test_chat_dates_are_read_from_toml_and_words(tmp_path: Path) -> None:
    """A date of TOML's own is the same as one in quotes."""
    for text in ("2026-01-31", '"2026-01-31"'):
        config = load_config(write(tmp_path, f"chat_template = true\nchat_date = {text}"), None, {})
        assert config.chat_date == "2026-01-31"


@pytest.mark.parametrize(
    ("typed", "value"),
    [
        ("false", False),
        ("true", True),
        ("3", 3),
        ("-0.5", -0.5),
        ('"3"', "3"),
        ("26 Jul 2024", "26 Jul 2024"),
        ("2024-07-26", "2024-07-26"),
        ("nan", "nan"),
        ("inf", "inf"),
        ("high", "high"),
        ("[1]", "[1]"),
        ("", ""),
    ],
)
def test_variables_of_a_chat_template_are_typed_as_in_the_file(typed: str, value: str | bool | int | float) -> None:
    """Truth, numbers and text; what is none of them in TOML is a text."""
    config = configure(None, {"chat_template": True, "chat": [f"x={typed}"]})
    assert (config.chat, type(config.chat["x"])) == ({"x": value}, type(value))


@pytest.mark.parametrize(
    ("typed", "said"),
    [
        (["x"], "--chat 'x': write a variable and a value, such as --chat enable_thinking=false"),
        (["x=1", "x=2"], "--chat: a variable stands there twice"),
    ],
)
def test_badly_typed_variables_are_told(typed: list[str], said: str) -> None:
    """In words of the option."""
    with pytest.raises(InputError, match=said):
        configure(None, {"chat_template": True, "chat": typed})


@pytest.mark.parametrize("key", ["within = 2", "budget = 100", "these_alone = true", "[words.w]"])
def test_keys_of_a_choice_are_told_from_unknown_ones(tmp_path: Path, key: str) -> None:
    """Somebody gives `labelscore run` what was written for `labelscore choose`."""
    (tmp_path / "offers.toml").write_text(key)
    with pytest.raises(InputError, match=r"unknown key '\w+' in .*; that is a key of 'labelscore choose'; allowed are"):
        load_config(str(tmp_path / "offers.toml"), None, {})
