"""Loads the artifacts of a home into the tables of the results database.

A Parquet part belongs to the table whose columns it has; every row carries the fingerprint of its artifact (`artifact`), so
that a game meets exactly the prompts and completions its own manifest names as parents.
"""

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import duckdb
import pyarrow as pa
import pyarrow.parquet as pq

from storage import schemas
from storage.artifact import STAGES, Artifact, hash_of, list_artifacts, list_incomplete
from storage.disk_usage import size_on_disk
from storage.errors import BrokenArtifact
from storage.registry import read_registry
from storage.results_records import CHAMPIONS, registry_table, run_tables

TABLES = {
    "preferences": schemas.PREFERENCES,
    "rejected_rows": schemas.REJECTED_ROWS,
    "prompts": schemas.PROMPTS,
    "contamination": schemas.CONTAMINATION,
    "training_log": schemas.TRAINING_LOG,
    "completions": schemas.COMPLETIONS,
    "games": schemas.GAMES,
    "ceilings": schemas.CEILINGS,
    "one_edit": schemas.ONE_EDIT,
    "likelihoods": schemas.LIKELIHOODS,
    "rewards": schemas.REWARDS,
    "knockout_matches": schemas.KNOCKOUT_MATCHES,
    "knockout_games": schemas.GAMES,  # of a draft against another of the same prompt
    "equal_compute": schemas.EQUAL_COMPUTE,
    "equal_compute_matches": schemas.EQUAL_COMPUTE_MATCHES,
    "audit_verdicts": schemas.AUDIT_VERDICTS,
    "audit_measures": schemas.AUDIT_MEASURES,
    "injection_games": schemas.INJECTION_GAMES,
    "attack_rates": schemas.ATTACK_RATES,
    "sentinel_games": schemas.SENTINEL_GAMES,
    "sentinel_verdicts": schemas.SENTINEL_VERDICTS,
    "sentinel_looks": schemas.SENTINEL_LOOKS,
}
ADDED_LATER = {"games": set(schemas.GAMES_ADDED)}
# "sources" is not here: the merge over them (preferences) holds the same pairs and rejected rows again.
STAGE_TABLES = {
    "preferences": ("preferences", "rejected_rows"),
    "prompts": ("prompts", "rejected_rows"),
    "contamination": ("contamination",),
    "policies": ("training_log",),
    "completions": ("completions",),
    "games": ("games",),
    "diagnostics": ("ceilings", "one_edit"),
    "likelihoods": ("likelihoods",),
    "rewards": ("rewards",),
    "knockouts": ("knockout_matches", "knockout_games"),
    "equal_compute": ("equal_compute", "equal_compute_matches"),
    "audits": ("audit_verdicts", "audit_measures", "injection_games", "attack_rates"),
    "sentinels": ("sentinel_games",),
    "sentinel_looks": ("sentinel_verdicts", "sentinel_looks"),
}
POLICIES = pa.schema(
    [
        ("policy_id", pa.string()),
        ("name", pa.string()),
        ("method", pa.string()),
        ("seed", pa.int64()),
        ("alpha", pa.float64()),
        ("beta", pa.float64()),
        ("learning_rate", pa.float64()),
        ("settings", pa.string()),  # JSON
        ("created_at", pa.string()),
    ]
)
ARTIFACTS = pa.schema(
    [
        ("stage", pa.string()),
        ("fingerprint", pa.string()),
        ("complete", pa.bool_()),
        ("version", pa.int64()),
        ("digest", pa.string()),
        ("created_at", pa.string()),
        ("git_commit", pa.string()),
        ("bytes", pa.int64()),  # of all files in its folder; linked ones are not counted
        ("rows", pa.int64()),  # of its Parquet files
        ("counts", pa.string()),  # JSON
        ("settings", pa.string()),  # JSON
        ("info", pa.string()),  # JSON
    ]
)
LINEAGE = pa.schema([(n, pa.string()) for n in ("child_stage", "child", "parent_name", "parent_stage", "parent")])
COUNTS = pa.schema([("stage", pa.string()), ("fingerprint", pa.string()), ("name", pa.string()), ("value", pa.int64())])


class Home(NamedTuple):
    """What lies in a home at one moment."""

    artifacts: list[Artifact]
    incomplete: list[Path]  # folders
    runs: list[tuple[Path, int]]  # record and the time of its last change, nanoseconds
    registry: list[dict[str, Any]]  # entries, oldest first


def list_home(home: Path) -> Home:
    """Artifacts, complete or not, records of runs, entries of the registry; two equal listings mean nothing happened between."""
    artifacts = [artifact for stage in STAGES for artifact in list_artifacts(home, stage)]
    incomplete = [path for stage in STAGES for path in list_incomplete(home, stage)]
    runs = [(path, path.stat().st_mtime_ns) for path in sorted((home / "runs").glob("*.json"))]
    return Home(artifacts, incomplete, runs, read_registry(home))


def load_tables(connection: duckdb.DuckDBPyConnection, home: Home) -> None:
    """Create and fill every table that comes straight from manifests, Parquet parts and run records."""
    for name, schema in TABLES.items():
        fields: list[Any] = [("artifact", pa.string()), *schema]
        store_table(connection, name, pa.schema(fields).empty_table())
    for table, column in (("completions", "sampling"), ("games", "judge_settings"), ("training_log", "policy_id")):
        connection.execute(f"ALTER TABLE {table} ADD COLUMN {column} VARCHAR")
    for artifact in home.artifacts:
        _load_parts(connection, artifact)
    connection.execute("UPDATE training_log SET policy_id = artifact")
    policies = [_policy(artifact) for artifact in home.artifacts if artifact.stage == "policies"]
    store_table(connection, "policies", pa.Table.from_pylist(policies, POLICIES))
    store_table(connection, "artifacts", pa.Table.from_pylist(list(_artifact_rows(home)), ARTIFACTS))
    store_table(connection, "lineage", pa.Table.from_pylist(list(_lineage_rows(home)), LINEAGE))
    store_table(connection, "counts", pa.Table.from_pylist(list(_count_rows(home)), COUNTS))
    for name, table in run_tables([path for path, _ in home.runs], home.artifacts).items():
        store_table(connection, name, table)
    store_table(connection, "registry", registry_table(home.registry))
    connection.execute(CHAMPIONS)


