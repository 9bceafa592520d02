"""Parquet parts written by a worker: whole under their final name, or not there."""

import os
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq


def write_part(path: Path, rows: Iterable[dict[str, Any]], schema: pa.Schema) -> None:
    """Write rows under an explicit schema to a temporary file, force it to disk and rename it to `path`."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    pq.write_table(pa.Table.from_pylist(list(rows), schema=schema), temporary, compression="zstd")
    with temporary.open("rb") as handle:
        os.fsync(handle.fileno())
    os.replace(temporary, path)


def read_rows(paths: Iterable[str], columns: list[str] | None = None) -> list[dict[str, Any]]:
    """All rows of the parts, in order."""
    return [row for path in paths for row in pq.read_table(path, columns=columns).to_pylist()]
