"""The command line: `labelscore COMMAND ...`.

Invariant: whatever a user does wrong ends in one line on standard error and exit code 2, a run that fails in one line
and exit code 1. What is heavy to import (torch, Prefect) is imported by the command that needs it. The docstring of a
command is its help.
"""

import errno
import io
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, NoReturn

from cyclopts import (
    App,
    CycloptsError,
    Group,
    MissingArgumentError,
    Parameter,
    UnknownCommandError,
    UnusedCliTokensError,
)
from cyclopts.help import DefaultFormatter, PanelSpec
from rich.box import Box

from flows import terminal
from flows.as_json import classification_data, comparison_data, print_json, prompts_data, report_data
from flows.options import (
    FLAGS,
    ChoiceOptions,
    ModelOptions,
    Options,
    Schedule,
    configure,
    configure_choice,
    count,
    label_words,
    points,
    read_by,
    with_line_breaks,
)
from flows.shell import Shell, completion_script, version_line
from flows.startup import leave
from pipeline.config import Rule
from pipeline.errors import InputError, LabelscoreError, RunError
from pipeline.prompts import Boundary, make_one_text_prompt, seam_note

if TYPE_CHECKING:
    from pipeline.one_text import Loaded
    from pipeline.storing.files import Output

app = App(
    name="labelscore",
    help="""Zero-shot text classification with causal language models, at data-set scale.

the bundled sample with the bundled model (try it first):
  labelscore run
a small real model (two packages more, see the README):
  labelscore run --model smollm2
your own items and model:
  labelscore run --dataset news.csv --model ./my-model
Gemma-2B on AG News (needs HF_TOKEN, see the README):
  labelscore run --preset gemma --limit 500
the best of some prompts and rules, from a part of the scores:
  labelscore choose --prompt answer --prompt topic --within 2
a task of lm-evaluation-harness (the extra 'harness'):
  labelscore run --task piqa --model ./my-model
what a run would do, and how long it may take:
  labelscore run --dataset news.csv --model ./my-model --plan
the report of a run again, from its files; --json prints figures for a script:
  labelscore report data/runs/sample-demo
""",
    help_format="plaintext",
    help_formatter=DefaultFormatter(panel_spec=PanelSpec(box=Box("    \n" * 8), padding=0)),
    version_flags=(),
    group_arguments=Group("arguments"),
    group_parameters=Group("options"),
    group_commands=Group("other"),
    default_parameter=Parameter(negative=(), allow_repeating=True, json_list=False),
    print_error=False,
    exit_on_error=False,
    suppress_keyboard_interrupt=False,
    result_action="return_value",
)
SCORES, RUNS, SCHEDULES = map(Group.create_ordered, ("scores", "finished runs", "schedules"))

HARNESS = "lm-eval"
HARNESS_HELP = "Usage: labelscore lm-eval ARGUMENTS (those of lm-eval, as below; without --model it is labelscore)\n"

NO_VALUE = FLAGS | {"--", "--help", "--json", "--notebook", "--plan", "--unfinished", "--yes"}

