"""What a retraining asks of two policies on the same prompts: whether they can be compared, and which of them is better.

The numbers come from `srpo_core.scoring.promotion`; where a retraining begins is in `standing.py`.
"""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from srpo_core.errors import InputError
from srpo_core.records import cluster_of
from srpo_core.scoring.promotion import Comparison, SetScores, TextShares, compare, text_shares
from srpo_core.scoring.win_rate import Floats, win_rate_interval, without_nan
from srpo_core.settings.retraining import PromotionSettings
from storage.artifact import Artifact
from storage.schemas import COMPLETIONS, PROMPTS
from tasks.equal_compute_tables import completion_scores

Row = dict[str, Any]


class Evaluated(NamedTuple):
    """Both policies on one evaluation set; with gold their games are against it, else the challenger's against the champion."""

    prompts: Artifact
    challenger: Artifact  # completions
    champion: Artifact
    challenger_games: Artifact
    champion_games: Artifact | None


def check_clusters(parts: Sequence[Artifact], at_least: int) -> None:
    """Raise InputError, before anything is trained, for a part of an evaluation set that can convince nobody."""
    for one in parts:
        rows = one.read(PROMPTS, columns=["prompt_id", "cluster_id"]).to_pylist()
        found = len({cluster_of(row) for row in rows})
        if found < at_least:
            raise InputError(
                f"expected at least {at_least} clusters of prompts, promotion.min_clusters, in {one.settings['name']}, found "
                f"{found}; give more prompts, another promotion.confirmation_share or a lower promotion.min_clusters"
            )


def check_start(champion_policy: Artifact, reference: Artifact) -> None:
    """Raise InputError when training cannot go on from the champion, whose reference was another one."""
    used = champion_policy.manifest["parents"].get("reference", {})
    if used.get("digest") != reference.digest:
        raise InputError(
            f"expected a champion trained against the reference {reference.fingerprint} to start from, found "
            f"{champion_policy.fingerprint}, trained against {used.get('fingerprint', 'none')}; set start_from: reference"
        )


def compare_policies(sets: Sequence[Evaluated], settings: PromotionSettings, revision: int, level: float) -> Comparison:
    """Challenger and champion on the same prompts at one revision. Raises InputError when a set has no completion of it."""
    scores = [_set_scores(one, revision) for one in sets]
    challengers = [_shares(one.prompts, one.challenger, revision) for one in sets]
    champions = [_shares(one.prompts, one.champion, revision) for one in sets]
    return compare(scores, challengers, champions, settings, level)


def curves_of(sets: Sequence[Evaluated]) -> list[Row]:
    """Both policies' scores by evaluation set and revision: a row each with win rate, interval and mean tokens."""
    return [row for one in sets for role in ("challenger", "champion") for row in _curve(one, role)]


def _set_scores(one: Evaluated, revision: int) -> SetScores:
    """Of prompts with gold each side's score against it; without, the challenger's score against the champion, and one half."""
    rows = one.prompts.read(PROMPTS, columns=["prompt_id", "cluster_id", "gold"]).to_pylist()
    asked = [row for row in rows if one.champion_games is None or row["gold"]]
    ids = [row["prompt_id"] for row in asked]
    challenger = _by_prompt(one.challenger, completion_scores(one.challenger_games), revision, ids)
    if one.champion_games is None:
        other = np.full(len(ids), 0.5)
    else:
        other = _by_prompt(one.champion, completion_scores(one.champion_games), revision, ids)
    clusters = [cluster_of(row) for row in asked]
    return SetScores(one.prompts.settings["name"], challenger, other, clusters, head_to_head=one.champion_games is None)


def _by_prompt(completions: Artifact, scores: Mapping[str, float], revision: int, prompt_ids: Sequence[str]) -> Floats:
    """Mean (P,) over each prompt's completions of a revision of their `scores` by id, NaN where none is scored."""
    found: dict[str, list[float]] = {name: [] for name in prompt_ids}
    for row in _texts(completions, revision):
        score = scores.get(row["completion_id"], np.nan)
        if row["prompt_id"] in found and not np.isnan(score):
            found[row["prompt_id"]].append(score)
    return np.array([np.mean(own) if own else np.nan for own in found.values()], dtype=np.float64)


def _texts(completions: Artifact, revision: int) -> list[Row]:
    columns = ["completion_id", "prompt_id", "revision_index", "text", "num_tokens"]
    rows = completions.read(COMPLETIONS, columns=columns).to_pylist()
    found = [row for row in rows if row["revision_index"] == revision]
    if not found:
        raise InputError(f"expected completions of revision {revision} at {completions.path}, found none; generate them")
    return found


def _shares(prompts: Artifact, completions: Artifact, revision: int) -> TextShares:
    """What one policy's texts on a set are like."""
    asked = {row["prompt_id"]: row["prompt"][-1]["content"] for row in prompts.rows()}
    rows = _texts(completions, revision)
    questions = [asked[row["prompt_id"]] for row in rows]
    return text_shares([row["text"] for row in rows], questions, [row["num_tokens"] for row in rows])


def _curve(one: Evaluated, role: str) -> list[Row]:
    completions, games = getattr(one, role), getattr(one, f"{role}_games")
    if games is None:
        return []
    rows = one.prompts.read(PROMPTS, columns=["prompt_id", "cluster_id"]).to_pylist()
    ids, clusters = [row["prompt_id"] for row in rows], [cluster_of(row) for row in rows]
    revisions = sorted(set(completions.read(COMPLETIONS, columns=["revision_index"])["revision_index"].to_pylist()))
    scores, curve = completion_scores(games), []
    for revision in revisions:
        rate = win_rate_interval(_by_prompt(completions, scores, revision, ids), clusters)
        tokens = float(np.mean([row["num_tokens"] for row in _texts(completions, revision)]))
        opponent = "champion" if one.champion_games is None else "gold"
        named = {"role": role, "eval_set": one.prompts.settings["name"], "revision_index": revision}
        named |= {"opponent": opponent, "mean_tokens": tokens}
        curve.append(
            named | without_nan({"n": rate.n, "win_rate": rate.estimate, "ci_low": rate.ci_low, "ci_high": rate.ci_high})
        )
    return curve
