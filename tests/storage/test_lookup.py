"""Finding anything by its id, also in a snapshot that an earlier version published."""

from pathlib import Path

import duckdb
import pytest

from storage.errors import BrokenArtifact
from storage.lineage import trace_lineage
from storage.lookup import artifacts_named, find_record
from storage.results_db import publish_snapshot, results_path
from tests.homes import make_home, put_policy, put_run


def test_a_snapshot_without_the_newer_tables_of_games_can_still_be_looked_up(tmp_path: Path) -> None:
    home = make_home(tmp_path, size=2, revisions=0)
    publish_snapshot(home, lambda comparisons: {})
    with duckdb.connect(str(results_path(home))) as connection:
        connection.execute("DROP TABLE knockout_games")
        game = connection.execute("SELECT game_id FROM games ORDER BY game_id LIMIT 1").fetchone()
    assert game is not None and find_record(home, game[0]).kind == "game"
    assert find_record(home, "id-0").kind == "prompt"


def test_what_lies_on_disk_is_found_beside_a_database_that_cannot_be_read(tmp_path: Path) -> None:
    policy = put_policy(tmp_path, "srpo", "srpo", {})
    put_run(tmp_path, "run-1", [policy])
    results_path(tmp_path).write_bytes(b"no database")
    for text in (policy.fingerprint, f"policies/{policy.fingerprint}"):
        assert find_record(tmp_path, text).values["complete"]
    assert artifacts_named(tmp_path, "run-1") == trace_lineage(tmp_path, "run-1").roots == [f"policies/{policy.fingerprint}"]


def test_a_damaged_manifest_is_told_as_such_and_not_as_a_fault_of_the_program(tmp_path: Path) -> None:
    policy = put_policy(tmp_path, "srpo", "srpo", {})
    (policy.path / "manifest.json").write_text("{torn")
    for look in (find_record, trace_lineage):
        with pytest.raises(BrokenArtifact, match="expected a JSON manifest at .*manifest.json, found .*; delete .*"):
            look(tmp_path, policy.fingerprint)
