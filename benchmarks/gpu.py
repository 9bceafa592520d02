"""One CUDA device in under 8 minutes: training, reference pass and generation on a random Llama of 1B parameters in bf16.

`python -m benchmarks.gpu [--json] [--out FILE]`. Cells are measured in order of importance until the time is used up; a cell
without time or memory left says so. Model-FLOPs use is the arithmetic of the side's own tokens, head rows and visible keys over
the rate of a large bf16 matrix product on the same device. `--device cpu --toy` runs the same path small, where flex_attention,
which has no backward pass on the CPU, is replaced by sdpa.
"""

import argparse
import contextlib
import functools
import statistics
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch

from benchmarks.generation import generation_sides, prompt_rows
from benchmarks.measure import Cell, Side, environment, report, save, say, time_ratio
from benchmarks.peers import has_trl, trl_dpo
from benchmarks.reference import reference_side
from benchmarks.shapes import LLAMA_1B, SHAPES, TEMPLATES, TOY, TOY_SHAPES, make_model, make_pairs, word_tokenizer
from benchmarks.sides import bound_side, finish, plain_side, trie_side

VOCAB = 128256
PAIRS = {"tldr": 24, "hh": 30, "uf": 8}  # whole numbers of full rows
PROMPTS = 8
MARGIN_SECONDS = 45  # no cell is begun with less time left: compiling flex_attention takes most of a minute
CHUNK = 2048  # rows of the head at a time, where it is chunked
TRAINING_RATIOS = {
    "trie_over_plain": ("plain_completion_rows", "trie"),
    "trie_over_plain_full_logits": ("plain_full_logits", "trie"),
    "srpo_over_trl_dpo": ("trl_dpo", "trie"),
    "time_over_bound": ("trie", "bound"),
    "packed_over_one_a_row": ("trie_one_a_row", "trie"),
}
RATIOS = {
    "training": TRAINING_RATIOS,
    "reference": {"over_trl_precompute": ("trl_precompute", "trie"), "trie_over_plain": ("plain", "trie")},
    "generation": {"time_over_plain": ("chains", "plain_generate")},
}


class Job(NamedTuple):
    """A comparison to measure: what, on which shape and template."""

    what: str  # a key of RATIOS
    shape: str
    template: str


class Bench:
    """The model, the device and the time that is left."""

    def __init__(self, options: argparse.Namespace) -> None:
        """Builds the model and measures the device's peak."""
        self.options = options
        self.device = torch.device(options.device)
        self.on_cuda = self.device.type == "cuda"
        self.deadline = time.monotonic() + 60 * options.minutes
        self.lengths = TOY_SHAPES if options.toy else SHAPES
        self.with_trl = has_trl()
        self.packed_attention = "flex_attention" if self.on_cuda else "sdpa"
        if not self.on_cuda:
            say("flex_attention has no backward pass on the CPU: packed tries are measured with sdpa")
        size = TOY if options.toy else LLAMA_1B
        self.model = make_model(options.vocab, size, tied=False, dtype=torch.bfloat16, device=options.device)
        self.peak = matmul_rate(self.device, 256 if options.toy else 8192)
        say(f"peak of a matrix product: {self.peak / 1e12:.4g} TFLOP/s")

    def measure(self, job: Job) -> list[Cell]:
        """The cells of one comparison."""
        count = self.options.pairs or (PROMPTS if job.what == "generation" else PAIRS[job.shape])
        cells = []
        with self._sides(job, count) as sides:
            for name, make in sides.items():
                cell: Cell = {"what": job.what, "shape": job.shape, "template": job.template, "side": name, "count": count}
                found = self._measure(make, count, job.what)
                cells.append(cell | found)
                say(f"{' '.join(job)} {name}: {found.get('median', found.get('left_out'))}")
        return cells

    @contextlib.contextmanager
    def _sides(self, job: Job, count: int) -> Iterator[dict[str, Callable[[], Side]]]:
        """What makes each side; made only when its turn has come."""
        model, budget, row = self.model, self.options.tokens_per_microbatch, self.options.row_tokens
        shape = self.lengths[job.shape]
        if job.what == "generation":
            rows, tok = prompt_rows(shape, count, self.options.vocab), word_tokenizer(self.options.vocab)
            sides = generation_sides(model, tok, rows, shape)
            yield {name: functools.partial(sides.__getitem__, name) for name in ("plain_generate", "chains")}
            return
        pairs = make_pairs(shape, job.template, count, self.options.vocab)
        flex = self.packed_attention
        with trl_dpo(model, pairs, self.with_trl) as peer:
            if job.what == "training":
                yield {
                    "trie": lambda: trie_side(model, pairs, budget, row, attention=flex),
                    "plain_completion_rows": lambda: plain_side(model, pairs, budget, full_logits=False),
                    "bound": lambda: bound_side(model, pairs, budget),
                    "trie_chunked_head": lambda: trie_side(model, pairs, budget, row, CHUNK, attention=flex),
                    "trie_one_a_row": lambda: trie_side(model, pairs, budget),
                    "plain_full_logits": lambda: plain_side(model, pairs, budget, full_logits=True),
                    **({"trl_dpo": peer.training} if peer else {}),
                }
            else:
                yield {
                    "trie": lambda: reference_side(model, pairs, "trie", budget, row, flex),
                    "plain": lambda: reference_side(model, pairs, "plain", budget),
                    **({"trl_precompute": peer.reference} if peer else {}),
                }

    def _measure(self, make: Callable[[], Side], count: int, what: str) -> Cell:
        if time.monotonic() > self.deadline - (0 if self.options.toy else MARGIN_SECONDS):
            return {"left_out": "no time left"}
        try:
            side = make()
            if what != "generation":
                side.run()  # compiles and allocates
            if self.on_cuda:
                torch.cuda.reset_peak_memory_stats(self.device)
            seconds = [self._timed(side) / count for _ in range(1 if what == "generation" else self.options.repeats)]
        except torch.OutOfMemoryError:
            return {"left_out": "out of memory"}
        finally:
            self.model.zero_grad(set_to_none=True)
            torch.cuda.empty_cache()
        median = statistics.median(seconds)
        cell: Cell = {"seconds": seconds, "median": median, **side.facts}
        if self.on_cuda:
            cell["peak_gib"] = torch.cuda.max_memory_allocated(self.device) / 2**30
        if what != "generation":
            cell["tokens_per_second"] = side.facts["tokens_per_pair"] / median
            cell["model_flops_use"] = model_flops(self.model.config, side.facts, what == "training") / median / self.peak
        return cell

    def _timed(self, side: Side) -> float:
        began = time.perf_counter()
        side.run()
        finish(self.device)
        return time.perf_counter() - began


