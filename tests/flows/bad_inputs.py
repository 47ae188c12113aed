"""The table of bad inputs: what a user may get wrong, and what the one line about it must hold.

Invariant: a case is data. `words` are what was wrong, where, or what to do about it, as the line has it.
"""

import gzip
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from shutil import copytree
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from safetensors.numpy import load_file, save_file

from pipeline.bundled import demo_model_path
from pipeline.prompts import AG_NEWS

Maker = Callable[[Path], object]
Content = str | bytes | Maker


@dataclass(frozen=True)
class Case:
    """A command line (of `labelscore run --out out`, unless `whole`), the files it finds, and how it must end."""

    arguments: tuple[str, ...]
    words: tuple[str, ...]
    files: Mapping[str, Content] = field(default_factory=dict)
    code: int = 2
    whole: bool = False

    @property
    def argv(self) -> list[str]:
        """The command's arguments."""
        return list(self.arguments) if self.whole else ["run", "--out", "out", *self.arguments]

    def lay_out(self, folder: Path) -> None:
        """Write the case's files."""
        for name, content in self.files.items():
            path = folder / name
            path.parent.mkdir(parents=True, exist_ok=True)
            if isinstance(content, bytes | str):
                path.write_bytes(content if isinstance(content, bytes) else content.encode())
            else:
                content(path)


# Makers of files


def parquet(**columns: object) -> Maker:
    """A Parquet file of these columns."""
    return lambda path: pq.write_table(pa.table(columns), path, write_page_checksum=True)


def cut_parquet(keep: float) -> Maker:
    """A Parquet file that ends too early."""

    def make(path: Path) -> None:
        parquet(text=[f"item {i}" for i in range(500)])(path)
        data = path.read_bytes()
        path.write_bytes(data[: int(keep * len(data))])

    return make


def flipped_parquet(path: Path) -> None:
    """A Parquet file of ours with one bit of a text flipped, which its page checksum tells."""
    parquet(text=[f"item {i}" for i in range(500)])(path)
    data = bytearray(path.read_bytes())
    data[len(data) // 4] ^= 1
    path.write_bytes(data)


def named_parquet(path: Path) -> None:
    """A Parquet file whose footer names AG News's classes."""
    feature = {"names": list(AG_NEWS), "_type": "ClassLabel"}
    footer = {"huggingface": json.dumps({"info": {"features": {"label": feature}}})}
    pq.write_table(pa.table({"text": ["x"], "label": [0]}).replace_schema_metadata(footer), path)


def csv(*texts: str, label: str = "0") -> str:
    """A CSV file of texts, all with the same label."""
    return "text,label\n" + "".join(f'"{text}",{label}\n' for text in texts)


def jsonl(*values: object, **more: object) -> str:
    """JSON lines whose texts are these values."""
    return "".join(json.dumps({"text": value, **more}) + "\n" for value in values)


def link(target: str) -> Maker:
    """A symbolic link."""
    return lambda path: path.symlink_to(target)


def folder(path: Path) -> None:
    """An empty folder."""
    path.mkdir()


def model(
    *, without: tuple[str, ...] = (), config: Mapping[str, Any] | None = None, files: Mapping[str, bytes] | None = None
) -> Maker:
    """The demonstration model with some files left out, changed or added."""

    def make(path: Path) -> None:
        copytree(demo_model_path(), path)
        for name in without:
            (path / name).unlink()
        if config is not None:
            known = json.loads((path / "config.json").read_text())
            (path / "config.json").write_text(json.dumps({**known, **config}))
        for name, data in (files or {}).items():
            (path / name).write_bytes(data)

    return make


def model_with_weights(change: Callable[[dict[str, Any]], None]) -> Maker:
    """The demonstration model with changed weights."""

    def make(path: Path) -> None:
        model()(path)
        weights = load_file(path / "model.safetensors")
        change(weights)
        save_file(weights, path / "model.safetensors", {"format": "pt"})

    return make


def cut_model(path: Path) -> None:
    """The demonstration model with half of its weights file."""
    model()(path)
    file = path / "model.safetensors"
    file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])


def _spoil(weights: dict[str, Any]) -> None:
    name = next(name for name in weights if "norm" in name)
    weights[name] = np.full_like(weights[name], np.nan)


def _drop(weights: dict[str, Any]) -> None:
    del weights[next(name for name in weights if "mlp" in name)]


# Short forms


def toml(text: str, *words: str, code: int = 2, **files: Content) -> Case:
    """A case of a configuration file."""
    return Case(("run.toml",), words, {"run.toml": text, **files}, code)


def prompt(body: str, *words: str, **files: Content) -> Case:
    """A case of a prompt of the user's own, called mine."""
    return toml(f'prompt = ["mine"]\n[prompts.mine]\n{body}', *words, **files)


def offers(text: str, *words: str, line: str = "", **files: Content) -> Case:
    """A case of what is offered to a choice."""
    return Case(
        ("choose", "offers.toml", "--out", "out", *line.split()), words, {"offers.toml": text, **files}, whole=True
    )


def options(line: str, *words: str, code: int = 2, **files: Content) -> Case:
    """A case of options, split at blanks."""
    return Case(tuple(line.split()), words, dict(files), code)


def data(name: str, content: Content, *words: str, line: str = "") -> Case:
    """A case of a data file."""
    return Case(("--dataset", name, *line.split()), words, {name: content})


def commands(*arguments: str, words: tuple[str, ...], code: int = 2) -> Case:
    """A case of another command."""
    return Case(arguments, words, code=code, whole=True)


GOOD = csv("Markets fell on Monday.", "The striker scored twice.")
LABELS = 'labels = [" a", " b", " c", " d"]'

