"""Rows that arrive one by one: an append-only JSONL file per writer, later compacted into Parquet parts.

A row handed to `append` survives the death of the process at once and the loss of power within a second (one fsync serves all
rows of that time). A last line torn by a crash is dropped when read; a broken line elsewhere is an error, never skipped.
"""

import json
import os
import threading
import uuid
from collections.abc import Iterable, Iterator, Mapping
from itertools import islice
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import pyarrow as pa

from storage import parquet
from storage.artifact import ArtifactWriter
from storage.errors import BrokenArtifact

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


def read_journal(path: Path) -> Iterator[dict[str, Any]]:
    """Yield the rows of one journal; drop a torn last line, raise BrokenArtifact for a broken line before it."""
    with path.open("rb") as handle:
        broken: int | None = None
        for number, line in enumerate(handle, start=1):
            if broken is not None:
                raise BrokenArtifact(
                    f"expected a JSON row in line {broken} of {path}, found other bytes; remove that line and run again"
                )
            row = _parse_line(line)
            if row is None:
                broken = number
            else:
                yield row


def _parse_line(line: bytes) -> dict[str, Any] | None:
    try:
        row = json.loads(line) if line.endswith(b"\n") else None
    except ValueError:
        return None
    return row if isinstance(row, dict) else None


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
