"""How often the intervals hold and the early-looking test errs, on simulated judges whose true win rate is known.

`python -m benchmarks.coverage [--json] [--quick]`. The default interval is to cover between .93 and .98 wherever the win rate
and its complement amount to five outcomes, n * min(rate, 1 - rate) >= 5; the other cells, and the hardest kind of scores that
was found, are reported. Seeded; under a minute on one core, and no model is involved.
"""

import argparse
import json
import sys
from collections.abc import Callable, Mapping, Sequence
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.special import expit

from benchmarks.measure import environment, save, say
from benchmarks.simulated_judges import HARDEST, JUDGES, both_orders
from benchmarks.tables import table
from srpo_core.scoring.length_control import length_controlled_win_rate
from srpo_core.scoring.resampling import bootstrap_interval
from srpo_core.scoring.sequential import log_e_values
from srpo_core.scoring.win_rate import Floats, mean_interval, t_quantile, wilson_limits, win_rate_interval

Cell = dict[str, Any]
Limits = tuple[float, float]

SEED = 20406
SIZES = (30, 100, 500)
RATES = (0.6, 0.9, 0.95)
WANTED = (0.93, 0.98)
ENOUGH = 5  # expected wins and losses from which the default interval must hold
LEVEL = 0.05
PEEK_EVERY = 20
QUICK = ("discrete", "continuous")


def _default(scores: Floats) -> Limits:
    return win_rate_interval(scores)[3:]


def _plain_t(scores: Floats) -> Limits:
    return mean_interval(scores)[3:]


def _plain_wilson(scores: Floats) -> Limits:
    return wilson_limits(float(scores.mean()), scores.size, 1.959964)


def _bootstrap(scores: Floats) -> Limits:
    return bootstrap_interval(scores, num_resamples=500, seed=SEED)[3:]


INTERVALS: dict[str, Callable[[Floats], Limits]] = {"default": _default, "plain_t": _plain_t, "plain_wilson": _plain_wilson}


def share_covered(limits: Sequence[Limits], truth: float) -> float:
    """Share of the intervals that hold the truth; NaN limits do not."""
    return float(np.mean([low <= truth <= high for low, high in limits]))


def coverage_cell(judge: str, rate: float, n: int, runs: int, bootstrap_runs: int) -> Cell:
    """Coverage of each interval over `runs` simulated experiments of `n` prompts (the bootstrap over fewer: it is slow)."""
    scores = (JUDGES | HARDEST)[judge](_generator(judge, rate, n), rate, (runs, n))
    limits = {name: [interval(run) for run in scores] for name, interval in INTERVALS.items()}
    limits["bootstrap"] = [_bootstrap(run) for run in scores[:bootstrap_runs]]
    covered = {name: share_covered(found, rate) for name, found in limits.items() if found}
    width = float(np.mean([high - low for low, high in limits["default"]]))
    required = judge in JUDGES and n * min(rate, 1 - rate) >= ENOUGH - 1e-9
    return {"judge": judge, "rate": rate, "n": n, "required": required, "coverage": covered, "mean_width": width}


def clustered_cell(num_clusters: int, size: int, rate: float, runs: int) -> Cell:
    """Coverage where `size` prompts share each cluster's ability, with the clusters and, for comparison, without."""
    rng = _generator("clustered", rate, num_clusters * size)
    abilities = np.repeat(rng.beta(4 * rate, 4 * (1 - rate), (runs, num_clusters)), size, axis=1)
    scores = (rng.random((2, *abilities.shape)) < abilities).mean(axis=0)
    names = np.repeat(np.arange(num_clusters), size).astype(np.str_)
    covered = {
        "default": share_covered([win_rate_interval(run, names)[3:] for run in scores], rate),
        "clusters_ignored": share_covered([_default(run) for run in scores], rate),
    }
    return {"clusters": num_clusters, "prompts_each": size, "rate": rate, "coverage": covered}


def length_cell(n: int, constant: float, longer: float, runs: int) -> Cell:
    """Coverage of the length-controlled interval; the true rate at equal length is sigmoid(constant).

    The judge likes length (weight -1); the candidate is `longer` standard deviations longer than its opponent on average.
    """
    rng = _generator("length", constant, n)
    difference = -300 * (longer + rng.standard_normal((runs, n)))  # opponent - candidate
    lengths, opponent = 2000 - difference, np.full((runs, n), 2000.0)
    rates = expit(constant - np.tanh(difference / 300))
    scores = (rng.random((2, runs, n)) < rates).mean(axis=0)
    results = [length_controlled_win_rate(*games) for games in zip(scores, np.maximum(lengths, 0), opponent, strict=True)]
    given = [one for one in results if one.refused is None]
    covered = share_covered([(one.ci_low, one.ci_high) for one in given], float(expit(constant))) if given else None
    return {
        "n": n,
        "truth": float(expit(constant)),
        "raw": float(rates.mean()),
        "longer": longer,
        "refused": 1 - len(given) / runs,
        "coverage": covered,
    }


