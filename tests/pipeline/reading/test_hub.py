"""The hub as labelscore sees it, with every way in which it can fail; the server is on loopback."""

import json
import logging
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from huggingface_hub import constants

from pipeline.errors import InputError, LabelscoreError, RunError
from pipeline.pull import pull_items
from pipeline.reading.dataset import Dataset, open_dataset
from pipeline.reading.gold import Names, read_classes
from pipeline.reading.hub_errors import redact
from pipeline.reading.model import resolve_model
from tests.hub_server import CLASSES, HubServer, ag_news_files, connect, folder_files, save_tiny_gemma
from tests.pipeline.reading.data_files import TEXT_ALONE

ROOT = Path(__file__).resolve().parents[3]
DATA = "fancyzhx/ag_news"
MODEL = "google/gemma-2b"
TOKEN = "hf_recognisableTokenOfTheTests"


@pytest.fixture(scope="session")
def gemma_files(tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    return folder_files(save_tiny_gemma(tmp_path_factory.mktemp("gemma")))


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, gemma_files: dict[str, bytes]) -> Iterator[HubServer]:
    """A hub with a data set and a gated model, and this process connected to it without a token."""
    with HubServer() as server:
        server.put("dataset", DATA, ag_news_files())
        server.put("model", MODEL, gemma_files, gated=True)
        connect(monkeypatch, server, tmp_path / "cache")
        yield server


