"""Retraining as an operator has it: a real server and worker, everything in prefect.yaml deployed.

A run waits for a person without a process, goes on when it is answered, and new pairs that `ingest` tells of start the next one.
"""

import time
from pathlib import Path
from typing import Any
from uuid import UUID

import psutil
import pytest
from prefect.client.orchestration import SyncPrefectClient
from prefect.client.schemas.filters import FlowRunFilter, FlowRunFilterDeploymentId
from prefect.client.schemas.objects import FlowRun

from storage.registry import read_registry
from tests.judge_server import JudgeServer
from tests.prefect_server import prefect_installation
from tests.retraining import SmallWorld

PATIENCE = 240.0  # seconds for a run on a busy machine
ENDED = {"Failed", "Crashed", "Cancelled"}


def start(client: SyncPrefectClient, deployment: str, parameters: dict[str, Any]) -> UUID:
    found = client.read_deployment_by_name(deployment)
    return client.create_flow_run_from_deployment(found.id, parameters=parameters).id


def wait_for(client: SyncPrefectClient, flow_run: UUID, name: str) -> FlowRun:
    until = time.monotonic() + PATIENCE
    while True:
        found = client.read_flow_run(flow_run)
        assert found.state is not None
        if found.state.name == name:
            return found
        assert found.state.name not in ENDED and time.monotonic() < until, found.state
        time.sleep(0.5)


def ends_all_runs(worker: psutil.Process) -> bool:
    """Whether the worker is soon without a process of a run."""
    until = time.monotonic() + 30
    while worker.children(recursive=True) and time.monotonic() < until:
        time.sleep(0.2)
    return not worker.children(recursive=True)


@pytest.mark.slow
def test_a_run_waits_for_a_person_without_a_process_and_ingested_pairs_start_the_next(tmp_path: Path):
    quick = {"JUDGE_KEY": "secret", "OMP_NUM_THREADS": "1"}
    with JudgeServer() as judge, prefect_installation(tmp_path, deploy=True, worker=True, settings=quick) as installation:
        client = installation.client()
        assert installation.worker is not None
        world, home = SmallWorld(tmp_path / "world", num_prompts=80), tmp_path / "world" / "home"
        world.add_pairs("week-1", 200)
        settings = world.settings(judge.url, num_steps=60, promotion={"require_approval": True})
        parameters = {"settings": settings.model_dump(mode="json"), "home": str(home)}
        flow_run = start(client, "retrain/weekly-retrain", parameters)
        wait_for(client, flow_run, "Suspended")
        assert ends_all_runs(psutil.Process(installation.worker.process.pid))
        assert [row["event"] for row in read_registry(home)] == ["looked"]
        client.resume_flow_run(flow_run, run_input={"decision": "promote", "note": "looks right"})
        wait_for(client, flow_run, "Promoted")
        looked, promoted = read_registry(home)
        assert (promoted["by"], promoted["comparison"], promoted["deployment"]) == ("approval", 1, "weekly-retrain")
        world.add_pairs("week-2", 40)
        source = settings.pipeline.preferences
        assert source is not None
        ingested = start(client, "ingest/ingest", {"source": source.model_dump(mode="json"), "home": str(home)})
        wait_for(client, ingested, "Completed")
        assert triggered(client, "retrain/weekly-retrain")


def triggered(client: SyncPrefectClient, deployment: str) -> bool:
    """Whether an automation starts a run of the deployment within a minute."""
    found = FlowRunFilterDeploymentId(any_=[client.read_deployment_by_name(deployment).id])
    until = time.monotonic() + 60
    while time.monotonic() < until:
        runs = client.read_flow_runs(flow_run_filter=FlowRunFilter(deployment_id=found))
        if any(one.created_by is not None and one.created_by.type == "AUTOMATION" for one in runs):
            return True
        time.sleep(0.5)
    return False
