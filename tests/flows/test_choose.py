"""`labelscore choose`: what it says is what whole runs say, it scores no more than that takes, and nothing stops it."""

import json
import re
import shutil
import signal
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
import tomli_w
from safetensors.numpy import load_file, save_file

from pipeline.analysis import load_run
from pipeline.bundled import demo_model_path, sample_path
from pipeline.choice_loading import load_choice_config
from pipeline.choice_settings import settings_of
from pipeline.choosing.order import draw_order
from pipeline.choosing.race import BATCH, Race
from pipeline.storing.choices import read_choice
from pipeline.storing.files import Output
from pipeline.storing.layout import CHOICE_FILES, CHOICE_MANIFEST, ITEMS
from pipeline.storing.upkeep import prune, status, verify
from tests.flows.conftest import Command
from tests.flows.runs import start_command, wait_for

RULES = ("sum", "mean_token", "mean_char", "mean_byte", "logit", "pmi", "contextual")
# What may differ between two choices.
TIMES = ("finished", "seconds", "num_scored", "config", "sha256", "files", "last_run")


def write_rows(path: Path, num_parts: int = 1, *, odd: bool = False) -> Path:
    """The sample's items, so often with a number behind them; `odd`: some repeat, without gold or with another one."""
    sample = pl.read_ndjson(sample_path("test")).select("text", "label")
    rows = pl.concat([sample.with_columns(pl.col("text") + " ." * part) for part in range(num_parts)])
    if odd:
        classes = rows["label"].unique().sort()
        other = rows.head(6).with_columns(label=pl.lit(classes[0], rows.schema["label"]))
        unknown = rows.slice(20, 5).with_columns(label=pl.lit(None, rows.schema["label"]))
        rows = pl.concat([rows, rows.slice(10, 8), other, unknown]).sample(fraction=1, shuffle=True, seed=3)
    rows.write_ndjson(path)
    return path


def another_model(folder: Path) -> Path:
    """The demonstration model with other weights and a chat template, in a folder of the same name."""
    model = folder / demo_model_path().name
    shutil.copytree(demo_model_path(), model)
    (weights,) = model.glob("*.safetensors")
    tensors = load_file(weights)
    generator = np.random.default_rng(5)
    for name, tensor in tensors.items():
        tensors[name] = (tensor + generator.normal(0, 0.02, tensor.shape)).astype(tensor.dtype)
    save_file(tensors, weights, metadata={"format": "pt"})
    settings = json.loads((model / "tokenizer_config.json").read_text())
    template = (
        "{% for m in messages %}Q: {{ m['content'] }}\n{% endfor %}{% if add_generation_prompt %}"
        "{% if enable_thinking %}Think.\n{% endif %}A:{% endif %}"
    )
    (model / "tokenizer_config.json").write_text(json.dumps({**settings, "chat_template": template}))
    return model


def choice_of(out: Path) -> dict[str, Any]:
    found = read_choice(Output(out, create=False))
    assert found is not None
    return found


def same(choice: Mapping[str, Any]) -> dict[str, Any]:
    """What must not differ between a choice that was disturbed and one that was not."""
    return {name: value for name, value in choice.items() if name not in TIMES}


def race_over_whole_runs(
    labelscore: Command, offers: dict[str, Any], folder: Path
) -> tuple[Race, list[tuple[str, str]], dict[tuple[str, str], np.ndarray]]:
    """The same question answered from whole runs of all that is offered: the race, its arms, all their answers."""
    config = load_choice_config(None, None, offers)
    answers: dict[tuple[str, str], np.ndarray] = {}
    folder.mkdir()
    for number, setting in enumerate(settings_of(config)):
        file, out = folder / f"{number}.toml", folder / str(number)
        run = setting.config.model_copy(update={"out": str(out), "rule": "sum"})
        file.write_text(tomli_w.dumps(run.model_dump(exclude_defaults=True, exclude_none=True)))
        done = labelscore("run", str(file))
        assert done.code == 0, done.err
        predictions = load_run(out).predictions.collect()
        order = draw_order(out / ITEMS, ["text_hash"], config.draw_seed).rows
        for offer in setting.offers:
            for rule in config.rules:
                own = predictions.filter(prompt=offer.key, rule=rule).sort("item_id")["correct"]
                answers[offer.name, rule] = own.gather(order).to_numpy()
    names = list(dict.fromkeys(name for name, _ in answers))
    arms = [(name, rule) for name in names for rule in config.rules]
    right = np.array([answers[arm] for arm in arms])
    num_items = right.shape[1] if config.these_alone else None
    race = Race([names.index(name) for name, _ in arms], config.within / 100, num_items)
    for first in range(0, right.shape[1], BATCH):
        race.add(right[:, first : first + BATCH])
        if race.named is not None:
            break
    return race, arms, answers


