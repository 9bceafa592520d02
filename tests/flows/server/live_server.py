"""What tests do to a live server: read a deployment, pause a queue, leave runs on it that no process stands behind."""

from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from typing import Any
from uuid import UUID, uuid4

from prefect.client.orchestration import SyncPrefectClient
from prefect.client.schemas.objects import FlowRun
from prefect.client.schemas.responses import DeploymentResponse

from flows.server.automations import HEARTBEAT
from flows.server.deployments import OTHER_QUEUE, TAG
from flows.server.set_up import find_queue


def stored(client: SyncPrefectClient, name: str = "retrain/weekly-retrain") -> DeploymentResponse:
    return client.read_deployment_by_name(name)


@contextmanager
def paused_queue(client: SyncPrefectClient) -> Iterator[None]:
    queue = find_queue(client, OTHER_QUEUE)
    client.update_work_queue(queue.id, is_paused=True)
    try:
        yield
    finally:
        client.update_work_queue(queue.id, is_paused=False)


@contextmanager
def run_in(client: SyncPrefectClient, state: Any) -> Iterator[FlowRun]:
    """A run of the deployment `publish` in a state that no process stands behind; the worker is kept from it."""
    with paused_queue(client):
        deployment = stored(client, "publish/publish").id
        began = state if state.is_scheduled() else None  # its time of beginning is that of its first state
        run = client.create_flow_run_from_deployment(deployment, name=f"ghost-{uuid4().hex[:6]}", state=began)
        client.set_flow_run_state(run.id, state, force=True)
        try:
            yield run
        finally:
            client.delete_flow_run(run.id)


def beat(client: SyncPrefectClient, run: FlowRun) -> None:
    """The heartbeat of a run's process."""
    related = [(f"prefect.deployment.{run.deployment_id}", "deployment"), (f"prefect.tag.{TAG}", "tag")]
    event = {
        "id": str(uuid4()),
        "occurred": datetime.now(UTC).isoformat(),
        "event": HEARTBEAT,
        "resource": {"prefect.resource.id": f"prefect.flow-run.{run.id}"},
        "related": [{"prefect.resource.id": one, "prefect.resource.role": role} for one, role in related],
    }
    client.request("POST", "/events", json=[event]).raise_for_status()


def state_of(client: SyncPrefectClient, run: UUID) -> Any:
    return client.read_flow_run(run).state
