"""The named rules on hand-derived games, against naive loops, and on published verdicts where SRPO_TEST_DATA names them."""

import csv
import json
import math
import random
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from srpo_core.scoring.comparisons import Comparisons
from srpo_core.scoring.resampling import paper_shading
from srpo_core.scoring.score_files import score_file
from srpo_core.scoring.scoring_rules import RULES, alpaca_eval, arena_hard, default, srpo
from tests.real_data import real_file

NAN = math.nan
VARIANTS = ("gpt-3.5-turbo-1106", "gpt-3.5-turbo-1106_concise", "gpt-3.5-turbo-1106_verbose")


def games(
    scores: list[tuple[float, float]], labels: list[tuple[str | None, str | None]] | None = None, prompts: list[str] | None = None
) -> Comparisons:
    """One question a row, asked in both orders; the prompt is the row unless named."""
    names = np.array(prompts or [f"p{i:03}" for i in range(len(scores))])
    stated = labels or [(None, None)] * len(scores)
    return Comparisons(
        names,
        names,
        np.arange(len(scores)),
        np.array(scores).T.reshape(2, len(scores)),
        [[a for a, _ in stated], [b for _, b in stated]],
        np.full((2, len(scores)), NAN),
    )


def test_a_game_won_by_far_counts_three_times():
    """Battles: won 3 + lost 1 | tied 1 + won 1: (3 + .5 + 1) / 6 = .75. Per prompt sums of s - .75: 0 - .. derived below.

    Deviations of prompt 1: 3 * .25 - .75 = 0; of prompt 2: -.25 + .25 = 0: no spread, so the standard error is 0.
    """
    found = arena_hard(games([(1, 0), (0.5, 1)], [("A>>B", "A>B"), ("A=B", "B>A")]))
    assert (found.n, found.win_rate) == (2, 0.75)
    assert found.beside == {"n_battles": 6, "bound_low": 0.75, "bound_high": 0.75}
    assert found.standard_error == pytest.approx(0, abs=1e-12)


def test_the_standard_error_of_battles_is_clustered_by_prompt():
    """Two prompts, one won by far and one lost narrowly in both orders: 6 battles won, 2 lost, mean .75.

    Sums of s - .75: 6 * .25 = 1.5 and -1.5; sqrt(2/1 * (1.5² + 1.5²)) / 8 = 3 / 8.
    """
    found = arena_hard(games([(1, 1), (0, 0)], [("A>>B", "B>>A"), ("B>A", "A>B")]))
    assert found.win_rate == 0.75
    assert found.standard_error == pytest.approx(3 / 8)


def test_an_unscored_game_is_no_battle():
    """One battle won, two lost, one game missing, which could be three battles: bounds 1/6 and 4/6."""
    found = arena_hard(games([(1, NAN), (0, 0)], [("A>B", None), ("B>A", "A>B")]))
    assert (found.n, found.win_rate) == (2, pytest.approx(1 / 3))
    assert (found.beside["bound_low"], found.beside["bound_high"]) == pytest.approx((1 / 6, 4 / 6))


def test_a_tie_is_one_battle_also_without_a_label():
    """Equal texts are a tie that no judge was asked about: 3 battles won, 1 tied."""
    assert arena_hard(games([(1, 0.5)], [("A>>B", None)])).win_rate == 3.5 / 4


@pytest.mark.parametrize("label", [None, "A", "better"])
def test_battles_without_a_five_label_verdict_have_no_rate_but_a_sentence(label):
    found = arena_hard(games([(1, 0)], [("A>B", label)]))
    assert math.isnan(found.win_rate) and found.n == 0
    assert found.note is not None and "1 of 2 scored games lack one of the five labels" in found.note


def test_a_battle_is_won_or_lost_also_where_the_score_is_graded():
    """Scores .75 and .25 for narrow verdicts: one battle won, one lost; .5: tied."""
    assert arena_hard(games([(0.75, 0.25), (0.75, 0.5)], [("A>B", "A>B"), ("A>B", "A=B")])).win_rate == (1 + 0 + 1 + 0.5) / 4