def matmul_rate(device: torch.device, size: int) -> float:
    """Operations a second of a bf16 matrix product of two (size, size); the best of a few."""
    left, right = (torch.randn(size, size, device=device, dtype=torch.bfloat16) for _ in range(2))
    best = float("inf")
    for _ in range(6):
        finish(device)
        began = time.perf_counter()
        for _ in range(4):
            left @ right
        finish(device)
        best = min(best, time.perf_counter() - began)
    return 4 * 2 * size**3 / best


def model_flops(config: Any, facts: Mapping[str, float], backward: bool) -> float:
    """Operations of the matrix products of one pair: two a weight and token, four a channel and visible key; backward, twice."""
    head = config.hidden_size // config.num_attention_heads
    attention = config.hidden_size * head * (2 * config.num_attention_heads + 2 * config.num_key_value_heads)
    layer = attention + 3 * config.hidden_size * config.intermediate_size
    forward = config.num_hidden_layers * (
        2 * layer * facts["tokens_per_pair"] + 4 * config.hidden_size * facts["seen_keys_per_pair"]
    )
    forward += 2 * config.hidden_size * config.vocab_size * facts["head_rows_per_pair"]
    return forward * (3 if backward else 1)


def jobs() -> list[Job]:
    """Everything, the most important first."""
    first, other = TEMPLATES
    plan = [Job("training", shape, first) for shape in SHAPES] + [Job("reference", shape, first) for shape in SHAPES]
    plan += [Job("generation", "tldr", first), *(Job("training", shape, other) for shape in SHAPES)]
    return [*plan, Job("generation", "hh", first), Job("generation", "uf", first)]


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the benchmark."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", action="store_true", help="print one JSON object instead of tables")
    parser.add_argument("--out", type=Path, help="also write the JSON to this file")
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--minutes", type=float, default=7.5, help="time for all of it")
    parser.add_argument("--vocab", type=int, default=VOCAB)
    parser.add_argument("--pairs", type=int, help=f"pairs (or prompts) of one repeat; default {PAIRS} and {PROMPTS} prompts")
    parser.add_argument("--repeats", type=int, default=3, help="after one that warms up")
    parser.add_argument("--tokens-per-microbatch", type=int, default=8192)
    parser.add_argument("--row-tokens", type=int, default=4096, help="tokens of a row that several tries share")
    parser.add_argument("--toy", action="store_true", help="a tiny model and tiny pairs: shows that everything runs")
    options = parser.parse_args(arguments)
    if options.device.startswith("cuda") and not torch.cuda.is_available():
        print("expected a CUDA device, found none; add --device cpu --toy to try the path out", file=sys.stderr)
        return 2
    result: dict[str, Any] = {"benchmark": "gpu", "shapes": {}, "comparisons": [], "all": [], "environment": environment()}
    with contextlib.redirect_stdout(sys.stderr):
        bench = Bench(options)
        result["notes"] = {"matmul_tflops": bench.peak / 1e12, "packed_attention": bench.packed_attention}
        for job in jobs():
            cells = bench.measure(job)
            measured = [cell for cell in cells if "median" in cell]
            ratios = {name: time_ratio(measured, *sides) for name, sides in RATIOS[job.what].items()}
            result["all"] += cells
            result["comparisons"].append({**job._asdict(), **ratios})
            if job.what == "training":
                result["shapes"].setdefault(job.shape, ratios)
            save(result, options.out)  # what is measured stays, whatever happens next
    return report(result, options.json, options.out)


if __name__ == "__main__":
    sys.exit(main())
