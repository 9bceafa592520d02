"""Judging jobs: each file of questions is answered once, whatever was interrupted and however many processes share the work."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from srpo_core.judging.local_judges import ANSWERS, QUESTIONS, Answer, LocalSettings, Question, questions_of
from srpo_core.settings.judges import LabelModelJudgeSettings, RewardModelJudgeSettings
from srpo_core.workers import judge
from srpo_core.workers.dispatch import do_job
from srpo_core.workers.jobs import JobFile, JudgeJob
from srpo_core.workers.parts import read_rows, write_part
from storage.schemas import PROMPTS
from tests.judge_models import games, save_language_model, save_reward_model
from tests.small_training import cpu, resources


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("models")
    return {
        "reward_model": save_reward_model(folder / "reward"),
        "label_model": save_language_model(folder / "label"),
    }


def settings_of(kind: str, folder: Path) -> LocalSettings:
    form: Any = {"reward_model": RewardModelJudgeSettings, "label_model": LabelModelJudgeSettings}[kind]
    return form(model=str(folder))


def job(folder: Path, models: dict[str, Path], kind: str = "reward_model", num_prompts: int = 5) -> JudgeJob:
    """A file of questions for each prompt."""
    folder.mkdir(exist_ok=True)
    settings = settings_of(kind, models[kind])
    files = {}
    for number in range(num_prompts):
        own = [game for game in games(num_prompts) if game.prompt_id == f"p{number}"]
        rows = [question._asdict() for game in own for question in questions_of(game, settings)]
        source = folder / f"questions-{number}.parquet"
        write_part(source, rows, QUESTIONS)
        files[str(source)] = str(folder / f"answers-{number}.parquet")
    return JudgeJob(name="judge", model_folder=str(models[kind]), settings=settings, files=files)


def answered(asked: JudgeJob) -> list[list[dict[str, Any]]]:
    return [read_rows([target]) for target in asked.files.values()]


class OneOfSeveral:
    """A process's place among others, on this machine's CPU."""

    def __init__(self, process_index: int, num_processes: int) -> None:
        self.process_index, self.num_processes = process_index, num_processes
        self.is_main_process, self.device = process_index == 0, "cpu"

    def wait_for_everyone(self) -> None:
        """The others have looked already."""


def test_the_columns_are_those_of_the_records() -> None:
    assert tuple(QUESTIONS.names) == Question._fields and tuple(ANSWERS.names) == Answer._fields
    assert QUESTIONS.field("prompt").type == PROMPTS.field("prompt").type


@pytest.mark.parametrize("kind", ["reward_model", "label_model"])
def test_answers_stand_in_the_order_of_the_questions(tmp_path: Path, models: dict[str, Path], kind: str) -> None:
    asked = job(tmp_path, models, kind)
    do_job(asked, cpu(), resources())
    model = judge.load_judge(asked, cpu(), resources())
    for source, rows in zip(asked.files, answered(asked), strict=True):
        for question, row in zip(read_rows([source]), rows, strict=True):
            (expected,) = model.answer([Question(question["prompt"], tuple(question["texts"]))])
            assert row["values"] == pytest.approx(expected.values, abs=1e-5) and row["num_tokens"] == expected.num_tokens


def test_the_number_of_processes_changes_nothing(tmp_path: Path, models: dict[str, Path]) -> None:
    """All processes look before any of them adds a file, so each is given what was missing at first."""
    alone, shared = job(tmp_path / "alone", models), job(tmp_path / "shared", models)
    do_job(alone, cpu(), resources())
    for index in range(3):
        place: Any = OneOfSeveral(index, 3)
        hidden = [Path(target) for target in shared.files.values() if Path(target).exists()]
        for path in hidden:
            path.rename(path.with_suffix(".hidden"))
        judge.answer_questions(shared, place, resources())
        for path in hidden:
            assert not path.exists(), "no two processes answer the same file"
            path.with_suffix(".hidden").rename(path)
    assert answered(alone) == answered(shared)


class Killed(Exception):
    """Stands for whatever ends a process."""


def test_an_interrupted_job_answers_only_the_rest(
    tmp_path: Path, models: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    whole, pieces = job(tmp_path / "whole", models), job(tmp_path / "pieces", models)
    do_job(whole, cpu(), resources())
    real, calls = judge.RewardModel.answer, []

    def dying(self: Any, questions: Sequence[Question]) -> list[Answer]:
        calls.append(len(questions))
        if len(calls) == 3:
            raise Killed
        return real(self, questions)

    monkeypatch.setattr(judge.RewardModel, "answer", dying)
    with pytest.raises(Killed):
        do_job(pieces, cpu(), resources())
    assert sum(Path(target).exists() for target in pieces.files.values()) == 2
    do_job(pieces, cpu(), resources())
    assert len(calls) == 3 + 3 and answered(pieces) == answered(whole)
    do_job(pieces, cpu(), resources())
    assert len(calls) == 6, "nothing is left to do"


def test_progress_ends_with_all_questions(tmp_path: Path, models: dict[str, Path], capsys: pytest.CaptureFixture[str]) -> None:
    asked = job(tmp_path, models)
    do_job(asked, cpu(), resources())
    total = sum(len(read_rows([source])) for source in asked.files)
    assert f'"done": {total}, "total": {total}, "unit": "questions"' in capsys.readouterr().out.splitlines()[-1]


@pytest.mark.parametrize("kind", ["reward_model", "label_model"])
def test_a_job_survives_its_file(tmp_path: Path, models: dict[str, Path], kind: str) -> None:
    file = JobFile(jobs=[job(tmp_path, models, kind)], resources=resources())
    assert JobFile.model_validate_json(file.model_dump_json()) == file