def assert_same(choice: Mapping[str, Any], race: Race, arms: list[tuple[str, str]]) -> None:
    """Each arm went as in the race."""
    assert choice["num_looked_at"] == race.num_items
    assert len(choice["arms"]) == len(arms)
    for found in choice["arms"]:
        arm = arms.index((found["candidate"], found["rule"]))
        state = "named" if arm == race.named else "in" if race.is_in[arm] else "out"
        assert found["state"] == state
        assert found["num_right"] == race.num_right[arm]
        assert found["num_items"] == race.num_scored[arm]
        assert (found["out_after"] or 0) == race.out_after[arm]
        assert (found["behind"], found["num_common"]) == race.behind(arm)


def test_a_choice_says_what_whole_runs_say(labelscore: Command, tmp_path: Path) -> None:
    """Of rows that repeat, disagree and lack labels; then a run scores what is left and nothing else."""
    data, out = write_rows(tmp_path / "rows.jsonl", 2, odd=True), tmp_path / "out"
    offers = {"dataset": str(data), "prompt": ["answer", "topic", "described"], "within": 5, "out": str(out)}
    race, arms, answers = race_over_whole_runs(labelscore, offers, tmp_path / "whole")
    assert race.named is not None  # else this would say little
    prompts = [part for name in offers["prompt"] for part in ("--prompt", name)]
    done = labelscore("choose", "--dataset", str(data), *prompts, "--within", "5", "--out", str(out))
    assert done.code == 0, done.err
    choice = choice_of(out)
    assert_same(choice, race, arms)
    left_out = {"num_rejected": 0, "num_without_gold": 5, "num_disputed": 4, "num_repeats": 14}
    num_items = len(answers[arms[0]])
    assert choice["items"] == {"num_rows": num_items + 5 + 4 + 14, "num_items": num_items, **left_out}

    fresh, start = choice["fresh"], race.num_items
    right = answers[arms[race.named]][start : start + fresh["num_items"]]
    assert fresh["num_items"] == min(400, len(answers[arms[0]]) - start) == len(right)
    assert fresh["num_right"] == right.sum()

    winner = choice["arms"][0]["candidate"]
    (record,) = (candidate for candidate in choice["candidates"] if candidate["name"] == winner)
    run = labelscore("run", str(out / "choice" / "run.toml"))
    assert run.code == 0, run.err
    num_texts = pl.read_ndjson(data)["text"].n_unique() + 3
    left = num_texts - record["num_forwards"]
    assert f"{left:,} to score" in run.err if left else "nothing to score" in run.err
    assert load_run(out).manifest.headline_rule == choice["arms"][0]["rule"]
    assert verify(Output(out)) == []


def test_models_words_shots_and_chats_are_told_apart(labelscore: Command, tmp_path: Path) -> None:
    """Two models of one folder name, lists of words, solved examples, with and without a chat: as whole runs say."""
    data, out = write_rows(tmp_path / "rows.jsonl"), tmp_path / "out"
    models = [str(another_model(tmp_path / name)) for name in ("a", "b")]
    (weights,) = Path(models[1]).glob("*.safetensors")
    tensors = load_file(weights)
    save_file(
        {name: (tensor * 0.9).astype(tensor.dtype) for name, tensor in tensors.items()}, weights, {"format": "pt"}
    )
    offers = {
        "dataset": str(data),
        "shots_split": str(sample_path("train")),
        "model": models,
        "num_shots": [0, 4],
        "chat_template": [False, True],
        "chat": {"enable_thinking": [False, True]},
        "prompt": ["answer"],
        "limit": 150,
        "words": {"lower": {"World": " world", "Sports": " sports", "Business": " business", "Sci/Tech": " science"}},
        "rule": ["sum", "mean_char", "pmi"],
        "within": 8,
        "out": str(out),
    }
    race, arms, _ = race_over_whole_runs(labelscore, offers, tmp_path / "whole")
    assert len(arms) == 2 * 3 * 2 * 2 * 3
    assert len(race.running) < 24  # some went out: their prompts were not scored to the end
    file = tmp_path / "offers.toml"
    file.write_text(tomli_w.dumps(offers))
    done = labelscore("choose", str(file), "--json")
    assert done.code == 0, done.err
    choice = json.loads(done.out)
    assert_same(choice, race, arms)
    items = {row["text"] for row in pl.read_ndjson(data).to_dicts()}
    shots = set(pl.read_ndjson(sample_path("train"))["text"])
    assert not items & shots
    assert same(choice) == same(choice_of(out))