Config = Annotated[str | None, Parameter(help="configuration file, in TOML; may be left out")]
Keys = Annotated[Options | None, Parameter(name="*")]
ChoiceKeys = Annotated[ChoiceOptions | None, Parameter(name="*")]
AsJson = Annotated[bool, Parameter(help="print the figures as JSON, and nothing else")]
ModelKeys = Annotated[ModelOptions | None, Parameter(name="*")]
When = Annotated[Schedule | None, Parameter(name="*")]
Out = Annotated[str, Parameter(help="output folder or URL of a run")]
Typed = Annotated[str, Parameter(help="the text; put -- before one that begins with a hyphen")]
LABELS_HELP = (
    "the label words, scored as written: ' positive, negative'; in double quotes where they hold a comma: "
    "'\"yes, of course\",no'; or ag_news"
)
TEMPLATE_HELP = "text with {text} in it; \\n is a line break"
Labels = Annotated[Any, read_by(label_words, help=LABELS_HELP, metavar="A,B,...", allow_leading_hyphen=True)]
Template = Annotated[str, read_by(with_line_breaks, help=TEMPLATE_HELP, metavar="TEXT", allow_leading_hyphen=True)]
Joined = Annotated[Boundary, Parameter(help="how label words join the prompt")]
Notebook = Annotated[bool, Parameter(help="also show the logits at the token's own position")]
NumTokens = Annotated[int, read_by(count, help="tokens to add", metavar="N")]
LeadingRule = Annotated[Rule | None, Parameter(help="scoring rule that leads the report")]
ComparedRule = Annotated[Rule, Parameter(help="scoring rule to compare under")]
GAP_HELP = "a difference that you want to see: say how many items would show it"
Gap = Annotated[float | None, read_by(points, help=GAP_HELP, metavar="POINTS")]
PageFile = Annotated[str | None, Parameter(metavar="FILE", help="also write a page with every item that flipped")]
Plan = Annotated[bool, Parameter(help="say what would be scored and how long it may take, and end there")]
Pool = Annotated[str, Parameter(metavar="NAME", help="work pool whose workers start the runs")]
Yes = Annotated[bool, Parameter(help="remove without asking")]
Unfinished = Annotated[bool, Parameter(help="also remove what a run or choice has stored that was not finished")]


@app.command(group=SCORES)
def run(config: Config = None, /, *, plan: Plan = False, json: AsJson = False, keys: Keys = None) -> int:
    """Score a data set and report accuracy.

    Without options this scores the bundled sample with the bundled demonstration
    model: no network, no token. With --model smollm2 a small real model does it,
    which is a package of its own. Items that an output already holds under the same
    model, prompt and settings are not scored again.

    Each option is also a key of CONFIG, spelt with underscores
    (batch_tokens = 4096); the command line wins. Prompts of your own are tables
    there: [prompts.mine] with a template, and labels or, where each item brings
    its own, choices. 'labelscore prompts' shows some.
    """
    loaded = configure(config, keys)
    if plan:
        from flows.planning import plan_command

        return plan_command(loaded, as_json=json)
    from flows.command import run_command

    return run_command(loaded, as_json=json)


@app.command(group=SCORES)
def choose(config: Config = None, /, *, json: AsJson = False, keys: ChoiceKeys = None) -> int:
    """Choose a prompt and a rule with an error bound, from a part of the scores.

    For example:
      labelscore choose --prompt answer --prompt topic --num-shots 0 --num-shots 4
      labelscore choose offers.toml --within 1 --budget 20000

    Offered is every prompt with its label words, and with each list of others
    ([words] in the file), under every number of solved examples, with and without a
    chat template, and every model: each under every rule. --model, --prompt,
    --num-shots, --rule and --chat may stand several times; in the file these keys
    take one value or a list: num_shots = [0, 4].

    Items with gold labels are scored in a random order, under ever fewer prompts,
    until one candidate is left or known to be less than --within points worse than
    the best of those offered. However often one looks, that fails in at most 5 of
    100 choices. It speaks of what was offered, and of items like these; with
    --these-alone of these items themselves. So offer all at once: of two choices
    one after the other the second is a question of its own.

    --budget counts texts under prompts, as many forward passes. Scores that are
    stored count, too, so that a command that is run again ends where the first one
    would have. Where it ends undecided, what is left is told. All scores are kept:
    a run with the winner scores only the rest.
    """
    loaded = configure_choice(config, keys)
    from flows.command import choose_command

    return choose_command(loaded, as_json=json)


@app.command(group=SCORES)
def classify(
    text: Typed,
    /,
    *,
    labels: Labels,
    template: Template,
    boundary: Joined = "joint",
    json: AsJson = False,
    keys: ModelKeys = None,
) -> None:
    """Score the labels of one text under every rule, and name the winner.

    For example:
      labelscore classify "Well done!" --labels " good, bad" \\
          --template "Review: {text}\\nMood:"

    Label words are scored exactly as written, as by 'labelscore run': begin them
    with the blank that stands before them.
    """
    prompt = make_one_text_prompt(labels, template, boundary)  # a slip is told before torch is imported
    model = _load(keys)
    from pipeline import one_text

    table = one_text.classify(model, text, labels=labels, template=template, boundary=boundary)
    if note := seam_note(prompt):
        terminal.warn(f"note: {note}")
    if json:
        print_json(classification_data(table))
    else:
        terminal.print_classification(table)


