"""Commands that look at a home's artifacts: ls, show, lineage. None waits for a pipeline at work, none changes anything."""

from typing import TYPE_CHECKING, Annotated, Any

import typer

from flows.commands.options import HomeOption, JsonOption
from flows.commands.output import print_fields, print_json, print_table, printable, sized
from flows.inputs import DEFAULT_HOME, open_home
from srpo_core.errors import InputError

if TYPE_CHECKING:
    from pathlib import Path

    from storage.lineage import Lineage

RUNS = "runs"
FAILURE_WIDTH = 50  # characters of a failure in the list of runs; srpo show gives all of it
LineageFormat = Annotated[str, typer.Option("--format", help="tree, mermaid (a drawing as text) or sql (the same question).")]


def ls(
    stage: Annotated[str | None, typer.Argument(metavar="[STAGE]", help="Only artifacts of this stage; runs lists runs.")] = None,
    home: HomeOption = DEFAULT_HOME,
    as_json: JsonOption = False,
) -> None:
    """List the artifacts of the home, complete or not, or its runs."""
    from storage.artifact import STAGES

    if stage is not None and stage not in (*STAGES, RUNS):
        raise InputError(f"expected a stage ({', '.join(STAGES)}) or runs, found {stage!r}; name one of them or none")
    place = open_home(home)
    if not place.is_dir():
        raise InputError(f"expected a home folder at {place}, found none; name one with --home or run a stage first")
    if stage == RUNS:
        _list_runs(home, as_json)
    else:
        _list_artifacts(home, [stage] if stage else list(STAGES), as_json)


def _list_artifacts(home: str, stages: list[str], as_json: bool) -> None:
    from storage.listing import artifact_rows

    rows = artifact_rows(open_home(home), stages)
    if as_json:
        print_json({"home": open_home(home), "artifacts": rows})
        return
    lines = []
    for row in rows:
        created = row["created_at"][:19] if row["complete"] else "not complete"
        marks = ", ".join([*(["champion"] if row["champion"] else []), *([f"pinned: {row['pinned']}"] if row["pinned"] else [])])
        counts = ", ".join(f"{value} {name}" for name, value in row["counts"].items() if value)
        lines.append([row["stage"], row["fingerprint"], row["name"], created, sized(row["bytes"]), marks, counts])
    print_table(["stage", "id", "name", "created", "size", "marks", "counts"], lines)


def _list_runs(home: str, as_json: bool) -> None:
    from storage.listing import run_rows

    rows = run_rows(open_home(home))
    if as_json:
        print_json({"home": open_home(home), "runs": rows})
        return
    columns = ("run_id", "state", "name", "deployment", "started_at", "artifacts", "prefect_run")
    lines = [[*(row[key] for key in columns), (row["failure"] or "")[:FAILURE_WIDTH]] for row in rows]
    print_table(["run", "state", "name", "deployment", "started", "artifacts", "Prefect run", "failure"], lines)


def show(
    name: Annotated[
        str,
        typer.Argument(
            metavar="ID",
            help="Of an artifact, policy, run, completion, game, pair or prompt, its beginning is enough; champion; registry/N.",
        ),
    ],
    home: HomeOption = DEFAULT_HOME,
    as_json: JsonOption = False,
) -> None:
    """Show anything by its id, with what it was made from; of a game also the judge's reply."""
    from storage.lookup import find_record

    record = find_record(open_home(home), name)
    values = _with_page(open_home(home), record.values)
    if as_json:
        print_json({"kind": record.kind, "id": record.name, **values, "lineage": record.lineage})
        return
    print(f"{record.kind} {record.name}")
    print_fields(values, "  ")
    if record.kind not in ("run", "registry entry"):
        print("made from:" if record.lineage else "made from nothing else in this home")
    for line in record.lineage:
        role = f"  ({line['role']})" if line["role"] else ""
        print(f"{'  ' * (line['depth'] + 1)}{line['stage']}/{line['fingerprint']}{role}")


def _with_page(home: "Path", values: dict[str, Any]) -> dict[str, Any]:
    """`values`, with the page of the Prefect run they name, as the record of that run has it."""
    from storage.runs import find_run

    run = None if values.get("prefect_page") else find_run(home, values.get("prefect_run"))
    return values | {"prefect_page": run["prefect_page"]} if run and run.get("prefect_page") else values


def lineage(
    name: Annotated[
        str, typer.Argument(metavar="ID", help="Of an artifact, policy, run, completion, game, pair or prompt; champion.")
    ],
    eval_set: Annotated[
        str | None, typer.Option("--eval-set", metavar="NAME", help="Of a policy: the win rates on this evaluation set.")
    ] = None,
    format_name: LineageFormat = "tree",
    home: HomeOption = DEFAULT_HOME,
    as_json: JsonOption = False,
) -> None:
    """Go back from a win rate, a verdict or an artifact to source files, settings, commit and Prefect run."""
    from flows.commands import lineage_drawing
    from storage.lineage import sql_of, trace_lineage

    if format_name not in ("tree", "mermaid", "sql"):
        raise InputError(f"expected --format tree, mermaid or sql, found {format_name!r}; name one of them")
    found = trace_lineage(open_home(home), name, eval_set)
    rates = _win_rates(home, found, eval_set)
    if as_json:
        print_json(_as_values(found) | {"win_rates": rates})
    elif format_name == "sql":
        print(sql_of(found))
    elif format_name == "mermaid":
        print(lineage_drawing.mermaid(found))
    else:
        if rates:
            print_table(list(rates[0]), [list(row.values()) for row in rates])
        print(printable(lineage_drawing.tree(found)))


def _win_rates(home: str, found: "Lineage", eval_set: str | None) -> list[dict[str, Any]]:
    """The rates whose lineage was asked for; none where no set was named or nothing is published."""
    from storage.results_db import results_path, run_query

    if eval_set is None or not results_path(open_home(home)).is_file():
        return []
    policy, literal = found.asked.rsplit("/", 1)[-1], eval_set.replace("'", "''")
    sql = f"""SELECT eval_set, judge, opponent, revision_index, n_scored, win_rate, ci_low, ci_high FROM win_rates
        WHERE policy_id = '{policy}' AND eval_set = '{literal}' ORDER BY ALL"""
    return run_query(open_home(home), sql).to_pylist()


def _as_values(found: "Lineage") -> dict[str, Any]:
    from storage.lineage import sql_of

    nodes = [node._asdict() for node in found.nodes.values()]
    return {
        "asked": found.asked,
        "roots": found.roots,
        "artifacts": nodes,
        "made_from": [edge._asdict() for edge in found.edges],
        "sql": sql_of(found),
    }


def add_commands(app: typer.Typer) -> None:
    """Put the commands of this file into `app`."""
    for command in (ls, show, lineage):
        app.command(command.__name__)(command)
