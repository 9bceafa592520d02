"""Runs that an earlier server left at work or about to begin, and what makes the guards look after them again.

A guard waits from a run's last sign of life on, but the server forgets what it waited for a minute after the time is over, also
when nobody was there to act: after a machine was off for some minutes its runs would stay `Running` for ever. So `srpo serve`
tells of each of them, and the time begins anew: a run that is alive gives a sign, one that is not is marked.
"""

from datetime import UTC, datetime
from typing import Any
from uuid import uuid4

from prefect.client.orchestration import SyncPrefectClient
from prefect.client.schemas.filters import FlowRunFilter, FlowRunFilterState, FlowRunFilterStateType, FlowRunFilterTags
from prefect.client.schemas.objects import FlowRun, StateType

from flows.server.automations import LEFT
from flows.server.deployments import TAG
from flows.server.pages import read_all


def tell_of_left_runs(client: SyncPrefectClient) -> int:
    """One event for each run of our deployments that is Running or Pending; how many there are."""
    asked = FlowRunFilter(
        state=FlowRunFilterState(type=FlowRunFilterStateType(any_=list(LEFT))), tags=FlowRunFilterTags(all_=[TAG])
    )
    runs = read_all(client.read_flow_runs, flow_run_filter=asked)
    events = [_event(run, run.state.type) for run in runs if run.deployment_id is not None and run.state is not None]
    if events:
        client.request("POST", "/events", json=events).raise_for_status()
    return len(events)


def _event(run: FlowRun, kind: StateType) -> dict[str, Any]:
    related = [(f"prefect.deployment.{run.deployment_id}", "deployment"), (f"prefect.tag.{TAG}", "tag")]
    return {
        "id": str(uuid4()),
        "occurred": datetime.now(UTC).isoformat(),
        "event": LEFT[kind],
        "resource": {"prefect.resource.id": f"prefect.flow-run.{run.id}", "prefect.resource.name": run.name},
        "related": [{"prefect.resource.id": one, "prefect.resource.role": role} for one, role in related],
    }
