"""Whether a server has what prefect.yaml says, and whether it really makes runs of the schedules.

A form is stored when deploying: code that changed since shows a stale form, and a run of it fails or leaves a setting out. A
scheduler that fails says so in the server's log alone, while every deployment stays READY.
"""

import json
from collections.abc import Iterator, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from prefect.client.orchestration import SyncPrefectClient
from prefect.client.schemas.filters import (
    DeploymentFilter,
    DeploymentFilterTags,
    FlowRunFilter,
    FlowRunFilterDeploymentId,
    FlowRunFilterState,
    FlowRunFilterStateType,
)
from prefect.client.schemas.objects import StateType
from prefect.client.schemas.responses import DeploymentResponse
from prefect.exceptions import ObjectNotFound

from flows.server.check_line import Check, verdict
from flows.server.deployments import TAG, Deployment

SCHEDULER_SECONDS = 120.0  # a new schedule has its runs within a minute
STEP = "prefect.deployments.steps.set_working_directory"
DEPLOY = "`srpo serve` deploys them anew, and so does `prefect --no-prompt deploy --all`"

Stored = Mapping[str, DeploymentResponse]


def check_deployments(client: SyncPrefectClient, wanted: Sequence[Deployment], folder: Path) -> Iterator[Check]:
    """Missing or stale deployments, those of another checkout, and schedules without runs; `folder` is that of prefect.yaml."""
    stored = {one.name: found for one in wanted if (found := _find(client, one)) is not None}
    yield _all_there(client, wanted, stored)
    yield _fresh(wanted, stored)
    yield _of_this_checkout(stored, folder)
    yield _without_pipe(stored)
    yield check_scheduler(client, stored)


def _find(client: SyncPrefectClient, deployment: Deployment) -> DeploymentResponse | None:
    try:
        return client.read_deployment_by_name(deployment.full_name)
    except ObjectNotFound:
        return None


def _all_there(client: SyncPrefectClient, wanted: Sequence[Deployment], stored: Stored) -> Check:
    missing = [one.full_name for one in wanted if one.name not in stored]
    ours = client.read_deployments(deployment_filter=DeploymentFilter(tags=DeploymentFilterTags(all_=[TAG])), limit=200)
    known = {one.id for one in stored.values()}
    left = [one.name for one in ours if one.id not in known and any(schedule.active for schedule in one.schedules)]
    if left and not missing:
        needed = f"prefect deployment delete, for each: {', '.join(left)}"
        return Check("deployments", "broken", f"no longer in prefect.yaml but still scheduled: {', '.join(left)}", needed)
    return verdict("deployments", [f"not deployed: {', '.join(missing)}"] if missing else [], f"{len(wanted)}, all there", DEPLOY)


def _fresh(wanted: Sequence[Deployment], stored: Stored) -> Check:
    stale = [
        one.full_name
        for one in wanted
        if one.name in stored and _plain(stored[one.name].parameter_openapi_schema) != _plain(one.schema)
    ]
    return verdict("forms", [f"stale: {', '.join(stale)}"] if stale else [], "as the flows take their parameters", DEPLOY)


def _plain(schema: Any) -> Any:
    """As JSON stores it, where tuples are lists, and without keys that hold nothing."""
    given = json.loads(json.dumps(schema or {}, default=str))
    return {key: value for key, value in given.items() if value not in (None, [], {})}


def _of_this_checkout(stored: Stored, folder: Path) -> Check:
    elsewhere = {
        str(step[STEP]["directory"])
        for one in stored.values()
        for step in one.pull_steps or []
        if STEP in step and Path(step[STEP]["directory"]).resolve() != folder.resolve()
    }
    found = [f"runs take their code from {', '.join(sorted(elsewhere))}, not from {folder}"] if elsewhere else []
    return verdict("checkout", found, str(folder), f"if this checkout is meant: {DEPLOY}")


def _without_pipe(stored: Stored) -> Check:
    piped = sorted(name for name, one in stored.items() if one.job_variables.get("stream_output") is not False)
    found = [f"the output of {', '.join(piped)} runs through the worker, whose end then stalls or ends it"] if piped else []
    return verdict("output of runs", found, "does not run through the worker", f"job_variables.stream_output: false; {DEPLOY}")


def check_scheduler(client: SyncPrefectClient, stored: Stored) -> Check:
    """Every active schedule must have made a run that lies ahead."""
    due = {name: one for name, one in stored.items() if not one.paused and any(each.active for each in one.schedules)}
    found = FlowRunFilter(
        deployment_id=FlowRunFilterDeploymentId(any_=[one.id for one in due.values()]),
        state=FlowRunFilterState(type=FlowRunFilterStateType(any_=[StateType.SCHEDULED])),
    )
    runs = client.read_flow_runs(flow_run_filter=found, limit=200) if due else []
    ahead = {run.deployment_id for run in runs if run.auto_scheduled}
    without = sorted(name for name, one in due.items() if one.id not in ahead and not _is_new(one))
    needed = "pip check finds wrong versions (sqlalchemy 2.1 does this); the server's log has the error of its scheduler"
    well = f"{sum(run.auto_scheduled for run in runs)} runs ahead of {len(due)} schedules" if due else "no schedule is active"
    return verdict("scheduler", [f"makes no runs of {', '.join(without)}"] if without else [], well, needed)


def _is_new(deployment: DeploymentResponse) -> bool:
    changed = deployment.updated or deployment.created
    return changed is not None and datetime.now(UTC) - changed < timedelta(seconds=SCHEDULER_SECONDS)
