"""From comparisons (one question, both orders) to curves: what the statistics tables are made from.

A curve is one policy on one evaluation set against one opponent, by one judge, decoded alike, over its revisions.
"""

from collections import defaultdict
from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa

from srpo_core.scoring.comparisons import Comparisons, scores_by_prompt
from srpo_core.scoring.win_rate import Floats, PromptScores

POLICY = ("method", "policy_id", "seed", "alpha", "beta", "learning_rate")
SETTING = ("eval_set", "is_ood", "opponent", "opponent_policy_id", "opponent_revision_index", "judge", "temperature", "sampling")
_COMPARED = ("prompt_id", "cluster_id", "candidate", "opponent_id", "candidate_length", "opponent_length", "identical")
_ANSWERED = ("as_is", "swapped", "label_as_is", "label_swapped", "n_unscored")
Row = dict[str, Any]


class Point(NamedTuple):
    """One revision of a curve: what was compared, its prompts' scores, and what is missing."""

    comparisons: Comparisons
    scores: PromptScores
    n_identical: int  # questions about two texts that are the same
    n_unscored: int  # games


class Curve(NamedTuple):
    """One policy in one setting, over revisions; all revisions share one axis of prompts."""

    key: Row  # POLICY and SETTING
    clusters: list[str]  # (P,)
    prompts: list[str]  # (P,)
    points: dict[int, Point]

    def scores(self, revision: int) -> Floats:
        """Per-prompt scores (P,) of one revision on the curve's axis, NaN where unscored or not asked."""
        found = dict(zip(self.points[revision].scores.prompts.tolist(), self.points[revision].scores.score, strict=True))
        return np.array([found.get(prompt, np.nan) for prompt in self.prompts])


def build_curves(comparisons: pa.Table) -> list[Curve]:
    """Group comparisons (`storage.schemas.COMPARISONS`) into curves, in a fixed order."""
    grouped: dict[tuple[Any, ...], dict[int, Row]] = defaultdict(dict)
    for row in group_rows(comparisons, (*POLICY, *SETTING, "revision_index")):
        grouped[tuple(row[name] for name in (*POLICY, *SETTING))][row["revision_index"]] = row
    curves = [_curve(dict(zip((*POLICY, *SETTING), key, strict=True)), rows) for key, rows in grouped.items()]
    return sorted(curves, key=lambda curve: [str(value) for value in curve.key.values()])


def group_rows(comparisons: pa.Table, key: tuple[str, ...]) -> list[Row]:
    """One row a group: the key, and lists of what was compared and answered, in the table's order."""
    lists = [name for name in (*_COMPARED, *_ANSWERED) if name not in key]
    grouped = comparisons.group_by(list(key), use_threads=False).aggregate([(name, "list") for name in lists])
    return grouped.rename_columns({f"{name}_list": name for name in lists}).to_pylist()


def floats(values: list[float | None]) -> Floats:
    """An array in which None has become NaN."""
    return np.array(values, dtype=np.float64)


def _curve(key: Row, revisions: Mapping[int, Row]) -> Curve:
    cluster_of: dict[str, str] = {}
    points = {}
    for revision, row in sorted(revisions.items()):
        cluster_of |= dict(zip(row["prompt_id"], row["cluster_id"], strict=True))
        asked = _comparisons(row)
        points[revision] = Point(asked, scores_by_prompt(asked), sum(map(bool, row["identical"])), sum(row["n_unscored"]))
    prompts = sorted(cluster_of)
    return Curve(key, [cluster_of[prompt] for prompt in prompts], prompts, points)


def _comparisons(row: Row) -> Comparisons:
    """Rows about the same two texts are repeats of one question."""
    texts: dict[tuple[str, str, str], int] = {}
    pairs = zip(row["prompt_id"], row["candidate"], row["opponent_id"], strict=True)
    return Comparisons(
        np.array(row["prompt_id"], dtype=np.str_),
        np.array(row["cluster_id"], dtype=np.str_),
        np.array([texts.setdefault(pair, len(texts)) for pair in pairs], dtype=np.intp),
        np.array([floats(row["as_is"]), floats(row["swapped"])]),
        [row["label_as_is"], row["label_swapped"]],
        np.array([floats(row["candidate_length"]), floats(row["opponent_length"])]),
    )
