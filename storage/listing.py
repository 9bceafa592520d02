"""What lies in a home, one row an artifact or a run, for `srpo ls`; every manifest is read once."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from storage.artifact import list_artifacts, list_incomplete
from storage.disk_usage import size_on_disk
from storage.names import Names
from storage.pins import read_pins
from storage.registry import champion
from storage.runs import read_runs

Row = dict[str, Any]


def artifact_rows(home: Path, stages: Sequence[str]) -> list[Row]:
    """Artifacts of some stages, complete ones from the oldest on and then unfinished ones, stage by stage.

    `bytes` is what lies in the folder itself: files that it links to are not counted.
    """
    found = {stage: list_artifacts(home, stage) for stage in stages}
    names = Names(home, [one for artifacts in found.values() for one in artifacts])
    pins, best = read_pins(home), champion(home)
    rows = []
    for stage, artifacts in found.items():
        for one in artifacts:
            name, created = names.of(one), one.manifest["created_at"]
            rows.append(_row(one.path, stage, name) | {"complete": True, "created_at": created, "counts": one.counts})
        for path in list_incomplete(home, stage):
            rows.append(_row(path, stage, "") | {"complete": False, "created_at": None, "counts": {}})
    for row in rows:
        row["pinned"] = pins.get(f"{row['stage']}/{row['fingerprint']}")
        row["champion"] = row["stage"] == "policies" and row["fingerprint"] == best
    return rows


def _row(path: Path, stage: str, name: str) -> Row:
    return {"stage": stage, "fingerprint": path.name, "name": name, "path": path, "bytes": size_on_disk(path)}


def run_rows(home: Path) -> list[Row]:
    """The recorded runs, oldest first."""
    keys = ("run_id", "state", "deployment", "prefect_run", "started_at", "recorded_at", "git_commit", "failure")
    return [
        {key: run.get(key) for key in keys} | {"name": run["settings"].get("name"), "artifacts": len(run["stages"])}
        for run in read_runs(home)
    ]
