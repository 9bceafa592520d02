"""Which games a set of completions plays: every completion against each gold, or against another policy, in both orders.

Games come in the order of their prompt ids. These are hashes, so any first part of the games is a fair sample of the prompts.
"""

from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

from srpo_core.errors import InputError
from srpo_core.judges import ORDERS, JudgeGame
from srpo_core.records import Prompt, content_id
from storage.artifact import Artifact
from storage.schemas import COMPLETIONS, PROMPTS

_COLUMNS = ["completion_id", "prompt_id", "sample_index", "revision_index", "text"]


class GamePlan(NamedTuple):
    """The games to play; both orders of a pairing stand next to each other, as_is first."""

    games: list[JudgeGame]
    prompts_without_gold: int


class _Opponent(NamedTuple):
    opponent_id: str
    text: str


def plan_games(
    completions: Artifact,
    prompts: Sequence[Artifact],
    opponents: Artifact | None,
    opponent_revision_index: int | None,
    judge: str,
) -> GamePlan:
    """All games of `completions`. Raises InputError when a prompt, a gold or an opponent's completion is missing."""
    candidates = completions.read(COMPLETIONS, columns=_COLUMNS).to_pylist()
    if not candidates:
        raise InputError(f"expected completions to judge at {completions.path}, found none; generate for a non-empty prompt set")
    known = _read_prompts(prompts)
    _refuse_unknown_prompts(candidates, known, completions)
    if opponents is None:
        rivals, without_gold = _golds(candidates, known)
    else:
        rivals, without_gold = _policy_opponents(candidates, opponents, opponent_revision_index), 0
    candidates.sort(key=lambda row: (row["prompt_id"], row["sample_index"], row["revision_index"]))
    games = [
        game
        for row in candidates
        for opponent in rivals.get((row["prompt_id"], row["sample_index"]), [])
        for game in _both_orders(row, opponent, known[row["prompt_id"]]["prompt"], judge)
    ]
    return GamePlan(games, without_gold)


def _read_prompts(prompts: Sequence[Artifact]) -> dict[str, dict[str, Any]]:
    columns = ["prompt_id", "prompt", "gold"]
    return {row["prompt_id"]: row for artifact in prompts for row in artifact.read(PROMPTS, columns=columns).to_pylist()}


def _refuse_unknown_prompts(candidates: list[dict[str, Any]], known: dict[str, dict[str, Any]], completions: Artifact) -> None:
    missing = sorted({row["prompt_id"] for row in candidates} - known.keys())
    if missing:
        raise InputError(
            f"expected the prompts of all completions at {completions.path} among the given prompt sets, found {len(missing)} "
            f"missing ({missing[0]} first); give the prompt sets they were generated for"
        )


Rivals = dict[tuple[str, int], list[_Opponent]]  # by prompt and the candidate's sample index


def _golds(candidates: list[dict[str, Any]], known: dict[str, dict[str, Any]]) -> tuple[Rivals, int]:
    rivals: Rivals = {}
    without: set[str] = set()
    for row in candidates:
        gold = known[row["prompt_id"]]["gold"] or []
        if gold:
            rivals[row["prompt_id"], row["sample_index"]] = [_Opponent(f"gold:{i}", text) for i, text in enumerate(gold)]
        else:
            without.add(row["prompt_id"])
    if not rivals:
        raise InputError(
            f"expected gold texts to judge against, found none for any of {len(without)} prompts; "
            "give prompts with gold, or another policy's completions as opponents"
        )
    return rivals, len(without)


def _policy_opponents(candidates: list[dict[str, Any]], opponents: Artifact, revision_index: int | None) -> Rivals:
    """Sample i meets the opponent's sample i, counted round where the opponent has fewer."""
    by_prompt: dict[str, list[dict[str, Any]]] = {}
    for row in opponents.read(COMPLETIONS, columns=_COLUMNS).to_pylist():
        if row["revision_index"] == revision_index:
            by_prompt.setdefault(row["prompt_id"], []).append(row)
    missing = sorted({row["prompt_id"] for row in candidates} - by_prompt.keys())
    if missing:
        raise InputError(
            f"expected a completion of revision {revision_index} for every prompt at {opponents.path}, found {len(missing)} "
            f"prompts without one ({missing[0]} first); generate it for the same prompts with that many revisions"
        )
    rivals: Rivals = {}
    for row in candidates:
        samples = sorted(by_prompt[row["prompt_id"]], key=lambda other: other["sample_index"])
        chosen = samples[row["sample_index"] % len(samples)]
        rivals[row["prompt_id"], row["sample_index"]] = [_Opponent(chosen["completion_id"], chosen["text"])]
    return rivals


def _both_orders(row: dict[str, Any], opponent: _Opponent, prompt: Prompt, judge: str) -> Iterator[JudgeGame]:
    for order in ORDERS:
        yield JudgeGame(
            # The texts are part of the id: a gold may change while its prompt stays.
            game_id=content_id("game", row["completion_id"], row["text"], *opponent, order, judge, 0),
            prompt=prompt,
            prompt_id=row["prompt_id"],
            candidate_id=row["completion_id"],
            candidate_text=row["text"],
            opponent_id=opponent.opponent_id,
            opponent_text=opponent.text,
            order=order,
        )
