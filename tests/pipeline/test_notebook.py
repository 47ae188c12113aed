"""A run in a notebook: the same tables as the command's, in a running event loop and in a real kernel."""

import asyncio
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import polars as pl
import pytest
from polars.testing import assert_frame_equal

from pipeline.bundled import sample_path
from pipeline.errors import InputError
from pipeline.notebook import run
from tests.conftest import ROOT, FinishedRun

EXACT = ("scores/scores.parquet", "items.parquet", "report/predictions.parquet")
FIGURES = "report/metrics.parquet"  # sums whose last digit depends on their order


def test_it_makes_what_the_command_makes(
    demo_run: FinishedRun, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """In a running event loop, as a notebook has one; a second call scores nothing; little is said of it."""
    monkeypatch.chdir(tmp_path)

    async def cell() -> Any:
        return run()

    made = asyncio.run(cell())
    assert (made.out, str(made.folder)[:26]) == ("data/runs/sample-demo", "data/runs/sample-demo/runs")
    for name in (*EXACT, FIGURES):
        found, expected = pl.read_parquet(made.folder / name), pl.read_parquet(demo_run.out / name)
        assert_frame_equal(found, expected, check_exact=name in EXACT)
    printed = capsys.readouterr()
    assert not printed.out
    said = [line for line in printed.err.replace("\r", "\n").splitlines() if line and "scoring:" not in line]
    assert [line.strip() for line in said if line.strip()] == [
        "pulled 248 items",
        "251 to score (texts x prompts), 0 stored already",
    ]
    again = run()
    assert again.manifest.counts.scored == 0
    assert "nothing to score: all 251" in capsys.readouterr().err


def test_a_run_shows_itself_in_a_line_and_as_a_summary(demo_run: FinishedRun, monkeypatch: pytest.MonkeyPatch) -> None:
    """The accuracy with its interval as counted from the predictions; links that lead to files from the folder."""
    from pipeline.notebook import load_run

    monkeypatch.chdir(demo_run.out.parent)
    made = load_run(demo_run.out.name)
    right = made.predictions.filter(rule="sum").select(pl.col("correct").mean()).collect().item()
    row = made.accuracy.row(by_predicate=(pl.col("prompt") == "answer") & (pl.col("rule") == "sum"), named=True)
    assert (row["accuracy"], row["n"]) == (right, 248)
    shown = repr(made).replace("\N{NARROW NO-BREAK SPACE}", " ")
    assert shown == (
        f"<labelscore run: 248 items, answer {100 * right:.1f} % ({100 * row['low']:.1f} to {100 * row['high']:.1f} %) "
        "under sum, sample-demo>"
    )
    summary = made._repr_markdown_()
    assert summary is not None
    assert "demonstration model" in summary
    links = [part.partition(")")[0] for part in summary.rpartition("\n\n")[2].split("](")[1:]]
    assert len(links) == 6
    assert all(Path(link).is_file() for link in links)
    assert {made.page_path, made.report_path} <= {Path(link) for link in links}


@pytest.mark.parametrize(
    ("keys", "told"),
    [
        ({"modle": "demo"}, "unknown key 'modle' in the call; did you mean 'model'?"),
        ({"prompt": "answer"}, "bad value for 'prompt' in the call: write a list"),
        ({"workers": 2}, "workers = 2: here the items are scored in this process"),
        ({"dataset": Path("nosuch.csv")}, "nosuch.csv: no such file"),
    ],
)
def test_a_mistake_is_one_line(
    keys: dict[str, Any], told: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """That says what and where, and leaves no folder."""
    monkeypatch.chdir(tmp_path)
    with pytest.raises(InputError) as caught:
        run(**keys)
    assert told in str(caught.value)
    assert "\n" not in str(caught.value)
    assert not list(tmp_path.iterdir())


@contextmanager
def kernel(folder: Path) -> Iterator[Any]:
    """A client of a kernel that works in a folder."""
    pytest.importorskip("ipykernel")
    from jupyter_client.manager import start_new_kernel

    env = {**os.environ, "HF_HUB_OFFLINE": "1", "PYTHONPATH": os.pathsep.join([str(ROOT), *sys.path])}
    manager, client = start_new_kernel(kernel_name="python3", cwd=str(folder), env=env, startup_timeout=120)
    try:
        client.manager = manager
        yield client
    finally:
        client.stop_channels()
        manager.shutdown_kernel(now=True)


def outputs(client: Any, code: str) -> tuple[dict[str, str], str, dict[str, Any]]:
    """What a cell shows, what it says on standard error, and how it ended."""
    shown, said = dict[str, str](), list[str]()

    def hear(message: dict[str, Any]) -> None:
        content = message["content"]
        if message["header"]["msg_type"] == "execute_result":
            shown.update(content["data"])
        elif message["header"]["msg_type"] == "stream":
            said.append(content["text"])

    reply = client.execute_interactive(code, output_hook=hear, timeout=240)
    return shown, "".join(said), reply["content"]


def test_a_kernel_shows_a_run_and_an_interrupted_one_goes_on(tmp_path: Path) -> None:
    """One cell imports, runs and shows; a run that is interrupted keeps what it scored, and the next call goes on."""
    sample = pl.read_ndjson(sample_path("test"))
    rows = pl.concat([sample.with_columns(pl.col("text") + f" {part}") for part in range(20)])
    rows.write_csv(tmp_path / "news.csv")
    with kernel(tmp_path) as client:
        shown, said, ended = outputs(client, "from pipeline.notebook import run\nrun(limit=30)")
        assert ended["status"] == "ok", ended
        assert shown["text/plain"].startswith("<labelscore run: 30 items, answer ")
        assert "\n" not in shown["text/plain"]
        assert "| `answer` |" in shown["text/markdown"]
        assert "30 items" in said
        assert "Traceback" not in said
        assert "Warning" not in said
        _, _, ended = outputs(client, "import sys\nassert not {'prefect', 'ray', 'flows'} & set(sys.modules)")
        assert ended["status"] == "ok", ended

        asked = client.execute("run(dataset='news.csv', out='out', batch_tokens=200)")
        while not (said := next_stream(client)).startswith(("scoring: ", "\rscoring: ")) or " 0%" in said:
            continue
        client.manager.interrupt_kernel()
        reply = client.get_shell_msg(timeout=120)
        while reply["parent_header"]["msg_id"] != asked:
            reply = client.get_shell_msg(timeout=120)
        assert reply["content"]["ename"] == "KeyboardInterrupt"
        assert "what was scored is kept" in reply["content"]["evalue"]
        _, said, ended = outputs(client, "print(run(dataset='news.csv', out='out').manifest.counts.reused)")
        assert ended["status"] == "ok", ended
        assert 0 < int(said.split()[-1]) < rows.height


def next_stream(client: Any) -> str:
    """The next text that the kernel prints."""
    while True:
        message = client.get_iopub_msg(timeout=120)
        if message["header"]["msg_type"] == "stream":
            return str(message["content"]["text"])
