"""Commands that ask the published database: sql, ask. Neither waits for a pipeline at work, neither changes anything."""

import sys
from typing import Annotated, Any

import typer

from flows.commands.options import HomeOption
from flows.commands.output import print_json, print_table
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
    assignments: Annotated[
        list[str] | None, typer.Option("--set", metavar="NAME=VALUE", help="A parameter of the query; repeat it for another.")
    ] = None,
    format_name: FormatOption = "table",
    home: HomeOption = DEFAULT_HOME,
) -> None:
    """Ask results.duckdb a stored question."""
    from storage.stored_queries import ask_query, describe_queries, read_assignments

    _check_format(format_name)
    given = read_assignments(assignments or [])
    if name is not None:
        table = ask_query(open_home(home), name, given)
        _print_rows(table.column_names, table.to_pylist(), format_name)
    elif given:
        raise InputError("expected the name of a stored query before --set, found none; `srpo ask` lists them with parameters")
    else:
        _print_rows(["name", "question", "parameters"], describe_queries(), format_name)


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
        if not rows:
            print("no rows", file=sys.stderr)


def _print_csv(columns: list[str], rows: list[dict[str, Any]]) -> None:
    import csv
    import json

    writer = csv.writer(sys.stdout, lineterminator="\n")
    writer.writerow(columns)
    for row in rows:
        nested = (json.dumps(v, ensure_ascii=False, default=str) if isinstance(v, list | dict) else v for v in row.values())
        writer.writerow(nested)


def add_commands(app: typer.Typer) -> None:
    """Put the commands of this file into `app`."""
    for command in (sql, ask):
        app.command(command.__name__)(command)
