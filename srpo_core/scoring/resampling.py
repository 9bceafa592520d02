"""Seeded bootstraps over prompts (clusters) and training seeds: simultaneous bands, cross-checks, and the paper's shading.

Every resample draws whole clusters, and all revisions of a curve share the draw, so that their dependence is kept. Sources:
sup-t bands after Montiel Olea and Plagborg-Moller (2019); the crossed resampling of two factors is Owen's pigeonhole
bootstrap (2007).
"""

from collections.abc import Sequence
from functools import lru_cache
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from srpo_core.scoring.win_rate import NO_SPREAD, Floats, Interval, mean_error, mean_interval, t_quantile, without_rounding


class ClusterTotals(NamedTuple):
    """What a resample of clusters needs: totals of scored values and how many there are."""

    sums: Floats  # (C, K)
    counts: Floats  # (C, K)


def cluster_totals(curves: ArrayLike, clusters: Sequence[str] | NDArray[np.str_] | None = None) -> ClusterTotals:
    """Sum `curves` (K, P), NaN left out, over the clusters named by `clusters` (P,); one prompt a cluster by default."""
    values = np.asarray(curves, dtype=np.float64)
    index = np.arange(values.shape[1]) if clusters is None else np.unique(np.asarray(clusters), return_inverse=True)[1]
    size = int(index.max()) + 1 if index.size else 0
    sums, counts = np.zeros((size, len(values))), np.zeros((size, len(values)))
    np.add.at(sums, index, np.nan_to_num(values).T)
    np.add.at(counts, index, (~np.isnan(values)).T.astype(np.float64))
    return ClusterTotals(sums, counts)


def resampled_means(totals: ClusterTotals, num_resamples: int, seed: int) -> Floats:
    """Means (B, K) over B resamples of the clusters, drawn with replacement; NaN where a resample has no scored value."""
    weights = cluster_draws(len(totals.sums), num_resamples, seed)
    with np.errstate(invalid="ignore"):
        return (weights @ totals.sums) / (weights @ totals.counts)


@lru_cache(maxsize=4)
def cluster_draws(size: int, num_resamples: int, seed: int) -> Floats:
    """How often each of `size` clusters is drawn in each resample; kept, because every curve of a report asks for the same."""
    return np.random.default_rng(seed).multinomial(size, np.full(size, 1 / size), num_resamples).astype(np.float64)


def sup_t_quantile(
    curves: ArrayLike,
    clusters: Sequence[str] | NDArray[np.str_] | None = None,
    *,
    confidence: float = 0.95,
    num_resamples: int = 2000,
    seed: int = 0,
) -> float:
    """The quantile that makes K intervals hold together: of max_k |mean*_k - mean_k| / sd_k over shared resamples.

    `curves` (K, P) holds one row per revision. Never below the pointwise t quantile, so a band is never narrower than the
    intervals. Curves without spread take no part.
    """
    totals = cluster_totals(curves, clusters)
    scored = (totals.counts > 0).sum(axis=0)  # (K,) clusters
    pointwise = t_quantile(confidence, max(int(scored[scored > 0].min(initial=len(totals.sums))) - 1, 1))
    if len(totals.sums) < 2:
        return pointwise
    means = resampled_means(totals, num_resamples, seed)[:, scored > 0]
    means = means[~np.isnan(means).all(axis=1)]
    spread = np.nanstd(means, axis=0, ddof=1)
    varying = spread > NO_SPREAD
    if not varying.any():
        return pointwise
    largest = np.nanmax(np.abs(means - np.nanmean(means, axis=0))[:, varying] / spread[varying], axis=1)
    return max(pointwise, float(np.nanquantile(largest, confidence)))


def bootstrap_interval(
    scores: ArrayLike,
    clusters: Sequence[str] | NDArray[np.str_] | None = None,
    *,
    confidence: float = 0.95,
    num_resamples: int = 2000,
    seed: int = 0,
) -> Interval:
    """Percentile interval of the mean of `scores` (P,): the cross-check of `win_rate_interval`."""
    n, _, mean, _ = mean_error(scores, clusters)
    if n == 0:
        return Interval(0, *[float("nan")] * 4)
    means = resampled_means(cluster_totals(np.atleast_2d(np.asarray(scores, dtype=np.float64)), clusters), num_resamples, seed)[
        :, 0
    ]
    low, high = np.nanquantile(means, [(1 - confidence) / 2, (1 + confidence) / 2])
    return Interval(n, mean, without_rounding(float(np.nanstd(means, ddof=1))), float(low), float(high))


def paper_shading(scores: ArrayLike, *, num_resamples: int = 20, seed: int = 0) -> float:
    """Standard deviation of the mean over 20 bootstraps, as SRPO's figures shade it: not a confidence interval."""
    if mean_error(scores).n == 0:
        return float("nan")
    totals = cluster_totals(np.atleast_2d(np.asarray(scores, dtype=np.float64)))
    return without_rounding(float(np.nanstd(resampled_means(totals, num_resamples, seed), ddof=1)))


def crossed_bootstrap(
    scores: ArrayLike,
    clusters: Sequence[str] | NDArray[np.str_] | None = None,
    *,
    confidence: float = 0.95,
    num_resamples: int = 2000,
    seed: int = 0,
) -> Interval:
    """Mean of `scores` (S, P), S training seeds on the same P prompts, with both the seeds and the prompts resampled.

    The standard error is the spread over resamples. The interval is mean +- t * SE: with few seeds a percentile of the
    resamples is too narrow, so t has Satterthwaite's degrees of freedom for the two variance components, S-1 when the seeds
    dominate and C-1 when the prompts do. Without any spread it is `mean_interval` over prompts.

    Raises ValueError with fewer than two seeds or clusters.
    """
    values = np.asarray(scores, dtype=np.float64)
    totals = cluster_totals(values, clusters)
    if values.shape[0] < 2 or len(totals.sums) < 2:
        raise ValueError(f"expected at least 2 seeds and 2 prompts, found {values.shape[0]} and {len(totals.sums)}")
    rng = np.random.default_rng(seed)
    by_cluster = rng.multinomial(len(totals.sums), np.full(len(totals.sums), 1 / len(totals.sums)), num_resamples)
    by_seed = rng.multinomial(len(values), np.full(len(values), 1 / len(values)), num_resamples)
    with np.errstate(invalid="ignore"):
        means = np.sum((by_cluster @ totals.sums) * by_seed, axis=1) / np.sum((by_cluster @ totals.counts) * by_seed, axis=1)
    mean, error = float(np.nanmean(values)), float(np.nanstd(means, ddof=1))
    if error < NO_SPREAD:  # a point would claim to know what no resample could show
        groups = None if clusters is None else np.asarray(clusters)
        return mean_interval(np.nanmean(values, axis=0), groups, confidence=confidence)
    half = t_quantile(confidence, _satterthwaite(values, clusters)) * error
    return Interval(int((~np.isnan(values)).any(axis=0).sum()), mean, error, mean - half, mean + half)


def _satterthwaite(values: Floats, clusters: Sequence[str] | NDArray[np.str_] | None) -> float:
    by_seed = mean_error(np.nanmean(values, axis=1))
    scored = (~np.isnan(values)).any(axis=0)
    groups = None if clusters is None else np.asarray(clusters)[scored]
    by_prompt = mean_error(np.nanmean(values[:, scored], axis=0), groups)
    components = [(m.standard_error**2, m.num_clusters - 1) for m in (by_seed, by_prompt)]
    below = sum(variance**2 / degrees for variance, degrees in components)
    return sum(variance for variance, _ in components) ** 2 / below if below > 0 else float(components[1][1])
