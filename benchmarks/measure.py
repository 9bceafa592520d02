"""How every benchmark measures and reports: all sides in turn within one run, medians, one JSON object of ratios and cells.

A cell is a dict: what was measured (shape, template, vocab, threads, side), seconds of every repeat, their median, and pairs/s.
"""

import argparse
import contextlib
import json
import os
import platform
import statistics
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from importlib.metadata import PackageNotFoundError, version
from itertools import product
from pathlib import Path
from typing import Any, NamedTuple

import torch

from benchmarks.shapes import SHAPES, SMALL, TEMPLATES, TOY, TOY_SHAPES, VOCABULARIES, Shape
from benchmarks.tables import markdown

Cell = dict[str, Any]


class Side(NamedTuple):
    """One of the things compared: what to run, and what it works through for one pair."""

    run: Callable[[], object]
    facts: Mapping[str, float]  # tokens_per_pair, head_rows_per_pair


class Setting(NamedTuple):
    """What all sides of a comparison share."""

    shape: str
    template: str
    vocab: int
    threads: int


def parse(description: str | None, arguments: Sequence[str] | None, pairs: Mapping[str, int], *flags: str) -> argparse.Namespace:
    """The options that all benchmarks share; `pairs` per shape is the default of --pairs, `flags` are further switches."""
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", action="store_true", help="print one JSON object instead of tables")
    parser.add_argument("--out", type=Path, help="also write the JSON to this file")
    parser.add_argument("--shapes", nargs="+", choices=sorted(SHAPES), default=list(SHAPES))
    parser.add_argument("--templates", nargs="+", choices=TEMPLATES, default=list(TEMPLATES))
    parser.add_argument("--vocab", nargs="+", type=int, default=list(VOCABULARIES))
    parser.add_argument("--threads", nargs="+", type=int, default=sorted({os.cpu_count() or 1, 1}, reverse=True))
    parser.add_argument("--repeats", type=int, default=3, help="rounds over all sides; the first also warms up")
    parser.add_argument("--pairs", type=int, help=f"pairs (or prompts) of one repeat; default {dict(pairs)}")
    parser.add_argument("--tokens-per-microbatch", type=int, default=8192, help="as resources.tokens_per_microbatch")
    parser.add_argument("--quick", action="store_true", help="only the comparison that the targets are about")
    parser.add_argument("--toy", action="store_true", help="a tiny model and tiny pairs: shows that everything runs")
    for flag in flags:
        name, text = flag.split(": ")
        parser.add_argument(name, action="store_true", help=text)
    options = parser.parse_args(arguments)
    if options.quick:
        options.vocab, options.templates, options.threads = [VOCABULARIES[0]], [TEMPLATES[0]], options.threads[:1]
    options.size, options.lengths = (TOY, TOY_SHAPES) if options.toy else (SMALL, SHAPES)
    options.count = {name: options.pairs or count for name, count in pairs.items()}
    return options


def settings(options: argparse.Namespace) -> Iterator[tuple[Setting, Shape]]:
    """Every combination asked for, the one that the targets are about first; sets the threads."""
    for threads, vocab, template, name in product(options.threads, options.vocab, options.templates, options.shapes):
        torch.set_num_threads(threads)
        yield Setting(name, template, vocab, threads), options.lengths[name]


def compare(setting: Setting, sides: Mapping[str, Side], count: int, repeats: int) -> list[Cell]:
    """A cell for each side, from `repeats` rounds in which every side runs once over the same `count` pairs."""
    seconds: dict[str, list[float]] = {name: [] for name in sides}
    for _, (name, side) in product(range(repeats), sides.items()):
        began = time.perf_counter()
        side.run()
        seconds[name].append((time.perf_counter() - began) / count)
        say(f"{setting.shape} {setting.template} V={setting.vocab} threads={setting.threads} {name}: {seconds[name][-1]:.4g} s")
    medians = {name: statistics.median(values) for name, values in seconds.items()}
    return [
        {**setting._asdict(), "side": name, "seconds": seconds[name], "median": medians[name], "count": count, **side.facts}
        for name, side in sides.items()
    ]


def time_ratio(cells: Sequence[Cell], numerator: str, denominator: str) -> float | None:
    """Median seconds of one side over those of another; None where a side was not measured."""
    medians = {cell["side"]: cell["median"] for cell in cells}
    if numerator not in medians or denominator not in medians:
        return None
    return round(medians[numerator] / medians[denominator], 4)


def run(
    name: str,
    options: argparse.Namespace,
    measure_cells: Callable[[Setting, Shape], list[Cell]],
    ratios: Mapping[str, tuple[str, str]],
    **more: Any,
) -> int:
    """Measure everything and report; `ratios`: name -> (side in the numerator, side in the denominator) of seconds.

    `shapes` of the result holds the ratios of each shape's first setting, which is the one that the targets are about.
    """
    result: dict[str, Any] = {"benchmark": name, "shapes": {}, "comparisons": [], "all": [], "environment": environment(), **more}
    with contextlib.redirect_stdout(sys.stderr):  # what libraries print must not end up in the JSON
        for setting, shape in settings(options):
            cells = measure_cells(setting, shape)
            found = {ratio: time_ratio(cells, *sides) for ratio, sides in ratios.items()}
            result["all"] += cells
            result["comparisons"].append({**setting._asdict(), **found})
            result["shapes"].setdefault(setting.shape, found)
    return report(result, options.json, options.out)


def report(result: Mapping[str, Any], as_json: bool, out: Path | None) -> int:
    """Print the result as JSON or as tables, and write it to `out`; 0."""
    save(result, out)
    print(json.dumps(result, indent=1) if as_json else markdown(result))
    return 0


def save(result: Mapping[str, Any], out: Path | None) -> None:
    """Write the result to a file, if one is named."""
    if out is not None:
        out.parent.mkdir(parents=True, exist_ok=True)
        out.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")


def environment() -> dict[str, Any]:
    """Machine and versions."""
    packages = {}
    for package in ("torch", "transformers", "trl"):
        with contextlib.suppress(PackageNotFoundError):
            packages[package] = version(package)
    cuda = torch.cuda.get_device_name() if torch.cuda.is_available() else None
    return {"cpu": _cpu_name(), "cores": os.cpu_count(), "device": cuda, "python": platform.python_version(), **packages}


def say(line: str) -> None:
    """A line of progress."""
    print(line, file=sys.stderr, flush=True)


def _cpu_name() -> str:
    with contextlib.suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.split(":", 1)[1].strip()
    return platform.processor() or platform.machine()
