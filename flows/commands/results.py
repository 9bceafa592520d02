"""Commands that read: sql, ask, show, ls. None of them waits for a pipeline at work, none changes anything."""

import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from flows.commands.options import HomeOption, JsonOption
from flows.commands.output import print_fields, print_json, print_table
from flows.inputs import DEFAULT_HOME, open_home
from srpo_core.errors import InputError

FormatOption = Annotated[str, typer.Option("--format", help="table, csv or json.")]


def sql(
    query: Annotated[str, typer.Argument(metavar="SELECT", help="One SQL question; SHOW TABLES lists the tables.")],
    format_name: FormatOption = "table",
    home: HomeOption = DEFAULT_HOME,
) -> None:
    """Ask results.duckdb anything (read-only)."""
    _print_query(query, format_name, home)


def ask(
    name: Annotated[str | None, typer.Argument(metavar="[NAME]", help="A stored query; without a name all are listed.")] = None,
    format_name: FormatOption = "table",
    home: HomeOption = DEFAULT_HOME,
) -> None:
    """Ask results.duckdb a stored question."""
    from storage.results_db import list_queries, read_query

    if name is not None:
        _print_query(read_query(name), format_name, home)
    else:
        _print_rows(
            ["name", "question"], [{"name": key, "question": question} for key, question in list_queries().items()], format_name
        )


def _print_query(query: str, format_name: str, home: str) -> None:
    from storage.results_db import run_query

    _check_format(format_name)
    table = run_query(open_home(home), query)
    _print_rows(table.column_names, table.to_pylist(), format_name)


def _check_format(name: str) -> None:
    if name not in ("table", "csv", "json"):
        raise InputError(f"expected --format table, csv or json, found {name!r}; name one of them")


def _print_rows(columns: list[str], rows: list[dict[str, Any]], format_name: str) -> None:
    _check_format(format_name)
    if format_name == "json":
        print_json(rows)
    elif format_name == "csv":
        _print_csv(columns, rows)
    else:
        print_table(columns, [list(row.values()) for row in rows])


def _print_csv(columns: list[str], rows: list[dict[str, Any]]) -> None:
    import csv
    import json

    writer = csv.writer(sys.stdout, lineterminator="\n")
    writer.writerow(columns)
    for row in rows:
        nested = (json.dumps(v, ensure_ascii=False, default=str) if isinstance(v, list | dict) else v for v in row.values())
        writer.writerow(nested)


def show(
    name: Annotated[
        str,
        typer.Argument(
            metavar="ID", help="Of an artifact, policy, run, completion, game, pair or prompt; its beginning is enough."
        ),
    ],
    home: HomeOption = DEFAULT_HOME,
    as_json: JsonOption = False,
) -> None:
    """Show anything by its id, with what it was made from; of a game also the judge's reply."""
    from storage.lookup import find_record

    record = find_record(open_home(home), name)
    if as_json:
        print_json({"kind": record.kind, "id": record.name, **record.values, "lineage": record.lineage})
        return
    print(f"{record.kind} {record.name}")
    print_fields(record.values, "  ")
    print("made from:" if record.lineage else "made from nothing else in this home")
    for line in record.lineage:
        role = f"  ({line['role']})" if line["role"] else ""
        print(f"{'  ' * (line['depth'] + 1)}{line['stage']}/{line['fingerprint']}{role}")


def ls(
    stage: Annotated[str | None, typer.Argument(metavar="[STAGE]", help="Only artifacts of this stage.")] = None,
    home: HomeOption = DEFAULT_HOME,
    as_json: JsonOption = False,
) -> None:
    """List the artifacts of the home, complete or not."""
    from storage.artifact import STAGES

    if stage is not None and stage not in STAGES:
        raise InputError(f"expected a stage ({', '.join(STAGES)}), found {stage!r}; name one of them or none")
    place = open_home(home)
    if not place.is_dir():
        raise InputError(f"expected a home folder at {place}, found none; name one with --home or run a stage first")
    rows = _list_rows(place, [stage] if stage else list(STAGES))
    if as_json:
        print_json({"home": place, "artifacts": rows})
    else:
        counts = [", ".join(f"{value} {name}" for name, value in row["counts"].items() if value) for row in rows]
        created = [row["created_at"][:19] if row["complete"] else "not complete" for row in rows]
        lines = [[row["stage"], row["fingerprint"], row["name"], when] for row, when in zip(rows, created, strict=True)]
        print_table(
            ["stage", "id", "name", "created", "counts"], [[*line, text] for line, text in zip(lines, counts, strict=True)]
        )


def _list_rows(home: Path, stages: list[str]) -> list[dict[str, Any]]:
    from storage.artifact import list_artifacts, list_incomplete
    from storage.lookup import name_artifact

    rows = []
    for stage in stages:
        for one in list_artifacts(home, stage):
            facts = {"complete": True, "created_at": one.manifest["created_at"], "path": one.path, "counts": one.counts}
            rows.append({"stage": stage, "fingerprint": one.fingerprint, "name": name_artifact(one)} | facts)
        for path in list_incomplete(home, stage):
            facts = {"complete": False, "created_at": None, "path": path, "counts": {}}
            rows.append({"stage": stage, "fingerprint": path.name, "name": ""} | facts)
    return rows


def add_commands(app: typer.Typer) -> None:
    """Put the commands of this file into `app`."""
    for command in (sql, ask, show, ls):
        app.command(command.__name__)(command)
