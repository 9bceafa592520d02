"""Generation jobs: drafts and revisions of every prompt, one Parquet part per batch of prompts, skipping finished parts."""

from dataclasses import asdict
from pathlib import Path

import pyarrow as pa
from accelerate import Accelerator

from srpo_core.config import Resources
from srpo_core.decoding import write_chains
from srpo_core.models import arithmetic, load_model, load_tokenizer, merge_adapter
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


def write_completions(job: GenerateJob, accelerator: Accelerator, resources: Resources) -> None:
    """Each process takes every n-th batch; a batch's part holds all its revisions, so a kill loses one batch at most."""
    rows = read_rows(job.prompts)
    size = max(1, min(resources.generation_batch_size, -(-len(rows) // accelerator.num_processes)) // job.settings.num_samples)
    batches = [rows[start : start + size] for start in range(0, len(rows), size)]
    mine = [(index, batch) for index, batch in enumerate(batches) if index % accelerator.num_processes == accelerator.process_index]
    todo = [(index, batch) for index, batch in mine if not _part(job, index).exists()]
    if not todo:
        return
    tok, _ = load_template(job.model_folder, load_tokenizer(job.model_folder))
    model = merge_adapter(load_model(job.model_folder, job.dtype)).to(accelerator.device)
    per_prompt = job.settings.num_samples * (job.settings.num_revisions + 1)
    total = sum(len(batch) for _, batch in mine) * per_prompt
    lines = ProgressLines(job.name, total, "completions", enabled=accelerator.is_main_process)
    done = total - sum(len(batch) for _, batch in todo) * per_prompt
    for index, batch in todo:
        completions = []
        with arithmetic(job.dtype, accelerator.device):
            for written in write_chains(model, tok, batch, job.policy_id, job.settings):
                completions += [asdict(completion) for completion in written]
                lines.show(done + len(completions))
        write_part(_part(job, index), completions, SCHEMA)
        done += len(completions)


def _part(job: GenerateJob, index: int) -> Path:
    return Path(job.folder) / f"part-{index:05d}-0.parquet"
