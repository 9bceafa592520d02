"""Rows come back in order, in parts that are full, and with no part for no rows."""

from pathlib import Path

import pyarrow as pa
import pytest

from storage import part_stream
from storage.artifact import writing
from storage.part_stream import PartStream

SCHEMA = pa.schema([("n", pa.int64()), ("text", pa.string())])


@pytest.mark.parametrize("num_rows", [0, 1, 99, 100, 250])
def test_rows_and_tables_keep_their_order_over_parts(num_rows: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(part_stream, "ROWS_PER_PART", 100)
    monkeypatch.setattr(part_stream, "ROWS_PER_TABLE", 7)
    with writing(tmp_path, "preferences", "f", version=1, settings={}, parents={}) as writer:
        stream = PartStream(writer, SCHEMA)
        for n in range(num_rows):
            row = {"n": n, "text": str(n)}
            if n % 10 == 3:
                stream.add_table(pa.Table.from_pylist([row], schema=SCHEMA))
            else:
                stream.add_row(row)
        artifact = writer.complete(stream.close())
    assert [row["n"] for row in artifact.rows()] == list(range(num_rows))
    assert stream.num_rows == num_rows and len(artifact.parts()) <= -(-num_rows // 100)


def test_long_rows_fill_a_part_before_its_row_count(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(part_stream, "ROWS_PER_TABLE", 1)
    monkeypatch.setattr(part_stream, "BYTES_PER_PART", 1000)
    with writing(tmp_path, "preferences", "f", version=1, settings={}, parents={}) as writer:
        stream = PartStream(writer, SCHEMA)
        for n in range(4):
            stream.add_row({"n": n, "text": "x" * 600})
        assert len(stream.close()) == 2
