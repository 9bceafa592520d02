"""Whether two policies can be compared, and by which numbers they are."""

from pathlib import Path

import pytest

from srpo_core.errors import InputError
from srpo_core.settings.retraining import PromotionSettings
from storage.schemas import COMPLETIONS, PROMPTS
from tasks.retraining.comparison import Evaluated, _set_scores, check_clusters, compare_policies
from tests.homes import put, put_completions, put_games, put_policy, put_prompts


def test_an_evaluation_set_with_too_few_clusters_is_refused_before_anything_is_trained(tmp_path):
    prompts = put_prompts(tmp_path, "id:confirmation", "desk", 8, clusters=4)
    check_clusters([prompts], 4)
    with pytest.raises(InputError, match="expected at least 5 clusters .* in id:confirmation, found 4; give more prompts"):
        check_clusters([prompts], 5)


def evaluated(home: Path, *, head_to_head: bool = False) -> Evaluated:
    """12 prompts in 4 clusters, the last without gold. At revision 1 the challenger always wins and repeats the question, the
    champion draws; of the drafts it is the other way round."""
    rows = list(put_prompts(home, "whole", "desk", 12, clusters=4).rows())
    rows[-1] |= {"gold": []}
    prompts = put(home, "prompts", {"part": (rows, PROMPTS)}, settings={"name": "id"})
    questions = {row["prompt_id"]: row["prompt"][-1]["content"] for row in rows}
    policies = [put_policy(home, name, "srpo", {}, seed=seed) for seed, name in enumerate(("challenger", "champion"))]
    own, other = (put_completions(home, one, prompts, 1) for one in policies)
    copying = [row | {"text": f"{questions[row['prompt_id']]} {row['text']}"} for row in own.rows()]
    own = put(home, "completions", {"part": (copying, COMPLETIONS)}, parents={"policy": policies[0], "prompts": prompts})

    def score(policy: str, revision: int, number: int, order: str) -> float:
        return (1.0 if policy == "challenger" else 0.5) if revision == 1 else 0.0 if policy == "challenger" else 1.0

    games = put_games(home, own, prompts, score, opponents=other if head_to_head else None)
    return Evaluated(prompts, own, other, games, None if head_to_head else put_games(home, other, prompts, score))


def test_policies_are_compared_at_one_revision_by_clusters_on_prompts_with_gold_and_by_their_texts(tmp_path):
    found = compare_policies([evaluated(tmp_path)], PromotionSettings(min_clusters=2), 1, 0.05)
    guards = {guard.name: guard.value for guard in found.guards}
    assert (found.difference.n, found.difference.estimate) == (11, 0.5)
    assert (guards["coverage"], guards["clusters"], guards["copied on id"]) == (1.0, 4, 1.0)


def test_without_gold_all_prompts_count_and_none_can_lose_more_than_a_half(tmp_path):
    scores = _set_scores(evaluated(tmp_path, head_to_head=True), 1)
    assert (list(scores.differences), scores.worst) == ([0.5] * 12, -0.5)
