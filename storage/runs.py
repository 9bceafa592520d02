"""What each run used, which no artifact can tell when everything was there already: `<home>/runs/<run_id>.json`."""

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from storage import parquet
from storage.artifact import Artifact, git_commit


def record_run(
    home: Path,
    run_id: str,
    *,
    state: str,
    settings: Mapping[str, Any],
    artifacts: Sequence[Artifact],
    prefect_run: str | None,
) -> Path:
    """Write or replace the record of a run; `state` is running, completed or failed."""
    folder = home / "runs"
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{run_id}.json"
    record = {
        "run_id": run_id,
        "state": state,
        "git_commit": git_commit(),
        "prefect_run": prefect_run,
        "recorded_at": datetime.now(UTC).isoformat(timespec="seconds"),
        "settings": dict(settings),
        "stages": [{"stage": a.stage, "fingerprint": a.fingerprint, "digest": a.digest} for a in artifacts],
    }
    parquet.write_json(path, record)
    return path