def test_a_budget_ends_it_and_a_larger_one_goes_on(labelscore: Command, tmp_path: Path) -> None:
    """Nothing is scored twice, and in the end it is as it would have been at once."""
    data = write_rows(tmp_path / "rows.jsonl", 3)
    options = ["choose", "--dataset", str(data), "--prompt", "answer", "--prompt", "topic", "--within", "5"]
    cut, whole = tmp_path / "cut", tmp_path / "whole"
    done = labelscore(*options, "--budget", "250", "--out", str(cut))
    assert done.code == 0, done.err
    assert "not decided" in done.out.lower()
    choice = choice_of(cut)
    assert (choice["ending"], choice["num_looked_at"]) == ("budget", 100)
    assert choice["num_forwards"] == choice["num_scored"] == 2 * (100 + 3)
    assert choice["fresh"] is None
    assert not (cut / "choice" / "run.toml").exists()

    assert labelscore(*options, "--out", str(cut)).code == 0
    assert labelscore(*options, "--out", str(whole)).code == 0
    assert same(choice_of(cut)) == same(choice_of(whole))
    assert choice_of(cut)["num_scored"] + choice["num_scored"] == choice_of(whole)["num_scored"]


def test_these_alone_are_always_decided(labelscore: Command, tmp_path: Path) -> None:
    """Asked about the items themselves, the last one ends every doubt; there is no fresh one then, and it says so."""
    data = tmp_path / "rows.jsonl"
    pl.read_ndjson(sample_path("test")).head(70).write_ndjson(data)
    options = ["choose", "--dataset", str(data), "--prompt", "answer", "--prompt", "topic", "--rule", "sum"]
    open_end = labelscore(*options, "--within", "1", "--out", str(tmp_path / "open"))
    assert choice_of(tmp_path / "open")["ending"] == "no more items"
    assert "--these-alone" in open_end.out
    closed = labelscore(*options, "--within", "1", "--these-alone", "--out", str(tmp_path / "closed"))
    choice = choice_of(tmp_path / "closed")
    assert (choice["ending"], choice["num_looked_at"], choice["fresh"]) == ("named", 70, None)
    assert max(choice["arms"], key=lambda arm: arm["num_right"]) == choice["arms"][0]
    assert "no fresh" in closed.out.lower() or "no item" in closed.out.lower(), closed.out


def command(data: Path, out: Path | str) -> list[str]:
    prompts = ["--prompt", "answer", "--prompt", "topic", "--prompt", "detailed"]
    return ["choose", "--dataset", str(data), *prompts, "--within", "1", "--out", str(out)]


def test_whatever_was_killed_ends_as_if_nothing_had_been(
    tmp_path: Path, server_env: dict[str, str], labelscore: Command
) -> None:
    """SIGKILL while the first block is scored, later, and while the result is written; nothing is scored twice."""
    data, out, whole = write_rows(tmp_path / "rows.jsonl", 4), tmp_path / "out", tmp_path / "whole"
    assert labelscore(*command(data, whole)).code == 0
    scored = 0
    for number, words in enumerate(("3 candidates", " 150 items", " 700 items")):
        run = start_command(command(data, out), tmp_path / f"{number}.log", server_env)
        wait_for(run, words)
        run.send(signal.SIGKILL)
        assert run.wait() == -signal.SIGKILL, run.said()
        assert run.leftovers() == []
        assert not (out / CHOICE_MANIFEST).exists()
    found = status(Output(out)).stored
    assert {each.state for each in found} == {"offered"}  # and no later prune takes it for stale
    scored = sum(each.num_texts for each in found)
    assert labelscore(*command(data, out)).code == 0
    assert same(choice_of(out)) == same(choice_of(whole))
    assert choice_of(out)["num_scored"] + scored == choice_of(whole)["num_scored"]
    assert verify(Output(out)) == []


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_one_asked_to_stop_says_so_in_one_line(
    number: signal.Signals, tmp_path: Path, server_env: dict[str, str]
) -> None:
    """Exit code 1, what was scored is kept."""
    data, out = write_rows(tmp_path / "rows.jsonl", 4), tmp_path / "out"
    run = start_command(command(data, out), tmp_path / "log", server_env)
    wait_for(run, " 100 items")
    run.send(number)
    assert run.wait() == 1
    (line,) = [line for line in run.said().splitlines() if not re.match(r"\d\d:\d\d:\d\d ", line)]
    assert re.search("stopped on request.*run the same command to go on", line)
    assert sum(each.num_texts for each in status(Output(out)).stored) >= 3 * 100
    assert run.leftovers() == []


