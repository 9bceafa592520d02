"""The published snapshot: what it holds, that readers and publishers never block each other, and what a reader may not do."""

import subprocess
import sys
import threading
from pathlib import Path

import duckdb
import pyarrow as pa
import pytest

from storage import results_db, schemas
from storage.artifact import list_artifacts
from storage.errors import BrokenArtifact, UnusableInput
from storage.results_db import open_results, publish_snapshot, run_query
from tests.homes import (
    graded,
    make_home,
    put,
    put_completions,
    put_diagnostics,
    put_games,
    put_policy,
    put_preferences,
    put_prompts,
)


def nothing(comparisons: pa.Table) -> dict[str, pa.Table]:
    return {"seen": comparisons.select(["prompt_id", "as_is", "swapped", "n_unscored"])}


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    folder = make_home(tmp_path_factory.mktemp("home"), size=6, revisions=1)
    publish_snapshot(folder, nothing)
    return folder


def rows(home: Path, sql: str) -> list[tuple]:
    return [tuple(row.values()) for row in run_query(home, sql).to_pylist()]


def test_every_artifact_row_and_count_is_in_the_database(home):
    for table, stage in (
        ("completions", "completions"),
        ("games", "games"),
        ("prompts", "prompts"),
        ("preferences", "preferences"),
    ):
        expected = sum(
            entry["rows"]
            for a in list_artifacts(home, stage)
            for entry in a.manifest["files"]
            if entry["name"].startswith("part-")
        )
        assert rows(home, f"SELECT count(*) FROM {table}") == [(expected,)]
    assert rows(home, "SELECT value FROM counts WHERE name = 'rows_read'") == [(4,)]
    assert rows(home, "SELECT count(DISTINCT policy_id), count(*) FROM training_log") == [(3, 90)]
    assert rows(home, "SELECT run_id, state, git_commit FROM runs") == [("run-1", "completed", "abc")]


def test_policies_carry_their_settings_and_alpha_only_where_it_is_used(home):
    assert rows(home, "SELECT name, method, seed, alpha IS NULL, beta, learning_rate FROM policies ORDER BY name") == [
        ("dpo", "dpo", 0, True, 0.1, 1e-4),
        ("sft", "sft", 0, True, None, 1e-4),
        ("srpo", "srpo", 0, False, 0.1, 1e-4),
    ]
    assert rows(home, "SELECT settings->>'$.settings.beta' FROM policies WHERE name = 'srpo'") == [("0.1",)]


def test_lineage_leads_from_games_to_preferences(home):
    reached = rows(
        home,
        """WITH RECURSIVE up(stage, id) AS (
            SELECT DISTINCT child_stage, child FROM lineage WHERE child_stage = 'games'
            UNION SELECT parent_stage, parent FROM up JOIN lineage ON child = id)
        SELECT DISTINCT stage FROM up ORDER BY stage""",
    )
    assert [stage for (stage,) in reached] == ["completions", "games", "policies", "preferences", "prompts"]


def test_verdicts_join_games_with_both_texts(home):
    first = run_query(home, "FROM verdicts WHERE method = 'srpo' AND eval_set = 'long' ORDER BY game_id LIMIT 1").to_pylist()[0]
    assert first["candidate_text"].startswith("srpo ")
    assert first["opponent_text"] == "gold 0 of 0"
    assert (first["opponent"], first["opponent_id"], first["is_ood"]) == ("gold", "gold:0", True)
    assert first["prompt"] == [{"role": "user", "content": "long <b>0</b> & more"}]
    assert rows(home, "SELECT count(*) FROM verdicts") == rows(home, "SELECT count(*) FROM games")


def test_comparisons_pair_the_two_orders_and_keep_the_unscored_as_null(home):
    total, scored, missing = rows(home, "SELECT count(*), count(as_is + swapped), sum(n_unscored) FROM seen")[0]
    assert (total, scored, missing) == (3 * 2 * 6 * 2, 3 * 2 * 5 * 2, 3 * 2 * 2)


