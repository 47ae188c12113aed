"""What a person sees: progress on standard error, results on standard output.

Invariant: text that comes from users or their data is printed as text, never as markup or control sequences.
"""

import logging
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from datetime import timedelta
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, ProgressColumn, SpinnerColumn, Task, TextColumn
from rich.table import Table
from rich.text import Text

from pipeline.bundled import DEMO_NOTE

if TYPE_CHECKING:
    import polars as pl

    from pipeline.reporting.report import Report
    from pipeline.storing.store import Finding
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
        err.print(Text(plain(record.getMessage()), style="yellow" if record.levelno >= logging.WARNING else ""))


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
        default = " (default)" if prompt.name == "answer" else ""
        out.print(Text(f"{prompt.name}{default}, boundary {prompt.boundary}", style="bold"))
        out.print(Text(f"  template  {prompt.template!r}"))
        for label in prompt.labels:
            out.print(Text(f"  {label.id} {label.name:<9} {label.words!r}"))
        out.print()
    out.print(Text("Your own go into a TOML file:"))
    out.print(
        Text('  [prompts.mine]\n  template = "News: {text}\\nDesk:"\n  labels = [" World", " Sports", " Business"]')
    )


def describe(facts: Mapping[str, object]) -> None:
    """Aligned `name  value` lines."""
    width = max(map(len, facts))
    for name, value in facts.items():
        out.print(Text(f"{name:<{width}}  {plain(value)}"))


def print_result(report: "Report", location: str, files: Iterable[str]) -> None:
    """The end of a run: accuracy of each prompt, and the path of everything written."""
    print_report(report)
    out.print()
    for name in files:
        out.print(Text(f"  {location.rstrip('/')}/{name}"))


def print_report(report: "Report") -> None:
    """Accuracy of each prompt under the headline rule, with what to doubt about it."""
    facts = report.manifest
    out.print(
        Text(
            f"{facts.dataset.num_items:,} items of {plain(facts.dataset.name)} ({plain(facts.dataset.split)}) "
            f"with {plain(facts.model.name)} ({facts.model.dtype} on {facts.model.device})"
        )
    )
    if facts.model.demonstration:
        out.print(Text(DEMO_NOTE, style="yellow"))
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
    out.print()
    if report.has_gold:
        print_table(f"accuracy under the rule '{report.headline_rule}'", columns, rows, tuple(range(1, len(columns))))
    else:
        out.print("The items have no gold labels: report.md counts what was predicted.")


def _percent(share: float | None) -> str:
    return "-" if share is None else f"{100 * share:.1f} %"


def print_classification(table: "pl.DataFrame", note: str | None = None) -> None:
    """The scores of one text under each rule, one row a label, and who wins; `note` says what to doubt about them."""
    if note:
        err.print(Text(plain(f"note: {note}")))
    rules = table.columns[3:]
    rows: list[list[object]] = [
        [row["label"].strip(), row["num_tokens"], *(f"{row[rule]:.3f}" for rule in rules)]
        for row in table.iter_rows(named=True)
    ]
    winners = [table.sort(rule, descending=True, maintain_order=True)["label"][0].strip() for rule in rules]
    print_table("scores (higher is likelier)", ["label", "tokens", *rules], rows, tuple(range(1, len(rules) + 2)))
    out.print()
    if table["truncated"].any():
        out.print("the text is longer than the model's context: its end was cut off")
    out.print(Text(f"winner: {plain(winners[0])} (rule {rules[0]})"))
    others = [f"{rule}: {plain(winner)}" for rule, winner in zip(rules, winners, strict=True) if winner != winners[0]]
    if others:
        out.print(Text(f"other rules disagree: {', '.join(others)}"))


def print_tokens(table: "pl.DataFrame") -> None:
    """A row a token; what the columns mean is said below."""
    rows: list[list[object]] = [
        ["-" if cell is None else f"{cell:.3f}" if isinstance(cell, float) else cell for cell in row]
        for row in table.iter_rows()
    ]
    columns = [name.replace("_", " ") for name in table.columns]
    right = tuple(i for i, name in enumerate(table.columns) if name not in ("token", "best"))
    print_table("", columns, rows, right)
    out.print()
    out.print("logit, logprob and rank: of this token at the position before it, the one that predicts it")
    out.print("best: the token that the model finds likeliest there; the first token is predicted by nothing")
    if "own_logit" in table.columns:
        out.print("own logit, own logprob: at the token's own position, which predicts the next token (the notebook's)")


def print_text(text: str) -> None:
    """A text over several lines, without control characters."""
    for line in text.split("\n"):
        out.print(Text(plain(line)))


def print_markdown(markdown: str) -> None:
    """Markdown as it is: tables made for it read well in a terminal, and the output can be pasted or piped."""
    sys.stdout.write(markdown)


def print_waiting(line: str) -> None:
    """Say that another run holds the output."""
    err.print(Text(plain(line)))


def print_status(status: "Status") -> None:
    """What is published, what is stored under which model and prompt, what is missing or stale, and its size."""
    if status.published is None:
        out.print("published  nothing yet: no run has finished")
    else:
        data, model = status.published["dataset"], status.published["model"]
        describe(
            {
                "published": f"{data['num_items']:,} items of {data['name']} ({data['split']}) with {model['name']}",
                "finished": status.published["finished"],
                "prompts": ", ".join(prompt["name"] for prompt in status.published["prompts"]),
            }
        )
    rows: list[list[object]] = [
        [
            stored.state,
            stored.model,
            stored.revision[:19],
            stored.prompt,
            f"{stored.num_texts:,}",
            f"{stored.num_pending:,}",
            size(stored.num_bytes),
            stored.folder,
        ]
        for stored in status.stored
    ]
    out.print()
    columns = ["state", "model", "revision", "prompt", "texts", "pending", "size", "fingerprint"]
    print_table("store", columns, rows, right=(4, 5, 6))
    if status.set_aside:
        aside = size(sum(status.set_aside.values()))
        out.print(
            Text(f"set aside as unusable: {len(status.set_aside)} files, {aside} (removed by 'labelscore prune')")
        )
    for finding in status.findings:
        out.print(Text(plain(finding)))
    out.print(f"in all {size(status.num_bytes)}")


def size(num_bytes: int) -> str:
    """Bytes for people, in powers of 1,000."""
    for unit, scale in (("GB", 1e9), ("MB", 1e6), ("kB", 1e3)):
        if num_bytes >= scale:
            return f"{num_bytes / scale:.1f} {unit}"
    return f"{num_bytes} B"


def print_findings(findings: "list[Finding]") -> int:
    """What is wrong with an output, a line each; returns the exit code, 1 where there is something."""
    for finding in findings:
        out.print(Text(plain(finding)))
    out.print("all files are sound" if not findings else f"{len(findings)} finding{'s' if len(findings) > 1 else ''}")
    return 1 if findings else 0


def print_prunable(files: "list[Pruned]") -> None:
    """The files that prune would remove, why, and how much that frees."""
    for file in files:
        out.print(Text(plain(f"{file.name}  {size(file.num_bytes)}  {file.reason}")))
    total = size(sum(file.num_bytes for file in files))
    out.print(f"{len(files)} files, {total}" if files else "nothing to remove: all that is stored is in use")


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
