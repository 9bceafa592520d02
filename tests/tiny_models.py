"""Random models of many architectures, small enough for milliseconds, and pairs of token sequences to try them on."""

import random

import torch
import transformers
from torch import nn

from srpo_core.trie import TokenSequence

V = 64
WINDOW = 8  # shorter than every row
MIXED = ["sliding_attention", "full_attention"]
SMALL = {
    "vocab_size": V,
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 256,
    "initializer_range": 0.25,  # large, so that attending to the wrong token shows
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
}
ARCHITECTURES = {
    "llama": ("LlamaConfig", {}),
    "qwen2": ("Qwen2Config", {}),
    "qwen2_mixed_window": ("Qwen2Config", {"use_sliding_window": True, "sliding_window": WINDOW, "max_window_layers": 1}),
    "qwen3": ("Qwen3Config", {"head_dim": 8}),
    "mistral_window": ("MistralConfig", {"sliding_window": WINDOW}),
    "gemma2_eager_softcap": ("Gemma2Config", {"head_dim": 8, "sliding_window": WINDOW, "final_logit_softcapping": 2.0}),
    "gemma3_mixed_window": ("Gemma3TextConfig", {"head_dim": 8, "sliding_window": WINDOW, "layer_types": MIXED}),
    "cohere_scaled": ("CohereConfig", {"logit_scale": 0.3}),
    "cohere2_mixed_window": ("Cohere2Config", {"logit_scale": 0.3, "sliding_window": WINDOW, "layer_types": MIXED}),
    "granite_scaled": ("GraniteConfig", {"logits_scaling": 3.0}),
    "gpt_neox": ("GPTNeoXConfig", {}),
    "phi3": ("Phi3Config", {}),
    "phi3_window": ("Phi3Config", {"sliding_window": WINDOW}),
    "olmo2": ("Olmo2Config", {}),
    "olmo3_mixed_window": ("Olmo3Config", {"sliding_window": WINDOW, "layer_types": MIXED}),
    "smollm3": ("SmolLM3Config", {}),
    "opt": ("OPTConfig", {"ffn_dim": 64, "word_embed_proj_dim": 32}),
    "gpt2": ("GPT2Config", {"n_embd": 32, "n_layer": 2, "n_head": 4, "n_positions": 256, "bos_token_id": 1, "eos_token_id": 2}),
}


def model_of(config_class: str, overrides: dict) -> nn.Module:
    config = getattr(transformers, config_class)(**{**SMALL, **overrides})
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return transformers.AutoModelForCausalLM.from_config(config).eval()


def pair(rng: random.Random, prompt: int, completion: int) -> list[TokenSequence]:
    x, a, b = ([rng.randrange(3, V) for _ in range(n)] for n in (prompt, completion, completion + 2))
    drafts = [x, x + a + [2, 1], x + b + [2, 1]]
    return [(ids, text) for ids in drafts for text in (a, b)]


def pairs(seed: int = 0) -> list[list[TokenSequence]]:
    rng = random.Random(seed)
    return [pair(rng, 12, 5), pair(rng, 7, 4), pair(rng, 9, 1)]
