"""Bootstraps: seeded, clustered, shared over a curve, crossed with seeds, against closed forms and simulated coverage."""

import numpy as np
import pytest

from srpo_core.scoring.resampling import (
    bootstrap_interval,
    cluster_totals,
    crossed_bootstrap,
    paper_shading,
    resampled_means,
    sup_t_quantile,
)
from srpo_core.scoring.win_rate import mean_error, t_quantile, win_rate_interval


def naive_resampled_mean(curves, clusters, weights):
    """Each cluster's scored values repeated as often as it was drawn."""
    names = sorted(set(clusters))
    means = []
    for curve in curves:
        drawn = [
            v
            for name, w in zip(names, weights, strict=True)
            for v, c in zip(curve, clusters, strict=True)
            if c == name
            for _ in range(w)
            if not np.isnan(v)
        ]
        means.append(np.mean(drawn) if drawn else np.nan)
    return means


def test_resampled_means_match_a_naive_loop_with_clusters_and_missing_scores():
    rng = np.random.default_rng(0)
    curves = rng.random((3, 12))
    curves[1, 4] = np.nan
    clusters = list("aaabbbccccdd")
    weights = np.random.default_rng(7).multinomial(4, np.full(4, 0.25), 5)
    expected = [naive_resampled_mean(curves, clusters, row) for row in weights]
    np.testing.assert_allclose(resampled_means(cluster_totals(curves, clusters), 5, seed=7), expected, atol=1e-12)


def test_the_same_seed_gives_the_same_numbers_and_the_global_generator_is_untouched():
    scores = np.random.default_rng(1).random(50)
    np.random.seed(5)
    before = np.random.get_state()[1].copy()
    assert bootstrap_interval(scores, seed=3) == bootstrap_interval(scores, seed=3) != bootstrap_interval(scores, seed=4)
    assert (np.random.get_state()[1] == before).all()


def test_bootstrap_error_agrees_with_the_closed_form_clustered_error():
    rng = np.random.default_rng(2)
    clusters = np.repeat(np.arange(60), 3)
    scores = np.clip(0.5 + 0.2 * rng.standard_normal(60)[clusters] + 0.1 * rng.standard_normal(180), 0, 1)
    bootstrap = bootstrap_interval(scores, clusters, num_resamples=4000)
    assert bootstrap.standard_error == pytest.approx(mean_error(scores, clusters).standard_error, rel=0.05)
    assert bootstrap.ci_low == pytest.approx(win_rate_interval(scores, clusters).ci_low, abs=0.006)


def test_sup_t_quantile_of_one_curve_is_the_pointwise_one_and_of_independent_curves_sidaks():
    """Six independent normal means: P(max |z| < c) = .95 at c = z((1 + .95^(1/6))/2) = 2.631."""
    rng = np.random.default_rng(3)
    curves = rng.random((6, 400))
    assert sup_t_quantile(curves, num_resamples=20_000) == pytest.approx(2.631, abs=0.08)
    assert sup_t_quantile(curves[:1]) == pytest.approx(t_quantile(0.95, 399), abs=0.06)


def test_identical_curves_need_no_wider_band():
    curve = np.random.default_rng(4).random(200)
    assert sup_t_quantile([curve] * 6) == pytest.approx(1.97, abs=0.06)


def test_curves_without_spread_or_without_scores_take_no_part():
    curve = np.random.default_rng(5).random(100)
    alone = sup_t_quantile([curve], seed=1)
    assert sup_t_quantile([curve, np.ones(100)], seed=1) == alone
    assert sup_t_quantile([curve, np.full(100, np.nan)], seed=1) == alone
    assert sup_t_quantile([np.ones(10)]) == t_quantile(0.95, 9)


def test_a_band_covers_all_revisions_together_where_pointwise_intervals_do_not():
    rng = np.random.default_rng(6)
    together = pointwise = 0
    for draw in range(200):
        curves = (rng.random((6, 80)) < 0.4).astype(float)
        quantile = sup_t_quantile(curves, num_resamples=400, seed=draw)
        bands = [win_rate_interval(c, quantile=quantile) for c in curves]
        together += all(b.ci_low <= 0.4 <= b.ci_high for b in bands)
        pointwise += all(i.ci_low <= 0.4 <= i.ci_high for i in map(win_rate_interval, curves))
    assert together / 200 >= 0.91
    assert pointwise / 200 < 0.85


def test_crossed_bootstrap_sees_the_seed_where_prompts_alone_do_not():
    """Seed effects of sd .1, 3 seeds: prompts alone give a standard error near .02, the truth is near .1/sqrt(3) = .058."""
    rng = np.random.default_rng(8)
    scores = np.clip(0.5 + np.array([[-0.1], [0.0], [0.1]]) + 0.2 * rng.standard_normal((3, 100)), 0, 1)
    crossed = crossed_bootstrap(scores)
    assert crossed.standard_error > 2 * mean_error(scores.mean(axis=0)).standard_error
    assert crossed.ci_high - crossed.estimate > 0.1  # t with about 2 degrees of freedom
    assert crossed.n == 100


def test_crossed_bootstrap_covers_the_method_over_seeds_and_prompts():
    rng = np.random.default_rng(9)
    covered = 0
    for draw in range(200):
        truth = 0.5 + 0.05 * rng.standard_normal((4, 1)) + 0.2 * rng.standard_normal((1, 60)) + 0.1 * rng.standard_normal((4, 60))
        interval = crossed_bootstrap(truth, num_resamples=200, seed=draw)
        covered += interval.ci_low <= 0.5 <= interval.ci_high
    assert covered / 200 >= 0.93


def test_crossed_bootstrap_refuses_a_single_seed():
    with pytest.raises(ValueError, match="at least 2 seeds"):
        crossed_bootstrap([[0.1, 0.2, 0.3]])


def test_paper_shading_is_a_standard_deviation_of_twenty_bootstraps():
    scores = np.random.default_rng(10).random(400)
    assert paper_shading(scores) == pytest.approx(mean_error(scores).standard_error, rel=0.5)
    assert np.isnan(paper_shading([np.nan]))


def test_seeds_and_prompts_that_all_agree_are_no_certainty():
    """Ten prompts, three seeds, every score .5: the interval is that of ten prompts without spread, not a point."""
    found = crossed_bootstrap(np.full((3, 10), 0.5))
    assert (found.n, found.estimate) == (10, 0.5)
    assert found.ci_low == pytest.approx(0.5 - 1.5 * (1 - 0.025**0.1)) and found.ci_low < 0.5 < found.ci_high


def test_equal_scores_have_no_shading():
    assert [paper_shading([0.1] * n) for n in range(3, 20)] == [0.0] * 17
