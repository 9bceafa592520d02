"""A file with several groups: the tables that compare them, against naive recomputation, by the code that publishes."""

import itertools
import json
import math
from pathlib import Path
from typing import Any

import pytest

from storage.results_db import run_query
from tasks.publishing import publish_results
from tasks.scoring import score_verdicts
from tests.homes import make_home
from tests.real_data import real_file
from tests.srpo_core.scoring.test_score_files import ROWS, write
from tests.srpo_core.scoring.test_scoring_rules import VARIANTS, preferences, published

Row = dict[str, Any]


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    folder = make_home(tmp_path_factory.mktemp("home"), size=20, revisions=3)
    publish_results(folder)
    return folder


def exported(home: Path, path: Path, condition: str) -> Path:
    """What a user would take out of a home: verdicts with their lengths."""
    columns = 'prompt_id, "order", score, cluster_id, judge, method, seed, revision_index'
    lengths = "length(candidate_text) AS candidate_length, length(opponent_text) AS opponent_length"
    table = run_query(home, f"SELECT {columns}, {lengths} FROM verdicts WHERE {condition}")
    return write(path, table.to_pylist())


@pytest.mark.parametrize("suffix", ["csv", "parquet"])
def test_a_file_of_a_homes_verdicts_gives_the_tables_of_the_home(home, tmp_path, suffix):
    path = exported(home, tmp_path / f"v.{suffix}", "eval_set = 'id'")
    found = score_verdicts(path)
    assert len(found["groups"]) == 3 * 4
    for name, key in (
        ("win_rate_bands", ["method", "revision_index"]),
        ("revision_gain", ["method", "revision_index"]),
        ("head_to_head", ["method_a", "method_b", "revision_index"]),
    ):
        columns = [column for column in found["tables"][name][0] if column != "n_clusters"]
        stored = run_query(
            home, f"SELECT {', '.join(columns)} FROM {name} WHERE eval_set = 'id' ORDER BY {', '.join(key)}"
        ).to_pylist()
        ours = sorted(found["tables"][name], key=lambda row: [row[one] for one in key])
        assert {"eval_set", "alpha", "n_identical", "anytime_p_value"}.isdisjoint(columns)
        for row, expected in zip(ours, stored, strict=True):
            assert {column: row[column] for column in columns} == pytest.approx(expected)


def test_groups_agree_with_the_table_of_win_rates(home, tmp_path):
    found = score_verdicts(exported(home, tmp_path / "v.jsonl", "eval_set = 'long'"))
    rates = {(row["method"], row["revision_index"]): row for row in found["tables"]["win_rate_bands"]}
    for group in found["groups"]:
        row = rates[group["method"], group["revision_index"]]
        for name in ("win_rate", "standard_error", "ci_low", "ci_high", "n_games_unscored", "bound_low", "bound_high"):
            assert group[name] == pytest.approx(row[name])
    json.dumps(found, allow_nan=False)


def test_judges_are_kept_apart_in_every_table(tmp_path):
    rows = [
        row | {"judge": judge, "revision_index": revision, "score": score}
        for judge, score in (("kind", 1.0), ("harsh", 0.0))
        for revision in (0, 1)
        for row in ROWS
    ]
    tables = score_verdicts(write(tmp_path / "v.csv", rows))["tables"]
    assert {row["judge"]: row["win_rate"] for row in tables["win_rate_bands"]} == {"kind": 1.0, "harsh": 0.0}
    assert [row["judge"] for row in tables["judge_consistency"]] == ["harsh", "kind"]
    assert [row["judge"] for row in tables["revision_gain"]] == ["harsh", "kind"]
    assert "head_to_head" not in tables


def test_seeds_of_a_method_are_resampled_together(tmp_path):
    rows = [
        {"prompt_id": f"p{i}", "order": order, "score": float(i < 14 + 4 * seed), "method": "srpo", "seed": seed}
        for seed in range(3)
        for i in range(40)
        for order in ("as_is", "swapped")
    ]
    (row,) = score_verdicts(write(tmp_path / "v.parquet", rows))["tables"]["win_rates_by_method"]
    assert (row["method"], row["n_seeds"], row["n_scored"], row["win_rate"]) == ("srpo", 3, 40, pytest.approx(18 / 40))
    assert "revision_index" not in row


