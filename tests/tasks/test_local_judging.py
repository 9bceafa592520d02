"""Local judges from games to verdicts: every game once and in order, nothing computed twice, memory of one part."""

import math
import os
import subprocess
import sys
import tracemalloc
from collections.abc import Iterator
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import pytest

from srpo_core.errors import InputError, WorkFailed
from srpo_core.judging.judges import JudgeGame
from srpo_core.judging.local_judges import Question, questions_of, read_rewards
from srpo_core.records import user_prompt
from srpo_core.settings.judges import LabelModelJudgeSettings, RewardModelJudgeSettings
from srpo_core.workers.parts import read_rows
from tasks import local_judging
from tasks.local_judging import decide_locally, describe_local_judge
from tests.hub_server import COMMIT, hub_with_model
from tests.judge_models import games, save_language_model, save_reward_model
from tests.small_training import resources
from tests.stages import RESOURCES, Launches


@pytest.fixture
def launches(monkeypatch: pytest.MonkeyPatch) -> Launches:
    launches = Launches()
    monkeypatch.setattr("tasks.local_judging.run_jobs", launches)
    return launches


@pytest.fixture
def small_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(local_judging, "QUESTIONS_PER_PART", 3)  # a part for each prompt


@pytest.fixture(scope="module")
def reward(tmp_path_factory: pytest.TempPathFactory) -> RewardModelJudgeSettings:
    return RewardModelJudgeSettings(model=str(save_reward_model(tmp_path_factory.mktemp("reward"))))


@pytest.fixture(scope="module")
def label(tmp_path_factory: pytest.TempPathFactory) -> LabelModelJudgeSettings:
    return LabelModelJudgeSettings(model=str(save_language_model(tmp_path_factory.mktemp("label"))))


def decide(played: Any, settings: Any, folder: Path, **options: Any) -> list[Any]:
    return list(decide_locally(played, settings, options.get("resources", RESOURCES), folder))


def test_the_stored_columns_are_the_fields_of_a_game() -> None:
    assert local_judging.GAMES_ASKED.names == [*(field.name for field in fields(JudgeGame)), "asked"]


def test_every_game_comes_back_in_order_with_a_verdict(
    tmp_path: Path, launches: Launches, small_parts: None, reward: Any, label: Any
) -> None:
    for settings in (reward, label):
        decided = decide(iter(games(5)), settings, tmp_path / settings.kind)
        assert [game for game, _ in decided] == games(5)
        assert all(verdict.score is not None and 0 <= verdict.score <= 1 for _, verdict in decided)
        assert len(launches.names()) == 1, "one launch for all parts"
        assert len(list((tmp_path / settings.kind).glob("answers-*"))) == 5


def test_a_reward_verdict_follows_from_the_two_rewards_and_no_order(tmp_path: Path, launches: Launches, reward: Any) -> None:
    decided = decide(games(4), reward, tmp_path)
    for (as_is, first), (swapped, second) in zip(decided[::2], decided[1::2], strict=True):
        assert (as_is.order, swapped.order) == ("as_is", "swapped") and replace(first) == second
        candidate, opponent = read_rewards(first.label)
        assert first.score == pytest.approx(1 / (1 + math.exp(opponent - candidate)), abs=1e-6)
    assert len({verdict.score for _, verdict in decided}) >= 4


def test_a_text_is_read_once_however_many_games_it_plays(tmp_path: Path, launches: Launches, reward: Any) -> None:
    """Three revisions, the last like the one before, and a gold: three texts in six games a prompt."""
    decide(games(4), reward, tmp_path)
    (path,) = tmp_path.glob("questions-*")
    rows = [(row["prompt"][0]["content"], *row["texts"]) for row in read_rows([str(path)])]
    assert len(rows) == len(set(rows)) == 4 * 3


def test_a_label_model_is_really_asked_in_both_orders(tmp_path: Path, launches: Launches, label: Any) -> None:
    decided = decide(games(3), label, tmp_path)
    pairs = list(zip(decided[::2], decided[1::2], strict=True))
    assert any(abs(first.score - second.score) > 1e-3 for (_, first), (_, second) in pairs), "order moves a random model"
    for (as_is, first), (swapped, _) in pairs:
        assert questions_of(as_is, label)[0].texts == questions_of(swapped, label)[0].texts[::-1]
        mirrored = replace(swapped, candidate_text=swapped.opponent_text, opponent_text=swapped.candidate_text)
        ((_, again),) = decide([mirrored], label, tmp_path / "mirrored")
        assert again.score == pytest.approx(1 - first.score, abs=1e-5), "the same question, seen from the other text"


