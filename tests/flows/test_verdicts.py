"""`srpo score` and `srpo power` on the command line: what is printed, and what is refused in one sentence."""

import json

import pytest

from storage.results_db import run_query
from tasks.publishing import publish_results
from tests.flows.test_cli import call, refusal
from tests.homes import make_home
from tests.srpo_core.scoring.test_score_files import ROWS, write


@pytest.fixture
def file(tmp_path):
    return write(tmp_path / "v.csv", ROWS)


@pytest.fixture
def groups(tmp_path):
    rows = [
        row | {"judge": judge, "revision_index": revision, "candidate_length": 5, "opponent_length": 7}
        for judge in ("kind", "harsh")
        for revision in (0, 1)
        for row in ROWS
    ]
    return write(tmp_path / "groups.jsonl", rows)


def test_groups_are_one_json_object_without_a_number_at_the_top(capsys, groups):
    status, out, _ = call(capsys, "score", groups, "--json", "--anytime", "--seed", 3)
    values = json.loads(out)
    assert status == 0 and list(values) == ["groups", "note", "ignored_columns", "tables"]
    assert len(values["groups"]) == 4 and values["groups"][0]["anytime"]["seed"] == 3
    assert list(values["tables"]) == ["win_rate_bands", "revision_gain", "judge_consistency"]


def test_groups_are_readable_tables_that_say_whose_they_are(capsys, groups):
    out = call(capsys, "score", groups)[1]
    for text in (
        "judge",
        "harsh",
        "win_rate_bands",
        "revision_gain",
        "never pooled",
        "length_controlled",
        "refused: expected at",
    ):
        assert text in out


def test_what_sql_gives_out_can_be_scored_and_gives_the_published_numbers(capsys, tmp_path):
    publish_results(make_home(tmp_path / "home", size=10, revisions=1))
    text = call(capsys, "sql", "FROM verdicts", "--format", "csv", "--home", tmp_path / "home")[1]
    (tmp_path / "v.csv").write_text(text)
    values = json.loads(call(capsys, "score", tmp_path / "v.csv", "--json")[1])
    stored = run_query(tmp_path / "home", "FROM win_rates ORDER BY eval_set, method, revision_index").to_pylist()
    assert len(values["groups"]) == len(stored) == 2 * 3 * 2
    for group, row in zip(values["groups"], stored, strict=True):
        assert [group[name] for name in ("eval_set", "method", "revision_index")] == [
            row[name] for name in ("eval_set", "method", "revision_index")
        ]
        assert group["ci_high"] == pytest.approx(row["ci_high"])
        assert (group["n"], group["n_games_unscored"]) == (row["n_scored"], row["n_games_unscored"])
    assert "policy_id" in values["ignored_columns"]


def test_a_rule_is_named_beside_its_number(capsys, file):
    out = call(capsys, "score", file, "--rule", "srpo")[1]
    assert "rule: srpo" in out and "shading:" in out and "not a confidence interval" in out
    assert "standard_error: –" in out
    assert "among default, alpaca_eval, arena_hard, srpo" in refusal(capsys, 2, "score", file, "--rule", "elo")


def test_a_seed_of_no_order_is_refused(capsys, file):
    assert "expected --anytime beside --seed, found --seed alone" in refusal(capsys, 2, "score", file, "--seed", 0)


def test_a_long_judging_order_is_cut_in_the_text_and_whole_in_json(capsys, tmp_path):
    rows = [{"prompt_id": f"p{i}", "order": o, "score": 1} for i in range(30) for o in ("as_is", "swapped")]
    path = write(tmp_path / "v.csv", rows)
    assert "(30 in all; --json has them)" in call(capsys, "score", path, "--anytime")[1]
    assert len(json.loads(call(capsys, "score", path, "--anytime", "--json")[1])["anytime"]["order"]) == 30


def test_power_without_a_spread_takes_the_largest_possible(capsys):
    rate, gain = json.loads(call(capsys, "power", "--delta", "0.05", "--json")[1])["cases"]
    assert (rate["standard_deviation"], rate["prompts_needed"]["0.8"]) == (0.5, 787)
    assert gain["prompts_needed"]["0.8"] == pytest.approx(2 * 787, abs=3) and "unrelated" in gain["what"]
    (stated,) = json.loads(call(capsys, "power", "--sd", "0.25", "--n", 787, "--json")[1])["cases"]
    assert stated["prompts_needed"]["0.8"] == pytest.approx(787 / 4, abs=3)
    assert stated["detectable_difference"]["0.8"] == pytest.approx(0.025, abs=1e-3)


def test_power_of_a_file_and_of_a_home_is_a_table(capsys, tmp_path, groups):
    out = call(capsys, "power", groups, "--n", 100)[1]
    assert "harsh" in out and "power 0.9" in out and "difference that 100 prompts show" in out
    assert "fewer than 30" in out
    assert "paired difference to the draft of judge harsh is left out: no score differs from another" in out
    publish_results(make_home(tmp_path / "home", size=20, revisions=2))
    (policy,) = run_query(tmp_path / "home", "SELECT policy_id FROM policies WHERE method = 'srpo'")["policy_id"].to_pylist()
    out = call(capsys, "power", "--from-policy", policy[:6], "--home", tmp_path / "home")[1]
    assert out.count("paired difference to the draft") == 2 and "long" in out


def test_power_refuses_what_cannot_be_planned_in_one_sentence(capsys, tmp_path, file):
    assert "name one of them" in refusal(capsys, 2, "power", file, "--sd", "0.3")
    assert "above 0 and at most .5" in refusal(capsys, 2, "power", "--delta", "0.7")
    assert "deviation above 0" in refusal(capsys, 2, "power", "--sd", "0")
    assert "at most 0.5 for a win rate or 1" in refusal(capsys, 2, "power", "--sd", "5")
    assert "at least 2 prompts" in refusal(capsys, 2, "power", "--n", "1")
    assert "level between 0 and 1" in refusal(capsys, 2, "power", "--level", "1")
    assert "expected a level below the power of 0.5" in refusal(capsys, 2, "power", "--level", ".5")
    assert "run srpo publish" in refusal(capsys, 2, "power", "--from-policy", "abc", "--home", tmp_path)
