"""Rows of Parquet parts in another order than they were written, however many.

An external sort: rows are dealt into files on disk by ranges of their first sort key, each small enough to be sorted in memory.
"""

import tempfile
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from itertools import groupby
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from storage.parquet import broken_part

BYTES_PER_RANGE = 2 * 2**20  # of uncompressed columns; about what is held in memory
_MOST_RANGES = 256  # each is an open file while rows are dealt
_ROWS_PER_BATCH = 256
_SAMPLED = 16  # one key in so many decides where the ranges end

Row = dict[str, Any]
Where = tuple[str, Any]


def iterate_sorted(
    paths: Sequence[Path], columns: Sequence[str], order_by: Sequence[str], where: Where | None = None
) -> Iterator[Row]:
    """Yield `columns` of all rows sorted by `order_by` (text by code point, equal rows as they came).

    `where`: a column and the value it must have. Raises BrokenArtifact when a part cannot be read.
    """
    read = list(dict.fromkeys([*columns, *order_by, *([where[0]] if where else [])]))
    bounds = _bounds(paths, read, order_by[0])
    if not len(bounds):
        tables = [pa.Table.from_batches([batch]) for path in paths for batch in _batches(path, read)]
        yield from _sorted(tables, columns, order_by, where)
        return
    with tempfile.TemporaryDirectory(prefix="srpo-sort-") as folder:
        files = [Path(folder) / str(number) for number in range(len(bounds) + 1)]
        _deal(paths, read, order_by[0], bounds, files)
        for file in files:
            yield from _sorted([pa.ipc.open_stream(file).read_all()] if file.exists() else [], columns, order_by, where)
            file.unlink(missing_ok=True)


def grouped(rows: Iterator[Row], column: str) -> Iterator[tuple[Any, list[Row]]]:
    """The runs of rows with one value of `column`, a run at a time."""
    for value, run in groupby(rows, key=lambda row: row[column]):
        yield value, list(run)


def _bounds(paths: Sequence[Path], columns: list[str], key: str) -> pa.Array:
    """Values of `key` between which rows of about BYTES_PER_RANGE lie; none when all rows fit into one range."""
    ranges = min(sum(_size(path, columns) for path in paths) // BYTES_PER_RANGE + 1, _MOST_RANGES)
    found = [_sample(batch[0]) for path in paths for batch in _batches(path, [key])] if ranges > 1 else []
    if not found:
        return pa.array([])
    keys = pa.chunked_array(found)
    order = pc.sort_indices(keys)
    return keys.take(order.take(pa.array(np.linspace(0, len(keys) - 1, ranges + 1).astype(int)[1:-1]))).unique()


def _sample(keys: pa.Array) -> pa.Array:
    """Some of the keys, copied: a slice would hold all of them in memory."""
    return keys.take(pa.array(np.arange(0, len(keys), _SAMPLED)))


def _size(path: Path, columns: list[str]) -> int:
    """Uncompressed bytes of some columns of a part."""
    try:
        metadata = pq.read_metadata(path)
    except (pa.ArrowInvalid, OSError) as error:
        raise broken_part(path, error) from error
    groups = [metadata.row_group(number) for number in range(metadata.num_row_groups)]
    chunks = [group.column(number) for group in groups for number in range(group.num_columns)]
    return sum(chunk.total_uncompressed_size for chunk in chunks if chunk.path_in_schema.split(".")[0] in columns)


def _deal(paths: Sequence[Path], columns: list[str], key: str, bounds: pa.Array, files: list[Path]) -> None:
    """Append every row to the file of the range that its key lies in: a key on a bound goes above it."""
    edges = np.array(bounds.to_pylist(), dtype=object)
    with ExitStack() as stack:
        writers: dict[int, pa.RecordBatchStreamWriter] = {}
        for batch in (batch for path in paths for batch in _batches(path, columns)):
            numbers = np.searchsorted(edges, np.array(batch[key].to_pylist(), dtype=object), side="right")
            for number in np.unique(numbers).tolist():
                if number not in writers:
                    writers[number] = stack.enter_context(pa.ipc.new_stream(files[number], batch.schema))
                writers[number].write_batch(batch.take(pa.array(np.flatnonzero(numbers == number))))


def _sorted(tables: list[pa.Table], columns: Sequence[str], order_by: Sequence[str], where: Where | None) -> Iterator[Row]:
    if not tables:
        return
    table = pa.concat_tables(tables)
    if where is not None:
        table = table.filter(pc.equal(table[where[0]], where[1]))
    order = pc.sort_indices(table, sort_keys=[(name, "ascending") for name in order_by])
    chosen = table.select(list(columns))
    for start in range(0, len(order), _ROWS_PER_BATCH):
        yield from chosen.take(order[start : start + _ROWS_PER_BATCH]).to_pylist()


def _batches(path: Path, columns: list[str]) -> Iterator[pa.RecordBatch]:
    try:
        # No threads and no reading ahead: each thread's heap would keep what it once held.
        with pq.ParquetFile(path, pre_buffer=False) as file:
            yield from file.iter_batches(_ROWS_PER_BATCH, columns=columns, use_threads=False)
    except (pa.ArrowInvalid, OSError) as error:
        raise broken_part(path, error) from error
