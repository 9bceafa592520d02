"""The statistics tables against a naive recomputation from SQL's `verdicts`, hand-derived numbers, and awkward homes."""

import json
import math
from collections import defaultdict

import pytest

from storage import schemas
from storage.results_db import list_queries, read_query, run_query
from tasks.publishing import publish_results
from tests.homes import graded, make_home, put_completions, put_diagnostics, put_games, put_policy, put_preferences, put_prompts

ARCHITECTURE_COLUMNS = (
    "method policy_id seed alpha beta eval_set is_ood opponent opponent_revision_index judge temperature revision_index "
    "n_prompts n_scored n_games_unscored win_rate standard_error ci_low ci_high"
).split()


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    folder = make_home(tmp_path_factory.mktemp("home"), size=20, revisions=3)
    put_diagnostics(folder)
    publish_results(folder)
    return folder


def rows(home, sql):
    return run_query(home, sql).to_pylist()


def test_win_rates_has_exactly_the_columns_of_the_contract(home):
    assert run_query(home, "FROM win_rates LIMIT 0").column_names == ARCHITECTURE_COLUMNS
    assert schemas.WIN_RATES.names == ARCHITECTURE_COLUMNS


def test_win_rates_equal_a_naive_loop_over_the_verdicts(home):
    found = defaultdict(lambda: defaultdict(dict))
    for verdict in rows(home, "FROM verdicts"):
        cell = (verdict["policy_id"], verdict["eval_set"], verdict["revision_index"])
        found[cell][verdict["prompt_id"]][verdict["order"]] = verdict["score"]
    published = rows(home, "FROM win_rates")
    assert len(published) == len(found) == 3 * 2 * 4
    for row in published:
        prompts = found[row["policy_id"], row["eval_set"], row["revision_index"]]
        scores = [(p["as_is"] + p["swapped"]) / 2 for p in prompts.values() if None not in p.values()]
        mean = sum(scores) / len(scores)
        variance = sum((s - mean) ** 2 for s in scores) / (len(scores) - 1)
        assert row["win_rate"] == pytest.approx(mean)
        assert row["standard_error"] == pytest.approx(math.sqrt(variance / len(scores)))
        assert (row["n_prompts"], row["n_scored"], row["n_games_unscored"]) == (20, 19, 1)
        assert 0 <= row["ci_low"] < row["win_rate"] < row["ci_high"] <= 1


def test_out_of_distribution_sets_are_marked(home):
    found = rows(home, "SELECT DISTINCT eval_set, is_ood FROM win_rates ORDER BY eval_set")
    assert found == [{"eval_set": "id", "is_ood": False}, {"eval_set": "long", "is_ood": True}]


def test_the_gain_of_a_revision_is_the_mean_paired_difference_to_the_draft(home):
    gains = rows(home, "FROM revision_gain WHERE method = 'srpo' AND eval_set = 'id' ORDER BY revision_index")
    rates = rows(home, "FROM win_rates WHERE method = 'srpo' AND eval_set = 'id' ORDER BY revision_index")
    assert [g["revision_index"] for g in gains] == [1, 2, 3]
    for gain in gains:  # every prompt is scored at every revision or at none, so the paired gain is the difference of means
        assert gain["gain"] == pytest.approx(rates[gain["revision_index"]]["win_rate"] - rates[0]["win_rate"])
        assert gain["band_low"] <= gain["ci_low"] <= gain["gain"] <= gain["ci_high"] <= gain["band_high"]
    assert sum(g["step_gain"] for g in gains) == pytest.approx(gains[-1]["gain"])


def test_bands_contain_the_intervals_and_bounds_count_the_missing(home):
    for row in rows(home, "FROM win_rate_bands"):
        assert row["band_low"] <= row["ci_low"] + 1e-9 and row["ci_high"] <= row["band_high"] + 1e-9
        # 20 prompts; prompt 0 wins one order and lacks the other: .5 at worst, 1 at best
        assert row["bound_low"] == pytest.approx((19 * row["win_rate"] + 0.5) / 20)
        assert row["bound_high"] == pytest.approx((19 * row["win_rate"] + 1.0) / 20)


