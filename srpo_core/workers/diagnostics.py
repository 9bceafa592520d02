"""Newsroom diagnostics, possible because p is known there: the ceiling of a perfect fit, and F against its target edit by edit.

Ceiling (docs/method.md 1.1): with samples of the reference standing for its distribution,

    pi'*(y2|y1) ~ ref(y2|y1) e^{p(y2>y1)/beta}            pi*(y) ~ ref(y) / Z(y),   Z(y) = E_ref(.|y) e^{p(.>y)/beta}

so a draft is picked among reference drafts with weight 1/Z, and a revision among reference revisions with weight e^{p/beta}:
self-normalised importance sampling, whose few samples make the estimate cautious (it cannot pick a text nobody sampled).
"""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import torch
from accelerate import Accelerator

from srpo_core import newsroom
from srpo_core.batches import batch_groups
from srpo_core.decoding import generate
from srpo_core.logprobs import SequenceLogps, logps_in_order
from srpo_core.models import load_model, load_tokenizer, merge_adapter
from srpo_core.records import seed_from, user_prompt
from srpo_core.scoring.win_rate import mean_interval
from srpo_core.tokenization import PromptTokenizer, load_template
from srpo_core.workers.jobs import CeilingJob, OneEditJob
from srpo_core.workers.parts import read_rows, write_part
from srpo_core.workers.progress import ProgressLines

CEILINGS = pa.schema(
    [
        ("eval_set", pa.string()),
        ("beta", pa.float64()),
        ("temperature", pa.float64()),
        ("revision_index", pa.int32()),
        ("ceiling", pa.float64()),
        ("ceiling_low", pa.float64()),
        ("ceiling_high", pa.float64()),
        ("reference_win_rate", pa.float64()),
        ("n_prompts", pa.int32()),
    ]
)
ONE_EDIT = pa.schema(
    [
        ("policy_id", pa.string()),
        ("edit", pa.string()),
        ("target", pa.float64()),
        ("learned", pa.float64()),
        ("n", pa.int32()),
        ("sign_right", pa.float64()),
    ]
)


class ReferenceSampler:
    """Drafts and revisions of the reference for newsroom documents."""

    def __init__(self, model: Any, tok: PromptTokenizer, job: CeilingJob) -> None:
        """Samples with the job's temperature, length limit and seed."""
        self.model, self.tok, self.job = model, tok, job

    def sample(self, requests: Sequence[tuple[str, str | None]], copies: int, *labels: Any) -> list[list[str]]:
        """`copies` texts for each (document, draft or None)."""
        fitted = [self.tok.fit_prompt(user_prompt(doc), self.job.max_new_tokens, draft or None).ids for doc, draft in requests]
        seeds = [seed_from(self.job.seed, "ceiling", *labels, r, c) for r in range(len(requests)) for c in range(copies)]
        prompts = [ids for ids in fitted for _ in range(copies)]
        texts: list[str] = []
        for start in range(0, len(prompts), 512):
            block = slice(start, start + 512)
            results = generate(
                self.model,
                prompts[block],
                seeds[block],
                stop_ids=self.tok.stop_ids,
                max_new_tokens=self.job.max_new_tokens,
                temperature=self.job.temperature,
                top_p=1.0,
            )
            texts += [self.tok.decode(result.ids).strip() for result in results]
        return [texts[r * copies : (r + 1) * copies] for r in range(len(requests))]


def write_ceilings(job: CeilingJob, accelerator: Accelerator) -> None:
    """One row per evaluation set, beta and revision; the sets are shared out over the processes."""
    path = Path(job.path)
    tok, _ = load_template(job.model_folder, load_tokenizer(job.model_folder))
    model = merge_adapter(load_model(job.model_folder, job.dtype)).to(accelerator.device)
    work = [(eval_set, beta) for beta in job.betas for eval_set in job.prompts]
    mine = work[accelerator.process_index :: accelerator.num_processes]
    lines = ProgressLines(job.name, len(mine), "sets", enabled=accelerator.is_main_process)
    rows = []
    for number, (eval_set, beta) in enumerate(mine):
        prompts = read_rows(job.prompts[eval_set])[: job.num_prompts]
        rows += estimate_ceiling(ReferenceSampler(model, tok, job), prompts, eval_set, beta, job)
        lines.show(number + 1)
    own = path.with_name(f"{path.stem}.rank{accelerator.process_index}.parquet")
    write_part(own, rows, CEILINGS)
    accelerator.wait_for_everyone()
    if accelerator.is_main_process:
        parts = sorted(path.parent.glob(f"{path.stem}.rank*.parquet"))
        write_part(path, read_rows([str(part) for part in parts]), CEILINGS)
        for part in parts:
            part.unlink()


