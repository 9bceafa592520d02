"""`srpo gc`, `srpo pin`, `srpo unpin`: what of a home may go, and what must not."""

from typing import TYPE_CHECKING, Annotated, Any

import typer

from flows.commands.options import HomeOption, JsonOption
from flows.commands.output import print_json, print_table, printable, sized
from flows.inputs import DEFAULT_HOME, open_home
from srpo_core.errors import InputError

if TYPE_CHECKING:
    from pathlib import Path

    from storage.retention import CleaningPlan, Item

MOST_DAYS = 36500
UNTOUCHED = "never touched: the replies of judges, the records of runs, the registry"
IdsArgument = Annotated[list[str], typer.Argument(metavar="ID…", help="Artifacts, policies, runs, or champion.")]


def gc(
    days: Annotated[
        int, typer.Option("--days", metavar="N", min=0, max=MOST_DAYS, help="What was made or used in the last N days stays.")
    ] = 30,
    delete: Annotated[bool, typer.Option("--delete", help="Delete; without it gc only says what would go.")] = False,
    home: HomeOption = DEFAULT_HOME,
    as_json: JsonOption = False,
) -> None:
    """Say what may go from the home and why the rest stays; with --delete, delete it.

    The champion, the one before it, what is pinned, what recent runs and living processes use, and everything these were made
    from stays.
    """
    from storage.deletion import clean_home, unused
    from storage.retention import plan_cleaning
    from tasks.reference import store_names

    place = open_home(home)
    rule: dict[str, Any] = {"days": days, "stores_of": store_names}
    plan = clean_home(place, **rule) if delete else unused(place, plan_cleaning(place, **rule), **rule)
    if delete:
        _publish_again(place, plan)
    if as_json:
        print_json(
            {"home": place, "deleted": delete, "bytes": _bytes(plan.going)}
            | {"going": [_row(item) for item in plan.going], "staying": [_row(item) for item in plan.staying]}
        )
    else:
        _print_plan(plan, delete)


def _publish_again(home: "Path", plan: "CleaningPlan") -> None:
    """Make database and report anew where there are some, so that neither tells of what is gone."""
    from storage.results_db import results_path
    from tasks.publishing import publish_results
    from tasks.reporting import REPORT, write_report

    if plan.going and results_path(home).is_file():
        publish_results(home)
        if (home / REPORT).is_file():
            write_report(home)


def _row(item: "Item") -> dict[str, Any]:
    return {"id": item.name, "complete": item.complete, "bytes": item.bytes, "reason": item.reason or None}


def _bytes(items: "list[Item]") -> int:
    return sum(item.bytes for item in items)


def _print_plan(plan: "CleaningPlan", deleted: bool) -> None:
    going = "gone" if deleted else "would go"
    by_stage: dict[str, tuple[list[Any], list[Any]]] = {}
    for place, items in enumerate(plan):
        for item in items:
            by_stage.setdefault(item.name.split("/")[0], ([], []))[place].append(item)
    rows = []
    for stage, (gone, left) in sorted(by_stage.items()):
        rows.append([stage, len(gone), sized(_bytes(gone)), len(left), sized(_bytes(left))])
    print_table(["stage", going, f"{going}, size", "stay", "stay, size"], rows)
    for item in plan.going:
        print(f"{going}: {item.name}  {sized(item.bytes)}{'' if item.complete else '  (unfinished)'}")
    for item in plan.staying:
        print(f"stays: {item.name}  {sized(item.bytes)}  {printable(item.reason)}")
    verb = "deleted" if deleted else "to delete with --delete"
    print(f"{len(plan.going)} {verb}, {sized(_bytes(plan.going))}; {UNTOUCHED}")


def pin(
    ids: IdsArgument,
    why: Annotated[str, typer.Option("--why", metavar="TEXT", help="Why; srpo ls and srpo gc show it.")] = "by hand",
    home: HomeOption = DEFAULT_HOME,
    as_json: JsonOption = False,
) -> None:
    """Keep artifacts from srpo gc, with all they were made from; of a run, everything it used."""
    from storage import pins

    place, names = open_home(home), _artifacts(home, ids)
    pins.pin(place, names, why)
    _report(pins.read_pins(place), names, "pinned", as_json)


def unpin(ids: IdsArgument, home: HomeOption = DEFAULT_HOME, as_json: JsonOption = False) -> None:
    """Take pins away."""
    from storage import pins

    place, names = open_home(home), _artifacts(home, ids)
    found = pins.unpin(place, names)
    if not found:
        raise InputError(f"expected a pinned artifact, found no pin on {', '.join(ids)}; `srpo ls` shows the pins")
    _report(pins.read_pins(place), found, "unpinned", as_json)


def _artifacts(home: str, ids: list[str]) -> list[str]:
    """The artifacts that ids name, as "stage/fingerprint". Raises InputError for what is none, such as a game."""
    from storage.lookup import artifacts_named

    return list(dict.fromkeys(name for one in ids for name in artifacts_named(open_home(home), one)))


def _report(pins: dict[str, str], names: list[str], verb: str, as_json: bool) -> None:
    if as_json:
        print_json({verb: names, "pins": pins})
    else:
        print(f"{verb}: {', '.join(names)}")


def add_commands(app: typer.Typer) -> None:
    """Put the commands of this file into `app`."""
    for command in (gc, pin, unpin):
        app.command(command.__name__)(command)