def test_methods_of_one_seed_are_compared_once_on_the_same_prompts(home):
    found = rows(home, "FROM head_to_head WHERE eval_set = 'id' AND revision_index = 3 ORDER BY method_a, method_b")
    assert [(r["method_a"], r["method_b"]) for r in found] == [("dpo", "sft"), ("srpo", "dpo"), ("srpo", "sft")]
    rates = {r["method"]: r["win_rate"] for r in rows(home, "FROM win_rates WHERE eval_set = 'id' AND revision_index = 3")}
    assert found[1]["difference"] == pytest.approx(rates["srpo"] - rates["dpo"])
    assert found[1]["n_scored"] == 19


def test_judge_consistency_counts_both_orders(home):
    """The judge is .05 stricter when the candidate is shown second, so it never prefers the second text twice."""
    (row,) = rows(home, "FROM judge_consistency WHERE eval_set = 'id'")
    assert (row["n_comparisons"], row["n_both_scored"], row["n_games_unscored"]) == (3 * 4 * 20, 3 * 4 * 19, 12)
    assert row["both_second"] == 0
    assert row["consistency"] == pytest.approx(1 - row["both_first"])
    assert row["first_position_rate"] == pytest.approx(0.5 + row["position_bias"])


def test_the_share_of_the_ceiling_is_measured_from_the_reference(home):
    for row in rows(home, read_query("share_of_ceiling")):
        assert row["share_reached"] == pytest.approx((row["win_rate"] - 0.25) / (row["ceiling"] - 0.25), abs=2e-3)


@pytest.mark.parametrize("name", list(list_queries()))
def test_every_stored_query_runs_and_finds_something(home, name):
    assert run_query(home, read_query(name)).num_rows > 0


def test_every_stored_query_runs_on_an_empty_home(tmp_path):
    publish_results(tmp_path)
    for name in list_queries():
        assert run_query(tmp_path, read_query(name)).num_rows == 0


def test_collapse_finds_the_revision_that_repeats_its_draft(home):
    found = {r["revision_index"]: r["share_unchanged"] for r in rows(home, read_query("collapse")) if r["method"] == "srpo"}
    assert found == {0: None, 1: 0.0, 2: 0.0, 3: 1.0}


def test_several_golds_average_within_the_prompt(tmp_path):
    """Three golds a prompt: n is prompts, not games, and each prompt weighs the same."""
    prompts = put_prompts(tmp_path, "id", "desk", 10, golds=3)
    policy = put_policy(tmp_path, "srpo", "srpo", {"preferences": put_preferences(tmp_path)}, beta=0.1)
    put_games(tmp_path, put_completions(tmp_path, policy, prompts, 0), prompts, lambda p, r, n, o: float(n < 4))
    publish_results(tmp_path)
    (row,) = rows(tmp_path, "FROM win_rates")
    assert (row["n_prompts"], row["n_scored"], row["win_rate"]) == (10, 10, pytest.approx(0.4))
    assert row["standard_error"] == pytest.approx(math.sqrt(0.24 * 10 / 9 / 10))


def test_prompts_of_one_cluster_are_not_independent(tmp_path):
    prompts = put_prompts(tmp_path, "id", "desk", 20, clusters=4)
    policy = put_policy(tmp_path, "srpo", "srpo", {"preferences": put_preferences(tmp_path)}, beta=0.1)
    put_games(tmp_path, put_completions(tmp_path, policy, prompts, 0), prompts, lambda p, r, n, o: float(n % 4 < 2))
    publish_results(tmp_path)
    (row,) = rows(tmp_path, "FROM win_rates")
    assert row["standard_error"] == pytest.approx(math.sqrt(4 / 3 * 4 * 2.5**2) / 20)
    assert rows(tmp_path, "SELECT n_clusters FROM win_rate_bands") == [{"n_clusters": 4}]


def test_all_unscored_is_null_and_counted_never_zero(tmp_path):
    prompts = put_prompts(tmp_path, "id", "desk", 4)
    policy = put_policy(tmp_path, "srpo", "srpo", {"preferences": put_preferences(tmp_path)}, beta=0.1)
    put_games(tmp_path, put_completions(tmp_path, policy, prompts, 1), prompts, lambda *_: None)
    publish_results(tmp_path)
    for row in rows(tmp_path, "FROM win_rates"):
        assert (row["n_prompts"], row["n_scored"], row["n_games_unscored"]) == (4, 0, 8)
        assert (row["win_rate"], row["standard_error"], row["ci_low"]) == (None, None, None)
    assert rows(tmp_path, "SELECT DISTINCT bound_low, bound_high FROM win_rate_bands") == [{"bound_low": 0.0, "bound_high": 1.0}]


