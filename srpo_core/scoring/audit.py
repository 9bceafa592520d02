"""The table of an audit: verdicts and people's labels, arranged by pair of texts, and every measure of `agreement.py` on them.

A pair is two texts for one prompt; `human` is the share of people who prefer the candidate (1, .5 and 0 for a single label).
"""

import math
from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from srpo_core.errors import InputError
from srpo_core.records import ORDERS
from srpo_core.scoring import agreement as measures
from srpo_core.scoring.win_rate import Floats, Interval


class LabelledVerdict(NamedTuple):
    """One verdict, and what people said of the same pair."""

    pair: str
    order: str  # as_is or swapped
    repeat_index: int
    score: float  # of the candidate; NaN = unscored
    human: float  # NaN = no label
    cluster: str
    length_difference: float  # candidate minus opponent, characters; NaN = unknown


class Comparisons(NamedTuple):
    """All verdicts on M pairs, asked in two orders and R times."""

    pairs: list[str]
    scores: Floats  # (M, 2, R); NaN = unscored or not asked
    human: Floats  # (M,)
    clusters: NDArray[np.str_]  # (M,)
    length_difference: Floats  # (M,)
    num_verdicts: int
    num_unscored: int


class Measure(NamedTuple):
    """One row of the table; the numbers are NaN where there is nothing to compute them from."""

    measure: str
    n: int  # pairs; of kappa and alpha, verdicts with a label
    estimate: float
    standard_error: float
    ci_low: float
    ci_high: float


def arrange(verdicts: Iterable[LabelledVerdict], where: str) -> Comparisons:
    """Arrange verdicts by pair, order and repeat. Raises InputError for two of one question, or labels that contradict."""
    cells: dict[tuple[str, str, int], float] = {}
    facts: dict[str, list[Any]] = {}  # human, length difference and cluster of each pair
    for one in verdicts:
        key = (one.pair, one.order, one.repeat_index)
        if one.order not in ORDERS:
            raise InputError(f"expected order as_is or swapped in {where}, found {one.order!r} for {one.pair!r}; rename it")
        if key in cells:
            raise InputError(
                f"expected one verdict per prompt, order and repeat_index in {where}, found two of {one.pair!r} in order "
                f"{one.order}; number repeats in a column repeat_index, and tell different texts apart by eval_set, method, seed "
                "or revision_index"
            )
        cells[key] = one.score
        _note_facts(facts.setdefault(one.pair, [math.nan, math.nan, one.cluster]), one, where)
    pairs, repeats = list(facts), sorted({repeat for _, _, repeat in cells})
    scores = [[[cells.get((pair, order, r), math.nan) for r in repeats] for order in ORDERS] for pair in pairs]
    human, lengths, clusters = zip(*facts.values(), strict=True) if facts else ((), (), ())
    return Comparisons(
        pairs,
        np.array(scores, dtype=np.float64).reshape(len(pairs), len(ORDERS), len(repeats)),
        np.array(human, dtype=np.float64),
        np.array(clusters, dtype=np.str_),
        np.array(lengths, dtype=np.float64),
        len(cells),
        sum(math.isnan(score) for score in cells.values()),
    )


def _note_facts(known: list[Any], one: LabelledVerdict, where: str) -> None:
    for place, (name, value) in enumerate((("human label", one.human), ("length difference", one.length_difference))):
        if math.isnan(known[place]):
            known[place] = value
        elif not math.isnan(value) and value != known[place]:
            raise InputError(
                f"expected one {name} per pair in {where}, found {known[place]:g} and {value:g} for {one.pair!r}; "
                "average the labels of several people first"
            )
    if one.cluster != known[2]:
        raise InputError(f"expected one cluster_id per pair in {where}, found {known[2]!r} and {one.cluster!r} for {one.pair!r}")


def measure_judge(comparisons: Comparisons) -> list[Measure]:
    """Every measure; what they mean is told in docs/judging.md."""
    return [Measure(name, *interval) for name, interval in _intervals(comparisons).items()]


def _intervals(comparisons: Comparisons) -> dict[str, Interval]:
    scores, human, clusters = comparisons.scores, comparisons.human, comparisons.clusters
    as_is, swapped, flat = scores[:, 0], scores[:, 1], scores.reshape(len(scores), scores.shape[1] * scores.shape[2])
    verdicts = flat.shape[1]
    labels, names = np.repeat(human, verdicts), np.repeat(clusters, verdicts)
    ratings = np.stack([measures.outcome_classes(flat.ravel()), measures.outcome_classes(labels)])
    longer = measures.preference_for_longer(flat, human, comparisons.length_difference, clusters)
    found = {
        "agreement": measures.agreement(flat, human, clusters),
        "agreement_without_ties": measures.agreement(flat, human, clusters, ties=False),
        "agreement_as_is": measures.agreement(as_is, human, clusters),
        "agreement_swapped": measures.agreement(swapped, human, clusters),
        "both_orders_right": measures.both_orders_right(as_is, swapped, human, clusters),
        "cohen_kappa": measures.cohen_kappa(flat.ravel(), labels, names),
        "krippendorff_alpha_nominal": measures.krippendorff_alpha(ratings, names),
        "krippendorff_alpha_ordinal": measures.krippendorff_alpha(ratings, names, level="ordinal"),
        "agreement_with_one_vote": measures.agreement_with_one_vote(flat, human, clusters),
        "one_vote_ceiling": measures.one_vote_ceiling(human, clusters),
        "swap_consistency": measures.swap_consistency(as_is, swapped, clusters),
        "first_position_rate": measures.first_position_rate(as_is, swapped, clusters),
        "flip_rate": measures.flip_rate(scores, clusters),
        "alpha_with_itself": measures.krippendorff_alpha(measures.outcome_classes(flat).T, clusters, level="ordinal"),
    }
    return found | {f"longer_preferred_{name}": interval for name, interval in longer._asdict().items()}


def describe(comparisons: Comparisons) -> dict[str, Any]:
    """How much there is to measure, and a warning where labels make the chance-corrected figures empty."""
    labels = measures.outcome_classes(comparisons.human)
    labelled = labels[~np.isnan(labels)]
    return {
        "n_pairs": len(comparisons.pairs),
        "n_labelled": int(labelled.size),
        "n_verdicts": comparisons.num_verdicts,
        "n_unscored": comparisons.num_unscored,
        "n_clusters": len(set(comparisons.clusters.tolist())),
        "note": _note(labelled, comparisons),
    }


def _note(labelled: Sequence[float] | Floats, comparisons: Comparisons) -> str | None:
    if not len(labelled):
        return "no pair has a label, so only what concerns the judge alone is measured"
    if comparisons.num_unscored == comparisons.num_verdicts:
        return "no verdict is scored, so nothing is measured"
    if len(set(labelled)) == 1:
        return (
            "people prefer the same side in every pair: kappa and alpha say nothing then; which text is called the candidate "
            "should be drawn by lot"
        )
    if len(set(comparisons.clusters.tolist())) == 1:
        return (
            "all pairs lie in one cluster: no measure has a standard error, and where there is an interval it counts the cluster "
            "as a single trial"
        )
    return None
