"""Commands about verdicts from anywhere: score says what they show, power how many are needed to show something."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from flows.commands.options import HomeOption, JsonOption
from flows.commands.output import print_fields, print_json, print_table, printable
from flows.inputs import DEFAULT_HOME, open_home
from srpo_core.errors import InputError
from srpo_core.scoring.verdict_files import GROUPING

if TYPE_CHECKING:
    from tasks.power import Measured

SHOWN_OF_AN_ORDER = 8  # prompts of a judging order that the text shows; --json has all
_OF_A_GROUP = ("n", "win_rate", "standard_error", "ci_low", "ci_high", "consistency", "n_unscored", "n_games_unscored", "design")
_BESIDE_A_GROUP = ("rule", "discrete_win_rate", "n_battles", "shading", "flip_rate", "length_ratio")
_TESTED = ("length_controlled", "anytime")
_PLANNED = ("prompts_needed", "detectable_difference")
_OF_A_SPREAD = ("what", "standard_deviation", "measured_on")
Row = Mapping[str, Any]


def score(
    file: Annotated[
        Path,
        typer.Argument(
            metavar="FILE",
            help="CSV, JSONL, JSON or Parquet: prompt_id, order, score; optional cluster_id, judge, eval_set, method, "
            "seed, revision_index, repeat_index, label, candidate_length, opponent_length.",
        ),
    ],
    rule: Annotated[str, typer.Option(help="default, alpaca_eval, arena_hard or srpo.")] = "default",
    anytime: Annotated[
        bool, typer.Option("--anytime", help="Also test against one half in a random order in which one may look early.")
    ] = False,
    seed: Annotated[int | None, typer.Option(help="Of the random order of --anytime; 0.")] = None,
    as_json: JsonOption = False,
) -> None:
    """Win rates, intervals and comparisons of verdicts from anywhere."""
    if seed is not None and not anytime:
        raise InputError("expected --anytime beside --seed, found --seed alone; add --anytime or leave --seed out")
    from tasks.scoring import score_verdicts

    values = score_verdicts(file, rule=rule, anytime_seed=(seed or 0) if anytime else None)
    if as_json:
        print_json(values)
    elif "groups" in values:
        _print_groups(values)
    else:
        print_fields(_shorten_order(values))


def power(
    file: Annotated[
        Path | None, typer.Argument(metavar="[FILE]", help="Verdicts, as for srpo score, whose spread to plan with.")
    ] = None,
    delta: Annotated[float, typer.Option(help="The difference to see: .05 is a win rate of 55 %, or a gain of 5 points.")] = 0.05,
    sd: Annotated[float | None, typer.Option(help="Standard deviation of the per-prompt scores or differences.")] = None,
    from_policy: Annotated[
        str | None, typer.Option(metavar="ID", help="Plan with the spread of this policy's published games.")
    ] = None,
    n: Annotated[int | None, typer.Option("--n", help="Also say which difference this many prompts show.")] = None,
    level: Annotated[float, typer.Option(help="Of the two-sided test.")] = 0.05,
    home: HomeOption = DEFAULT_HOME,
    as_json: JsonOption = False,
) -> None:
    """How many prompts a difference needs; without a spread to plan with, the largest possible is taken."""
    if sum(one is not None for one in (file, sd, from_policy)) > 1:
        raise InputError("expected one source of the spread, found several among FILE, --sd and --from-policy; name one of them")
    from tasks.power import plan

    measured = _spreads(file, sd, from_policy, home)
    cases = [plan(spread, delta, n, level) for spread in measured.spreads]
    if as_json:
        print_json({"delta": delta, "level": level, "n": n, "cases": cases, "left_out": measured.left_out})
        return
    _print_plans(cases, delta, n, level)
    _print_notes(cases, measured.left_out)


def _spreads(file: Path | None, sd: float | None, from_policy: str | None, home: str) -> "Measured":
    from tasks.power import Measured, largest_spreads, spreads_of_file, spreads_of_policy, stated_spread

    if file is not None:
        return spreads_of_file(file)
    if from_policy is not None:
        return spreads_of_policy(open_home(home), from_policy)
    if sd is not None:
        return Measured([stated_spread(sd)], [])
    return Measured(largest_spreads(), [])


def _print_groups(values: Row) -> None:
    key = [name for name in values["groups"][0] if name in GROUPING]
    columns = [*key, *_OF_A_GROUP]
    print_table(columns, [[group[name] for name in columns] for group in values["groups"]])
    for group in map(_shorten_order, values["groups"]):
        beside = {name: group[name] for name in (*_BESIDE_A_GROUP, *_TESTED) if name in group}
        if beside:
            print("\n" + printable(", ".join(f"{name} {group[name]}" for name in key)))
            print_fields(beside, "  ")
    for name, rows in values["tables"].items():
        print(f"\n{name}")
        print_table(list(rows[0]), [list(row.values()) for row in rows])
    print(f"\nnote: {values['note']}")
    if values["ignored_columns"]:
        print(f"ignored columns: {printable(', '.join(values['ignored_columns']))}")


def _shorten_order(values: Row) -> dict[str, Any]:
    if "anytime" not in values:
        return dict(values)
    order = values["anytime"]["order"]
    rest = f", … ({len(order)} in all; --json has them)" if len(order) > SHOWN_OF_AN_ORDER else ""
    return {**values, "anytime": {**values["anytime"], "order": ", ".join(order[:SHOWN_OF_AN_ORDER]) + rest}}


def _print_plans(cases: Sequence[Row], delta: float, n: int | None, level: float) -> None:
    given = dict.fromkeys(name for case in cases for name in case)
    about = [name for name in given if name not in (*_OF_A_SPREAD, *_PLANNED, "note")]
    print(f"prompts needed to see a difference of {delta:g} at level {level:g}, by power")
    _print_by_power([*about, *_OF_A_SPREAD], cases, _PLANNED[0])
    if n is not None:
        print(f"\ndifference that {n} prompts show, by power")
        _print_by_power([*about, *_OF_A_SPREAD], cases, _PLANNED[1])


def _print_notes(cases: Sequence[Row], left_out: Sequence[str]) -> None:
    """Every sentence once, with the rows of the table that it is about where it is not about all."""
    notes: dict[str, list[str]] = {}
    for row, case in enumerate(cases, 1):
        if "note" in case:
            notes.setdefault(case["note"], []).append(str(row))
    if notes or left_out:
        print()
    for note, rows in notes.items():
        which = "" if len(rows) == len(cases) else f" in row {', '.join(rows)}"
        print(f"note on standard_deviation{which}: {note}")
    for sentence in left_out:
        print(f"note: {printable(sentence)}")


def _print_by_power(columns: list[str], cases: Sequence[Row], name: str) -> None:
    powers = list(cases[0][name])
    rows = [[*(case.get(column) for column in columns), *case[name].values()] for case in cases]
    print_table([*columns, *(f"power {power}" for power in powers)], rows)


def add_commands(app: typer.Typer) -> None:
    """Put the commands of this file into `app`."""
    for command in (score, power):
        app.command(command.__name__)(command)
