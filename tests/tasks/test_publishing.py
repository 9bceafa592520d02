"""The statistics tables against a naive recomputation from SQL's `verdicts`, hand-derived numbers, and awkward homes."""

import json
import math
import statistics
from collections import defaultdict

import pyarrow as pa
import pytest

from srpo_core.scoring.sequential import anytime_test
from storage import schemas
from storage.artifact import hash_of
from storage.results_db import RESULTS_VERSION, open_results, run_query
from storage.results_relations import comparisons
from storage.stored_queries import ask_query, list_queries
from tasks.publishing import publish_results
from tasks.statistics import compute_statistics
from tests.homes import (
    graded,
    make_home,
    put,
    put_audits,
    put_completions,
    put_diagnostics,
    put_equal_compute,
    put_games,
    put_policy,
    put_preferences,
    put_prompts,
)

ARCHITECTURE_COLUMNS = (
    "method policy_id seed alpha beta eval_set is_ood opponent opponent_policy_id opponent_revision_index judge temperature "
    "sampling revision_index n_prompts n_scored n_games_unscored win_rate standard_error ci_low ci_high"
).split()


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    folder = make_home(tmp_path_factory.mktemp("home"), size=20, revisions=3)
    put_diagnostics(folder)
    put_audits(folder)
    put_equal_compute(folder)
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
    for row in ask_query(home, "share_of_ceiling").to_pylist():
        assert row["share_reached"] == pytest.approx((row["win_rate"] - 0.25) / (row["ceiling"] - 0.25), abs=2e-3)


def test_every_stored_query_runs_on_an_empty_home(tmp_path):
    publish_results(tmp_path)
    for name in list_queries():
        assert ask_query(tmp_path, name).num_rows == 0


def test_the_version_rises_with_every_change_of_a_relations_columns(tmp_path):
    """Raise RESULTS_VERSION and put the new hash here: an older snapshot then asks to be published again."""
    publish_results(tmp_path)
    columns = "SELECT table_name, column_name, data_type FROM duckdb_columns() WHERE NOT internal ORDER BY ALL"
    assert (RESULTS_VERSION, hash_of(rows(tmp_path, columns), 8)) == (3, "4259657f")


def test_collapse_finds_the_revision_that_repeats_its_draft(home):
    found = {r["revision_index"]: r["share_unchanged"] for r in ask_query(home, "collapse").to_pylist() if r["method"] == "srpo"}
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


def test_questions_about_two_equal_texts_are_counted_apart(tmp_path):
    """A policy against its own drafts: at revision 0 all 8 texts are the same, later ones have another word."""
    prompts = put_prompts(tmp_path, "id", "desk", 8)
    policy = put_policy(tmp_path, "srpo", "srpo", {"preferences": put_preferences(tmp_path)}, beta=0.1)
    completions = put_completions(tmp_path, policy, prompts, 2)
    put_games(tmp_path, completions, prompts, lambda *_: 0.5, opponents=completions)
    publish_results(tmp_path)
    found = rows(tmp_path, "SELECT revision_index, n_identical FROM win_rate_bands ORDER BY 1")
    assert [row["n_identical"] for row in found] == [8, 0, 0]


def test_texts_that_differ_in_white_space_around_them_are_equal(tmp_path):
    prompts = put_prompts(tmp_path, "id", "desk", 4)
    policy = put_policy(tmp_path, "srpo", "srpo", {"preferences": put_preferences(tmp_path)}, beta=0.1)
    texts = ("\u2003gold 0 of 0 \n", "gold 0 of 1", "gold  0 of 2", "Gold 0 of 3")
    drafts = [row | {"text": texts[place]} for place, row in enumerate(put_completions(tmp_path, policy, prompts, 0).rows())]
    parents = {"policy": policy, "prompts": prompts}
    completions = put(tmp_path, "completions", {"part": (drafts, schemas.COMPLETIONS)}, settings={"n": 4}, parents=parents)
    put_games(tmp_path, completions, prompts, lambda *_: 0.5)
    publish_results(tmp_path)
    assert rows(tmp_path, "SELECT n_prompts, n_identical FROM win_rate_bands") == [{"n_prompts": 4, "n_identical": 2}]


