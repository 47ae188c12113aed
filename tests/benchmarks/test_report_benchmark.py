"""The report's benchmark asks both sides the same questions, shown on a few hundred items."""

from pathlib import Path

from tests.benchmarks.report import RULES, compare_answers, main, report_with_duckdb, report_with_labelscore
from tests.pipeline.reporting.tables import write_large_run


def test_duckdb_and_the_report_give_the_same_accuracies(tmp_path: Path) -> None:
    """Rules, priors and the batch's mean are written twice, in Polars and in SQL; the answers must meet."""
    out = write_large_run(tmp_path, 700, block=300)
    ours, theirs = report_with_labelscore(out), report_with_duckdb(out)
    assert set(ours) == set(theirs) == set(RULES)
    compare_answers(ours, theirs, 700)


def test_the_benchmark_writes_its_section(tmp_path: Path) -> None:
    main(["--items", "200", "--rounds", "1", "--results", str(tmp_path / "results.md")])
    text = (tmp_path / "results.md").read_text()
    assert "## Reports at scale" in text
    assert "200 generated items" in text
