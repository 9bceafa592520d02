"""Artifacts: complete or not there, named by what decides them, one writer at a time."""

import json
import multiprocessing
import time
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from storage import parquet
from storage.artifact import (
    STAGES,
    Artifact,
    canonical_json,
    compute_fingerprint,
    find_artifact,
    hash_of,
    list_artifacts,
    list_incomplete,
    open_artifact,
    writing,
)
from storage.errors import BrokenArtifact, UnusableInput

SCHEMA = pa.schema([("n", pa.int64())])
SETTINGS: dict[str, Any] = {"beta": 0.1, "seed": 0, "nested": {"a": [1, 2]}}


def put(
    home: Path, fingerprint: str = "f" * 16, rows: int = 3, parents: dict[str, Artifact] | None = None, **info: Any
) -> Artifact:
    with writing(home, "games", fingerprint, version=1, settings=SETTINGS, parents=parents or {}) as writer:
        if writer.artifact is None:
            parquet.write_rows(writer.part_path(0), [{"n": n} for n in range(rows)], SCHEMA)
            parquet.write_rows(writer.part_path(1), [{"n": 9}], SCHEMA)
            writer.complete(writer.finished_parts(), counts={"games": rows + 1}, info=info)
    assert writer.artifact is not None
    return writer.artifact


def test_what_was_written_is_found(tmp_path: Path) -> None:
    written = put(tmp_path, name="x")
    found = find_artifact(tmp_path, "games", "f" * 16)
    assert found == written == open_artifact(written.path)
    assert [row["n"] for row in found.rows()] == found.read(SCHEMA)["n"].to_pylist() == [0, 1, 2, 9]
    assert found.counts == {"games": 4} and found.info == {"name": "x"} and found.settings == SETTINGS
    assert [entry["rows"] for entry in found.manifest["files"]] == [3, 1]
    assert {"python", "torch", "transformers"} <= found.manifest["environment"].keys()


def test_a_folder_without_manifest_is_incomplete(tmp_path: Path) -> None:
    with pytest.raises(RuntimeError), writing(tmp_path, "games", "f", version=1, settings={}, parents={}) as writer:
        parquet.write_rows(writer.part_path(0), [{"n": 1}], SCHEMA)
        raise RuntimeError("killed")
    assert find_artifact(tmp_path, "games", "f") is None and not list_artifacts(tmp_path, "games")
    assert list_incomplete(tmp_path, "games") == [tmp_path / "games/f"]
    with pytest.raises(UnusableInput, match="found none; run its stage first"):
        open_artifact(tmp_path / "games/f")
    with writing(tmp_path, "games", "f", version=1, settings={}, parents={}) as writer:
        assert [path.name for path in writer.finished_parts()] == ["part-00000-0.parquet"], "finished parts are kept"


def test_only_what_the_manifest_lists_exists(tmp_path: Path) -> None:
    written = put(tmp_path)
    parquet.write_rows(written.path / "part-00002-0.parquet", [{"n": 77}], SCHEMA)
    assert [row["n"] for row in find_artifact(tmp_path, "games", "f" * 16).rows()] == [0, 1, 2, 9]  # type: ignore[union-attr]


@pytest.mark.parametrize("damage", ["missing", "torn"])
def test_a_missing_or_torn_file_is_a_broken_artifact(tmp_path: Path, damage: str) -> None:
    part = put(tmp_path).parts()[1]
    if damage == "missing":
        part.unlink()
    else:
        part.write_bytes(part.read_bytes()[:-5])
    with pytest.raises(
        BrokenArtifact, match=r"expected \d+ bytes at .*part-00001-0.parquet as its manifest says, found .*; delete"
    ):
        find_artifact(tmp_path, "games", "f" * 16)


@pytest.mark.parametrize("damage", ["garbage of the same size", "another schema"])
def test_a_part_that_is_no_part_is_a_broken_artifact_when_it_is_read(tmp_path: Path, damage: str) -> None:
    artifact = put(tmp_path)
    part = artifact.parts()[1]
    if damage == "another schema":
        parquet.write_rows(part, [{"m": "x"}], pa.schema([("m", pa.string())]))
    else:
        part.write_bytes(b"x" * part.stat().st_size)
    with pytest.raises(BrokenArtifact, match="expected a Parquet part at .*part-00001-0.parquet"):
        artifact.read(SCHEMA)
    if damage != "another schema":
        with pytest.raises(BrokenArtifact, match="expected a Parquet part at .*part-00001-0.parquet"):
            list(artifact.rows())


