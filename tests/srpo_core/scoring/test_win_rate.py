"""Win-rate statistics against hand-derived numbers, definitions coded naively, and simulated coverage."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from srpo_core.scoring.win_rate import (
    holm,
    mean_error,
    mean_interval,
    order_statistics,
    paired_difference,
    prompt_scores,
    sign_test,
    win_rate_interval,
)

NAN = float("nan")
scores_or_missing = st.one_of(st.just(NAN), st.sampled_from([0.0, 0.5, 1.0]), st.floats(0, 1))
comparisons = st.lists(st.tuples(st.sampled_from("abcd"), scores_or_missing, scores_or_missing), min_size=1, max_size=30)


def naive_prompt_scores(rows):
    """The definition, one prompt at a time."""
    result = {}
    for name in sorted({prompt for prompt, _, _ in rows}):
        mine = [(u1, u2) for prompt, u1, u2 in rows if prompt == name]
        complete = [(u1 + u2) / 2 for u1, u2 in mine if not math.isnan(u1) and not math.isnan(u2)]
        filled = [[(v if not math.isnan(v) else fill) for pair in mine for v in pair] for fill in (0.0, 1.0)]
        result[name] = (
            sum(complete) / len(complete) if complete else NAN,
            sum(filled[0]) / len(filled[0]),
            sum(filled[1]) / len(filled[1]),
        )
    return result


def test_one_failed_verdict_leaves_its_prompt_unscored_and_is_never_a_loss():
    """Prompts (1, 1), (1, missing), (0, 1). Scored: 1 and .5, win rate .75; as a loss it would be (1 + .5 + .5)/3 = 2/3."""
    scores = prompt_scores(["a", "b", "c"], [1, 1, 0], [1, NAN, 1])
    rate = win_rate_interval(scores.score)
    assert (rate.n, rate.estimate) == (2, 0.75)
    assert scores.low.mean() == pytest.approx((1 + 0.5 + 0.5) / 3)
    assert scores.high.mean() == pytest.approx(2.5 / 3)


@given(comparisons)
def test_prompt_scores_match_the_naive_definition(rows):
    scores = prompt_scores([r[0] for r in rows], [r[1] for r in rows], [r[2] for r in rows])
    expected = naive_prompt_scores(rows)
    assert scores.prompts.tolist() == list(expected)
    np.testing.assert_allclose(np.column_stack([scores.score, scores.low, scores.high]), list(expected.values()), atol=1e-12)


@given(comparisons)
def test_bounds_enclose_the_win_rate_when_everything_is_scored_and_are_ordered_always(rows):
    scores = prompt_scores([r[0] for r in rows], [r[1] for r in rows], [r[2] for r in rows])
    assert (scores.low <= scores.high + 1e-12).all()
    complete = not np.isnan([r[1] + r[2] for r in rows]).any()
    if complete:
        np.testing.assert_allclose(scores.low, scores.high)
        np.testing.assert_allclose(scores.low, scores.score)


def test_several_golds_are_averaged_within_the_prompt_before_the_mean_over_prompts():
    """Prompt a has three golds (1, 1, 1), b one gold (0): (1 + 0) / 2 = .5, not 3/4."""
    scores = prompt_scores(["a", "a", "a", "b"], [1, 1, 1, 0], [1, 1, 1, 0])
    assert win_rate_interval(scores.score).estimate == 0.5


def test_interval_is_wilsons_form_with_the_effective_sample_size():
    """s = 1, 1, .5, 0: mean .625, variance (2*.1406 + .0156 + .3906)/3 = .2292, SE = sqrt(.2292/4) = .23936.

    n_eff = .625*.375/.0573 = 4.0909; t(3) = 3.18245; t^2/n_eff = 2.47573;
    centre (.625 + 1.237864)/3.475728 = .535961; the limits follow from the formula written out below.
    """
    rate = win_rate_interval([1, 1, 0.5, 0])
    assert rate.standard_error == pytest.approx(0.2393568, abs=1e-6)
    effective, t = 0.625 * 0.375 / (0.2291667 / 4), 3.1824463
    centre = (0.625 + t * t / (2 * effective)) / (1 + t * t / effective)
    half = t / (1 + t * t / effective) * math.sqrt(0.625 * 0.375 / effective + t * t / (4 * effective**2))
    assert effective == pytest.approx(4.0909, abs=1e-4)
    assert (rate.ci_low, rate.ci_high) == pytest.approx((centre - half, centre + half), abs=1e-6)


def test_without_spread_the_interval_is_plain_wilson():
    """10 wins of 10: Wilson's lower limit is 1 / (1 + z^2/10) = 1 / 1.38415 = .72247."""
    rate = win_rate_interval([1.0] * 10)
    assert rate.standard_error == 0
    assert (rate.ci_low, rate.ci_high) == pytest.approx((0.722467, 1.0), abs=1e-6)


