"""The games of an audit: pairs of texts drawn by lot from preference pairs or evaluation sets, each asked in both orders.

A pair is drawn by the hash of the seed and its id, so the same pairs are drawn again however many others have come since.
"""

import heapq
from collections.abc import Iterable, Iterator
from typing import Any, NamedTuple

from srpo_core.errors import InputError
from srpo_core.judging.judges import JudgeGame
from srpo_core.records import ORDERS, Prompt, content_id, seed_from
from storage.artifact import Artifact

NO_ANSWER = "No answer was written."  # what the attacker starts from where nobody wrote a worse text


class Pair(NamedTuple):
    """Two texts for one prompt."""

    pair_id: str
    cluster_id: str
    prompt: Prompt
    candidate: str  # chosen or rejected, constant, or a completion's id
    candidate_text: str
    opponent: str
    opponent_text: str
    human: float | None  # share of people who prefer the candidate; None = nobody was asked


def draw_preferences(preferences: Artifact, count: int, seed: int) -> list[Pair]:
    """`count` preference pairs; which of the two texts is the candidate is drawn too. Raises InputError when there are none."""
    rows = _draw(preferences.rows(), "pair_id", count, seed)
    if not rows:
        raise InputError(f"expected preference pairs at {preferences.path}, found none; ingest some with srpo ingest")
    return [_labelled_pair(row, chosen_first=bool(seed_from(seed, "candidate", row["pair_id"]) & 1)) for row in rows]


def draw_worse_texts(source: Artifact, count: int, seed: int) -> list[Pair]:
    """Pairs whose candidate is the worse one: a rejected text against the chosen, or no answer against the gold.

    Pairs without a preferred side and prompts without gold are passed over. Raises InputError when nothing is left.
    """
    if source.stage == "preferences":
        rows = _draw((row for row in source.rows() if row["preference"] > 0.5), "pair_id", count, seed)
        pairs = [_labelled_pair(row, chosen_first=False) for row in rows]
    else:
        rows = _draw((row for row in source.rows() if row["gold"]), "prompt_id", count, seed)
        pairs = [
            Pair(row["prompt_id"], row["cluster_id"], row["prompt"], "constant", NO_ANSWER, "gold:0", row["gold"][0], None)
            for row in rows
        ]
    if not pairs:
        raise InputError(
            f"expected preference pairs with a preferred side, or prompts with gold, at {source.path}, found none; "
            "name another set"
        )
    return pairs


def draw_completions(completions: Iterable[Artifact], prompts: Iterable[Artifact], count: int, seed: int) -> list[Pair]:
    """Drafts against the first gold, one a prompt. Raises InputError when no prompt with a draft has gold."""
    known = {row["prompt_id"]: row for one in prompts for row in one.rows() if row["gold"]}
    drafts: dict[str, dict[str, Any]] = {}
    for row in (row for one in completions for row in one.rows()):
        if row["revision_index"] == 0 and row["prompt_id"] in known:
            drafts.setdefault(row["prompt_id"], row)
    rows = _draw(drafts.values(), "prompt_id", count, seed)
    if not rows:
        raise InputError("expected drafts of prompts with gold to freeze for the sentinel, found none; give prompts with gold")
    return [_draft_pair(row, known[row["prompt_id"]]) for row in rows]


def both_orders(pair: Pair, repeat_index: int, *names: Any) -> Iterator[JudgeGame]:
    """The pair asked in both orders; `names` tell its games apart from those of other audits."""
    for order in ORDERS:
        yield JudgeGame(
            game_id=content_id("audit", pair.pair_id, pair.candidate, pair.opponent, order, repeat_index, *names),
            prompt=pair.prompt,
            prompt_id=pair.pair_id,
            candidate_id=pair.candidate,
            candidate_text=pair.candidate_text,
            opponent_id=pair.opponent,
            opponent_text=pair.opponent_text,
            order=order,
            repeat_index=repeat_index,
        )


def _draw(rows: Iterable[dict[str, Any]], key: str, count: int, seed: int) -> list[dict[str, Any]]:
    return heapq.nsmallest(count, rows, key=lambda row: (seed_from(seed, "audit", row[key]), row[key]))


def _labelled_pair(row: dict[str, Any], *, chosen_first: bool) -> Pair:
    candidate, opponent = ("chosen", "rejected") if chosen_first else ("rejected", "chosen")
    human = row["preference"] if chosen_first else 1 - row["preference"]
    known = (row["pair_id"], row["cluster_id"], row["prompt"])
    return Pair(*known, candidate, row[candidate], opponent, row[opponent], human)


def _draft_pair(draft: dict[str, Any], prompt: dict[str, Any]) -> Pair:
    known = (prompt["prompt_id"], prompt["cluster_id"], prompt["prompt"])
    return Pair(*known, draft["completion_id"], draft["text"], "gold:0", prompt["gold"][0], None)
