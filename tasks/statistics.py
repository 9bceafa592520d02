"""From comparisons (one question, both orders) to the statistics tables of the results database.

Orchestration only: every number comes from `srpo_core.win_rate` and `srpo_core.resampling`. A curve is one policy on one
evaluation set against one opponent, by one judge, at one temperature, over its revisions.
"""

import itertools
from collections import defaultdict
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa

from srpo_core.resampling import crossed_bootstrap, paper_shading, sup_t_quantile
from srpo_core.win_rate import (
    Floats,
    PromptScores,
    holm,
    order_statistics,
    paired_difference,
    prompt_scores,
    sign_test,
    win_rate_interval,
)
from storage import schemas

POLICY = ("method", "policy_id", "seed", "alpha", "beta", "learning_rate")
SETTING = ("eval_set", "is_ood", "opponent", "opponent_policy_id", "opponent_revision_index", "judge", "temperature", "sampling")
METHOD_ORDER = ("srpo", "dpo_both", "ipo_both", "dpo", "ipo", "sft", "hub")


class Point(NamedTuple):
    """One revision of a curve: its prompts' scores and what is missing."""

    scores: PromptScores
    n_unscored: int  # games


class Curve(NamedTuple):
    """One policy in one setting, over revisions; all revisions share one axis of prompts."""

    key: dict[str, Any]  # POLICY and SETTING
    clusters: list[str]  # (P,)
    prompts: list[str]  # (P,)
    points: dict[int, Point]

    def scores(self, revision: int) -> Floats:
        """Per-prompt scores (P,) of one revision on the curve's axis, NaN where unscored or not asked."""
        found = dict(zip(self.points[revision].scores.prompts.tolist(), self.points[revision].scores.score, strict=True))
        return np.array([found.get(prompt, np.nan) for prompt in self.prompts])


def compute_statistics(comparisons: pa.Table) -> dict[str, pa.Table]:
    """Every statistics table from comparisons as `storage.results_relations.comparisons` gives them."""
    curves = build_curves(comparisons)
    tables: dict[str, tuple[Iterator[dict[str, Any]], pa.Schema]] = {
        "win_rates": (_win_rates(curves), schemas.WIN_RATES),
        "win_rate_bands": (_bands(curves), schemas.WIN_RATE_BANDS),
        "revision_gain": (_revision_gain(curves), schemas.REVISION_GAIN),
        "head_to_head": (_head_to_head(curves), schemas.HEAD_TO_HEAD),
        "win_rates_by_method": (_by_method(curves), schemas.WIN_RATES_BY_METHOD),
        "judge_consistency": (_judge_consistency(comparisons), schemas.JUDGE_CONSISTENCY),
    }
    return {name: pa.Table.from_pylist([_without_nan(row) for row in rows], schema) for name, (rows, schema) in tables.items()}


def build_curves(comparisons: pa.Table) -> list[Curve]:
    """Group comparisons into curves, in a fixed order."""
    grouped: dict[tuple[Any, ...], dict[int, list[dict[str, Any]]]] = defaultdict(lambda: defaultdict(list))
    for row in _groups(comparisons, (*POLICY, *SETTING, "revision_index")):
        grouped[tuple(row[name] for name in (*POLICY, *SETTING))][row["revision_index"]].append(row)
    curves = [_curve(dict(zip((*POLICY, *SETTING), key, strict=True)), rows) for key, rows in grouped.items()]
    return sorted(curves, key=lambda curve: [str(value) for value in curve.key.values()])


def _curve(key: dict[str, Any], revisions: Mapping[int, list[dict[str, Any]]]) -> Curve:
    cluster_of: dict[str, str] = {}
    points = {}
    for revision, (row,) in sorted(revisions.items()):
        cluster_of |= dict(zip(row["prompt_id"], row["cluster_id"], strict=True))
        scores = prompt_scores(row["prompt_id"], _floats(row["as_is"]), _floats(row["swapped"]))
        points[revision] = Point(scores, sum(row["n_unscored"]))
    prompts = sorted(cluster_of)
    return Curve(key, [cluster_of[prompt] for prompt in prompts], prompts, points)


def _groups(comparisons: pa.Table, key: tuple[str, ...]) -> list[dict[str, Any]]:
    """One row a group: the key, and lists of what was compared, in the table's order."""
    lists = ("prompt_id", "cluster_id", "as_is", "swapped", "n_unscored")
    grouped = comparisons.group_by(list(key), use_threads=False).aggregate([(name, "list") for name in lists])
    return grouped.rename_columns({f"{name}_list": name for name in lists}).to_pylist()


