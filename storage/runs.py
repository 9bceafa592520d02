"""What each run used, which no artifact can tell when everything was there already: `<home>/runs/<run_id>.json`.

A running run holds a lock beside its record, which the kernel frees when the process dies: a record that says `running` and whose
lock nobody holds is read as `dead`.
"""

import fcntl
import json
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from storage import parquet
from storage.artifact import Artifact, git_commit
from storage.errors import BrokenArtifact

FOLDER = "runs"
DEAD = "its process ended without a word (killed, or the machine went down); run it again to go on from what is complete"
ADDED = ("started_at", "failure", "deployment")  # what records of earlier versions lack


def record_run(
    home: Path,
    run_id: str,
    *,
    state: str,
    settings: Mapping[str, Any],
    artifacts: Sequence[Artifact],
    prefect_run: str | None,
    deployment: str | None = None,
    started_at: str | None = None,
    failure: str | None = None,
    timings: Sequence[Mapping[str, Any]] = (),
    earlier: Sequence[Mapping[str, str]] = (),
    prefect_page: str | None = None,
) -> Path:
    """Write or replace the record of a run; `state` is running, completed, failed, cancelled (by a person) or suspended
    (a person is asked).

    `deployment` names the Prefect deployment that started the run, so that its next run finds its last one. `started_at` is when
    the run first began, ISO 8601 in UTC; none = now. `failure` is the sentence that says why a run did not complete.
    `timings` has a row a stage that was called, over all attempts: stage, seconds (None while it is at work, and for ever where
    its process was killed), artifacts (stage/fingerprint). `earlier` has the rows `stages` of earlier attempts' record: what they
    used stays, unless the same was made anew since.
    `prefect_page` is the address of the Prefect run in its server's UI.
    """
    path = record_path(home, run_id)
    path.parent.mkdir(parents=True, exist_ok=True)
    now = utc_now()
    record = {
        "run_id": run_id,
        "state": state,
        "git_commit": git_commit(),
        "prefect_run": prefect_run,
        "prefect_page": prefect_page,
        "deployment": deployment,
        "started_at": started_at or now,
        "recorded_at": now,
        "failure": failure,
        "settings": dict(settings),
        "stages": _used(artifacts, earlier),
        "timings": [dict(one) for one in timings],
    }
    parquet.write_json(path, record)
    return path


def _used(artifacts: Sequence[Artifact], earlier: Sequence[Mapping[str, str]]) -> list[dict[str, str]]:
    """This attempt's artifacts, and behind them what only earlier ones used."""
    own = [{"stage": a.stage, "fingerprint": a.fingerprint, "digest": a.digest} for a in artifacts]
    known = {(one["stage"], one["fingerprint"]) for one in own}
    return own + [dict(one) for one in earlier if (one["stage"], one["fingerprint"]) not in known]


def record_path(home: Path, run_id: str) -> Path:
    """Where the record of a run is, or will be."""
    return home / FOLDER / f"{run_id}.json"


def utc_now() -> str:
    """The time as records state it."""
    return datetime.now(UTC).isoformat(timespec="seconds")


def read_runs(home: Path) -> list[dict[str, Any]]:
    """The records of all runs, oldest first. Raises BrokenArtifact for a file that is no record."""
    return [read_run(home, path.stem) for path in sorted((home / FOLDER).glob("*.json"))]


def read_run(home: Path, run_id: str) -> dict[str, Any]:
    """The record of one run; its state is `dead` when it says running and no process holds it. Raises BrokenArtifact.

    Records of earlier versions have None where they say nothing.
    """
    path = record_path(home, run_id)
    try:
        record = json.loads(path.read_text(encoding="utf-8"))
        if not isinstance(record, dict) or not record.keys() >= {"run_id", "state", "stages", "settings"}:
            raise ValueError("no record")
    except (ValueError, OSError) as error:
        raise BrokenArtifact(f"expected the JSON record of a run at {path}, found {error}; delete it") from error
    record = dict.fromkeys(ADDED) | record
    if record["state"] == "running" and not _is_held(path):
        record |= {"state": "dead", "failure": DEAD}
    return record


def find_run(home: Path, prefect_run: str | None, settings: Mapping[str, Any] | None = None) -> dict[str, Any] | None:
    """The newest record of a Prefect run, of one with these `settings` if given; None = there is none."""
    if prefect_run is None:
        return None
    asked = None if settings is None else dict(settings)
    found = [run for run in read_runs(home) if run.get("prefect_run") == prefect_run and asked in (None, run["settings"])]
    return found[-1] if found else None


@contextmanager
def holding(home: Path, run_id: str) -> Iterator[None]:
    """Hold the run for this process; waits while another does, such as an earlier attempt that writes its last checkpoint."""
    path = _lock_path(record_path(home, run_id))
    path.parent.mkdir(parents=True, exist_ok=True)
    handle = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX)
        yield
    finally:
        os.close(handle)


def _is_held(path: Path) -> bool:
    """Whether a process holds the run whose record is at `path`."""
    try:
        handle = os.open(_lock_path(path), os.O_RDWR)
    except OSError:  # a record of an earlier version has no lock: nothing can be known
        return True
    try:
        fcntl.flock(handle, fcntl.LOCK_SH | fcntl.LOCK_NB)
        return False
    except OSError:
        return True
    finally:
        os.close(handle)


def _lock_path(path: Path) -> Path:
    return path.with_name(f".{path.stem}.lock")
