"""How far a judge can be believed: agreement with people, with itself, and its preference for the longer text.

Everything is seen from the candidate, of whom nothing but a name is assumed: which of the two texts people prefer must not
depend on it, else the chance-corrected figures mean nothing. A verdict or label counts as win, tie or loss by its side of one
half; NaN is unscored and takes no part. Sources: Cohen (1960) for kappa, Krippendorff, "Computing Krippendorff's
Alpha-Reliability" (2011) for alpha. The intervals treat all verdicts on one cluster (by default one pair) as dependent.
"""

from collections.abc import Sequence
from typing import Literal, NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from srpo_core.scoring.win_rate import Floats, Interval, mean_interval, win_rate_interval, without_rounding

Clusters = Sequence[str] | NDArray[np.str_] | None
Level = Literal["nominal", "ordinal"]
NOTHING = Interval(0, *[float("nan")] * 4)


class LongerPreferred(NamedTuple):
    """How often the longer text of a pair is preferred, over pairs of unequal length that both have decided."""

    judge: Interval
    people: Interval
    difference: Interval  # judge minus people, paired


def outcome_classes(scores: ArrayLike) -> Floats:
    """1 for a win (above one half), 0 for a tie, -1 for a loss; NaN stays NaN."""
    return np.sign(np.asarray(scores, dtype=np.float64) - 0.5)


def agreement(scores: ArrayLike, human: ArrayLike, clusters: Clusters = None, *, ties: bool = True) -> Interval:
    """Share of a pair's verdicts `scores` (M, K) on the side of its label `human` (M,), averaged over pairs.

    With `ties` a tie agrees with a tie alone; without, verdicts and labels that are ties are left out.
    """
    judge, people = outcome_classes(scores), outcome_classes(human)[:, None]
    if not ties:
        judge, people = np.where(judge == 0, np.nan, judge), np.where(people == 0, np.nan, people)
    return win_rate_interval(_row_means(_equal(judge, people)), clusters)


def agreement_with_one_vote(scores: ArrayLike, human: ArrayLike, clusters: Clusters = None) -> Interval:
    """Expected agreement with one person drawn at random, where `human` (M,) is the share that prefers the candidate.

    The judge says its score's side of one half and tosses a coin for a tie. `one_vote_ceiling` is what a perfect judge reaches.
    """
    says = (outcome_classes(scores) + 1) / 2
    share = np.asarray(human, dtype=np.float64)[:, None]
    return win_rate_interval(_row_means(says * share + (1 - says) * (1 - share)), clusters)


def one_vote_ceiling(human: ArrayLike, clusters: Clusters = None) -> Interval:
    """The agreement with one person drawn at random of a judge that always says what most people say."""
    share = np.asarray(human, dtype=np.float64)
    return win_rate_interval(np.maximum(share, 1 - share), clusters)


def both_orders_right(as_is: ArrayLike, swapped: ArrayLike, human: ArrayLike, clusters: Clusters = None) -> Interval:
    """Share of questions (M, R), asked in both orders, that are answered like the label `human` (M,) both times."""
    people = outcome_classes(human)[:, None]
    return win_rate_interval(
        _row_means(_equal(outcome_classes(as_is), people) * _equal(outcome_classes(swapped), people)), clusters
    )


def swap_consistency(as_is: ArrayLike, swapped: ArrayLike, clusters: Clusters = None) -> Interval:
    """Share of questions (M, R) with the same outcome in both orders."""
    return win_rate_interval(_row_means(_equal(outcome_classes(as_is), outcome_classes(swapped))), clusters)


def first_position_rate(as_is: ArrayLike, swapped: ArrayLike, clusters: Clusters = None) -> Interval:
    """Mean score of the text shown first, over questions (M, R) scored in both orders; .5 = no effect."""
    first, second = np.asarray(as_is, dtype=np.float64), np.asarray(swapped, dtype=np.float64)
    return win_rate_interval(_row_means((first + 1 - second) / 2), clusters)


def flip_rate(scores: ArrayLike, clusters: Clusters = None) -> Interval:
    """Chance that two askings of the very same question (M, Q, R repeats) differ in outcome, averaged over a pair's questions."""
    classes = outcome_classes(scores)
    scored = (~np.isnan(classes)).sum(axis=-1)
    same = sum(_pairs_among((classes == value).sum(axis=-1)) for value in (-1, 0, 1))
    pairs = _pairs_among(scored)
    flips = 1 - np.divide(same, pairs, out=np.full(pairs.shape, np.nan), where=pairs > 0)
    return win_rate_interval(_row_means(flips), clusters)


def cohen_kappa(judge: ArrayLike, human: ArrayLike, clusters: Clusters = None) -> Interval:
    """Cohen's kappa of verdicts `judge` (N,) with labels `human` (N,) over win, tie and loss; t interval by clusters.

    kappa = (p_o - p_e) / (1 - p_e). It is the mean of the pseudo-values kappa + ((o_i - p_o)(1 - p_e) - (1 - p_o) d_i) /
    (1 - p_e)^2 with d_i = q(judge_i) + p(human_i) - 2 p_e, the delta method's influence of verdict i, whose clustered error is
    that of a mean. NaN where both always say the same one thing.
    """
    rows, columns, names = _both_known(judge, human, clusters)
    if rows.size == 0:
        return NOTHING
    says, labelled = ((side[:, None] == (-1, 0, 1)).astype(np.float64) for side in (rows, columns))
    p, q = says.mean(axis=0), labelled.mean(axis=0)
    same, by_chance = (rows == columns).astype(np.float64), float(p @ q)
    if by_chance == 1:
        return Interval(rows.size, *[float("nan")] * 4)
    observed = same.mean()
    chance_moves = says @ q + labelled @ p - 2 * by_chance
    influence = ((same - observed) * (1 - by_chance) - (1 - observed) * chance_moves) / (1 - by_chance) ** 2
    return mean_interval((observed - by_chance) / (1 - by_chance) + influence, names)


