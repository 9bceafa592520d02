"""Which layout a model can use: token tries where they are exact and worth it, plain sequences otherwise.

Tries rest on every layer honouring a custom mask and custom positions. Layers with a recurrent state ignore the mask without
a word and other models differ in ways nobody foresees, so nothing is believed: a few pairs go through both layouts first.
"""

import logging
from collections.abc import Sequence
from typing import Any

import torch
from torch import nn

from srpo_core.attention import mask_obstacle
from srpo_core.batches import Group, Layout, batch_groups
from srpo_core.errors import InputError
from srpo_core.logprobs import SequenceLogps, logps_in_order
from srpo_core.models import causal_model
from srpo_core.trie import build_trie

logger = logging.getLogger("srpo")

MIN_TOKEN_RATIO = 1.2  # below this the mask costs more than the shared tokens save
SELF_TEST_PAIRS = 4


def resolve_layout(model: nn.Module, layout: str, sample_pairs: Sequence[Group]) -> Layout:
    """The layout for this model and these pairs (each the list of its sequences), the same on every process.

    auto falls back to plain, and says so in the log, where tries are impossible, differ from plain sequences, or save too few
    tokens (MIN_TOKEN_RATIO). Raises InputError when trie or packed_trie is demanded and impossible or wrong, or when there is
    no pair. packed_trie switches the model to flex_attention.
    """
    if layout == "plain":
        return "plain"
    if not sample_pairs:
        raise InputError("expected at least one pair to choose a layout by, found none; set layout plain or give pairs")
    chosen: Layout = "packed_trie" if layout == "packed_trie" else "trie"
    reason = mask_obstacle(model) or (flex_obstacle(model) if chosen == "packed_trie" else None)
    if reason is None and chosen == "packed_trie":
        causal_model(model).set_attn_implementation("flex_attention")
    reason = reason or self_test(model, sample_pairs, chosen)
    if layout != "auto":
        if reason:
            raise InputError(f"layout {layout} was demanded, but {reason}; set layout to plain or auto")
        return chosen
    ratio = token_ratio(sample_pairs)
    if reason is None and ratio < MIN_TOKEN_RATIO:
        reason = f"these pairs share few tokens (ratio {ratio:.2f}, at least {MIN_TOKEN_RATIO} needed)"
    if reason is None:
        logger.info("layout trie: self-test passed, %.2f times fewer tokens than plain sequences", ratio)
        return "trie"
    logger.warning("layout plain instead of trie, which is slower: %s", reason)
    return "plain"


def flex_obstacle(model: nn.Module) -> str | None:
    """Why this model cannot train on packed rows, as half a sentence; None when nothing is known to stand in the way."""
    parameter: Any = next(model.parameters())
    if parameter.device.type != "cuda":
        return f"flex_attention trains on CUDA alone and the model is on the {parameter.device.type}"
    dropout = getattr(causal_model(model).config, "attention_dropout", 0.0)
    return f"flex_attention has no dropout and the model's attention_dropout is {dropout:g}" if dropout else None


def self_test(model: nn.Module, sample_pairs: Sequence[Group], layout: Layout = "trie") -> str | None:
    """Why tries are wrong on the longest few of these pairs, as half a sentence; None when they agree with plain sequences.

    Tolerance per sequence: 2e-4 * max(1, |logp|) nats in float32, 0.1 nats (or .5 % of a long one) in half precision.
    """
    pairs = sorted(sample_pairs, key=lambda pair: -max(len(p) + len(c) for p, c in pair))[:SELF_TEST_PAIRS]
    module = SequenceLogps(model)
    parameter: Any = next(model.parameters())
    modes = {name: part.training for name, part in model.named_modules()}
    model.eval()  # dropout would make any two passes differ
    try:
        kinds: tuple[Layout, Layout] = (layout, "plain")
        trie, plain = (logps_in_order(module, batch_groups(pairs, kind, 1), parameter.device) for kind in kinds)
    except Exception as error:  # noqa: BLE001 - an unforeseen model can fail in any way; plain sequences are the remedy for all
        return f"the self-test on tries failed ({type(error).__name__}: {error})"
    finally:
        for name, part in model.named_modules():
            part.training = modes[name]
    relative, floor = (2e-4, 2e-4) if parameter.dtype in (torch.float32, torch.float64) else (5e-3, 0.1)
    tolerance = torch.clamp(relative * plain.abs(), min=floor)
    difference = (trie - plain).abs()
    if bool((difference <= tolerance).all()):
        return None
    return f"tries and plain sequences differ by up to {float(difference.max()):.3g} nats on this model"


def token_ratio(sample_pairs: Sequence[Group]) -> float:
    """Tokens of the plain sequences over tokens of the tries."""
    plain = sum(len(prompt) + len(completion) - 1 for pair in sample_pairs for prompt, completion in pair)
    return plain / sum(build_trie(pair).num_tokens for pair in sample_pairs)
