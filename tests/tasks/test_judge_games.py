"""A plan of games takes the same memory however many games it has."""

import tracemalloc
from pathlib import Path
from typing import Any

from storage.artifact import Artifact, writing
from storage.part_stream import PartStream
from storage.schemas import COMPLETIONS, PROMPTS
from tasks.judge_games import GamePlan


def test_eight_times_the_games_take_no_more_memory(tmp_path: Path) -> None:
    """A single 16-character id kept for each prompt would take more than what is allowed here."""
    few, many = (_inputs(tmp_path / str(prompts), prompts) for prompts in (500, 4000))
    _peak(*few)  # what is imported and cached at first use
    assert _peak(*many) - _peak(*few) < 3500 * 40


def _peak(completions: Artifact, prompts: Artifact) -> int:
    """The most bytes that Python held while the games were counted and read once."""
    tracemalloc.start()
    try:
        plan = GamePlan(completions, [prompts], None, None, "judge")
        assert sum(1 for _ in plan) == len(plan) == 2 * prompts.counts["rows"]
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


def _inputs(home: Path, prompts: int) -> tuple[Artifact, Artifact]:
    """As many prompts with one gold and one completion each, as artifacts."""
    ids = [f"{number * 2654435761 % 2**32:08x}{number:08x}" for number in range(prompts)]  # scattered, as hashes are
    turns = [{"role": "user", "content": "a document"}]
    named = {"eval_set": "tests", "domain": "tests"}
    asked = [{"prompt_id": i, "prompt": turns, "gold": [f"gold of {i}"], "cluster_id": i} | named for i in ids]
    return _write(home, "completions", [_completion(i) for i in ids], COMPLETIONS), _write(home, "prompts", asked, PROMPTS)


def _completion(prompt_id: str) -> dict[str, Any]:
    facts = {"policy_id": "tests", "sample_index": 0, "revision_index": 0, "num_tokens": 5, "finish_reason": "stop"}
    drawn = {"prompt_truncated": False, "seed": 0, "temperature": 1.0, "text": f"summary of {prompt_id}"}
    return {"completion_id": f"{prompt_id}-0", "prompt_id": prompt_id} | facts | drawn


def _write(home: Path, stage: str, rows: list[dict[str, Any]], schema: Any) -> Artifact:
    with writing(home, stage, "tests", version=1, settings={}, parents={}) as writer:
        stream = PartStream(writer, schema)
        for row in rows:
            stream.add_row(row)
        return writer.complete(stream.close(), counts={"rows": len(rows)})
