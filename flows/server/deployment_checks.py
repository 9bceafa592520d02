"""Whether a server has what prefect.yaml says, and whether it really makes runs of the schedules.

Form, parameters and schedules are stored when deploying: where code or file changed since, a stale form shows, and runs fail,
leave a setting out or come at another time. A scheduler that fails says so in the server's log alone, while every deployment
stays READY.
"""

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
    FlowRunFilterExpectedStartTime,
    FlowRunFilterState,
    FlowRunFilterStateType,
)
from prefect.client.schemas.objects import StateType
from prefect.client.schemas.responses import DeploymentResponse
from prefect.exceptions import ObjectNotFound
from pydantic_core import to_jsonable_python

from flows.server.check_line import Check, verdict
from flows.server.deployments import TAG, Deployment, build_schedule
from flows.server.pages import read_all

SCHEDULER_SECONDS = 120.0  # a new schedule has its runs within a minute
STEP = "prefect.deployments.steps.set_working_directory"
TIMING = ("cron", "interval", "timezone", "day_or")  # of a schedule, what the server keeps as it was given
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
    left = dict(_left(client, wanted, stored))
    if left and not missing:
        found = f"no longer in prefect.yaml but still scheduled: {', '.join(left)}"
        return Check("deployments", "broken", found, "; ".join(left.values()))
    return verdict("deployments", [f"not deployed: {', '.join(missing)}"] if missing else [], f"{len(wanted)}, all there", DEPLOY)


def _left(client: SyncPrefectClient, wanted: Sequence[Deployment], stored: Stored) -> Iterator[tuple[str, str]]:
    """What has left the file and still makes runs, which deploying does not end: its name, and the command that ends it."""
    known = {one.id for one in stored.values()}
    ours = DeploymentFilter(tags=DeploymentFilterTags(all_=[TAG]))
    for found in read_all(client.read_deployments, deployment_filter=ours):
        if found.id not in known and any(each.active for each in found.schedules):
            yield found.name, f"prefect deployment delete --id {found.id}"
    for one in wanted:
        slugs = {None, *(each.get("slug") for each in one.entry.get("schedules") or [])}  # None: a person made it in the UI
        for schedule in stored[one.name].schedules if one.name in stored else []:
            if schedule.active and schedule.slug not in slugs:
                command = f"prefect deployment schedule delete --accept-yes {one.full_name} {schedule.id}"
                yield f"the schedule {schedule.slug} of {one.full_name}", command


def _fresh(wanted: Sequence[Deployment], stored: Stored) -> Check:
    changed = {one.full_name: list(_changed(one, stored[one.name])) for one in wanted if one.name in stored}
    stale = [f"{name} ({', '.join(parts)})" for name, parts in changed.items() if parts]
    well = "with their parameters and schedules as prefect.yaml and the flows say"
    return verdict("forms", [f"stale: {', '.join(stale)}"] if stale else [], well, DEPLOY)


def _changed(wanted: Deployment, stored: DeploymentResponse) -> Iterator[str]:
    """What of a deployment the server has otherwise; whether a schedule is paused is up to people."""
    if _plain(stored.parameter_openapi_schema) != _plain(wanted.schema):
        yield "form"
    parameters = to_jsonable_python(wanted.entry.get("parameters") or {})
    if stored.parameters != parameters and "{{" not in str(parameters):  # deploying fills templates in
        yield "parameters"
    if not all(_is_stored(entry, stored) for entry in wanted.entry.get("schedules") or []):
        yield "schedules"


def _plain(schema: Any) -> Any:
    """As JSON stores it, where tuples are lists, and without keys that hold nothing."""
    given = to_jsonable_python(schema or {}, fallback=str)
    return {key: value for key, value in given.items() if value not in (None, [], {})}


def _is_stored(entry: Mapping[str, Any], deployment: DeploymentResponse) -> bool:
    """Whether the deployment has a schedule as the file describes it."""
    wanted = (entry.get("slug"), to_jsonable_python(entry.get("parameters") or {}), _timing(build_schedule(entry)))
    return wanted in [(one.slug, one.parameters or {}, _timing(one.schedule)) for one in deployment.schedules]


def _timing(schedule: Any) -> list[Any]:
    told = schedule.model_dump(mode="json")
    return [told.get(name) for name in TIMING]


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


def check_scheduler(client: SyncPrefectClient, stored: Stored, now: datetime | None = None) -> Check:
    """Every active schedule must have made a run that lies ahead; one that is overdue tells nothing of the scheduler."""
    now = now or datetime.now(UTC)
    due = {name: one for name, one in stored.items() if not one.paused and any(each.active for each in one.schedules)}
    ahead = {name: _runs_ahead(client, one, now) for name, one in due.items()}
    without = sorted(name for name, one in due.items() if not ahead[name] and not _is_new(one, now))
    needed = "pip check finds wrong versions (sqlalchemy 2.1 does this); the server's log has the error of its scheduler"
    well = f"{sum(ahead.values())} runs ahead of {len(due)} schedules" if due else "no schedule is active"
    return verdict("scheduler", [f"makes no runs of {', '.join(without)}"] if without else [], well, needed)


def _runs_ahead(client: SyncPrefectClient, deployment: DeploymentResponse, now: datetime) -> int:
    scheduled = FlowRunFilter(
        deployment_id=FlowRunFilterDeploymentId(any_=[deployment.id]),
        state=FlowRunFilterState(type=FlowRunFilterStateType(any_=[StateType.SCHEDULED])),
        expected_start_time=FlowRunFilterExpectedStartTime(after_=now),
    )
    return sum(run.auto_scheduled for run in read_all(client.read_flow_runs, flow_run_filter=scheduled))


def _is_new(deployment: DeploymentResponse, now: datetime) -> bool:
    changed = deployment.updated or deployment.created
    return changed is not None and now - changed < timedelta(seconds=SCHEDULER_SECONDS)
