"""Atomic files: a reader sees a whole file under its final name, or nothing."""

import hashlib
import json
import os
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from storage.errors import BrokenArtifact


def write_atomically(path: Path, write: Callable[[Path], object]) -> None:
    """Let `write` fill a temporary file beside `path`, force it to disk, and rename it over `path`."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        write(temporary)
        with temporary.open("rb") as handle:
            os.fsync(handle.fileno())
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)
    directory = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(directory)
    finally:
        os.close(directory)


def write_table(path: Path, table: pa.Table) -> None:
    """Write `table` to `path` as zstd-compressed Parquet, atomically."""
    write_atomically(path, lambda temporary: pq.write_table(table, temporary, compression="zstd"))


def write_rows(path: Path, rows: Iterable[dict[str, Any]], schema: pa.Schema) -> int:
    """Write dictionaries under an explicit schema (never an inferred one) and return how many there were."""
    table = pa.Table.from_pylist(list(rows), schema=schema)
    write_table(path, table)
    return table.num_rows


def write_json(path: Path, value: Any) -> None:
    """Write `value` as indented JSON, atomically."""
    text = json.dumps(value, indent=2, sort_keys=True, ensure_ascii=False) + "\n"
    write_atomically(path, lambda temporary: temporary.write_text(text, encoding="utf-8"))


def read_table(paths: Iterable[Path], schema: pa.Schema, columns: list[str] | None = None) -> pa.Table:
    """Read Parquet parts in the given order into one table; no part gives an empty table of `schema`."""
    wanted = schema if columns is None else pa.schema([schema.field(name) for name in columns])
    tables = []
    for path in paths:
        try:
            tables.append(pq.read_table(path, columns=wanted.names).cast(wanted))
        except (ValueError, OSError) as error:  # ArrowInvalid is a ValueError, and so is a schema that does not match
            raise broken_part(path, error) from error
    return pa.concat_tables(tables) if tables else wanted.empty_table()


def iterate_rows(paths: Iterable[Path], batch_size: int = 1024) -> Iterator[dict[str, Any]]:
    """Yield the rows of Parquet parts one by one without holding a whole part in memory."""
    for path in paths:
        for batch in _batches(path, batch_size):
            yield from batch.to_pylist()


def _batches(path: Path, batch_size: int) -> Iterator[pa.RecordBatch]:
    try:
        with pq.ParquetFile(path) as file:
            yield from file.iter_batches(batch_size)
    except (pa.ArrowInvalid, OSError) as error:
        raise broken_part(path, error) from error


def broken_part(path: Path, error: Exception) -> BrokenArtifact:
    """The error for a part that cannot be read."""
    return BrokenArtifact(f"expected a Parquet part at {path}, found {error}; delete its folder and run again")


def sha256_of_file(path: Path) -> str:
    """Hex SHA-256 of a file's bytes."""
    with path.open("rb") as handle:
        return hashlib.file_digest(handle, "sha256").hexdigest()
