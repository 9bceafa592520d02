"""Which games a set of completions plays: every completion against each gold, or against another policy, in both orders.

Games come in the order of their prompt ids. These are hashes, so any first part of the games is a fair sample of the prompts.
A plan holds two counts only; ids and texts are read a prompt at a time, so a hundred thousand games take no more memory than ten.
"""

from collections.abc import Iterator, Sequence
from typing import Any

from srpo_core.errors import InputError
from srpo_core.judging.judges import JudgeGame
from srpo_core.records import ORDERS, Prompt, content_id
from storage.artifact import Artifact
from storage.sorted_rows import grouped, iterate_sorted

_COLUMNS = ["completion_id", "prompt_id", "sample_index", "revision_index", "text"]
_ORDER = ["prompt_id", "sample_index", "revision_index"]

Row = dict[str, Any]


class GamePlan:
    """The games to play, as often as it is iterated; both orders of a pairing stand next to each other, as_is first."""

    def __init__(
        self,
        completions: Artifact,
        prompts: Sequence[Artifact],
        opponents: Artifact | None,
        opponent_revision_index: int | None,
        judge: str,
        repeats: int = 1,
    ) -> None:
        """Check that all is there. Raises InputError when completions, a prompt, all gold or an opponent's text is missing."""
        self._completions, self._judge, self._repeats = completions, judge, repeats
        self._prompt_parts = [path for artifact in prompts for path in artifact.parts()]
        self._opponents, self._opponent_revision = opponents, opponent_revision_index
        self._check_prompts()
        if opponents is not None:
            self._check_opponents(opponents)
        self.prompts_without_gold, self._num_games = self._count_games()

    def __len__(self) -> int:
        """How many games there are, both orders and all repeats counted."""
        return self._num_games

    def __iter__(self) -> Iterator[JudgeGame]:
        """Read the texts prompt by prompt."""
        prompts = iterate_sorted(self._prompt_parts, ["prompt_id", "prompt", "gold"], ["prompt_id"])
        rivals = self._opponent_rows()
        candidates = grouped(iterate_sorted(self._completions.parts(), _COLUMNS, _ORDER), "prompt_id")
        for (_, rows), (_, found) in zip(candidates, _following(prompts, self._prompt_ids()), strict=True):
            others = next(rivals)[1] if rivals is not None else None
            for row in rows:
                for opponent_id, text in _opponents_of(row, found[-1], others):
                    yield from self._games(row, opponent_id, text, found[-1]["prompt"])

    def _games(self, row: Row, opponent_id: str, opponent_text: str, prompt: Prompt) -> Iterator[JudgeGame]:
        for repeat in range(self._repeats):
            for order in ORDERS:
                yield JudgeGame(
                    # The texts are part of the id: a gold may change while its prompt stays.
                    game_id=content_id(
                        "game", row["completion_id"], row["text"], opponent_id, opponent_text, order, self._judge, repeat
                    ),
                    prompt=prompt,
                    prompt_id=row["prompt_id"],
                    candidate_id=row["completion_id"],
                    candidate_text=row["text"],
                    opponent_id=opponent_id,
                    opponent_text=opponent_text,
                    order=order,
                    repeat_index=repeat,
                )

    def _prompt_ids(self) -> Iterator[str]:
        """The prompts of the completions, each once, in order."""
        for prompt_id, _ in grouped(iterate_sorted(self._completions.parts(), ["prompt_id"], ["prompt_id"]), "prompt_id"):
            yield prompt_id

    def _opponent_rows(self) -> Iterator[tuple[str, list[Row]]] | None:
        if self._opponents is None:
            return None
        chosen = ("revision_index", self._opponent_revision)
        return _following(iterate_sorted(self._opponents.parts(), _COLUMNS, _ORDER, chosen), self._prompt_ids())

    def _check_prompts(self) -> None:
        if next(self._prompt_ids(), None) is None:
            raise InputError(
                f"expected completions to judge at {self._completions.path}, found none; generate for a non-empty prompt set"
            )
        prompts = iterate_sorted(self._prompt_parts, ["prompt_id"], ["prompt_id"])
        missing = [prompt_id for prompt_id, found in _following(prompts, self._prompt_ids()) if not found]
        if missing:
            raise InputError(
                f"expected the prompts of all completions at {self._completions.path} among the given prompt sets, found "
                f"{len(missing)} missing ({missing[0]} first); give the prompt sets they were generated for"
            )

    def _check_opponents(self, opponents: Artifact) -> None:
        chosen = ("revision_index", self._opponent_revision)
        rivals = iterate_sorted(opponents.parts(), ["prompt_id"], ["prompt_id"], chosen)
        missing = [prompt_id for prompt_id, found in _following(rivals, self._prompt_ids()) if not found]
        if missing:
            raise InputError(
                f"expected a completion of revision {self._opponent_revision} for every prompt at {opponents.path}, found "
                f"{len(missing)} prompts without one ({missing[0]} first); generate it for the same prompts and revisions"
            )

    def _count_games(self) -> tuple[int, int]:
        """Prompts whose completions meet nobody, and games."""
        prompts = iterate_sorted(self._prompt_parts, ["prompt_id", "gold"], ["prompt_id"])
        candidates = grouped(iterate_sorted(self._completions.parts(), ["prompt_id"], ["prompt_id"]), "prompt_id")
        alone = pairings = 0
        for (_, rows), (_, found) in zip(candidates, _following(prompts, self._prompt_ids()), strict=True):
            met = 1 if self._opponents is not None else len(found[-1]["gold"] or [])
            pairings += met * len(rows)
            alone += not met
        if not pairings:
            raise InputError(
                f"expected gold texts to judge against, found none for any of {alone} prompts; "
                "give prompts with gold, or another policy's completions as opponents"
            )
        return alone, pairings * len(ORDERS) * self._repeats


def _following(rows: Iterator[Row], prompt_ids: Iterator[str]) -> Iterator[tuple[str, list[Row]]]:
    """The rows of each of `prompt_ids`, none where it has none; both come in the order of prompt ids."""
    groups = grouped(rows, "prompt_id")
    group = next(groups, None)
    for wanted in prompt_ids:
        while group is not None and group[0] < wanted:
            group = next(groups, None)
        yield wanted, group[1] if group is not None and group[0] == wanted else []


def _opponents_of(row: Row, prompt: Row, others: list[Row] | None) -> list[tuple[str, str]]:
    """Ids and texts that a completion meets: each gold; or of another policy sample i, counted round where it has fewer."""
    if others is None:
        return [(f"gold:{index}", text) for index, text in enumerate(prompt["gold"] or [])]
    chosen = others[row["sample_index"] % len(others)]
    return [(chosen["completion_id"], chosen["text"])]
