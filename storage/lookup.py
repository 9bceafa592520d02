"""Anything in a home by its id: an artifact, a policy, a run, a text, a verdict, a pair or a prompt, with where it comes from.

Artifacts and runs are found on disk, so that they can be looked at while a pipeline is at work; the rest in the published
`results.duckdb`, and a judge's reply in the reply ledger.
"""

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import duckdb
import pyarrow as pa

from storage.artifact import MANIFEST, STAGES, Artifact
from storage.errors import UnusableInput
from storage.reply_ledger import find_reply
from storage.results_db import open_results, results_path
from storage.runs import read_run

SHORTEST_ID = 4  # characters; less would match by accident
# table -> what its rows are called, and the column of their ids
_TABLES = {
    "completions": ("completion", "completion_id"),
    "games": ("game", "game_id"),
    "knockout_games": ("game", "game_id"),
    "audit_verdicts": ("game", "game_id"),
    "injection_games": ("game", "game_id"),
    "sentinel_verdicts": ("game", "game_id"),
    "preferences": ("pair", "pair_id"),
    "prompts": ("prompt", "prompt_id"),
}
# Audits put the same games to every judge.
_BY_OTHER_JUDGES = """SELECT DISTINCT judge, outcome, score, unscored_reason, artifact FROM {table}
    WHERE game_id = $game_id AND artifact <> $artifact ORDER BY ALL"""
_LABELLED_PAIR = """SELECT prompt, chosen, rejected FROM preferences p JOIN lineage l ON l.parent = p.artifact
    WHERE l.child = $artifact AND p.pair_id = $prompt_id LIMIT 1"""
# What is shown beside the row itself, each a list of rows.
_DETAILS = {
    "completions": {
        "prompt": "SELECT DISTINCT eval_set, domain, prompt, gold FROM prompts WHERE prompt_id = $prompt_id",
        "chain": """SELECT DISTINCT revision_index, completion_id, finish_reason, text FROM completions WHERE artifact = $artifact
            AND prompt_id = $prompt_id AND sample_index = $sample_index AND policy_id = $policy_id ORDER BY revision_index""",
        "games": """SELECT DISTINCT game_id, judge, "order", opponent, outcome, score, unscored_reason
            FROM verdicts WHERE candidate = $completion_id ORDER BY ALL""",
    },
    "games": {
        "verdict": """SELECT eval_set, method, policy_id, revision_index, prompt, candidate_text, opponent, opponent_text
            FROM verdicts WHERE game_id = $game_id LIMIT 1""",
    },
    "knockout_games": {
        "drafts": """SELECT DISTINCT completion_id, sample_index, text FROM completions c JOIN lineage l ON l.parent = c.artifact
            WHERE l.child = $artifact AND completion_id IN ($candidate, $opponent) ORDER BY ALL""",
    },
    "audit_verdicts": {"pair": _LABELLED_PAIR, "other_verdicts": _BY_OTHER_JUDGES.format(table="audit_verdicts")},
    "injection_games": {"pair": _LABELLED_PAIR, "other_verdicts": _BY_OTHER_JUDGES.format(table="injection_games")},
    "sentinel_verdicts": {
        "pair": """SELECT prompt, candidate, candidate_text, opponent, opponent_text
            FROM sentinel_games s JOIN lineage l ON l.parent = s.artifact
            WHERE l.child = $artifact AND s.pair_id = $prompt_id LIMIT 1""",
        "other_verdicts": _BY_OTHER_JUDGES.format(table="sentinel_verdicts"),
    },
    "preferences": {
        "overlaps": "SELECT DISTINCT prompt_id, kind FROM contamination WHERE pair_id = $pair_id ORDER BY ALL",
    },
    "prompts": {
        "completions": """SELECT DISTINCT method, c.policy_id, sample_index, revision_index, completion_id, text
            FROM completions c LEFT JOIN policies USING (policy_id) WHERE prompt_id = $prompt_id ORDER BY ALL""",
    },
}


class Record(NamedTuple):
    """What an id names."""

    kind: str  # artifact, run, completion, game, pair or prompt
    name: str  # the whole id; of an artifact stage/fingerprint
    values: dict[str, Any]
    lineage: list[dict[str, Any]]  # every artifact it descends from: depth, role, stage, fingerprint


def find_record(home: Path, text: str) -> Record:
    """The one thing whose id is `text` or begins with it. Raises UnusableInput when there is none or several."""
    wanted = text.strip().rstrip("/")
    if len(wanted.split("/")[-1]) < SHORTEST_ID:
        raise UnusableInput(
            f"expected an id or at least its first {SHORTEST_ID} characters, found {text!r}; `srpo ls` lists artifacts"
        )
    found = [*_artifact_names(home, wanted), *_run_names(home, wanted), *_row_names(home, wanted)]
    exact = [one for one in found if one[1].split("/")[-1] == wanted or one[1] == wanted]
    found = exact or found
    if len(found) != 1:
        published = "" if results_path(home).is_file() else "; texts, games and pairs can be shown after srpo publish"
        names = ", ".join(f"{kind} {name}" for kind, name in found[:4]) or "none"
        raise UnusableInput(
            f"expected one thing with the id {text!r} in {home}, found {names}; `srpo ls` lists artifacts{published}"
        )
    kind, name = found[0]
    if kind == "artifact":
        return _artifact_record(home, name)
    if kind == "run":
        return Record("run", name, read_run(home, name), [])
    return _row_record(home, kind, name)


