"""Drafts and self-revisions: y0 ~ pi(.|x), then y(k+1) ~ pi'(.|y(k), x) (SRPO, arXiv 2406.01660, section 1).

Every completion draws its random numbers from a seed of its own, so a text does not depend on what it was batched with
(up to floating-point ties). Prompts are left-padded; rows that have stopped leave the batch.
"""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from srpo_core.config import GenerationSettings
from srpo_core.records import Completion, content_id, seed_from
from srpo_core.tokenization import PairTooLong, PromptTokenizer


class Generated(NamedTuple):
    """New tokens of one prompt, the stop token included where there is one."""

    ids: list[int]
    finish_reason: str  # stop or length


@torch.no_grad()
def generate(
    model: Any,
    prompts: Sequence[Sequence[int]],
    seeds: Sequence[int],
    *,
    stop_ids: Sequence[int],
    max_new_tokens: int,
    temperature: float,
    top_p: float,
) -> list[Generated]:
    """Continue each prompt until a stop token or `max_new_tokens`; temperature 0 takes the most likely token."""
    device = next(model.parameters()).device
    uniforms = torch.from_numpy(np.stack([np.random.default_rng(seed).random(max_new_tokens) for seed in seeds])).to(device)
    tokens, mask = _left_padded(prompts, device)
    positions = (mask.cumsum(1) - 1).clamp(min=0)
    rows = torch.arange(len(prompts), device=device)  # which prompt each remaining row belongs to
    output: list[list[int]] = [[] for _ in prompts]
    stops = torch.tensor(sorted(stop_ids), device=device)
    cache = None
    for step in range(max_new_tokens):
        result = model(
            input_ids=tokens, attention_mask=mask, position_ids=positions, past_key_values=cache, use_cache=True, logits_to_keep=1
        )
        cache = result.past_key_values
        chosen = choose_tokens(result.logits[:, -1].float(), uniforms[rows, step], temperature, top_p)
        for row, token in zip(rows.tolist(), chosen.tolist(), strict=True):
            output[row].append(token)
        going = ~torch.isin(chosen, stops)
        if not going.any():
            break
        if not going.all():
            keep = going.nonzero()[:, 0]
            rows, chosen, mask, positions = rows[keep], chosen[keep], mask[keep], positions[keep]
            cache.batch_select_indices(keep)
        tokens = chosen[:, None]
        mask = torch.cat([mask, mask.new_ones(len(mask), 1)], dim=1)
        positions = positions[:, -1:] + 1
    return [Generated(ids, "stop" if ids and ids[-1] in stop_ids else "length") for ids in output]


def choose_tokens(logits: Tensor, uniforms: Tensor, temperature: float, top_p: float) -> Tensor:
    """Next tokens (R,) from logits (R, V) and uniform numbers (R,) in [0, 1), by inverting the cumulative distribution."""
    if temperature == 0:
        return logits.argmax(-1)
    probabilities = torch.softmax(logits.double() / temperature, -1)
    if top_p < 1:
        ordered, order = probabilities.sort(dim=-1, descending=True)
        outside = ordered.cumsum(-1) - ordered >= top_p
        probabilities = torch.zeros_like(probabilities).scatter(-1, order, ordered.masked_fill(outside, 0.0))
    cumulative = probabilities.cumsum(-1)
    threshold = uniforms.double()[:, None] * cumulative[:, -1:]
    return (cumulative <= threshold).sum(-1).clamp(max=logits.shape[-1] - 1)


def _left_padded(prompts: Sequence[Sequence[int]], device: torch.device) -> tuple[Tensor, Tensor]:
    length = max(map(len, prompts))
    tokens = torch.zeros(len(prompts), length, dtype=torch.long)
    mask = torch.zeros(len(prompts), length, dtype=torch.long)
    for row, ids in enumerate(prompts):
        tokens[row, length - len(ids) :] = torch.tensor(ids)
        mask[row, length - len(ids) :] = 1
    return tokens.to(device), mask.to(device)


class Turn(NamedTuple):
    """What the next completion of a chain answers: a prompt, and from the first revision on the chain's last completion."""

    row: Mapping[str, Any]  # of table `prompts`
    sample_index: int
    parent: Completion | None


def write_chains(
    model: Any, tok: PromptTokenizer, prompts: Sequence[Mapping[str, Any]], policy_id: str, settings: GenerationSettings
) -> Iterator[list[Completion]]:
    """Yield, revision by revision, one completion for each (prompt, sample) of rows of `prompts`.

    An empty completion cannot be revised; its chain stays empty (finish_reason empty_draft), so that no revision is judged on
    fewer prompts than another. A prompt that does not fit is truncated and marked so; PairTooLong when it cannot be made to.
    """
    turns = [Turn(row, sample, None) for row in prompts for sample in range(settings.num_samples)]
    for revision_index in range(settings.num_revisions + 1):
        answered = [turn for turn in turns if turn.parent is None or turn.parent.text]
        results = iter(_answer(model, tok, answered, revision_index, settings))
        empty = (Generated([], "empty_draft"), False)
        completions = []
        for turn in turns:
            result, truncated = next(results) if turn.parent is None or turn.parent.text else empty
            completions.append(_completion(tok, turn, result, truncated, revision_index, policy_id, settings))
        yield completions
        turns = [turn._replace(parent=completion) for turn, completion in zip(turns, completions, strict=True)]


def _answer(
    model: Any, tok: PromptTokenizer, turns: Sequence[Turn], revision_index: int, settings: GenerationSettings
) -> list[tuple[Generated, bool]]:
    if not turns:
        return []
    fitted = [fit(tok, turn.row, turn.parent.text if turn.parent else None, settings) for turn in turns]
    results = generate(
        model,
        [prompt.ids for prompt in fitted],
        [_seed(turn, revision_index, settings) for turn in turns],
        stop_ids=tok.stop_ids,
        max_new_tokens=settings.max_new_tokens,
        temperature=settings.temperature,
        top_p=settings.top_p,
    )
    return [(result, prompt.truncated) for result, prompt in zip(results, fitted, strict=True)]


def _seed(turn: Turn, revision_index: int, settings: GenerationSettings) -> int:
    return seed_from(settings.seed, "generate", turn.row["prompt_id"], turn.sample_index, revision_index)


def _completion(
    tok: PromptTokenizer,
    turn: Turn,
    result: Generated,
    truncated: bool,
    revision_index: int,
    policy_id: str,
    settings: GenerationSettings,
) -> Completion:
    prompt_id = turn.row["prompt_id"]
    return Completion(
        completion_id=content_id("completion", policy_id, prompt_id, turn.sample_index, revision_index, settings.model_dump()),
        prompt_id=prompt_id,
        policy_id=policy_id,
        sample_index=turn.sample_index,
        revision_index=revision_index,
        parent_id=turn.parent.completion_id if turn.parent else None,
        text=tok.decode(result.ids).strip(),
        num_tokens=len(result.ids),
        finish_reason=result.finish_reason,
        prompt_truncated=truncated,
        seed=_seed(turn, revision_index, settings),
        temperature=settings.temperature,
    )


def fit(tok: PromptTokenizer, row: Mapping[str, Any], draft: str | None, settings: GenerationSettings) -> Any:
    """The prompt's ids with room for the answer; PairTooLong names the prompt."""
    try:
        return tok.fit_prompt(row["prompt"], settings.max_new_tokens, draft)
    except PairTooLong as error:
        raise PairTooLong(f"evaluation prompt {row['prompt_id']}: {error}") from error
