"""axe-core, which finds what keeps people out of a page: nothing of it is kept in this repository.

It is the file axe.min.js in the folder that LABELSCORE_AXE names. `python -m tests.axe` fetches it there with npm, and
fails where it cannot be had: after it no test is skipped for want of it.
"""

import os
import subprocess
import sys
import tarfile
from pathlib import Path

import pytest

VARIABLE = "LABELSCORE_AXE"
PACKAGE = "axe-core@4.10.3"
FILE = "axe.min.js"


def axe_source() -> str:
    """The script; the test is skipped where it is not there."""
    folder = os.environ.get(VARIABLE)
    if not folder or not (Path(folder) / FILE).is_file():
        pytest.skip(f"set {VARIABLE} to a folder with axe-core's {FILE}; python -m tests.axe fetches it")
    return (Path(folder) / FILE).read_text(encoding="utf-8")


def main() -> None:
    """Fetch it, and say where it lies. Ends the command where it cannot be had."""
    if not os.environ.get(VARIABLE):
        sys.exit(f"set {VARIABLE} to a folder for axe-core")
    folder = Path(os.environ[VARIABLE])
    folder.mkdir(parents=True, exist_ok=True)
    command = ["npm", "pack", "--silent", PACKAGE]
    packed = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=300)
    if packed.returncode:
        sys.exit(f"npm could not fetch {PACKAGE}: {packed.stderr.strip()}")
    archive = folder / packed.stdout.strip()
    with tarfile.open(archive) as package:
        script = package.extractfile(f"package/{FILE}")
        assert script is not None
        (folder / FILE).write_bytes(script.read())
    archive.unlink()
    sys.stdout.write(f"{PACKAGE}: {folder / FILE}\n")


if __name__ == "__main__":
    main()
