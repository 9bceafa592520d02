"""Keys and values of a batch of sequences, each row's token at the slot of its position, for decoding that re-reads nothing.

A query at position p sees slots 0 to p, whatever else lies in the buffer. So a row that takes up an earlier text where the two
part, or drops guesses that were wrong, only writes over what it no longer wants: nothing is moved, and what a row reads is
exactly what it would read alone. Rows that stop are swapped behind those that go on and stay readable for later.
"""

import functools
import inspect
import logging
import weakref
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor
from transformers.cache_utils import Cache, DynamicCache, DynamicLayer, DynamicSlidingWindowLayer

from srpo_core.attention import as_read_by, mask_obstacle
from srpo_core.models import causal_model

logger = logging.getLogger("srpo")


@dataclass
class _Block:
    """Where the tokens of the current forward pass go, shared by all layers."""

    num_rows: int = 0
    capacity: int = 0  # slots of a row; one more, which nobody sees, takes what padding writes
    slots: Tensor = field(default_factory=lambda: torch.empty(0, 0, dtype=torch.long))  # (rows of the pass, columns)
    used: int = 0  # slots that any query of the pass can see


class SlotLayer(DynamicLayer):
    """Keys and values of one layer, each (rows, heads, capacity + 1, size of a head)."""

    keys: Any
    values: Any

    def __init__(self, block: _Block) -> None:
        """Memory is taken at the first pass, which knows the sizes."""
        super().__init__()
        self.block = block

    def update(self, key_states: Tensor, value_states: Tensor, *args: Any, **kwargs: Any) -> tuple[Tensor, Tensor]:
        """Write the new states at their slots; the states up to the last slot in use, of the rows of this pass."""
        block = self.block
        if not self.is_initialized:
            self.keys, self.values = (_buffer(states, block.num_rows, block.capacity) for states in (key_states, value_states))
            self.is_initialized = True
        num_rows = len(block.slots)
        rows = torch.arange(num_rows, device=key_states.device)[:, None]
        self.keys[rows, :, block.slots] = key_states.transpose(1, 2)
        self.values[rows, :, block.slots] = value_states.transpose(1, 2)
        return self.keys[:num_rows, :, : block.used], self.values[:num_rows, :, : block.used]

    def get_seq_length(self) -> int:
        """Slots in use before this pass; the mask and the positions that are passed explicitly say all that matters."""
        return self.block.used - self.block.slots.shape[1]

    def arrange(self, places: Tensor, kept: int) -> None:
        """New buffers whose row r begins with the first `kept` slots of the earlier row places[r]."""
        for name in ("keys", "values"):
            earlier = getattr(self, name)
            buffer = _buffer(earlier, len(places), self.block.capacity)
            buffer[:, :, :kept] = earlier[places, :, :kept]
            setattr(self, name, buffer)

    def swap(self, first: Tensor, second: Tensor) -> None:
        """Exchange rows first[i] and second[i]."""
        here, there = torch.cat([first, second]), torch.cat([second, first])
        for states in (self.keys, self.values):
            states[here] = states[there]


def _buffer(like: Tensor, num_rows: int, capacity: int) -> Tensor:
    """Zeros, because what a mask hides still enters a product, and what lies in fresh memory may be NaN."""
    return like.new_zeros(num_rows, like.shape[1], capacity + 1, like.shape[3])


