"""Batches: every group whole and once, under the token budget, and padding that nobody sees."""

import pytest

from srpo_core.attention import dense_mask, visible
from srpo_core.batches import batch_groups, make_trie_batches
from srpo_core.trie import build_trie
from tests.tiny_models import pairs


@pytest.mark.parametrize("layout", ["trie", "plain"])
def test_batches_keep_groups_whole_and_under_the_budget(layout):
    groups = [group for seed in range(5) for group in pairs(seed)]
    batches = batch_groups(groups, layout, 300)
    assert sorted(index for batch in batches for index in batch.group_indices) == list(range(len(groups)))
    for batch in batches:
        assert batch.num_sequences == 6 * len(batch.group_indices)
        assert batch.tokens.numel() <= 300 or len(batch.group_indices) == 1
        expected = [len(completion) for index in batch.group_indices for _, completion in groups[index]]
        assert batch.completion_lengths.tolist() == expected
        assert [groups[s // 6][s % 6][1] for s in batch.sequence_order] == [
            batch.targets[batch.sequence_index == s].tolist() for s in range(batch.num_sequences)
        ]


def test_no_groups_make_no_batch():
    assert batch_groups([], "trie", 100) == [] == batch_groups([], "plain", 100)


def test_padding_is_seen_by_no_token_and_sees_itself():
    """So that no softmax is empty (NaN) and none is disturbed."""
    (batch,) = make_trie_batches([build_trie(group) for group in pairs()], 10_000)
    lengths = [build_trie(pairs()[index]).num_tokens for index in batch.group_indices]
    mask = dense_mask(visible(batch), batch)[:, 0]
    assert len(set(lengths)) > 1
    for row, length in zip(mask, lengths, strict=True):
        assert not row[:length, length:].any()
        assert row[length:].sum(1).tolist() == [1] * (len(row) - length)
        assert row.diagonal().all()


def test_groups_of_similar_length_share_a_batch():
    groups = [[(list(range(1, length)), [1])] for length in (3, 90, 4, 80, 5, 85)]
    batches = batch_groups(groups, "plain", 300)
    assert [batch.group_indices for batch in batches] == [(1, 5, 3), (4, 2, 0)]


def test_a_batch_moves_whole():
    (batch, *_) = batch_groups(pairs(), "trie", 1000)
    moved = batch.to("meta")
    assert moved.tokens.device.type == moved.ends.device.type == moved.targets.device.type == "meta"
    assert moved.group_indices == batch.group_indices