def estimate_ceiling(
    sampler: ReferenceSampler, prompts: Sequence[Mapping[str, Any]], eval_set: str, beta: float, job: CeilingJob
) -> list[dict[str, Any]]:
    """Win rate against the gold of chains that the exact optimum would write, revision by revision."""
    rng = np.random.default_rng(seed_from(job.seed, "ceiling", eval_set, beta))
    documents = [row["prompt"][-1]["content"] for row in prompts]
    golds = [row["gold"][0] for row in prompts]
    drafts = sampler.sample([(d, None) for d in documents], job.num_drafts, eval_set, "drafts")
    requests = [(d, draft) for d, own in zip(documents, drafts, strict=True) for draft in own]
    proposals = sampler.sample(requests, job.num_proposals, eval_set, "partition")
    z = np.array([np.mean(_tilts(doc, draft, own, beta)) for (doc, draft), own in zip(requests, proposals, strict=True)])
    weights = (1 / z).reshape(len(prompts), job.num_drafts)
    current = [_pick(rng, own, w, job.num_chains) for own, w in zip(drafts, weights, strict=True)]
    reference = np.mean([[_win(d, y, g) for y in own] for d, own, g in zip(documents, drafts, golds, strict=True)])
    rows = []
    for revision in range(job.num_revisions + 1):
        scores = np.array([np.mean([_win(d, y, g) for y in own]) for d, own, g in zip(documents, current, golds, strict=True)])
        low, high = _interval(scores)
        rows.append(
            {
                "eval_set": eval_set,
                "beta": beta,
                "temperature": job.temperature,
                "revision_index": revision,
                "ceiling": float(scores.mean()),
                "ceiling_low": low,
                "ceiling_high": high,
                "reference_win_rate": float(reference),
                "n_prompts": len(prompts),
            }
        )
        if revision < job.num_revisions:
            requests = [(d, y) for d, own in zip(documents, current, strict=True) for y in own]
            proposals = sampler.sample(requests, job.num_proposals, eval_set, beta, "revision", revision)
            picked = [_pick(rng, own, _tilts(d, y, own, beta), 1)[0] for (d, y), own in zip(requests, proposals, strict=True)]
            current = [picked[i * job.num_chains : (i + 1) * job.num_chains] for i in range(len(prompts))]
    return rows


def _tilts(document: str, draft: str, revisions: Sequence[str], beta: float) -> np.ndarray:
    p = np.array([newsroom.preference_probability(document, revision, draft) for revision in revisions])
    return np.exp((p - 0.5) / beta)  # a constant factor cancels in every ratio


def _pick(rng: np.random.Generator, texts: Sequence[str], weights: np.ndarray, count: int) -> list[str]:
    return [texts[int(i)] for i in rng.choice(len(texts), size=count, p=weights / weights.sum())]


def _win(document: str, text: str, gold: str) -> float:
    return newsroom.preference_probability(document, text, gold)


def _interval(scores: np.ndarray) -> tuple[float, float]:
    interval = mean_interval(scores)
    return float(interval.ci_low), float(interval.ci_high)


# --- one-edit table ------------------------------------------------------------------------------------------------------


def write_one_edit_table(job: OneEditJob, accelerator: Accelerator) -> None:
    """F(edited|draft) - F(draft|draft) in nats against its target (p - 1/2)/beta, averaged by kind of edit (Eq. A)."""
    if not accelerator.is_main_process:
        return
    rng = np.random.default_rng(seed_from(job.seed, "one_edit"))
    documents = [newsroom.draw_document(newsroom.DOMAINS["id"], rng) for _ in range(job.num_documents)]
    edits = [
        (kind, newsroom.write_document(d), draft, edited)
        for d in documents
        for kind, draft, edited in newsroom.one_edit_pairs(d, rng)
    ]
    learned = _copy_margins(job.model_folder, job, edits, accelerator) - _copy_margins(
        job.reference_folder, job, edits, accelerator
    )
    by_kind: dict[str, list[tuple[float, float]]] = defaultdict(list)
    for (kind, document, draft, edited), margin in zip(edits, learned.tolist(), strict=True):
        target = (newsroom.preference_probability(document, edited, draft) - 0.5) / job.beta
        by_kind[kind].append((target, margin))
    write_part(Path(job.path), [_edit_row(job.policy_id, kind, values) for kind, values in sorted(by_kind.items())], ONE_EDIT)


def _copy_margins(
    folder: str, job: OneEditJob, edits: Sequence[tuple[str, str, str, str]], accelerator: Accelerator
) -> torch.Tensor:
    """log-prob of the edited text minus that of the draft, both as revisions of the draft, (edits,) in nats."""
    tok, _ = load_template(folder, load_tokenizer(folder))
    module = SequenceLogps(merge_adapter(load_model(folder, job.dtype)).to(accelerator.device))
    groups = []
    for _, document, draft, edited in edits:
        prompt = tok.revision_prompt_ids(user_prompt(document), draft)
        groups.append([(prompt, tok.completion_ids(edited)), (prompt, tok.completion_ids(draft))])
    logps = logps_in_order(module, batch_groups(groups, "trie", 8192), accelerator.device).view(-1, 2)
    return logps[:, 0] - logps[:, 1]


def _edit_row(policy_id: str, kind: str, values: Sequence[tuple[float, float]]) -> dict[str, Any]:
    pairs = np.array(values)
    decided = pairs[np.abs(pairs[:, 0]) > 1e-9]
    right = float(np.mean(np.sign(decided[:, 0]) == np.sign(decided[:, 1]))) if len(decided) else None
    target, learned = pairs.mean(0).tolist()
    return {"policy_id": policy_id, "edit": kind, "target": target, "learned": learned, "n": len(pairs), "sign_right": right}
