"""What a person sees: progress on standard error, results on standard output.

Invariant: text that comes from users or their data is printed as text, never as markup or control sequences.
"""

import logging
import math
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from datetime import datetime, timedelta
from itertools import groupby
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.filesize import decimal
from rich.progress import BarColumn, MofNCompleteColumn, Progress, ProgressColumn, SpinnerColumn, Task, TextColumn
from rich.table import Table
from rich.text import Text

from pipeline.bundled import DEMO_NOTE
from pipeline.reporting.formats import count, fraction, moment, percent, text
from pipeline.wording import with_split

if TYPE_CHECKING:
    import polars as pl

    from pipeline.outlook import Outlook
    from pipeline.reporting.report import Report
    from pipeline.storing.files import Finding
    from pipeline.storing.upkeep import Pruned, Status

out = Console(highlight=False, soft_wrap=True, width=None if sys.stdout.isatty() else 4096)  # a pipe folds nothing
err = Console(stderr=True, highlight=False, soft_wrap=True)

DASHES = "\N{MINUS SIGN}\N{EN DASH}"
MANY_FILES = 12  # of one folder: more are told by their number
HYPHENS = str.maketrans({**dict.fromkeys(DASHES, "-"), "…": "..."})


def plain(words: object) -> str:
    """Text without control characters, on one line: a terminal does nothing but show it.

    Where standard output cannot encode a minus sign or a dash they are hyphens, as question marks would lose the sign,
    and an ellipsis is three dots.
    """
    flat = "".join(c if c.isprintable() else " " for c in str(words))
    return flat if can_encode(DASHES) else flat.translate(HYPHENS)


def can_encode(characters: str) -> bool:
    """Whether standard output has these characters."""
    try:
        characters.encode(sys.stdout.encoding or "utf-8")
    except UnicodeEncodeError:
        return False
    return True


class LineHandler(logging.Handler):
    """Log lines on standard error, above the progress bar where there is one."""

    def emit(self, record: logging.LogRecord) -> None:
        """Print one line."""
        warn(record.getMessage(), "yellow" if record.levelno >= logging.WARNING else "")


def say(line: object, style: str = "") -> None:
    """Print one line on standard output."""
    out.print(Text(plain(line), style))


def paste(text: str) -> None:
    """Write a text of many lines to standard output as it is, to be pasted."""
    sys.stdout.write(text if can_encode(DASHES) else text.translate(HYPHENS))


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


@dataclass(frozen=True, slots=True)
class ChoosingProgress:
    """What moves the progress of a choice: so many forwards more, and how the race stands."""

    advance: Callable[[int], None]
    describe: Callable[[str], None]


@contextmanager
def choosing_progress(budget: int | None) -> Iterator[ChoosingProgress]:
    """How a choice stands, and forwards a second; how many it will take nobody knows, but for a budget."""
    columns = (SpinnerColumn(), TextColumn("{task.description}"), BarColumn(), RateColumn())
    with Progress(*columns, console=err, disable=not err.is_terminal, transient=True) as progress:
        task = progress.add_task("choosing", total=budget)
        yield ChoosingProgress(
            lambda num: progress.update(task, advance=num),
            lambda state: progress.update(task, description=plain(state)),
        )


def confirm(question: str) -> bool:
    """Ask on the terminal; no where there is none."""
    if not sys.stdin.isatty():
        return False
    return out.input(f"{question} [y/N] ").strip().lower() in ("y", "yes")


Field = tuple[str, Callable[..., str], *tuple[str, ...]]  # a column: its title, how values become text, their names


def print_table(title: str, rows: Iterable[Mapping[str, Any]], fields: Iterable[Field]) -> None:
    """A table whose cells are shown as they are, what is missing as a hyphen; numbers line up on the right."""
    rows = list(rows)
    table = Table(title=Text(plain(title)), title_justify="left", header_style="bold", box=None, pad_edge=False)
    for column, _, *names in fields:
        is_text = any(isinstance(row[names[0]], str | datetime) for row in rows)
        table.add_column(Text(column), justify="left" if is_text else "right", overflow="fold")
    for row in rows:
        values = [(show, [row[name] for name in names]) for _, show, *names in fields]
        table.add_row(*(Text("-" if each[0] is None else plain(show(*each))) for show, each in values))
    out.print(table)


