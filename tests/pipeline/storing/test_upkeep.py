"""An output tells what it holds; every changed byte in it is found; pruning takes what is stale and no more."""

import errno
import random
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pipeline.errors import RunError
from pipeline.prompts import Prompt, hash_text
from pipeline.storing.choices import begin_choice, write_choice
from pipeline.storing.files import Output, hash_file
from pipeline.storing.layout import CHOICE_PLAN, NORMS, RUNS, SCORES
from pipeline.storing.manifest import write_manifest
from pipeline.storing.runs import open_run, publish
from pipeline.storing.upkeep import history, prune, status, verify
from tests.pipeline.storing.stored import (
    ANSWER,
    PRIORS,
    TOPIC,
    expected_scores,
    fill,
    fingerprint,
    open_store,
    published,
    published_scores,
    run,
    scored,
    texts_of,
    wanted,
    write_items,
)

TEXTS = texts_of(23)
NUM_TEXTS = len(set(TEXTS) | set(PRIORS))


@pytest.fixture
def out(tmp_path: Path) -> Output:
    return Output(tmp_path / "out")


def snapshot(out: Output) -> dict[str, str]:
    return {name: hash_file(out.path(name)) for name in out.list()}


def test_status_of_an_empty_output_is_empty(out: Output) -> None:
    """Nothing stored, nothing published, nothing wrong."""
    now = status(out)
    assert (now.published, now.stored, now.set_aside, now.num_bytes, now.findings) == (None, [], {}, 0, [])
    assert verify(out) == []
    assert history(out) == []


def test_status_tells_for_each_fingerprint_what_is_stored_and_whose(out: Output) -> None:
    """Texts, bytes, model and prompt; published or stale; and it changes nothing."""
    run(out, TEXTS, [ANSWER, TOPIC], weights="old")
    run(out, TEXTS, [ANSWER])
    before = snapshot(out)
    now = status(out)
    assert [(s.state, s.model, s.prompt, s.num_texts, s.num_pending) for s in now.stored] == [
        ("published", "model-weights", "answer", NUM_TEXTS, 0),
        ("stale", "model-old", "answer", NUM_TEXTS, 0),
        ("stale", "model-old", "topic", NUM_TEXTS, 0),
    ]
    published = now.stored[0]
    assert published.num_bytes == sum(
        size for name, size in out.list(f"store/{published.folder}").items() if name.endswith(".parquet")
    )
    assert now.num_bytes == sum(out.list().values())
    assert now.published
    assert now.published.prompts[0].name == "answer"
    assert snapshot(out) == before


@pytest.mark.parametrize("num_done", [0, 7])
def test_status_tells_what_a_killed_run_still_has_to_score(out: Output, num_done: int) -> None:
    """Pending is what the last run set out to score less what it stored since, also before its first part."""
    with out.lock(print):
        store = open_store(out)
        items = write_items(out.work / "items.parquet", TEXTS)
        pending = store.pending(items, wanted(), extra_texts=PRIORS)
        hashes = pq.read_table(pending.path)["text_hash"].to_pylist()[:num_done]
        if hashes:
            store.writer(wanted()).append(scored(hashes, fingerprint()))
        (stored,) = status(out).stored  # as a killed run leaves it: one that ends with nothing stored withdraws
    assert (stored.state, stored.num_texts, stored.num_pending) == ("unfinished", num_done, NUM_TEXTS - num_done)
    assert stored.prompt == "answer"


def test_verify_finds_nothing_in_a_sound_output(out: Output) -> None:
    """After one run, two, a smaller one, and one that was forced."""
    run(out, TEXTS, [ANSWER, TOPIC])
    assert verify(out) == []
    run(out, TEXTS[:5], [ANSWER])
    run(out, TEXTS, [ANSWER], force=True)
    before = snapshot(out)
    assert verify(out) == []
    assert snapshot(out) == before


