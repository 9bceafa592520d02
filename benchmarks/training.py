"""Training step: token tries against plain sequences, against TRL's DPO with two sequences, and against what bounds any layout.

`python -m benchmarks.training [--quick] [--json] [--profile]`. One repeat is forward, loss and backward over the same pairs on
the same weights. Sides: trie (the project), plain_completion_rows and plain_full_logits (six plain sequences, head on completion
rows or on every token), trl_dpo (its reference computed before), bound (a causal pass over as many tokens and head rows).
`--profile` prints where a trie step's time goes instead.
"""

import argparse
import sys
import time
from collections.abc import Sequence
from typing import Any

import torch
from torch.profiler import ProfilerActivity, profile

from benchmarks.measure import Cell, Setting, compare, parse, run, settings
from benchmarks.peers import has_trl, trl_dpo
from benchmarks.shapes import Shape, make_model, make_pairs
from benchmarks.sides import bound_side, plain_side, trie_side
from srpo_core.tokenization import PairTokens

PAIRS = {"tldr": 4, "hh": 4, "uf": 2}
RATIOS = {  # of seconds, so that the first four say how many times as many pairs a second
    "trie_over_plain": ("plain_completion_rows", "trie"),
    "trie_over_plain_full_logits": ("plain_full_logits", "trie"),
    "srpo_over_trl_dpo": ("trl_dpo", "trie"),
    "time_over_bound": ("trie", "bound"),
}


def measure_training(options: argparse.Namespace, with_trl: bool, setting: Setting, shape: Shape) -> list[Cell]:
    """The cells of one setting."""
    count, budget = options.count[setting.shape], options.tokens_per_microbatch
    model = make_model(setting.vocab, options.size)
    pairs = make_pairs(shape, setting.template, count, setting.vocab)
    sides = {
        "trie": trie_side(model, pairs, budget),
        "bound": bound_side(model, pairs, budget),
        "plain_completion_rows": plain_side(model, pairs, budget, full_logits=False),
        "plain_full_logits": plain_side(model, pairs, budget, full_logits=True),
    }
    with trl_dpo(model, pairs, with_trl) as peer:
        if peer is not None:
            sides["trl_dpo"] = peer.training()
        return compare(setting, sides, count, options.repeats)


def profile_step(model: Any, pairs: Sequence[PairTokens], budget: int, vocab: int) -> dict[str, float]:
    """CPU seconds of one trie step by kind of work, the largest first; among them the optimizer's step, which is not compared."""
    optimizer = torch.optim.AdamW(model.parameters())
    step = trie_side(model, pairs, budget).run
    for _ in range(2):  # the first makes the optimizer's state
        seconds: dict[str, float] = {}
        with profile(activities=[ProfilerActivity.CPU], record_shapes=True) as recorded:
            step()
        for event in recorded.key_averages(group_by_input_shape=True):
            kind = kind_of_work(event.key, event.input_shapes, vocab)
            seconds[kind] = seconds.get(kind, 0.0) + event.self_cpu_time_total / 1e6
        began = time.perf_counter()
        optimizer.step()
        seconds["optimizer step"] = time.perf_counter() - began
    return dict(sorted(seconds.items(), key=lambda item: -item[1]))


def kind_of_work(operation: str, shapes: Sequence[Any], vocab: int) -> str:
    """Which part of the step an operation belongs to, by its name and by whether it touches the vocabulary."""
    touches_vocabulary = any(isinstance(shape, list) and vocab in shape for shape in shapes)
    if "attention" in operation or "bmm" in operation:
        return "attention"
    if "embedding" in operation or "index" in operation:
        return "embedding and gathers"
    if operation in ("aten::mm", "aten::addmm"):
        return "head, matrix products" if touches_vocabulary else "linear layers"
    return "head, softmax and sums" if touches_vocabulary else "rest"


def print_profiles(options: argparse.Namespace) -> int:
    """A line for each setting; 0."""
    for setting, shape in settings(options):
        pairs = make_pairs(shape, setting.template, options.count[setting.shape], setting.vocab)
        seconds = profile_step(make_model(setting.vocab, options.size), pairs, options.tokens_per_microbatch, setting.vocab)
        total = sum(seconds.values())
        shares = ", ".join(f"{kind} {value / total:.1%}" for kind, value in seconds.items())
        print(f"{setting.shape} {setting.template} V={setting.vocab} threads={setting.threads}, {total:.4g} s: {shares}")
    return 0


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the benchmark."""
    options = parse(__doc__, arguments, PAIRS, "--profile: where a trie step's time goes, instead of the comparison")
    if options.profile:
        return print_profiles(options)
    with_trl = has_trl()
    return run("training", options, lambda setting, shape: measure_training(options, with_trl, setting, shape), RATIOS)


if __name__ == "__main__":
    sys.exit(main())
