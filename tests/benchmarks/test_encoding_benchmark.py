"""The benchmark of encoding measures two ways that give the same, shown on a few rows."""

from collections.abc import Sequence
from pathlib import Path

import pytest

from pipeline.prompts import BUILT_IN
from pipeline.scoring.heads import Head
from pipeline.scoring.strings import Ids
from tests.benchmarks import encoding


def test_encoding_writes_its_section(shared: Path, tmp_path: Path) -> None:
    """A row for each tokenizer, prompt and number of solved examples; with them a head is longer and gains more."""
    results = tmp_path / "RESULTS.md"
    few = ["--tokenizers", "bundled", "--prompts", "detailed", "--items", "100", "--rounds", "3"]
    encoding.main([*few, "--results", str(results)])
    rows = [line.split("|")[1:-1] for line in results.read_text().splitlines() if line.startswith("| bundled")]
    zero, five = ([float(cell.replace(",", "")) for cell in row[2:]] for row in rows)
    assert (zero[0], five[0]) == (0, 5)
    assert five[1] > zero[1] > 100
    for _, _, each, holding_each, once, holding_once in (zero, five):
        assert each > holding_each > 0
        assert once > holding_once > 0


def test_ways_that_differ_are_no_measurement(monkeypatch: pytest.MonkeyPatch) -> None:
    """Here the last token of a string alone is lost, but not where a head is tried on several."""
    plain = Head.encode

    def faulty(self: Head, wholes: Sequence[str]) -> list[Ids]:
        return [ids[: -1 if self._word and len(wholes) == 1 else None] for ids in plain(self, wholes)]

    monkeypatch.setattr(Head, "encode", faulty)
    with pytest.raises(RuntimeError, match="other token sequences"):
        encoding.encoding_seconds(encoding.load_tokenizer("bundled"), BUILT_IN["detailed"], ["a river"], 1)


def test_a_tokenizer_that_is_not_there_ends_the_command(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("LABELSCORE_TOKENIZERS", "")
    with pytest.raises(SystemExit, match="gemma: set LABELSCORE_TOKENIZERS"):
        encoding.main(["--tokenizers", "gemma", "--results", str(tmp_path / "RESULTS.md")])
    assert not (tmp_path / "RESULTS.md").exists()
