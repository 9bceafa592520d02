"""`srpo score FILE`: statistics of verdicts from anywhere (`verdict_files.py` says what a file holds).

Verdicts of another judge, evaluation set, method, seed or revision form another group. Groups are never pooled: a file with one
gives one result, a file with several a list of results that each say whose they are. `tasks/scoring.py` adds tables that compare
them.
"""

from pathlib import Path
from typing import Any

import numpy as np

from srpo_core.errors import InputError
from srpo_core.scoring.comparisons import (
    Comparisons,
    cluster_means,
    clusters_by_prompt,
    clusters_by_question,
    lengths_by_prompt,
    question_scores,
    repeated_scores,
    scores_by_prompt,
)
from srpo_core.scoring.scoring_rules import RuleResult, find_rule
from srpo_core.scoring.verdict_files import GROUPING, VerdictFile
from srpo_core.scoring.verdict_groups import Group, read_groups
from srpo_core.scoring.win_rate import Floats, order_statistics, without_nan

LEVEL = 0.05  # of the anytime-valid test
Row = dict[str, Any]


def score_file(path: Path, *, rule: str = "default", anytime_seed: int | None = None) -> Row:
    """Read `path` and return its statistics, ready for JSON (a number that does not exist is None).

    With both orders asked, a prompt counts when both are scored. A file that asks every prompt in one order only is scored as
    it stands and says so in `design` and `note`, because its position bias cannot be averaged out. `rule` names one of
    `scoring_rules.RULES`; `anytime_seed` asks for the test that may be looked at early, in a random order of that seed. With
    several groups the result is `{"groups": [...], "note": ...}`. Raises InputError.
    """
    return score_groups(read_groups(path, rule), rule=rule, anytime_seed=anytime_seed)


def score_groups(read: tuple[VerdictFile, list[Group]], *, rule: str = "default", anytime_seed: int | None = None) -> Row:
    """Statistics of the groups as described at `score_file`."""
    file, groups = read
    facts = {"ignored_columns": file.ignored_columns}
    results = [group.key | score_group(group, file, rule=rule, anytime_seed=anytime_seed) for group in groups]
    if len(results) == 1:
        result = results[0]
        return result | {"note": _joined([result["note"], *file.hints])} | facts
    columns = [name for name in GROUPING if len({str(group.key.get(name)) for group in groups}) > 1]
    note = f"{len(groups)} groups by {', '.join(columns)}, scored each by itself and never pooled"
    if any(len(group.comparisons.scores) == 1 for group in groups):
        note += "; where one order only was asked, the judge's position bias is part of the win rate"
    if any(one["ci_low"] is not None and not one["standard_error"] for one in results):
        note += "; without differences between prompts or clusters the interval is Wilson's with each as one trial"
    return {"groups": results, "note": _joined([note, *file.hints])} | facts


def score_group(group: Group, file: VerdictFile, *, rule: str = "default", anytime_seed: int | None = None) -> Row:
    """Statistics of one group; what the file lacks columns for (lengths, repeats) has no key."""
    asked = group.comparisons
    both = len(asked.scores) == 2
    by_prompt = scores_by_prompt(asked)
    clusters = clusters_by_prompt(asked)
    rate = find_rule(rule)(asked)
    # A rule that finds no battle in scored games (it wants labels) leaves them scored all the same.
    scored = rate.n or int((~np.isnan(by_prompt.score)).sum())
    averaged = question_scores(asked)
    orders = order_statistics(averaged[0], averaged[-1])
    result: Row = {} if rule == "default" else {"rule": rule}
    result |= {
        "n": rate.n,
        "win_rate": rate.win_rate,
        "standard_error": rate.standard_error,
        "ci_low": rate.ci_low,
        "ci_high": rate.ci_high,
        "consistency": orders.consistency if both else None,
        "first_position_rate": orders.first_position_rate if both and set(group.orders) == {"as_is", "swapped"} else None,
        "bound_low": float(by_prompt.low.mean()),
        "bound_high": float(by_prompt.high.mean()),
        "n_prompts": len(by_prompt.prompts),
        "n_unscored": len(by_prompt.prompts) - scored,
        "n_games_unscored": int(group.unscored.sum()),
        "n_clusters": len(set(clusters.tolist())),
        "design": "both_orders" if both else "single_order",
        "note": _joined([rate.note, _note(both, scored, len(by_prompt.prompts)), _note_on_error(rate)]),
    }
    result |= rate.beside
    if "repeat_index" in file.columns:
        result |= _repeats(asked)
    if "candidate_length" in file.columns and "opponent_length" in file.columns:
        result |= _length_control(by_prompt.score, lengths_by_prompt(asked), clusters)
    if anytime_seed is not None:
        result["anytime"] = _anytime(by_prompt.prompts.tolist(), by_prompt.score, clusters.tolist(), anytime_seed, file.path)
    return without_nan(result)


def _repeats(asked: Comparisons) -> Row:
    from srpo_core.scoring.agreement import flip_rate

    flips = flip_rate(repeated_scores(asked), clusters_by_question(asked))
    return {"flip_rate": flips._asdict()}


def _length_control(scores: Floats, lengths: Floats, clusters: Any) -> Row:
    from srpo_core.scoring.length_control import length_controlled_win_rate

    found = length_controlled_win_rate(scores, lengths[0], lengths[1], clusters)
    return {
        "length_ratio": found.length_ratio,
        "length_controlled": {name: value for name, value in found._asdict().items() if name != "length_ratio"},
    }


def _anytime(prompts: list[str], scores: Floats, clusters: list[str], seed: int, path: Path) -> Row:
    """The anytime-valid test in a seeded random order; clusters are drawn as wholes and count as one score each."""
    from srpo_core.scoring.sequential import anytime_test, judging_order

    names, means = cluster_means(scores, clusters)
    if not names:
        raise InputError(
            f"expected scored prompts in {path} to put into a random order, found none; judge them or drop --anytime"
        )
    order = judging_order(names, seed)
    test = anytime_test(means[order], level=LEVEL)
    alone = len(set(clusters)) == len(prompts)
    first = dict(zip(clusters, prompts, strict=True))
    labels = [first[names[place]] if alone else names[place] for place in order]
    return test._asdict() | {"level": LEVEL, "seed": seed, "unit": "prompt" if alone else "cluster", "order": labels}


def _note(both: bool, scored: int, prompts: int) -> str | None:
    if scored == 0:
        return "no prompt is scored" + (" in both orders" if both else "") + ", so there is no win rate"
    if not both:
        return "each prompt was asked in one order only: the judge's position bias is part of this win rate"
    if scored < prompts:
        return f"{prompts - scored} of {prompts} prompts lack a score in an order and are left out; the bounds count them"
    return None


def _note_on_error(rate: RuleResult) -> str | None:
    """Why there is an interval without a standard error above zero."""
    if np.isnan(rate.ci_low) or rate.standard_error > 0:
        return None
    if rate.standard_error == 0:
        return "no prompt or cluster differs from another, so the interval is Wilson's with each as one trial"
    return "there is a single prompt or cluster, so there is no standard error and the interval is Wilson's for one trial"


def _joined(sentences: list[str | None]) -> str | None:
    return "; ".join(one for one in sentences if one) or None