def test_labels_are_read_with_brackets_and_spaces():
    found = arena_hard(games([(1, 0)], [("[[A >> B]]", "a>b")]))
    assert found.win_rate == 0.75


def test_the_discrete_rate_counts_a_tie_half():
    """Swap means 1, .5, .2, .6 and one unscored: (2 + .5) / 4; rate .575."""
    found = alpaca_eval(games([(1, 1), (1, 0), (0.2, 0.2), (0.6, 0.6), (1, NAN)]))
    assert (found.n, found.beside["discrete_win_rate"]) == (4, 0.625)
    assert found.win_rate == pytest.approx(0.575)
    assert found.standard_error == pytest.approx(np.std([1, 0.5, 0.2, 0.6], ddof=1) / 2)


def test_clusters_widen_the_default_and_not_alpaca_evals():
    clustered = games([(float(i % 2), float(i % 2)) for i in range(20)])
    clustered = clustered._replace(clusters=np.array([f"c{i % 2}" for i in range(20)]))
    assert default(clustered).standard_error > 2 * alpaca_eval(clustered).standard_error


def test_srpos_shading_is_not_called_an_interval():
    scores = [(float(i % 3 > 0), float(i % 3 > 0)) for i in range(30)]
    found = srpo(games(scores))
    assert found.beside == {"shading": paper_shading([a for a, _ in scores])}
    assert math.isnan(found.standard_error) and math.isnan(found.ci_low)
    assert found.note is not None and "not a confidence interval" in found.note


@pytest.mark.parametrize("name", RULES)
def test_every_rule_lies_in_the_unit_interval_and_has_no_rate_for_nothing(name):
    random.seed(1)
    labels = [("A>>B", "B>A"), ("A=B", "A=B"), ("B>A", "B>A")] * 10
    scored = [(1.0, 1.0), (0.5, 0.5), (0.0, 1.0)] * 10
    found = RULES[name](games(scored, labels))
    assert found.rule == name and 0 <= found.win_rate <= 1 and found.n == 30
    nothing = RULES[name](games([(NAN, NAN)] * 3, [("A>B", "A>B")] * 3))
    assert nothing.n == 0 and math.isnan(nothing.win_rate)


@pytest.mark.parametrize("name", ["default", "alpaca_eval", "srpo"])
def test_repeating_every_question_changes_no_rate(name):
    scores = [(1.0, 0.0), (0.5, 1.0), (0.0, 0.0)]
    once = games(scores)
    twice = Comparisons(
        *(np.concatenate([one, one]) for one in once[:3]), np.hstack([once.scores] * 2), once.labels, once.lengths
    )
    assert RULES[name](twice).win_rate == RULES[name](once).win_rate
    assert RULES[name](twice).n == 3


def published() -> list[dict[str, str]]:
    with real_file("scorer/alpaca_eval_2_gpt-3.5-turbo-1106.csv").open() as file:
        return list(csv.DictReader(file))


def preferences(rows: list[dict[str, str]], variants: tuple[str, ...], path: Path) -> Path:
    """AlpacaEval's annotations as a file of verdicts, preferences in [1, 2] as published."""
    verdicts = [
        {"prompt_id": row["prompt_index"], "order": "as_is" if row["candidate_shown_first"] == "True" else "swapped"}
        | {"method": variant, "score": float(row[f"preference_{variant}"])}
        | {"candidate_length": int(row[f"length_{variant}"]), "opponent_length": int(row["length_baseline"])}
        for variant in variants
        for row in rows
    ]
    path.write_text("".join(json.dumps(verdict) + "\n" for verdict in verdicts))
    return path