def test_all_ties_give_one_half_with_an_interval_that_is_not_a_point(tmp_path):
    prompts = put_prompts(tmp_path, "id", "desk", 10)
    policy = put_policy(tmp_path, "srpo", "srpo", {"preferences": put_preferences(tmp_path)}, beta=0.1)
    put_games(tmp_path, put_completions(tmp_path, policy, prompts, 1), prompts, lambda *_: 0.5)
    publish_results(tmp_path)
    for row in rows(tmp_path, "FROM win_rates"):
        assert row["win_rate"] == 0.5 and row["ci_low"] < 0.3 and row["ci_high"] > 0.7
    (gain,) = rows(tmp_path, "FROM revision_gain")
    assert gain["gain"] == 0 and gain["ci_low"] < 0 < gain["ci_high"]


def test_temperatures_and_decoding_settings_are_separate_rows(tmp_path):
    prompts = put_prompts(tmp_path, "id", "desk", 5)
    policy = put_policy(tmp_path, "srpo", "srpo", {"preferences": put_preferences(tmp_path)}, beta=0.1)
    for temperature in (0.5, 1.0):
        put_games(tmp_path, put_completions(tmp_path, policy, prompts, 0, temperature), prompts, graded)
    publish_results(tmp_path)
    assert rows(tmp_path, "SELECT temperature, n_prompts FROM win_rates ORDER BY 1") == [
        {"temperature": 0.5, "n_prompts": 5},
        {"temperature": 1.0, "n_prompts": 5},
    ]


def test_several_seeds_give_one_row_a_method_with_a_wider_interval(tmp_path):
    preferences, prompts = put_preferences(tmp_path), put_prompts(tmp_path, "id", "desk", 40)
    for seed in range(3):
        policy = put_policy(tmp_path, f"srpo-{seed}", "srpo", {"preferences": preferences}, seed=seed, beta=0.1)
        put_games(
            tmp_path, put_completions(tmp_path, policy, prompts, 1), prompts, lambda p, r, n, o: float(n < 14 + 4 * int(p[-1]))
        )
    publish_results(tmp_path)
    by_seed = rows(tmp_path, "SELECT win_rate, standard_error FROM win_rates WHERE revision_index = 1")
    (method,) = rows(tmp_path, "FROM win_rates_by_method WHERE revision_index = 1")
    assert (method["method"], method["n_seeds"], method["n_scored"]) == ("srpo", 3, 40)
    assert method["win_rate"] == pytest.approx(sum(r["win_rate"] for r in by_seed) / 3) == pytest.approx(18 / 40)
    assert method["standard_error"] > max(r["standard_error"] for r in by_seed)


def test_publishing_twice_gives_the_same_statistics(home):
    before = {
        name: rows(home, f"FROM {name} ORDER BY ALL") for name in ("win_rates", "win_rate_bands", "revision_gain", "head_to_head")
    }
    publish_results(home)
    assert json.dumps(before) == json.dumps({name: rows(home, f"FROM {name} ORDER BY ALL") for name in before})


def test_a_hub_model_of_unknown_training_is_compared_with_trained_policies(tmp_path):
    prompts = put_prompts(tmp_path, "id", "desk", 6)
    srpo = put_policy(tmp_path, "srpo", "srpo", {"preferences": put_preferences(tmp_path)}, beta=0.1)
    for policy in (srpo, put_policy(tmp_path, "hub-model", "hub", {})):
        completions = put_completions(tmp_path, policy, prompts, 0)
        put_games(tmp_path, completions, prompts, lambda p, r, n, o: float(p == "srpo" or n < 3))
    publish_results(tmp_path)
    (row,) = rows(tmp_path, "FROM head_to_head")
    assert (row["method_a"], row["method_b"], row["difference"], row["is_ood"]) == ("srpo", "hub", 0.5, False)
    assert rows(tmp_path, "SELECT is_ood, seed FROM win_rates WHERE method = 'hub'") == [{"is_ood": None, "seed": None}]
