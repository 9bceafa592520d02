"""Rows of one file, one after the other, however long the file: JSONL, JSON arrays, CSV, TSV, Parquet, .gz and .zst of them.

A line that cannot be read (broken UTF-8, a NUL, invalid JSON, a wrong number of fields) is a row with a problem, not an
end: the caller counts it. A file that cannot be read at all raises InputError.
"""

import codecs
import csv
import gzip
import io
import json
import re
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple, cast

import pyarrow as pa
import pyarrow.parquet as pq
import zstandard

from srpo_core.data.labelled_pairs import Row
from srpo_core.errors import InputError

FORMATS = (".jsonl", ".ndjson", ".json", ".csv", ".tsv", ".parquet")
COMPRESSIONS = (".gz", ".zst")
MAX_ROW_BYTES = 64 * 2**20  # a longer line is no text row; without a bound a file without newlines would fill the memory
CHUNK_BYTES = 2**20
ZSTD_READ_BYTES = 2**15  # small, because what it unpacks to is held at once
PARQUET_BATCH_ROWS = 256
_SEPARATORS = re.compile(r"[\s,]*")
_UNREADABLE = (OSError, EOFError, zlib.error, zstandard.ZstdError, pa.ArrowException)


class SourceRow(NamedTuple):
    """One row: `row` is None and `problem` says why when it could not be read."""

    line: int  # from 1: the line of a text file, the position in an array or a Parquet file
    row: Row | None
    raw: str
    problem: str | None = None

    def text(self) -> str:
        """The row as text, for the table of rejected rows."""
        text = self.raw if self.row is None else json.dumps(self.row, ensure_ascii=False, default=str)
        return text.encode("utf-8", "replace").decode("utf-8")


class Place:
    """How far the reading of a file has come: bytes of a text file as it lies there, rows of a Parquet file."""

    def __init__(self) -> None:
        """Nothing was opened yet."""
        self.total, self.unit = 0, "rows"
        self._done: Callable[[], int] = int

    def watch(self, done: Callable[[], int], total: int, unit: str) -> None:
        """Follow a file that was just opened."""
        self._done, self.total, self.unit = done, total, unit

    @property
    def done(self) -> int:
        """Bytes or rows so far; all of them once the file is closed."""
        try:
            return self._done()
        except ValueError:  # what a closed file says
            return self.total


def format_suffix(path: Path) -> str | None:
    """The suffix that says how to read the file, below a compression suffix; None when it is not a known one."""
    suffixes = [s.lower() for s in path.suffixes]
    if suffixes and suffixes[-1] in COMPRESSIONS:
        return suffixes[-2] if len(suffixes) > 1 and suffixes[-2] in FORMATS[:-1] else None
    return suffixes[-1] if suffixes and suffixes[-1] in FORMATS else None


def read_rows(path: Path, place: Place | None = None) -> Iterator[SourceRow]:
    """Yield the rows of one file in order, in flat memory; `place` is kept at where the reading is.

    Raises InputError when the file as a whole cannot be read.
    """
    place = place or Place()
    suffix = format_suffix(path)
    if suffix is None:
        known = ", ".join(FORMATS)
        raise InputError(f"expected a file ending in {known} (or .gz, .zst of the text ones), found {path}; convert or rename it")
    try:
        if suffix == ".parquet":
            yield from _read_parquet(path, place)
        else:
            with path.open("rb") as file, _unpack(file, path) as stream:
                place.watch(file.tell, path.stat().st_size, "bytes")
                yield from _read_delimited(stream, path, suffix) if suffix in (".csv", ".tsv") else _read_json(stream, path)
    except _UNREADABLE as error:
        reason = (getattr(error, "strerror", None) or str(error) or type(error).__name__).splitlines()[0].rstrip(".")
        raise InputError(f"expected a readable {suffix} file at {path}, found: {reason}; repair the file") from error


def _unpack(file: BinaryIO, path: Path) -> BinaryIO:
    if path.suffix.lower() == ".gz":
        return cast(BinaryIO, gzip.open(file, "rb"))
    if path.suffix.lower() == ".zst":
        return cast(BinaryIO, io.BufferedReader(_ZstdStream(file), CHUNK_BYTES))
    return file


class _ZstdStream(io.RawIOBase):
    """Bytes of a .zst file; unlike the library's own reader it raises EOFError where the file is cut off."""

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self._frame = zstandard.ZstdDecompressor().decompressobj()
        self._ready = b""

    def readable(self) -> bool:
        return True

    def close(self) -> None:
        self._file.close()
        super().close()

    def readinto(self, target: Any) -> int:
        while not self._ready:
            data = self._frame.unused_data if self._frame.eof else b""
            data = data or self._file.read(ZSTD_READ_BYTES)
            if not data and not self._frame.eof:
                raise EOFError("a compressed stream that is cut off")
            if not data:
                return 0
            if self._frame.eof:
                self._frame = zstandard.ZstdDecompressor().decompressobj()
            self._ready = self._frame.decompress(data)
        size = min(len(target), len(self._ready))
        target[:size], self._ready = self._ready[:size], self._ready[size:]
        return size


def _read_json(stream: BinaryIO, path: Path) -> Iterator[SourceRow]:
    """A JSON array when the text opens with a bracket, else one object a line."""
    head = stream.read(CHUNK_BYTES).removeprefix(codecs.BOM_UTF8)
    if head.lstrip()[:1] == b"[":
        return _read_array(stream, head, path)
    return _read_lines(stream, head, path)