def test_verify_finds_a_flipped_bit_in_any_file(out: Output) -> None:
    """In every file of an output, at a dozen places each; the file is named and left as it is."""
    run(out, TEXTS, [ANSWER])
    chance = random.Random(0)
    for name in out.list():
        data = out.read_bytes(name)
        alike = [other for other in out.list() if out.path(other).samefile(out.path(name))]
        for place in {0, len(data) - 1, *(chance.randrange(len(data)) for _ in range(10))}:
            spoilt = bytearray(data)
            spoilt[place] ^= 1 << chance.randrange(8)
            out.path(name).write_bytes(bytes(spoilt))
            assert [finding.name for finding in verify(out)] == [max(alike, key=len)]  # in the folder of the run
            assert out.read_bytes(name) == bytes(spoilt)
        out.path(name).write_bytes(data)
    assert verify(out) == []


def test_verify_names_what_is_missing_and_what_is_not_ours(out: Output) -> None:
    """A published file that is gone, strays anywhere, and a manifest that is gone."""
    run(out, TEXTS)
    for name in ("notes.txt", "store/notes.txt", "store/0123456789abcdef/x.parquet", "scores/old.parquet"):
        out.write_bytes(name, b"mine")
    folder, _ = open_run(out)
    inside = f"{RUNS}/{folder.root.name}"
    folder.write_bytes("notes.txt", b"mine")
    folder.delete("priors.parquet")
    found = {finding.name: str(finding) for finding in verify(out)}
    assert set(found) == {
        "notes.txt",
        "store/notes.txt",
        "store/0123456789abcdef/x.parquet",
        "scores/old.parquet",
        f"{inside}/notes.txt",
        f"{inside}/priors.parquet",
    }
    assert "it is missing; run again" in found[f"{inside}/priors.parquet"]
    assert "or move it elsewhere if it is yours" in found["notes.txt"]
    out.delete("manifest.json")
    assert "no run has finished; run again" in str(verify(out)[0])


@pytest.mark.parametrize("gone", ["scores/scores.parquet", "items.parquet", "current"])
def test_verify_misses_a_name_that_leads_to_the_last_run(out: Output, gone: str) -> None:
    """Whoever reads OUT/scores would not find it; the next run makes it again."""
    run(out, TEXTS)
    out.path(gone).unlink()
    assert {f.problem for f in verify(out)} == {"it is missing"}
    run(out, TEXTS)
    assert verify(out) == []


def test_status_counts_the_runs_that_were_replaced(out: Output) -> None:
    """Those before the last one, and nothing else that is called alike."""
    run(out, TEXTS)
    out.write_bytes("runs.txt", b"mine")
    assert status(out).num_replaced_bytes == 0
    before = sum(out.list(open_run(out)[1].folder).values())
    run(out, TEXTS)
    assert status(out).num_replaced_bytes == before


def test_verify_tells_a_newer_manifest_and_part_from_damage(out: Output) -> None:
    """What a newer labelscore wrote is not called damaged."""
    run(out, TEXTS)
    out.write_bytes("manifest.json", b'{"schema_version": 7}')
    assert "upgrade labelscore" in str(verify(out)[0])


def republish(out: Output, table: object, num_items: int | None = None) -> None:
    """Replace the scores and make the manifest vouch for them."""
    folder, manifest = open_run(out)
    pq.write_table(table, folder.path(SCORES))
    dataset = manifest.dataset.model_copy(update={"num_items": num_items or manifest.dataset.num_items})
    files = {name: digest for name, digest in manifest.files.items() if name != SCORES}
    publish(out, folder, manifest.model_copy(update={"files": files, "dataset": dataset}))


def test_verify_counts_the_published_rows_even_when_their_hash_fits(out: Output) -> None:
    """Doubled, swapped and missing rows, other columns, and a manifest that speaks of other items."""
    run(out, TEXTS, [ANSWER, TOPIC])
    table = pq.read_table(published(out))
    republish(out, pa.concat_tables([table, table.slice(table.num_rows - 1)]))
    assert ["twice or out of order" in str(f) for f in verify(out)] == [True, False]
    republish(out, table.take([1, 0, *range(2, table.num_rows)]))
    assert ["twice or out of order" in str(f) for f in verify(out)] == [True]
    republish(out, table.slice(0, table.num_rows - 1))
    assert ["rows, not 184 for 23 items" in str(f) for f in verify(out)] == [True]
    republish(out, table.drop_columns(["logit"]))
    assert ["columns" in str(f) for f in verify(out)] == [True]
    republish(out, table, num_items=22)
    assert ["for 23 items" in str(f) for f in verify(out)] == [True]


