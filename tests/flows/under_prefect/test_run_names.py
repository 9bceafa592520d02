"""How a run's name and its tags call what its parameters name."""

import pytest

from flows.under_prefect.run_names import judge_called
from srpo_core.settings.judges import RewardModelJudgeSettings, RuleJudgeSettings


@pytest.mark.parametrize(
    ("judge", "called"),
    [
        (RewardModelJudgeSettings(model="/models/reward-7b/"), "reward-7b"),
        ({"kind": "reward_model", "model": "/models/reward-7b"}, "reward-7b"),
        ({"kind": "api", "model": "openai/gpt-4.1"}, "gpt-4.1"),
        ({"kind": "api", "model": "m"}, "m"),
        (RuleJudgeSettings(), "rule"),
    ],
)
def test_a_judge_is_called_by_the_last_part_of_its_model_or_by_its_kind(judge: object, called: str) -> None:
    assert judge_called(judge) == called