FILES = {
    "missing csv": options("--dataset nope.csv", "nope.csv", "no such file", "check the path"),
    "missing parquet": options("--dataset nope.parquet", "nope.parquet", "no such file"),
    "missing jsonl": options("--dataset a/b/nope.jsonl", "a/b/nope.jsonl", "no such file"),
    "missing folder": options("--dataset ./nope/", "nope", "no such file or directory"),
    "unknown suffix": data("news.txt", "hello", "news.txt", ".parquet, .csv, .tsv, .jsonl"),
    "no suffix": Case(("--dataset", "./news"), ("news", ".parquet, .csv, .tsv, .jsonl"), {"news": "hello"}),
    "empty folder": Case(("--dataset", "news"), ("news", "holds no .parquet, .csv, .tsv, .jsonl"), {"news": folder}),
    "mixed folder": Case(
        ("--dataset", "news"), ("news", "several kinds", "name one file"), {"news/a.csv": GOOD, "news/b.jsonl": "{}"}
    ),
    "folder of files with other columns": Case(
        ("--dataset", "news"),
        ("news", "column 'text'", "make them alike"),
        {"news/a.csv": GOOD, "news/b.csv": "title\nx\n"},
    ),
    "folder of labelled and unlabelled files": Case(
        ("--dataset", "news"), ("news", "make them alike"), {"news/a.csv": GOOD, "news/b.csv": "text\nx\n"}
    ),
    "folder called like a file": Case(("--dataset", "news.csv"), ("news.csv", "holds no"), {"news.csv": folder}),
    "dangling link": data("news.csv", link("gone.csv"), "news.csv", "no such file"),
    "circle of links": data("news.csv", link("news.csv"), "news.csv"),
    "text behind .parquet": data("news.parquet", GOOD, "news.parquet", "cannot be read as parquet", "check the file"),
    "zeros behind .parquet": data("news.parquet", bytes(4096), "news.parquet", "cannot be read as parquet"),
    "magic bytes alone": data("news.parquet", b"PAR1", "news.parquet", "cannot be read as parquet"),
    "empty parquet": data("news.parquet", b"", "news.parquet", "cannot be read as parquet"),
    "parquet cut short": data("news.parquet", cut_parquet(0.5), "news.parquet", "cannot be read as parquet"),
    "parquet without its end": data("news.parquet", cut_parquet(0.99), "news.parquet", "cannot be read as parquet"),
    "parquet with a flipped bit": data("news.parquet", flipped_parquet, "news.parquet", "cannot be read as parquet"),
    "parquet without rows": data("news.parquet", parquet(text=pa.array([], "string")), "news.parquet", "no rows"),
    "parquet without a text column": data(
        "news.parquet",
        parquet(title=["x"], body=["y"]),
        "news.parquet",
        "no column 'text'",
        "title, body",
        "--text-column",
    ),
    "empty csv": data("news.csv", "", "news.csv", "holds no row"),
    "csv of blank lines": data("news.csv", "\n\n\n", "news.csv", "holds no row"),
    "csv with a header only": data("news.csv", "text,label\n", "news.csv", "no rows", "choose another split"),
    "csv without a text column": data("news.csv", "title,label\nx,0\n", "news.csv", "no column 'text'", "title, label"),
    "csv with two text columns": data("news.csv", "text,text\nx,y\n", "news.csv", "2 columns named 'text'", "rename"),
    "csv with an open quote": data(
        "news.csv", 'text,label\n"never closed,0\n', "news.csv", "row 0: line 2", "quote", "closed"
    ),
    "csv in Latin-1": data(
        "news.csv", "text\nCafé\n".encode("latin-1"), "row 0", "not valid Unicode", "'Café'", "--encoding cp1252"
    ),
    "csv in UTF-16 that does not say so": data("news.csv", "text\nhello\n".encode("utf-16-le"), "--encoding utf-16-le"),
    "csv that is an image": data("news.csv", b"\x89PNG\r\n\x1a\n" + bytes(range(256)), "news.csv"),
    "empty jsonl": data("news.jsonl", "", "news.jsonl", "holds no row"),
    "jsonl of blank lines": data("news.jsonl", "\n \n", "news.jsonl", "holds no row"),
    "jsonl of arrays": data("news.jsonl", "[1]\n[2]\n", "news.jsonl", "holds no row", "JSON object"),
    "jsonl without a text column": data("news.jsonl", '{"title": "x"}\n', "news.jsonl", "no column 'text'", "title"),
    "jsonl cut short": data("news.jsonl", jsonl("x", "y")[:-9], "news.jsonl", "row 1", "not valid JSON"),
    "jsonl nested without end": data("news.jsonl", jsonl("x") + "[" * 100_000 + "\n", "row 1", "not valid JSON"),
    "jsonl that is binary": data("news.jsonl", bytes(range(128, 256)) * 9, "news.jsonl"),
    "another text column": data("news.csv", GOOD, "no column 'body'", "it has text, label", line="--text-column body"),
    "another label column": data("news.csv", GOOD, "no column 'topic'", "--label-column", line="--label-column topic"),
}