def test_prune_keeps_what_a_choice_has_scored_until_a_run_has_followed(labelscore: Command, tmp_path: Path) -> None:
    """Also beside an older run; after a later one the candidates that lost go."""
    data, out = write_rows(tmp_path / "rows.jsonl"), tmp_path / "out"
    assert labelscore("run", "--dataset", str(data), "--prompt", "answer", "--out", str(out)).code == 0
    time.sleep(1.1)  # a manifest's times are whole seconds
    options = ["--prompt", "answer", "--prompt", "topic", "--prompt", "described", "--rule", "sum", "--within", "20"]
    assert labelscore("choose", "--dataset", str(data), *options, "--out", str(out)).code == 0
    assert prune(Output(out), dry_run=True) == []
    assert "offered" in labelscore("status", str(out)).out
    time.sleep(1.1)
    assert labelscore("run", str(out / "choice" / "run.toml")).code == 0
    assert {file.reason.split("'")[1] for file in prune(Output(out), dry_run=True)} == (
        {"answer", "topic", "described"} - {choice_of(out)["arms"][0]["candidate"]}
    )


@pytest.mark.parametrize("name", CHOICE_FILES)
def test_verify_notices_what_changed_in_a_choice(labelscore: Command, tmp_path: Path, name: str) -> None:
    out = tmp_path / "out"
    assert (
        labelscore("choose", "--prompt", "answer", "--prompt", "topic", "--within", "20", "--out", str(out)).code == 0
    )
    assert verify(Output(out)) == []
    data = (out / name).read_bytes()
    (out / name).write_bytes(data[:-2] + bytes([data[-2] ^ 1]) + data[-1:])
    assert [finding.name for finding in verify(Output(out))] == [name]
    (out / name).unlink()
    assert [finding.name for finding in verify(Output(out))] == [name]


def test_two_of_the_same_are_refused(labelscore: Command, tmp_path: Path) -> None:
    """They would be scored once and counted twice."""
    file = tmp_path / "offers.toml"
    words = {"World": " World", "Sports": " Sports", "Business": " Business", "Sci/Tech": " Sci/Tech"}
    as_written = {"mine": dict(reversed(words.items())), "yours": list(words.values())}  # by name, by the order of ids
    tables = {name: {"template": "Article: {text}\nTopic:", "labels": labels} for name, labels in as_written.items()}
    file.write_text(tomli_w.dumps({"prompts": tables, "prompt": ["mine", "yours"]}))
    done = labelscore("choose", str(file), "--out", str(tmp_path / "out"))
    assert done.code == 2
    assert "'mine' and 'yours' ask the very same; leave one of them out" in done.err


def test_items_without_gold_labels_leave_nothing_to_choose_by(labelscore: Command, tmp_path: Path) -> None:
    data = tmp_path / "rows.jsonl"
    pl.read_ndjson(sample_path("test")).select("text").write_ndjson(data)
    options = ["--prompt", "answer", "--prompt", "topic", "--label-names", "ag_news"]
    done = labelscore("choose", "--dataset", str(data), *options, "--out", str(tmp_path / "out"))
    assert (done.code, len(done.complaints)) == (2, 1)
    assert "no item has a gold label" in done.err


def write_news(path: Path) -> Path:
    """Items of two columns: few titles, each over many texts."""
    sample = pl.read_ndjson(sample_path("test")).select("text", "label")
    titles = pl.int_range(pl.len()) % 3
    sample.with_columns(title=pl.format("Title {}", titles)).write_ndjson(path)
    return path


