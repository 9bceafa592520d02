"""What each token of a trie attends to, in the form that the model's attention reads.

A row's tokens lie in preorder, so query q sees key k iff `k <= q < ends[k]`: itself and its ancestors. `eager` adds a mask to the
scores, `sdpa` reads a bool mask, `flex_attention` a BlockMask. A bool mask costs the square of the row although most of it is
empty; on the CPU `sdpa` therefore runs over blocks of queries, each with only the keys that some query of it sees.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.attention.flex_attention import BlockMask, create_block_mask
from transformers import AttentionInterface, AttentionMaskInterface
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import sdpa_mask

from srpo_core.batches import TrieBatch
from srpo_core.models import causal_model

KEY_BLOCKS = "sdpa_key_blocks"  # our name for sdpa that may run block by block
BLOCK = 128  # queries; of 64, 128 and 256 the fastest at the benchmarks' shapes
WORTH_BLOCKS = 0.8  # at most this share of a dense mask's scores, else one call over the whole row is as fast
READ_MASKS = ("sdpa", KEY_BLOCKS, "eager", "flex_attention")  # attention implementations that honour a mask of ours
MASKED_LAYERS = frozenset({"full_attention", "sliding_attention"})
Mask = Tensor | BlockMask
Visible = Callable[[Tensor, Tensor | None, Tensor, Tensor], Tensor]  # row, head, query, key -> bool, broadcast together


class KeyBlock(NamedTuple):
    """Queries `start` to `stop` of every row, and what they see."""

    start: int
    stop: int
    keys: Tensor  # (K,) int64, the tokens that some of the queries sees, in any row
    mask: Tensor  # (R, 1, stop - start, K) bool


def mask_obstacle(model: nn.Module) -> str | None:
    """Why this model cannot read a mask of ours, as half a sentence; None when nothing is known to stand in the way."""
    causal = causal_model(model)
    config = causal.config
    others = set(getattr(config, "layer_types", None) or []) - MASKED_LAYERS
    if others or getattr(causal, "_is_stateful", False):
        return f"the model has layers that ignore an attention mask ({', '.join(sorted(others)) or 'recurrent state'})"
    if getattr(config, "is_encoder_decoder", False):
        return "the model is an encoder-decoder"
    if getattr(config, "use_bidirectional_attention", None):
        return "the model attends in both directions"
    if config._attn_implementation not in READ_MASKS:
        return f"attention implementation {config._attn_implementation} cannot read a mask of tokens (load the model with sdpa)"
    return None


def trie_attention_mask(batch: TrieBatch, config: Any, dtype: torch.dtype) -> Mask | dict[str, Mask]:
    """The mask of a batch for the model's attention, one per layer type where windowed and full layers are mixed.

    Raises ValueError for an attention implementation that would ignore or misread a mask.
    """
    full = visible(batch)
    window = sliding_window(config)
    types = set(getattr(config, "layer_types", None) or [])
    if window is None or batch.max_position < window or types == {"full_attention"}:
        return _row_mask(config, full, batch, dtype)
    windowed = _row_mask(config, visible(batch, window), batch, dtype)
    if types == {"full_attention", "sliding_attention"}:
        return {"full_attention": _row_mask(config, full, batch, dtype), "sliding_attention": windowed}
    return windowed


def visible(batch: TrieBatch, window: int | None = None) -> Visible:
    """Which key a query sees: itself and its ancestors, with a window only the nearest (the query itself is one of them)."""

    def sees(row: Tensor, head: Tensor | None, query: Tensor, key: Tensor) -> Tensor:
        reached = (key <= query) & (query < batch.ends[row, key])
        return reached if window is None else reached & (batch.positions[row, query] - batch.positions[row, key] < window)

    return sees


def dense_mask(sees: Visible, batch: TrieBatch) -> Tensor:
    """The mask (R, 1, L, L) bool: query along the third axis, key along the last."""
    num_rows, length = batch.tokens.shape
    rows, index = (torch.arange(n, device=batch.tokens.device) for n in (num_rows, length))
    return sees(rows[:, None, None], None, index[None, :, None], index[None, None, :])[:, None]


def sliding_window(config: Any) -> int | None:
    """Tokens that a windowed layer sees, itself included; None without a window."""
    return getattr(config, "sliding_window", None)


def use_key_blocks(model: Any) -> None:
    """Let a transformers model whose attention is `sdpa` run it block by block where a trie's mask comes with key blocks."""
    if getattr(model.config, "_attn_implementation", None) == "sdpa" and model._can_set_attn_implementation():
        model.set_attn_implementation(KEY_BLOCKS)


def key_blocks(mask: Tensor) -> list[KeyBlock] | None:
    """The blocks of a mask (R, 1, L, L) bool, or None where they would not save enough."""
    length = mask.shape[-1]
    if length <= 2 * BLOCK:
        return None
    seen = mask.any(0)[0]
    bounds = [(start, min(start + BLOCK, length)) for start in range(0, length, BLOCK)]
    keys = [seen[start:stop].any(0).nonzero()[:, 0] for start, stop in bounds]
    scores = sum((stop - start) * len(own) for (start, stop), own in zip(bounds, keys, strict=True))
    if scores > WORTH_BLOCKS * length**2:
        return None
    return [
        KeyBlock(start, stop, own, mask[:, :, start:stop].index_select(3, own))
        for (start, stop), own in zip(bounds, keys, strict=True)
    ]


def as_read_by(config: Any, mask: Tensor, dtype: torch.dtype) -> Tensor:
    """A bool mask (R, 1, Q, K), True = visible, in the form the model's attention reads; ValueError where it reads none."""
    implementation = config._attn_implementation
    if implementation in ("sdpa", KEY_BLOCKS):
        return mask
    if implementation == "eager":  # adds the mask to the scores: a bool mask would be silently wrong
        return mask.new_zeros(mask.shape, dtype=dtype).masked_fill_(~mask, torch.finfo(dtype).min)
    raise ValueError(f"expected attention sdpa or eager for a mask of tokens, found {implementation}; load the model with sdpa")


def _row_mask(config: Any, sees: Visible, batch: TrieBatch, dtype: torch.dtype) -> Mask:
    implementation, device = config._attn_implementation, batch.tokens.device
    if implementation == "flex_attention":
        rows, length = batch.tokens.shape
        return create_block_mask(sees, rows, None, length, length, device=device, _compile=device.type == "cuda")
    mask = dense_mask(sees, batch)
    if implementation == KEY_BLOCKS and device.type == "cpu":
        mask.key_blocks = key_blocks(mask)  # type: ignore[attr-defined]  # lost when a layer copies the mask: then dense
    return as_read_by(config, mask, dtype)


def _attend(
    module: nn.Module, query: Tensor, key: Tensor, value: Tensor, attention_mask: Tensor | None, **options: Any
) -> tuple[Tensor, None]:
    """Scaled dot-product attention as transformers calls it, (R, heads, L, d) in and (R, L, heads, d) out."""
    blocks: list[KeyBlock] | None = getattr(attention_mask, "key_blocks", None)
    if blocks is None:
        return sdpa_attention_forward(module, query, key, value, attention_mask, **options)
    parts = [
        sdpa_attention_forward(
            module, query[:, :, one.start : one.stop], key[:, :, one.keys], value[:, :, one.keys], one.mask, **options
        )[0]
        for one in blocks
    ]
    return torch.cat(parts, dim=1), None


AttentionInterface.register(KEY_BLOCKS, _attend)
AttentionMaskInterface.register(KEY_BLOCKS, sdpa_mask)
