"""What is new since a policy was trained, and what is said of a challenger."""

from pathlib import Path
from typing import Any

import pytest

from srpo_core.errors import InputError
from srpo_core.scoring.promotion import TextShares, compare
from srpo_core.settings.judges import ApiJudgeSettings
from srpo_core.settings.retraining import PromotionSettings, RetrainSettings
from storage.artifact import Artifact
from storage.registry import record_decision, record_look
from storage.schemas import COMPLETIONS, PREFERENCES, PROMPTS
from tasks.judge_identity import fingerprint_settings
from tasks.proposal import Proposal, proposal_markdown
from tasks.retraining import Evaluated, _set_scores, check_clusters, compare_policies
from tasks.standing import OF_ASKING, Changes, Standing, count_changes, find_standing, identify_look
from tests.homes import put, put_completions, put_games, put_policy, put_prompts
from tests.retraining import SmallWorld
from tests.small_training import pair_rows
from tests.srpo_core.scoring.test_promotion import one_set
from tests.stages import put_pairs

PLAIN = TextShares(20.0, 0.0, 0.0, 0.0)


def trained_on(home: Any, pairs: Artifact) -> Artifact:
    return put(home, "policies", {}, settings={"method": "srpo"}, parents={"preferences": pairs})


def test_pairs_are_new_when_the_policy_had_none_of_them_or_with_another_label(tmp_path):
    rows = pair_rows(8)
    policy = trained_on(tmp_path, put_pairs(tmp_path, rows[:5]))
    assert count_changes(None, put_pairs(tmp_path, rows), tmp_path) == (8, 0)
    assert count_changes(policy, put_pairs(tmp_path, rows[:5]), tmp_path) == (0, 0)
    assert count_changes(policy, put_pairs(tmp_path, rows), tmp_path) == (3, 0)
    swapped = rows[0] | {"chosen": rows[0]["rejected"], "rejected": rows[0]["chosen"]}
    surer = rows[1] | {"preference": 0.95}
    assert count_changes(policy, put_pairs(tmp_path, [swapped, surer, *rows[2:5]]), tmp_path) == (2, 0)


def test_without_a_champion_too_few_pairs_are_told_without_naming_one(tmp_path):
    pairs = put(tmp_path, "preferences", {"part": (pair_rows(3), PREFERENCES)}, counts={"pairs": 3})
    said = find_standing(asked(tmp_path, min_new_pairs=4), pairs, tmp_path).nothing_new
    assert said == "there is no champion and there are 3 pairs, fewer than min_new_pairs 4: nothing to train"


def test_pairs_that_were_withdrawn_are_a_reason_to_train_again_and_are_told(tmp_path):
    rows = pair_rows(8)
    policy = trained_on(tmp_path, put_pairs(tmp_path, rows[:5]))
    record_decision(tmp_path, "k", "promoted", {"policy_id": policy.fingerprint, "by": "command", "reason": "r"})
    left = put(tmp_path, "preferences", {"part": ([*rows[:3], rows[7]], PREFERENCES)}, counts={"pairs": 4})
    assert count_changes(policy, left, tmp_path) == (1, 2)
    assert find_standing(asked(tmp_path), left, tmp_path).nothing_new is None
    said = find_standing(asked(tmp_path, min_new_pairs=4), left, tmp_path).nothing_new
    assert (
        said is not None and "1 of 4 pairs are new" in said and "2 of its own are withdrawn, fewer than min_new_pairs 4" in said
    )


def test_every_setting_of_a_judge_either_tells_its_verdicts_apart_or_is_of_asking():
    """In neither list a new one would have the same attempt trained again, or share the verdicts of another judge."""
    judge = ApiJudgeSettings.model_validate({"model": "m", "base_url": "http://127.0.0.1:1/v1"})
    of_verdicts = set(fingerprint_settings(judge)) - {"preset_hash"}
    beside = {"repeats"}  # part of the artifact's settings, not of the judge's name
    assert of_verdicts.isdisjoint(OF_ASKING)
    assert of_verdicts | OF_ASKING | beside == set(ApiJudgeSettings.model_fields)


def asked(folder: Path, judge: dict[str, Any] | None = None, **more: Any) -> RetrainSettings:
    world = folder / f"world {len(list(folder.glob('world *')))}"
    values = SmallWorld(world).settings("http://127.0.0.1:9/v1", **more).model_dump()
    values["pipeline"]["judge"] |= judge or {}
    for section in (values["pipeline"]["preferences"], values["pipeline"]["demonstrations"], *values["pipeline"]["evaluation"]):
        section |= {name: ["pairs"] if name == "paths" else "a file" for name in ("path", "paths") if name in section}
    return RetrainSettings.model_validate(values)


