"""Whether a challenger takes the champion's place: the paired comparison, the guards, and the error level that a look spends.

A challenger is better when the lower limit of the paired difference lies above the margin; the limit is one-sided, at the level
of that look. Every prompt pairs the two policies' scores, the mean over both orders; every evaluation set counts the same.

Luck ratchets where the same prompts are looked at week after week: of many challengers that are no better, one looks better in
the end and becomes the champion to beat. So a first comparison on the screening prompts only decides whether the confirmation
prompts are looked at, and the k-th look at these is made at level total * 6 / (pi^2 k^2). These levels sum to at most `total`,
which therefore bounds the probability that a challenger that is no better than the margin ever passes (union bound over looks).
"""

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from srpo_core.scoring.win_rate import Floats, Interval, mean_error, mean_interval, paired_difference, t_quantile
from srpo_core.settings.retraining import PromotionSettings


class SetScores(NamedTuple):
    """Both policies on one evaluation set, on one axis of prompts."""

    name: str
    challenger: Floats  # (P,) in [0, 1], NaN where unscored
    champion: Floats  # (P,)
    clusters: list[str]  # (P,)


class TextShares(NamedTuple):
    """What one policy's texts of the compared revision are like, over all sets."""

    mean_tokens: float
    empty: float  # share of the texts
    repeated: float  # share that says what another prompt of the set got too: 1 - distinct / all
    copied: float  # share that holds its whole question


class Guard(NamedTuple):
    """One reason for which a better win rate does not count."""

    name: str
    value: float
    limit: float
    failed: bool
    sentence: str  # why it refuses; of use when it does


class Comparison(NamedTuple):
    """A challenger compared with the champion on some prompts."""

    passed: bool
    reason: str  # one sentence
    level: float  # one-sided error level
    margin: float
    difference: Interval  # mean of the sets' differences; its limits are those of the level
    by_set: dict[str, Interval]  # at 95 %
    guards: list[Guard]


def spend_level(number: int, spent: float, total: float) -> float:
    """The level of look `number` (from 1) at the confirmation prompts: total * 6 / (pi^2 number^2), never beyond what is left.

    `spent` is what the looks before it took, under whatever total was set then.
    """
    return max(0.0, min(total * 6 / (math.pi * number) ** 2, total - spent))


def mean_difference(sets: Sequence[SetScores], level: float) -> Interval:
    """Mean over the sets of challenger minus champion, each set counting the same, with limits that each err at `level`.

    A t interval with clusters and C - S degrees of freedom (C clusters, S sets), of the prompts' shares in the mean: a prompt of
    set s stands for m + (d - m_s) * N / (S n_s). Prompts that one side has unscored are left out. Everything is possible,
    [-1, 1], where a set has no scored prompt, no degree of freedom is left, or the level is 0.
    """
    differences = [one.challenger - one.champion for one in sets]
    scored = [int((~np.isnan(values)).sum()) for values in differences]
    if not sets or not all(scored):
        return Interval(sum(scored), math.nan, math.nan, -1.0, 1.0)
    means = [float(np.nanmean(values)) for values in differences]
    mean, total = float(np.mean(means)), sum(scored)
    shares = [mean + (values - own) * total / (len(sets) * n) for values, own, n in zip(differences, means, scored, strict=True)]
    values, clusters = np.concatenate(shares), [name for one in sets for name in one.clusters]
    found = mean_error(values, clusters)
    degrees = found.num_clusters - len(sets)
    if degrees < 1 or level <= 0:
        return Interval(total, mean, found.standard_error, -1.0, 1.0)
    confidence = 1 - 2 * level
    quantile = t_quantile(confidence, degrees) * math.sqrt((found.num_clusters - 1) / degrees)
    return mean_interval(values, clusters, confidence=confidence, quantile=quantile)