def store_table(connection: duckdb.DuckDBPyConnection, name: str, table: pa.Table) -> None:
    """Create (or replace) a table of the database from an Arrow table."""
    connection.register("incoming", table)
    connection.execute(f'CREATE OR REPLACE TABLE "{name}" AS SELECT * FROM incoming')
    connection.unregister("incoming")


def _load_parts(connection: duckdb.DuckDBPyConnection, artifact: Artifact) -> None:
    parts: dict[str, list[str]] = {}
    for entry in artifact.manifest["files"]:
        table = _table_of(artifact, artifact.path / entry["name"]) if entry["name"].endswith(".parquet") else None
        if table is not None:
            parts.setdefault(table, []).append(str(artifact.path / entry["name"]))
    for table, paths in parts.items():
        written = set(pq.read_schema(paths[0]).names)  # a column added since then stays null
        columns = {"artifact": "?"} | {f'"{name}"': f'"{name}"' for name in TABLES[table].names if name in written}
        values: list[Any] = [artifact.fingerprint]
        if table == "completions":
            columns["sampling"] = "?"
            values.append(sampling_of(artifact.settings))
        if table == "games":
            columns["judge_settings"] = "?"
            values.append(hash_of(artifact.settings.get("judge"), 6))
        selected = ", ".join(f"{value} AS {name}" for name, value in columns.items())
        try:
            connection.execute(f"INSERT INTO {table} BY NAME SELECT {selected} FROM read_parquet(?)", [*values, paths])
        except duckdb.Error as error:
            raise _unreadable(artifact, str(error)) from error


def _table_of(artifact: Artifact, path: Path) -> str | None:
    """The table a part belongs to, or None for files that are not published."""
    tables = STAGE_TABLES.get(artifact.stage)
    if tables is None:
        return None
    try:
        found = set(pq.read_schema(path).names)
    except (pa.ArrowInvalid, OSError) as error:
        raise _unreadable(artifact, str(error)) from error
    for table in tables:
        if found >= set(TABLES[table].names) - ADDED_LATER.get(table, set()):
            return table
    held_elsewhere = any(found >= set(schema.names) for schema in TABLES.values())
    if path.name.startswith("part-") and artifact.stage != "policies" and not held_elsewhere:
        raise _unreadable(artifact, f"the columns {', '.join(sorted(found))} in {path.name}")
    return None


def _unreadable(artifact: Artifact, found: str) -> BrokenArtifact:
    first = found.splitlines()[0]
    return BrokenArtifact(
        f"expected the Parquet parts that the manifest of {artifact.path} lists, found: {first}; delete it and run again"
    )


def _policy(artifact: Artifact) -> dict[str, Any]:
    settings = artifact.settings.get("settings") or {}
    method = artifact.settings.get("method", "hub")
    return {
        "policy_id": artifact.fingerprint,
        "name": artifact.info.get("name") or method,
        "method": method,
        "seed": settings.get("seed"),
        "alpha": settings.get("alpha") if method == "srpo" else None,
        "beta": settings.get("beta"),
        "learning_rate": settings.get("learning_rate"),
        "settings": json.dumps(artifact.settings, sort_keys=True, ensure_ascii=False),
        "created_at": artifact.manifest["created_at"],
    }


def _artifact_rows(home: Home) -> Iterator[dict[str, Any]]:
    for artifact in home.artifacts:
        manifest = artifact.manifest
        yield {name: manifest[name] for name in ("stage", "fingerprint", "version", "digest", "created_at", "git_commit")} | {
            "complete": True,
            "bytes": size_on_disk(artifact.path),
            "rows": sum(entry.get("rows", 0) for entry in manifest["files"]),
            **{name: json.dumps(manifest[name], sort_keys=True, ensure_ascii=False) for name in ("counts", "settings", "info")},
        }
    for path in home.incomplete:
        yield {"stage": path.parent.name, "fingerprint": path.name, "complete": False, "bytes": size_on_disk(path)}


def _lineage_rows(home: Home) -> Iterator[dict[str, str]]:
    for artifact in home.artifacts:
        for name, parent in artifact.manifest["parents"].items():
            yield {
                "child_stage": artifact.stage,
                "child": artifact.fingerprint,
                "parent_name": name,
                "parent_stage": parent["stage"],
                "parent": parent["fingerprint"],
            }


def _count_rows(home: Home) -> Iterator[dict[str, Any]]:
    for artifact in home.artifacts:
        for name, value in artifact.counts.items():
            yield {"stage": artifact.stage, "fingerprint": artifact.fingerprint, "name": name, "value": value}


def sampling_of(settings: Mapping[str, Any]) -> str:
    """The column `sampling`: decoding settings that change texts besides the temperature, wherever in `settings` they stand."""
    found: dict[str, Any] = {}
    pending: list[Mapping[str, Any]] = [settings]
    while pending:
        level = pending.pop()
        found |= {name: level[name] for name in ("top_p", "max_new_tokens") if name in level}
        pending += [value for value in level.values() if isinstance(value, dict)]
    return " ".join(f"{name}={value}" for name, value in sorted(found.items()))
