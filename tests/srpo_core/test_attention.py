"""Masks of tries in every form that an attention reads, and attention over key blocks against attention over the whole row."""

import copy

import pytest
import torch
from torch import Tensor, nn

from srpo_core import attention
from srpo_core.attention import KEY_BLOCKS, dense_mask, key_blocks, visible
from srpo_core.batches import TrieBatch, batch_groups, make_trie_batches
from srpo_core.layout import flex_obstacle, resolve_layout
from srpo_core.logprobs import SequenceLogps, logps_in_order
from srpo_core.trie import build_trie
from tests.fakes import tiny_llama
from tests.tiny_models import ARCHITECTURES, V, model_of, pairs


def batch_of(groups) -> TrieBatch:
    (batch,) = batch_groups(groups, "trie", 10_000)
    return batch


def gradient(model: nn.Module, batch: TrieBatch) -> Tensor:
    model.zero_grad()
    (SequenceLogps(model)(batch) * torch.linspace(-1, 1, batch.num_sequences)).sum().backward()
    return torch.cat([parameter.grad.flatten() for parameter in model.parameters()])


def test_a_query_sees_itself_and_its_ancestors_by_hand():
    """Tokens 7 8 | 1 | 2 with prompt (7, 8) and completions (1, 5) and (2, 5): the last two are siblings."""
    batch = batch_of([[([7, 8], [1, 5]), ([7, 8], [2, 5])]])
    assert batch.tokens.tolist() == [[7, 8, 1, 2]]
    expected = [[1, 0, 0, 0], [1, 1, 0, 0], [1, 1, 1, 0], [1, 1, 0, 1]]
    assert dense_mask(visible(batch), batch)[0, 0].int().tolist() == expected
    assert dense_mask(visible(batch, window=2), batch)[0, 0].int().tolist() == [
        [1, 0, 0, 0],
        [1, 1, 0, 0],
        [0, 1, 1, 0],
        [0, 1, 0, 1],
    ]


def test_key_blocks_hold_exactly_what_the_mask_shows(monkeypatch):
    monkeypatch.setattr(attention, "BLOCK", 8)
    batch = batch_of(pairs())
    mask = dense_mask(visible(batch), batch)
    rebuilt = torch.zeros_like(mask)
    for block in key_blocks(mask):
        rebuilt[:, :, block.start : block.stop, block.keys] = block.mask
    assert torch.equal(rebuilt, mask)


def test_short_rows_and_full_masks_are_read_in_one_piece():
    assert key_blocks(torch.ones(1, 1, 256, 256, dtype=torch.bool)) is None
    assert key_blocks(torch.ones(1, 1, 1024, 1024, dtype=torch.bool)) is None
    assert len(key_blocks(torch.ones(1, 1, 1024, 1024, dtype=torch.bool).tril())) == 8


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_key_blocks_give_the_logps_and_gradients_of_the_whole_row(name, monkeypatch):
    model, batch = model_of(*ARCHITECTURES[name]), batch_of(pairs())
    whole = gradient(copy.deepcopy(model), batch), SequenceLogps(copy.deepcopy(model))(batch)
    monkeypatch.setattr(attention, "BLOCK", 8)
    calls = []
    monkeypatch.setattr(attention, "key_blocks", lambda mask: calls.append(1) or key_blocks(mask))
    torch.testing.assert_close(SequenceLogps(model)(batch), whole[1], rtol=0, atol=2e-5)
    assert (gradient(model, batch) - whole[0]).norm() < 1e-5 * whole[0].norm()
    assert bool(calls) == (model.config._attn_implementation == KEY_BLOCKS)


def test_checkpointed_layers_read_key_blocks_too(monkeypatch):
    monkeypatch.setattr(attention, "BLOCK", 8)
    model, batch = tiny_llama(vocab_size=V, initializer_range=0.25), batch_of(pairs())
    expected = gradient(model, batch)
    model.train()
    model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
    torch.testing.assert_close(gradient(model, batch), expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", ["llama", "qwen3", "mistral_window", "gemma3_mixed_window", "gpt_neox"])
def test_flex_attention_reads_packed_rows(name):
    """Forward only, as a CPU has no more, and not compiled, which takes half a minute."""
    model, groups = model_of(*ARCHITECTURES[name]), pairs() + pairs(1)
    expected = logps_in_order(SequenceLogps(model), batch_groups(groups, "trie", 10_000))
    model.set_attn_implementation("flex_attention")
    batches = make_trie_batches([build_trie(group) for group in groups], 1024, row_tokens=512)
    assert [batch.tokens.shape[1] % 128 for batch in batches] == [0] * len(batches)
    with torch.compiler.set_stance("force_eager"):
        found = logps_in_order(SequenceLogps(model), batches)
    torch.testing.assert_close(found, expected, rtol=0, atol=2e-4)


def test_packed_rows_are_refused_off_cuda_and_with_dropout():
    from srpo_core.errors import InputError

    model = tiny_llama(vocab_size=V)
    assert "CUDA" in flex_obstacle(model)
    with pytest.raises(InputError, match="packed_trie was demanded, but flex_attention trains on CUDA alone"):
        resolve_layout(model, "packed_trie", pairs())
