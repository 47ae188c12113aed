"""Any sequence of runs, kills, faults and prunings leaves tables that a plain dictionary would give."""

import random
import tempfile
from pathlib import Path

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from pipeline.prompts import hash_text
from pipeline.storing.files import Output
from pipeline.storing.layout import SET_ASIDE, STORE
from pipeline.storing.upkeep import prune, status, verify
from tests.pipeline.storing.stored import (
    ANSWER,
    PRIORS,
    TOPIC,
    expected_scores,
    fill,
    fingerprint,
    open_store,
    published_scores,
    run,
    scored,
    wanted,
    write_items,
)

PROMPTS = {"answer": ANSWER, "topic": TOPIC}
texts = st.lists(st.integers(0, 9).map(lambda n: f"text {n}"), min_size=1, max_size=12)
names = st.sampled_from(sorted(PROMPTS))


class Nights(RuleBasedStateMachine):
    """The model: which texts each prompt has stored, and what the last finished run was about."""

    def __init__(self) -> None:
        super().__init__()
        self.folder = tempfile.TemporaryDirectory()
        self.out = Output(Path(self.folder.name))
        self.stored: dict[str, set[str]] = {name: set() for name in PROMPTS}
        self.published: tuple[list[str], list[str]] | None = None

    def teardown(self) -> None:
        self.folder.cleanup()

    @rule(texts=texts, chosen=st.sets(names, min_size=1))
    def finish_a_run(self, texts: list[str], chosen: set[str]) -> None:
        """A run scores exactly what the dictionary lacks, and publishes exactly its own table."""
        asked = list(dict.fromkeys([*texts, *PRIORS]))
        expected = [text for name in sorted(chosen) for text in asked if text not in self.stored[name]]
        assert run(self.out, texts, [PROMPTS[name] for name in sorted(chosen)]) == expected
        for name in chosen:
            self.stored[name] |= set(asked)
        self.published = (texts, sorted(chosen))

    @rule(texts=texts, name=names, num_texts=st.integers(0, 6))
    def begin_a_run(self, texts: list[str], name: str, num_texts: int) -> None:
        """A run that dies after some texts: what it stored counts for the next one."""
        stored = wanted(PROMPTS[name])
        with self.out.lock(lambda line: None):
            store = open_store(self.out, [PROMPTS[name]])
            items = write_items(self.out.work / "items.parquet", texts)
            assert store.pending(items, stored).num_missing == len(set(texts) - self.stored[name])
            done = [text for text in dict.fromkeys(texts) if text not in self.stored[name]][:num_texts]
            if done:
                store.writer(stored).append(scored([hash_text(text) for text in done], stored.fingerprint))
        self.stored[name] |= set(done)

    @rule(texts=texts, name=names)
    def force(self, texts: list[str], name: str) -> None:
        """A forced run stores its texts a second time, which changes nothing that is read."""
        with self.out.lock(lambda line: None):
            store = open_store(self.out, [PROMPTS[name]])
            items = write_items(self.out.work / "items.parquet", texts)
            forced = fill(store, items, wanted(PROMPTS[name]), force=True)
        assert set(forced) == {*texts, *PRIORS}
        self.stored[name] |= {*texts, *PRIORS}

    @rule(seed=st.integers(0, 1000), cut=st.booleans())
    def damage_a_part(self, seed: int, cut: bool) -> None:
        """A part with a flipped bit or cut short loses its texts, and nobody else's."""
        parts = [name for name in self.out.list(STORE) if name.endswith(".parquet") and SET_ASIDE not in name]
        if not parts:
            return
        chance = random.Random(seed)
        victim = chance.choice(parts)
        data = bytearray(self.out.read_bytes(victim))
        data[chance.randrange(len(data))] ^= 1 << chance.randrange(8)
        self.out.write_bytes(victim, bytes(data[: chance.randrange(len(data))] if cut else data))
        assert victim in {finding.name for finding in verify(self.out)}
        for name, prompt in PROMPTS.items():
            found = open_store(self.out, [prompt])
            items = write_items(self.out.work / "all.parquet", sorted(self.stored[name]) or ["nothing"])
            positions = {int(p) for some, _ in found.scores(items, wanted(prompt)) for p in some}
            self.stored[name] = {text for i, text in enumerate(sorted(self.stored[name])) if i in positions}

    @rule()
    def tidy(self) -> None:
        """Pruning takes nothing that the published run or an unfinished one uses."""
        if self.published:
            before = verify(self.out)
            with self.out.lock(lambda line: None):
                prune(self.out, dry_run=False)
            stale = {s.folder for s in status(self.out).stored if s.state == "stale"}
            assert not stale
            assert len(verify(self.out)) <= len(before)
            kept = {s.folder for s in status(self.out).stored}
            for name, prompt in PROMPTS.items():
                if fingerprint(prompt).digest[:16] not in kept:
                    self.stored[name] = set()

    @invariant()
    def what_is_published_is_the_last_finished_run(self) -> None:
        """Exactly items x prompts x labels, whatever happened to the store since."""
        if self.published:
            texts, chosen = self.published
            assert published_scores(self.out) == expected_scores(texts, [PROMPTS[name] for name in chosen])


TestNights = Nights.TestCase
TestNights.settings = settings(max_examples=12, stateful_step_count=12)
