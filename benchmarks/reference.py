"""Reference pass: six log-probs a pair on token tries, against TRL's precompute pass, which gives two.

`python -m benchmarks.reference [--quick] [--json]`. Sides: trie (the project, six numbers), plain (the project's plain layout,
six numbers), trl_precompute (TRL's data loader, collator and pass, two numbers).
"""

import argparse
import sys
from collections.abc import Sequence
from typing import Any

from benchmarks.measure import Cell, Setting, Side, compare, parse, run
from benchmarks.peers import has_trl, trl_dpo
from benchmarks.shapes import Shape, make_model, make_pairs
from benchmarks.sides import attend, attending, plain_facts, trie_facts, tries_of
from srpo_core.batches import Layout, batch_groups, make_trie_batches
from srpo_core.logprobs import SequenceLogps, logps_in_order
from srpo_core.tokenization import PairTokens

PAIRS = {"tldr": 8, "hh": 8, "uf": 4}
RATIOS = {"over_trl_precompute": ("trl_precompute", "trie"), "trie_over_plain": ("plain", "trie")}


def reference_side(
    model: Any, pairs: Sequence[PairTokens], layout: Layout, budget: int, row_tokens: int | None = None, attention: str = "sdpa"
) -> Side:
    """The six log-probs of every pair, batched as the reference worker does."""
    attend(model, attention)
    module = SequenceLogps(model)
    groups = [pair.sequences for pair in pairs]
    device = next(model.parameters()).device

    def run() -> None:
        batches = make_trie_batches(tries_of(pairs), budget, row_tokens) if row_tokens else batch_groups(groups, layout, budget)
        logps_in_order(module, batches, device)

    facts = trie_facts(pairs) if layout == "trie" else plain_facts(groups, every_row=False)
    return Side(attending(model, model.config._attn_implementation, run), facts)


def measure_reference(options: argparse.Namespace, with_trl: bool, setting: Setting, shape: Shape) -> list[Cell]:
    """The cells of one setting."""
    count, budget = options.count[setting.shape], options.tokens_per_microbatch
    model = make_model(setting.vocab, options.size).eval()
    pairs = make_pairs(shape, setting.template, count, setting.vocab)
    sides = {"trie": reference_side(model, pairs, "trie", budget), "plain": reference_side(model, pairs, "plain", budget)}
    with trl_dpo(model, pairs, with_trl) as peer:
        if peer is not None:
            sides["trl_precompute"] = peer.reference()
        return compare(setting, sides, count, options.repeats)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the benchmark."""
    options = parse(__doc__, arguments, PAIRS)
    with_trl = has_trl()
    return run("reference", options, lambda setting, shape: measure_reference(options, with_trl, setting, shape), RATIOS)


if __name__ == "__main__":
    sys.exit(main())
