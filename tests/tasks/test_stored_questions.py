"""Stored queries recomputed from what they are made of: on a home of small numbers, and on a real run of a tiny demo."""

import hashlib
from collections import defaultdict
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest

from storage.artifact import list_artifacts
from storage.results_db import run_query
from storage.runs import read_runs
from storage.stored_queries import ask_query, list_queries
from tasks.publishing import publish_results
from tests.homes import decode_again, make_home, put_audits, put_diagnostics, put_equal_compute

Row = dict[str, Any]
CURVE = ("eval_set", "opponent", "opponent_revision_index", "judge", "temperature", "sampling")
WITH_OTHER_DATA = {"judge_against_people"}  # labelled pairs of an audit: tests/tasks/test_operators_questions.py


@pytest.fixture(scope="module")
def made_home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    home = decode_again(make_home(tmp_path_factory.mktemp("made"), size=10, revisions=3))
    for put in (put_diagnostics, put_audits, put_equal_compute):
        put(home)
    publish_results(home)
    return home


@pytest.fixture(params=["made", "run"])
def home(request: pytest.FixtureRequest) -> Path:
    return request.getfixturevalue("made_home" if request.param == "made" else "tiny_home")


def rows(home: Path, sql: str) -> list[Row]:
    return run_query(home, sql).to_pylist()


def ask(home: Path, name: str, **given: Any) -> list[Row]:
    return ask_query(home, name, given).to_pylist()


def test_every_stored_query_finds_something_somewhere(made_home: Path, operated_home: Path) -> None:
    homes = (made_home, operated_home)
    empty = {name for name in list_queries() if not sum(ask_query(home, name).num_rows for home in homes)}
    assert empty - WITH_OTHER_DATA == {"settings_that_differ"}  # of the two newest runs, which differ in nothing


@pytest.mark.parametrize("name", list(list_queries()))
def test_an_answer_comes_in_the_same_order_every_time(home: Path, name: str) -> None:
    assert ask(home, name) == ask(home, name)


@pytest.mark.parametrize(
    ("name", "relation", "column"),
    [
        ("win_rates", "win_rates", "win_rate"),
        ("revision_gain", "revision_gain", "gain"),
        ("methods_compared", "head_to_head", "difference"),
        ("judges", "judge_consistency", "consistency"),
        ("sentinel", "sentinel_looks", "alarm"),
    ],
)
def test_rates_are_those_of_the_statistics_rounded(home: Path, name: str, relation: str, column: str) -> None:
    found = sorted(str(row[column]) for row in ask(home, name))
    told = (row[column] for row in rows(home, f"FROM {relation}"))
    assert found == sorted(str(round(value, 3) + 0.0 if isinstance(value, float) else value) for value in told)


@pytest.mark.parametrize(
    ("name", "column"), [("win_rates", "win_rate"), ("revision_gain", "gain"), ("methods_compared", "difference")]
)
def test_every_interval_holds_its_estimate(home: Path, name: str, column: str) -> None:
    found = [row for row in ask(home, name) if row[column] is not None]
    assert found and all(row["ci_low"] <= row[column] <= row["ci_high"] for row in found)
    assert any(row["ci_low"] < row["ci_high"] for row in found)


def test_the_worst_prompts_have_the_lowest_mean_scores_of_the_last_revision(home: Path) -> None:
    scores: dict[tuple[Any, ...], dict[tuple[int, str], list[float]]] = defaultdict(lambda: defaultdict(list))
    for verdict in rows(home, "FROM verdicts WHERE score IS NOT NULL"):
        curve = (verdict["policy_id"], verdict["opponent_policy_id"], *(verdict[name] for name in CURVE))
        scores[curve][verdict["revision_index"], verdict["prompt_id"]].append(verdict["score"])
    expected = 0
    for of_curve in scores.values():
        last = max(revision for revision, _ in of_curve)
        lost = [(sum(v) / len(v), prompt) for (revision, prompt), v in of_curve.items() if revision == last]
        means = sorted((mean, prompt) for mean, prompt in lost if mean < 0.5)
        expected += len(means[:5])
        found = {row["prompt_id"]: row["score"] for row in ask(home, "worst_prompts") if row["revision_index"] == last}
        assert all(prompt in found for _, prompt in means[:5])
    assert len(ask(home, "worst_prompts")) == expected


def test_the_largest_disagreements_are_differences_between_the_two_orders(home: Path) -> None:
    orders: dict[tuple[Any, ...], dict[str, float]] = defaultdict(dict)
    for verdict in rows(home, "FROM verdicts WHERE score IS NOT NULL"):
        orders[verdict["judge"], verdict["candidate"], verdict["opponent_id"]][verdict["order"]] = verdict["score"]
    differences = [abs(both["as_is"] - both["swapped"]) for both in orders.values() if len(both) == 2]
    expected = sorted((round(one, 3) for one in differences if one > 0), reverse=True)[:20]
    assert [row["disagreement"] for row in ask(home, "largest_disagreements")] == expected


