"""Looking early: a test of "the win rate is one half" that may be read after every verdict without losing its level.

A betting e-process (Waudby-Smith and Ramdas, 2010.09686, their predictable plug-in bets): two gamblers bet on s - 1/2 and
against it; under the null neither gets rich, however often one looks (Ville's inequality). It needs prompts in an order that
tells nothing about their scores: sorted by topic it alarms without cause, so the order is `judging_order`'s.
"""

import hashlib
from collections import Counter
from collections.abc import Sequence
from typing import Literal, NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from srpo_core.errors import InputError
from srpo_core.scoring.win_rate import Floats, unit_scores

LARGEST_BET = 0.99


class AnytimeTest(NamedTuple):
    """What the e-process says at the end of the scores, and when it first said enough."""

    n: int  # scored prompts
    decided_at: int | None  # scored prompts seen when the e-value first reached 1 / level; None: undecided
    side: Literal["above", "below"] | None  # of one half, at that moment
    p_value: float  # min(1, 1 / largest e-value so far): valid whenever one looks


def anytime_test(scores: ArrayLike, *, level: float = 0.05) -> AnytimeTest:
    """Test whether the mean of `scores` (P,), in judging order and in [0, 1], is one half; NaN (unscored) is passed over.

    One score a prompt: the scores of dependent prompts are to be averaged first. The answer depends on the order, and is only
    valid for one that was fixed before the scores were known, such as `judging_order`. Raises InputError on a level outside
    (0, 1), ValueError on scores outside [0, 1].
    """
    values = np.asarray(scores, dtype=np.float64)
    values = values[~np.isnan(values)]
    wealth = log_wealth(values, level=level)
    e_values = _log_mean(wealth)
    reached = np.flatnonzero(e_values >= -np.log(level))
    p_value = float(np.exp(-max(0.0, e_values.max(initial=0.0))))
    if reached.size == 0:
        return AnytimeTest(values.size, None, None, p_value)
    at = int(reached[0])
    side: Literal["above", "below"] = "above" if wealth.above[at] > wealth.below[at] else "below"
    return AnytimeTest(values.size, at + 1, side, p_value)


class LogWealth(NamedTuple):
    """Logarithm of both gamblers' wealth after each score; both begin at 1."""

    above: Floats  # (..., P) log K+, who bets on s > 1/2
    below: Floats  # (..., P) log K-


def log_wealth(scores: ArrayLike, *, level: float = 0.05) -> LogWealth:
    """Wealth along the last axis of `scores` (..., P), all in [0, 1].

    K+ = prod (1 + l_i (s_i - 1/2)) and K- = prod (1 - l_i (s_i - 1/2)) with l_i = min(sqrt(2 ln(2/level) / (v_{i-1} i ln(i+1))),
    .99) for i = 1, 2, ...; v_i = (1/4 + sum_{j<=i} (s_j - m_j)^2) / (i + 1) with m_j = (1/2 + sum_{k<=j} s_k) / (j + 1), so that
    v_0 = 1/4: every bet is made from earlier scores only. Raises InputError, ValueError as `anytime_test`.
    """
    values = np.asarray(scores, dtype=np.float64)
    if not 0 < level < 1:
        raise InputError(f"expected a level between 0 and 1, found {level}; .05 is usual")
    if np.isnan(unit_scores(values)).any():
        raise ValueError("expected scored prompts only, found NaN; leave unscored ones out")
    index = np.arange(1, values.shape[-1] + 1)
    means = (0.5 + np.cumsum(values, axis=-1)) / (index + 1)
    variances = (0.25 + np.cumsum((values - means) ** 2, axis=-1)) / (index + 1)
    before = np.concatenate([np.full((*values.shape[:-1], 1), 0.25), variances[..., :-1]], axis=-1)[..., : values.shape[-1]]
    bets = np.minimum(np.sqrt(2 * np.log(2 / level) / (before * index * np.log(index + 1))), LARGEST_BET)
    gains = bets * (values - 0.5)
    return LogWealth(np.cumsum(np.log1p(gains), axis=-1), np.cumsum(np.log1p(-gains), axis=-1))


def log_e_values(scores: ArrayLike, *, level: float = 0.05) -> Floats:
    """log((K+ + K-) / 2) after each of `scores` (..., P): the null is rejected at `level` once it reaches log(1 / level)."""
    return _log_mean(log_wealth(scores, level=level))


def _log_mean(wealth: LogWealth) -> Floats:
    summed: Floats = np.logaddexp(wealth.above, wealth.below)
    return summed - np.log(2)


def judging_order(prompt_ids: Sequence[str], seed: int) -> NDArray[np.intp]:
    """The seeded random order to judge prompts in: a permutation (P,) of positions in `prompt_ids`.

    It depends on the ids and the seed alone, not on the order of the rows: prompts are sorted by a hash of both, so prompts
    added later leave the others in their order. Raises InputError without prompts or with an id that comes twice.
    """
    if len(prompt_ids) == 0:
        raise InputError("expected prompts to put into a random order, found none")
    twice, times = Counter(prompt_ids).most_common(1)[0]
    if times > 1:
        raise InputError(f"expected each prompt once in a judging order, found {twice!r} more often; average its scores first")
    places = [hashlib.sha256(f"{seed}:{one}".encode()).digest() for one in prompt_ids]
    return np.array(sorted(range(len(places)), key=places.__getitem__), dtype=np.intp)
