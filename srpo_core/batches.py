"""Groups of sequences laid out as padded tensors under a token budget: one trie per row, or one plain sequence per row.

A group is what must stay together because a loss couples it: the six (or two) sequences of a pair, or one demonstration. Both
kinds of batch list their groups in `group_indices`, and hold each group's sequences one after the other, so a training step
need not know the layout.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, fields, replace
from itertools import accumulate
from typing import Any, Literal, TypeVar

import numpy as np
import torch
from torch import Tensor

from srpo_core.trie import IntArray, TokenSequence, TokenTrie, build_trie, concatenate, pack_rows

Layout = Literal["trie", "packed_trie", "plain"]
Group = Sequence[TokenSequence]
PACKED_ROW = 4096  # tokens: long enough that the kernel is busy, short enough to fill
ROW_MULTIPLE = 128  # the block of flex_attention
AnyBatch = TypeVar("AnyBatch", bound="Batch")


@dataclass(frozen=True)
class Batch:
    """What both layouts have in common: R rows of L tokens, N completion tokens to score, S sequences."""

    tokens: Tensor  # (R, L) int64, right-padded with 0
    predictor_rows: Tensor  # (N,) int64, index into the flattened (R * L) hidden states
    targets: Tensor  # (N,) int64, the completion tokens
    sequence_index: Tensor  # (N,) int64 in [0, S)
    num_sequences: int  # S
    num_tokens: int  # without padding
    group_indices: tuple[int, ...]  # the groups held, as indices into the list the batches were made from
    sequence_order: tuple[int, ...]  # (S,) place of each sequence in the concatenation of all groups of that list

    @property
    def completion_lengths(self) -> Tensor:
        """Completion tokens of each sequence, stop token included, (S,) int64."""
        return torch.bincount(self.sequence_index, minlength=self.num_sequences)

    def to(self: AnyBatch, device: torch.device | str) -> AnyBatch:
        """The batch with its tensors on `device`."""
        values: dict[str, Any] = {field.name: getattr(self, field.name) for field in fields(self)}
        tensors = {name: value for name, value in values.items() if isinstance(value, Tensor)}
        moved: dict[str, Any] = {name: tensor.to(device, non_blocking=True) for name, tensor in tensors.items()}
        return replace(self, **moved)


@dataclass(frozen=True)
class TrieBatch(Batch):
    """Rows that are tries, or forests of tries."""

    positions: Tensor  # (R, L) int64, depth in the tree
    ends: Tensor  # (R, L) int64, one past the last token of the subtree; padding ends behind itself
    max_position: int  # the largest of `positions`; kept here so that nobody waits for the device to learn it


@dataclass(frozen=True)
class PlainBatch(Batch):
    """Rows that are single sequences, prompt and completion."""

    first_predictor: int  # no column before this one predicts a completion token


def batch_groups(groups: Sequence[Group], layout: Layout, tokens_per_microbatch: int) -> list[TrieBatch] | list[PlainBatch]:
    """The groups as batches of the given layout."""
    if layout == "plain":
        return make_plain_batches(groups, tokens_per_microbatch)
    row_tokens = min(PACKED_ROW, tokens_per_microbatch) if layout == "packed_trie" else None
    return make_trie_batches([build_trie(group) for group in groups], tokens_per_microbatch, row_tokens)


def make_trie_batches(tries: Sequence[TokenTrie], tokens_per_microbatch: int, row_tokens: int | None = None) -> list[TrieBatch]:
    """Rows of similar length together, at most `tokens_per_microbatch` tokens with padding; a longer row is a batch of its own.

    Each trie is a row, because a dense mask costs the square of a row's length; with `row_tokens`, several tries share a row
    up to so many tokens, and rows are padded to a multiple of ROW_MULTIPLE, for kernels that skip what is hidden.
    """
    packed = pack_rows(tries, row_tokens) if row_tokens else [[index] for index in range(len(tries))]
    lengths = [sum(tries[index].num_tokens for index in row) for row in packed]
    starts = _starts([trie.num_sequences for trie in tries])
    return [
        _trie_batch([packed[row] for row in chosen], tries, starts, ROW_MULTIPLE if row_tokens else 1)
        for chosen in similar_lengths(lengths, [1] * len(lengths), tokens_per_microbatch)
    ]


def make_plain_batches(groups: Sequence[Group], tokens_per_microbatch: int) -> list[PlainBatch]:
    """One row per sequence, groups of similar length together, at most `tokens_per_microbatch` tokens with padding.

    A group is never split: one whose rows alone exceed the budget is a batch of its own.
    """
    lengths = [max(len(prompt) + len(completion) - 1 for prompt, completion in group) for group in groups]
    starts = _starts([len(group) for group in groups])
    return [
        _plain_batch(chosen, groups, starts)
        for chosen in similar_lengths(lengths, [len(group) for group in groups], tokens_per_microbatch)
    ]


def similar_lengths(lengths: Sequence[int], rows: Sequence[int], budget: int) -> Iterator[list[int]]:
    """Indices in order of falling length, cut where rows times the longest length would pass the budget of tokens."""
    chosen: list[int] = []
    for index in sorted(range(len(lengths)), key=lambda i: -lengths[i]):
        if chosen and lengths[chosen[0]] * (sum(rows[i] for i in chosen) + rows[index]) > budget:
            yield chosen
            chosen = []
        chosen.append(index)
    if chosen:
        yield chosen


def _trie_batch(packed: Sequence[Sequence[int]], tries: Sequence[TokenTrie], starts: Sequence[int], multiple: int) -> TrieBatch:
    rows = [concatenate([tries[index] for index in row]) if len(row) > 1 else tries[row[0]] for row in packed]
    groups = tuple(index for row in packed for index in row)
    length = -(-max(row.num_tokens for row in rows) // multiple) * multiple
    predictors = [r * length + nodes for r, row in enumerate(rows) for nodes in row.predictors]
    targets = [target for row in rows for target in row.targets]
    own_end = np.arange(1, length + 1)
    return TrieBatch(
        tokens=_padded([row.tokens for row in rows], np.zeros(length, np.int64)),
        positions=_padded([row.positions for row in rows], np.zeros(length, np.int64)),
        ends=_padded([row.ends for row in rows], own_end),
        max_position=max(int(row.positions.max()) for row in rows),
        num_tokens=sum(row.num_tokens for row in rows),
        group_indices=groups,
        sequence_order=tuple(starts[index] + s for index in groups for s in range(tries[index].num_sequences)),
        **_scored(predictors, targets),
    )


def _plain_batch(chosen: Sequence[int], groups: Sequence[Group], starts: Sequence[int]) -> PlainBatch:
    sequences = [sequence for index in chosen for sequence in groups[index]]
    rows = [np.asarray([*prompt, *completion[:-1]], dtype=np.int64) for prompt, completion in sequences]
    length = max(len(row) for row in rows)
    first = [len(prompt) - 1 for prompt, _ in sequences]
    predictors = [r * length + np.arange(first[r], len(row)) for r, row in enumerate(rows)]
    return PlainBatch(
        tokens=_padded(rows, np.zeros(length, np.int64)),
        first_predictor=min(first),
        num_tokens=sum(len(row) for row in rows),
        group_indices=tuple(chosen),
        sequence_order=tuple(starts[index] + s for index in chosen for s in range(len(groups[index]))),
        **_scored(predictors, [np.asarray(completion, dtype=np.int64) for _, completion in sequences]),
    )


def _scored(predictors: Sequence[IntArray], targets: Sequence[IntArray]) -> dict[str, Any]:
    """The fields that say which hidden states predict which tokens of which sequence."""
    sequence_index = np.repeat(np.arange(len(targets)), [len(target) for target in targets])
    return {
        "predictor_rows": torch.from_numpy(np.concatenate(predictors)),
        "targets": torch.from_numpy(np.concatenate(targets)),
        "sequence_index": torch.from_numpy(sequence_index),
        "num_sequences": len(targets),
    }


def _padded(rows: Sequence[IntArray], padding: IntArray) -> Tensor:
    """The rows stacked, each continued by what stands in `padding` (L,) at the same columns."""
    stacked = np.tile(padding, (len(rows), 1))
    for index, row in enumerate(rows):
        stacked[index, : len(row)] = row
    return torch.from_numpy(stacked)


def _starts(counts: Sequence[int]) -> list[int]:
    return [0, *accumulate(counts)][:-1]
