"""Judging jobs: a local model answers files of questions, one file of answers for each, skipping what is answered already.

Each process takes every n-th file and writes its answers as soon as it is done, so a kill loses one file a process at most.
"""

from pathlib import Path
from typing import Any, Protocol

import pyarrow.parquet as pq
from accelerate import Accelerator

from srpo_core.judging.label_model import LabelModel
from srpo_core.judging.local_judges import ANSWERS, Answer, Question
from srpo_core.judging.reward_model import RewardModel
from srpo_core.settings.resources import Resources
from srpo_core.workers.jobs import JudgeJob
from srpo_core.workers.parts import read_rows, write_part
from srpo_core.workers.progress import ProgressLines


class LocalModel(Protocol):
    """A model that answers questions."""

    def answer(self, questions: list[Question]) -> list[Answer]:
        """One answer for each question, in order."""
        ...


def answer_questions(job: JudgeJob, accelerator: Accelerator, resources: Resources) -> None:
    """Write the answers to every file of questions that has none, row by row in the same order."""
    missing = [(source, target) for source, target in job.files.items() if not Path(target).exists()]
    accelerator.wait_for_everyone()  # all processes must have looked before any of them adds a file
    mine = missing[accelerator.process_index :: accelerator.num_processes]
    if not mine:
        return
    model = load_judge(job, accelerator, resources)
    lines = ProgressLines(job.name, sum(map(_num_rows, dict(missing))), "questions", enabled=accelerator.is_main_process)
    done = 0
    for source, target in mine:
        questions = [Question(row["prompt"], tuple(row["texts"])) for row in read_rows([source])]
        write_part(Path(target), [answer._asdict() for answer in model.answer(questions)], ANSWERS)
        done += len(questions)
        lines.show(min(lines.total, done * accelerator.num_processes))  # the others are about as far


def load_judge(job: JudgeJob, accelerator: Accelerator, resources: Resources) -> LocalModel:
    """The job's model on this process's device. Raises InputError for one that cannot judge."""
    options: dict[str, Any] = {"device": accelerator.device, "resources": resources}
    if job.settings.kind == "reward_model":
        return RewardModel(job.model_folder, job.settings, **options)
    return LabelModel(job.model_folder, job.settings, **options)


def _num_rows(path: str) -> int:
    return int(pq.read_metadata(path).num_rows)