DATA = {
    "unknown encoding": data("news.csv", GOOD, "klingon", "utf-8", line="--encoding klingon"),
    "encoding of a parquet file": data("news.parquet", parquet(text=["x"]), "--encoding", line="--encoding cp1252"),
    "encoding of data on the hub": options("--dataset some/news --encoding cp1252", "--encoding", "local files"),
    "columns of a file with a header": data("news.csv", GOOD, "leave out --columns", line="--columns text,label"),
    "columns of json lines": data("news.jsonl", jsonl("x"), "leave out --columns", line="--columns text,label"),
    "too few columns": data("news.csv", "x,0\ny,1\n", "line 1", "--columns", line="--columns text,label,more"),
    "a header with semicolons": data("news.csv", "text;label\nx;0\n", "separated by ';'", ".tsv"),
    "a header with tabs": data("news.csv", "text\tlabel\nx\t0\n", "separated by tabs", "rename it to .tsv"),
    "a label column with a blank": data("news.csv", "text, label\nx, 0\n", "did you mean ' label'?", "--label-column"),
    "a label column in capitals": data("news.jsonl", '{"text": "x", "Label": 0}', "did you mean 'Label'?"),
    "a label column in the plural": data("news.parquet", parquet(text=["x"], labels=[0]), "did you mean 'labels'?"),
    "a label column with a slip": data("news.csv", "text,lable\nx,0\n", "did you mean 'lable'?"),
    "a text column in capitals": data("news.csv", "Text,label\nx,0\n", "no column 'text'", "did you mean 'Text'?"),
    "a list that is cut short": data("news.json", '[{"text": "x"}, {"te', "news.json"),
    "one object": data("news.json", '{\n "data": []\n}', "news.json", "one object"),
    "compressed and cut short": data("news.csv.gz", gzip.compress(GOOD.encode())[:-9], "news.csv.gz"),
    "no such split": Case(("--dataset", "d", "--split", "dev"), ("no split 'dev'", "test"), {"d/test.csv": GOOD}),
    "no such split of a file": data("test.csv", GOOD, "no split 'train'", "its name says test", line="--split train"),
    "a split with a slip": data("news.csv", GOOD, "no split 'tets'", line="--split tets"),
    "a name of two splits": Case(
        ("--dataset", "d"),
        ("'test' may be train_test.csv", "say test and train", "--split"),
        {"d/train_test.csv": GOOD},
    ),
    "a folder beside the one named": Case(("--dataset", "dat"), ("dat", "did you mean data?"), {"data/a.csv": GOOD}),
    "a file of a folder that is there": Case(("--dataset", "data/nope"), ("no such file",), {"data/a.csv": GOOD}),
    "a model of a folder that is there": Case(
        ("--model", "data/nope"), ("no such file or directory",), {"data/a.csv": GOOD}
    ),
}

TEXTS = {
    "null text": data("news.jsonl", jsonl("x", None), "row 1: the text is null", "--on-bad-row skip"),
    "null in parquet": data("news.parquet", parquet(text=["x", None]), "row 1: the text is null"),
    "empty text": data("news.jsonl", jsonl("", "x"), "row 0: the text is empty"),
    "white space only": data("news.jsonl", jsonl("x", " \t\n\u2003\u00a0"), "row 1: the text is only white space"),
    "number": data("news.jsonl", jsonl("x", 7), "row 1: the text is not a string but a number"),
    "truth value": data("news.jsonl", jsonl(True), "row 0: the text is not a string but true or false"),
    "list": data("news.jsonl", jsonl(["x"]), "row 0: the text is not a string but a list"),
    "record": data("news.jsonl", jsonl({"x": "y"}), "row 0: the text is not a string but a record"),
    "column of numbers": data("news.parquet", parquet(text=[1, 2]), "2 of 2 rows", "not a string but a number"),
    "column of lists": data("news.parquet", parquet(text=[["x"]]), "not a string but a list"),
    "lone surrogate": data("news.jsonl", '{"text": "a\\ud800b"}\n', "row 0: the text is not valid Unicode"),
    "text in a broken encoding": data("news.parquet", parquet(text=pa.array([b"a\xffb"])), "row 0", "not valid UTF-8"),
    "row with too few fields": data("news.csv", "id,text\n1,x\n2\n", "row 1: line 3: 1 fields where the header has 2"),
    "row with too many fields": data(
        "news.csv", "text,label\nx,0\na,b,c\n", "row 1: line 3: 3 fields where the header has 2"
    ),
    "many bad rows": data("news.jsonl", jsonl(*[""] * 40), "40 of 40 rows", "row 4", "and 35 more"),
    "nothing but bad rows": data(
        "news.jsonl", jsonl("", None), "all 2 rows were rejected", "--text-column", line="--on-bad-row skip"
    ),
    "a line break in what is shown": data("news\n2.jsonl", jsonl(""), "news 2.jsonl", "row 0"),
}

GOLD = {
    "id too large": data("news.csv", csv("x", label="4"), "labels run from 4 to 4", "4=Sci/Tech", "--label-names"),
    "negative id": data("news.jsonl", jsonl("x", label=-2), "none of its labels (-2)", "World"),
    "fraction": data("news.jsonl", jsonl("x", label=1.5), "none of its labels (1.5)"),
    "unknown name": data("news.csv", csv("x", label="Weather"), "none of its labels (Weather)", "World"),
    "name in another case": data("news.csv", csv("x", label="world"), "none of its labels (world)", "World"),
    "digit of another script": data("news.csv", csv("x", label="٢"), "none of its labels (٢)"),
    "record as a label": data("news.jsonl", jsonl("x", label={"id": 1}), "row 0: the label"),
    "ids from one": data("news.csv", "text,label\nx,1\ny,4\n", "run from 1 to 4", "--label-names 1=World,2=Sports"),
    "ids from one with skipping": data(
        "news.csv", "text,label\nx,1\ny,4\n", "run from 1 to 4", line="--on-bad-row skip"
    ),
    "ids from two": data("news.jsonl", jsonl("x", label=2) + jsonl("x", label=7), "run from 2 to 7", "2=NAME"),
    "minus one as a class": Case(
        ("run.toml", "--dataset", "x.jsonl"),
        ("-1 may be a class", "label_names = { -1 ="),
        {
            "x.jsonl": jsonl("x", label=-1) + jsonl("y", label=1),
            "run.toml": 'label_names = ["a", "b"]\nprompt = ["mine"]\n[prompts.mine]\ntemplate = "{text}:"\n'
            'labels = [" x", " y"]',
        },
    ),
    "label names that rename": Case(
        ("--dataset", "x.parquet", "--label-names", "Sports,World,Business,Sci/Tech"),
        ("never renames", "0 World", "0 Sports"),
        {"x.parquet": named_parquet},
    ),
    "label names of ids and none": options("--label-names 1=a,b", "--label-names", "an id of its own"),
    "label names for no id": toml('[label_names]\nx = "World"', "label_names", "'x'", "whole number"),
    "huge number": data("news.jsonl", jsonl("x", label=10**30), "none of its labels (1000"),
    "too few names": data("news.csv", GOOD, "prompt 'answer'", "AG News's classes", "a, b", line="--label-names a,b"),
    "repeated name": options("--label-names a,b,a,c", "label_names", "'a'", "twice"),
    "empty name": options("--label-names a,,b,c", "label_names"),
    "one name": options("--label-names a", "sample", "never renames"),
    "empty list of names": Case(("--label-names", ""), ("label_names",)),
}

