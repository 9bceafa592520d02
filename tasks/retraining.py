"""What a retraining asks of a home: what is new since the champion was trained, who is champion, and which of two is better.

The numbers come from `srpo_core.scoring.promotion`; who is champion stands in `storage.registry`.
"""

import json
import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from srpo_core.errors import InputError
from srpo_core.scoring.promotion import Comparison, SetScores, TextShares, compare, text_shares
from srpo_core.scoring.win_rate import Floats, win_rate_interval, without_nan
from srpo_core.settings.retraining import PromotionSettings, RetrainSettings
from storage.artifact import Artifact, find_artifact, hash_of
from storage.registry import champion, find_entry, read_registry
from storage.schemas import COMPLETIONS, PREFERENCES, PROMPTS
from tasks.equal_compute_tables import completion_scores

# Settings that change no number: how the work is spread, what a run is called, who has to agree.
_NO_NUMBERS = {"pipeline": {"resources", "name"}, "promotion": {"require_approval", "approval_hours"}}
logger = logging.getLogger("srpo")

Row = dict[str, Any]


class Standing(NamedTuple):
    """Where a retraining begins."""

    champion_id: str | None
    new_pairs: int  # that the champion was not trained on, with these labels
    attempt: str  # hash of what is tried: these pairs, these settings, this champion
    nothing_new: str | None  # the sentence that says why there is nothing to do; None = train


class Evaluated(NamedTuple):
    """Both policies on one evaluation set; with gold their games are against it, else the challenger's against the champion."""

    prompts: Artifact
    challenger: Artifact  # completions
    champion: Artifact
    challenger_games: Artifact
    champion_games: Artifact | None


class Begun(NamedTuple):
    """What an earlier attempt of the same Prefect run left: resumed after an approval, or run again after a crash."""

    decision: Row | None  # the entry in which it ended
    preferences: Artifact | None  # the pairs it looked at the confirmation prompts with; newer ones wait for the next run


def find_begun(home: Path, prefect_run: str | None) -> Begun:
    """What the registry knows of a Prefect run."""
    own = [one for one in read_registry(home) if prefect_run is not None and one["prefect_run"] == prefect_run]
    decisions = [one for one in own if one["event"] in ("promoted", "rejected")]
    if decisions or not own:
        return Begun(decisions[-1] if decisions else None, None)
    return Begun(None, find_artifact(home, "preferences", json.loads(own[-1]["evidence"])["preferences"]))


def find_standing(settings: RetrainSettings, preferences: Artifact, home: Path) -> Standing:
    """What is new in `preferences`, and whether the same was tried before."""
    holder = champion(home)
    policy = None if holder is None else find_champion(home)
    new_pairs = count_new_pairs(policy, preferences, home)
    attempt = hash_of({"pairs": preferences.digest, "settings": _numbers(settings), "champion": holder}, 32)
    decided = find_entry(home, f"decision:{attempt}")
    sentence = None
    if new_pairs < settings.min_new_pairs:
        sentence = (
            f"{new_pairs} of {preferences.counts['pairs']} pairs are new since champion {holder} was trained, fewer than "
            f"min_new_pairs {settings.min_new_pairs}: nothing to train"
        )
    elif decided is not None:
        sentence = (
            f"these {preferences.counts['pairs']} pairs with these settings were tried before, see entry {decided['entry']} of "
            f"{decided['at'][:10]}, {decided['event']}: {decided['reason']}"
        )
    return Standing(holder, new_pairs, attempt, sentence)


def find_champion(home: Path) -> Artifact | None:
    """The champion's policy; None = there is no champion. Raises InputError when its artifact is gone."""
    holder = champion(home)
    if holder is None:
        return None
    found = find_artifact(home, "policies", holder)
    if found is None:
        raise InputError(f"expected the champion policies/{holder} in {home}, found it gone; `srpo promote` another")
    return found


def count_new_pairs(policy: Artifact | None, preferences: Artifact, home: Path) -> int:
    """Pairs of `preferences` that `policy` was not trained on, or whose label has changed; all of them without a policy."""
    used = (policy.manifest["parents"] if policy else {}).get("preferences")
    if used is not None and used["digest"] == preferences.digest:
        return 0
    known = None if used is None else find_artifact(home, "preferences", used["fingerprint"])
    if used is not None and known is None:
        logger.warning("the pairs that the champion was trained on are gone: all %d count as new", preferences.counts["pairs"])
    return len(_labelled(preferences) - (_labelled(known) if known else set()))


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
    challenger = _shares([(one.prompts, one.challenger) for one in sets], revision)
    champion_shares = _shares([(one.prompts, one.champion) for one in sets], revision)
    return compare(scores, challenger, champion_shares, settings, level)


def curves_of(sets: Sequence[Evaluated]) -> list[Row]:
    """Both policies' scores by evaluation set and revision: a row each with win rate, interval and mean tokens."""
    return [row for one in sets for role in ("challenger", "champion") for row in _curve(one, role)]


def _numbers(settings: RetrainSettings) -> Row:
    return settings.model_dump(mode="json", exclude=_NO_NUMBERS)


def _labelled(preferences: Artifact) -> set[tuple[str, float, int]]:
    """Pairs with their labels."""
    table = preferences.read(PREFERENCES, columns=["pair_id", "preference", "chosen"])
    columns = (table[name].to_pylist() for name in ("pair_id", "preference", "chosen"))
    return {(pair_id, preference, hash(chosen)) for pair_id, preference, chosen in zip(*columns, strict=True)}


def _set_scores(one: Evaluated, revision: int) -> SetScores:
    """Of prompts with gold each side's score against it; without, h and 1 - h, h the challenger's score against the champion."""
    rows = one.prompts.read(PROMPTS, columns=["prompt_id", "cluster_id", "gold"]).to_pylist()
    asked = [row for row in rows if one.champion_games is None or row["gold"]]
    ids = [row["prompt_id"] for row in asked]
    challenger = _by_prompt(one.challenger, completion_scores(one.challenger_games), revision, ids)
    if one.champion_games is None:
        other = 1 - challenger
    else:
        other = _by_prompt(one.champion, completion_scores(one.champion_games), revision, ids)
    clusters = [row["cluster_id"] or row["prompt_id"] for row in asked]
    return SetScores(one.prompts.settings["name"], challenger, other, clusters)


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


def _shares(side: Sequence[tuple[Artifact, Artifact]], revision: int) -> TextShares:
    """What one policy's texts are like, over its (prompts, completions)."""
    texts, questions, tokens = [], [], []
    for prompts, completions in side:
        asked = {row["prompt_id"]: row["prompt"][-1]["content"] for row in prompts.rows()}
        rows = _texts(completions, revision)
        texts.append([row["text"] for row in rows])
        questions.append([asked[row["prompt_id"]] for row in rows])
        tokens += [row["num_tokens"] for row in rows]
    return text_shares(texts, questions, tokens)


def _curve(one: Evaluated, role: str) -> list[Row]:
    completions, games = getattr(one, role), getattr(one, f"{role}_games")
    if games is None:
        return []
    rows = one.prompts.read(PROMPTS, columns=["prompt_id", "cluster_id"]).to_pylist()
    ids, clusters = [row["prompt_id"] for row in rows], [row["cluster_id"] or row["prompt_id"] for row in rows]
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
