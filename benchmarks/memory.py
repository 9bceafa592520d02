"""Peak memory of the language-model head in a training step at V = 128k: with the head, minus with a sum in its place.

`python -m benchmarks.memory [--json]`. Each side is a process of its own, because a process's peak never falls; the head is not
tied to the embedding, so that its weight gradient counts (its weights do not). CPU; Linux and macOS.
"""

import argparse
import json
import resource
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from benchmarks.measure import environment, report, say
from benchmarks.shapes import SHAPES, SMALL, TOY, TOY_SHAPES, make_model, make_pairs
from benchmarks.sides import tries_of
from srpo_core.batches import make_trie_batches
from srpo_core.logprobs import SequenceLogps

VOCAB = 128256
SIDES = ("sum", "chunked", "whole")
GIB = 2**30


class Sum(nn.Module):
    """In place of the head: two logits a row. Keeps the head it replaces in memory, so that its weights do not count."""

    def __init__(self, head: nn.Module) -> None:
        """`head`: what it stands in for."""
        super().__init__()
        self.head = head

    def forward(self, rows: Tensor) -> Tensor:
        """(..., H) to (..., 2)."""
        total = rows.sum(-1, keepdim=True)
        return torch.cat([total, -total], -1)


def step_peak(side: str, options: argparse.Namespace) -> tuple[float, float]:
    """Peak GiB of this process after one forward and backward pass, and their seconds."""
    model = make_model(options.vocab, TOY if options.toy else SMALL, tied=False)
    pairs = make_pairs((TOY_SHAPES if options.toy else SHAPES)["uf"], "multi_turn", options.pairs, options.vocab)
    if side == "sum":
        model.lm_head = Sum(model.lm_head)
    module = SequenceLogps(model, None if side == "whole" else options.max_rows)
    began = time.perf_counter()
    for batch in make_trie_batches(tries_of(pairs), options.tokens_per_microbatch):
        if side == "sum":
            batch = replace(batch, targets=torch.zeros_like(batch.targets))
        module(batch).sum().backward()
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / GIB, time.perf_counter() - began


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the benchmark."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", action="store_true", help="print one JSON object instead of tables")
    parser.add_argument("--out", type=Path, help="also write the JSON to this file")
    parser.add_argument("--vocab", type=int, default=VOCAB)
    parser.add_argument("--pairs", type=int, default=8, help="pairs of the step, all UltraFeedback-shaped")
    parser.add_argument("--max-rows", type=int, default=256, help="rows of the head at a time")
    parser.add_argument("--tokens-per-microbatch", type=int, default=20000, help="the default puts all pairs in one pass")
    parser.add_argument("--sides", nargs="+", choices=SIDES, default=SIDES[:2])
    parser.add_argument("--toy", action="store_true", help="a tiny model and tiny pairs: shows that everything runs")
    parser.add_argument("--child", choices=SIDES, help=argparse.SUPPRESS)
    given = list(sys.argv[1:] if arguments is None else arguments)
    options = parser.parse_args(given)
    if options.child:
        print(json.dumps(step_peak(options.child, options)))
        return 0
    cells = []
    for side in options.sides:
        command = [sys.executable, "-m", "benchmarks.memory", *given, "--child", side]
        done = subprocess.run(command, stdout=subprocess.PIPE, check=True, text=True)
        peak, seconds = json.loads(done.stdout.splitlines()[-1])
        say(f"{side}: peak {peak:.3f} GiB, {seconds:.1f} s")
        cell = {"shape": "uf", "vocab": options.vocab, "side": side, "seconds": [seconds], "median": seconds, "peak_gib": peak}
        cells.append(cell)
    peaks = {cell["side"]: cell["peak_gib"] for cell in cells}
    result: dict[str, Any] = {"benchmark": "memory", "max_rows": options.max_rows, "all": cells, "environment": environment()}
    result["difference_gib"] = {side: round(peak - peaks["sum"], 4) for side, peak in peaks.items() if "sum" in peaks}
    return report(result, options.json, options.out)


if __name__ == "__main__":
    sys.exit(main())
