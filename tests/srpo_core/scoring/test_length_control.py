"""Length control against AlpacaEval's published figures, statsmodels' regression, and judges whose taste is known."""

import csv
import json
import math

import numpy as np
import pytest
import statsmodels.api as sm
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.special import expit, logit

from srpo_core.errors import WorkFailed
from srpo_core.scoring.length_control import (
    RIDGE,
    fit_logistic,
    length_controlled_win_rate,
    length_feature,
    rates_at_equal_length,
)
from srpo_core.scoring.resampling import cluster_draws
from srpo_core.scoring.win_rate import t_quantile
from tests.real_data import real_file

NAN = float("nan")
VARIANTS = ("gpt-3.5-turbo-1106", "gpt-3.5-turbo-1106_concise", "gpt-3.5-turbo-1106_verbose")


def alpaca_eval_columns() -> dict[str, np.ndarray]:
    with real_file("scorer/alpaca_eval_2_gpt-3.5-turbo-1106.csv").open(encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    return {name: np.array([row[name] for row in rows]) for name in rows[0]}


def made_games(n: int, *, constant: float, by_length: float, seed: int, longer: float = 100.0):
    """Scores in {0, .5, 1} of a judge with a taste for length; lengths of which the candidate's are `longer` on average."""
    rng = np.random.default_rng(seed)
    opponent = rng.integers(200, 1200, n).astype(float)
    lengths = np.maximum(1.0, opponent + longer + 300 * rng.standard_normal(n))
    difference = opponent - lengths
    rate = expit(constant + by_length * np.tanh(difference / difference.std()))
    return (rng.random((2, n)) < rate).mean(axis=0), lengths, opponent


def naive_rate(scores, difference, weights=None, difficulty=None):
    """AlpacaEval's estimator written with statsmodels for one set of weights, without a ridge."""
    weights = np.ones(len(scores)) if weights is None else weights
    kept = np.repeat(np.arange(len(scores)), weights.astype(int))
    spread = difference[kept].std()
    known = np.zeros(len(kept)) if difficulty is None else difficulty[kept]
    design = np.column_stack([np.ones(len(kept)), known, np.tanh(difference[kept] / spread)])
    design = design if difficulty is not None else design[:, [0, 2]]
    fit = sm.GLM(scores[kept], design, family=sm.families.Binomial()).fit(tol=1e-12)
    equal = design.copy()
    equal[:, -1] = 0
    return fit.predict(equal).mean()


@pytest.mark.parametrize("variant", VARIANTS)
def test_the_prediction_from_published_weights_is_the_published_figure(variant):
    columns = alpaca_eval_columns()
    published = json.loads(real_file("scorer/alpaca_eval_2_published.json").read_text(encoding="utf-8"))[variant]
    weights = published["lc_weights"]
    difficulty = columns["instruction_difficulty"].astype(float)
    length = 12.0  # whatever its weight
    given = np.array([[weights["not_gamed_baseline.astype(float)"], length, weights["instruction_difficulty"]]])
    (rate,) = rates_at_equal_length(given, difficulty[None], np.ones((1, difficulty.size)))
    assert 100 * rate == pytest.approx(published["length_controlled_winrate"], abs=1e-6)


@pytest.mark.parametrize("variant", VARIANTS)
def test_real_verdicts_are_refused_and_read_less_strictly_give_what_statsmodels_gives(variant, monkeypatch):
    """The answers are longer than the baseline's on 1 to 7 % of the prompts: too few to know anything at equal length."""
    columns = alpaca_eval_columns()
    scores = columns[f"preference_{variant}"].astype(float) - 1
    lengths, opponent = (columns[name].astype(float) for name in (f"length_{variant}", "length_baseline"))
    result = length_controlled_win_rate(scores, lengths, opponent)
    assert result.refused is not None and "shorter on more than 90% of them" in result.refused
    assert result.length_ratio == pytest.approx(lengths.mean() / opponent.mean())
    monkeypatch.setattr("srpo_core.scoring.length_control.CENTRAL", 0.99)
    result = length_controlled_win_rate(scores, lengths, opponent)
    assert result.win_rate == pytest.approx(naive_rate(scores, opponent - lengths), abs=1e-4)
    assert scores.mean() < result.ci_low < result.win_rate < result.ci_high


def test_weighted_fractional_fits_match_statsmodels_without_the_ridge():
    rng = np.random.default_rng(0)
    features = np.stack([np.ones((4, 60)), rng.standard_normal((4, 60)), rng.random((4, 60))], axis=1)
    scores, weights = rng.random(60), rng.integers(0, 4, (4, 60)).astype(float)
    fitted = fit_logistic(features, scores, weights, ridge=0.0)
    for row in range(4):
        model = sm.GLM(scores, features[row].T, family=sm.families.Binomial(), freq_weights=weights[row])
        np.testing.assert_allclose(fitted[row], model.fit(tol=1e-12).params, atol=1e-8)


@given(st.integers(0, 2**32 - 1), st.sampled_from([0.0, 1.0, 30.0]))
@settings(max_examples=40, deadline=None)
def test_every_fit_is_stationary_also_where_length_separates_wins_from_losses(seed, strength):
    """The gradient of the penalised likelihood, written out, vanishes; without the ridge it has no maximum there."""
    rng = np.random.default_rng(seed)
    x = np.tanh(rng.standard_normal(40))
    scores = (x + rng.standard_normal(40) * (strength == 0) > 0).astype(float) if strength != 1.0 else rng.random(40)
    features = np.stack([np.ones(40), x])[None]
    constant, slope = fit_logistic(features, scores, np.ones((1, 40)))[0]
    left = scores - 1 / (1 + np.exp(-(constant + slope * x)))
    assert sum(left) == pytest.approx(RIDGE * constant, abs=1e-6)
    assert sum(left * x) == pytest.approx(RIDGE * slope, abs=1e-6)


@given(st.integers(0, 2**32 - 1))
@settings(max_examples=25, deadline=None)
def test_wild_lengths_and_difficulties_still_converge(seed):
    """A few prompts hold nearly all of the spread of length and difficulty; scores follow length, difficulty or nothing."""
    rng = np.random.default_rng(seed)
    opponent = np.exp(rng.normal(6, 1, 60))
    lengths, difficulty = opponent * np.exp(rng.normal(0, 3, 60)), rng.standard_t(1, 60)
    scores = [lengths > opponent, difficulty > np.median(difficulty), rng.random(60) < 0.3, rng.random(60)][seed % 4]
    result = length_controlled_win_rate(scores.astype(float), lengths, opponent, difficulty=difficulty, num_resamples=50)
    if result.refused is None:
        assert 0 <= result.ci_low <= result.win_rate <= result.ci_high <= 1


def test_a_fit_that_is_not_given_time_to_converge_is_an_error_and_no_number(monkeypatch):
    monkeypatch.setattr("srpo_core.scoring.length_control.MAX_STEPS", 1)
    with pytest.raises(WorkFailed, match="1 of 1 logistic regressions"):
        length_controlled_win_rate(*made_games(60, constant=0, by_length=-1, seed=0))


def test_a_judge_who_only_prefers_length_gives_one_half():
    """The candidate is longer on most prompts and wins exactly those: 70 % raw, one half at equal length."""
    rng = np.random.default_rng(1)
    lengths, opponent = 552.0 + 100 * rng.standard_normal(800), np.full(800, 500.0)
    result = length_controlled_win_rate((lengths > opponent).astype(float), lengths, opponent)
    assert np.mean(lengths > opponent) > 0.65
    assert result.win_rate == pytest.approx(0.5, abs=0.1)
    assert result.ci_low < 0.5 < result.ci_high


def test_a_judge_blind_to_length_keeps_the_raw_win_rate():
    scores, lengths, opponent = made_games(2000, constant=0.6, by_length=0.0, seed=2)
    result = length_controlled_win_rate(scores, lengths, opponent)
    assert result.win_rate == pytest.approx(scores.mean(), abs=0.01)


def test_the_taste_for_length_is_taken_out():
    """Better at equal length (sigmoid(.4) = .599), but shorter: the raw rate is lower, the controlled one is near the truth."""
    scores, lengths, opponent = made_games(4000, constant=0.4, by_length=-1.5, seed=3, longer=-150)
    result = length_controlled_win_rate(scores, lengths, opponent)
    assert scores.mean() < 0.55
    assert result.ci_low < expit(0.4) < result.ci_high
    assert result.win_rate == pytest.approx(expit(0.4), abs=0.03)
    assert result.length_ratio == pytest.approx(lengths.mean() / opponent.mean())


def test_known_difficulty_is_averaged_over_the_prompts_and_its_unit_does_not_matter():
    rng = np.random.default_rng(4)
    _, lengths, opponent = made_games(3000, constant=0, by_length=0, seed=4)
    difficulty = rng.standard_normal(3000)
    difference = np.tanh((opponent - lengths) / (opponent - lengths).std())
    scores = (rng.random(3000) < expit(0.5 + 2 * difficulty - difference)).astype(float)
    result = length_controlled_win_rate(scores, lengths, opponent, difficulty=difficulty)
    scaled = length_controlled_win_rate(scores, lengths, opponent, difficulty=7 - 1000 * difficulty)
    assert result.win_rate == pytest.approx(expit(0.5 + 2 * difficulty).mean(), abs=0.02)
    assert scaled[:-1] == pytest.approx(result[:-1], abs=1e-9)


@pytest.mark.parametrize("seed", range(3))
def test_swapping_candidate_and_opponent_mirrors_everything(seed):
    scores, lengths, opponent = made_games(120, constant=-0.5, by_length=-1, seed=seed)
    one = length_controlled_win_rate(scores, lengths, opponent)
    other = length_controlled_win_rate(1 - scores, opponent, lengths)
    assert (1 - other.win_rate, 1 - other.ci_high, 1 - other.ci_low) == pytest.approx((one.win_rate, one.ci_low, one.ci_high))
    assert other.standard_error == pytest.approx(one.standard_error)


def test_the_unit_of_length_does_not_matter():
    scores, lengths, opponent = made_games(100, constant=0, by_length=-1, seed=5)
    assert length_controlled_win_rate(scores, lengths / 4.2, opponent / 4.2)[:-1] == pytest.approx(
        length_controlled_win_rate(scores, lengths, opponent)[:-1]
    )


def test_unscored_prompts_and_unknown_lengths_are_left_out_not_filled_in():
    scores, lengths, opponent = made_games(100, constant=0.3, by_length=-1, seed=6)
    holed, missing = scores.copy(), lengths.copy()
    holed[:10], missing[10:15] = NAN, NAN
    expected = length_controlled_win_rate(scores[15:], lengths[15:], opponent[15:])
    assert length_controlled_win_rate(holed, missing, opponent) == expected
    assert expected.n == 85


@pytest.mark.parametrize("known", [False, True])
def test_the_interval_refits_every_resample_of_whole_clusters(known):
    """A naive loop: repeat each cluster as often as drawn, take that sample's own sd, fit with statsmodels, predict, average."""
    scores, lengths, opponent = made_games(120, constant=0.2, by_length=-1, seed=7)
    rng = np.random.default_rng(7)
    numbers = np.concatenate([np.arange(45), rng.integers(0, 45, 75)])
    difficulty = scores + rng.standard_normal(120) if known else None
    clusters = [f"c{i:02}" for i in numbers]
    result = length_controlled_win_rate(scores, lengths, opponent, clusters, difficulty=difficulty, num_resamples=30, seed=9)
    draws = cluster_draws(45, 30, 9)[:, numbers]
    rates = [naive_rate(scores, opponent - lengths, weights, difficulty) for weights in draws]
    assert result.win_rate == pytest.approx(naive_rate(scores, opponent - lengths, None, difficulty), abs=1e-4)
    assert result.standard_error == pytest.approx(np.std(rates, ddof=1), rel=2e-4)
    half = t_quantile(0.95, 44) * np.std(logit(rates), ddof=1)
    assert logit(result.ci_high) - logit(result.win_rate) == pytest.approx(half, rel=2e-4)
    assert logit(result.win_rate) - logit(result.ci_low) == pytest.approx(half, rel=2e-4)


def test_copies_inside_a_cluster_do_not_narrow_the_interval():
    scores, lengths, opponent = made_games(80, constant=0, by_length=-1, seed=8)
    names = [str(i) for i in range(80)]
    once = length_controlled_win_rate(scores, lengths, opponent, names)
    twice = length_controlled_win_rate(*(np.tile(one, 2) for one in (scores, lengths, opponent)), names * 2)
    assert twice.n == 160
    assert twice[1:-1] == pytest.approx(once[1:-1], abs=1e-3)


def test_memory_limits_do_not_change_the_numbers(monkeypatch):
    scores, lengths, opponent = made_games(60, constant=0, by_length=-1, seed=9)
    whole = length_controlled_win_rate(scores, lengths, opponent)
    monkeypatch.setattr("srpo_core.scoring.length_control.CELLS_AT_A_TIME", 200)
    assert length_controlled_win_rate(scores, lengths, opponent)[:-1] == pytest.approx(whole[:-1], abs=1e-12)


def test_the_standard_deviation_is_that_of_the_prompts_as_counted():
    """Differences 3 (twice) and 0: mean 2, variance (1 + 1 + 4) / 3 = 2, features tanh(3 / sqrt 2) and 0."""
    feature = length_feature(np.array([3.0, 0.0, 99.0]), np.array([[2.0, 1.0, 0.0]]))
    assert feature[0, :2] == pytest.approx([math.tanh(3 / math.sqrt(2)), 0])


def refusal(scores, lengths, opponent) -> str:
    result = length_controlled_win_rate(scores, lengths, opponent)
    assert all(math.isnan(one) for one in (result.win_rate, result.standard_error, result.ci_low, result.ci_high))
    assert result.refused is not None
    return result.refused


def test_lengths_that_do_not_overlap_are_refused_with_a_word():
    scores, _, opponent = made_games(200, constant=0, by_length=-1, seed=10)
    assert "candidate longer on more than 90% of them" in refusal(scores, opponent + np.arange(200) + 5, opponent)
    assert "candidate shorter on more than 90% of them" in refusal(scores, opponent - np.arange(200) / 5 - 5, opponent)


def test_twelve_percent_of_prompts_on_the_other_side_are_overlap_and_eight_are_not():
    scores, _, opponent = made_games(100, constant=0, by_length=0, seed=11)
    margins = np.arange(100.0) + 1
    for others, refused in ((12, False), (8, True)):
        lengths = opponent + np.where(np.arange(100) < others, -margins, margins)
        assert (length_controlled_win_rate(scores, lengths, opponent).refused is not None) == refused


def test_too_few_prompts_or_wins_or_lengths_without_variation_are_refused():
    scores, lengths, opponent = made_games(100, constant=0, by_length=0, seed=12)
    assert "at least 30 scored prompts" in refusal(scores[:29], lengths[:29], opponent[:29])
    assert "found 0.5 on every one" in refusal(scores * 0 + 0.5, lengths, opponent)
    assert "found 1 on every one" in refusal(scores * 0 + 1, lengths, opponent)
    one_win, no_loss = (np.arange(100) < 1).astype(float), np.where(np.arange(100) < 8, 0.5, 1.0)
    assert "found 1 and 99" in refusal(one_win, lengths, opponent)
    assert "found 96 and 4" in refusal(no_loss, lengths, opponent)
    assert "found one difference" in refusal(scores, opponent, opponent)


def test_copies_of_one_prompt_are_one_prompt():
    scores, lengths, opponent = made_games(100, constant=0, by_length=0, seed=13)
    result = length_controlled_win_rate(scores, lengths, opponent, ["a"] * 50 + ["b"] * 50)
    assert result.n == 100
    assert result.refused is not None and "found 2" in result.refused


def test_nothing_scored_has_no_ratio_and_a_reason():
    result = length_controlled_win_rate([NAN, NAN], [1, 2], [1, 2])
    assert result.n == 0
    assert math.isnan(result.length_ratio)
    assert result.refused is not None
    assert length_controlled_win_rate([], [], []).refused is not None


def test_values_that_cannot_be_are_refused():
    with pytest.raises(ValueError, match=r"\[0, 1\]"):
        length_controlled_win_rate([1.2] * 40, [1] * 40, [2] * 40)
    with pytest.raises(ValueError, match="lengths of 0 or more"):
        length_controlled_win_rate([1.0] * 40, [-1] * 40, [2] * 40)
    with pytest.raises(ValueError, match="found inf"):
        length_controlled_win_rate([1.0] * 40, [1] * 40, [math.inf] * 40)
    with pytest.raises(ValueError, match="one value a prompt"):
        length_controlled_win_rate([1.0] * 40, [1] * 40, [2] * 39)


def test_a_refusal_counts_clusters_where_clusters_are_what_is_few():
    scores, lengths, other = np.tile([0.0, 1.0], 20), np.arange(40.0), np.full(40, 20.0)
    refused = length_controlled_win_rate(scores, lengths, other, [str(i // 4) for i in range(40)]).refused
    assert refused is not None and "30 clusters of scored prompts" in refused and refused.endswith("found 10 of 40 prompts")
    alone = length_controlled_win_rate(scores[:8], lengths[:8], other[:8]).refused
    assert alone is not None and "30 scored prompts" in alone and alone.endswith("found 8")