@pytest.mark.parametrize("content", ["", "{}", '{"files": [', "\udcff".encode("utf-8", "surrogateescape").decode("latin-1")])
def test_an_unreadable_manifest_is_a_broken_artifact(tmp_path: Path, content: str) -> None:
    path = put(tmp_path).path
    (path / "manifest.json").write_text(content, encoding="latin-1")
    with pytest.raises(BrokenArtifact, match="expected a JSON manifest at"):
        find_artifact(tmp_path, "games", "f" * 16)


def test_every_setting_version_stage_and_parent_digest_changes_the_fingerprint(tmp_path: Path) -> None:
    parent, other = put(tmp_path, "a" * 16), put(tmp_path, "b" * 16, rows=2)
    base = compute_fingerprint("policies", 1, SETTINGS, {"p": parent})
    changed = [
        compute_fingerprint("policies", 2, SETTINGS, {"p": parent}),
        compute_fingerprint("games", 1, SETTINGS, {"p": parent}),
        compute_fingerprint("policies", 1, SETTINGS, {"p": other}),
        compute_fingerprint("policies", 1, SETTINGS, {"q": parent}),
        compute_fingerprint("policies", 1, SETTINGS, {}),
        *(compute_fingerprint("policies", 1, SETTINGS | {name: "changed"}, {"p": parent}) for name in SETTINGS),
        compute_fingerprint("policies", 1, SETTINGS | {"nested": {"a": [2, 1]}}, {"p": parent}),
    ]
    assert len({base, *changed}) == len(changed) + 1
    reordered = dict(reversed(SETTINGS.items()))
    assert compute_fingerprint("policies", 1, reordered, {"p": parent}) == base


def test_the_digest_is_the_content_and_not_the_name_of_the_artifact(tmp_path: Path) -> None:
    same, other = put(tmp_path, "a" * 16, name="x"), put(tmp_path, "b" * 16, name="y")
    assert same.digest == other.digest != put(tmp_path, "c" * 16, rows=2).digest


def test_parents_are_recorded_by_stage_fingerprint_and_digest(tmp_path: Path) -> None:
    parent = put(tmp_path, "a" * 16)
    child = put(tmp_path, "b" * 16, parents={"first": parent})
    assert child.manifest["parents"] == {"first": {"stage": "games", "fingerprint": "a" * 16, "digest": parent.digest}}


def test_an_unknown_stage_is_a_mistake_of_the_caller(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="unknown stage"), writing(tmp_path, "game", "f", version=1, settings={}, parents={}):
        pass
    assert len(set(STAGES)) == len(STAGES)


def hold(home: str, begun: Any, seconds: float) -> None:
    with writing(Path(home), "games", "f" * 16, version=1, settings=SETTINGS, parents={}) as writer:
        begun.set()
        time.sleep(seconds)
        parquet.write_rows(writer.part_path(0), [{"n": 5}], SCHEMA)
        writer.complete(writer.finished_parts())


def test_a_second_writer_waits_and_finds_the_first_ones_work(tmp_path: Path) -> None:
    """Another process holds the lease: the second gets the writer when it is done, with the artifact already set."""
    context = multiprocessing.get_context("spawn")
    begun = context.Event()
    first = context.Process(target=hold, args=(str(tmp_path), begun, 0.5))
    first.start()
    assert begun.wait(30)
    began = time.monotonic()
    assert [row["n"] for row in put(tmp_path).rows()] == [5]
    assert time.monotonic() - began > 0.3
    first.join()


def test_a_killed_writer_frees_the_lease(tmp_path: Path) -> None:
    context = multiprocessing.get_context("spawn")
    begun = context.Event()
    first = context.Process(target=hold, args=(str(tmp_path), begun, 60))
    first.start()
    assert begun.wait(30)
    first.kill()
    assert put(tmp_path).counts == {"games": 4}
    first.join()


@given(st.recursive(st.none() | st.booleans() | st.integers() | st.text() | st.floats(allow_nan=False), st.lists))
def test_equal_values_have_equal_text_and_hash(value: Any) -> None:
    assert json.loads(canonical_json(value)) == value
    assert hash_of({"a": value, "b": 1}) == hash_of({"b": 1, "a": value})
