"""The single implementation of sequence log-probabilities: reference pass, training of every method, and evaluation all use it.

A sequence's log-prob is the sum over its completion tokens, stop token included, in nats and float32 (docs/method.md 1.2a).
Two independent paths: token tries, where one forward pass serves all sequences of a pair (one mask, position ids = depth,
language-model head on the predicting rows only), and plain right-padded sequences through the model's own forward.
"""

import inspect
from collections.abc import Iterable
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy
from torch.utils.checkpoint import checkpoint

from srpo_core.attention import trie_attention_mask, use_key_blocks
from srpo_core.batches import Batch, PlainBatch, TrieBatch
from srpo_core.models import causal_model


class SequenceLogps(nn.Module):
    """A causal language model whose forward returns sequence log-probs, so that DDP, FSDP and accelerate can wrap it."""

    def __init__(self, model: nn.Module, max_rows: int | None = None) -> None:
        """`max_rows`: apply the head to so many rows of a trie at a time and recompute them backward; slower, bounded memory."""
        super().__init__()
        self.model = model
        self.max_rows = max_rows
        causal = causal_model(model)
        use_key_blocks(causal)
        self._keeps_logits = "logits_to_keep" in inspect.signature(causal.forward).parameters

    def forward(self, batch: TrieBatch | PlainBatch) -> Tensor:
        """Log-probs (S,) of the batch's sequences, in nats. Raises ValueError when the attention cannot read a trie's mask."""
        token_logps = self._trie_token_logps(batch) if isinstance(batch, TrieBatch) else self._plain_token_logps(batch)
        sums = token_logps.new_zeros(batch.num_sequences)
        return sums.index_add(0, batch.sequence_index, token_logps)

    def _trie_token_logps(self, batch: TrieBatch) -> Tensor:
        causal = causal_model(self.model)
        hidden = causal.get_decoder()(
            input_ids=batch.tokens,
            attention_mask=trie_attention_mask(batch, causal.config, next(causal.parameters()).dtype),
            position_ids=batch.positions,
            use_cache=False,
        )[0]
        rows = hidden.flatten(0, 1)[batch.predictor_rows]
        if self.max_rows is None or len(rows) <= self.max_rows:
            return self._head_logps(rows, batch.targets)
        chunks = zip(rows.split(self.max_rows), batch.targets.split(self.max_rows), strict=True)
        return torch.cat([self._recomputed_head_logps(*chunk) for chunk in chunks])

    def _head_logps(self, rows: Tensor, targets: Tensor) -> Tensor:
        """Log-probs (N,) of `targets` given hidden rows (N, H)."""
        causal = causal_model(self.model)
        return _token_logps(scale_logits(causal.get_output_embeddings()(rows), causal), targets)

    def _recomputed_head_logps(self, rows: Tensor, targets: Tensor) -> Tensor:
        return cast(Tensor, checkpoint(self._head_logps, rows, targets, use_reentrant=False))

    def _plain_token_logps(self, batch: PlainBatch) -> Tensor:
        """Through the model's own forward; logits only of the columns from the first that predicts a completion token.

        Padding is on the right, where a causal model reads nothing of it, so no mask keeps the kernel from its causal form.
        """
        num_rows, length = batch.tokens.shape
        first = batch.first_predictor if self._keeps_logits else 0
        keep: dict[str, Any] = {"logits_to_keep": length - first} if self._keeps_logits else {}
        logits = self.model(input_ids=batch.tokens, use_cache=False, **keep).logits
        row = batch.predictor_rows // length
        column = batch.predictor_rows % length - first
        return _token_logps(logits[row, column], batch.targets)


def rows_within(model: nn.Module, gib: float | None) -> int | None:
    """How many rows of logits fit into `gib`, at least one, each with its softmax and its gradient in float32; None for None."""
    if gib is None:
        return None
    vocabulary = causal_model(model).get_output_embeddings().weight.shape[0]
    return max(1, int(gib * 2**30 / (3 * 4 * vocabulary)))


@torch.no_grad()
def logps_in_order(module: nn.Module, batches: Iterable[Batch], device: torch.device | str = "cpu") -> Tensor:
    """Log-probs (all sequences,) float32 on the CPU, in the order of the groups that the batches were made from.

    Raises ValueError when the batches do not hold each sequence exactly once.
    """
    places: list[int] = []
    values: list[Tensor] = []
    for batch in batches:
        places += batch.sequence_order
        values.append(module(batch.to(device)).float().cpu())
    if sorted(places) != list(range(len(places))):
        distinct = len(set(places))
        raise ValueError(f"expected batches that hold every sequence once, found {len(places)} with {distinct} distinct places")
    result = torch.empty(len(places))
    result[torch.tensor(places, dtype=torch.long)] = torch.cat(values) if values else torch.empty(0)
    return result


def scale_logits(logits: Tensor, causal: Any) -> Tensor:
    """What some models do to the head's output before it is a logit: Cohere multiplies, Granite divides, Gemma caps softly."""
    config = causal.config
    scale = getattr(causal, "logit_scale", None)
    divisor = getattr(config, "logits_scaling", None)
    cap = getattr(config, "final_logit_softcapping", None)
    logits = logits if scale is None else logits * scale
    logits = logits if divisor is None else logits / divisor
    return logits if cap is None else torch.tanh(logits / cap) * cap


def _token_logps(logits: Tensor, targets: Tensor) -> Tensor:
    """Log-probs (N,) in at least float32 of `targets` (N,) under `logits` (N, V)."""
    return -cross_entropy(logits.to(torch.promote_types(logits.dtype, torch.float32)), targets, reduction="none")
