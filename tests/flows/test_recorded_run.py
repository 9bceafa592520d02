"""The record of a run whose process is killed: what it used and took until then stays, and a retry adds to it."""

import json
import os
import signal
import subprocess
import sys
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from flows.cli import main
from flows.recorded_run import run_with_record
from srpo_core.settings.data import NewsroomSettings
from storage.lineage import trace_lineage
from storage.retention import plan_cleaning
from storage.runs import read_runs
from tasks.publishing import publish_results
from tests.homes import put_policy, put_preferences, put_prompts

ROOT = Path(__file__).resolve().parents[2]
SCRIPT = """
import sys, time
from pathlib import Path
from flows.recorded_run import run_with_record
from tests.flows.test_recorded_run import STAGES, SETTINGS, train_policies
home = Path(sys.argv[1])

def body(stage):
    for one in STAGES:
        stage(one)(home)
    stage(hang)(home)

def hang(home):
    print("at work", flush=True)
    time.sleep(60)

hang.__name__ = train_policies.__name__
run_with_record(body, SETTINGS, home, lambda stage: stage, prefect_run="retried")
"""
SETTINGS = NewsroomSettings.model_validate({})


def ingest_preferences(home: Path) -> Any:
    return put_preferences(home)


def ingest_prompts(home: Path) -> Any:
    return put_prompts(home, "id", "desk", 2)


def train_policies(home: Path) -> Any:
    return put_policy(home, "srpo", "srpo", {})


STAGES = (ingest_preferences, ingest_prompts)


@pytest.fixture
def killed(tmp_path: Path) -> Path:
    """A home whose only run was killed in its third stage."""
    command = [sys.executable, "-c", SCRIPT, str(tmp_path)]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None and process.stdout.readline() == "at work\n"
        finally:
            os.kill(process.pid, signal.SIGKILL)
    return tmp_path


def answers(capsys: pytest.CaptureFixture[str], home: Path, question: str) -> list[dict[str, Any]]:
    capsys.readouterr()
    assert main(["ask", question, "--format", "json", "--home", str(home)]) == 0
    found: list[dict[str, Any]] = json.loads(capsys.readouterr().out)
    return found


def test_a_killed_run_has_told_what_it_used_what_that_took_and_where_it_was(
    killed: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (record,) = read_runs(killed)
    assert record["state"] == "dead"
    assert [one["stage"] for one in record["stages"]] == ["preferences", "prompts"]
    timings = [(one["stage"], one["seconds"] is not None, len(one["artifacts"])) for one in record["timings"]]
    assert timings == [("ingest preferences", True, 1), ("ingest prompts", True, 1), ("train policies", False, 0)]
    names = [f"{one['stage']}/{one['fingerprint']}" for one in record["stages"]]
    traced = trace_lineage(killed, record["run_id"])
    assert set(traced.roots) == set(names)
    assert {node.run_id for node in traced.nodes.values()} == {record["run_id"]}

    publish_results(killed)
    (failed,) = answers(capsys, killed, "failed_runs")
    assert failed["failed_stage"] == "train policies" and failed["last_complete_stage"] == "ingest prompts"
    assert failed["seconds"] is not None
    assert {"ingest preferences", "ingest prompts"} <= {row["stage"] for row in answers(capsys, killed, "machine_time")}


def test_what_a_killed_run_used_is_kept_by_gc_as_long_as_the_run_is_recent(killed: Path) -> None:
    (record,) = read_runs(killed)
    for one in record["stages"]:  # made long before the run, which found it complete
        manifest = killed / one["stage"] / one["fingerprint"] / "manifest.json"
        manifest.write_text(json.dumps(json.loads(manifest.read_text()) | {"created_at": "2020-01-01T00:00:00+00:00"}))
    plan = plan_cleaning(killed, days=30, stores_of=lambda policy: set())
    assert {item.reason for item in plan.staying} == {f"used by run {record['run_id']}"} and plan.going == []
    later = datetime.now(UTC) + timedelta(days=31)
    assert len(plan_cleaning(killed, days=30, stores_of=lambda policy: set(), now=later).going) == 2


def test_a_retry_adds_to_what_the_killed_attempt_told(killed: Path) -> None:
    seen: list[dict[str, Any]] = []

    def body(stage: Any) -> None:
        seen.extend(read_runs(killed))
        stage(train_policies)(killed)

    again = run_with_record(body, SETTINGS, killed, lambda stage: stage, prefect_run="retried")
    (record,) = read_runs(killed)
    assert [one["stage"] for one in seen[0]["stages"]] == ["preferences", "prompts"], "also while the retry has just begun"
    assert (record["run_id"], record["state"], record["started_at"]) == (again, "completed", seen[0]["started_at"])
    assert [one["stage"] for one in record["stages"]] == ["policies", "preferences", "prompts"]
    assert [one["stage"] for one in record["timings"]] == [
        "ingest preferences",
        "ingest prompts",
        "train policies",
        "train policies",
    ]
    assert [one["seconds"] is None for one in record["timings"]] == [False, False, True, False]
