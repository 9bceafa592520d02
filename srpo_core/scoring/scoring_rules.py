"""Named rules that make a win rate of the same games: our own, AlpacaEval's, Arena-Hard's and SRPO's.

- default: mean over prompts of the two orders' mean score; a t interval in Wilson's form, clustered.
- alpaca_eval (AlpacaEval 2): scores are preferences; mean over prompts, SE = sd (ddof 1) / sqrt(n), prompts independent; beside
  it the discrete rate (W + D/2) / n.
- arena_hard (2406.11939): every game is a battle won, tied or lost, and counts three times when its label says "significantly
  better" (A>>B); mean over battles. Against one baseline Bradley-Terry gives the same number.
- srpo (2406.01660): mean over prompts, shaded by the spread over 20 bootstraps, which is not a confidence interval.

Rates lie in [0, 1]. A rule never counts an unscored game.
"""

from collections.abc import Callable, Mapping
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from srpo_core.errors import InputError
from srpo_core.scoring.comparisons import Comparisons, clusters_by_prompt, scores_by_prompt
from srpo_core.scoring.resampling import paper_shading
from srpo_core.scoring.win_rate import Floats, win_rate_interval

NAN = float("nan")
STRONG = 3  # battles that a "significantly better" verdict counts for in Arena-Hard
SHOWN_LABELS = 5  # of those that are none of the five, in a note
BATTLES = {"A>>B": STRONG, "B>>A": STRONG, "A<<B": STRONG, "B<<A": STRONG} | dict.fromkeys(("A>B", "B>A", "A<B", "B<A", "A=B"), 1)


class RuleResult(NamedTuple):
    """A win rate by one rule; NaN where a number does not exist."""

    rule: str
    n: int  # prompts counted
    win_rate: float
    standard_error: float
    ci_low: float
    ci_high: float
    note: str | None
    beside: Mapping[str, float]  # what the rule states beside its rate, by name; bounds where they are its own


def default(comparisons: Comparisons) -> RuleResult:
    """Mean over prompts of the swap means, with the clustered interval of `win_rate_interval`."""
    rate = win_rate_interval(scores_by_prompt(comparisons).score, clusters_by_prompt(comparisons))
    return RuleResult("default", *rate, None, {})


def alpaca_eval(comparisons: Comparisons) -> RuleResult:
    """AlpacaEval 2's win rate and standard error; the interval in Wilson's form is ours, for AlpacaEval states none."""
    scores = scores_by_prompt(comparisons).score
    rate = win_rate_interval(scores)
    scored = scores[~np.isnan(scores)]
    discrete = float(((scored > 0.5).sum() + (scored == 0.5).sum() / 2) / scored.size) if scored.size else NAN
    note = "prompts counted as independent; AlpacaEval states no interval, this one is in Wilson's form"
    return RuleResult("alpaca_eval", *rate, note, {"discrete_win_rate": discrete})


def arena_hard(comparisons: Comparisons) -> RuleResult:
    """Arena-Hard's mean over battles; its standard error is clustered by prompt, because the battles of one depend on each other.

    The label says how many battles a game counts for, its score who won them: two games of one prompt make two to six. A game
    won or lost without one of the five labels has no such weight, so then there is no rate, and `note` says so. The bounds
    count every missing game as lost by far and as won by far.
    """
    scores, labels, weights, where = _battles(comparisons)
    if not weights.all():
        note = _unlabelled([label for label, weight in zip(labels, weights.tolist(), strict=True) if weight == 0], len(labels))
        return RuleResult("arena_hard", 0, NAN, NAN, NAN, NAN, note, {"bound_low": NAN, "bound_high": NAN})
    battles = np.repeat((np.sign(scores - 0.5) + 1) / 2, weights)
    rate = win_rate_interval(battles, np.repeat(comparisons.clusters[where], weights))
    missing = STRONG * int(np.isnan(comparisons.scores).sum())
    won, every = float(battles.sum()), battles.size + missing
    beside = {"n_battles": battles.size, "bound_low": won / every, "bound_high": (won + missing) / every}
    note = "mean over battles, a game won or lost by far counting three times; interval clustered by prompt"
    return RuleResult("arena_hard", len(set(comparisons.prompts[where].tolist())), *rate[1:], note, beside)


def srpo(comparisons: Comparisons) -> RuleResult:
    """The mean over prompts as SRPO's figures show it, shaded by the standard deviation over 20 bootstraps."""
    scores = scores_by_prompt(comparisons).score
    rate = win_rate_interval(scores)
    note = "shading is the standard deviation over 20 bootstraps as in SRPO's figures, not a confidence interval"
    return RuleResult("srpo", rate.n, rate.estimate, NAN, NAN, NAN, note, {"shading": paper_shading(scores)})


RULES: dict[str, Callable[[Comparisons], RuleResult]] = {
    "default": default,
    "alpaca_eval": alpaca_eval,
    "arena_hard": arena_hard,
    "srpo": srpo,
}


def find_rule(name: str) -> Callable[[Comparisons], RuleResult]:
    """The rule of that name; raises InputError listing the names there are."""
    if name not in RULES:
        raise InputError(f"expected a rule among {', '.join(RULES)}, found {name!r}; name one of them")
    return RULES[name]


def read_preferences(scores: Floats) -> Floats:
    """Scores in [0, 1] from AlpacaEval's preferences in [1, 2]; scores that lie in [0, 1] already stay.

    Raises InputError when both scales occur, or when every score is 1: a loss on the one scale and a win on the other.
    """
    known = scores[~np.isnan(scores)]
    if (known > 1).any() and (known < 1).any():
        raise InputError(
            f"expected preferences in [1, 2] or scores in [0, 1], found {known.min():g} and {known.max():g} in one file; "
            "bring them to one scale"
        )
    if known.size and (known == 1).all():
        raise InputError(
            "expected preferences in [1, 2] or scores in [0, 1], found 1 everywhere, which is a loss on the one scale and a win "
            "on the other; subtract 1 from preferences and score them with another rule"
        )
    return scores - 1 if (known > 1).any() else scores


def _unlabelled(labels: list[str | None], games: int) -> str:
    """Why there is no rate, naming the labels that are none of the five."""
    found = [repr(label) for label in dict.fromkeys(labels) if label is not None]
    found += ["no label"] if None in labels else []
    more = f" and {len(found) - SHOWN_LABELS} more" if len(found) > SHOWN_LABELS else ""
    return (
        f"no rate by this rule: {len(labels)} of {games} scored games lack one of the five labels (A>>B, A>B, A=B, B>A, B>>A), "
        f"found {', '.join(found[:SHOWN_LABELS])}{more}"
    )


def _battles(comparisons: Comparisons) -> tuple[Floats, list[str | None], NDArray[np.intp], NDArray[np.intp]]:
    """Of every scored game: its score, label, the battles it counts for (0 = no such label), and its place among the askings."""
    orders, where = np.nonzero(~np.isnan(comparisons.scores))
    scores = comparisons.scores[orders, where]
    labels = [comparisons.labels[order][place] for order, place in zip(orders.tolist(), where.tolist(), strict=True)]
    weights = [_weight(label, score) for label, score in zip(labels, scores.tolist(), strict=True)]
    return scores, labels, np.array(weights, dtype=np.intp), where


def _weight(label: str | None, score: float) -> int:
    """A tie has one strength only, so it needs no label: equal texts are one without anybody having been asked."""
    return 1 if label is None and score == 0.5 else BATTLES.get(_plain(label), 0)


def _plain(label: str | None) -> str:
    return "".join((label or "").split()).strip("[]").upper()