@pytest.mark.parametrize("variant", VARIANTS)
def test_published_alpaca_eval_figures_come_out_of_the_published_preferences(tmp_path, variant):
    leaderboard = json.loads(real_file("scorer/alpaca_eval_2_published.json").read_text())[variant]
    result = score_file(preferences(published(), (variant,), tmp_path / "v.jsonl"), rule="alpaca_eval")
    assert (result["n"], result["method"], result["design"]) == (leaderboard["n_total"], variant, "single_order")
    assert 100 * result["win_rate"] == pytest.approx(leaderboard["win_rate"], abs=1e-9)
    assert 100 * result["standard_error"] == pytest.approx(leaderboard["standard_error"], abs=1e-9)
    assert 100 * result["discrete_win_rate"] == pytest.approx(leaderboard["discrete_win_rate"], abs=1e-9)
    assert result["ci_low"] < result["win_rate"] < result["ci_high"]


def arena_verdicts(path: Path) -> list[dict[str, Any]]:
    """The published battles put back into games: a run of three equal battles is one game won by far.

    A question has two, four or six battles, of two games. Of four, either the first three or the last three are one game.
    """
    battles: dict[str, list[str]] = {}
    for line in path.read_text().splitlines():
        battle = json.loads(line)
        battles.setdefault(battle["question_id"], []).append(battle["winner"])
    rows = []
    for question, winners in battles.items():
        split = {2: 1, 6: 3}.get(len(winners)) or (3 if len(set(winners[:3])) == 1 else 1)
        for order, game in (("as_is", winners[:split]), ("swapped", winners[split:])):
            assert len(set(game)) == 1 and len(game) in (1, 3)
            score = {"model_a": 0.0, "model_b": 1.0, "tie": 0.5}[game[0]]
            first, second = ("B", "A") if order == "as_is" else ("A", "B")  # the candidate is shown first: a loss is B>A
            better = "=" if score == 0.5 else ">" if len(game) == 1 else ">>"
            label = "A=B" if score == 0.5 else f"{first}{better}{second}" if score == 0 else f"{second}{better}{first}"
            rows.append({"prompt_id": question, "order": order, "score": score, "label": label})
    return rows


def test_the_published_arena_hard_score_comes_out_of_the_games(tmp_path):
    """Arena-Hard v0.1, gpt-3.5-turbo-0125: published 23.34, from Bradley-Terry, which against one baseline is the mean."""
    rows = arena_verdicts(real_file("scorer/arena_hard_battles_gpt-3.5-turbo-0125.jsonl"))
    path = tmp_path / "v.json"
    path.write_text(json.dumps(rows))
    result = score_file(path, rule="arena_hard")
    assert round(100 * result["win_rate"], 2) == 23.34
    assert (result["n"], result["n_battles"]) == (500, 1414)
    by_prompt: dict[str, list[float]] = {}
    for row in rows:
        by_prompt.setdefault(row["prompt_id"], []).extend([row["score"]] * (3 if len(row["label"]) == 4 else 1))
    deviations = [sum(s - result["win_rate"] for s in battles) for battles in by_prompt.values()]
    naive = math.sqrt(500 / 499 * sum(d * d for d in deviations)) / 1414
    assert result["standard_error"] == pytest.approx(naive, rel=1e-12)


def test_unknown_labels_are_named_and_leave_their_games_scored(tmp_path):
    rows = [
        {"prompt_id": f"p{i}", "order": order, "score": i % 2, "label": label}
        for i in range(4)
        for order, label in (("as_is", "bad"), ("swapped", "\x1bgood"))
    ]
    path = tmp_path / "v.json"
    path.write_text(json.dumps(rows))
    result = score_file(path, rule="arena_hard")
    assert (result["win_rate"], result["n"], result["n_unscored"], result["n_games_unscored"]) == (None, 0, 0, 0)
    assert result["note"].endswith("found 'bad', '\\x1bgood'") and "no prompt" not in result["note"]


def test_a_game_without_a_label_is_said_to_have_none_and_many_labels_are_cut():
    note = arena_hard(games([(1, 0)], [("A>B", None)])).note
    assert note is not None and note.endswith("found no label")
    many = arena_hard(games([(1, 0)] * 4, [(f"x{i}", f"y{i}") for i in range(4)])).note
    assert many is not None and many.count("'") == 10 and many.endswith("and 3 more")
