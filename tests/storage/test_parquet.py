"""Atomic files, and rows that come back as they went in, for every table of the pipeline."""

import dataclasses
import json
import math
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pyarrow as pa
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from srpo_core import records
from storage import parquet, runs, schemas
from storage.errors import BrokenArtifact

TABLES = {name: value for name, value in vars(schemas).items() if isinstance(value, pa.Schema)}
RECORDS = {"COMPLETIONS": records.Completion}


def test_a_failed_write_leaves_nothing_and_spares_what_was_there(tmp_path: Path) -> None:
    path = tmp_path / "file.json"
    parquet.write_json(path, {"old": 1})

    def failing(temporary: Path) -> None:
        temporary.write_text("half")
        raise OSError("disk full")

    with pytest.raises(OSError, match="disk full"):
        parquet.write_atomically(path, failing)
    assert json.loads(path.read_text()) == {"old": 1} and [p.name for p in tmp_path.iterdir()] == ["file.json"]


def test_a_row_of_the_wrong_type_is_refused_and_nothing_is_written(tmp_path: Path) -> None:
    with pytest.raises((pa.ArrowInvalid, pa.ArrowTypeError)):
        parquet.write_rows(tmp_path / "part.parquet", [{"n": "x"}], pa.schema([("n", pa.int64())]))
    assert not list(tmp_path.iterdir())


def test_no_part_is_an_empty_table_of_the_schema() -> None:
    assert parquet.read_table([], schemas.PROMPTS).schema == schemas.PROMPTS
    assert parquet.read_table([], schemas.PROMPTS, ["gold"]).schema.names == ["gold"]


def test_a_missing_part_is_a_broken_artifact(tmp_path: Path) -> None:
    with pytest.raises(BrokenArtifact, match="none.parquet"):
        parquet.read_table([tmp_path / "none.parquet"], schemas.PROMPTS)
    with pytest.raises(BrokenArtifact, match="none.parquet"):
        list(parquet.iterate_rows([tmp_path / "none.parquet"]))


def values_of(kind: pa.DataType) -> st.SearchStrategy[Any]:
    if pa.types.is_string(kind):
        return st.text(st.characters(blacklist_categories=["Cs"]), max_size=12)
    if pa.types.is_boolean(kind):
        return st.booleans()
    if pa.types.is_int32(kind):
        return st.integers(-(2**31), 2**31 - 1)
    if pa.types.is_integer(kind):
        return st.integers(-(2**63), 2**63 - 1)
    if pa.types.is_floating(kind):
        return st.floats(width=32 if kind.bit_width == 32 else 64, allow_nan=False)
    if pa.types.is_list(kind):
        return st.lists(values_of(kind.value_type), max_size=3)
    if pa.types.is_struct(kind):
        return st.fixed_dictionaries({field.name: values_of(field.type) for field in kind})
    raise AssertionError(f"no strategy for {kind}")


@pytest.mark.parametrize("name", TABLES)
@settings(max_examples=8, suppress_health_check=[HealthCheck.too_slow], deadline=None)
@given(data=st.data())
def test_rows_of_every_table_come_back_as_they_went_in(name: str, data: st.DataObject) -> None:
    schema = TABLES[name]
    row = st.fixed_dictionaries({field.name: st.none() | values_of(field.type) for field in schema})
    rows = data.draw(st.lists(row, max_size=4))
    with TemporaryDirectory() as folder:
        path = Path(folder) / "part.parquet"
        assert parquet.write_rows(path, rows, schema) == len(rows)
        assert parquet.read_table([path], schema).to_pylist() == rows
        assert list(parquet.iterate_rows([path, path])) == rows + rows


@pytest.mark.parametrize("name", RECORDS)
def test_fields_of_a_record_are_the_columns_of_its_table(name: str) -> None:
    fields = {field.name: getattr(field.type, "__name__", str(field.type)) for field in dataclasses.fields(RECORDS[name])}
    assert list(fields) == TABLES[name].names
    plain = {"string": "str", "double": "float", "int32": "int", "int64": "int", "bool": "bool"}
    for field in TABLES[name]:
        if str(field.type) in plain and fields[field.name] != "Literal":
            assert fields[field.name].removesuffix(" | None") == plain[str(field.type)], field.name


def test_infinities_survive(tmp_path: Path) -> None:
    rows = [{"step": 1, "name": "loss", "value": value} for value in (math.inf, -math.inf, 5e-324)]
    parquet.write_rows(tmp_path / "p.parquet", rows, schemas.TRAINING_LOG)
    assert parquet.read_table([tmp_path / "p.parquet"], schemas.TRAINING_LOG).to_pylist() == rows


@pytest.mark.parametrize("text", ["", "{", "[]", "{}", '{"run_id": "a"}'])
def test_a_file_that_is_no_record_of_a_run_is_named(tmp_path: Path, text: str) -> None:
    (tmp_path / "runs").mkdir()
    (tmp_path / "runs" / "a.json").write_text(text)
    with pytest.raises(BrokenArtifact, match=r"a\.json.*delete it"):
        runs.read_runs(tmp_path)


def test_a_run_is_recorded_and_replaced(tmp_path: Path) -> None:
    for state in ("running", "completed"):
        path = runs.record_run(tmp_path, "r1", state=state, settings={"beta": 0.1}, artifacts=[], prefect_run=None)
    record = json.loads(path.read_text())
    assert record["state"] == "completed" and record["settings"] == {"beta": 0.1} and record["stages"] == []
    assert [p.name for p in path.parent.iterdir()] == ["r1.json"]
