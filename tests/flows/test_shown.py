"""What Prefect's pages show of a run: keys and titles of one output alone, and a place that a reader can open."""

import logging
import re
from pathlib import Path

import pytest
from pydantic import TypeAdapter, ValidationError

from flows.run_logs import OneLine
from flows.shown import REPORTS_URL, artifact_key, artifact_title, page_link, place_of
from pipeline.config import RunConfig
from pipeline.errors import InputError
from pipeline.storing.files import Output
from pipeline.storing.layout import PAGE


@pytest.fixture
def outputs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[Output]:
    """Outputs whose names are alike, odd, or nothing that a key can hold."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    local = ["night", "Night", "a/night", "night ly", "night-ly", "ночь", "день", "x" * 200, "<b>`*[a](b)"]
    remote = ["s3://bucket/night", "s3://bucket/a/night", "s3://bucket"]
    return [Output(tmp_path / name) for name in local] + [Output(url) for url in remote]


def test_each_output_has_keys_of_its_own(outputs: list[Output]) -> None:
    """Of the signs that Prefect takes; alike for one place however it is written."""
    keys = [artifact_key(output, "report") for output in outputs]
    assert len(set(keys)) == len(keys)
    assert all(re.fullmatch("labelscore-report(-[a-z0-9]+)+", key) and len(key) < 100 for key in keys), keys
    assert keys[0].startswith("labelscore-report-night-")
    assert artifact_key(Output(f"file://{outputs[0].root}/"), "report") == keys[0]
    assert artifact_key(outputs[0], "page") != keys[0]


def test_titles_name_the_output_and_are_no_markup(outputs: list[Output]) -> None:
    """They are shown as Markdown."""
    assert artifact_title(outputs[-1], "report") == "report · s3://bucket"
    odd = artifact_title(outputs[8], "report")
    assert "<b>" not in odd
    assert r"\`\*\[a\]" in odd


@pytest.mark.parametrize("address", ["https://host/reports", " https://host/reports/ "])
def test_a_page_is_linked_below_the_address_that_is_set(
    outputs: list[Output], monkeypatch: pytest.MonkeyPatch, address: str
) -> None:
    """Behind it stand the output's own name, percent-encoded, and the page's in it; on an object store likewise."""
    monkeypatch.setenv(REPORTS_URL, address)
    links = [page_link(output, PAGE) for output in outputs]
    assert links[0] == "https://host/reports/night/report/report.html"
    assert links[3] == "https://host/reports/night%20ly/report/report.html"
    assert links[8] == "https://host/reports/%3Cb%3E%60%2A%5Ba%5D%28b%29/report/report.html"
    assert links[9:] == [
        "https://host/reports/night/report/report.html",
        "https://host/reports/night/report/report.html",
        "https://host/reports/bucket/report/report.html",
    ]


@pytest.mark.parametrize(
    "address", ["", "javascript:alert(1)", "file:///data", "host/reports", "https://host/a)b", "https://"]
)
def test_no_link_is_shown_that_a_browser_would_not_open(
    outputs: list[Output], monkeypatch: pytest.MonkeyPatch, address: str
) -> None:
    """Then it is the path that is shown."""
    monkeypatch.setenv(REPORTS_URL, address)
    assert page_link(outputs[0], PAGE) is None
    assert place_of(outputs[0]).endswith("/night")


def record(error: BaseException, message: str = "Encountered exception during execution: %r") -> logging.LogRecord:
    """As Prefect's engine logs an error."""
    return logging.LogRecord(
        "prefect.flow_runs", logging.ERROR, "", 0, message, (error,), (type(error), error, error.__traceback__)
    )


def test_an_understood_error_is_its_line_once_and_a_bug_keeps_its_traceback() -> None:
    """A step's error is told again by its run and by the engine; another error is told, too."""
    line = OneLine()
    first, again, other, bug = (
        record(InputError("no such file")),
        record(InputError("no such file")),
        record(InputError("another")),
        record(KeyError("a bug")),
    )
    assert [line.filter(each) for each in (first, again, other, bug)] == [True, False, True, True]
    assert (first.getMessage(), first.exc_info) == ("no such file", None)
    assert other.getMessage() == "another"
    assert bug.exc_info is not None
    assert "KeyError" in bug.getMessage()
    of_one, of_another = record(InputError("no such file")), record(InputError("no such file"))
    of_one.flow_run_id, of_another.flow_run_id = "a", "b"
    assert [line.filter(each) for each in (of_one, of_one, of_another)] == [True, False, True]


def test_an_error_of_pydantic_is_understood_where_it_is_of_a_form() -> None:
    """Of anything else it is a bug of ours."""
    with pytest.raises(ValidationError) as of_form:
        RunConfig.model_validate({"limit": "few"})
    with pytest.raises(ValidationError) as bug:
        TypeAdapter(int).validate_python("few")
    line = OneLine()
    shown = [record(of_form.value), record(bug.value)]
    assert [line.filter(each) for each in shown] == [True, True]
    assert [each.exc_info is None for each in shown] == [True, False]
