"""`accelerate launch -m srpo_core.workers JOB_FILE`: do the jobs of one file, in order, on this process's device.

Exit status 0 done, 1 the work failed, 2 unusable input, 143 stopped by SIGTERM with a checkpoint written.
"""

import json
import os
import signal
import sys
from pathlib import Path

import torch
from accelerate import Accelerator

from srpo_core.errors import InputError, WorkFailed
from srpo_core.training_loop import Interrupted
from srpo_core.workers import diagnostics, generate, reference, training
from srpo_core.workers.jobs import (
    AnyJob,
    CeilingJob,
    GenerateJob,
    JobFile,
    OneEditJob,
    PreferenceJob,
    ReferenceJob,
    Resources,
    SftJob,
)
from srpo_core.workers.progress import print_failure

STOPPED = 128 + signal.SIGTERM


def main(path: str) -> int:
    """Do every job in the file; the exit status."""
    try:
        job_file = JobFile.model_validate(json.loads(Path(path).read_text(encoding="utf-8")))
        if job_file.resources.threads_per_process:
            torch.set_num_threads(job_file.resources.threads_per_process)
        accelerator = Accelerator(cpu=not torch.cuda.is_available(), log_with=list(job_file.resources.trackers) or None)
        for job in job_file.jobs:
            _do(job, accelerator, job_file.resources)
        accelerator.end_training()
    except InputError as error:
        print_failure(str(error))
        return 2
    except WorkFailed as error:
        print_failure(str(error))
        return 1
    except Interrupted as error:
        print(error, flush=True)
        return STOPPED
    return 0


def _do(job: AnyJob, accelerator: Accelerator, resources: Resources) -> None:
    if isinstance(job, SftJob):
        training.train_on_demonstrations(job, accelerator, resources)
    elif isinstance(job, PreferenceJob):
        training.train_on_preferences(job, accelerator, resources)
    elif isinstance(job, ReferenceJob):
        reference.compute_reference_rows(job, accelerator, resources)
    elif isinstance(job, GenerateJob):
        generate.write_completions(job, accelerator, resources)
    elif isinstance(job, CeilingJob):
        diagnostics.write_ceilings(job, accelerator)
    elif isinstance(job, OneEditJob):
        diagnostics.write_one_edit_table(job, accelerator)
    accelerator.wait_for_everyone()


def _die_with_parent() -> None:
    """Ask Linux for SIGTERM when the launcher dies, so that nothing trains on as an orphan."""
    if sys.platform == "linux":
        import ctypes

        ctypes.CDLL(None).prctl(1, signal.SIGTERM)  # 1 = PR_SET_PDEATHSIG


if __name__ == "__main__":
    _die_with_parent()
    status = main(sys.argv[1])
    sys.stdout.flush()
    # _exit: interpreter teardown of a process group takes a second and can hang when a peer has died
    os._exit(status)
