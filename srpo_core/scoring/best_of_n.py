"""Best of n drafts against k self-revisions at equal numbers of generated tokens.

What the best of n drafts by some selector scores is a mean over all subsets of n of the N drafts at hand, known in closed form
(as pass@k is, Chen et al. 2021, 2107.03374, with a score in the place of right and wrong). For one prompt

    E[score of the pick] = sum_i w_i score_i,    w_i = (C(b_i, n) - C(a_i, n)) / (C(N, n) (b_i - a_i))

where a_i drafts have a lower selector value than draft i and b_i have none higher: equal values are picked equally often. All n
drafts are generated, so best of n costs n times the mean tokens of a draft.

A number of revisions is compared with the n that costs as much. Between two integers, best of the lower n for some prompts and
of the higher for the others costs and scores the linear interpolation, so a fractional n is a strategy one can run.
"""

from collections.abc import Sequence
from functools import lru_cache
from math import comb
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from srpo_core.scoring.win_rate import Floats, Interval, mean_interval

UNMATCHED = Interval(0, *[float("nan")] * 4)


class Match(NamedTuple):
    """Revisions against best of n where both cost the same; NaN where no prompt is scored."""

    num_drafts: float  # the n that costs as many tokens; above N there are too few drafts to compare
    mean_tokens: float  # per prompt
    revisions_win_rate: float
    drafts_win_rate: float
    difference: Interval  # revisions minus drafts, paired by prompt; n = 0 when not comparable


def pick_probabilities(values: ArrayLike) -> Floats:
    """Probability (N, N) that each draft (column) is the pick of a random subset of n = row + 1 drafts.

    `values` (N,) are the selector's; NaN is below every number.
    """
    keys = np.asarray(values, dtype=np.float64)
    keys = np.where(np.isnan(keys), -np.inf, keys)
    ordered = np.sort(keys)
    below, not_above = np.searchsorted(ordered, keys, "left"), np.searchsorted(ordered, keys, "right")
    inside = _share_inside(len(keys))
    return (inside[:, not_above] - inside[:, below]) / (not_above - below)


@lru_cache(maxsize=8)
def _share_inside(size: int) -> Floats:
    """C(m, n) / C(N, n) as (N, N + 1), n = row + 1 and m = column: how likely a subset lies within m given drafts."""
    return np.array([[comb(m, n) / comb(size, n) for m in range(size + 1)] for n in range(1, size + 1)])


def best_of_n_scores(values: ArrayLike, scores: ArrayLike) -> Floats:
    """Expected score (P, N) of the best of n = column + 1 drafts of each prompt.

    `values` (P, N): the selector's; `scores` (P, N): in [0, 1], NaN where unscored. A pick without a score counts as missing, not
    as a loss: the mean is over the picks with one, NaN when there is none. Raises ValueError on unequal shapes.
    """
    keys, known = np.asarray(values, dtype=np.float64), np.asarray(scores, dtype=np.float64)
    if keys.shape != known.shape or keys.ndim != 2:
        raise ValueError(f"expected selector values and scores of one shape (P, N), found {keys.shape} and {known.shape}")
    result = np.full(known.shape, np.nan)
    for place, (own, score) in enumerate(zip(keys, known, strict=True)):
        scored = ~np.isnan(score)
        weights = pick_probabilities(own)[:, scored]
        total = weights.sum(axis=1)
        np.divide(weights @ score[scored], total, out=result[place], where=total > 0)
    return result


def match_tokens(
    revised: ArrayLike,
    revised_tokens: ArrayLike,
    best: ArrayLike,
    draft_tokens: ArrayLike,
    clusters: Sequence[str] | NDArray[np.str_] | None = None,
    *,
    confidence: float = 0.95,
) -> Match:
    """Compare scores `revised` (P,) of one number of revisions with `best` (P, N), best of n, at equal mean tokens.

    `revised_tokens` (P,): of the draft and all revisions; `draft_tokens` (P,): the mean of a draft. A prompt counts where both
    sides are scored. The interval is clustered by `clusters` (P,) and allows for n having been found on the same prompts: with
    d = T / D the matched n and g the slope of best of n there, each prompt's difference is linearised (delta method) as

        revised_i - best_i(d) - g (T_i - d D_i) / mean(D)
    """
    columns = [np.asarray(values, dtype=np.float64) for values in (revised, revised_tokens, best, draft_tokens)]
    used = ~np.isnan(columns[0]) & ~np.isnan(columns[2]).any(axis=1)
    score, tokens, curves, cost = (values[used] for values in columns)
    if not used.any() or cost.mean() == 0:
        nothing = float("nan")
        return Match(nothing, nothing, nothing, nothing, UNMATCHED)
    wanted = float(tokens.mean() / cost.mean())
    if wanted > curves.shape[1]:
        return Match(wanted, float(tokens.mean()), float(score.mean()), float("nan"), UNMATCHED)
    matched, slope = _interpolate(curves, max(1.0, wanted))  # nothing is cheaper than one draft
    chance = slope * (tokens - wanted * cost) / cost.mean() if wanted > 1 else 0.0
    names = None if clusters is None else np.asarray(clusters, dtype=np.str_)[used]
    difference = mean_interval(score - matched - chance, names, confidence=confidence)
    return Match(max(1.0, wanted), float(tokens.mean()), float(score.mean()), float(matched.mean()), difference)


def _interpolate(curves: Floats, wanted: float) -> tuple[Floats, float]:
    """`curves` (P, N) at a fractional n (P,), and the slope of their mean there."""
    lower = min(int(wanted), curves.shape[1] - 1) - 1 if curves.shape[1] > 1 else 0
    upper = min(lower + 1, curves.shape[1] - 1)
    share = wanted - (lower + 1)
    matched = (1 - share) * curves[:, lower] + share * curves[:, upper]
    return matched, float(curves[:, upper].mean() - curves[:, lower].mean())
