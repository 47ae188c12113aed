"""The same rules over the S3 protocol, on loopback: whole objects, no lock, a mirror on each machine."""

import logging
import os
import signal
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import boto3
import pyarrow.parquet as pq
import pytest
from moto.server import ThreadedMotoServer

from pipeline.errors import InputError, LabelscoreError
from pipeline.prompts import hash_text
from pipeline.storing.files import Output
from pipeline.storing.layout import HISTORY, SCORES
from pipeline.storing.manifest import need_manifest, write_manifest
from pipeline.storing.runs import new_folder, publish, renew_links
from pipeline.storing.s3 import S3
from pipeline.storing.upkeep import history, prune, status, verify
from tests.flows.buckets import serve_trouble
from tests.pipeline.storing.stored import (
    ANSWER,
    TOPIC,
    expected_scores,
    fingerprint,
    manifest,
    open_store,
    published,
    published_scores,
    run,
    scored,
    start,
    texts_of,
    wanted,
    write_items,
)

TEXTS = texts_of(23)
BUCKET = "bucket"


@pytest.fixture(scope="module")
def server() -> Iterator[str]:
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    logging.getLogger("werkzeug").setLevel(logging.ERROR)
    host, port = server.get_host_and_port()
    yield f"http://{host}:{port}"
    server.stop()


@pytest.fixture
def machine(server: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, str]:
    """The environment of a machine with credentials for an empty bucket."""
    environment = {
        "AWS_ENDPOINT_URL": server,
        "AWS_ACCESS_KEY_ID": "key",
        "AWS_SECRET_ACCESS_KEY": "recognisable-secret",
        "AWS_DEFAULT_REGION": "us-east-1",
        "XDG_CACHE_HOME": str(tmp_path / "machine-1"),
    }
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    client = boto3.client("s3")
    client.create_bucket(Bucket=BUCKET)
    for listed in client.list_objects_v2(Bucket=BUCKET).get("Contents", []):
        client.delete_object(Bucket=BUCKET, Key=listed["Key"])
    return environment


@pytest.fixture
def out(machine: dict[str, str]) -> Output:
    return Output(f"s3://{BUCKET}/runs/one")