PROMPTS = {
    "unknown": options("--prompt nope", "unknown prompt 'nope'", "answer"),
    "nearly right": options("--prompt anwser", "did you mean 'answer'?"),
    "empty name": Case(("--prompt", ""), ("prompt",)),
    "template without a slot": prompt(f'template = "News:"\n{LABELS}', "prompt 'mine'", "the template has no slot"),
    "slot in capitals": prompt(f'template = "{{Text}}"\n{LABELS}', "no column 'Text'; did you mean 'text'?"),
    "empty template": prompt(f'template = ""\n{LABELS}', "the template has no slot"),
    "template that is a number": prompt(f"template = 7\n{LABELS}", "prompts.mine.template"),
    "no template": prompt(LABELS, "prompts.mine.template", "run.toml"),
    "no labels": prompt('template = "{text}"', "prompt 'mine'", "neither labels nor choices"),
    "empty label": prompt('template = "{text}"\nlabels = [" a", "", " c", " d"]', "label 1 is empty"),
    "blank label": prompt('template = "{text}"\nlabels = [" a", "  ", " c", " d"]', "label 1 is empty"),
    "the slot in two braces": prompt(f'template = "{{{{text}}}}:"\n{LABELS}', "two ways", "write {text}"),
    "a typed line break": prompt(f"template = 'News: {{text}}\\nDesk:'\n{LABELS}", "prompt 'mine'", "double quotes"),
    "labels that look alike": prompt('template = "{text}:"\nlabels = [" a", "a", " c", " d"]', "look the same"),
    "a label of 33,000 bytes": prompt(
        f'template = "{{text}}:"\nlabels = [" a", " b", " c", " {"d" * 33_000}"]', "label 3", "32,767"
    ),
    "repeated label": prompt('template = "{text}"\nlabels = [" a", " b", " a", " d"]', "two labels", "' a'"),
    "one label": prompt('template = "{text}"\nlabels = [" a"]', "1 labels; at least two"),
    "empty labels": prompt('template = "{text}"\nlabels = []', "at least two"),
    "three labels for four classes": prompt('template = "{text}"\nlabels = [" a", " b", " c"]', "3 label words for 4"),
    "labels that are one string": prompt('template = "{text}"\nlabels = "a,b"', "prompts.mine.labels"),
    "labels that are numbers": prompt('template = "{text}"\nlabels = [1, 2, 3, 4]', "prompts.mine.labels"),
    "unknown boundary": prompt(
        f'template = "{{text}}"\nboundary = "soft"\n{LABELS}', "boundary", "'joint'", "'separate'"
    ),
    "unknown key": prompt(
        f'template = "{{text}}"\nlables = []\n{LABELS}', "prompts.mine.lables", "did you mean 'labels'"
    ),
    "classes of another data set": toml(
        'prompt = ["mine", "other"]\n[prompts.mine]\ntemplate = "{text}"\nlabels = { a = " a", b = " b" }\n'
        '[prompts.other]\ntemplate = "{text}"\nlabels = { a = " a", c = " c" }',
        "prompt 'mine'",
        "(a, b) are not the classes of sample",
        "use the same names",
    ),
    "data set that names no classes": Case(
        ("run.toml", "--dataset", "news.csv"),
        ("news.csv", "label_names"),
        {"news.csv": GOOD, "run.toml": f'prompt = ["mine"]\n[prompts.mine]\ntemplate = "{{text}}"\n{LABELS}'},
    ),
    "longer than the context": prompt(f'template = "{"word " * 4000}{{text}}"\n{LABELS}', "prompt 'mine'", "context"),
    "label longer than the context": prompt(
        f'template = "{{text}}"\nlabels = [" a", " b", " c", "{" d" * 4000}"]', "prompt 'mine'", "context"
    ),
}