def _read_lines(stream: BinaryIO, head: bytes, path: Path) -> Iterator[SourceRow]:
    for number, (line, complete) in enumerate(_lines(stream, head), start=1):
        if not complete:
            yield SourceRow(number, None, line[:1000].decode("utf-8", "replace"), f"row too long: over {MAX_ROW_BYTES} bytes")
        elif line.strip():
            yield _parse_line(number, line)


def _lines(stream: BinaryIO, rest: bytes) -> Iterator[tuple[bytes, bool]]:
    """Lines with True, or with False the start of one that passed the limit and whose rest is skipped."""
    skipping, more = False, rest
    rest = b""
    while more:
        *whole, rest = (rest + more).split(b"\n")
        for line in whole:
            if not skipping:
                yield line, True
            skipping = False
        if len(rest) > MAX_ROW_BYTES and not skipping:
            yield rest, False
            skipping = True
        rest = b"" if skipping else rest
        more = stream.read(CHUNK_BYTES)
    if rest:
        yield rest, True


def _parse_line(number: int, line: bytes) -> SourceRow:
    try:
        text = line.decode("utf-8")
    except UnicodeDecodeError as error:
        return SourceRow(number, None, line.decode("utf-8", "replace"), f"broken UTF-8: byte {error.start} of the line")
    if "\x00" in text:
        return SourceRow(number, None, text, "NUL character")
    try:
        row = json.loads(text)
    except (ValueError, RecursionError) as error:
        return SourceRow(number, None, text, f"invalid JSON: {error}")
    return _object_row(number, row, text)


def _object_row(number: int, row: Any, text: str) -> SourceRow:
    if not isinstance(row, dict):
        return SourceRow(number, None, text, f"not a JSON object: {type(row).__name__}")
    return SourceRow(number, row, text)


def _read_array(stream: BinaryIO, head: bytes, path: Path) -> Iterator[SourceRow]:
    """Elements of one JSON array, decoded one at a time from a sliding window of text."""
    decoder, utf8 = json.JSONDecoder(), codecs.getincrementaldecoder("utf-8")("surrogateescape")
    window, at_end, number = utf8.decode(head).lstrip()[1:], False, 0
    position = 0
    while True:
        start = _SEPARATORS.match(window, position).end()  # type: ignore[union-attr]  # matches the empty text too
        if window[start : start + 1] == "]":
            return
        try:
            row, end = decoder.raw_decode(window, start)
        except (ValueError, RecursionError) as error:
            if at_end or not _may_be_cut(error, window, start):
                what = "a cut-off array" if at_end else f"invalid JSON ({error})"
                found = f"{what} after {number} rows"
                raise InputError(f"expected a JSON array of objects at {path}, found {found}; repair the file") from error
            more = stream.read(CHUNK_BYTES)
            at_end, position = not more, 0
            window = window[start:] + utf8.decode(more, final=not more)
            continue
        number, position = number + 1, end
        yield _array_row(number, row, window[start:end])


def _array_row(number: int, row: Any, text: str) -> SourceRow:
    if not text.isascii() and any("\udc80" <= c <= "\udcff" for c in text):
        return SourceRow(number, None, text, "broken UTF-8")
    return _object_row(number, row, text)


def _may_be_cut(error: Exception, window: str, start: int) -> bool:
    """Whether more text could still make this valid: the fault lies at the window's end, or a string is open."""
    if len(window) - start > MAX_ROW_BYTES or not isinstance(error, json.JSONDecodeError):
        return False
    return error.msg.startswith("Unterminated string") or error.pos >= len(window) - len("-Infinity")


def _read_delimited(stream: BinaryIO, path: Path, suffix: str) -> Iterator[SourceRow]:
    """CSV, or TSV without quoting, under the header of the first line; all values are texts."""
    csv.field_size_limit(MAX_ROW_BYTES)
    text = io.TextIOWrapper(stream, encoding="utf-8-sig", errors="surrogateescape", newline="")
    # strict: after a misplaced quote nobody can say where the next row begins
    reader = csv.reader(text, delimiter="\t", quoting=csv.QUOTE_NONE) if suffix == ".tsv" else csv.reader(text, strict=True)
    try:
        header, line = next(reader, []), reader.line_num + 1
        _check_header(header, path)
        for values in reader:
            if values:
                yield _delimited_row(line, header, values)
            line = reader.line_num + 1
    except csv.Error as error:
        found = f"a fault at line {reader.line_num}: {error}"
        raise InputError(f"expected well-formed CSV at {path}, found {found}; repair the file") from error


def _check_header(header: list[str], path: Path) -> None:
    repeated = sorted({name for name in header if header.count(name) > 1})
    if repeated:
        found = ", ".join(repeated)
        raise InputError(f"expected distinct column names in the first line of {path}, found {found} repeated; rename them")


def _delimited_row(line: int, header: list[str], values: list[str]) -> SourceRow:
    raw = ",".join(values).encode("utf-8", "surrogateescape").decode("utf-8", "replace")
    if len(values) != len(header):
        return SourceRow(line, None, raw, f"wrong number of fields: {len(values)} under {len(header)} columns")
    if any("\udc80" <= c <= "\udcff" for value in values if not value.isascii() for c in value):
        return SourceRow(line, None, raw, "broken UTF-8")
    return SourceRow(line, dict(zip(header, values, strict=True)), raw)


def _read_parquet(path: Path, place: Place) -> Iterator[SourceRow]:
    number = 0
    # the defaults hold a whole row group, which in public files can be the whole file
    with pq.ParquetFile(path, buffer_size=CHUNK_BYTES, pre_buffer=False) as file:
        place.watch(lambda: number, file.metadata.num_rows, "rows")
        for batch in file.iter_batches(PARQUET_BATCH_ROWS):
            for row in batch.to_pylist():
                number += 1
                yield SourceRow(number, row, "")