OWN_PROMPTS = r"""
Your own stand in a TOML file, such as run.toml, and `labelscore run run.toml` scores those that `prompt` names:
  prompt = ["mine"]

  [prompts.mine]                # slots are columns of your data; {text} is the one that --text-column names
  template = "News: {text}\nDesk:"
  labels = { World = " World", Sports = " Sports", Business = " Business" }

  [prompts.pair]                # several columns
  template = "{premise}\nQuestion: {hypothesis} True or False?\nAnswer:"
  labels = { entailment = " True", contradiction = " False" }

  [prompts.quiz]                # each item brings its own choices
  template = "Question: {question}\nAnswer:"
  choices = "options"           # a column with a list, or a column for each choice: ["option1", "option2"]
  choice = " {choice}"          # how one is written; this is the default
""".strip().splitlines()


def print_prompts() -> None:
    """All built-in prompts with their exact words; line breaks and spaces are shown as Python would write them."""
    from pipeline.prompts import BUILT_IN

    say("Built in, for AG News: a template, and for each class its id, its name and the words that are scored for it.")
    say("")
    for prompt in BUILT_IN.values():
        say(f"{prompt.name}{' (default)' if prompt.name == 'answer' else ''}, boundary {prompt.boundary}", "bold")
        say(f"  template  {prompt.template!r}")
        for label in prompt.labels:
            say(f"  {label.id} {label.name:<9} {label.words!r}")
        say("")
    say("requests, boundary harness", "bold")
    say("  what another tool has written out, scored as it stands: a file with a row for each choice (columns item,")
    say("  choice, context, continuation, gold), or a samples_*.jsonl that lm-evaluation-harness logged")
    say("")
    for line in OWN_PROMPTS:
        say(line)


def print_outlook(outlook: "Outlook") -> None:
    """What a run would do, of what, why, and how long it may take."""
    data, model = outlook.dataset, outlook.model
    rejected = f", {data.num_rejected:,} rejected" if data.num_rejected else ""
    source = with_split(data.name, data.split)
    say(f"{data.num_items:,} items of {source}{rejected}, with {model.name} ({model.dtype} on {model.device})")
    shards = f"{outlook.num_shards:,} shard{'' if outlook.num_shards == 1 else 's'}"
    size = f" in {shards}, about {outlook.num_characters:,} characters" if outlook.num_shards else ""
    say(f"to score   {outlook.num_missing:,} (texts x prompts){size}; {outlook.num_stored:,} are stored already")
    for prompt in outlook.prompts:
        say(f"  {prompt.name}  {prompt.num_missing:,}")
    if outlook.stale_prompts:
        say(f"stale      {', '.join(outlook.stale_prompts)}: stored scores of the last run were made otherwise")
        for reason in outlook.stale:
            say(f"  {reason.what}: {reason.last!r} then, {reason.now!r} now")
    if outlook.seconds is not None:
        left = timedelta(seconds=math.ceil(outlook.seconds))
        rate = f"at the {outlook.items_per_second:,.1f} items/s of the last run, without start-up"
        say(f"takes      about {left} {rate}")
    say(f"output     {outlook.out}")
    say("nothing was scored, and nothing written")


def print_report(report: "Report") -> None:
    """Accuracy of each prompt under the headline rule, with what to doubt about it."""
    data, model = report.manifest.dataset, report.manifest.model
    source = f"{data.name} ({data.split})"
    if report.has_tasks:
        num_tasks = len(report.manifest.prompts)
        source = f"{num_tasks:,} tasks" if num_tasks > 1 else report.manifest.prompts[0].name
    say(f"{data.num_items:,} items of {source} with {model.name} ({model.dtype} on {model.device})")
    if model.demonstration:
        say(DEMO_NOTE, "yellow")
    say("")
    if report.has_tasks:
        _print_tasks(report)
        _print_findings(report)
        return
    if not report.has_gold:
        say("The items have no gold labels: report.md counts what was predicted.")
        return
    _print_ranking(report)
    _print_findings(report)