def test_a_stage_still_running_is_listed_as_incomplete(tmp_path):
    put_preferences(tmp_path)
    (tmp_path / "policies" / "half-done").mkdir(parents=True)
    publish_snapshot(tmp_path, nothing)
    assert rows(tmp_path, "SELECT stage, fingerprint FROM artifacts WHERE NOT complete") == [("policies", "half-done")]
    assert rows(tmp_path, "SELECT count(*) FROM policies") == [(0,)]


def test_an_empty_home_gives_empty_tables(tmp_path):
    publish_snapshot(tmp_path, nothing)
    assert rows(tmp_path, "SELECT count(*) FROM verdicts") == [(0,)]


def test_deleting_the_database_and_publishing_again_gives_the_same_tables(home, tmp_path):
    def dump():
        names = [
            name for (name,) in rows(home, "SELECT table_name FROM duckdb_tables() WHERE database_name = 'results' ORDER BY 1")
        ]
        assert len(names) > 10
        return {name: run_query(home, f'FROM "{name}" ORDER BY ALL').to_pylist() for name in [*names, "verdicts"]}

    before = dump()
    results_db.results_path(home).unlink()
    publish_snapshot(home, nothing)
    assert dump() == before


READER = """
import duckdb, sys
connection = duckdb.connect(sys.argv[1], read_only=True)
print(connection.execute("SELECT count(*) FROM policies").fetchone()[0], flush=True)
sys.stdin.readline()
print(connection.execute("SELECT count(*) FROM policies").fetchone()[0], flush=True)
"""