@app.command(group=SCORES)
def tokens(text: Typed, /, *, notebook: Notebook = False, json: AsJson = False, keys: ModelKeys = None) -> None:
    """Show each token of a text with its id, logit, log-probability and rank."""
    model = _load(keys)
    from pipeline.one_text import inspect_tokens

    table = inspect_tokens(model, text, notebook=notebook)
    if json:
        print_json({"tokens": table})
    else:
        terminal.print_tokens(table)


@app.command(group=SCORES)
def generate(text: Typed, /, *, max_new_tokens: NumTokens = 30, keys: ModelKeys = None) -> None:
    """Continue a text."""
    model = _load(keys)
    from pipeline import one_text

    for line in one_text.generate(model, text, max_new_tokens=max_new_tokens).split("\n"):
        terminal.say(line)


@app.command(group=SCORES)
def prompts(*, json: AsJson = False) -> None:
    """List the built-in prompts with their words, and show how to write others."""
    if json:
        print_json({"prompts": prompts_data()})
    else:
        terminal.print_prompts()


@app.command(group=SCORES, name=HARNESS)
def lm_eval(*arguments: str) -> int:
    """Run lm-evaluation-harness with its own arguments, and labelscore as its model."""
    from pipeline.harness.command import run_harness

    if not arguments or {"--help", "-h"}.intersection(arguments):
        terminal.say(HARNESS_HELP)
    return run_harness(arguments)


@app.command(group=RUNS)
def report(out: Out, /, *, rule: LeadingRule = None, gap: Gap = None, json: AsJson = False) -> None:
    """Write and show the report of a finished run, from its files."""
    output = _open(out)
    from pipeline.job import remake_report

    with output.lock(terminal.warn):
        made = remake_report(output, rule, gap)
        if json:
            print_json(report_data(made))
        else:
            terminal.print_report(made)


@app.command(group=RUNS)
def compare(
    out_a: Out,
    out_b: Out,
    /,
    *,
    rule: ComparedRule = "sum",
    gap: Gap = None,
    html: PageFile = None,
    json: AsJson = False,
) -> None:
    """Compare two runs on the items that both scored."""
    from pipeline.analysis import load_run
    from pipeline.reporting.compare import compare_runs
    from pipeline.reporting.compare_sections import compare_document
    from pipeline.reporting.markdown import render_markdown
    from pipeline.reporting.page import render_page

    compared = compare_runs(load_run(out_a), load_run(out_b), rule)
    document = compare_document(compared, gap)
    if html is not None:
        _write(html, render_page(document))
    if json:
        print_json(comparison_data(compared, gap))
    else:
        terminal.paste(render_markdown(document))


@app.command(group=RUNS)
def status(out: Out, /, *, json: AsJson = False) -> None:
    """Say what an output holds: stored, pending and stale scores, and for which model."""
    from pipeline.storing import upkeep

    found = upkeep.status(_open(out))
    if json:
        print_json(found)
    else:
        terminal.print_status(found)


@app.command(group=RUNS)
def path(out: Out, /) -> None:
    """Print the folder of the last finished run, which stays that run's whatever is published later.

    For example:
      cp -r "$(labelscore path data/runs/sample-demo)" last-night
    """
    from pipeline.storing.layout import MANIFEST
    from pipeline.storing.runs import open_run

    folder, _ = open_run(_open(out))
    if not folder.exists(MANIFEST):
        raise InputError(f"{folder} is gone; make it again with `labelscore run --out {out}`")
    terminal.say(str(folder))


@app.command(group=RUNS)
def verify(out: Out, /, *, json: AsJson = False) -> int:
    """Check every file of an output against its hash."""
    from pipeline.storing import upkeep

    findings = upkeep.verify(_open(out))
    if json:
        print_json({"findings": findings})
    else:
        terminal.print_findings(findings)
    return 1 if findings else 0


