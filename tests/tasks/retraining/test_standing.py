"""What is new since a policy was trained, whether the same was tried before, and who waits."""

from pathlib import Path
from typing import Any

from srpo_core.settings.judges import ApiJudgeSettings
from srpo_core.settings.retraining import RetrainSettings
from storage.artifact import Artifact
from storage.registry import record_decision, record_look
from storage.schemas import PREFERENCES
from tasks.judge_identity import fingerprint_settings
from tasks.retraining.standing import OF_ASKING, count_changes, find_standing, identify_look
from tests.homes import put, put_prompts
from tests.retraining import SmallWorld
from tests.small_training import pair_rows
from tests.stages import put_pairs


def trained_on(home: Any, pairs: Artifact) -> Artifact:
    return put(home, "policies", {}, settings={"method": "srpo"}, parents={"preferences": pairs})


def asked(folder: Path, judge: dict[str, Any] | None = None, **more: Any) -> RetrainSettings:
    world = folder / f"world {len(list(folder.glob('world *')))}"
    values = SmallWorld(world).settings("http://127.0.0.1:9/v1", **more).model_dump()
    values["pipeline"]["judge"] |= judge or {}
    for section in (values["pipeline"]["preferences"], values["pipeline"]["demonstrations"], *values["pipeline"]["evaluation"]):
        section |= {name: ["pairs"] if name == "paths" else "a file" for name in ("path", "paths") if name in section}
    return RetrainSettings.model_validate(values)


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
