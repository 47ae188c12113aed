"""Tables of the benchmarks, and the tracked file they are kept in.

Invariant: RESULTS.md is written by the benchmarks alone, one section for each, and a section carries the command,
the machine and the date that its figures came from; writing one leaves the others as they are.
"""

import argparse
import os
import platform
import re
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
    """The command with the options that were not left at their defaults, so that the section can be made again."""
    for name, value in vars(options).items():
        if name != "results" and value != parser.get_default(name):
            values = value if isinstance(value, list) else [value]
            command += f" --{name.replace('_', '-')} {' '.join(map(str, values))}"
    return command


def write_section(title: str, command: str, body: str, path: Path = RESULTS, source: str = "") -> None:
    """Replaces or appends the section `## title`, and prints it. `source`: date and machine, if not here and now."""
    head = f"`{command}`, {source or f'{datetime.now(UTC):%Y-%m-%d}, {machine()}'}."
    section = f"## {title}\n\n{head}\n\n{body.strip()}\n"
    print("\n" + section, flush=True)
    text = path.read_text(encoding="utf-8") if path.is_file() else PREAMBLE
    pattern = re.compile(rf"^## {re.escape(title)}\n.*?(?=^## |\Z)", re.MULTILINE | re.DOTALL)
    known = pattern.search(text) is not None
    text = pattern.sub(lambda _: section + "\n", text) if known else f"{text.rstrip()}\n\n{section}"
    aside = path.with_suffix(".tmp")
    aside.write_text(text.rstrip() + "\n", encoding="utf-8")
    aside.replace(path)


def machine() -> str:
    """Processor, cores, threads, GPU and versions: what the figures depend on."""
    import transformers

    parts = [f"{processor()}, {os.cpu_count()} cores, {torch.get_num_threads()} threads"]
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