def compare(
    sets: Sequence[SetScores], challenger: TextShares, champion: TextShares, settings: PromotionSettings, level: float
) -> Comparison:
    """Compare at `level`: passed when the lower limit lies above the margin and no guard fails."""
    difference = mean_difference(sets, level)
    by_set = {one.name: paired_difference(one.challenger, one.champion, one.clusters) for one in sets}
    guards = [_coverage(sets, settings), _length(challenger, champion, settings), *_collapse(challenger, champion, settings)]
    guards += [_regression(name, own, settings) for name, own in by_set.items()]
    failed = [guard for guard in guards if guard.failed]
    better = difference.ci_low > settings.margin
    reason = f"{_found(difference, level)} {'lies above' if better else 'does not lie above'} the margin {settings.margin:+.3f}"
    if failed:
        reason += f"; refused: {'; '.join(guard.sentence for guard in failed)}"
    return Comparison(better and not failed, reason, level, settings.margin, difference, by_set, guards)


def text_shares(texts: Sequence[Sequence[str]], questions: Sequence[Sequence[str]], tokens: Sequence[int]) -> TextShares:
    """What texts are like; `texts` and `questions` by evaluation set, `tokens` of all texts. Raises ValueError without texts."""
    flat = [text.strip() for own in texts for text in own]
    if not flat or not len(flat) == sum(map(len, questions)) == len(tokens):
        raise ValueError(f"expected texts with a question and a length each, found {len(flat)} and {len(tokens)} lengths")
    asked = [question.strip() for own in questions for question in own]
    distinct = sum(len({text.strip() for text in own}) for own in texts)
    copied = sum(question != "" and question in text for text, question in zip(flat, asked, strict=True))
    return TextShares(
        float(np.mean(tokens)), sum(not text for text in flat) / len(flat), 1 - distinct / len(flat), copied / len(flat)
    )


def _found(difference: Interval, level: float) -> str:
    if math.isnan(difference.estimate):
        return "no difference could be measured, whose lower limit"
    limit = f"the lower limit {difference.ci_low:+.3f} (one-sided error {level:.2g})"
    return f"the difference {difference.estimate:+.3f} has {limit}, which"


def _coverage(sets: Sequence[SetScores], settings: PromotionSettings) -> Guard:
    """The set with the fewest prompts that both sides have scored: missing verdicts are not missing by lot."""
    shares = {one.name: float(np.mean(~np.isnan(one.challenger - one.champion))) if len(one.clusters) else 0.0 for one in sets}
    name = min(shares, key=lambda key: shares[key])
    sentence = f"{shares[name]:.1%} of the prompts of {name} are scored for both, below {settings.min_scored_share:.1%}"
    failed = shares[name] < settings.min_scored_share
    return Guard("coverage", shares[name], settings.min_scored_share, failed, sentence)


def _length(challenger: TextShares, champion: TextShares, settings: PromotionSettings) -> Guard:
    ratio = challenger.mean_tokens / champion.mean_tokens if champion.mean_tokens else math.nan
    limit = settings.max_length_ratio
    sentence = f"its texts have {ratio:.2f} times the champion's tokens, outside {1 / limit:.2f} to {limit:.2f}"
    return Guard("length", ratio, limit, not 1 / limit <= ratio <= limit, sentence)


def _collapse(challenger: TextShares, champion: TextShares, settings: PromotionSettings) -> list[Guard]:
    """The share of empty, repeated and copied texts may not grow by more than the limit."""
    guards = []
    for name in ("empty", "repeated", "copied"):
        now, before = getattr(challenger, name), getattr(champion, name)
        sentence = f"{now:.1%} of its texts are {name}, the champion's {before:.1%}, more by above {settings.max_collapse:.1%}"
        guards.append(Guard(name, now - before, settings.max_collapse, now - before > settings.max_collapse, sentence))
    return guards


def _regression(name: str, difference: Interval, settings: PromotionSettings) -> Guard:
    """Refuses what is surely worse on a set: the upper end of the set's own 95 % interval lies below minus the tolerance."""
    limit = -settings.regression_tolerance
    sentence = f"on {name} it is worse by more than {-limit:.3f} (95 % interval up to {difference.ci_high:+.3f})"
    return Guard(f"regression on {name}", difference.ci_high, limit, difference.ci_high < limit, sentence)
