"""Files written by a worker: whole under their final name, or not there."""

import json
import os
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq


def write_part(path: Path, rows: Iterable[dict[str, Any]], schema: pa.Schema) -> None:
    """Write rows under an explicit schema."""
    table = pa.Table.from_pylist(list(rows), schema=schema)
    _write_atomically(path, lambda temporary: pq.write_table(table, temporary, compression="zstd"))


def write_json(path: Path, value: Any) -> None:
    """Write JSON."""
    _write_atomically(path, lambda temporary: temporary.write_text(json.dumps(value), encoding="utf-8"))


def _write_atomically(path: Path, write: Callable[[Path], object]) -> None:
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        write(temporary)
        with temporary.open("rb") as handle:
            os.fsync(handle.fileno())
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def read_rows(paths: Iterable[str], columns: list[str] | None = None) -> list[dict[str, Any]]:
    """All rows of the parts, in order."""
    return [row for path in paths for row in pq.read_table(path, columns=columns).to_pylist()]