def test_reasons_of_unscored_verdicts_are_counted_from_the_games(home: Path) -> None:
    missing = [verdict for verdict in rows(home, "FROM verdicts") if verdict["score"] is None]
    assert sum(row["games"] for row in ask(home, "unscored_reasons")) == len(missing)
    assert {row["reason"] for row in ask(home, "unscored_reasons")} == {one["unscored_reason"] for one in missing}


def test_what_days_and_runs_cost_adds_up_to_what_judging_cost(home: Path) -> None:
    by_day, in_all = ask(home, "judge_spending", days=36500), ask(home, "judge_cost")
    for column in ("requests", "prompt_tokens", "completion_tokens"):
        assert sum(row[column] for row in by_day) == sum(row[column] or 0 for row in in_all)


def test_lengths_are_those_of_the_texts(home: Path) -> None:
    texts: dict[tuple[Any, ...], list[Row]] = defaultdict(list)
    sql = "SELECT c.*, p.eval_set FROM completions c JOIN lineage l ON l.child = c.artifact "
    sql += "JOIN prompts p ON p.artifact = l.parent AND p.prompt_id = c.prompt_id"
    for text in rows(home, sql):
        texts[text["policy_id"], text["eval_set"], text["sampling"], text["revision_index"]].append(text)
    found = ask(home, "length_drift")
    assert len(found) == len(texts)
    for row in found:
        own = texts[row["policy_id"], row["eval_set"], row["sampling"], row["revision_index"]]
        assert row["mean_tokens"] == pytest.approx(sum(text["num_tokens"] for text in own) / len(own), abs=0.051)
        assert row["share_cut_at_max_length"] == pytest.approx(
            sum(text["finish_reason"] == "length" for text in own) / len(own), abs=5e-4
        )


def test_rejected_rows_and_audits_are_those_put_there(made_home: Path) -> None:
    (reason,) = ask(made_home, "rejected_rows_by_reason")
    assert (reason["reason"], reason["rows"], reason["files"], reason["first_at"]) == ("empty completion", 2, 1, "f.jsonl:3")
    audits = {row["measure"]: (row["n"], row["estimate"]) for row in ask(made_home, "judge_audits")}
    assert audits == {"agreement": (20, 0.7), "attack rate: all": (18, 0.7)}


def test_a_run_of_the_demo_trained_on_the_files_it_wrote(tiny_home: Path) -> None:
    (world,) = list_artifacts(tiny_home, "newsroom")
    found = {row["source"]: row for row in ask(tiny_home, "training_data", policy="srpo") if not row["is_of_an_ancestor"]}
    pairs = found["preferences.jsonl"]
    content = (world.path / "preferences.jsonl").read_bytes()
    assert pairs["sha256_or_commit"] == hashlib.sha256(content).hexdigest()
    assert pairs["rows_read"] == len(content.splitlines()) == 120
    assert pairs["kept"] + pairs["rejected_rows"] == 120


def test_a_win_rate_of_the_demo_leads_to_the_hash_of_its_file_and_to_its_run(tiny_home: Path) -> None:
    (world,) = list_artifacts(tiny_home, "newsroom")
    hashed = hashlib.sha256((world.path / "preferences.jsonl").read_bytes()).hexdigest()
    found = ask(tiny_home, "lineage_of_win_rate", policy="srpo")
    assert hashed in {row["sha256_or_commit"] for row in found}
    assert {row["stage"] for row in found} >= {"games", "completions", "policies", "prompts", "preferences", "sources"}
    runs = {run["run_id"] for run in read_runs(tiny_home)}
    assert {row["run_id"] for row in found if row["stage"] == "games"} <= runs


def test_the_stages_of_the_demo_take_no_longer_than_the_run(tiny_home: Path) -> None:
    run = read_runs(tiny_home)[0]
    times = ask(tiny_home, "stage_times", run_id=run["run_id"])
    assert {"train policies", "generate completions", "judge completions"} <= {row["stage"] for row in times}
    assert sum(row["made"] + row["reused"] for row in times) == len(run["stages"])
    assert sum(row["reused"] for row in times) == len(ask(tiny_home, "reused_artifacts", run_id=run["run_id"]))
    began, ended = (datetime.fromisoformat(run[name]) for name in ("started_at", "recorded_at"))
    assert 0 < sum(row["seconds"] for row in times if row["stage"] != "judge completions") <= (ended - began).total_seconds() + 2


def test_the_disk_use_of_the_demo_is_that_of_its_files(tiny_home: Path) -> None:
    for row in ask(tiny_home, "disk_use"):
        files = [file for file in (tiny_home / row["stage"]).rglob("*") if file.is_file() and not file.is_symlink()]
        assert row["mib"] == pytest.approx(sum(file.stat().st_size for file in files) / 2**20, abs=0.006)


def test_no_pair_of_the_demo_is_in_its_evaluation_sets(tiny_home: Path) -> None:
    found = ask(tiny_home, "contamination_counts")
    assert {(row["prompts"], row["overlapping_pairs"], row["pairs_read"]) for row in found} == {(10, 0, 120)}