TOML = {
    "missing": Case(("nope.toml",), ("nope.toml", "check the path")),
    "a folder": Case(("run.toml",), ("run.toml", "cannot read"), {"run.toml": folder}),
    "not UTF-8": Case(("run.toml",), ("run.toml", "UTF-8"), {"run.toml": b'model = "caf\xe9"'}),
    "not TOML": toml("model: demo", "run.toml is not valid TOML", "line 1"),
    "half a line": toml("model =", "run.toml is not valid TOML"),
    "twice the same key": toml("limit = 1\nlimit = 2", "run.toml is not valid TOML"),
    "a null byte": toml('model = "a\x00b"', "run.toml is not valid TOML"),
    "unknown key": toml("batchsize = 4", "unknown key 'batchsize' in run.toml", "allowed are", "batch_tokens"),
    "nearly right key": toml("batch_token = 4", "did you mean 'batch_tokens'?"),
    "key with a dash": toml("batch-tokens = 4", "unknown key 'batch-tokens'", "did you mean 'batch_tokens'?"),
    "published in percent": toml("[published]\nanswer = 46", "'published.answer' in run.toml", "46"),
    "published as no number": toml("[published]\nanswer = nan", "'published.answer' in run.toml", "nan"),
    "published without end": toml("[published]\nanswer = inf", "'published.answer' in run.toml", "inf"),
    "published for no prompt": toml("[published]\nanswers = 0.4", "unknown prompt 'answers'", "'answer'"),
    "unknown table": toml("[server]\nport = 1", "unknown key 'server'"),
    "word for a number": toml('limit = "ten"', "'limit' in run.toml", "'ten'"),
    "truth for a number": toml("limit = true", "'limit' in run.toml"),
    "fraction for a number": toml("limit = 1.5", "'limit' in run.toml"),
    "infinity for a number": toml("limit = inf", "'limit' in run.toml"),
    "zero": toml("limit = 0", "'limit' in run.toml", "greater than or equal to 1"),
    "negative": toml("shard_size = -5", "'shard_size' in run.toml", "greater than or equal to 1"),
    "far too large": toml(f"limit = {10**400}", "'limit' in run.toml"),
    "thousands of digits": toml(f"limit = {'9' * 9000}", "run.toml"),
    "nested without end": toml(f"prompt = {'[' * 5000}{']' * 5000}", "run.toml"),
    "number for a word": toml("model = 7", "'model' in run.toml"),
    "date for a word": toml("model = 2024-01-01", "'model' in run.toml"),
    "list for a word": toml('model = ["a", "b"]', "'model' in run.toml"),
    "word for a truth value": toml('force = "perhaps"', "'force' in run.toml"),
    "empty word": toml('model = ""', "'model' in run.toml"),
    "empty out": toml('out = ""', "'out' in run.toml"),
    "no prompts": toml("prompt = []", "'prompt' in run.toml"),
    "word for prompts": toml('prompts = "mine"', "'prompts' in run.toml"),
    "word for a prompt table": toml('[prompts]\nmine = "{text}"', "prompts.mine"),
    "word for an accuracy": toml('published = { answer = "good" }', "published.answer"),
    "unknown rule": toml('rule = "max"', "'rule' in run.toml", "'sum'"),
    "unknown dtype": toml('dtype = "int4"', "'dtype' in run.toml", "'float32'"),
    "unknown device": toml('device = "tpu"', "'device' in run.toml", "unknown device 'tpu'", "cuda:1"),
}

OPTIONS = {
    "no command": commands(words=("labelscore --help",)),
    "unknown command": commands("score", words=("'score'", "choose from", "labelscore --help")),
    "unknown option": options("--batch-size 4", "--batch-size"),
    "abbreviated option": options("--lim 4", "--lim"),
    "option without a value": options("--limit", "--limit", "requires an argument"),
    "two configurations": options("a.toml b.toml", "b.toml"),
    "limit 0": options("--limit 0", "'limit' in the command line", "greater than or equal to 1", "'0'"),
    "limit -1": options("--limit -1", "limit"),
    "limit that is a word": options("--limit ten", "'limit' in the command line", "'ten'"),
    "limit 1e3": options("--limit 1e3", "'limit' in the command line", "'1e3'"),
    "limit beyond 32 bits": options("--limit 99999999999", "'limit' in the command line"),
    "batch tokens 0": options("--batch-tokens 0", "'batch_tokens' in the command line"),
    "shard size 0": options("--shard-size 0", "'shard_size' in the command line"),
    "workers 0": options("--workers 0", "'workers' in the command line"),
    "workers 5000": options("--workers 5000", "'workers' in the command line", "4096"),
    "slices 0": options("--tensor-parallel 0", "'tensor_parallel' in the command line"),
    "more slices than heads": options("--tensor-parallel 8", "4 attention heads", "8 slices", "--tensor-parallel"),
    "compiled layers on a CPU": options("--device cpu --compile on", "--compile on is for a whole model on a GPU"),
    "another word for compile": options("--compile yes", "'compile' in the command line", "'yes'"),
    "max text tokens 0": options("--max-text-tokens 0", "'max_text_tokens' in the command line"),
    "shots -1": options("--num-shots -1", "num"),
    "shots beyond the data": options("--num-shots 1000", "1000"),
    "shots from the scored split": options("--num-shots 4 --shots-split test", "shots_split", "train"),
    "seed that is a word": options("--seed lucky", "'seed' in the command line"),
    "unknown device": options("--device tpu", "'device' in the command line", "unknown device 'tpu'; use auto, cpu"),
    "unknown dtype": options("--dtype half", "'dtype' in the command line", "'bfloat16'"),
    "unknown rule": options("--rule best", "'rule' in the command line", "'pmi'"),
    "notebook rule without its scores": options("--rule notebook", "--notebook-rule"),
    "unknown boundary": options("--boundary hard", "'boundary' in the command line", "'separate' or 'harness'"),
    "unknown care of bad rows": options("--on-bad-row keep", "'on_bad_row' in the command line", "'fail' or 'skip'"),
    "unknown preset": options("--preset gemma7b", "unknown preset 'gemma7b'", "gemma, notebook"),
    "unknown split of the sample": options("--split dev", "no split 'dev'", "test, train"),
    "split without an end": options("--split test[:50", "split 'test[:50'", "test[:50]"),
    "slice beyond all numbers": options(f"--split test[:{'9' * 5000}]", "split 'test[:999", "test[:50]"),
    "slice in other digits": options("--split test[:\u0663]", "split 'test[:", "test[:50]"),
    "empty slice": options("--split test[5:5]", "no rows", "choose another split or slice"),
    "slice beyond the end": options("--split test[9000:]", "no rows"),
    "revision of the bundled model": options("--revision main", "no revisions", "--revision"),
    "chat template without one": options("--chat-template", "no chat template", "--chat-template"),
    "variable of no chat": options("--chat thinking=false", "chat (in the command line)", "--chat-template"),
    "variable without a value": options(
        "--chat-template --chat thinking", "--chat 'thinking'", "enable_thinking=false"
    ),
    "date of no chat": options("--chat-date 2026-01-31", "chat_date (in the command line)", "--chat-template"),
    "date that is none": options("--chat-template --chat-date today", "'chat_date'", "YYYY-MM-DD", "'today'"),
    "answer of no chat": options("--chat-answer So", "chat_answer (in the command line)", "--chat-template"),
    "turns of no chat": options("--shots-as-turns --num-shots 2", "shots_as_turns", "--chat-template"),
    "turns without examples": options("--chat-template --shots-as-turns", "shots_as_turns", "num_shots"),
}


