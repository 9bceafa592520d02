"""Sequence log-probs: tries against plain sequences against one float64 forward pass per sequence, over many architectures."""

import copy
import math

import pytest
import torch
from peft import LoraConfig, get_peft_model
from torch import Tensor, nn

from srpo_core.batches import batch_groups, make_plain_batches, make_trie_batches
from srpo_core.logprobs import SequenceLogps, logps_in_order
from srpo_core.trie import build_trie
from tests.fakes import tiny_llama
from tests.tiny_models import ARCHITECTURES, V, model_of, pairs


def naive_logps(model: nn.Module, groups) -> Tensor:
    """One float64 forward pass over each whole sequence, and a loop over its completion tokens."""
    exact, result = copy.deepcopy(model).double(), []
    with torch.no_grad():
        for prompt, completion in (sequence for group in groups for sequence in group):
            logits = exact(input_ids=torch.tensor([prompt + completion])).logits[0]
            steps = [logits[len(prompt) - 1 + k].log_softmax(-1)[token].item() for k, token in enumerate(completion)]
            result.append(math.fsum(steps))
    return torch.tensor(result, dtype=torch.float64)


def logps(model: nn.Module, groups, layout: str, budget: int = 200, **options) -> Tensor:
    return logps_in_order(SequenceLogps(model, **options), batch_groups(groups, layout, budget))


@pytest.fixture(scope="module")
def llama() -> nn.Module:
    return tiny_llama(vocab_size=V, initializer_range=0.25)


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_trie_and_plain_equal_the_naive_reference(name):
    model, groups = model_of(*ARCHITECTURES[name]), pairs()
    expected = naive_logps(model, groups)
    assert (expected[0::6] - expected[2::6]).abs().max() > 0.1  # the draft matters, so a wrong mask would show
    for layout in ("trie", "plain"):
        assert (logps(model, groups, layout).double() - expected).abs().max() < 2e-4, layout


@pytest.mark.parametrize("config_class", ["MambaConfig", "BloomConfig"])
def test_plain_serves_models_that_cannot_read_a_trie(config_class):
    model = model_of(config_class, {"n_head": 4, "n_layer": 2} if config_class == "BloomConfig" else {})
    assert (logps(model, pairs(), "plain").double() - naive_logps(model, pairs())).abs().max() < 2e-4


def test_logps_are_sums_of_nats_on_a_uniform_model():
    """With all weights 0 every token has probability 1/V, so n tokens have -n log V; the first pair has 5 and 7 tokens."""
    model = tiny_llama(vocab_size=V)
    for parameter in model.parameters():
        parameter.data.zero_()
    for layout in ("trie", "plain"):
        result = logps(model, pairs()[:1], layout)
        assert result.dtype == torch.float32
        torch.testing.assert_close(result, -math.log(V) * torch.tensor([5.0, 7.0] * 3))


def test_gradients_of_the_layouts_agree(llama):
    weights = torch.linspace(-1, 1, 18)
    gradients = {}
    for layout, options in (("trie", {}), ("plain", {}), ("chunked", {"max_rows": 7})):
        model = copy.deepcopy(llama)
        module = SequenceLogps(model, **options)
        for batch in batch_groups(pairs(), "plain" if layout == "plain" else "trie", 150):
            (module(batch) * weights[list(batch.sequence_order)]).sum().backward()
        gradients[layout] = torch.cat([parameter.grad.flatten() for parameter in model.parameters()])
    for other in ("plain", "chunked"):
        assert (gradients["trie"] - gradients[other]).norm() < 1e-5 * gradients["plain"].norm()


@pytest.mark.parametrize("layout", ["trie", "plain"])
def test_padding_and_company_do_not_change_logps(llama, layout):
    groups = pairs()
    alone = torch.cat([logps(llama, [group], layout) for group in groups])
    together = logps(llama, groups, layout, budget=10_000)
    torch.testing.assert_close(together, alone, rtol=0, atol=2e-5)