def test_a_table_of_before_there_were_norms_is_sound(out: Output) -> None:
    run(out, TEXTS, [ANSWER])
    republish(out, pq.read_table(published(out)).drop_columns(list(NORMS)))
    assert verify(out) == []


def test_a_run_mends_what_verify_found(out: Output) -> None:
    """After damage to the store and the tables one run makes everything sound again."""
    run(out, TEXTS)
    names = [name for name in out.list() if not name.endswith("manifest.json") and not out.path(name).is_symlink()]
    for name in names:
        out.path(name).write_bytes(out.read_bytes(name)[:-3])
    assert {f.name for f in verify(out)} >= set(names)
    run(out, TEXTS)
    assert verify(out) == []
    assert published_scores(out) == expected_scores(TEXTS)


def test_prune_says_first_and_then_removes_what_is_stale(out: Output) -> None:
    """Parts that the last finished run does not use, and what was set aside; a dry run removes nothing."""
    run(out, TEXTS, [TOPIC])
    run(out, TEXTS, [ANSWER])
    victim = next(iter(out.list(f"store/{status(out).stored[0].folder}")))
    out.path(victim).write_bytes(b"torn")
    run(out, TEXTS, [ANSWER])
    before = snapshot(out)
    told = prune(out, dry_run=True)
    assert snapshot(out) == before
    assert {p.reason for p in told} == {
        "set aside as unusable",
        "prompt 'topic' of model-weights is in no finished run",
    }
    assert all(p.num_bytes == out.path(p.name).stat().st_size for p in told)
    with out.lock(print):
        assert prune(out, dry_run=False) == told
    assert set(snapshot(out)) == set(before) - {p.name for p in told}
    assert verify(out) == []
    assert run(out, TEXTS, [ANSWER]) == []
    assert prune(out, dry_run=True) == []


def cut_short(out: Output, texts: list[str], num_done: int, prompt: Prompt = TOPIC, *, force: bool = False) -> None:
    """Leave what a run leaves that is killed when it has stored so many of the texts that it had to score."""
    store = open_store(out, [prompt])
    items = write_items(out.work / "items.parquet", texts)
    pending = store.pending(items, wanted(prompt), force=force)
    hashes = pq.read_table(pending.path)["text_hash"].to_pylist()[:num_done]
    store.writer(wanted(prompt)).append(scored(hashes, fingerprint(prompt)))


def pruned(out: Output, *, unfinished: bool = False) -> dict[str, str]:
    """Why each file would go."""
    return {file.name: file.reason for file in prune(out, dry_run=True, unfinished=unfinished)}


def test_prune_keeps_what_an_unfinished_run_has_stored_until_it_is_given_up(out: Output) -> None:
    """Whatever the clocks say, and whatever else was run since: only its own end, or --unfinished, makes it stale."""
    run(out, TEXTS, [ANSWER])
    cut_short(out, TEXTS, 3)
    _, manifest = open_run(out)
    write_manifest(out, manifest.model_copy(update={"finished": "2999-01-01T00:00:00+00:00"}))
    assert pruned(out) == {}
    run(out, TEXTS, [ANSWER], weights="other")
    assert not [name for name in pruned(out) if fingerprint(TOPIC).digest[:16] in name]
    own = {n: r for n, r in pruned(out, unfinished=True).items() if fingerprint(TOPIC).digest[:16] in n}
    assert len(own) == 2  # the part and the plan
    assert set(own.values()) == {"prompt 'topic' of model-weights is unfinished: 17 texts are pending"}
    run(out, TEXTS, [TOPIC])
    run(out, TEXTS, [ANSWER])
    assert {"prompt 'topic' of model-weights is in no finished run"} <= set(pruned(out).values())
    prune(out, dry_run=False, unfinished=True)
    assert [stored.state for stored in status(out).stored] == ["published"]


