"""What one process of a launch does: read the job file, do its jobs in order, and turn errors into an exit status."""

import json
import signal
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path

import torch
from accelerate import Accelerator
from accelerate.utils import ProjectConfiguration

from srpo_core.errors import InputError, WorkFailed
from srpo_core.settings.resources import Resources
from srpo_core.training_loop import Interrupted
from srpo_core.workers import diagnostics, generate, judge, likelihood, reference, training
from srpo_core.workers.jobs import (
    AnyJob,
    CeilingJob,
    GenerateJob,
    JobFile,
    JudgeJob,
    LikelihoodJob,
    OneEditJob,
    PreferenceJob,
    ReferenceJob,
    SftJob,
)
from srpo_core.workers.progress import print_failure

STOPPED = 128 + signal.SIGTERM


def main(path: str) -> int:
    """Do every job in the file; the exit status: 0 done, 1 the work failed, 2 unusable input, STOPPED after SIGTERM."""
    try:
        job_file = JobFile.model_validate(json.loads(Path(path).read_text(encoding="utf-8")))
        if job_file.resources.threads_per_process:
            torch.set_num_threads(job_file.resources.threads_per_process)
        accelerator = _make_accelerator(job_file.resources.trackers, Path(path).parent)
        for job in job_file.jobs:
            do_job(job, accelerator, job_file.resources)
        accelerator.end_training()
    except InputError as error:
        print_failure(str(error), 2)
        return 2
    except WorkFailed as error:
        print_failure(str(error), 1)
        return 1
    except Interrupted as error:
        print(error, flush=True)
        return STOPPED
    return 0


def do_job(job: AnyJob, accelerator: Accelerator, resources: Resources) -> None:
    """One job; every process calls this. Raises InputError, WorkFailed or Interrupted."""
    if isinstance(job, SftJob):
        training.train_on_demonstrations(job, accelerator, resources)
    elif isinstance(job, PreferenceJob):
        training.train_on_preferences(job, accelerator, resources)
    elif isinstance(job, ReferenceJob):
        reference.compute_reference_rows(job, accelerator, resources)
    elif isinstance(job, GenerateJob):
        generate.write_completions(job, accelerator, resources)
    elif isinstance(job, JudgeJob):
        judge.answer_questions(job, accelerator, resources)
    elif isinstance(job, CeilingJob):
        diagnostics.write_ceilings(job, accelerator)
    elif isinstance(job, OneEditJob):
        diagnostics.write_one_edit_table(job, accelerator)
    elif isinstance(job, LikelihoodJob):
        likelihood.write_likelihoods(job, accelerator, resources)
    accelerator.wait_for_everyone()


def _make_accelerator(trackers: Sequence[str], folder: Path) -> Accelerator:
    """Raises InputError for a tracker that is not installed, which accelerate would leave out without a word."""
    missing = [name for name in trackers if find_spec(name) is None]
    if missing:
        raise InputError(
            f"expected the package of tracker {missing[0]}, found none; "
            f"pip install {missing[0]} or leave it out of resources.trackers"
        )
    project = ProjectConfiguration(project_dir=str(folder), logging_dir=str(folder))
    return Accelerator(cpu=not torch.cuda.is_available(), log_with=list(trackers) or None, project_config=project)