def news_offers(data: Path, out: Path, prompts: dict[str, str], **keys: Any) -> dict[str, Any]:
    words = {"World": " World", "Sports": " Sports", "Business": " Business", "Sci/Tech": " Sci/Tech"}
    tables = {name: {"template": template, "labels": words} for name, template in prompts.items()}
    keys |= {"dataset": str(data), "out": str(out), "label_names": "ag_news", "rule": ["sum"]}
    return {"prompts": tables, "prompt": list(tables), **keys}


def test_a_candidate_may_be_called_as_a_prompt_that_reads_something_else(labelscore: Command, tmp_path: Path) -> None:
    """Names decide nothing: with another name for it all answers are the same."""
    data, found = write_news(tmp_path / "news.jsonl"), []
    for other in ("q, 0 shots", "other"):
        out = tmp_path / other.replace(" ", "-")
        prompts = {"q": "{title}: {text}\nTopic:", other: "Headline: {title}\nTopic:"}
        keys = {"num_shots": [0, 4], "shots_split": str(tmp_path / "solved.jsonl"), "within": 0.1}
        solved = pl.read_ndjson(sample_path("train")).with_columns(title=pl.lit("Title")).head(40)
        solved.write_ndjson(tmp_path / "solved.jsonl")
        (tmp_path / "offers.toml").write_text(tomli_w.dumps(news_offers(data, out, prompts, **keys)))
        done = labelscore("choose", str(tmp_path / "offers.toml"), "--json")
        assert done.code == 0, done.err
        arms = {re.sub(f"^{other},", "that,", arm["candidate"]): arm for arm in json.loads(done.out)["arms"]}
        found.append({name: (arm["num_right"], arm["out_after"]) for name, arm in arms.items()})
    assert found[0] == found[1]
    assert len(found[0]) == 4


def test_what_reads_no_more_leaves_the_order_as_it_is(labelscore: Command, tmp_path: Path) -> None:
    """With another prompt over the same columns, or fewer, and a list of words, only what is new is scored."""
    data, out = write_news(tmp_path / "news.jsonl"), tmp_path / "out"
    prompts = {"a": "{title}: {text}\nTopic:", "b": "{title}\n{text}\nThis is about"}
    more = {**prompts, "c": "{text} ({title})\nTopic:", "0": "{text}\nTopic:"}
    words = {"World": " world", "Sports": " sport", "Business": " money", "Sci/Tech": " science"}
    records = []
    for offers in (
        news_offers(data, out, prompts, within=0.1, limit=100),
        news_offers(data, out, more, within=0.1, limit=100, words={"w": words}),
    ):
        (tmp_path / "offers.toml").write_text(tomli_w.dumps(offers))
        assert labelscore("choose", str(tmp_path / "offers.toml")).code == 0
        records.append(choice_of(out))
    before, after = records
    arms = [{arm["candidate"]: arm["num_right"] for arm in record["arms"]} for record in records]
    seen = [{arm["candidate"]: arm["num_items"] for arm in record["arms"]} for record in records]
    common = {name for name in ("a", "b") if seen[0][name] == seen[1][name]}
    assert common
    assert {name: arms[0][name] for name in common} == {name: arms[1][name] for name in common}
    known = {c["name"]: c["num_forwards"] for c in before["candidates"]}
    new = sum(max(0, c["num_forwards"] - known.get(c["name"], 0)) for c in after["candidates"])
    assert after["num_scored"] == new


def test_broken_rows_are_left_out_and_told(labelscore: Command, tmp_path: Path) -> None:
    rows = [*pl.read_ndjson(sample_path("test")).head(60).to_dicts(), {"text": None, "label": "World"}, {"text": " "}]
    data = tmp_path / "rows.jsonl"
    data.write_text("".join(f"{json.dumps({k: r.get(k) for k in ('text', 'label')})}\n" for r in rows))
    options = ["--prompt", "answer", "--prompt", "topic", "--within", "20", "--on-bad-row", "skip"]
    done = labelscore("choose", "--dataset", str(data), *options, "--out", str(tmp_path / "out"))
    assert done.code == 0, done.err
    assert "rejected 2 rows" in done.err
    assert "Left out: 2 broken rows" in done.out
    items = choice_of(tmp_path / "out")["items"]
    assert (items["num_rows"], items["num_rejected"], items["num_items"]) == (62, 2, 60)
