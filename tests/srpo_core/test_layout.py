"""The choice of layout: tries only where they were seen to be exact and shorter, and a clear word otherwise."""

import copy
import logging
import random

import pytest
from peft import LoraConfig, get_peft_model
from torch import nn

from srpo_core.errors import InputError
from srpo_core.layout import resolve_layout, self_test, token_ratio
from tests.fakes import tiny_llama
from tests.tiny_models import ARCHITECTURES, V, model_of, pairs


@pytest.fixture(scope="module")
def llama() -> nn.Module:
    return tiny_llama(vocab_size=V, initializer_range=0.25)


def test_auto_takes_the_trie_where_it_is_exact_and_shorter(llama):
    assert resolve_layout(llama, "auto", pairs()) == "trie"


def test_plain_is_taken_as_demanded(llama):
    assert resolve_layout(llama, "plain", []) == "plain"


def test_recurrent_layers_fall_back_loudly_and_refuse_a_demanded_trie(caplog):
    model = model_of("MambaConfig", {})
    with caplog.at_level(logging.WARNING, logger="srpo"):
        assert resolve_layout(model, "auto", pairs()) == "plain"
    assert "ignore an attention mask" in caplog.text
    with pytest.raises(InputError, match="set layout to plain"):
        resolve_layout(model, "trie", pairs())


def test_a_model_that_ignores_positions_fails_the_self_test(caplog):
    model = model_of("BloomConfig", {"n_head": 4, "n_layer": 2})  # its position bias is built from a 2D mask
    with caplog.at_level(logging.WARNING, logger="srpo"):
        assert resolve_layout(model, "auto", pairs()) == "plain"
    assert "self-test" in caplog.text


def test_a_head_that_does_more_than_we_know_fails_the_self_test(llama):
    model = copy.deepcopy(llama)
    model.logit_scale = 0.5  # our path multiplies by it, Llama's own forward does not
    assert "differ by up to" in (self_test(model, pairs()) or "")
    with pytest.raises(InputError, match="layout trie was demanded"):
        resolve_layout(model, "trie", pairs())


def test_a_dropped_window_fails_the_self_test(monkeypatch):
    model = model_of(*ARCHITECTURES["mistral_window"])
    monkeypatch.setattr("srpo_core.attention.sliding_window", lambda config: None)
    assert "differ by up to" in (self_test(model, pairs()) or "")


def test_pairs_that_share_little_go_plain(llama, caplog):
    rng = random.Random(0)
    strangers = [[([rng.randrange(V) for _ in range(8)], [3, 4, 5]) for _ in range(2)] for _ in range(4)]
    assert token_ratio(strangers) < 1.2
    with caplog.at_level(logging.WARNING, logger="srpo"):
        assert resolve_layout(llama, "auto", strangers) == "plain"
    assert "share few tokens" in caplog.text
    assert resolve_layout(llama, "trie", strangers) == "trie"


def test_the_self_test_leaves_training_mode_and_dropout_as_they_were(llama):
    model = get_peft_model(copy.deepcopy(llama), LoraConfig(r=2, lora_dropout=0.5, target_modules="all-linear"))
    model.train()
    model.base_model.model.lm_head.eval()
    before = [module.training for module in model.modules()]
    assert self_test(model, pairs()) is None
    assert [module.training for module in model.modules()] == before


def test_no_pair_to_look_at_is_refused(llama):
    with pytest.raises(InputError, match="at least one pair"):
        resolve_layout(llama, "auto", [])
