"""Rows into Parquet parts as they come: a part is written when it is full, so a table of any length needs little memory."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pyarrow as pa

from storage import parquet
from storage.artifact import ArtifactWriter

ROWS_PER_PART = 20_000
BYTES_PER_PART = 32 * 2**20  # of Arrow memory, before compression
ROWS_PER_TABLE = 512  # rows held as Python objects before they become Arrow


class PartStream:
    """Collects rows or tables for the parts `<prefix>-*` of an artifact; `close` writes the last and names them all."""

    def __init__(
        self,
        writer: ArtifactWriter,
        schema: pa.Schema,
        prefix: str = "part",
        attempt: int = 0,
        rows_per_part: int = ROWS_PER_PART,
    ) -> None:
        """Nothing is written until a part is full. Another `attempt` writes beside the parts of the earlier ones."""
        self._rows_per_part = rows_per_part
        self._writer, self._schema, self._prefix, self._attempt = writer, schema, prefix, attempt
        self._rows: list[Mapping[str, Any]] = []
        self._tables: list[pa.Table] = []
        self.files: list[Path] = []
        self.num_rows = 0

    def add_row(self, row: Mapping[str, Any]) -> None:
        """Append one row."""
        self._rows.append(row)
        self.num_rows += 1
        if len(self._rows) >= ROWS_PER_TABLE:
            self._rows_to_table()

    def add_table(self, table: pa.Table) -> None:
        """Append a table of the stream's schema."""
        self._rows_to_table()
        self.num_rows += table.num_rows
        self._add(table)

    def close(self) -> list[Path]:
        """Write what is left; return the parts in row order (none for no rows)."""
        self._rows_to_table()
        self._write()
        return self.files

    def _rows_to_table(self) -> None:
        if self._rows:
            table = pa.Table.from_pylist(self._rows, schema=self._schema)
            self._rows = []
            self._add(table)

    def _add(self, table: pa.Table) -> None:
        self._tables.append(table)
        full = (
            sum(t.num_rows for t in self._tables) >= self._rows_per_part or sum(t.nbytes for t in self._tables) >= BYTES_PER_PART
        )
        if full:
            self._write()

    def _write(self) -> None:
        rows = sum(table.num_rows for table in self._tables)
        if rows:
            path = self._writer.part_path(len(self.files), self._prefix, self._attempt)
            parquet.write_table(path, pa.concat_tables(self._tables).combine_chunks())
            self.files.append(path)
        self._tables = []
