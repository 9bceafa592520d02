"""What the promotion's caution costs: how often a better challenger passes, by the t limit alone and by the limit that is used.

`python -m benchmarks.promotion [--json]`. For two kinds of scores, and for the first and the tenth look at the confirmation
prompts, the difference is found at which the t limit passes four of five challengers on 100 prompts; then the limit of
`srpo_core.scoring.promotion` is asked about the same draws. Margin 0, total error level .05. Seeded; twenty seconds on one core.
"""

import argparse
import json
import sys
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from benchmarks.tables import table
from srpo_core.scoring.promotion import SetScores, mean_difference, spend_level
from srpo_core.scoring.win_rate import Floats, paired_difference

PROMPTS, DRAWS, LOOKS = 100, 2000, (1, 10)
TOTAL_LEVEL, POWER_OF_T = 0.05, 0.8
LARGEST = 0.6  # of the differences tried
SEED = 20406
NAMES = [str(number) for number in range(PROMPTS)]
Draw = Callable[[np.random.Generator, float], tuple[Floats, Floats]]  # challenger's and champion's scores (P,) each


def verdicts(rng: np.random.Generator, difference: float) -> tuple[Floats, Floats]:
    """Losses, ties and wins against the gold, drawn apart; a third of ties."""
    scores, champion = [0.0, 0.5, 1.0], [0.34, 0.32, 0.34]
    challenger = [0.34 - difference / 2, 0.32, 0.34 + difference / 2]
    return rng.choice(scores, PROMPTS, p=challenger), rng.choice(scores, PROMPTS, p=champion)


def graded(rng: np.random.Generator, difference: float) -> tuple[Floats, Floats]:
    """Probabilities of a win: the challenger's are the champion's, shifted, with a spread of .25, cut off at 0 and 1."""
    champion = rng.random(PROMPTS)
    return np.clip(champion + difference + rng.normal(0, 0.25, PROMPTS), 0, 1), champion


KINDS: dict[str, Draw] = {"losses, ties, wins": verdicts, "graded": graded}


def main(arguments: Sequence[str] | None = None) -> int:
    """Run from the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", action="store_true", help="print one JSON object instead of a table")
    parser.add_argument("--draws", type=int, default=DRAWS, help=f"simulated comparisons of each cell; default {DRAWS}")
    options = parser.parse_args(arguments)
    cells = [measure(kind, look, options.draws) for kind in KINDS for look in LOOKS]
    if options.json:
        print(json.dumps({"benchmark": "promotion", "prompts": PROMPTS, "draws": options.draws, "cells": cells}))
    else:
        print(
            table(
                ["scores", "look", "level", "mean difference", "t limit", "limit used"],
                [[str(value) for value in one.values()] for one in cells],
            )
        )
    return 0


def measure(kind: str, look: int, draws: int) -> dict[str, Any]:
    """The shares of challengers that pass where the t limit passes POWER_OF_T of them."""
    level, draw = spend_level(look, 0.0, TOTAL_LEVEL), KINDS[kind]

    def sides(difference: float) -> list[tuple[Floats, Floats]]:
        rng = np.random.default_rng(SEED)
        return [draw(rng, difference) for _ in range(draws)]

    low, high = 0.0, LARGEST
    while high - low > 1e-3:
        middle = (low + high) / 2
        low, high = (middle, high) if share_by_t(sides(middle), level) < POWER_OF_T else (low, middle)
    found = sides(high)
    used = np.mean([mean_difference([SetScores("set", *one, NAMES)], level).ci_low > 0 for one in found])
    difference = np.mean([own.mean() - other.mean() for own, other in found])
    return {
        "scores": kind,
        "look": look,
        "level": round(level, 5),
        "difference": round(float(difference), 3),
        "power_of_t": round(share_by_t(found, level), 2),
        "power": round(float(used), 2),
    }


def share_by_t(sides: Sequence[tuple[Floats, Floats]], level: float) -> float:
    """How many pass by the paired t limit alone."""
    return float(np.mean([paired_difference(*one, confidence=1 - 2 * level).ci_low > 0 for one in sides]))


if __name__ == "__main__":
    sys.exit(main())