def test_a_prune_that_is_cut_short_is_finished_by_the_next(out: Output, monkeypatch: pytest.MonkeyPatch) -> None:
    """After any number of files: what is left of finished scores does not pass for those of an unfinished run."""
    unlink = Path.unlink
    for num_removed in range(20):
        run(out, TEXTS, [TOPIC])
        run(out, TEXTS, [ANSWER])
        stale = {name for name, reason in pruned(out).items() if "in no finished run" in reason}
        assert len(stale) > 3
        left = iter(range(num_removed))

        def unlink_some(path: Path, *, missing_ok: bool, left: Iterator[int] = left) -> None:
            if next(left, None) is None:
                raise OSError(errno.EIO, "cut short")
            unlink(path, missing_ok=missing_ok)

        with monkeypatch.context() as patch, suppress(RunError):
            patch.setattr(Path, "unlink", unlink_some)
            prune(out, dry_run=False)
        assert len(stale.difference(out.list())) == min(num_removed, len(stale))
        prune(out, dry_run=False)
        assert stale.isdisjoint(out.list())


def test_prune_keeps_what_a_run_has_scored_that_never_published_it(out: Output) -> None:
    """All of one prompt, or of all: it was killed at the next prompt, or at its tables, and nothing is pending."""
    run(out, TEXTS, [ANSWER])
    for weights in ("other", "third"):
        with out.lock(print):
            store = open_store(out, [TOPIC], weights)
            items = write_items(out.work / "items.parquet", TEXTS)
            fill(store, items, store.prompts[0])
    run(out, TEXTS, [ANSWER], weights="later")
    kept = [s for s in status(out).stored if s.state == "unfinished"]
    assert [(s.model, s.num_pending) for s in kept] == [("model-other", 0), ("model-third", 0)]
    assert not [name for name in pruned(out) for s in kept if s.folder in name]
    assert "prompt 'topic' of model-third is unfinished" in str(pruned(out, unfinished=True))
    run(out, TEXTS, [TOPIC], weights="third")  # nothing to score: it is published
    run(out, TEXTS, [ANSWER], weights="later")
    assert {s.model: s.state for s in status(out).stored if s.prompt == "topic"} == {
        "model-other": "unfinished",
        "model-third": "stale",
    }


@pytest.mark.parametrize("num_texts", [2, 6])
def test_a_smaller_run_does_not_end_a_larger_one(out: Output, num_texts: int) -> None:
    """One that finds all its texts stored, and one that scores some more: what the larger one lacks stays pending."""
    cut_short(out, TEXTS[:15], 4)
    run(out, TEXTS[:num_texts], [TOPIC])
    (stored,) = status(out).stored
    assert (stored.state, stored.num_pending > 0) == ("published", True)
    run(out, TEXTS, [ANSWER])
    assert pruned(out) == {}
    assert fingerprint(TOPIC).digest[:16] in str(pruned(out, unfinished=True))


@pytest.mark.parametrize("force", [True, False])
def test_one_that_wants_as_many_texts_ends_it(out: Output, force: bool) -> None:
    """Also where it finds them stored, as after a killed run with --force."""
    run(out, TEXTS, [TOPIC])
    cut_short(out, TEXTS, 4, force=True)
    assert status(out).stored[0].num_pending == 16
    run(out, TEXTS, [TOPIC], force=force)
    assert status(out).stored[0].num_pending == 0
    run(out, TEXTS, [ANSWER])
    assert set(pruned(out).values()) == {"prompt 'topic' of model-weights is in no finished run"}


def test_a_damaged_plan_keeps_what_it_was_of(out: Output) -> None:
    """It is a finding, and nobody knows what was pending."""
    cut_short(out, TEXTS, 3)
    run(out, TEXTS, [ANSWER])
    (plan,) = [
        name for name in out.list("store") if name.endswith("plan.json") and fingerprint(TOPIC).digest[:16] in name
    ]
    out.path(plan).write_bytes(out.read_bytes(plan)[:-3])
    assert [finding.name for finding in status(out).findings] == [plan]
    assert pruned(out) == {}
    assert len(pruned(out, unfinished=True)) == 2


