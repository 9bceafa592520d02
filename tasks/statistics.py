"""From curves to the statistics tables: of the results database, and of a file of verdicts with several groups.

Orchestration only: every number comes from `srpo_core` (`win_rate`, `resampling`, `scoring_rules`, `length_control`,
`sequential`).
"""

import itertools
import json
from collections import defaultdict
from collections.abc import Callable, Collection, Iterator
from typing import Any

import numpy as np
import pyarrow as pa

from srpo_core.scoring.comparisons import cluster_means, clusters_by_prompt, lengths_by_prompt
from srpo_core.scoring.resampling import crossed_bootstrap, paper_shading, sup_t_quantile
from srpo_core.scoring.scoring_rules import RULES
from srpo_core.scoring.win_rate import (
    Floats,
    holm,
    mean_error,
    order_statistics,
    paired_difference,
    sign_test,
    win_rate_interval,
    without_nan,
)
from storage import schemas
from tasks.curves import SETTING, Curve, Point, build_curves, floats, group_rows
from tasks.method_order import method_rank

Row = dict[str, Any]


def compute_statistics(comparisons: pa.Table, names: Collection[str] | None = None) -> dict[str, pa.Table]:
    """Statistics tables from comparisons (`schemas.COMPARISONS`): those called `names`, or every one."""
    curves = build_curves(comparisons)
    made = {name: (make(curves), schema) for name, (make, schema) in TABLES.items()}
    made[JUDGE_CONSISTENCY] = (_judge_consistency(comparisons), schemas.JUDGE_CONSISTENCY)
    return {
        name: pa.Table.from_pylist([without_nan(row) for row in rows], schema)
        for name, (rows, schema) in made.items()  # the rows of a table are made when it is its turn
        if names is None or name in names
    }


def _win_rates(curves: list[Curve]) -> Iterator[Row]:
    for curve in curves:
        for revision, point in curve.points.items():
            rate = win_rate_interval(curve.scores(revision), curve.clusters)
            yield _key(curve, revision) | {
                "n_prompts": len(point.scores.prompts),
                "n_scored": rate.n,
                "n_games_unscored": point.n_unscored,
                "win_rate": rate.estimate,
                "standard_error": rate.standard_error,
                "ci_low": rate.ci_low,
                "ci_high": rate.ci_high,
            }


def _bands(curves: list[Curve]) -> Iterator[Row]:
    for curve in curves:
        quantile = sup_t_quantile([curve.scores(revision) for revision in curve.points], curve.clusters)
        for row in _win_rates([curve]):
            point, scores = curve.points[row["revision_index"]], curve.scores(row["revision_index"])
            band = win_rate_interval(scores, curve.clusters, quantile=quantile)
            yield row | {
                "band_low": band.ci_low,
                "band_high": band.ci_high,
                "bound_low": float(point.scores.low.mean()),
                "bound_high": float(point.scores.high.mean()),
                "n_clusters": mean_error(scores, curve.clusters).num_clusters,
                "paper_shading": paper_shading(scores),
                "n_identical": point.n_identical,
                "anytime_p_value": _anytime_p_value(scores, curve.clusters),
            }


def _anytime_p_value(scores: Floats, clusters: list[str]) -> float | None:
    """Of the prompts in the order of their ids, which are hashes of what they say: as good an order as a drawn one."""
    from srpo_core.scoring.sequential import anytime_test

    means = cluster_means(scores, clusters)[1]
    return anytime_test(means).p_value if means.size else None


def _length_control(curves: list[Curve]) -> Iterator[Row]:
    for curve in curves:
        for revision, point in curve.points.items():
            yield _key(curve, revision) | _controlled(point)


def _controlled(point: Point) -> Row:
    from srpo_core.scoring.length_control import length_controlled_win_rate

    lengths = lengths_by_prompt(point.comparisons)
    clusters = clusters_by_prompt(point.comparisons)
    found = length_controlled_win_rate(point.scores.score, lengths[0], lengths[1], clusters)
    controlled = point.scores.score[~np.isnan(lengths).any(axis=0)]
    return {
        "n_scored": found.n,
        "length_ratio": found.length_ratio,
        "win_rate": float(np.nanmean(controlled)) if found.n else None,
        "length_controlled_win_rate": found.win_rate,
        "standard_error": found.standard_error,
        "ci_low": found.ci_low,
        "ci_high": found.ci_high,
        "refused": found.refused,
    }


def _by_rule(curves: list[Curve]) -> Iterator[Row]:
    for curve in curves:
        for revision, point in curve.points.items():
            for rule in RULES.values():
                found = rule(point.comparisons)._asdict()
                beside = json.dumps(without_nan(found["beside"]), sort_keys=True) if found["beside"] else None
                yield _key(curve, revision) | found | {"beside": beside}


def _revision_gain(curves: list[Curve]) -> Iterator[Row]:
    for curve in curves:
        later = [revision for revision in curve.points if revision > 0]
        if 0 not in curve.points or not later:
            continue
        draft = curve.scores(0)
        gains = {revision: curve.scores(revision) - draft for revision in later}
        quantile = sup_t_quantile(list(gains.values()), curve.clusters)
        steps = [curve.scores(now) - curve.scores(before) for before, now in itertools.pairwise(curve.points)]
        for revision, step, p_value in zip(later, steps, _step_p_values(steps), strict=True):
            gain = paired_difference(curve.scores(revision), draft, curve.clusters)
            band = paired_difference(curve.scores(revision), draft, curve.clusters, quantile=quantile)
            yield _key(curve, revision) | {
                "n_scored": gain.n,
                "gain": gain.estimate,
                "standard_error": gain.standard_error,
                "ci_low": gain.ci_low,
                "ci_high": gain.ci_high,
                "band_low": band.ci_low,
                "band_high": band.ci_high,
                "step_gain": mean_error(step).mean,
                "step_p_value": p_value,
            }


