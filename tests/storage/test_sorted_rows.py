"""Rows come sorted whatever their order on disk, also where they do not fit into the memory they may use."""

import random
from pathlib import Path

import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from storage import parquet, sorted_rows
from storage.errors import BrokenArtifact
from storage.sorted_rows import grouped, iterate_sorted

SCHEMA = pa.schema([("name", pa.string()), ("k", pa.int32()), ("turns", pa.list_(pa.struct([("role", pa.string())])))])


@pytest.mark.parametrize("bytes_per_range", [64, sorted_rows.BYTES_PER_RANGE])
@settings(max_examples=30, deadline=None)
@given(st.lists(st.lists(st.tuples(st.text("abÄ\U0001f600 ", max_size=3), st.integers(0, 3)), max_size=8), max_size=3))
def test_any_parts_come_as_pythons_sort_would_have_them(
    tmp_path_factory: pytest.TempPathFactory, bytes_per_range: int, parts: list[list[tuple[str, int]]]
) -> None:
    """In many ranges on disk, and in one in memory."""
    folder, paths, rows = tmp_path_factory.mktemp("parts"), [], []
    for number, part in enumerate(parts):
        made = [{"name": name, "k": k, "turns": [{"role": name}]} for name, k in part]
        paths.append(folder / f"{number}.parquet")
        parquet.write_rows(paths[-1], made, SCHEMA)
        rows += made
    expected = sorted(rows, key=lambda row: (row["name"], row["k"]))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sorted_rows, "BYTES_PER_RANGE", bytes_per_range)
        assert list(iterate_sorted(paths, SCHEMA.names, ["name", "k"])) == expected
        chosen = [row for row in expected if row["k"] == 1]
        assert list(iterate_sorted(paths, SCHEMA.names, ["name", "k"], ("k", 1))) == chosen


def test_what_does_not_fit_is_sorted_on_disk_in_little_memory(tmp_path: Path) -> None:
    """60 MB of texts; what Arrow holds at any time is a third of it at most."""
    schema, draw = pa.schema([("name", pa.string()), ("text", pa.string())]), random.Random(0)
    for part in range(6):
        rows = [{"name": f"{draw.getrandbits(64):016x}", "text": draw.randbytes(2500).hex()} for _ in range(2000)]
        parquet.write_rows(tmp_path / f"{part}.parquet", rows, schema)
    names, most = [], 0
    for row in iterate_sorted(sorted(tmp_path.glob("*.parquet")), schema.names, ["name"]):
        names.append(row["name"])
        most = max(most, pa.total_allocated_bytes())
    assert len(names) == 12_000 and names == sorted(names) and most < 20 * 2**20


def test_a_broken_part_is_named(tmp_path: Path) -> None:
    (tmp_path / "part.parquet").write_bytes(b"no parquet")
    with pytest.raises(BrokenArtifact, match=f"Parquet part at {tmp_path}.*, found .*; delete its folder"):
        list(iterate_sorted([tmp_path / "part.parquet"], ["name"], ["name"]))


def test_groups_are_runs_of_one_value() -> None:
    rows = [{"name": name, "k": k} for k, name in enumerate("aabc")]
    assert [(name, [row["k"] for row in run]) for name, run in grouped(iter(rows), "name")] == [
        ("a", [0, 1]),
        ("b", [2]),
        ("c", [3]),
    ]
