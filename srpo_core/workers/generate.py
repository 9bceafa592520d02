"""Generation jobs: drafts and revisions of every prompt, one Parquet file per batch of prompts, skipping finished prompts."""

import uuid
from dataclasses import asdict
from pathlib import Path

import pyarrow as pa
from accelerate import Accelerator

from srpo_core.decoding import fit, write_chains
from srpo_core.models import arithmetic, load_model, load_tokenizer, merge_adapter
from srpo_core.settings.resources import Resources
from srpo_core.tokenization import load_template
from srpo_core.workers.jobs import GenerateJob
from srpo_core.workers.parts import read_rows, write_part
from srpo_core.workers.progress import ProgressLines

SCHEMA = pa.schema(
    [
        ("completion_id", pa.string()),
        ("prompt_id", pa.string()),
        ("policy_id", pa.string()),
        ("sample_index", pa.int32()),
        ("revision_index", pa.int32()),
        ("parent_id", pa.string()),
        ("text", pa.string()),
        ("num_tokens", pa.int32()),
        ("finish_reason", pa.string()),
        ("prompt_truncated", pa.bool_()),
        ("seed", pa.int64()),
        ("temperature", pa.float64()),
    ]
)


PREFIX = "batch"  # of the files a worker writes; the task joins them to parts in the order of the prompts


def write_completions(job: GenerateJob, accelerator: Accelerator, resources: Resources) -> None:
    """Each process takes every n-th prompt that no earlier attempt finished, and writes a file per batch with all revisions.

    A kill loses one batch a process at most, and the next attempt may use other batches and another number of processes.
    """
    rows = read_rows(job.prompts)
    finished = {row["prompt_id"] for row in read_rows(finished_files(Path(job.folder)), ["prompt_id"])}
    accelerator.wait_for_everyone()  # all processes must have listed the files before any of them adds one
    missing = [row for row in rows if row["prompt_id"] not in finished]
    mine = missing[accelerator.process_index :: accelerator.num_processes]
    if not mine:
        return
    tok, _ = load_template(job.model_folder, load_tokenizer(job.model_folder))
    for row in mine:
        fit(tok, row, None, job.settings)  # a prompt that cannot fit stops the work before it begins
    model = merge_adapter(load_model(job.model_folder, job.dtype)).to(accelerator.device)
    per_prompt = job.settings.num_samples * (job.settings.num_revisions + 1)
    size = max(1, resources.generation_batch_size // job.settings.num_samples)
    lines = ProgressLines(job.name, len(missing) * per_prompt, "completions", enabled=accelerator.is_main_process)
    done = 0
    for start in range(0, len(mine), size):
        completions = []
        with arithmetic(job.dtype, accelerator.device):
            for written in write_chains(model, tok, mine[start : start + size], job.policy_id, job.settings, dtype=job.dtype):
                completions += [asdict(completion) for completion in written]
                lines.show(min(lines.total, (done + len(completions)) * accelerator.num_processes))  # the others are about as far
        write_part(Path(job.folder) / f"{PREFIX}-{uuid.uuid4().hex}.parquet", completions, SCHEMA)
        done += len(completions)


def finished_files(folder: Path) -> list[str]:
    """What this and earlier attempts wrote."""
    return [str(path) for path in sorted(folder.glob(f"{PREFIX}-*.parquet"))]
