"""What is offered to a choice: keys with one value or a list, the runs made of them, and the winner's configuration."""

from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
import tomli_w
from hypothesis import given
from hypothesis import strategies as st

from flows.options import configure_choice
from pipeline.choice_config import ChoiceConfig
from pipeline.choice_loading import load_choice_config
from pipeline.choice_settings import Setting, settings_of, winner_toml
from pipeline.config import PromptTable, RunConfig, check_config, load_config
from pipeline.errors import InputError
from pipeline.target import make_target

WORDS = {"short": [" W", " S", " B", " T"], "long": {"World": " w", "Sports": " s", "Business": " b", "Sci/Tech": " t"}}
MINE = {"template": "{text}\nIt is about", "strip": True}
ALL: dict[str, Any] = {
    "within": 1,
    "budget": 100_000,
    "these_alone": True,
    "model": ["demo", "./models/demo", "smollm2"],
    "num_shots": [0, 4],
    "chat_template": "both",
    "chat": {"enable_thinking": [False, True], "level": ["low", "1", 1], "fixed": 1.5},
    "chat_answer": "So",
    "chat_date": "2026-01-31",
    "shots_as_turns": True,
    "rule": ["pmi", "sum"],
    "prompt": ["topic", "mine"],
    "limit": 500,
    "where": {"subject": "news"},
    "seed": 3,
    "prompts": {"mine": MINE, "unused": {"template": "{text}", "labels": ["a", "b"]}},
    "words": WORDS,
}


def offer(**keys: Any) -> ChoiceConfig:
    """A configuration of these keys, as from the command line."""
    return load_choice_config(None, None, keys)


def write(path: Path, keys: dict[str, Any]) -> str:
    path.write_text(tomli_w.dumps(keys))
    return str(path)


def names(config: ChoiceConfig) -> list[str]:
    return [each.name for setting in settings_of(config) for each in setting.offers]


# Keys


def test_nothing_said_offers_every_rule_of_the_embedded_run() -> None:
    """The bundled sample, model and prompt, under all rules that look at one item; the output is that of the run."""
    config = offer()
    assert (config.within, config.budget, config.these_alone) == (2.0, None, False)
    assert config.rules == ("sum", "mean_token", "mean_char", "mean_byte", "logit", "pmi", "contextual")
    assert config.output == RunConfig().output
    (setting,) = settings_of(config)
    assert setting.config == RunConfig(out=config.output)
    assert [each.name for each in setting.offers] == ["answer"]


def test_one_value_is_a_list_of_it() -> None:
    """In the file as on the command line, where words stand for numbers and truth."""
    one = {"model": "m", "num_shots": 4, "chat_template": True, "chat": {"x": 1}, "rule": "sum", "prompt": "topic"}
    several = {name: [value] for name, value in one.items()} | {"chat": {"x": [1]}}
    typed = {**several, "num_shots": ["4"], "chat_template": ["yes"], "chat": ["x=1"], "words": WORDS}
    assert offer(**one, words=WORDS) == offer(**several, words=WORDS) == configure_choice(None, typed)


@pytest.mark.parametrize(
    ("said", "read"),
    [
        ("both", (False, True)),
        (["both"], (False, True)),
        ("yes", (True,)),
        ("no", (False,)),
        (["yes", "no"], (True, False)),
        (True, (True,)),
        ([True, False], (True, False)),
    ],
)
def test_a_chat_template_may_be_offered_both_ways(said: object, read: tuple[bool, ...]) -> None:
    """By one word, by the words of the command line, or by a list in any order."""
    assert offer(chat_template=said).chat_template == read


def test_several_values_of_a_variable_may_be_typed() -> None:
    """Each pair is a value more, and is read as in the file."""
    config = configure_choice(None, {"chat_template": ["yes"], "chat": ["think=false", "think=true", "x=high", "x=1"]})
    assert config.chat == {"think": (False, True), "x": ("high", 1)}