def test_one_prompt_has_no_standard_error_and_a_wide_interval():
    rate = win_rate_interval([0.5])
    assert math.isnan(rate.standard_error)
    assert rate.ci_low < 0.06 and rate.ci_high > 0.94


def test_no_scored_prompt_gives_no_number():
    rate = win_rate_interval([NAN, NAN])
    assert rate.n == 0
    assert all(math.isnan(v) for v in rate[1:])


def test_clustered_error_matches_the_pairwise_definition_on_a_lopsided_split():
    """sum over pairs in the same cluster of (s_i - m)(s_j - m), times C/(C-1), over n^2."""
    rng = np.random.default_rng(0)
    values, clusters = rng.random(20), ["a"] * 11 + ["b"] * 6 + ["c"] * 2 + ["d"]
    mean = sum(values) / 20
    pairs = sum((values[i] - mean) * (values[j] - mean) for i in range(20) for j in range(20) if clusters[i] == clusters[j])
    assert mean_error(values, clusters).standard_error == pytest.approx(math.sqrt(4 / 3 * pairs) / 20, rel=1e-12)


def test_singleton_clusters_give_the_plain_standard_error():
    values = np.random.default_rng(1).random(15)
    assert mean_error(values).standard_error == pytest.approx(values.std(ddof=1) / math.sqrt(15), rel=1e-12)


def test_duplicating_every_prompt_inside_its_cluster_changes_nothing():
    """Treating 2n copies as independent would shrink the error by sqrt(2)."""
    values = np.random.default_rng(2).random(30)
    names = [str(i) for i in range(30)]
    once, twice = win_rate_interval(values, names), win_rate_interval(np.tile(values, 2), names * 2)
    assert twice[1:] == pytest.approx(once[1:], rel=1e-12)


def test_paired_difference_uses_only_prompts_scored_on_both_sides_and_a_t_interval():
    """Differences .5, 0, .25 (the fourth prompt is unscored once): mean .25, sd .25, SE .25/sqrt(3), t(2) = 4.30265."""
    difference = paired_difference([1, 0.5, 0.75, 1], [0.5, 0.5, 0.5, NAN])
    assert (difference.n, difference.estimate) == (3, 0.25)
    assert difference.standard_error == pytest.approx(0.25 / math.sqrt(3))
    assert difference.ci_high == pytest.approx(0.25 + 4.302653 * 0.25 / math.sqrt(3), abs=1e-6)


def test_pairing_narrows_the_interval_when_prompts_differ_in_difficulty():
    rng = np.random.default_rng(3)
    difficulty = rng.random(100)
    later, first = np.clip(difficulty + 0.05, 0, 1), difficulty
    unpaired = math.hypot(mean_error(later).standard_error, mean_error(first).standard_error)
    assert paired_difference(later, first).standard_error < unpaired / 5


def test_equal_texts_on_both_sides_give_zero_but_not_a_zero_width_interval():
    """No difference in 100 prompts: at most 1 - .025^(1/100) = 3.62 % of prompts differ unseen."""
    interval = paired_difference([0.5] * 100, [0.5] * 100)
    assert interval.estimate == 0
    assert interval.ci_high == pytest.approx(0.036217, abs=1e-5)
    assert interval.ci_low == -interval.ci_high


@given(st.lists(scores_or_missing, min_size=1, max_size=40))
def test_intervals_contain_the_estimate_and_stay_in_range(values):
    rate = win_rate_interval(values)
    if rate.n:
        assert 0 <= rate.ci_low <= rate.estimate + 1e-9
        assert rate.estimate - 1e-9 <= rate.ci_high <= 1


@given(st.lists(scores_or_missing, min_size=2, max_size=40))
def test_swapping_candidate_and_opponent_mirrors_the_interval(values):
    rate, mirrored = win_rate_interval(values), win_rate_interval([1 - v for v in values])
    if rate.n:
        assert (1 - mirrored.ci_high, 1 - mirrored.ci_low) == pytest.approx((rate.ci_low, rate.ci_high), abs=1e-6)


def test_order_statistics_of_a_judge_that_always_prefers_the_first_text():
    """u1 = 1 (candidate first), u2 = 0: never consistent, first-position rate 1, win rate exactly one half."""
    statistics = order_statistics([1.0] * 5, [0.0] * 5)
    assert statistics == (5, 0.0, 1.0, 0.5, 1.0, 0.0)
    assert win_rate_interval(prompt_scores(list("abcde"), [1.0] * 5, [0.0] * 5).score).estimate == 0.5


