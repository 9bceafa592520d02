"""What one win rate is made of: questions asked to a judge, in one or both orders, perhaps repeatedly, by prompt.

Repeats of a question are averaged within their order before the two orders are, so that a repeat that failed in one order
does not take the other order's answer with it. `win_rate.py` has the statistics of the per-prompt scores.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from srpo_core.scoring.win_rate import Floats, PromptScores, mean_by, prompt_scores

NAN = float("nan")


class Comparisons(NamedTuple):
    """M askings of questions about one candidate side and one opponent side, by one judge."""

    prompts: NDArray[np.str_]  # (M,)
    clusters: NDArray[np.str_]  # (M,) one a prompt
    questions: NDArray[np.intp]  # (M,) askings with the same number are repeats: the same two texts
    scores: Floats  # (2, M) as_is and swapped, or (1, M) when asked in one order only; NaN = missing or unscored
    labels: Sequence[Sequence[str | None]]  # like `scores`: the verdict in the judge's own words
    lengths: Floats  # (2, M) characters of the candidate's and of the opponent's text; NaN = not known


def scores_by_prompt(comparisons: Comparisons) -> PromptScores:
    """Scores by prompt: repeats averaged within question and order, then the two orders, then the questions of a prompt.

    The bounds count every missing verdict, also that of a repeat. With one order asked, its score stands for both.
    """
    prompts, averaged = _without_repeats(comparisons)
    score = prompt_scores(prompts, averaged[0], averaged[-1])
    every = prompt_scores(comparisons.prompts, comparisons.scores[0], comparisons.scores[-1])
    return score._replace(low=every.low, high=every.high)


def question_scores(comparisons: Comparisons) -> Floats:
    """Scores (2, Q) or (1, Q) of the Q different questions, repeats averaged."""
    return _without_repeats(comparisons)[1]


def clusters_by_prompt(comparisons: Comparisons) -> NDArray[np.str_]:
    """The cluster (P,) of each prompt, in the order of `scores_by_prompt`."""
    return comparisons.clusters[np.unique(comparisons.prompts, return_index=True)[1]]


def lengths_by_prompt(comparisons: Comparisons) -> Floats:
    """Mean lengths (2, P) of the candidate's and the opponent's texts, in the order of `scores_by_prompt`; NaN where unknown."""
    names, index = np.unique(comparisons.prompts, return_inverse=True)
    return np.array([mean_by(index, lengths, len(names)) for lengths in comparisons.lengths])


def cluster_means(scores: Floats, clusters: Sequence[str]) -> tuple[list[str], Floats]:
    """Names and mean scores of the clusters with a score, in the order of their first scored prompt.

    For tests that need independent values in an order: the prompts of one cluster are none.
    """
    scored = [name for name, known in zip(clusters, (~np.isnan(scores)).tolist(), strict=True) if known]
    places = {name: place for place, name in enumerate(dict.fromkeys(scored))}
    index = np.array([places[name] for name in scored], dtype=np.intp)
    return list(places), mean_by(index, scores[~np.isnan(scores)], len(places))


def repeated_scores(comparisons: Comparisons) -> Floats:
    """Scores (Q, 2, R) or (Q, 1, R) of the Q different questions by order and asking, NaN where there were fewer than R askings.

    Questions come in the order of their numbers, `clusters_by_question` gives their clusters.
    """
    index = np.unique(comparisons.questions, return_inverse=True)[1]
    order = np.argsort(index, kind="stable")
    firsts = np.searchsorted(index[order], index[order])
    asking = np.empty_like(index)
    asking[order] = np.arange(index.size) - firsts  # how many askings of the same question came before
    shape = (int(index.max(initial=-1)) + 1, len(comparisons.scores), int(asking.max(initial=-1)) + 1)
    scores = np.full(shape, NAN)
    scores[index, :, asking] = comparisons.scores.T
    return scores


def clusters_by_question(comparisons: Comparisons) -> NDArray[np.str_]:
    """The cluster (Q,) of each different question."""
    return comparisons.clusters[np.unique(comparisons.questions, return_index=True)[1]]


def _without_repeats(comparisons: Comparisons) -> tuple[NDArray[np.str_], Floats]:
    _, first, index = np.unique(comparisons.questions, return_index=True, return_inverse=True)
    return comparisons.prompts[first], np.array([mean_by(index, scores, len(first)) for scores in comparisons.scores])
