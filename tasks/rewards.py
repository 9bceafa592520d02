"""The rewards stage: what a reward model says of each draft, for picking the highest.

A reward model reads every text by itself, and its verdict on a game holds both rewards. So each draft of a prompt meets the first
one, once, and these games are no verdicts on anything.
"""

import shutil
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from srpo_core.judging.judges import JudgeGame, is_identical
from srpo_core.judging.local_judges import read_rewards
from srpo_core.records import content_id
from srpo_core.settings.judges import RewardModelJudgeSettings
from srpo_core.settings.resources import Resources
from storage.artifact import Artifact, compute_fingerprint, find_artifact, writing
from storage.part_stream import PartStream
from storage.schemas import COMPLETIONS, PROMPTS, REWARDS
from tasks.deciding import decide_games
from tasks.judge_identity import fingerprint_settings, judge_name

VERSION = 1
JOURNALS = "journals"
Row = dict[str, Any]


def compute_rewards(
    drafts: Artifact, prompts: Artifact, judge: RewardModelJudgeSettings, home: Path, *, resources: Resources | None = None
) -> Artifact:
    """The artifact `rewards`: one row a draft, without a reward where the model cannot read it (counted).

    A prompt's rewards are all missing when its drafts are all the same, or when the first of them is too long to be read.
    Raises what `decide_games` raises; nothing is then marked complete.
    """
    asked = {"judge": fingerprint_settings(judge)}
    parents = {"completions": drafts, "prompts": prompts}
    fingerprint = compute_fingerprint("rewards", VERSION, asked, parents)
    found = find_artifact(home, "rewards", fingerprint)
    if found is not None:
        return found
    with writing(home, "rewards", fingerprint, version=VERSION, settings=asked, parents=parents) as writer:
        if writer.artifact is not None:
            return writer.artifact
        own = _drafts_by_prompt(drafts)
        journals = writer.path / JOURNALS
        rewards: dict[str, float] = {}
        asking: dict[str, Any] = {"resources": resources, "about": "rewards of drafts"}
        for game, verdict in decide_games(_games(own, prompts), judge, home, journal_folder=journals, **asking):
            if verdict.label is not None:
                rewards[game.candidate_id], rewards[game.opponent_id] = read_rewards(verdict.label)
        stream = PartStream(writer, REWARDS)
        without = 0
        for row, first in ((row, rows[0]) for rows in own.values() for row in rows):
            twin = first if row["text"].strip() == first["text"].strip() else row  # of the same text, which was asked about once
            reward = rewards.get(twin["completion_id"])
            stream.add_row({"completion_id": row["completion_id"], "prompt_id": row["prompt_id"], "reward": reward})
            without += reward is None
        counts = {"rewards": stream.num_rows, "drafts_without_reward": without}
        artifact = writer.complete(stream.close(), counts=counts, info={"judge": judge_name(judge)})
        shutil.rmtree(journals, ignore_errors=True)
        return artifact


def _drafts_by_prompt(drafts: Artifact) -> dict[str, list[Row]]:
    rows: dict[str, list[Row]] = defaultdict(list)
    columns = ["completion_id", "prompt_id", "sample_index", "text"]
    for row in sorted(drafts.read(COMPLETIONS, columns=columns).to_pylist(), key=lambda row: row["sample_index"]):
        rows[row["prompt_id"]].append(row)
    return rows


def _games(drafts: dict[str, list[Row]], prompts: Artifact) -> Iterator[JudgeGame]:
    """Each prompt's drafts against its first one, in one order: the model sees none."""
    for prompt in prompts.read(PROMPTS, columns=["prompt_id", "prompt"]).to_pylist():
        own = drafts.get(prompt["prompt_id"], [])
        for row in own[1:]:
            first = own[0]
            game = JudgeGame(
                game_id=content_id("reward", row["completion_id"], row["text"], first["completion_id"], first["text"]),
                prompt=prompt["prompt"],
                prompt_id=prompt["prompt_id"],
                candidate_id=row["completion_id"],
                candidate_text=row["text"],
                opponent_id=first["completion_id"],
                opponent_text=first["text"],
                order="as_is",
            )
            if not is_identical(game):
                yield game