class SlotCache(Cache):
    """The layers' buffers, under the interface by which a transformers model writes and reads its cache."""

    layers: list[Any]

    def __init__(self) -> None:
        """Empty; `arrange` says how many rows there are."""
        self.block = _Block()
        # not a method: a layer that knew the cache would close a cycle, and the memory would stay until it is collected
        new_layer: Any = functools.partial(SlotLayer, self.block)
        super().__init__(layer_class_to_replicate=new_layer)

    def arrange(self, places: Sequence[int], kept: int, capacity: int) -> None:
        """Make room for rows of `capacity` tokens, row r beginning with the first `kept` tokens of the earlier row places[r]."""
        self.block.num_rows, self.block.capacity = len(places), capacity
        for layer in self.layers:
            layer.arrange(torch.tensor(places, device=layer.keys.device), kept)

    def swap(self, first: Sequence[int], second: Sequence[int]) -> None:
        """Exchange rows first[i] and second[i], all of them different."""
        for layer in self.layers:
            layer.swap(*(torch.tensor(rows, device=layer.keys.device) for rows in (first, second)))

    def expect(self, slots: Tensor, used: int) -> None:
        """Say where the tokens of the next pass go, (rows, columns) with -1 for padding; rows grow where they are too short."""
        if used > self.block.capacity:
            self.arrange(range(self.block.num_rows), self.block.capacity, max(used, self.block.capacity * 5 // 4))
        self.block.slots, self.block.used = slots.where(slots >= 0, self.block.capacity), used


def read(model: Any, cache: SlotCache, blocks: Sequence[Sequence[int]], starts: Sequence[int], keep: int) -> Tensor:
    """Feed blocks[r] behind the first starts[r] tokens of row r, for the first rows of the cache; logits (rows, keep, V).

    Blocks stand at the right, so logits[r, -1] predicts what follows the block and logits[r, -2] its last token.
    """
    parameter = next(model.parameters())
    tokens, mask = left_padded(blocks, parameter.device)
    ends = [start + len(ids) for start, ids in zip(starts, blocks, strict=True)]
    columns = torch.arange(-tokens.shape[1], 0, device=parameter.device)
    positions = (torch.tensor(ends, device=parameter.device)[:, None] + columns).where(mask.bool(), -1)
    cache.expect(positions, max(ends))
    positions = positions.clamp(min=0)
    visible = torch.arange(max(ends), device=parameter.device) <= positions[:, None, :, None]
    logits: Tensor = model(
        input_ids=tokens,
        attention_mask=as_read_by(causal_model(model).config, visible, parameter.dtype),
        position_ids=positions,
        past_key_values=cache,
        use_cache=True,
        logits_to_keep=keep,
    ).logits
    return logits


def left_padded(rows: Sequence[Sequence[int]], device: torch.device) -> tuple[Tensor, Tensor]:
    """Tokens and mask (1 = token), both (rows, length of the longest) int64."""
    length = max(map(len, rows))
    tokens, mask = np.zeros((2, len(rows), length), dtype=np.int64)
    for row, ids in enumerate(rows):
        tokens[row, length - len(ids) :] = ids
        mask[row, length - len(ids) :] = 1
    return torch.from_numpy(tokens).to(device), torch.from_numpy(mask).to(device)


# Which models can be read so


def slot_obstacle(model: Any, length: int) -> str | None:
    """Why sequences of `length` tokens of this model cannot be cached by slots, as half a sentence; None when they can."""
    config = getattr(causal_model(model), "config", None)
    if config is None:
        return "the model is not one of transformers"
    if "position_ids" not in inspect.signature(causal_model(model).forward).parameters:
        return "the model takes no position ids"
    reason = mask_obstacle(model) or _layer_obstacle(config, length)
    if reason is None and length > _longest_with_fixed_rotation(config):
        reason = "the model's rotary frequencies change with the length of the text"
    return reason or _verdict(model)


def _layer_obstacle(config: Any, length: int) -> str | None:
    layers: list[Any] = list(DynamicCache(config=config).layers)
    others = {type(layer).__name__ for layer in layers} - {DynamicLayer.__name__, DynamicSlidingWindowLayer.__name__}
    if others:
        return f"the model has layers whose cache is not one of plain attention ({', '.join(sorted(others))})"
    windows = [layer.sliding_window for layer in layers if layer.is_sliding]
    windows += [config.window_size] if isinstance(getattr(config, "window_size", None), int) else []  # GPT-Neo's
    window = min(windows, default=length)
    return f"the model's window of {window} tokens is shorter than the texts" if window < length else None


def _longest_with_fixed_rotation(config: Any) -> float:
    """Tokens up to which a key does not depend on how long the text is that it stands in."""
    rope = getattr(config, "rope_parameters", None) or {}
    for one in [rope, *(value for value in rope.values() if isinstance(value, dict))]:
        if one.get("rope_type") in ("dynamic", "longrope"):
            found = one.get("original_max_position_embeddings") or getattr(config, "original_max_position_embeddings", None)
            return float(found or config.max_position_embeddings)
    return float("inf")


_verdicts: "weakref.WeakKeyDictionary[Any, dict[str, str | None]]" = weakref.WeakKeyDictionary()


def _verdict(model: Any) -> str | None:
    """The self-test's, which is asked once for a model and its attention implementation."""
    verdicts = _verdicts.setdefault(model, {})
    attention = causal_model(model).config._attn_implementation
    if attention not in verdicts:
        try:
            with torch.no_grad(), torch.autocast(next(model.parameters()).device.type, enabled=False):
                verdicts[attention] = _self_test(model)
        except Exception as error:  # noqa: BLE001 - an unforeseen model can fail in any way; the plain path is the remedy for all
            verdicts[attention] = f"the self-test of the cache failed ({type(error).__name__}: {error})"
    return verdicts[attention]


def _self_test(model: Any) -> str | None:
    """Two rows read in two uneven blocks, the second of them after a wrong guess, against both read at once without a cache."""
    vocabulary = causal_model(model).get_input_embeddings().num_embeddings
    tokens = [[(7 * i + 3 * r) % vocabulary for i in range(8)] for r in range(2)]
    parameter = next(model.parameters())
    expected = model(input_ids=torch.tensor(tokens, device=parameter.device), use_cache=False).logits[:, -1].float()
    cache = SlotCache()
    cache.arrange([0, 1], 0, 7)
    read(model, cache, [[*tokens[0][:5], 1, 1], tokens[1][:3]], [0, 0], 1)
    found = read(model, cache, [tokens[0][5:], tokens[1][3:]], [5, 3], 1)[:, -1].float()
    difference = float((found - expected).abs().max() / expected.abs().max())
    tolerance = 2e-3 if parameter.dtype in (torch.float32, torch.float64) else 5e-2
    return None if difference <= tolerance else f"reading in blocks gave other logits than reading at once (by {difference:.2g})"


@functools.cache
def log_once(reason: str) -> None:
    """Say once that texts are read again from the start, and why."""
    logger.warning("decoding without reuse of what was read, which is slower: %s", reason)