@app.command(group=RUNS)
def history(out: Out, /, *, json: AsJson = False) -> None:
    """Show the past runs of an output."""
    from pipeline.storing import upkeep

    lines = upkeep.history(_open(out))
    if json:
        print_json({"history": lines})
    else:
        terminal.print_history(lines)


@app.command(group=RUNS)
def prune(out: Out, /, *, yes: Yes = False, unfinished: Unfinished = False, json: AsJson = False) -> None:
    """Remove stored scores that the last run did not use, and runs replaced long ago, after saying which.

    Scores of a run or choice that was cut short, with texts still pending, stay
    until it is finished, or given up with --unfinished. --json asks nobody: it
    removes them with --yes, and else says what would be removed.
    """
    from pipeline.storing import upkeep

    output = _open(out)
    with output.lock(terminal.warn):
        prunable = upkeep.prune(output, dry_run=True, unfinished=unfinished)
        if not json:
            terminal.print_prunable(prunable)
        if prunable and not yes and not json and not terminal.confirm("Remove these files?"):
            raise InputError("nothing was removed; answer y, or use --yes where there is no terminal")
        is_removed = bool(prunable) and (yes or not json)
        if is_removed:
            upkeep.prune(output, dry_run=False, unfinished=unfinished)
        if json:
            print_json({"files": prunable, "is_removed": is_removed})


@app.command(group=SCHEDULES)
def serve(config: Config = None, /, *, when: When = None, keys: Keys = None) -> None:
    """Run on a schedule, from this process, beside a Prefect server.

    Needs a Prefect server: start one with 'prefect server start', and set
    PREFECT_API_URL to it. Takes the options of 'labelscore run'. A run scores what
    is new since the last one; never two at a time.
    """
    loaded = configure(config, keys)
    _need_server()
    from flows import schedule

    schedule.serve(loaded, when or Schedule())


@app.command(group=SCHEDULES)
def deploy(config: Config = None, /, *, pool: Pool, when: When = None, keys: Keys = None) -> None:
    """Register a schedule with a Prefect server and a work pool.

    Needs a Prefect server, and takes options, as 'labelscore serve' does.
    """
    loaded = configure(config, keys)
    _need_server()
    from flows import schedule

    schedule.deploy(loaded, pool, when or Schedule())


@app.command
def completion(shell: Shell, /) -> None:
    """Print what completes commands and options in a shell.

    For example, in ~/.bashrc:
      source <(labelscore completion bash)
    in ~/.zshrc, once compinit has run:
      source <(labelscore completion zsh)
    in ~/.config/fish/config.fish:
      labelscore completion fish | source
    """
    terminal.paste(completion_script(app, shell))


@app.command(name="--version")
def version() -> None:
    """Print the version, and those of the libraries that a run depends on."""
    terminal.say(version_line())


for place, name in enumerate(app):  # help lists them in the order of use
    app[name].sort_key = place


def _open(location: str) -> "Output":
    """The output of an earlier run, finished or not. Raises InputError where there is none."""
    from pipeline.storing.files import Output
    from pipeline.storing.runs import is_ours

    output = Output(location, create=False)
    if not is_ours(output):
        raise InputError(
            f"{output} holds no finished run and no scores; make some with `labelscore run --out {output}`"
        )
    return output


def _load(keys: ModelOptions | None) -> "Loaded":
    from pipeline.checks import check_model

    # Through the configuration, so that a value that is not allowed is told as for `run`.
    config = configure(None, keys)
    check_model(config)  # told before torch is imported
    from pipeline.one_text import load

    return load(config.model, revision=config.revision, device=config.device, dtype=config.dtype)


def _need_server() -> None:
    from flows.server import ADVICE, SETTINGS, find_server, make_settings

    make_settings(SETTINGS)
    if not find_server():
        raise InputError(f"schedules need a Prefect server; {ADVICE}")