def test_one_group_has_no_tables(tmp_path):
    assert "tables" not in score_verdicts(write(tmp_path / "v.csv", ROWS))


def test_groups_in_one_order_have_no_consistency_and_say_why(tmp_path):
    rows = [row | {"method": method} for method in "ab" for row in ROWS if row["order"] == "as_is"]
    found = score_verdicts(write(tmp_path / "v.csv", rows))
    assert "judge_consistency" not in found["tables"] and "position bias" in found["note"]
    assert [group["design"] for group in found["groups"]] == ["single_order"] * 2
    assert found["tables"]["head_to_head"][0]["difference"] == 0


def test_published_variants_are_compared_by_prompt_and_more_precisely_than_apart(tmp_path):
    rows = published()
    found = score_verdicts(preferences(rows, VARIANTS, tmp_path / "v.jsonl"), rule="alpaca_eval")
    leaderboard = json.loads(real_file("scorer/alpaca_eval_2_published.json").read_text())
    for group in found["groups"]:
        assert 100 * group["win_rate"] == pytest.approx(leaderboard[group["method"]]["win_rate"], abs=1e-9)
    compared = {(row["method_a"], row["method_b"]): row for row in found["tables"]["head_to_head"]}
    assert len(compared) == 3
    for a, b in itertools.combinations(sorted(VARIANTS), 2):
        row = compared[a, b]
        differences = [float(r[f"preference_{a}"]) - float(r[f"preference_{b}"]) for r in rows]
        mean = sum(differences) / len(differences)
        error = math.sqrt(sum((d - mean) ** 2 for d in differences) / (len(rows) - 1) / len(rows))
        assert (row["n_scored"], row["difference"]) == (805, pytest.approx(mean, abs=1e-12))
        assert row["standard_error"] == pytest.approx(error, rel=1e-9)
        apart = math.hypot(leaderboard[a]["standard_error"], leaderboard[b]["standard_error"]) / 100
        assert row["standard_error"] < 0.8 * apart
        assert 100 * row["difference"] == pytest.approx(leaderboard[a]["win_rate"] - leaderboard[b]["win_rate"], abs=1e-9)


def test_the_length_control_of_the_published_variants_lies_above_their_raw_rates(tmp_path):
    """The baseline's texts are longer, and longer texts win: at equal length the candidate does better, as published."""
    found = score_verdicts(preferences(published(), VARIANTS[:1], tmp_path / "v.jsonl"), rule="alpaca_eval")
    assert found["length_ratio"] < 0.5
    controlled = found["length_controlled"]
    assert controlled["refused"] is not None or controlled["win_rate"] > found["win_rate"]


def test_revisions_that_share_no_prompt_have_no_gain_and_no_p_value(tmp_path):
    """Revisions 0 and 1 share none of their 6 and 4 prompts (3 and 2 clusters), 1 and 2 share all 4."""
    prompts = {0: range(6), 1: range(6, 10), 2: range(6, 10)}
    rows = [
        {
            "prompt_id": f"p{i}",
            "cluster_id": f"c{i // 2}",
            "order": order,
            "score": (i + revision) % 2,
            "revision_index": revision,
        }
        for revision, asked in prompts.items()
        for i in asked
        for order in ("as_is", "swapped")
    ]
    tables = score_verdicts(write(tmp_path / "v.csv", rows))["tables"]
    first, second = tables["revision_gain"]
    assert (first["n_scored"], first["step_p_value"], first["step_gain"]) == (0, None, None)
    assert second["step_p_value"] == 1 and second["step_gain"] == 0  # two up, two down
    assert [row["n_clusters"] for row in tables["win_rate_bands"]] == [3, 2, 2]


def test_holm_counts_only_the_steps_that_are_tests(tmp_path):
    """Of steps 0-1 and 1-2 only the second has prompts: ten of ten up, p = 2 / 2**10, times one."""
    rows = [
        {"prompt_id": f"{name}{i}", "order": order, "score": score, "revision_index": revision}
        for revision, name, score in ((0, "a", 0), (1, "b", 0), (2, "b", 1))
        for i in range(10)
        for order in ("as_is", "swapped")
    ]
    gains = score_verdicts(write(tmp_path / "v.csv", rows))["tables"]["revision_gain"]
    assert [row["step_p_value"] for row in gains] == [None, pytest.approx(2 / 2**10)]