def test_an_attempt_is_another_when_a_verdict_can_change_and_not_when_the_judge_is_asked_in_another_way(tmp_path):
    pairs = put_pairs(tmp_path, pair_rows(4))

    def attempt(**options: Any) -> str:
        return find_standing(asked(tmp_path, **options), pairs, tmp_path).attempt

    first = attempt()
    prices = {"price_per_million_prompt_tokens": 1.0, "price_per_million_completion_tokens": 2.0}
    budget = {"budget": {"max_requests": 10, "max_tokens": None, "max_cost": 1.0}}
    speed = {"max_concurrency": 2, "requests_per_minute": 60.0, "tokens_per_minute": 1e5, "timeout_seconds": 5, "max_attempts": 9}
    assert attempt(judge=prices | budget | speed) == first
    assert attempt(min_new_pairs=2, promotion={"require_approval": True}) == first
    different = [attempt(judge={"model": "other"}), attempt(judge={"temperature": 0.5}), attempt(promotion={"margin": 0.02})]
    assert len({first, *different}) == 4


def test_a_look_is_another_for_another_challenger_champion_or_prompts(tmp_path):
    world = {"home": tmp_path, "domain": "desk", "size": 2}
    policies = [put_prompts(eval_set=name, **world) for name in "abc"]  # what differs in content is all that counts here
    prompts = [put_prompts(eval_set=name, **world) for name in ("id", "other")]
    key = identify_look("x", policies[:2], prompts[:1])
    assert key == identify_look("x", policies[:2], prompts[:1]) and key.startswith("look:x:")
    others = [identify_look("x", policies[1:], prompts[:1]), identify_look("x", policies[:2], prompts[1:])]
    assert len({key, identify_look("y", policies[:2], prompts[:1]), *others}) == 4


def test_beside_a_challenger_that_waits_for_its_decision_nothing_is_trained(tmp_path):
    pairs = put_pairs(tmp_path, pair_rows(4))
    about = {"policy_id": "b", "by": "retrain", "reason": "r", "prefect_run": "flow run 1"}
    look = record_look(tmp_path, "look:x:y", lambda number, spent: 0.01, about)

    def said(**options: Any) -> str | None:
        return find_standing(asked(tmp_path), pairs, tmp_path, **options).nothing_new

    waiting = said(prefect_run="flow run 2", is_open=lambda run: run == "flow run 1")
    assert waiting is not None and "challenger b of flow run flow run 1 is not decided on yet, see entry 1" in waiting
    assert said(prefect_run="flow run 1", is_open=lambda _: True) is None  # its own look
    assert said(prefect_run="flow run 2") is None  # the other run is over
    record_decision(tmp_path, "d", "rejected", about | {"comparison": look["comparison"]})
    assert said(prefect_run="flow run 2", is_open=lambda _: True) is None


def test_an_evaluation_set_with_too_few_clusters_is_refused_before_anything_is_trained(tmp_path):
    prompts = put_prompts(tmp_path, "id:confirmation", "desk", 8, clusters=4)
    check_clusters([prompts], 4)
    with pytest.raises(InputError, match="expected at least 5 clusters .* in id:confirmation, found 4; give more prompts"):
        check_clusters([prompts], 5)


def test_a_person_sees_differences_guards_and_curves(tmp_path):
    policy = trained_on(tmp_path, put_pairs(tmp_path))
    settings = PromotionSettings(margin=0.05, min_clusters=2)
    screening = compare([one_set([0.1, 0.3, 0.2, 0.4] * 10)], [PLAIN], [PLAIN._replace(empty=0.5)], settings, 0.05)
    row = {"role": "challenger", "opponent": "gold", "eval_set": "id", "revision_index": 1, "win_rate": 0.75}
    curve = [row | {"ci_low": 0.5, "ci_high": 0.875, "n": 4, "mean_tokens": 20.0}]
    proposal = Proposal(policy, policy, Standing("a", Changes(3, 1), "x", None), screening, None, None, {"screening": curve})
    text = proposal_markdown(proposal, "Rejected", {"entry": 7})
    assert "# Rejected" in text and "- entry: 7" in text and "## Confirmation" not in text
    limit = f"{100 * screening.difference.ci_low:+.1f}"
    assert f"Difference +25.0 points, lower limit {limit} at a one-sided error of 0.05, margin +5.0; n = 40 prompts." in text
    assert "| id | +25.0 |" in text and "| empty on id | -0.500 | 0.100 | ok |" in text
    assert "| id | challenger | gold | 75.0 (50.0–87.5) |" in text
    refused = compare([one_set([0.1, 0.3, 0.2, 0.4] * 10)], [PLAIN._replace(empty=0.5)], [PLAIN], settings, 0.05)
    assert "| empty on id | 0.500 | 0.100 | refuses |" in proposal_markdown(proposal._replace(screening=refused), "Rejected", {})


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
