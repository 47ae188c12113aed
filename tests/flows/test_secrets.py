"""Secrets stay secret, and nothing that a stranger made is run, believed or let out of its place."""

import json
import pickle
import re
import urllib.request
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
from markdown_it import MarkdownIt

from pipeline.config import RunConfig
from tests.flows.bad_inputs import model
from tests.flows.conftest import Command
from tests.flows.runs import start_command

TOKEN = "hf_recogniseThisTokenAnywhere0123456789"


def ask(api: str, what: str) -> list[dict[str, Any]]:
    """All that a Prefect server keeps of one kind."""
    found: list[dict[str, Any]] = []
    while True:
        body = json.dumps({"limit": 200, "offset": len(found)}).encode()
        request = urllib.request.Request(f"{api}/{what}/filter", body, {"Content-Type": "application/json"})
        with urllib.request.urlopen(request) as answer:
            page = json.load(answer)
        found += page
        if len(page) < 200:
            return found


@pytest.mark.parametrize("arguments", [[], ["--model", "nobody/nothing"]])
def test_the_token_is_written_and_shown_nowhere(
    arguments: list[str], server_env: dict[str, str], tmp_path: Path
) -> None:
    """Neither a run that works nor one that fails puts HF_TOKEN into a file, a line, a log or an artifact."""
    out, log = tmp_path / "out", tmp_path / "log"
    env = {**server_env, "HF_TOKEN": TOKEN, "HUGGING_FACE_HUB_TOKEN": TOKEN, "HF_HOME": str(tmp_path / "hf")}
    run = start_command(["run", "--limit", "12", "--out", str(out), *arguments], log, env)
    assert run.wait() == (2 if arguments else 0), run.said()
    for path in tmp_path.rglob("*"):
        assert not path.is_file() or TOKEN.encode() not in path.read_bytes(), path
    api = server_env["PREFECT_API_URL"]
    kept = {what: ask(api, what) for what in ("flow_runs", "task_runs", "logs", "artifacts")}
    assert TOKEN not in json.dumps(kept)
    names = {artifact["key"] for artifact in kept["artifacts"]}
    if not arguments:
        assert any(name.startswith("labelscore-report-out-") for name in names)
        assert any("pulled 12 items" in line["message"] for line in kept["logs"])
    for database in Path(server_env["PREFECT_HOME"]).rglob("*.db*"):
        assert TOKEN.encode() not in database.read_bytes()


