"""The reference pass: six log-probs of every pair that the store does not hold yet, in parts of about a thousand pairs.

Each process takes every n-th chunk of pairs and writes a part as soon as a chunk is done, so a kill loses one part at most.
"""

import json
import os
import uuid
from pathlib import Path
from typing import Any

import pyarrow as pa
from accelerate import Accelerator

from srpo_core.batches import Layout, batch_groups
from srpo_core.layout import resolve_layout
from srpo_core.logprobs import SequenceLogps, logps_in_order, rows_within
from srpo_core.models import arithmetic, load_model, load_tokenizer, merge_adapter
from srpo_core.settings.resources import Resources
from srpo_core.tokenization import PairTokens, load_template, tokenize_pairs
from srpo_core.workers.jobs import ReferenceJob
from srpo_core.workers.parts import read_rows, write_json, write_part
from srpo_core.workers.progress import ProgressLines
from srpo_core.workers.training import REFERENCE_COLUMNS, longest_groups

LAYOUT_FILE = "layout.json"
SCHEMA = pa.schema(
    [("token_hash", pa.string())]
    + [(name, pa.float32()) for name in REFERENCE_COLUMNS]
    + [("num_tokens_a", pa.int32()), ("num_tokens_b", pa.int32())]
)


def compute_reference_rows(job: ReferenceJob, accelerator: Accelerator, resources: Resources) -> None:
    """Fill the store; rows are keyed by the hash of a pair's tokens, so equal pairs of other data sets are found there too."""
    store = Path(job.store)
    tok, _ = load_template(job.model_folder, load_tokenizer(job.model_folder))
    rows = [row for row in read_rows(job.preferences) if row["split"] in job.splits]
    texts = [(row["prompt"], *sorted((row["chosen"], row["rejected"]))) for row in rows]
    known = {row["token_hash"] for row in read_rows([str(p) for p in sorted(store.glob("part-*.parquet"))], ["token_hash"])}
    accelerator.wait_for_everyone()  # all processes must have listed the store before any of them adds to it
    missing = {t.token_hash: t for t in tokenize_pairs(tok, texts) if isinstance(t, PairTokens) and t.token_hash not in known}
    pairs = list(missing.values())
    if not pairs:
        return
    model = merge_adapter(load_model(job.model_folder, job.dtype)).to(accelerator.device)  # as training merges it
    module = SequenceLogps(model, rows_within(model, resources.logits_gib))
    layout = _layout_of(store, job, model, pairs, accelerator)
    chunk_size = min(job.pairs_per_part, -(-len(pairs) // accelerator.num_processes))
    chunks = [pairs[start : start + chunk_size] for start in range(0, len(pairs), chunk_size)]
    mine = chunks[accelerator.process_index :: accelerator.num_processes]
    lines = ProgressLines(job.name, len(pairs), "pairs", enabled=accelerator.is_main_process)
    done = 0
    for chunk in mine:
        batches = batch_groups([pair.sequences for pair in chunk], layout, resources.tokens_per_microbatch)
        with arithmetic(job.dtype, accelerator.device):
            logps = logps_in_order(module, batches, accelerator.device).view(len(chunk), 6).tolist()
        name = f"part-{uuid.uuid4().hex}-{os.getpid()}.parquet"
        write_part(store / name, [_row(pair, values) for pair, values in zip(chunk, logps, strict=True)], SCHEMA)
        done += len(chunk)
        lines.show(min(len(pairs), done * accelerator.num_processes))  # the others are about as far


def _layout_of(store: Path, job: ReferenceJob, model: Any, pairs: list[PairTokens], accelerator: Accelerator) -> Layout:
    """The layout of the rows already stored, else the one resolved now: two layouts differ in rounding and are not mixed."""
    file = store / LAYOUT_FILE
    stored = json.loads(file.read_text(encoding="utf-8"))["layout"] if file.exists() else None
    layout = resolve_layout(model, stored or job.layout, longest_groups([pair.sequences for pair in pairs]))
    accelerator.wait_for_everyone()
    if stored is None and accelerator.is_main_process:
        write_json(file, {"layout": layout})
    return layout


def _row(pair: PairTokens, logps: list[float]) -> dict[str, Any]:
    columns = dict(zip(REFERENCE_COLUMNS, logps, strict=True))
    return {"token_hash": pair.token_hash, **columns, "num_tokens_a": pair.num_tokens_a, "num_tokens_b": pair.num_tokens_b}