def test_later_layers_win_whole(tmp_path: Path) -> None:
    """The command line's list takes the place of the file's, and that of the preset's."""
    file = write(tmp_path / "c.toml", {"num_shots": [0, 4], "model": ["a", "b"]})
    config = load_choice_config(file, "notebook", {"num_shots": ["8"]})
    assert (config.num_shots, config.models, config.run.split) == ((8,), ("a", "b"), "test[:50]")
    assert config.run.prompt == ("detailed", "described", "topic-science", "topic")


def test_what_a_preset_shows_beside_a_run_is_left_out() -> None:
    """Its published figures and the notebook's rule, which nobody typed, say nothing here."""
    config = load_choice_config(None, "notebook", {})
    assert (config.run.published, config.run.notebook_rule) == ({}, False)


def test_all_prompts_of_the_file_are_offered_where_none_is_named() -> None:
    """Who writes two prompts and forgets to name them must not have chosen among the rules of a third."""
    tables = {name: {"template": f"{name} {{text}}", "labels": ["a", "b"]} for name in "pq"}
    assert offer(prompts=tables).run.prompt == ("p", "q")
    assert offer(prompts=tables, prompt="topic").run.prompt == ("topic",)


def test_rules_for_fixed_labels_are_not_offered_with_items_own_choices() -> None:
    """They compare the same label over all items."""
    config = offer(prompts={"mine": {"template": "{question}", "choices": "options"}})
    assert config.rules == ("sum", "mean_token", "mean_char", "mean_byte", "logit")


def test_an_output_says_where_several_models_meet() -> None:
    """With one model it is that of a run, which finds the scores; a named one is taken as it is."""
    assert offer(model="a/b").output == RunConfig(model="a/b").output == "data/runs/sample-b"
    assert offer(model=["a/b", "c"]).output == "data/runs/sample-choice"
    assert offer(model=["a/b", "c"], dataset="x/news").output == "data/runs/x--news-choice"
    assert offer(model=["a/b", "c"], out="here").output == "here"
    assert {setting.config.output for setting in settings_of(offer(model=["a/b", "c"]))} == {"data/runs/sample-choice"}


def test_a_choice_goes_through_json_unchanged_with_what_it_uses() -> None:
    """Truth, numbers and texts stay what they are: Prefect passes it on as JSON. Prompts not offered stay behind."""
    config = offer(**ALL)
    again = ChoiceConfig.model_validate_json(config.used.model_dump_json())
    assert again == config.used
    assert settings_of(again) == settings_of(config)
    assert [*map(type, again.chat["level"])] == [str, str, int]
    assert list(config.used.run.prompts) == ["mine"]
    assert (config.source, config.draw_seed) == ("sample", 3)


def test_more_arms_than_memory_holds_pairs_of_are_refused() -> None:
    """Two thousand can be offered; one list of words more is refused, with the numbers."""
    words = {f"w{number}": [f" {number} {place}" for place in range(4)] for number in range(1000)}
    keys: dict[str, Any] = {"prompt": ["answer"], "rule": ["sum", "pmi"]}
    assert len(settings_of(offer(**keys, words=dict(list(words.items())[:999])))[0].offers) == 1000
    with pytest.raises(InputError, match=r"1,001 candidates under 2 rules are 2,002 arms, .* at most 2,000"):
        offer(**keys, words=words)


@pytest.mark.parametrize("limit", [None, 50, 7])
def test_a_budget_holds_one_look_at_least(limit: int | None) -> None:
    """At a batch of items, or at all there are, under each candidate; one forward less is refused with the number."""
    keys = {"prompt": ["answer", "topic"], "num_shots": [0, 4, 8]} | ({"limit": limit} if limit else {})
    least = 6 * (min(50, limit or 50) + 3)  # with the content-free texts
    assert offer(**keys, budget=least).budget == least
    with pytest.raises(InputError, match=f"give it {least} or more"):
        offer(**keys, budget=least - 1)