def main(argv: Sequence[str] | None = None) -> int:
    """Run a command and return its exit code: 0 done, 1 failed run, 2 usage or bad input."""
    arguments = sys.argv[1:] if argv is None else list(argv)
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="replace")  # a terminal that lacks a sign shows another
    try:
        _check_encoding(arguments)
        if arguments[:1] == [HARNESS]:
            return lm_eval(*arguments[1:])  # as typed: they are for another parser
        arguments = _mark_values(arguments)
        if not arguments:
            return _fail("name a command (see 'labelscore --help')", 2)
        return app(arguments) or 0
    except CycloptsError as error:
        return _fail(_explain(error, arguments), 2)
    except LabelscoreError as error:
        return _fail(str(error), error.exit_code)
    except KeyboardInterrupt:
        return _fail("stopped on request; what was scored is kept, run the same command to go on", 1)
    except (BrokenPipeError, SystemExit):  # the reader of our output (such as head) has gone; rich exits then
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except OSError as error:
        where = f" ({error.filename})" if error.filename else ""
        advice = "; free some space and run the same command to go on" if error.errno == errno.ENOSPC else ""
        return _fail(f"{error.strerror or error}{where}{advice}", 1)


def _write(file: str, page: str) -> None:
    target = Path(file)
    try:
        if target.exists() and not target.is_file():  # a pipe or a terminal
            target.write_text(page, encoding="utf-8")
        else:
            _write_whole(target.resolve(), page)  # where a link leads
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else error
        raise InputError(f"cannot write {file!r}: {reason}; name another file with --html") from error


def _write_whole(target: Path, page: str) -> None:
    """So that whoever opens the file sees the old page or the new one, also where this process is killed."""
    aside = target.with_name(f".tmp-{os.getpid()}.html")
    try:
        aside.write_text(page, encoding="utf-8")
        aside.replace(target)
    finally:
        aside.unlink(missing_ok=True)


def _check_encoding(arguments: Sequence[str]) -> None:
    """Refuse bytes that are no text: they could be neither tokenised, stored nor shown."""
    for argument in arguments:
        if any("\ud800" <= character <= "\udfff" for character in argument):
            raise InputError(f"'{argument:.80}' is not valid Unicode; write the option, text or path in UTF-8")


def _mark_values(arguments: list[str]) -> list[str]:
    """The arguments with those marked as values that begin with a hyphen and hold a blank, as no option does."""
    marked: list[str] = []
    for place, argument in enumerate(arguments):
        name = argument.partition("=")[0] if argument.startswith("--") else argument
        if not (name == "-" or (name.startswith("-") and " " in name)):
            marked.append(argument)
        elif marked and marked[-1].startswith("--") and "=" not in marked[-1] and marked[-1] not in NO_VALUE:
            marked[-1] += f"={argument}"
        elif "--" in marked:
            marked.append(argument)
        elif any(later.startswith("--") for later in arguments[place + 1 :]):
            return [*marked, *_mark_values(arguments[place + 1 :]), "--", argument]
        else:
            marked += ["--", argument]
    return marked


def _explain(error: CycloptsError, arguments: Sequence[str]) -> str:
    """What cyclopts found wrong with the arguments, and where help is."""
    problem = str(error).removesuffix(".")
    if isinstance(error, UnknownCommandError) and error.unused_tokens:
        known = ", ".join(name for name in app if not name.startswith("-"))
        problem = f"no command '{error.unused_tokens[0]}'; choose from {known}"
    elif isinstance(error, MissingArgumentError) and error.argument:
        name = error.argument.name
        problem = f"{name} requires an argument" if name in arguments else f"the argument {name} is missing"
    elif "Mutually exclusive" in problem:
        problem = "give --cron or --interval, not both"
    elif isinstance(error, UnusedCliTokensError) and error.unused_tokens:
        problem = f"one argument too many: '{error.unused_tokens[0]}'"
    command = " ".join(("labelscore", *(error.command_chain or ())))
    return f"{problem[:1].lower()}{problem[1:]} (see '{command} --help')"


def _fail(message: str, code: int) -> int:
    print(f"labelscore: error: {RunError(message)}", file=sys.stderr)
    return code


def command() -> NoReturn:
    """What the shell calls."""
    leave(main())


if __name__ == "__main__":
    command()