def krippendorff_alpha(ratings: ArrayLike, clusters: Clusters = None, *, level: Level = "nominal") -> Interval:
    """Krippendorff's alpha of `ratings` (R raters, U units), numbers or NaN where a rater is silent; t interval by clusters (U,).

    1 - (n - 1) sum_ck o_ck d_ck / sum_ck n_c n_k d_ck over the coincidences o of values within units; d = [c != k] at the nominal
    level and (n_c / 2 + n between + n_k / 2)^2 at the ordinal one. Units with fewer than two ratings say nothing. The standard
    error is the jackknife's: alpha computed anew without each cluster (1 where no two values are left to differ). NaN where only
    one value occurs.
    """
    coincidences = _coincidences(np.asarray(ratings, dtype=np.float64))  # (U, K, K)
    used = coincidences.sum(axis=(1, 2)) > 0
    if not used.any():
        return NOTHING
    names = np.arange(used.size).astype(np.str_) if clusters is None else np.asarray(clusters, dtype=np.str_)
    groups, index = np.unique(names[used], return_inverse=True)
    by_cluster = np.zeros((groups.size, *coincidences.shape[1:]))
    np.add.at(by_cluster, index, coincidences[used])
    total = by_cluster.sum(axis=0)
    estimate = without_rounding(float(_alpha(total[None], level)[0]))
    if groups.size < 2 or np.isnan(estimate):
        return Interval(int(used.sum()), estimate, *[float("nan")] * 3)
    without = np.nan_to_num(_alpha(total - by_cluster, level), nan=1.0)
    return mean_interval(estimate + (groups.size - 1) * (without.mean() - without))._replace(n=int(used.sum()))


def preference_for_longer(
    scores: ArrayLike, human: ArrayLike, length_difference: ArrayLike, clusters: Clusters = None
) -> LongerPreferred:
    """Mean score of the longer text by the judge's verdicts (M, K) and by `human` (M,).

    `length_difference` (M,) is the candidate's length minus the opponent's, in any unit; NaN or 0 leaves the pair out.
    """
    difference = np.asarray(length_difference, dtype=np.float64)
    judge, people = _row_means(np.asarray(scores, dtype=np.float64)), np.asarray(human, dtype=np.float64)
    used = ~np.isnan(judge + people + difference) & (difference != 0)
    by_judge, by_people = (np.where(difference > 0, one, 1 - one)[used] for one in (judge, people))
    names = None if clusters is None else np.asarray(clusters, dtype=np.str_)[used]
    return LongerPreferred(
        win_rate_interval(by_judge, names), win_rate_interval(by_people, names), mean_interval(by_judge - by_people, names)
    )


def _alpha(coincidences: Floats, level: Level) -> Floats:
    """Alpha of each of (B, K, K) coincidence matrices; NaN where only one value occurs."""
    counts = coincidences.sum(axis=2)  # (B, K)
    if level == "nominal":
        distance = np.broadcast_to(1 - np.eye(counts.shape[1]), coincidences.shape)
    else:
        rank = np.cumsum(counts, axis=1) - counts / 2
        distance = (rank[:, :, None] - rank[:, None, :]) ** 2
    observed = (coincidences * distance).sum(axis=(1, 2)) * (counts.sum(axis=1) - 1)
    expected = (counts[:, :, None] * counts[:, None, :] * distance).sum(axis=(1, 2))
    return 1 - np.divide(observed, expected, out=np.full(len(counts), np.nan), where=expected > 0)


def _coincidences(ratings: Floats) -> Floats:
    """(U, K, K): ordered pairs of values within each unit, over its number of ratings less one."""
    values = np.unique(ratings[~np.isnan(ratings)])
    counts = (ratings[:, :, None] == values).sum(axis=0).astype(np.float64)  # (U, K)
    pairs = counts[:, :, None] * counts[:, None, :] - counts[:, :, None] * np.eye(len(values))
    return pairs / np.maximum(counts.sum(axis=1) - 1, 1)[:, None, None]


def _equal(left: Floats, right: Floats) -> Floats:
    """1 where equal, 0 where not, NaN where either is."""
    return np.where(np.isnan(left + right), np.nan, (left == right).astype(np.float64))


def _row_means(values: Floats) -> Floats:
    """Mean over all but the first axis, NaN left out; NaN for a row of NaN."""
    flat = values.reshape(len(values), -1)
    known = (~np.isnan(flat)).sum(axis=1)
    return np.divide(np.nansum(flat, axis=1), known, out=np.full(len(flat), np.nan), where=known > 0)


def _pairs_among(count: NDArray[np.int_]) -> Floats:
    return (count * (count - 1) / 2).astype(np.float64)


def _both_known(judge: ArrayLike, human: ArrayLike, clusters: Clusters) -> tuple[Floats, Floats, NDArray[np.str_]]:
    rows, columns = outcome_classes(judge), outcome_classes(human)
    names = np.arange(rows.size).astype(np.str_) if clusters is None else np.asarray(clusters, dtype=np.str_)
    known = ~np.isnan(rows + columns)
    return rows[known], columns[known], names[known]