def chat(template: str) -> Maker:
    """The demonstration model with a chat template."""
    return model(files={"chat_template.jinja": template.encode()})


MODELS = {
    "chat template that repeats": options(
        "--model ./m --chat-template",
        "repeats the message",
        "--chat-template",
        m=chat("{% for m in messages %}{{ m.content }}{{ m.content }}{% endfor %}"),
    ),
    "chat template in upper case": options(
        "--model ./m --chat-template", "rewrites a message", "'ARTICLE: ", m=chat("{{ messages[0].content | upper }}")
    ),
    "chat template that rewrites one text": options(
        "--model ./m --chat-template",
        "rewrites a message",
        "--chat-template",
        m=chat("{% set t = 't' %}{{ messages[0].content.replace(t ~ 'he ', 'a ') }}"),
    ),
    "chat template that refuses": options(
        "--model ./m --chat-template",
        "refuses the conversation: no users here",
        m=chat("{{ raise_exception('no users here') }}"),
    ),
    "chat template with another variable": options(
        "--model ./m --chat-template --chat thinking=false",
        "no variable 'thinking'",
        "it uses enable_thinking",
        m=chat("{{ messages[0].content }}{% if enable_thinking %}<think>{% endif %}"),
    ),
    "chat template without a date": options(
        "--model ./m --chat-template --chat-date 2026-01-31", "writes no date", m=chat("{{ messages[0].content }}")
    ),
    "chat template that is none": options(
        "--model ./m --chat-template", "chat template cannot be read", m=chat("{% for %}")
    ),
    "missing": options("--model ./nope", "nope", "no such file or directory", "config.json"),
    "a file": Case(("--model", "./weights.bin"), ("weights.bin", "is a file, and no GGUF"), {"weights.bin": b"x"}),
    "an empty folder": Case(("--model", "./m"), ("m", "config.json"), {"m": folder}),
    "no configuration": options("--model ./m", "m", "config.json", m=model(without=("config.json",))),
    "no weights": options("--model ./m", "m", "safetensors", m=model(without=("model.safetensors",))),
    "no tokenizer": options(
        "--model ./m", "m", "tokenizer", m=model(without=("tokenizer.json", "tokenizer_config.json"))
    ),
    "pickled weights only": options(
        "--model ./m",
        "m",
        "safetensors",
        m=model(without=("model.safetensors",), files={"pytorch_model.bin": b"\x80\x02}q\x00."}),
    ),
    "configuration that is no JSON": options(
        "--model ./m", "config.json cannot be used", m=model(files={"config.json": b"{"})
    ),
    "configuration that is a list": options(
        "--model ./m", "config.json cannot be used", m=model(files={"config.json": b"[]"})
    ),
    "architecture that nobody knows": options(
        "--model ./m", "m", "config.json", m=model(config={"model_type": "zork"})
    ),
    "encoder": options(
        "--model ./m",
        "not a causal language model",
        "google/gemma-2b",
        m=model(files={"config.json": b'{"model_type": "bert", "architectures": ["BertForMaskedLM"]}'}),
    ),
    "encoder and decoder": options(
        "--model ./m",
        "not a causal language model",
        m=model(files={"config.json": b'{"model_type": "t5", "architectures": ["T5ForConditionalGeneration"]}'}),
    ),
    "code of its own": options(
        "--model ./m",
        "trust_remote_code",
        m=model(files={"config.json": b'{"auto_map": {"AutoConfig": "own.Config"}}', "own.py": b"raise SystemExit(9)"}),
    ),
    "weights cut short": options("--model ./m", "m", "cannot be", m=cut_model),
    "weights that are none": options("--model ./m", "m", "cannot be", m=model(files={"model.safetensors": b"x" * 99})),
    "a weight missing": options("--model ./m", "weights are missing", "complete model", m=model_with_weights(_drop)),
    "weights that are not finite": options("--model ./m", "not a finite number", m=model_with_weights(_spoil), code=1),
    "weights of another shape": options(
        "--model ./m", "weights are missing or of another shape", m=model(config={"intermediate_size": 24})
    ),
    "tokenizer that is no JSON": options(
        "--model ./m", "tokenizer", "cannot be loaded", m=model(files={"tokenizer.json": b"{"})
    ),
    "context too short": options(
        "--model ./m", "prompt 'answer'", "context", m=model(config={"max_position_embeddings": 4})
    ),
    "a slip in a name of ours": options("--model smolm2", "smolm2", "did you mean smollm2?"),
    "a name of ours in other letters": options("--model SmolLM2", "did you mean smollm2?"),
    "a name of ours that is a folder, too": Case(("--model", "demo"), ("a folder here", "./demo"), {"demo": model()}),
    "a name that is no hub id": options("--model a/b/c", "a/b/c", "no such file or directory"),
    "a name with spaces": Case(("--model", "my model"), ("my model", "no such file or directory")),
    "a name with a null byte": Case(("--model", "a\x00b"), ("no such file or directory",)),
}

