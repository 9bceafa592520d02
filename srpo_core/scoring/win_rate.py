"""Win rates of verdicts asked in both orders: intervals, paired differences, order effects, bounds for missing verdicts.

A prompt's score is s = (u1 + u2) / 2, with u1 the candidate's score when shown first (order as_is) and u2 when shown second
(swapped). NaN marks a verdict that is missing or unscored: it is never a loss. Resampling lives in `resampling.py`.

The intervals cover the choice of prompts, not the training seed: a claim about a method needs several seeds and
`resampling.crossed_bootstrap`.
"""

from collections.abc import Mapping, Sequence
from functools import lru_cache
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

Floats = NDArray[np.float64]
NO_SPREAD = 1e-12  # a standard error below this is rounding: 1/3 averaged three times is not exactly 1/3


class PromptScores(NamedTuple):
    """Scores by prompt, from one or several comparisons (golds, samples, repeats) a prompt."""

    prompts: NDArray[np.str_]  # (P,) ids, sorted
    score: Floats  # (P,) mean s over the comparisons scored in both orders; NaN where there is none
    low: Floats  # (P,) the same over all comparisons, a missing verdict counted 0
    high: Floats  # (P,) a missing verdict counted 1


class MeanError(NamedTuple):
    """A mean and its standard error."""

    n: int  # scored prompts
    num_clusters: int
    mean: float  # NaN when n = 0
    standard_error: float  # NaN with fewer than two clusters


class Interval(NamedTuple):
    """An estimate with its standard error and confidence limits; all NaN when n = 0."""

    n: int
    estimate: float
    standard_error: float  # NaN with fewer than two clusters
    ci_low: float
    ci_high: float


class OrderStatistics(NamedTuple):
    """How much a judge's verdict depends on which text it sees first; over comparisons scored in both orders."""

    n: int  # comparisons scored in both orders
    consistency: float  # share with both orders on the same side of one half (a tie only agrees with a tie)
    first_position_rate: float  # mean score of the text shown first; .5 = no effect
    position_bias: float  # mean (u1 - u2) / 2
    both_first: float  # share in which the text shown first is preferred both times
    both_second: float


def prompt_scores(prompts: Sequence[str] | NDArray[np.str_], as_is: ArrayLike, swapped: ArrayLike) -> PromptScores:
    """Average comparisons by prompt.

    `prompts` (M,) names each comparison's prompt; `as_is` and `swapped` (M,) are the candidate's scores in [0, 1], NaN where
    missing. Raises ValueError on unequal lengths or scores outside [0, 1].
    """
    first, second = unit_scores(as_is), unit_scores(swapped)
    names, index = np.unique(np.asarray(prompts, dtype=np.str_), return_inverse=True)
    if not len(index) == len(first) == len(second):
        raise ValueError(f"expected equal lengths, found {len(index)} prompts, {len(first)} and {len(second)} scores")
    return PromptScores(
        names,
        mean_by(index, (first + second) / 2, len(names)),
        mean_by(index, (np.nan_to_num(first, nan=0.0) + np.nan_to_num(second, nan=0.0)) / 2, len(names)),
        mean_by(index, (np.nan_to_num(first, nan=1.0) + np.nan_to_num(second, nan=1.0)) / 2, len(names)),
    )


def mean_error(values: ArrayLike, clusters: Sequence[str] | NDArray[np.str_] | None = None) -> MeanError:
    """Mean and standard error of `values` (P,), NaN left out; `clusters` (P,) names groups of dependent prompts.

    SE = sqrt( C/(C-1) * sum_c ( sum_{i in c} (s_i - mean) )^2 ) / n; with one prompt a cluster it is sd / sqrt(n).
    """
    scored, index = _scored(values, clusters)
    if scored.size == 0:
        return MeanError(0, 0, float("nan"), float("nan"))
    count, mean = int(index.max()) + 1, without_rounding(float(scored.mean()))
    if count < 2:
        return MeanError(scored.size, 1, mean, float("nan"))
    sums = np.bincount(index, scored - mean)
    error = float(np.sqrt(count / (count - 1) * np.sum(sums**2)) / scored.size)
    return MeanError(scored.size, count, mean, without_rounding(error))


