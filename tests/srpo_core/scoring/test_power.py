"""Power against textbook numbers, statsmodels' own solver, and simulated intervals."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from statsmodels.stats.power import TTestPower

from srpo_core.errors import InputError
from srpo_core.scoring.power import achieved_power, detectable_difference, prompts_needed
from srpo_core.scoring.win_rate import paired_difference, win_rate_interval


def test_half_a_deviation_needs_thirty_four_prompts():
    """The textbook case of a paired t test: d = .5, level .05, power .8 gives n = 33.37, rounded up."""
    assert prompts_needed(0.05, 0.1) == 34


def test_a_win_rate_of_55_percent_with_the_largest_deviation_needs_about_785_prompts():
    """Normal approximation: (1.96 + .8416)^2 * .25 / .05^2 = 784.9; the t test needs about two more."""
    assert prompts_needed(0.05, 0.5) == 787


@given(st.floats(0.01, 0.5), st.floats(0.05, 0.5), st.sampled_from([0.01, 0.05, 0.1]), st.sampled_from([0.5, 0.8, 0.9]))
@settings(max_examples=30, deadline=None)
def test_no_fewer_prompts_reach_the_power(delta, deviation, level, power):
    n = prompts_needed(delta, deviation, level=level, power=power)
    assert achieved_power(n, delta / deviation, level=level) >= power
    assert n == 2 or achieved_power(n - 1, delta / deviation, level=level) < power
    assert detectable_difference(n, deviation, level=level, power=power) <= delta * (1 + 1e-9)


@pytest.mark.parametrize(("n", "deviation"), [(10, 0.3), (100, 0.3), (805, 0.5)])
def test_the_detectable_difference_is_statsmodels_solution(n, deviation):
    effect = TTestPower().solve_power(nobs=n, alpha=0.05, power=0.8, alternative="two-sided")
    assert detectable_difference(n, deviation) == pytest.approx(float(effect) * deviation, rel=1e-5)


def test_two_prompts_show_nothing_that_a_win_rate_can_be():
    assert detectable_difference(2, 0.3) > 0.5


def test_a_difference_far_larger_than_the_spread_still_needs_two_prompts():
    assert prompts_needed(0.5, 1e-9) == 2
    assert achieved_power(3, 1e6) == pytest.approx(1.0)


def test_the_paired_interval_excludes_zero_as_often_as_promised():
    """600 simulated experiments at the sample size for power .8: known to about .016."""
    rng = np.random.default_rng(0)
    n = prompts_needed(0.05, 0.2)
    found = 0
    for _ in range(600):
        baseline = rng.uniform(0.3, 0.6, n)
        change = 0.05 + rng.choice([-0.2, 0.2], n)
        found += paired_difference(np.clip(baseline + change, 0, 1), baseline).ci_low > 0
    assert 0.74 <= found / 600 <= 0.86


def test_the_win_rate_interval_excludes_one_half_as_often_as_promised():
    """Both orders of a judge that prefers the candidate in .58 of its looks: sd of the mean of two is sqrt(.58*.42/2)."""
    rng = np.random.default_rng(1)
    n = prompts_needed(0.08, math.sqrt(0.58 * 0.42 / 2))
    runs = (rng.random((2, 600, n)) < 0.58).mean(axis=0)
    assert 0.74 <= np.mean([win_rate_interval(run).ci_low > 0.5 for run in runs]) <= 0.86


@pytest.mark.parametrize("delta", [0.0, -0.05, 0.51, math.nan, math.inf])
def test_a_difference_that_a_win_rate_cannot_have_is_refused(delta):
    with pytest.raises(InputError, match="difference above 0 and at most .5"):
        prompts_needed(delta, 0.3)


@pytest.mark.parametrize("deviation", [0.0, -1.0, math.nan, math.inf])
def test_a_deviation_that_is_not_positive_is_refused(deviation):
    with pytest.raises(InputError, match="expected a deviation above 0"):
        prompts_needed(0.05, deviation)
    with pytest.raises(InputError, match="expected a deviation above 0"):
        detectable_difference(100, deviation)


def test_levels_powers_and_sizes_that_cannot_be_are_refused():
    with pytest.raises(InputError, match="level"):
        prompts_needed(0.05, 0.3, level=0.0)
    for power in (0.01, 1.0, math.nan):
        with pytest.raises(InputError, match="power"):
            prompts_needed(0.05, 0.3, power=power)
        with pytest.raises(InputError, match="power"):
            detectable_difference(100, 0.3, power=power)
    for refused in (prompts_needed, detectable_difference):
        with pytest.raises(InputError, match="expected a level below the power of 0.8, found a level of 0.85"):
            refused(10 if refused is detectable_difference else 0.05, 0.3, level=0.85)
    with pytest.raises(InputError, match="at least 2 prompts"):
        detectable_difference(1, 0.3)


def test_a_difference_that_no_number_of_prompts_shows_is_refused():
    with pytest.raises(InputError, match="larger one"):
        prompts_needed(1e-9, 0.5)
