"""How much per-prompt scores vary, for planning the next evaluation: `srpo power` from a home's games or a file of verdicts.

A standard deviation here is the one an independent prompt would need to give the clustered standard error that was measured:
SE * sqrt(n). Of the revisions of a curve the most varied one counts, so that the plan holds for all of them.
"""

from pathlib import Path
from typing import Any, NamedTuple

import pyarrow as pa
import pyarrow.compute as pc

from srpo_core.errors import InputError
from srpo_core.scoring.power import detectable_difference, prompts_needed
from srpo_core.scoring.verdict_groups import read_groups
from srpo_core.scoring.win_rate import NO_SPREAD, Floats, mean_error
from storage.results_db import open_results
from storage.results_relations import comparisons
from tasks.curves import Curve, build_curves
from tasks.scoring import tabulate_groups

POWERS = (0.5, 0.8, 0.9)
WIN_RATE, GAIN = "win rate against one half", "paired difference to the draft"
# Scores in [0, 1] around one half vary most when every one is 0 or 1; the difference of two such scores that know nothing of
# each other varies by sqrt(2) as much. Scores of one prompt do know of each other, so a plan made from this is a safe one.
LARGEST_SPREAD = 0.5
_NAMED = ("method", "seed", "eval_set", "opponent", "judge", "temperature")
Row = dict[str, Any]


class Spread(NamedTuple):
    """How much the per-prompt values of one question vary."""

    about: Row  # whose values: what the home or the file says of them
    what: str
    n: int | None  # prompts it was measured on; None when it was not measured
    standard_deviation: float


def spreads_of_policy(home: Path, policy: str) -> list[Spread]:
    """Of the published games of the policy whose id begins with `policy`. Raises InputError when there is not exactly one."""
    with open_results(home) as connection:
        table = comparisons(connection)
    known = sorted({str(one) for one in table["policy_id"].to_pylist() if str(one).startswith(policy)})
    if not policy or len(known) != 1:
        found = f"{len(known)} ({', '.join(known[:4])})" if known else "none"
        raise InputError(
            f"expected one judged policy whose id begins with {policy!r} in {home}, found {found}; `srpo ls policies` "
            "lists them, `srpo judge` and `srpo publish` bring its games in"
        )
    return spreads(table.filter(pc.equal(table["policy_id"], known[0])), f"policy {known[0]}")


def spreads_of_file(path: Path) -> list[Spread]:
    """Of a file of verdicts (`srpo_core/scoring/verdict_files.py`)."""
    return spreads(tabulate_groups(read_groups(path)[1]), str(path))


def spreads(table: pa.Table, where: str) -> list[Spread]:
    """The largest spread of each curve in `schemas.COMPARISONS`: of its scores, and of their differences to the draft."""
    found = [spread for curve in build_curves(table) for spread in _of_curve(curve)]
    if not found:
        raise InputError(f"expected scored prompts with different scores in {where}, found none; judge more, or state --sd")
    return found


def largest_spreads() -> list[Spread]:
    """What to plan with when nothing was measured."""
    return [
        Spread({}, f"{WIN_RATE}, at the largest possible spread", None, LARGEST_SPREAD),
        Spread({}, f"{GAIN}, as if the two were unrelated", None, LARGEST_SPREAD * 2**0.5),
    ]


def plan(spread: Spread, delta: float, n: int | None, level: float) -> Row:
    """Prompts needed to see `delta` at each power, and with `n` prompts the difference that is seen."""
    values: Row = spread.about | {"what": spread.what, "standard_deviation": spread.standard_deviation, "measured_on": spread.n}
    values["prompts_needed"] = {
        f"{power:g}": prompts_needed(delta, spread.standard_deviation, level=level, power=power) for power in POWERS
    }
    if n is not None:
        values["detectable_difference"] = {
            f"{power:g}": detectable_difference(n, spread.standard_deviation, level=level, power=power) for power in POWERS
        }
    return values


def _of_curve(curve: Curve) -> list[Spread]:
    draft = curve.scores(0) if 0 in curve.points else None
    rates = [curve.scores(revision) for revision in curve.points]
    gains = [] if draft is None else [curve.scores(revision) - draft for revision in curve.points if revision > 0]
    about = {name: curve.key[name] for name in _NAMED if curve.key[name] is not None}
    found = [(what, *_largest(values, curve.clusters)) for what, values in ((WIN_RATE, rates), (GAIN, gains))]
    return [Spread(about, what, n, deviation) for what, n, deviation in found if deviation > NO_SPREAD]


def _largest(values: list[Floats], clusters: list[str]) -> tuple[int, float]:
    errors = [mean_error(one, clusters) for one in values]
    measured = [(error.standard_error * error.n**0.5, error.n) for error in errors if error.standard_error > NO_SPREAD]
    deviation, n = max(measured, default=(0.0, 0))
    return n, deviation
