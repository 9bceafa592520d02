"""Rows that arrive one by one: an append-only JSONL file per writer, later compacted into Parquet parts.

A row handed to `append` survives the death of the process at once and the loss of power within a second (one fsync serves all
rows of that time). A last line torn by a crash is dropped when read; a broken line elsewhere is an error, never skipped.
"""

import json
import os
import threading
import uuid
from collections.abc import Callable, Iterable, Iterator, Mapping
from itertools import islice
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import pyarrow as pa

from storage import parquet
from storage.artifact import ArtifactWriter
from storage.errors import BrokenArtifact
from storage.offset_index import OffsetIndex

SYNC_SECONDS = 0.5  # rows wait at most this long, plus the fsync itself
ROWS_PER_PART = 1000


class Journal:
    """A writer's own file; create it with `new_journal`."""

    def __init__(self, path: Path) -> None:
        """Create `path`, which must not exist: a journal is never appended to by a second writer."""
        path.parent.mkdir(parents=True, exist_ok=True)
        self.path = path
        self._handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_APPEND, 0o644)
        self._size = 0
        self._lock = threading.Lock()
        self._dirty = threading.Event()
        self._closing = threading.Event()
        self._sync_error: OSError | None = None
        self._syncer = threading.Thread(target=self._sync_loop, name=f"sync {path.name}", daemon=True)
        self._syncer.start()

    def append(self, row: Mapping[str, Any]) -> int:
        """Write `row` as one line and return the offset at which it starts. Raises OSError when the disk refuses."""
        line = json.dumps(row, separators=(",", ":")).encode("ascii") + b"\n"
        with self._lock:
            if self._sync_error is not None:
                raise self._sync_error
            start = self._size
            self._write_whole(line, start)
            self._size = start + len(line)
        self._dirty.set()
        return start

    def _write_whole(self, line: bytes, start: int) -> None:
        """Write all of `line` or none of it: half a line in the middle of the file would spoil what follows."""
        written = 0
        try:
            while written < len(line):
                written += os.write(self._handle, line[written:])
        except OSError:
            os.ftruncate(self._handle, start)
            raise

    def _sync_loop(self) -> None:
        while not self._closing.is_set():
            self._dirty.wait()
            self._closing.wait(SYNC_SECONDS)
            self._dirty.clear()
            try:
                os.fsync(self._handle)
            except OSError as error:
                self._sync_error = error
                return

    def close(self) -> None:
        """Force everything to disk and close the file; raise OSError if the disk refused at any time."""
        if self._closing.is_set():
            return
        self._closing.set()
        self._dirty.set()
        self._syncer.join()
        os.close(self._handle)
        if self._sync_error is not None:
            raise self._sync_error

    def __enter__(self) -> Self:
        """The journal itself."""
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        """Close the file."""
        self.close()


def new_journal(folder: Path, prefix: str = "journal") -> Journal:
    """A journal under a name no other writer has: `<prefix>-<pid>-<random>.jsonl`."""
    return Journal(folder / f"{prefix}-{os.getpid()}-{uuid.uuid4().hex[:8]}.jsonl")


def list_journals(folder: Path, prefix: str = "journal") -> list[Path]:
    """The journals of all writers in `folder`, oldest first."""
    return sorted(folder.glob(f"{prefix}-*.jsonl"), key=lambda path: (path.stat().st_mtime_ns, path.name))


def read_journal(path: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    """Yield each row of one journal with its offset; drop a torn last line, raise BrokenArtifact for a broken line before it."""
    offset, broken = 0, 0
    with path.open("rb") as handle:
        for number, line in enumerate(handle, start=1):
            if broken:
                raise BrokenArtifact(
                    f"expected a JSON row in line {broken} of {path}, found other bytes; remove that line and run again"
                )
            row = _parse_line(line)
            if row is None:
                broken = number
            else:
                yield offset, row
            offset += len(line)


def _parse_line(line: bytes) -> dict[str, Any] | None:
    try:
        row = json.loads(line) if line.endswith(b"\n") else None
    except ValueError:
        return None
    return row if isinstance(row, dict) else None


class JournalledRows:
    """The rows in the journals of a folder by one of their columns; appends to a journal of its own. Rows stay on disk."""

    def __init__(self, folder: Path, key: str, usable: Callable[[Mapping[str, Any]], bool] = lambda row: True) -> None:
        """Index the `usable` rows that are there by the column `key`; nothing is created until a row is added."""
        self._folder, self._key = folder, key
        self._index = OffsetIndex()
        self._journal: Journal | None = None
        for path in list_journals(folder):
            for offset, row in read_journal(path):
                if usable(row):
                    self._index.add(row[key], path, offset)

    def append(self, row: Mapping[str, Any]) -> None:
        """Keep `row` for good, under its key."""
        if self._journal is None:
            self._journal = new_journal(self._folder)
        self._index.add(row[self._key], self._journal.path, self._journal.append(row))

    def find(self, key: str) -> dict[str, Any] | None:
        """The first row kept under `key`, or None."""
        row = json.loads(self._index.line(key) or b"null")
        return row if row is not None and row[self._key] == key else None

    def __contains__(self, key: str) -> bool:
        """Whether a row is kept under `key`."""
        return key in self._index

    def __len__(self) -> int:
        """How many keys have a row."""
        return len(self._index)

    def close(self) -> None:
        """Force what was added to disk and close all files."""
        self._index.close()
        if self._journal is not None:
            self._journal.close()
            self._journal = None

    def __enter__(self) -> Self:
        """The rows themselves."""
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        """Close the files."""
        self.close()


def remove_journals(folder: Path) -> None:
    """Delete the journals of `folder`, once their rows stand in a complete artifact."""
    for path in list_journals(folder):
        path.unlink()


def write_parts(
    writer: ArtifactWriter, rows: Iterable[dict[str, Any]], schema: pa.Schema, rows_per_part: int = ROWS_PER_PART
) -> list[Path]:
    """Compact `rows`, in their order, into the artifact's Parquet parts of `rows_per_part` each and return their paths."""
    remaining = iter(rows)
    paths: list[Path] = []
    while chunk := list(islice(remaining, rows_per_part)):
        paths.append(writer.part_path(len(paths)))
        parquet.write_rows(paths[-1], chunk, schema)
    return paths