OUTPUTS = {
    "a file": Case(("--out", "taken"), ("taken", "--out"), {"taken": "x"}),
    "below a file": Case(("--out", "taken/out"), ("taken/out", "--out"), {"taken": "x"}),
    "where nobody may write": options("--out /proc/labelscore", "/proc/labelscore", "--out"),
    "a null byte": Case(("--out", "a\x00b"), ("--out",)),
    "a name too long": Case(("--out", "x" * 300), ("File name too long", "--out")),
    "empty": Case(("--out", ""), ("'out' in the command line",)),
    "a protocol that cannot be written": options("--out ftp://host/runs", "ftp://host/runs", "s3"),
    "a protocol that nobody knows": options("--out zork://runs", "zork://runs", "use a directory"),
    "a folder of other data": Case(
        ("--out", "."), ("holds items.parquet", "choose another --out"), {"items.parquet": "x"}
    ),
    "a circle of links": Case(("--out", "loop"), ("loop", "--out"), {"loop": link("loop")}),
}

TWO = 'prompt = ["answer", "topic"]\n'
UNLABELLED = "[prompts.mine]\ntemplate = '{text}:'\n"
ITEMS_CHOICES = f"{UNLABELLED}choices = 'options'\n"

CHOICES = {
    "unknown key": offers("withn = 2", "'withn'", "offers.toml", "did you mean 'within'", "budget"),
    "a key in the plural": offers("models = ['demo']", "'models'", "did you mean 'model'"),
    "no margin": offers("within = 0", "'within'", "greater than or equal to 0.1"),
    "a margin that everything is in": offers("within = 60", "'within'", "less than or equal to 50"),
    "a margin that is none": offers("within = true", "'within'", "number"),
    "a typed margin that is none": offers("", "'within'", "the command line", "'nan'", line="--within nan"),
    "a budget of nothing": offers("budget = 0", "'budget'", "greater than or equal to 1"),
    "a budget for less than a look": offers(f"{TWO}budget = 99", "budget = 99", "50 items", "106 or more"),
    "a budget for less than a look at few": offers(
        "", "99", "106", line="--limit 50 --budget 99 --num-shots 0 --num-shots 4"
    ),
    "one prompt, one rule": offers("rule = 'sum'", "one prompt under one rule (answer, sum)", 'prompt = ["A", "B"]'),
    "a prompt twice": offers("prompt = ['answer', 'answer']", "'prompt'", "'answer' stands there twice"),
    "no prompt": offers("prompt = []", "'prompt'", "at least one"),
    "an unknown prompt": offers("prompt = ['answer', 'topik']", "'topik'", "did you mean 'topic'"),
    "the same prompt under two names": offers(
        "[prompts.a]\ntemplate='{text}'\nlabels=['x', 'y']\n[prompts.b]\ntemplate='{text}'\nlabels=['x', 'y']",
        "'a' and 'b' are the same",
    ),
    "a prompt without words": offers(UNLABELLED, "'mine'", "neither labels nor choices", "[words.NAME]"),
    "words for items' own choices": offers(f"{ITEMS_CHOICES}[words]\na = ['x', 'y']", "'mine'", "words.a", "leave one"),
    "the same words twice": offers(
        "[words]\na = ['a','b','c','d']\nb = ['a','b','c','d']", "answer/a", "answer/b", "the same"
    ),
    "too few words": offers(f"{UNLABELLED}[words]\nfew = [' a', ' b']", "'mine/few'", "2 label words for 4"),
    "words of other classes": offers("[words.other]\nWorld = ' w'\nMoney = ' m'", "'answer/other'", "Money"),
    "one word": offers("[words]\nfew = [' a']", "'answer/few'", "at least two"),
    "words that are a number": offers("[words]\nfew = 3", "'words.few'"),
    "a list of words called as a prompt": offers(
        "prompt = ['answer', 'answer/a']\n[words]\na = [' a', ' b', ' c', ' d']\n"
        "[prompts.'answer/a']\ntemplate = '{text}'\nlabels = ['a', 'b', 'c', 'd']",
        "'answer/a'",
        "another name",
    ),
    "the rule batch": offers("rule = ['sum', 'batch']", "'rule.1'", "depends on all the others"),
    "the rule notebook": offers("rule = 'notebook'", "'rule'", "mistake"),
    "an unknown rule": offers("rule = 'best'", "'rule' in offers.toml", "'sum'", "'contextual'"),
    "a rule twice": offers("", "'rule'", "'sum' stands there twice", line="--rule sum --rule pmi --rule sum"),
    "a rule for fixed labels": offers(f"rule = ['sum', 'pmi']\n{ITEMS_CHOICES}", "'pmi'", "own choices", "mean_char"),
    "no model": offers("model = []", "'model'", "at least one"),
    "a model twice": offers("model = ['demo', 'demo']", "'demo' stands there twice"),
    "a model that is missing": offers("model = ['demo', './nope']", "./nope", "no such"),
    "a revision of two models": offers("model = ['a/b', 'c/d']\nrevision = 'x'", "revision (in offers.toml)", "2"),
    "shots twice": offers("", "'num_shots'", "4 stands there twice", line="--num-shots 4 --num-shots 04"),
    "negative shots": offers("num_shots = [0, -1]", "'num_shots.1'", "greater than or equal to 0"),
    "shots that are none": offers("num_shots = true", "'num_shots' in", "number"),
    "too many shots": offers("num_shots = [0, 900]", "num_shots = 900", "ask for fewer"),
    "shots among the items": offers("num_shots = [0, 4]\nshots_split = 'test'", "another split"),
    "shots as turns without shots": offers(
        "chat_template = true\nshots_as_turns = true", "shots_as_turns", "num_shots"
    ),
    "shots as turns without a chat": offers("num_shots = [0, 4]\nshots_as_turns = true", "shots_as_turns", "chat"),
    "an answer without a chat": offers("chat_answer = 'So'", "chat_answer (in offers.toml)", "--chat-template"),
    "a date without a chat": offers("chat_date = 2026-01-31", "chat_date (in offers.toml)", "--chat-template"),
    "variables without a chat": offers("", "chat (in the command line)", line="--chat x=1 --chat x=2"),
    "a variable's value twice": offers("chat_template = true\nchat = { x = [1, 1] }", "'chat.x'", "twice"),
    "a variable without a value": offers("chat_template = true\nchat = { x = [] }", "'chat.x'", "at least one"),
    "a variable that is a list of lists": offers(
        "chat_template = true\nchat = { x = [[1]] }", "'chat.x.0'", "one value"
    ),
    "maybe a chat": offers("", "'chat_template'", "both", line="--chat-template maybe"),
    "a chat twice": offers("chat_template = [true, true]", "'chat_template'", "twice"),
    "a model without a chat template": offers("chat_template = 'both'", "no chat template"),
    "one of two models without a chat template": offers(
        "chat_template = 'both'\nmodel = ['demo', './other']", "model 'demo'", "no chat template", other=model()
    ),
    "tasks": offers("task = ['piqa']", "task (in offers.toml)", "dataset"),
    "typed tasks": offers("", "task (in the command line)", "dataset", line="--task piqa"),
    "a folder of tasks": offers("task_path = 'x'", "task_path (in offers.toml)"),
    "a forced one": offers("", "force (in the command line)", "run --force", line="--force"),
    "a gap": offers("", "gap (in the command line)", "within", line="--gap 2"),
    "the notebook's rule beside others": offers(
        "notebook_rule = true", "notebook_rule (in offers.toml)", "leave it out"
    ),
    "published figures": offers("[published]\nanswer = 0.5", "published (in offers.toml)", "leave them out"),
    "a missing file": offers("dataset = 'nope.csv'", "nope.csv", "no such file"),
    "an unknown label": offers(
        "dataset = 'news.csv'\nlabel_names = 'ag_news'", "news.csv", "7", **{"news.csv": csv("x", label="7")}
    ),
    "an output that is a file": offers("", "offers.toml", "choose another --out", line="--out offers.toml"),
    "a prompt of the file that is none": offers("[prompts.a]\ntemplate = 'x'\nlabels = ['a', 'b']", "'a'", "no slot"),
    "no TOML": offers("a = ", "offers.toml", "not valid TOML"),
}

