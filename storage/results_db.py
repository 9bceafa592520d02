"""`<home>/results.duckdb`: a published snapshot, built from Parquet and swapped in by one rename.

DuckDB lets one process write and nobody read beside it, so nobody ever writes to the published file: a new one is built
beside it under a lease and renamed over it. Who has the old one open keeps reading it; who opens next sees the new one.
Deleting the file loses nothing.
"""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import duckdb
import pyarrow as pa

from storage.errors import UnusableInput
from storage.lease import lease
from storage.parquet import write_atomically
from storage.results_relations import comparisons, relate, relate_win_rates
from storage.results_tables import Home, list_home, load_tables, store_table

RESULTS = "results.duckdb"
RESULTS_VERSION = 3  # rises with every change of a relation's columns; an older snapshot has to be published again
Statistics = Callable[[pa.Table], Mapping[str, pa.Table]]
_READING = {
    duckdb.StatementType.SELECT,
    duckdb.StatementType.EXPLAIN,
    duckdb.StatementType.PRAGMA,
    duckdb.StatementType.CALL,
    duckdb.StatementType.RELATION,
}


def results_path(home: Path) -> Path:
    """Where the results database of a home lies."""
    return home / RESULTS


def publish_snapshot(home: Path, statistics: Statistics) -> Path:
    """Build the database of everything in `home` and swap it in; returns its path.

    `statistics` receives the comparisons (one row a question, both orders) and returns tables to store. One publisher at a
    time; when an artifact arrives while the snapshot is built, it is built again (at most three times, so that a busy pipeline
    cannot hold it up for ever).
    """
    path = results_path(home)
    if not home.is_dir():
        raise UnusableInput(f"expected a home folder at {home}, found none; name one with --home or run a stage first")
    with lease(home / ".publishing"):
        for leftover in home.glob(f".{RESULTS}.*"):
            leftover.unlink()
        write_atomically(path, lambda temporary: _build_until_stable(home, temporary, statistics))
    return path


def _build_until_stable(home: Path, path: Path, statistics: Statistics) -> None:
    for _ in range(3):
        path.unlink(missing_ok=True)
        listing = list_home(home)
        _build(listing, path, statistics)
        if list_home(home) == listing:
            return


def _build(listing: Home, path: Path, statistics: Statistics) -> None:
    with duckdb.connect(str(path)) as connection:
        load_tables(connection, listing)
        relate(connection)
        tables = statistics(comparisons(connection))
        for name, table in tables.items():
            store_table(connection, name, table)
        if "win_rate_bands" in tables:
            relate_win_rates(connection)
        connection.execute(f"CREATE TABLE published AS SELECT {RESULTS_VERSION} AS version")
        connection.execute("CHECKPOINT")


def open_results(home: Path) -> duckdb.DuckDBPyConnection:
    """Open the published snapshot for reading; the connection can reach no other file and change no setting.

    The file is attached, not opened, because DuckDB hands every opener of one path in a process the same instance: after a
    new snapshot was swapped in, it would still give the old one. Raises UnusableInput when there is no readable database.
    """
    path = results_path(home)
    if not path.is_file():
        raise UnusableInput(f"expected a results database at {path}, found none; run srpo publish with --home {home} first")
    connection = duckdb.connect(":memory:")
    try:
        literal = str(path).replace("'", "''")
        connection.execute(f"ATTACH '{literal}' AS results (READ_ONLY)")
        connection.execute("USE results; SET enable_external_access = false; SET lock_configuration = true")
        version = _version(connection)
    except duckdb.Error as error:
        connection.close()
        raise UnusableInput(
            f"expected a results database at {path}, found: {_first_line(error)}; delete it and run srpo publish again"
        ) from error
    if version != RESULTS_VERSION:
        connection.close()
        raise UnusableInput(
            f"expected a results database of version {RESULTS_VERSION} at {path}, found version {version}, published by another "
            f"version of srpo; run srpo publish with --home {home}"
        )
    return connection


def _version(connection: duckdb.DuckDBPyConnection) -> int:
    """The version a snapshot was published by; 1 for those that do not say."""
    if not connection.execute("FROM duckdb_tables() WHERE table_name = 'published'").fetchall():
        return 1
    return int(connection.execute("FROM published").fetchall()[0][0])


def run_query(home: Path, sql: str, values: Mapping[str, Any] | None = None) -> pa.Table:
    """Run one reading statement on the published snapshot and return its rows; `values` are what it names as $parameters.

    Raises UnusableInput on a missing database, an SQL error, several statements, or a statement that is not a question.
    """
    with open_results(home) as connection:
        try:
            statements = connection.extract_statements(sql)
            if len(statements) != 1:
                raise UnusableInput(f"expected one SQL statement, found {len(statements)}; write one SELECT")
            if statements[0].type not in _READING:
                raise UnusableInput(
                    f"expected a question (SELECT, SHOW, DESCRIBE), found {statements[0].type.name}: {RESULTS} is a read-only "
                    "snapshot of the Parquet artifacts; change those by running a stage and publish again"
                )
            relation = connection.sql(sql, params=dict(values)) if values else connection.sql(sql)
            return pa.table({}) if relation is None else relation.to_arrow_table()
        except duckdb.Error as error:
            raise UnusableInput(
                f"expected SQL that DuckDB can run, found {_first_line(error)}; "
                "`SHOW TABLES` lists the tables, `DESCRIBE name` their columns"
            ) from error


def _first_line(error: duckdb.Error) -> str:
    return str(error).splitlines()[0]
