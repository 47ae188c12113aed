"""The command line: `labelscore COMMAND ...`.

Invariant: whatever a user does wrong ends in one line on standard error and exit code 2, a run that fails in one line
and exit code 1. What is heavy to import (torch, Prefect) is imported by the command that needs it.
"""

import argparse
import errno
import os
import re
import sys
import types
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, NoReturn, Union, get_args, get_origin

from pydantic.fields import FieldInfo

from pipeline.config import RULES, RunConfig, load_config
from pipeline.errors import InputError, LabelscoreError
from pipeline.prompts import BOUNDARIES, make_one_text_prompt, seam_note
from pipeline.wording import show

if TYPE_CHECKING:
    from pipeline.one_text import Loaded
    from pipeline.storing.files import Output

EPILOG = """examples:
  labelscore run                                          the bundled sample with the bundled model: try it first
  labelscore run --dataset news.csv --model ./my-model    your own articles and model
  labelscore run --preset gemma --limit 500               Gemma-2B on AG News (needs HF_TOKEN, see the README)
  labelscore report data/runs/sample-demo                 the report of a run again, from its files
"""


class Parser(argparse.ArgumentParser):
    """A parser whose errors are one line."""

    def error(self, message: str) -> NoReturn:
        """Exit with code 2 and one line that points to the help."""
        print(f"{self.prog}: error: {message} (see '{self.prog} --help')", file=sys.stderr)
        raise SystemExit(2)


def main(argv: Sequence[str] | None = None) -> int:
    """Run a command and return its exit code: 0 done, 1 failed run, 2 usage or bad input."""
    try:
        _check_encoding(sys.argv[1:] if argv is None else argv)
        arguments = make_parser().parse_args(argv)
        command: Callable[[argparse.Namespace], int | None] = arguments.command
        return command(arguments) or 0
    except SystemExit as exit_:  # argparse: 0 after --help, 2 after an error
        return exit_.code if isinstance(exit_.code, int) else 2
    except LabelscoreError as error:
        return _fail(str(error), error.exit_code)
    except KeyboardInterrupt:
        return _fail("stopped on request; what was scored is kept, run the same command to go on", 1)
    except BrokenPipeError:  # the reader of our output (such as head) has gone
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except OSError as error:
        where = f" ({error.filename})" if error.filename else ""
        advice = "; free some space and run the same command to go on" if error.errno == errno.ENOSPC else ""
        return _fail(f"{error.strerror or error}{where}{advice}", 1)


def _check_encoding(argv: Sequence[str]) -> None:
    """Refuse bytes that are no text: they could be neither tokenised, stored nor shown."""
    for argument in argv:
        try:
            argument.encode()
        except UnicodeEncodeError:
            raise InputError(
                f"'{argument:.80}' is not valid Unicode; write the option, text or path in UTF-8"
            ) from None


def _fail(message: str, code: int) -> int:
    from pipeline.errors import RunError

    print(f"labelscore: error: {RunError(message)}", file=sys.stderr)
    return code


