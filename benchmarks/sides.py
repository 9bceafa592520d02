"""The sides of a training comparison: forward, loss and backward over the same pairs, each a function without arguments.

Every side makes its batches anew, as a training step does; none takes an optimizer step, which would cost all the same.
"""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from benchmarks.measure import Side
from benchmarks.shapes import as_examples
from srpo_core.batches import Batch, PlainBatch, batch_groups, make_trie_batches
from srpo_core.logprobs import SequenceLogps
from srpo_core.objectives import PreferenceObjective
from srpo_core.settings.training import PreferenceSettings
from srpo_core.tokenization import PairTokens
from srpo_core.trie import TokenSequence, TokenTrie, build_trie


class PlainLogps(nn.Module):
    """The baseline, written without the project: plain sequences, log-softmax of completion rows alone or of every token."""

    def __init__(self, model: Any, full_logits: bool) -> None:
        """`model`: a Llama."""
        super().__init__()
        self.model = model
        self.full_logits = full_logits

    def forward(self, batch: PlainBatch) -> Tensor:
        """Log-probs (S,) in nats."""
        inputs = {"input_ids": batch.tokens, "use_cache": False}
        if self.full_logits:  # as trainers write it: a log-softmax over every token's logits, then a mask
            logits = self.model(**inputs).logits.flatten(0, 1)
            labels = logits.new_zeros(len(logits), dtype=torch.long).scatter(0, batch.predictor_rows, batch.targets)
            logps = -cross_entropy(logits.float(), labels, reduction="none")[batch.predictor_rows]
        else:
            rows = self.model.model(**inputs)[0].flatten(0, 1)[batch.predictor_rows]
            logps = -cross_entropy(self.model.lm_head(rows).float(), batch.targets, reduction="none")
        return logps.new_zeros(batch.num_sequences).index_add(0, batch.sequence_index, logps)


def trie_side(
    model: Any,
    pairs: Sequence[PairTokens],
    budget: int,
    row_tokens: int | None = None,
    max_rows: int | None = None,
    attention: str = "sdpa",
) -> Side:
    """SRPO on token tries; `row_tokens` and `max_rows` as in `make_trie_batches` and `SequenceLogps`."""
    attend(model, attention)
    module = SequenceLogps(model, max_rows)
    step = _step(module, pairs, lambda: make_trie_batches(tries_of(pairs), budget, row_tokens))
    return Side(attending(model, model.config._attn_implementation, step), trie_facts(pairs))


def plain_side(model: Any, pairs: Sequence[PairTokens], budget: int, *, full_logits: bool) -> Side:
    """SRPO on six plain sequences a pair."""
    step = _step(PlainLogps(model, full_logits), pairs, lambda: batch_groups([p.sequences for p in pairs], "plain", budget))
    return Side(attending(model, "sdpa", step), plain_facts([p.sequences for p in pairs], every_row=full_logits))


def bound_side(model: Any, pairs: Sequence[PairTokens], budget: int) -> Side:
    """Causal rows as long as the tries with as many head rows: what these tokens cost without a tree."""
    device = next(model.parameters()).device

    def run() -> None:
        model.zero_grad(set_to_none=True)
        for batch in make_trie_batches(tries_of(pairs), budget):
            tokens, targets = batch.tokens.to(device), batch.targets.to(device)
            rows = model.model(input_ids=tokens, use_cache=False)[0].flatten(0, 1)[: len(targets)]
            cross_entropy(model.lm_head(rows).float(), targets, reduction="sum").backward()
        finish(device)

    return Side(attending(model, "sdpa", run), trie_facts(pairs))


def tries_of(pairs: Sequence[PairTokens]) -> list[TokenTrie]:
    """A trie a pair, built now."""
    return [build_trie(pair.sequences) for pair in pairs]


def trie_facts(pairs: Sequence[PairTokens]) -> dict[str, float]:
    """What a pair costs as a trie: tokens, rows of the head, and keys that its queries see."""
    tries = tries_of(pairs)
    tokens, seen = (sum(trie.num_tokens for trie in tries), sum(int(trie.positions.sum()) + trie.num_tokens for trie in tries))
    return _per_pair(len(pairs), tokens, sum(len(target) for trie in tries for target in trie.targets), seen)


def plain_facts(groups: Sequence[Sequence[TokenSequence]], *, every_row: bool) -> dict[str, float]:
    """The same as plain sequences; `every_row`: the head reads all tokens."""
    lengths = [len(prompt) + len(completion) - 1 for group in groups for prompt, completion in group]
    rows = sum(lengths) if every_row else sum(len(completion) for group in groups for _, completion in group)
    return _per_pair(len(groups), sum(lengths), rows, sum(n * (n + 1) // 2 for n in lengths))


def _per_pair(count: int, tokens: int, head_rows: int, seen_keys: int) -> dict[str, float]:
    return {"tokens_per_pair": tokens / count, "head_rows_per_pair": head_rows / count, "seen_keys_per_pair": seen_keys / count}


def attend(model: Any, implementation: str) -> None:
    """Set the model's attention, if it is another."""
    if model.config._attn_implementation != implementation:
        model.set_attn_implementation(implementation)


def attending(model: Any, implementation: str, run: Callable[[], object]) -> Callable[[], None]:
    """`run` under this attention: sides share a model, and `SequenceLogps` chooses a form of its own for it."""

    def with_attention() -> None:
        attend(model, implementation)
        run()

    return with_attention


def finish(device: torch.device) -> None:
    """Wait for the device, so that what was started is also measured."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def _step(module: Any, pairs: Sequence[PairTokens], batches: Callable[[], Sequence[Batch]]) -> Callable[[], None]:
    objective = PreferenceObjective(as_examples(pairs), PreferenceSettings(pairs_per_step=len(pairs)))
    indices = range(len(pairs))
    device = next(module.parameters()).device

    def run() -> None:
        module.zero_grad(set_to_none=True)
        for batch in batches():
            batch = batch.to(device)
            objective.part(module(batch), batch, indices, objective.step_size(indices)).loss.backward()
        finish(device)

    return run
