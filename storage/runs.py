"""What each run used, which no artifact can tell when everything was there already: `<home>/runs/<run_id>.json`."""

import json
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from storage import parquet
from storage.artifact import Artifact, git_commit
from storage.errors import BrokenArtifact


def record_run(
    home: Path,
    run_id: str,
    *,
    state: str,
    settings: Mapping[str, Any],
    artifacts: Sequence[Artifact],
    prefect_run: str | None,
    deployment: str | None = None,
) -> Path:
    """Write or replace the record of a run; `state` is running, completed or failed.

    `deployment` names the Prefect deployment that started the run, so that its next run finds its last one.
    """
    folder = home / "runs"
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{run_id}.json"
    record = {
        "run_id": run_id,
        "state": state,
        "git_commit": git_commit(),
        "prefect_run": prefect_run,
        "deployment": deployment,
        "recorded_at": datetime.now(UTC).isoformat(timespec="seconds"),
        "settings": dict(settings),
        "stages": [{"stage": a.stage, "fingerprint": a.fingerprint, "digest": a.digest} for a in artifacts],
    }
    parquet.write_json(path, record)
    return path


def read_runs(home: Path) -> list[dict[str, Any]]:
    """The records of all runs, oldest first. Raises BrokenArtifact for a file that is no record."""
    return [read_run(home, path.stem) for path in sorted((home / "runs").glob("*.json"))]


def read_run(home: Path, run_id: str) -> dict[str, Any]:
    """The record of one run. Raises BrokenArtifact when its file is no record."""
    path = home / "runs" / f"{run_id}.json"
    try:
        record = json.loads(path.read_text(encoding="utf-8"))
        if not isinstance(record, dict) or not record.keys() >= {"run_id", "state", "stages", "settings"}:
            raise ValueError("no record")
        return record
    except (ValueError, OSError) as error:
        raise BrokenArtifact(f"expected the JSON record of a run at {path}, found {error}; delete it") from error