def _win_rates(curves: list[Curve]) -> Iterator[dict[str, Any]]:
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


def _bands(curves: list[Curve]) -> Iterator[dict[str, Any]]:
    for curve in curves:
        quantile = sup_t_quantile([curve.scores(revision) for revision in curve.points], curve.clusters)
        for row in _win_rates([curve]):
            point, scores = curve.points[row["revision_index"]], curve.scores(row["revision_index"])
            band = win_rate_interval(scores, curve.clusters, quantile=quantile)
            yield row | {
                "sampling": curve.key["sampling"],
                "band_low": band.ci_low,
                "band_high": band.ci_high,
                "bound_low": float(point.scores.low.mean()),
                "bound_high": float(point.scores.high.mean()),
                "n_clusters": len(set(curve.clusters)),
                "paper_shading": paper_shading(scores),
            }


def _revision_gain(curves: list[Curve]) -> Iterator[dict[str, Any]]:
    for curve in curves:
        later = [revision for revision in curve.points if revision > 0]
        if 0 not in curve.points or not later:
            continue
        draft = curve.scores(0)
        gains = {revision: curve.scores(revision) - draft for revision in later}
        quantile = sup_t_quantile(list(gains.values()), curve.clusters)
        steps = [curve.scores(now) - curve.scores(before) for before, now in itertools.pairwise(curve.points)]
        p_values = holm([sign_test(step) for step in steps])
        for revision, step, p_value in zip(later, steps, p_values, strict=True):
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
                "step_gain": float(np.nanmean(step)) if not np.isnan(step).all() else None,
                "step_p_value": p_value,
            }


def _head_to_head(curves: list[Curve]) -> Iterator[dict[str, Any]]:
    """Pairs of methods of one seed (a policy without a seed meets every seed) in one setting."""
    same = tuple(name for name in SETTING if name != "is_ood")  # of one set, known for one policy and not for another
    for setting in _by(curves, same):
        for a, b in itertools.combinations(sorted(setting, key=lambda c: _method_rank(c.key["method"])), 2):
            seeds = {a.key["seed"], b.key["seed"]} - {None}
            if a.key["method"] == b.key["method"] or len(seeds) > 1:
                continue
            for revision in sorted(a.points.keys() & b.points.keys()):
                yield _compared(a, b, revision)


def _compared(a: Curve, b: Curve, revision: int) -> dict[str, Any]:
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


def _by_method(curves: list[Curve]) -> Iterator[dict[str, Any]]:
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


def _judge_consistency(comparisons: pa.Table) -> Iterator[dict[str, Any]]:
    key = ("judge", "eval_set", "opponent")
    for row in sorted(_groups(comparisons, key), key=lambda row: [row[name] for name in key]):
        orders = order_statistics(_floats(row["as_is"]), _floats(row["swapped"]))
        yield {name: row[name] for name in key} | {
            "n_comparisons": len(row["prompt_id"]),
            "n_both_scored": orders.n,
            "n_games_unscored": sum(row["n_unscored"]),
            **{name: value for name, value in orders._asdict().items() if name != "n"},
        }


def _by(curves: list[Curve], names: tuple[str, ...]) -> list[list[Curve]]:
    groups: dict[tuple[Any, ...], list[Curve]] = defaultdict(list)
    for curve in curves:
        groups[tuple(curve.key[name] for name in names)].append(curve)
    return list(groups.values())


def _key(curve: Curve, revision: int) -> dict[str, Any]:
    return {name: curve.key[name] for name in schemas.WIN_RATES.names if name in curve.key} | {"revision_index": revision}


def _method_rank(method: str | None) -> tuple[int, str]:
    return (METHOD_ORDER.index(method) if method in METHOD_ORDER else len(METHOD_ORDER), str(method))


def _floats(values: list[float | None]) -> Floats:
    return np.array(values, dtype=np.float64)  # None becomes NaN


def _without_nan(row: dict[str, Any]) -> dict[str, Any]:
    """A number that does not exist is NULL in the database, so that SQL's comparisons leave it out."""
    return {name: None if isinstance(value, float) and np.isnan(value) else value for name, value in row.items()}