def _print_ranking(report: "Report") -> None:
    """The prompts, the most accurate first, each against the leader."""
    from pipeline.reporting.families import behind, standing_word
    from pipeline.reporting.formats import points_interval

    ranking = report.ranking
    fields: list[Field] = [
        ("prompt", text, "prompt"),
        ("accuracy", percent, "accuracy"),
        ("95 % interval" if ranking.height == 1 else "95 % alone", _narrow_interval, "low", "high"),
    ]
    if ranking.height > 1:
        fields += [
            ("behind", behind, "behind"),
            ("95 % together", points_interval, "behind_low", "behind_high"),
            ("verdict", standing_word, "standing"),
        ]
    else:
        fields += [("right", count, "num_correct"), ("of", count, "num_gold")]
    if report.published:
        fields.append(("published", percent, "published"))
    print_table(f"accuracy under the rule '{report.headline_rule}', in per cent", ranking.iter_rows(named=True), fields)


def _print_findings(report: "Report") -> None:
    """The verdict in words, which is what a run ends with."""
    from pipeline.reporting.findings import find

    if findings := find(report):
        say("")
        say(findings.lines[0], "bold")
        for sentence in findings.sentences:
            say(f"- {sentence}")


def _narrow_interval(low: float, high: float) -> str:
    """Both ends in per cent, so that a row with three of the harness' metrics fits into 80 columns."""
    return f"{100 * low:z.1f}\N{EN DASH}{100 * high:z.1f}"


def _print_tasks(report: "Report") -> None:
    """Accuracy of each task, and what lm-evaluation-harness makes of it and of its groups."""
    import polars as pl

    from pipeline.reporting.notes import differs_line
    from pipeline.reporting.tasks import harness_figures, harness_name, metric_fields, with_harness

    tasks, titles = with_harness(report.headline, report.harness)
    fields: list[Field] = [("task", text, "prompt")]
    if report.has_gold:
        ends: Field = ("95 % interval", _narrow_interval, "low", "high")
        fields += [("accuracy", percent, "accuracy"), ends, ("right", count, "num_correct"), ("of", count, "num_gold")]
        tasks = tasks.with_columns(num_correct=pl.when(pl.col("num_gold") > 0).then("num_correct"))
    else:
        fields.append(("items", count, "num_items"))
        say("The items have no gold labels: report.md counts what was predicted.")
    beside = f", and what {harness_name(report.manifest)} counts" if titles else ""
    title = f"accuracy under the rule '{report.headline_rule}'{beside}"
    print_table(title, tasks.iter_rows(named=True), [*fields, *metric_fields(titles)])
    groups, titles = harness_figures(report.harness, groups=True)
    if groups.height:
        say("")
        fields = [("group", text, "task"), ("items", count, "num_items"), *metric_fields(titles)]
        print_table("groups of tasks", groups.iter_rows(named=True), fields)
    if line := differs_line(report):
        warn(f"note: {line}")


def print_classification(table: "pl.DataFrame") -> None:
    """The scores of one text under each rule, one row a label, and who wins."""
    rules = table.columns[3:]
    fields: list[Field] = [("label", str.strip, "label"), ("tokens", count, "num_tokens")]
    fields += [(rule, fraction, rule) for rule in rules]
    print_table("scores (higher is likelier)", table.iter_rows(named=True), fields)
    say("")
    if table["truncated"].any():
        say("the text is longer than the model's context: its end was cut off")
    winners = [table.sort(rule, descending=True, maintain_order=True)["label"][0].strip() for rule in rules]
    say(f"winner: {winners[0]} (rule {rules[0]})")
    others = [f"{rule}: {winner}" for rule, winner in zip(rules, winners, strict=True) if winner != winners[0]]
    if others:
        say(f"other rules disagree: {', '.join(others)}")


