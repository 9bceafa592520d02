"""Anything in a home by its id: an artifact, a policy, a run, a text, a verdict, a pair or a prompt, with where it comes from.

`champion` is the id of whoever is champion, `registry/N` that of an entry of the registry. Artifacts, runs and entries are found
on disk, so that they can be looked at while a pipeline is at work; the rest in the published `results.duckdb`, which also says
whether the beginning of an id begins another one, and a judge's reply in the reply ledger.
"""

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import duckdb
import pyarrow as pa

from storage.artifact import STAGES, read_manifest
from storage.errors import UnusableInput
from storage.names import CHAMPION
from storage.pins import read_pins
from storage.registry import champion, read_registry
from storage.reply_ledger import find_reply
from storage.results_db import open_results, results_path
from storage.runs import read_run, read_runs

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

    kind: str  # artifact, run, registry entry, completion, game, pair or prompt
    name: str  # the whole id; of an artifact stage/fingerprint
    values: dict[str, Any]
    lineage: list[dict[str, Any]]  # every artifact it descends from: depth, role, stage, fingerprint


def find_record(home: Path, text: str) -> Record:
    """The one thing whose id is `text` or begins with it. Raises UnusableInput when there is none or several."""
    kind, name = locate(home, text)
    if kind == "artifact":
        return _artifact_record(home, name)
    if kind == "run":
        return Record("run", name, read_run(home, name), [])
    if kind == "registry entry":
        entries = {str(entry["entry"]): entry for entry in read_registry(home)}
        return Record(kind, name, _readable(entries[name.split("/")[1]]), [])
    return _row_record(home, kind, name)


def locate(home: Path, text: str) -> tuple[str, str]:
    """Kind and whole id of the one thing whose id is `text` or begins with it; of an artifact the id is stage/fingerprint.

    Raises UnusableInput when there is none or several.
    """
    wanted = text.strip().rstrip("/")
    if wanted == CHAMPION:
        return "artifact", f"policies/{_champion(home)}"
    if wanted.startswith("registry/"):
        return "registry entry", f"registry/{_entry_number(home, wanted)}"
    if len(wanted.split("/")[-1]) < SHORTEST_ID:
        raise UnusableInput(
            f"expected an id or at least its first {SHORTEST_ID} characters, found {text!r}; `srpo ls` lists artifacts"
        )
    on_disk = [*_artifact_names(home, wanted), *_run_names(home, wanted)]
    found = _exact(on_disk, wanted) or [*on_disk, *_row_names(home, wanted)]
    found = _exact(found, wanted) or found
    if len(found) != 1:
        published = "" if results_path(home).is_file() else "; texts, games and pairs can be shown after srpo publish"
        names = ", ".join(f"{kind} {name}" for kind, name in found[:4]) or "none"
        raise UnusableInput(
            f"expected one thing with the id {text!r} in {home}, found {names}; `srpo ls` lists artifacts{published}"
        )
    return found[0]


def _exact(found: list[tuple[str, str]], wanted: str) -> list[tuple[str, str]]:
    return [one for one in found if wanted in (one[1], one[1].split("/")[-1])]


def artifacts_named(home: Path, text: str) -> list[str]:
    """The artifact that an id names, or all that a run used, as stage/fingerprint. Raises UnusableInput for anything else."""
    kind, name = locate(home, text)
    if kind == "artifact":
        return [name]
    if kind != "run":
        raise UnusableInput(f"expected an artifact, a policy or a run, found the {kind} {name}; `srpo ls` lists artifacts")
    return [f"{stage['stage']}/{stage['fingerprint']}" for stage in read_run(home, name)["stages"]]


def _champion(home: Path) -> str:
    found = champion(home)
    if found is None:
        raise UnusableInput(f"expected a champion in the registry of {home}, found none; `srpo promote` makes one")
    return found


def _entry_number(home: Path, wanted: str) -> str:
    numbers = [str(entry["entry"]) for entry in read_registry(home)]
    number = wanted.removeprefix("registry/")
    if number not in numbers:
        if not numbers:
            raise UnusableInput(
                f"expected an entry of the registry, found none in {home}: no decision was made yet; `srpo promote` makes one"
            )
        raise UnusableInput(
            f"expected the number of an entry of the registry (1 to {len(numbers)}), found {number!r}; correct it"
        )
    return number


def _readable(entry: dict[str, Any]) -> dict[str, Any]:
    """An entry with its evidence as values instead of JSON text."""
    return entry | ({"evidence": json.loads(entry["evidence"])} if entry["evidence"] else {})


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
    """Those of `_TABLES` that the snapshot has: a table that is added does not change its version."""
    held = {row["table_name"] for row in _rows(connection, "SELECT table_name FROM duckdb_tables()", {})}
    return [(table, named) for table, named in _TABLES.items() if table in held]


def _rows(connection: duckdb.DuckDBPyConnection, sql: str, parameters: dict[str, Any]) -> list[dict[str, Any]]:
    used = {name: parameters[name] for name in re.findall(r"\$(\w+)", sql)}
    table: pa.Table = connection.sql(sql, params=used).to_arrow_table()
    return table.to_pylist()


def _artifact_record(home: Path, name: str) -> Record:
    stage, fingerprint = name.split("/")
    manifest = read_manifest(home / name)
    if manifest is None:
        return Record("artifact", name, {"complete": False, "path": str(home / name)}, [])
    values = {"complete": True, "path": str(home / name)}
    values |= {
        key: manifest[key]
        for key in ("created_at", "counts", "settings", "info", "digest", "version", "git_commit", "environment")
    }
    values |= _standing(home, name) | {"prefect_run": manifest.get("prefect_run")}
    values["files"] = [{key: entry.get(key) for key in ("name", "rows", "bytes")} for entry in manifest["files"]]
    return Record("artifact", name, values, lineage_of(home, stage, fingerprint))


def _standing(home: Path, name: str) -> dict[str, Any]:
    """Who vouches for an artifact: its pin, the runs that used it, and what the registry says of it as a policy."""
    used = [run["run_id"] for run in read_runs(home) if name in {f"{one['stage']}/{one['fingerprint']}" for one in run["stages"]}]
    standing: dict[str, Any] = {"pinned": read_pins(home).get(name), "used_by_runs": used}
    if name.startswith("policies/"):
        about = [entry for entry in read_registry(home) if f"policies/{entry['policy_id']}" == name]
        keys = ("entry", "at", "event", "by", "reason")
        standing["champion"] = f"policies/{champion(home)}" == name
        standing["registry"] = [{key: entry[key] for key in keys} for entry in about]
    return standing


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
    manifest = read_manifest(home / stage / fingerprint)
    lines: list[dict[str, Any]] = []
    seen: set[tuple[str, str]] = set()
    for role, parent in (manifest or {}).get("parents", {}).items():
        own = {"depth": depth, "role": role, "stage": parent["stage"], "fingerprint": parent["fingerprint"]}
        for line in [own, *lineage_of(home, parent["stage"], parent["fingerprint"], depth + 1)]:
            if (line["stage"], line["fingerprint"]) not in seen:
                seen.add((line["stage"], line["fingerprint"]))
                lines.append(line)
    return lines
