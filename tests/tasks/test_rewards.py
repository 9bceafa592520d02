"""Rewards of drafts: the reward model's own numbers, each text read once, and best of n by them."""

from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForSequenceClassification, AutoTokenizer

from srpo_core.settings.judges import RewardModelJudgeSettings
from storage.artifact import Artifact
from storage.schemas import COMPLETIONS, REWARDS
from tasks.rewards import compute_rewards
from tests.judge_models import save_reward_model
from tests.stages import RESOURCES, Launches
from tests.tasks.judged_texts import completion_row, write_artifact, write_prompts

TEXTS = ["amber", "basin cedar", "amber ", "delta ember fjord"]


@pytest.fixture
def launches(monkeypatch: pytest.MonkeyPatch) -> Launches:
    launches = Launches()
    monkeypatch.setattr("tasks.local_judging.run_jobs", launches)
    return launches


def drafts_of(home: Path, prompts: Artifact, texts: list[str]) -> Artifact:
    rows: list[dict[str, Any]] = []
    for prompt in prompts.rows():
        for sample, text in enumerate(texts):
            rows.append(completion_row(prompt["prompt_id"], f"policy{sample}", 0, text) | {"sample_index": sample})
    return write_artifact(home, "completions", rows, COMPLETIONS)


def naive_reward(folder: Path, prompt: list[dict[str, str]], text: str) -> float:
    """One text through plain transformers."""
    tokenizer = AutoTokenizer.from_pretrained(folder)
    model = AutoModelForSequenceClassification.from_pretrained(folder).eval()
    turns = [*prompt, {"role": "assistant", "content": text}]
    ids = tokenizer.apply_chat_template(turns, return_dict=True, return_tensors="pt")
    with torch.no_grad():
        return float(model(**ids).logits[0, 0])


def test_every_draft_has_the_models_own_reward_and_equal_texts_have_one(tmp_path: Path, launches: Launches) -> None:
    prompts = write_prompts(tmp_path, 2)
    drafts = drafts_of(tmp_path, prompts, TEXTS)
    judge = RewardModelJudgeSettings(model=str(save_reward_model(tmp_path / "reward")))
    artifact = compute_rewards(drafts, prompts, judge, tmp_path, resources=RESOURCES)
    found = {row["completion_id"]: row["reward"] for row in artifact.read(REWARDS).to_pylist()}
    asked = {row["prompt_id"]: row["prompt"] for row in prompts.rows()}
    for row in drafts.read(COMPLETIONS).to_pylist():
        text = "amber" if row["text"] == "amber " else row["text"]  # white space around a text is no difference
        assert found[row["completion_id"]] == pytest.approx(
            naive_reward(tmp_path / "reward", asked[row["prompt_id"]], text), abs=1e-5
        )
    assert artifact.counts == {"rewards": 8, "drafts_without_reward": 0}
    assert len({round(reward, 4) for reward in found.values()}) == 6
    launches.names()
    assert compute_rewards(drafts, prompts, judge, tmp_path, resources=RESOURCES) == artifact and not launches.names()
    assert not list(artifact.path.glob("journals/**/*")), "what the run kept on the way is gone"


def test_a_draft_too_long_for_the_model_has_no_reward_and_is_counted(tmp_path: Path, launches: Launches) -> None:
    prompts = write_prompts(tmp_path, 1)
    drafts = drafts_of(tmp_path, prompts, ["amber", "basin", "cedar " * 200])
    judge = RewardModelJudgeSettings(model=str(save_reward_model(tmp_path / "reward")))
    artifact = compute_rewards(drafts, prompts, judge, tmp_path, resources=RESOURCES)
    assert [row["reward"] is None for row in artifact.read(REWARDS).to_pylist()] == [False, False, True]
    assert artifact.counts["drafts_without_reward"] == 1
