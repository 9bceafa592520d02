"""Finding anything by its id, also in a snapshot that an earlier version published."""

from pathlib import Path

import duckdb

from storage.lookup import find_record
from storage.results_db import publish_snapshot, results_path
from tests.homes import make_home


def test_a_snapshot_without_the_newer_tables_of_games_can_still_be_looked_up(tmp_path: Path) -> None:
    home = make_home(tmp_path, size=2, revisions=0)
    publish_snapshot(home, lambda comparisons: {})
    with duckdb.connect(str(results_path(home))) as connection:
        connection.execute("DROP TABLE knockout_games")
        game = connection.execute("SELECT game_id FROM games ORDER BY game_id LIMIT 1").fetchone()
    assert game is not None and find_record(home, game[0]).kind == "game"
    assert find_record(home, "id-0").kind == "prompt"