def peeking(runs: int, n: int) -> dict[str, float]:
    """Share of null experiments that ever look decided, and of true ones that are, looking every `PEEK_EVERY` prompts."""
    looks = np.arange(PEEK_EVERY, n + 1, PEEK_EVERY)
    null, better = (both_orders(_generator("peeking", rate, n), rate, (runs, n)) for rate in (0.5, 0.6))
    return {
        "anytime_false_positives": _ever(_anytime_alarms(null, looks)),
        "interval_false_positives": _ever(_interval_alarms(null, looks)),
        "anytime_power_at_.6": _ever(_anytime_alarms(better, looks)),
        "one_look_power_at_.6": float(_interval_alarms(better, looks[-1:]).mean()),
        "runs": runs,
        "prompts": n,
    }


def _anytime_alarms(scores: Floats, looks: NDArray[np.intp]) -> NDArray[np.bool_]:
    alarms: NDArray[np.bool_] = log_e_values(scores, level=LEVEL)[:, looks - 1] >= -np.log(LEVEL)
    return alarms


def _interval_alarms(scores: Floats, looks: NDArray[np.intp]) -> NDArray[np.bool_]:
    """(runs, looks): does the plain 95 % t interval of the prompts so far leave out one half?"""
    means = np.cumsum(scores, axis=1)[:, looks - 1] / looks
    variances = (np.cumsum(scores**2, axis=1)[:, looks - 1] - looks * means**2) / (looks - 1)
    quantiles = np.array([t_quantile(1 - LEVEL, int(look) - 1) for look in looks])
    alarms: NDArray[np.bool_] = np.abs(means - 0.5) > quantiles * np.sqrt(np.maximum(variances, 0) / looks)
    return alarms


def _ever(alarms: NDArray[np.bool_]) -> float:
    return float(alarms.any(axis=1).mean())


def _generator(what: str, rate: float, n: int) -> np.random.Generator:
    """Every cell draws from its own stream, so that a cell alone gives what it gives among all."""
    return np.random.default_rng([SEED, *what.encode(), round(1000 * abs(rate)), n])


def measure(*, quick: bool) -> dict[str, Any]:
    """Every part of the benchmark; `quick` with fewer runs and two judges."""
    runs, bootstrap_runs, judges = (1000, 100, QUICK) if quick else (4000, 500, (*JUDGES, *HARDEST))
    cells = []
    for judge, rate, n in product(judges, RATES, SIZES):
        cells.append(coverage_cell(judge, rate, n, runs, bootstrap_runs))
        say(f"{judge}, rate {rate}, n {n}: {cells[-1]['coverage']}")
    clustered = [clustered_cell(count, 3, rate, runs // 2) for count, rate in product((30, 100), (0.6, 0.9))]
    lengths = [length_cell(*one, runs // 16) for one in product((50, 100, 500), (0.0, -1.5), (0.5, 1.4))]
    required = [cell["coverage"]["default"] for cell in cells if cell["required"]]
    return {
        "benchmark": "coverage",
        "default_lowest": min(required),
        "default_highest": max(required),
        "within": WANTED[0] <= min(required) and max(required) <= WANTED[1],
        "runs": runs,
        "peeking": peeking(runs // 2, 500),
        "cells": cells,
        "clustered": clustered,
        "length_controlled": lengths,
        "environment": environment(),
    }


def markdown(result: Mapping[str, Any]) -> str:
    """The result as tables."""
    head = (
        f"Default interval where n min(s, 1-s) >= {ENOUGH}: {result['default_lowest']:.3f} to {result['default_highest']:.3f}, "
        f"wanted {WANTED[0]} to {WANTED[1]}; {result['runs']} runs a cell"
    )
    parts = [head, *(_table(result[name]) for name in ("cells", "clustered", "length_controlled"))]
    return "\n\n".join([*parts, _table([result["peeking"]])])


def _table(cells: Sequence[Mapping[str, Any]]) -> str:
    flat = [_flat(cell) for cell in cells]
    return table([name.replace("_", " ") for name in flat[0]], [list(row.values()) for row in flat])


def _flat(cell: Mapping[str, Any]) -> dict[str, str]:
    rows: dict[str, str] = {}
    for name, value in cell.items():
        rows |= _flat(value) if isinstance(value, Mapping) else {name: f"{value:.3f}" if isinstance(value, float) else str(value)}
    return rows


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the benchmark; 0 also where a coverage is not as wanted, which `within` says."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", action="store_true", help="print one JSON object instead of tables")
    parser.add_argument("--out", type=Path, help="also write the JSON to this file")
    parser.add_argument("--quick", action="store_true", help="fewer runs, and two kinds of judges")
    options = parser.parse_args(arguments)
    result = measure(quick=options.quick)
    save(result, options.out)
    print(json.dumps(result, indent=1) if options.json else markdown(result))
    return 0


if __name__ == "__main__":
    sys.exit(main())
