"""Where a retraining begins: what is new since the champion was trained, whether the same was tried before, who waits.

Who is champion, and what was looked at and decided, stands in `storage.registry`.
"""

import json
import logging
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from srpo_core.settings.retraining import RetrainSettings
from storage.artifact import Artifact, find_artifact, hash_of
from storage.registry import find_champion, find_entry, read_registry, undecided_looks
from storage.schemas import PREFERENCES
from tasks.generation import VERSION as GENERATION_VERSION
from tasks.judging import VERSION as JUDGING_VERSION

# Settings that change no number of a comparison: how the work is spread, what a run is called, who has to agree, and how fast,
# how patiently and for how much money the judge is asked.
OF_ASKING = {
    "api_key_variable",
    "max_concurrency",
    "requests_per_minute",
    "tokens_per_minute",
    "budget",
    "timeout_seconds",
    "max_attempts",
    "price_per_million_prompt_tokens",
    "price_per_million_completion_tokens",
    "sentinel_games",
    "sentinel_seed",
}
_NO_NUMBERS: Any = {
    "min_new_pairs": True,
    "pipeline": {"resources": True, "name": True, "judge": OF_ASKING},
    "promotion": {"require_approval", "approval_hours"},
}
logger = logging.getLogger("srpo")

Row = dict[str, Any]


class Changes(NamedTuple):
    """How pairs differ from those that a policy was trained on."""

    new: int  # it was not trained on them, or with another label
    withdrawn: int  # it was trained on them, and they are no longer there


class Standing(NamedTuple):
    """Where a retraining begins."""

    champion_id: str | None
    changes: Changes  # since the champion was trained
    attempt: str  # hash of what is tried: these pairs, these settings, this champion
    nothing_new: str | None  # the sentence that says why there is nothing to do; None = train


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


def find_standing(
    settings: RetrainSettings,
    preferences: Artifact,
    home: Path,
    *,
    prefect_run: str | None = None,
    is_open: Callable[[str], bool] = lambda _: False,
) -> Standing:
    """What has changed in `preferences`, whether the same was tried before, and whether another run still waits for its decision.

    `is_open` tells of a Prefect run whether it may still go on; `prefect_run` is this one.
    """
    policy = find_champion(home)
    holder = policy.fingerprint if policy else None
    changes = count_changes(policy, preferences, home)
    attempt = hash_of({"pairs": preferences.digest, "settings": _numbers(settings), "champion": holder}, 32)
    decided, open_look = find_entry(home, f"decision:{attempt}"), _open_look(home, prefect_run, is_open)
    sentence = None
    if sum(changes) < settings.min_new_pairs:
        found = (
            f"{changes.new} of {preferences.counts['pairs']} pairs are new since champion {holder} was trained and "
            f"{changes.withdrawn} of its own are withdrawn"
            if holder is not None
            else f"there is no champion and there are {changes.new} pairs"
        )
        sentence = f"{found}, fewer than min_new_pairs {settings.min_new_pairs}: nothing to train"
    elif decided is not None:
        sentence = (
            f"these {preferences.counts['pairs']} pairs with these settings were tried before, see entry {decided['entry']} of "
            f"{decided['at'][:10]}, {decided['event']}: {decided['reason']}"
        )
    elif open_look is not None:
        sentence = (
            f"challenger {open_look['policy_id']} of flow run {open_look['prefect_run']} is not decided on yet, see entry "
            f"{open_look['entry']} of {open_look['at'][:10]}: nothing is trained beside it"
        )
    return Standing(holder, changes, attempt, sentence)


def count_changes(policy: Artifact | None, preferences: Artifact, home: Path) -> Changes:
    """How `preferences` differ from what `policy` was trained on; all of them are new without a policy."""
    used = (policy.manifest["parents"] if policy else {}).get("preferences")
    if used is not None and used["digest"] == preferences.digest:
        return Changes(0, 0)
    known = None if used is None else find_artifact(home, "preferences", used["fingerprint"])
    if used is not None and known is None:
        logger.warning("the pairs that the champion was trained on are gone: all %d count as new", preferences.counts["pairs"])
    now, before = _labelled(preferences), _labelled(known) if known else set()
    return Changes(len(now - before), len({one[0] for one in before} - {one[0] for one in now}))


def identify_look(attempt: str, compared: Sequence[Artifact], parts: Sequence[Artifact]) -> str:
    """The key of a look at the confirmation prompts: another challenger or champion, other prompts or other code look anew.

    `compared`: the two policies; `parts`: the confirmation parts.
    """
    versions = {"generation": GENERATION_VERSION, "judging": JUDGING_VERSION}
    seen = {"policies": [one.digest for one in compared], "prompts": [one.digest for one in parts], "versions": versions}
    return f"look:{attempt}:{hash_of(seen, 16)}"


def _open_look(home: Path, prefect_run: str | None, is_open: Callable[[str], bool]) -> Row | None:
    """A look of another run that may still decide on it."""
    others = [one for one in undecided_looks(home) if one["prefect_run"] not in (None, prefect_run)]
    return next((one for one in reversed(others) if is_open(one["prefect_run"])), None)


def _numbers(settings: RetrainSettings) -> Row:
    return settings.model_dump(mode="json", exclude=_NO_NUMBERS)


def _labelled(preferences: Artifact) -> set[tuple[str, float, int]]:
    """Pairs with their labels."""
    table = preferences.read(PREFERENCES, columns=["pair_id", "preference", "chosen"])
    columns = (table[name].to_pylist() for name in ("pair_id", "preference", "chosen"))
    return {(pair_id, preference, hash(chosen)) for pair_id, preference, chosen in zip(*columns, strict=True)}
