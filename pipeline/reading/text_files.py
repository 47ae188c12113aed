"""Text out of files: decompressed, and decoded with the right encoding.

Invariant: a byte order mark is never part of the text, and no byte is dropped: what cannot be decoded comes through as
a lone surrogate, which is refused row by row, or is an error.
"""

import codecs
from collections.abc import Iterator
from contextlib import contextmanager
from io import BufferedReader, TextIOWrapper
from pathlib import Path
from typing import IO

import pyarrow as pa

from pipeline.errors import InputError
from pipeline.reading.formats import ENCODING_EXAMPLES, need_format, short

HEAD_BYTES = 256
# UTF-32's mark in little-endian order begins with UTF-16's.
MARKS = (
    (codecs.BOM_UTF8, "utf-8"),
    (codecs.BOM_UTF32_LE, "utf-32-le"),
    (codecs.BOM_UTF32_BE, "utf-32-be"),
    (codecs.BOM_UTF16_LE, "utf-16-le"),
    (codecs.BOM_UTF16_BE, "utf-16-be"),
    (b"\x84\x31\x95\x33", "gb18030"),
)
OTHER_FILES = (
    (b"\x1f\x8b", "is compressed with gzip; add .gz to its name"),
    (b"\x28\xb5\x2f\xfd", "is compressed with zstd; add .zst to its name"),
    (b"PK\x03\x04", "is a spreadsheet or a ZIP archive; save or unpack it as .csv"),
    (b"PAR1", "is a Parquet file; rename it to .parquet"),
)


@contextmanager
def open_text(file: Path, encoding: str | None, *, newline: str = "") -> Iterator[IO[str]]:
    """A text file as a stream, `newline` as in `open`. Raises InputError for an encoding that it is not in."""
    with _open_bytes(file) as raw:
        head = raw.peek(HEAD_BYTES)[:HEAD_BYTES]
        for mark, what in OTHER_FILES:
            if head.startswith(mark):
                raise InputError(f"{file}: {what}")
        name = _encoding(file, head, encoding)
        raw.read(next((len(mark) for mark, _ in MARKS if head.startswith(mark)), 0))
        # Code units of two or four bytes leave no room for a single byte that is none.
        errors = "strict" if name.startswith(("utf-16", "utf-32")) else "surrogateescape"
        with TextIOWrapper(raw, name, errors, newline) as text:
            yield text


@contextmanager
def _open_bytes(file: Path) -> Iterator[BufferedReader]:
    """Arrow's decompression reads all members of a file, checks their sums and refuses one that is cut off."""
    compression = need_format(file).compression
    with file.open("rb") as raw:
        if compression is None:
            yield raw
        else:
            with pa.input_stream(raw, compression) as stream, BufferedReader(stream, 1 << 18) as plain:
                yield plain


# Encodings


def _encoding(file: Path, head: bytes, given: str | None) -> str:
    """What to decode with: what the user said, else what the first bytes say, where the two do not differ."""
    marked = next((name for mark, name in MARKS if head.startswith(mark)), None)
    seen = marked or _unmarked(head)
    if given is None:
        if seen and not marked:
            raise InputError(f"{file}: looks like {seen[:6].upper()} without a mark; write --encoding {seen}")
        return seen or "utf-8"
    name = known_encoding(given)
    if seen and not seen.startswith(name.removesuffix("-sig")):
        right = "leave out --encoding" if marked else f"write --encoding {seen}"
        raise InputError(f"{file}: begins like {seen}, not like {given}; {right}")
    return seen or name


def known_encoding(given: str) -> str:
    """Python's own name for an encoding. Raises InputError for what is none of text."""
    try:
        known = codecs.lookup(given)
        "".encode(given)  # refuses codecs that are none of text, such as base64
    except (LookupError, ValueError):
        raise InputError(f"--encoding '{given}': no such encoding; write {ENCODING_EXAMPLES}, for example") from None
    return known.name


def _unmarked(head: bytes) -> str | None:
    """UTF-16 or UTF-32 without a mark: a first line full of NUL bytes that makes sense without them."""
    line = head.partition(b"\n")[0]
    if len(line) < 8:  # as of a list that opens on a line of its own
        line = head
    if line.count(0) * 4 < max(len(line), 4):
        return None
    for name in ("utf-32-le", "utf-32-be", "utf-16-le", "utf-16-be"):
        text = line[: len(line) // 4 * 4].decode(name, errors="replace")
        if "\0" not in text and "\ufffd" not in text and sum(map(str.isascii, text)) * 4 > len(text):
            return name
    return None


def encoding_hint(text: str) -> str:
    """For text with bytes that are not UTF-8: how it reads in a likely encoding, and what to write; else nothing."""
    try:
        text.encode("utf-8", "surrogateescape").decode()
        return ""
    except UnicodeEncodeError:
        return ""  # surrogates that were written as such
    except UnicodeDecodeError as error:
        around = error.object[max(error.start - 20, 0) : error.end + 20]
    for name in ("cp1252", "latin-1"):
        try:
            return f"if '{short(around.decode(name))}' is right, write --encoding {name}"
        except UnicodeDecodeError:
            continue
    return ""
