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
from srpo_core.scoring.win_rate import MeanError, mean_error
from storage.results_db import open_results
from storage.results_relations import comparisons
from tasks.curves import Curve, build_curves
from tasks.scoring import tabulate_groups

POWERS = (0.5, 0.8, 0.9)
WIN_RATE, GAIN = "win rate against one half", "paired difference to the draft"
# Scores in [0, 1] around one half vary most when every one is 0 or 1; the difference of two such scores that know nothing of
# each other varies by sqrt(2) as much. Scores of one prompt do know of each other, so a plan made from this is a safe one.
LARGEST_SPREAD = 0.5
LARGEST_OF_A_DIFFERENCE = 1.0  # differences of -1 and 1, in equal shares
FEW = 30  # independent prompts below which a measured spread is itself uncertain by more than an eighth
_NAMED = ("method", "seed", "eval_set", "opponent", "judge", "temperature")
Row = dict[str, Any]


class Spread(NamedTuple):
    """How much the per-prompt values of one question vary."""

    about: Row  # whose values: what the home or the file says of them
    what: str
    n: int | None  # prompts it was measured on; None when it was not measured
    standard_deviation: float
    note: str | None = None  # how the deviation is meant, and how far it can be believed


class Measured(NamedTuple):
    """What can be planned with, and what cannot."""

    spreads: list[Spread]
    left_out: list[str]  # sentences, one a question without a spread


def spreads_of_policy(home: Path, policy: str) -> Measured:
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


def spreads_of_file(path: Path) -> Measured:
    """Of a file of verdicts (`srpo_core/scoring/verdict_files.py`)."""
    return spreads(tabulate_groups(read_groups(path)[1]), str(path))


def spreads(table: pa.Table, where: str) -> Measured:
    """The largest spread of each curve in `schemas.COMPARISONS`: of its scores, and of their differences to the draft."""
    curves = build_curves(table)
    found = [_of_curve(curve) for curve in curves]
    usable, left_out = [one for each, _ in found for one in each], [one for _, each in found for one in each]
    if usable:
        return Measured(usable, left_out)
    if curves and all(_scored_clusters(curve) == 1 for curve in curves):
        raise InputError(
            f"expected scored prompts of at least two clusters in {where} to measure a spread between them, found one cluster; "
            "judge prompts of others, or state --sd"
        )
    raise InputError(f"expected scored prompts with different scores in {where}, found none; judge more, or state --sd")


def stated_spread(standard_deviation: float) -> Spread:
    """A spread that somebody names. Raises InputError where scores in [0, 1] cannot vary so much."""
    if standard_deviation > LARGEST_OF_A_DIFFERENCE:
        raise InputError(
            f"expected --sd of at most {LARGEST_SPREAD:g} for a win rate or {LARGEST_OF_A_DIFFERENCE:g} for a paired difference, "
            f"found {standard_deviation:g}, which scores in [0, 1] cannot reach; state that of independent prompts, or give FILE "
            "to plan with its clusters"
        )
    if standard_deviation > LARGEST_SPREAD:
        note = f"a win rate varies by at most {LARGEST_SPREAD:g}, so this plan holds for a paired difference alone"
        return Spread({}, "paired difference of the stated spread", None, standard_deviation, note)
    return Spread({}, "difference of the stated spread", None, standard_deviation)


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
    if spread.note is not None:
        values["note"] = spread.note
    if n is not None:
        values["detectable_difference"] = {
            f"{power:g}": detectable_difference(n, spread.standard_deviation, level=level, power=power) for power in POWERS
        }
    return values


def _of_curve(curve: Curve) -> tuple[list[Spread], list[str]]:
    """The spreads of the curve's questions, and a sentence for each question that has none."""
    draft = curve.scores(0) if 0 in curve.points else None
    rates = [curve.scores(revision) for revision in curve.points]
    gains = [] if draft is None else [curve.scores(revision) - draft for revision in curve.points if revision > 0]
    about = {name: curve.key[name] for name in _NAMED if curve.key[name] is not None}
    found, left_out = [], []
    for what, values in ((WIN_RATE, rates), (GAIN, gains)):
        errors = [mean_error(one, curve.clusters) for one in values]
        largest = max(errors, key=_deviation, default=None)
        if largest is not None and _deviation(largest) > 0:
            found.append(Spread(about, what, largest.n, _deviation(largest), _note(largest, len(values))))
        elif largest is not None:
            whose = ", ".join(f"{name} {value}" for name, value in about.items()) or "these verdicts"
            left_out.append(f"{what} of {whose} is left out: {_why_without(errors)}")
    return found, left_out


def _deviation(error: MeanError) -> float:
    return error.standard_error * error.n**0.5 if error.standard_error > 0 else 0.0


def _why_without(errors: list[MeanError]) -> str:
    most = max(error.num_clusters for error in errors)
    if most == 0:
        return "no prompt is scored"
    if most == 1:
        return "its scored prompts are one cluster, which has no spread"
    return "no score differs from another"


def _note(error: MeanError, revisions: int) -> str | None:
    found = ["of the most varied revision"] if revisions > 1 else []
    if error.num_clusters < error.n:
        found.append(
            f"adjusted for {error.num_clusters} clusters: standard error * sqrt({error.n} prompts), which can exceed what one "
            "score varies by; the plan is for prompts in clusters of that size"
        )
    if error.num_clusters < FEW:
        units = "prompts" if error.num_clusters == error.n else "clusters of prompts"
        found.append(f"measured on {error.num_clusters} {units}, fewer than {FEW}: plan for more than it says")
    return "; ".join(found) or None


def _scored_clusters(curve: Curve) -> int:
    return max(mean_error(curve.scores(revision), curve.clusters).num_clusters for revision in curve.points)