def test_probabilities_on_the_same_side_of_one_half_are_consistent_and_a_tie_agrees_only_with_a_tie():
    statistics = order_statistics([0.6, 0.9, 0.5, 0.5, NAN], [0.8, 0.4, 0.5, 0.7, 1])
    assert statistics.n == 4
    assert statistics.consistency == 0.5
    assert statistics.position_bias == pytest.approx((-0.2 + 0.5 + 0 - 0.2) / 8)


def test_sign_test_is_the_exact_binomial_and_ignores_ties():
    """5 wins, 0 losses: 2 / 2^5 = .0625."""
    assert sign_test([0.5, 1, 0.1, 0.2, 0.3, 0, NAN]) == pytest.approx(0.0625)
    assert sign_test([0, NAN]) == 1.0


def test_holm_adjusts_step_down_and_keeps_the_order():
    """.01*3 = .03; .02*2 = .04; .5*1 = .5; and .04 twice stays monotone."""
    assert holm([0.5, 0.01, 0.02]) == pytest.approx([0.5, 0.03, 0.04])
    assert holm([0.03, 0.02]) == pytest.approx([0.04, 0.04])
    assert holm([]) == []


def test_scores_outside_the_unit_interval_are_refused():
    """The trap: a failure coded -1 un-flips to 2."""
    with pytest.raises(ValueError, match=r"\[0, 1\].*2"):
        prompt_scores(["a"], [2.0], [0.0])


def test_measured_coverage_is_near_95_percent_where_plain_wilson_is_far_above():
    """Both-orders means of a 6-in-10 judge, 60 prompts; 800 draws, so the coverage is known to about .008."""
    rng = np.random.default_rng(4)
    covered = plain = 0
    for _ in range(800):
        ability = rng.beta(6, 4, 60)
        draws = (rng.random((2, 60)) < ability).mean(axis=0)
        rate = win_rate_interval(draws)
        covered += rate.ci_low <= 0.6 <= rate.ci_high
        low, high = stats.binomtest(round(draws.sum()), 60).proportion_ci(method="wilson")
        plain += low <= 0.6 <= high
    assert 0.925 <= covered / 800 <= 0.975
    assert plain > covered


@pytest.mark.parametrize("n", [30, 100, 500])
@pytest.mark.parametrize("rate", [0.6, 0.9, 0.95])
def test_exact_coverage_of_wins_and_losses_lies_between_93_and_98_percent(n, rate):
    """Every number of wins, weighed by its binomial probability: nothing simulated."""
    wins = np.arange(n + 1)
    chances = stats.binom.pmf(wins, n, rate)
    intervals = [win_rate_interval(np.repeat([1.0, 0.0], [k, n - k])) for k in wins]
    covered = sum(chance for chance, i in zip(chances, intervals, strict=True) if i.ci_low <= rate <= i.ci_high)
    assert 0.93 <= covered <= 0.98


@pytest.mark.parametrize(("win", "tie"), [(0.4, 0.4), (0.85, 0.1), (0.6, 0.0), (0.2, 0.8)])
def test_exact_coverage_of_wins_ties_and_losses_lies_between_93_and_98_percent(win, tie):
    """All 496 outcomes of 30 prompts, weighed by their trinomial probability; rates .6, .9, .6, .6."""
    covered = 0.0
    for wins, ties in ((w, t) for w in range(31) for t in range(31 - w)):
        chance = stats.multinomial.pmf([wins, ties, 30 - wins - ties], 30, [win, tie, 1 - win - tie])
        interval = win_rate_interval(np.repeat([1.0, 0.5, 0.0], [wins, ties, 30 - wins - ties]))
        covered += chance * (interval.ci_low <= win + tie / 2 <= interval.ci_high)
    assert 0.93 <= covered <= 0.98


def test_prompts_without_clusters_are_each_their_own():
    values = np.random.default_rng(5).random(40)
    values[7] = NAN
    assert win_rate_interval(values) == pytest.approx(win_rate_interval(values, [f"{i:02}" for i in range(40)]), rel=1e-12)
    with pytest.raises(ValueError, match="one cluster for each"):
        win_rate_interval(values, ["a"] * 39)


def test_mean_interval_of_one_value_spans_what_is_possible():
    interval = mean_interval([0.25])
    assert math.isnan(interval.standard_error)
    assert interval.ci_low < -0.9 and interval.ci_high > 0.95


def test_rounding_is_not_taken_for_spread_or_for_distance_from_the_end_of_the_range():
    assert mean_error([1 / 3] * 10).standard_error == 0
    assert {win_rate_interval([1.0] * n).ci_high for n in range(2, 60)} == {1.0}
    assert {win_rate_interval([0.0] * n).ci_low for n in range(2, 60)} == {0.0}
    assert mean_error([1e-17, -1e-17, 3e-17]).mean == 0
    assert order_statistics([0.3, 0.1 + 0.2], [0.1 + 0.2, 0.1 + 0.2]).position_bias == 0
