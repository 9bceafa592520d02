"""Statistics of a policy decoded in two ways, judged by two judges, against gold and against a policy: all kept apart."""

import pytest

from storage import schemas
from storage.artifact import list_artifacts
from storage.results_db import open_results, run_query
from storage.results_relations import comparisons
from storage.stored_queries import ask_query
from tasks.publishing import publish_results
from tasks.statistics import compute_statistics
from tests.homes import decode_again, make_home, put_completions, put_diagnostics, put_games, put_policy


def rows(home, sql):
    return run_query(home, sql).to_pylist()


@pytest.fixture(scope="module")
def decoded_twice(tmp_path_factory):
    folder = make_home(tmp_path_factory.mktemp("decoded_twice"), size=10, revisions=3)
    put_diagnostics(folder)
    publish_results(decode_again(folder))
    return folder


STATISTICS_KEYS = {  # the columns that stand before a table's numbers
    name: schema.names[: schema.names.index(first)]
    for name, schema, first in (
        ("win_rates", schemas.WIN_RATES, "n_prompts"),
        ("win_rate_bands", schemas.WIN_RATE_BANDS, "n_prompts"),
        ("win_rates_by_rule", schemas.WIN_RATES_BY_RULE, "n"),
        ("length_control", schemas.LENGTH_CONTROL, "n_scored"),
        ("revision_gain", schemas.REVISION_GAIN, "n_scored"),
        ("head_to_head", schemas.HEAD_TO_HEAD, "n_scored"),
        ("win_rates_by_method", schemas.WIN_RATES_BY_METHOD, "n_seeds"),
        ("judge_consistency", schemas.JUDGE_CONSISTENCY, "n_comparisons"),
    )
}


def test_every_statistics_table_has_its_key_in_the_test_of_keys(decoded_twice):
    with open_results(decoded_twice) as connection:
        assert set(compute_statistics(comparisons(connection))) == set(STATISTICS_KEYS)


@pytest.mark.parametrize("name", STATISTICS_KEYS)
def test_a_policy_decoded_in_two_ways_has_one_row_a_key(decoded_twice, name):
    key = ", ".join(f'"{column}"' for column in STATISTICS_KEYS[name])
    assert rows(decoded_twice, f"SELECT {key}, count(*) AS times FROM {name} GROUP BY ALL HAVING times > 1") == []


def test_both_ways_of_decoding_are_named_in_every_table_about_curves(decoded_twice):
    for name in ("win_rates", "revision_gain", "length_control", "win_rates_by_rule", "head_to_head"):
        found = rows(decoded_twice, f"SELECT DISTINCT sampling FROM {name} WHERE eval_set = 'id' ORDER BY 1")
        assert [row["sampling"] for row in found] == ["max_new_tokens=64 top_p=1.0", "max_new_tokens=8 top_p=1.0"], name


def test_methods_are_compared_only_where_they_were_decoded_alike(decoded_twice):
    """Shorter: srpo wins 3 of 5 drafts, dpo 2 of 5, and one more of 5 each after a revision."""
    found = rows(
        decoded_twice, "FROM head_to_head WHERE sampling LIKE 'max_new_tokens=8 %' AND opponent = 'gold' ORDER BY revision_index"
    )
    assert [(row["revision_index"], row["method_a"], row["method_b"]) for row in found] == [
        (0, "srpo", "dpo"),
        (1, "srpo", "dpo"),
    ]
    assert [row["difference"] for row in found] == [pytest.approx(0.2), pytest.approx(0.2)]


def test_only_the_exact_judges_win_rates_against_gold_are_held_against_the_ceiling(decoded_twice):
    found = ask_query(decoded_twice, "share_of_ceiling").to_pylist()
    assert {(row["judge"], row["opponent"]) for row in found} == {("rule", "gold")}
    key = [(row["eval_set"], row["sampling"], row["revision_index"]) for row in found]
    assert len(key) == len(set(key)) == 4 + 4 + 2  # two sets decoded once, one of them again with a single revision
    shorter = {row["revision_index"]: row["share_reached"] for row in found if "=8 " in row["sampling"]}
    assert shorter == {0: round((0.6 - 0.25) / (0.6 - 0.25), 3), 1: round((0.8 - 0.25) / (0.65 - 0.25), 3)}


def test_the_exact_judge_under_two_settings_is_still_the_exact_judge(tmp_path):
    folder = make_home(tmp_path, size=4, revisions=0)
    put_diagnostics(folder)
    prompts = next(p for p in list_artifacts(folder, "prompts") if p.settings["name"] == "id")
    srpo = next(p for p in list_artifacts(folder, "policies") if p.info["name"] == "srpo")
    completions = put_completions(folder, srpo, prompts, 0)
    put_games(folder, completions, prompts, lambda *_: 0.5, other="setting")
    put_games(folder, completions, prompts, lambda *_: 0.5, judge="ruler")
    publish_results(folder)
    found = rows(folder, "SELECT DISTINCT judge, ceiling IS NOT NULL AS held FROM win_rates_with_ceilings WHERE method = 'srpo'")
    assert len(found) == 3 and all(row["held"] == row["judge"].startswith("rule@") for row in found)


def test_a_policy_called_gold_is_not_the_gold(tmp_path):
    """srpo against a hub model of that name: the table says who it was, and no ceiling is beside it."""
    folder = make_home(tmp_path, size=4, revisions=0)
    put_diagnostics(folder)
    prompts = next(p for p in list_artifacts(folder, "prompts") if p.settings["name"] == "id")
    impostor = put_completions(folder, put_policy(folder, "gold", "hub", {}), prompts, 0)
    srpo = next(p for p in list_artifacts(folder, "policies") if p.info["name"] == "srpo")
    put_games(folder, put_completions(folder, srpo, prompts, 0), prompts, lambda *_: 1.0, opponents=impostor)
    publish_results(folder)
    found = rows(
        folder,
        "SELECT opponent_policy_id IS NULL AS is_gold, ceiling IS NOT NULL AS held FROM win_rates_with_ceilings "
        "WHERE method = 'srpo' AND eval_set = 'id' AND opponent = 'gold' ORDER BY 1",
    )
    assert found == [{"is_gold": False, "held": False}, {"is_gold": True, "held": True}]


def test_stored_queries_keep_decodings_judges_and_opponents_apart(decoded_twice):
    """Three judged settings of srpo on 'id' for each of two ways of decoding: rule and model against gold, rule against dpo."""
    asked = {name: ask_query(decoded_twice, name).to_pylist() for name in ("win_rates", "revision_gain", "lineage_of_win_rate")}
    setting = ("eval_set", "opponent", "opponent_revision_index", "judge", "temperature", "sampling")
    for name, found in asked.items():
        own = [row for row in found if row["method"] == "srpo" and row["eval_set"] == "id"]
        assert len({tuple(row[column] for column in setting) for row in own}) == 2 * 3, name
    last = {
        (row["sampling"], row["revision_index"])
        for row in ask_query(decoded_twice, "worst_prompts", {"eval_set": "id"}).to_pylist()
        if row["method"] == "srpo"
    }
    assert last == {("max_new_tokens=64 top_p=1.0", 3), ("max_new_tokens=8 top_p=1.0", 1)}
    model = {row["win_rate"] for row in asked["lineage_of_win_rate"] if row["judge"] == "model"}
    assert model == {1.0} and all(row["win_rate"] < 1 for row in asked["lineage_of_win_rate"] if row["judge"] == "rule")
