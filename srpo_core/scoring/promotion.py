"""Whether a challenger takes the champion's place: the paired comparison, the guards, and the error level that a look spends.

A challenger is better when the lower limit of the paired difference lies above the margin; the limit is one-sided, at the level
of that look (`mean_difference`, `cautious_limit.py`). Every prompt pairs the two policies' scores, the mean over both orders;
every evaluation set counts the same.

Luck ratchets where the same prompts are looked at week after week: of many challengers that are no better, one looks better in
the end and becomes the champion to beat. So a first comparison on the screening prompts only decides whether the confirmation
prompts are looked at, and the k-th look at these is made at level total * 6 / (pi^2 k^2). These levels sum to at most `total`,
which therefore bounds the probability that a challenger that is no better than the margin ever passes (union bound over looks),
as far as each look errs at most at its own level and no challenger is made with knowledge of confirmation verdicts.
"""

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from srpo_core.scoring.cautious_limit import cautious_lower_limit
from srpo_core.scoring.win_rate import Floats, Interval, mean_error, mean_interval, paired_difference, t_quantile
from srpo_core.settings.retraining import PromotionSettings


class SetScores(NamedTuple):
    """Both policies on one evaluation set, on one axis of prompts."""

    name: str
    challenger: Floats  # (P,) in [0, 1], NaN where unscored
    champion: Floats  # (P,); one half everywhere where the two played each other, and the challenger's score is of these games
    clusters: list[str]  # (P,)
    head_to_head: bool = False

    @property
    def differences(self) -> Floats:
        """Challenger minus champion (P,), NaN where one is unscored."""
        return self.challenger - self.champion

    @property
    def worst(self) -> float:
        """The smallest difference that a prompt can have."""
        return -0.5 if self.head_to_head else -1.0


class TextShares(NamedTuple):
    """What one policy's texts of the compared revision are like on one evaluation set."""

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

    The lower limit, which decides, is the lower one of a t limit and of `cautious_lower_limit`, which minds losses that are too
    rare to be among the prompts. The t interval has clusters and C - S degrees of freedom (C clusters, S sets) and is that of the
    prompts' shares in the mean: a prompt of set s stands for m + (d - m_s) * N / (S n_s). Prompts that one side has unscored are
    left out. Everything is possible, [-1, 1], where a set has no scored prompt, no degree of freedom is left, or the level is 0.
    """
    differences = [one.differences for one in sets]
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
    by_t = mean_interval(values, clusters, confidence=confidence, quantile=quantile)
    lower = cautious_lower_limit(differences, [one.clusters for one in sets], [one.worst for one in sets], level)
    return by_t._replace(ci_low=max(-1.0, min(by_t.ci_low, lower)))


def compare(
    sets: Sequence[SetScores],
    challenger: Sequence[TextShares],
    champion: Sequence[TextShares],
    settings: PromotionSettings,
    level: float,
) -> Comparison:
    """Compare at `level`: passed when the lower limit lies above the margin and no guard fails; texts by set, as `sets`."""
    difference = mean_difference(sets, level)
    by_set = {one.name: paired_difference(one.challenger, one.champion, one.clusters) for one in sets}
    guards = [_coverage(sets, settings), _clusters(sets, settings)]
    for one, own, other in zip(sets, challenger, champion, strict=True):
        guards += [_length(one.name, own, other, settings), *_collapse(one.name, own, other, settings)]
        guards.append(_regression(one.name, by_set[one.name], settings))
    failed = [guard for guard in guards if guard.failed]
    better = difference.ci_low > settings.margin
    reason = f"{_found(difference, level)} {'lies above' if better else 'does not lie above'} the margin {settings.margin:+.3f}"
    if failed:
        reason += f"; refused: {'; '.join(guard.sentence for guard in failed)}"
    return Comparison(better and not failed, reason, level, settings.margin, difference, by_set, guards)


def text_shares(texts: Sequence[str], questions: Sequence[str], tokens: Sequence[int]) -> TextShares:
    """What the texts of one set are like, each with its question and its length in tokens. Raises ValueError without texts."""
    if not texts or not len(texts) == len(questions) == len(tokens):
        raise ValueError(f"expected texts with a question and a length each, found {len(texts)} and {len(tokens)} lengths")
    said, asked = [text.strip() for text in texts], [question.strip() for question in questions]
    copied = sum(question != "" and question in text for text, question in zip(said, asked, strict=True))
    empty, repeated = sum(not text for text in said), len(said) - len(set(said))
    return TextShares(float(np.mean(tokens)), empty / len(said), repeated / len(said), copied / len(said))


def _found(difference: Interval, level: float) -> str:
    if math.isnan(difference.estimate):
        return "no difference could be measured, whose lower limit"
    limit = f"the lower limit {difference.ci_low:+.3f} (one-sided error {level:.2g})"
    return f"the difference {difference.estimate:+.3f} has {limit}, which"


def _coverage(sets: Sequence[SetScores], settings: PromotionSettings) -> Guard:
    """The set with the fewest prompts that both sides have scored: missing verdicts are not missing by lot."""
    shares = {one.name: float(np.mean(~np.isnan(one.differences))) if len(one.clusters) else 0.0 for one in sets}
    name = min(shares, key=lambda key: shares[key])
    sentence = f"{shares[name]:.1%} of the prompts of {name} are scored for both, below {settings.min_scored_share:.1%}"
    failed = shares[name] < settings.min_scored_share
    return Guard("coverage", shares[name], settings.min_scored_share, failed, sentence)


def _clusters(sets: Sequence[SetScores], settings: PromotionSettings) -> Guard:
    """The set with the fewest clusters of prompts that both sides have scored."""
    counts = {one.name: len(set(np.array(one.clusters, dtype=object)[~np.isnan(one.differences)])) for one in sets}
    name = min(counts, key=lambda key: counts[key])
    sentence = f"{name} has {counts[name]} clusters of prompts scored for both, fewer than {settings.min_clusters}"
    return Guard("clusters", counts[name], settings.min_clusters, counts[name] < settings.min_clusters, sentence)


def _length(name: str, challenger: TextShares, champion: TextShares, settings: PromotionSettings) -> Guard:
    ratio = challenger.mean_tokens / champion.mean_tokens if champion.mean_tokens else math.nan
    limit = settings.max_length_ratio
    sentence = f"on {name} its texts have {ratio:.2f} times the champion's tokens, outside {1 / limit:.2f} to {limit:.2f}"
    return Guard(f"length on {name}", ratio, limit, not 1 / limit <= ratio <= limit, sentence)


def _collapse(name: str, challenger: TextShares, champion: TextShares, settings: PromotionSettings) -> list[Guard]:
    """The share of empty, repeated and copied texts may not grow by more than the limit."""
    guards, limit = [], settings.max_collapse
    for kind in ("empty", "repeated", "copied"):
        now, before = getattr(challenger, kind), getattr(champion, kind)
        sentence = f"on {name} {now:.1%} of its texts are {kind}, the champion's {before:.1%}, more by above {limit:.1%}"
        guards.append(Guard(f"{kind} on {name}", now - before, limit, now - before > limit, sentence))
    return guards


def _regression(name: str, difference: Interval, settings: PromotionSettings) -> Guard:
    """Refuses what is surely worse on a set: the upper end of the set's own 95 % interval lies below minus the tolerance."""
    limit = -settings.regression_tolerance
    sentence = f"on {name} it is worse by more than {-limit:.3f} (95 % interval up to {difference.ci_high:+.3f})"
    return Guard(f"regression on {name}", difference.ci_high, limit, difference.ci_high < limit, sentence)