@pytest.mark.parametrize("layout", ["trie", "plain"])
def test_the_order_of_the_groups_is_restored(llama, layout):
    groups = pairs() + pairs(1)
    forward = logps(llama, groups, layout, budget=60).view(6, 6)
    backward = logps(llama, groups[::-1], layout, budget=60).view(6, 6)
    torch.testing.assert_close(forward, backward.flip(0), rtol=0, atol=2e-5)


def test_packed_rows_give_the_same_logps(llama):
    groups = pairs() + pairs(1)
    tries = [build_trie(group) for group in groups]
    batches = make_trie_batches(tries, 400, row_tokens=120)
    assert any(len(batch.group_indices) > len(batch.tokens) for batch in batches)
    torch.testing.assert_close(logps_in_order(SequenceLogps(llama), batches), logps(llama, groups, "trie"), rtol=0, atol=2e-5)


def test_padding_rows_and_their_gradients_are_finite(llama):
    model = copy.deepcopy(llama)
    (batch,) = make_trie_batches([build_trie(group) for group in pairs()], 10_000)
    assert batch.tokens.numel() > batch.num_tokens
    SequenceLogps(model)(batch).sum().backward()
    assert all(parameter.grad.isfinite().all() for parameter in model.parameters())


def test_batches_that_repeat_a_sequence_are_refused(llama):
    batches = make_plain_batches(pairs(), 100)
    with pytest.raises(ValueError, match="every sequence once"):
        logps_in_order(SequenceLogps(llama), [*batches, batches[0]])


def test_one_sequence_in_a_group_serves_supervised_training(llama):
    groups = [[sequence] for group in pairs() for sequence in group]
    torch.testing.assert_close(logps(llama, groups, "plain"), logps(llama, pairs(), "trie"), rtol=0, atol=2e-5)


def test_lora_with_gradient_checkpointing_and_adapter_off_is_exact(llama):
    """In float64: an adapter of such a scale amplifies float32's rounding to 5e-5 of the gradient in one draw of eight."""
    torch.manual_seed(0)
    exact = copy.deepcopy(llama).double()
    lora = LoraConfig(r=4, lora_alpha=64, target_modules="all-linear", init_lora_weights=False)
    peft_model = get_peft_model(copy.deepcopy(exact), lora).double()
    peft_model.enable_input_require_grads()
    peft_model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
    groups, gradients = pairs(), {}
    for layout in ("trie", "plain"):
        peft_model.train()
        peft_model.zero_grad()
        for batch in batch_groups(groups, layout, 1000):
            SequenceLogps(peft_model)(batch).sum().backward()
        gradients[layout] = torch.cat([p.grad.flatten() for p in peft_model.parameters() if p.grad is not None])
        with peft_model.disable_adapter():
            torch.testing.assert_close(logps(peft_model, groups, layout), logps(exact, groups, "trie"), rtol=0, atol=2e-5)
    assert (logps(peft_model, groups, "trie") - logps(exact, groups, "trie")).abs().max() > 0.1
    assert (gradients["trie"] - gradients["plain"]).norm() < 1e-6 * gradients["plain"].norm()


def test_bfloat16_is_close_and_summed_in_float32(llama):
    model = copy.deepcopy(llama).bfloat16()
    trie, plain = (logps(model, pairs(), layout) for layout in ("trie", "plain"))
    assert trie.dtype == torch.float32
    assert (trie - plain).abs().max() < 1.0  # weights this large amplify rounding; a real model stays below .05
    small = tiny_llama(vocab_size=V).bfloat16()
    assert (logps(small, pairs(), "trie") - logps(small, pairs(), "plain")).abs().max() < 0.1


def test_eager_attention_reads_the_same_mask(llama):
    model = copy.deepcopy(llama)
    model.set_attn_implementation("eager")
    torch.testing.assert_close(logps(model, pairs(), "trie"), logps(llama, pairs(), "trie"), rtol=0, atol=2e-5)


def test_attention_that_cannot_read_the_mask_is_refused(llama):
    model = copy.deepcopy(llama)
    model.config._attn_implementation = "flash_attention_2"
    with pytest.raises(ValueError, match="found flash_attention_2"):
        logps(model, pairs(), "trie")