class Mark:
    """Unpickling it leaves a file."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[object, tuple[str]]:
        return (Path.touch, (self.path,))  # type: ignore[return-value]


@pytest.mark.parametrize("has_safetensors", [False, True])
def test_a_pickle_is_never_loaded(has_safetensors: bool, labelscore: Command, tmp_path: Path) -> None:
    """With safetensors beside it, it is passed over; alone it is refused, and the line says why."""
    mark = tmp_path / "ran"
    pickled = pickle.dumps(Mark(mark))
    pickle.loads(pickled)
    assert mark.exists()
    mark.unlink()
    files = dict.fromkeys(("pytorch_model.bin", "model.pt", "tokenizer.pkl", "training_args.bin"), pickled)
    model(without=() if has_safetensors else ("model.safetensors",), files=files)(tmp_path / "m")
    done = labelscore("run", "--limit", "5", "--model", str(tmp_path / "m"), "--out", str(tmp_path / "out"))
    assert not mark.exists()
    assert done.code == (0 if has_safetensors else 2)
    if not has_safetensors:
        assert "pickle" in done.complaints[0]
        assert "safetensors" in done.complaints[0]


NASTY = ("../../evil", "/tmp/evil", "a/../../evil", "..", "e\\..\\vil", "con\nfusing", "~", "$HOME", "evil\u202e")


def test_names_cannot_leave_the_output(labelscore: Command, tmp_path: Path) -> None:
    """Prompts, classes, models and data sets may be called what they like: files are written below OUT alone."""
    here = tmp_path / "a" / "b" / "c"
    here.mkdir(parents=True)
    tables = "".join(
        f"[prompts.{json.dumps(name)}]\ntemplate = {json.dumps(f'{{text}} {position}')}\n"
        'labels = { "../x" = " a", "/etc/y" = " b" }\n'
        for position, name in enumerate(NASTY)
    )
    config = here / "run.toml"
    config.write_text(f"prompt = {json.dumps(NASTY)}\nout = {json.dumps(str(here / 'out'))}\n{tables}")
    (here / "..jsonl").write_text('{"text": "news", "label": "../x"}\n')
    news = here / ".. .jsonl"
    news.write_text('{"text": "news", "label": "../x"}\n')
    model()(here / "..m")
    done = labelscore("run", str(config), "--dataset", str(news), "--model", str(here / "..m"))
    assert done.code == 0, done
    outside = {path for path in tmp_path.rglob("*") if here / "out" not in (path, *path.parents)}
    assert {path.name for path in outside if "..m" not in str(path)} == {
        "a",
        "b",
        "c",
        "run.toml",
        "..jsonl",
        ".. .jsonl",
    }
    assert "\u202e" not in done.out


@pytest.mark.parametrize("name", NASTY)
def test_the_default_output_stays_below_data_runs(name: str, tmp_path: Path) -> None:
    """Its name is made from those of the data set and the model."""
    for config in (RunConfig(dataset=name), RunConfig(model=name), RunConfig(dataset=name, model=name)):
        out = (tmp_path / config.output).resolve()
        assert out.parent == tmp_path / "data" / "runs"


class Elements(HTMLParser):
    """The elements of a page and their attributes."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.seen: list[tuple[str, tuple[str, ...]]] = []
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        """Note an element."""
        self.seen.append((tag, tuple(sorted(name for name, _ in attrs))))


def test_reports_escape_texts_and_names(labelscore: Command, tmp_path: Path) -> None:
    """A page of items that hold markup has the elements of one that holds letters, and so have its tables."""
    evil = "</script><script>alert(1)</script><img src=x onerror=alert(1)> | a | `b` ](http://x) {{7*7}} <!-- \"' & \\"
    pages, tables = [], []
    for text in (evil, "x" * len(evil)):
        folder = tmp_path / ("evil" if text == evil else "plain")
        folder.mkdir()
        news = folder / "news.jsonl"
        news.write_text("".join(json.dumps({"text": f"{text} {i}", "label": i % 4}) + "\n" for i in range(8)))
        name = "<b>|`p`" if text == evil else "plain"
        labels = [f" {text[:40]}{i}" for i in range(4)]
        config = folder / "run.toml"
        config.write_text(
            f"prompt = [{json.dumps(name)}]\n[prompts.{json.dumps(name)}]\n"
            f"template = {json.dumps(text[:9] + '{text}')}\nlabels = {json.dumps(labels)}\n"
        )
        done = labelscore(
            "run", str(config), "--dataset", str(news), "--label-names", "ag_news", "--out", str(folder / "o")
        )
        assert done.code == 0, done
        pages.append((folder / "o" / "report" / "report.html").read_text())
        tables.append((folder / "o" / "report" / "report.md").read_text())
    assert {tag for tag, _ in Elements(pages[0]).seen} == {tag for tag, _ in Elements(pages[1]).seen}
    scripts = [sum(tag == "script" for tag, _ in Elements(page).seen) for page in pages]
    assert scripts[0] == scripts[1]
    assert not any("onerror" in names for _, names in Elements(pages[0]).seen)
    # As a renderer that lets HTML through would show them.
    rendered = [MarkdownIt("commonmark").enable("table").render(table) for table in tables]
    assert {tag for tag, _ in Elements(rendered[0]).seen} == {tag for tag, _ in Elements(rendered[1]).seen}
    assert "table" in {tag for tag, _ in Elements(rendered[0]).seen}
    for markdown in tables:
        for table in re.findall(r"(?:^\|.*\n)+", markdown, re.M):
            # A pipe or back-tick of a text would make another cell.
            cells = {len(re.findall(r"(?<!\\)\|", line)) for line in table.splitlines()}
            assert len(cells) == 1, table