@given(st.text(max_size=200))
def test_any_text_as_toml_is_an_offer_or_one_line(tmp_path_factory: pytest.TempPathFactory, text: str) -> None:
    """Whatever stands in the file, nothing but InputError comes out."""
    path = tmp_path_factory.mktemp("fuzz") / "offers.toml"
    path.write_bytes(text.encode("utf-8", "surrogatepass"))
    with suppress(InputError):
        load_choice_config(str(path), None, {})


VALUES = st.recursive(
    st.none() | st.booleans() | st.integers(-2, 9) | st.floats() | st.sampled_from(["both", "sum", "answer", "", "a"]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(["a", "template", ""]), inner),
    max_leaves=4,
)
KEYS = ("within", "budget", "model", "prompt", "num_shots", "chat_template", "chat", "rule", "words", "prompts")


@given(st.dictionaries(st.sampled_from(KEYS), VALUES, max_size=4))
def test_any_values_are_an_offer_or_one_line(keys: dict[str, Any]) -> None:
    """Of whatever type; and what is an offer has two arms at least, in settings that a run would take."""
    config = None
    with suppress(InputError):
        config = offer(**keys)
    if config is not None:
        assert len(names(config)) * len(config.rules) >= 2
        for setting in settings_of(config):
            check_config(setting.config, {})


# Settings


def test_every_combination_is_offered_once() -> None:
    """The slow oracle: loops over all axes. Variables stand with a chat alone; a prompt without words takes lists."""
    config = offer(**ALL)
    prompts = [("topic", None), ("topic", "short"), ("topic", "long"), ("mine", "short"), ("mine", "long")]
    expected = []
    for model in ["demo", "./models/demo", "smollm2"]:
        for chat in [False, True]:
            for thinking in [False, True] if chat else [None]:
                for level in ["low", "1", 1] if chat else [None]:
                    for num_shots in [0, 4]:
                        known = {"enable_thinking": thinking, "level": level, "fixed": 1.5} if chat else {}
                        expected.append((model, chat, known, num_shots, prompts))
    settings = settings_of(config)
    assert expected == [
        (each.model, each.chat, each.variables, each.num_shots, [(of.prompt, of.words) for of in each.offers])
        for each in settings
    ]
    assert len(set(names(config))) == len(names(config)) == 3 * 2 * 7 * 5


def test_a_setting_is_a_complete_run() -> None:
    """Its configuration passes all that a run has to, and says of chat and turns what this setting has of them."""
    for each in settings_of(offer(**ALL)):
        run = each.config
        check_config(run, {})
        assert RunConfig.model_validate(run.model_dump()) == run
        assert (run.model, run.num_shots or 0, run.chat_template, run.chat) == (
            each.model, each.num_shots, each.chat, each.variables,
        )  # fmt: skip
        assert (run.chat_answer, run.chat_date) == (("So", "2026-01-31") if each.chat else (None, None))
        assert run.shots_as_turns == (each.chat and each.num_shots > 0)
        assert (run.limit, run.where, run.seed) == (500, {"subject": "news"}, 3)
        assert run.prompt == tuple(of.key for of in each.offers)
        assert set(run.prompts) == {"topic/short", "topic/long", "mine/short", "mine/long"}


def test_a_list_of_words_changes_the_words_alone() -> None:
    """A built-in prompt keeps its template and boundary, one of the user's own all that it says."""
    prompts = settings_of(offer(**ALL))[0].config.prompts
    assert prompts["topic/short"].boundary == "separate"
    assert prompts["topic/short"].labels == tuple(WORDS["short"])
    assert prompts["topic/long"].labels == WORDS["long"]
    assert prompts["mine/long"] == PromptTable.model_validate({**MINE, "labels": WORDS["long"]})


def test_templates_that_differ_in_their_words_alone_share_a_list_of_words() -> None:
    """`topic` and `topic-science` are one with other words; a list that repeats a prompt's own words adds nothing."""
    own = {"own": ["World", "Sports", "Business", "Sci/Tech"], "other": ["a", "b", "c", "d"]}
    assert names(offer(prompt=["topic", "topic-science"], words=own)) == ["topic", "topic/other", "topic-science"]


