"""Whatever was read, guessed, dropped and moved before, a row's logits are those of its tokens alone, or the model is refused."""

import gc
import weakref
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from transformers import GPTNeoConfig, GPTNeoForCausalLM, LlamaForCausalLM, MambaConfig, MambaForCausalLM

from srpo_core.kv_cache import SlotCache, read, slot_obstacle
from tests.fakes import tiny_llama
from tests.tiny_models import ARCHITECTURES, V, model_of

LLAMA = model_of(*ARCHITECTURES["llama"])
TOKENS = st.lists(st.integers(0, V - 1), min_size=1, max_size=5)
BLOCKS = st.tuples(TOKENS, st.integers(0, 5))  # tokens to read, and how many of them are dropped again


def alone(model: nn.Module, tokens: list[int]) -> Tensor:
    """The logits behind the last token, read at once without cache or padding."""
    with torch.no_grad():
        return model(input_ids=torch.tensor([tokens]), use_cache=False).logits[0, -1]


@settings(max_examples=40, deadline=None)
@given(st.lists(st.tuples(BLOCKS, BLOCKS, BLOCKS), min_size=1, max_size=4), st.permutations(range(3)), st.data())
def test_rows_that_read_drop_and_move_have_the_logits_of_their_own_tokens(
    passes: list[Any], order: list[int], data: st.DataObject
) -> None:
    cache, kept = SlotCache(), [[], [], []]
    cache.arrange([0, 1, 2], 0, 4)  # too few slots: the rows grow
    for number, blocks in enumerate(passes):
        with torch.no_grad():
            logits = read(LLAMA, cache, [tokens for tokens, _ in blocks], [len(own) for own in kept], 2)
        for row, (tokens, dropped) in enumerate(blocks):
            everything = kept[row] + tokens
            torch.testing.assert_close(logits[row, -1], alone(LLAMA, everything), atol=2e-4, rtol=1e-4)
            if len(tokens) > 1:
                torch.testing.assert_close(logits[row, -2], alone(LLAMA, everything[:-1]), atol=2e-4, rtol=1e-4)
            kept[row] = everything[: max(len(kept[row]), len(everything) - dropped)]
        if number == 0:
            cache.arrange(order, max(map(len, kept)), data.draw(st.integers(max(map(len, kept)), 40)))
            kept = [list(kept[place]) for place in order]
        else:
            cache.swap([0], [2])
            kept = [kept[2], kept[1], kept[0]]


def test_fewer_rows_can_be_read_than_there_are_and_a_row_can_be_copied() -> None:
    cache = SlotCache()
    cache.arrange([0], 0, 3)
    with torch.no_grad():
        read(LLAMA, cache, [[5, 6, 7]], [0], 1)
        cache.arrange([0, 0, 0], 3, 10)
        logits = read(LLAMA, cache, [[8], [9, 10]], [3, 2], 1)
    torch.testing.assert_close(logits[0, -1], alone(LLAMA, [5, 6, 7, 8]), atol=2e-4, rtol=1e-4)
    torch.testing.assert_close(logits[1, -1], alone(LLAMA, [5, 6, 9, 10]), atol=2e-4, rtol=1e-4)


def test_memory_is_free_as_soon_as_the_cache_is_gone() -> None:
    cache = SlotCache()
    cache.arrange([0], 0, 3)
    with torch.no_grad():
        read(LLAMA, cache, [[5]], [0], 1)
    buffer = weakref.ref(cache.layers[0].keys)
    gc.disable()
    try:
        del cache
        assert buffer() is None
    finally:
        gc.enable()


# --- which models --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", [name for name in ARCHITECTURES if "window" not in name and "gemma" not in name])
def test_models_of_full_attention_are_read_by_slots(name: str) -> None:
    assert slot_obstacle(model_of(*ARCHITECTURES[name]), 200) is None


@pytest.mark.parametrize("name", [name for name in ARCHITECTURES if "window" in name or "gemma" in name])
def test_a_window_is_an_obstacle_to_longer_texts_only(name: str) -> None:
    model = model_of(*ARCHITECTURES[name])
    assert slot_obstacle(model, 9) == "the model's window of 8 tokens is shorter than the texts"
    assert slot_obstacle(model, 8) is None


def test_local_layers_that_count_columns_instead_of_positions_are_an_obstacle_beyond_their_window() -> None:
    heads = {"num_layers": 2, "num_heads": 2, "attention_types": [[["global", "local"], 1]], "window_size": 16}
    ends = {"bos_token_id": 1, "eos_token_id": 2}
    model = GPTNeoForCausalLM(GPTNeoConfig(vocab_size=V, hidden_size=16, **heads, **ends)).eval()
    assert slot_obstacle(model, 16) is None
    assert slot_obstacle(model, 17) == "the model's window of 16 tokens is shorter than the texts"


def test_rotary_frequencies_that_change_with_the_length_are_an_obstacle_where_they_change() -> None:
    rope = {"rope_type": "dynamic", "factor": 2.0, "rope_theta": 1e4}
    model = tiny_llama(rope_parameters=rope)
    assert slot_obstacle(model, 2048) is None
    assert slot_obstacle(model, 2049) == "the model's rotary frequencies change with the length of the text"


def test_a_recurrent_model_and_one_without_position_ids_are_refused() -> None:
    config = MambaConfig(vocab_size=V, hidden_size=16, num_hidden_layers=1, state_size=4)
    assert slot_obstacle(MambaForCausalLM(config).eval(), 20) == "the model takes no position ids"
    assert slot_obstacle(nn.Linear(2, 2), 20) == "the model is not one of transformers"


class Blind(LlamaForCausalLM):
    """Ignores the mask it is given."""

    def forward(self, position_ids: Any = None, **inputs: Any) -> Any:
        return super().forward(position_ids=position_ids, **inputs | {"attention_mask": None})


class Broken(LlamaForCausalLM):
    """Takes no mask of its own."""

    def forward(self, position_ids: Any = None, **inputs: Any) -> Any:
        if inputs.get("attention_mask") is not None:
            raise NotImplementedError("masks")
        return super().forward(position_ids=position_ids, **inputs)


@pytest.mark.parametrize(("kind", "says"), [(Blind, "other logits"), (Broken, "NotImplementedError: masks")])
def test_a_model_that_misreads_the_mask_is_found_out_before_it_writes(kind: type, says: str) -> None:
    assert says in str(slot_obstacle(kind(tiny_llama(initializer_range=0.3).config).eval(), 20))
