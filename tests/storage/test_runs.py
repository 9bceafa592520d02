"""Records of runs: older ones stay readable, a run whose process is gone is dead, and a retried run keeps its record."""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

from storage.runs import find_run, holding, read_run, read_runs, record_path, record_run
from tests.homes import put_preferences

ROOT = Path(__file__).resolve().parents[2]


def write(home: Path, run_id: str, state: str = "running", **facts: Any) -> None:
    facts = {"settings": {"beta": 0.1}, "artifacts": [], "prefect_run": None} | facts
    record_run(home, run_id, state=state, **facts)


def test_a_running_run_is_running_while_its_process_holds_it_and_dead_when_not(tmp_path: Path) -> None:
    with holding(tmp_path, "r1"):
        write(tmp_path, "r1")
        assert read_run(tmp_path, "r1")["state"] == "running"
    found = read_run(tmp_path, "r1")
    assert found["state"] == "dead" and "run it again" in found["failure"]
    assert json.loads(record_path(tmp_path, "r1").read_text())["state"] == "running", "reading writes nothing"


def test_the_kernel_tells_of_a_killed_process(tmp_path: Path) -> None:
    script = (
        "import sys, time\n"
        f"sys.path.insert(0, {str(ROOT)!r})\n"
        "from pathlib import Path\n"
        "from storage.runs import holding, record_run\n"
        f"home = Path({str(tmp_path)!r})\n"
        "with holding(home, 'r1'):\n"
        "    record_run(home, 'r1', state='running', settings={}, artifacts=[], prefect_run=None)\n"
        "    print('held', flush=True)\n"
        "    time.sleep(60)\n"
    )
    with subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None and process.stdout.readline() == "held\n"
        assert read_run(tmp_path, "r1")["state"] == "running"
        os.kill(process.pid, signal.SIGKILL)
    assert read_run(tmp_path, "r1")["state"] == "dead"


def test_what_ended_by_itself_keeps_its_state_and_its_sentence(tmp_path: Path) -> None:
    for state, failure in (("completed", None), ("failed", "train: no memory"), ("cancelled", "cancelled; run it again")):
        write(tmp_path, state, state, failure=failure)
        found = read_run(tmp_path, state)
        assert (found["state"], found["failure"]) == (state, failure)


def test_records_of_earlier_versions_stay_readable(tmp_path: Path) -> None:
    """They have no started_at, failure or deployment, and no lock: whether a running one still runs, nobody knows."""
    (tmp_path / "runs").mkdir()
    old = {"run_id": "20260101-000000-aaaaaa", "state": "running", "settings": {}, "stages": [], "prefect_run": None}
    record_path(tmp_path, old["run_id"]).write_text(json.dumps(old))  # type: ignore[arg-type]
    (found,) = read_runs(tmp_path)
    assert found["state"] == "running"
    assert (found["started_at"], found["failure"], found["deployment"]) == (None, None, None)


def test_started_at_is_the_first_start(tmp_path: Path) -> None:
    write(tmp_path, "r1", started_at="2026-01-01T00:00:00+00:00")
    assert read_run(tmp_path, "r1")["started_at"] == "2026-01-01T00:00:00+00:00"
    write(tmp_path, "r2")
    found = read_run(tmp_path, "r2")
    assert found["started_at"] == found["recorded_at"]


def test_what_earlier_attempts_used_stays_unless_it_was_made_anew(tmp_path: Path) -> None:
    one = put_preferences(tmp_path)
    used = [{"stage": "prompts", "fingerprint": "f", "digest": "d"}]
    used += [{"stage": one.stage, "fingerprint": one.fingerprint, "digest": "deleted since"}]
    write(tmp_path, "r1", artifacts=[one], earlier=used)
    own = {"stage": one.stage, "fingerprint": one.fingerprint, "digest": one.digest}
    assert read_run(tmp_path, "r1")["stages"] == [own, used[0]]


def test_the_record_of_a_prefect_run_is_found_by_its_id_and_settings(tmp_path: Path) -> None:
    write(tmp_path, "r1", "failed", prefect_run="a")
    write(tmp_path, "r2", "failed", prefect_run="a", settings={"beta": 0.2})
    found = find_run(tmp_path, "a", {"beta": 0.1})
    assert found is not None and found["run_id"] == "r1"
    newest = find_run(tmp_path, "a")
    assert newest is not None and newest["run_id"] == "r2"
    assert find_run(tmp_path, "b") is None and find_run(tmp_path, None) is None
