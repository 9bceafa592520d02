"""The drift of a judge: p-values by hand, the rate of false alarms, power, and what counts as an answer."""

import math

import numpy as np
import pytest

from srpo_core.errors import InputError
from srpo_core.scoring.drift import LEVEL, measure_drift

NAN = math.nan


def drift(calibration, look, *, failed=()):
    """`failed`: games without an answer at the look."""
    answered = np.ones_like(np.asarray(calibration), dtype=bool)
    return measure_drift(calibration, answered, look, [i not in failed for i in range(len(look))])


def repeats(rng, probabilities, looks):
    """Verdicts 1 or 0 of a judge that prefers each candidate with its own probability, looks by games."""
    return (rng.random((looks, len(probabilities))) < probabilities).astype(float)


def noisy_games(rng, games=100):
    """Most games are clear to the judge, some are not."""
    return rng.choice([0.02, 0.1, 0.5, 0.9, 0.98], games, p=[0.35, 0.1, 0.1, 0.1, 0.35])


def test_p_values_of_three_games_that_all_turned_over_at_the_look_alone():
    """Five looks 1, the new one 0, in each of three games: the new look is the odd one of six by lot with chance (1/6)^3.

    Any other choice moves less: with one ordinary answer among the three the sum is |1/6 - 2 * 5/6| < 3 * 5/6. So p = 1/216.
    """
    found = drift(np.ones((5, 3)), np.zeros(3))
    assert found.shift == -1 and found.flip_rate == 1 and found.calibration_flip_rate == 0
    assert found.shift_p_value == pytest.approx(1 / 216, abs=0.003)
    assert found.flip_p_value == pytest.approx(1 / 216, abs=0.003)
    assert found.alarm


def test_one_game_that_turned_over_is_no_alarm_however_quiet_the_judge_was():
    """Chance 1/6 that the odd one of six answers is the new one; a rule of no noise, no change would cry wolf."""
    look = np.ones(100)
    look[7] = 0
    found = drift(np.ones((5, 100)), look)
    assert found.flip_p_value == pytest.approx(1 / 6, abs=0.03) and not found.alarm


def test_a_judge_that_never_changes_has_nothing_to_alarm_about():
    found = drift(np.tile([1.0, 0, 0.5], (5, 1)), [1.0, 0, 0.5])
    assert (found.shift, found.flip_rate, found.shift_p_value, found.flip_p_value, found.alarm) == (0, 0, 1, 1, False)


def test_the_interval_of_the_shift_has_the_variance_of_a_mean_against_a_mean():
    """Two looks, eight games: scores (0, 1) each, variance .5; (1 + 1/2) * .5 / 8 = .09375; t(8 df) = 2.306004."""
    found = drift([[0] * 8, [1] * 8], [1] * 8)
    half = 2.306004 * math.sqrt(0.09375)
    assert (found.shift, found.shift_low) == (pytest.approx(0.5), pytest.approx(0.5 - half, abs=1e-6))
    assert found.shift_high == 1.0  # cut where a shift must end


def test_changes_that_cancel_in_the_mean_are_seen_in_the_flips():
    calibration = np.tile(np.repeat([1.0, 0.0], 50), (5, 1))
    look = calibration[0].copy()
    look[:6], look[50:56] = 0, 1
    found = drift(calibration, look)
    assert found.shift == pytest.approx(0) and found.shift_p_value > 0.5
    assert found.flip_p_value < 0.001 and found.alarm


def test_a_small_shift_of_probabilities_is_seen_without_any_flip():
    """A judge of probabilities whose scores move by .02 with noise .005 keeps every outcome."""
    rng = np.random.default_rng(0)
    centre = rng.choice([0.3, 0.7], 60)
    found = drift(centre + rng.normal(0, 0.005, (5, 60)), centre + 0.02 + rng.normal(0, 0.005, 60))
    assert found.flip_rate == 0 and found.shift == pytest.approx(0.02, abs=0.003) and found.alarm


def test_replies_that_lose_their_verdict_are_a_change_and_failed_calls_are_none():
    calibration = np.tile(np.repeat([1.0, 0.0], 25), (5, 1))
    look = calibration[0].copy()
    look[:8] = NAN
    unparsable, failed = drift(calibration, look), drift(calibration, look, failed=range(8))
    assert unparsable.alarm and (unparsable.n_games, unparsable.n_scored) == (50, 42)
    assert not failed.alarm and (failed.n_games, failed.n_scored) == (42, 42)


def test_a_tie_that_becomes_unscored_is_another_outcome():
    found = drift(np.full((5, 20), 0.5), [NAN] * 8 + [0.5] * 12)
    assert found.flip_rate == pytest.approx(8 / 20) and found.alarm


def test_no_game_in_common_gives_no_numbers_and_no_alarm():
    found = drift(np.ones((5, 2)), [1.0, 1.0], failed=(0, 1))
    assert found.n_games == 0 and math.isnan(found.shift) and not found.alarm


def test_a_single_calibration_look_shows_no_noise_to_test_against():
    with pytest.raises(InputError, match="at least 2 calibration looks"):
        drift(np.ones((1, 3)), np.ones(3))


def test_false_alarms_are_at_most_one_look_in_twenty():
    """400 judges with noise of their own, none of which changed: at most .05 plus three standard errors (.033)."""
    rng = np.random.default_rng(11)
    alarms = 0
    for _ in range(400):
        answers = repeats(rng, noisy_games(rng), 6)
        alarms += drift(answers[:5], answers[5]).alarm
    assert alarms / 400 <= LEVEL + 0.033


def test_a_judge_that_turned_over_a_seventh_of_its_verdicts_is_noticed():
    """100 games, each answered the other way with chance .15: at least 9 of 10 looks alarm."""
    rng = np.random.default_rng(12)
    alarms = 0
    for _ in range(60):
        probabilities = noisy_games(rng)
        changed = np.where(rng.random(100) < 0.15, 1 - probabilities, probabilities)
        alarms += drift(repeats(rng, probabilities, 5), repeats(rng, changed, 1)[0]).alarm
    assert alarms >= 54
