"""Has a judge changed?  A look at frozen games against the looks that calibrated its own repeat noise.

Null hypothesis: the answers to one game are exchangeable between the R calibration looks and the new look, and independent
between games, as for a judge whose sampling is its only noise. So, given the R + 1 answers of every game, each of them is
equally likely to be the new one, and both statistics get an exact null distribution without any assumption on how noisy which
game is: the sum of score shifts (two-sided), and the disagreement of the new outcome with the others (one-sided), which sees
changes that cancel in the mean. Two p-values, Holm over both: at most `level` false alarms per look. Every look is tested
against the same calibration, so over many looks a false alarm will come; a judge that changed keeps alarming.
"""

from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike

from srpo_core.errors import InputError
from srpo_core.scoring.win_rate import Floats, holm, t_quantile

NUM_DRAWS = 4999  # p-values have steps of 1/5000
LEVEL = 0.05
ROUNDING = 1e-9
_WITHOUT_SCORE = 2.0  # an outcome of its own beside win 1, tie 0, loss -1


class Drift(NamedTuple):
    """What a look found; shifts are in score, in [-1, 1], the interval in repeat noise alone."""

    n_games: int  # answered at every look
    n_scored: int  # and scored at every look
    shift: float  # mean score of the look minus the calibration's
    shift_low: float
    shift_high: float
    shift_p_value: float
    flip_rate: float  # chance that an answer of the look differs in outcome from one of the calibration
    calibration_flip_rate: float  # the same between two calibration looks
    flip_p_value: float
    alarm: bool


def measure_drift(
    calibration: ArrayLike, calibration_answered: ArrayLike, look: ArrayLike, look_answered: ArrayLike, *, seed: int = 0
) -> Drift:
    """Compare a look's scores (G,) with those of R calibration looks (R, G); p-values from `NUM_DRAWS` seeded draws.

    NaN is an answer without a score, which is an outcome of its own; a game without an answer (the call failed) at any look is
    left out. Raises InputError with fewer than two calibration looks.
    """
    scores = np.vstack([np.asarray(calibration, dtype=np.float64), np.asarray(look, dtype=np.float64)])
    answered = np.vstack([np.asarray(calibration_answered, dtype=bool), np.asarray(look_answered, dtype=bool)])
    if len(scores) < 3:
        raise InputError(f"expected at least 2 calibration looks, found {len(scores) - 1}; look more often before testing")
    scores = scores[:, answered.all(axis=0)]
    scored = scores[:, ~np.isnan(scores).any(axis=0)]
    shifts, flips = scored - scored.mean(axis=0), _disagreement(scores)
    moved, could_move = _sums_by_lot(shifts, np.random.default_rng([seed, 0]))
    p_shift = _share_at_least(np.abs(could_move), abs(moved))
    flipped, could_flip = _sums_by_lot(flips, np.random.default_rng([seed, 1]))
    p_flip = _share_at_least(could_flip, flipped)
    shift, half = _shift(scored)
    return Drift(
        scores.shape[1],
        scored.shape[1],
        shift,
        max(-1.0, shift - half),
        min(1.0, shift + half),
        p_shift,
        _mean(flips[-1]),
        _mean(_disagreement(scores[:-1])),
        p_flip,
        min(holm([p_shift, p_flip])) <= LEVEL,
    )


def _shift(scores: Floats) -> tuple[float, float]:
    """Mean shift and half its interval: variance (1 + 1/R) / G times the mean variance of a game over the calibration looks."""
    looks, games = len(scores) - 1, scores.shape[1]
    if games == 0:
        return float("nan"), float("nan")
    variance = float(scores[:-1].var(axis=0, ddof=1).mean())
    shift = float((scores[-1] - scores[:-1].mean(axis=0)).mean())
    return shift, t_quantile(1 - LEVEL, games * (looks - 1)) * float(np.sqrt((1 + 1 / looks) * variance / games))


def _disagreement(scores: Floats) -> Floats:
    """(L, G): the share of the other looks in which a game's outcome differs."""
    outcomes = np.where(np.isnan(scores), _WITHOUT_SCORE, np.sign(scores - 0.5))
    return (outcomes[:, None] != outcomes[None, :]).sum(axis=1) / (len(outcomes) - 1)


def _sums_by_lot(values: Floats, rng: np.random.Generator) -> tuple[float, Floats]:
    """The new look's sum over games of `values` (L, G), and `NUM_DRAWS` sums with each game's new answer drawn by lot."""
    varying = values[:, np.ptp(values, axis=0) > ROUNDING] if values.size else values[:, :0]
    constant = float(values[-1].sum() - varying[-1].sum())
    chosen = rng.integers(0, len(values), (NUM_DRAWS, varying.shape[1]))
    return float(values[-1].sum()), constant + varying[chosen, np.arange(varying.shape[1])].sum(axis=1)


def _share_at_least(sums: Floats, observed: float) -> float:
    """The p-value of a seeded permutation test, which counts the observed draw among the draws."""
    return float((1 + (sums >= observed - ROUNDING).sum()) / (1 + len(sums)))


def _mean(values: Floats) -> float:
    return float(values.mean()) if values.size else float("nan")