def test_an_open_reader_keeps_its_snapshot_while_the_next_reader_sees_the_new_one(tmp_path):
    preferences = put_preferences(tmp_path)
    put_policy(tmp_path, "srpo", "srpo", {"preferences": preferences}, beta=0.1)
    path = publish_snapshot(tmp_path, nothing)
    with subprocess.Popen(
        [sys.executable, "-c", READER, str(path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as reader:
        assert reader.stdout is not None and reader.stdin is not None
        assert reader.stdout.readline().strip() == "1"
        mine = open_results(tmp_path)  # a reader in this process holds the old one as well
        put_policy(tmp_path, "dpo", "dpo", {"preferences": preferences}, beta=0.1)
        publish_snapshot(tmp_path, nothing)
        assert rows(tmp_path, "SELECT count(*) FROM policies") == [(2,)]
        assert mine.sql("SELECT count(*) FROM policies").fetchall() == [(1,)]
        reader.stdin.write("\n")
        reader.stdin.flush()
        assert reader.stdout.readline().strip() == "1"
    mine.close()
    assert [p.name for p in tmp_path.glob(".results*")] == []


def test_an_artifact_that_arrives_during_the_build_is_in_the_snapshot(tmp_path):
    preferences = put_preferences(tmp_path)
    calls = []

    def arrive_once(comparisons):
        calls.append(len(calls))
        if len(calls) == 1:
            put_policy(tmp_path, "dpo", "dpo", {"preferences": preferences}, beta=0.1)
        return {}

    publish_snapshot(tmp_path, arrive_once)
    assert calls == [0, 1]
    assert rows(tmp_path, "SELECT name FROM policies") == [("dpo",)]


def test_a_home_that_never_rests_is_published_all_the_same(tmp_path):
    preferences = put_preferences(tmp_path)
    calls = []

    def arrive_always(comparisons):
        calls.append(len(calls))
        put_policy(tmp_path, f"dpo-{len(calls)}", "dpo", {"preferences": preferences}, beta=0.1)
        return {}

    publish_snapshot(tmp_path, arrive_always)
    assert len(calls) == 3
    assert rows(tmp_path, "SELECT count(*) FROM policies") == [(2,)]


def test_a_failed_publish_leaves_the_old_snapshot_and_no_temporary_file(tmp_path):
    put_preferences(tmp_path)
    path = publish_snapshot(tmp_path, nothing)
    before = path.read_bytes()

    def fail(comparisons):
        raise RuntimeError("statistics failed")

    with pytest.raises(RuntimeError, match="statistics failed"):
        publish_snapshot(tmp_path, fail)
    assert path.read_bytes() == before
    assert list(tmp_path.glob(".results*")) == []


def test_what_a_killed_publisher_left_is_removed(tmp_path):
    put_preferences(tmp_path)
    leftovers = [tmp_path / ".results.duckdb.123.tmp", tmp_path / ".results.duckdb.123.tmp.wal"]
    for leftover in leftovers:
        leftover.write_bytes(b"half")
    publish_snapshot(tmp_path, nothing)
    assert not any(leftover.exists() for leftover in leftovers)


def test_two_publishers_at_once_both_succeed(tmp_path):
    put_preferences(tmp_path)
    errors: list[BaseException] = []

    def publish():
        try:
            publish_snapshot(tmp_path, nothing)
        except BaseException as error:
            errors.append(error)

    threads = [threading.Thread(target=publish) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert errors == []
    assert rows(tmp_path, "SELECT count(*) FROM preferences") == [(2,)]


def test_a_question_answered_in_two_artifacts_counts_once_and_the_scored_answer_wins(tmp_path):
    """First judged to revision 0 with a failed verdict, then to revision 1 with all scored: the same game ids recur."""
    prompts = put_prompts(tmp_path, "id", "desk", 3)
    policy = put_policy(tmp_path, "srpo", "srpo", {"preferences": put_preferences(tmp_path)}, beta=0.1)
    put_games(tmp_path, put_completions(tmp_path, policy, prompts, 0), prompts, graded)
    put_games(tmp_path, put_completions(tmp_path, policy, prompts, 1), prompts, lambda *_: 1.0)
    publish_snapshot(tmp_path, nothing)
    assert rows(tmp_path, "SELECT count(*) FROM games") == [(6 + 12,)]
    assert rows(tmp_path, "SELECT count(*), count(score) FROM verdicts WHERE revision_index = 0") == [(6, 6)]


def test_judges_of_one_name_and_different_settings_stay_apart(tmp_path):
    prompts = put_prompts(tmp_path, "id", "desk", 3)
    policy = put_policy(tmp_path, "srpo", "srpo", {"preferences": put_preferences(tmp_path)}, beta=0.1)
    completions = put_completions(tmp_path, policy, prompts, 0)
    put_games(tmp_path, completions, prompts, lambda *_: 1.0, preset="tldr")
    put_games(tmp_path, completions, prompts, lambda *_: 0.0, preset="tldr-concise")
    publish_snapshot(tmp_path, nothing)
    found = rows(tmp_path, "SELECT judge, avg(score), count(*) FROM verdicts GROUP BY judge ORDER BY 2")
    assert [row[1:] for row in found] == [(0.0, 6), (1.0, 6)]
    assert all(name.startswith("rule@") for name, _, _ in found)


def test_another_policy_as_opponent_is_named_with_its_text(tmp_path):
    preferences, prompts = put_preferences(tmp_path), put_prompts(tmp_path, "id", "desk", 3)
    first, second = (put_policy(tmp_path, name, name, {"preferences": preferences}, beta=0.1) for name in ("srpo", "dpo"))
    opponents = put_completions(tmp_path, second, prompts, 1)
    put_games(tmp_path, put_completions(tmp_path, first, prompts, 1), prompts, graded, opponents=opponents)
    publish_snapshot(tmp_path, nothing)
    assert rows(tmp_path, "SELECT DISTINCT opponent, opponent_revision_index, left(opponent_text, 4) FROM verdicts") == [
        ("dpo", 0, "dpo ")
    ]


def test_opponents_that_share_a_name_are_told_apart_by_id(tmp_path):
    preferences, prompts = put_preferences(tmp_path), put_prompts(tmp_path, "id", "desk", 3)
    candidate = put_completions(
        tmp_path, put_policy(tmp_path, "srpo", "srpo", {"preferences": preferences}, beta=0.1), prompts, 0
    )
    for seed in (0, 1):
        opponent = put_policy(tmp_path, "dpo", "dpo", {"preferences": preferences}, beta=0.1, seed=seed)
        put_games(tmp_path, candidate, prompts, graded, opponents=put_completions(tmp_path, opponent, prompts, 0))
    publish_snapshot(tmp_path, nothing)
    names = [name for (name,) in rows(tmp_path, "SELECT DISTINCT opponent FROM verdicts")]
    assert len(names) == 2 and all(name.startswith("dpo@") for name in names)


@pytest.mark.parametrize(
    ("trained_on", "evaluated_on", "expected"),
    [
        ("desk", "desk", False),
        ("desk", "archive", True),
        ("desk", "unknown", None),
        ("unknown", "archive", None),
        (None, "archive", None),
    ],
)
def test_out_of_distribution_means_a_domain_the_policy_never_trained_on_and_null_when_unknown(
    tmp_path, trained_on, evaluated_on, expected
):
    parents = {} if trained_on is None else {"preferences": put_preferences(tmp_path, trained_on)}
    put_preferences(tmp_path, evaluated_on, another=True)  # not an ancestor: says nothing
    prompts = put_prompts(tmp_path, "set", evaluated_on, 2)
    policy = put_policy(tmp_path, "srpo", "srpo", parents, beta=0.1)
    put_games(tmp_path, put_completions(tmp_path, policy, prompts, 0), prompts, graded)
    publish_snapshot(tmp_path, nothing)
    assert rows(tmp_path, "SELECT DISTINCT is_ood FROM verdicts") == [(expected,)]


def test_a_supervised_policy_knows_the_domain_of_preferences_made_from_its_own_source(tmp_path):
    world = put(tmp_path, "newsroom", {"world": ([{"file": "", "line": 0, "reason": "", "row": ""}], schemas.REJECTED_ROWS)})
    demonstration = {"demonstration_id": "d", "prompt": [], "draft": None, "completion": "c", "source": "s"}
    demonstrations = put(
        tmp_path, "demonstrations", {"part": ([demonstration], schemas.DEMONSTRATIONS)}, parents={"newsroom": world}
    )
    pair = {"pair_id": "p", "prompt": [], "chosen": "a", "rejected": "b", "domain": "desk"}
    put(tmp_path, "preferences", {"part": ([pair], schemas.PREFERENCES)}, parents={"newsroom": world})
    put_policy(tmp_path, "sft", "sft", {"demonstrations": demonstrations})
    put_policy(tmp_path, "hub", "hub", {})
    publish_snapshot(tmp_path, nothing)
    assert rows(tmp_path, "SELECT name, training_domains FROM policies ORDER BY name") == [("hub", None), ("sft", ["desk"])]


def test_diagnostics_are_tables_of_their_own_and_the_newest_count(home, tmp_path):
    make_home(tmp_path, size=2, revisions=0)
    put_diagnostics(tmp_path)
    publish_snapshot(tmp_path, nothing)
    assert rows(tmp_path, "SELECT count(*) FROM ceilings") == [(8,)]
    assert rows(tmp_path, "SELECT edit, target, learned FROM one_edit") == [("drop a wrong fact", 3.3, 0.5)]
    assert rows(home, "SELECT count(*) FROM ceilings") == [(0,)]


def test_games_without_the_texts_they_judged_are_refused(tmp_path):
    import shutil

    make_home(tmp_path, size=2, revisions=0)
    shutil.rmtree(tmp_path / "completions")
    with pytest.raises(BrokenArtifact, match="games without their completion"):
        publish_snapshot(tmp_path, nothing)


@pytest.mark.parametrize("damage", ["missing", "torn", "other columns"])
def test_a_damaged_part_is_named(tmp_path, damage):
    (part,) = list_artifacts(make_home(tmp_path, size=2, revisions=0), "completions")[0].parts()
    if damage == "missing":
        part.unlink()
    elif damage == "torn":
        part.write_bytes(part.read_bytes()[:100])
    else:
        import pyarrow.parquet as pq

        pq.write_table(pa.table({"x": [1]}), part)
    with pytest.raises(BrokenArtifact, match=str(part.parent)) as caught:
        publish_snapshot(tmp_path, nothing)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "sql",
    [
        "INSERT INTO policies (name) VALUES ('x')",
        "CREATE TABLE mine AS SELECT 1",
        "CREATE TABLE memory.mine AS SELECT 1",
        "DROP TABLE games",
        "DELETE FROM games",
        "COPY games TO 'games.csv'",
        "ATTACH 'other.duckdb'",
        "SET enable_external_access = true",
        "INSTALL httpfs",
        "SELECT * FROM read_csv('/etc/hosts')",
        "SELECT * FROM read_text('/etc/hosts')",
        "SELEC 1",
        "SELECT nothing FROM games",
        "FROM nowhere",
        "SELECT 1; SELECT 2",
        "",
        "-- only a comment",
    ],
)
def test_what_is_not_a_question_about_the_snapshot_is_one_sentence(home, sql):
    before = results_db.results_path(home).read_bytes()
    with pytest.raises(UnusableInput) as caught:
        run_query(home, sql)
    assert "expected" in str(caught.value) and "\n" not in str(caught.value)
    assert results_db.results_path(home).read_bytes() == before


def test_questions_of_every_form_are_answered(home):
    for sql in (
        "SHOW TABLES",
        "DESCRIBE games",
        "EXPLAIN FROM games",
        "WITH a AS (SELECT 1) FROM a",
        "FROM games LIMIT 1",
        "SUMMARIZE games",
    ):
        assert run_query(home, sql).num_rows > 0
    assert run_query(home, "SELECT * FROM games WHERE false").num_rows == 0


def test_a_missing_or_unreadable_database_is_one_sentence(tmp_path):
    with pytest.raises(UnusableInput, match="run srpo publish"):
        run_query(tmp_path, "SELECT 1")
    (tmp_path / "results.duckdb").write_text("not a database")
    with pytest.raises(UnusableInput, match="delete it and run srpo publish again"):
        run_query(tmp_path, "SELECT 1")
    with pytest.raises(UnusableInput, match="expected a home folder"):
        publish_snapshot(tmp_path / "nowhere", nothing)


@pytest.mark.parametrize("change", ["DROP TABLE published", "UPDATE published SET version = version - 1"])
def test_a_database_published_by_another_version_asks_to_be_published_again(tmp_path, change):
    make_home(tmp_path, size=2, revisions=0)
    publish_snapshot(tmp_path, nothing)
    with duckdb.connect(str(tmp_path / "results.duckdb")) as connection:
        connection.execute(change)
    with pytest.raises(UnusableInput, match=r"of version \d+ at .*, found version \d+, .* run srpo publish"):
        run_query(tmp_path, "SELECT 1")
    publish_snapshot(tmp_path, nothing)
    assert rows(tmp_path, "SELECT 1") == [(1,)]


def test_the_plain_duckdb_library_reads_the_file_copied_anywhere(home, tmp_path):
    copy = tmp_path / "elsewhere.duckdb"
    copy.write_bytes(results_db.results_path(home).read_bytes())
    with duckdb.connect(str(copy), read_only=True) as connection:
        assert connection.execute("SELECT count(*) > 0 FROM verdicts").fetchone() == (True,)