def test_the_anytime_p_value_is_that_of_the_prompts_in_the_order_of_their_ids(home):
    scores = defaultdict(list)
    for verdict in rows(home, "FROM verdicts WHERE eval_set = 'id' AND method = 'srpo' AND revision_index = 2"):
        scores[verdict["prompt_id"]].append(verdict["score"])
    means = [sum(scores[name]) / 2 for name in sorted(scores) if None not in scores[name]]
    (row,) = rows(home, "FROM win_rate_bands WHERE eval_set = 'id' AND method = 'srpo' AND revision_index = 2")
    assert row["anytime_p_value"] == pytest.approx(anytime_test(means).p_value)


def lengthened(home, judged):
    """Comparisons of a home whose texts have lengths on both sides of each other, on which `judged` decides."""
    with open_results(home) as connection:
        table = comparisons(connection)
    made = [row | judged(place) for place, row in enumerate(table.to_pylist())]
    return pa.Table.from_pylist(made, schemas.COMPARISONS)


def test_the_relation_of_comparisons_has_the_columns_of_its_schema(home):
    with open_results(home) as connection:
        assert comparisons(connection).schema.names == schemas.COMPARISONS.names


def test_a_judge_of_length_alone_has_no_preference_at_equal_length(tmp_path):
    prompts = put_prompts(tmp_path, "id", "desk", 60)
    policy = put_policy(tmp_path, "srpo", "srpo", {"preferences": put_preferences(tmp_path)}, beta=0.1)
    put_games(tmp_path, put_completions(tmp_path, policy, prompts, 0), prompts, graded)
    publish_results(tmp_path)

    differences = [(-20.0, 10.0, 30.0)[place % 3] for place in range(60)]  # the candidate is longer on two of three prompts
    spread = statistics.pstdev(differences)

    def longer(place):  # the chance of winning depends on the lengths alone
        score = 1 / (1 + math.exp(-2 * math.tanh(differences[place] / spread)))
        return {"as_is": score, "swapped": score, "candidate_length": 100.0 + differences[place], "opponent_length": 100.0}

    (row,) = compute_statistics(lengthened(tmp_path, longer), ["length_control"])["length_control"].to_pylist()
    assert (row["n_scored"], row["refused"]) == (60, None) and row["win_rate"] > 0.57
    assert row["length_controlled_win_rate"] == pytest.approx(0.5, abs=1e-3)
    assert row["ci_low"] < 0.5 < row["ci_high"] and row["length_ratio"] == pytest.approx(320 / 300)


def test_where_lengths_do_not_overlap_the_table_has_a_sentence_and_no_number(home):
    for row in rows(home, "FROM length_control"):  # twenty prompts, and the gold is always shorter
        assert row["length_controlled_win_rate"] is None and row["ci_low"] is None
        assert row["refused"].startswith("expected") and row["length_ratio"] > 1


def test_every_rule_has_a_row_for_every_point_of_a_curve(home):
    found = rows(home, "FROM win_rates_by_rule WHERE eval_set = 'id' AND method = 'srpo' AND revision_index = 3 ORDER BY rule")
    (rate,) = rows(home, "FROM win_rates WHERE eval_set = 'id' AND method = 'srpo' AND revision_index = 3")
    assert [row["rule"] for row in found] == ["alpaca_eval", "arena_hard", "default", "srpo"]
    alpaca, arena, default, srpo = found
    for name in ("win_rate", "standard_error", "ci_low", "ci_high"):
        assert default[name] == rate[name]
    assert alpaca["win_rate"] == srpo["win_rate"] == pytest.approx(rate["win_rate"])
    assert json.loads(alpaca["beside"])["discrete_win_rate"] > 0
    assert (arena["n"], arena["win_rate"]) == (0, None) and "five labels" in arena["note"]
    assert srpo["ci_low"] is None and json.loads(srpo["beside"])["shading"] > 0