def test_a_verdict_says_who_judged(tmp_path: Path, launches: Launches, reward: Any, label: Any) -> None:
    for settings, has_preset in ((reward, False), (label, True)):
        ((_, verdict), *_) = decide(games(1), settings, tmp_path / settings.kind)
        version = describe_local_judge(settings)["model"]["files"][:12]
        assert verdict.judge_model == settings.model
        assert verdict.model_answered == f"{Path(settings.model).name}@{version}"
        assert (verdict.prompt_hash is not None) == has_preset and '"dtype": "float32"' in verdict.parameters
        assert verdict.prompt_tokens > 50 and verdict.cost is None and verdict.prompt_truncated is False


def test_the_same_games_again_compute_nothing(tmp_path: Path, launches: Launches, reward: Any) -> None:
    first = decide(games(3), reward, tmp_path)
    launches.names()
    assert decide(games(3), reward, tmp_path) == first and not launches.names()
    warmer = reward.model_copy(update={"temperature": 3.0})
    assert decide(games(3), warmer, tmp_path) != first and not launches.names(), "the rewards are the same"


def test_other_weights_or_settings_are_asked_anew(tmp_path: Path, launches: Launches) -> None:
    folder = save_reward_model(tmp_path / "model")
    settings = RewardModelJudgeSettings(model=str(folder))
    first = decide(games(2), settings, tmp_path / "work")
    save_reward_model(folder, seed=1)
    launches.names()
    second = decide(games(2), settings, tmp_path / "work")
    assert len(launches.names()) == 1 and [v.score for _, v in first] != [v.score for _, v in second]
    decide(games(2), settings.model_copy(update={"max_length": 100}), tmp_path / "work")
    assert len(launches.names()) == 1


class Killed(Exception):
    """Stands for whatever ends a process."""


def test_killed_half_way_and_started_again_it_computes_the_rest(
    tmp_path: Path, launches: Launches, small_parts: None, monkeypatch: pytest.MonkeyPatch, reward: Any
) -> None:
    from srpo_core.judging.reward_model import RewardModel

    real, calls = RewardModel.answer, []

    def dying(self: Any, questions: list[Question]) -> Any:
        calls.append(questions)
        if len(calls) == 4:
            raise Killed
        return real(self, questions)

    monkeypatch.setattr(RewardModel, "answer", dying)
    with pytest.raises(Killed):
        decide(games(6), reward, tmp_path / "pieces")
    pieces = decide(games(6), reward, tmp_path / "pieces", resources=RESOURCES.model_copy(update={"num_processes": 2}))
    asked = [(q.prompt[0]["content"], q.texts) for questions in calls[:3] + calls[4:] for q in questions]
    assert len(asked) == len(set(asked)) == 6 * 3, "what was answered is not asked again"
    monkeypatch.setattr(RewardModel, "answer", real)
    assert pieces == decide(games(6), reward, tmp_path / "whole")


def test_a_prompt_without_its_end_and_a_text_too_long_are_counted(
    tmp_path: Path, launches: Launches, caplog: pytest.LogCaptureFixture, reward: Any
) -> None:
    played = games(2)
    played[0] = replace(played[0], prompt=user_prompt("storm " * 40))
    played[1] = replace(played[1], candidate_text="x" * 500)
    with caplog.at_level("WARNING", logger="srpo.judge"):
        decided = [verdict for _, verdict in decide(played, reward.model_copy(update={"max_length": 150}), tmp_path)]
    assert (decided[0].prompt_truncated, decided[0].score is None) == (True, False)
    assert (decided[1].outcome, decided[1].unscored_reason) == ("unscored", "too_long")
    assert not any(verdict.prompt_truncated for verdict in decided[2:])
    assert "1 games were judged by prompts without their end, and 1 are unscored" in caplog.text


def test_no_games_are_no_work(tmp_path: Path, launches: Launches, reward: Any) -> None:
    assert decide([], reward, tmp_path) == [] and not launches.names()


def test_answers_that_are_missing_after_the_launch_are_no_verdicts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, reward: Any
) -> None:
    monkeypatch.setattr("tasks.local_judging.run_jobs", lambda *_: None)
    with pytest.raises(WorkFailed, match="expected the judge's answers in .*, found none; run it again"):
        decide(games(1), reward, tmp_path)


@pytest.mark.parametrize(
    ("model", "sentence"),
    [("/no/such/folder", "expected a model folder at /no/such/folder, found none"), (".", "expected safetensors weights in")],
)
def test_a_folder_without_a_model_is_refused_before_anything_is_written(tmp_path: Path, model: str, sentence: str) -> None:
    with pytest.raises(InputError, match=sentence):
        decide(games(1), RewardModelJudgeSettings(model=model), tmp_path)
    assert not list(tmp_path.glob("*.parquet"))


def test_a_model_of_the_other_kind_is_refused_before_anything_is_launched(tmp_path: Path, reward: Any, label: Any) -> None:
    """A language model would be given a random reward head, a classifier a random language-model head."""
    with pytest.raises(InputError, match="expected a sequence classifier for judge reward_model, found LlamaForCausalLM in"):
        describe_local_judge(RewardModelJudgeSettings(model=label.model))
    with pytest.raises(InputError, match="expected a language model for judge label_model, found LlamaForSequenceClass.* in"):
        decide(games(1), LabelModelJudgeSettings(model=reward.model), tmp_path)


