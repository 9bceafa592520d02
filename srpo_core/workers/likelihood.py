"""Likelihood jobs: the log-prob of given completions under the draft prompt, one Parquet file per batch of prompts.

A completion is its text as the tokenizer writes it, with the stop token where it was finished: the same text has the same
log-prob however it was generated. Each process takes every n-th prompt that no earlier attempt finished.
"""

import uuid
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
from accelerate import Accelerator

from srpo_core.batches import Layout, batch_groups
from srpo_core.layout import resolve_layout
from srpo_core.logprobs import SequenceLogps, logps_in_order, rows_within
from srpo_core.models import arithmetic, load_model, load_tokenizer, merge_adapter
from srpo_core.settings.model import Dtype
from srpo_core.settings.resources import Resources
from srpo_core.tokenization import PromptTokenizer, load_template
from srpo_core.trie import TokenSequence
from srpo_core.workers.generate import PREFIX, finished_files
from srpo_core.workers.jobs import LikelihoodJob
from srpo_core.workers.parts import read_rows, write_part
from srpo_core.workers.progress import ProgressLines
from srpo_core.workers.training import longest_groups

SCHEMA = pa.schema(
    [("completion_id", pa.string()), ("prompt_id", pa.string()), ("logp", pa.float64()), ("num_tokens", pa.int32())]
)
Row = dict[str, Any]


def write_likelihoods(job: LikelihoodJob, accelerator: Accelerator, resources: Resources) -> None:
    """Every completion of the job that no earlier attempt scored. Raises InputError for a prompt that does not fit."""
    finished = {row["prompt_id"] for row in read_rows(finished_files(Path(job.folder)), ["prompt_id"])}
    accelerator.wait_for_everyone()  # all processes must have listed the files before any of them adds one
    texts: dict[str, list[Row]] = defaultdict(list)
    for row in read_rows(job.completions, ["completion_id", "prompt_id", "text", "finish_reason"]):
        texts[row["prompt_id"]].append(row)
    prompts = [row for row in read_rows(job.prompts, ["prompt_id", "prompt"]) if row["prompt_id"] in texts]
    missing = [row for row in prompts if row["prompt_id"] not in finished]
    mine = missing[accelerator.process_index :: accelerator.num_processes]
    if not mine:
        return
    tok, _ = load_template(job.model_folder, load_tokenizer(job.model_folder))
    groups = [_sequences(tok, row, texts[row["prompt_id"]], job.max_new_tokens) for row in mine]
    model = merge_adapter(load_model(job.model_folder, job.dtype)).to(accelerator.device)
    scored = _Scoring(model, groups, job.dtype, accelerator, resources)
    total = sum(len(texts[row["prompt_id"]]) for row in missing)
    lines = ProgressLines(job.name, total, "completions", enabled=accelerator.is_main_process)
    done = 0
    for start in range(0, len(mine), job.prompts_per_part):
        chunk = slice(start, start + job.prompts_per_part)
        completions = [row for prompt in mine[chunk] for row in texts[prompt["prompt_id"]]]
        logps = scored.logps(groups[chunk])
        rows = [_row(completion, *values) for completion, values in zip(completions, logps, strict=True)]
        write_part(Path(job.folder) / f"{PREFIX}-{uuid.uuid4().hex}.parquet", rows, SCHEMA)
        done += len(rows)
        lines.show(min(total, done * accelerator.num_processes))  # the others are about as far


def _sequences(tok: PromptTokenizer, prompt: Row, completions: Sequence[Row], max_new_tokens: int) -> list[TokenSequence]:
    """Prompt ids, cut as in generation, and completion ids of each text; no ids for an unfinished completion without text."""
    prompt_ids = tok.fit_prompt(prompt["prompt"], max_new_tokens).ids
    ids = tok.encode_texts(row["text"] for row in completions)
    ends = ([tok.stop_id] if row["finish_reason"] == "stop" else [] for row in completions)
    return [(prompt_ids, [*ids[row["text"]], *end]) for row, end in zip(completions, ends, strict=True)]


class _Scoring:
    """The model in the layout that serves all prompts: the texts of a prompt share the reading of it where that is exact."""

    def __init__(
        self, model: Any, groups: list[list[TokenSequence]], dtype: Dtype, accelerator: Accelerator, resources: Resources
    ) -> None:
        self.module = SequenceLogps(model, rows_within(model, resources.logits_gib))
        self.dtype, self.device, self.budget = dtype, accelerator.device, resources.tokens_per_microbatch
        sample = longest_groups(_without_empty(groups))
        self.layout: Layout = resolve_layout(model, "auto", sample) if sample else "plain"

    def logps(self, groups: list[list[TokenSequence]]) -> list[tuple[float | None, int]]:
        """Log-prob and number of tokens of every sequence, group after group; None without tokens."""
        batches = batch_groups(_without_empty(groups), self.layout, self.budget)
        with arithmetic(self.dtype, self.device):
            values = iter(logps_in_order(self.module, batches, self.device).tolist())
        lengths = [len(completion) for group in groups for _, completion in group]
        return [(next(values) if length else None, length) for length in lengths]


def _without_empty(groups: list[list[TokenSequence]]) -> list[list[TokenSequence]]:
    """The groups with the sequences that have something to score."""
    kept = ([sequence for sequence in group if sequence[1]] for group in groups)
    return [group for group in kept if group]


def _row(completion: Row, logp: float | None, num_tokens: int) -> Row:
    named = {"completion_id": completion["completion_id"], "prompt_id": completion["prompt_id"]}
    return named | {"logp": logp, "num_tokens": num_tokens}
