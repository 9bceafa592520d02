"""A lower limit of a mean of bounded values that also holds for skewed ones: losses too rare to be seen are minded.

A t interval knows only what was seen: of 100 prompts of which 97 in a hundred gain a little and the others lose much, often none
of the losses is seen, and the t limit is far too high. So every set of prompts is given one more cluster, which loses as much as
a prompt can, and every cluster a weight by lot, exponential with mean 1 (the Bayesian bootstrap); the limit is the quantile of
the weighted mean. For wins and losses alone that is Clopper and Pearson's exact limit, nearly: weights are not divided by their
sum, which makes sets additive and the limit a little lower. Without any spread among C clusters it comes to
mean - (mean - worst) * (-log level) / C, nearly: the share of clusters that can differ and remain unseen. That the limit errs at
most at its level has been computed and simulated for many skewed distributions; there is no proof for all of them.
"""

import math
from collections.abc import Sequence

import numpy as np

from srpo_core.scoring.win_rate import Floats


def cautious_lower_limit(
    values: Sequence[Floats], clusters: Sequence[Sequence[str]], worst: Sequence[float], level: float
) -> float:
    """Lower limit, erring at `level` in (0, 1/2), of the mean over the sets of each set's mean.

    `values`: by set (P_s,), NaN left out, with the `clusters` of each and the `worst` value that a prompt of the set can have.
    Clusters of one name are one also across sets, and where sets share any the unseen clusters of all sets are one, too: what is
    lost unseen is then lost in all of them. Raises ValueError for a set without a value.
    """
    means, shares, names = [], [], list[str]()
    shared = len(set().union(*clusters)) < sum(len(set(groups)) for groups in clusters)
    for own, groups, lowest in zip(values, clusters, worst, strict=True):
        kept = ~np.isnan(own)
        if not kept.any():
            raise ValueError("expected a value in every set, found a set without one")
        found, named = own[kept], [name for name, has_value in zip(groups, kept, strict=True) if has_value]
        size = len(found) / len(set(named))  # prompts of a mean cluster, which the one more has
        mean = (found.sum() + size * lowest) / (len(found) + size)
        weight = 1 / (len(values) * (len(found) + size))
        means.append(float(mean))
        shares += [weight * (found - mean), [weight * size * (lowest - mean)]]
        names += [*(f"cluster {name}" for name in named), "unseen" if shared else f"unseen of set {len(means)}"]
    sums = np.bincount(np.unique(names, return_inverse=True)[1], np.concatenate(shares)).astype(np.float64)
    return float(np.mean(means)) + _weighted_quantile(sums, level)


def _weighted_quantile(shares: Floats, level: float) -> float:
    """The `level` quantile, at most 0, of sum (E_i - 1) y_i with exponential E_i: Lugannani and Rice's saddlepoint formula."""
    from scipy import optimize, stats  # here, because importing it takes half a second

    lowest = float(shares.min())
    if lowest >= 0:  # all values are the worst one
        return 0.0

    def sum_at(theta: float) -> float:
        return float(np.sum(shares / (1 - theta * shares) - shares))

    def excess(theta: float) -> float:
        logarithm = float(np.sum(-theta * shares - np.log1p(-theta * shares)))
        root = -math.sqrt(2 * max(theta * sum_at(theta) - logarithm, 0.0))
        scaled = theta * math.sqrt(float(np.sum((shares / (1 - theta * shares)) ** 2)))
        return float(stats.norm.cdf(root) + stats.norm.pdf(root) * (1 / root - 1 / scaled)) - level

    furthest, nearest = (1 - 1e-12) / lowest, 1e-2 / lowest
    if excess(nearest) <= 0:
        return 0.0
    return sum_at(float(optimize.brentq(excess, furthest, nearest, xtol=1e-13 / -lowest)))
