"""Every kind of file gives the rows that were written; what cannot be read is named, row by row or for the file."""

import csv
import gzip
import json
import os
import tracemalloc
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import zstandard
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from srpo_core.data import row_readers
from srpo_core.data.row_readers import read_rows
from srpo_core.errors import InputError

ROWS = [{"prompt": "naïve 日本", "chosen": "a\nb", "rejected": 'say "hi", then'}, {"prompt": "x", "chosen": "y", "rejected": "z"}]
json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(st.characters(exclude_categories=["Cs"])),
    lambda children: st.lists(children, max_size=3) | st.dictionaries(st.text(max_size=5), children, max_size=3),
    max_leaves=8,
)
json_rows = st.lists(
    st.dictionaries(st.text(st.characters(exclude_categories=["Cs"]), max_size=8), json_values, max_size=4), max_size=6
)


def rows_of(path: Path) -> list[dict[str, Any] | None]:
    return [row.row for row in read_rows(path)]


def as_jsonl(rows: list[dict[str, Any]]) -> bytes:
    return "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows).encode()


def write(path: Path, rows: list[dict[str, Any]]) -> Path:
    if ".csv" in path.name or ".tsv" in path.name:
        with path.open("w", newline="", encoding="utf-8") as handle:
            writer = csv.DictWriter(handle, rows[0])
            writer.writeheader()
            writer.writerows(rows)
    elif path.suffix == ".parquet":
        pq.write_table(pa.Table.from_pylist(rows), path)
    elif ".json." in f"{path.name}.":
        path.write_text(json.dumps(rows, indent=2), encoding="utf-8")
    else:
        path.write_bytes(as_jsonl(rows))
    if path.suffix == ".gz":
        path.write_bytes(gzip.compress(path.read_bytes()))
    if path.suffix == ".zst":
        path.write_bytes(zstandard.compress(path.read_bytes()))
    return path


@pytest.mark.parametrize(
    "name", ["a.jsonl", "a.ndjson", "a.json", "a.csv", "a.parquet", "a.jsonl.gz", "a.json.zst", "a.csv.gz", "a.jsonl.zst"]
)
def test_every_kind_of_file_gives_back_the_rows_written(name: str, tmp_path: Path) -> None:
    assert rows_of(write(tmp_path / name, ROWS)) == ROWS


@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(json_rows, st.integers(1, 40), st.sampled_from(["jsonl", "array"]))
def test_json_rows_survive_whatever_the_chunk_size(tmp_path: Path, rows: list[dict[str, Any]], chunk: int, kind: str) -> None:
    path = tmp_path / "rows.json"
    text = as_jsonl(rows) if kind == "jsonl" else json.dumps(rows, ensure_ascii=False).encode()
    path.write_bytes(text)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(row_readers, "CHUNK_BYTES", chunk)
        assert rows_of(path) == rows


def test_tsv_is_read_without_quoting(tmp_path: Path) -> None:
    (tmp_path / "a.tsv").write_text('id\ttext\n1\t"open quote\n2\tb\n')
    assert rows_of(tmp_path / "a.tsv") == [{"id": "1", "text": '"open quote'}, {"id": "2", "text": "b"}]


def test_a_byte_order_mark_and_blank_lines_are_no_rows(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_bytes(b'\xef\xbb\xbf{"a": 1}\r\n\r\n{"a": 2}')
    assert [(row.line, row.row) for row in read_rows(tmp_path / "a.jsonl")] == [(1, {"a": 1}), (3, {"a": 2})]


def test_unreadable_lines_are_rows_with_a_problem_and_the_rest_is_read(tmp_path: Path) -> None:
    lines = [b'{"a": 1}', b'{"a": "\xff"}', b'{"a": "\x00"}', b'{"a": ', b"[1]", b"[" * 100_000, b'{"a": 9}']
    (tmp_path / "a.jsonl").write_bytes(b"\n".join(lines))
    rows = list(read_rows(tmp_path / "a.jsonl"))
    assert [row.line for row in rows] == [1, 2, 3, 4, 5, 6, 7]
    kinds = [row.problem.split(":")[0] if row.problem else None for row in rows]
    assert kinds == [None, "broken UTF-8", "NUL character", "invalid JSON", "not a JSON object", "invalid JSON", None]
    assert all(row.text().encode() for row in rows)


def test_broken_utf8_and_wrong_field_counts_in_csv_are_problems_of_their_rows(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_bytes(b'a,b\n1,"two\nlines"\n\xff,2\n3\n4,5\n')
    rows = list(read_rows(tmp_path / "a.csv"))
    assert [(row.line, row.problem) for row in rows] == [
        (2, None),
        (4, "broken UTF-8"),
        (5, "wrong number of fields: 1 under 2 columns"),
        (6, None),
    ]


def test_a_line_without_end_is_cut_at_the_limit_and_the_next_is_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(row_readers, "MAX_ROW_BYTES", 1000)
    monkeypatch.setattr(row_readers, "CHUNK_BYTES", 256)
    (tmp_path / "a.jsonl").write_bytes(b'{"a": "' + b"x" * 5000 + b'"}\n{"a": 1}\n')
    long, short = read_rows(tmp_path / "a.jsonl")
    assert long.problem == "row too long: over 1000 bytes" and len(long.raw) <= 1000
    assert (short.line, short.row) == (2, {"a": 1})


def cut(content: bytes) -> bytes:
    return content[: len(content) // 2]


UNREADABLE = {
    "missing.jsonl": None,
    "cut.jsonl.gz": cut(gzip.compress(os.urandom(4000))),
    "not.jsonl.gz": b"plain text",
    "cut.jsonl.zst": cut(zstandard.compress(os.urandom(4000))),
    "not.json.zst": b"plain text",
    "not.parquet": b"plain text",
    "cut.json": b'[{"a": 1}, {"a": 2',
    "wrong.json": b'[{"a": 1}, {"a": oops}, {"a": 2}]' + b" " * 100,
    "quote.csv": b'a,b\n1,"never closed\n2,3\n',
    "twice.csv": b"a,a\n1,2\n",
    "notes.txt": b"hello",
    "plain.gz": b"hello",
}


@pytest.mark.parametrize("name", UNREADABLE)
def test_a_file_that_cannot_be_read_is_one_sentence_with_its_path(name: str, tmp_path: Path) -> None:
    content = UNREADABLE[name]
    if content is not None:
        (tmp_path / name).write_bytes(content)
    with pytest.raises(InputError) as caught:
        list(read_rows(tmp_path / name))
    message = str(caught.value)
    assert message.startswith("expected ") and "found" in message and str(tmp_path / name) in message and "\n" not in message


@pytest.mark.parametrize("name", ["a.jsonl", "a.json", "a.csv"])
def test_memory_does_not_grow_with_the_file(name: str, tmp_path: Path) -> None:
    def peak(num_rows: int) -> int:
        path = write(tmp_path / name, [{"text": f"{i} " + "x" * 1000} for i in range(num_rows)])
        tracemalloc.start()
        for _ in read_rows(path):
            pass
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        return peak

    assert peak(20_000) < 1.5 * peak(4_000) + 500_000  # bytes, of a file of 20 million; what else the process keeps varies
