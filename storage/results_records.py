"""Loads what a home keeps beside its artifacts into the results database: records of runs, and the registry of champions.

A record written by an earlier version lacks keys; their columns are null.
"""

import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa

from storage.artifact import Artifact
from storage.makers import Makers
from storage.runs import read_run
from storage.schemas import REGISTRY

RUNS = pa.schema(
    [
        ("run_id", pa.string()),
        ("state", pa.string()),  # running, completed, failed, cancelled, suspended or dead
        ("name", pa.string()),  # of its settings: the preset's, or a person's own
        ("deployment", pa.string()),  # the Prefect deployment that started it; null from the command line
        ("prefect_run", pa.string()),
        ("prefect_page", pa.string()),  # its address in the server's UI
        ("git_commit", pa.string()),
        ("started_at", pa.string()),  # ISO, UTC
        ("recorded_at", pa.string()),  # of the state; ISO, UTC
        ("failure", pa.string()),  # the sentence it failed with
        ("record", pa.string()),  # JSON: all of it, with the settings
    ]
)
RUN_ARTIFACTS = pa.schema([(name, pa.string()) for name in ("run_id", "stage", "fingerprint", "digest")])
RUN_STAGES = pa.schema(
    [
        ("run_id", pa.string()),
        ("call", pa.int64()),  # 1 = the stage that ended first; of each attempt those at work come last
        ("stage", pa.string()),  # as logs name it, for example "train policies"
        ("seconds", pa.float64()),  # stages at work at the same time each count theirs; null while at work, or killed there
        ("artifacts", pa.list_(pa.string())),  # stage/fingerprint of what it gave, made or found complete; empty when it failed
    ]
)
MADE_BY = pa.schema([(name, pa.string()) for name in ("stage", "fingerprint", "run_id")])  # storage/makers.py has the rule
# Who was champion from when to when, newest last; `until` is null for the one who is.
CHAMPIONS = """
CREATE VIEW champions AS
SELECT champion_id AS policy_id, "at" AS since, lead("at") OVER (ORDER BY entry) AS until, entry, reason
FROM registry WHERE champion_id IS DISTINCT FROM previous_champion_id
QUALIFY champion_id IS NOT NULL
ORDER BY entry
"""


def registry_table(entries: Sequence[Mapping[str, Any]]) -> pa.Table:
    """The table `registry` of entries as `read_registry` gives them."""
    return pa.Table.from_pylist([dict(entry) for entry in entries], REGISTRY)


def run_tables(paths: Sequence[Path], artifacts: Sequence[Artifact]) -> dict[str, pa.Table]:
    """The tables `runs`, `run_artifacts` and `run_stages` of the records at `paths`, and `made_by` of the `artifacts`.

    Raises BrokenArtifact for a file that is no record.
    """
    records = [read_run(path.parent.parent, path.stem) for path in paths]
    used = [row for record in records for row in _artifact_rows(record)]
    stages = [row for record in records for row in _stage_rows(record)]
    return {
        "runs": pa.Table.from_pylist([_run_row(record) for record in records], RUNS),
        "run_artifacts": pa.Table.from_pylist(used, RUN_ARTIFACTS),
        "run_stages": pa.Table.from_pylist(stages, RUN_STAGES),
        "made_by": pa.Table.from_pylist(list(_maker_rows(records, artifacts)), MADE_BY),
    }


def _run_row(record: dict[str, Any]) -> dict[str, Any]:
    named = {name: record.get(name) for name in RUNS.names}
    return named | {
        "run_id": str(record["run_id"]),
        "name": record["settings"].get("name"),
        "git_commit": record.get("git_commit", record.get("commit")),
        "record": json.dumps(record, sort_keys=True, ensure_ascii=False),
    }


def _artifact_rows(record: dict[str, Any]) -> Iterator[dict[str, Any]]:
    for used in record["stages"]:
        yield {"run_id": str(record["run_id"])} | used


def _maker_rows(records: Sequence[dict[str, Any]], artifacts: Sequence[Artifact]) -> Iterator[dict[str, Any]]:
    makers = Makers(records)
    for one in artifacts:
        run = makers.run_of(one)
        if run is not None:
            yield {"stage": one.stage, "fingerprint": one.fingerprint, "run_id": str(run["run_id"])}


def _stage_rows(record: dict[str, Any]) -> Iterator[dict[str, Any]]:
    for call, timing in enumerate(record.get("timings") or [], start=1):
        yield {"run_id": str(record["run_id"]), "call": call} | timing