def win_rate_interval(
    scores: ArrayLike,
    clusters: Sequence[str] | NDArray[np.str_] | None = None,
    *,
    confidence: float = 0.95,
    quantile: float | None = None,
) -> Interval:
    """Win rate of per-prompt `scores` (P,) in [0, 1] with Wilson's form of interval.

    Wilson's n becomes n_eff = s(1-s)/SE^2 and its normal quantile the t quantile with C-1 degrees of freedom (or `quantile`,
    for simultaneous bands). Without any spread, or with a single cluster, it is plain Wilson with n = C.
    """
    n, num_clusters, rate, error = mean_error(unit_scores(scores), clusters)
    if n == 0:
        return Interval(0, *[float("nan")] * 4)
    if np.isnan(error) or error < NO_SPREAD:
        normal = quantile or float(_scipy_stats().norm.ppf((1 + confidence) / 2))
        return Interval(n, rate, error, *wilson_limits(rate, num_clusters, normal))
    quantile = quantile or t_quantile(confidence, num_clusters - 1)
    return Interval(n, rate, error, *wilson_limits(rate, rate * (1 - rate) / error**2, quantile))


def wilson_limits(rate: float, num_effective: float, quantile: float) -> tuple[float, float]:
    """Wilson's limits around `rate` for `num_effective` independent trials; always inside [0, 1]."""
    squared = quantile**2 / num_effective
    centre = (rate + squared / 2) / (1 + squared)
    half = np.sqrt(rate * (1 - rate) * squared + squared**2 / 4) / (1 + squared)
    low, high = without_rounding(float(centre - half)), 1 - without_rounding(float(1 - centre - half))
    return max(0.0, low), min(1.0, high)


def mean_interval(
    values: ArrayLike,
    clusters: Sequence[str] | NDArray[np.str_] | None = None,
    *,
    confidence: float = 0.95,
    quantile: float | None = None,
) -> Interval:
    """Mean of `values` (P,) in [-1, 1] with a t interval (C-1 degrees of freedom), cut at -1 and 1.

    Without any spread among C clusters the t interval would be a point. Then at most the share q = 1 - (a/2)^(1/C) of
    clusters can differ and still remain unseen with probability a/2, each by no more than the range allows.
    """
    n, num_clusters, mean, error = mean_error(values, clusters)
    if n == 0:
        return Interval(0, *[float("nan")] * 4)
    if np.isnan(error) or error < NO_SPREAD:
        unseen = 1 - ((1 - confidence) / 2) ** (1 / num_clusters)
        return Interval(n, mean, error, mean - (1 + mean) * unseen, mean + (1 - mean) * unseen)
    half = (quantile or t_quantile(confidence, num_clusters - 1)) * error
    low, high = without_rounding(mean - half), without_rounding(mean + half)
    return Interval(n, mean, error, max(-1.0, low), min(1.0, high))


def paired_difference(
    scores: ArrayLike,
    baseline: ArrayLike,
    clusters: Sequence[str] | NDArray[np.str_] | None = None,
    *,
    confidence: float = 0.95,
    quantile: float | None = None,
) -> Interval:
    """Mean of `scores` - `baseline` (both (P,), same prompts in the same order) over prompts that both have scored."""
    return mean_interval(unit_scores(scores) - unit_scores(baseline), clusters, confidence=confidence, quantile=quantile)


