"""Tables of the benchmarks, and the tracked file they are kept in.

Invariant: RESULTS.md is written by the benchmarks alone, one section for each, and a section carries the command,
the machine and the date that its figures came from; writing one leaves the others as they are.
"""

import argparse
import os
import platform
import re
import shlex
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path

import torch

RESULTS = Path(__file__).with_name("RESULTS.md")
PREAMBLE = "# Results of the benchmarks\n\nWritten by the benchmarks themselves; README.md says what each measures.\n"


def table(header: Sequence[str], rows: Sequence[Sequence[object]]) -> str:
    """A Markdown table, the first column left, the others right."""
    lines = ["| " + " | ".join(header) + " |", "|:--" + "|--:" * (len(header) - 1) + "|"]
    lines += ["| " + " | ".join(str(cell) for cell in row) + " |" for row in rows]
    return "\n".join(lines)


def number(value: float) -> str:
    """Three significant digits, no exponent."""
    return f"{value:,.0f}" if value >= 100 else f"{value:.1f}" if value >= 10 else f"{value:.2f}"


def command_line(command: str, parser: argparse.ArgumentParser, options: argparse.Namespace) -> str:
    """The command with the options that were not left at their defaults, so that the section can be made again.

    Those that only say where a file lies are left out: they change no figure.
    """
    for name, value in vars(options).items():
        if isinstance(value, Path) or value == parser.get_default(name):
            continue
        values = [] if value is True else value if isinstance(value, list) else [value]
        command = " ".join([command, f"--{name.replace('_', '-')}", *(shlex.quote(str(one)) for one in values)])
    return command


def write_section(
    title: str, command: str, body: str, path: Path = RESULTS, source: str = "", num_threads: int | None = None
) -> None:
    """Replaces or appends the section `## title`, and prints it.

    `source`: date and machine, if not here and now. `num_threads`: of the measured processes, if not those of this one.
    """
    head = f"`{command}`, {source or f'{datetime.now(UTC):%Y-%m-%d}, {machine(num_threads)}'}."
    section = f"## {title}\n\n{head}\n\n{body.strip()}\n"
    print("\n" + section, flush=True)
    text = path.read_text(encoding="utf-8") if path.is_file() else PREAMBLE
    pattern = re.compile(rf"^## {re.escape(title)}\n.*?(?=^## |\Z)", re.MULTILINE | re.DOTALL)
    known = pattern.search(text) is not None
    text = pattern.sub(lambda _: section + "\n", text) if known else f"{text.rstrip()}\n\n{section}"
    aside = path.with_suffix(".tmp")
    aside.write_text(text.rstrip() + "\n", encoding="utf-8")
    aside.replace(path)


def machine(num_threads: int | None = None) -> str:
    """Processor, cores, threads, GPU and versions: what the figures depend on."""
    import transformers

    num_threads = num_threads or torch.get_num_threads()
    parts = [f"{processor()}, {os.cpu_count()} cores, {num_threads} thread{'s' * (num_threads > 1)} a process"]
    if torch.cuda.is_available():
        parts.append(torch.cuda.get_device_name())
    parts.append(
        f"Python {platform.python_version()}, torch {torch.__version__}, transformers {transformers.__version__}"
    )
    return ", ".join(parts)


def processor() -> str:
    """The processor's name, where the system tells it."""
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.is_file():
        names = re.findall(r"^model name\s*:\s*(.+)$", cpuinfo.read_text(encoding="utf-8"), re.MULTILINE)
        if names:
            return str(names[0]).strip()
    return platform.processor() or platform.machine()
