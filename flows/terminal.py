"""What a person sees: progress on standard error, results on standard output.

Invariant: text that comes from users or their data is printed as text, never as markup or control sequences.
"""

import logging
import sys
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from datetime import timedelta
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.filesize import decimal
from rich.progress import BarColumn, MofNCompleteColumn, Progress, ProgressColumn, SpinnerColumn, Task, TextColumn
from rich.table import Table
from rich.text import Text

from pipeline.bundled import DEMO_NOTE

if TYPE_CHECKING:
    import polars as pl

    from pipeline.reporting.report import Report
    from pipeline.storing.files import Finding
    from pipeline.storing.upkeep import Pruned, Status

out = Console(highlight=False, soft_wrap=True, width=None if sys.stdout.isatty() else 4096)  # a pipe folds nothing
err = Console(stderr=True, highlight=False, soft_wrap=True)


def plain(text: object) -> str:
    """Text without control characters, on one line: a terminal does nothing but show it."""
    return "".join(c if c.isprintable() else " " for c in str(text))


class LineHandler(logging.Handler):
    """Log lines on standard error, above the progress bar where there is one."""

    def emit(self, record: logging.LogRecord) -> None:
        """Print one line."""
        warn(record.getMessage(), "yellow" if record.levelno >= logging.WARNING else "")


def say(line: object, style: str = "") -> None:
    """Print one line on standard output."""
    out.print(Text(plain(line), style))


def warn(line: object, style: str = "") -> None:
    """Print one line on standard error."""
    err.print(Text(plain(line), style))


class RateColumn(ProgressColumn):
    """Items per second and the time left at that rate."""

    def render(self, task: Task) -> Text:
        """Such as `412 items/s · 0:00:17 left`."""
        if not task.speed:
            return Text("")
        left = "" if task.time_remaining is None else f" · {timedelta(seconds=int(task.time_remaining))} left"
        return Text(f"{task.speed:,.0f} items/s{left}" if task.speed >= 10 else f"{task.speed:.1f} items/s{left}")


@contextmanager
def scoring_progress(total: int) -> Iterator[Callable[[int], None]]:
    """A progress bar over `total` items, yielding the function that advances it; quiet where there is no terminal."""
    columns = (SpinnerColumn(), TextColumn("scoring"), BarColumn(), MofNCompleteColumn(), RateColumn())
    with Progress(*columns, console=err, disable=not err.is_terminal, transient=True) as progress:
        task = progress.add_task("scoring", total=total)
        yield lambda num_items: progress.update(task, advance=num_items)


def confirm(question: str) -> bool:
    """Ask on the terminal; no where there is none."""
    if not sys.stdin.isatty():
        return False
    return out.input(f"{question} [y/N] ").strip().lower() in ("y", "yes")


def print_table(title: str, columns: list[str], rows: list[list[object]], right: tuple[int, ...] = ()) -> None:
    """A table whose cells are shown as they are; `right` are the columns aligned to the right."""
    table = Table(title=Text(plain(title)), title_justify="left", header_style="bold", box=None, pad_edge=False)
    for position, column in enumerate(columns):
        table.add_column(Text(column), justify="right" if position in right else "left", overflow="fold")
    for row in rows:
        table.add_row(*(Text(plain(cell)) for cell in row))
    out.print(table)


def print_prompts() -> None:
    """All built-in prompts with their exact words; line breaks and spaces are shown as Python would write them."""
    from pipeline.prompts import BUILT_IN

    for prompt in BUILT_IN.values():
        say(f"{prompt.name}{' (default)' if prompt.name == 'answer' else ''}, boundary {prompt.boundary}", "bold")
        say(f"  template  {prompt.template!r}")
        for label in prompt.labels:
            say(f"  {label.id} {label.name:<9} {label.words!r}")
        say("")
    say("Your own go into a TOML file:")
    say("  [prompts.mine]")
    say(r'  template = "News: {text}\nDesk:"')
    say('  labels = [" World", " Sports", " Business"]')


def print_result(report: "Report", location: str, files: Iterable[str]) -> None:
    """The end of a run: accuracy of each prompt, and the path of everything written."""
    print_report(report)
    say("")
    for name in files:
        say(f"  {location.rstrip('/')}/{name}")


def print_report(report: "Report") -> None:
    """Accuracy of each prompt under the headline rule, with what to doubt about it."""
    facts = report.manifest
    data, model = facts.dataset, facts.model
    say(f"{data.num_items:,} items of {data.name} ({data.split}) with {model.name} ({model.dtype} on {model.device})")
    if model.demonstration:
        say(DEMO_NOTE, "yellow")
    published = {prompt.name: prompt.published_accuracy for prompt in facts.prompts}
    columns = ["prompt", "accuracy", "95 % interval", "macro F1", "right", "of"]
    if any(value is not None for value in published.values()):
        columns.append("published")
    rows: list[list[object]] = []
    for row in report.headline.iter_rows(named=True):
        known = published[row["prompt"]]
        cells = [row["prompt"], _percent(row["accuracy"]), f"{_percent(row['low'])} to {_percent(row['high'])}"]
        cells += [f"{row['macro_f1']:.3f}" if row["macro_f1"] is not None else "-", f"{row['num_correct']:,}"]
        rows.append([*cells, f"{row['num_gold']:,}", _percent(known) if known is not None else "-"][: len(columns)])
    say("")
    if report.has_gold:
        print_table(f"accuracy under the rule '{report.headline_rule}'", columns, rows, tuple(range(1, len(columns))))
    else:
        say("The items have no gold labels: report.md counts what was predicted.")