def print_tokens(table: "pl.DataFrame") -> None:
    """A row a token; what the columns mean is said below."""
    fields: list[Field] = [
        (name.replace("_", " "), fraction if dtype.is_float() else text, name) for name, dtype in table.schema.items()
    ]
    print_table("", table.iter_rows(named=True), fields)
    say("")
    say("logit, logprob and rank: of this token at the position before it, the one that predicts it")
    say("best: the token that the model finds likeliest there; the first token is predicted by nothing")
    if "own_logit" in table.columns:
        say("own logit, own logprob: at the token's own position, which predicts the next token (the notebook's)")


def print_status(status: "Status") -> None:
    """What is published, what is stored under which model and prompt, what is missing or stale, and its size."""
    if status.published is None:
        say("published  nothing yet: no run has finished")
    else:
        data, model = status.published.dataset, status.published.model
        say(f"published  {data.num_items:,} items of {with_split(data.name, data.split)} with {model.name}")
        say(f"finished   {status.published.finished}")
        say(f"prompts    {', '.join(prompt.name for prompt in status.published.prompts)}")
    if status.choice:
        leader, ending = status.choice["arms"][0], status.choice["ending"]
        say(f"choice     {leader['candidate']} under {leader['rule']} ({ending}), finished {status.choice['finished']}")
    fields: list[Field] = [
        ("state", text, "state"),
        ("model", text, "model"),
        ("revision", lambda revision: revision[:19], "revision"),
        ("prompt", text, "prompt"),
        ("texts", count, "num_texts"),
        ("pending", count, "num_pending"),
        ("size", decimal, "num_bytes"),
        ("fingerprint", text, "folder"),
    ]
    say("")
    print_table("store", map(asdict, status.stored), fields)
    if any(stored.state == "unfinished" for stored in status.stored) and status.published:
        say("unfinished: kept until a run with it has finished, or removed by 'labelscore prune --unfinished'")
    if status.set_aside:
        aside = decimal(sum(status.set_aside.values()))
        say(f"set aside as unusable: {len(status.set_aside)} files, {aside} (removed by 'labelscore prune')")
    if status.num_replaced_bytes:
        say(f"replaced runs: {decimal(status.num_replaced_bytes)} (kept for an hour for their readers, then removed)")
    for finding in status.findings:
        say(finding)
    say(f"in all {decimal(status.num_bytes)}")


def print_findings(findings: "list[Finding]") -> None:
    """What is wrong with an output, a line each."""
    for finding in findings:
        say(finding)
    say("all files are sound" if not findings else f"{len(findings)} finding{'s' if len(findings) > 1 else ''}")


def print_prunable(files: "list[Pruned]") -> None:
    """The files that prune would remove, why, and how much that frees; many of one folder are one line."""
    for (folder, reason), found in groupby(files, lambda file: (file.name.rpartition("/")[0], file.reason)):
        own = list(found)
        if len(own) > MANY_FILES:
            say(f"{folder}/ ({len(own):,} files)  {decimal(sum(file.num_bytes for file in own))}  {reason}")
            continue
        for file in own:
            say(f"{file.name}  {decimal(file.num_bytes)}  {reason}")
    total = decimal(sum(file.num_bytes for file in files))
    say(f"{len(files):,} files, {total}" if files else "nothing to remove: all that is stored is in use")


def print_history(lines: list[dict[str, Any]]) -> None:
    """The past runs under each one's headline rule, oldest first."""
    fields: list[Field] = [
        ("finished (UTC)", moment, "finished"),
        ("prompt", text, "prompt"),
        ("rule", text, "rule"),
        ("items", count, "num_items"),
        ("accuracy", percent, "accuracy"),
        ("changed", count, "num_changed"),
        ("scored", count, "num_scored"),
        ("seconds", "{:.1f}".format, "seconds"),
    ]
    print_table("past runs", (line for line in lines if line["headline"]), fields)