OTHERS = {
    "report of nothing": commands("report", "nope", words=("nope", "no such output", "--out")),
    "status of nothing": commands("status", "nope", words=("nope", "no such output")),
    "verify of nothing": commands("verify", "nope", words=("nope", "no such output")),
    "history of nothing": commands("history", "nope", words=("nope", "no such output")),
    "prune of nothing": commands("prune", "nope", words=("nope", "no such output")),
    "comparison with nothing": commands("compare", "nope", "nope", words=("nope",)),
    "report without an output": commands("report", words=("OUT",)),
    "report of an empty folder": Case(
        ("report", "o"), ("o holds no finished run", "labelscore run"), {"o": folder}, 2, True
    ),
    "pruning an empty folder": Case(("prune", "o", "--yes"), ("no finished run",), {"o": folder}, 2, True),
    "report of a file": Case(("report", "o"), ("no such output",), {"o": "x"}, 2, True),
    "unknown rule of a report": commands("report", "o", "--rule", "best", words=('"best"', "Choose from", '"sum"')),
    "classify without labels": commands("classify", "x", "--template", "{text}", words=("--labels",)),
    "classify without a template": commands("classify", "x", "--labels", "a,b", words=("--template",)),
    "classify an empty text": commands(
        "classify", " ", "--template", "{text}", "--labels", "a,b", words=("text is empty",)
    ),
    "classify one label": commands("classify", "x", "--template", "{text}", "--labels", "a", words=("at least two",)),
    "classify equal labels": commands(
        "classify", "x", "--template", "{text}", "--labels", "a,a", words=("two labels", "'a'")
    ),
    "classify with mixed blanks": commands(
        "classify", "x", "--template", "{text}:", "--labels", "a, b", words=("begin with a blank", "' a, b'")
    ),
    "classify with an open quote": commands(
        "classify", "x", "--template", "{text}:", "--labels", '"a,b', words=("not closed",)
    ),
    "classify without a slot": commands("classify", "x", "--template", "y", "--labels", "a,b", words=("has no slot",)),
    "classify with an unknown device": commands(
        "classify", "x", "--template", "{text}", "--labels", "a,b", "--device", "x", words=("'device'",)
    ),
    "tokens of a lone surrogate": commands("tokens", "a\ud800b", words=("Unicode",)),
    "classify a lone surrogate": commands(
        "classify", "a\ud800b", "--template", "{text}", "--labels", "a,b", words=("Unicode",)
    ),
    "generate no token": commands("generate", "x", "--max-new-tokens", "0", words=("'0'", "1 or more")),
    "generate beyond the context": commands("generate", "word " * 9000, words=("shorten",)),
}

CASES = {
    f"{part}: {name}": case
    for part, table in {
        "files": FILES,
        "data": DATA,
        "texts": TEXTS,
        "labels": GOLD,
        "prompts": PROMPTS,
        "TOML": TOML,
        "options": OPTIONS,
        "models": MODELS,
        "outputs": OUTPUTS,
        "choices": CHOICES,
        "other commands": OTHERS,
    }.items()
    for name, case in table.items()
}
