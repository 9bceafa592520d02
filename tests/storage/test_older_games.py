"""Games written before a column existed are published all the same: the column is null."""

import json
from pathlib import Path

from storage import parquet
from storage.artifact import list_artifacts
from storage.results_db import open_results
from storage.schemas import GAMES, GAMES_ADDED
from tasks.publishing import publish_results
from tests.homes import make_home


def test_games_of_an_earlier_version_count_and_have_nulls(tmp_path: Path) -> None:
    home = make_home(tmp_path, size=6, revisions=1)
    publish_results(home)
    with open_results(home) as connection:
        expected = connection.sql("SELECT * FROM win_rates ORDER BY ALL").fetchall()
    for artifact in list_artifacts(home, "games"):
        [part] = artifact.parts()
        older = artifact.read(GAMES).drop_columns(list(GAMES_ADDED))
        parquet.write_table(part, older)
        _correct_size(artifact.path, part)
    publish_results(home)
    with open_results(home) as connection:
        assert connection.sql("SELECT * FROM win_rates ORDER BY ALL").fetchall() == expected
        for name in GAMES_ADDED:
            assert connection.sql(f"SELECT count(*), count({name}) FROM games").fetchall() == [(144, 0)]


def _correct_size(folder: Path, part: Path) -> None:
    """As the manifest of an earlier version would say."""

    manifest = json.loads((folder / "manifest.json").read_text())
    for entry in manifest["files"]:
        if entry["name"] == part.name:
            entry |= {"bytes": part.stat().st_size, "sha256": parquet.sha256_of_file(part)}
    parquet.write_json(folder / "manifest.json", manifest)
