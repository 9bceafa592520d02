"""The win-rate table at the end of a run: a line for each policy and evaluation set, a column for each revision.

The numbers are those of the relation `win_rates_with_ceilings`: win rates, and where the exact judge gave them the ceiling and
the share of it that was reached.
"""

from collections.abc import Collection
from pathlib import Path
from typing import Any

from flows.commands.output import print_table
from storage.results_db import run_query
from storage.schemas import WIN_RATES

Row = dict[str, Any]


def read_win_rates(home: Path, policies: Collection[str], judge: str, *, temperature: float, sampling: str) -> list[Row]:
    """Win rates against gold by this judge of these policies, decoded this way (`sampling` is the column of that name).

    `ceiling` and `share_reached` are None where there is no ceiling that this win rate can be held against.
    """
    columns = (*WIN_RATES.names, "ceiling", "share_reached")
    sql = f"SELECT {', '.join(columns)} FROM win_rates_with_ceilings ORDER BY eval_set, policy_id, judge, revision_index"
    return [
        row
        for row in run_query(home, sql).to_pylist()
        if row["policy_id"] in policies
        and (row["temperature"], row["sampling"]) == (temperature, sampling)
        and (row["judge"] == judge or row["judge"].startswith(f"{judge}@"))
        and row["opponent"] == "gold"
        and row["opponent_policy_id"] is None
    ]


def print_win_rates(rows: list[Row], order: list[str]) -> None:
    """Print the table; `order` gives the policies' order within an evaluation set. Rates are in percent."""
    revisions = sorted({row["revision_index"] for row in rows})
    curves: dict[tuple[str, str, str], dict[int, Row]] = {}
    for row in rows:
        curves.setdefault((row["eval_set"], row["policy_id"], row["judge"]), {})[row["revision_index"]] = row
    shifted = {row["eval_set"] for row in rows if row["is_ood"]}
    sets = sorted({eval_set for eval_set, *_ in curves}, key=lambda name: (name in shifted, name))
    ordered = sorted(curves, key=lambda key: (sets.index(key[0]), order.index(key[1]), key[2]))
    columns = ["eval set", "method", "n", *("draft" if index == 0 else f"revision {index}" for index in revisions)]
    lines: list[list[Any]] = []
    for key in ordered:
        name = f"{key[0]} *" if key[0] in shifted else key[0]
        lines += _lines(curves[key], revisions, name, _label(key[1], key[2], rows))
    print_table(columns, lines)
    if shifted:
        print("* out of distribution")
    if any(row["ceiling"] is not None for row in rows):
        print("ceiling: win rate of the exact optimum at that beta (share of the way from the reference to it that was reached)")


def _lines(curve: dict[int, Row], revisions: list[int], name: str, label: str) -> list[list[Any]]:
    counts = sorted({row["n_scored"] for row in curve.values()})
    n = f"{counts[0]}–{counts[-1]}" if len(counts) > 1 else str(counts[0])
    lines: list[list[Any]] = [[name, label, n, *(_rate(curve.get(index)) for index in revisions)]]
    if any(row["ceiling"] is not None for row in curve.values()):
        lines.append(["", "  ceiling", "", *(_ceiling(curve.get(index)) for index in revisions)])
    return lines


def _label(policy_id: str, judge: str, rows: list[Row]) -> str:
    """The method, with the beginning of the policy's id where a method has several, and the judge where there are several."""
    method = next(row["method"] for row in rows if row["policy_id"] == policy_id)
    several = len({row["policy_id"] for row in rows if row["method"] == method}) > 1
    by = f" by {judge}" if len({row["judge"] for row in rows}) > 1 else ""
    return f"{method} {policy_id[:6]}{by}" if several else f"{method}{by}"


def _rate(row: Row | None) -> str:
    if row is None or row["win_rate"] is None:
        return "–"
    if row["ci_low"] is None or row["ci_high"] is None:
        return f"{100 * row['win_rate']:.1f}"
    return f"{100 * row['win_rate']:.1f} [{100 * row['ci_low']:.0f},{100 * row['ci_high']:.0f}]"


def _ceiling(row: Row | None) -> str:
    if row is None or row["ceiling"] is None:
        return "–"
    share = "" if row["share_reached"] is None else f" ({100 * row['share_reached']:.0f} %)"
    return f"{100 * row['ceiling']:.1f}{share}"