def _step_p_values(steps: list[Floats]) -> list[float | None]:
    """Sign tests after Holm; a step between revisions that share no scored prompt is no test and has no p-value."""
    tested = [place for place, step in enumerate(steps) if not np.isnan(step).all()]
    adjusted = dict(zip(tested, holm([sign_test(steps[place]) for place in tested]), strict=True))
    return [adjusted.get(place) for place in range(len(steps))]


def _head_to_head(curves: list[Curve]) -> Iterator[Row]:
    """Pairs of methods of one seed (a policy without a seed meets every seed) in one setting."""
    same = tuple(name for name in SETTING if name != "is_ood")  # of one set, known for one policy and not for another
    for setting in _by(curves, same):
        for a, b in itertools.combinations(sorted(setting, key=lambda c: method_rank(c.key["method"])), 2):
            seeds = {a.key["seed"], b.key["seed"]} - {None}
            if a.key["method"] == b.key["method"] or len(seeds) > 1:
                continue
            for revision in sorted(a.points.keys() & b.points.keys()):
                yield _compared(a, b, revision)


def _compared(a: Curve, b: Curve, revision: int) -> Row:
    other = dict(zip(b.prompts, b.scores(revision), strict=True))
    baseline = [other.get(prompt, np.nan) for prompt in a.prompts]
    difference = paired_difference(a.scores(revision), baseline, a.clusters)
    return {name: a.key[name] for name in schemas.HEAD_TO_HEAD.names if name in a.key} | {
        "is_ood": b.key["is_ood"] if a.key["is_ood"] is None else a.key["is_ood"],
        "revision_index": revision,
        **{f"{name}_a": a.key[column] for name, column in (("method", "method"), ("policy", "policy_id"), ("seed", "seed"))},
        **{f"{name}_b": b.key[column] for name, column in (("method", "method"), ("policy", "policy_id"), ("seed", "seed"))},
        "n_scored": difference.n,
        "difference": difference.estimate,
        "standard_error": difference.standard_error,
        "ci_low": difference.ci_low,
        "ci_high": difference.ci_high,
    }


def _by_method(curves: list[Curve]) -> Iterator[Row]:
    """Where a method was trained with several seeds: its win rate over seeds and prompts, both resampled."""
    for group in _by(curves, ("method", "alpha", "beta", "learning_rate", *SETTING)):
        seeded = {curve.key["seed"]: curve for curve in group if curve.key["seed"] is not None}
        shared = set.intersection(*(set(c.points) for c in seeded.values())) if len(seeded) == len(group) > 1 else set()
        prompts = sorted(set().union(*(c.prompts for c in seeded.values())))
        cluster_of = {prompt: cluster for c in seeded.values() for prompt, cluster in zip(c.prompts, c.clusters, strict=True)}
        for revision in sorted(shared):
            rows = [dict(zip(c.prompts, c.scores(revision), strict=True)) for c in seeded.values()]
            matrix = np.array([[row.get(prompt, np.nan) for prompt in prompts] for row in rows])
            if np.isnan(matrix).all(axis=1).any() or len(set(cluster_of.values())) < 2:
                continue
            rate = crossed_bootstrap(matrix, [cluster_of[prompt] for prompt in prompts])
            yield group[0].key | {
                "revision_index": revision,
                "n_seeds": len(seeded),
                "n_scored": rate.n,
                "win_rate": rate.estimate,
                "standard_error": rate.standard_error,
                "ci_low": max(0.0, rate.ci_low),
                "ci_high": min(1.0, rate.ci_high),
            }


def _judge_consistency(comparisons: pa.Table) -> Iterator[Row]:
    key = ("judge", "eval_set", "opponent")
    for row in sorted(group_rows(comparisons, key), key=lambda row: [row[name] for name in key]):
        orders = order_statistics(floats(row["as_is"]), floats(row["swapped"]))
        yield {name: row[name] for name in key} | {
            "n_comparisons": len(row["prompt_id"]),
            "n_both_scored": orders.n,
            "n_games_unscored": sum(row["n_unscored"]),
            **{name: value for name, value in orders._asdict().items() if name != "n"},
        }


# What each table is made by; judge_consistency is not about curves.
JUDGE_CONSISTENCY = "judge_consistency"
TABLES: dict[str, tuple[Callable[[list[Curve]], Iterator[Row]], pa.Schema]] = {
    "win_rates": (_win_rates, schemas.WIN_RATES),
    "win_rate_bands": (_bands, schemas.WIN_RATE_BANDS),
    "win_rates_by_rule": (_by_rule, schemas.WIN_RATES_BY_RULE),
    "length_control": (_length_control, schemas.LENGTH_CONTROL),
    "revision_gain": (_revision_gain, schemas.REVISION_GAIN),
    "head_to_head": (_head_to_head, schemas.HEAD_TO_HEAD),
    "win_rates_by_method": (_by_method, schemas.WIN_RATES_BY_METHOD),
}


def _by(curves: list[Curve], names: tuple[str, ...]) -> list[list[Curve]]:
    groups: dict[tuple[Any, ...], list[Curve]] = defaultdict(list)
    for curve in curves:
        groups[tuple(curve.key[name] for name in names)].append(curve)
    return list(groups.values())


def _key(curve: Curve, revision: int) -> Row:
    return {name: curve.key[name] for name in schemas.WIN_RATES.names if name in curve.key} | {"revision_index": revision}