def _artifact_names(home: Path, wanted: str) -> Iterator[tuple[str, str]]:
    stage_wanted, _, fingerprint = wanted.rpartition("/")
    for stage in STAGES:
        if stage_wanted in ("", stage) or stage_wanted == str(home / stage):
            for path in sorted((home / stage).glob("*")):
                if path.is_dir() and path.name.startswith(fingerprint):
                    yield "artifact", f"{stage}/{path.name}"


def _run_names(home: Path, wanted: str) -> Iterator[tuple[str, str]]:
    for path in sorted((home / "runs").glob("*.json")):
        if path.stem.startswith(wanted):
            yield "run", path.stem


def _row_names(home: Path, wanted: str) -> list[tuple[str, str]]:
    if not results_path(home).is_file():
        return []
    with open_results(home) as connection:
        found = [
            (kind, str(row["id"]))
            for table, (kind, column) in _held_tables(connection)
            for row in _rows(
                connection,
                f"SELECT DISTINCT {column} AS id FROM {table} WHERE starts_with({column}, $id) LIMIT 5",
                {"id": wanted},
            )
        ]
    return list(dict.fromkeys(found))


def _held_tables(connection: duckdb.DuckDBPyConnection) -> list[tuple[str, tuple[str, str]]]:
    """Those of `_TABLES` that the snapshot has: an earlier version may have published it."""
    held = {row["table_name"] for row in _rows(connection, "SELECT table_name FROM duckdb_tables()", {})}
    return [(table, named) for table, named in _TABLES.items() if table in held]


def _rows(connection: duckdb.DuckDBPyConnection, sql: str, parameters: dict[str, Any]) -> list[dict[str, Any]]:
    used = {name: parameters[name] for name in re.findall(r"\$(\w+)", sql)}
    table: pa.Table = connection.sql(sql, params=used).to_arrow_table()
    return table.to_pylist()


def _artifact_record(home: Path, name: str) -> Record:
    stage, fingerprint = name.split("/")
    manifest = read_manifest(home, stage, fingerprint)
    if manifest is None:
        return Record("artifact", name, {"complete": False, "path": str(home / name)}, [])
    values = {"complete": True, "path": str(home / name)}
    values |= {
        key: manifest[key]
        for key in ("created_at", "counts", "settings", "info", "digest", "version", "git_commit", "environment")
    }
    values["files"] = [{key: entry.get(key) for key in ("name", "rows", "bytes")} for entry in manifest["files"]]
    return Record("artifact", name, values, lineage_of(home, stage, fingerprint))


def _row_record(home: Path, kind: str, name: str) -> Record:
    with open_results(home) as connection:
        table, row = _find_row(connection, kind, name)
        details = {key: _rows(connection, sql, row) for key, sql in _DETAILS[table].items()}
        stages = "SELECT stage FROM artifacts WHERE fingerprint = $artifact"
        stage = str(_rows(connection, stages, row)[0]["stage"])
    if kind == "game":
        details["reply"] = find_reply(home, row["request_hash"]) if row["request_hash"] else None  # type: ignore[assignment]
    own = {"depth": 0, "role": "", "stage": stage, "fingerprint": row["artifact"]}
    return Record(kind, name, row | details, [own, *lineage_of(home, stage, row["artifact"])])


def _find_row(connection: duckdb.DuckDBPyConnection, kind: str, name: str) -> tuple[str, dict[str, Any]]:
    """The row of that id, and the table that has it."""
    for table, (own_kind, column) in _held_tables(connection):
        sql = f"SELECT * FROM {table} WHERE {column} = $id ORDER BY artifact LIMIT 1"
        rows = _rows(connection, sql, {"id": name}) if own_kind == kind else []
        if rows:
            return table, rows[0]
    raise UnusableInput(f"expected a {kind} with the id {name!r}, found none; run srpo publish again")


def lineage_of(home: Path, stage: str, fingerprint: str, depth: int = 1) -> list[dict[str, Any]]:
    """Every artifact that one descends from, nearest first along each line; one that is gone ends its line."""
    manifest = read_manifest(home, stage, fingerprint)
    lines: list[dict[str, Any]] = []
    seen: set[tuple[str, str]] = set()
    for role, parent in (manifest or {}).get("parents", {}).items():
        own = {"depth": depth, "role": role, "stage": parent["stage"], "fingerprint": parent["fingerprint"]}
        for line in [own, *lineage_of(home, parent["stage"], parent["fingerprint"], depth + 1)]:
            if (line["stage"], line["fingerprint"]) not in seen:
                seen.add((line["stage"], line["fingerprint"]))
                lines.append(line)
    return lines


def read_manifest(home: Path, stage: str, fingerprint: str) -> dict[str, Any] | None:
    """The manifest of an artifact, or None while it is not complete."""
    file = home / stage / fingerprint / MANIFEST
    return json.loads(file.read_text(encoding="utf-8")) if file.is_file() else None


def name_artifact(artifact: Artifact) -> str:
    """What a person calls it: completions by policy and evaluation set, games by these and their judge; empty without a name."""
    home = artifact.path.parent.parent

    def of(role: str) -> str:
        parent = artifact.manifest["parents"].get(role, {"stage": "", "fingerprint": ""})
        manifest = read_manifest(home, parent["stage"], parent["fingerprint"])
        return name_artifact(Artifact(home / parent["stage"] / parent["fingerprint"], manifest)) if manifest else "?"

    if artifact.stage == "completions":
        return f"{of('policy')} on {of('prompts')}"
    if artifact.stage == "games":
        return f"{of('completions')} by {artifact.info.get('judge')}"
    return str(artifact.info.get("name") or artifact.settings.get("name") or artifact.settings.get("domain") or "")