def elsewhere(out: Output, monkeypatch: pytest.MonkeyPatch, folder: Path) -> Output:
    """The same output seen from a machine that has never seen it."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(folder))
    return Output(out.location)


def objects() -> dict[str, int]:
    listed = boto3.client("s3").list_objects_v2(Bucket=BUCKET).get("Contents", [])
    return {entry["Key"]: entry["Size"] for entry in listed}


def test_files_are_objects_under_the_prefix(out: Output) -> None:
    """Writing, reading, listing, moving and deleting, with names relative to the output."""
    out.write_bytes("a/b", b"one")
    out.write_bytes("a/b", b"three")
    assert objects() == {"runs/one/a/b": 5}
    assert out.list() == {"a/b": 5}
    assert out.read_bytes("a/b") == b"three"
    assert out.open("a/b").read() == b"three"
    assert out.move("a/b", "aside/b") == "aside/b"
    assert (out.exists("a/b"), out.exists("aside/b")) == (False, True)
    out.delete("aside/b")
    out.delete("aside/b")
    assert objects() == {}


def test_the_incremental_rules_hold_from_any_machine(
    out: Output, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """A second machine finds everything scored; more texts cost only themselves; nothing but whole objects is there."""
    run(out, TEXTS[:10], [ANSWER])
    other = elsewhere(out, monkeypatch, tmp_path / "machine-2")
    assert run(other, TEXTS, [ANSWER]) == [text for text in dict.fromkeys(TEXTS) if text not in TEXTS[:10]]
    assert run(out, TEXTS, [ANSWER]) == []
    assert published_scores(other) == expected_scores(TEXTS)
    assert verify(out) == []
    assert len(history(out)) == 3
    assert not [key for key in objects() if ".tmp-" in key or ".labelscore" in key]


def test_a_mirrored_part_is_not_downloaded_again(out: Output) -> None:
    """Its name is its hash: an intact copy is good, a damaged copy is fetched anew and the object left alone."""
    run(out, TEXTS)
    parts = [name for name in out.list("store") if name.endswith(".parquet")]
    before = {name: out.path(name).stat().st_mtime_ns for name in parts}
    out.path(parts[0]).write_bytes(b"torn copy")
    store = open_store(out)
    assert store.findings == []
    after = {name: out.path(name).stat().st_mtime_ns for name in parts}
    assert [name for name in parts if before[name] != after[name]] == [parts[0]]


def test_a_damaged_object_is_found_set_aside_and_scored_again(
    out: Output, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Also by `verify` of a machine whose mirrored copy is still good."""
    run(out, TEXTS)
    name = next(name for name in out.list("store") if name.endswith(".parquet"))
    num_texts = pq.read_metadata(out.path(name)).num_rows // 4
    data = bytearray(out.read_bytes(name))
    data[len(data) // 2] ^= 1
    boto3.client("s3").put_object(Bucket=BUCKET, Key=f"runs/one/{name}", Body=bytes(data))
    assert [finding.name for finding in verify(out)] == [name]
    other = elsewhere(out, monkeypatch, tmp_path / "machine-2")
    assert len(run(other, TEXTS)) == num_texts
    assert other.read_bytes(f"store/set-aside/damaged-{Path(name).name}") == bytes(data)
    assert verify(other) == []
    assert published_scores(other) == expected_scores(TEXTS)


def test_status_and_prune_work_on_objects(out: Output) -> None:
    """Stale parts are told and removed."""
    run(out, TEXTS, [TOPIC])
    run(out, TEXTS, [ANSWER])
    assert [s.state for s in status(out).stored] == ["published", "stale"]
    stale = {f"runs/one/{pruned.name}" for pruned in prune(out, dry_run=False)}
    assert stale
    assert not stale & set(objects())
    assert verify(out) == []


def test_status_and_prune_of_many_parts_take_few_requests(
    out: Output, server: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """A listing tells what is in the parts, on a machine that has never seen them; 1,000 go with one request.

    Parts of before, whose names tell nothing but their hash, count as much.
    """
    run(out, TEXTS, [ANSWER])
    local = Output(tmp_path / "local")
    store = open_store(local, [TOPIC], weights="old")
    texts = [f"item {number}" for number in range(60)]
    items = write_items(local.work / "items.parquet", texts)
    store.pending(items, wanted(TOPIC, "old"))
    for text in texts:
        store.writer(wanted(TOPIC, "old")).append(scored([hash_text(text)], fingerprint(TOPIC, "old")))
    client, parts = boto3.client("s3"), [name for name in local.list("store") if name.endswith(".parquet")]
    for name in local.list("store"):
        of_before = f"{name[: name.index('-')]}.parquet" if name in parts[:3] else name
        client.put_object(Bucket=BUCKET, Key=f"runs/one/{of_before}", Body=local.read_bytes(name))
    with serve_trouble(server, lambda method, path: None) as (url, asked):
        monkeypatch.setenv("AWS_ENDPOINT_URL", url)
        seen = elsewhere(out, monkeypatch, tmp_path / "machine-2")
        other = status(seen).stored[-1]
        assert (other.model, other.prompt, other.num_texts, other.num_pending) == ("model-old", "topic", 60, 0)
        assert other.num_bytes == sum(local.list("store")[name] for name in parts)
        assert len(asked) < 40
        asked.clear()
        assert len(prune(seen, dry_run=False, unfinished=True)) == 61
        assert len(asked) < 40
        assert sum("delete" in each for each in asked) == 1
    assert verify(out) == []


def test_two_runs_at_once_from_two_machines_both_succeed(out: Output, machine: dict[str, str], tmp_path: Path) -> None:
    """Without a lock: both end well, every object is whole, and the table has each row once."""
    caches = [str(tmp_path / f"machine-{number}") for number in (3, 4)]
    runs = [start("run", out.location, "60", **machine | {"XDG_CACHE_HOME": cache}) for cache in caches]
    for process in runs:
        _, errors = process.communicate(timeout=120)
        assert process.returncode == 0, errors
    assert verify(out) == []  # the pages in OUT/, too, are of the run that the manifest names
    assert published_scores(out) == expected_scores(texts_of(60))
    assert run(out, texts_of(60)) == []
    assert verify(out) == []


def test_what_another_machine_makes_while_we_list_is_no_folder_among_the_files(
    out: Output, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where nothing was below a folder, s3fs looks the folder itself up, and by then it may be one."""

    async def too_early(self: S3, path: str, **options: Any) -> list[dict[str, Any]]:
        boto3.client("s3").put_object(Bucket=BUCKET, Key="runs/one/store/made/part", Body=b"whole")
        return []

    with monkeypatch.context() as patched:
        patched.setattr(S3, "_lsdir", too_early)
        assert out.list("store/made") == {}
    assert out.list("store/made") == {"store/made/part": 5}


@pytest.mark.parametrize("verb", ["fetch", "move"])
def test_a_damaged_part_that_another_machine_sets_aside_first_is_none(
    out: Output, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, verb: str
) -> None:
    """Between our listing and our reading it, or between our reading and our moving it: the run goes on."""
    run(out, TEXTS)
    part = open_store(out).parts(fingerprint())[0]
    damaged = part.name
    out.write_bytes(damaged, b"damaged")
    ours = getattr(Output, verb)

    def overtaken(self: Output, name: str, *others: Any) -> Any:
        if name == damaged:
            patched.undo()
            with monkeypatch.context() as other_machine:
                assert open_store(elsewhere(out, other_machine, tmp_path / "machine-2")).findings
        return ours(self, name, *others)

    with monkeypatch.context() as patched:
        patched.setattr(Output, verb, overtaken)
        store = open_store(out)
    assert damaged not in [part.name for part in store.parts(fingerprint())]
    assert store.findings == []
    assert len(run(out, TEXTS)) == part.num_texts
    assert verify(out) == []


def test_what_is_copied_is_of_the_run_that_was_published_last(out: Output, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also where another machine publishes between two of the copies."""
    run(out, TEXTS[:5])
    link, folder = Output.link, out.inside(new_folder())

    def overtaken(self: Output, name: str, target: Output, target_name: str) -> None:
        link(self, name, target, target_name)
        monkeypatch.setattr(Output, "link", link)
        folder.write_bytes(HISTORY, b"of the other run")
        publish(out, folder, manifest())

    monkeypatch.setattr(Output, "link", overtaken)
    renew_links(out)
    assert out.read_bytes(HISTORY) == b"of the other run"
    (first,) = need_manifest(out).replaced
    assert out.exists(f"{first}/{SCORES}")


def test_an_output_of_before_there_were_folders_keeps_no_table_that_no_manifest_names(out: Output) -> None:
    """There are no links to put in their place: what was OUT/scores would stand beside the new run for ever."""
    run(out, TEXTS[:5])
    before = need_manifest(out)
    for name in before.files:
        out.write_bytes(name, out.read_bytes(f"{before.folder}/{name}"))
    for name in out.list(before.folder):
        out.delete(name)
    write_manifest(out, before.model_copy(update={"folder": "", "published": ""}))
    assert len(published_scores(out)) == 20
    run(out, TEXTS)
    assert {name for name in out.list() if not name.startswith(("runs/", "store/"))} == {HISTORY, "manifest.json"}
    assert len(history(out)) == 2
    assert verify(out) == []


def test_copies_of_runs_that_are_gone_do_not_fill_a_machine(
    out: Output, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """A machine that only reads keeps what it may be reading, and nothing of runs that others removed long ago."""
    run(out, TEXTS)
    reader = elsewhere(out, monkeypatch, tmp_path / "machine-2")
    gone, begun = (
        reader.path(f"runs/{name}-01234567") for name in ("20200101T000000", f"{datetime.now(UTC):%Y%m%dT%H%M%S}")
    )
    for folder in (gone, begun):
        (folder / "scores").mkdir(parents=True)
    published(reader)
    assert not gone.exists()
    assert begun.exists()
    assert reader.path(need_manifest(reader).folder).exists()


@pytest.mark.parametrize("num_parts", [1, 4, 9])
def test_a_killed_writer_leaves_nothing_half(
    out: Output, machine: dict[str, str], tmp_path: Path, num_parts: int
) -> None:
    """SIGKILL while parts are being put: what is there is whole, and the next run scores the rest."""
    process = start("append", out.location, "0", "1000", **machine | {"XDG_CACHE_HOME": str(tmp_path / "machine-3")})
    while len(objects()) < num_parts:
        assert process.poll() is None
    os.kill(process.pid, signal.SIGKILL)
    process.communicate()
    texts = [f"item {number}" for number in range(80)]
    store = open_store(out)
    assert store.findings == []
    num_whole = len(store.parts(fingerprint()))
    assert num_whole >= num_parts
    assert len(run(out, texts)) == max(0, 80 - num_whole) + 3
    assert published_scores(out) == expected_scores(texts)


def test_a_large_file_appears_whole_or_not_at_all(out: Output) -> None:
    """Beyond one request's size it is a multipart upload, which shows only when it is complete."""
    data = os.urandom(1 << 20) * 60
    out.write_bytes("large", data)
    assert out.read_bytes("large") == data


def test_a_bucket_that_is_not_there_or_not_ours_is_one_line(machine: dict[str, str], server: str) -> None:
    """No bucket, no server, no such scheme: what, where and what to do; the secret is in none of them."""
    with pytest.raises(LabelscoreError) as no_bucket:
        Output("s3://nobody/x").write_bytes("a", b"")
    with pytest.raises(InputError) as no_scheme:
        Output("http://127.0.0.1/x")
    for error in (no_bucket, no_scheme):
        assert "\n" not in str(error.value)
        assert "recognisable-secret" not in str(error.value)


def test_a_server_that_does_not_answer_is_one_line(machine: dict[str, str], monkeypatch: pytest.MonkeyPatch) -> None:
    """A connection that is refused is told as such."""
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")
    monkeypatch.setenv("AWS_MAX_ATTEMPTS", "1")
    with pytest.raises(LabelscoreError, match=r"127\.0\.0\.1:9") as error:
        Output(f"s3://{BUCKET}/unreachable").write_bytes("a", b"")
    assert "\n" not in str(error.value)


def test_parts_appended_by_workers_elsewhere_are_seen_after_a_refresh(
    out: Output, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """A worker's mirror is its own; the driver fetches what was stored."""
    store = open_store(out)
    worker = elsewhere(out, monkeypatch, tmp_path / "machine-2")
    open_store(worker).writer(wanted()).append(scored([hash_text("a")], fingerprint()))
    store.refresh()
    items = write_items(out.work / "items.parquet", ["a", "b"])
    assert store.pending(items, wanted()).num_missing == 1