def test_parts_without_a_plan_are_stale(out: Output) -> None:
    """Nothing says that a run is to go on with them."""
    cut_short(out, TEXTS, 3)
    run(out, TEXTS, [ANSWER])
    out.delete(f"store/{fingerprint(TOPIC).digest[:16]}/plan.json")
    assert set(pruned(out).values()) == {"prompt 'topic' of model-weights is in no finished run"}


def test_giving_up_leaves_scores_that_are_in_use(out: Output) -> None:
    """Of a published prompt only the word goes that more was wanted."""
    cut_short(out, TEXTS, 4)
    run(out, TEXTS[:2], [TOPIC])
    assert list(pruned(out, unfinished=True).values()) == ["it tells of pending texts"]
    prune(out, dry_run=False, unfinished=True)
    assert status(out).stored[0].num_pending == 0
    assert verify(out) == []


def test_a_choice_is_kept_by_what_came_after_it_and_not_by_clocks(out: Output) -> None:
    """A finished one until another run has finished; an unfinished one until it is given up."""
    run(out, TEXTS, [TOPIC])
    run(out, TEXTS, [ANSWER], weights="first")
    chosen = {"finished": "1999-01-01T00:00:00+00:00", "candidates": [{"fingerprint": fingerprint(TOPIC).digest}]}
    write_choice(out, chosen, {})
    assert pruned(out, unfinished=True) == {}
    run(out, TEXTS, [ANSWER], weights="second")
    assert fingerprint(TOPIC).digest[:16] in str(pruned(out))
    begin_choice(out, [fingerprint(TOPIC).digest])
    assert fingerprint(TOPIC).digest[:16] not in str(pruned(out))
    assert "offered to a choice that is not finished" in str(pruned(out, unfinished=True))
    out.path(CHOICE_PLAN).write_bytes(b"torn")
    assert [finding.name for finding in status(out).findings] == [CHOICE_PLAN]
    assert pruned(out) == {}
    prune(out, dry_run=False, unfinished=True)
    assert [stored.state for stored in status(out).stored] == ["published"]


def test_a_name_that_tells_another_number_of_texts_is_found(out: Output) -> None:
    """A listing is believed because nothing is stored under such a name: the next run sets it aside."""
    run(out, TEXTS)
    name = next(name for name in out.list("store") if name.endswith("-5.parquet"))
    lie = name.replace("-5.parquet", "-6.parquet")
    out.path(name).rename(out.path(lie))
    assert [(finding.name, "its name tells another" in finding.problem) for finding in verify(out)] == [(lie, True)]
    assert len(run(out, TEXTS)) == 5
    assert verify(out) == []


def test_prune_without_a_finished_run_is_refused(out: Output) -> None:
    """Where nothing is published everything would look stale."""
    store = open_store(out)
    store.writer(wanted()).append(scored([hash_text("a")], fingerprint()))
    with pytest.raises(RunError, match=r"no finished run.*finish one"):
        prune(out, dry_run=False)


def test_history_is_read_oldest_first(out: Output) -> None:
    """One line a run; a damaged file is said to be."""
    for _ in range(3):
        run(out, TEXTS)
    lines = history(out)
    assert len(lines) == 3
    assert lines == sorted(lines, key=lambda line: line["finished"])
    open_run(out)[0].write_bytes("history.parquet", b"torn")
    with pytest.raises(RunError, match=r"history\.parquet.*keeps this file aside"):
        history(out)


def test_texts_scored_twice_do_not_stand_for_those_never_scored(out: Output) -> None:
    """A shard that a second worker took over, or --force: as many were written as were missing, and some still are."""
    cut_short(out, TEXTS, 12)
    twice = scored([hash_text(text) for text in TEXTS[:12]], fingerprint(TOPIC), salt=1)
    open_store(out, [TOPIC]).writer(wanted(TOPIC)).append(twice)
    run(out, TEXTS, [ANSWER])
    (held,) = (stored for stored in status(out).stored if stored.prompt == "topic")
    assert (held.state, held.num_pending) == ("unfinished", len(set(TEXTS)) - 12)
    assert pruned(out) == {}
    run(out, TEXTS, [TOPIC])
    run(out, TEXTS, [ANSWER])
    assert len(pruned(out)) > 2