def test_five_label_verdicts_of_a_home_are_counted_as_battles(tmp_path):
    """Every candidate wins by far when shown first and loses narrowly when shown second: 3 of 4 battles."""
    make_home(tmp_path, size=5, revisions=0)
    publish_results(tmp_path)
    labels = {"as_is": 1.0, "swapped": 0.0, "label_as_is": "A>>B", "label_swapped": "A>B"}
    table = compute_statistics(lengthened(tmp_path, lambda place: labels), ["win_rates_by_rule"])["win_rates_by_rule"].to_pylist()
    assert {row["win_rate"] for row in table if row["rule"] == "arena_hard"} == {0.75}
    assert {row["win_rate"] for row in table if row["rule"] == "default"} == {0.5}


def test_repeats_of_a_question_are_no_new_prompts(tmp_path):
    """Each question asked twice, won the first time and lost the second: a rate of one half over as many prompts as before."""
    make_home(tmp_path, size=6, revisions=0)
    publish_results(tmp_path)
    table = lengthened(tmp_path, lambda place: {"as_is": 1.0, "swapped": 1.0})
    again = lengthened(tmp_path, lambda place: {"as_is": 0.0, "swapped": 0.0, "repeat_index": 1})
    for row in compute_statistics(pa.concat_tables([table, again]), ["win_rates"])["win_rates"].to_pylist():
        assert (row["n_prompts"], row["n_scored"], row["win_rate"]) == (6, 6, 0.5)


def test_the_labels_of_both_orders_reach_the_rules(tmp_path):
    """Shown first the candidate wins by far, shown second it loses narrowly: 3 of 4 battles, from the games' own labels."""
    prompts = put_prompts(tmp_path, "id", "desk", 3)
    policy = put_policy(tmp_path, "srpo", "srpo", {"preferences": put_preferences(tmp_path)}, beta=0.1)
    completions = put_completions(tmp_path, policy, prompts, 0)
    games = put_games(tmp_path, completions, prompts, lambda p, r, n, order: float(order == "as_is"), judge="without")
    said = {"as_is": "A>>B", "swapped": "A>B"}
    labelled = [row | {"label": said[row["order"]], "judge": "labels", "game_id": f"{row['game_id']}+"} for row in games.rows()]
    settings = {"judge": {"kind": "labels"}, "opponent_revision_index": 0}
    parents = {"completions": completions, "prompts:0": prompts}
    put(tmp_path, "games", {"part": (labelled, schemas.GAMES)}, settings=settings, parents=parents)
    publish_results(tmp_path)
    found = rows(tmp_path, "SELECT judge, win_rate FROM win_rates_by_rule WHERE rule = 'arena_hard' ORDER BY judge")
    assert found == [{"judge": "labels", "win_rate": 0.75}, {"judge": "without", "win_rate": None}]


def test_different_golds_are_different_questions_and_no_repeats(tmp_path):
    """Of two golds one lacks an order and the other the other order: no question is scored in both, so no prompt is."""
    prompts = put_prompts(tmp_path, "id", "desk", 5, golds=2)
    policy = put_policy(tmp_path, "srpo", "srpo", {"preferences": put_preferences(tmp_path)}, beta=0.1)
    put_games(tmp_path, put_completions(tmp_path, policy, prompts, 0), prompts, graded)
    publish_results(tmp_path)
    halves = ({"as_is": 1.0, "swapped": None}, {"as_is": None, "swapped": 1.0})
    table = lengthened(tmp_path, lambda place: halves[place % 2])
    (row,) = compute_statistics(table, ["win_rates"])["win_rates"].to_pylist()
    assert (row["n_prompts"], row["n_scored"], row["win_rate"]) == (5, 0, None)
