"""Texts and verdicts arranged for equal compute: a score means what it means in every other win rate."""

from pathlib import Path

import numpy as np
import pytest

from storage.artifact import Artifact
from storage.results_db import run_query
from storage.schemas import GAMES
from tasks.equal_compute_tables import read_texts
from tasks.publishing import publish_results
from tests.homes import put, put_completions, put_games, put_policy, put_prompts

# By prompt and order the scores of two repeats; None is a call that failed.
REPEATS = {0: {"as_is": (1.0, None), "swapped": (None, 0.5)}, 1: {"as_is": (1.0, 0.0), "swapped": (None, 0.0)}}


def put_repeats(home: Path, completions: Artifact, prompts: Artifact) -> Artifact:
    """The draft of each prompt against its gold, each question asked twice in both orders."""
    once = put_games(home / "once", completions, prompts, lambda *_: 1.0)
    rows = []
    for row in once.read(GAMES).to_pylist():
        for repeat, score in enumerate(REPEATS[int(row["prompt_id"].rsplit("-", 1)[1])][row["order"]]):
            outcome = "unscored" if score is None else "tie" if score == 0.5 else "win" if score else "loss"
            reason = "api_error:500" if score is None else None
            verdict = {"repeat_index": repeat, "score": score, "outcome": outcome, "unscored_reason": reason}
            rows.append(row | verdict | {"game_id": f"{row['game_id']}/{repeat}"})
    parents = {"completions": completions, "prompts:0": prompts}
    return put(home, "games", {"part": (rows, GAMES)}, settings={"judge": {"kind": "api"}, "repeats": 2}, parents=parents)


def test_with_repeats_the_same_games_have_one_win_rate_here_and_in_the_results(tmp_path: Path) -> None:
    """Averaged within their order first: prompt 0 has (1 + .5) / 2, prompt 1 has (.5 + 0) / 2, whichever repeat failed."""
    policy = put_policy(tmp_path, "srpo", "srpo", {}, beta=0.1)
    put_policy(tmp_path / "once", "srpo", "srpo", {}, beta=0.1)
    prompts = put_prompts(tmp_path, "id", "desk", 2)
    drafts = put_completions(tmp_path, policy, prompts, 0)
    games = put_repeats(tmp_path, drafts, prompts)
    texts = read_texts(prompts, drafts, games, drafts, games)
    assert texts.revised_scores.tolist() == texts.draft_scores.tolist() == [[0.75], [0.25]]
    publish_results(tmp_path)
    published = run_query(tmp_path, "SELECT win_rate, n_scored FROM win_rates").to_pylist()
    assert published == [{"win_rate": pytest.approx(np.mean(texts.revised_scores)), "n_scored": 2}]