def _percent(share: float | None) -> str:
    return "-" if share is None else f"{100 * share:.1f} %"


def print_classification(table: "pl.DataFrame", note: str | None = None) -> None:
    """The scores of one text under each rule, one row a label, and who wins; `note` says what to doubt about them."""
    if note:
        warn(f"note: {note}")
    rules = table.columns[3:]
    rows: list[list[object]] = [
        [row["label"].strip(), row["num_tokens"], *(f"{row[rule]:.3f}" for rule in rules)]
        for row in table.iter_rows(named=True)
    ]
    winners = [table.sort(rule, descending=True, maintain_order=True)["label"][0].strip() for rule in rules]
    print_table("scores (higher is likelier)", ["label", "tokens", *rules], rows, tuple(range(1, len(rules) + 2)))
    say("")
    if table["truncated"].any():
        say("the text is longer than the model's context: its end was cut off")
    say(f"winner: {winners[0]} (rule {rules[0]})")
    others = [f"{rule}: {winner}" for rule, winner in zip(rules, winners, strict=True) if winner != winners[0]]
    if others:
        say(f"other rules disagree: {', '.join(others)}")


def print_tokens(table: "pl.DataFrame") -> None:
    """A row a token; what the columns mean is said below."""
    rows: list[list[object]] = [
        ["-" if cell is None else f"{cell:.3f}" if isinstance(cell, float) else cell for cell in row]
        for row in table.iter_rows()
    ]
    columns = [name.replace("_", " ") for name in table.columns]
    right = tuple(i for i, name in enumerate(table.columns) if name not in ("token", "best"))
    print_table("", columns, rows, right)
    say("")
    say("logit, logprob and rank: of this token at the position before it, the one that predicts it")
    say("best: the token that the model finds likeliest there; the first token is predicted by nothing")
    if "own_logit" in table.columns:
        say("own logit, own logprob: at the token's own position, which predicts the next token (the notebook's)")


def print_text(text: str) -> None:
    """A text over several lines, without control characters."""
    for line in text.split("\n"):
        say(line)


def print_status(status: "Status") -> None:
    """What is published, what is stored under which model and prompt, what is missing or stale, and its size."""
    if status.published is None:
        say("published  nothing yet: no run has finished")
    else:
        data, model = status.published.dataset, status.published.model
        say(f"published  {data.num_items:,} items of {data.name} ({data.split}) with {model.name}")
        say(f"finished   {status.published.finished}")
        say(f"prompts    {', '.join(prompt.name for prompt in status.published.prompts)}")
    rows: list[list[object]] = [
        [
            stored.state,
            stored.model,
            stored.revision[:19],
            stored.prompt,
            f"{stored.num_texts:,}",
            f"{stored.num_pending:,}",
            decimal(stored.num_bytes),
            stored.folder,
        ]
        for stored in status.stored
    ]
    say("")
    columns = ["state", "model", "revision", "prompt", "texts", "pending", "size", "fingerprint"]
    print_table("store", columns, rows, right=(4, 5, 6))
    if status.set_aside:
        aside = decimal(sum(status.set_aside.values()))
        say(f"set aside as unusable: {len(status.set_aside)} files, {aside} (removed by 'labelscore prune')")
    for finding in status.findings:
        say(finding)
    say(f"in all {decimal(status.num_bytes)}")


def print_findings(findings: "list[Finding]") -> int:
    """What is wrong with an output, a line each; returns the exit code, 1 where there is something."""
    for finding in findings:
        say(finding)
    say("all files are sound" if not findings else f"{len(findings)} finding{'s' if len(findings) > 1 else ''}")
    return 1 if findings else 0


def print_prunable(files: "list[Pruned]") -> None:
    """The files that prune would remove, why, and how much that frees."""
    for file in files:
        say(f"{file.name}  {decimal(file.num_bytes)}  {file.reason}")
    total = decimal(sum(file.num_bytes for file in files))
    say(f"{len(files)} files, {total}" if files else "nothing to remove: all that is stored is in use")


def print_history(lines: list[dict[str, Any]]) -> None:
    """The past runs under each one's headline rule, oldest first."""
    rows: list[list[object]] = [
        [
            line["finished"].strftime("%Y-%m-%d %H:%M"),
            line["prompt"],
            line["rule"],
            f"{line['num_items']:,}",
            _percent(line["accuracy"]),
            "-" if line["num_changed"] is None else f"{line['num_changed']:,}",
            f"{line['num_scored']:,}",
            f"{line['seconds']:.1f}",
        ]
        for line in lines
        if line["headline"]
    ]
    columns = ["finished (UTC)", "prompt", "rule", "items", "accuracy", "changed", "scored", "seconds"]
    print_table("past runs", columns, rows, right=(3, 4, 5, 6, 7))