@pytest.mark.parametrize("content", ["{", "[]"])
def test_a_broken_configuration_is_named(tmp_path: Path, content: str) -> None:
    folder = save_reward_model(tmp_path)
    (folder / "config.json").write_text(content)
    with pytest.raises(InputError, match=f"expected a model's configuration in {folder}/config.json, found unusable content"):
        describe_local_judge(RewardModelJudgeSettings(model=str(folder)))


def test_memory_does_not_grow_with_the_number_of_games(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, reward: Any) -> None:
    """Ten times the games, answered by an arithmetic stand-in for the worker, so that only the task is measured."""
    from srpo_core.judging.local_judges import ANSWERS
    from srpo_core.workers.parts import write_part

    def run_jobs(stage: str, jobs: Any, spread: Any, folder: Path) -> None:
        for source, target in jobs[0].files.items():
            rows = [{"values": [len(row["texts"][0]) / 10], "num_tokens": 1, "truncated": False} for row in read_rows([source])]
            write_part(Path(target), rows, ANSWERS)

    def many(count: int) -> Iterator[JudgeGame]:
        for number in range(count):
            yield from (replace(game, prompt_id=f"p{number}", prompt=user_prompt(f"{number} {'x' * 500}")) for game in games(1))

    monkeypatch.setattr("tasks.local_judging.run_jobs", run_jobs)
    peaks = []
    for count in (200, 2000):
        tracemalloc.start()
        assert sum(1 for _ in decide_locally(many(count), reward, RESOURCES, tmp_path / str(count))) == count * 6
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
    assert peaks[1] < 1.2 * peaks[0]


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["reward", "label"])
def test_two_real_processes_give_the_verdicts_of_one(
    tmp_path: Path, small_parts: None, kind: str, request: pytest.FixtureRequest
) -> None:
    settings = request.getfixturevalue(kind)
    one = decide(games(6), settings, tmp_path / "one")
    two = decide(games(6), settings, tmp_path / "two", resources=resources(num_processes=2, tokens_per_microbatch=600))
    assert [game for game, _ in one] == [game for game, _ in two] == games(6)
    assert [verdict.score for _, verdict in one] == pytest.approx([verdict.score for _, verdict in two], abs=1e-5)


@pytest.mark.slow
def test_the_workers_sentence_reaches_the_caller(tmp_path: Path) -> None:
    folder = save_reward_model(tmp_path / "model", num_labels=2)
    with pytest.raises(InputError, match="expected a reward model of one output.* found 2 outputs"):
        decide(games(1), RewardModelJudgeSettings(model=str(folder)), tmp_path / "work")


DECIDE = """
import sys
from pathlib import Path
from srpo_core.settings.judges import RewardModelJudgeSettings
from srpo_core.errors import InputError
from srpo_core.workers.dispatch import do_job
from tasks import local_judging
from tests.judge_models import games
from tests.small_training import cpu, resources
local_judging.run_jobs = lambda stage, jobs, spread, folder: [do_job(job, cpu(), spread) for job in jobs]
for model in sys.argv[2:]:
    try:
        settings = RewardModelJudgeSettings(model=model, revision="main")
        verdicts = [v for _, v in local_judging.decide_locally(games(2), settings, resources(), Path(sys.argv[1]))]
        print(verdicts[0].model_answered, [v.label for v in verdicts])
    except InputError as error:
        print("InputError", error)
"""


def decide_in_a_process(folder: Path, models: list[str], endpoint: str) -> list[str]:
    """A line for each model; in a process of its own, because the hub client reads its environment when it is imported."""
    environment = os.environ | {"HF_ENDPOINT": endpoint, "HF_HOME": str(folder / "cache"), "HF_HUB_DISABLE_PROGRESS_BARS": "1"}
    environment |= {"HF_HUB_OFFLINE": "0", "HF_HUB_DISABLE_XET": "1"}
    ended = subprocess.run(
        [sys.executable, "-c", DECIDE, str(folder / "work"), *models],
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert ended.returncode == 0, ended.stderr
    return [line for line in ended.stdout.splitlines() if not line.startswith("@srpo")]


def test_a_hub_model_is_fixed_to_its_commit_and_judges_like_its_files(tmp_path: Path, launches: Launches, reward: Any) -> None:
    with hub_with_model("owner/judge", Path(reward.model)) as endpoint:
        said, refused = decide_in_a_process(tmp_path, ["owner/judge", "owner/other"], endpoint)
    labels = [verdict.label for _, verdict in decide(games(2), reward, tmp_path / "folder")]
    assert said == f"judge@{COMMIT[:12]} {labels}"
    assert refused.startswith("InputError expected a model folder or a hub model named owner/other, found neither")