@pytest.fixture
def waits(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """Every wait is noted and not waited."""
    noted: list[float] = []
    monkeypatch.setattr(time, "sleep", noted.append)
    return noted


@pytest.fixture
def licensed(hub: HubServer, monkeypatch: pytest.MonkeyPatch) -> HubServer:
    """The hub, with a token in the environment that may read the gated model."""
    hub.accept_licence("model", MODEL, TOKEN)
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    return hub


def texts_of(dataset: Dataset) -> list[object]:
    return [row.values[0] for row in dataset.rows()]


def message_of(what: type[LabelscoreError], name: str = DATA, revision: str | None = None) -> str:
    with pytest.raises(what) as caught:
        open_dataset(name, revision=revision)
    return str(caught.value)


def assert_nothing_half_cached(cache: Path, *repos: dict[str, bytes]) -> None:
    """Whatever lies among the blobs is a whole file of a repository."""
    whole = {data for files in repos for data in files.values()}
    blobs = [f for f in cache.rglob("blobs/*") if f.is_file()]
    assert all(f.read_bytes() in whole for f in blobs)
    assert not list(cache.rglob("*.incomplete"))


# Data sets


def test_a_split_is_downloaded_alone_and_pinned_to_its_commit(hub: HubServer) -> None:
    """Only the files of the split asked for come; class names are from the card; the commit is recorded."""
    dataset = open_dataset(DATA, split="test[2:]")
    assert (dataset.revision, dataset.names.names) == (hub.repos["dataset", DATA].refs["main"], CLASSES)
    assert texts_of(dataset) == [f"{CLASSES[i % 4]} news number {i} of the test split" for i in range(2, 12)]
    assert not [path for path in hub.downloads() if "train" in path]
    assert next(dataset.rows()).position == 2


def test_a_second_run_downloads_no_file(hub: HubServer) -> None:
    """It asks which commit is the newest, and nothing else."""
    open_dataset(DATA)
    hub.requests.clear()
    open_dataset(DATA)
    assert {request.path for request in hub.requests} == {f"/api/datasets/{DATA}"}


def test_a_pinned_commit_that_is_cached_needs_no_request(hub: HubServer) -> None:
    """A commit never changes."""
    commit = open_dataset(DATA).revision
    hub.requests.clear()
    assert open_dataset(DATA, revision=commit).revision == commit
    assert hub.requests == []


def test_a_new_commit_is_fetched_and_an_old_one_can_be_asked_for(hub: HubServer) -> None:
    """No revision means the newest; a commit means that commit, offline too."""
    old = open_dataset(DATA).revision
    new = hub.put("dataset", DATA, ag_news_files(num_test=20))
    for revision, commit, num_rows in ((None, new, 20), (old, old, 12)):
        dataset = open_dataset(DATA, revision=revision)
        assert (dataset.revision, len(texts_of(dataset))) == (commit, num_rows)


def test_offline_makes_no_request_and_never_takes_another_revision(
    hub: HubServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What is cached is used; a revision or data set that is not cached is an error, not the nearest thing to it."""
    commit = open_dataset(DATA).revision
    other = hub.put("dataset", DATA, ag_news_files(num_test=20))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    hub.requests.clear()
    assert open_dataset(DATA).revision == commit
    for name, revision in ((DATA, other), (DATA, "v2"), ("some/other", None)):
        assert "HF_HUB_OFFLINE" in message_of(InputError, name, revision)
    with pytest.raises(InputError, match="not completely"):
        open_dataset(DATA, split="train")
    assert hub.requests == []


def test_a_split_a_subset_or_a_revision_that_is_not_there_is_told_with_what_is(hub: HubServer) -> None:
    """One line each, with the alternatives."""
    with pytest.raises(InputError, match="no split 'dev'; it has train, test"):
        open_dataset(DATA, split="dev")
    with pytest.raises(InputError, match=r"'french'.*default"):
        open_dataset(DATA, subset="french")
    assert "no revision 'v9'" in message_of(InputError, revision="v9")


def test_other_formats_are_read_by_the_rules_of_their_card(hub: HubServer) -> None:
    """CSV and JSON lines on the hub come through `datasets`, subsets and class names included."""
    card = (
        "---\nconfigs:\n- config_name: short\n  default: true\n  data_files:\n  - split: test\n    path: short.jsonl\n"
        "- config_name: long\n  data_files:\n  - split: test\n    path: long-*.jsonl\n"
        "dataset_info:\n- config_name: long\n  features:\n  - name: text\n    dtype: string\n  - name: label\n"
        "    dtype:\n      class_label:\n        names:\n          '0': bad\n          '1': good\n---\n"
    )
    rows = [{"text": f"a long text {i}", "label": i % 2} for i in range(2500)]
    halves = ["\n".join(map(json.dumps, half)).encode() for half in (rows[:1200], rows[1200:])]
    files = {"README.md": card.encode(), "short.jsonl": b'{"text": "well done"}'}
    hub.put("dataset", "some/reviews", files | {f"long-{i}.jsonl": half for i, half in enumerate(halves)})
    hub.put("dataset", "some/table", {"test.csv": b"text,label\nwell done,good\nbadly,bad\n"})
    assert texts_of(open_dataset("some/table")) == ["well done", "badly"]
    assert texts_of(open_dataset("some/reviews")) == ["well done"]
    long = open_dataset("some/reviews", subset="long", split="test[1:]")
    assert long.names == Names.in_order(("bad", "good"), is_own=True)
    assert texts_of(long) == texts_of(long) == [row["text"] for row in rows[1:]]
    assert texts_of(open_dataset("some/reviews", subset="long", split="test[-2:]")) == [r["text"] for r in rows[-2:]]


def test_a_data_set_without_a_card_is_found_by_its_file_names(hub: HubServer) -> None:
    """`datasets` knows data/test-*.parquet; class names are then missing."""
    files = {path: data for path, data in ag_news_files().items() if path.startswith("data/")}
    hub.put("dataset", "some/plain", files)
    dataset = open_dataset("some/plain")
    assert (len(texts_of(dataset)), dataset.names) == (12, None)


def test_a_repository_cannot_write_outside_the_folder_it_is_given(hub: HubServer, tmp_path: Path) -> None:
    """File names of strangers are data."""
    hub.put("dataset", "some/evil", {**ag_news_files(), "../../../escaped.parquet": b"x"})
    with pytest.raises(LabelscoreError):
        open_dataset("some/evil")
    assert not list(tmp_path.rglob("escaped*"))


# Models


def test_a_gated_model_without_a_token_says_which_steps(hub: HubServer, tmp_path: Path, gemma_files: object) -> None:
    """Account, licence page, token, HF_TOKEN; and no weights were asked for."""
    with pytest.raises(InputError) as caught:
        resolve_model(MODEL, device="cpu")
    for step in ("401", "account", f"accept the licence at {hub.url}/{MODEL}", "settings/tokens", "HF_TOKEN"):
        assert step in str(caught.value)
    assert not hub.downloads()


def test_a_gated_data_set_names_its_own_page(hub: HubServer) -> None:
    """Data sets have licences too, under another address."""
    hub.put("dataset", "some/secret", ag_news_files(), gated=True)
    message = message_of(InputError, "some/secret")
    assert "data set some/secret: it needs an accepted licence and a token (401): (1) make an account" in message
    assert f"accept the licence at {hub.url}/datasets/some/secret," in message


def test_a_licence_that_is_not_accepted_says_which_steps(hub: HubServer, monkeypatch: pytest.MonkeyPatch) -> None:
    """A token alone does not open the gate; it is not shown."""
    hub.tokens.add(TOKEN)
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    with pytest.raises(InputError) as caught:
        resolve_model(MODEL, device="cpu")
    for step in ("403", "not accepted", f"accept the licence at {hub.url}/{MODEL}", "HF_TOKEN"):
        assert step in str(caught.value)
    assert TOKEN not in str(caught.value)


def test_a_refused_token_is_told_without_showing_it(hub: HubServer, monkeypatch: pytest.MonkeyPatch) -> None:
    """Expired or mistyped."""
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    with pytest.raises(InputError, match="refused the token in HF_TOKEN") as caught:
        resolve_model(MODEL, device="cpu")
    assert TOKEN not in str(caught.value)


def test_a_model_comes_with_its_commit_and_never_with_a_pickle(
    licensed: HubServer, gemma_files: dict[str, bytes]
) -> None:
    """Only configuration, tokenizer and safetensors are asked for; the token goes to the hub, not to its CDN."""
    commit = licensed.put("model", MODEL, gemma_files | {"pytorch_model.bin": b"x", "evil.py": b"x"}, gated=True)
    ref = resolve_model(MODEL, device="cpu")
    assert (ref.name, ref.revision, ref.weights) == (MODEL, commit, f"{MODEL}@{commit}")
    assert {Path(path).name for path in (f.name for f in ref.path.iterdir())} == set(gemma_files) - {"README.md"}
    assert [r.token for r in licensed.requests if r.path.startswith("/cdn/")] == [None]
    licensed.requests.clear()
    assert resolve_model(MODEL, device="cpu") == ref
    assert not licensed.downloads()


def test_a_model_that_cannot_be_used_is_refused_before_its_weights_come(hub: HubServer) -> None:
    """An encoder, a repository of pickles, one without a tokenizer: each costs kilobytes, not gigabytes."""
    bert = json.dumps({"model_type": "bert", "architectures": ["BertForMaskedLM"]}).encode()
    for files, reason in (
        ({"config.json": bert, "model.safetensors": b"x", "tokenizer.json": b"{}"}, "not a causal language model"),
        ({"config.json": bert, "pytorch_model.bin": b"x", "tokenizer.json": b"{}"}, "pickle"),
        ({"config.json": bert, "model.safetensors": b"x"}, "no tokenizer"),
        ({"README.md": b"x"}, "no config.json"),
    ):
        hub.put("model", "some/thing", files)
        with pytest.raises(InputError, match=reason):
            resolve_model("some/thing", device="cpu")
    assert not [path for path in hub.downloads() if path.endswith((".safetensors", ".bin"))]


def test_a_cache_that_another_program_filled_is_used_offline(
    licensed: HubServer, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """transformers keeps no listing of the repository; the files themselves are enough."""
    ref = resolve_model(MODEL, device="cpu")
    for listing in (tmp_path / "cache").rglob("trees/*.json"):
        listing.unlink()
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    assert resolve_model(MODEL, device="cpu") == ref


# Failures that pass, and failures that do not


def test_unknown_names_are_told_in_one_line(hub: HubServer, monkeypatch: pytest.MonkeyPatch) -> None:
    """404, which the hub says as 401 to strangers."""
    assert "does not know it" in message_of(InputError, "some/nothing")
    hub.tokens.add(TOKEN)
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    assert "(404)" in message_of(InputError, "some/nothing")
    assert "check the path" in message_of(InputError, "not a name")


@pytest.mark.parametrize(
    "pattern", ["/api/datasets/[^/]+/[^/]+$", "/tree/", "/resolve/.*README", "/resolve/.*test", "/cdn/"]
)
@pytest.mark.parametrize(("status", "headers"), [(500, {}), (503, {}), (429, {"Retry-After": "7"})])
def test_errors_that_heal_are_sat_out(
    hub: HubServer, waits: list[float], pattern: str, status: int, headers: dict[str, str]
) -> None:
    """Wherever they strike; a wait that the hub asks for is kept."""
    hub.fault(pattern, status=status, times=2, headers=headers)
    assert len(texts_of(open_dataset(DATA))) == 12
    assert waits
    assert min(waits) >= int(headers.get("Retry-After", 0))


def test_a_connection_cut_in_the_middle_of_a_file_is_taken_up_again(
    licensed: HubServer,
    waits: list[float],
    gemma_files: dict[str, bytes],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The rest is asked for by range, and the file is whole."""
    monkeypatch.setattr(constants, "DOWNLOAD_CHUNK_SIZE", 1000)  # 10 MB, of which what came before a cut is lost
    licensed.fault("/cdn/", cut_after=1000, times=3)
    ref = resolve_model(MODEL, device="cpu")
    assert (ref.path / "model.safetensors").read_bytes() == gemma_files["model.safetensors"]
    assert [r.range for r in licensed.requests if "/cdn/" in r.path] == [None, *(f"bytes={n}000-" for n in (1, 2, 3))]
    assert_nothing_half_cached(tmp_path, gemma_files)


@pytest.mark.parametrize("fault", [{"status": 500}, {"status": 429}, {"cut_after": 0}, {"cut_after": 100}])
@pytest.mark.parametrize("pattern", ["/api/datasets/[^/]+/[^/]+$", "/cdn/"])
def test_errors_that_stay_end_in_one_line_and_leave_no_half_file(
    hub: HubServer,
    waits: list[float],
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    pattern: str,
    fault: dict[str, int],
) -> None:
    """The number of tries is bounded; afterwards an offline run does not take the broken copy for a whole one."""
    hub.fault(pattern, times=10**6, **fault)
    assert message_of(RunError).startswith(f"data set {DATA}: ")
    assert len(waits) < 100
    assert_nothing_half_cached(tmp_path, ag_news_files())
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    assert "not (or not completely) in the cache" in message_of(InputError)


@pytest.mark.parametrize("pattern", ["/api/", "/resolve/"])
@pytest.mark.parametrize("headers", [{"Retry-After": "3600"}, {"RateLimit": '"api";r=0;t=3600'}])
def test_a_wait_of_an_hour_is_not_waited_for(
    hub: HubServer, waits: list[float], pattern: str, headers: dict[str, str]
) -> None:
    """Nobody sits before a run that sleeps; the line says how long the hub asks for."""
    hub.fault(pattern, status=429, times=10**6, headers=headers)
    assert "429" in message_of(RunError)
    assert waits == []


def test_no_network_is_told_with_what_to_do(
    hub: HubServer, waits: list[float], monkeypatch: pytest.MonkeyPatch
) -> None:
    """After a few tries, not after minutes."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        dead = f"http://127.0.0.1:{free.getsockname()[1]}"
    monkeypatch.setattr(constants, "ENDPOINT", dead)
    message = message_of(RunError)
    assert all(word in message for word in ("no connection", dead, "local path", "HF_HUB_OFFLINE=1"))
    assert len(waits) < 5


def test_a_hub_that_is_down_is_replaced_by_the_cache_and_said_so(
    hub: HubServer, waits: list[float], caplog: pytest.LogCaptureFixture
) -> None:
    """A nightly run goes on with the commit it has, and records that one."""
    commit = open_dataset(DATA).revision
    hub.fault("/", status=502, times=10**6)
    with caplog.at_level(logging.WARNING):
        assert open_dataset(DATA).revision == commit
    assert "using the copy in the cache" in caplog.text


def test_a_gate_that_closed_is_not_passed_over_with_the_cache(
    licensed: HubServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A hub that says no is not a hub that is down."""
    resolve_model(MODEL, device="cpu")
    monkeypatch.setenv("HF_TOKEN", "hf_anotherTokenWithoutRights")
    with pytest.raises(InputError, match="refused the token"):
        resolve_model(MODEL, device="cpu")


def test_no_token_is_in_any_message_or_log(
    licensed: HubServer, waits: list[float], caplog: pytest.LogCaptureFixture, capfd: pytest.CaptureFixture[str]
) -> None:
    """Whatever fails, at the most talkative level."""
    with caplog.at_level(logging.DEBUG):
        licensed.fault("/cdn/", status=500, times=10**6)
        with pytest.raises(RunError) as caught:
            resolve_model(MODEL, device="cpu")
    said = str(caught.value) + caplog.text + "".join(capfd.readouterr())
    assert TOKEN not in said
    assert redact(f"Bearer {TOKEN} and hf_AbCdEfGhIjKl") == "Bearer *** and ***"


# As a process of its own, where only the environment connects it


def test_a_process_of_its_own_downloads_and_then_works_without_a_request(licensed: HubServer, tmp_path: Path) -> None:
    """HF_ENDPOINT, HF_HOME and HF_HUB_OFFLINE are all it needs; nothing is on stderr, and weights load offline too."""
    pull = (
        "from pathlib import Path; from pipeline.reading.dataset import *; from pipeline.reading.gold import *\n"
        "from pipeline.pull import *; from tests.pipeline.reading.data_files import TEXT_ALONE\n"
        "from pipeline.reading.model import *\n"
        f"d = open_dataset('{DATA}'); classes = read_classes(d.count_labels(), d.names, '')\n"
        "pull_items(d, golds=classes, shape=TEXT_ALONE, limit=None, on_bad_row='fail',"
        " items_path=Path('items.parquet'), rejected_path=Path('rejected.parquet')); print(d.revision)\n"
    )
    load = f"r = resolve_model('{MODEL}', device='cpu'); load_model(r); print(r.revision, len(load_tokenizer(r)))"

    def run(program: str, **more: str) -> list[str]:
        env = licensed.env(tmp_path / "cache", PYTHONPATH=str(ROOT), **more)
        command = [sys.executable, "-c", program]
        ended = subprocess.run(command, cwd=tmp_path, env=env, capture_output=True, text=True, timeout=300, check=False)
        assert (ended.returncode, ended.stderr) == (0, "")
        return ended.stdout.split()

    commits = [licensed.repos["dataset", DATA].refs["main"], resolve_model(MODEL, device="cpu").revision]
    assert run(pull) == commits[:1]
    assert pq.read_table(tmp_path / "items.parquet").column("gold").to_pylist()[:4] == list(CLASSES)
    licensed.requests.clear()
    assert run(pull + load, HF_HUB_OFFLINE="1")[:2] == commits
    assert licensed.requests == []


def test_pulling_from_the_hub_gives_the_same_items_as_from_the_file(hub: HubServer, tmp_path: Path) -> None:
    """Where a data set lies does not change it."""
    local = tmp_path / "test.parquet"
    local.write_bytes(ag_news_files()["data/test-00000-of-00001.parquet"])
    for name, source in (("hub", DATA), ("file", str(local))):
        pull_items(
            dataset := open_dataset(source),
            shape=TEXT_ALONE,
            golds=read_classes(dataset.count_labels(), dataset.names or Names.in_order(CLASSES), "test"),
            limit=None,
            on_bad_row="fail",
            items_path=tmp_path / name / "items.parquet",
            rejected_path=tmp_path / name / "rejected.parquet",
        )
    assert pq.read_table(tmp_path / "hub" / "items.parquet").equals(pq.read_table(tmp_path / "file" / "items.parquet"))