@pytest.mark.parametrize(
    ("keys", "expected"),
    [
        ({"prompt": ["answer", "topic"]}, ["answer", "topic"]),
        ({"num_shots": [0, 1, 8]}, ["answer, 0 shots", "answer, 1 shot", "answer, 8 shots"]),
        ({"chat_template": "both"}, ["answer, no chat", "answer, chat"]),
        (
            {"chat_template": True, "chat": {"think": [True, False], "x": 1}},
            ["answer, think=true", "answer, think=false"],
        ),
        ({"chat_template": True, "chat": {"x": [1, "1", 1.0]}}, ["answer, x=1", 'answer, x="1"', "answer, x=1.0"]),
        ({"model": ["demo", "org/one"]}, ["answer, demo", "answer, one"]),
        ({"model": ["a/one", "b/one", "./two/"]}, ["answer, a/one", "answer, b/one", "answer, two"]),
        ({"words": {"w": ["a", "b", "c", "d"]}, "num_shots": 4}, ["answer", "answer/w"]),
    ],
)
def test_a_name_says_what_differs_and_no_more(keys: dict[str, Any], expected: list[str]) -> None:
    """What all share is not repeated; values that look alike are told apart."""
    assert names(offer(**keys)) == expected


# The winner


def settings_and_keys() -> list[tuple[Setting, str]]:
    return [(setting, of.key) for setting in settings_of(offer(**ALL)) for of in setting.offers]


def test_the_winners_file_is_a_run_of_it_alone(tmp_path: Path) -> None:
    """For every candidate: loaded, it is that setting with one prompt, its rule and its output."""
    for setting, key in settings_and_keys():
        file = tmp_path / "run.toml"
        file.write_text(winner_toml(setting, key, "out/here", "mean_byte"), encoding="utf-8")
        loaded = load_config(str(file), None, {})
        changes: dict[str, Any] = {"prompt": (key,), "out": "out/here", "rule": "mean_byte"}
        changes["prompts"] = {name: table for name, table in setting.config.prompts.items() if name == key}
        assert loaded == setting.config.model_copy(update=changes)


@pytest.mark.parametrize("key", ["answer", "topic/short", "mine/short"])
def test_the_winners_scores_are_those_of_the_choice(key: str, tmp_path: Path) -> None:
    """The same fingerprint from the file as from the setting, so that a run scores only the rest."""
    keys: dict[str, Any] = {"prompt": ["answer", "topic", "mine"], "words": WORDS, "prompts": {"mine": MINE}}
    config = offer(**keys, num_shots=[0, 4])
    setting = settings_of(config)[1]
    file = tmp_path / "run.toml"
    file.write_text(winner_toml(setting, key, config.output), encoding="utf-8")
    loaded = load_config(str(file), None, {})
    (stored,) = make_target(loaded).prompts
    of_choice = {each.prompt.name: each for each in make_target(setting.config).prompts}
    assert stored == of_choice[key]
    assert stored.prompt.examples


TEXTS = st.text(st.characters(exclude_categories=["Cs"]), min_size=1)


@given(TEXTS, st.lists(TEXTS, min_size=2, max_size=3, unique=True), TEXTS, st.integers(), st.floats(allow_nan=False))
def test_any_words_are_written_so_that_they_are_read_again(
    tmp_path_factory: pytest.TempPathFactory, name: str, labels: list[str], value: str, seed: int, number: float
) -> None:
    """Quotes, line breaks, control characters, any alphabet; numbers of any size."""
    table = PromptTable.model_validate({"template": f"{name}{{text}}", "labels": labels, "strip": True})
    run = RunConfig(prompt=(name,), prompts={name: table}, where={name: value, "n": number}, seed=seed, out="o")
    setting = Setting(run, "demo", 0, False, {}, ())
    file = tmp_path_factory.mktemp("winner") / "run.toml"
    file.write_text(winner_toml(setting, name, "o"), encoding="utf-8", newline="")
    with suppress(InputError):  # words that no run would take
        assert load_config(str(file), None, {}) == run