def order_statistics(as_is: ArrayLike, swapped: ArrayLike) -> OrderStatistics:
    """Consistency and position effect over comparisons whose `as_is` and `swapped` (M,) are both scored."""
    first, second = unit_scores(as_is), unit_scores(swapped)
    both = ~np.isnan(first + second)
    first, second = first[both], second[both]
    if first.size == 0:
        return OrderStatistics(0, *[float("nan")] * 5)
    bias = without_rounding(float((first - second).mean() / 2))
    side, other = np.sign(first - 0.5), np.sign(second - 0.5)
    return OrderStatistics(
        first.size,
        float((side == other).mean()),
        0.5 + bias,
        bias,
        float(((side > 0) & (other < 0)).mean()),
        float(((side < 0) & (other > 0)).mean()),
    )


def sign_test(differences: ArrayLike) -> float:
    """Two-sided exact sign test of `differences` (P,): NaN and zeros are left out; 1 when nothing is left."""
    values = np.asarray(differences, dtype=np.float64)
    wins, losses = int((values > NO_SPREAD).sum()), int((values < -NO_SPREAD).sum())
    return float(_scipy_stats().binomtest(wins, wins + losses).pvalue) if wins + losses else 1.0


def holm(p_values: Sequence[float]) -> list[float]:
    """Holm's step-down adjustment: the smallest of m p-values times m, the next times m-1 …, made monotone, at most 1."""
    adjusted, running = [0.0] * len(p_values), 0.0
    for rank, position in enumerate(sorted(range(len(p_values)), key=lambda i: p_values[i])):
        running = max(running, (len(p_values) - rank) * p_values[position])
        adjusted[position] = min(1.0, running)
    return adjusted


@lru_cache(maxsize=1024)
def t_quantile(confidence: float, degrees: float) -> float:
    """The two-sided Student-t quantile."""
    return float(_scipy_stats().t.ppf((1 + confidence) / 2, degrees))


def without_rounding(value: float) -> float:
    """0 where nothing but rounding is left of what would be 0 in exact arithmetic; NaN stays."""
    return 0.0 if abs(value) < NO_SPREAD else value


def without_nan(row: Mapping[str, Any]) -> dict[str, Any]:
    """`row` with None for NaN, nested rows included: a number that does not exist is null in JSON and NULL in SQL."""
    return {
        name: without_nan(value) if isinstance(value, dict) else None if isinstance(value, float) and np.isnan(value) else value
        for name, value in row.items()
    }


def mean_by(index: NDArray[np.intp], values: Floats, size: int) -> Floats:
    """Means (size,) of `values` (N,), NaN left out, over the groups that `index` (N,) names; NaN where a group has none."""
    scored = ~np.isnan(values)
    count = np.bincount(index[scored], minlength=size)
    total = np.bincount(index[scored], values[scored], minlength=size)
    return np.divide(total, count, out=np.full(size, np.nan), where=count > 0)


def unit_scores(values: ArrayLike) -> Floats:
    """`values` as floats. Raises ValueError where one is outside [0, 1]; NaN stands for unscored."""
    scores = np.asarray(values, dtype=np.float64)
    outside = (scores < 0) | (scores > 1)  # NaN compares false: unscored is allowed
    if outside.any():
        raise ValueError(f"expected scores in [0, 1] or NaN, found {scores[outside][0]}")
    return scores


def _scored(values: ArrayLike, clusters: Sequence[str] | NDArray[np.str_] | None) -> tuple[Floats, NDArray[np.intp]]:
    """The values that are not NaN and the cluster 0 .. C-1 of each; without `clusters` every value is its own."""
    array = np.asarray(values, dtype=np.float64)
    names = np.arange(array.size) if clusters is None else np.asarray(clusters, dtype=np.str_)
    if array.ndim != 1 or names.shape != array.shape:
        raise ValueError(f"expected one cluster for each of {array.shape} values, found {names.shape}")
    kept = ~np.isnan(array)
    return array[kept], np.unique(names[kept], return_inverse=True)[1]


def _scipy_stats() -> Any:
    """The module, imported when a number is needed: it takes half a second, which every flow and command would pay."""
    from scipy import stats

    return stats