def make_parser() -> Parser:
    """The parser of all commands."""
    parser = Parser(
        prog="labelscore",
        description="Zero-shot text classification with causal language models, at data-set scale.",
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    commands = parser.add_subparsers(title="commands", required=True, metavar="COMMAND")

    def add(name: str, run: Callable[[argparse.Namespace], int | None], summary: str, details: str = "") -> Parser:
        command: Parser = commands.add_parser(
            name,
            help=summary,
            description=f"{summary[:1].upper()}{summary[1:]}.\n\n{details}".strip(),
            formatter_class=argparse.RawDescriptionHelpFormatter,
            allow_abbrev=False,
        )
        command.set_defaults(command=run)
        return command

    run = add("run", _run, "score a data set and report accuracy", RUN_DETAILS)
    _add_config_options(run)
    serve = add("serve", _serve, "run on a schedule, from this process, beside a Prefect server", SCHEDULE_DETAILS)
    deploy = add("deploy", _deploy, "register a schedule with a Prefect server and a work pool", SCHEDULE_DETAILS)
    deploy.add_argument("--pool", required=True, metavar="NAME", help="work pool whose workers start the runs")
    for command in (serve, deploy):
        when = command.add_mutually_exclusive_group()
        when.add_argument("--cron", metavar="'M H D M W'", help="when to run, in UTC: '0 6 * * *' is daily at six")
        when.add_argument("--interval", type=_positive, metavar="SECONDS", help="run every so many seconds")
        command.add_argument("--name", help="name of the deployment; the default is the output's")
        _add_config_options(command)
    report = add("report", _report, "write and show the report of a finished run, from its files")
    report.add_argument("out", metavar="OUT", help="output folder or URL of a run")
    report.add_argument("--rule", choices=RULES, help="scoring rule that leads the report")
    compare = add("compare", _compare, "compare two runs on the articles that both scored")
    compare.add_argument("out_a", metavar="OUT_A", help="output folder or URL of the first run")
    compare.add_argument("out_b", metavar="OUT_B", help="output folder or URL of the second run")
    compare.add_argument("--rule", choices=RULES, default="sum", help="scoring rule to compare under (default: sum)")
    add("prompts", _prompts, "list the built-in prompts with their words")
    for name, function, summary in (
        ("status", _status, "say what an output holds: stored, pending and stale scores, and for which model"),
        ("verify", _verify, "check every file of an output against its hash"),
        ("history", _history, "show the past runs of an output"),
    ):
        add(name, function, summary).add_argument("out", metavar="OUT", help="output folder or URL of a run")
    prune = add("prune", _prune, "remove stored scores that the last run did not use, after saying which")
    prune.add_argument("out", metavar="OUT", help="output folder or URL of a run")
    prune.add_argument("--yes", action="store_true", help="remove without asking")
    _add_one_text_commands(add)
    return parser


def _add_one_text_commands(add: Callable[..., Parser]) -> None:
    classify = add(
        "classify", _classify, "score the labels of one text under every rule, and name the winner", CLASSIFY_DETAILS
    )
    classify.add_argument("--labels", required=True, type=_label_words, metavar="A,B,...", help=LABELS_HELP)
    classify.add_argument(
        "--template", required=True, type=_typed, help="text with {text} in it, exactly once; \\n is a line break"
    )
    classify.add_argument("--boundary", choices=BOUNDARIES, default="joint", help="how label words join the prompt")
    tokens = add("tokens", _tokens, "show each token of a text with its id, logit, log-probability and rank")
    tokens.add_argument("--notebook", action="store_true", help="also show the logits at the token's own position")
    generate = add("generate", _generate, "continue a text")
    generate.add_argument("--max-new-tokens", type=_positive, default=30, metavar="N", help="default: 30")
    for command in (classify, tokens, generate):
        command.add_argument("text", metavar="TEXT", help="the text")
        for name in ("model", "revision", "device", "dtype"):
            _add_option(command, name, RunConfig.model_fields[name])


CLASSIFY_DETAILS = """  labelscore classify "Well done!" --template "Review: {text}\\nMood:" --labels " good, bad"

Label words are scored exactly as written, as by 'labelscore run': begin them with the blank that stands before them."""
LABELS_HELP = (
    "the label words, scored as written: ' positive, negative'; in double quotes where they hold a comma: "
    "'\"yes, of course\",no'; or ag_news"
)
SCHEDULE_DETAILS = """Needs a Prefect server: start one with 'prefect server start', and set PREFECT_API_URL to it.
Takes the options of 'labelscore run'. A run scores what is new since the last one; never two at a time."""
RUN_DETAILS = """Without options this scores the bundled sample with the bundled demonstration model: no network, no
token.
Articles that an output already holds under the same model, prompt and settings are not scored again.
Each option is also a key of CONFIG.toml, spelt with underscores (batch_tokens = 4096); the command line wins.
Prompts of your own are tables there: [prompts.mine] with template, labels and boundary."""


def _add_config_options(parser: Parser) -> None:
    """CONFIG.toml, --preset and an option for each key of the configuration."""
    parser.add_argument("config", metavar="CONFIG.toml", nargs="?", help="configuration file")
    parser.add_argument("--preset", metavar="NAME", help="start from a bundled configuration: gemma, notebook")
    for name, field in RunConfig.model_fields.items():
        if get_origin(field.annotation) is not dict:  # tables belong into the file
            _add_option(parser, name, field)


def _add_option(parser: Parser, name: str, field: FieldInfo) -> None:
    flag = f"--{name.replace('_', '-')}"
    kinds = _flatten(field.annotation)
    settings: dict[str, Any] = {"dest": name, "default": argparse.SUPPRESS, "help": _help(field)}
    choices = [value for kind in kinds for value in get_args(kind) if isinstance(value, str)]
    if bool in kinds:
        settings["action"] = "store_true"
    elif name == "prompt":
        settings |= {"action": "append", "metavar": "NAME"}
    elif name == "label_names":
        settings |= {"type": _label_names, "metavar": "A,B,...|ID=A,ID=B,..."}
    elif name == "columns":
        settings |= {"type": _comma_separated, "metavar": "A,B,..."}
    elif choices:
        settings["metavar"] = "|".join(choices)
    else:
        settings["metavar"] = "N" if int in kinds else name.split("_")[-1].upper()
    parser.add_argument(flag, **settings)


def _flatten(annotation: Any) -> list[Any]:
    """The alternatives of a type: int | None -> [int, None]; Annotated[int, ...] -> [int]."""
    if get_origin(annotation) in (Union, types.UnionType):
        return [kind for part in get_args(annotation) for kind in _flatten(part)]
    if hasattr(annotation, "__metadata__"):
        return _flatten(get_args(annotation)[0])
    return [annotation]


def _help(field: FieldInfo) -> str:
    shown = field.default
    if shown is None or shown is False:
        return str(field.description).replace("%", "%%")
    shown = ", ".join(shown) if isinstance(shown, tuple) else shown
    return f"{field.description} (default: {shown})".replace("%", "%%")


def _positive(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"'{text}' is not a whole number of 1 or more")
    return int(text)


def _comma_separated(text: str) -> tuple[str, ...]:
    return tuple(part.strip() for part in _split_commas(text))


def _label_names(text: str) -> tuple[str, ...] | dict[str, str] | str:
    """Names in the order of their ids, or by id where each part says one: 1=World,2=Sports."""
    parts = _comma_separated(text)
    pairs = [re.fullmatch(r"([^=]*?)\s*=\s*(.*)", part, re.DOTALL) for part in parts]
    by_id = {pair[1]: pair[2] for pair in pairs if pair}
    if not any(re.fullmatch(r"[+-]?[0-9]+|true|false", key) for key in by_id):  # names may hold an equals sign
        return text if text == "ag_news" else parts
    if len(by_id) < len(parts):
        raise InputError(f"--label-names {show(text)}: give each class an id of its own, as in 1=World,2=Sports")
    return by_id


# The csv module keeps the blanks after every comma or drops them all; here they belong to words, and not before quotes.
_PART = re.compile(r'\s*"((?:[^"]|"")*)"\s*,|([^",]*),')
_WRAPPED = re.compile(r"\s*(?:\[[^][]*,[^][]*\]|\([^()]*,[^()]*\)|'[^']*,[^']*')\s*")


def _split_commas(text: str) -> tuple[str, ...]:
    """The parts between commas, with their blanks; a part in double quotes may hold commas and doubled quotes.

    Raises InputError where a quote is not closed, or all of it stands in brackets or single quotes.
    """
    if _WRAPPED.fullmatch(text):
        raise InputError(f"{show(text)} stands in brackets or single quotes; write the parts alone: a,b,c")
    found = list(_PART.finditer(f"{text},"))
    if "".join(match[0] for match in found) != f"{text},":
        raise InputError(
            f"cannot read {show(text)}: a double quote is not closed or stands amid a part; write a part that holds "
            'commas in double quotes, and a double quote inside them twice: "yes, of course",no'
        )
    return tuple(match[2] if match[1] is None else match[1].replace('""', '"') for match in found)


def _label_words(text: str) -> tuple[str, ...] | str:
    """Label words as typed, each with its blank. Raises InputError where some have one and some do not."""
    if text.strip() == "ag_news":
        return "ag_news"
    words = tuple(_typed(part) for part in _split_commas(text))
    bare = [each.strip() for each in words]
    if all(bare) and len({each[0].isspace() for each in words}) > 1:
        with_blanks, without = (_join_commas([before + each for each in bare]) for before in (" ", ""))
        raise InputError(
            f"some of the label words {show(text)} begin with a blank and some do not, and they are scored as written; "
            f"write {show(with_blanks, 200)} or {show(without, 200)}"
        )
    return words


def _join_commas(parts: Sequence[str]) -> str:
    quoted = ('"' + part.replace('"', '""') + '"' for part in parts)
    return ",".join(in_quotes if set(',"') & set(part) else part for part, in_quotes in zip(parts, quoted, strict=True))


def _typed(text: str) -> str:
    """Text as a person means it who types \\n or \\t in a shell, where they are a backslash and a letter."""
    return text.replace(r"\r\n", "\r\n").replace(r"\n", "\n").replace(r"\t", "\t")


def _config(arguments: argparse.Namespace) -> RunConfig:
    given = {name: value for name, value in vars(arguments).items() if name in RunConfig.model_fields}
    return load_config(arguments.config, arguments.preset, given)


def _run(arguments: argparse.Namespace) -> int:
    config = _config(arguments)
    from flows.command import run_command

    return run_command(config)


def _serve(arguments: argparse.Namespace) -> None:
    config = _config(arguments)
    from flows.schedule import serve

    serve(config, arguments.name, arguments.cron, arguments.interval)


def _deploy(arguments: argparse.Namespace) -> None:
    config = _config(arguments)
    from flows.schedule import deploy

    deploy(config, arguments.name, arguments.pool, arguments.cron, arguments.interval)


def _report(arguments: argparse.Namespace) -> None:
    output = _open(arguments.out)
    from flows.terminal import print_report, print_waiting
    from pipeline.job import remake_report

    with output.lock(print_waiting):
        print_report(remake_report(output, arguments.rule))


def _compare(arguments: argparse.Namespace) -> None:
    from flows.terminal import print_markdown
    from pipeline.analysis import load_run
    from pipeline.reporting.compare import compare_runs
    from pipeline.reporting.compare_sections import compare_document
    from pipeline.reporting.markdown import render_markdown

    comparison = compare_runs(load_run(arguments.out_a), load_run(arguments.out_b), arguments.rule)
    print_markdown(render_markdown(compare_document(comparison)))


def _prompts(arguments: argparse.Namespace) -> None:
    from flows.terminal import print_prompts

    print_prompts()


def _status(arguments: argparse.Namespace) -> None:
    from flows.terminal import print_status
    from pipeline.storing.upkeep import status

    print_status(status(_open(arguments.out)))


def _verify(arguments: argparse.Namespace) -> int:
    from flows.terminal import print_findings
    from pipeline.storing.upkeep import verify

    return print_findings(verify(_open(arguments.out)))


def _history(arguments: argparse.Namespace) -> None:
    from flows.terminal import print_history
    from pipeline.storing.upkeep import history

    print_history(history(_open(arguments.out)))


def _prune(arguments: argparse.Namespace) -> None:
    from flows.terminal import confirm, print_prunable, print_waiting
    from pipeline.storing.upkeep import prune

    output = _open(arguments.out)
    with output.lock(print_waiting):
        prunable = prune(output, dry_run=True)
        print_prunable(prunable)
        if not prunable:
            return
        if not arguments.yes and not confirm("Remove these files?"):
            raise InputError("nothing was removed; answer y, or use --yes where there is no terminal")
        prune(output, dry_run=False)


def _open(location: str) -> "Output":
    """The output of an earlier run, finished or not. Raises InputError where there is none."""
    from pipeline.storing.files import Output
    from pipeline.storing.published import is_ours

    output = Output(location, create=False)
    if not is_ours(output):
        raise InputError(
            f"{output} holds no finished run and no scores; make some with `labelscore run --out {output}`"
        )
    return output


def _load(arguments: argparse.Namespace) -> "Loaded":
    from pipeline.bundled import DEMO_MODEL
    from pipeline.reading.model import find_directory

    # Through the configuration, so that a value that is not allowed is told as for `run`.
    given = {name: value for name, value in vars(arguments).items() if name in ("model", "revision", "device", "dtype")}
    config = load_config(None, None, given)
    if config.model != DEMO_MODEL:
        find_directory(config.model, config.revision, (DEMO_MODEL,))  # told before torch is imported
    from pipeline.one_text import load

    return load(config.model, revision=config.revision, device=config.device, dtype=config.dtype)


def _classify(arguments: argparse.Namespace) -> None:
    from flows.terminal import print_classification

    labels, template, boundary = arguments.labels, arguments.template, arguments.boundary
    prompt = make_one_text_prompt(labels, template, boundary)  # a slip is told before torch is imported
    loaded = _load(arguments)
    from pipeline.one_text import classify

    table = classify(loaded, arguments.text, labels=labels, template=template, boundary=boundary)
    print_classification(table, seam_note(prompt))


def _tokens(arguments: argparse.Namespace) -> None:
    loaded = _load(arguments)
    from flows.terminal import print_tokens
    from pipeline.one_text import inspect_tokens

    print_tokens(inspect_tokens(loaded, arguments.text, notebook=arguments.notebook))


def _generate(arguments: argparse.Namespace) -> None:
    loaded = _load(arguments)
    from flows.terminal import print_text
    from pipeline.one_text import generate

    print_text(generate(loaded, arguments.text, max_new_tokens=arguments.max_new_tokens))


if __name__ == "__main__":
    raise SystemExit(main())
